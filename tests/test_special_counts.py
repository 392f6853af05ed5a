"""Laws of the derivatives that the search for a negative binomial alpha takes."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch

from torchglm import special
from torchglm.fitting.shape import climb


def _log_prob(y: torch.Tensor, mu: torch.Tensor, log_alpha: torch.Tensor) -> torch.Tensor:
    return special.negative_binomial_log_prob(y, mu, log_alpha.exp())


@pytest.mark.parametrize("log_alpha", [-30.0, -16.0, -12.0, -6.0, -1.0, 0.0, 2.0, 6.0])
def test_slopes_are_derivatives_of_the_log_probability(log_alpha: float) -> None:
    y, mu = torch.meshgrid(
        torch.tensor([0.0, 1.0, 2.0, 3.5, 17.0, 400.0], dtype=torch.float64),
        torch.tensor([1e-3, 0.7, 5.0, 90.0], dtype=torch.float64),
        indexing="ij",
    )
    at = torch.full_like(y, log_alpha)
    first, second = special.negative_binomial_slopes(y, mu, at.exp())

    def summed(value: torch.Tensor) -> torch.Tensor:
        return _log_prob(y, mu, value).sum()

    slope = torch.autograd.functional.jacobian(summed, at)
    h = 1e-4
    wide = (_log_prob(y, mu, at + h) - 2 * _log_prob(y, mu, at) + _log_prob(y, mu, at - h)) / h**2
    size = slope.abs() + 1e-9 * (1 + y + mu)
    assert bool(((first - slope).abs() <= 1e-6 * size).all())
    assert bool(((second - wide).abs() <= 1e-5 * second.abs() + 1e-6 * (1 + y + mu)).all())


@pytest.mark.parametrize("r", [16.0, 1e3, 1e8, 1e15])
def test_slopes_near_the_poisson_law_are_those_of_its_expansion(r: float) -> None:
    y, mu = torch.tensor([0.0, 1.0, 5.0, 30.0]).double(), torch.tensor([2.0, 1.5, 4.0, 33.0]).double()
    alpha = torch.full_like(y, 1 / r)
    first, second = special.negative_binomial_slopes(y, mu, alpha)
    one = alpha * ((y - mu).square() - y) / 2
    two = alpha.square() * (y * mu.square() / 2 - mu.pow(3) / 3 - y * (y - 1) * (2 * y - 1) / 12)
    rest = 40.0**4 / r**3
    torch.testing.assert_close(first, one + 2 * two, rtol=1e-11, atol=rest)
    torch.testing.assert_close(second, one + 4 * two, rtol=1e-11, atol=2 * rest)


def test_the_two_forms_meet() -> None:
    y, mu = torch.tensor([0.0, 1.0, 5.0, 30.0]).double(), torch.tensor([2.0, 1.5, 4.0, 33.0]).double()
    sides = (15.9999999, 16.0000001)
    below, above = (special.negative_binomial_slopes(y, mu, torch.tensor(1 / r).double()) for r in sides)
    for a, b in zip(below, above, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("top", [-35.0, -3.0, 0.2, 38.0])
def test_a_climb_ends_where_the_slope_falls_through_zero(top: float) -> None:
    start = torch.tensor([-39.0, -1.0, 0.0, 30.0], dtype=torch.float64)

    def slopes(at: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # of -log cosh(at - top), flat far off
        t = torch.tanh(at - top)
        return -t, t.square() - 1

    torch.testing.assert_close(climb(slopes, start, -40.0, 40.0), torch.full_like(start, top), rtol=0, atol=1e-9)


def test_a_climb_without_a_top_ends_on_the_limit() -> None:
    at = climb(lambda value: (torch.ones_like(value), torch.zeros_like(value)), torch.zeros(2).double(), -40.0, 40.0)
    assert all(math.isclose(value, 40.0, abs_tol=1e-9) for value in at.tolist())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_rising_products_by_the_inverse_of_their_start(dtype: torch.dtype) -> None:
    """`log_rising(1 / alpha, y)` to its digits, with a slope that is finite, down to `alpha = 0`."""
    alpha = torch.tensor([0.0, 1e-12, 1e-6, 1e-3, 0.5, 3.0, 50.0], dtype=dtype).unsqueeze(-1).requires_grad_()
    y = torch.tensor([0.0, 1, 2, 7, 60, 1e4], dtype=dtype)
    found = special.log_rising_of_inverse(alpha, y)
    [slope] = torch.autograd.grad(found.sum(), alpha)
    assert bool(torch.isfinite(slope).all())
    with mpmath.workdps(50):
        for row, a in zip(found.tolist(), alpha[:, 0].tolist(), strict=True):
            for value, count in zip(row, y.tolist(), strict=True):
                r = 1 / mpmath.mpf(a) if a else None
                want = mpmath.loggamma(r + count) - mpmath.loggamma(r) - count * mpmath.log(r) if r else mpmath.mpf(0)
                assert abs(value - want) <= 4 * torch.finfo(dtype).eps * (1 + abs(want))
