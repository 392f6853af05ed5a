"""Rows of files as a run sees them: those it was fitted on, read again, and new ones to predict or to score."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchglm import inputs
from torchglm.cli import plain_yaml
from torchglm.design import Design, DesignSpec, Tally, groups, tally
from torchglm.design.any_group import multiplied_columns
from torchglm.design.factors import shown
from torchglm.design.some_rows import some_rows
from torchglm.families.row_error import RowError
from torchglm.inference.mixed import conditional_rows
from torchglm.inference.several import family_of
from torchglm.rows.planned import predictors
from torchglm.rows.rows import to_float64
from torchglm.tables import Scan, numbers
from torchglm.tables.files import read_files

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.progress import Progress

    from torchglm.model.face import Result
    from torchglm.rows.rows import Rows

NUMBERS = 1 << 24  # of a piece of the design: 128 MiB


def attached(result: Result, run: Path, data: str | None) -> Result:
    """The loaded fit with its rows behind it: those of `data`, or of the files its config names.

    A grouped fit holds them in memory, another reads them again at each pass. Raises ValueError for a fit without a
    formula, or where the files are not found.
    """
    check_formula(result, run, "with_rows(x, y)")
    path = data if data is not None else configured(run)
    if result.group_names:
        spec, columns = result.spec, result.context.get("columns") or {}
        wanted = [
            *(*spec.response_columns, *spec.columns, *spec.random_columns),
            *(*columns.values(), *result.group_names),
        ]
        return result.with_rows(read_files(path, list(dict.fromkeys(wanted)), spec.reading, spec.types))
    return result.on(rows_behind(result, path))


def spec_of(result: Result) -> DesignSpec:
    """What makes columns of the rows of files: that of the fit, or of the network before it."""
    network = result.context.get("network")
    spec: DesignSpec = result.spec if network is None else network.spec
    return spec


def check_formula(result: Result, run: Path, instead: str, networks: bool = False) -> None:
    """Raise ValueError for a fit without a formula; `instead` is the method that serves it.

    Only where `networks` are served is a fit taken that has one before it.
    """
    if "network" in result.context:
        if networks:
            return
        raise ValueError(
            f"{run} is a network, whose head sees features in the place of columns. torchglm predict, evaluate, "
            "summary and export (--onnx, --torch) take it."
        )
    if result.spec is None:
        raise ValueError(
            f"{run} was fitted on arrays, so the columns of a file mean nothing to it. "
            f"Use torchglm.load(run).{instead}."
        )


@torch.no_grad()
def of_the_fit(result: Result) -> bool:
    """Whether the rows behind a fit are those it was fitted on: as many, and of the same deviance in every model."""
    total, count = torch.zeros_like(result.flat.deviance), torch.zeros_like(result.flat.deviance)
    if result.plan is not None:
        return bool((alike(*_of_several(result), result) | result.flat.deviance.isnan()).all())
    for values in result.row_values():
        half = result.family.half_deviance(values.rows.response, values.eta, values.mu, result.link)
        total += torch.where(values.used, 2 * half * values.rows.weight, 0.0).sum(-1)
        count += torch.where(values.used, values.repeats, 0.0).sum(-1)
    return bool((alike(total, count, result) | result.flat.deviance.isnan()).all())


def _of_several(result: Result) -> tuple[Tensor, Tensor]:
    """(B) minus twice the log-likelihood of the rows behind a fit of several predictors, and how many they are."""
    total, count = torch.zeros_like(result.flat.deviance), torch.zeros_like(result.flat.deviance)
    family = family_of(result)
    for chunk in result.source:
        for rows in to_float64(chunk).pieces():
            used, half = rows.weight > 0, family.nll(rows.response, predictors(rows, result.flat.coef))
            total += torch.where(used, 2 * half * rows.weight, 0.0).sum(-1)
            repeats = torch.ones_like(rows.weight) if rows.repeats is None else rows.repeats.to(rows.weight)
            count += torch.where(used, repeats, 0.0).sum(-1)
    return total, count


def alike(deviance: Tensor, count: Tensor, result: Result) -> Tensor:
    """Where a deviance and a number of rows are those of the models of a fit."""
    fitted, nobs = result.flat.deviance, result.flat.nobs
    near = (deviance - fitted).abs() <= 1e-6 * fitted.abs() + 1e-8 * nobs
    return near & ((count - nobs).abs() <= 1e-9 * nobs)


def configured(run: Path) -> str | list[str]:
    """The files that the config of a run names. Raises ValueError where it names none."""
    from torchglm.cli.config import located

    file = run / "config.yaml"
    data = plain_yaml.mapping(file).get("data")
    path = data.get("path") if isinstance(data, dict) else None
    each = path if isinstance(path, list) else [path]
    if path is None or not each or not all(isinstance(one, str) and one for one in each):
        raise ValueError(f"{file} names no data. Pass --data, the rows the run was fitted on.")
    return located(path, [file])


def rows_behind(result: Result, path: str | Sequence[str | Path]) -> Iterable[Rows]:
    """The rows of files as the fit of one model takes them, random effects in their offset.

    Raises ValueError for a fit beside absorbed factors, of whose effects its columns are free.
    """
    if result.flat.absorbed is not None:
        raise ValueError(
            f"the factors {', '.join(spec_of(result).absorbed_levels)} are absorbed: the columns of the fit are free "
            "of them, and its rows are not read again. Write them as terms, C(factor), where they have few levels."
        )
    return conditional_rows(result, rows_of(result, path))


def rows_of(
    result: Result, path: str | Sequence[str | Path], missing: str | None = None, unseen: str | None = None
) -> inputs.SpecRows:
    """The rows of files as they stand, random effects as columns; `missing` and `unseen` override the policies."""
    own = spec_of(result)
    spec = replace(own, missing=missing or own.missing, unseen=unseen or own.unseen)
    return inputs.SpecRows(path, spec, result.family, result.context.get("columns") or {}, result.coef.device)


@dataclass(frozen=True)
class Batch:
    """Some rows of a file, complete, as tensors over the `(n,)` rows; `table` holds all their columns."""

    result: Result
    table: pa.Table
    design: Design
    roles: inputs.Roles

    def new(self, rows: Tensor | None) -> Design | Tensor:
        """What `predict` takes for some of the rows; None stands for all."""
        if self.result.plan is None and self.result.spec is None:
            return self.design.x[slice(None) if rows is None else rows, int(self.design.intercept) :]
        return self.design if rows is None else some_rows(self.design, rows)

    @property
    def y(self) -> Tensor:
        """The response. Raises ValueError where it was not read."""
        if self.design.y is None:
            raise ValueError("These rows were read without their response.")
        return self.design.y

    def beside(self, rows: Any) -> dict[str, Any]:
        """The offset and the exposure of some of the rows, by their names, which `predict` takes."""
        given = self.roles.given
        return {name: given[name][rows] for name in ("offset", "exposure") if name in given}

    @property
    def rows(self) -> Rows:
        """As they stand, without random effects. Raises ValueError where a value does not suit the family."""
        return self._assembled(self.result, None, False)

    def of(self, result: Result, where: Tensor | None) -> Rows:
        """Some of the rows as the fit of one model takes them; None stands for all. Raises ValueError as `rows`."""
        if self.design.random is None:
            return self._assembled(result, where, False)
        [rows] = conditional_rows(result, [self._assembled(result, where, True)])
        return rows

    def _assembled(self, result: Result, where: Tensor | None, random: bool) -> Rows:
        design, y, roles = self.design, self.y, self.roles
        if where is not None:
            design, y, roles = some_rows(design, where), y[where], roles.map(lambda name, value: value[where])
        plan = inputs.plan_of(result.family, spec_of(result))[0] if random else result.plan
        data = inputs.assemble(
            design.numbers,
            inputs.in_class_order(y, result.family, spec_of(result)),
            result.family,
            roles,
            design.names if result.plan is None else [*result.names, *result.cuts],
            False,
            design.intercept,
            strict=False,
            indexed=design.whole_index if random else design.indexed,
            plan=plan,
        )
        return next(iter(data.source))

    def parts(self, strangers: Counter[str] | None = None) -> Iterator[tuple[int, Result, Tensor | None]]:
        """Each model that has rows here, its number, and which rows are its own; None stands for all.

        Rows of groups without a model are counted in `strangers`, by group, and belong to none. Raises ValueError for
        such rows where it is None.
        """
        keys = self.result.group_names
        if not keys:
            yield 0, self.result, None
            return
        place = {label: i for i, label in enumerate(self.result.groups or [])}
        codes, labels = groups(self.design.table, keys)
        order, counts = torch.argsort(codes, stable=True), torch.bincount(codes, minlength=len(labels)).tolist()
        for label, rows in zip(labels, order.split(counts), strict=True):
            model = place.get(label)
            if model is not None:
                yield model, self.result[model], rows
                continue
            said = ", ".join(f"{key} = {shown(value)}" for key, value in zip(keys, label, strict=True))
            if strangers is None:
                raise ValueError(
                    f"{len(rows)} rows belong to the group {said}, for which no model was fitted. Drop such rows, or "
                    "fit again with that group; torchglm predict --unseen other leaves their predictions empty."
                )
            strangers[said] += len(rows)


@dataclass(frozen=True)
class Reader:
    """How the rows of files are read for a run with a formula.

    `response` asks for y and the columns of all roles, else only those of the offset and `also` are needed; `keep`
    are columns that are carried along, missing values or not. `missing` and `unseen` override the policies of the fit;
    `tally` counts what they do. `random` asks for the columns of random effects; those of absorbed factors always are.
    `new_groups` asks for what effects multiply, without the groups, for responses of groups that are new.
    """

    result: Result
    response: bool = False
    also: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    missing: str | None = None
    unseen: str | None = None
    random: bool = True
    new_groups: bool = False
    tally: Tally = field(default_factory=Tally)
    strangers: Counter[str] = field(default_factory=Counter)  # rows of groups without a model

    @property
    def beside(self) -> bool:
        """Whether the columns of random effects or of absorbed factors are read."""
        spec = spec_of(self.result)
        return bool(spec.absorbed) or self.random and bool(spec.random)

    @property
    def of_effects(self) -> list[str]:
        """The columns that random effects multiply, where responses of new groups are asked for."""
        return multiplied_columns(spec_of(self.result)) if self.new_groups else []

    @property
    def roles(self) -> dict[str, str]:
        """Role -> column, of the roles that are needed."""
        named = self.result.context.get("columns") or {}
        return {
            role: name
            for role, name in named.items()
            if self.response or role in ("offset", "exposure") or role in self.also
        }

    def scan(self, path: Any) -> Scan:
        """The files, in pieces of bounded size. Raises ValueError for files that lack a column."""
        spec = spec_of(self.result)
        wanted = list(
            dict.fromkeys(
                [
                    *spec.columns,
                    *(spec.random_columns if self.beside else self.of_effects),
                    *(spec.response_columns if self.response else []),
                    *self.roles.values(),
                    *(self.result.group_names or []),
                    *self.keep,
                ]
            )
        )
        types = {name: kind for name, kind in spec.types.items() if name in wanted}
        width = len(spec.names) if self.result.group_names else spec.width
        rows = max(64, min(1 << 18, NUMBERS // max(1, width)))
        return Scan(path, wanted or None, types, rows, reading=spec.reading)

    def feed(self, scan: Scan, take: Callable[[Batch], None], progress: Progress) -> None:
        """Hand every piece of a scan that has rows to `take`, and count the rows read."""

        def add(table: pa.Table, first: int) -> None:
            batch = self.read(table, first)
            if len(batch.table):
                take(batch)
            progress.advance(progress.task_ids[0], table.num_rows)

        for _ in scan.each(add):
            pass

    def read(self, table: pa.Table, first: int) -> Batch:
        """A piece whose first row is number `first` of its file.

        Raises ValueError for a missing value, an unseen level, or an exposure not above 0.
        """
        import pyarrow as pa

        also = [*self.roles.values(), *(self.result.group_names or []), *self.of_effects]
        design = spec_of(self.result).design(
            table,
            response=self.response,
            also=also,
            missing=self.missing,
            unseen=self.unseen,
            first=first,
            random=self.beside,
        )
        self.tally.add(design)
        network = self.result.context.get("network")
        design = design if network is None else network.behind(design, self.result.names, self.result.plan is not None)
        kept = table if design.kept is None else table.filter(pa.array(design.kept.numpy()))
        roles = inputs.Roles(**{role: numbers(design.table, name) for role, name in self.roles.items()})
        try:
            roles.shift()
        except RowError as error:
            raise error.moved(first + design.row(error.place[-1])) from None
        return Batch(self.result, kept, design, roles)

    @property
    def said(self) -> list[str]:
        """What the policies did so far, in words."""
        counts = self.tally.to_dict()
        left, recoded = tally.left_out(counts), tally.recoded(counts, self.unseen or spec_of(self.result).unseen)
        rows, groups = self.strangers.total(), list(self.strangers)
        named = f"{', '.join(groups[:3])}{', …' if len(groups) > 3 else ''}"
        empty = f"left empty: {rows:,} rows of {len(groups):,} groups without a model ({named})" if rows else ""
        return [line for line in (left and f"left out: {left}", recoded and f"taken in: {recoded}", empty) if line]
