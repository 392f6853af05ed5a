"""The Tweedie density: laws, limits and derivatives, then the exact series summed with forty digits."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import mpmath
import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from torchglm import special
from torchglm.special import tweedie

F64 = torch.float64


@pytest.fixture(autouse=True)
def many_digits() -> Iterator[None]:
    with mpmath.workdps(40):
        yield


def tensor(*values: float, dtype: torch.dtype = F64) -> Tensor:
    return torch.tensor(values, dtype=dtype)


def exact(y: float, mu: float, phi: float, p: float) -> mpmath.mpf:
    """Poisson sum of Gamma densities, every term that counts."""
    y, mu, phi, p = (mpmath.mpf(v) for v in (y, mu, phi, p))
    rate, shape, scale = mu ** (2 - p) / (phi * (2 - p)), (2 - p) / (p - 1), phi * (p - 1) * mu ** (p - 1)
    if y == 0:
        return -rate
    log_z = mpmath.log(rate) + shape * mpmath.log(y / scale)
    middle = max(1, int(y ** (2 - p) / (phi * (2 - p))))

    def log_term(n: int) -> mpmath.mpf:
        return n * log_z - mpmath.loggamma(n + 1) - mpmath.loggamma(n * shape)

    top, total = log_term(middle), mpmath.mpf(0)
    for numbers in (itertools.count(middle), range(middle - 1, 0, -1)):
        for n in numbers:
            term = mpmath.exp(log_term(n) - top)
            total += term
            if term < mpmath.mpf(10) ** -25 and abs(n - middle) > 4:
                break
    return -rate - y / scale - mpmath.log(y) + top + mpmath.log(total)


GRID = [
    (y, 0.7 * y + 0.2, phi, p)
    for p in (1.01, 1.1, 1.5, 1.9, 1.99)
    for phi in (1e-3, 0.1, 2.0, 100.0)
    for y in (0.0, 1e-6, 0.3, 3.0, 400.0)
    if y ** (2 - p) / (phi * (2 - p)) < 2e4
]


@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-13), (torch.float32, 5e-6)])
def test_tweedie_log_prob_is_the_exact_series(dtype: torch.dtype, tolerance: float) -> None:
    got = special.tweedie_log_prob(*tensor(*itertools.chain(*GRID), dtype=dtype).reshape(-1, 4).T)
    assert got.dtype == dtype
    for row, value in zip(GRID, got.tolist(), strict=True):
        expected = exact(*row)
        assert abs(value - expected) < tolerance * max(1, abs(expected)), row


def test_a_coarser_lattice_gives_the_same_sum() -> None:
    m, p = (
        v.flatten()
        for v in torch.meshgrid(torch.logspace(0.5, 4, 40, dtype=F64), tensor(1.02, 1.4, 1.97), indexing="ij")
    )
    alpha = (2 - p) / (p - 1)
    n = torch.arange(1, 14_000, dtype=F64)
    terms = -(1 + alpha[:, None]) * special.kl_div(n, m[:, None]) - special.stirling_remainder(n)
    every = torch.logsumexp(terms - special.stirling_remainder(n * alpha[:, None]), -1)
    assert (tweedie._lattice(m, alpha)[1] > 1).sum() > 60
    assert tweedie._lattice(m, alpha)[2].max() <= tweedie._MOST_TERMS
    torch.testing.assert_close(tweedie._series(m, alpha, tweedie._MOST_TERMS, 0)[0], every, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("mu", "phi", "power"), [(1.0, 1.0, 1.5), (3.0, 0.3, 1.2), (0.4, 5.0, 1.8)])
def test_tweedie_probability_mean_and_variance(mu: float, phi: float, power: float) -> None:
    def density(y: float) -> float:
        return special.tweedie_log_prob(tensor(y), tensor(mu), tensor(phi), power).exp().item()

    zero = density(0.0)
    assert zero == pytest.approx(math.exp(-(mu ** (2 - power)) / (phi * (2 - power))))
    z, w = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(2000))
    log_y = z * 70 - 60  # the density of log y decays exponentially on both sides
    mass = special.tweedie_log_prob(log_y.exp(), tensor(mu), tensor(phi), power).exp() * log_y.exp() * w * 70
    moments = [(mass * log_y.exp() ** k).sum().item() for k in range(3)]
    assert zero + moments[0] == pytest.approx(1, abs=2e-7)
    assert moments[1] == pytest.approx(mu, rel=1e-9)
    assert moments[2] - mu**2 == pytest.approx(phi * mu**power, rel=1e-9)


def test_tweedie_score_in_the_mean() -> None:
    y = tensor(0, 0.1, 2.0, 2.0000001, 50)
    mu = torch.full_like(y, 2).requires_grad_()
    (score,) = torch.autograd.grad(special.tweedie_log_prob(y, mu, tensor(0.7), 1.6).sum(), mu)
    torch.testing.assert_close(score, (y - 2) / (0.7 * 2**1.6), rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize(("phi", "power"), [(0.7, 1.5), (0.7, 1.05), (2.0, 1.95), (0.02, 1.3)])
def test_tweedie_derivatives_in_mean_dispersion_and_power(phi: float, power: float) -> None:
    y, mu = tensor(0, 0.3, 2, 50), tensor(1, 0.5, 2, 40)

    def log_prob(theta: Tensor) -> Tensor:
        return special.tweedie_log_prob(y, mu * theta[0].exp(), theta[1].exp(), theta[2]).sum()

    def closed(a: mpmath.mpf, b: mpmath.mpf, c: mpmath.mpf) -> mpmath.mpf:
        return sum(exact(u, m * mpmath.exp(a), mpmath.exp(b), c) for u, m in zip(y.tolist(), mu.tolist(), strict=True))

    at = tensor(0.0, math.log(phi), power)
    gradient, hessian = torch.func.grad(log_prob)(at), torch.func.hessian(log_prob)(at)
    for i in range(3):
        orders = [int(i == k) for k in range(3)]
        assert gradient[i].item() == pytest.approx(float(mpmath.diff(closed, at.tolist(), tuple(orders))), rel=1e-10)
        orders[2] += 1
        assert hessian[i, 2].item() == pytest.approx(float(mpmath.diff(closed, at.tolist(), tuple(orders))), rel=1e-8)
    torch.testing.assert_close(torch.autograd.functional.hessian(log_prob, at), hessian)
    tangent = torch.func.jvp(log_prob, (at,), (torch.ones_like(at),))[1]
    torch.testing.assert_close(tangent, gradient.sum())


@pytest.mark.parametrize("power", [1.05, 1.5, 1.9])
def test_third_derivatives_where_asked_for(power: float) -> None:
    y = torch.tensor([0.0, 0.2, 1.5, 7.0, 300.0], dtype=torch.float64)
    mu, phi = (torch.tensor(values, dtype=torch.float64) for values in ([0.5, 1, 1.2, 4, 200], [0.3, 0.7, 1, 2, 0.1]))
    held = tuple(value.requires_grad_() for value in (mu, phi, torch.full_like(mu, power)))

    def bends(*at: torch.Tensor) -> torch.Tensor:
        slopes = torch.autograd.grad(special.tweedie_log_prob(y, *at, thrice=True).sum(), at, create_graph=True)
        return torch.stack(
            [torch.autograd.grad(slope.sum(), at, create_graph=True)[k] for k in range(3) for slope in slopes]
        )

    assert torch.autograd.gradcheck(bends, held, rtol=1e-5, atol=1e-6, fast_mode=True)


def test_tweedie_under_vmap_and_compile() -> None:
    y, mu, phi = tensor(0, 0.3, 2, 50), tensor(1, 0.5, 2, 40), tensor(0.7)
    eager = special.tweedie_log_prob(y, mu, phi, 1.5)
    mapped = torch.func.vmap(lambda a, b: special.tweedie_log_prob(a, b, phi[0], 1.5))(y, mu)
    torch.testing.assert_close(mapped, eager)
    compiled = torch.compile(special.tweedie_log_prob, fullgraph=True, backend="eager")(y, mu, phi, 1.5)
    torch.testing.assert_close(compiled, eager)


def test_tweedie_meets_gamma_and_poisson() -> None:
    y, mu, phi = tensor(0.01, 0.5, 2, 9), tensor(2.0), 0.6
    gamma = torch.from_numpy(stats.gamma.logpdf(y.numpy(), 1 / phi, scale=2.0 * phi))
    torch.testing.assert_close(special.tweedie_log_prob(y, mu, tensor(phi), 2 - 1e-9), gamma, rtol=0, atol=1e-7)
    n, power = tensor(1, 2, 5, 12), 1 + 1e-7  # near power 1 each count n becomes a narrow peak at phi n
    width = torch.sqrt(2 * math.pi * n * (power - 1))
    probability = special.tweedie_log_prob(phi * n, mu, tensor(phi), power) + torch.log(width * phi)
    torch.testing.assert_close(probability, special.poisson_log_prob(n, mu / phi), rtol=0, atol=1e-5)


def test_tweedie_rows_do_not_depend_on_their_neighbours() -> None:
    y = torch.rand(5000, dtype=F64) * 10 * (torch.rand(5000) > 0.5)
    whole = special.tweedie_log_prob(y, tensor(3.0), tensor(0.5), 1.7)
    torch.testing.assert_close(whole[::500], special.tweedie_log_prob(y[::500], tensor(3.0), tensor(0.5), 1.7))
    assert special.tweedie_log_prob(torch.zeros(3), tensor(3.0), tensor(0.5), 1.7).shape == (3,)
    assert special.tweedie_log_prob(torch.zeros(2, 0), tensor(3.0), tensor(0.5), 1.7).shape == (2, 0)


@pytest.mark.parametrize("power", [1.0, 1.0001, 1.5, 2.0, 2.5, 3.0])
def test_tweedie_unit_deviance(power: float) -> None:
    p, mu = mpmath.mpf(power), mpmath.mpf(2)
    for y in (1e-3, 0.3, 1.99, 2 * (1 + 1e-9), 3.0, 1e4):
        value = mpmath.mpf(y)
        expected = 2 * mpmath.quad(lambda t, v=value: (v - t) / t**p, mpmath.linspace(mu, value, 30))
        got = special.tweedie_unit_deviance(tensor(y), tensor(2.0), power).item()
        assert got == pytest.approx(float(expected), rel=1e-12)
    assert special.tweedie_unit_deviance(tensor(2.0), tensor(2.0), power).item() == 0
    zero = special.tweedie_unit_deviance(tensor(0.0), tensor(2.0), power).item()
    assert zero == (pytest.approx(2 * 2 ** (2 - power) / (2 - power)) if power < 2 else math.inf)


def rows_of_one_power(dtype: torch.dtype, n: int = 6000) -> tuple[Tensor, Tensor]:
    """Responses of very different sizes, zeros among them, and logarithms of means."""
    generator = torch.Generator().manual_seed(3)
    y = torch.exp(2 * torch.randn(n, generator=generator, dtype=F64)) * (torch.rand(n, generator=generator) > 0.3)
    return y.to(dtype), torch.randn(n, generator=generator, dtype=F64).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("power", [1.15, 1.3, 1.5, 1.8, 1.95])
@pytest.mark.parametrize("phi", [0.02, 1.3, 30.0])
def test_many_rows_of_one_power_have_the_density_and_slopes_of_each(
    power: float, phi: float, dtype: torch.dtype
) -> None:
    y, eta = rows_of_one_power(dtype)
    log_phi, logit = tensor(math.log(phi)).squeeze(), tensor(power - 1).logit().squeeze()
    found = special.tweedie_with_slopes(y, eta, log_phi, logit)
    if found is None:  # sums of narrow laws that stand apart want as many nodes as there are rows
        assert power < 1.2 and phi < 0.1 or dtype == torch.float64 and power < 1.4
        return
    beside_formulas(found, y, eta, log_phi, logit)


def beside_formulas(found: tuple[Tensor, ...], y: Tensor, eta: Tensor, log_phi: Tensor, logit: Tensor) -> None:
    moved = [part.double().expand(len(y)).clone().requires_grad_() for part in (eta, log_phi, logit)]
    want = -special.tweedie_log_prob(y.double(), moved[0].exp(), moved[1].exp(), 1 + moved[2].sigmoid())
    slopes = torch.autograd.grad(want.sum(), moved)
    for mine, theirs in zip(found, (want.detach(), *slopes), strict=True):
        assert mine.dtype == eta.dtype
        apart = (mine.double() - theirs).abs() / (1 + theirs.abs())
        assert float(apart.max()) < (3e-10 if eta.dtype == torch.float64 else 3e-6)


@pytest.mark.parametrize("spread", [0.0, 0.05, 0.1])
@pytest.mark.parametrize("power", [1.45, 1.6, 1.9])
def test_many_rows_of_several_powers_do_as_well(power: float, spread: float) -> None:
    """And those of one power whose dispersions differ."""
    y, eta = rows_of_one_power(torch.float32, 8000)
    log_phi = 0.3 * torch.randn(len(y), generator=torch.Generator().manual_seed(1))
    logit = tensor(power - 1).logit() + spread * torch.randn(len(y), generator=torch.Generator().manual_seed(2))
    for one in (logit.float(), logit[0]):
        found = special.tweedie_with_slopes(y, eta, log_phi, one)
        assert found is not None
        beside_formulas(found, y, eta, log_phi, one)


def test_few_rows_and_bad_ones_have_no_nodes() -> None:
    y, eta = rows_of_one_power(F64)
    log_phi, p = torch.zeros((), dtype=F64), torch.zeros((), dtype=F64)
    assert special.tweedie_with_slopes(y, eta, log_phi, p) is not None
    for bad in (math.inf, math.nan):
        assert special.tweedie_with_slopes(torch.cat([y[:-1], tensor(bad)]), eta, log_phi, p) is None
    assert special.tweedie_with_slopes(torch.zeros_like(y), eta, log_phi, p) is None
    assert special.tweedie_with_slopes(y[:16], eta[:16], log_phi, p) is None
    for one in (p, torch.zeros_like(y)):
        same = special.tweedie_with_slopes(torch.full_like(y, 2.0), eta, log_phi, one)
        assert same is not None and bool(torch.isfinite(torch.stack(same)).all())
