"""Batches and penalties as a head sees them: whatever its predictors are, one place knows its columns."""

from __future__ import annotations

from typing import Any

import torch

from torchglm.fitting.penalties import Penalty
from torchglm.fitting.problem import Problem
from torchglm.inputs import LoaderRows, Roles, minibatch
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
    return LoaderRows(batches, head.family, head.link, head.bias is not None, device, None, plan_of_head(head))


def rows_of_batch(head: GLMLayer, x: Any, y: Any, roles: Roles) -> Rows:
    """The same of one minibatch; see `minibatch`."""
    return minibatch(x, y, head.family, head.link, head.bias is not None, roles, plan=plan_of_head(head))


def columns_of_head(head: GLMLayer) -> tuple[int, tuple[int, ...]]:
    """The number of coefficients of one response, and the places of the constants among them."""
    plan = plan_of_head(head)
    if plan is not None:
        return plan.columns, plan.free
    bias = int(head.bias is not None)
    return head.in_features + bias, (0,) * bias


def penalty_on(head: GLMLayer, penalty: Penalty | None) -> Penalty | None:
    """A penalty on the weight of a head as one on its coefficients, of which constants have none."""
    if penalty is None:
        return None
    columns, constants = columns_of_head(head)
    return penalty.expand(constants, columns)


def problem_of(head: GLMLayer, penalty: Penalty | None, device: torch.device, tol: float, max_iter: int) -> Problem:
    """The search for the coefficients of one response of a head."""
    columns, _ = columns_of_head(head)
    several = isinstance(head, VectorLayer)
    layout, known = Layout(columns), penalty_on(head, penalty)
    return Problem(head.family, head.link, known, 1, layout, device, tol, max_iter, several=several)
