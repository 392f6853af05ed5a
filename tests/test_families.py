"""The laws every family obeys, on paper: cumulants, deviances, scores. A family without a case fails at import."""

from __future__ import annotations

import copy

import mpmath
import pytest
import torch
from family_cases import ALL, CASES, PAIRS, Case, found, grid, wide
from torch import Tensor
from torch.func import jvp

from torchglm import families
from torchglm.families import Family
from torchglm.links import Link

mp = mpmath.mp
each_case = pytest.mark.parametrize("case", ALL, ids=repr)
each_pair = pytest.mark.parametrize(("case", "link"), PAIRS, ids=repr)


def derivative(f, x: Tensor) -> Tensor:
    return jvp(f, (x,), (torch.ones_like(x),))[1]


def test_every_family_has_cases_and_is_registered_under_its_name() -> None:
    assert {family.name for family in found()} == set(CASES)
    assert {type(families.get(name)) for name in families.names()} == set(found()) == set(families.MEMBERS)
    assert {family.__name__ for family in found()} <= set(families.__all__)
    assert all(type(case.family).name == name for name, cases in CASES.items() for case in cases)


@each_case
def test_the_cumulant_gives_mean_and_variance(case: Case) -> None:
    theta = case.family.theta(case.mu)
    torch.testing.assert_close(derivative(case.family.cumulant, theta), case.mu, rtol=1e-9, atol=0)
    second = derivative(lambda t: derivative(case.family.cumulant, t), theta)
    torch.testing.assert_close(second, case.family.variance(case.mu), rtol=1e-6, atol=0)


@each_case
def test_theta_and_cumulant_are_those_of_the_textbook(case: Case) -> None:
    with mp.workdps(40):
        for mu in case.mu.tolist():
            theta = case.family.theta(wide(mu))
            assert float(theta) == pytest.approx(float(case.theta(mp.mpf(mu))), rel=1e-13, abs=1e-15)
            want = float(case.cumulant(mp.mpf(float(theta))))
            assert float(case.family.cumulant(theta)) == pytest.approx(want, rel=1e-11, abs=1e-15)


@each_case
def test_the_relative_slope_of_the_variance(case: Case) -> None:
    want = derivative(lambda mu: case.family.variance(mu), case.mu) / case.family.variance(case.mu)
    torch.testing.assert_close(case.family.variance_log_deriv(case.mu), want, rtol=1e-12, atol=0)


@each_pair
def test_score_and_information_are_derivatives_of_the_likelihood(case: Case, link: Link) -> None:
    y, mu = grid(case, link)
    eta = link.link(mu)
    mu = link(eta)
    score, observed = case.family.score_and_weight(y, eta, mu, link, True)

    def slope(e: Tensor) -> Tensor:
        return derivative(lambda at: case.family.nll(y, at, link), e)

    scale = 1e-9 * (1 + observed.abs() + score.abs() / eta.abs().clamp(min=1e-3))
    assert bool(((score + slope(eta)).abs() <= 1e-10 * (1 + slope(eta).abs() + y.abs() / mu.abs())).all())
    assert bool(((observed - derivative(slope, eta)).abs() <= scale * (1 + y.abs() / mu.abs())).all())


@each_pair
def test_expected_information_is_the_mean_of_the_observed(case: Case, link: Link) -> None:
    """The observed information is affine in y, so its mean is its value at the mean."""
    y, mu = grid(case, link)
    eta = link.link(mu)
    mu = link(eta)

    def observed(at: Tensor) -> Tensor:
        return case.family.score_and_weight(at, eta, mu, link, True)[1]

    expected = case.family.score_and_weight(y, eta, mu, link, False)[1]
    assert bool((expected > 0).all())
    torch.testing.assert_close(expected, observed(mu), rtol=1e-9, atol=0)
    middle = (observed(y) + observed(mu)) / 2
    torch.testing.assert_close(observed((y + mu) / 2), middle, rtol=1e-7, atol=1e-9)
    by_row = case.family.score_and_weight(y, eta, mu, link, torch.arange(len(y)) % 2 == 0)[1]
    torch.testing.assert_close(by_row[::2], observed(y)[::2], rtol=0, atol=0)
    torch.testing.assert_close(by_row[1::2], expected[1::2], rtol=0, atol=0)


