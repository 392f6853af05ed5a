"""Which fold of a cross-validation each row is in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchglm.design import groups, is_source
from torchglm.design.sources import scan
from torchglm.fitting.folds import fold_weights
from torchglm.inputs import Data
from torchglm.rows.places import Places
from torchglm.rows.rows import Rows
from torchglm.tables import TextFormat, as_table


def fold_codes(folds: Any, source: Iterable[Rows], seed: int) -> tuple[Tensor | None, list[Any]]:
    """The number of the fold of every row (n,), and the labels of the folds; None where there are none."""
    if folds is None:
        return None, []
    sizes = [rows.y.shape[-1] for rows in source]
    n, device = sum(sizes), next(iter(source)).y.device
    if isinstance(folds, bool):
        raise TypeError(f"folds is how many, or a label for each row; got {folds!r}.")
    if isinstance(folds, int):
        if not 2 <= folds <= n:
            raise ValueError(f"folds={folds} of {n} rows. Take from 2 folds to one for each row.")
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        codes = torch.empty(n, dtype=torch.int64)
        codes[order] = torch.arange(n) % folds
        labels: list[Any] = list(range(folds))
    else:
        codes, labels = _codes(folds, n)
    codes = codes.to(device)
    empty = (fold_weights(source, codes, len(labels)) == 0).any(0)
    if bool(empty.any()):
        label = labels[int(empty.nonzero()[0, 0])]
        raise ValueError(f"fold {label!r} has no row of positive weight. Merge it with another.")
    return codes, labels


def _codes(folds: Any, n: int) -> tuple[Tensor, list[Any]]:
    held = folds.detach().cpu().numpy() if isinstance(folds, Tensor) else np.asarray(folds)
    if held.shape != (n,):
        raise ValueError(f"folds has shape {held.shape} for {n} rows. Give a label for each row, or how many folds.")
    if held.dtype.kind == "f" and not np.isfinite(held).all() or held.dtype.kind == "O" and _missing(held):
        raise ValueError("folds has missing labels. Give each row one.")
    labels, codes = np.unique(held.astype(str) if held.dtype.kind == "O" else held, return_inverse=True)
    if len(labels) < 2:
        raise ValueError(f"folds holds one label only, {labels[0]!r}. Cross-validation takes at least two folds.")
    return torch.from_numpy(codes.reshape(-1)), labels.tolist()


def _missing(values: np.ndarray) -> bool:
    return any(value is None or value != value for value in values)


def column_of_folds(name: str, formula: Any, table: Any, data: Data, reading: TextFormat) -> Tensor:
    """The labels of the rows that are kept, as codes, from a column of the table or the files of a formula.

    Raises `ValueError` where there is no formula, no such column, or a label is missing.
    """
    if not isinstance(formula, str):
        raise ValueError(f"folds={name!r} names a column, and x is no formula. Give a label for each row, or a number.")
    return column_of_rows(name, table, data.context["places"], reading)


def column_of_rows(name: str, table: Any, places: Places, reading: TextFormat) -> Tensor:
    """(n,) the codes of a column of a table or of files, in the order of its values, for the rows that a fit kept.

    Raises `ValueError` where there is no such column, or a value is missing.
    """
    import pyarrow as pa

    if is_source(table):
        pieces = list(scan(table, [name], reading=reading).pieces())
        whole, found = pa.concat_tables([piece.table for piece in pieces]), [(p.file, p.first) for p in pieces]
        sizes = [len(piece.table) for piece in pieces]
    else:
        whole = as_table(table)
        found, sizes = [(None, 0)], [len(whole)]
    codes, _ = groups(whole, [name])
    ends = np.cumsum([0, *sizes])
    start = {place: int(ends[i]) for i, place in enumerate(found)}
    kept = []
    for file, first, rows, bits in places.pieces:
        own = codes[start[file, first] : start[file, first] + rows]
        used = slice(None) if bits is None else np.unpackbits(np.frombuffer(bits, np.uint8), count=rows).astype(bool)
        kept.append(own[used])
    return torch.cat(kept)
