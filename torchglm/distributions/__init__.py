"""The laws of the families as objects: those torch lacks, and both tails and quantiles of all of them."""

from __future__ import annotations

from torchglm.distributions.inverse_gaussian import InverseGaussian
from torchglm.distributions.negative_binomial import NegativeBinomialMean
from torchglm.distributions.scaled_poisson import ScaledPoisson
from torchglm.distributions.tails import cdf, icdf, isf, log_tails, quantile, sf
from torchglm.distributions.tweedie import Tweedie

__all__ = [
    "InverseGaussian",
    "NegativeBinomialMean",
    "ScaledPoisson",
    "Tweedie",
    "cdf",
    "icdf",
    "isf",
    "log_tails",
    "quantile",
    "sf",
]
