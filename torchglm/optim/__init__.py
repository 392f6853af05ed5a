"""Optimizers for heads, beside those of torch for the layers before them."""

from __future__ import annotations

from torchglm.optim.fisher import FisherHead

__all__ = ["FisherHead"]
