"""Predictive: what a network says of new rows, as one module that can be exported."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from torchglm.families.several import BetaBinomial, Classes
from torchglm.inference.levels import check_level
from torchglm.model.network import split
from torchglm.writing.answering import answering_init
from torchglm.writing.short import Short


@answering_init
class Predictive(nn.Module, metaclass=Short):
    """`Predictive(network, level=0.9)(x)`: a dict of `mean`, and with `level` of the ends `low` and `high`.

    Between these a response lies with that probability. Of classes it holds `probabilities` `(*N, C)` alone. One
    response is `(*N)`, several `(*N, out_features)`. `network` is a `GLMHead` or a network with one, see `WithLoss`;
    binomial responses are shares, of one trial for the interval. `torch.export.export` takes it, and
    `torchglm.export(network, "model.onnx", level=0.9)` writes it.
    Raises `ValueError` for a model without a head, a level outside (0, 1), a dispersion that is not known yet, and an
    interval of a law of counts in trials.
    """

    def __init__(self, network: nn.Module, level: float | None = None, *, head: str | None = None) -> None:
        super().__init__()
        self.network, self.level, self.name = network, level, head
        own = split(network, head)[1]
        if level is not None:
            check_level(level)
            own.know_dispersion()
            if isinstance(own.family, BetaBinomial):
                raise ValueError("the interval of a beta-binomial response needs its trials: head.law(x, trials=...).")

    def forward(self, x: Any, offset: Tensor | None = None) -> dict[str, Tensor]:
        """The outputs by name; see `names`."""
        before, head = split(self.network, self.name)
        features = x if before is None else before(x)
        single = head.out_features == 1
        if isinstance(head.family, Classes):
            probabilities = head(features, offset)
            return {"probabilities": probabilities.squeeze(-2) if single else probabilities}
        found = {"mean": head(features, offset)}
        if self.level is not None:
            found["low"], found["high"] = head.law(features, offset).interval(self.level)
        return {name: value.squeeze(-1) if single else value for name, value in found.items()}

    @property
    def names(self) -> list[str]:
        """The names of the outputs, in their order."""
        if isinstance(split(self.network, self.name)[1].family, Classes):
            return ["probabilities"]
        return ["mean"] if self.level is None else ["mean", "low", "high"]