@pytest.mark.parametrize("case", [c for c in ALL if c.family.canonical], ids=repr)
def test_under_the_canonical_link_both_informations_are_one(case: Case) -> None:
    link = case.family.canonical_link
    assert case.family.is_canonical(link)
    y, mu = grid(case, link)
    eta = link.link(mu)
    curvature = derivative(lambda e: derivative(lambda at: case.family.nll(y, at, link), e), eta)
    expected = case.family.score_and_weight(y, eta, mu, link, False)[1]
    torch.testing.assert_close(curvature, expected, rtol=1e-7, atol=1e-9)


@each_case
def test_the_canonical_link_makes_theta_linear_in_eta(case: Case) -> None:
    eta = case.family.canonical_link.link(case.mu[case.mu > 0])
    slope = derivative(lambda e: case.family.theta(case.family.canonical_link(e)), eta)
    torch.testing.assert_close(slope, slope[:1].expand_as(slope), rtol=1e-8, atol=0)


@each_pair
def test_the_loss_above_its_least_is_half_the_deviance(case: Case, link: Link) -> None:
    y, mu = grid(case, link)
    eta = link.link(mu)
    mu = link(eta)
    half = case.family.unit_deviance(y, mu) / 2
    difference = case.family.nll(y, eta, link) - case.family.nll_saturated(y)
    size = case.family.nll_saturated(y).abs() + half + 1
    assert bool(((difference - half).abs() <= 1e-10 * size * (1 + (y / mu).abs())).all())
    kernel = case.family.half_deviance(y, eta, mu, link)
    assert bool(((kernel - half).abs() <= 1e-12 * (1e-3 + half)).all())


@each_pair
def test_the_cheap_forms_are_the_exact_ones_up_to_rounding_of_their_terms(case: Case, link: Link) -> None:
    y, mu = grid(case, link)
    eta = link.link(mu)
    mu = link(eta)
    half, size = case.family.cheap(y, eta, mu, link)
    exact = case.family.half_deviance(y, eta, mu, link)
    slack = 1e-13 * (exact + 1e-3) if size is None else 1e-14 * size
    assert bool(((half - exact).abs() <= slack).all())
    least, without = case.family.cheap(y, eta, mu, link, relative=True)
    nll = case.family.nll(y, eta, link)
    assert without is None and bool(((least - nll).abs() <= 1e-13 * (1 + nll.abs() + y.abs() * (1 + eta.abs()))).all())


def exact_deviance(case: Case, y: float, mu: float) -> mpmath.mpf:
    if y == mu:
        return mp.mpf(0)
    with mp.workdps(700 if min(abs(y), mu) < 1e-50 or max(y, mu) > 1e50 else 60):
        at_y, at_mu, y, mu = mp.mpf(y), mp.mpf(mu), mp.mpf(y), mp.mpf(mu)
        if case.family.mean_upper == 1:
            parts = [(a, b) for a, b in ((y, mu), (1 - y, 1 - mu)) if a]
            return 2 * mp.fsum(a * mp.log(a / b) for a, b in parts)
        saturated = 0
        if y or case.family.mean_lower < 0:
            saturated = y * case.theta(at_y) - case.cumulant(case.theta(at_y))
        theta = case.theta(at_mu)
        return 2 * (saturated - y * theta + case.cumulant(theta))


