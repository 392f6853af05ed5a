"""Loaders of batches as Rows: read again at every pass, never held."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, RandomSampler

from torchglm.families import Family
from torchglm.families.several import Classes, VectorFamily
from torchglm.inputs import checks
from torchglm.inputs.arrays import Data, assemble
from torchglm.inputs.batch import GLMBatch, named
from torchglm.inputs.columns import column_names, in_order, own_names
from torchglm.inputs.pandas_index import check_row_labels
from torchglm.inputs.roles import ROLES, Roles
from torchglm.inputs.specs import designs_of, plan_of_columns
from torchglm.links import Link
from torchglm.rows.plan import Plan
from torchglm.rows.rereadable import read_again
from torchglm.rows.rows import Rows


class LoaderRows:
    """A re-iterable of batches, or a function that returns an iterator of them, as a re-iterable of `Rows`.

    A batch is `(x, y)`, or a `GLMBatch` or a dict of its names. Several responses stand in columns, `(n, B)`, and are
    `B` models over one design. `plan` says how several predictors use a design whose first column is of ones; without
    it the first has all columns. Iterating raises `ValueError` for a batch that does not fit, and names it.
    """

    def __init__(
        self,
        loader: Any,
        family: Family,
        link: Link,
        intercept: bool,
        device: torch.device | None,
        dtype: torch.dtype | None,
        plan: Plan | None = None,
    ) -> None:
        read_again(loader, "x", "a DataLoader, a list of batches")
        if getattr(loader, "drop_last", False) and isinstance(getattr(loader, "sampler", None), RandomSampler):
            raise ValueError(
                "the loader shuffles and drops its last batch, other rows each time. A fit needs the same "
                "rows each time: pass drop_last=False."
            )
        self.loader: Iterable[Any] | Callable[[], Iterator[Any]] = loader
        self.family, self.link, self.intercept, self.device, self.dtype = family, link, intercept, device, dtype
        self.given: set[str] = set()
        self.shape: tuple[int, int] | None = None  # columns and responses of the first batch
        self.total: int | None = None  # rows of a pass
        self.names: list[str] | None = None  # of the columns of the first batch that has them
        self.plan = plan  # of a family of several predictors; where none is given, once the columns are known
        self.coefficients: list[str] = []  # and the names of its coefficients
        if isinstance(family, Classes):
            family.known  # noqa: B018  classes are given: a pass to find them would be a pass more

    def __iter__(self) -> Iterator[Rows]:
        batches = self.loader() if callable(self.loader) else self.loader
        total = 0
        for number, given in enumerate(batches):
            try:
                batch = named(given)
                batch.roles.check_link(self.link)
                rows = self.rows_of(batch)
            except (ValueError, TypeError) as error:
                kind = TypeError if isinstance(error, TypeError) else ValueError
                raise kind(f"batch {number}: {error}") from None
            if rows is not None:
                total += rows.y.shape[-1]
                yield rows
        self.total = total if self.total is None else self.total
        if total != self.total:
            raise ValueError(
                f"the loader gave {self.total} rows in its first pass and {total} in a later one. A fit "
                "needs the same rows each time."
            )

    def rows_of(self, batch: GLMBatch) -> Rows | None:
        """The rows of a batch; None where it has none."""
        if batch.y is None:
            raise ValueError("y is missing. Pass (x, y, ...) or a dict with x and y.")
        if len(batch.y) == len(batch.x) == 0:
            return None
        check_row_labels({"x": batch.x, "y": batch.y, **batch.roles.given})
        design = checks.tensor(in_order(batch.x, self.names), "x", self.device)
        self.names = self.names or own_names(batch.x)
        response = self._across(batch.y, "y", design)
        checks.check_shapes(design, response)
        shape = design.shape[-1], 1 if response.dim() == 1 else response.shape[0]
        self.shape = self.shape or shape
        if shape != self.shape:
            raise ValueError(
                f"it has {shape[0]} columns in x and {shape[1]} responses, those before it "
                f"{self.shape[0]} and {self.shape[1]}. Pass batches of one shape."
            )
        roles = batch.roles.map(lambda name, value: self._across(value, name, design))
        self.given |= roles.given.keys()
        if self.dtype is not None:
            design = design.to(self.dtype)
        if isinstance(self.family, VectorFamily) and self.plan is None:
            names = self.names or [f"x{j}" for j in range(design.shape[-1])]
            self.plan, self.coefficients = plan_of_columns(self.family, names, self.intercept)
        first = self.intercept or self.plan is not None  # the constant that a plan has for every predictor
        data = assemble(design, response, self.family, roles, [], first, strict=False, plan=self.plan)
        [rows] = data.source
        return rows

    @staticmethod
    def _across(value: Any, name: str, design: Tensor) -> Tensor:
        """`(n, B)` as `(B, n)`: responses lead; a column `(n, 1)` as `(n,)`."""
        given = checks.tensor(value, name, design.device)
        if given.dim() == 2 and given.shape[-1] == design.shape[0] != given.shape[0]:
            raise ValueError(
                f"{name} has shape {tuple(given.shape)} beside {design.shape[0]} rows of x. In batches {name} is "
                "(n, R), a response in each column; responses in rows, (R, n), are what fit(x, y) takes. "
                f"Pass {name}.T."
            )
        return given.reshape(-1) if given.shape[1:] == (1,) else given.mT.contiguous() if given.dim() == 2 else given


def from_loader(
    loader: Any,
    family: Family,
    link: Link,
    roles: Roles,
    intercept: bool,
    names: Sequence[str] | None,
    device: torch.device | None,
    dtype: torch.dtype | None,
) -> Data:
    """The rows of a loader. Raises `ValueError` for an empty one, and for per-row arguments beside it."""
    if roles.given:
        raise ValueError(
            f"{', '.join(roles.given)} came beside a loader. Put them into the batches, each a GLMBatch or a dict "
            f"with the names x, y, {', '.join(ROLES)}."
        )
    source = LoaderRows(loader, family, link, intercept, device, dtype)
    first = next(iter(source), None)
    if first is None:
        raise ValueError("the loader yields no rows. Pass one with at least one batch.")
    p = first.x.shape[-1]
    names = (source.names or [f"x{j}" for j in range(p)]) if names is None else list(names)
    if len(names) != p:
        raise ValueError(f"names has {len(names)} entries for {p} columns of x. Give one name for each column.")
    models = first.y.shape[0]
    context: dict[str, Any] = {"added": intercept, "inputs": source.names}
    if isinstance(family, VectorFamily):
        designs = designs_of(family, names, intercept)
        context |= {"beside": {}, "designs": {name: list(own.items()) for name, own in designs.items()}}
        source.coefficients = family.plan(designs, (0,))[1]
    return Data(
        source,
        torch.Size() if models == 1 else torch.Size([models]),
        source.coefficients or (["(Intercept)", *names] if intercept else names),
        first.columns,
        first.y.device,
        first.x.dtype == torch.float32,
        intercept,
        context=Roles(**dict.fromkeys(source.given, True)).context | context,
        family=family,
        plan=source.plan,
    )


def is_loader(x: Any) -> bool:
    """True for what yields batches: neither a tensor, an array nor a frame, but iterable or a function."""
    if isinstance(x, IterableDataset):
        return True
    if hasattr(x, "shape") or column_names(x) is not None:
        return False
    if isinstance(x, (list, tuple)):
        return bool(x) and isinstance(x[0], (list, tuple, Mapping)) and hasattr(_first(x[0]), "shape")
    return callable(x) or hasattr(x, "__iter__")


def _first(batch: Any) -> Any:
    return next(iter(batch.values() if isinstance(batch, Mapping) else batch), None)
