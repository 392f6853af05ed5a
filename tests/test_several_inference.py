"""Laws of inference for fits of several predictors, each over every family and away from the easy point."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from several_cases import Drawn, calm_predictors_of, categorical, draws, families, numerical, support, title
from test_several import TIGHT, design, every, fitted
from torch import Tensor
from torch.autograd.functional import hessian, jacobian

import torchglm as tg
from tests.thinned import thinned
from torchglm.families.several import (
    BetaBinomial,
    Classes,
    Compound,
    Multinomial,
    Ordinal,
    Plain,
    VectorFamily,
    Weibull,
)
from torchglm.families.several.base import summed, summed_variance
from torchglm.rows.planned import expanded, full, gram_of, predictors
from torchglm.rows.responses import each
from torchglm.rows.rows import Rows

N = 120
few = pytest.mark.parametrize("family", [*list(categorical())[::6], *list(numerical())[1::8], Weibull()], ids=title)
HCS = ("HC0", "HC1", "HC2", "HC3")


def hard(family: VectorFamily, models: int = 0) -> tuple[Tensor, Drawn, dict[str, Any]]:
    """A design, responses (of a batch) and roles: weights, some of them zero, repeats, an offset where it may be."""
    generator = torch.Generator().manual_seed(5)
    weights = 0.5 + torch.rand(N, generator=generator, dtype=torch.float64)
    weights[::11] = 0
    roles: dict[str, Any] = {"weights": weights, "freq": torch.randint(1, 4, (N,), generator=generator)}
    if not isinstance(family, Multinomial):
        roles["offset"] = 0.3 * torch.randn(N, generator=generator, dtype=torch.float64)
    return design(N), draws(family, (models, N) if models else (N,)), roles


def of_hard(family: VectorFamily, models: int = 0, **more: Any) -> tg.Result:
    x, y, roles = hard(family, models)
    return fitted(family, x, y, **roles | more)


def rows_of(result: tg.Result) -> tuple[Rows, Tensor, Tensor]:
    """The rows of a fit, their whole weights and repeats (n,)."""
    rows = result.rows
    assert rows is not None
    weight = rows.weight[0]
    repeats = torch.ones_like(weight) if rows.repeats is None else rows.repeats[0].double()
    return rows, weight, torch.where(weight > 0, repeats, 1.0)


def losses(result: tg.Result) -> Callable[[Tensor], Tensor]:
    """The weighted negative log-likelihood of every row (n,) as a function of the coefficients (P,)."""
    rows, weight, _ = rows_of(result)
    family: Any = result.family
    z, offset = expanded(rows), rows.offset[0].mT  # (K, n, P), (K, n)

    def nll(coef: Tensor) -> Tensor:
        half = family.nll(each(rows.response, lambda part: part[0]), z @ coef + offset)
        return torch.where(weight > 0, half * weight, 0.0)

    return nll


def by_rows(result: tg.Result) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The scores (n, P) and information (n, P, P) of rows by autodiff, their repeats, and the inverse of the sum."""
    rows, weight, repeats = rows_of(result)
    family: Any = result.family
    z = expanded(rows)
    eta = z @ result.flat.coef[0] + rows.offset[0].mT
    score, pairs = VectorFamily.derivatives(family, each(rows.response, lambda part: part[0]), eta)
    matrices = full({pair: value.unsqueeze(0) for pair, value in pairs.items()}, len(eta))[0]
    scores = torch.einsum("kn,knp->np", torch.where(weight > 0, score * weight, 0.0), z)
    matrices = torch.where(weight[:, None, None] > 0, matrices * weight[:, None, None], 0.0)
    each_row = torch.einsum("knp,nkj,jnq->npq", z, matrices, z)
    return scores, each_row, repeats, each_row.sum(0).inverse()


def power(matrix: Tensor, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.pow(exponent).unsqueeze(-2)) @ vectors.mT


