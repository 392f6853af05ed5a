"""Estimated strengths of penalties in families of several predictors: laws of the criterion and of its minimum."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from criterion_laws import check_slopes
from torch import Tensor

import torchglm
from torchglm import Beta, Family, Hurdle, Multinomial, Ordinal, Quadratic, Status, Weibull, ZeroInflated
from torchglm.fitting.irls import irls
from torchglm.fitting.laplace import Criterion
from torchglm.fitting.strengths import scales_of
from torchglm.inputs import Roles, from_formula
from torchglm.model.solved import penalty_of
from torchglm.model.sources import family_and_link

pytestmark = pytest.mark.filterwarnings("ignore::torchglm.FitWarning")
OPTIONS = {"tol": 1e-12, "max_iter": 100, "rank_tol": 1e-12}
TIGHT: dict[str, Any] = {"tol": 1e-12, "max_iter": 100}


def made(n: int = 200, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    x, z = rng.uniform(0, 1, n), rng.normal(size=n)
    eta = 0.7 * np.sin(6 * x) + 0.3 * z
    rate = 1 / (1 + np.exp(-eta))
    data = pd.DataFrame({"x": x, "z": z, "w": rng.uniform(0.5, 2.0, n), "f": rng.integers(1, 4, n)})
    data["real"] = eta + np.exp(0.5 * np.cos(5 * x) - 0.5) * rng.normal(size=n)
    data["size"] = rng.gamma(2.0, np.exp(eta) / 2) + 0.01
    data["count"] = rng.negative_binomial(2, 2 / (2 + np.exp(eta + 1)))
    data["zeros"] = np.where(rng.random(n) < 0.3, 0, data["count"])
    data["rate"] = rng.beta(8 * rate, 8 * (1 - rate)).clip(1e-3, 1 - 1e-3)
    data["time"] = np.exp(eta) * np.sqrt(rng.exponential(size=n))
    data["seen"] = rng.random(n) < 0.8
    data["grade"] = pd.Categorical(np.digitize(eta + rng.logistic(size=n), [-1, 0, 1]), ordered=True)
    data["kind"] = pd.Categorical(np.where(rng.random(n) < rate, 0, rng.integers(0, 3, n)))
    data["g"] = rng.integers(0, 12, n)
    return data


DATA = made()
KINDS: list[tuple[str, Any, dict[str, str], dict[str, Any]]] = [
    ("real", "gaussian", {"dispersion": "~ s(x, k=5)"}, {"weights": "w"}),
    ("size", "gamma", {"dispersion": "~ z"}, {"link": "log"}),
    ("size", "inverse_gaussian", {"dispersion": "~ z"}, {"link": "log"}),
    ("count", "negative_binomial", {"alpha": "~ s(x, k=5)"}, {"freq": "f"}),
    ("size", torchglm.Tweedie(power=1.5), {"dispersion": "~ z"}, {}),
    ("zeros", ZeroInflated("poisson"), {"zero": "~ z"}, {}),
    ("zeros", ZeroInflated("negative_binomial"), {}, {}),
    ("zeros", Hurdle("poisson"), {"zero": "~ s(x, k=5)"}, {}),
    ("rate", Beta(), {"precision": "~ z"}, {}),
    ("time", Weibull(), {"scale": "~ z"}, {"event": "seen"}),
    ("time", torchglm.LogNormal(), {}, {"event": "seen"}),
    ("grade", Ordinal(), {}, {}),
    ("grade", Ordinal("probit", free=["z"]), {}, {}),
    ("grade", Ordinal(kind="continuation"), {}, {}),
    ("kind", Multinomial(), {}, {}),
]
NAMES = [f"{y}: {getattr(family, 'name', family)} {k}" for k, (y, family, _, _) in enumerate(KINDS)]

BATCHES, NAMES_OF_BATCHES = zip(*[(KINDS[k], NAMES[k]) for k in (0, 3, 5, 9, 12, 14)], strict=True)


def criterion_of(
    y: str, family: Any, predictors: dict[str, str], roles: dict[str, Any], method: str = "reml"
) -> tuple[Criterion, Tensor, Tensor]:
    """A criterion, a point away from its minimum, and coefficients near by."""
    known = dict(roles)
    law, link = family_and_link(family, known.pop("link", None), predictors)
    policies = {"missing": "error", "unseen": "error", "rare": 0}
    data = from_formula(
        f"{y} ~ z + s(x, k=6)", DATA, law, Roles.of(known, "fit"), None, policies, None, None, predictors
    )
    own: Any = data.family if data.plan is not None else law
    penalty = penalty_of(None, data, method)
    assert isinstance(penalty, Quadratic)
    theta = scales_of(data.source, own, link, penalty)[1] + 0.3
    first = irls(data.source, own, link, penalty=penalty.with_strength(theta.exp()), **OPTIONS)
    assert int(first.status) == Status.CONVERGED
    return Criterion(data.source, own, link, penalty, first, OPTIONS, None, ""), theta, first.coef


@torch.no_grad()
@pytest.mark.parametrize(("y", "family", "predictors", "roles"), KINDS, ids=NAMES)
def test_gradient_and_hessian_are_those_of_the_criterion(
    y: str, family: Family, predictors: dict[str, str], roles: dict[str, Any]
) -> None:
    criterion = criterion_of(y, family, predictors, roles, "ml" if y == "zeros" else "reml")
    check_slopes(*criterion, rel=1e-6, near=2e-8, bend=1e-6)


def fitted(y: str, family: Any, predictors: dict[str, str], roles: dict[str, Any], data: Any = DATA) -> Any:
    return torchglm.fit(f"{y} ~ z + s(x, k=6)", data, family=family, predictors=predictors, **roles, **TIGHT)


def test_two_classes_are_a_bernoulli_response() -> None:
    data = DATA.assign(two=pd.Categorical((DATA["real"] > 0.2).astype(int), ordered=True))
    plain = torchglm.fit("two ~ z + s(x, k=6)", data.assign(two=data["two"].astype(int)), family="bernoulli", **TIGHT)
    for family in (Multinomial(), Ordinal()):
        other = fitted("two", family, {}, {}, data)
        torch.testing.assert_close(other.strength, plain.strength, rtol=1e-6, atol=0)
        torch.testing.assert_close(other.criterion, plain.criterion, rtol=1e-11, atol=0)
        torch.testing.assert_close(other.edf.sum(), plain.edf.sum(), rtol=1e-6, atol=0)
        one, two = (r.smooths["s(x)"].curve([0.2, 0.9]) for r in (plain, other))
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-8)


def test_the_parts_of_a_hurdle_are_fits_of_their_own() -> None:
    both = torchglm.fit(
        "zeros ~ z + s(x, k=6)", DATA, family=Hurdle("poisson"), predictors={"zero": "~ s(x, k=5)"}, **TIGHT
    )
    none = torchglm.fit("none ~ s(x, k=5)", DATA.assign(none=DATA["zeros"] == 0), family="bernoulli", **TIGHT)
    rest = fitted("zeros", Hurdle("poisson"), {}, {})
    torch.testing.assert_close(both.strength, torch.stack([rest.strength[0], none.strength[0]]), rtol=1e-6, atol=0)
    torch.testing.assert_close(both["zero"].coef[0], none.coef[0], rtol=1e-6, atol=0)
    one, two = none.smooths["s(x)"].curve([0.3]), both.smooths["zero:s(x)"].curve([0.3])
    torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("y", "family", "predictors", "roles"), BATCHES, ids=NAMES_OF_BATCHES)
def test_a_batch_is_a_loop_and_chunks_are_the_whole(
    y: str, family: Any, predictors: dict[str, str], roles: dict[str, Any]
) -> None:
    whole = fitted(y, family, predictors, roles)
    chunks = fitted(y, family, predictors, roles, [DATA.iloc[:90], DATA.iloc[90:]])
    assert chunks.status == whole.status
    torch.testing.assert_close(chunks.criterion, whole.criterion, rtol=1e-10, atol=0)
    torch.testing.assert_close(chunks.fitted, whole.fitted, rtol=1e-6, atol=1e-8)
    formula, options = f"{y} ~ z + s(g, bs='re')", {"family": family, "predictors": {}, **roles, **TIGHT}
    runs = [DATA, DATA.iloc[:170]]
    batch = torchglm.fit(
        formula, pd.concat([one.assign(run=k) for k, one in enumerate(runs)], ignore_index=True), by="run", **options
    )
    for k, one in enumerate(runs):
        own = torchglm.fit(formula, one, **options)
        assert own.status == batch[k].status
        torch.testing.assert_close(batch[k].criterion, own.criterion, rtol=1e-9, atol=0)
        torch.testing.assert_close(batch[k].coef, own.coef, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("y", "family", "predictors", "roles"), KINDS[1::4], ids=NAMES[1::4])
def test_the_ends_are_the_unpenalised_fit_and_the_null_space(
    y: str, family: Any, predictors: dict[str, str], roles: dict[str, Any]
) -> None:
    def at(strength: float) -> Any:
        return torchglm.fit(
            f"{y} ~ z + s(x, k=6)", DATA, family=family, predictors=predictors, smoothing=strength, **roles, **TIGHT
        )

    line = torchglm.fit(f"{y} ~ z + x", DATA, family=family, predictors=predictors, **roles, **TIGHT)
    free, stiff = at(1e-9), at(1e9)
    torch.testing.assert_close(stiff.fitted, line.fitted, rtol=1e-5, atol=1e-6)
    assert float(free.edf.sum()) == pytest.approx(float(free.rank), abs=1e-4)
    best = fitted(y, family, predictors, roles)
    assert float(stiff.loglik) <= float(best.loglik) + 1e-8 <= float(free.loglik) + 2e-8


def test_effects_of_levels_are_drawn_in_and_ridge_is_the_same_penalty() -> None:
    result = torchglm.fit("grade ~ z + s(g, bs='re')", DATA, family=Ordinal(), **TIGHT)
    levels = np.eye(12)[DATA["g"]]
    x = torch.tensor(np.column_stack([levels, DATA["z"]]))
    block = (list(range(12)), torch.eye(12, dtype=torch.float64))
    own = torchglm.fit(
        x, DATA["grade"].cat.codes.to_numpy(), family=Ordinal(), penalty=Quadratic([block], "reml"), **TIGHT
    )
    torch.testing.assert_close(own.criterion, result.criterion, rtol=1e-9, atol=0)
    torch.testing.assert_close(own.strength, result.strength, rtol=1e-4, atol=0)
    both = torchglm.fit(x[:, :6], DATA["kind"].to_numpy(), family=Multinomial(), penalty=torchglm.Ridge("ml"), **TIGHT)
    blocks = (list(range(1, 7)) + list(range(8, 14)), torch.eye(12, dtype=torch.float64))
    same = torchglm.fit(
        x[:, :6], DATA["kind"].to_numpy(), family=Multinomial(), penalty=Quadratic([blocks], "ml"), **TIGHT
    )
    torch.testing.assert_close(both.criterion, same.criterion, rtol=1e-12, atol=0)


def test_a_summary_shows_the_smooths_of_every_predictor() -> None:
    result = fitted(*KINDS[0][:2], {"dispersion": "~ s(x, k=5)"}, {})
    text = str(result.summary())
    assert "dispersion:s(x)" in text and "edf" in text and "s(x).1" not in text
    kinds = fitted("kind", Multinomial(), {}, {})
    assert list(kinds.smooths) == ["1:s(x)", "2:s(x)"]
    torch.testing.assert_close(
        kinds.smooths["1:s(x)"].edf + kinds.smooths["2:s(x)"].edf, kinds.edf[[2, 3, 4, 5, 6, 9, 10, 11, 12, 13]].sum()
    )
