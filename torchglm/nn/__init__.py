"""Modules around heads, for training loops of one's own: a loss that is a call, several heads on one network, and
networks beside a GLM."""

from __future__ import annotations

from torchglm.model.face import GLMHead
from torchglm.model.loss import GLMLoss
from torchglm.nn.cann import CANN
from torchglm.nn.heads import Heads
from torchglm.nn.mlp import MLP
from torchglm.nn.predictive import Predictive
from torchglm.nn.with_loss import WithLoss

__all__ = ["CANN", "MLP", "GLMHead", "GLMLoss", "Heads", "Predictive", "WithLoss"]
