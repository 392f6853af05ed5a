"""Seconds on a device, and the yardstick of a pass: a copy from device memory to device memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch


@dataclass
class Line:
    """A line of the table: the seconds of one run (median and least of `runs`), and figures with their units."""

    section: str
    case: str
    seconds: float
    least: float
    runs: int
    figures: dict[str, float] = field(default_factory=dict)
    note: str = ""


@dataclass
class Clock:
    """Times work on a device until a deadline (of `time.perf_counter`); `made` is what the last run returned."""

    device: torch.device
    deadline: float
    made: Any = None

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.perf_counter()

    def once(self, work: Callable[[], Any]) -> float:
        """Seconds of one run, from an idle device to an idle device."""
        self.made = None
        self.wait()
        start = time.perf_counter()
        self.made = work()
        self.wait()
        return time.perf_counter() - start

    def times(self, work: Callable[[], Any], runs: int, warm: bool = True) -> list[float]:
        """Seconds of as many of `runs` as the deadline allows, one at least, after one that is not counted."""
        if warm:
            self.once(work)
        seconds = [self.once(work)]
        while len(seconds) < runs and self.left > seconds[-1]:
            seconds.append(self.once(work))
        return seconds

    def line(
        self, section: str, case: str, work: Callable[[], Any], runs: int = 5, warm: bool = True, note: str = ""
    ) -> Line:
        """The times of `work` as a line of the table."""
        seconds = self.times(work, runs, warm)
        return Line(section, case, median(seconds), min(seconds), len(seconds), note=note)


def copy_bandwidth(clock: Clock, size: int) -> float:
    """Bytes a second, those read and those written, of a copy of `size` bytes within the device."""
    source = torch.rand(size // 8, dtype=torch.float64, device=clock.device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / min(clock.times(lambda: target.copy_(source), 10))


def free_memory(device: torch.device) -> int:
    """Bytes that are free on the device; on a CPU a fixed gigabyte."""
    if device.type != "cuda":
        return 1 << 30
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info(device)[0]
