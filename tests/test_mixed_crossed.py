"""Groupings that cross or nest with many levels: what is eliminated in order is what all pairs give."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from test_mixed import clustered, criterion_of
from test_mixed_several import criterion_of as criterion_of_several

import torchglm
from torchglm.fitting.mixed import order
from torchglm.rows.meetings import CrossedGram

pytestmark = pytest.mark.filterwarnings("ignore::torchglm.FitWarning")


def table(n: int = 400, many: int = 60, fewer: int = 40) -> pd.DataFrame:
    rng = np.random.default_rng(3)
    a, b, x = rng.integers(0, many, n), rng.integers(0, fewer, n), rng.normal(size=n)
    c = b // 4
    eta = 0.3 + 0.4 * x + 0.6 * rng.normal(size=many)[a] + (0.5 + 0.2 * x) * rng.normal(size=fewer)[b]
    eta += 0.4 * rng.normal(size=fewer)[c]
    columns = {"x": x, "a": a, "b": b, "c": c, "d": c // 2, "f": rng.choice(list("uvw"), n)}
    out = pd.DataFrame(columns | {"y": eta + 0.7 * rng.normal(size=n), "count": rng.poisson(np.exp(eta))})
    grade = pd.Categorical(np.digitize(eta + rng.logistic(size=n), [-1, 0, 1]), ordered=True)
    kind = np.where(rng.random(n) < 1 / (1 + np.exp(-eta)), 0, rng.integers(0, 3, n))
    return out.assign(size=rng.gamma(2.0, np.exp(eta)), grade=grade, kind=pd.Categorical(kind))


DATA = table()
KINDS: list[tuple[str, str, dict[str, Any]]] = [
    ("y ~ x + (1 | a) + (1 | b) + (1 | d)", "gaussian", {}),
    ("y ~ x + (1 + x | b) + (1 | a)", "gaussian", {"smoothing": "ml"}),
    ("count ~ x + f + (x || b) + (1 | a)", "poisson", {}),
    ("count ~ x + (1 | d/c/b)", "negative_binomial", {}),
]
SEVERAL: list[tuple[str, Any, dict[str, str]]] = [
    ("count ~ x + (1 | a) + (1 | b)", "negative_binomial", {"alpha": "~ x"}),
    ("size ~ x + (1 + x | b) + (1 | a)", "gamma", {"dispersion": "~ f + (1 | a) + (0 + x | c)"}),
    ("count ~ x + (x || b) + (1 | a)", torchglm.ZeroInflated("poisson"), {"zero": "~ x"}),
    ("grade ~ x + (1 | a) + (1 | d/c)", torchglm.Ordinal(), {}),
    ("kind ~ x + (1 | a) + (1 | b)", torchglm.Multinomial(), {}),
]
NAMES = [f"{family}: {formula}" for formula, family, _ in KINDS]
WAYS = {
    "a core": {},
    "rounds": {"SMALL": 0},
    "rows of the core": {"WIDE": 10**6},
    "places anew": {"KEPT": 0, "WIDE": 0},
}


def crossed(monkeypatch: pytest.MonkeyPatch, **ways: int) -> None:
    monkeypatch.setattr(order, "MANY", 2)
    for name, value in ways.items():
        monkeypatch.setattr(order, name, value)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("formula", "family", "options"), KINDS, ids=NAMES)
def test_elimination_in_order_is_that_of_all_pairs(
    formula: str, family: str, options: dict[str, Any], way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_elimination(lambda: criterion_of(formula, family, options, DATA), WAYS[way], monkeypatch)


@torch.no_grad()
@pytest.mark.parametrize(
    ("formula", "family", "predictors"),
    [pytest.param(*kind, marks=[pytest.mark.slow] if k in (0, 2) else []) for k, kind in enumerate(SEVERAL)],
)
def test_elimination_is_that_of_all_pairs_of_several_predictors(
    formula: str, family: Any, predictors: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    roles = {"link": "log"} if family == "gamma" else {}
    check_elimination(lambda: criterion_of_several(formula, family, predictors, roles, DATA), {"SMALL": 0}, monkeypatch)


def check_elimination(made: Callable[[], Any], way: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    lane, found = torch.zeros(1, dtype=torch.int64), list[Any]()
    for own in (False, True):
        if own:
            crossed(monkeypatch, **way)
        criterion, search = made()
        assert isinstance(search.mark.gram, CrossedGram) == own
        psi = search.mark.psi + 0.1 * torch.linspace(-1, 1, search.mark.psi.shape[-1]).to(torch.float64)
        psi = found[0][0] if own else psi
        mark = criterion.at(lane, psi, search.mark.u)
        turn = criterion.turn(lane, psi)
        inner = criterion.eliminated(lane, mark.gram, turn, psi).on(criterion.penalised)
        solved = inner.solve(torch.linspace(-1, 1, mark.u.shape[1]).to(torch.float64).unsqueeze(0))
        matrix = mark.gram.written_out()
        blocks = criterion.effects.blocks(inner.covariance())
        found.append((psi, mark.value, criterion.gradient(lane, mark), inner.log, solved, matrix, *blocks))
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(("formula", "family", "predictors"), [SEVERAL[0], SEVERAL[3]])
def test_fits_of_several_predictors_are_those_of_all_pairs(
    formula: str, family: Any, predictors: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fits = [torchglm.fit(formula, DATA, family=family, predictors=predictors)]
    crossed(monkeypatch, SMALL=0)
    fits += [
        torchglm.fit(formula, data, family=family, predictors=predictors) for data in (DATA, [DATA[:150], DATA[150:]])
    ]
    for fit in fits[1:]:
        for name in ("criterion", "coef", "std_err"):
            torch.testing.assert_close(getattr(fit, name), getattr(fits[0], name), rtol=1e-5, atol=1e-6)
        shares = [one.variance_shares()["icc"] for one in (fit, fits[0])]
        torch.testing.assert_close(*shares, rtol=1e-5, atol=1e-6, equal_nan=True)
        for name, effects in fits[0].random.items():
            torch.testing.assert_close(fit.random[name].modes, effects.modes, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("formula", "family", "options"), KINDS[::2], ids=NAMES[::2])
def test_fits_are_those_of_all_pairs(
    formula: str, family: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    DATA.to_parquet(tmp_path / "rows.parquet", row_group_size=90)
    fits = [torchglm.fit(formula, DATA, family=family, **options)]
    crossed(monkeypatch, SMALL=0)
    fits += [torchglm.fit(formula, data, family=family, **options) for data in (DATA, tmp_path / "rows.parquet")]
    for fit in fits[1:]:
        for name in ("criterion", "coef", "std_err"):
            torch.testing.assert_close(getattr(fit, name), getattr(fits[0], name), rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(fit.variance_shares()["icc"], fits[0].variance_shares()["icc"], rtol=1e-6, atol=1e-8)
        for name, effects in fits[0].random.items():
            torch.testing.assert_close(fit.random[name].modes, effects.modes, rtol=1e-6, atol=1e-7)
            torch.testing.assert_close(fit.random[name].std_err, effects.std_err, rtol=1e-6, atol=1e-7)


@pytest.mark.filterwarnings("ignore::torchglm.FitWarning")
@pytest.mark.parametrize(
    ("formula", "family"),
    [
        ("z ~ x + (1 + x | g) + (1 | h)", "gaussian"),
        pytest.param("count ~ x + (1 | g) + (1 | h)", "negative_binomial", marks=pytest.mark.slow),
        ("count ~ s(x, k=5) + (1 | g) + (0 + x | h)", "poisson"),
    ],
)
def test_models_of_a_batch_are_those_of_all_pairs(
    formula: str, family: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data = pd.concat([clustered(n, 9, seed).assign(run=seed) for seed, n in enumerate((120, 90))])
    whole = torchglm.fit(formula, data, family=family, by="run", tol=1e-12)
    crossed(monkeypatch)
    apart = torchglm.fit(formula, data, family=family, by="run", tol=1e-12)
    assert apart.status == whole.status
    for name in ("criterion", "coef", "std_err", "fitted", "deviance", "loglik"):
        torch.testing.assert_close(getattr(apart, name), getattr(whole, name), rtol=1e-5, atol=1e-7)
    for name, effects in whole.random.items():
        torch.testing.assert_close(apart.random[name].modes, effects.modes, rtol=1e-4, atol=1e-6)
    apart.save(tmp_path / "fit")
    torch.testing.assert_close(torchglm.load(tmp_path / "fit").predict(data), whole.predict(data), rtol=1e-5, atol=1e-7)


def test_nested_and_chained_groupings_leave_no_large_core() -> None:
    """15,000 levels within 3,000, and pairs in a chain of 30,000 rows: neither has a dense matrix of their number."""
    rng = np.random.default_rng(1)
    inner = np.repeat(np.arange(15_000), 2)
    chain = pd.DataFrame({"a": np.arange(30_000) % 15_000, "b": np.arange(30_000) // 2, "in": inner, "out": inner // 5})
    effect = 0.8 * rng.normal(size=3_000)[chain["out"]] + 0.6 * rng.normal(size=15_000)[inner]
    chain["y"] = effect + 0.5 * rng.normal(size=30_000)
    nested = torchglm.fit("y ~ 1 + (1 | out/in)", chain, family="gaussian")
    sd = [float(effects.sd) for effects in nested.random.values()]
    assert sorted(sd) == pytest.approx([0.6, 0.8], abs=0.04)
    chain["y"] = 0.8 * rng.normal(size=15_000)[chain["a"]] + 0.5 * rng.normal(size=30_000)
    crossing = torchglm.fit("y ~ 1 + (1 | a) + (1 | b)", chain, family="gaussian")
    assert float(crossing.random["a"].sd) == pytest.approx(0.8, abs=0.04)


@pytest.mark.parametrize("family", ["gaussian", "ordinal"])
def test_groupings_that_leave_too_large_a_core_are_refused(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    crossed(monkeypatch, SMALL=0, CORE=100)
    data = DATA.assign(y=np.digitize(DATA.y, [-0.5, 0.5])) if family == "ordinal" else DATA
    with pytest.raises(ValueError, match="have 60 and 40 effects.*effects are left.*GB that are made.*absorb"):
        torchglm.fit("y ~ x + (1 | a) + (1 | b)", data, family=family)
