"""What a check asks of a law of several predictors by score tests: directions of its predictors, by topic."""

from __future__ import annotations

import torch
from torch import Tensor

from torchglm.families.several import Classes, Ordinal
from torchglm.inference.adequacy.several_tests import curved, into, middles, of_means, spread_of_law, squares
from torchglm.inference.fitted import Fitted
from torchglm.inference.several import family_of
from torchglm.inference.vector.columns import plan_of
from torchglm.inference.vector.score import Directions
from torchglm.rows.plan import Plan
from torchglm.rows.rows import Rows, whole

PARALLEL, CONSTANT, LINK, VARIANCE = "parallel slopes of ", "constant ", "link", "variance"


def questions(result: Fitted) -> dict[str, Directions]:
    """Topic -> how the predictors move along what a test adds, see `score.score_sums`."""
    family, plan = family_of(result), plan_of(result)
    found: dict[str, Directions] = {}
    with_columns = curved(result)
    means = middles(result) if with_columns else torch.empty(0)
    if isinstance(family, Classes):
        if with_columns:
            found[LINK] = squares(result, means, range(plan.predictors))
        return found | (_parallel(result, plan) if isinstance(family, Ordinal) else {})
    for name in with_columns:
        place = family.predictors.index(name)
        found[LINK if not place else f"{LINK} of {name}"] = squares(result, means, [place])
    slopes = [column for column in plan.blocks[0].columns if column not in plan.ones]
    spread = spread_of_law(family)
    for k, name in enumerate(family.predictors):
        if k and slopes and constant(plan, k):
            found[f"{CONSTANT}{name}"] = _columns(slopes, k)
        elif k == spread and slopes:
            found[VARIANCE] = of_means(family, k)
    return found


def constant(plan: Plan, predictor: int) -> bool:
    """Whether a predictor has an intercept alone."""
    own = [block for block in plan.blocks if any(k == predictor for entry in block.entries for k, _ in entry)]
    return len(own) == 1 and plan.is_constant(own[0])


def _parallel(result: Fitted, plan: Plan) -> dict[str, Directions]:
    """Every shared slope, set free from the second cut on."""
    shared = [column for block in plan.blocks if block.width == 1 for column in block.columns]
    if plan.predictors < 2:
        return {}
    return {
        f"{PARALLEL}{name}": _free(column, plan.predictors)
        for name, column in zip(result.names, shared, strict=False)
        if column not in plan.ones
    }


def _free(column: int, cuts: int) -> Directions:
    return lambda rows, eta: [into(_column(rows, column), eta, k) for k in range(1, cuts)]


def _columns(columns: list[int], place: int) -> Directions:
    return lambda rows, eta: [into(_column(rows, column), eta, place) for column in columns]


def _column(rows: Rows, column: int) -> Tensor:
    """(n,) or (B, n) a column of the design."""
    return whole(rows)[..., column].to(torch.float64)
