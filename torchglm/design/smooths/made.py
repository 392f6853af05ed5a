"""Bases by their names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from torchglm.design.smooths.basis import LearnedBasis
from torchglm.design.smooths.natural import CubicRegression, Cyclic
from torchglm.design.smooths.pspline import PSpline
from torchglm.design.smooths.thinplate import ThinPlate

CLASSES: dict[str, type[LearnedBasis]] = {
    "cr": CubicRegression,
    "cs": CubicRegression,
    "cc": Cyclic,
    "ps": PSpline,
    "cp": PSpline,
    "tp": ThinPlate,
    "ts": ThinPlate,
}


def basis_of(values: np.ndarray, counts: np.ndarray, k: int, options: Mapping[str, Any]) -> LearnedBasis:
    """The basis of `k` columns that `options["bs"]` names, on distinct values (d, m) with their counts (m,).

    Raises `ValueError` for fewer distinct values than columns, and for too few columns.
    """
    found, kind = values.shape[1], CLASSES[options["bs"]]
    if found == 1:
        raise ValueError(f"it has the same value, {values[0, 0]:g}, in all rows. Leave the term out")
    if k < kind.least:
        raise ValueError(f"k={k} is too few. Give k={kind.least} or more")
    needs = k - 1 if kind is Cyclic else k
    if found < needs:
        if found < kind.least:
            raise ValueError(f"it has {found} distinct values, too few for a smooth. Write C(x) or x in its place")
        raise ValueError(f"k={k} is more than the {found} distinct values. Write k={found} or less")
    return kind.learn(values, counts, k, options)


def basis_from(data: Mapping[str, Any]) -> LearnedBasis:
    """The inverse of `to_dict` with its `kind`."""
    return {one.kind: one for one in CLASSES.values()}[str(data["kind"])].from_dict(data)
