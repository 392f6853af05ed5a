"""Predictions for the rows of files, in pieces of bounded size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchglm.cli.loading import load_run
from torchglm.cli.progress import waiting
from torchglm.cli.run_rows import Batch, Reader, check_formula, spec_of
from torchglm.cli.sinks import TERMINAL, plan, sink
from torchglm.families.several import Classes
from torchglm.inference.quantile import refuse_quasi
from torchglm.inference.vector.intervals import roles_of_response
from torchglm.report.laws import law_title
from torchglm.tables.files import column_names, files, kind_of, parquet_file

if TYPE_CHECKING:
    import pyarrow as pa

    from torchglm.families import Family
    from torchglm.model.face import Result
    from torchglm.tables import TextFormat

KINDS = ("mean", "link")


@dataclass(frozen=True)
class Wanted:
    """The columns to predict: kinds, with standard errors, and the levels of intervals, None for none.

    A kind is `mean`, `link`, or of a family of several predictors the name of one; of classes each has a column,
    `probability_low`, and each predictor, `link_low|mid`.
    `interval` is that of the confidence interval of the mean, `response` that of the interval for a new response.
    `fixed` leaves random effects out; so do errors and intervals, which are those of the fixed effects.
    """

    kinds: tuple[str, ...] = KINDS[:1]
    se: bool = False
    interval: float | None = None
    response: float | None = None
    fixed: bool = False

    @property
    def errors(self) -> bool:
        """Whether errors or intervals are asked for."""
        return self.se or self.interval is not None or self.response is not None

    def columns(self, kind: str, family: Family) -> list[str]:
        """The names of the columns of one kind."""
        if not isinstance(family, Classes):
            return [kind]
        if kind == "link":
            return [f"link_{name}" for name in family.predictors]
        return [f"probability_{name}" for name in family.known]

    def names(self, family: Family) -> list[str]:
        """The names of all columns."""
        each = [name for kind in self.kinds for name in self.columns(kind, family)]
        found = [name for one in each for name in ([one, f"{one}_se"] if self.se else [one])]
        limits = [] if self.interval is None else self.columns("mean", family)
        limits = limits if self.response is None else [*limits, "response"]
        return [*found, *(f"{name}_{end}" for name in limits for end in ("low", "high"))]


@dataclass(frozen=True)
class Prediction:
    """What to predict with: a loaded fit, how its rows are read, and the columns wanted."""

    result: Result
    reader: Reader
    wanted: Wanted

    @classmethod
    def of(
        cls,
        run: Path,
        wanted: Wanted,
        keep: Sequence[str] = (),
        missing: str | None = None,
        unseen: str | None = None,
        data: Sequence[str] = (),
    ) -> Prediction:
        """The predictions of a run; `keep` may list several columns of the files `data` with commas between.

        Raises ValueError for a fit without a formula, or what it has no intervals for.
        """
        result = load_run(run)
        check_formula(result, run, "predict(x)", networks=True)
        if isinstance(result.family, Classes) and wanted.response is not None:
            raise ValueError(
                f"--response is for amounts and counts; {law_title(result.family)} has classes. --interval adds the "
                "limits of the probability of each."
            )
        if wanted.response is not None:
            refuse_quasi(result, "prediction intervals")
        if wanted.errors and result.flat.absorbed is not None:
            raise ValueError(
                "the effects of absorbed factors have no errors, nor have predictions with them. Leave out --se, "
                "--interval and --response."
            )
        random = result.flat.modes is not None and not (wanted.fixed or wanted.errors)
        if random:
            _check_groups(result, data)
        also = () if wanted.response is None else roles_of_response(result.family)
        keep = carried(keep, data, spec_of(result).reading)
        taken = sorted(set(keep) & set(wanted.names(result.family)))
        if taken:
            raise ValueError(f"--keep {taken[0]}: predictions have a column of that name. Rename it in the data.")
        new = wanted.response is not None
        return cls(result, Reader(result, False, also, tuple(keep), missing, unseen, random, new), wanted)

    def piece(self, table: pa.Table, first: int) -> pa.Table:
        """The output for the rows of a table whose first row is number `first` of its file.

        Raises ValueError for a missing value, an unseen category or group, or an exposure not above 0.
        """
        import pyarrow as pa

        batch = self.reader.read(table, first)
        blank = torch.full((len(batch.table),), torch.nan, dtype=torch.float64)
        values = {name: blank.clone() for name in self.wanted.names(self.result.family)}
        lenient = self.reader.unseen in ("reference", "other")
        for _, result, rows in batch.parts(self.reader.strangers if lenient else None):
            at = slice(None) if rows is None else rows
            found = self._values(result, batch.new(rows), batch.beside(at), batch, at)
            for name, value in found.items():
                values[name][at] = value.to(torch.float64)
        keys = [name for name in self.result.group_names or [] if name not in self.reader.keep]
        kept = {name: _plain_column(batch.table.column(name)) for name in [*self.reader.keep, *keys]}
        empty = bool(self.reader.strangers)
        found = {name: pa.array(value.numpy(), from_pandas=empty) for name, value in values.items()}
        return pa.table({**kept, **found})

    def _values(self, result: Result, x: Any, beside: Mapping[str, Any], batch: Batch, at: Any) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        random = None if result.flat.modes is None else self.reader.random
        for kind in self.wanted.kinds:
            value = result.predict(x, **beside, kind=kind, se=self.wanted.se, random=random)
            names = self.wanted.columns(kind, result.family)
            for part, tail in zip(value if isinstance(value, tuple) else (value,), ("", "_se"), strict=False):
                columns = part.unbind(-1) if isinstance(result.family, Classes) else (part,)
                found |= {f"{name}{tail}": column for name, column in zip(names, columns, strict=True)}
        if self.wanted.interval is not None:
            ends = result.predict_interval(x, **beside, level=self.wanted.interval)
            ends = ends if isinstance(result.family, Classes) else ends.unsqueeze(-2)
            for name, pair in zip(self.wanted.columns("mean", result.family), ends.unbind(-2), strict=True):
                found |= {f"{name}_low": pair[..., 0], f"{name}_high": pair[..., 1]}
        if self.wanted.response is not None:
            law = {name: value[at] for name, value in batch.roles.without("offset", "exposure").given.items()}
            ends = result.predict_interval(x, kind="response", level=self.wanted.response, **beside, **law)
            found |= {"response_low": ends[..., 0], "response_high": ends[..., 1]}
        return found


def _check_groups(result: Result, data: Sequence[str]) -> None:
    """Raise ValueError where files lack a column that the random effects need."""
    first, spec = files(data)[0], spec_of(result)
    absent = [name for name in spec.random_columns if name not in column_names(first, spec.reading)]
    if absent:
        raise ValueError(
            f"No column {absent[0]!r} in {first}, which the random effects need. Name the file that has it, or predict "
            "without random effects: --fixed."
        )


def carried(given: Sequence[str], data: Sequence[str], reading: TextFormat) -> list[str]:
    """The columns that `--keep` names, each value being a column of the files or several with commas between."""

    known = column_names(files(data)[0], reading) if given and data else list(given)
    named = [name.strip() for one in given for name in ([one] if one in known else one.split(","))]
    return list(dict.fromkeys(name for name in named if name))


def _plain_column(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column to carry along, its dictionary (which may differ from piece to piece) written out."""
    import pyarrow as pa

    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def write(prediction: Prediction, data: Sequence[str], out: str) -> int:
    """Predict every row of the files and write them to `out`, see `sinks.plan`; returns the rows written.

    Each file appears complete or not at all; where each file becomes one, one without rows becomes none. Raises
    ValueError for what `plan`, `Reader` and `piece` do.
    """

    found = files(data)
    sizes = {file: _rows(file) for file in found}
    held = [file for file in found if sizes[file] != 0] or found[:1]
    jobs = [(prediction.reader.scan(inside), target) for inside, target in plan(held, out)]
    done = 0
    total = None if None in sizes.values() else sum(filter(None, sizes.values()))
    with waiting(f"Predicting {' '.join(data)}", total) as progress:
        for scan, target in jobs:
            with sink(target) as append:
                for table in scan.each(prediction.piece):
                    append(table)
                    done += table.num_rows
                    progress.advance(progress.task_ids[0], table.num_rows)
    return done


def outcome(prediction: Prediction, rows: int, out: str) -> str:
    """What was written where, and what the policies did, in a line."""
    left = prediction.result.flat.modes is not None and not prediction.reader.random
    told = "".join(f"; {said}" for said in [*["without random effects"] * left, *prediction.reader.said])
    return f"{rows:,} predictions{'' if out == TERMINAL else f' in {out}'}{told}"


def _rows(file: Path) -> int | None:
    """The number of rows that a Parquet file says it holds; None for CSV."""

    if kind_of(file) == "csv":
        return None
    with parquet_file(file) as source:
        return source.metadata.num_rows
