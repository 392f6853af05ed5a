"""The rows of a loader as the head of a model sees them, and the dispersion they tell."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from lightning.pytorch import Trainer

from torchglm.fitting.status import FitWarning
from torchglm.inputs import GLMBatch, as_batch
from torchglm.model.face import GLMHead
from torchglm.model.spread import flat_rows, pearson
from torchglm.rows.ranks import Ranks


class Features:
    """The batches of a loader, on the module's device, with the features of each in the place of `x`.

    Sequences (*N, in_features) become rows. Of a loader without an end come `most` batches.
    """

    def __init__(self, loader: Any, trainer: Trainer, module: Any, most: int | None = None) -> None:
        self.loader, self.trainer, self.module, self.most = loader, trainer, module, most

    def __iter__(self) -> Iterator[GLMBatch]:
        for batch in islice(self.loader, self.most):
            rows = as_batch(batch, self.module.head.link).to(self.module.device)
            with torch.no_grad(), self.trainer.precision_plugin.forward_context():
                x = self.module.features(rows.x)
            rows = rows._replace(x=x.to(torch.promote_types(x.dtype, torch.float32)))
            yield flat_rows(self.module.head, rows)


@contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """All parts of a module in evaluation mode (no dropout, running averages), and no random number spent."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        for part, training in modes:
            part.training = training


def spread_over(trainer: Trainer, module: Any) -> None:
    """Estimate the dispersion of a module's head by one pass over the training rows, where it is to be estimated.

    `FitWarning` tells why it could not be, and that `distribution` refuses.
    """
    head: GLMHead = module.head
    if head.dispersion_kind != "estimated":
        return
    batches = trainer.num_training_batches
    most = batches if isinstance(batches, int) else int(batches) if batches < float("inf") else None
    with evaluating(module):
        try:
            rows = Features(trainer.train_dataloader, trainer, module, most)
            head.set_dispersion_(pearson(head, rows, Ranks.here()))
        except ValueError as error:
            warnings.warn(
                f"the dispersion of the head could not be estimated: {error} Until head.estimate_dispersion_(x, y) "
                "finds it, head.distribution refuses.",
                FitWarning,
                stacklevel=2,
            )
