"""Families at the edges: tails of eta, bad input, starting means, laws to sample from, moves between dtypes."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from family_cases import ALL, PAIRS, Case, grid, wide
from torch import Tensor

from torchglm import families, links
from torchglm.families import Family
from torchglm.families.numerics import product
from torchglm.links import Link
from torchglm.rows.responses import Times

each_case = pytest.mark.parametrize("case", ALL, ids=repr)
REACHING = {"identity", "log", "logit", "probit", "cloglog", "loglog", "cauchit", "softplus"}  # links that go far


def tails(case: Case, link: Link, dtype: torch.dtype) -> Tensor:
    """Values of eta up to 80 either way whose mean is in the family's range and whose loss float32 can hold."""
    eta = torch.tensor([-80.0, -40, -10, 0, 10, 40, 80], dtype=dtype)
    sure = eta[link.inside(eta) & (link.name in REACHING)]
    if link.name == "identity" and case.family.mean_lower == 0:
        sure = sure[(sure > 0) & (sure < case.family.mean_upper)]
    if link.name == "log" and case.family.mean_upper == 1:
        sure = sure[sure < 0]
    if link.name in ("log", "softplus"):  # mu^2, and mu^-p as it is in the loss, leave float32 by themselves
        power = float(case.family.variance_log_deriv(wide(1.0)))
        if case.family.mean_lower < 0:
            sure = sure[sure <= 40]
        if case.family.name in ("tweedie", "inverse_gaussian") and power > 2:
            sure = sure[sure.abs() * (power - 1) < 85]
    return sure


@pytest.mark.parametrize("precision", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("case", "link"), [p for p in PAIRS if len(tails(*p, torch.float32))], ids=repr)
def test_the_loss_and_its_gradient_are_finite_in_the_tails(case: Case, link: Link, precision: torch.dtype) -> None:
    dtype = torch.float64 if precision == torch.float64 else torch.float32
    eta = tails(case, link, dtype)
    y, eta = (v.flatten() for v in torch.meshgrid(case.y.to(precision).to(dtype), eta, indexing="ij"))
    eta = eta.contiguous().requires_grad_()
    nll = case.family.nll(y, eta, link)
    nll.sum().backward()
    assert nll.dtype == dtype
    assert bool(torch.isfinite(nll).all()) and bool(torch.isfinite(eta.grad).all())


@pytest.mark.parametrize(("case", "link"), PAIRS, ids=repr)
def test_the_loss_has_its_slope_by_the_response(case: Case, link: Link) -> None:
    """At the ends of the support too, where what multiplies the response may be infinite: there it has none."""
    family, far = case.family, 1e-5
    y = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    y = y[family.supports(y)].requires_grad_()
    eta = link.link(torch.full_like(y, 0.8 * family.inner_mean)).detach()
    [slope] = torch.autograd.grad(family.nll(y, eta, link).sum(), y)
    low, high = (y.detach() - far).clamp(min=float(y.detach().min())), y.detach() + far
    high = high.clamp(max=1.0) if family.mean_upper == 1 else high
    with torch.no_grad():
        rise = (family.nll(high, eta, link) - family.nll(low, eta, link)) / (high - low)
    torch.testing.assert_close(slope, rise, rtol=1e-4, atol=1e-4)


def test_products_with_zero_are_zero() -> None:
    a = torch.tensor([0.0, 0.0, 0.0, 0.0, 2.0], requires_grad=True)
    b = torch.tensor([math.inf, -math.inf, math.nan, 3.0, -math.inf], requires_grad=True)
    found = product(a, b)
    found.sum().backward()
    assert found.tolist() == [0, 0, 0, 0, -math.inf]
    assert a.grad.tolist() == [0, 0, 0, 3, -math.inf] and b.grad.tolist() == [0, 0, 0, 0, 2]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("case", "link"), [p for p in PAIRS if p[0].family.mean_upper == 1 and p[1].name in REACHING], ids=repr
)
def test_scores_of_proportions_are_right_in_the_tails(case: Case, link: Link, dtype: torch.dtype) -> None:
    eta = torch.tensor([-40.0, -20, -6, -3, 3, 6, 20, 40], dtype=dtype)
    if link.name in ("log", "identity"):
        eta = eta[eta < 0] if link.name == "log" else torch.tensor([0.01, 0.5, 0.99], dtype=dtype)
    y, eta = (v.flatten() for v in torch.meshgrid(torch.tensor([0, 0.5, 1.0], dtype=dtype), eta, indexing="ij"))
    leaf = eta.clone().double().requires_grad_()
    (-case.family.nll(y.double(), leaf, link).sum()).backward()
    for observed in (False, True):
        score, weight = case.family.score_and_weight(y, eta, link(eta), link, observed)
        torch.testing.assert_close(score.double(), leaf.grad, rtol=2e-5, atol=1e-6)
        assert bool(torch.isfinite(weight).all())


