"""The head of a network refitted exactly on the features of the layers before it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchglm.fitting.kernel import fold
from torchglm.fitting.moments import Point
from torchglm.fitting.penalties import Penalty
from torchglm.fitting.shape import dispersion_ml, loglik
from torchglm.fitting.solve import solve
from torchglm.fitting.status import FitWarning, Status
from torchglm.inputs import GLMBatch, LoaderRows
from torchglm.model.face import GLMHead
from torchglm.model.head_rows import check_some, penalty_on, rows_of_batches
from torchglm.model.network import Features, evaluating, split
from torchglm.model.spread import pearson
from torchglm.model.vector_layer import VectorLayer
from torchglm.special.tracing import apart_from_graphs
from torchglm.writing.answering import answering
from torchglm.writing.warning import tell

TOL = 1e-10  # of the Newton decrement: a network is refitted to the digits of a fit of its features


@dataclass(frozen=True)
class Refit:
    """What a refit did: the mean loss (penalised) `before` and `after`, and `status`, for each response.

    The loss is half the mean deviance; the mean negative log-likelihood of several predictors, and of a head that
    learns a dispersion or a shape. Where the fit would have been the worse one, the head is as it was and `after` is
    `before`.
    """

    before: Tensor
    after: Tensor
    status: list[Status]


@answering
@apart_from_graphs
@torch.no_grad()
def refit_(
    model: nn.Module,
    loader: Iterable[Any],
    head: str | None = None,
    *,
    penalty: Penalty | None = None,
    max_iter: int = 50,
) -> Refit:
    """Fit the head of a network by IRLS on its frozen features, in place: the exact last layer, without autograd.

    `model` is a `GLMHead`, an `nn.Sequential` that ends in one, a module with `.backbone` and `.head`, or any in which
    `head` names it. `loader` is a re-iterable of batches (`(x, y)`, a `GLMBatch` or a dict of its names), read once for
    a step and held nowhere; `(*N, features)` count as rows. The layers before the head are in evaluation mode
    meanwhile. `penalty` is on the weight. The loss over the loader never rises. Shapes that the head learns (alpha,
    power) are fitted with the coefficients; a dispersion that it learns is that of maximum likelihood, one that it is
    to estimate Pearson's: the head is what `torchglm.fit` finds on the features. What is frozen stays.
    Raises `ValueError` for a model without a head and for rows that do not fit; `FitWarning` tells where a fit did not
    end at a maximum.
    """
    before, own = split(model, head)
    with evaluating(model):
        return refitted(own, Features(loader, own, before), penalty, max_iter)


def refitted(head: GLMHead, rows: Iterable[GLMBatch], penalty: Penalty | None, max_iter: int) -> Refit:
    """Refit a head, with the shapes it learns and its dispersion where that is not a number, on batches of features."""
    done = _fit(rows_of_batches(head, rows), head, penalty_on(head, penalty), max_iter)
    if head.dispersion_kind == "estimated":
        try:
            head.set_dispersion_(pearson(head, rows))
        except ValueError as error:
            tell(f"refit: the dispersion is not known: {error}", FitWarning)
    return done


def _fit(source: LoaderRows, head: GLMHead, penalty: Penalty | None, max_iter: int) -> Refit:
    """Fit, write, look at what the rounded coefficients give, and take back what is worse."""
    start, held = head.coef, {name: value.detach().clone() for name, value in head.state_dict().items()}
    before = _loss(source, head, penalty)
    options = {"penalty": penalty, "tol": TOL, "max_iter": max_iter, "rank_tol": 1e-12, "skip": None}
    family, found = solve(source, head.family, head.link, start, options)
    status = [Status(int(code)) for code in found.status]
    head.set_coef_(found.coef)
    if _learns(head):
        head.set_shapes_(family)
        _set_dispersion(source, head)
    after = _loss(source, head, penalty)
    worse = ~(after <= before)
    if _learns(head) and bool(worse.any()):  # what is learned of all responses belongs together
        worse = torch.ones_like(worse)
        head.load_state_dict(held)
    head.set_coef_(torch.where(worse.unsqueeze(-1), start, found.coef))
    for kind in sorted(set(status) - {Status.CONVERGED}):
        tell(f"refit: {kind}: {kind.explanation}", FitWarning)
    return Refit(before, torch.where(worse, before, after), status)


def _learns(head: GLMHead) -> bool:
    """Whether a head of one predictor learns something beside its coefficients."""
    learned = head.dispersion_kind == "learned" and head.log_dispersion.requires_grad
    return not isinstance(head, VectorLayer) and (learned or head.family.estimates_shape)


def _set_dispersion(source: LoaderRows, head: GLMHead) -> None:
    """Put the dispersion of maximum likelihood at the coefficients in the place of one that is learned."""
    if head.dispersion_kind == "learned" and head.family.has_dispersion and head.log_dispersion.requires_grad:
        coef = head.coef
        sums = fold(source, Point(coef, before=coef, census=True, curved=False), head.family, head.link)
        phi = dispersion_ml(source, head.family, head.link, coef, 2 * sums.objective / sums.weight)
        if bool((torch.isfinite(phi) & (phi > 0)).all()):
            head.set_dispersion_(phi)


def _loss(source: LoaderRows, head: GLMHead, penalty: Penalty | None) -> Tensor:
    """(R,) the mean loss over the source, infinite where it has none."""
    coef = head.coef
    point = Point(coef, before=coef, census=True, curved=False)
    sums = fold(source, point, head.family, head.link)
    check_some(sums.weight)
    total = sums.objective if penalty is None else sums.objective + penalty.value(coef, sums.weight)
    if _learns(head):
        phi = head.dispersion.double().expand_as(sums.weight)
        more = 0.0 if penalty is None else penalty.value(coef, sums.weight) / phi
        total = more - loglik(source, head.family, head.link, coef, phi)
    return torch.where(sums.valid & ~total.isnan(), total, torch.inf) / sums.weight
