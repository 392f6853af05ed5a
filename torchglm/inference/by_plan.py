"""One question to fits of one predictor and of several: which function answers it, or why none does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from torchglm.inference.fitted import Fitted

P = ParamSpec("P")
Out = TypeVar("Out")
Kind = TypeVar("Kind", bound=Fitted)
Question = Callable[Concatenate[Fitted, P], Out]


def answered_by(several: Question[P, Out]) -> Callable[[Question[P, Out]], Question[P, Out]]:
    """Decorator of a function of a fit of one predictor: `several` takes its place where the fit has more."""

    def decorated(plain: Question[P, Out]) -> Question[P, Out]:
        @wraps(plain)
        def asked(result: Fitted, /, *args: P.args, **kwargs: P.kwargs) -> Out:
            return (plain if result.plan is None else several)(result, *args, **kwargs)

        return asked

    return decorated


def whole(result: Kind) -> Kind:
    """The same fit whose coefficients are all of its own: the thresholds of an ordinal model after its slopes."""
    return replace(result, names=result.all_names, cuts=()) if result.cuts else result
