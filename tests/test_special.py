"""The special functions: laws first (limits, derivatives, sums), then numbers from mpmath and scipy."""

from __future__ import annotations

import math
from collections.abc import Iterator

import mpmath
import pytest
import torch
from scipy import stats
from torch import Tensor

from torchglm import special
from torchglm.special.mixtures import mixture_sf

F64 = torch.float64


@pytest.fixture(autouse=True)
def many_digits() -> Iterator[None]:
    with mpmath.workdps(70):
        yield


def tensor(*values: float, dtype: torch.dtype = F64) -> Tensor:
    return torch.tensor(values, dtype=dtype)


def relative_error(got: Tensor, exact: list) -> float:
    """Largest relative error of a tensor against mpmath numbers."""
    pairs = zip(got.flatten().tolist(), exact, strict=True)
    return max(float(abs(mpmath.mpf(g) - e) / max(abs(e), mpmath.mpf(10) ** -300)) for g, e in pairs)


# ---- elementary


@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 2e-15), (torch.float32, 1e-6)])
def test_log1pmx_keeps_every_digit(dtype: torch.dtype, tolerance: float) -> None:
    u = torch.cat([torch.logspace(-18, 6, 150, dtype=dtype), -torch.logspace(-18, -1e-3, 150, dtype=dtype)])
    exact = [mpmath.log(1 + mpmath.mpf(v)) - mpmath.mpf(v) for v in u.tolist()]
    assert relative_error(special.log1pmx(u), exact) < tolerance
    assert special.log1pmx(torch.zeros(1)).item() == 0


def test_log1pmx_has_the_derivatives_of_its_formula() -> None:
    u = tensor(-0.9, -0.18, -0.17, -1e-3, 0.0, 1e-9, 0.22, 0.23, 5.0).requires_grad_()
    (first,) = torch.autograd.grad(special.log1pmx(u).sum(), u, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), u)
    torch.testing.assert_close(first, -u / (1 + u), rtol=1e-12, atol=0)
    torch.testing.assert_close(second, -1 / (1 + u) ** 2, rtol=1e-9, atol=0)
    tangent = torch.func.jvp(special.log1pmx, (u.detach(),), (torch.ones_like(u),))[1]
    torch.testing.assert_close(tangent, first.detach())
    torch.testing.assert_close(torch.func.vmap(special.log1pmx)(u.detach()), special.log1pmx(u.detach()))


@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-14), (torch.float32, 6e-6)])
def test_kl_div_keeps_every_digit(dtype: torch.dtype, tolerance: float) -> None:
    x = torch.logspace(-6, 6, 13, dtype=dtype)[:, None]
    more, less = torch.logspace(-3, 6, 20, dtype=dtype), torch.logspace(-3, -0.01, 20, dtype=dtype)
    y = x * torch.cat([1 + more, 1 - less])
    pairs = zip(x.expand_as(y).flatten().tolist(), y.flatten().tolist(), strict=True)
    exact = [mpmath.mpf(a) * mpmath.log(mpmath.mpf(a) / b) - a + b for a, b in pairs]
    assert relative_error(special.kl_div(x, y), exact) < tolerance
    assert special.kl_div(tensor(0.0), tensor(3.0)).item() == 3


def test_kl_div_is_zero_only_at_equality_and_differentiates() -> None:
    y = torch.linspace(0.5, 2, 51, dtype=F64)
    assert (special.kl_div(y, y) == 0).all()
    assert (special.kl_div(y, y * (1 + 1e-9)) > 0).all()
    x, m = tensor(0.0, 1.0, 5.0, 5.0), tensor(2.0, 1.0, 5.1, 500.0).requires_grad_()
    (grad,) = torch.autograd.grad(special.kl_div(x, m).sum(), m)
    torch.testing.assert_close(grad, 1 - x / m.detach(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-14), (torch.float32, 4e-6)])
def test_stirling_remainders(dtype: torch.dtype, tolerance: float) -> None:
    x = torch.logspace(-4, 6, 60, dtype=dtype)
    for value, log in zip(x.tolist(), special.stirling_remainder(x).tolist(), strict=True):
        v = mpmath.mpf(value)
        exact = mpmath.loggamma(v) - ((v - 0.5) * mpmath.log(v) - v + mpmath.log(2 * mpmath.pi) / 2)
        assert abs(log - exact) < tolerance
    for value, log in zip(x.tolist(), special.log_factorial_remainder(x).tolist(), strict=True):
        v = mpmath.mpf(value)
        assert abs(log - (mpmath.loggamma(v + 1) - v * mpmath.log(v) + v)) < tolerance
    assert special.stirling_remainder(tensor(math.inf)).item() == 0
    assert special.log_factorial_remainder(tensor(0.0)).item() == 0


