"""Roles: what may stand beside `y` for each row, under the same names and in the same order at every door."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

import torch
from torch import Tensor

from torchglm.families.row_error import RowError
from torchglm.links import Link
from torchglm.special.tracing import values_are_known
from torchglm.writing.answering import refusal


class RoleValues(TypedDict, total=False):
    """The keywords of a door that takes every role: `**roles: Unpack[RoleValues]`."""

    weights: Any
    freq: Any
    offset: Any
    exposure: Any
    trials: Any
    event: Any
    until: Any


class Roles(NamedTuple):
    """What stands beside `y`, each one value for a row, the name of a column, or None where it is absent.

    `weights` are prior weights, `phi_i = phi / w_i`; `freq` says how often a row was seen; `offset` is added to the
    linear predictor, and so is the logarithm of `exposure`, where the link has rates; `trials` are binomial totals;
    `event` is 1 for a time that was seen and 0 for a censored one; `until` is the end of an interval that begins with
    `y`, in which the event of a time came: `y` itself for an event that was seen, infinity where it came later. A row
    of weight (or repeats) 0 is a dropped row.
    """

    weights: Any = None
    freq: Any = None
    offset: Any = None
    exposure: Any = None
    trials: Any = None
    event: Any = None
    until: Any = None

    @classmethod
    def of(cls, given: Mapping[str, Any], door: str, takes: Sequence[str] | None = None) -> Roles:
        """The roles a door was called with. Raises `TypeError` for a name that is none of them, or none it `takes`."""
        known = ROLES if takes is None else tuple(takes)
        strange = [
            name for name, value in given.items() if name not in known and (name not in ROLES or value is not None)
        ]
        if strange:
            raise TypeError(refusal(door, strange, known))
        return cls(**given)

    @property
    def given(self) -> dict[str, Any]:
        """Name -> value, of the roles that are there, in their order."""
        return {name: value for name, value in zip(ROLES, self, strict=True) if value is not None}

    @property
    def columns(self) -> dict[str, str]:
        """Name -> column, of the roles that are names of columns."""
        return {name: value for name, value in self.given.items() if isinstance(value, str)}

    def map(self, change: Callable[[str, Any], Any]) -> Roles:
        """These roles with `change(name, value)` in the place of each value."""
        return Roles(*(value if value is None else change(ROLES[i], value) for i, value in enumerate(self)))

    def without(self, *names: str) -> Roles:
        """These roles but for some."""
        return Roles(**{name: value for name, value in self.given.items() if name not in names})

    @property
    def context(self) -> dict[str, Any]:
        """What a result remembers of the roles its rows had."""
        given = self.given
        return {
            "offset": [name for name in ("offset", "exposure") if name in given],
            "event": "event" in given or "until" in given,
            "trials": "trials" in given,
            "freq": "freq" in given,
            "weights": "weights" in given,
        }

    # of tensors, one value for each row -------------------------------------------------------------------

    @property
    def weight(self) -> Tensor | None:
        """`weights * freq`, the whole weight of a row but for trials; None where all are 1."""
        if self.weights is None or self.freq is None:
            return self.freq if self.weights is None else self.weights
        one, other = paired(self.weights, self.freq, "weights", "freq")
        return one * other

    def check_link(self, link: Link) -> None:
        """Raise `ValueError` where an exposure has no meaning: it multiplies a rate."""
        if self.exposure is not None and not link.rates:
            raise ValueError(
                f"exposure needs a link on whose scale rates multiply (log, cloglog), got {link.name}. "
                "Use link='log', or pass offset= on the scale of the linear predictor."
            )

    def shift(self, used: Tensor | None = None, wait: bool = False) -> Tensor | None:
        """`offset + log(exposure)`, what is added to the linear predictor; None where neither is there.

        Raises `ValueError` at the first row, of those `used`, whose exposure is not finite and above 0. By default
        those of positive weight are, and rows on a GPU are looked at only with `wait`, so that no step stands still.
        """
        if self.exposure is None:
            return self.offset
        logs = self.exposure.log()
        look = values_are_known(logs) and (wait or used is not None or not logs.is_cuda)
        if look and not bool(torch.isfinite(logs).all()):
            self._refuse_exposure(used)
        if self.offset is None:
            return logs
        one, other = paired(self.offset, logs, "offset", "exposure")
        return one + other

    def _refuse_exposure(self, used: Tensor | None) -> None:
        exposure, weight = self.exposure, self.weight if used is None else used
        bad = ~(exposure > 0) | torch.isinf(exposure)
        if weight is not None:
            exposure, weight = paired(exposure, weight, "exposure", "weights")
            bad, exposure = bad.reshape(exposure.shape) & (weight > 0), exposure.expand_as(weight)
        if used is None and bad.dim() == 2:  # of a batch (n, R), whose responses a refusal counts first
            bad, exposure = (value.mT if value.shape[1] > 1 else value[:, 0] for value in (bad, exposure))
        if bool(bad.any()):
            place = bad.nonzero()[0].tolist()
            raise RowError(
                "exposure must be finite and > 0; ",
                place,
                f" has {float(exposure[tuple(place)]):g}. A row without exposure carries no information: drop it.",
            )

    def readable(self, y: Tensor, used: Tensor) -> tuple[Tensor, Roles]:
        """`y` and these roles as a family can encode them: where it could not, in rows not `used`, `y` is NaN."""
        if self.trials is None and self.event is None and self.until is None:
            return y, self
        changed = {}
        if self.trials is not None:
            good = used | ((self.trials >= y.clamp(min=0)) & (self.trials < torch.inf))
            changed["trials"], y = torch.where(good, self.trials, 1.0), torch.where(good, y, torch.nan)
        if self.event is not None:
            good = used | (self.event == 0) | (self.event == 1)
            changed["event"], y = torch.where(good, self.event, 1.0), torch.where(good, y, torch.nan)
        if self.until is not None:
            good = used | (self.until >= y)
            changed["until"], y = torch.where(good, self.until, y), torch.where(good, y, torch.nan)
        return y, self.map(lambda name, value: changed.get(name, value))

    @property
    def of_response(self) -> dict[str, Any]:
        """What a family encodes the response with."""
        return {"trials": self.trials, "event": self.event, "until": self.until}


ROLES = Roles._fields


def paired(one: Tensor, other: Tensor, name: str, beside: str) -> tuple[Tensor, Tensor]:
    """Two values for each row in shapes that meet: `(n,)` and `(n, 1)` are one column, which meets `(n, R)`.

    Raises `ValueError` for shapes that do not, of which nothing is broadcast.
    """
    if one.shape == other.shape or not one.dim() or not other.dim():
        return one, other
    if one.dim() < other.dim():
        one = one.unsqueeze(-1)
    elif other.dim() < one.dim():
        other = other.unsqueeze(-1)
    if (
        one.shape[:-1] != other.shape[:-1]
        or one.shape[-1] != other.shape[-1]
        and 1 not in (one.shape[-1], other.shape[-1])
    ):
        raise ValueError(
            f"{name} has shape {tuple(one.shape)} and {beside} {tuple(other.shape)}. Pass one value of each for a row."
        )
    return one, other
