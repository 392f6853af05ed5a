"""Classes of a response: labels of any kind as codes, in the order of the classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchglm.inputs import checks
from torchglm.inputs.columns import column_names
from torchglm.inputs.roles import Roles

CLOSE = 1 << 16  # whole numbers from the least label to the largest, from which on they are sorted


def class_codes(y: Any, classes: Sequence[Any] | None = None) -> tuple[Tensor, list[Any]]:
    """Codes 0, 1, ... (*B, n) of labels, and the classes: those given, a categorical's in its order, else sorted.

    Raises `ValueError` for missing labels, labels that are none of the classes, and classes without a row; `TypeError`
    for labels of kinds that have no common order.
    """
    quick = None if classes is not None else _numbers(y)
    if quick is not None:
        return quick
    labels, own = _labels(y)
    missing = np.array([_is_missing(label) for label in labels.reshape(-1)]).reshape(labels.shape)
    if missing.any():
        place = tuple(int(i[0]) for i in missing.nonzero())
        raise ValueError(
            f"y has no class in row {place[-1]} ({int(missing.sum())} in all). Leave such rows out, or give them one."
        )
    if own is not None:
        seen = set(labels.flat)
        own = [label for label in own if label in seen]  # categories without a row are left out, as in a formula
    known = list(classes) if classes is not None else own if own is not None else _sorted(labels)
    places: dict[Any, int] = {label: k for k, label in enumerate(known)}
    if all(isinstance(label, str) for label in known) and all(isinstance(label, int) for label in labels.flat):
        places = {k: k for k in range(len(known))}  # codes of classes that have names
    if len(places) < len(known):
        raise ValueError(f"the classes {known} name one twice. Give each once.")
    strange = next((label for label in labels.flat if label not in places), None)
    if strange is not None:
        raise ValueError(
            f"y holds {strange!r}, which is none of the classes {known}. Correct it, or name it in classes=."
        )
    codes = np.fromiter((places[label] for label in labels.flat), np.int64, labels.size).reshape(labels.shape)
    empty = [known[k] for k in np.setdiff1d(np.arange(len(known)), codes)]
    if empty:
        raise ValueError(
            f"the class{'es' * (len(empty) > 1)} {', '.join(map(repr, empty))} has no row: its probability cannot be "
            "estimated. Leave it out of the classes, or merge it with another."
        )
    _check_count(known)
    return torch.from_numpy(codes), known


def _check_count(known: list[Any]) -> None:
    if not known:
        raise ValueError("y holds no rows (n = 0). Pass at least one observation.")
    if len(known) < 2:
        raise ValueError(f"y holds one class only, {known[0]!r}. A model of classes needs at least two.")


def _numbers(y: Any) -> tuple[Tensor, list[Any]] | None:
    """The same of whole numbers in a tensor or an array, all at once; None of anything else."""
    array = y.detach().cpu().numpy() if isinstance(y, Tensor) else y
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iuf" or not array.size:
        return None
    if array.ndim > 1 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.dtype.kind == "f" and not bool((array == np.round(array)).all()):
        return None
    known, codes = _unique(array)
    labels = [int(label) for label in known]
    _check_count(labels)
    return torch.from_numpy(codes.reshape(array.shape)), labels


def _unique(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whole numbers in order, and their places: by counting, a tenth of the time of sorting, where they lie close."""
    least = array.min()
    if not float(array.max()) - float(least) < CLOSE:
        return np.unique(array, return_inverse=True)
    signed = array if array.dtype.kind == "f" else array.astype(np.int64)  # a difference of int8 may be none
    codes = (signed - least.astype(signed.dtype)).astype(np.int64)
    found = np.bincount(codes.reshape(-1)) > 0
    places = np.flatnonzero(found)
    return places.astype(array.dtype) + least, codes if len(places) == len(found) else (np.cumsum(found) - 1)[codes]


def _labels(y: Any) -> tuple[np.ndarray, list[Any] | None]:
    """Labels as objects, and the classes that a categorical brings."""
    if isinstance(y, Tensor):
        y = y.detach().cpu().numpy()
    if hasattr(y, "to_pandas") and not hasattr(y, "iloc"):
        y = y.to_pandas()
    if hasattr(y, "iloc") and getattr(y, "ndim", 1) == 2 and y.shape[1] == 1:
        y = y.iloc[:, 0]
    own = None
    if hasattr(y, "dtype") and str(y.dtype) == "category":
        own = [_plain(label) for label in (y.cat.categories if hasattr(y, "cat") else y.categories)]
    array = np.asarray(y, object if isinstance(y, (list, tuple)) else None)
    if array.ndim > 1 and array.shape[-1] == 1:
        array = array[..., 0]
    out = np.empty(array.shape, object)
    out.reshape(-1)[:] = [_plain(label) for label in array.reshape(-1).tolist()]
    return out, own


def _plain(label: Any) -> Any:
    """A label as a plain value; a whole number as an int."""
    value = label.item() if hasattr(label, "item") else label
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _is_missing(label: Any) -> bool:
    return label is None or str(label) in ("<NA>", "NaT") or (isinstance(label, float) and label != label)


def _sorted(labels: np.ndarray) -> list[Any]:
    try:
        return sorted(set(labels.reshape(-1)))
    except TypeError:
        kinds = sorted({type(label).__name__ for label in labels.flat})
        raise TypeError(
            f"y holds labels of the kinds {', '.join(kinds)}, which have no common order. Make them one kind, or give "
            "the classes in order: classes=[...]."
        ) from None


def is_counts(x: Tensor, y: Any) -> bool:
    """Whether `y` (n, C) counts the classes of each row of `x` (n, p), and is no batch of labels (B, n)."""
    shape = tuple(getattr(y, "shape", ()))
    return x.dim() == 2 and len(shape) == 2 and shape[0] == x.shape[0] and shape[1] not in (1, x.shape[0])


def counted(x: Tensor, y: Any, roles: Roles) -> tuple[Tensor, Tensor, Roles, list[Any]]:
    """Counts `y` (n, C) as a row for each class of each row, its count a weight: `x`, codes, roles and classes.

    A column has the name of its class where it has one. Raises `ValueError` for counts that are negative or no numbers.
    """
    names = column_names(y)
    counts = checks.tensor(y, "y", x.device).to(torch.float64)
    checks.check_weights(counts, "y")
    n, classes = counts.shape
    codes = torch.arange(classes, dtype=torch.float64, device=x.device).repeat(n)
    roles = roles.map(lambda name, value: checks.per_row(value, counts.shape[:1], name, x.device))
    roles = roles.map(lambda _, value: value.repeat_interleave(classes))
    weights = counts.flatten() if roles.weights is None else counts.flatten() * roles.weights
    known = list(range(classes)) if names is None else list(names)
    return x.repeat_interleave(classes, 0), codes, roles._replace(weights=weights), known
