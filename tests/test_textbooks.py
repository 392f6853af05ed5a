"""Models of textbooks: R's estimates, errors, deviances and likelihoods to their last digits, and their page."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
NAMES = [
    one["name"] for one in yaml.safe_load((ROOT / "tests/textbooks/cases.yaml").read_text("utf-8")) if "name" in one
]
ERRORS = 3e-6  # of an error: R's own Hessians of ordinal and mixed models are differences


@pytest.fixture(scope="module")
def script() -> Any:
    pytest.importorskip("statsmodels")
    spec = importlib.util.spec_from_file_location("textbooks_script", ROOT / "docs" / "textbooks.py")
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = made  # where dataclasses look for their types
    spec.loader.exec_module(made)
    return made


@pytest.fixture(scope="module")
def found(script: Any) -> dict[str, Any]:
    return {case.name: case for case in script.cases()}


def test_there_are_models_of_every_kind(found: dict[str, Any]) -> None:
    assert list(found) == NAMES and len(NAMES) >= 30
    assert all(bool(case.fit.converged) for case in found.values())


@pytest.mark.parametrize("name", NAMES)
def test_a_model_has_the_numbers_of_r(found: dict[str, Any], name: str) -> None:
    case = found[name]
    loose = float(case.spec.get("loose", ERRORS))
    assert case.gap < max(2e-6, loose)  # standard errors
    assert float((case.std_err / case.column("std_err") - 1).abs().max()) < loose
    for title, ours, theirs in case.facts():
        assert ours == pytest.approx(theirs, rel=max(1e-6, loose), abs=1e-6), title


def numbers_and_words(page: str) -> tuple[list[float], str]:
    number = r"(?<=\| )−?\d+\.?\d*(?= )"
    return [float(one.replace("−", "-")) for one in re.findall(number, page)], re.sub(number, "#", page)


def test_the_page_is_made_of_these_fits(script: Any, found: dict[str, Any]) -> None:
    """`python docs/textbooks.py` writes it anew; a last digit may be rounded the other way on another machine."""
    (held, words), (made, own) = (
        numbers_and_words(page) for page in (script.PAGE.read_text(encoding="utf-8"), script.page(list(found.values())))
    )
    assert words == own
    assert held == pytest.approx(made, rel=1e-3, abs=1e-4) and len(made) > 1000


def test_names_of_terms_are_short(script: Any, found: dict[str, Any]) -> None:
    said = {name: script.short(name, found["budworm"].fit) for name in found["budworm"].terms}
    assert said["sex[T.M]:ldose"] == "sex: M × ldose"
    zero = found["articles_zero_inflated"]
    assert script.short("zero:fem", zero.fit) == "zero: fem"
