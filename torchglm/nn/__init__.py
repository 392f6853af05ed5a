"""Modules around heads, for training loops of one's own: a loss that is a call, several heads on one network, and
networks beside a GLM."""

from __future__ import annotations

from typing import NoReturn

from torchglm.model.face import GLMHead
from torchglm.model.loss import GLMLoss
from torchglm.model.usual import OF_NN
from torchglm.nn.cann import CANN
from torchglm.nn.heads import Heads
from torchglm.nn.mlp import MLP
from torchglm.nn.predictive import Predictive
from torchglm.nn.with_loss import WithLoss
from torchglm.writing.nearest import absent

__all__ = ["CANN", "MLP", "GLMHead", "GLMLoss", "Heads", "Predictive", "WithLoss"]


def __getattr__(name: str) -> NoReturn:
    raise AttributeError(absent("module 'torchglm.nn'", name, OF_NN, __all__))
