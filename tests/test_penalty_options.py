"""Options of penalties that are of another kind, in Python, a config and flags: what they are, and what was got."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import torchglm as tg
from torchglm.cli import config

HEAD = "data: {path: a.csv, formula: y ~ x + z}\nfamily: poisson\n"
EYE = torch.eye(2, dtype=torch.float64)
NO_NUMBERS: list[Any] = ["x", None, True, {}, {"a": 1}, [], [True], ["x"], [[1], [1, 2]], 1j, object(), np.array(["a"])]
NO_LIST: list[Any] = [None, True, 1, 1.5, object(), {"a": 1}]
OF_STRENGTHS: dict[str, Callable[[Any], object]] = {
    "l2": tg.Ridge,
    "l1": lambda v: tg.ElasticNet(v, 0.1),
    "strength": lambda v: tg.Quadratic([([1, 2], EYE)], v),
    "strength ": lambda v: tg.GroupLasso(v, [[1, 2]]),
    "strength  ": lambda v: tg.Fused(v, [[1, 2]]),
    "strength   ": tg.MCP,
    "strength    ": tg.SCAD,
    "S of block 0": lambda v: tg.Quadratic([([1, 2], v)], 1.0),
    "gamma": lambda v: tg.MCP(0.1, v),
    "a": lambda v: tg.SCAD(0.1, v),
    "l1_ratio": lambda v: tg.GroupLasso(0.1, [[1, 2]], l1_ratio=v),
    "factor": lambda v: tg.GroupLasso(0.1, [[1, 2]], factor=v),
    "centre": lambda v: tg.Ridge(0.1, centre=v),
}
OF_LISTS: dict[str, Callable[[Any], object]] = {
    "columns of block 0": lambda v: tg.Quadratic([(v, EYE)], 1.0),
    "names": lambda v: tg.Quadratic([([1, 2], EYE)], 1.0, names=v),
    "groups": lambda v: tg.GroupLasso(0.1, v),
    "group 0": lambda v: tg.GroupLasso(0.1, [[v]]),
    "levels": lambda v: tg.Fused(0.1, v),
    "levels ": lambda v: tg.Fused(0.1, [v]),
    "blocks": lambda v: tg.Quadratic(v, 1.0),
    "blocks ": lambda v: tg.Quadratic([v], 1.0),
}


@pytest.mark.parametrize("name", OF_STRENGTHS)
def test_what_are_no_numbers_is_said_with_what_was_got(name: str) -> None:
    for bad in NO_NUMBERS:
        if bad is None and name in ("factor", "centre") or isinstance(bad, dict) and bad and name == "centre":
            continue  # none, and by name
        if isinstance(bad, str) and name in ("l2", "strength"):
            continue  # how strengths are estimated: of another word below
        with pytest.raises((TypeError, ValueError), match=rf"{name.strip()} must (be|lie)") as said:
            OF_STRENGTHS[name](bad)
        assert "got " in str(said.value)


@pytest.mark.parametrize("name", OF_LISTS)
def test_what_are_no_columns_is_said(name: str) -> None:
    for bad in NO_LIST:
        if (name, bad) in (("names", None), ("groups", None), ("group 0", 1), ("groups", {"a": 1})):
            continue  # none, or a place
        with pytest.raises(TypeError, match=rf"{name.strip()} must be"):
            OF_LISTS[name](bad)
    with pytest.raises((TypeError, ValueError), match=r"(must be|group 'a'|block)"):
        OF_LISTS[name]({"a": 1})


def test_numbers_of_other_libraries_are_numbers() -> None:
    import pandas as pd

    assert tg.Ridge(np.float32(0.5)).l2 == 0.5 and tg.MCP(0.1, np.float64(4)).shape == 4
    assert tg.ElasticNet(pd.Series([0.1, 0.2]), 0.0).l1.tolist() == [0.1, 0.2]
    assert tg.Quadratic([(np.array([1, 2]), np.eye(2))], np.array([2.0])).blocks[0][0] == [1, 2]
    for word in ("REML", "gcv"):
        with pytest.raises(ValueError, match="Known: 'reml', 'ml', or numbers"):
            tg.Ridge(word)  # type: ignore[arg-type]


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """What is said of a config and flags."""
    monkeypatch.chdir(tmp_path)

    def read(text: str, *flags: str) -> str:
        Path("c.yaml").write_text(HEAD + text + "\n")
        with pytest.raises(ValueError) as error:
            config.read(["c.yaml", *flags])
        return str(error.value)

    return read


QUADRATIC = "quadratic, blocks: [{columns: [x]}]"


@pytest.mark.parametrize(
    ("penalty", "key", "bad", "expected"),
    [
        (QUADRATIC, "strength", "bad", "penalty.strength: must be a number, a list, reml or ml, got bad."),
        (QUADRATIC, "strength", "-1", "strength must be finite numbers >= 0, one for each block"),
        (QUADRATIC, "strength", "[1, 2]", "strength has shape (2,) for 1 blocks."),
        (QUADRATIC, "blocks", "{}", "penalty.blocks: must be a list, got {}."),
        ("ridge, l2: 1", "l2", "true", "penalty.l2: must be a number, a list of numbers, reml or ml, got True."),
        ("ridge, l2: 1", "centre", "bad", "penalty.centre: must be a mapping, a list or a list of numbers, got bad."),
        ("elastic_net, l1: 1", "path", "{}", "penalty.path: must be a whole number or a list, got {}."),
        (
            "elastic_net, l1: 1",
            "l1_ratio",
            "2",
            "penalty.l1_ratio must lie between 0 (ridge) and 1 (the lasso), got 2.0.",
        ),
        ("group_lasso, strength: 1", "groups", "1.5", "penalty.groups: must be a mapping or a list, got 1.5."),
        ("fused, strength: 1, levels: C(z)", "levels", "{}", "penalty.levels: must be text or a list, got {}."),
        ("mcp, strength: 1", "gamma", "0.5", "gamma must be a finite number > 1, got 0.5."),
        ("scad, strength: 1", "strenght", "1", "unknown key 'strenght' (did you mean 'strength'?)"),
    ],
)
def test_an_option_of_another_kind_by_config_and_by_flag(
    said: Callable[..., str], penalty: str, key: str, bad: str, expected: str
) -> None:
    without = ", ".join(part for part in penalty.split(", ") if not part.startswith(f"{key}:"))
    for found in (
        said(f"penalty: {{name: {without}, {key}: {bad}}}"),
        said(f"penalty: {{name: {penalty}}}", f"--penalty.{key}={bad}"),
    ):
        assert expected in found and "Union" not in found, found


def test_an_option_of_no_penalty_and_one_that_is_missing(said: Callable[..., str]) -> None:
    assert "'l2' is given before what it is of. Name that first: ridge, " in said("", "--penalty.l2=1")
    assert "'power' is given before what it is of" in said("", "--link.power=2")
    assert said("penalty: ridge") == "penalty: l2 is missing."
    assert said("penalty: {name: ridge, l2: null}") == "penalty: l2 is missing."
    assert said("link: power") == "link: power is missing."
    assert said("penalty: {name: quadratic, blocks: [bad]}").startswith("penalty.blocks: must be a mapping")
    assert (
        said("covariance: HC9")
        == "covariance: must be observed, HC0, HC1, HC2, HC3 or satterthwaite, got HC9 (did you mean 'HC3'?)."
    )
