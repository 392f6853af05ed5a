"""Predictions for the rows of files, in pieces of bounded size."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    import pyarrow as pa

    from torchglm.inference.result import Result

KINDS = ("mean", "link")


@dataclass(frozen=True)
class Prediction:
    """What to predict with: a loaded fit, the kinds of columns wanted, and what an unseen category gets."""

    result: Result
    kinds: tuple[str, ...]
    se: bool
    unseen: str

    @classmethod
    def of(cls, run: Path, kinds: Sequence[str], se: bool, unseen: str) -> Prediction:
        """The predictions of a run. Raises ValueError for a fit without a formula."""
        import torchglm

        result = torchglm.load(run)
        if result.spec is None:
            raise ValueError(f"{run} was fitted on arrays, so the columns of a file mean nothing to it. "
                             "Use torchglm.load(run).predict(x).")
        return cls(result, tuple(kinds), se, unseen)

    @property
    def columns(self) -> dict[str, str]:
        """The columns of the offset by their roles."""
        named = self.result.context.get("columns") or {}
        return {role: named[role] for role in ("offset", "exposure") if role in named}

    @property
    def names(self) -> list[str]:
        """The columns of the output: the groups of a grouped fit, then the predictions."""
        found = [name for kind in self.kinds for name in ([kind, f"{kind}_se"] if self.se else [kind])]
        return [*(self.result.group_names or []), *found]

    @property
    def wanted(self) -> list[str]:
        """The columns to read."""
        return list(dict.fromkeys([*self.result.spec.columns, *self.columns.values(),
                                   *(self.result.group_names or [])]))

    def piece(self, table: pa.Table, first: int) -> dict[str, Any]:
        """The output columns for the rows of a table whose first row is number `first`.

        Raises ValueError for a missing value, an unseen category or group, or an exposure not above 0.
        """
        keys = self.result.group_names or []
        spec = self.result.spec
        design = spec.design(table, also=[*self.columns.values(), *keys], missing="error", unseen=self.unseen,
                             first=first)
        x, offset = design.x[:, int(spec.intercept):], self._offset(table, first)
        values = {name: torch.empty(len(x), dtype=torch.float64) for name in self.names if name not in keys}
        for result, rows in self._models(table, first):
            part = x if rows is None else x[rows]
            shift = offset if offset is None or rows is None else offset[rows]
            for kind in self.kinds:
                for name, value in self._values(result, part, shift, kind):
                    values[name][slice(None) if rows is None else rows] = value.to(torch.float64)
        groups = {name: table.column(name) for name in keys}
        return {**groups, **{name: value.numpy() for name, value in values.items()}}

    def _values(self, result: Result, x: Tensor, offset: Tensor | None,
                kind: str) -> list[tuple[str, Tensor]]:
        found = result.predict(x, offset=offset, kind=kind, se=self.se)
        parts = found if isinstance(found, tuple) else (found,)
        return list(zip((kind, f"{kind}_se"), parts, strict=False))

    def _offset(self, table: pa.Table, first: int) -> Tensor | None:
        from torchglm.data import numbers

        if not self.columns:
            return None
        total = torch.zeros(len(table), dtype=torch.float64)
        if "offset" in self.columns:
            total = total + numbers(table, self.columns["offset"])
        if "exposure" in self.columns:
            exposure = numbers(table, self.columns["exposure"])
            bad = ~(exposure > 0) | exposure.isinf()
            if bool(bad.any()):
                row = int(bad.nonzero()[0])
                raise ValueError(f"Exposure {self.columns['exposure']!r} must be finite and > 0; row "
                                 f"{first + row} has {float(exposure[row]):g}. Correct or drop that row.")
            total = total + exposure.log()
        return total

    def _models(self, table: pa.Table, first: int) -> Iterator[tuple[Result, Tensor | None]]:
        """Each model that has rows in the table, and their numbers; None stands for all."""
        from torchglm.data import groups

        keys = self.result.group_names
        if not keys:
            yield self.result, None
            return
        place = {tuple(map(_plain, label)): i for i, label in enumerate(self.result.groups or [])}
        codes, labels = groups(table, keys)
        for code, label in enumerate(labels):
            rows = (codes == code).nonzero()[:, 0]
            known = tuple(map(_plain, label))
            if known not in place:
                said = ", ".join(f"{key} = {value!r}" for key, value in zip(keys, label, strict=True))
                raise ValueError(f"Row {first + int(rows[0])} belongs to the group {said}, for which no "
                                 "model was fitted. Drop such rows, or fit again with that group.")
            yield self.result[place[known]], rows


def _plain(value: Any) -> Any:
    """A group's label as JSON keeps it."""
    return value if isinstance(value, (str, int, float, bool)) or value is None else str(value)


def write(prediction: Prediction, data: str, out: str) -> int:
    """Predict every row of the files and write the file `out` (or the terminal, `-`); returns the rows.

    The file appears complete or not at all. Raises ValueError for an unknown ending or what `piece` raises.
    """
    import pyarrow as pa

    from torchglm.cli.waiting import waiting
    from torchglm.data import Scan

    wanted = prediction.wanted
    types = {name: kind for name, kind in prediction.result.spec.types.items() if name in wanted}
    scan = Scan(data, wanted or None, types)
    done = 0
    with _sink(out) as sink, waiting(f"Predicting {data}", _rows(scan.files)) as progress:
        for table in scan:
            sink(pa.table(prediction.piece(table, done)))
            done += table.num_rows
            progress.advance(progress.task_ids[0], table.num_rows)
    return done


def _rows(files: Sequence[Path]) -> int | None:
    """The number of rows that Parquet files say they hold; None for CSV."""
    from pyarrow import ArrowException, parquet

    try:
        return sum(parquet.read_metadata(file).num_rows for file in files)
    except (ArrowException, OSError):
        return None


@contextmanager
def _sink(out: str) -> Iterator[Any]:
    """A function that appends a table to the file, made at the first one and moved into place at the end."""
    from pyarrow import csv, parquet

    kinds = {".csv": csv.CSVWriter, ".parquet": parquet.ParquetWriter, ".pq": parquet.ParquetWriter}
    target = Path(out).expanduser()
    if out != "-" and target.suffix.lower() not in kinds:
        raise ValueError(f"--out {out} has an unknown ending. Known: {', '.join(kinds)}; - is the terminal.")
    if out != "-" and not target.parent.is_dir():
        raise ValueError(f"--out {out}: there is no folder {target.parent}. Make it first.")
    draft = target.with_name(f".{target.name}.draft-{os.getpid()}")
    place: Any = sys.stdout.buffer if out == "-" else draft
    writer: Any = None

    def append(table: pa.Table) -> None:
        nonlocal writer
        if writer is None:
            writer = kinds.get(target.suffix.lower(), csv.CSVWriter)(place, table.schema)
        writer.write_table(table)

    try:
        yield append
        if writer is not None:
            writer.close()
        if out != "-":
            draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
