"""Folds of rows: who is left out when, and what the others say of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.families.several import Classes
from torchglm.fitting.kernel import fold
from torchglm.fitting.moments import Point
from torchglm.links import Link
from torchglm.rows.planned import predictors
from torchglm.rows.products import linear_predictor
from torchglm.rows.rows import Rows, repeated, select

SURE = 1e-5  # probabilities are held this far from 0 and 1, as glmnet does


class Without:
    """A source for `B K` models, those of one of its `B` models together, each without the rows of one fold.

    `codes` (n,) are the folds of all rows in the order of the source, `folds` those that are left out.
    """

    def __init__(self, source: Iterable[Rows], codes: Tensor, folds: list[int]) -> None:
        self.source, self.codes, self.folds = source, codes, torch.tensor(folds, device=codes.device)

    def __iter__(self) -> Iterator[Rows]:
        for rows, codes in with_codes(self.source, self.codes):
            inside = self.folds.unsqueeze(-1) != codes  # (K, n)
            models, count = rows.y.shape[0], len(inside)
            if count > 1 and models == 1:
                rows = repeated(rows, count)
            elif count > 1:
                rows = rows.take(torch.arange(models, device=codes.device).repeat_interleave(count))
            weight = torch.where(inside.repeat(models, 1), rows.weight, 0.0)
            yield rows._replace(weight=weight)

    def at_hand(self) -> Iterable[Rows]:
        """The same, made once where the source is in memory."""
        return list(self) if isinstance(self.source, list) else self


def with_codes(source: Iterable[Rows], codes: Tensor) -> Iterator[tuple[Rows, Tensor]]:
    """The chunks of a source, each with the codes of its rows."""
    first = 0
    for rows in source:
        last = first + rows.y.shape[-1]
        yield rows, codes[first:last]
        first = last


def fold_weights(source: Iterable[Rows], codes: Tensor, folds: int) -> Tensor:
    """(B, K) the weight of every fold."""
    total: Tensor | None = None
    for rows, own in with_codes(source, codes):
        part = torch.zeros(rows.y.shape[0], folds, dtype=torch.float64, device=codes.device)
        part.index_add_(-1, own, rows.weight.to(torch.float64))
        total = part if total is None else total + part
    assert total is not None
    return total


def averaged(source: Iterable[Rows], codes: Tensor, deviance: Tensor) -> tuple[Tensor, Tensor]:
    """(B, L) the mean of the deviance (B, K, L) of the folds, each by its weight, and the standard error of that."""
    weight = fold_weights(source, codes, deviance.shape[1])
    share = (weight / weight.sum(-1, keepdim=True)).unsqueeze(-1)  # (B, K, 1)
    mean = (share * deviance).sum(1)
    square = (share * (deviance - mean.unsqueeze(1)).square()).sum(1)
    return mean, (square / (deviance.shape[1] - 1)).sqrt()


def fold_grams(
    source: Iterable[Rows], codes: Tensor, folds: list[int], family: Family, link: Link, coef: Tensor, columns: Tensor
) -> Tensor:
    """(B K, w, w) the Grams of the rows of some folds alone, at coefficients (B, P), of some columns (w,).

    All of them together take one pass.
    """
    width, every = columns.numel(), columns.numel() == coef.shape[-1]
    total = coef.new_zeros(coef.shape[0], len(folds), width, width)
    point = Point(coef[:, columns])
    for rows, own in with_codes(source, codes):
        rows = rows if every else select(rows, columns)
        for at, k in enumerate(folds):
            held = rows.at((own == k).nonzero()[:, 0])
            if held.y.shape[-1]:
                total[:, at] += fold([held], point, family, link).gram.written_out()
    return total.flatten(0, 1)


def left_out_deviance(source: Iterable[Rows], codes: Tensor, family: Family, link: Link, coef: Tensor) -> Tensor:
    """(B, K, L) the weighted mean unit deviance of every fold at its own coefficients (B, K, L, P)."""
    total = torch.zeros(coef.shape[:-1], dtype=torch.float64, device=coef.device)
    for rows, own in with_codes(source, codes):
        for k in range(coef.shape[1]):
            held = rows.at((own == k).nonzero()[:, 0])
            for b in range(coef.shape[0]) if held.y.shape[-1] else ():
                one = held.take(torch.full((coef.shape[2],), b, device=coef.device))
                deviance = _unit_deviance(one, family, link, coef[b, k])  # (L, n)
                total[b, k] += torch.where(one.weight > 0, deviance * one.weight, 0.0).sum(-1)
    weight = fold_weights(source, codes, coef.shape[1])
    return torch.nan_to_num(total / weight.unsqueeze(-1), nan=torch.inf)


def _unit_deviance(rows: Rows, family: Family, link: Link, coef: Tensor) -> Tensor:
    if isinstance(family, Classes):
        sure = family.probabilities(predictors(rows, coef)).clamp(SURE, 1 - SURE)
        return -2 * sure.gather(0, rows.y.long().unsqueeze(0)).squeeze(0).log()
    mean = link(linear_predictor(rows, coef))
    if family.mean_upper == 1.0:
        mean = mean.clamp(SURE, 1 - SURE)
    return torch.where(family.valid_mean(mean), family.unit_deviance(rows.response, mean), torch.inf)
