"""Training by minibatch with Lightning: the modules, the loaders, and the SGD solver of a plain GLM."""

from __future__ import annotations

from torchglm.inputs import GLMBatch, as_batch
from torchglm.training.arrow_batches import ArrowBatches
from torchglm.training.batches import TensorBatches
from torchglm.training.datamodule import GLMDataModule
from torchglm.training.irls import LitIRLS
from torchglm.training.lit_glm import LitGLM
from torchglm.training.lit_heads import LitHeads
from torchglm.training.refit import IRLSHead
from torchglm.training.sgd import Trained, fit_sgd

__all__ = [
    "ArrowBatches",
    "GLMBatch",
    "GLMDataModule",
    "IRLSHead",
    "LitGLM",
    "LitHeads",
    "LitIRLS",
    "TensorBatches",
    "Trained",
    "as_batch",
    "fit_sgd",
]
