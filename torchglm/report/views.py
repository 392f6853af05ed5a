"""Which reading a fit has: of one model or a batch, of one predictor or several."""

from __future__ import annotations

from typing import TypeAlias

from torchglm.inference.fitted import Fitted
from torchglm.report.overview import ModelBatch
from torchglm.report.several import SeveralModel
from torchglm.report.several_batch import SeveralBatch
from torchglm.report.single import SingleModel

View: TypeAlias = SingleModel | ModelBatch


def view_of(result: Fitted, level: float) -> View:
    """The reading of a fit."""
    if result.batch_shape:
        return (ModelBatch if result.plan is None else SeveralBatch)(result, level)
    return (SingleModel if result.plan is None else SeveralModel)(result, level)
