"""Smooth terms learned from all rows at once: distinct values, knots, constraints, scales."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from torchglm.design.expressions import Expression, HasColumns
from torchglm.design.factors import Categorical, Numeric
from torchglm.design.smooths.basis import Basis
from torchglm.design.smooths.call import SmoothCall
from torchglm.design.smooths.constraint import Constraint
from torchglm.design.smooths.distinct import Distinct
from torchglm.design.smooths.effects import LevelEffects
from torchglm.design.smooths.factor import Smooth
from torchglm.design.smooths.made import basis_of
from torchglm.design.smooths.pspline import PSpline
from torchglm.design.smooths.shaped import ShapedSpline
from torchglm.design.smooths.tensor import Margin, TensorProduct

COLUMNS = {1: 10, 2: 30, 3: 110}  # of a thin plate spline of so many variables, where a term does not say
MARGIN = 5  # columns of a margin of te() and ti()
STEADY = np.finfo(np.float64).eps * 1000  # share of its mean by which numbers must vary
WIDEST = 1e50  # the largest size of a covariate, and one over the smallest
TILE = 1 << 16  # distinct rows that are looked at together


def learn_smooth(
    call: SmoothCall,
    rows: HasColumns,
    category: Callable[[Expression], Categorical | None],
    ordered: Callable[[Expression], bool],
) -> Smooth | LevelEffects:
    """A term from the columns of all rows; `category` gives the levels of what is one, and whether they are ranked.

    Raises `ValueError` that names the term for a category where numbers are needed, for numbers that are not finite,
    for too few distinct values, and for a smooth of a constant.
    """
    own = None if call.by is None else category(call.by)
    by: Numeric | Categorical | None = own
    if call.by is not None and own is None:
        by = Numeric(call.by, [call.by.text])
    if call.bases == ["re"]:
        return _effects(call, rows, category, by)
    for one in call.variables:
        if category(one) is not None:
            raise ValueError(
                f"{call.said}: {one.text!r} is a category, which has no order to be smooth in. Write it as a term of "
                "its own, as s(..., bs='re'), or as by= of a smooth."
            )
    values, counts = distinct(np.stack([_numbers(one, rows, call) for one in call.variables]))
    for one, own in zip(call.variables, values, strict=True):
        _check_range(call, one.text, own)
    try:
        basis = _basis(call, values, counts)
    except ValueError as error:
        raise ValueError(f"{call.said}: {str(error).removesuffix('.')}.") from None
    means, size = _summed(basis, values, counts)
    centred = call.kind != "ti" and not (isinstance(by, Numeric) and _varies(by, rows, call))
    if call.kind == "ti" and len(call.margins) == 1:
        centred = False  # its only margin is centred
    scales = [float(np.linalg.norm(one, 1)) / size**2 for one in basis.penalties]
    if call.shape is not None:
        assert isinstance(basis, PSpline)
        basis, centred = ShapedSpline.of(basis, call.shape, means if centred else None), False
    first = int(isinstance(by, Categorical) and call.by is not None and ordered(call.by))
    ranges = [[float(one.min()), float(one.max())] for one in values]
    few = Distinct.learn(values, counts, call.bins)
    return Smooth(call, basis, Constraint(means) if centred else None, scales, by, ranges, first, few)


def distinct(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct columns of values (d, n), sorted, (d, m), and how often each occurs (m,)."""
    if len(values) == 1:
        found, counts = np.unique(values[0], return_counts=True)
        return found[None], counts.astype(np.float64)
    order = np.lexsort(values[::-1])
    sorted_ = values[:, order]
    starts = np.flatnonzero(np.concatenate([[True], (np.diff(sorted_, axis=1) != 0).any(0)]))
    return sorted_[:, starts], np.diff([*starts, values.shape[1]]).astype(np.float64)


def _basis(call: SmoothCall, values: np.ndarray, counts: np.ndarray) -> Basis:
    if call.kind == "s":
        d = len(values)
        k = call.sizes[0] if call.sizes[0] is not None else COLUMNS.get(d, 10 * 3**d)
        return basis_of(values, counts, k, {"bs": call.bases[0], "m": call.orders[0], "knots": call.knots})
    margins, start = [], 0
    for d, bs, k, m in zip(call.dims, call.bases, call.sizes, call.orders, strict=True):
        own, rows = distinct(np.repeat(values[start : start + d], counts.astype(np.int64), axis=1))
        names = ", ".join(one.text for one in call.variables[start : start + d])
        try:
            size = (MARGIN**d if d > 1 else MARGIN) if k is None else k
            margins.append(Margin.learn(own, rows, size, {"bs": bs, "m": m}, centred=call.kind == "ti"))
        except ValueError as error:
            raise ValueError(f"{names}: {error}") from None
        start += d
    return TensorProduct(margins, call.dims)


def _summed(basis: Basis, values: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, float]:
    """(k,) the means of the columns over all rows, and the largest sum of absolute values of a row."""
    total, size = np.zeros(basis.size), 0.0
    for first in range(0, values.shape[1], TILE):
        part = slice(first, first + TILE)
        columns = basis.columns(values[:, part])
        total += (columns * counts[part]).sum(1)
        size = max(size, float(np.abs(columns).sum(0).max()))
    return total / counts.sum(), size


def _effects(
    call: SmoothCall,
    rows: HasColumns,
    category: Callable[[Expression], Categorical | None],
    by: Numeric | Categorical | None,
) -> LevelEffects:
    found = [category(one) for one in call.variables]
    categories = [one for one in found if one is not None]
    for one in categories:
        if len(one.levels) < 2:
            raise ValueError(
                f"{call.said}: {one.expression.text!r} has one level, {one.levels[0]!r}. Leave the term out."
            )
    numbers = [Numeric(one, [one.text]) for one, own in zip(call.variables, found, strict=True) if own is None]
    size = 1.0
    for number in [*numbers, *([by] if isinstance(by, Numeric) else [])]:
        size = size * np.abs(_numbers(number.expression, rows, call))
    most = float(np.max(size))
    if most == 0:
        raise ValueError(f"{call.said} is 0 in all rows. Leave the term out.")
    return LevelEffects(call, categories, numbers, 1 / most**2, by)


def _numbers(one: Expression, rows: HasColumns, call: SmoothCall) -> np.ndarray:
    found: Any = np.asarray(one.evaluate(rows, {}))
    if found.dtype == object:
        raise ValueError(f"{call.said}: {one.text!r} is not a column of numbers.")
    found = found.astype(np.float64)
    wrong = ~np.isfinite(found)
    if wrong.any():
        raise ValueError(f"{call.said}: {one.text!r} is not finite in {int(wrong.sum())} rows. Leave these rows out.")
    return found


def _check_range(call: SmoothCall, name: str, values: np.ndarray) -> None:
    """Raise `ValueError` for values whose powers, of which bases are made, are too large or small to be held."""
    most, width = float(np.abs(values).max()), float(values.max() / 2 - values.min() / 2)
    if most > WIDEST or 0 < width < 1 / WIDEST:
        raise ValueError(
            f"{call.said}: {name!r} has values of the size {most:.3g} that differ by {2 * width:.3g}, whose powers "
            "cannot be held. Rescale the column."
        )


def _varies(by: Numeric, rows: HasColumns, call: SmoothCall) -> bool:
    found = _numbers(by.expression, rows, call)
    return bool(found.std() > STEADY * abs(found.mean()))
