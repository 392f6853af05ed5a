"""What a user hands over, as tensors that have been looked at: every refusal says what, where and what to do."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.families.row_error import RowError
from torchglm.fitting.status import FitWarning
from torchglm.rows.responses import Response, size_of
from torchglm.writing.warning import tell


def tensor(value: Any, name: str, device: torch.device | None = None) -> Tensor:
    """A floating tensor from a tensor, an array, a data frame, a series or a list.

    Integers and booleans become float64, half precision float64; float32 stays. Raises `TypeError` for text
    and other objects.
    """
    if type(value) is np.ndarray and value.dtype == np.float64 and value.flags.carray:  # as most are: nothing to ask
        held = torch.from_numpy(value)
        return held if device is None else held.to(device)
    if value is None:
        raise TypeError(f"{name} holds nothing (None), not numbers. Pass a tensor, an array, a frame or a list.")
    if isinstance(value, np.ma.MaskedArray) and bool(np.ma.getmaskarray(value).any()):
        raise ValueError(f"{name} is a masked array with masked values. Drop those rows, or give them weight 0.")
    if not isinstance(value, Tensor):
        array = _array(value, name)
        if array.dtype.kind not in "fiub":
            raise TypeError(
                f"{name} holds {array.dtype} values, not numbers. Convert it, for example with "
                f"{name}.astype(float), or use a formula for categories."
            )
        array = np.ascontiguousarray(array)
        value = torch.from_numpy(array if array.flags.writeable else array.copy())  # torch cannot mark it read-only
    if value.layout != torch.strided:
        raise TypeError(f"{name} is a sparse tensor; torchglm takes dense ones. Pass {name}.to_dense().")
    if value.is_complex():
        raise TypeError(f"{name} is complex; a GLM takes real numbers.")
    if value.dtype in (torch.float16, torch.bfloat16):
        tell(
            f"{name} is {str(value.dtype).removeprefix('torch.')}; it is computed in float64, but its values "
            "were rounded to three digits before they came here.",
            FitWarning,
        )
    if value.dtype not in (torch.float32, torch.float64):
        value = value.to(torch.float64)
    value = value.detach().contiguous()
    return value if device is None else value.to(device)


def _array(value: Any, name: str) -> np.ndarray:
    """Numbers as an array. Raises `TypeError` for categories and other things, `ValueError` for missing values."""
    if (instead := _no_array(value)) is not None:
        raise TypeError(
            f"{name} is a {type(value).__name__}, and numbers come as an array, a tensor or a frame. {instead}"
        )
    if not isinstance(value, np.ndarray) and not hasattr(value, "to_numpy") and hasattr(value, "to_pandas"):
        value = value.to_pandas()
    _refuse_categories(value, name)
    array = np.asarray(value.to_numpy() if hasattr(value, "to_numpy") and not isinstance(value, np.ndarray) else value)
    if array.dtype == object:
        array = _numbers(array, name)
    if array.dtype.kind in "iub" or array.dtype.kind == "f" and array.dtype.itemsize > 8:
        return array.astype(np.float64)
    return array.astype(array.dtype.newbyteorder("=")) if not array.dtype.isnative else array


def _no_array(value: Any) -> str | None:
    """What to do with a collection that is no array of numbers; None for what may be one."""
    if hasattr(value, "toarray"):  # a sparse matrix of scipy
        return "Pass its toarray()."
    if isinstance(value, Mapping):
        return "Pass pandas.DataFrame of it, whose columns keep their names."
    if isinstance(value, Iterator):
        return "Pass list() of it: a fit reads its rows several times."
    if isinstance(value, np.ndarray) and value.dtype.names:
        return "Pass pandas.DataFrame of it: its fields are columns."
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], Mapping):
        return "Pass pandas.DataFrame of it, whose rows they become."
    return None


def _refuse_categories(value: Any, name: str) -> None:
    """Raise `TypeError` for categories, whatever their labels are: as numbers they would mean something else."""
    if isinstance(value, np.ndarray):
        return
    kinds = getattr(value, "dtypes", getattr(value, "dtype", getattr(value, "type", None)))
    each = [("", kinds)] if kinds is None or not hasattr(kinds, "items") else list(kinds.items())
    for column, kind in each:
        if str(kind) == "category" or str(kind).startswith("dictionary<"):
            where = f" in column {column!r}" if column != "" else ""
            raise TypeError(
                f"{name} holds categories{where}, not numbers. Use a formula, fit('y ~ C(k)', data), or convert "
                "them, for example with .astype(float)."
            )


def _numbers(array: np.ndarray, name: str) -> np.ndarray:
    """Objects as float64, each of them looked at."""
    kinds = {type(item) for item in array.flat}
    lost = {kind for kind in kinds if kind.__name__ in ("NoneType", "NAType", "NaTType")}
    if lost:
        place = next(i for i, item in enumerate(array.flat) if type(item) in lost)
        row = place // (array.shape[-1] if array.ndim > 1 else 1)
        raise ValueError(f"{name} has a missing value in row {row}. Fill it in, or leave such rows out.")
    strange = [kind for kind in kinds if not issubclass(kind, (bool, int, float, np.number, np.bool_, Decimal))]
    if strange:
        first = next(item for item in array.flat if type(item) is strange[0])
        raise TypeError(
            f"{name} holds {strange[0].__name__} values such as {str(first)[:40]!r}, not numbers. Convert it, for "
            f"example with {name}.astype(float), or use a formula for categories."
        )
    return array.astype(np.float64)


def per_row(value: Any, shape: torch.Size, name: str, device: torch.device) -> Tensor:
    """A value for each row: shape `(n,)`, a column `(n, 1)`, or that of `y`, never broadcast otherwise."""
    given = tensor(value, name, device)
    if given.shape == shape:
        return given
    if given.shape in (shape[-1:], (*shape[-1:], 1)):
        return given.reshape(shape[-1:]).expand(shape)
    raise ValueError(f"{name} has shape {tuple(given.shape)}, y has {tuple(shape)}. Pass one value for each row.")


def responses_in_rows(x: Tensor, y: Tensor) -> Tensor:
    """`y` as `(*B, n)` beside `x` (n, p) or (*B, n, p), a response given as one column `(*B, n, 1)` being that column.

    Raises `ValueError` where responses stand in columns `(n, R)`, and where `y` is `(n, n)`, which may be either.
    """
    n = x.shape[-2]
    if y.dim() == x.dim() and y.shape == (*x.shape[:-1], 1) and n > 1:
        return y.squeeze(-1)
    both = "here y is (B, n), each row the response of one model; in batches and in head.loss it is (n, R), in columns"
    if x.dim() == 2 and y.dim() == 2 and y.shape[0] == n > 1:
        if y.shape[1] == n:
            raise ValueError(
                f"y has shape {tuple(y.shape)} beside n = {n} rows of x, and its responses may stand in rows or in "
                f"columns: {both}. Say that they stand in rows with y[None], or turn columns into rows with y.T[None]."
            )
        two = " Of successes beside failures: y[:, 0] with trials=y.sum(1)." if y.shape[1:] == (2,) else ""
        raise ValueError(f"y has shape {tuple(y.shape)} beside n = {n} rows of x: {both}. Pass y.T.{two}")
    return y


def all_finite(value: Tensor) -> bool:
    """True where no value is NaN or infinite: one sum tells, unless it overflows."""
    return math.isfinite(value.detach().sum().item()) or bool(torch.isfinite(value).all())


def finite(value: Tensor, name: str, used: Tensor | None = None, advice: str = "Drop or correct it.") -> None:
    """Raise `ValueError` at the first NaN or infinity, in the rows that are used."""
    if all_finite(value):
        return
    bad = ~torch.isfinite(value)
    if used is not None:
        bad = bad & used
    if bool(bad.any()):
        place = tuple(int(i) for i in bad.nonzero()[0])
        what = "NaN" if bool(torch.isnan(value[place])) else "infinity"
        after = f" ({int(bad.sum())} in all). {advice}"
        if len(place) == 1:
            raise RowError(f"{name} holds {what} at ", place, after)
        raise ValueError(f"{name} holds {what} at position {place}{after}")


def check_shapes(x: Tensor, y: Tensor) -> None:
    """Raise `ValueError` where `x` (n, p) or (*B, n, p) and `y` (*B, n) do not belong together."""
    if x.dim() < 2:
        raise ValueError(
            f"x has shape {tuple(x.shape)}; it must be (n, p), one row for each observation. "
            "For a single column pass x[:, None]."
        )
    if y.dim() < 1:
        raise ValueError("y is a single number; it must be (n,), one response for each row of x.")
    if x.dim() > 2 and y.shape != x.shape[:-1]:
        raise ValueError(
            f"x has shape {tuple(x.shape)} and y {tuple(y.shape)}; a batch of models needs y of shape "
            f"{tuple(x.shape[:-1])}."
        )
    if y.shape[-1] != x.shape[-2]:
        hint = " (many responses go in rows: y of shape (B, n))" if y.dim() == 2 else ""
        raise ValueError(f"x has n = {x.shape[-2]} rows and y has {y.shape[-1]}; they must agree{hint}.")
    if x.shape[-2] == 0:
        raise ValueError("x and y hold no rows (n = 0). Pass at least one observation.")


def check_weights(weight: Tensor, name: str, strict: bool = True) -> None:
    """Raise `ValueError` for weights that are negative, not finite, or (where `strict`) all zero."""
    finite(weight, name)
    if bool((weight < 0).any()):
        place = (weight < 0).nonzero()[0].tolist()
        raise RowError(f"{name} must be >= 0; ", place, f" has {float(weight[tuple(place)]):g}. Use 0 to drop a row.")
    if strict and bool((weight == 0).all()):
        raise ValueError(f"{name} are all zero: no row is left to fit. Give at least one row a positive weight.")


def check_support(y: Response, family: Family, used: Tensor) -> None:
    """Raise `ValueError` at the first response outside the family's support."""
    inside, value = family.supports(y), size_of(y)
    if bool(inside.all()):
        return
    bad = used & ~inside & torch.isfinite(value)
    if bool(bad.any()):
        place = bad.nonzero()[0].tolist()
        raise RowError(
            f"the {family.name} family needs {family.support_text}; ",
            place,
            f" has y = {float(value[tuple(place)]):g}. Correct or drop it, {family.advice}.",
        )
