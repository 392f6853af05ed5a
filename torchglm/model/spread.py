"""The dispersion of a head by Pearson's chi-square over the rows it was trained on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from torchglm.fitting.kernel import fold
from torchglm.fitting.moments import Moments, Point
from torchglm.inputs import GLMBatch, LoaderRows
from torchglm.model.layer import GLMLayer
from torchglm.rows.ranks import ALONE, Ranks

RANK = 1e-10  # directions of less than this share of the largest, in columns of one length, are no columns
MOST = 2048  # columns of which a Gram is made to count those that depend on others; of more all count


def flat_rows(head: GLMLayer, rows: GLMBatch) -> GLMBatch:
    """A batch of sequences, `x` (*N, in_features), as one of rows: `x` (n, in_features), all else (n,) or (n, R).

    Raises `ValueError` for other shapes, as the loss does.
    """
    if rows.x.dim() == 2:
        return rows
    like = torch.empty(*rows.x.shape[:-1], head.out_features, dtype=torch.float64, device="meta")

    def flat(name: str, value: Any) -> Any:
        if value is None or name == "x":
            return value
        every = head.per_response(value, like, name).reshape(-1, head.out_features)
        return every[:, 0] if head.out_features == 1 else every

    given = {name: flat(name, value) for name, value in rows._asdict().items()}
    return GLMBatch(**given | {"x": rows.x.reshape(-1, rows.x.shape[-1])})


@torch.no_grad()
def pearson(head: GLMLayer, batches: Iterable[Any], ranks: Ranks = ALONE) -> Tensor:
    """Pearson's chi-square over `n - rank`, `(R,)`, as in `torchglm.fit`, by one pass over batches of features.

    Raises `ValueError` where there are no more rows than coefficients, or some mean is out of range.
    """
    coef, few = head.coef, head.coef.shape[1] <= MOST
    source = LoaderRows(batches, head.family, head.link, head.bias is not None, head.weight.device, None)
    sums = fold(source, Point(coef, before=coef, census=True, curved=few), head.family, head.link).over(ranks)
    rank = _rank(sums, coef) if few else torch.full_like(sums.count, coef.shape[1])
    if bool((sums.count <= rank).any()):
        raise ValueError(
            f"there are {int(sums.count.min())} rows of positive weight for {int(rank.max())} coefficients: nothing is "
            "left to estimate the dispersion from. Give more rows, or make the head with dispersion= a number."
        )
    if bool((sums.invalid > 0).any()):
        raise ValueError(
            f"the means of {int(sums.invalid.sum())} rows are out of the range of the family {head.family.name}. "
            "Train on, or take a link that reaches every mean, such as log."
        )
    return sums.pearson / (sums.count - rank)


def _rank(sums: Moments, coef: Tensor) -> Tensor:
    """(R,) how many columns do not depend on others."""
    gram = sums.gram.written_out()
    length = gram.diagonal(dim1=-2, dim2=-1).sqrt()
    length = torch.where(length > 0, length, 1.0)
    values = torch.linalg.eigvalsh(gram / length.unsqueeze(-1) / length.unsqueeze(-2))
    return (values > RANK * values[..., -1:]).sum(-1).to(sums.count)
