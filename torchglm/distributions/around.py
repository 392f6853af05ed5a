"""The tails of a law around a response: just below it and at it, so that atoms show."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution

from torchglm.distributions.tails import log_tails
from torchglm.rows.responses import Response, Times, size_of

Tails = tuple[Tensor, Tensor]  # F and 1 - F, each to full relative precision


def tails_around(law: Distribution, y: Response) -> tuple[Tails, Tails]:
    """`F` and `1 - F` just below `y` and at `y`; NaN for counts that are not whole.

    A censored time is only known to be longer: its tails are those at the time and at infinity.
    """
    value, support = size_of(y), law.support
    if support is not None and support.is_discrete:
        count = value.round()
        count = torch.where((value - count).abs() > 1e-6 * (1 + count), torch.nan, count)  # no such count exists
        return tails_of(law, count - 1), tails_of(law, count)
    at, over = tails_of(law, value)
    if isinstance(y, Times):
        return (at, over), (torch.where(y.event, at, 1.0), torch.where(y.event, over, 0.0))
    atom = (value == 0) & (at > 0)
    return (torch.where(atom, 0.0, at), torch.where(atom, 1.0, over)), (at, over)


def tails_of(law: Distribution, value: Tensor) -> Tails:
    """`F` and `1 - F` at a value."""
    lower, upper = log_tails(law, value)
    return lower.exp(), upper.exp()
