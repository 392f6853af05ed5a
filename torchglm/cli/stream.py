"""Rows of files, piece by piece, and what a fit says at coefficients that were found elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchglm import inputs
from torchglm.fitting.irls import evaluate
from torchglm.fitting.rows import Rows
from torchglm.fitting.status import Status
from torchglm.inference.build import build

if TYPE_CHECKING:
    import pyarrow as pa

    from torchglm.cli.schema import Job
    from torchglm.data import DesignSpec
    from torchglm.families import Family
    from torchglm.fitting.penalties import Penalty
    from torchglm.inference.result import Result
    from torchglm.links import Link


HOLD = 1 << 30  # bytes of rows that are kept in memory; more are read again at each pass


class FileRows:
    """The rows of a job's files as `Rows`: kept where they are few, read again at each iteration where not.

    The spec is learned in a first pass; a second checks every row, so that training need not.
    Raises ValueError for rows that do not suit the family, weights, exposure.
    """

    def __init__(self, job: Job) -> None:
        from torchglm.data import Scan, learn

        self.job = job
        self.columns = job.data.columns()
        self.also = list(job.data.roles.values())
        self.spec: DesignSpec = learn(job.data.formula, Scan(job.data.path, self.columns), also=self.also,
                                      missing=job.data.missing)
        self.nobs = 0.0
        pieces: list[Rows] = []
        size = 0
        for rows in self:
            used = rows.weight > 0
            count = used if rows.repeats is None else torch.where(used, rows.repeats, 0.0)
            self.nobs += float(count.sum())
            size += sum(part.nbytes for part in rows if isinstance(part, Tensor))
            pieces = [*pieces, rows] if size <= HOLD else []
        if self.nobs == 0:
            raise ValueError("Every row has weight 0 or a missing value; none is left to fit.")
        self._held = None if size > HOLD else _joined(pieces)

    @property
    def source(self) -> list[Rows] | FileRows:
        """The rows for a fit: in one piece where they are kept, else this object."""
        return self if self._held is None else [self._held]

    def __iter__(self) -> Iterator[Rows]:
        from torchglm.data import Scan

        first = 0
        for table in Scan(self.job.data.path, self.columns, self._types()):
            rows = self._rows(table, first)
            first += table.num_rows
            if rows.y.shape[-1]:
                yield rows

    def _types(self) -> dict[str, str]:
        return {name: kind for name, kind in self.spec.types.items() if name in self.columns}

    def _rows(self, table: pa.Table, first: int) -> Rows:
        """Raises `ValueError` where the rows of a piece, counted from `first`, do not suit."""
        from torchglm.data import numbers

        job = self.job
        design = self.spec.design(table, response=True, also=self.also, first=first)
        roles = {role: numbers(design.table, name).to(job.where) for role, name in job.data.roles.items()}
        assert design.y is not None  # data.columns() has looked for a response
        x, y = design.x.to(job.where, job.precision), design.y.to(job.where)
        try:
            data = inputs.assemble(x, y, job.family, roles, self.spec.names, False, self.spec.intercept, strict=False)
        except ValueError as error:
            raise ValueError(f"in the rows from {first} on: {error}" if first else str(error)) from None
        [rows] = data.source
        return rows


def _joined(pieces: list[Rows]) -> Rows:
    """Pieces of one model as one."""
    x, y, weight, offset = (torch.cat(parts, dim=-2 if i == 0 else -1) for i, parts in enumerate(
        zip(*(piece[:4] for piece in pieces), strict=True)))
    repeats = [piece.repeats for piece in pieces if piece.repeats is not None]
    return Rows(x, y, weight, offset, torch.cat(repeats, -1) if repeats else None)


def result_at(coef: Tensor, rows: FileRows, family: Family, link: Link, status: Status, steps: int,
              penalty: Penalty | None) -> Result:
    """The Result of coefficients (p,) that were found by training, by passes over the rows."""
    job, spec = rows.job, rows.spec
    whole = None if penalty is None else penalty.expand(spec.intercept, coef.numel())
    solution = evaluate(rows.source, family, link, coef.to(torch.float64).unsqueeze(0), status, steps, penalty=whole)
    roles = job.data.roles
    context: dict[str, Any] = {
        "offset": "offset" in roles or "exposure" in roles, "event": "event" in roles, "trials": "trials" in roles,
        "formula": job.data.formula, "spec": spec, "columns": roles, "terms": spec.terms, "group_names": None}
    return build(solution, rows.source, family, link, torch.Size(), list(spec.names), constant=spec.intercept,
                 penalty=whole, dispersion=job.dispersion, tol=1e-8, context=context)
