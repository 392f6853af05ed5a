"""IRLSHead: the head of a deep model refitted exactly on the features of the layers before it.

refit = IRLSHead()
Trainer(callbacks=[refit]).fit(LitGLM(network), batches)
refit.last
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from torchglm.fitting.irls import irls
from torchglm.fitting.kernel import fold
from torchglm.fitting.moments import Point
from torchglm.fitting.penalties import Penalty
from torchglm.fitting.status import FitWarning, Status
from torchglm.inputs import LoaderRows
from torchglm.model.face import GLMHead
from torchglm.model.spread import pearson
from torchglm.training.batches import rank_and_world
from torchglm.training.features import Features, evaluating
from torchglm.training.lit_glm import LitGLM


@dataclass(frozen=True)
class Refit:
    """What a refit did: half the mean deviance (penalised) `before` and `after`, and `status`, for each response.

    Where the fit would have been the worse one, the head is as it was and `after` is `before`.
    """

    before: Tensor
    after: Tensor
    status: list[Status]


class IRLSHead(Callback):
    """Refits the head of a `LitGLM` by IRLS on its frozen features, when training ends, or every k epochs too.

    The rest of the model is in evaluation mode meanwhile (no dropout, running averages), the loader is read once for
    a step of IRLS, and memory does not grow with its rows. Shape parameters of the family stay as they are; a
    dispersion that the head is to estimate is Pearson's at the coefficients it is left with. The loss over the loader
    never rises: where rounding to the head's dtype or a fit without a maximum would make it, the head is left as it
    was. What an optimizer remembers of the head is forgotten. Sequences of features count as rows.

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
        rows = Features(loader, trainer, pl_module)
        with evaluating(pl_module):
            self.last = self._fit(LoaderRows(rows, head.family, head.link, head.bias is not None, None, None), head)
            if head.dispersion_kind == "estimated":
                self._spread(head, rows)
        pl_module.settled = True
        for optimizer in trainer.optimizers:
            for parameter in pl_module.head.parameters():
                optimizer.state.pop(parameter, None)
        self._fresh = True

    @staticmethod
    def _spread(head: GLMHead, rows: Features) -> None:
        try:
            head.set_dispersion_(pearson(head, rows))
        except ValueError as error:
            warnings.warn(f"IRLSHead: the dispersion is not known: {error}", FitWarning, stacklevel=2)

    def _fit(self, source: LoaderRows, head: GLMHead) -> Refit:
        """Fit, write, look at what the rounded coefficients give, and take back what is worse."""
        bias = head.bias is not None
        penalty = None if self.penalty is None else self.penalty.expand((0,) * bias, head.in_features + bias)
        start = head.coef
        before = self._loss(source, head, start, penalty)
        found = irls(source, head.family, head.link, penalty=penalty, start=start, max_iter=self.max_iter)
        status = [Status(int(code)) for code in found.status]
        head.set_coef_(found.coef)
        after = self._loss(source, head, head.coef, penalty)
        worse = ~(after <= before)
        head.set_coef_(torch.where(worse.unsqueeze(-1), start, found.coef))
        for kind in sorted(set(status) - {Status.CONVERGED}):
            warnings.warn(f"IRLSHead: {kind}: {kind.explanation}", FitWarning, stacklevel=2)
        return Refit(before, torch.where(worse, before, after), status)

    @staticmethod
    def _loss(source: LoaderRows, head: GLMHead, coef: Tensor, penalty: Penalty | None) -> Tensor:
        """(B,) half the mean deviance over the source, infinite where a mean is out of range."""
        point = Point(coef, before=coef, census=True, curved=False)
        sums = fold(source, point, head.family, head.link)
        if not bool((sums.weight > 0).all()):
            raise ValueError("The loader holds no row of positive weight to refit the head on.")
        total = sums.objective if penalty is None else sums.objective + penalty.value(coef, sums.weight)
        return torch.where(sums.valid, total, torch.inf) / sums.weight
