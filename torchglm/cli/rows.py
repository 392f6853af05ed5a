"""The rows a run was fitted on, read again from files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from torchglm import inputs

if TYPE_CHECKING:
    from torchglm.fitting.rows import Rows
    from torchglm.inference.result import Result


def attached(result: Result, run: Path, data: str | None) -> Result:
    """The loaded fit with its rows behind it: those of `data`, or of the files its config names.

    A grouped fit holds them in memory, another reads them again at each pass. Raises ValueError for a fit without a
    formula, or where the files are not found.
    """
    if result.spec is None:
        raise ValueError(f"{run} was fitted on arrays, so the columns of a file mean nothing to it. "
                         "Use torchglm.load(run).with_rows(x, y).")
    path = data if data is not None else configured(run)
    if result.group_names:
        from torchglm.data import read_table

        spec, columns = result.spec, result.context.get("columns") or {}
        wanted = [*spec.response_columns, *spec.columns, *columns.values(), *result.group_names]
        return result.with_rows(read_table(path, list(dict.fromkeys(wanted))))
    return result.on(RunRows(result, path))


@torch.no_grad()
def of_the_fit(result: Result) -> bool:
    """Whether the rows behind a fit are those it was fitted on: as many, and of the same deviance in every model."""
    total, count = torch.zeros_like(result._state["deviance"]), torch.zeros_like(result._state["deviance"])
    for values in result._values():
        half = result.family.half_deviance(values.rows.y, values.eta, values.mu, result.link)
        total += torch.where(values.used, 2 * half * values.rows.weight, 0.0).sum(-1)
        count += torch.where(values.used, values.repeats, 0.0).sum(-1)
    fitted, nobs = result._state["deviance"], result._state["nobs"]
    alike = (total - fitted).abs() <= 1e-6 * fitted.abs() + 1e-8 * nobs
    return bool(((alike & ((count - nobs).abs() <= 1e-9 * nobs)) | fitted.isnan()).all())


def configured(run: Path) -> str | list[str]:
    """The files that the config of a run names. Raises ValueError where it names none."""
    from torchglm.cli.config import load_yaml, located

    file = run / "config.yaml"
    found = load_yaml(file.read_text(encoding="utf-8")) if file.is_file() else None
    path = ((found or {}).get("data") or {}).get("path")
    if not path:
        raise ValueError(f"{file} names no data. Pass --data, the rows the run was fitted on.")
    return located(path, [file])


class RunRows:
    """Rows of files as a fit takes them, read again at each iteration, piece by piece."""

    def __init__(self, result: Result, path: str | list[str]) -> None:
        self.result, self.path = result, path
        self.roles: dict[str, str] = result.context.get("columns") or {}
        spec = result.spec
        self.columns = list(dict.fromkeys([*spec.response_columns, *spec.columns, *self.roles.values()]))

    def __iter__(self) -> Iterator[Rows]:
        from torchglm.data import Scan

        spec, first = self.result.spec, 0
        types = {name: kind for name, kind in spec.types.items() if name in self.columns}
        for table in Scan(self.path, self.columns, types):
            design = spec.design(table, response=True, also=list(self.roles.values()), first=first)
            first += table.num_rows
            if design.x.shape[0]:
                yield from inputs.from_design(design, self.result.family, self.roles, [], self.result.coef.device,
                                              None).source