# ---- counts


def exact_negative_binomial(y: float, mu: float, alpha: float) -> mpmath.mpf:
    y, mu, alpha = mpmath.mpf(y), mpmath.mpf(mu), mpmath.mpf(alpha)
    if alpha == 0:
        return y * mpmath.log(mu) - mu - mpmath.loggamma(y + 1)
    r = 1 / alpha
    log_choose = mpmath.loggamma(y + r) - mpmath.loggamma(r) - mpmath.loggamma(y + 1)
    return log_choose + r * mpmath.log(r / (r + mu)) + y * mpmath.log(mu / (r + mu))


@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-13), (torch.float32, 4e-6)])
def test_negative_binomial_is_exact_for_every_alpha(dtype: torch.dtype, tolerance: float) -> None:
    y = tensor(0, 1, 5, 10, 11, 1000, 1e6, dtype=dtype)
    mu = tensor(1e-6, 0.5, 5, 900, 1.01e6, dtype=dtype)
    alpha = tensor(0, 1e-30, 1e-8, 1e-4, 0.1, 0.11, 1, 1e3, 1e6, dtype=dtype)
    grid = torch.cartesian_prod(y, mu, alpha)
    got = special.negative_binomial_log_prob(*grid.T)
    exact = [exact_negative_binomial(*row) for row in grid.tolist()]
    for row, g, e in zip(grid.tolist(), got.tolist(), exact, strict=True):
        assert abs(g - e) <= tolerance * max(1, abs(e)), row
    poisson = special.poisson_log_prob(grid[:, 0], grid[:, 1])
    at_zero = special.negative_binomial_log_prob(grid[:, 0], grid[:, 1], torch.zeros_like(poisson))
    torch.testing.assert_close(poisson, at_zero, rtol=tolerance, atol=tolerance)


def test_negative_binomial_in_float32_at_size_1e8() -> None:
    y, mu, alpha = (tensor(v, dtype=torch.float32) for v in (3.0, 3.0, 1e-8))
    assert special.negative_binomial_log_prob(y, mu, alpha).item() == pytest.approx(-1.4959227, abs=2e-7)


@pytest.mark.parametrize("alpha", [0.0, 1e-6, 0.3, 4.0, 100.0])
def test_count_probabilities_sum_to_one(alpha: float) -> None:
    y = torch.arange(200_000, dtype=F64)
    total = special.negative_binomial_log_prob(y, tensor(3.0), tensor(alpha)).exp().sum().item()
    assert total == pytest.approx(1, abs=1e-12)
    n = torch.arange(41, dtype=F64)
    total = special.binomial_log_prob(n, tensor(40.0), tensor(0.3)).exp().sum().item()
    assert total == pytest.approx(1, abs=1e-13)


@pytest.mark.parametrize("dtype", [F64, torch.float32])
@pytest.mark.parametrize("alpha", [0.0, 1e-30, 1e-10, 1e-3, 1.0, 1e4])
def test_negative_binomial_derivatives_are_finite_and_right(alpha: float, dtype: torch.dtype) -> None:
    y = tensor(0, 2, 5, 7, 100, dtype=dtype)
    mu = torch.full_like(y, 5).requires_grad_()
    a = torch.full_like(y, alpha).requires_grad_()
    value = special.negative_binomial_log_prob(y, mu, a).sum()
    score_mu, score_alpha = torch.autograd.grad(value, (mu, a), create_graph=True)
    (curvature,) = torch.autograd.grad(score_alpha.sum(), a)
    tol = 1e-9 if dtype == F64 else 2e-4
    m = mu.detach()
    torch.testing.assert_close(score_mu.detach(), (y - m) / (m + alpha * m**2), rtol=tol, atol=tol)
    if alpha < 1e-20:
        torch.testing.assert_close(score_alpha.detach(), ((y - m) ** 2 - y) / 2, rtol=tol, atol=tol)
    assert torch.isfinite(curvature).all()


