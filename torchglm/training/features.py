"""The rows of a loader as the head of a module sees them under its Trainer, and the dispersion they tell."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

from lightning.pytorch import Trainer
from torch import Tensor

from torchglm.fitting.status import FitWarning
from torchglm.model.face import GLMHead
from torchglm.model.network import Features, evaluating
from torchglm.model.spread import pearson
from torchglm.rows.ranks import Ranks
from torchglm.writing.warning import tell


def features_of(loader: Iterable[Any], trainer: Trainer, module: Any) -> Features:
    """The batches of a loader with the features that a module makes of them, in the precision of its Trainer."""

    def features(x: Any) -> Tensor:
        with trainer.precision_plugin.forward_context():
            return module.features(x)

    return Features(loader, module.head, features)


class First:
    """The first batches of a loader that may have no end."""

    def __init__(self, loader: Iterable[Any], most: int | None) -> None:
        self.loader, self.most = loader, most

    def __iter__(self) -> Any:
        return islice(self.loader, self.most)


def spread_over(trainer: Trainer, module: Any) -> None:
    """Estimate the dispersion of a module's head by one pass over the training rows, where it is to be estimated.

    `FitWarning` tells why it could not be, and that `distribution` refuses.
    """
    head: GLMHead = module.head
    if head.dispersion_kind != "estimated":
        return
    loader: Any = trainer.train_dataloader
    batches = trainer.num_training_batches
    most = batches if isinstance(batches, int) else int(batches) if batches < float("inf") else None
    with evaluating(module):
        try:
            rows = features_of(First(loader, most), trainer, module)
            head.set_dispersion_(pearson(head, rows, Ranks.here()))
        except ValueError as error:
            tell(
                f"the dispersion of the head could not be estimated: {error} Until head.estimate_dispersion_(x, y) "
                "finds it, head.distribution refuses.",
                FitWarning,
            )
