"""Plain training of a head by its gradient in closed form: a loop without a Trainer, for runs that ask for none.

A Trainer takes some 35 microseconds a minibatch even where it takes many at once, as long as the gradient itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch.optim import Optimizer

from torchglm.inputs import as_batch
from torchglm.training.closed_form import ClosedForm, stepper


def cosine(step: int, steps: float) -> float:
    """The share of the learning rate at a step: along half a cosine from 1 to 0."""
    return (1 + math.cos(math.pi * min(1.0, step / steps))) / 2


@torch.no_grad()
def descend(
    closed: ClosedForm, optimizer: Optimizer, batches: Iterable[Any], epochs: int, most: int, decay: bool
) -> tuple[int, int]:
    """Make the steps of a Trainer over `epochs` epochs, at most `most` steps (below 0: all); epochs begun, steps made.

    `decay` brings the learning rate to zero along half a cosine. Batches are moved to the device of the head.
    """
    move, done, device = stepper(optimizer), 0, closed.device
    rates = [(group, float(group["lr"])) for group in optimizer.param_groups]
    every = len(batches) * epochs  # type: ignore[arg-type]
    steps = every if most < 0 else min(every, most)
    for epoch in range(epochs):
        if hasattr(batches, "set_epoch"):
            batches.set_epoch(epoch)
        for batch in batches:
            if done == steps:
                return epoch + 1, done
            rows = as_batch(batch, closed.link)
            closed.write(closed(rows.to(device), loss=False))
            if decay:
                for group, rate in rates:
                    group["lr"] = rate * cosine(done, steps)
            move()
            done += 1
    return epochs, done
