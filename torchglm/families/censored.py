"""Times as a response: which of them were seen, and which are known to be longer or to lie in an interval."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import constraints

from torchglm.families.row_error import RowError, refuse
from torchglm.rows.responses import Intervals, Response, Times
from torchglm.special.tracing import values_are_known


class Censored:
    """What families of times share: `event=` makes the response, and a censored time may be 0."""

    name: str
    support: constraints.Constraint
    intervals: bool = False  # True where `until=` may say in which interval a time lies

    def encode(
        self,
        y: Tensor,
        trials: Tensor | None = None,
        event: Tensor | None = None,
        until: Tensor | None = None,
    ) -> tuple[Response, Tensor | None]:
        refuse(self.name, trials=trials, until=None if self.intervals else until)
        if until is not None:
            if event is not None:
                raise ValueError(
                    "event= and until= both say which times are censored. Give until= alone: y itself for an event, "
                    "infinity for a right-censored time."
                )
            return Intervals(y, _ordered(y, until.to(y.dtype))), None
        if event is None:
            return y, None
        if values_are_known(event) and not bool(((event == 0) | (event == 1)).all()):
            raise ValueError("event must be 1 (the event was seen) or 0 (censored). Recode the column.")
        return Times(y, event.bool()), None

    def supports(self, y: Response) -> Tensor:
        if isinstance(y, Intervals):
            inside = torch.isfinite(y.size) & (y.size >= 0)
            return inside & (self.support.check(y.size) | (y.upper > 0))
        if isinstance(y, Times):
            return torch.where(y.event, self.support.check(y.size), y.size >= 0)
        return self.support.check(y)


def _ordered(y: Tensor, upper: Tensor) -> Tensor:
    """The ends of intervals. Raises `ValueError` at the first that is NaN or before its beginning."""
    bad = ~(upper >= y) & ~torch.isnan(y)  # what stands in for a row without weight is NaN
    if values_are_known(bad) and bool(bad.any()):
        place = bad.nonzero()[0].tolist()
        raise RowError(
            "until must be y for an event that was seen, or later, infinity for a right-censored time; ",
            place,
            f" has y = {float(y[tuple(place)]):g} and until = {float(upper[tuple(place)]):g}. Correct or drop it.",
        )
    return upper
