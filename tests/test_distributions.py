"""The laws: samples that have their moments, both tails against scipy and mpmath, quantiles back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import mpmath
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Binomial,
    Distribution,
    Exponential,
    Gamma,
    Laplace,
    Normal,
    Poisson,
)

from torchglm import distributions as laws
from torchglm.distributions import InverseGaussianMean, NegativeBinomialMean, TweedieMean

F64 = torch.float64


def tensor(*values: float, dtype: torch.dtype = F64) -> Tensor:
    return torch.tensor(values, dtype=dtype)


def scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=F64)


@pytest.fixture(autouse=True)
def seed() -> Iterator[None]:
    torch.manual_seed(0)
    with mpmath.workdps(40):
        yield


CASES: dict[str, tuple[Distribution, object]] = {
    "normal": (Normal(scalar(1.0), scalar(2.0)), stats.norm(1, 2)),
    "exponential": (Exponential(scalar(0.4)), stats.expon(scale=2.5)),
    "gamma": (Gamma(scalar(3.3), scalar(1.7)), stats.gamma(3.3, scale=1 / 1.7)),
    "gamma of small shape": (Gamma(scalar(0.2), scalar(0.1)), stats.gamma(0.2, scale=10)),
    "gamma of large shape": (Gamma(scalar(5e3), scalar(50.0)), stats.gamma(5e3, scale=1 / 50)),
    "poisson": (Poisson(scalar(4.2)), stats.poisson(4.2)),
    "large poisson": (Poisson(scalar(1.3e4)), stats.poisson(1.3e4)),
    "binomial": (Binomial(30, scalar(0.2)), stats.binom(30, 0.2)),
    "large binomial": (Binomial(10_000, scalar(0.7)), stats.binom(10_000, 0.7)),
    "bernoulli": (Bernoulli(scalar(0.3)), stats.bernoulli(0.3)),
    "negative binomial": (
        NegativeBinomialMean(scalar(6.0), scalar(0.7)),
        stats.nbinom(1 / 0.7, 1 / (1 + 0.7 * 6)),
    ),
    "dispersed": (NegativeBinomialMean(scalar(3.0), scalar(20.0)), stats.nbinom(0.05, 1 / 61)),
    "alpha zero": (NegativeBinomialMean(scalar(4.2), scalar(0.0)), stats.poisson(4.2)),
    "inverse gaussian": (InverseGaussianMean(scalar(2.0), scalar(0.3)), stats.invgauss(0.6, scale=1 / 0.3)),
    "skew inverse gaussian": (InverseGaussianMean(scalar(2.0), scalar(5.0)), stats.invgauss(10, scale=1 / 5)),
}
case = pytest.mark.parametrize("name", CASES)


def grid(reference: object) -> Tensor:
    """Values from far in the lower tail to far in the upper one."""
    p = [1e-200, 1e-60, 1e-12, 1e-3, 0.1, 0.4, 0.6, 0.9, 0.999]
    ends = [*reference.ppf(p), *reference.isf(p)]  # type: ignore[attr-defined]
    ends += [math.floor(reference.mean() + k * reference.std()) for k in (10, 40)]  # type: ignore[attr-defined]
    return torch.tensor(sorted({float(v) for v in ends if math.isfinite(v)}), dtype=F64)


@case
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # scipy's own
def test_both_tails_against_scipy(name: str) -> None:
    law, reference = CASES[name]
    value = grid(reference)
    for ours, theirs in ((laws.cdf, reference.cdf), (laws.sf, reference.sf)):  # type: ignore[attr-defined]
        expected = torch.as_tensor(theirs(value.numpy()))
        torch.testing.assert_close(ours(law, value), expected, rtol=1e-10, atol=1e-250)


@case
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # scipy's own
def test_quantiles_against_scipy(name: str) -> None:
    law, reference = CASES[name]
    p = tensor(1e-12, 1e-3, 0.1, 0.37, 0.5, 0.9, 0.999, 1 - 1e-9)  # scipy gives up beyond for counts
    for ours, theirs in ((laws.icdf, reference.ppf), (laws.isf, reference.isf)):  # type: ignore[attr-defined]
        expected = torch.as_tensor(theirs(p.numpy()))
        torch.testing.assert_close(ours(law, p), expected, rtol=1e-9, atol=1e-290)


@case
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # scipy's own
def test_quantiles_return_to_the_value(name: str) -> None:
    law, reference = CASES[name]
    value = grid(reference)
    lower, upper = laws.log_tails(law, value)
    kept = (lower > -600) & (upper > -600)
    back = laws.quantile(law, lower, upper)
    torch.testing.assert_close(back[kept], value[kept], rtol=1e-9, atol=1e-250)


@case
def test_ends_of_the_range(name: str) -> None:
    law, reference = CASES[name]
    lowest, highest = reference.support()  # type: ignore[attr-defined]
    assert laws.icdf(law, tensor(0.0, 1.0)).tolist() == [lowest, highest]
    assert laws.isf(law, tensor(1.0, 0.0)).tolist() == [lowest, highest]
    assert laws.icdf(law, tensor(-0.1, 1.1, math.nan)).isnan().all()
    assert laws.cdf(law, tensor(-math.inf, math.inf)).tolist() == [0, 1]
    assert laws.sf(law, tensor(-math.inf, math.inf)).tolist() == [1, 0]
    assert laws.cdf(law, tensor(math.nan)).isnan().all()


@pytest.mark.parametrize("make", [NegativeBinomialMean, lambda mean, phi: Poisson(mean)])
def test_quantiles_of_counts_are_the_smallest_that_reach(make: Callable[..., Distribution]) -> None:
    law = make(tensor(0.01, 1, 40, 1e5)[:, None], scalar(0.3))
    p = torch.rand(200, dtype=F64)
    k = laws.icdf(law, p)
    assert (laws.cdf(law, k) >= p).all()
    assert (laws.cdf(law, k - 1) < p).all()


# ---- the Tweedie law, for which scipy has nothing


def exact_tweedie_tails(y: float, mu: float, phi: float, p: float) -> tuple[mpmath.mpf, mpmath.mpf]:
    y, mu, phi, p = (mpmath.mpf(v) for v in (y, mu, phi, p))
    rate, alpha, scale = mu ** (2 - p) / (phi * (2 - p)), (2 - p) / (p - 1), phi * (p - 1) * mu ** (p - 1)
    weight, upper = mpmath.exp(-rate), mpmath.mpf(0)
    lower = weight
    for n in range(1, int(rate + 12 * mpmath.sqrt(rate) + 60 + 2 * y ** (2 - p) / (phi * (2 - p)))):
        weight *= rate / n
        lower += weight * mpmath.gammainc(n * alpha, 0, y / scale, regularized=True)
        upper += weight * mpmath.gammainc(n * alpha, y / scale, mpmath.inf, regularized=True)
    return lower, upper


TWEEDIE = [
    (y, 2.0, phi, p)
    for p, phi in ((1.05, 0.3), (1.3, 0.03), (1.5, 1.0), (1.8, 10.0), (1.95, 0.5))
    for y in (0.02, 1.0, 2.0, 9.0)
]


def test_tweedie_tails_are_the_exact_sums() -> None:
    columns = torch.tensor(TWEEDIE, dtype=F64).T
    lower, upper = laws.log_tails(TweedieMean(*columns[1:]), columns[0])
    for row, low, up in zip(TWEEDIE, lower.tolist(), upper.tolist(), strict=True):
        below, above = exact_tweedie_tails(*row)
        assert abs(low - mpmath.log(below)) < 1e-12, row
        assert abs(up - mpmath.log(above)) < 1e-12 * max(1, -mpmath.log(above)), row


@pytest.mark.parametrize("power", [1.02, 1.5, 1.97])
def test_tweedie_tails_meet_the_density(power: float) -> None:
    law = TweedieMean(scalar(2.0), scalar(0.02), scalar(power))
    y = torch.linspace(1.2, 3.2, 41, dtype=F64).requires_grad_()
    (slope,) = torch.autograd.grad(laws.cdf(law, y).sum(), y)
    torch.testing.assert_close(slope, law.log_prob(y.detach()).exp(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(laws.cdf(law, y) + laws.sf(law, y), torch.ones_like(y))


def test_tweedie_quantiles_return_to_the_probability() -> None:
    p = tensor(1e-20, 1e-8, 1e-3, 0.05, 0.3, 0.5, 0.9, 0.999)
    grid = torch.cartesian_prod(p, tensor(0.05, 1, 10), tensor(1.1, 1.5, 1.9))
    law = TweedieMean(scalar(2.0), grid[:, 1], grid[:, 2])
    for quantile, tail, side in ((laws.icdf, laws.cdf, 0), (laws.isf, laws.sf, 1)):
        y = quantile(law, grid[:, 0])
        torch.testing.assert_close(tail(law, y)[y > 0], grid[:, 0][y > 0], rtol=1e-10, atol=0)
        at_zero = laws.log_tails(law, torch.zeros_like(y))[side].exp()
        assert (grid[:, 0] <= at_zero)[y == 0].all() if side == 0 else (grid[:, 0] >= at_zero)[y == 0].all()
    assert laws.icdf(law, tensor(0.0)).eq(0).all()
    assert laws.isf(law, tensor(0.0)).eq(math.inf).all()


# ---- the objects


OBJECTS: list[Distribution] = [
    InverseGaussianMean(scalar(2.0), scalar(0.4)),
    InverseGaussianMean(scalar(1.0), scalar(3.0)),
    NegativeBinomialMean(scalar(3.0), scalar(0.5)),
    NegativeBinomialMean(scalar(3.0), scalar(0.0)),
    TweedieMean(scalar(2.0), scalar(1.5), scalar(1.4)),
]


@pytest.mark.parametrize("law", OBJECTS, ids=repr)
def test_samples_have_the_law(law: Distribution) -> None:
    sample = law.sample((200_000,))
    assert law.support.check(sample).all()  # type: ignore[union-attr]
    spread = law.stddev.item()
    assert sample.mean().item() == pytest.approx(law.mean.item(), abs=5 * spread / 447)
    assert sample.var().item() == pytest.approx(law.variance.item(), rel=0.1)
    at = law.icdf(tensor(0.2, 0.5, 0.9, 0.99))
    share = (sample[:, None] <= at).to(F64).mean(0)
    torch.testing.assert_close(share, law.cdf(at), rtol=0, atol=0.006)


@pytest.mark.parametrize("law", OBJECTS, ids=repr)
def test_shapes_expand_and_dtypes_stay(law: Distribution) -> None:
    wider = law.expand((4, 3))
    assert wider.batch_shape == (4, 3)
    assert wider.sample((2,)).shape == (2, 4, 3)
    value = law.sample()
    torch.testing.assert_close(wider.log_prob(value), law.log_prob(value).expand(4, 3))
    assert wider.cdf(value).shape == wider.icdf(tensor(0.5)).shape == (4, 3)
    parameters = [getattr(law, name).float() for name in law.arg_constraints]
    single = type(law)(*parameters)
    assert single.sample().dtype == single.log_prob(value.float()).dtype == torch.float32
    assert single.cdf(value.float()).dtype == torch.float32
    torch.testing.assert_close(single.log_prob(value.float()).double(), law.log_prob(value), rtol=1e-5, atol=1e-5)


def test_arguments_and_values_are_checked() -> None:
    check = {"validate_args": True}  # torch.compile turns the default off
    with pytest.raises(ValueError, match="mean"):
        InverseGaussianMean(scalar(-1.0), scalar(1.0), **check)
    with pytest.raises(ValueError, match="power"):
        TweedieMean(scalar(1.0), scalar(1.0), scalar(2.5), **check)
    with pytest.raises(ValueError, match="alpha"):
        NegativeBinomialMean(scalar(1.0), scalar(-0.1), **check)
    with pytest.raises(ValueError, match="support"):
        NegativeBinomialMean(scalar(1.0), scalar(0.1), **check).log_prob(scalar(0.5))
    with pytest.raises(ValueError, match="support"):
        TweedieMean(scalar(1.0), scalar(1.0), scalar(1.5), **check).log_prob(scalar(-1.0))
    with pytest.raises(NotImplementedError, match="Laplace"):
        laws.cdf(Laplace(0.0, 1.0), scalar(0.0))
    with pytest.raises(NotImplementedError, match="Laplace"):
        laws.icdf(Laplace(0.0, 1.0), scalar(0.5))


def test_inverse_gaussian_density_against_scipy() -> None:
    y = torch.logspace(-3, 3, 50, dtype=F64)
    for mu, phi in ((2.0, 0.3), (1.0, 40.0), (300.0, 1e-5)):
        expected = stats.invgauss(mu * phi, scale=1 / phi).logpdf(y.numpy())
        got = InverseGaussianMean(scalar(mu), scalar(phi)).log_prob(y)
        torch.testing.assert_close(got, torch.as_tensor(expected), rtol=1e-9, atol=1e-12)
    law = InverseGaussianMean(scalar(2.0), scalar(0.3))
    assert law.log_prob(law.mode) > law.log_prob(law.mode * tensor(0.999, 1.001)).max()


def test_inverse_gaussian_draws_differentiate() -> None:
    mean, dispersion = scalar(2.0).requires_grad_(), scalar(0.3).requires_grad_()
    draws = InverseGaussianMean(mean, dispersion).rsample((100_000,))
    by_mean, _ = torch.autograd.grad(draws.mean(), (mean, dispersion), retain_graph=True)
    second = torch.autograd.grad((draws**2).mean(), (mean, dispersion))
    assert by_mean.item() == pytest.approx(1, abs=0.03)
    assert second[0].item() == pytest.approx(4 + 0.9 * 4, rel=0.05)  # d (phi mu^3 + mu^2) / d mu
    assert second[1].item() == pytest.approx(8, rel=0.05)


@pytest.mark.cuda
def test_tails_and_quantiles_on_cuda() -> None:
    for law in OBJECTS:
        there = type(law)(*(getattr(law, name).cuda() for name in law.arg_constraints))
        p = tensor(1e-10, 0.3, 0.99)
        value = law.icdf(p)
        torch.testing.assert_close(there.icdf(p.cuda()).cpu(), value, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(there.cdf(value.cuda()).cpu(), law.cdf(value), rtol=1e-11, atol=0)
        safe = value.clamp(min=0.1).ceil()
        torch.testing.assert_close(there.log_prob(safe.cuda()).cpu(), law.log_prob(safe), rtol=1e-11, atol=1e-12)
        assert there.sample((5,)).is_cuda


def test_a_multiple_of_a_poisson_count_has_the_tails_of_the_count() -> None:
    law = laws.ScaledPoisson(tensor(2.1, 0.3), tensor(0.7, 0.1))
    counts = torch.arange(12, dtype=F64).unsqueeze(-1)
    rate = (law.mean / law.dispersion).numpy()
    value = counts * law.dispersion
    torch.testing.assert_close(law.cdf(value), torch.from_numpy(stats.poisson.cdf(counts.numpy(), rate)))
    torch.testing.assert_close(laws.sf(law, value), torch.from_numpy(stats.poisson.sf(counts.numpy(), rate)))
    torch.testing.assert_close(law.icdf(law.cdf(value)), value)
    torch.testing.assert_close(law.log_prob(value).exp(), torch.from_numpy(stats.poisson.pmf(counts.numpy(), rate)))
    draws = law.sample((20_000,))
    torch.testing.assert_close(draws.mean(0), law.mean, rtol=0.03, atol=0.0)
    torch.testing.assert_close(draws.var(0), law.variance, rtol=0.05, atol=0.0)
    assert law.expand((3, 2)).mean.shape == (3, 2)
