"""From a formula to columns of numbers: what is learned from the data once, and made the same ever after."""

from __future__ import annotations

from torchglm.design.learn import build, build_columns, learn
from torchglm.design.levels import groups
from torchglm.design.smooths.factor import PenaltyBlock, SmoothPart
from torchglm.design.sources import is_source
from torchglm.design.spec import Design, DesignSpec
from torchglm.design.tally import Tally

__all__ = [
    "Design",
    "DesignSpec",
    "PenaltyBlock",
    "SmoothPart",
    "Tally",
    "build",
    "build_columns",
    "groups",
    "is_source",
    "learn",
]
