"""Several minibatches in one step of a Trainer, wherever nothing looks at the steps between.

A step of the Trainer costs some 400 microseconds in hooks and counters, a minibatch of a linear head a tenth of that.
So a `LitGLM` makes whole steps of its own (gradient, optimizer, scheduler) on the batches it draws from the Trainer's
loader, and hands the Trainer the last one: the same updates in the same order, and the same counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint, RichProgressBar, Timer, TQDMProgressBar
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch.optim import LBFGS, Optimizer

from torchglm.inputs import GLMBatch, as_batch
from torchglm.links import Link

Step = Callable[[GLMBatch], None]

STEPS = 64  # minibatches of one step of the Trainer, at most
SECONDS = 0.2  # after which a group of slow steps ends, so that bars move and signals are heard

BATCH_HOOKS = (
    "on_train_batch_start",
    "on_train_batch_end",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
)
STEP_HOOKS = ("backward", "optimizer_step", "optimizer_zero_grad", "configure_gradient_clipping", "lr_scheduler_step")
PATIENT = (ModelCheckpoint, TQDMProgressBar, RichProgressBar, Timer)  # batch hooks that may come late, see `room`


def may_fuse(trainer: Any, module: LightningModule, mixed: bool) -> bool:
    """Whether whole steps of one's own are the steps the Trainer would make; `mixed`: under bf16-mixed too."""
    optimizers = trainer.optimizers
    plain = all(getattr(type(module), name) is getattr(LightningModule, name) for name in (*BATCH_HOOKS, *STEP_HOOKS))
    precise = trainer.precision in ("32-true", "64-true") or mixed and trainer.precision == "bf16-mixed"
    stepped = [config for config in trainer.lr_scheduler_configs if config.interval == "step"]
    return (
        plain
        and precise
        and len(optimizers) == 1
        and _steps_by_gradient(optimizers[0])
        and trainer.accumulate_grad_batches == 1
        and not trainer.gradient_clip_val
        and type(trainer.strategy) is SingleDeviceStrategy
        and type(trainer.profiler) is PassThroughProfiler
        and not trainer.fast_dev_run
        and not trainer._detect_anomaly
        and not any(config.reduce_on_plateau for config in stepped)
        and all(_is_patient(callback) for callback in trainer.callbacks)
    )


def _places_batches_itself(trainer: Any, module: LightningModule) -> bool:
    """Whether a batch is moved to the device on its way, and nothing else happens to it."""
    chooser = trainer._data_connector._datahook_selector
    hooks = ("on_before_batch_transfer", "on_after_batch_transfer", "transfer_batch_to_device")
    return (
        chooser is not None
        and type(trainer.precision_plugin).convert_input is Precision.convert_input
        and all(chooser.get_instance(name) is module for name in hooks)
        and all(getattr(type(module), name) is getattr(LightningModule, name) for name in hooks)
    )


def _steps_by_gradient(optimizer: Optimizer) -> bool:
    """Whether a step reads gradients that are there, as those of torch do; LBFGS makes its own."""
    hooks = optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks
    return type(optimizer).__module__.startswith("torch.optim") and not isinstance(optimizer, LBFGS) and not any(hooks)


def _is_patient(callback: Callback) -> bool:
    if isinstance(callback, LearningRateMonitor):
        return callback.logging_interval == "epoch"
    return type(callback) in PATIENT or all(
        getattr(type(callback), name) is getattr(Callback, name) for name in BATCH_HOOKS
    )


class FusedSteps:
    """Makes the steps before the one the Trainer makes.

    `stepper` gives what makes a whole step on a batch but for the schedulers. Called with the batch at hand, it
    returns the batch for the Trainer, the last of a group that ends where the Trainer or a callback looks again.
    """

    def __init__(self, trainer: Any, module: LightningModule, stepper: Callable[[], Step], link: Link) -> None:
        self.trainer, self.module, self.stepper, self.link = trainer, module, stepper, link
        self.direct = _places_batches_itself(trainer, module)
        self.saves = [
            callback._every_n_train_steps
            for callback in trainer.callbacks
            if isinstance(callback, ModelCheckpoint) and callback._every_n_train_steps > 0
        ]
        self.schedules = [config for config in trainer.lr_scheduler_configs if config.interval == "step"]

    def __call__(self, batch: GLMBatch) -> GLMBatch:
        fetcher: Any = self.trainer.fit_loop._data_fetcher
        room, made, until = self._room(), 0, time.monotonic() + SECONDS
        step = self.stepper() if room > 1 else None
        while step is not None and made < room - 1 and not fetcher.done and time.monotonic() < until:
            try:
                coming = next(fetcher)[0]
            except StopIteration:  # of a loader that gave fewer batches than its length
                break
            step(batch)
            made += 1
            self._schedule(made)
            batch = self._placed(coming)
        if made:
            self._count(made, fetcher.done)
        return batch

    def _room(self) -> int:
        """Steps to the next one that is looked at, that one included; the last of an epoch stands alone for bars."""
        trainer, loop = self.trainer, self.trainer.fit_loop.epoch_loop
        begun = loop.batch_progress.current.ready  # this batch included
        left = [STEPS, trainer.num_training_batches - begun]
        if trainer.max_steps > 0:
            left.append(trainer.max_steps - trainer.global_step)
        if trainer.loggers and trainer.log_every_n_steps:
            left.append(_to_multiple(loop._batches_that_stepped, trainer.log_every_n_steps))
        if trainer.val_check_batch not in (None, float("inf")):
            each = trainer.check_val_every_n_epoch is None
            left.append(_to_multiple(loop.total_batch_idx if each else begun - 1, int(trainer.val_check_batch)))
        left.extend(_to_multiple(trainer.global_step, every) for every in self.saves)
        return int(max(1, min(left)))

    def _placed(self, batch: Any) -> GLMBatch:
        """A batch as the Trainer places it."""
        if self.direct:
            return as_batch(batch, self.link).to(self.module.device)
        batch = self.trainer.precision_plugin.convert_input(batch)
        batch = self.module._on_before_batch_transfer(batch, dataloader_idx=0)
        return as_batch(self.trainer.strategy.batch_to_device(batch, dataloader_idx=0), self.link)

    def _schedule(self, made: int) -> None:
        if not self.schedules:
            return
        loop = self.trainer.fit_loop.epoch_loop
        for config in self.schedules:
            if (loop.batch_idx + made) % config.frequency == 0:
                self.module.lr_scheduler_step(config.scheduler, None)
                loop.scheduler_progress.increment_by(1)

    def _count(self, made: int, last: bool) -> None:
        """Tell the Trainer of steps it did not make."""
        loop = self.trainer.fit_loop.epoch_loop
        loop.batch_progress.increment_by(made, is_last_batch=last)
        optimizer = loop.automatic_optimization.optim_progress.optimizer
        optimizer.step.increment_by(made)
        optimizer.zero_grad.increment_by(made)
        loop._batches_that_stepped += made


def _to_multiple(done: int, every: int) -> int:
    """Steps from `done` to the next multiple of `every`."""
    return every - done % every
