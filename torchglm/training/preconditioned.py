"""Training of a head of several predictors by minibatch, in coordinates in which its loss is well conditioned."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from torchglm.fitting.irls import irls
from torchglm.fitting.kernel import fold
from torchglm.fitting.moments import Moments, Point
from torchglm.fitting.penalties import Penalty
from torchglm.fitting.status import Status
from torchglm.model.eta_loss import wide
from torchglm.model.face import VectorHead
from torchglm.model.head_rows import begin_at_null, penalty_on
from torchglm.rows.ranks import Ranks, own_rows
from torchglm.rows.rows import Rows
from torchglm.rows.threads import small_operators
from torchglm.training.polish import NEAR, Polished, rows_over

RANK = 1e-10  # directions of less than this share of the most information, in coefficients of one scale, are none


class Preconditioned(VectorHead):
    """A head whose coefficients are `origin + matrix theta`; `theta` (q,) is all that is trained.

    `eta` is computed from columns about their mean, so that those far from zero lose no digits; `total` is the weight
    of all rows.
    """

    origin: Tensor  # (P,)
    matrix: Tensor  # (P, q)
    centre: Tensor  # (p,)

    def __init__(self, head: VectorHead, origin: Tensor, matrix: Tensor, centre: Tensor, total: float) -> None:
        like = head.weight
        super().__init__(
            head.in_features,
            head.family,
            None,
            1,
            head.intercept,
            like.device,
            like.dtype,
            predictors=head.named,
            plan=head.plan,
        )
        self.total = total
        self.requires_grad_(False)
        self.theta = nn.Parameter(torch.zeros(matrix.shape[1], dtype=wide(like.dtype), device=like.device))
        for name, value in (("origin", origin), ("matrix", matrix), ("centre", centre)):
            self.register_buffer(name, value, persistent=False)

    @property
    def coefficients(self) -> Tensor:
        """(P,) the coefficients in the order of a fit, in float64; differentiable."""
        return self.origin + self.matrix @ self.theta.double()

    def _predictors(self, x: Tensor, offset: Tensor | None) -> Tensor:
        coef, shape, dtype = self.coefficients, self.shape, self.theta.dtype
        device = coef.device
        weight = coef.new_zeros(shape.height, self.in_features)
        weight = weight.index_put((shape.rows.to(device), shape.columns.to(device)), coef[shape.places.to(device)])
        inner = nn.functional.linear((x.to(self.centre) - self.centre).to(dtype), weight.to(dtype)).movedim(-1, 0)
        eta, away = inner, weight @ self.centre
        if shape.slopes is not None:
            slopes = shape.slopes.to(coef)
            eta, away = torch.tensordot(slopes.to(dtype), inner, 1), slopes @ away
        own = (away + shape.tops.to(coef) @ coef[shape.constants.to(device)]).to(dtype)
        eta = (eta + own.reshape(-1, *[1] * (inner.dim() - 1))).unsqueeze(-1)
        if offset is None:
            return eta
        shifts = self.family.shifts().to(eta).reshape(-1, *[1] * x.dim())
        return eta + shifts * self.per_response(offset, eta[0], "offset")


@torch.no_grad()
@small_operators()
def preconditioned(head: VectorHead, batches: Iterable[Any], ranks: Ranks) -> Preconditioned:
    """By two passes: the null model, and coordinates in which the information there is the identity.

    Raises `ValueError` where no row has a positive weight.
    """
    source, family = rows_over(head, batches, ranks), head.family
    counted = fold(source, Point(None), family, head.link)
    if counted.statistics is None or not bool(counted.weight > 0):
        raise ValueError("There is no row of positive weight to fit.")
    null = copy.deepcopy(head)
    null.reset_parameters()
    begin_at_null(null, counted)
    origin, centre = null.coef[0], _centre(source, head.in_features, ranks).to(head.weight.device)
    sums = fold(source, Point(origin.unsqueeze(0), census=True), family, head.link)
    return Preconditioned(head, origin, _coordinates(sums), centre, float(sums.weight))


def _centre(source: Iterable[Rows], columns: int, ranks: Ranks) -> Tensor:
    """(p,) about the mean of the columns: that of the first rows of every process."""
    first = next(iter(own_rows(source)))
    known = (first.weight[0] > 0).unsqueeze(-1)
    x = torch.where(known, first.x[:, :columns].double(), 0.0)
    return ranks.sum(x.sum(0) / known.sum().clamp(min=1))[0] / ranks.size


def _coordinates(sums: Moments) -> Tensor:
    """(P, q) the matrix M of `M' G M = I`, G the mean information of the rows, without directions that have none."""
    gram = sums.gram.written_out()[0] / sums.weight
    length = gram.diagonal().clamp(min=0).sqrt()
    scale = torch.where(length > 0, 1 / torch.where(length > 0, length, 1.0), 0.0)
    values, vectors = torch.linalg.eigh(gram * scale * scale.unsqueeze(-1))
    kept = values > RANK * values[-1].clamp(min=1e-300)
    return scale.unsqueeze(-1) * vectors[:, kept] / values[kept].sqrt()


@torch.no_grad()
@small_operators()
def polished_head(
    inner: Preconditioned, head: VectorHead, batches: Iterable[Any], penalty: Penalty | None, steps: Any, ranks: Ranks
) -> Polished:
    """Write what was trained into the head, after at most so many steps of the search (`"irls"`: all it takes)."""
    source, known = rows_over(head, batches, ranks), penalty_on(head, penalty)
    coef, status = inner.coefficients.unsqueeze(0), None
    if steps:
        most = 50 if steps == "irls" else steps
        found = irls(source, head.family, head.link, penalty=known, start=coef, max_iter=most)
        coef, status = found.coef.nan_to_num(), Status(int(found.status[0]))
    head.set_coef_(coef)
    loss, distance = _distance(inner, head, source, known, coef)
    if status is None or steps != "irls":
        status = Status.ITERATION_LIMIT if distance > NEAR else Status.CONVERGED
    return Polished(loss, distance, 1.0, status)


def _distance(
    inner: Preconditioned, head: VectorHead, source: Iterable[Rows], penalty: Penalty | None, coef: Tensor
) -> tuple[float, float]:
    """The mean loss, and the longest Newton step of a coefficient in units of its standard error; NaN with l1."""
    for observed in (True, False):
        point = Point(coef, observed, before=coef)
        sums = fold(source, point, head.family, head.link)
        gram, score, loss = sums.gram.written_out()[0], sums.score[0], sums.objective
        if penalty is not None:
            loss, score = loss + penalty.value(coef, sums.weight), score - penalty.slope(coef, sums.weight)[0]
            gram = sums.gram.with_ridge(penalty.ridge(coef, sums.weight)).written_out()[0]
        turned = inner.matrix.mT @ gram @ inner.matrix
        factor, failed = torch.linalg.cholesky_ex(turned)
        if not int(failed):
            break
    mean = float(loss / sums.weight)
    if int(failed) or penalty is not None and not penalty.smooth:
        return mean, float("nan")
    step = inner.matrix @ torch.cholesky_solve((inner.matrix.mT @ score).unsqueeze(-1), factor)[:, 0]
    half = torch.linalg.solve_triangular(factor, inner.matrix.mT, upper=False)
    error = half.square().sum(0).sqrt()
    return mean, float(torch.where(error > 0, step.abs() / error, 0.0).max())
