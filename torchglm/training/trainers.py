"""Trainers of Lightning for trainings that torchglm starts itself: quiet, with a rate that falls to zero."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from torchglm.rows.ranks import Ranks
from torchglm.training.checkpointing import train
from torchglm.training.lit_glm import LitGLM
from torchglm.training.sgd_loop import cosine

EPOCHS = 20
QUIET: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def train_network(
    network: nn.Module,
    batches: Any,
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
    trainer: Mapping[str, Any],
    decay: bool = True,
    kept: Path | None = None,
) -> int:
    """Train a network that ends in a head, in place, under a Trainer of these arguments; the epochs made.

    `decay` brings the learning rate to zero along half a cosine; `kept` is the file that holds the state after each
    epoch, and from which training goes on where it is there.
    """
    where = next(network.parameters()).device
    lit = LitGLM(network, optimizer, metrics={}, scheduler_interval="step")
    with hushed(True):
        chosen = trainer_on(where, dict(trainer), Ranks())
        lit.scheduler = cosine_schedule(chosen) if decay else None
        train(chosen, lit, batches, kept)
    return chosen.current_epoch


def cosine_schedule(trainer: Trainer) -> Callable[[Optimizer], LambdaLR]:
    """A learning rate that falls to zero over the steps the trainer will make, known once it has begun."""

    def schedule(optimizer: Optimizer) -> LambdaLR:
        steps = trainer.estimated_stepping_batches
        return LambdaLR(optimizer, lambda step: cosine(step, steps))

    return schedule


def trainer_on(where: torch.device, given: dict[str, Any], ranks: Ranks) -> Trainer:
    """A Trainer on a device, of these arguments, that says nothing unless they ask for it.

    Raises `ValueError` where they ask for processes of Lightning's own: the passes before and after know of none.
    """
    place: dict[str, Any] = {"accelerator": "cpu", "devices": 1}
    if where.type == "cuda":
        place = {"accelerator": "gpu", "devices": [where.index or 0]}
    if ranks.size > 1:  # those that torchrun started: Lightning joins them
        here = int(os.environ.get("LOCAL_WORLD_SIZE", ranks.size))
        place |= {"devices": here, "num_nodes": ranks.size // here, "strategy": "ddp"}
    epochs = {} if "max_steps" in given or "max_time" in given else {"max_epochs": EPOCHS}
    made = Trainer(**{**QUIET, **place, **epochs, **given})
    asked = made.num_devices * made.num_nodes
    if asked != ranks.size:
        raise ValueError(
            f"devices and num_nodes of the trainer ask for {asked} processes, and there are {ranks.size}. Leave them "
            "out: training is in this process, or in those that torchrun started."
        )
    return made


@contextmanager
def hushed(quiet: bool) -> Iterator[None]:
    """No advice from Lightning while `quiet`: errors only."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")] if quiet else []
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            if quiet:
                warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
