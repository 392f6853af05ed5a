"""The recipe for conda says what pyproject.toml says."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml")
ROOT = Path(__file__).resolve().parent.parent
CALLED = {"torch": "pytorch", "matplotlib": "matplotlib-base"}  # PyPI's name -> conda-forge's
EXTRAS = {"jsonargparse": {"docstring_parser", "typeshed-client"}}  # what an extra of it stands for


@pytest.fixture(scope="module")
def recipe() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "conda" / "recipe" / "recipe.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    if sys.version_info < (3, 11):
        pytest.skip("tomllib")
    import tomllib

    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def bounds(lines: list[str]) -> dict[str, str]:
    """Name -> bound, of requirements as PyPI or conda writes them."""
    found = {}
    for line in lines:
        name, _, bound = re.fullmatch(r"([\w-]+)(\[\w+\])? *(.*)", line.strip()).groups()  # type: ignore[union-attr]
        found[CALLED.get(name, name)] = bound
    return found


def test_the_recipe_asks_for_what_the_project_asks_for(recipe: dict[str, Any], project: dict[str, Any]) -> None:
    wanted, said = bounds(project["project"]["dependencies"]), bounds(recipe["requirements"]["run"])
    parts = set().union(*(EXTRAS[name] for name in EXTRAS if name in wanted))
    assert said.pop("python") == ">=${{ python_min }}"
    assert {name: bound for name, bound in said.items() if name not in parts} == wanted
    assert parts <= set(said)
    host = bounds(recipe["requirements"]["host"])
    assert [host["hatchling"]] == [bounds([line])["hatchling"] for line in project["build-system"]["requires"]]


def test_the_recipe_describes_the_project(recipe: dict[str, Any], project: dict[str, Any]) -> None:
    own = project["project"]
    assert recipe["context"]["version"] == own["version"] and recipe["context"]["name"] == own["name"]
    assert recipe["context"]["python_min"] == own["requires-python"].removeprefix(">=")
    assert recipe["about"]["summary"] == own["description"] and recipe["about"]["license"] == own["license"]
    assert recipe["build"]["python"]["entry_points"] == [f"{name} = {at}" for name, at in own["scripts"].items()]
    assert recipe["build"]["noarch"] == "python"
    places = [*recipe["about"]["license_file"], *recipe["tests"][1]["files"]["source"]]
    assert all((ROOT / place).is_file() for place in places)
