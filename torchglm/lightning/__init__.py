"""Training by minibatch with Lightning: the modules, the loaders, and the SGD solver of a plain GLM."""

from __future__ import annotations

from torchglm.inputs import GLMBatch, as_batch
from torchglm.lightning.arrow import ArrowBatches
from torchglm.lightning.batches import TensorBatches
from torchglm.lightning.datamodule import GLMDataModule
from torchglm.lightning.irls import LitIRLS
from torchglm.lightning.module import LitGLM
from torchglm.lightning.refit import IRLSHead
from torchglm.lightning.solver import Trained, fit_sgd

__all__ = [
    "ArrowBatches",
    "GLMBatch",
    "GLMDataModule",
    "IRLSHead",
    "LitGLM",
    "LitIRLS",
    "TensorBatches",
    "Trained",
    "as_batch",
    "fit_sgd",
]
