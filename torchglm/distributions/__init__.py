"""The laws of the families as objects: those torch lacks, and both tails and quantiles of all of them."""

from __future__ import annotations

from torchglm.distributions.around import tails_around
from torchglm.distributions.inverse_gaussian import InverseGaussianMean
from torchglm.distributions.negative_binomial import NegativeBinomialMean
from torchglm.distributions.scaled_poisson import ScaledPoisson
from torchglm.distributions.tails import cdf, icdf, isf, log_tails, quantile, sf
from torchglm.distributions.tweedie import TweedieMean

__all__ = [
    "InverseGaussianMean",
    "NegativeBinomialMean",
    "ScaledPoisson",
    "TweedieMean",
    "cdf",
    "icdf",
    "isf",
    "log_tails",
    "quantile",
    "sf",
    "tails_around",
]
