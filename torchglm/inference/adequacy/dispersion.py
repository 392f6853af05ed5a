"""What Pearson's chi-squared and the deviance say of the spread of counts: one rule for the summary and `check`."""

from __future__ import annotations

import math
from enum import IntEnum

import torch
from torch import Tensor

from torchglm.families import Bernoulli
from torchglm.inference.dialect import spoken
from torchglm.inference.fitted import Fitted


class Spread(IntEnum):
    """What the two sums say together of a fit whose dispersion is held at 1."""

    QUIET = 0  # nothing
    WIDE = 1  # both are clearly above their degrees of freedom
    UNSURE = 2  # Pearson's alone is: where means are near zero, single rows can make it


def spread_of(result: Fitted) -> Tensor:
    """(B) codes of `Spread`.

    Pearson's sum has an expectation near its degrees of freedom, but where means come near zero no useful variance:
    a row of response 1 and mean 1e-6 adds a million. So it is believed where the deviance, which no such row can
    make, is too wide as well; where it is not, only rows can tell.
    """
    flat = result.flat
    held = (
        not result.family.has_dispersion
        and type(result.family) is not Bernoulli
        and result.covariance_kind in ("model", "observed")
    )
    df = (flat.nobs - flat.rank).clamp(min=1)
    limit = torch.maximum(torch.full_like(df, 1.2), 1 + 3 * (2 / df).sqrt())
    asked = flat.converged & (flat.dispersion == 1) & (flat.pearson > limit * df)
    wide = torch.where(flat.deviance > limit * df, int(Spread.WIDE), int(Spread.UNSURE))
    return torch.where(asked, wide, int(Spread.QUIET)) if held else torch.zeros_like(wide)


def spread_sentence(result: Fitted, family: str) -> str:
    """The warning of a summary of one model, which has no rows; empty where nothing is to be said."""
    code = Spread(int(spread_of(result)[0]))
    if code == Spread.QUIET:
        return ""
    df = max(float(result.flat.nobs[0] - result.flat.rank[0]), 1.0)
    pearson, deviance = float(result.flat.pearson[0]) / df, float(result.flat.deviance[0]) / df
    if code == Spread.WIDE:
        return spoken(
            result,
            f"Pearson χ²/df is {pearson:.2f}: the response spreads more than dispersion 1 allows in the "
            f"{family} family, so the standard errors are too small. Estimate "
            "the dispersion (dispersion='pearson') or take a family with a wider variance.",
        )
    return spoken(
        result,
        f"Pearson χ²/df is {pearson:.3g}, deviance/df {deviance:.2g}: with means near zero neither tells how far the "
        "response spreads, and a few rows may make the first. result.check() tests it, and names such rows.",
    )


def apart(pearson: Tensor, other: Tensor, error: Tensor) -> Tensor:
    """(B) where two estimates of one dispersion differ by half and by more than four standard errors of their log."""
    distance = (pearson / other).log().abs()
    return (distance > math.log(1.5)) & (distance > 4 * error)
