"""IRLSHead: the head of a deep model refitted exactly on the features of the layers before it.

refit = IRLSHead()
Trainer(callbacks=[refit]).fit(LitGLM(network), batches)
refit.last
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from torchglm.fitting.penalties import Penalty
from torchglm.model.network import evaluating
from torchglm.model.refit import Refit, refitted
from torchglm.training.batches import rank_and_world
from torchglm.training.features import features_of
from torchglm.training.lit_glm import LitGLM
from torchglm.writing.answering import answering_init


@answering_init
class IRLSHead(Callback):
    """Refits the head of a `LitGLM` by IRLS on its frozen features, when training ends, or every k epochs too.

    `torchglm.refit_(model, loader)` does the same without a Trainer.

    The rest of the model is in evaluation mode meanwhile (no dropout, running averages), the loader is read once for
    a step of IRLS, and memory does not grow with its rows. Shapes and a dispersion that the head learns are found by
    maximum likelihood, one that it is to estimate is Pearson's. The loss over the loader never rises: where rounding
    to the head's dtype or a fit without a maximum would make it, the head is left as it was. What an optimizer
    remembers of the head is forgotten. Sequences of features count as rows.

    A checkpoint that was written before the end of training holds the head as it was trained; use `every=1` to have
    refitted ones, or `trainer.save_checkpoint` afterwards.

    Args:
        every: refit after each so many epochs; None, at the end alone.
        penalty: `Ridge` or `ElasticNet` on the weight: features of a network are often nearly collinear.
        loader: the rows to fit on; the default is the training loader, all of it.
        max_iter: Newton steps of a refit.

    `last` is the last `Refit`. Raises `ValueError` for a module other than `LitGLM`, a loader that leaves out rows
    (`drop_last`), several ranks, and `every < 1`; `FitWarning` tells where a fit did not end at a maximum.
    """

    def __init__(
        self,
        every: int | None = None,
        penalty: Penalty | None = None,
        loader: Iterable[Any] | None = None,
        max_iter: int = 50,
    ) -> None:
        if every is not None and (isinstance(every, bool) or not isinstance(every, int) or every < 1):
            raise ValueError(f"every must be a whole number of epochs, at least 1, got {every!r}.")
        self.every, self.penalty, self.loader, self.max_iter = every, penalty, loader, max_iter
        self.last: Refit | None = None
        self._fresh = False  # the parameters have not changed since

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what cannot be refitted before hours of training."""
        if not isinstance(pl_module, LitGLM):
            raise ValueError(f"IRLSHead refits the head of a LitGLM, got {type(pl_module).__name__}.")
        if rank_and_world()[1] > 1:
            raise ValueError("IRLSHead works in one process. Train on several ranks without it, then refit on one.")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a loader that leaves rows out, which is known by now."""
        if getattr(self._rows_of(trainer), "drop_last", False):
            raise ValueError(
                "the loader has drop_last, so each pass over it may hold other rows. Pass IRLSHead(loader="
                "one that gives all rows)."
            )

    def _rows_of(self, trainer: Trainer) -> Any:
        return trainer.train_dataloader if self.loader is None else self.loader

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The parameters are about to change."""
        self._fresh = pl_module.settled = False  # type: ignore[assignment]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refit where it is time."""
        if self.every is not None and (trainer.current_epoch + 1) % self.every == 0:
            self._refit(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refit, unless the last epoch ended with it."""
        if not self._fresh:
            self._refit(trainer, pl_module)

    @torch.no_grad()
    def _refit(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, LitGLM)
        loader = self._rows_of(trainer)
        head = pl_module.head
        rows = features_of(loader, trainer, pl_module)
        with evaluating(pl_module):
            self.last = refitted(head, rows, self.penalty, self.max_iter)
        pl_module.settled = True
        for optimizer in trainer.optimizers:
            for parameter in pl_module.head.parameters():
                optimizer.state.pop(parameter, None)
        self._fresh = True
