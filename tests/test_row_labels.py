"""Rows of pandas objects belong together by their index: every door refuses another order, and takes the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import torchglm

G = np.random.default_rng(0)
DATA = pd.DataFrame({"a": G.normal(size=60), "b": G.normal(size=60), "e": G.uniform(0.5, 2, 60)})
DATA["y"] = G.poisson(np.exp(0.3 + 0.5 * DATA.a)).astype(float)
X = DATA[["a", "b"]]
FIT = torchglm.fit(X, DATA.y, family="poisson")

# door -> what it does with x, y and a role, each a frame or a series
DOORS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "fit": lambda x, y, e: torchglm.fit(x, y, family="poisson", weights=e).coef,
    "several": lambda x, y, e: torchglm.fit(x, y, family=torchglm.Hurdle("poisson"), offset=e).coef,
    "head": lambda x, y, e: torchglm.GLMHead(2, "poisson").fit(x, y, exposure=e).coef,
    "partial_fit": lambda x, y, e: torchglm.GLMHead(2, "poisson", dtype=torch.float64).partial_fit(x, y, offset=e).coef,
    "solve": lambda x, y, e: torchglm.solve(x, y, family="poisson", weights=e),
    "path": lambda x, y, e: torchglm.path(x, y, family="poisson", weights=e, n=3).coef,
    "with_rows": lambda x, y, e: FIT.with_rows(x, y, weights=e).residuals("pearson"),
    "loader": lambda x, y, e: torchglm.fit([{"x": x, "y": y, "weights": e}], family="poisson").coef,
}


@pytest.mark.parametrize("turned", ["x", "y", "role"])
@pytest.mark.parametrize("door", DOORS)
def test_rows_in_another_order_are_refused(door: str, turned: str) -> None:
    x, y, e = (
        part.iloc[::-1] if name == turned else part
        for name, part in zip(["x", "y", "role"], (X, DATA.y, DATA.e), strict=True)
    )
    with pytest.raises(ValueError, match="label their rows differently: row 0 is"):
        DOORS[door](x, y, e)


@pytest.mark.parametrize("index", ["same", "own", "counted"])
@pytest.mark.parametrize("door", DOORS)
def test_rows_of_one_order_are_taken(door: str, index: str) -> None:
    own = pd.Index(np.arange(60) * 7 + 3)
    x = X if index == "same" else X.set_axis(own)
    y, e = (part.set_axis(own) if index == "own" else part for part in (DATA.y, DATA.e))
    truth = DOORS[door](X.to_numpy(), DATA.y.to_numpy(), DATA.e.to_numpy())
    torch.testing.assert_close(DOORS[door](x, y, e), truth)


@pytest.mark.parametrize(
    "ask",
    [
        lambda other: torchglm.fit("y ~ a", DATA, family="poisson", weights=other),
        lambda other: torchglm.fit(X, DATA.y, family="poisson", freq=other.round()),
        lambda other: torchglm.path("y ~ a + b", DATA, family="poisson", n=3, folds=(other > 1).astype(int)),
        lambda other: FIT.predict(X, offset=other),
        lambda other: FIT.predict_interval(X, offset=other),
        lambda other: torchglm.fit(X[["a"]], DATA.b, family="gaussian", predictors={"dispersion": other}),
        lambda other: torchglm.fit("y ~ a", DATA, family="poisson").marginal_effects(["a"], data=DATA, offset=other),
    ],
)
def test_what_stands_beside_a_table_too(ask: Callable[[Any], Any]) -> None:
    ask(DATA.e)
    with pytest.raises(ValueError, match="label their rows differently"):
        ask(DATA.e.sample(frac=1.0, random_state=1))


def test_labels_that_are_equal_in_other_types_agree() -> None:
    days = pd.date_range("2020-01-01", periods=60)
    truth = torchglm.fit(X, DATA.y, family="poisson").coef
    for one, other in [(days, days.as_unit("s")), (pd.Index(range(60)), pd.Index(np.arange(60.0)))]:
        torch.testing.assert_close(torchglm.fit(X.set_axis(one), DATA.y.set_axis(other), family="poisson").coef, truth)