@every
def test_sandwiches_and_deletions_are_those_of_the_rows(family: VectorFamily) -> None:
    """HC0 to HC3, clusters, leverage and the steps without a row, against sums of derivatives of single rows."""
    result = of_hard(family)
    # derivatives by autodiff of alpha have the 9 digits of torch's trigamma, in sums that cancel
    less = 100 if "alpha" in family.predictors else 1

    def close(found: Tensor, expected: Tensor, rtol: float = 1e-7, atol: float = 1e-12) -> None:
        torch.testing.assert_close(found, expected, rtol=less * rtol, atol=less * atol)

    scores, every_row, f, inverse = by_rows(result)
    one, own = scores / f.unsqueeze(-1), every_row / f[:, None, None]
    close(result.covariance("observed"), inverse)
    half = power(inverse, 0.5)
    inner = torch.eye(len(inverse), dtype=torch.float64) - half @ own @ half
    moved = {
        "HC0": one @ inverse,
        "HC1": one @ inverse * (result.nobs / (result.nobs - result.rank)).sqrt(),
        "HC2": torch.stack([half @ power(m, -0.5) @ half @ u for m, u in zip(inner, one, strict=True)]),
        "HC3": torch.stack([half @ power(m, -1) @ half @ u for m, u in zip(inner, one, strict=True)]),
    }
    for kind, step in moved.items():
        close(result.covariance(kind), (step * f.unsqueeze(-1)).mT @ step)
    groups = torch.arange(N) % 12
    sums = torch.zeros(12, len(inverse), dtype=torch.float64).index_add(0, groups, scores) @ inverse
    close(result.covariance("cluster", clusters=groups), 12 / 11 * sums.mT @ sums)
    trace = (every_row * inverse).sum((-1, -2))
    close(result.leverage(), trace, rtol=1e-7, atol=1e-10)
    torch.testing.assert_close(result.leverage().sum(), result.rank, rtol=1e-7, atol=0)
    information = every_row.sum(0)
    step = torch.linalg.solve(information - every_row, scores)
    close(result.dfbetas(scaled=False), step, rtol=1e-6, atol=1e-10)
    close(result.dfbetas(), step / inverse.diagonal().sqrt(), rtol=1e-6, atol=1e-10)
    cook = (step @ information * step).sum(-1) / result.rank
    close(result.cooks_distance(), cook, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("kind", ["HC0", "HC1"])
def test_multinomial_sandwiches_are_those_of_statsmodels(kind: str) -> None:
    sm = pytest.importorskip("statsmodels.api")
    family = Multinomial(classes=4)
    x, y = design(300, 3), draws(family, (300,))["y"]
    result, groups = tg.fit(x, y, family=family, **TIGHT), torch.arange(300) % 25
    model = sm.MNLogit(y.numpy(), sm.add_constant(x.numpy()))
    options = {"disp": 0, "method": "newton", "tol": 1e-14}
    theirs = torch.from_numpy(np.asarray(model.fit(**options, cov_type="HC0").cov_params()))
    factor = 300 / (300 - 12) if kind == "HC1" else 1  # its HC1 of a discrete model is HC0
    torch.testing.assert_close(result.covariance(kind), theirs * factor, rtol=1e-9, atol=1e-14)
    by = {"groups": groups.numpy(), "use_correction": False}
    theirs = torch.from_numpy(np.asarray(model.fit(**options, cov_type="cluster", cov_kwds=by).cov_params()))
    torch.testing.assert_close(result.covariance("cluster", groups), theirs * 25 / 24, rtol=1e-9, atol=1e-14)


ANSWERS: dict[str, Callable[[tg.Result], Tensor]] = {
    **{kind: lambda r, kind=kind: r.covariance(kind) for kind in HCS},
    "cluster": lambda r: r.covariance("cluster", torch.arange(N) % 12),
    "robust": lambda r: r.robust("HC3").std_err,
    "leverage": lambda r: r.leverage(),
    "cooks_distance": lambda r: r.cooks_distance(),
    "dfbetas": lambda r: r.dfbetas(),
    "loo_predict": lambda r: r.loo_predict(),
    "cv_deviance": lambda r: r.cv_deviance(),
    "quantile": lambda r: r.residuals(),
    "pearson": lambda r: r.residuals("pearson"),
    "response": lambda r: r.residuals("response"),
    "score_test": lambda r: r.score_test(design(N, 2, seed=8)).statistic,
    "wald": lambda r: r.wald(f"`{r.all_names[-1]}` = 0.1").statistic,
    "drop1": lambda r: r.drop1()["deviance"],
    "anova": lambda r: r.anova()["chi2"],
    "vif": lambda r: torch.stack(list(r.vif().values()), -1),
}


def same(one: Tensor, other: Tensor, name: str, rough: float = 1e-8) -> None:
    torch.testing.assert_close(one, other, rtol=rough, atol=rough, equal_nan=True, msg=lambda text: f"{name}: {text}")


@few
def test_answers_of_a_batch_are_those_of_its_models(family: VectorFamily) -> None:
    batch = of_hard(family, 2)
    x, y, roles = hard(family, 2)
    for model in range(2):
        alone = fitted(family, x, y.each(lambda value, k=model: value[k]), **roles)
        for name, ask in ANSWERS.items():
            same(ask(batch)[model], ask(alone), name)


@few
def test_answers_in_chunks_are_those_of_the_whole(family: VectorFamily) -> None:
    result = of_hard(family)
    rows = result.rows
    assert rows is not None
    chunks = result.on([rows.between(start, start + 25) for start in range(0, N, 25)])
    for name, ask in ANSWERS.items():
        same(ask(chunks), ask(result), name)


@pytest.mark.parametrize("family", [Multinomial(classes=4), Ordinal(classes=4), Weibull()], ids=title)
def test_profile_limits_of_a_batch_and_in_chunks(family: VectorFamily) -> None:
    batch, (x, y, roles) = of_hard(family, 2), hard(family, 2)
    limits = batch.conf_int(method="profile")
    same(
        limits[1], fitted(family, x, y.each(lambda value: value[1]), **roles).conf_int(method="profile"), "batch", 1e-6
    )
    rows = batch.rows
    assert rows is not None
    chunks = batch.on([rows.between(start, start + 25) for start in range(0, N, 25)])
    same(chunks.conf_int(method="profile"), limits, "chunks", 1e-6)


@few
def test_answers_to_repeats_are_those_to_the_rows_written_out(family: VectorFamily) -> None:
    x, y, roles = hard(family)
    freq = roles.pop("freq")
    out = {name: value.repeat_interleave(freq) for name, value in roles.items()}
    once = fitted(family, x, y, **roles, freq=freq)
    many = fitted(family, x.repeat_interleave(freq, 0), y.each(lambda value: value.repeat_interleave(freq)), **out)
    for kind in HCS:
        torch.testing.assert_close(once.covariance(kind), many.covariance(kind), rtol=1e-7, atol=1e-12)
    for kind in ("pearson", "response"):
        torch.testing.assert_close(
            once.residuals(kind).repeat_interleave(freq, 0), many.residuals(kind), rtol=1e-7, atol=1e-9, equal_nan=True
        )
    torch.testing.assert_close(once.loo_predict().repeat_interleave(freq, 0), many.loo_predict(), rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(once.cv_deviance(), many.cv_deviance(), rtol=1e-8, atol=0)
    used = (roles["weights"] > 0).double()
    total = torch.zeros(N, dtype=torch.float64).index_add(0, torch.arange(N).repeat_interleave(freq), many.leverage())
    torch.testing.assert_close(once.leverage() * used, total, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("name", ["poisson", "bernoulli"])
def test_one_predictor_wrapped_has_the_answers_of_the_plain_fit(name: str) -> None:
    family = tg.families.get(name)
    x, drawn, roles = hard(Plain(tg.Poisson()))
    y = drawn["y"]
    y = (y > 1).double() if name == "bernoulli" else y
    wrapped, plain = (tg.fit(x, y, family=one, **roles, **TIGHT) for one in (Plain(family), family))
    for name, ask in ANSWERS.items():
        if name == "cv_deviance":  # minus twice the log-likelihood here
            continue
        known = plain.residuals("quantile") if name == "quantile" else ask(plain)
        change = (lambda v: v - v[0]) if name == "drop1" else lambda v: v
        same(change(ask(wrapped)), change(known), name, 1e-7)
    same(wrapped.conf_int(method="profile"), plain.conf_int(method="profile"), "profile", 1e-6)


@few
def test_tests_of_one_hypothesis_agree(family: VectorFamily) -> None:
    """Dropped column, smaller fit and added column are one test; score and Wald are near it."""
    x, y, roles = hard(family)
    z = design(N, 1, seed=8)
    small, big = fitted(family, x, y, **roles), fitted(family, torch.cat([x, z], -1), y, **roles)
    ratio = big.lr_test(small)
    own = [name for name in big.names if name.split(":")[-1] == "x2"]
    assert float(ratio.df) == len(own)
    dropped = big.drop1({"z": own}).row("z")
    torch.testing.assert_close(dropped["chi2"], ratio.statistic, rtol=1e-6, atol=1e-7)
    score, wald = small.score_test(z), big.wald(dict.fromkeys(own, 0.0))
    assert float(score.statistic) >= 0 and float(score.df) in (1, len(own))
    assert abs(float(wald.statistic - ratio.statistic)) < 0.3 * float(ratio.statistic) + 0.2
    with pytest.raises(ValueError, match="smaller one first"):
        small.lr_test(big)
    other = fitted(family, torch.cat([x[:, 1:], z], -1), y, **roles)
    with pytest.raises(ValueError, match=r"not nested|smaller one"):
        fitted(family, torch.cat([x, z.square()], -1), y, **roles).lr_test(other)


@few
def test_score_tests_are_those_of_the_derivatives(family: VectorFamily) -> None:
    """The score statistic by autodiff of the larger model at the smaller fit, with its own information."""
    x, y, roles = hard(family)
    z = design(N, 1, seed=8)
    small, big = fitted(family, x, y, **roles), fitted(family, torch.cat([x, z], -1), y, **roles)
    known = {name: value for name, value in zip(small.all_names, small.flat.coef[0].tolist(), strict=True)}
    at = torch.tensor([known.get(name, 0.0) for name in big.all_names], dtype=torch.float64)
    if isinstance(family, Ordinal) and family.free:
        return
    nll = losses(big)
    score = -jacobian(lambda coef: nll(coef).sum(), at)
    rows, weight, _ = rows_of(big)
    eta = predictors(rows, at.unsqueeze(0))
    expected = family.expected(eta)
    expected = family.derivatives(rows.response, eta)[1] if expected is None else expected
    matrix = gram_of(rows, {pair: torch.where(weight > 0, v * weight, 0.0) for pair, v in expected.items()}).matrix[0]
    statistic = score @ matrix.inverse() @ score
    torch.testing.assert_close(small.score_test(z).statistic, statistic, rtol=1e-7, atol=1e-9)


def test_a_column_may_be_added_to_one_predictor() -> None:
    family = next(f for f in families() if f.name == "dispersed")
    x, drawn, roles = hard(family)
    y = drawn["y"]
    small = tg.fit(x, y, family=family, **roles, **TIGHT)
    big = tg.fit(x, y, family=family, predictors={"dispersion": x[:, :1]}, **roles, **TIGHT)
    score, ratio = small.score_test(x[:, :1], predictor="dispersion"), big.lr_test(small)
    assert float(score.df) == 1 and 0.4 < float(score.statistic / ratio.statistic) < 2.5
    with pytest.raises(ValueError, match="no predictor"):
        small.score_test(x, predictor="shape")
    with pytest.raises(ValueError, match="one of several"):
        tg.fit(x, y, family="gamma", link="log").score_test(x, predictor="mean")


def test_parallel_slopes_are_nested_in_free_ones() -> None:
    x, y, roles = hard(Ordinal(classes=4))
    one, free = (fitted(Ordinal(classes=4, free=free), x, y, **roles) for free in (False, True))
    ratio = free.lr_test(one)
    assert float(ratio.df) == 4 and float(ratio.statistic) >= 0
    with pytest.raises(ValueError, match="family"):
        fitted(Ordinal("probit", classes=4, free=True), x, y, **roles).lr_test(one)
    with pytest.raises(ValueError, match="family"):
        fitted(Ordinal(kind="adjacent", classes=4, free=True), x, y, **roles).lr_test(one)


def test_thresholds_are_tested_by_name() -> None:
    result = of_hard(Ordinal(classes=4))
    gap = result.wald("1|2 - 0|1 = 0")
    cov, thresholds = result.covariance()[2:, 2:], result.thresholds
    direction = torch.tensor([-1.0, 1.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(gap.statistic, (direction @ thresholds) ** 2 / (direction @ cov @ direction))
    matrix = torch.cat([torch.zeros(2, dtype=torch.float64), direction])
    torch.testing.assert_close(result.wald(matrix).statistic, gap.statistic)


@pytest.mark.parametrize("family", thinned([*list(categorical())[:4], *numerical()][::7], 3), ids=title)
def test_profile_limits_are_where_the_likelihood_has_fallen(family: VectorFamily) -> None:
    if isinstance(family, Ordinal) and family.free:
        return  # its thresholds have to move for the predictors to stay in order
    result = of_hard(family)
    nll, best = losses(result), result.flat.coef[0]
    limits = result.conf_int(method="profile")
    j = len(result.names) - 1
    for limit in limits[j]:
        assert bool(torch.isfinite(limit))
        at, others = best.clone(), torch.arange(len(best)) != j
        at[j] = best[j] + (limit - best[j])
        for _ in range(30):  # Newton steps of the others, halved where they overshoot
            slope = jacobian(lambda c: nll(c).sum(), at)[others]
            bend = hessian(lambda c: nll(c).sum(), at)[others][:, others]
            step, size = torch.linalg.solve(bend, slope), 1.0
            trial = at.clone()
            while size > 1e-6:
                trial[others] = at[others] - size * step
                if bool(nll(trial).sum() <= nll(at).sum() + 1e-12):
                    break
                size /= 2
            at = trial.clone()
        fall = 2 * (nll(at).sum() - nll(best).sum())
        torch.testing.assert_close(fall, torch.tensor(1.959963984540054**2, dtype=torch.float64), rtol=1e-5, atol=0)


@every
def test_the_tails_are_those_of_the_law(family: Any) -> None:
    """Slopes (or steps) of the distribution function are the density; its mean and variance are sums over it."""
    eta = calm_predictors_of(family, 12)
    y, weight = support(family)
    wide = eta.unsqueeze(1).expand(-1, len(weight), -1).contiguous()
    share = torch.exp(-family.nll(y, wide)) * weight
    atoms = isinstance(family, Classes) or family.counts or isinstance(family, BetaBinomial)
    places = (
        torch.arange(len(weight))
        if len(weight) < 1000
        else torch.arange(7, len(weight), 150 if not isinstance(family, Compound) else 1300)
    )
    some, at_some = each(y, lambda part: part[places]), wide[:, places]
    below, at = family.cdf(some, at_some)
    for (lower, upper), known in zip(family.tails(some, at_some), (below, at), strict=True):
        torch.testing.assert_close(lower, known, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(lower + upper, torch.ones_like(lower), rtol=0, atol=1e-11)
    total = share.cumsum(0)
    if atoms:
        torch.testing.assert_close(at, total[places], rtol=0, atol=1e-9)
        torch.testing.assert_close(below, (total - share)[places], rtol=0, atol=1e-9)
    elif isinstance(family, Compound):  # whose tails are sums that another test knows
        torch.testing.assert_close(at, (total - share / 2)[places], rtol=0, atol=2e-3)
    else:  # by the trapezoidal rule, and by slopes
        torch.testing.assert_close(at, (total - share / 2)[places], rtol=0, atol=2e-3)
        step = 1e-5 * some
        slope = (family.cdf(some + step, at_some)[1] - family.cdf(some - step, at_some)[1]) / (2 * step)
        near = (at > 1e-3) & (at < 1 - 1e-3)
        torch.testing.assert_close(slope[near], torch.exp(-family.nll(some, at_some))[near], rtol=1e-4, atol=1e-7)
    difference, variance = family.departure(y, wide)
    torch.testing.assert_close((share * difference).sum(-2), torch.zeros_like(difference[..., 0, :]), rtol=0, atol=1e-6)
    torch.testing.assert_close((share * difference.square()).sum(-2), variance[..., 0, :], rtol=1e-5, atol=1e-7)


def test_counts_without_a_distribution_function_sum_their_law() -> None:
    family = Plain(tg.Poisson())
    eta = torch.linspace(-3, 5, 40, dtype=torch.float64).unsqueeze(0)
    y = (eta[0].exp() * 1.3).round()
    for one, other in zip(summed(family, y, eta), family.cdf(y, eta), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    torch.testing.assert_close(summed_variance(family, eta), eta[0].exp(), rtol=1e-9, atol=0)


@every
def test_quantile_residuals_are_standard_normal(family: VectorFamily) -> None:
    """Responses drawn from the law itself, by its distribution function, at the predictors of the fit."""
    if not isinstance(family, Classes):
        pytest.skip("the cdf of the others is checked against their density")
    result = fitted(family, design(4000), draws(family, (4000,)))
    found = result.residuals()
    assert abs(float(found.mean())) < 0.05 and abs(float(found.std()) - 1) < 0.05
    torch.testing.assert_close(found, result.residuals("quantile"))


SKIPPED = {"save", "on", "of", "with_rows", "member", "predict"}


@pytest.mark.parametrize("family", [Multinomial(classes=4), Ordinal(classes=4), *families()[15::6]], ids=title)
def test_what_has_no_meaning_is_refused_in_words(family: VectorFamily) -> None:
    """Every method of a Result without needed arguments answers, or says what to do; nothing raises by accident."""
    result = of_hard(family)
    for name in sorted(set(dir(result)) - SKIPPED):
        if name.startswith("_") or name == "head":
            continue
        try:
            value = getattr(result, name)
            if inspect.ismethod(value) and all(
                p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
                for p in inspect.signature(value).parameters.values()
            ):
                str(value())
        except ValueError as error:
            assert len(str(error)) > 40 and str(error).rstrip().endswith((".", ")")), (name, error)
    with pytest.raises(ValueError, match="quantile"):
        result.residuals("anscombe")


def test_categorical_families_are_here() -> None:
    assert len(list(categorical())) > 10


def test_ratios_are_those_of_the_predictors_that_multiply() -> None:
    for family in (Multinomial(classes=4), Ordinal(classes=4), Ordinal(free=True, classes=4), Weibull()):
        result = of_hard(family)
        found = result.ratios()
        places = [result.names.index(name) for name in found.names]
        torch.testing.assert_close(found.value, result.coef[places].exp())
        torch.testing.assert_close(found.std_err, found.value * result.std_err[places])
        assert found.names == result.names
    gaussian = next(f for f in families() if f.name == "dispersed" and f.links["mean"].name == "identity")
    assert all(name.startswith("dispersion:") for name in of_hard(gaussian).ratios().names)
    with pytest.raises(ValueError, match="ratio"):
        of_hard(Ordinal("probit", classes=4)).ratios()
