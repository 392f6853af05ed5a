"""Conformal: intervals of responses that cover as often as they say, whatever the law of the responses is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from torchglm.distributions import quantile
from torchglm.families.several import Classes, VectorFamily
from torchglm.inference.levels import check_level
from torchglm.inputs import GLMBatch, Roles, finite
from torchglm.model.face import GLMHead
from torchglm.model.law import EtaLaw, double
from torchglm.model.network import Features, evaluating, split
from torchglm.model.quantiles import Ends, ends_of, first_reached
from torchglm.writing.answering import answering_init, answering_methods

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from torchglm.inputs.roles import RoleValues

SCORES = ("pit", "deviance")
SLACK = 1e-12  # of a probability, by which the two ways to it may differ


@answering_methods
@answering_init
class Conformal:
    """Split conformal intervals about the law of a head: they cover `level` of new rows like those of the loader.

    `model` is what `refit_` takes; `loader` holds rows that nothing was trained on, read once. That holds whatever the
    law of the responses is, on average over rows that are exchangeable with these; the law of the head gives intervals
    their shape, with offsets and exposure in it. `score` says on which scale a response is far: `"pit"`, the smaller of
    its two tail probabilities, for every family but classes; `"deviance"`, the unit deviance, of one predictor, which
    reaches far beyond the law where that is too narrow. Counts have whole limits, and cover at least `level`. `freq`
    says how often a row was seen, a row of weight 0 is none.

    Raises `ValueError` for classes, censored times, prior weights, an unknown score and no rows.
    Source: Vovk, Gammerman & Shafer (2005), Algorithmic Learning in a Random World; Lei et al. (2018), J. Am. Stat.
    Assoc. 113(523); Chernozhukov, Wuthrich & Zhu (2021), Distributional conformal prediction, PNAS 118(48).
    """

    def __init__(self, model: nn.Module, loader: Iterable[Any], *, head: str | None = None, score: str = "pit") -> None:
        self.model, self.score = model, score
        self.before, self.head = split(model, head)
        family = self.head.family
        if score not in SCORES:
            raise ValueError(f"score must be one of {', '.join(map(repr, SCORES))}, got {score!r}.")
        if isinstance(family, Classes):
            raise ValueError("classes have no interval. Take their probabilities, head(features).")
        if score == "deviance" and isinstance(family, VectorFamily):
            raise ValueError(f"{family.said} has several predictors, and no unit deviance. Use score='pit'.")
        with evaluating(model), torch.no_grad():
            found = [self._scored(batch) for batch in Features(loader, self.head, self.before)]
        if not found or not bool((torch.cat([times for _, times in found]) > 0).any()):
            raise ValueError("the loader holds no row of positive weight to calibrate on.")
        self.scores, self.times = (torch.cat(part) for part in zip(*found, strict=True))  # (n, R)

    def _scored(self, batch: GLMBatch) -> tuple[Tensor, Tensor]:
        """(n, R) how far the responses of a batch lie, and how often each was seen."""
        if batch.y is None:
            raise ValueError("A batch without y cannot be calibrated on. Give y.")
        if batch.event is not None or batch.until is not None:
            raise ValueError("times that are censored are not known to lie within limits. Leave out event= and until=.")
        like = self.head.linear_predictor(batch.x, batch.offset)
        like = like[0] if isinstance(self.head.family, VectorFamily) else like
        y = self.head.per_response(batch.y, like, "y").double()
        times = torch.ones_like(y)
        for name, value in (("weights", batch.weights), ("freq", batch.freq)):
            if value is not None:
                times = times * self.head.per_response(value, like, name).double()
        if batch.weights is not None and not bool(((batch.weights == 0) | (batch.weights == 1)).all()):
            raise ValueError(
                "weights= other than 0 and 1 are of the dispersion, which is one here. Give repeats as freq=."
            )
        finite(y, "y", times > 0)
        finite(like.detach(), "the linear predictor", times > 0, "Drop or correct that row.")
        law = AboutCentre(self.head, batch, self.score)
        far = law.far(torch.where(times > 0, y, law.centre))
        return torch.where(times > 0, far, 0.0), times

    def limit(self, level: float) -> Tensor:
        """(R,) how far a response lies that belongs to the interval, at most; infinite where the rows are too few."""
        check_level(level)
        order = self.scores.argsort(0)
        seen, far = self.times.gather(0, order).cumsum(0), self.scores.gather(0, order)
        place = torch.ceil((seen[-1] + 1) * level - 1e-9)  # of n + 1 rows, the new one among them
        far = torch.where(seen >= place, far, torch.inf)
        return far.amin(0)

    @torch.no_grad()
    def interval(self, x: Any, level: float = 0.9, **roles: Unpack[RoleValues]) -> tuple[Tensor, Tensor]:
        """The limits `(*N, out_features)` of the responses of new rows; roles are `offset`, `exposure` and `trials`."""
        beside = Roles.of(roles, "Conformal.interval", ("offset", "exposure", "trials"))
        beside.check_link(self.head.link)
        with evaluating(self.model):
            z = x if self.before is None else self.before(x)
        batch = GLMBatch(z, None, offset=beside.shift(), trials=beside.trials)
        return AboutCentre(self.head, batch, self.score).within(self.limit(level))


class AboutCentre:
    """The law of the responses of a batch, and how far from its centre a response lies: it grows outwards."""

    def __init__(self, head: GLMHead, batch: GLMBatch, score: str) -> None:
        eta = head.linear_predictor(batch.x, batch.offset)
        like = eta[0] if isinstance(head.family, VectorFamily) else eta
        trials = None if batch.trials is None else head.per_response(batch.trials, like, "trials")
        if trials is not None and score == "deviance":
            raise ValueError("trials= stand beside score='pit'.")
        self.head, self.eta, self.score = head, double(eta), score
        self.law: EtaLaw = head.law_at(self.eta, trials)
        self.ends, self.trials = self._ends(trials), trials

    @property
    def centre(self) -> Tensor:
        """A response that lies nowhere near an end of an interval."""
        return self.law.icdf(0.5) if self.score == "pit" else self.head.link(self.eta)

    def far(self, y: Tensor) -> Tensor:
        """How far responses lie; one outside the support of the law is infinitely far."""
        if self.score == "deviance":
            return self._deviance(y)
        tail = torch.minimum(self.law.cdf(y), self._above(y))
        return torch.where(tail > 0, -tail.clamp(min=1e-323).log(), torch.inf)

    def within(self, limit: Tensor) -> tuple[Tensor, Tensor]:
        """The outermost responses that lie no farther than `limit` (R,)."""
        like, ends = torch.zeros(self.law.batch_shape, dtype=torch.float64, device=self.eta.device), self.ends
        high = torch.as_tensor(ends.high, dtype=torch.float64, device=like.device).expand_as(like)
        least = (torch.exp(-limit) * (1 - SLACK)).expand_as(like)
        law = self.law.torch_law
        if self.score == "deviance":
            low, last = self._by_deviance(limit, like)
        elif law is None:
            low = first_reached(ends, lambda y: self.law.cdf(y) >= least, like)
            last = self._last(lambda y: self._above(y) < least, like)
        else:
            low, last = quantile(law, least.log(), torch.log1p(-least)), quantile(law, torch.log1p(-least), least.log())
        every = torch.isinf(limit)
        low, last = torch.where(every, ends.low, low), torch.where(every, high, last)
        known = self.law.known
        return torch.where(known, low, math.nan), torch.where(known, last, math.nan)

    def _by_deviance(self, limit: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        mu, limit = self.head.link(self.eta), limit * (1 + SLACK)
        low = first_reached(self.ends, lambda y: (y >= mu) | (self._deviance(y) <= limit), like)
        last = self._last(lambda y: (y > mu) & (self._deviance(y) > limit), like)
        if not self.ends.whole:
            return low, last
        return torch.minimum(low, mu.round()), torch.maximum(last, mu.round())  # no count may lie as near as that

    def _last(self, beyond: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
        """The last response that is not `beyond`."""
        high = torch.as_tensor(self.ends.high, dtype=torch.float64, device=like.device).expand_as(like)
        first = first_reached(self.ends, beyond, like)
        return torch.where(beyond(high), first - 1, high) if self.ends.whole else first

    def _above(self, y: Tensor) -> Tensor:
        """`P(Y >= y)`; of laws with an atom at 0 that is 1 there."""
        above = self.law.sf(y - 1) if self.ends.whole else self.law.sf(y)
        return torch.where(y <= self.ends.low, 1.0, above)

    def _deviance(self, y: Tensor) -> Tensor:
        family, eta = self.head.family, self.eta
        inside = family.supports(y)
        y = torch.where(inside, y, family.inner_mean)
        found = family.half_deviance(y, eta, self.head.link(eta), self.head.link)
        return torch.where(inside, found, torch.inf)

    def _ends(self, trials: Tensor | None) -> Ends:
        """Between which numbers responses lie, and whether they are whole."""
        family = self.head.family
        if isinstance(family, VectorFamily):
            return ends_of(family, trials)
        law = self.law.torch_law
        support = None if law is None else law.support
        whole = support is not None and support.is_discrete
        below, above = family.supports(torch.tensor([-1.0, 2.0])).tolist()
        high: Any = math.inf if above else 1.0
        return Ends(-math.inf if below else 0.0, high if trials is None else trials.double(), whole)