def test_negative_binomial_derivatives_in_log_alpha() -> None:
    y, mu = tensor(0, 1, 4, 30), tensor(3.0, 3.0, 3.0, 20.0)

    def log_prob(log_alpha: Tensor) -> Tensor:
        return special.negative_binomial_log_prob(y, mu, log_alpha.exp()).sum()

    for log_alpha in (-60.0, -20.0, -1.0, 0.0, 3.0):
        theta = tensor(log_alpha)[0]
        first, second = torch.func.grad(log_prob)(theta), torch.func.hessian(log_prob)(theta)
        exact = lambda t: sum(  # noqa: E731
            exact_negative_binomial(a, b, mpmath.exp(t)) for a, b in zip(y.tolist(), mu.tolist(), strict=True)
        )
        assert first.item() == pytest.approx(float(mpmath.diff(exact, log_alpha)), rel=1e-9, abs=1e-15)
        assert second.item() == pytest.approx(float(mpmath.diff(exact, log_alpha, 2)), rel=1e-7, abs=1e-15)


def test_count_probabilities_against_scipy() -> None:
    y = torch.arange(30, dtype=F64)
    torch.testing.assert_close(
        special.binomial_log_prob(y, tensor(29.0), tensor(0.2)),
        torch.from_numpy(stats.binom.logpmf(y.numpy(), 29, 0.2)),
        rtol=1e-12,
        atol=1e-12,
    )
    torch.testing.assert_close(
        special.poisson_log_prob(y, tensor(4.0)),
        torch.from_numpy(stats.poisson.logpmf(y.numpy(), 4.0)),
        rtol=1e-12,
        atol=0,
    )


# ---- incomplete gamma and beta ratios


def test_log_gammainc_against_mpmath() -> None:
    shapes = [1e-3, 0.01, 0.5, 0.99, 1.0, 1.5, 5.0, 25.0, 100.0, 300.0]
    pairs = [(a, a * f) for a in shapes for f in (1e-6, 0.1, 0.8, 1.0, 1.05, 1.8, 10.0)]
    pairs += [(a, x) for a in shapes[:6] for x in (0.1, 0.99, 1.01, 20.0)]
    lower, upper = special.log_gammainc(*tensor(*pairs).T)
    for (a, x), low, up in zip(pairs, lower.tolist(), upper.tolist(), strict=True):
        for got, ends in ((low, (0, x)), (up, (x, mpmath.inf))):
            exact = mpmath.log(mpmath.gammainc(a, *ends, regularized=True))
            assert abs(got - exact) < 2e-12 * max(1, abs(exact) / 1000), (a, x)


# I_x(a, b) on the smaller side, by mpmath quadrature in logit x with 50 digits.
BETA = [
    (1.5, 2.5, 0.01, 0, 0.0033648023419159994),
    (10.0, 1000000000.0, 1.01e-08, 1, 0.44548289910935956),
    (1000000000.0, 3.0, 0.999999998, 1, 0.32332359963991553),
    (0.001, 5.0, 0.0001, 0, 0.99289722675491868),
    (5.0, 0.002, 0.9999, 1, 0.98584350254324244),
    (0.5, 0.5, 0.3, 0, 0.36901011956554538),
    (3000.0, 4000.0, 0.3, 0, 1.2629431107225755e-114),
    (1000000.0, 1000000.0, 0.501, 1, 0.0023388494069315048),
    (0.5, 500.0, 0.02, 1, 7.002235789727154e-6),
]


def test_log_betainc_against_mpmath() -> None:
    for a, b, x, side, exact in BETA:
        got = special.log_betainc(tensor(a), tensor(b), tensor(x))[side].item()
        assert got == pytest.approx(math.log(exact), abs=1e-12 * max(1, -math.log(exact))), (a, b, x)


def test_incomplete_ratios_are_complementary_symmetric_and_bounded() -> None:
    grid = tensor(0.01, 0.5, 1, 7, 1e4), tensor(0.02, 0.5, 1, 9, 3e4), tensor(0, 1e-9, 0.3, 0.5, 0.9, 1)
    a, b, x = torch.cartesian_prod(*grid).T
    lower, upper = (t.exp() for t in special.log_betainc(a, b, x))
    torch.testing.assert_close(lower + upper, torch.ones_like(a), rtol=0, atol=1e-14)
    mirrored = special.log_betainc(b, a, 1 - x, x)
    torch.testing.assert_close(mirrored[1].exp(), lower, rtol=1e-11, atol=0)
    lower, upper = (t.exp() for t in special.log_gammainc(a, b))
    torch.testing.assert_close(lower + upper, torch.ones_like(a), rtol=0, atol=1e-14)
    assert special.gammainc(tensor(2.0), tensor(0.0)).item() == 0
    assert special.gammainc(tensor(2.0), tensor(math.inf)).item() == 1
    assert special.gammainc(tensor(2.0), tensor(math.nan)).isnan().all()


