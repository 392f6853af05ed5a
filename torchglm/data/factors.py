"""Factors: what one piece of a term knows after learning, and how it becomes columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .blocks import Block, Dense, Indicator
from .contrasts import coding_of, contrasts_of
from .expressions import Columns, Expression
from .frame import Frame
from .levels import category_column, codes
from .transforms import fields, plain, rich

if TYPE_CHECKING:
    import pyarrow as pa

UNSEEN = ("error", "reference")


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
    def learn(cls, expression: Expression, rows: Columns) -> Numeric:
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

    def block(self, frame: Frame, reduced: bool, unseen: str, counts: dict[str, int]) -> Block:
        """The columns as a block, at reduced rank without the first where they span the intercept."""
        columns = self.columns(frame)
        return Dense(columns[1:] if reduced and self.spans else columns)

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
    matrix `(levels, columns)` formulaic computes for it.
    """

    kind = "categorical"
    spans = True

    def __init__(
        self,
        expression: Expression,
        levels: list[Any],
        full: list[str],
        reduced: list[str],
        reference: int = 0,
        codings: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        self.expression = expression
        self.levels = levels
        self.full, self.reduced = full, reduced
        self.reference = reference
        self.codings = codings

    @classmethod
    def learn(cls, expression: Expression, levels: list[Any]) -> Categorical:
        """Code the given levels by the contrasts the expression names.

        Raises ValueError where the contrasts do not fit the levels.
        """
        name = expression.text
        levels = levels if expression.levels is None else expression.levels
        made = contrasts_of(expression.contrasts)
        if made is None:
            reduced = [f"{name}[T.{level}]" for level in levels[1:]]
            return cls(expression, levels, [f"{name}[{level}]" for level in levels], reduced)
        try:
            return cls(expression, levels, *coding_of(made, levels, name))
        except (ValueError, IndexError, AttributeError) as error:
            raise ValueError(f"The contrasts in {name!r} do not fit its levels {levels}: {error}") from None

    def block(self, frame: Frame, reduced: bool, unseen: str, counts: dict[str, int]) -> Block:
        """The coded columns over the frame's rows; otherwise as `codes`."""
        codes = self.codes(frame, unseen, counts)
        if self.codings is not None:
            coding = self.codings[reduced]
            return Dense([coding[codes, j] for j in range(coding.shape[1])])
        if not reduced:
            return Indicator(codes, len(self.levels))
        places = np.arange(len(self.levels)) - (np.arange(len(self.levels)) > self.reference)
        places[self.reference : self.reference + 1] = -1
        return Indicator(places[codes], len(self.levels) - 1)

    def codes(self, frame: Frame, unseen: str, counts: dict[str, int]) -> np.ndarray:
        """The index of each row's level, `(n,)` int64; `counts` is told the rows with unseen levels.

        Raises ValueError that names them where a level is not among the learned ones and `unseen="error"`.
        """
        column = category_column(self.expression, frame)
        found = codes(column, self.levels)
        new = found < 0
        if not new.any():
            return found
        if unseen == "error":
            raise ValueError(self._unseen(column, new, frame))
        counts[self.expression.text] = int(new.sum())
        return np.where(new, self.reference, found)

    def _unseen(self, column: pa.ChunkedArray, new: np.ndarray, frame: Frame) -> str:
        import pyarrow as pa

        values = column.filter(pa.array(new)).unique().to_pylist()
        known = ", ".join(map(repr, self.levels[:8])) + (", …" if len(self.levels) > 8 else "")
        listed = ", ".join(map(repr, values[:5])) + (", …" if len(values) > 5 else "")
        return (
            f"{self.expression.text!r} has {int(new.sum())} rows with unknown levels: {listed}; "
            f"the first is row {frame.row(int(new.argmax()))}. Known levels: {known}. "
            "Leave these rows out, or code them as the reference level with unseen='reference'."
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        codings = None if self.codings is None else [coding.tolist() for coding in self.codings]
        names = {} if self.codings is None else {"full": self.full, "reduced": self.reduced}
        return {
            "kind": self.kind,
            "levels": self.levels,
            "reference": self.reference,
            "codings": codings,
            **names,
        }

    @classmethod
    def from_dict(cls, expression: Expression, data: dict[str, Any]) -> Categorical:
        """The inverse of `to_dict`."""
        levels, reference, name = list(data["levels"]), int(data["reference"]), expression.text
        if data["codings"] is None:
            reduced = [f"{name}[T.{level}]" for i, level in enumerate(levels) if i != reference]
            return cls(expression, levels, [f"{name}[{level}]" for level in levels], reduced, reference)
        whole, part = (np.asarray(coding, np.float64).reshape(len(levels), -1) for coding in data["codings"])
        return cls(expression, levels, list(data["full"]), list(data["reduced"]), reference, (whole, part))


Factor = Numeric | Categorical
