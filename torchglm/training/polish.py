"""Steps after a training that end at the optimum, and with them the shape that a family estimates."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.fitting.penalties import Penalty
from torchglm.fitting.shape import RowMeans, alpha_ml, maximise, power_ml
from torchglm.fitting.shape_sums import has_alpha
from torchglm.fitting.solve import solve
from torchglm.fitting.status import Status
from torchglm.model.face import GLMHead
from torchglm.model.head_rows import penalty_on, rows_of_batches
from torchglm.rows.ranks import Ranks, Shard
from torchglm.rows.threads import small_operators
from torchglm.training.newton import OnWhitened, look_at
from torchglm.training.whitening import WhitenedGLM

NEAR = 0.1  # standard errors from the optimum that still count as converged


@dataclass(frozen=True)
class Polished:
    """The `loss` where it ended, the `distance` from the optimum in standard errors, the dispersion, and a status."""

    loss: float
    distance: float
    dispersion: float
    status: Status


@torch.no_grad()
@small_operators()
def polished(
    inner: WhitenedGLM, head: GLMHead, batches: Iterable[Any], penalty: Penalty | None, steps: int, ranks: Ranks
) -> Polished:
    """At most so many steps of the search from the trained weights, with the most likely shape beside each.

    A shape that is estimated is left as it was trained where there are no steps; it counts in the distance. With an l1
    penalty no step is made: its optimum has zeros, which whitened columns have not.
    """
    source = rows_over(head, batches, ranks)
    rows = OnWhitened(inner, head, source, penalty)
    shape = _Shape(head, source) if head.family.estimates_shape else None
    limit, beside = False, 0.0
    if shape is not None:
        limit, beside = shape.fit(_coefficients(inner), keep=steps > 0)
    turns = (1,) * steps if shape is not None else (steps,) if steps else ()
    for turn in turns if rows.problem.smooth_penalty else ():
        inner.head.weight.copy_(rows.walk(inner.trained.unsqueeze(0), turn))
        if shape is not None:
            limit, _ = shape.fit(_coefficients(inner))
    found = rows.look(inner.trained.unsqueeze(0))
    distance = max(found.distance, 0.0 if steps else beside) if found.distance == found.distance else found.distance
    if distance > NEAR:
        return Polished(found.loss, distance, found.dispersion, Status.ITERATION_LIMIT)
    return Polished(found.loss, distance, found.dispersion, Status.SHAPE_LIMIT if limit else Status.CONVERGED)


@torch.no_grad()
def solved(
    inner: WhitenedGLM, head: GLMHead, batches: Iterable[Any], penalty: Penalty | None, ranks: Ranks
) -> Polished:
    """IRLS from the trained coefficients to its end, written into the head; aliased columns have 0."""
    source, whole = rows_over(head, batches, ranks), penalty_on(head, penalty)
    rank_tol = 1e-6 if head.weight.dtype == torch.float32 else 1e-12
    family, found = solve(
        source,
        head.family,
        head.link,
        _coefficients(inner),
        {"penalty": whole, "tol": 1e-8, "max_iter": 50, "rank_tol": rank_tol, "skip": None},
    )
    _take(head.family, family)
    head.set_coef_(found.coef.nan_to_num())
    end = look_at(head, source, found, whole)
    return Polished(end.loss, end.distance, end.dispersion, Status(int(found.status[0])))


class _Shape:
    """The shape parameter that the family of a head estimates, by maximum likelihood at given coefficients."""

    def __init__(self, head: GLMHead, source: Any) -> None:
        self.head, self.source = head, source

    def fit(self, coef: Tensor, keep: bool = True) -> tuple[bool, float]:
        """Whether the best shape is on its limit, and how far from it the shape was: the root of twice the gain in
        log-likelihood, which is its distance in standard errors. `keep` leaves the best one in the family."""
        family, fitted = self.head.family, RowMeans(self.source, self.head.link, coef)
        [(name, raw)] = family.named_parameters()
        one = torch.ones(1, dtype=torch.float64, device=coef.device)
        before = family.with_parameters({name: raw.to(one).reshape(1)})
        if not has_alpha(family):
            own = maximise(lambda log_phi: fitted.loglik(before, log_phi.exp()), 0 * one, -700.0, 700.0).exp()
            value, phi, limit = power_ml(fitted, before, 1 + raw.to(one).reshape(1).sigmoid(), own)
            best = (value - 1).logit()
        else:
            own = phi = one
            value, limit = alpha_ml(fitted, before, raw.to(one).reshape(1).exp())
            best = value.log()
        after = before.with_parameters({name: best})
        gain = fitted.loglik(after, phi) - fitted.loglik(before, own)
        if keep:
            _take(family, after)
        return bool(limit.any()), float((2 * gain).clamp(min=0).sqrt())


def _take(family: Family, other: Family) -> None:
    """Copy the shape of another family of its kind."""
    for mine, theirs in zip(family.parameters(), other.parameters(), strict=True):
        mine.copy_(theirs.reshape(mine.shape))


def rows_over(head: GLMHead, batches: Iterable[Any], ranks: Ranks) -> Any:
    """The rows of batches for fits, those of all processes together."""
    rows = rows_of_batches(head, batches, head.weight.device)
    own = list(rows) if isinstance(batches, list) else rows
    return own if ranks.size == 1 else Shard(own, ranks)


def _coefficients(inner: WhitenedGLM) -> Tensor:
    """The coefficients `(1, p)` on the columns given, the intercept first."""
    weight, bias = inner.coefficients()
    return (weight if inner.head.bias is None else torch.cat([bias.reshape(1), weight])).unsqueeze(0)
