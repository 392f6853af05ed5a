"""What can be asked of the law of a row: means, parameters, probabilities, survival, quantiles of times."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from torchglm import links
from torchglm.families.several import Classes, LogTimes, VectorFamily
from torchglm.links import Link
from torchglm.writing.nearest import unknown

OF_TIMES = ("survival", "quantile")
ELSEWHERE = {  # kinds in other libraries
    "response": "'mean'",
    "prob": "'mean'",
    "probs": "'mean'",
    "linear": "'link'",
    "eta": "'link'",
    "lp": "'link'",
    "class": "the largest of predict(x)",
}
SHARES = (links.Logit, links.Probit, links.CLogLog, links.LogLog, links.Cauchit)


@dataclass(frozen=True)
class LawQuantity:
    """A function of the predictors: `value` maps (K, *N) to (*N), or with `labels` to (C, *N), one for each label.

    Its limits are made on the scale of `link`, less the number `beyond`, between `lower` and `upper`.
    """

    value: Callable[[Tensor], Tensor]
    labels: tuple[str, ...] | None
    link: Link
    lower: float = -math.inf
    upper: float = math.inf
    beyond: float = 0.0  # a constant of the value: a power is 1 and a share

    def stacked(self, eta: Tensor) -> Tensor:
        """(C, *N) the values, C = 1 where there are no labels."""
        value = self.value(eta)
        return value if self.labels is not None else value.unsqueeze(0)

    def names(self, of: Sequence[str]) -> list[str]:
        """`of` for every label, `"Medium:age"`."""
        return list(of) if self.labels is None else [f"{label}:{name}" for label in self.labels for name in of]


def quantity(family: VectorFamily, kind: str, at: Any = None) -> LawQuantity:
    """The quantity of a kind: `"mean"`, `"link"`, `"probability"` of classes, a predictor's name, of times also
    `"survival"` and `"quantile"`, `at` times or shares.

    Raises `ValueError` for an unknown kind, and where `at` is missing or has no meaning.
    """
    if kind in OF_TIMES and isinstance(family, LogTimes):
        return _of_times(family, kind, at)
    if at is not None:
        raise ValueError(f"at= are the times of a survival, or the shares of a quantile; kind={kind!r} has none.")
    if isinstance(family, Classes):
        if kind in ("mean", "probability"):
            return LawQuantity(family.mean, tuple(map(str, family.known)), links.Logit(), 0.0, 1.0)
        if kind == "link":
            return LawQuantity(lambda eta: eta * 1.0, family.predictors, links.Identity())
    elif kind == "mean":
        return _mean(family)
    elif kind == "link":
        return LawQuantity(lambda eta: eta[0] * 1.0, None, links.Identity())
    elif kind in family.predictors:
        return _parameter(family, kind)
    raise ValueError(unknown("kind", kind, dict.fromkeys(known_kinds(family)), ELSEWHERE))


def known_kinds(family: VectorFamily) -> list[str]:
    """The kinds that a family has."""
    if isinstance(family, Classes):
        return ["mean", "link", "probability"]
    return ["mean", "link", *family.predictors, *(OF_TIMES if isinstance(family, LogTimes) else ())]


def _mean(family: VectorFamily) -> LawQuantity:
    first = family.predictors[0]
    if type(family).mean is VectorFamily.mean:
        return _parameter(family, first)
    shares = isinstance(family.links[first], SHARES)  # such as beta rates behind a hurdle
    lower, upper = (0.0, 1.0) if shares else _range(family)
    link = links.Logit() if shares else links.Log() if lower == 0 else links.Identity()
    return LawQuantity(family.mean, None, link, lower, upper)


def _parameter(family: VectorFamily, name: str) -> LawQuantity:
    place, link = family.predictors.index(name), family.links[name]
    lower, upper = (0.0, math.inf) if place else _range(family)
    if isinstance(link, SHARES):
        lower, upper = 0.0, 1.0
    elif name == "location":
        lower = -math.inf
    return LawQuantity(lambda eta: family.parameter(name, eta[place]), None, link, lower, upper, float(name == "power"))


def _range(family: VectorFamily) -> tuple[float, float]:
    """Between which numbers means lie, by the support of the law."""
    return (-math.inf, math.inf) if family.support is constraints.real else (0.0, math.inf)


def places_of(kind: str, at: Any) -> Tensor:
    """() or (T,) the times of a survival, or the shares of a quantile. Raises `ValueError` for others."""
    what = "times" if kind == "survival" else "shares between 0 and 1, 0.5 for the median"
    if at is None:
        raise ValueError(f"kind={kind!r} needs at=, {what}: one or a list of them.")
    places = torch.as_tensor(at, dtype=torch.float64)
    bad = ~(places > 0) | torch.isinf(places) | ((places >= 1) if kind == "quantile" else False)
    if bool(bad.any()):
        raise ValueError(f"at= of a {kind} are {what}; got {float(places[bad][0]):g}. Give others.")
    return places


def _of_times(family: LogTimes, kind: str, at: Any) -> LawQuantity:
    places = places_of(kind, at)
    function = family.survival if kind == "survival" else family.quantile
    link, upper = (family.survival_link, 1.0) if kind == "survival" else (links.Log(), math.inf)
    if not places.dim():
        return LawQuantity(lambda eta: function(places.to(eta), eta), None, link, 0.0, upper)
    labels = tuple(f"{value:g}" for value in places.tolist())
    return LawQuantity(
        lambda eta: torch.stack([function(one.to(eta), eta) for one in places]), labels, link, 0.0, upper
    )


def limits_of(asked: LawQuantity, value: Tensor, error: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """The lower and upper limits of values: those on the scale of the link, `half` errors to either side, mapped back.

    Where one leaves the range of the link it is the end of the range of the values.
    """
    link = asked.link
    eta = link.link(value - asked.beyond)
    slope = link.inverse_deriv(eta)
    reach = half * error / slope.abs()
    rising = slope >= 0
    ends = []
    for side in (-1.0, 1.0):
        end = eta + torch.where(rising, side, -side) * reach
        inside = link.inside(end)
        mapped = link(torch.where(inside, end, eta)).clamp(asked.lower, asked.upper)
        edge = asked.lower if side < 0 else asked.upper
        ends.append(torch.where(inside | torch.isnan(end), mapped, edge) + asked.beyond)
    return ends[0], ends[1]
