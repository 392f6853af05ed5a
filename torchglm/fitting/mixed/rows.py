"""Rows of models with random effects as those of models without: these left out, or given."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from torchglm.fitting.mixed.effects import Groupings
from torchglm.rows.planned import contributions
from torchglm.rows.products import times
from torchglm.rows.ragged import Ragged
from torchglm.rows.ranks import own_rows, seen
from torchglm.rows.rows import Rows


def fixed(rows: Rows, columns: int) -> Rows:
    """The rows with their first columns, of several predictors their first coefficients, alone."""
    if rows.plan is not None:
        own = rows.plan.first(columns)
        rows, columns = rows._replace(plan=own), own.reach
    if rows.indexed is None:
        return rows._replace(x=rows.x[..., :columns])
    return rows._replace(indexed=rows.indexed.before(columns))


def without_effects(source: Iterable[Rows], columns: int) -> Iterable[Rows]:
    """A source of rows with their first columns alone."""
    return seen(source, lambda rows: fixed(rows, columns))


def conditional(source: Iterable[Rows], effects: Groupings, coef: Tensor) -> Iterable[Rows]:
    """A source of rows with their first columns alone, the random effects at `coef` (B, P) in the offset."""
    random = coef.clone()
    random[:, : effects.columns] = 0.0

    def given(rows: Rows, own: Tensor = random) -> Rows:
        own = own.to(rows.y.device)
        shift = times(rows, own) if rows.plan is None else contributions(rows, own).movedim(0, -1)
        return fixed(rows, effects.columns)._replace(offset=rows.offset + shift)

    inner = own_rows(source)
    if isinstance(inner, Ragged):
        return Ragged([(models, given(rows, random[models])) for models, rows in inner.parts], inner.sizes)
    return seen(source, given)
