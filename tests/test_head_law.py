"""The law of a head, for every family of one predictor and of several: made from eta, and never an error."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from family_cases import CASES, Case
from scipy import stats
from several_cases import calm_predictors_of, draws, families, title
from torch import Tensor

from torchglm import GLMHead, GLMLoss, links
from torchglm.families.several import BetaBinomial, Classes, VectorFamily
from torchglm.inputs import Roles
from torchglm.model import law_scores
from torchglm.model.eta_loss import with_weights
from torchglm.model.face import VectorHead


def marked(members: list[Any], kind: Any, name: Any) -> Any:
    """All members; those whose kind came before, and those whose tails take seconds, are a slow study."""
    seen, out = set(), []
    for member in members:
        again = kind(member) in seen or "beta" in name(member) or "tweedie" in name(member).lower()
        seen.add(kind(member))
        out.append(pytest.param(member, id=name(member), marks=[pytest.mark.slow] if again else []))
    return out


HAS_LAW = [case for cases in CASES.values() for case in cases if case.law is not None or "tweedie" in repr(case)]
plain = pytest.mark.parametrize("case", marked(HAS_LAW, lambda case: type(case.family), repr))
several = pytest.mark.parametrize("family", marked(families(), type, title))
ETA = torch.linspace(-100, 100, 41, dtype=torch.float64)


def head_of(case: Case, dtype: torch.dtype = torch.float64) -> GLMHead:
    phi = case.phi if case.family.has_dispersion else None
    return GLMHead(1, case.family, dispersion=phi, dtype=dtype)


def made(family: VectorFamily, dtype: torch.dtype = torch.float64) -> VectorHead:
    head = GLMHead(1, family, predictors=family.others, dtype=dtype)
    assert isinstance(head, VectorHead)
    return head


def trials_of(family: VectorFamily, like: Tensor) -> dict[str, Tensor]:
    return {"trials": torch.full_like(like, 7.0)} if isinstance(family, BetaBinomial) else {}


@plain
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_log_prob_is_minus_the_loss(case: Case, dtype: torch.dtype) -> None:
    """Wherever a network may end, up to what depends on the response alone."""
    head, y = head_of(case, dtype), case.y.to(dtype)
    eta = ETA.to(dtype).unsqueeze(-1)
    law = head.law_at(eta)
    found = -law.log_prob(y)
    rows = [with_weights(*head.loss_at(eta, one.expand_as(eta), Roles(), head._log_phi(), None))[0] for one in y]
    want = torch.cat(rows, 1)
    assert bool(torch.isfinite(found).all())
    constant = (found - want)[20:21]
    apart = (found - want - constant).abs() / (1 + want.abs() + constant.abs())
    assert float(apart.max()) < (1e-12 if dtype == torch.float64 else 1e-5)


@several
def test_log_prob_of_several_is_minus_the_loss(family: VectorFamily) -> None:
    head, rows = made(family), draws(family, (3,))
    pairs = torch.cartesian_prod(ETA[::20], ETA[::20]).mT
    eta = torch.cat([pairs, *[pairs[:1]] * (len(family.predictors) - 2)])[: len(family.predictors)]
    eta = eta.unsqueeze(-1)
    for k in range(3):
        row = rows.each(lambda value, k=k: value[k].expand_as(eta[0]))
        trials = {name: value for name, value in row.items() if name == "trials"}
        found = head.law_at(eta, **trials).log_prob(row["y"])
        roles = {name: value for name, value in row.roles.items() if name == "trials"}
        want = with_weights(*head.loss_at(eta, row["y"], Roles(**roles), None, None))[0]
        torch.testing.assert_close(-found, want, rtol=0, atol=0)
        assert bool(torch.isfinite(found).all())


def check(law: Any, level: float = 0.9) -> None:
    """Tails, quantiles, draws and moments say the same."""
    p = torch.tensor([0.02, 0.3, 0.5, 0.9, 0.999], dtype=torch.float64).reshape(-1, *[1] * len(law.batch_shape))
    y = law.icdf(p)
    known = law.known.expand_as(y)
    assert bool(torch.isfinite(y[known]).all())
    reached = law.cdf(y)
    assert bool((reached >= p * (1 - 1e-9))[known].all())
    torch.testing.assert_close((reached + law.sf(y))[known], torch.ones_like(y)[known], rtol=0, atol=1e-9)
    just_below = y - torch.where(y == y.round(), 0.5, 1e-6 * (1 + y.abs()))
    assert bool((law.cdf(just_below) <= p + 1e-5)[known].all())
    low, high = law.interval(level)
    assert bool((low <= high)[law.known].all())
    torch.manual_seed(0)
    drawn = law.sample((many := 100,))
    assert drawn.shape == (many, *law.batch_shape)
    between = ((drawn >= low) & (drawn <= high)).double().mean(0)
    assert bool((between[law.known] >= level - 0.12).all())
    if not isinstance(law.family, Classes):
        mean, sd = law.mean, law.variance.sqrt()
        near = (drawn.mean(0) - mean).abs() <= 0.5 * sd + 1e-9
        assert bool(near[law.known].all())


@plain
def test_tails_quantiles_and_draws(case: Case) -> None:
    link = links.get(case.family.head_link)
    eta = link.link(case.mu)
    mu, eta = case.mu[torch.isfinite(eta)], eta[torch.isfinite(eta)]
    law = head_of(case).law_at(eta.unsqueeze(-1))
    check(law)
    torch.testing.assert_close(law.mean[:, 0], mu)
    if law.has_rsample:
        leaf = eta.clone().requires_grad_()
        drawn = head_of(case).law_at(leaf).rsample((3,))
        [slope] = torch.autograd.grad(drawn.sum(), leaf)
        assert bool(torch.isfinite(slope).all()) and float(slope.abs().max()) > 0
    else:
        with pytest.raises(NotImplementedError, match="Use sample"):
            law.rsample()


@several
def test_tails_quantiles_and_draws_of_several(family: VectorFamily) -> None:
    eta = calm_predictors_of(family, 4)
    law = made(family).law_at(eta, **trials_of(family, eta[0]))
    check(law)
    if isinstance(family, Classes):
        torch.testing.assert_close(law.probs, family.probabilities(eta).movedim(0, -1))
        seen = law.sample((1000,))
        share = torch.stack([(seen == k).double().mean(0) for k in range(law.probs.shape[-1])], -1)
        torch.testing.assert_close(share, law.probs, rtol=0, atol=0.06)


def outcome(law: Any, value: Tensor) -> list[Tensor]:
    return [
        law.cdf(value),
        law.sf(value),
        *law.interval(),
        law.mean,
        law.variance,
        law.sample((2,)),
        law.log_prob(value),
    ]


@plain
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_one_bad_row_raises_nothing_and_moves_no_other(case: Case, dtype: torch.dtype) -> None:
    eta = torch.tensor([0.3, math.nan, math.inf, -math.inf, 1e30, -1e30, 100.0, -100.0, 30.0, -30.0], dtype=dtype)
    head = head_of(case, dtype)
    found = outcome(head.law_at(eta.unsqueeze(-1)), case.y[:1].to(dtype))
    alone = outcome(head.law_at(eta[:1].unsqueeze(-1)), case.y[:1].to(dtype))
    for whole, one in zip([*found[:6], found[7]], [*alone[:6], alone[7]], strict=True):
        torch.testing.assert_close(whole[:1], one)
        assert whole.dtype == dtype


@several
def test_one_bad_row_of_several_raises_nothing_and_moves_no_other(family: VectorFamily) -> None:
    size, bad = len(family.predictors), [math.nan, math.inf, -1e30, 100.0]
    good = calm_predictors_of(family, 1)
    eta = torch.cat([good, torch.tensor([bad], dtype=torch.float64).expand(size, -1)], 1)
    y = draws(family, (1,))["y"]
    head = made(family)
    found = outcome(head.law_at(eta, **trials_of(family, eta[0])), y.expand(5))
    alone = outcome(head.law_at(good, **trials_of(family, good[0])), y)
    for whole, one in zip([*found[:6], found[7]], [*alone[:6], alone[7]], strict=True):
        torch.testing.assert_close(whole[:1], one, equal_nan=True)


def test_the_law_of_rows_of_a_head() -> None:
    x = torch.randn(5, 2, dtype=torch.float64)
    head = GLMHead(2, "negative_binomial", out_features=3, dtype=torch.float64)
    law = head.law(x, torch.ones(5, 3))
    assert law.batch_shape == (5, 3)
    y = torch.poisson(torch.ones(5, 3, dtype=torch.float64))
    torch.testing.assert_close(-law.log_prob(y), head.loss(x, y, offset=torch.ones(5, 3), reduction="none"))
    low, high = law.interval(0.95)
    assert bool((low <= law.mean).all()) and bool((law.mean <= high).all())
    with pytest.raises(ValueError, match="not known yet"):
        GLMHead(2, "gamma").law(torch.randn(4, 2))
    with pytest.raises(ValueError, match="between 0 and 1"):
        law.interval(1.0)
    counts = GLMHead(2, "binomial", dtype=torch.float64).law(x, trials=torch.full((5,), 6.0))
    whole = torch.stack([counts.log_prob(torch.full((5, 1), float(k), dtype=torch.float64)).exp() for k in range(7)])
    torch.testing.assert_close(whole.sum(0), torch.ones(5, 1, dtype=torch.float64))
    assert float(counts.log_prob(torch.full((5, 1), 7.0, dtype=torch.float64)).max()) == -math.inf


@plain
def test_crps_is_the_same_by_every_way(case: Case) -> None:
    """The closed form, where there is one, and the sum over counts or the integral over quantiles."""
    eta = links.get(case.family.head_link).link(case.mu)
    law = head_of(case).law_at(eta[torch.isfinite(eta)][:2])
    y = law.icdf(torch.tensor([[0.1], [0.6], [0.97]], dtype=torch.float64))
    found = law.crps(y)
    assert bool((found >= 0).all()) and found.shape == y.shape
    whole = law_scores._whole(law)
    if law_scores._closed(law, y) is not None and case.family.name != "tweedie":
        other = law_scores._sum(law, y, 2000) if whole else law_scores._integral(law, y)
        torch.testing.assert_close(other, found, rtol=1e-7, atol=1e-9)


@several
def test_crps_of_several_is_its_integral(family: VectorFamily) -> None:
    eta = calm_predictors_of(family, 2)
    law = made(family).law_at(eta, **trials_of(family, eta[0]))
    low, middle, high = law.icdf(torch.tensor([[1e-5], [0.6], [1 - 1e-5]], dtype=torch.float64))
    steps = torch.linspace(0, 1, 4001, dtype=torch.float64).unsqueeze(-1)
    x = low + (high - low) * steps
    beyond = (law.cdf(x) - (middle <= x).double()).square()
    if law_scores._whole(law):
        x = torch.arange(float(high.max()) + 1, dtype=torch.float64).unsqueeze(-1).expand(-1, 2)
        want = (law.cdf(x) - (middle <= x).double()).square().sum(0)
    else:
        want = torch.trapezoid(beyond, x, dim=0)
    torch.testing.assert_close(law.crps(middle), want, rtol=3e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("family", "peer"),
    [
        ("loglogistic", lambda at, scale: stats.fisk(1 / scale, scale=math.exp(at))),
        ("lognormal", lambda at, scale: stats.lognorm(scale, scale=math.exp(at))),
        ("weibull", lambda at, scale: stats.weibull_min(1 / scale, scale=math.exp(at))),
    ],
)
@pytest.mark.parametrize("scale", [0.4, 1.0, 2.5, 40.0])
def test_times_without_a_finite_mean_have_a_law(family: str, peer: Any, scale: float) -> None:
    eta = torch.tensor([[1.3], [math.log(scale)]], dtype=torch.float64)
    law, exact = GLMLoss(family, predictors=("scale",)).law(eta), peer(1.3, scale)
    p = torch.tensor([1e-6, 0.05, 0.5, 0.95], dtype=torch.float64)[:, None]
    times = torch.tensor(exact.ppf(p.numpy()))
    torch.testing.assert_close(law.icdf(p), times, rtol=1e-9, atol=0)
    torch.testing.assert_close(law.cdf(times), p, rtol=1e-9, atol=0)
    torch.testing.assert_close(law.sf(times), 1 - p, rtol=1e-9, atol=0)
    torch.testing.assert_close(law.log_prob(times), torch.tensor(exact.logpdf(times.numpy())), rtol=1e-9, atol=1e-9)
    infinite = family == "loglogistic" and scale >= 1
    assert bool(law.mean.isposinf().all()) == (infinite or (family == "lognormal" and scale == 40))
    assert bool(law.crps(times).isnan().all()) == bool(law.mean.isinf().all())
    drawn = law.sample((2000,)).squeeze(-1)
    assert abs(float((drawn <= times[2]).double().mean()) - 0.5) < 0.06
