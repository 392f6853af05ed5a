"""One exact pass over all rows at trained coefficients: how far the optimum is, and the step to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from torchglm.fitting.penalties import Penalty
from torchglm.inputs import GLMBatch
from torchglm.model.face import GLMHead
from torchglm.rows.products import product
from torchglm.rows.ranks import ALONE, Ranks
from torchglm.training.whitening import BatchRows, WhitenedGLM, folded


@dataclass(frozen=True)
class Newton:
    """`loss`, the penalised mean loss; `step` `(q,)`, Fisher's scoring step of the trained weights.

    `distance` is the longest step of a coefficient, as a share of its standard error: NaN with an l1 penalty,
    whose optimum is not where the slope is zero.
    """

    loss: float
    step: Tensor
    distance: float


@dataclass(frozen=True)
class _Pass:
    """Sums over rows, of their centred columns and a one: they add over blocks."""

    gram: Tensor  # (p + 1, p + 1)
    score: Tensor  # (p + 1,)
    rest: Tensor  # (4,): loss, Pearson's statistic, weight, rows of positive weight

    def __add__(self, other: _Pass) -> _Pass:
        return _Pass(self.gram + other.gram, self.score + other.score, self.rest + other.rest)


@torch.no_grad()
def newton(
    inner: WhitenedGLM,
    head: GLMHead,
    batches: Callable[[], Iterable[GLMBatch]],
    penalty: Penalty | None = None,
    ranks: Ranks = ALONE,
    coef: Tensor | None = None,
) -> Newton:
    """The sums of one pass in float64 over the batches of all processes `ranks`, and the step they lead to.

    They are taken at the trained weights, or at `coef` (p,), the intercept first. The information is the expected one;
    where times are censored, whose expectation nobody knows, the observed one.
    """
    layer, trained = inner.backbone, inner.trained
    mean, matrix, constant = (value.double() for value in (layer.mean, layer.weight, layer.bias))
    at = torch.cat([trained @ matrix, (inner.start + trained @ constant).unsqueeze(0)])
    if coef is not None:
        weight, bias = (coef, coef.new_zeros(())) if head.bias is None else (coef[1:], coef[0])
        at = torch.cat([weight, (bias + mean @ weight).unsqueeze(0)])
    change = torch.cat([matrix, constant.unsqueeze(1)], 1)  # (q, p + 1): from those columns to the whitened ones
    censored = head.family.durations
    total = _total(at, mean, head, batches, ranks, censored)
    if censored and bool(torch.linalg.cholesky_ex(change @ total.gram @ change.mT).info):
        total = _total(at, mean, head, batches, ranks, False)  # not concave here
    gram, score = change @ total.gram @ change.mT, change @ total.score
    loss, pearson, weight, count = total.rest
    to_weight = matrix.mT  # (p, q): from trained weights to those of the columns given
    smooth = True
    if penalty is not None:
        slopes, mass = at[:-1].unsqueeze(0), weight.reshape(1)
        whole = penalty.expand(False, head.in_features)
        ridge = whole.ridge(slopes, mass)[0]
        smooth = whole.nonsmooth(slopes, mass) is None
        gram = gram + (to_weight * ridge.unsqueeze(-1)).mT @ to_weight
        score = score - (ridge * slopes[0]) @ to_weight
        loss = loss + whole.value(slopes, mass)[0]
    step = torch.linalg.solve(gram, score)
    to_bias = constant - mean @ to_weight
    back = torch.cat([to_bias.unsqueeze(0), to_weight]) if head.bias is not None else to_weight
    phi = pearson / (count - len(trained)).clamp(min=1) if head.family.has_dispersion else 1.0
    error = (phi * (back * torch.linalg.solve(gram, back.mT).mT).sum(-1)).clamp(min=0).sqrt()
    share = torch.where(error > 0, (back @ step).abs() / error, 0.0)
    return Newton(float(loss / weight), step, float(share.max()) if smooth else float("nan"))


def _total(
    at: Tensor, mean: Tensor, head: GLMHead, batches: Callable[[], Iterable[GLMBatch]], ranks: Ranks, observed: bool
) -> _Pass:
    """The sums over the batches of all processes."""
    total: _Pass | None = None
    with ranks.together():
        for batch in batches():
            for part in folded(lambda rows: _sums(rows, at, mean, head, observed), batch, head):
                total = part if total is None else total + part
    assert total is not None
    return _Pass(*ranks.sum(total.gram, total.score, total.rest))


def _sums(rows: BatchRows, at: Tensor, mean: Tensor, head: GLMHead, observed: bool) -> _Pass:
    """The sums of a block at `eta = (x - mean) at[:-1] + at[-1] + offset`."""
    family, link, w = head.family, head.link, rows.weight
    x = F.pad(rows.x.sub_(mean), (0, 1), value=1.0)
    eta = x @ at + rows.offset
    mu = link(eta)
    slope, information = family.score_and_weight(rows.response, eta, mu, link, observed)
    score = (w * slope) @ x
    half = x.mul_((w * information).abs().sqrt().unsqueeze(-1))
    other = half if not observed else half * information.sign().unsqueeze(-1)  # which the observed one may have
    pearson = (w * (rows.y - mu).square() / family.variance(mu)).sum()
    loss = (w * family.nll(rows.response, eta, link)).sum()
    return _Pass(product(half.mT, other), score, torch.stack([loss, pearson, w.sum(), (w > 0).sum()]))
