"""Intervals of laws after training with the defaults hold what they say of rows that nothing was trained on."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from test_head_training import QUIET
from torch import nn

import torchglm as tg
from torchglm.inputs import GLMBatch
from torchglm.training import LitGLM, TensorBatches

LEVEL, TRAINED, TRIALS = 0.9, 4000, 30.0
# a family, the predictors that have columns, and where its predictors begin
HEADS: dict[str, tuple[Any, tuple[str, ...], tuple[float, ...]]] = {
    "Gaussian": (tg.Gaussian(), (), (0.4,)),
    "Poisson": (tg.Poisson(), (), (1.5,)),
    "negative binomial": (tg.NegativeBinomial(), (), (1.5,)),
    "Gamma": (tg.Gamma(), (), (0.4,)),
    "inverse Gaussian": (tg.InverseGaussian(), (), (0.4,)),
    "exponential": (tg.Exponential(), (), (0.4,)),
    "binomial": (tg.Binomial(), (), (0.3,)),
    "Gaussian with dispersion": (tg.Gaussian(), ("dispersion",), (0.4, -0.5)),
    "Gamma with dispersion": (tg.Gamma(), ("dispersion",), (0.4, -0.5)),
    "negative binomial with alpha": (tg.NegativeBinomial(), ("alpha",), (1.5, -0.5)),
    "beta": (tg.Beta(), (), (0.3, 2.0)),
    "beta-binomial": (tg.BetaBinomial(), (), (0.3, 2.0)),
    "zero-inflated Poisson": (tg.ZeroInflated("poisson"), ("zero",), (1.5, -1.0)),
    "zero-inflated negative binomial": (tg.ZeroInflated("negative_binomial"), (), (1.5, -1.0, -0.5)),
    "hurdle Poisson": (tg.Hurdle("poisson"), ("zero",), (1.0, -1.0)),
    "hurdle Gamma": (tg.Hurdle("gamma"), (), (0.8, -1.0, -0.5)),
    "hurdle beta": (tg.Hurdle(tg.Beta()), (), (0.3, -1.0, 2.0)),
    "Weibull": (tg.Weibull(), (), (0.4, -0.3)),
    "log-normal": (tg.LogNormal(), (), (0.4, -0.3)),
    "log-logistic": (tg.LogLogistic(), (), (0.4, -0.7)),
    "Tweedie": (tg.Tweedie(1.5), (), (0.4,)),
    "Tweedie, power learned": (tg.Tweedie(), (), (0.4,)),
    "Tweedie with dispersion and power": (tg.Tweedie(), ("dispersion", "power"), (0.4, -0.3, 0.2)),
}


def truth_of(name: str) -> tg.GLMHead:
    """A head whose law is that of the responses."""
    family, others, start = HEADS[name]
    head = tg.GLMHead(3, copy.deepcopy(family), predictors=others, dtype=torch.float64)
    with torch.no_grad():
        head.bias.copy_(torch.tensor(start).reshape(head.bias.shape))
        head.weight.copy_(torch.tensor([0.3, -0.2, 0.1]).expand_as(head.weight))
        for shape in head.family.shapes.values():
            shape.fill_(-0.5)
    if head.dispersion_kind == "estimated":
        head.set_dispersion_(0.6)
    return head


def rows(truth: tg.GLMHead, n: int) -> GLMBatch:
    x = torch.randn(n, 3, dtype=torch.float64)
    counted = truth.family.name in ("binomial", "beta_binomial")
    trials = torch.full((n,), TRIALS, dtype=torch.float64) if counted else None
    with torch.no_grad():
        y = truth.law(x, trials=trials).sample()[:, 0]
    return GLMBatch(x.float(), y.float(), trials=None if trials is None else trials.float())


def shares(head: nn.Module, batch: GLMBatch) -> tuple[float, float]:
    """Of the responses within the interval, and of those within where an atom at an end is split by chance."""
    y, trials = batch.y.unsqueeze(-1), batch.trials
    with torch.no_grad():
        law = head.law(batch.x, trials=trials)
        low, high = law.interval(LEVEL)
        at = law.cdf(y)
        whole = bool((y == y.round()).all())
        before = law.cdf(y - 1) if whole else torch.where(y == 0, 0.0, at)
        before = torch.where(y == 0, 0.0, before)
    chance = before + torch.rand_like(at) * (at - before)
    split = ((chance > (1 - LEVEL) / 2) & (chance < (1 + LEVEL) / 2)).double().mean()
    return float(((y >= low) & (y <= high)).double().mean()), float(split)


@pytest.mark.slow
@pytest.mark.parametrize("name", HEADS)
def test_intervals_cover_after_training_with_defaults(name: str) -> None:
    torch.manual_seed(0)
    truth = truth_of(name)
    scored = 1000 if name.startswith("Tweedie") else 6000  # whose tails are sums of incomplete gamma ratios
    train, new = rows(truth, TRAINED), rows(truth, scored)
    family, others, _ = HEADS[name]
    lit = LitGLM(tg.GLMHead(3, copy.deepcopy(family), predictors=others))
    Trainer(max_epochs=15, **QUIET).fit(lit, TensorBatches(train, 100))
    within, split = shares(lit.head, new)
    assert 0.88 < split < 0.92 and within > 0.88, (within, split)
    if not bool((new.y[:100] == new.y[:100].round()).any()):
        assert within < 0.92
