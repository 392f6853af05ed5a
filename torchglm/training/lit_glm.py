"""LitGLM: trains a GLM head, or a network that ends in one, by minibatch under a Lightning Trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import LBFGS, Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torchmetrics import Metric

from torchglm.families.several import VectorFamily
from torchglm.inputs import GLMBatch, as_batch
from torchglm.metrics import D2
from torchglm.model.face import GLMHead
from torchglm.model.network import readable, split
from torchglm.training.batches import shared
from torchglm.training.closed_form import ClosedForm, stepper
from torchglm.training.features import spread_over
from torchglm.training.fused_steps import FusedSteps, may_fuse
from torchglm.training.logged_metrics import Scores, Seen, WeightedMean
from torchglm.training.model_head import (
    check_arguments,
    config_of,
    head_from,
    mean_metrics,
    metric_of,
    predicted,
    squeezed,
)
from torchglm.training.row_checks import suit
from torchglm.writing.answering import answering_init

MakeMetric = Callable[..., Metric]


@answering_init
class LitGLM(LightningModule):
    """Minimises the weighted mean negative log-likelihood of a head, computed from `eta`, over batches.

    `model` is a `GLMHead`, an `nn.Sequential` that ends in one, a module with a `backbone` and a `head`, or any network
    that calls the part named `head=` once for a batch; of a compiled one (`torch.compile`) the layers before the head
    run compiled. Several heads: `LitHeads`.
    A batch is `(x, y)`, or a `GLMBatch` or a dict with its names; `x` is what the
    model takes, `y` is `(n,)` or `(n, responses)` and never broadcast. The loss of a step is
    `sum w nll / sum w`, over all ranks, so that rows of weight 0 are no rows.

    A dispersion that the head is to estimate counts as 1 in all losses, and is Pearson's over the training rows, read
    once more, when training ends.

    The gradient of a head alone is that of the closed form. Where nothing looks at the steps between, up to 64 of
    them are one step of the Trainer: the same updates and counts, without its hooks for each. Accumulation, clipping,
    several devices, and callbacks that ask for every batch have the plain road.

    Args:
        model: what to train.
        optimizer: called with the parameters; the default is Adam, at 0.01 for a head alone and 0.001 for a
            network. `torch.optim.LBFGS` works, on one batch that holds all rows.
        lr: the learning rate, in place of that of the optimizer; the Tuner of Lightning sets it (`lr_find`).
        scheduler: called with the optimizer; it steps by `scheduler_interval`, `"epoch"` or `"step"`.
        metrics: metrics by name, for validation and test: classes (or callables) that take the head's family
            and `link=` (those of classes take the classes alone), or torchmetrics objects, which are copied. The
            default is `Deviance` and `D2` (left out where offsets rule it out, and where responses have shapes of
            their own); of several predictors `Accuracy` of classes, as `rps` the `RankedProbabilityScore` of ordered
            ones, `Concordance` of times, and the loss alone elsewhere.
        penalty: a scalar function of the model, added to the loss.
        scale: the training loss is divided by it; what is logged is not.

    Logged: `train_loss` by epoch, `train_loss_step` every `log_every_n_steps`, `val_loss`, `val_deviance`,
    `val_d2`, and `test_` the same; several loaders have theirs apart, as `val_loss/dataloader_idx_1`.
    `predict` gives means. Checkpoints load by `torchglm.load(path)` or `LitGLM.load_from_checkpoint(path)`; those of
    a network need `model=`, a module of the same shape, and those of a head with a family or link of one's own
    `torchglm.load(path, link=...)`.
    Raises `ValueError` for a model without a head and a metric named `loss`, `TypeError` for what is no such argument.
    """

    def __init__(
        self,
        model: nn.Module | Mapping[str, Any],
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] | None = None,
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        metrics: Mapping[str, Metric | MakeMetric] | None = None,
        *,
        head: str | None = None,
        lr: float | None = None,
        scheduler_interval: str = "epoch",
        penalty: Callable[[nn.Module], Tensor] | None = None,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        check_arguments(optimizer, scheduler, metrics, scheduler_interval, penalty)
        if not isinstance(model, (nn.Module, Mapping)):
            raise TypeError(
                f"model must be a head, a network with one, or the fields of a head, got {model!r}. Fit a formula by "
                "torchglm.fit; its result.head() is a model."
            )
        self.model = model if isinstance(model, nn.Module) else head_from(model)
        self._split = split(self.model, head)
        self.optimizer, self.scheduler, self.scheduler_interval = optimizer, scheduler, scheduler_interval
        self.penalty, self.scale, self.lr = penalty, scale, lr
        self.watched = True
        self.settled = False  # a callback has found the dispersion of the head as it is
        self._closed: ClosedForm | None = None
        self._ahead: FusedSteps | None = None
        self._epoch = -1  # for which the two above hold
        self._seen = Seen()
        self._wanted: dict[str, Metric | MakeMetric] = self._usual_metrics() if metrics is None else dict(metrics)
        self.train_loss = WeightedMean()
        self.metrics = Scores(self._make_metrics)
        self._make_metrics()  # what cannot be made is said before training

    @property
    def head(self) -> GLMHead:
        """The GLM head of the model."""
        return self._split[1]

    def features(self, x: Any) -> Tensor:
        """What the head takes, `(n, in_features)`: `x` itself, or what the layers before it make of it."""
        backbone = self._split[0]
        return x if backbone is None else backbone(x)

    def forward(self, x: Any, offset: Tensor | None = None) -> Tensor:
        """The means `(n, responses)`."""
        return self.head(self.features(x), offset)

    def on_fit_start(self) -> None:
        """Nothing is known of this Trainer yet."""
        self._epoch, self.settled = -1, False

    def on_train_start(self) -> None:
        """Have the rows looked at before hours of training, where their loader can."""
        suit(self.trainer.train_dataloader, self.head.family)

    def on_validation_start(self) -> None:
        """Have the rows looked at."""
        suit(self.trainer.val_dataloaders, self.head.family)

    def on_test_start(self) -> None:
        """Have the rows looked at."""
        suit(self.trainer.test_dataloaders, self.head.family)

    def _prepare(self) -> None:
        """See what may be quick in this epoch: a gradient in closed form, several steps as one of the Trainer's.

        No hook calls it: an epoch that is resumed in its middle has no start.
        """
        trainer: Any = self.trainer
        self._epoch = trainer.current_epoch
        searched = isinstance(trainer.optimizers[0], LBFGS)  # which compares losses to their last digits
        self._closed = None if searched else self._closed_form()
        allowed = type(self).training_step is LitGLM.training_step and may_fuse(
            trainer, self, mixed=self._closed is not None
        )
        self._ahead = FusedSteps(trainer, self, self._stepper, self.head.link) if allowed else None

    def _closed_form(self) -> ClosedForm | None:
        own = all(getattr(type(self), name) is getattr(LitGLM, name) for name in ("features", "head"))
        return ClosedForm.of(self.model, self.scale) if own else None

    def training_step(self, batch: Any, batch_idx: int = 0) -> Tensor:
        """The loss of one batch, after whole steps on those before it where they may be made at once."""
        rows, trainer = as_batch(batch, self.head.link), cast(Any, self._trainer)
        if trainer is not None and self._epoch != trainer.current_epoch:
            self._prepare()
        if trainer is not None and self._ahead is not None:
            rows = self._ahead(rows)
        loss = self._objective(rows)
        self._seen.move(self.train_loss)
        if trainer is not None and (every := trainer.log_every_n_steps):
            if batch_idx == 0 or (trainer.global_step + 1) % every == 0:  # for the bar, and for loggers
                self.log(
                    "train_loss_step", loss.detach() * self.scale, on_step=True, prog_bar=True, batch_size=_length(rows)
                )
        return loss

    def _stepper(self) -> Callable[[GLMBatch], None]:
        """What makes the gradient for a batch and the step of the optimizer, as the Trainer would."""
        optimizer, seen, watched = self.trainer.optimizers[0], self._seen, self.watched
        closed, move = self._closed if self.penalty is None else None, stepper(self.trainer.optimizers[0])

        def step(rows: GLMBatch) -> None:
            if closed is not None and closed.takes(rows):
                found = closed(rows, watched)
                closed.write(found)
                seen.add(found.total, found.weight)
            else:
                optimizer.zero_grad()
                self._objective(rows).backward()
            move()

        return step

    def _objective(self, rows: GLMBatch) -> Tensor:
        """The loss to go down, with its graph."""
        closed = self._closed_form() if self._trainer is None else self._closed
        if closed is not None and closed.takes(rows):
            found = closed(rows, self.watched)
            loss = closed.loss(found)
            self._seen.add(found.total, found.weight)
        else:
            total, weight = self._loss(rows, self.features(readable(rows.x, rows.roles)))
            loss = total / shared(weight) / self.scale
            self._seen.add(total.detach(), weight)
        return loss if self.penalty is None else loss + self.penalty(self.model) / self.scale

    def on_train_epoch_end(self) -> None:
        """Log the mean loss of the epoch, every row weighted as it is."""
        self._ahead, self._closed, self._epoch = None, None, -1
        if self.watched:
            self.log("train_loss", self.train_loss.compute(), sync_dist=True)  # the same on all ranks
            self.train_loss.reset()

    def on_train_end(self) -> None:
        """Estimate the dispersion, for what the head was trained to."""
        if self.watched and not self.settled:
            spread_over(self.trainer, self)

    def validation_step(self, batch: Any, batch_idx: int = 0, dataloader_idx: int = 0) -> None:
        """Sums of one batch."""
        self._score("val", as_batch(batch, self.head.link), dataloader_idx)

    def test_step(self, batch: Any, batch_idx: int = 0, dataloader_idx: int = 0) -> None:
        """Sums of one batch."""
        self._score("test", as_batch(batch, self.head.link), dataloader_idx)

    def predict_step(self, batch: Any, batch_idx: int = 0, dataloader_idx: int = 0) -> Tensor:
        """The means of one batch, `(n,)` for one response, else `(n, responses)`; of classes `(n, C)`."""
        rows = as_batch(batch, self.head.link)
        return squeezed(self.head, self(rows.x, rows.offset))

    def configure_optimizers(self) -> Any:
        """The optimizer, and the scheduler with its interval."""
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        rate = self.lr or (1e-2 if self._split[0] is None else 1e-3)
        optimizer = Adam(trained, lr=rate) if self.optimizer is None else self.optimizer(trained)
        for group in optimizer.param_groups if self.lr is not None else ():
            group["lr"] = self.lr
        if self.scheduler is None:
            return optimizer
        schedule = self.scheduler(optimizer)
        plan: dict[str, Any] = {"scheduler": schedule, "interval": self.scheduler_interval}
        if isinstance(schedule, ReduceLROnPlateau):
            plan["monitor"] = "val_loss"
        return {"optimizer": optimizer, "lr_scheduler": plan}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what a head alone is made of, as plain data, so that loading needs no module."""
        if self.model is self.head:
            checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY] = {"model": config_of(self.head)}

    def _usual_metrics(self) -> dict[str, Metric | MakeMetric]:
        """Those of `mean_metrics`, and D2 where all responses have one null model."""
        family = self.head.family
        apart = isinstance(family, VectorFamily) or any(value.dim() for value in family.shapes.values())
        return {**mean_metrics(self.head)} if apart else {**mean_metrics(self.head), "d2": D2}

    def _make_metrics(self) -> dict[str, Metric]:
        """New metrics of one loader."""
        made = {name: metric_of(self.head, metric) for name, metric in self._wanted.items()}
        return {"loss": WeightedMean(), **made}

    def _loss(self, rows: GLMBatch, features: Tensor) -> tuple[Tensor, Tensor]:
        """The weighted sum of the negative log-likelihood, and the weight."""
        if rows.y is None:
            raise ValueError("A batch without y cannot be trained or scored on. Give y, or call predict.")
        loss, weight = self.head.training_loss(features, rows.y, **rows.roles.given)
        return loss.sum(), weight.sum()

    def _score(self, stage: str, rows: GLMBatch, loader: int) -> None:
        features = self.features(readable(rows.x, rows.roles))
        total, weight = self._loss(rows, features)
        mu, y, given = predicted(self.head, features, rows)
        for name, metric in self.metrics.of(self, stage, loader).items():
            if name == "loss":
                metric.update(total, weight)
            elif isinstance(metric, D2) and not metric.takes(rows.offset):
                continue
            else:
                metric.update(mu, y, **metric._filter_kwargs(**given))
            if self._trainer is not None:
                self.log(
                    f"{stage}_{name}",
                    metric,
                    on_step=False,
                    on_epoch=True,
                    prog_bar=name == "loss",
                    batch_size=_length(rows),
                )


def _length(rows: GLMBatch) -> int:
    return 1 if rows.y is None else rows.y.shape[0]
