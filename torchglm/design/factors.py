"""Factors: what one piece of a term knows after learning, and how it becomes columns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from typing import Any

import numpy as np

from torchglm.design.blocks import Block, Indicator, Written
from torchglm.design.contrasts import coding_of, contrasts_of
from torchglm.design.expressions import Expression, HasColumns
from torchglm.design.frame import Frame
from torchglm.design.levels import category
from torchglm.design.random import Grouped
from torchglm.design.transforms import fields, plain, rich
from torchglm.design.values import Coded, kind_of, spelled
from torchglm.design.values import plain as written
from torchglm.design.values import rich as read

UNSEEN = ("error", "reference", "other")
OTHER = "other"  # the level that rare levels are pooled into


@dataclass(frozen=True)
class Pool:
    """The levels of a category that were too rare to keep, and how many rows they had together."""

    levels: list[Any]
    rows: int

    @classmethod
    def of(cls, seen: dict[Any, int], levels: list[Any], rare: int) -> Pool | None:
        """The pool of the levels with fewer than `rare` rows (and of one called "other"); None where it is empty."""
        if not rare:
            return None
        few = [level for level in levels if seen[level] < rare or level == OTHER]
        return cls(few, sum(seen[level] for level in few)) if few else None


class Numeric:
    """A factor of numbers: one column, or several from a transform such as `bs`.

    `names` are the column names, `spans` says whether the columns together span the intercept, and `state`
    is what stateful transforms learned.
    """

    kind = "numeric"

    def __init__(
        self,
        expression: Expression,
        names: list[str],
        spans: bool = False,
        state: dict[str, Any] | None = None,
    ) -> None:
        self.expression = expression
        self.full, self.reduced = names, names[1:] if spans else names
        self.spans = spans
        self.state = state or {}

    @classmethod
    def learn(cls, expression: Expression, rows: HasColumns) -> Numeric:
        """Learn the state of stateful transforms from all rows at once; other expressions learn nothing."""
        name, state = expression.text, dict[str, Any]()
        if not expression.learns:
            return cls(expression, [name])
        found, _, spans = fields(expression.evaluate(rows, state))
        names = [name] if found is None else [f"{name}[{field}]" for field in found]
        return cls(expression, names, spans, state)

    def columns(self, frame: Frame) -> list[np.ndarray]:
        """All columns over the frame's rows, `(n,)` float64 each; ValueError where one is not finite."""
        _, columns, _ = fields(self.expression.evaluate(frame, self.state))
        if len(columns) != len(self.full):
            text = self.expression.text
            raise ValueError(f"{text!r} gave {len(columns)} columns, expected {len(self.full)}.")
        return [self._finite(column, frame) for column in columns]

    def blocks(self, frame: Frame, reduced: bool, unseen: str, counts: dict[str, int]) -> list[Block]:
        """The columns as a block, at reduced rank without the first where they span the intercept."""
        columns = self.columns(frame)
        return [Written(columns[1:] if reduced and self.spans else columns)]

    def _finite(self, column: np.ndarray, frame: Frame) -> np.ndarray:
        text = self.expression.text
        if column.dtype == object or column.shape != (len(frame),):
            raise ValueError(f"{text!r} is not a column of numbers. Write C({text}) for categories.")
        column = column.astype(np.float64, copy=False)
        wrong = ~np.isfinite(column)
        if wrong.any():
            i = int(wrong.argmax())
            raise ValueError(
                f"{text!r} is not finite in {int(wrong.sum())} rows; the first is row {frame.row(i)}, "
                f"where it is {column[i]}. Change the transform, or leave these rows out."
            )
        return column

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"kind": self.kind, "names": self.full, "spans": self.spans, "state": plain(self.state)}

    @classmethod
    def from_dict(cls, expression: Expression, data: dict[str, Any]) -> Numeric:
        """The inverse of `to_dict`."""
        return cls(expression, list(data["names"]), bool(data["spans"]), rich(data["state"]))