@each_case
def test_the_deviance_is_exact_near_and_far(case: Case) -> None:
    for dtype, tolerance in ((torch.float64, 2e-13), (torch.float32, 2e-4)):
        pairs = [(y, mu) for y in case.y.to(dtype).tolist() for mu in case.mu.to(dtype).tolist()]
        for mu in case.mu.to(dtype).tolist():
            near = [mu * (1 + sign * 10.0**-k) for k in range(1, 16) for sign in (-1, 1)]
            pairs += [(y, mu) for y in torch.tensor(near, dtype=dtype).tolist() if y < case.family.mean_upper]
        y, mu = torch.tensor(pairs, dtype=dtype).T
        for got, (at_y, at_mu) in zip(case.family.unit_deviance(y, mu).tolist(), pairs, strict=True):
            want = exact_deviance(case, at_y, at_mu)
            assert (got == 0) == (at_y == at_mu) and got >= 0, (at_y, at_mu, got)
            allowed = tolerance
            if case.family.name == "negative_binomial" and at_y != at_mu:  # as far as the mean's rounding lets it
                allowed += 8 * torch.finfo(dtype).eps * float(case.family.variance(wide(at_mu))) / abs(at_y - at_mu)
            assert abs(got - want) <= allowed * abs(want), (at_y, at_mu, got, mp.nstr(want, 17))


@pytest.mark.parametrize("case", [c for c in ALL if c.family.mean_lower == 0 and c.family.mean_upper > 1], ids=repr)
@pytest.mark.parametrize(
    ("y", "mu"),
    [
        (1e-308, 1.0),
        (1e-308, 0.5),
        (1e-100, 1e10),
        (1e60, 1.0),
        (1.0, 1e-300),
        (1.0, 1e300),
        (1e300, 1e299),
        (1e-300, 1e-299),
        (1e15, 1e-15),
    ],
)
def test_the_deviance_is_exact_at_the_ends_of_the_range(case: Case, y: float, mu: float) -> None:
    want = exact_deviance(case, y, mu)
    got = float(case.family.unit_deviance(wide(y), wide(mu)))
    if abs(want) > 1e306 or abs(want) < 1e-306:
        assert not got < 1e300 or abs(want) < 1e-306  # infinite at most, never NaN
    else:
        assert abs(got - want) <= 1e-11 * want, (got, mp.nstr(want, 17))


@each_case
def test_copies_with_other_parameters_leave_the_family_as_it_was(case: Case) -> None:
    before = copy.deepcopy(case.family.state_dict())
    values = {name: torch.stack([value.detach(), value.detach() + 1]) for name, value in case.family.named_parameters()}
    other = case.family.with_parameters(values)
    assert type(other) is type(case.family)
    for name, value in case.family.named_parameters():
        assert torch.equal(value, before[name]) and torch.equal(getattr(other, name), values[name])
        assert getattr(other, name).requires_grad == value.requires_grad
    y, mu = (v.expand(2, -1) for v in grid(case))  # (B, n) rows meet (B) parameters
    deviance = other.unit_deviance(y, mu)
    torch.testing.assert_close(deviance[0], case.family.unit_deviance(y[0], mu[0]), rtol=1e-13, atol=0)


def test_a_family_is_got_by_name_or_is_itself() -> None:
    assert float(families.get("tweedie", power=1.3).power) == pytest.approx(1.3, rel=1e-15)
    assert families.get("normal").name == "gaussian"
    family = families.NegativeBinomial(0.4)
    assert families.get(family) is family
    with pytest.raises(ValueError, match="unknown family 'negbin' .here it is 'negative_binomial'.. Known: gaussian"):
        families.get("negbin")


@pytest.mark.parametrize("family", [case.family for case in ALL], ids=repr)
def test_state_and_repr_hold_the_shape(family: Family) -> None:
    twin = copy.deepcopy(family)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.fill_(0.25)
    twin.load_state_dict(family.state_dict())
    assert repr(twin) == repr(family) and all(
        torch.equal(a, b) for a, b in zip(twin.parameters(), family.parameters(), strict=True)
    )
