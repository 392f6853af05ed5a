"""Factors: what one piece of a term knows after learning, and how it becomes columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .blocks import Block, Dense, Indicator
from .expressions import Columns, Expression, contrasts_of
from .frame import Frame
from .transforms import fields

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
        return {"kind": self.kind, "names": self.full, "spans": self.spans, "state": _plain(self.state)}

    @classmethod
    def from_dict(cls, expression: Expression, data: dict[str, Any]) -> Numeric:
        """The inverse of `to_dict`."""
        return cls(expression, list(data["names"]), bool(data["spans"]), _rich(data["state"]))


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
            return cls(expression, levels, *_coding(made, levels, name))
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

        Raises ValueError that names them where a level was not seen in training and `unseen="error"`.
        """
        column = category_column(self.expression, frame)
        codes = _codes(column, self.levels)
        new = codes < 0
        if not new.any():
            return codes
        if unseen == "error":
            raise ValueError(self._unseen(column, new, frame))
        counts[self.expression.text] = int(new.sum())
        return np.where(new, self.reference, codes)

    def _unseen(self, column: pa.ChunkedArray, new: np.ndarray, frame: Frame) -> str:
        import pyarrow as pa

        values = column.filter(pa.array(new)).unique().to_pylist()
        known = ", ".join(map(repr, self.levels[:8])) + (", …" if len(self.levels) > 8 else "")
        listed = ", ".join(map(repr, values[:5])) + (", …" if len(values) > 5 else "")
        return (
            f"{self.expression.text!r} has {int(new.sum())} rows with a level never seen in training: "
            f"{listed}; the first is row {frame.row(int(new.argmax()))}. Known levels: {known}. "
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


def category_column(expression: Expression, frame: Frame) -> pa.ChunkedArray:
    """The values to code: the Arrow column itself, or what the expression inside `C()` gives."""
    import pyarrow as pa

    if expression.column is None:
        return pa.chunked_array([pa.array(np.asarray(expression.evaluate(frame, {})))])
    column = frame.table.column(expression.column)
    kind = column.type
    if pa.types.is_temporal(kind) or pa.types.is_decimal(kind):
        return column.cast(pa.string())
    if pa.types.is_nested(kind) or pa.types.is_null(kind):
        raise ValueError(f"Column {expression.column!r} holds {kind}, which has no levels.")
    return column


def is_categorical(expression: Expression, kind: pa.DataType) -> bool:
    """Whether a plain column of an Arrow type is coded by levels: text and dictionaries are, numbers are not.

    Raises ValueError for types that are neither.
    """
    import pyarrow as pa

    if pa.types.is_dictionary(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return True
    if any(test(kind) for test in (pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating)):
        return False
    if pa.types.is_decimal(kind):
        return False
    name = expression.text
    raise ValueError(f"Column {name!r} holds {kind}. Derive numbers from it, or code it with C({name}).")


def found_levels(column: pa.ChunkedArray, seen: dict[Any, bool]) -> None:
    """Add the levels that occur in a column to `seen`; categories of a dictionary come in its order.

    The value says whether the level occurs: an unused category holds its place and is left out later.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    ordered = pa.types.is_dictionary(column.type)
    encoded = (column if ordered else column.dictionary_encode()).unify_dictionaries()
    if not encoded.num_chunks:
        return
    values = encoded.chunk(0).dictionary.to_pylist()
    used = set()
    for chunk in encoded.chunks:
        used.update(pc.unique(chunk.indices).to_pylist())
    for i, value in enumerate(values):
        seen[value] = seen.get(value, False) or i in used


def _codes(column: pa.ChunkedArray, levels: list[Any]) -> np.ndarray:
    """The index of each row's value among the levels, `(n,)` int64; -1 where it is none of them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    codes = np.empty(len(column), dtype=np.int64)
    start = 0
    for chunk in encoded.chunks:
        values = chunk.dictionary
        try:
            places = pc.index_in(values, value_set=pa.array(levels).cast(values.type))
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
            index = {level: i for i, level in enumerate(levels)}
            places = pa.array([index.get(value) for value in values.to_pylist()], pa.int32())
        place = pc.fill_null(places, -1).to_numpy(zero_copy_only=False)
        codes[start : start + len(chunk)] = place[chunk.indices.to_numpy(zero_copy_only=False)]
        start += len(chunk)
    return codes


def _coding(made: Any, levels: list[Any], name: str) -> tuple[Any, ...]:
    """Names (full, reduced), reference and coding matrices of formulaic's contrasts over the levels."""
    from formulaic.transforms.contrasts import Contrasts, CustomContrasts, TreatmentContrasts

    contrasts = made() if isinstance(made, type) else made
    contrasts = contrasts if isinstance(contrasts, Contrasts) else CustomContrasts(contrasts)
    names = []
    for reduced in (False, True):
        form = contrasts.get_factor_format(levels, reduced_rank=reduced)
        columns = contrasts.get_coding_column_names(levels, reduced_rank=reduced)
        names.append([form.format(name=name, field=column) for column in columns])
    if isinstance(contrasts, TreatmentContrasts):
        return *names, contrasts._find_base_index(levels)
    codings = tuple(
        np.asarray(contrasts.get_coding_matrix(levels, reduced_rank=reduced), dtype=np.float64)
        for reduced in (False, True)
    )
    return *names, 0, codings


def _plain(value: Any) -> Any:
    """A transform's state as JSON data: arrays and whole-number keys are marked."""
    if isinstance(value, np.ndarray):
        return {"@array": value.tolist()}
    if isinstance(value, dict):
        if any(not isinstance(key, str) for key in value):
            return {"@items": [[key, _plain(item)] for key, item in value.items()]}
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def _rich(value: Any) -> Any:
    if isinstance(value, list):
        return [_rich(item) for item in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"@array"}:
        return np.asarray(value["@array"], dtype=np.float64)
    if set(value) == {"@items"}:
        return {key: _rich(item) for key, item in value["@items"]}
    return {key: _rich(item) for key, item in value.items()}
