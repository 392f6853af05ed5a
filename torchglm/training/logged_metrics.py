"""Sums and scores of a module over its batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics import Metric


class Scores(nn.ModuleDict):
    """The metrics of each stage and loader, made by `make` when they are first asked for."""

    def __init__(self, make: Callable[[], Mapping[str, Metric]]) -> None:
        super().__init__()
        self.make = make

    def of(self, module: LightningModule, stage: str, loader: int) -> Any:
        """The metrics of a loader in a stage, by name; several loaders have theirs apart."""
        name = f"{stage}{loader}"
        if name not in self:
            self[name] = nn.ModuleDict(dict(self.make())).to(module.device)
            module._metric_attributes = None  # which Lightning looks up once
        return self[name]


class WeightedMean(Metric):
    """The sum of totals over the sum of weights, in float64; it never waits for the device."""

    full_state_update = False
    sums: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("sums", torch.zeros(2, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, total: Tensor, weight: Tensor) -> None:
        """Add a total and its weight, scalars."""
        self.sums = self.sums + torch.stack([total.detach().double(), weight.double()])

    def compute(self) -> Tensor:
        """The mean."""
        return self.sums[0] / self.sums[1]


class Seen:
    """Sums of steps that a metric has not taken yet; a metric takes as long as a step."""

    def __init__(self) -> None:
        self.total: Tensor | float = 0.0
        self.weight: Tensor | float = 0.0

    def add(self, total: Tensor | None, weight: Tensor | float) -> None:
        """Add a total and its weight, scalars; None is no total."""
        if total is not None:
            self.total = self.total + total.double()
            self.weight = self.weight + (weight.double() if isinstance(weight, Tensor) else weight)

    def move(self, metric: WeightedMean) -> None:
        """Give the sums to a metric, and begin anew."""
        if isinstance(self.total, Tensor):
            metric.update(self.total, torch.as_tensor(self.weight, device=self.total.device))
        self.total, self.weight = 0.0, 0.0
