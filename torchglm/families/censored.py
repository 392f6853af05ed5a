"""Times as a response: which of them were seen, and which are known to be longer."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import constraints

from torchglm.families.numerics import values_are_known
from torchglm.rows.responses import Response, Times


class Censored:
    """What families of times share: `event=` makes the response, and a censored time may be 0."""

    name: str
    support: constraints.Constraint

    def encode(
        self, y: Tensor, trials: Tensor | None = None, event: Tensor | None = None
    ) -> tuple[Response, Tensor | None]:
        if trials is not None:
            raise ValueError(f"trials= is for Binomial and BetaBinomial, got it with {self.name}. Remove it.")
        if event is None:
            return y, None
        if values_are_known() and not bool(((event == 0) | (event == 1)).all()):
            raise ValueError("event must be 1 (the event was seen) or 0 (censored). Recode the column.")
        return Times(y, event.bool()), None

    def supports(self, y: Response) -> Tensor:
        if isinstance(y, Times):
            return torch.where(y.event, self.support.check(y.size), y.size >= 0)
        return self.support.check(y)