@pytest.mark.parametrize("eta", [88.0, 89.0, 95.0])
def test_counts_of_huge_means_have_a_loss_in_float32(eta: float) -> None:
    """`mu` leaves float32 at eta = 88.7; the negative binomial's loss grows as eta only."""
    at = torch.tensor([eta], requires_grad=True)
    loss = families.NegativeBinomial(0.5).nll(torch.tensor([3.0]), at, links.Log())
    loss.backward()
    assert float(loss.detach()) == pytest.approx((3 + 2) * (eta - math.log(2)) - 3 * eta, rel=1e-5)
    assert float(at.grad) == pytest.approx(2.0, rel=1e-5)


@each_case
def test_starting_means_lie_inside_the_range(case: Case) -> None:
    start = case.family.initial_mean(case.y, torch.ones_like(case.y))
    assert bool(case.family.valid_mean(start).all()) and bool((start > case.family.mean_lower).all())
    assert bool((start < case.family.mean_upper).all())


@each_case
def test_means_that_know_of_other_rows_lie_inside_the_range_at_any_exposure(case: Case) -> None:
    """And a row without weight, whatever it holds, says nothing of the others."""
    offset = torch.linspace(-300, 300, case.y.numel(), dtype=case.y.dtype).view_as(case.y)
    weight = torch.ones_like(case.y)
    for given in (None, offset):
        start = case.family.first_mean(case.y, weight, given, links.Log())
        assert bool(((start > case.family.mean_lower) & (start < case.family.mean_upper)).all())
        y, beside = (torch.cat([value, value[..., :1]], -1) for value in (case.y, torch.zeros_like(case.y)))
        y[..., -1], beside[..., :-1] = torch.nan, 1.0
        at = None if given is None else torch.cat([given, given[..., -1:]], -1)
        torch.testing.assert_close(case.family.first_mean(y, beside, at, links.Log())[..., :-1], start)


@pytest.mark.parametrize("family", [families.Poisson(), families.NegativeBinomial(0.5)])
def test_counts_begin_at_the_mean_of_a_gamma_law_after_them(family: families.Family) -> None:
    """Of shape k and mean m it is (y + k) / (1 + k / m), m the exposure at the average rate."""
    y, exposure = wide(0.0, 1.0, 7.0, 0.0), wide(0.5, 2.0, 8.0, 1.5)
    m = exposure * y.sum() / exposure.sum()
    start = family.first_mean(y, torch.ones_like(y), exposure.log(), links.Log())
    torch.testing.assert_close(start, (y + 0.75) / (1 + 0.75 / m))
    none = family.first_mean(0 * y, torch.ones_like(y), exposure.log(), links.Log())
    assert bool((none > 0).all())
    assert torch.equal(family.first_mean(y, torch.ones_like(y), exposure, links.Sqrt()), y + 0.1)


def test_own_starting_means_of_a_subclass_are_taken() -> None:
    class Shifted(families.Poisson):
        name = "shifted"

        def initial_mean(self, y: Tensor, weight: Tensor) -> Tensor:
            return y + 3

    y = wide(0.0, 2.0)
    assert torch.equal(Shifted().first_mean(y, torch.ones_like(y), None, links.Log()), y + 3)


@each_case
def test_ranges_of_the_mean(case: Case) -> None:
    assert bool(case.family.valid_mean(case.mu).all())
    outside = wide(-1e-9, math.nan) if case.family.mean_lower == 0 else wide(math.nan, math.inf)
    assert not bool(case.family.valid_mean(outside).any())


@each_case
def test_the_support_is_what_its_words_say(case: Case) -> None:
    support, text = case.family.support, case.family.support_text
    assert bool(support.check(case.y).all())
    assert bool(support.check(wide(0.0))) == (">= 0" in text or "0 <=" in text or text == "finite y")
    assert bool(support.check(wide(-0.5))) == (text == "finite y")
    assert not bool(support.check(wide(math.nan)))


