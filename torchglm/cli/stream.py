"""Rows of files, piece by piece, and what a fit says at coefficients that were found elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchglm import inputs
from torchglm.fitting.irls import irls
from torchglm.fitting.linalg import invert
from torchglm.fitting.moments import Point, fold
from torchglm.fitting.rows import Rows
from torchglm.fitting.shape import dispersion_ml
from torchglm.fitting.status import Status
from torchglm.inference.covariance import observed_inverse
from torchglm.inference.result import Result, build

if TYPE_CHECKING:
    import pyarrow as pa

    from torchglm.cli.schema import Job
    from torchglm.data import DesignSpec
    from torchglm.families import Family
    from torchglm.fitting.penalties import Penalty
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
        from torchglm.data import numbers

        job = self.job
        design = self.spec.design(table, response=True, also=self.also, first=first)
        roles = {role: numbers(design.table, name).to(job.where) for role, name in job.data.roles.items()}
        assert design.y is not None  # data.columns() has looked for a response
        y, factor = job.family.encode(design.y.to(job.where), roles.get("trials"), roles.get("event"))
        weight = torch.ones_like(y) if factor is None else factor
        for name in ("weights", "freq"):
            if name in roles:
                inputs.check_weights(roles[name], name)
                weight = weight * roles[name]
        offset = roles.get("offset", torch.zeros_like(y))
        if "exposure" in roles:
            bad = ~(roles["exposure"] > 0) | roles["exposure"].isinf()
            if bool(bad.any()):
                row = int(bad.nonzero()[0])
                raise ValueError(f"exposure must be finite and > 0; row {first + row} has "
                                 f"{float(roles['exposure'][row]):g}. Drop such rows.")
            offset = offset + roles["exposure"].log()
        inputs.check_support(y, job.family, weight > 0)
        inputs.finite(offset, "offset")
        repeats = roles["freq"].unsqueeze(0) if "freq" in roles else None
        x = design.x.to(job.where, job.precision)
        return Rows(x, y.unsqueeze(0), weight.unsqueeze(0), offset.unsqueeze(0), repeats)


def _joined(pieces: list[Rows]) -> Rows:
    """Pieces of one model as one."""
    x, y, weight, offset = (torch.cat(parts, dim=-2 if i == 0 else -1) for i, parts in enumerate(
        zip(*(piece[:4] for piece in pieces), strict=True)))
    repeats = [piece.repeats for piece in pieces if piece.repeats is not None]
    return Rows(x, y, weight, offset, torch.cat(repeats, -1) if repeats else None)


def result_at(coef: Tensor, rows: FileRows, family: Family, link: Link, status: Status, steps: int,
              penalty: Penalty | None) -> Result:
    """The Result of coefficients (p,) that were found by training, by passes over the rows.

    Only the inference is IRLS's: a step of it tells rank and aliases, and its coefficients are left aside.
    """
    job, source = rows.job, rows.source
    whole = None if penalty is None else penalty.expand(rows.spec.intercept, coef.numel())
    at = coef.to(torch.float64).unsqueeze(0)
    step = irls(source, family, link, penalty=whole, start=at, max_iter=1)
    moments = fold(source, Point(at, before=at), family, link, 1, coef.numel(), at.device)
    total = torch.as_tensor([sum(float(piece.weight.sum()) for piece in source)], device=at.device).double()
    ridge = None if whole is None else whole.ridge(at, total)
    root = invert(moments, step.keep, torch.zeros_like(step.keep[:, 0]), ridge).root
    solution = replace(step, coef=at, moments=moments, root=root, n_iter=torch.full_like(step.n_iter, steps),
                       status=torch.full_like(step.status, int(status)))
    roles = job.data.roles
    context: dict[str, Any] = {
        "offset": "offset" in roles or "exposure" in roles, "event": "event" in roles,
        "trials": "trials" in roles, "formula": job.data.formula, "spec": rows.spec, "columns": roles,
        "constant": rows.spec.intercept, "terms": rows.spec.terms, "group_names": None}
    first = build(solution, next(iter(source)), family, link, torch.Size(), list(rows.spec.names),
                  penalty=whole, dispersion=1.0 if family.has_dispersion else None, tol=1e-8, context=context)
    nobs = torch.full_like(moments.pearson, rows.nobs)  # `first` counts the first piece alone
    state = first._state | {"nobs": nobs} | _dispersion(
        job, family, link, at, moments.pearson, 2 * moments.objective, nobs, first._state["rank"], source)
    if context["event"]:
        state["observed"] = observed_inverse(source, family, link, at, step.keep)
    return Result(state, source)


def _dispersion(job: Job, family: Family, link: Link, coef: Tensor, pearson: Tensor, deviance: Tensor,
                nobs: Tensor, rank: Tensor, source: Iterable[Rows]) -> dict[str, Any]:
    """The dispersion over all pieces, and how it was found."""
    kind = job.dispersion
    if kind is None and not family.has_dispersion:
        return {"dispersion_kind": "fixed", "dispersion": torch.ones_like(pearson)}
    if isinstance(kind, float):
        return {"dispersion_kind": "number", "dispersion": torch.full_like(pearson, kind)}
    kind = kind or "pearson"
    if kind == "ml":
        phi = dispersion_ml(source, family, link, coef, deviance / nobs)
        return {"dispersion_kind": kind, "dispersion": phi}
    freedom = torch.where(nobs > rank, nobs - rank, torch.nan)
    return {"dispersion_kind": kind, "dispersion": (pearson if kind == "pearson" else deviance) / freedom}
