"""How a fit ended, model by model."""

from __future__ import annotations

from enum import IntEnum

import torch
from torch import Tensor


class FitWarning(UserWarning):
    """A fit that did not end at a regular maximum, or a design that lost columns."""


class Status(IntEnum):
    """Why the solver stopped; `explanation` says what it means and what to do."""

    CONVERGED = 0
    ITERATION_LIMIT = 1
    SEPARATED = 2
    BOUNDARY = 3
    STALLED = 4
    INVALID_START = 5
    NOT_FINITE = 6
    SHAPE_LIMIT = 7
    SEPARATED_LEVELS = 8
    SATURATED = 9
    STRENGTH_LIMIT = 10

    def __str__(self) -> str:
        return self.name

    @property
    def explanation(self) -> str:
        """A sentence or two for the person who reads the result."""
        return _EXPLANATIONS[self]

    @property
    def converged(self) -> bool:
        """Whether the maximum was found, be it at a limit that leaves estimates and standard errors valid."""
        kinds = (Status.CONVERGED, Status.SHAPE_LIMIT, Status.SEPARATED_LEVELS, Status.SATURATED, Status.STRENGTH_LIMIT)
        return self in kinds


def converged(status: Tensor) -> Tensor:
    """(B,) where codes of `Status` say that the maximum was found, see `Status.converged`."""
    return torch.stack([status == int(code) for code in Status if code.converged]).any(0)


_EXPLANATIONS = {
    Status.CONVERGED: "The maximum of the likelihood was found: the relative score and the last step are below "
    "the tolerance.",
    Status.ITERATION_LIMIT: "max_iter was reached before the maximum. Raise max_iter, or scale the columns, or "
    "check that link and family suit the response.",
    Status.SEPARATED: "The likelihood keeps rising as some coefficients go to infinity (separation: a combination "
    "of columns tells some responses apart without error, such as a level with no events). The "
    "coefficients are large but arbitrary and their standard errors mean nothing. Merge levels, "
    "drop the column, or use a penalty such as Ridge, or penalty=Jeffreys(), whose estimates and limits are finite.",
    Status.BOUNDARY: "The maximum lies on the edge of the parameter space. Where a fitted mean is at the end of its "
    "range standard errors are not valid, and a link that keeps the mean in range may suit better. With random effects "
    "a variance is 0 or a correlation -1 or 1: the fit is that of the model without these effects, which may be left "
    "out.",
    Status.STALLED: "No step along the last direction lowers the deviance, but the score is not small. Scale or "
    "drop nearly collinear columns.",
    Status.INVALID_START: "No coefficients with a valid mean in every row were found to start from. Pass start=, or "
    "use a link whose inverse stays in the family's range.",
    Status.NOT_FINITE: "The data of this model hold NaN or infinite values, or no row of positive weight; it was not "
    "fitted.",
    Status.SHAPE_LIMIT: "The maximum was found with the family's shape parameter at a limit, where the family is a "
    "simpler one: counts that vary no more than Poisson counts have a negative binomial alpha of 0, and the fit is "
    "Poisson's, coefficients and standard errors included (a Tweedie power at 1.01 or 1.99 is nearly Poisson's or "
    "Gamma's). Fit that family; where counts vary clearly less than Poisson counts, with dispersion='pearson'.",
    Status.SEPARATED_LEVELS: "The maximum was found but for levels whose responses are all at one end of their range "
    "(no event, or nothing else): their own coefficients run to infinity and have no standard error, their rows fit "
    "exactly and say nothing of the other coefficients, which are estimated from the other rows, as are deviance, df "
    "and dispersion. Merge or drop those levels, or use a penalty such as Ridge, for estimates of them.",
    Status.SATURATED: "The model of a batch has no more observations than independent columns: it fits every one "
    "exactly, and says nothing of what is left over, such as a dispersion. Take larger groups, or fewer columns.",
    Status.STRENGTH_LIMIT: "The maximum was found with an estimated strength at its limit. Where it is infinite that "
    "block of the penalty leaves its null space alone (a smooth is its straight line, effects of groups are none); "
    "numbers and errors are those of that limit. Where it is 0 the block is not penalised.",
}