@each_case
def test_the_law_has_the_mean_and_the_variance_and_samples(case: Case) -> None:
    family, mu = case.family, case.mu[case.mu > 0]
    if float(getattr(family, "power", wide(0.0))) in (2.5, 4.5):
        with pytest.raises(ValueError, match=r"no distribution at hand for power [24].5. Take a power in \(1, 2\)"):
            family.distribution(mu, case.phi)
        assert bool(family.log_prob(mu, mu, case.phi).isnan().all())
        return
    law = family.distribution(mu, case.phi)
    scale = case.phi if family.has_dispersion else 1.0
    torch.testing.assert_close(law.mean, mu, rtol=1e-12, atol=0)
    torch.testing.assert_close(law.variance, scale * family.variance(mu), rtol=1e-9, atol=0)
    assert law.sample().shape == mu.shape and law.sample((3, 2)).shape == (3, 2, *mu.shape)
    torch.manual_seed(0)
    sample = law.sample((20000,))
    error = (law.variance / 20000).sqrt()
    assert bool(((sample.mean(0) - mu).abs() < 5 * error).all())
    assert bool(family.support.check(sample).all())
    if family.name != "binomial":  # the family takes shares, the law counts
        torch.testing.assert_close(
            law.log_prob(sample[:5]), family.log_prob(sample[:5], mu.expand(5, -1), case.phi), rtol=1e-9, atol=1e-9
        )


def test_the_law_of_a_binomial_is_in_counts() -> None:
    law = families.Binomial().distribution(wide(0.2, 0.5), 1 / wide(7, 1000))
    torch.testing.assert_close(law.mean, wide(1.4, 500))
    torch.testing.assert_close(
        law.log_prob(wide(3, 480)),
        families.Binomial().log_prob(wide(3 / 7, 0.48), wide(0.2, 0.5), weight=wide(7, 1000)),
    )


@each_case
def test_trials_and_events_are_refused_where_they_mean_nothing(case: Case) -> None:
    one = torch.ones_like(case.y)
    if case.family.name != "binomial":
        with pytest.raises(
            ValueError, match=f"trials= is for Binomial and BetaBinomial, got it with {case.family.name}"
        ):
            case.family.encode(case.y, trials=one)
    if case.family.name != "exponential":
        with pytest.raises(
            ValueError,
            match=f"event= is for families of times, got it with {case.family.name}",
        ):
            case.family.encode(case.y, event=one)
    coded, factor = case.family.encode(case.y)
    assert torch.equal(coded, case.y) and factor is None


def test_trials_turn_counts_into_shares_and_weights() -> None:
    y, trials = wide(0, 3, 7, 0), wide(5, 4, 7, 0)
    share, factor = families.Binomial().encode(y, trials=trials)
    assert share.tolist() == [0, 0.75, 1, 0] and factor is trials and y.tolist() == [0, 3, 7, 0]
    with pytest.raises(ValueError, match="y <= trials; row 1 has more successes than trials"):
        families.Binomial().encode(wide(1, 5), trials=wide(2, 4))
    for bad in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="trials must be finite and >= 0"):
            families.Binomial().encode(wide(0.0), trials=wide(bad))


def test_events_are_one_or_zero() -> None:
    coded, factor = families.Exponential().encode(wide(2, 3), event=wide(1, 0))
    assert coded.size.tolist() == [2, 3] and coded.event.tolist() == [True, False] and factor is None
    with pytest.raises(ValueError, match="event must be 1 .* or 0"):
        families.Exponential().encode(wide(2.0), event=wide(2.0))