def test_incomplete_ratios_differentiate_in_every_argument() -> None:
    a, b = tensor(3.3, 0.4).requires_grad_(), tensor(1.2, 20.0).requires_grad_()
    for x in (0.02, 0.5, 0.97):
        v = tensor(x, x).requires_grad_()
        assert torch.autograd.gradcheck(special.betainc, (a, b, v))
        assert torch.autograd.gradcheck(special.gammaincc, (a, 5 * v))
        assert torch.autograd.gradcheck(special.student_t_sf, (v - 0.3, a))


# ---- tails and quantiles


def assert_near(got: Tensor, expected: object, rtol: float) -> None:
    torch.testing.assert_close(got, torch.as_tensor(expected), rtol=rtol, atol=1e-300)


def test_survival_functions_against_scipy_far_into_the_tail() -> None:
    x = tensor(-30, -5, -1, 0, 0.5, 1.96, 5, 8.5, 20, 37)
    assert_near(special.normal_sf(x), stats.norm.sf(x.numpy()), 1e-12)
    t, df = (v.flatten() for v in torch.meshgrid(x, tensor(1, 2, 3, 7.5, 30, 1e3, 1e7), indexing="ij"))
    assert_near(special.student_t_sf(t, df), stats.t.sf(t.numpy(), df.numpy()), 5e-13)
    assert_near(special.chi2_sf(t.abs() * 10, df), stats.chi2.sf(t.abs().numpy() * 10, df.numpy()), 2e-12)
    # scipy's F tail is itself only good to 1e-11 here
    assert_near(special.f_sf(t.abs(), tensor(3.0), df), stats.f.sf(t.abs().numpy(), 3, df.numpy()), 2e-11)


@pytest.mark.parametrize("df", [1.0, 2.5, 7.0, 400.0])
def test_tails_of_mixtures_of_chi_squared_are_exact_far_out(df: float) -> None:
    near, far = (torch.tensor([1.0, v], dtype=torch.float64) for v in (3.7, -0.3))
    for size in (1e-9, 0.1, 3.0, 40.0, 900.0):
        q = torch.tensor(size, dtype=torch.float64)
        own = torch.tensor([df - 0.5, 0.5], dtype=torch.float64)  # of one law, in parts
        assert mixture_sf(2.5 * size, torch.full_like(own, 2.5), own) == pytest.approx(
            float(special.chi2_sf(q, df)), rel=1e-11, abs=1e-300
        )
        ratio = torch.tensor([1.0, -size * df / 9], dtype=torch.float64)
        both = torch.tensor([df, 9.0], dtype=torch.float64)
        assert mixture_sf(0.0, ratio, both) == pytest.approx(float(special.f_sf(q, df, 9.0)), rel=1e-11)
        a, b = near.tolist()  # two exponential variables, of means 2 a and 2 b
        exact = (a * math.exp(-size / (2 * a)) - b * math.exp(-size / (2 * b))) / (a - b)
        assert mixture_sf(size, near, torch.full_like(near, 2.0)) == pytest.approx(exact, rel=1e-11)
    exact = 1 / (1 - far.tolist()[1])  # that one exponential variable is the larger
    assert mixture_sf(0.0, far, torch.full_like(far, 2.0)) == pytest.approx(exact, rel=1e-12)
    assert mixture_sf(0.0, near, near) == 1.0 and mixture_sf(1.0, -near, near) == 0.0


def test_survival_functions_meet_their_limits() -> None:
    x = tensor(0.0, 0.5, 2.0, 30.0)
    infinite = math.inf
    assert_near(special.student_t_sf(x, infinite), special.normal_sf(x), 0)
    assert_near(special.student_t_sf(x, 1e14), special.normal_sf(x), 1e-8)
    assert_near(special.f_sf(x, 3.0, infinite), special.chi2_sf(3 * x, 3.0), 0)
    assert_near(special.f_sf(x**2, 1.0, 7.0), 2 * special.student_t_sf(x, 7.0), 1e-13)
    assert_near(special.chi2_sf(x**2, 1.0), 2 * special.normal_sf(x), 1e-12)
    assert special.student_t_sf(x.float(), 7.0).dtype == torch.float32


