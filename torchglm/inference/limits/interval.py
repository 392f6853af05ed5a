"""Confidence limits of coefficients, by either of two methods."""

from __future__ import annotations

from torch import Tensor

from torchglm.inference.apart import part_by_part
from torchglm.inference.fitted import Fitted
from torchglm.inference.limits.jeffreys import penalized_interval
from torchglm.inference.limits.profile import profile_interval
from torchglm.writing.nearest import unknown


def conf_int(result: Fitted, level: float = 0.95, method: str = "wald") -> Tensor:
    """(*B, p, 2) confidence limits of the coefficients: Wald with t or z quantiles, or profile likelihood.

    Wald limits say nothing where the status is SEPARATED or BOUNDARY; `method="profile"` does, with infinite limits
    where the likelihood sets none (see `profile.profile_interval`).
    Raises `ValueError` for a level outside (0, 1) or an unknown method.
    """
    wald = Fitted.conf_int(result, level)
    if method == "wald":
        return wald
    if method == "profile":
        of_part = penalized_interval if result.bias_reduced else profile_interval
        limits = result.shaped(part_by_part(result, lambda part: of_part(part, level)))
        return limits[..., : len(result.names), :]
    raise ValueError(unknown("method", method, ("wald", "profile")))
