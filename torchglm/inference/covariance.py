"""Covariances of the coefficients: model, observed information, and sandwiches robust to the variance function."""

from collections.abc import Iterable

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.fitting import linalg
from torchglm.fitting.moments import Point, fold, gram
from torchglm.fitting.rows import Rows
from torchglm.inference.rowwise import leverage, row_values
from torchglm.links import Link

KINDS = ("model", "observed", "HC0", "HC1", "HC2", "HC3", "cluster")


def observed_inverse(source: Iterable[Rows], family: Family, link: Link, coef: Tensor, keep: Tensor) -> Tensor:
    """(B, p, p) the inverse of the observed information for `phi = 1`; NaN where it is not positive definite."""
    moments = fold(source, Point(coef, True), family, link, coef.shape[0], coef.shape[1], coef.device)
    inverse = linalg.invert_gram(moments.gram, keep)
    whole = inverse.root @ inverse.root.mT
    return torch.where(inverse.positive[:, None, None], whole, torch.nan)


def heteroscedastic(source: Iterable[Rows], family: Family, link: Link, coef: Tensor, root: Tensor, kind: str,
                    nobs: Tensor, rank: Tensor) -> Tensor:
    """(B, p, p) the sandwich `A^-1 (sum u^2 x x') A^-1` of White, with the corrections HC0 to HC3.

    `u` is the weighted score of a row, `A` the expected information; HC1 multiplies by `n / (n - p)`, HC2 and
    HC3 divide `u^2` by `1 - h` and `(1 - h)^2`. Source: Zeileis (2006), J. Stat. Software 16(9).
    """
    power = {"HC0": 0, "HC1": 0, "HC2": 1, "HC3": 2}[kind]
    meat = torch.zeros_like(root)
    for values in row_values(source, family, link, coef):
        square = values.score.square()
        if power:
            # a row of leverage one is fitted exactly: 0 / 0, and as in the sandwich package nothing is said
            left = 1 - leverage(values, root)
            square = square / torch.where(left > 1e-9, left, torch.nan).pow(power)
        meat = meat + gram(values.rows.x, torch.where(values.used, square, 0.0))
    scale = (nobs / (nobs - rank))[:, None, None] if kind == "HC1" else 1.0
    return scale * _sandwich(root, meat)


def clustered(source: Iterable[Rows], family: Family, link: Link, coef: Tensor, root: Tensor, clusters: Tensor,
              nobs: Tensor, rank: Tensor) -> Tensor:
    """(B, p, p) the one-way clustered sandwich with the factor `G / (G - 1) (n - 1) / (n - p)`.

    `clusters` (n,) or (B, n) are labels of the rows in the order of the source. Raises `ValueError` for fewer
    than two clusters or another length. Source: Zeileis, Koell & Graham (2020), J. Stat. Software 95(1).
    """
    models, p = coef.shape
    labels, codes = torch.unique(clusters, return_inverse=True)
    if labels.numel() < 2:
        raise ValueError("clusters holds one cluster; a clustered covariance needs at least two.")
    sums = coef.new_zeros(models, labels.numel(), p)
    present = coef.new_zeros(models, labels.numel())
    start = 0
    for values in row_values(source, family, link, coef):
        n = values.mu.shape[-1]
        part = codes[..., start:start + n]
        if part.shape[-1] != n:
            raise ValueError(f"clusters has {codes.shape[-1]} labels, fewer than the rows. Give one for each row.")
        index = part.expand(models, n)
        rows = values.score.unsqueeze(-1) * values.rows.x
        sums.scatter_add_(1, index.unsqueeze(-1).expand(models, n, p), rows)
        present.scatter_add_(1, index, values.used.to(present.dtype))
        start += n
    if start != codes.shape[-1]:
        raise ValueError(f"clusters has {codes.shape[-1]} labels for {start} rows. Give one for each row.")
    groups = (present > 0).sum(-1).to(coef.dtype)
    scale = groups / (groups - 1) * (nobs - 1) / (nobs - rank)
    return scale[:, None, None] * _sandwich(root, sums.mT @ sums)


def _sandwich(root: Tensor, meat: Tensor) -> Tensor:
    bread = root @ root.mT
    return bread @ meat @ bread
