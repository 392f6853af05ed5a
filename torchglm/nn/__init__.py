"""Modules around heads, for training loops of one's own: a loss that is a call, and several heads on one network."""

from __future__ import annotations

from torchglm.model.face import GLMHead
from torchglm.model.loss import GLMLoss
from torchglm.nn.heads import Heads
from torchglm.nn.with_loss import WithLoss

__all__ = ["GLMHead", "GLMLoss", "Heads", "WithLoss"]
