"""Folds of rows: who is left out when, and what the others say of them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.families.several import Classes
from torchglm.links import Link
from torchglm.rows.planned import predictors
from torchglm.rows.products import linear_predictor
from torchglm.rows.rows import Rows

SURE = 1e-5  # probabilities are held this far from 0 and 1, as glmnet does


def training(rows: Rows, codes: Tensor, folds: int) -> Rows:
    """The rows of `B` models, and of each of them without one fold: (B (1 + K)) models, those of one model together."""
    models = rows.y.shape[0]
    inside = torch.arange(-1, folds, device=codes.device).unsqueeze(-1) != codes  # (1 + K, n)
    index = torch.arange(models, device=codes.device).repeat_interleave(1 + folds)
    taken = rows.take(index)
    weight = torch.where(inside.repeat(models, 1), taken.weight, 0.0)
    return taken._replace(weight=weight, offset=taken.offset.contiguous())


def held_out(rows: Rows, codes: Tensor, folds: int) -> Iterator[tuple[int, Rows]]:
    """The rows of every fold, all models."""
    for fold in range(folds):
        yield fold, rows.at((codes == fold).nonzero()[:, 0])


def mean_deviance(rows: Rows, family: Family, link: Link, coef: Tensor) -> tuple[Tensor, Tensor]:
    """(B, L) the weighted mean unit deviance of rows at coefficients (B, L, P), and the weight (B,) of the rows."""
    out = coef.new_empty(coef.shape[:2])
    for b, own in enumerate(coef):
        one = rows.take(torch.full((len(own),), b, device=coef.device))
        deviance = _unit_deviance(one, family, link, own)  # (L, n)
        out[b] = torch.where(one.weight > 0, deviance * one.weight, 0.0).sum(-1) / one.weight.sum(-1)
    return torch.nan_to_num(out, nan=torch.inf), rows.weight.sum(-1)


def _unit_deviance(rows: Rows, family: Family, link: Link, coef: Tensor) -> Tensor:
    if isinstance(family, Classes):
        sure = family.probabilities(predictors(rows, coef)).clamp(SURE, 1 - SURE)
        return -2 * sure.gather(0, rows.y.long().unsqueeze(0)).squeeze(0).log()
    mean = link(linear_predictor(rows, coef))
    if family.mean_upper == 1.0:
        mean = mean.clamp(SURE, 1 - SURE)
    return torch.where(family.valid_mean(mean), family.unit_deviance(rows.response, mean), torch.inf)
