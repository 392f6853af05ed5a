"""What each coefficient has, under its name."""

from __future__ import annotations

from torch import Tensor

from torchglm.inference.fitted import Fitted
from torchglm.writing.nearest import unknown

VALUES = ("coef", "std_err", "statistic", "p_value", "edf")


def named(result: Fitted, what: str = "coef") -> dict[str, Tensor]:
    """Name -> `(*B)` its coefficient, or its `"std_err"`, `"statistic"`, `"p_value"` or `"edf"`: `fit.named()["age"]`.

    Raises `ValueError` for another value, and where two columns go by one name.
    """
    if what not in VALUES:
        raise ValueError(unknown("value", what, VALUES))
    twice = [name for i, name in enumerate(result.names) if name in result.names[:i]]
    if twice:
        raise ValueError(f"two columns go by the name {twice[0]!r}. Give names= to fit, or take coef by place.")
    return dict(zip(result.names, getattr(result, what).unbind(-1), strict=True))
