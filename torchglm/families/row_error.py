"""The refusal of a row, which knows its number, so that who knows more of the rows can say it better."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class RowWarning(UserWarning):
    """Values that can be computed with, and are hardly meant."""


class RowError(ValueError):
    """A value that does not suit: the message is `before`, the row, `after`; `place` is `(row,)` or `(*B, row)`."""

    def __init__(self, before: str, place: Sequence[int], after: str) -> None:
        self.before, self.place, self.after = before, tuple(int(i) for i in place), after
        of = f" of model {self.place[:-1]}" if len(self.place) > 1 else ""
        super().__init__(f"{before}row {self.place[-1]}{of}{after}")

    def __reduce__(self) -> tuple[type[RowError], tuple[str, tuple[int, ...], str]]:
        return RowError, (self.before, self.place, self.after)  # as it crosses processes

    def moved(self, row: int) -> RowError:
        """The same of row number `row` of the data as they were given."""
        return RowError(self.before, [row], self.after)


FOR = {
    "trials": "Binomial and BetaBinomial",
    "event": "families of times",
    "until": "Weibull, LogNormal and LogLogistic",
}


def refuse(family: str, **given: Any) -> None:
    """Raise `ValueError` for what makes responses of other families, where it is given."""
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"{name}= is for {FOR[name]}, got it with {family}. Remove it.")