class Categorical:
    """A factor of categories: its levels in order and how each is coded, in full and at reduced rank.

    Treatment coding (the default) is kept as the index of the reference level, any other contrast as the
    matrix `(levels, columns)` formulaic computes for it. Where rare levels were pooled, the last level is "other".
    """

    kind = "categorical"
    spans = True

    def __init__(
        self,
        expression: Expression | Grouped,
        levels: list[Any],
        full: list[str],
        reduced: list[str],
        reference: int = 0,
        codings: tuple[np.ndarray, np.ndarray] | None = None,
        pool: Pool | None = None,
    ) -> None:
        self.expression = expression
        self.levels = levels
        self.full, self.reduced = full, reduced
        self.reference = reference
        self.codings = codings
        self.pool = pool

    @classmethod
    def learn(cls, expression: Expression | Grouped, levels: list[Any], pool: Pool | None = None) -> Categorical:
        """Code the given levels by the contrasts the expression names; those of `pool` are one level, the last.

        Levels that the expression itself lists are taken as they are. Raises ValueError where the contrasts do not
        fit the levels.
        """
        name = expression.text
        if expression.levels is not None:
            levels, pool = [spelled(level, levels) for level in expression.levels], None
        if pool is not None:
            few = set(pool.levels)
            levels = [*(level for level in levels if level not in few), OTHER]
        made = contrasts_of(expression.contrasts)
        if made is None:
            reduced = [f"{name}[T.{level}]" for level in levels[1:]]
            return cls(expression, levels, [f"{name}[{level}]" for level in levels], reduced, pool=pool)
        try:
            labels = [level if isinstance(level, (str, int, float)) else str(level) for level in levels]
            factor = cls(expression, levels, *coding_of(made, labels, name))
        except (ValueError, IndexError, AttributeError) as error:
            raise ValueError(f"The contrasts in {name!r} do not fit its levels {levels}: {error}") from None
        factor.pool = pool
        return factor

    def blocks(self, frame: Frame, reduced: bool, unseen: str, counts: dict[str, int]) -> list[Block]:
        """The coded columns over the frame's rows; otherwise as `codes`."""
        codes = self.codes(frame, unseen, counts)
        if self.codings is not None:
            coding = self.codings[reduced]
            return [Written([coding[codes, j] for j in range(coding.shape[1])])]
        if not reduced:
            return [Indicator(codes, len(self.levels))]
        places = np.arange(len(self.levels)) - (np.arange(len(self.levels)) > self.reference)
        places[self.reference : self.reference + 1] = -1
        return [Indicator(places[codes], len(self.levels) - 1)]

    def codes(self, frame: Frame, unseen: str, counts: dict[str, int], none: bool = False) -> np.ndarray:
        """The index of each row's level, `(n,)` int64; `counts` is told the rows with unseen levels.

        With `none` a level that counts as the reference has no index at all: -1.

        Raises ValueError that names them where a level is not among the learned ones and `unseen="error"`, or
        `unseen="other"` and no rare levels were pooled.
        """
        column = category(self.expression, frame)
        places = map(self._places.get, column.values, repeat(-1))
        found = np.fromiter(places, np.int64, len(column.values))[column.codes]
        new = found < 0
        if not new.any():
            return found
        if unseen == "error" or (unseen == OTHER and self.pool is None):
            raise ValueError(self._unseen(column, new, frame, unseen))
        counts[self.expression.text] = int(new.sum())
        return np.where(new, len(self.levels) - 1 if unseen == OTHER else -1 if none else self.reference, found)

    @cached_property
    def _places(self) -> dict[Any, int]:
        """The index of each level, that of "other" for those pooled into it."""
        last = len(self.levels) - 1
        pooled = [] if self.pool is None else [*self.pool.levels, OTHER]
        return dict.fromkeys(pooled, last) | dict(zip(self.levels, range(len(self.levels)), strict=True))

    @property
    def said(self) -> str:
        """What it is called in messages."""
        return self.expression.name if isinstance(self.expression, Grouped) else self.expression.text

    def _unseen(self, column: Coded, new: np.ndarray, frame: Frame, unseen: str) -> str:
        values = [column.values[i] for i in dict.fromkeys(column.codes[new].tolist())]
        known = ", ".join(map(shown, self.levels[:8])) + (", …" if len(self.levels) > 8 else "")
        listed = ", ".join(map(shown, values[:5])) + (", …" if len(values) > 5 else "")
        lacks = "" if unseen != OTHER else "The fit pooled no rare levels of it, so 'other' has no coefficient. "
        also = ", or as 'other' with unseen='other'" if self.pool else ""
        grouped = isinstance(self.expression, Grouped)
        instead = "take effects of 0 for them" if grouped else "code them as the reference level"
        here, there = kind_of(values), kind_of(self.levels)
        other = "" if here == there else f"It holds {here} here, and held {there} in the fit: give it that type. "
        return (
            f"{self.said!r} has {int(new.sum())} rows with unknown levels: {listed}; "
            f"the first is row {frame.row(int(new.argmax()))}. Known levels: {known}. {lacks}{other}"
            f"Leave these rows out, or {instead} with unseen='reference'{also}."
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        codings = None if self.codings is None else [coding.tolist() for coding in self.codings]
        names = {} if self.codings is None else {"full": self.full, "reduced": self.reduced}
        return {
            "kind": self.kind,
            "levels": [written(level) for level in self.levels],
            "reference": self.reference,
            "codings": codings,
            **names,
            **({} if self.pool is None else _pool_dict(self.pool)),
        }

    @classmethod
    def from_dict(cls, expression: Expression | Grouped, data: dict[str, Any]) -> Categorical:
        """The inverse of `to_dict`."""
        levels, reference, name = [read(level) for level in data["levels"]], int(data["reference"]), expression.text
        pool = None
        if "pooled" in data:
            pool = Pool([read(level) for level in data["pooled"]], int(data["pooled_rows"]))
        if data["codings"] is None:
            reduced = [f"{name}[T.{level}]" for i, level in enumerate(levels) if i != reference]
            return cls(expression, levels, [f"{name}[{level}]" for level in levels], reduced, reference, pool=pool)
        whole, part = (np.asarray(coding, np.float64).reshape(len(levels), -1) for coding in data["codings"])
        return cls(expression, levels, list(data["full"]), list(data["reduced"]), reference, (whole, part), pool)


def shown(level: Any) -> str:
    """A level in a message: text in quotes, others as they are written."""
    return repr(level) if isinstance(level, (str, bytes)) else str(level)


def _pool_dict(pool: Pool) -> dict[str, Any]:
    return {"pooled": [written(level) for level in pool.levels], "pooled_rows": pool.rows}
