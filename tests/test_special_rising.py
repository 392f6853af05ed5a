"""What rising factorials are above powers, beside mpmath: no digit is lost where they are close."""

from __future__ import annotations

import mpmath
import pytest
import torch

from torchglm import special

mp = mpmath.mp


@pytest.mark.parametrize("p", [1e-6, 0.3, 2.0, 9.5, 10.5, 1e3, 1e8])
@pytest.mark.parametrize("y", [0.0, 1.0, 2.0, 17.0, 400.0])
def test_log_rising_and_its_slopes(p: float, y: float) -> None:
    at, count = (torch.tensor(value, dtype=torch.float64) for value in (p, y))
    with mp.workdps(60):
        a, b = mp.mpf(p), mp.mpf(y)
        value = mp.loggamma(a + b) - mp.loggamma(a) - b * mp.log(a)
        first = mp.digamma(a + b) - mp.digamma(a) - b / a
        second = mp.psi(1, a + b) - mp.psi(1, a) + b / a**2
    rounding = 1e-14 * max(1.0, y) * (1 + abs(float(mp.log(a))))  # of terms of the size of the count
    assert float(special.log_rising(at, count)) == pytest.approx(float(value), rel=1e-12, abs=rounding)
    slope, bend = special.log_rising_slopes(at, count)
    assert float(slope) == pytest.approx(float(first), rel=1e-11, abs=1e-13 * y / p)
    # the trigamma function of torch is good to 3e-9 below 10
    assert float(bend) == pytest.approx(float(second), rel=1e-10, abs=(5e-9 if p < 10 else 0) + 1e-13 * y / p**2)
