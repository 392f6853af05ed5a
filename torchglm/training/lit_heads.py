"""LitHeads: trains several heads on one network under a Lightning Trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from torchglm.nn.heads import Heads
from torchglm.training.logged_metrics import WeightedMean
from torchglm.writing.answering import answering_init

RATE = 1e-3
STAGES = ("train", "val", "test")


@answering_init
class LitHeads(LightningModule):
    """Minimises the loss of `nn.Heads` on what a network makes of `x`, over batches.

    A batch is `(x, y)`, or a dict with `x`, `y` and roles by their names; `y` is a dict of responses by the names of
    the heads, and a role a tensor for all heads or such a dict. A response that is missing has weight 0, and one that
    no row of a batch has may be left out.

    Args:
        heads: the heads, with `uncertainty=True` weighed by scales that are learned with the rest.
        backbone: makes their features of `x`; None where `x` are the features.
        optimizer: called with the parameters; the default is Adam at 0.001.
        scheduler: called with the optimizer; it steps by epoch.
        lr: the learning rate, in place of that of the optimizer; the Tuner of Lightning sets it.

    Logged: `train_loss`, `val_loss` and `test_loss`, beside the last two the loss of each head, `val_loss_count`.
    `predict` gives the means by the names of the heads.
    Raises `TypeError` for what are no `Heads`.
    """

    def __init__(
        self,
        heads: Heads,
        backbone: nn.Module | None = None,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] | None = None,
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        *,
        lr: float | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(heads, Heads):
            raise TypeError(f"LitHeads trains nn.Heads, got {type(heads).__name__}. Of one head LitGLM takes care.")
        self.heads, self.backbone = heads, backbone
        self.optimizer, self.scheduler, self.lr = optimizer, scheduler, lr
        self.losses = nn.ModuleDict({f"{stage}_loss": WeightedMean() for stage in STAGES})
        self.own = nn.ModuleDict({f"{stage}_{name}": WeightedMean() for stage in ("val", "test") for name in heads})

    def features(self, x: Any) -> Tensor:
        """What the heads take."""
        return x if self.backbone is None else self.backbone(x)

    def forward(self, x: Any, offset: Any = None) -> dict[str, Tensor]:
        """Name -> the means of that head."""
        return self.heads(self.features(x), offset)

    def training_step(self, batch: Any, batch_idx: int = 0) -> Tensor:
        """The loss of one batch."""
        x, y, roles = _parts(batch)
        loss = self.heads.loss(self.features(x), y, **roles)
        self._add("train", loss, len(x))
        return loss

    def on_train_epoch_end(self) -> None:
        """Log the mean loss of the epoch."""
        mean = self.losses["train_loss"]
        assert isinstance(mean, WeightedMean)
        self.log("train_loss", mean.compute(), sync_dist=True)
        mean.reset()

    def validation_step(self, batch: Any, batch_idx: int = 0) -> None:
        """Sums of one batch."""
        self._score("val", batch)

    def test_step(self, batch: Any, batch_idx: int = 0) -> None:
        """Sums of one batch."""
        self._score("test", batch)

    def predict_step(self, batch: Any, batch_idx: int = 0) -> dict[str, Tensor]:
        """Name -> the means of that head."""
        x, _, roles = _parts(batch)
        return self(x, roles.get("offset"))

    def configure_optimizers(self) -> Any:
        """The optimizer, and the scheduler where there is one."""
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        made = Adam(trained, lr=self.lr or RATE) if self.optimizer is None else self.optimizer(trained)
        if self.lr is not None:
            for group in made.param_groups:
                group["lr"] = self.lr
        return made if self.scheduler is None else {"optimizer": made, "lr_scheduler": self.scheduler(made)}

    def _score(self, stage: str, batch: Any) -> None:
        x, y, roles = _parts(batch)
        means = self.heads.means(self.features(x), y, **roles)
        self._add(stage, self.heads.combined(means, y, **roles), len(x))
        whole = cast(WeightedMean, self.losses[f"{stage}_loss"])
        self.log(f"{stage}_loss", whole, on_epoch=True, prog_bar=True, batch_size=len(x))
        for name, (mean, weight) in means.items():
            whole = cast(WeightedMean, self.own[f"{stage}_{name}"])
            whole.update(mean * weight, weight)
            self.log(f"{stage}_loss_{name}", whole, on_epoch=True, batch_size=len(x))

    def _add(self, stage: str, loss: Tensor, rows: int) -> None:
        mean = self.losses[f"{stage}_loss"]
        assert isinstance(mean, WeightedMean)
        mean.update(loss.detach() * rows, torch.tensor(float(rows)))


def _parts(batch: Any) -> tuple[Any, Mapping[str, Tensor], dict[str, Any]]:
    """`x`, the responses and the roles of a batch. Raises `ValueError` for another form."""
    if isinstance(batch, Mapping) and "x" in batch:
        roles = {name: value for name, value in batch.items() if name not in ("x", "y") and value is not None}
        return batch["x"], batch.get("y") or {}, roles
    if isinstance(batch, (list, tuple)) and len(batch) == 2 and isinstance(batch[1], Mapping):
        return batch[0], batch[1], {}
    raise ValueError("a batch of several heads is (x, {name: y}), or a dict with x, y and roles by their names.")
