"""Processes of torchrun: joined where there are several, so that they share the rows of one fit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from torchglm.rows.ranks import Ranks, answered

if TYPE_CHECKING:
    from torchglm.cli.schema import Job

TOLD = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what torchrun tells each process


def launched() -> tuple[int, int]:
    """The rank of this process among those of torchrun, and how many there are; (0, 1) without it."""
    if not all(name in os.environ for name in TOLD):
        return 0, 1
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


@contextmanager
def joined(job: Job) -> Iterator[Ranks]:
    """Within it the processes of torchrun are one group, by gloo and where each has a GPU of its own NCCL.

    A process with a GPU takes that of its number; the device of the job is set to it. Raises ValueError for a solver
    that cannot share, and for groups.
    """
    size = launched()[1]
    if size == 1:
        yield Ranks()
        return
    if not job.solver.shares or job.data.groups:
        what = "data.by holds all rows in one process" if job.solver.shares else "this solver does not share rows out"
        raise ValueError(f"torchrun started {size} processes, but {what}. Start one: torchglm fit ...")
    backend = "gloo"
    if job.where.type == "cuda":
        own, here = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        cards = torch.cuda.device_count()
        backend = "cpu:gloo,cuda:nccl" if here <= cards else "gloo"
        torch.cuda.set_device(own % cards)
        job.device = f"cuda:{own % cards}"
    with answered(f"the {size} processes of torchrun did not all come within {job.timeout:g} s"):
        dist.init_process_group(backend, timeout=timedelta(seconds=job.timeout))
    try:
        yield Ranks.here()
    finally:
        dist.destroy_process_group()
