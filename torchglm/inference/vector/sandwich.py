"""Sandwich covariances of several predictors: White's with the corrections HC0 to HC3, and the scores of rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from torchglm.families.several import VectorFamily
from torchglm.inference.fitted import Fitted
from torchglm.inference.several import family_of, vector_values
from torchglm.inference.vector.deletion import reaches
from torchglm.rows.planned import Pairs, gram_of, row_scores
from torchglm.rows.ranks import own_rows, ranks_of
from torchglm.rows.rows import Rows


def heteroscedastic_several(result: Fitted, kind: str) -> Tensor:
    """(B, P, P) `V (sum Z' u u' Z) V`: `u = s`, for HC2 `(I - W G)^-1/2 s`, for HC3 `(I - W G)^-1 s`.

    The bread `V` is the inverse of the observed information; with `W = L L'` the corrected scores are
    `L (I - H)^-1/2 L^-1 s` and `L (I - H)^-1 L^-1 s`, `H = L' Z V Z' L`. A row repeated by `freq` counts as that many
    rows. Source: White (1982), Econometrica 50; Bell & McCaffrey (2002), Survey Methodology 28 (matrix roots).
    """
    flat, ranks, meat = result.flat, ranks_of(result.source), None
    with ranks.together():
        for rows, repeats, score in _corrected(result, kind):
            own = gram_of(rows, _outer(score, repeats))
            meat = own if meat is None else meat + own
    assert meat is not None  # every process has rows
    [matrix] = ranks.sum(meat.matrix)
    bread = flat.root.inverse()
    scale = (flat.nobs / (flat.nobs - flat.df))[:, None, None] if kind == "HC1" else 1.0
    return scale * (bread @ matrix @ bread)


def _corrected(result: Fitted, kind: str) -> Iterator[tuple[Rows, Tensor, Tensor]]:
    """Every chunk with how often each row was seen, and the scores (K, B, n) of one repeat of it."""
    if kind in ("HC0", "HC1"):
        for values in vector_values(own_rows(result.source), family_of(result), result.flat.coef):
            yield values.rows, values.repeats, values.score / values.repeats
    else:
        for reach in reaches(result):
            left = reach.left(0.5 if kind == "HC2" else 1, False)
            yield reach.values.rows, reach.values.repeats, torch.where(reach.values.used, left, 0.0)


def _outer(score: Tensor, repeats: Tensor) -> Pairs:
    size = len(score)
    return {(k, j): repeats * score[k] * score[j] for k in range(size) for j in range(k, size)}


def scores_by_row(source: Iterable[Rows], family: VectorFamily, coef: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """(B, n, P) the scores of the rows of every chunk, and (B, n) which rows have weight."""
    for values in vector_values(source, family, coef):
        yield row_scores(values.rows, values.score), values.used
