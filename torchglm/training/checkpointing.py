"""Trainings on disk: one that can be killed keeps its state after each epoch, and checkpoints are loaded again."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerStatus
from torch import nn

from torchglm.families import Family
from torchglm.links import Link
from torchglm.training.lit_glm import LitGLM
from torchglm.training.model_head import head_from
from torchglm.writing.files import replaced


class EpochCheckpoint(Callback):
    """Keeps a Lightning checkpoint in one file after each epoch: the old one stands until the new is on the disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            trainer.save_checkpoint(self.path)  # every process takes part, the first alone writes
            return
        with replaced(self.path) as draft:
            trainer.save_checkpoint(draft)


def train(trainer: Trainer, module: LightningModule, batches: Iterable[Any], kept: Path | None) -> None:
    """`trainer.fit`, from the state in the file `kept` where there is one, which holds that of the last epoch then.

    Raises KeyboardInterrupt where Lightning was interrupted, which would exit with code 1.
    """
    before = signal.getsignal(signal.SIGINT)
    try:
        if kept is None:
            trainer.fit(module, batches)
            return
        trainer.callbacks.append(EpochCheckpoint(kept))  # type: ignore[attr-defined]
        trainer.fit(module, batches, ckpt_path=kept if kept.is_file() else None)
    except SystemExit:
        if trainer.state.status != TrainerStatus.INTERRUPTED:
            raise
        signal.signal(signal.SIGINT, before)
        raise KeyboardInterrupt from None


def load_checkpoint(
    path: Path, model: nn.Module | None = None, family: Family | None = None, link: Link | None = None
) -> LitGLM:
    """The `LitGLM` of a checkpoint of Lightning; `model` is a module of the network's shape, where it holds a network.

    `family` and `link` are those of one's own, of a head. Raises ValueError where the file is not a whole checkpoint
    of a `LitGLM`, or of another module, family or link than those given.
    """
    if not path.is_file():
        raise ValueError(f"there is no checkpoint {path}. Give the file that the Trainer saved.")
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        weights, config = saved["state_dict"], saved.get(LitGLM.CHECKPOINT_HYPER_PARAMS_KEY)
        wanted = any(name.startswith("model.") for name in weights)
    except (OSError, EOFError, KeyError, AttributeError, TypeError, RuntimeError, UnpicklingError) as error:
        raise ValueError(f"{path} is not a whole checkpoint of Lightning ({type(error).__name__}: {error}).") from error
    if not wanted:
        raise ValueError(
            f"{path} is a checkpoint of another module than LitGLM. Its own load_from_checkpoint(path) reads it."
        )
    if config is None and model is None:
        raise ValueError(
            f"{path} holds the weights of a network. Say which: load(path, model=...) with a module of the same shape."
        )
    if model is not None and (family is not None or link is not None):
        raise ValueError("model= has its own family and link. Leave family= and link= out.")
    try:
        if model is None:
            model = head_from(config["model"], path, family, link)
        return LitGLM.load_from_checkpoint(path, map_location="cpu", weights_only=True, model=model)
    except KeyError as error:
        raise ValueError(f"{path} lacks {error}: another version of torchglm wrote it. Pass model=, a head.") from error
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit the module given: {error}") from error
