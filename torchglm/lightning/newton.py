"""One exact pass over all rows at trained coefficients: how far the optimum is, and the step to it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from torchglm.fitting.penalties import Penalty
from torchglm.head import GLMHead
from torchglm.inputs import GLMBatch
from torchglm.lightning.columns import Rows, WhitenedGLM


@dataclass(frozen=True)
class Newton:
    """`loss`, the penalised mean loss; `step` `(q,)`, Fisher's scoring step of the trained weights.

    `distance` is the longest step of a coefficient, as a share of its standard error: NaN with an l1 penalty,
    whose optimum is not where the slope is zero.
    """

    loss: float
    step: Tensor
    distance: float


@torch.no_grad()
def newton(inner: WhitenedGLM, head: GLMHead, batches: Iterable[GLMBatch],
           penalty: Penalty | None = None) -> Newton:
    """The sums of one pass in float64, and the step they lead to."""
    layer, trained, start = inner.backbone, inner.trained, inner.start
    mean, matrix, constant = (value.double() for value in (layer.mean, layer.weight, layer.bias))
    family, link = head.family, head.link
    gram, score = trained.new_zeros(len(trained), len(trained)), torch.zeros_like(trained)
    loss, pearson, weight, count = (trained.new_zeros(()) for _ in range(4))
    for batch in batches:
        rows = Rows.of(batch, head)
        w = rows.weight
        z = F.linear(rows.x - mean, matrix, constant)
        eta = z @ trained + start + rows.offset
        mu = link(eta)
        slope, information = family.score_and_weight(rows.y, eta, mu, link, False)
        size = rows.y.abs() if family.signed else rows.y
        gram += (z * (w * information).unsqueeze(-1)).mT @ z
        score += (w * slope) @ z
        loss += (w * family.nll(rows.y, eta, link)).sum()
        pearson += (w * (size - mu).square() / family.variance(mu)).sum()
        weight, count = weight + w.sum(), count + (w > 0).sum()
    to_weight = matrix.mT  # (p, q): from trained weights to those of the columns given
    smooth = True
    if penalty is not None:
        coef, total = inner.coefficients()[0].unsqueeze(0), weight.reshape(1)
        whole = penalty.expand(False, head.in_features)
        ridge = whole.ridge(coef, total)[0]
        smooth = whole.nonsmooth(coef, total) is None
        gram = gram + (to_weight * ridge.unsqueeze(-1)).mT @ to_weight
        score = score - (ridge * coef[0]) @ to_weight
        loss = loss + whole.value(coef, total)[0]
    step = torch.linalg.solve(gram, score)
    to_bias = constant - mean @ to_weight
    back = torch.cat([to_bias.unsqueeze(0), to_weight]) if head.bias is not None else to_weight
    phi = pearson / (count - len(trained)).clamp(min=1) if family.has_dispersion else 1.0
    error = (phi * (back * torch.linalg.solve(gram, back.mT).mT).sum(-1)).clamp(min=0).sqrt()
    share = torch.where(error > 0, (back @ step).abs() / error, 0.0)
    return Newton(float(loss / weight), step, float(share.max()) if smooth else float("nan"))
