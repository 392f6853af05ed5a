"""Formulas of rows in numpy, for the passes over one model: of the commonest families with their links, in closed form.

numpy takes half a microsecond for an operator on few numbers, where torch takes two, and an exponential of many in half
of torch's time. A family and link that are not among `PAIRS` are asked for their own formulas (`OfFamily`); the tests
hold these to those.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchglm.families.base import Family
from torchglm.families.counts import LEAST, PRIOR, TINY, Poisson
from torchglm.families.positive import Gamma
from torchglm.families.proportions import Bernoulli, Binomial
from torchglm.families.real import Gaussian
from torchglm.links import Identity, Link, Log, Logit
from torchglm.rows.responses import Response, size_of

Array: TypeAlias = NDArray[np.floating[Any]]


class PassValues(NamedTuple):
    """What rows (n,) bring to a step, for `phi = w = 1`: `score`, `information` (None: 1 each), and `loss`.

    The last is half the unit deviance but for what belongs to the response alone.
    """

    score: Array
    information: Array | None
    loss: Array


class ReportValues(NamedTuple):
    """What rows (n,) bring to the report: half the unit deviance, Pearson's square, and the expected information.

    `size` is that of the terms `half` is the difference of, None where it loses no digit.
    """

    half: Array
    size: Array | None
    square: Array
    information: Array | None


class Formulas(ABC):
    """The formulas of a family and a link at the responses of some rows; `eta` (n,) are linear predictors."""

    @abstractmethod
    def start(self, weight: Array | None, offset: Array | None) -> Array:
        """(n,) the predictors of a mean for each row from which the first step is taken, see `Family.first_mean`.

        `weight` (n,) is None where all are 1, `offset` where all are 0.
        """

    @abstractmethod
    def saturated(self) -> Array:
        """What `loss` leaves out, (n,): the loss of means that are the responses themselves."""

    @abstractmethod
    def values(self, eta: Array, observed: bool) -> PassValues:
        """The values of a pass, with the observed information or the expected one."""

    @abstractmethod
    def ends(self, eta: Array) -> ReportValues | None:
        """The values of a report; those of a mean out of range are not finite. None: the family has to be asked."""


class PoissonLog(Formulas):
    def __init__(self, y: Array) -> None:
        self.y = y

    def start(self, weight: Array | None, offset: Array | None) -> Array:
        size = np.ones(()) if offset is None else np.exp(offset - offset.max())
        events, total = self.y.mean(), size.mean()
        if weight is not None:
            events, total = weight @ self.y, weight.sum() if offset is None else weight @ size
        mean = np.maximum(size * (events / total if events > 0 else 0.1), TINY)
        return np.log((self.y + PRIOR) / (1 + PRIOR / mean))

    def saturated(self) -> Array:
        return self.y - self.y * np.log(np.maximum(self.y, LEAST))

    def values(self, eta: Array, observed: bool) -> PassValues:
        mu = np.exp(eta)
        return PassValues(self.y - mu, mu, mu - self.y * eta)

    def ends(self, eta: Array) -> ReportValues:
        y, mu = self.y, np.exp(eta)
        excess = y - mu
        return ReportValues(y * np.log(np.maximum(y, LEAST) / mu) - excess, y + mu, excess * excess / mu, mu)


class GammaLog(Formulas):
    def __init__(self, y: Array) -> None:
        self.y = y

    def start(self, weight: Array | None, offset: Array | None) -> Array:
        return np.log(self.y)

    def saturated(self) -> Array:
        return 1 + np.log(self.y)

    def values(self, eta: Array, observed: bool) -> PassValues:
        ratio = self.y * np.exp(-eta)
        return PassValues(ratio - 1, ratio if observed else None, ratio + eta)

    def ends(self, eta: Array) -> ReportValues:
        ratio = self.y / np.exp(eta)
        score = ratio - 1
        return ReportValues(score - np.log(ratio), ratio + 1, score * score, None)


class LogisticYesNo(Formulas):
    """The logit of a yes or no: all in terms of the odds of what was seen, without rounding at either end."""

    def __init__(self, y: Array) -> None:
        self.sign = 2 * y - 1

    def start(self, weight: Array | None, offset: Array | None) -> Array:
        return self.sign * np.log(3.0 if weight is None else 2 * weight + 1)

    def saturated(self) -> Array:
        return np.zeros_like(self.sign)

    def values(self, eta: Array, observed: bool) -> PassValues:
        odds = np.exp(self.sign * eta)
        missed = 1 / (1 + odds)  # probability of what was not seen
        return PassValues(self.sign * missed, odds * missed * missed, np.log1p(1 / odds))

    def ends(self, eta: Array) -> ReportValues:
        odds = np.exp(self.sign * eta)
        missed, against = 1 / (1 + odds), 1 / odds  # (y - mu)^2 / V is what is not seen beside what is
        return ReportValues(np.log1p(against), None, against, odds * missed * missed)


class GaussianIdentity(Formulas):
    def __init__(self, y: Array) -> None:
        self.y = y

    def start(self, weight: Array | None, offset: Array | None) -> Array:
        return self.y

    def saturated(self) -> Array:
        return np.zeros_like(self.y)

    def values(self, eta: Array, observed: bool) -> PassValues:
        excess = self.y - eta
        return PassValues(excess, None, excess * excess / 2)

    def ends(self, eta: Array) -> None:
        return None  # its deviance is summed with what rounding loses


class OfFamily(Formulas):
    """Those of any family and link, which torch computes."""

    def __init__(self, y: Response, family: Family, link: Link) -> None:
        self.y, self.family, self.link = y, family, link

    def start(self, weight: Array | None, offset: Array | None) -> Array:
        each = torch.ones_like(size_of(self.y)) if weight is None else torch.from_numpy(weight[None])
        beside = None if offset is None else torch.from_numpy(offset[None])
        return self.link.link(self.family.first_mean(self.y, each, beside, self.link))[0].numpy()

    def saturated(self) -> Array:
        return self.family.nll_saturated(self.y)[0].numpy()

    def values(self, eta: Array, observed: bool) -> PassValues:
        predictor = torch.from_numpy(eta).unsqueeze(0)
        mu = self.link.inverse(predictor)
        score, information = self.family.score_and_weight(self.y, predictor, mu, self.link, observed)
        loss = self.family.cheap(self.y, predictor, mu, self.link, True)[0]
        return PassValues(score[0].numpy(), information[0].numpy(), loss[0].numpy())

    def ends(self, eta: Array) -> None:
        return None


PAIRS: dict[tuple[type[Family], type[Link]], type[PoissonLog | GammaLog | LogisticYesNo | GaussianIdentity]] = {
    (Poisson, Log): PoissonLog,
    (Gamma, Log): GammaLog,
    (Bernoulli, Logit): LogisticYesNo,
    (Binomial, Logit): LogisticYesNo,
    (Gaussian, Identity): GaussianIdentity,
}


def has_formulas(family: Family, link: Link) -> bool:
    """Whether there are formulas in numpy, of which any linear predictor has a mean in range."""
    return (type(family), type(link)) in PAIRS


def formulas_of(y: Response, family: Family, link: Link) -> Formulas:
    """The formulas at responses (1, n) of a CPU."""
    known = PAIRS.get((type(family), type(link)))
    if known is None or not isinstance(y, Tensor) or known is LogisticYesNo and not _yes_or_no(y):
        return OfFamily(y, family, link)
    return known(y[0].numpy())


def _yes_or_no(y: Tensor) -> bool:
    numbers = y.numpy()
    return bool((numbers * numbers == numbers).all())
