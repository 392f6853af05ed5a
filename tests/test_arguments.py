"""What cannot be meant, at the doors of fits and of what is asked of them, is refused in words that say what to do."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch

import torchglm

G = np.random.default_rng(0)
DATA = pd.DataFrame({"a": G.normal(size=80), "b": G.normal(size=80), "g": G.choice(list("uvw"), 80)})
DATA["y"] = G.poisson(np.exp(0.3 + 0.5 * DATA.a)).astype(float)
X, Y = DATA[["a", "b"]].to_numpy(), DATA.y.to_numpy()
FIT = torchglm.fit("y ~ a + b + g", DATA, family="poisson")
ARRAYS = torchglm.fit(X, Y, family="poisson")
SEVERAL = torchglm.fit("y ~ a + g", DATA, family=torchglm.Hurdle("poisson"))
PATH = torchglm.path(X, Y, family="poisson", n=3)

REFUSED: list[tuple[Callable[[], Any], str]] = [
    # x and y that are no arrays of numbers
    *(
        (lambda x=x: torchglm.fit(x, Y, family="poisson"), said)
        for x, said in [
            (scipy.sparse.csr_matrix(X), "toarray"),
            ({"a": X[:, 0], "b": X[:, 1]}, "DataFrame"),
            ([{"a": a, "b": b} for a, b in X.tolist()], "DataFrame"),
            (iter(X.tolist()), r"list\(\)"),
            (DATA[["a", "b"]].to_records(index=False), "DataFrame"),
        ]
    ),
    (lambda: torchglm.fit(X, (v for v in Y), family="poisson"), r"list\(\)"),
    *((lambda f=f: torchglm.fit(X[:0], Y[:0], family=f), "no rows") for f in ("poisson", "multinomial", "ordinal")),
    (lambda: torchglm.fit("y ~ a", DATA.to_csv(index=False), family="poisson"), "no path of a file"),
    # options
    (lambda: torchglm.fit(X, Y, family="poisson", names=[1, 2]), "names must be text"),
    (lambda: torchglm.fit(X, Y, family="poisson", tol="1e-8"), "tol must be a number"),
    (lambda: torchglm.fit("y ~ a", DATA, family="gaussian", predictors="~ a"), "predictors is a dict"),
    # paths
    (lambda: torchglm.path(X[:, :0], Y, family="poisson"), "needs a column"),
    (lambda: torchglm.path(X, Y, family="poisson", lower={"c": 0.0}), "'c', which is no column"),
    (lambda: torchglm.path(X, Y, family="multinomial", factor={"x0": 0.0}), "one predictor"),
    (lambda: PATH.select(None), "select takes a word"),
    (lambda: PATH.select(True), "select takes a word"),
    # questions
    *(
        (lambda ask=ask: ask("0.95"), "must be one number")
        for ask in (FIT.conf_int, FIT.ratios, lambda level: FIT.marginal_effects(level=level))
    ),
    (lambda: FIT.conf_int(torch.tensor([0.9, 0.95])), "must be one number"),
    (lambda: FIT.wald(np.eye(5), [0.0, 1.0]), "one value for each"),
    (lambda: FIT.wald(None), "the hypothesis"),
    (lambda: FIT.score_test(np.zeros((80, 0))), "no column"),
    (lambda: FIT.drop1(["a"]), "terms is a dict"),
    (lambda: FIT.anova(2, ["a"]), "terms is a dict"),
    (lambda: FIT.robust("HAC", lags=1.5), "whole number"),
    (lambda: FIT.robust("HAC", lags=80), "fewer than the times"),
    (lambda: FIT.marginal_effects([]), "names none"),
    (lambda: FIT.marginal_effects(["a"], data=DATA[:0]), "no rows"),
    (lambda: FIT.predictions({"a": []}), "no value"),
    (lambda: FIT.predictions({"a": np.zeros((2, 2))}), "shape"),
    (lambda: FIT.predictions("a"), "at is a dict"),
    (lambda: ARRAYS.predictions({"x0": []}), "no value"),
    (lambda: FIT.delta(lambda coef: coef.sum(-1), ["s"]), "k quantities"),
    (lambda: FIT.delta(lambda coef: 3.0, ["s"]), "k quantities"),
    (lambda: FIT.delta(lambda coef: coef.detach()[:, :1], ["s"]), "cuts its result off"),
    (lambda: FIT.simulate(1.5), "whole number"),
    *((lambda ask=ask: ask(FIT, "y ~ a"), "fit") for ask in (torchglm.compare, torchglm.lrt, torchglm.side_by_side)),
    (lambda: FIT.lr_test(None), "fit"),
]


@pytest.mark.parametrize("place", range(len(REFUSED)))
def test_what_cannot_be_meant_is_refused_in_words(place: int) -> None:
    ask, said = REFUSED[place]
    with pytest.raises((ValueError, TypeError), match=said):
        ask()


LISTS = [list, tuple, np.array, torch.tensor, pd.Series, pd.Index]


@pytest.mark.parametrize("kind", LISTS)
def test_variables_are_set_to_lists_of_any_kind(kind: Callable[[list[float]], Any]) -> None:
    for fit, name in ((FIT, "a"), (ARRAYS, "x0"), (SEVERAL, "a")):
        at = [-1.0, 0.5, 2.0]
        truth, found = fit.predictions({name: at}), fit.predictions({name: kind(at)})
        assert found.names == truth.names and len(found.names) >= len(at)
        torch.testing.assert_close(found.value, truth.value)
    if kind is not torch.tensor:
        levels = FIT.predictions({"g": kind(["u", "w"])})
        torch.testing.assert_close(levels.value, FIT.predictions({"g": ["u", "w"]}).value)


def test_as_many_values_as_rows_are_settings_too() -> None:
    at = np.linspace(-1, 1, len(DATA))
    assert len(FIT.predictions({"a": at}).names) == len(DATA)
    torch.testing.assert_close(FIT.predictions({"a": at}).value[:1], FIT.predictions({"a": float(at[0])}).value)


def test_limits_and_factors_of_a_path_by_name() -> None:
    given = {"factor": [0.0, 1.0], "lower": [0.0, -np.inf], "upper": [np.inf, 0.1]}
    named = {"factor": {"x0": 0.0}, "lower": {"x0": 0.0}, "upper": {"x1": 0.1}}
    for key, value in given.items():
        one = torchglm.path(X, Y, family="poisson", n=3, **{key: value})
        other = torchglm.path(X, Y, family="poisson", n=3, **{key: named[key]})
        torch.testing.assert_close(one.coef, other.coef)


TEXT = G.choice(["low", "mid", "high"], 80)


@pytest.mark.parametrize(
    "fit",
    [
        lambda y, family: torchglm.fit("k ~ a", DATA.assign(k=y), family=family),
        lambda y, family: torchglm.fit("k ~ a", [DATA.assign(k=y)[:40], DATA.assign(k=y)[40:]], family=family),
        lambda y, family: torchglm.fit(X, y, family=family),
    ],
)
def test_text_has_no_order_but_that_of_the_alphabet_which_is_told(fit: Callable[[Any, Any], Any]) -> None:
    order = ["low", "mid", "high"]
    with pytest.warns(torchglm.FitWarning, match="order of the alphabet: high < low < mid. .*classes="):
        fit(TEXT, "ordinal")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        said = fit(TEXT, torchglm.Ordinal(classes=order))
        own = fit(pd.Categorical(TEXT, categories=[*order[:1], "none", *order[1:]], ordered=True), "ordinal")
        fit(TEXT, "multinomial")
        fit(np.where(TEXT == "low", "no", "yes"), "ordinal")
    assert said.classes == own.classes == order
    torch.testing.assert_close(own.coef, said.coef)


def test_of_an_offset_and_an_exposure_the_one_that_is_given_is_replaced() -> None:
    data = DATA.assign(o=DATA.b / 3, e=np.exp(DATA.b))
    for family in ("poisson", torchglm.Hurdle("poisson")):
        fit = torchglm.fit("y ~ a", data, family=family, offset="o", exposure="e")
        plain = fit.predict(data, offset=0.0, exposure=1.0, kind="link")
        for given, left in (
            ({"exposure": 1.0}, data.o),
            ({"offset": 0.0}, np.log(data.e)),
            ({}, data.o + np.log(data.e)),
        ):
            found = fit.predict(data, kind="link", **given)
            torch.testing.assert_close(found, plain + torch.tensor(left.to_numpy()))


@pytest.mark.parametrize("family", ["poisson", torchglm.Hurdle("poisson")], ids=["poisson", "hurdle"])
def test_an_offset_and_an_exposure_that_no_table_holds_are_asked_for_both(family: Any) -> None:
    offset, exposure, x = (DATA.b / 3).to_numpy(), np.exp(DATA.b).to_numpy(), DATA[["a"]].to_numpy()
    fits = (
        (torchglm.fit(x, DATA.y.to_numpy(), family=family, offset=offset, exposure=exposure), x),
        (torchglm.fit("y ~ a", DATA, family=family, offset=offset, exposure=exposure), DATA),
    )
    for fit, new in fits:
        plain = fit.predict(new, offset=0.0, exposure=1.0, kind="link")
        both = fit.predict(new, offset=offset, exposure=exposure, kind="link")
        torch.testing.assert_close(both, plain + torch.tensor(offset + np.log(exposure)))
        for ask in (fit.predict, fit.predict_interval):
            with pytest.raises(ValueError, match="have no exposure. Pass both; exposure=1"):
                ask(new, offset=offset)
            with pytest.raises(ValueError, match="have no offset. Pass both; offset=0"):
                ask(new, exposure=exposure)


@pytest.mark.parametrize("scale", [1e-320, 1e-200, 1e-140, 1e140, 1e200, 1e300])
@pytest.mark.parametrize(
    "family", ["gaussian", "poisson", torchglm.Hurdle("poisson")], ids=["gaussian", "poisson", "hurdle"]
)
def test_columns_of_any_size_are_fitted_or_refused(family: Any, scale: float) -> None:
    data = DATA.assign(b=DATA.b * scale)
    truth = torchglm.fit("y ~ a + b", DATA, family=family).coef
    for x, y in (("y ~ a + b", data), (data[["a", "b"]], data.y)):
        if 1e-150 < scale < 1e150:
            found = torchglm.fit(x, y, family=family).coef * truth.new_tensor([1.0, 1.0, scale, 1.0][: len(truth)])
            torch.testing.assert_close(found, truth, rtol=1e-6, atol=1e-8)
            continue
        with pytest.raises(ValueError, match="the column (b|1, counted from 0,|2, counted from 0,) has values up to"):
            torchglm.fit(x, y, family=family)
