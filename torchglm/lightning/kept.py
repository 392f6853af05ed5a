"""A training that can be killed: its state is kept after each epoch, whole at any moment, and taken up again."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerStatus


class Keep(Callback):
    """Keeps a Lightning checkpoint in one file after each epoch: the old one stands until the new is on the disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        part = self.path.with_name(f".{self.path.name}.part")
        trainer.save_checkpoint(part)  # every process takes part, the first writes
        if trainer.is_global_zero:
            with open(part, "rb") as file:
                os.fsync(file.fileno())
            os.replace(part, self.path)


def train(trainer: Trainer, module: LightningModule, batches: Iterable[Any], kept: Path | None) -> None:
    """`trainer.fit`, from the state in the file `kept` where there is one, which holds that of the last epoch then.

    Raises KeyboardInterrupt where Lightning was interrupted, which would exit with code 1.
    """
    before = signal.getsignal(signal.SIGINT)
    try:
        if kept is None:
            trainer.fit(module, batches)
            return
        trainer.callbacks.append(Keep(kept))  # type: ignore[attr-defined]
        trainer.fit(module, batches, ckpt_path=kept if kept.is_file() else None)
    except SystemExit:
        if trainer.state.status != TrainerStatus.INTERRUPTED:
            raise
        signal.signal(signal.SIGINT, before)
        raise KeyboardInterrupt from None
