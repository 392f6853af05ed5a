"""Leverages of rows and clusters beside absorbed factors, exactly or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from torchglm.inference.clusters import written
from torchglm.inference.fitted import Fitted
from torchglm.inference.rowwise import RowValues, row_values, spread
from torchglm.rows import threads
from torchglm.rows.crossed import Crossed
from torchglm.rows.crossed_lengths import TooManyLevels, crossed_lengths
from torchglm.rows.ranks import own_rows
from torchglm.rows.rows import Rows, to_float64

Out = TypeVar("Out")
WRITTEN = 200  # columns and levels that are written out for clusters that cut through an absorbed factor
NOTHING = 1e-9  # a smaller eigenvalue is rounding


def levered_values(result: Fitted) -> Iterator[RowValues]:
    """The values of every chunk of the rows, with the part of absorbed factors in their leverages.

    Raises `ValueError` where that is too dear.
    """
    beside, start = lengths_beside(result), 0
    for values in result.scored_values():
        n = values.eta.shape[-1]
        own = None if beside is None else beside[start : start + n].unsqueeze(0)
        yield values if own is None else replace(values, beside=torch.where(values.used, own, 0.0))
        start += n


def shared_out(result: Fitted, work: Callable[[Iterator[RowValues]], Out]) -> list[Out]:
    """What `work` makes of the levered values of some of the rows: in memory, of a part for each thread, in order.

    The leverages of rows in memory are found once and kept, 8 bytes a row.
    """
    flat, own = result.flat, own_rows(result.scored)
    if "absorbed" in result.context or not isinstance(own, list) or flat.coef.is_cuda:
        values = row_values(own, result.family, result.link, flat.coef)
        return [work(levered_values(result) if "absorbed" in result.context else values)]
    known = result.lengths
    pieces = [piece for chunk in own for piece in to_float64(chunk).pieces()]

    def levered(numbered: Sequence[tuple[int, Rows]]) -> Iterator[RowValues]:
        for number, rows in numbered:
            for values in row_values([rows], result.family, result.link, flat.coef):
                if number not in known:
                    known[number] = spread(values, flat.root)
                yield replace(values, length=known[number])

    return threads.spread(lambda numbered: work(levered(numbered)), list(enumerate(pieces)))


def lengths_beside(result: Fitted) -> Tensor | None:
    """(n,) `d' (D'WD)^- d` of the levels of every row; None without absorbed factors.

    Raises `ValueError` where the matrix that it takes is too large.
    """
    if "absorbed" not in result.context:
        return None
    crossed, weight = _crossed(result)
    try:
        return crossed_lengths(crossed, weight)
    except TooManyLevels as error:
        raise ValueError(
            f"leverages beside the absorbed factors {_named(result)} take a matrix of {error}, which is too large. "
            "HC0, HC1 and clustered errors take none."
        ) from None


class Metric(NamedTuple):
    """What corrections for the leverage of clusters are made of: rows, coefficients, a root (B, q, q) of the inverse.

    The first columns are those of the fit; where absorbed factors are written out theirs follow.
    """

    source: Iterable[Rows]
    coef: Tensor
    root: Tensor


def metric_of(result: Fitted, codes: Tensor, type: str) -> Metric:
    """That of the whole model for clusters `codes` (n,), exact where it is given.

    Where every level of absorbed factors lies within a cluster the columns that are free of the factors tell all
    (Pustejovsky & Tipton 2018, theorem 2, in the metric of the working weights). Else the levels are written out, up to
    200. Raises `ValueError` beyond.
    """
    flat, root = result.flat, written(result.flat.root)
    if flat.absorbed is None:
        return Metric(result.source, flat.coef, root)
    rows, p = _rows(result), flat.coef.shape[-1]
    crossed, weight = _crossed(result)
    if codes.shape[-1] != len(weight):
        raise ValueError(f"clusters has {codes.shape[-1]} labels for {len(weight)} rows. Give one for each row.")
    if _within(crossed, codes, weight > 0):
        return Metric([rows], flat.coef, root)
    if p + crossed.levels > WRITTEN:
        raise ValueError(
            f"type={type!r} corrects for the leverage of clusters, which beside absorbed factors ({_named(result)}) is "
            "known where each of their levels lies within one cluster, or where they have few levels (up to "
            f"{WRITTEN}, here {crossed.levels:,}). Use type='HC0', or cluster by a factor that holds the levels whole."
        )
    levels = torch.cat(
        [
            torch.nn.functional.one_hot(own.long(), count).to(torch.float64)
            for own, count in zip(crossed.codes, crossed.counts, strict=True)
        ],
        -1,
    )
    values, vectors = torch.linalg.eigh(levels.mT @ (levels * weight.unsqueeze(-1)))
    kept = values > NOTHING * values.amax()
    beside = torch.zeros_like(vectors)
    beside[:, kept] = vectors[:, kept] * values[kept].rsqrt()
    wide = rows._replace(x=torch.cat([rows.x.to(torch.float64), levels], -1))
    coef = torch.cat([flat.coef, flat.coef.new_zeros(1, crossed.levels)], -1)
    return Metric([wide], coef, torch.block_diag(root[0], beside).unsqueeze(0))


def _rows(result: Fitted) -> Rows:
    [rows] = result.scored
    return rows


def _crossed(result: Fitted) -> tuple[Crossed, Tensor]:
    """The absorbed factors, and the working weights (n,) of the rows."""
    rows = _rows(result)
    assert rows.codes is not None and result.spec is not None
    values = row_values([rows], result.family, result.link, result.flat.coef)
    weight = torch.cat([part.information[0] for part in values])
    return Crossed(rows.codes, tuple(len(levels) for levels in result.spec.absorbed_levels.values())), weight


def _named(result: Fitted) -> str:
    return ", ".join(result.spec.absorbed_levels) if result.spec is not None else ""


def _within(crossed: Crossed, codes: Tensor, used: Tensor) -> bool:
    """Whether every level has the rows of one cluster alone."""
    own = codes.reshape(-1)[used]
    for levels, count in zip(crossed.codes, crossed.counts, strict=True):
        at = levels.long()[used]
        first = torch.full((count,), int(codes.max()) + 1, dtype=torch.int64).scatter_reduce(0, at, own, "amin")
        last = torch.full((count,), -1, dtype=torch.int64).scatter_reduce(0, at, own, "amax")
        if bool((first[at] != last[at]).any()):
            return False
    return True