PROBABILITIES = tensor(1e-100, 1e-20, 1e-8, 0.001, 0.025, 0.3, 0.49, 0.6, 0.975, 1 - 1e-10)


def test_quantiles_invert_their_tails() -> None:
    p, df = (v.flatten() for v in torch.meshgrid(PROBABILITIES, tensor(1, 2, 3, 9.5, 100, 1e5), indexing="ij"))
    assert_near(special.student_t_sf(-special.student_t_icdf(p, df), df), p, 1e-12)
    for shape in (0.05, 1.0, 400.0):
        x = special.gamma_quantile(tensor(shape), torch.log(p), torch.log1p(-p))
        low, up = special.log_gammainc(tensor(shape), x)
        error = torch.where(p < 0.5, low - torch.log(p), up - torch.log1p(-p)).abs()
        assert error[x > 1e-300].max() < 2e-12
        x, y = special.beta_quantile(tensor(shape), tensor(3.0), torch.log(p), torch.log1p(-p))
        low, up = special.log_betainc(tensor(shape), tensor(3.0), x, y)
        error = torch.where(p < 0.5, low - torch.log(p), up - torch.log1p(-p)).abs()
        assert error[x > 1e-300].max() < 2e-12


def test_quantiles_against_scipy() -> None:
    p, df = (v.flatten() for v in torch.meshgrid(PROBABILITIES[2:], tensor(1, 2, 9.5, 1e3), indexing="ij"))
    assert_near(special.normal_icdf(PROBABILITIES), stats.norm.ppf(PROBABILITIES.numpy()), 1e-13)
    assert_near(special.student_t_icdf(p, df), stats.t.ppf(p.numpy(), df.numpy()), 1e-10)
    assert_near(special.chi2_icdf(p, df), stats.chi2.ppf(p.numpy(), df.numpy()), 1e-10)
    assert_near(special.f_icdf(p, tensor(4.0), df), stats.f.ppf(p.numpy(), 4, df.numpy()), 1e-10)
    assert_near(special.f_icdf(p, 4.0, math.inf), special.chi2_icdf(p, 4.0) / 4, 1e-13)


def test_quantiles_at_the_ends_and_outside() -> None:
    p = tensor(0.0, 0.5, 1.0)
    assert_near(special.student_t_icdf(p, 5.0), tensor(-math.inf, 0, math.inf), 0)
    assert special.student_t_icdf(tensor(1.5, -0.1, math.nan), 5.0).isnan().all()
    assert special.chi2_icdf(p, 5.0)[[0, 2]].tolist() == [0, math.inf]
    assert special.chi2_icdf(tensor(1.5), 5.0).isnan().all()


def test_survival_functions_compile() -> None:
    t = tensor(0.3, -2.0)
    compiled = torch.compile(special.student_t_sf, fullgraph=True, backend="eager")
    assert_near(compiled(t, 5.0), special.student_t_sf(t, 5.0), 1e-14)
    mapped = torch.func.vmap(special.student_t_sf, (0, None))(t, torch.tensor(5.0, dtype=F64))
    assert_near(mapped, special.student_t_sf(t, 5.0), 1e-14)


def test_no_degrees_of_freedom_have_no_tail() -> None:
    for df in (0.0, -1.0, math.nan):
        assert special.student_t_sf(tensor(0.0, 2.0), df).isnan().all()
        assert special.chi2_sf(tensor(0.0, 2.0), df).isnan().all()
        assert special.f_sf(tensor(0.0, 2.0), 2.0, df).isnan().all()
        assert special.student_t_icdf(tensor(0.1, 0.975), df).isnan().all()
        assert special.chi2_icdf(tensor(0.1, 0.975), df).isnan().all()


def test_quantiles_differentiate() -> None:
    p, df = tensor(0.2, 0.97).requires_grad_(), tensor(3.3, 12.0).requires_grad_()
    assert torch.autograd.gradcheck(special.student_t_icdf, (p, df))
    assert torch.autograd.gradcheck(special.chi2_icdf, (p, df))
    assert torch.autograd.gradcheck(special.f_icdf, (p, tensor(4.0), df))


def test_large_batches_are_chunked_without_changing_a_value() -> None:
    t = torch.linspace(-5, 5, 40_000, dtype=F64).reshape(4, -1)
    whole = special.student_t_sf(t, 4.0)
    assert_near(whole[:, ::4000], special.student_t_sf(t[:, ::4000], 4.0), 0)
