"""torchglm: generalised linear models as PyTorch layers, fitted in closed form or by gradient."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from torchglm import families, links, nn, optim
from torchglm.families import (
    Bernoulli,
    Binomial,
    Exponential,
    Family,
    Gamma,
    Gaussian,
    InverseGaussian,
    NegativeBinomial,
    Poisson,
    Tweedie,
)
from torchglm.families.several import (
    Beta,
    BetaBinomial,
    Hurdle,
    LogLogistic,
    LogNormal,
    Multinomial,
    Ordinal,
    VectorFamily,
    Weibull,
    ZeroInflated,
)
from torchglm.fitting.bias import Jeffreys
from torchglm.fitting.irls import irls
from torchglm.fitting.penalties import MCP, SCAD, ElasticNet, Fused, GroupLasso, Penalty, Quadratic, Ridge
from torchglm.fitting.status import FitWarning, Status
from torchglm.inference.compare import compare
from torchglm.inference.hypotheses.adjust import adjust
from torchglm.inference.hypotheses.nested import lrt
from torchglm.inference.person_time import PersonTime, split_times
from torchglm.links import Link
from torchglm.model.conformal import Conformal
from torchglm.model.face import GLMHead, Result, fit
from torchglm.model.laplace import Laplace
from torchglm.model.lazy import LazyGLMHead
from torchglm.model.loss import GLMLoss
from torchglm.model.path import Path
from torchglm.model.path_fit import path
from torchglm.model.refit import refit_
from torchglm.model.renewable import Renewable
from torchglm.model.solve import solve
from torchglm.model.usual import OF_MODULE
from torchglm.report.side_by_side import side_by_side
from torchglm.store.exported import export
from torchglm.store.saved import load
from torchglm.version import VERSION
from torchglm.writing.nearest import absent

__version__ = VERSION
_LAZY = (
    "design",
    "metrics",
    "report",
    "store",
    "tables",
    "training",
)  # each costs seconds: they come in when first used

__all__ = [
    "Bernoulli",
    "Beta",
    "BetaBinomial",
    "Binomial",
    "Conformal",
    "ElasticNet",
    "Exponential",
    "Family",
    "FitWarning",
    "Fused",
    "GLMHead",
    "GLMLoss",
    "Gamma",
    "Gaussian",
    "GroupLasso",
    "Hurdle",
    "InverseGaussian",
    "Jeffreys",
    "Laplace",
    "LazyGLMHead",
    "Link",
    "LogLogistic",
    "LogNormal",
    "MCP",
    "Multinomial",
    "NegativeBinomial",
    "Ordinal",
    "Path",
    "Penalty",
    "PersonTime",
    "Poisson",
    "Quadratic",
    "Renewable",
    "Result",
    "Ridge",
    "SCAD",
    "Status",
    "Tweedie",
    "VectorFamily",
    "Weibull",
    "ZeroInflated",
    "adjust",
    "compare",
    "export",
    "families",
    "fit",
    "irls",
    "links",
    "load",
    "lrt",
    "nn",
    "optim",
    "path",
    "refit_",
    "side_by_side",
    "solve",
    "split_times",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return import_module(f"torchglm.{name}")
    raise AttributeError(absent("module 'torchglm'", name, OF_MODULE, [*__all__, *_LAZY]))


def __dir__() -> list[str]:
    return sorted({*__all__, *_LAZY, *(name for name in globals() if name.startswith("__"))})
