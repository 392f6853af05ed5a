"""Batches and penalties as a head sees them: whatever its predictors are, one place knows its columns."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchglm.fitting.bias import Jeffreys
from torchglm.fitting.moments import Moments
from torchglm.fitting.penalties import Penalty
from torchglm.fitting.problem import Problem
from torchglm.inputs import GLMBatch, LoaderRows, Roles, minibatch
from torchglm.model.layer import GLMLayer
from torchglm.model.vector_layer import VectorLayer
from torchglm.rows.grams import Layout
from torchglm.rows.plan import Plan
from torchglm.rows.rows import Rows


def plan_of_head(head: GLMLayer) -> Plan | None:
    """How the coefficients of a head are made of a constant and its columns; None of one predictor, which has each.

    Raises `ValueError` while the classes of a head are not known.
    """
    if not isinstance(head, VectorLayer):
        return None
    head.know()
    return head.plan


def rows_of_batches(head: GLMLayer, batches: Any, device: torch.device | None = None) -> LoaderRows:
    """The batches of a loader as rows for a fit of the head's coefficients, in the order of `head.coef`."""
    kind = CarryingRows if head.carried else LoaderRows
    return kind(batches, head.family, head.link, head.bias is not None, device, None, plan_of_head(head))


def rows_of_batch(head: GLMLayer, x: Any, y: Any, roles: Roles) -> Rows:
    """The same of one minibatch; see `minibatch`."""
    rows = minibatch(x, y, head.family, head.link, head.bias is not None, roles, plan=plan_of_head(head))
    return with_carried(rows, head.carried) if head.carried else rows


def check_some(weight: Tensor) -> None:
    """Raise `ValueError` where the rows of a loader have no weight."""
    if not bool((weight > 0).all()):
        raise ValueError("The loader holds no row of positive weight to learn a head from.")


class CarryingRows(LoaderRows):
    """The rows of features behind which a head takes the predictors of another model: they are its offset."""

    def rows_of(self, batch: GLMBatch) -> Rows | None:
        """The rows of a batch; None where it has none."""
        rows = super().rows_of(batch)
        predictors = 1 if self.plan is None else self.plan.predictors
        return None if rows is None else with_carried(rows, predictors * rows.y.shape[0])


def with_carried(rows: Rows, carried: int) -> Rows:
    """Rows whose last columns `(n, K R)` are predictors of all responses, as rows with those in their offset."""
    x, eta = rows.x.split([rows.x.shape[-1] - carried, carried], -1)
    eta = eta.to(rows.offset.dtype).unflatten(-1, (-1, rows.y.shape[0])).permute(2, 0, 1)  # (R, n, K)
    return rows._replace(x=x, offset=rows.offset + (eta.squeeze(-1) if rows.plan is None else eta))


def columns_of_head(head: GLMLayer) -> tuple[int, tuple[int, ...]]:
    """The number of coefficients of one response, and the places of the constants among them."""
    plan = plan_of_head(head)
    if plan is not None:
        return plan.columns, plan.free
    bias = int(head.bias is not None)
    return head.in_features + bias, (0,) * bias


def begin_at_null(head: VectorLayer, sums: Moments) -> None:
    """Set the constants of a head to those from which a fit of its rows begins, by the `statistics` of these."""
    if sums.statistics is None:
        return
    eta = head.family.start((sums.statistics / sums.weight.unsqueeze(-1)).movedim(-1, 0)).reshape(1, -1)
    if bool(torch.isfinite(eta).all()):
        head.set_constants_(eta)


def check_penalty(penalty: object) -> None:
    """Raise `TypeError` for what is no penalty on the coefficients of a head, `ValueError` for `Jeffreys`."""
    if isinstance(penalty, Jeffreys):
        raise ValueError(
            "Jeffreys() adjusts the score of all rows at once. Use it in torchglm.fit or head.fit, or take Ridge here."
        )
    if penalty is not None and not isinstance(penalty, Penalty):
        raise TypeError(f"penalty must be a penalty such as torchglm.Ridge(0.1), got {penalty!r}.")


def penalty_on(head: GLMLayer, penalty: Penalty | None) -> Penalty | None:
    """A penalty on the weight of a head as one on its coefficients, of which constants have none."""
    check_penalty(penalty)
    if penalty is None:
        return None
    columns, constants = columns_of_head(head)
    batch = torch.Size([head.out_features] if head.out_features > 1 else [])
    return penalty.expand(constants, columns, batch)


def problem_of(head: GLMLayer, penalty: Penalty | None, device: torch.device, tol: float, max_iter: int) -> Problem:
    """The search for the coefficients of one response of a head."""
    columns, _ = columns_of_head(head)
    several = isinstance(head, VectorLayer)
    layout, known = Layout(columns), penalty_on(head, penalty)
    return Problem(head.family, head.link, known, 1, layout, device, tol, max_iter, several=several)
