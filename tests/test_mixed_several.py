"""Random effects in the predictors of families that have several: laws, and numbers of ordinal's clmm."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import torchglm
from tests.test_strengths_several import DATA
from torchglm import Beta, Hurdle, Multinomial, Ordinal, Status, Weibull, ZeroInflated
from torchglm.fitting.mixed.criterion import MixedCriterion
from torchglm.fitting.mixed.effects import Groupings
from torchglm.fitting.mixed.fit import begun
from torchglm.fitting.mixed.rows import without_effects
from torchglm.fitting.solve import solve
from torchglm.inputs import Roles, from_formula
from torchglm.model.sources import family_and_link

pytestmark = pytest.mark.filterwarnings("ignore::torchglm.FitWarning")
TIGHT: dict[str, Any] = {"tol": 1e-12, "max_iter": 100}
OPTIONS = {"tol": 1e-12, "max_iter": 100, "rank_tol": 1e-12, "skip": None, "penalty": None}

KINDS: list[tuple[str, Any, dict[str, str], dict[str, Any]]] = [
    ("real ~ z + (1 + x | g)", "gaussian", {"dispersion": "~ z + (1 | g)"}, {"weights": "w"}),
    ("size ~ z + (1 | g) + (1 | h)", "gamma", {"dispersion": "~ z"}, {"link": "log"}),
    ("count ~ z + (1 | g)", "negative_binomial", {"alpha": "~ z"}, {"freq": "f"}),
    ("zeros ~ z + (1 | g)", Hurdle("poisson"), {"zero": "~ (1 | h)"}, {}),
    ("zeros ~ z + (1 | g)", ZeroInflated("poisson"), {"zero": "~ z"}, {}),
    ("rate ~ z + (x || g)", Beta(), {}, {}),
    ("time ~ z + (1 | g)", Weibull(), {}, {"event": "seen"}),
    ("grade ~ z + (1 + x | g)", Ordinal(), {}, {}),
    ("grade ~ z + C(h) + (1 | g)", Ordinal("probit", free=["z"]), {}, {}),
    ("kind ~ z + (1 | g)", Multinomial(), {}, {}),
]
BATCHES = [pytest.param(*kind, marks=[] if k in (3, 9) else [pytest.mark.slow]) for k, kind in enumerate(KINDS)]
NAMES = [formula for formula, _, _, _ in KINDS]


def grouped() -> pd.DataFrame:
    rng = np.random.default_rng(7)
    effect, h = rng.normal(size=12), rng.integers(0, 5, len(DATA))
    out, own = DATA.assign(h=h, g=[f"g{k:02d}" for k in DATA["g"]]), effect[DATA["g"]]
    out["real"] += own
    for name in ("size", "time"):
        out[name] *= np.exp(0.7 * own)
    out["count"] = rng.negative_binomial(2, 2 / (2 + np.exp(1 + own)))
    out["zeros"] = np.where(rng.random(len(out)) < 0.3, 0, rng.poisson(np.exp(1 + 0.7 * own)))
    out["rate"] = (1 / (1 + np.exp(-np.log(out["rate"] / (1 - out["rate"])) - own))).clip(1e-3, 1 - 1e-3)
    level = np.digitize(own + rng.logistic(size=len(out)), [-1, 0, 1])
    kind = np.where(rng.random(len(out)) < 1 / (1 + np.exp(-own)), 0, rng.integers(0, 3, len(out)))
    return out.assign(grade=pd.Categorical(level, ordered=True), kind=pd.Categorical(kind))


GROUPED = grouped()


def fitted(formula: str, family: Any, predictors: dict[str, str], roles: dict[str, Any], **more: Any) -> Any:
    data = more.pop("data", GROUPED)
    return torchglm.fit(formula, data, family=family, predictors=predictors, **roles, **TIGHT, **more)


def criterion_of(formula: str, family: Any, predictors: dict[str, str], roles: dict[str, Any], data: Any) -> Any:
    """The criterion of a model at its start, and the search there."""
    known = dict(roles)
    law, link = family_and_link(family, known.pop("link", None), predictors)
    policies = {"missing": "error", "unseen": "error", "rare": 0}
    made = from_formula(formula, data, law, Roles.of(known, "fit"), None, policies, None, None, predictors)
    assert isinstance(made.random, Groupings) and made.family is not None
    plain = without_effects(made.source, made.random.columns)
    law, first = solve(plain, made.family, link, None, dict(OPTIONS))
    criterion = MixedCriterion(made.source, law, link, made.random, None, first.keep, False, None, "")
    return criterion, begun(criterion, first, None, plain, 50)


@torch.no_grad()
@pytest.mark.parametrize(("formula", "family", "predictors", "roles"), KINDS, ids=NAMES)
def test_the_gradient_is_that_of_the_criterion(
    formula: str, family: Any, predictors: dict[str, str], roles: dict[str, Any]
) -> None:
    criterion, search = criterion_of(formula, family, predictors, roles, GROUPED)
    lane = torch.zeros(1, dtype=torch.int64)
    psi = search.mark.psi + 0.05 * torch.linspace(-1, 1, search.mark.psi.shape[-1], dtype=torch.float64)
    mark = criterion.at(lane, psi, search.mark.u)
    gradient = criterion.gradient(lane, mark)[0]
    along = torch.randn(3, len(gradient), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for way in along:
        values = [float(criterion.at(lane, psi + k * 1e-3 * way, mark.u).value[0]) for k in (-2, -1, 1, 2)]
        slope = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / 12e-3
        assert float(gradient @ way) == pytest.approx(slope, rel=1e-6, abs=1e-5)


@pytest.mark.parametrize(("formula", "family", "predictors", "roles"), BATCHES)
def test_a_batch_is_a_loop_and_chunks_are_the_whole(
    formula: str, family: Any, predictors: dict[str, str], roles: dict[str, Any]
) -> None:
    """Rows with index columns, and those with all columns written out, as a batch has them."""
    whole = fitted(formula, family, predictors, roles)
    chunks = fitted(formula, family, predictors, roles, data=[GROUPED.iloc[:90], GROUPED.iloc[90:]])
    runs = pd.concat([GROUPED.assign(run=k) for k in range(2)], ignore_index=True)
    batch = fitted(formula, family, predictors, roles, data=runs, by="run")
    assert whole.converged and whole.status is not Status.STALLED
    for other in (chunks, batch[1]):
        assert other.status is whole.status
        torch.testing.assert_close(other.criterion, whole.criterion, rtol=1e-9, atol=0)
        torch.testing.assert_close(other.coef, whole.coef, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(other.random["g"].covariance, whole.random["g"].covariance, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(other.random["g"].modes, whole.random["g"].modes, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(other.random["g"].std_err, whole.random["g"].std_err, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(whole.predict(GROUPED), whole.fitted)


@pytest.mark.parametrize(("formula", "family", "predictors", "roles"), [KINDS[k] for k in (2, 6, 8)])
def test_effects_of_groups_are_smooths_of_groups(
    formula: str, family: Any, predictors: dict[str, str], roles: dict[str, Any]
) -> None:
    bar = fitted(formula, family, predictors, roles, smoothing="reml")
    smooth = fitted(formula.replace("(1 | g)", "s(g, bs='re')"), family, predictors, roles, smoothing="reml")
    assert float(bar.criterion) == pytest.approx(float(smooth.criterion), rel=1e-9)
    torch.testing.assert_close(1 / bar.random["g"].sd ** 2, smooth.strength, rtol=1e-4, atol=0)
    modes = smooth.coef[smooth.smooths["s(g)"].places]
    torch.testing.assert_close(bar.random["g"].modes[:, 0], modes, rtol=1e-4, atol=1e-5)


def test_the_baseline_of_classes_with_effects_does_not_matter() -> None:
    fits = [fitted("kind ~ z + (1 | g)", Multinomial(baseline=k), {}, {}) for k in (0, 2)]
    torch.testing.assert_close(fits[0].criterion, fits[1].criterion, rtol=1e-8, atol=0)
    torch.testing.assert_close(fits[0].fitted, fits[1].fitted, rtol=1e-4, atol=1e-5)
    assert fits[0].random["g"].effects == ["1:(Intercept)", "2:(Intercept)"]


def test_two_classes_are_a_bernoulli_response() -> None:
    data = GROUPED.assign(two=pd.Categorical(GROUPED["grade"].cat.codes > 1), one=GROUPED["grade"].cat.codes > 1)
    plain = torchglm.fit("one ~ z + (1 | g)", data.assign(one=data["one"].astype(int)), family="bernoulli", **TIGHT)
    for family in (Ordinal(), Multinomial()):
        other = fitted("two ~ z + (1 | g)", family, {}, {}, data=data)
        torch.testing.assert_close(other.criterion, plain.criterion, rtol=1e-9, atol=0)
        torch.testing.assert_close(other.random["g"].modes, plain.random["g"].modes, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(other.fitted[:, 1], plain.fitted, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(other.std_err[-1], plain.std_err[1], rtol=1e-4, atol=0)


def wine() -> pd.DataFrame:
    """Bitterness of wine by nine judges, Randall (1989), as `ordinal::wine` has it."""
    ratings = [
        "23344455",
        "12132354",
        "23325544",
        "32323253",
        "23433333",
        "32322454",
        "11222323",
        "22233334",
        "12323244",
    ]
    rows = [
        {"rating": int(r), "temp": "cw"[b // 4], "contact": "ny"[b // 2 % 2], "judge": j}
        for j, row in enumerate(ratings)
        for b, r in enumerate(row)
    ]
    return pd.DataFrame(rows).astype({"rating": pd.CategoricalDtype([1, 2, 3, 4, 5], ordered=True)})


def test_an_ordinal_random_intercept_is_that_of_clmm() -> None:
    """Christensen (2019), A tutorial on fitting cumulative link mixed models with clmm2: Laplace, and ten nodes."""
    fit = torchglm.fit("rating ~ temp + contact + (1 | judge)", wine(), family="ordinal", **TIGHT)
    np.testing.assert_allclose(fit.coef, [3.0630, 1.8349], atol=6e-5)
    np.testing.assert_allclose(fit.std_err, [0.5954, 0.5125], atol=2e-4)
    np.testing.assert_allclose(fit.thresholds, [-1.6237, 1.5134, 4.2285, 6.0888], atol=6e-5)
    assert float(fit.random["judge"].sd) ** 2 == pytest.approx(1.279, abs=1e-3)
    assert float(fit.loglik) == pytest.approx(-81.565, abs=1e-3) and float(fit.aic) == pytest.approx(177.13, abs=5e-3)
    shares, cov = fit.variance_shares(), float(fit.random["judge"].sd) ** 2
    assert float(shares["icc"]) == pytest.approx(cov / (cov + np.pi**2 / 3))
    exact = torchglm.fit("rating ~ temp + contact + (1 | judge)", wine(), family="ordinal", quadrature=10, tol=1e-8)
    assert float(exact.loglik) == pytest.approx(-81.53, abs=5e-3)
    np.testing.assert_allclose(exact.coef, [3.062, 1.833], atol=1e-3)


def test_what_is_asked_of_a_fit_is_answered(tmp_path: Any) -> None:
    fit = fitted(*KINDS[0])
    assert fit.random["g"].effects == ["(Intercept)", "x", "dispersion:(Intercept)"]
    fit.save(tmp_path)
    loaded = torchglm.load(tmp_path)
    new = GROUPED.head(3).assign(g=["g00", "g01", "new"])
    for random in (True, False):
        options: dict[str, Any] = {"unseen": "reference", "random": random}
        torch.testing.assert_close(loaded.predict(new, **options), fit.predict(new, **options))
        own = fit.predict(new, kind="dispersion", **options)
        assert bool((own > 0).all()) and own.shape == (3,)
    average = fit.predict(new, random=False)
    torch.testing.assert_close(fit.predict(new, unseen="reference")[2], average[2])
    torch.testing.assert_close(fit.predict(new, se=True)[0], average)
    assert "dispersion:(Intercept)" in str(fit.summary())
    torch.testing.assert_close(loaded.with_rows(GROUPED).fitted, fit.fitted)
    smaller = fitted("real ~ z + (1 + x | g)", "gaussian", {"dispersion": "~ z"}, {"weights": "w"})
    test = fit.lr_test(smaller)
    assert float(test.df) == 1 and len(test.mixture) == 2
    for what in (fit.check, lambda: fit.residuals("quantile"), lambda: fit.report(tmp_path / "page.html")):
        what()
