"""Checks of fits of several predictors: silent where the model holds, in words where it does not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import torchglm as tg


def ordered(models: int, bend: float, n: int = 400) -> tuple[Tensor, Tensor]:
    """Four levels by cumulative logits whose slope of the first column differs by `bend` from cut to cut."""
    generator = torch.Generator().manual_seed(1)
    x = 2 * torch.rand(n, 2, generator=generator, dtype=torch.float64) - 1
    cuts = torch.tensor([-1.5, 0.0, 1.5], dtype=torch.float64)
    slopes = torch.tensor([-bend, 0.0, bend], dtype=torch.float64)
    below = (cuts - x[:, :1] * slopes + 0.5 * x[:, 1:]).sigmoid()  # (n, 3)
    draw = torch.rand(models, n, 1, generator=generator, dtype=torch.float64)
    return x, (draw > below).sum(-1)


def test_parallel_slopes_are_found_where_they_are_not_and_seldom_where_they_are() -> None:
    x, y = ordered(300, 0.0)
    quiet = tg.fit(x, y, family=tg.Ordinal(), names=["dose", "age"]).check(level=0.1)
    assert set(quiet.tests) == {"link", "parallel slopes of dose", "parallel slopes of age"}
    assert 0.85 < float(quiet.silent.double().mean()) < 0.97
    x, y = ordered(1, 1.0)
    said = str(tg.fit(x, y[0], family=tg.Ordinal(), names=["dose", "age"]).check())
    assert said.startswith("Check of a fit of ordinal") and "slope of dose differs" in said and "free=['dose']" in said


def test_the_score_test_of_parallel_slopes_is_near_that_of_the_likelihoods() -> None:
    x, y = ordered(1, 0.35, n=3000)
    shared, free = (tg.fit(x, y[0], family=tg.Ordinal(free=names), names=["dose", "age"]) for names in ([], ["dose"]))
    score = shared.check().tests["parallel slopes of dose"]
    ratio = free.lr_test(shared)
    assert float(score.df) == float(ratio.df) == 2
    assert float(score.statistic) == pytest.approx(float(ratio.statistic), rel=0.1)


def test_a_dispersion_that_moves_is_found() -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.rand(3000, 1, generator=generator, dtype=torch.float64)
    noise = torch.randn(3000, generator=generator, dtype=torch.float64)
    steady, moving = (
        tg.fit(x, x[:, 0] + noise * (b * x[:, 0]).exp(), family="gaussian", predictors={"dispersion": "~ 1"})
        for b in (0.0, 0.5)
    )
    assert bool(steady.check().silent)
    assert "dispersion is not constant" in str(moving.check())


def test_thin_classes_and_separation_are_told() -> None:
    x = torch.linspace(-1, 1, 60, dtype=torch.float64).unsqueeze(-1)
    y = (torch.arange(60) * 7 % 3 > 0).long()
    y[5] = 2
    found = tg.fit(x, y, family=tg.Multinomial()).check()
    assert "few rows" in str(found) and "2 (1 rows)" in str(found)
    with pytest.warns(tg.FitWarning):
        split = tg.fit(x, (x[:, 0] > 0).long() + (x[:, 0] > 0.5).long(), family=tg.Ordinal())
    assert "0|1 to -infinity" in str(split.check()) or "x0 to +infinity" in str(split.check())
    with pytest.raises(ValueError, match="between 0 and 1"):
        split.check(level=2)