def test_censored_scores_and_information_are_derivatives_of_the_likelihood() -> None:
    family = families.Exponential()
    for link in (links.Log(), links.Inverse(), links.Identity(), links.Softplus(), links.Sqrt()):
        y, mu = (v.flatten() for v in torch.meshgrid(wide(4, 0.3, 0.3, 4), wide(0.5, 3), indexing="ij"))
        y = Times(y, torch.arange(8) >= 4)
        eta = link.link(mu).requires_grad_()
        (slope,) = torch.autograd.grad(family.nll(y, eta, link).sum(), eta, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.sum(), eta)
        score, observed = family.score_and_weight(y, eta.detach(), mu, link, True)
        torch.testing.assert_close(score, -slope.detach(), rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(observed, curvature, rtol=1e-10, atol=1e-12)
        assert bool((family.score_and_weight(y, eta.detach(), mu, link, False)[1] > 0).all())
        assert not family.is_canonical(link)
        half = family.nll(y, eta.detach(), link) - family.nll_saturated(y)
        torch.testing.assert_close(half, family.unit_deviance(y, mu) / 2, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("alpha", [-0.1, -1e-300, math.nan])
def test_the_negative_binomial_needs_an_alpha_of_zero_or_more(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha >= 0, got"):
        families.NegativeBinomial(alpha)


@pytest.mark.parametrize("power", [-1.0, 0.5, 0.999, math.nan, math.inf])
def test_no_tweedie_family_has_a_power_between_zero_and_one(power: float) -> None:
    with pytest.raises(ValueError, match="power 0 or >= 1, got"):
        families.Tweedie(power)


@pytest.mark.parametrize(
    ("family", "name", "start"),
    [(families.NegativeBinomial(), "alpha", 1.0), (families.Tweedie(), "power", 1.5)],
    ids=str,
)
def test_a_shape_to_be_estimated_is_a_parameter_of_the_module(family: Family, name: str, start: float) -> None:
    assert family.estimates_shape and "estimated" in repr(family)
    assert float(getattr(family, name).detach()) == start
    fixed = type(family)(**{name: 1.25})
    assert not fixed.estimates_shape and repr(fixed).endswith("1.25)")
    family.load_state_dict(fixed.state_dict())
    assert float(getattr(family, name).detach()) == pytest.approx(1.25, rel=1e-15)


@each_case
def test_no_cast_narrows_a_shape_below_float32(case: Case) -> None:
    y, mu = grid(case)
    want = case.family.log_prob(y, mu, case.phi)
    for move in (lambda f: f.half(), lambda f: f.bfloat16(), lambda f: f.to(torch.bfloat16), lambda f: f.float()):
        moved = move(copy.deepcopy(case.family))
        assert all(p.dtype in (torch.float32, torch.float64) for p in moved.parameters())
        torch.testing.assert_close(moved.log_prob(y, mu, case.phi), want, rtol=1e-3, atol=1e-4, equal_nan=True)
    assert all(p.is_meta for p in copy.deepcopy(case.family).to("meta").parameters())
    twin = pickle.loads(pickle.dumps(case.family))
    torch.testing.assert_close(twin.log_prob(y, mu, case.phi), want, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", ["logit", "probit", "cloglog", "loglog", "cauchit"])
def test_a_certain_proportion_has_a_loss_and_a_slope_in_both_tails(name: str, dtype: torch.dtype) -> None:
    link, family = links.get(name), families.Bernoulli()
    for size in (20.0, 60.0, 95.0, 300.0, 720.0, 3000.0):
        eta = torch.tensor([-size, -size, size, size], dtype=dtype, requires_grad=True)
        loss = family.nll(torch.tensor([0.0, 1.0, 0.0, 1.0], dtype=dtype), eta, link)
        [slope] = torch.autograd.grad(loss.sum(), eta)
        assert bool(torch.isfinite(loss).all()) and bool((loss >= 0).all()), (size, loss)
        assert bool(torch.isfinite(slope).all()), (size, slope)
        assert bool((slope[[0, 2]] >= 0).all()) and bool((slope[[1, 3]] <= 0).all()), (size, slope)
        assert bool((slope[[1, 2]] != 0).all()), f"{name} at {size}: a wrong answer has no slope to come back by"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("power", [1.05, 1.1, 1.5, 1.9, 1.99])
def test_a_tweedie_zero_has_a_loss_and_a_slope_at_any_mean(power: float, dtype: torch.dtype) -> None:
    for value in (-1000.0, -200.0, -104.0, -30.0, 0.0, 30.0):
        eta = torch.tensor(value, dtype=dtype, requires_grad=True)
        loss = families.Tweedie(power).nll(torch.zeros((), dtype=dtype), eta, links.Log())
        [slope] = torch.autograd.grad(loss, eta)
        want = torch.tensor((2 - power) * value, dtype=dtype).exp()
        assert torch.allclose(slope, want, rtol=1e-4, atol=0) and torch.allclose(loss, want / (2 - power), rtol=1e-4)
