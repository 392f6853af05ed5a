"""Rao's score test of directions added to the predictors of a fit of several, which is not refitted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from torchglm.inference.fitted import Fitted
from torchglm.inference.several import family_of, weighed
from torchglm.rows.grams import Dense
from torchglm.rows.planned import Pairs, applied, gram_of, predictors, project_each
from torchglm.rows.rows import Rows, to_float64

Directions = Callable[[Rows, Tensor], Sequence[Tensor]]  # rows, their predictors (K, B, n) -> Q moves of these
BENT = 1e-8  # share of an information that may be negative by rounding
Sums = tuple[Tensor, Tensor, Tensor]  # a score (B, Q), its information (B, Q, Q), and what the fit leaves of that


def score_sums(result: Fitted, directions: Directions) -> Sums:
    """The score (B, Q) of added coefficients, their information (B, Q, Q), and what the fit leaves of it.

    `directions` gives of every piece of the rows how each of Q coefficients moves its predictors, (K, B, n). The
    information is the expected one where the family has it in closed form, else the observed one; of models in which
    that bends the other way, as far from the law it may, the outer products of the scores.
    """
    return score_sums_of(result, {"": directions})[""]


def score_sums_of(result: Fitted, topics: Mapping[str, Directions]) -> dict[str, Sums]:
    """`score_sums` of several tests, each by itself, in one pass over the rows, or two where outer products are due."""
    found = _pass(result, topics, outer_products=False)
    bent = {topic: bends_away(own, left) for topic, (_, own, left) in found.items()}
    asked = {topic: topics[topic] for topic, models in bent.items() if bool(models.any())}
    for topic, other in _pass(result, asked, outer_products=True).items() if asked else ():
        score, own, left = (torch.where(_over(bent[topic], b), a, b) for a, b in zip(other, found[topic], strict=True))
        found[topic] = score, own, left
    return found


def bends_away(own: Tensor, left: Tensor) -> Tensor:
    """(B,) where what is left of an information (B, Q, Q) is no information."""
    size = own.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
    size = torch.where(size > 0, size, 1.0)
    values = torch.linalg.eigvalsh((left / size.unsqueeze(-1) / size.unsqueeze(-2)).nan_to_num())
    return (values < -BENT).any(-1) | (own.diagonal(dim1=-2, dim2=-1) < 0).any(-1)


def _over(models: Tensor, like: Tensor) -> Tensor:
    return models.reshape(-1, *[1] * (like.dim() - 1))


def _pass(result: Fitted, topics: Mapping[str, Directions], outer_products: bool) -> dict[str, Sums]:
    family, total = family_of(result), None
    found: dict[str, list[Tensor]] = {}
    for rows in pieces(result):
        eta = predictors(rows, result.flat.coef)
        slope, pairs = family.derivatives(rows.response, eta)
        pairs = weighed(rows, outer(slope) if outer_products else family.expected(eta) or pairs)
        slope = torch.where(rows.weight > 0, slope * rows.weight, 0.0)
        design = gram_of(rows, pairs)
        total = design if total is None else total + design
        for topic, directions in topics.items():
            own = _sums(rows, directions(rows, eta), slope, pairs)
            before = found.get(topic)
            found[topic] = own if before is None else [a + b for a, b in zip(before, own, strict=True)]
    assert total is not None
    root = Dense(total.matrix).invert(result.flat.keep).root
    return {topic: (score, own, own - root.within(cross)) for topic, (score, own, cross) in found.items()}


def outer(slope: Tensor) -> Pairs:
    """The outer products of scores (K, B, n), as the pairs of an information."""
    return {(k, j): slope[k] * slope[j] for k in range(len(slope)) for j in range(k, len(slope))}


def _sums(rows: Rows, moves: Sequence[Tensor], slope: Tensor, pairs: Pairs) -> list[Tensor]:
    """Score (B, Q), information (B, Q, Q) and that beside the fit's coefficients (B, P, Q) of moves (K, B, n)."""
    moves = [torch.where(rows.weight > 0, move, 0.0) for move in moves]
    heavy = [applied(pairs, move) for move in moves]
    score = torch.stack([(move * slope).sum((0, -1)) for move in moves], -1)
    own = torch.stack([torch.stack([(a * b).sum((0, -1)) for b in heavy], -1) for a in moves], -2)
    return [score, own, torch.stack([project_each(rows, one) for one in heavy], -1)]


def added_sums(result: Fitted, columns: Tensor, contrast: Tensor) -> Sums:
    """`score_sums` of `columns` (n, q) or (B, n, q) that enter the predictors through `contrast` (K, r), `Q = q r`.

    Raises `ValueError` for another number of rows.
    """
    start = 0

    def directions(rows: Rows, eta: Tensor) -> list[Tensor]:
        nonlocal start
        n = rows.y.shape[-1]
        z = columns[..., start : start + n, :]
        if z.shape[-2] != n:
            raise ValueError(f"added has {columns.shape[-2]} rows, fewer than the fit. Give one for each row.")
        start += n
        each = z.expand(eta.shape[1], n, -1).unbind(-1)
        return [entry[:, None, None] * column for entry in contrast.unbind(-1) for column in each]

    sums = score_sums(result, directions)
    if start != columns.shape[-2]:
        raise ValueError(f"added has {columns.shape[-2]} rows, the fit {start}. Give one for each row.")
    return sums


def pieces(result: Fitted) -> Iterator[Rows]:
    """The rows of a fit in float64, in pieces of bounded size."""
    return (to_float64(piece) for rows in result.source for piece in rows.pieces())
