"""Times to an event whose logarithm has a location and a scale: accelerated failure times, censored or not."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from torchglm import links
from torchglm.distributions.around import Tails
from torchglm.families.censored import Censored
from torchglm.families.several.base import Pairs, VectorFamily
from torchglm.links import Link
from torchglm.rows.responses import Intervals, Response, Times, event_of, size_of

EULER = 0.5772156649015329
FINEST = -32.0  # log scale at which rounding is all that is left
LATE = 200.0  # a standard score from which on the fall of the hazard is taken from its series


class LogTimes(Censored, VectorFamily):
    """What all share: `log t = location + scale z` with the law of z known, and `log scale` with a predictor.

    A time whose `event` is 0 is right-censored: the event came later. With `until` it lies between the response and
    that, see `Intervals`; its probability is `F(upper) - F(y)`. The density is that of t. A class says the
    logarithms of the density and the upper tail of z, and their derivatives. Source: Kalbfleisch & Prentice (2002),
    The Statistical Analysis of Failure Time Data, section 2.3.
    """

    durations = True
    intervals = True
    support = constraints.positive
    support_text = "y > 0"
    advice = "or say by event=0 or until= that it is censored, if it is (0 or longer), never by its sign"
    mean_text = "expected time"
    ratio_text = "time ratio"
    centre: float  # mean of z
    spread: float  # its standard deviation
    survival_link: Link  # of the probability to survive, `1 - F(z) = survival_link(-z)`

    @property
    def predictors(self) -> tuple[str, ...]:
        return ("location", "scale")

    @property
    def links(self) -> dict[str, Link]:
        return {"location": links.Identity(), "scale": links.Log()}

    @property
    def always_has_mean(self) -> bool:
        return False

    def log_density(self, z: Tensor) -> Tensor:
        """`log f(z)`."""
        raise NotImplementedError

    def log_beyond(self, z: Tensor) -> Tensor:
        """`log(1 - F(z))`."""
        raise NotImplementedError

    def slopes(self, z: Tensor, event: Tensor | bool) -> tuple[Tensor, Tensor]:
        """First and minus the second derivative of `log f` where `event` is true, of the upper tail where not."""
        raise NotImplementedError

    def statistics(self, y: Response) -> Tensor:
        """`log t` and its square, and whether the event was seen."""
        if isinstance(y, Intervals):
            y = _typical(y)
        logs = _log_size(y)[0]
        event = event_of(y)
        return torch.stack([logs, logs.square(), torch.ones_like(logs) if event is None else event.to(logs.dtype)])

    def nll(self, y: Response, eta: Tensor) -> Tensor:
        if isinstance(y, Intervals):
            return -torch.where(_apart(y), self._between(y, eta), -self.nll(_plain(y), eta))
        logs, told = _log_size(y)
        z, event = (logs - eta[0]) * torch.exp(-eta[1]), event_of(y)
        density = self.log_density(z) - eta[1] - logs
        seen = density if event is None else torch.where(event, density, self.log_beyond(z))
        return -torch.where(told, seen, 0.0)

    def _between(self, y: Intervals, eta: Tensor) -> Tensor:
        """`log(F(upper) - F(y))` of intervals, by the upper tail, whose logarithms keep the digits of either."""
        rate = torch.exp(-eta[1])
        begins, log_size, ends, log_upper = _log_ends(y)
        above = torch.where(begins, self.log_beyond((log_size - eta[0]) * rate), 0.0)
        beyond = self.log_beyond((log_upper - eta[0]) * rate)
        gap = torch.where(ends, beyond - above, -1.0)
        return above + torch.where(ends, torch.log(-torch.expm1(torch.where(gap < 0, gap, -1.0))), 0.0)

    def _of_intervals(self, y: Intervals, eta: Tensor) -> tuple[Tensor, Pairs]:
        """The derivatives of `log p`, `p` the probability of an interval, by those of p: `g = f / p` at its ends."""
        rate, log_p = torch.exp(-eta[1]), self._between(y, eta)
        begins, log_size, ends, log_upper = _log_ends(y)
        first, cross, last = (torch.zeros_like(log_p) for _ in range(3))  # of d2p / p, but for the sign
        score = torch.zeros_like(eta)
        for known, logs, sign in ((begins, log_size, 1.0), (ends, log_upper, -1.0)):
            z = (logs - eta[0]) * rate
            g = torch.where(known, sign * torch.exp(self.log_density(z) - log_p), 0.0)
            turn = g * self.slopes(z, True)[0]  # f' / p
            g, turn, zg, zturn = (torch.where(known, v, 0.0) for v in (g, turn, z * g, z * turn))
            score = score + torch.stack([rate * g, zg])
            first, cross = first + rate.square() * turn, cross + rate * (g + zturn)
            last = last + torch.where(known, z * (g + zturn), 0.0)
        return score, {
            (0, 0): score[0].square() + first,
            (0, 1): score[0] * score[1] + cross,
            (1, 1): score[1].square() + last,
        }

    def derivatives(self, y: Response, eta: Tensor) -> tuple[Tensor, Pairs]:
        if isinstance(y, Intervals):
            apart = _apart(y)
            (own, bends), (score, pairs) = self.derivatives(_plain(y), eta), self._of_intervals(y, eta)
            return torch.where(apart, score, own), {p: torch.where(apart, pairs[p], bends[p]) for p in pairs}
        logs, told = _log_size(y)
        rate, event = torch.exp(-eta[1]), event_of(y)
        z = (logs - eta[0]) * rate
        slope, bend = self.slopes(z, True if event is None else event)
        slope, bend = torch.where(told, slope, 0.0), torch.where(told, bend, 0.0)
        seen = 1.0 if event is None else event.to(z.dtype)
        pairs = {
            (0, 0): rate.square() * bend,
            (0, 1): rate * (z * bend - slope),
            (1, 1): z.square() * bend - z * slope,
        }
        return torch.stack([-rate * slope, -z * slope - seen]), pairs

    def survival(self, time: Tensor, eta: Tensor) -> Tensor:
        """(*N) the probability that the event comes after `time`."""
        return self.survival_link((eta[0] - time.log()) * torch.exp(-eta[1]))

    def quantile(self, share: Tensor, eta: Tensor) -> Tensor:
        """(*N) the time by which the event has come with probability `share`."""
        return torch.exp(eta[0] - torch.exp(eta[1]) * self.survival_link.link(1 - share))

    def valid(self, eta: Tensor) -> Tensor:
        return super().valid(eta) & (eta[1] > FINEST)

    def has_laws(self, eta: Tensor) -> bool:
        return True

    def units(self, eta: Tensor) -> Tensor:
        """The location changes on the scale of the times."""
        return torch.stack([eta[1].exp(), torch.ones_like(eta[1])])

    @property
    def ends(self) -> dict[tuple[str, int], str]:
        return {
            ("scale", -1): "The scale runs to 0: the location fits the times without error. Drop columns of it.",
            (
                "location",
                1,
            ): "The location has no end: no event was seen, at all or where a column tells rows apart. "
            "Such rows say only that times are longer; merge or drop them.",
        }

    def tails(self, y: Response, eta: Tensor) -> tuple[Tails, Tails]:
        if isinstance(y, Intervals):  # those of its two ends
            (first, _), (rest, _) = (
                self.tails(y.size, eta),
                self.tails(torch.where(y.upper < torch.inf, y.upper, 1.0), eta),
            )
            ends = y.upper < torch.inf
            return first, (torch.where(ends, rest[0], 1.0), torch.where(ends, rest[1], 0.0))
        logs, told = _log_size(y)
        beyond = torch.where(told, self.log_beyond((logs - eta[0]) * torch.exp(-eta[1])), 0.0)
        pair, event = (-torch.expm1(beyond), beyond.exp()), event_of(y)
        if event is None:
            return pair, pair
        return pair, (torch.where(event, pair[0], 1.0), torch.where(event, pair[1], 0.0))

    def start(self, averages: Tensor) -> Tensor:
        mean, square, seen = averages
        scale = (square - mean.square()).clamp(min=1e-6).sqrt() / self.spread
        return torch.stack([mean - self.centre * scale + (1 - seen) * scale, scale.log()])


class Weibull(LogTimes):
    """Times of hazard `t^(1/scale - 1)`, proportional and accelerated at once: z has the law of least extremes."""

    name = "weibull"
    survival_link = links.LogLog()
    centre, spread = -EULER, math.pi / math.sqrt(6)

    def log_density(self, z: Tensor) -> Tensor:
        return z - z.exp()

    def log_beyond(self, z: Tensor) -> Tensor:
        return -z.exp()

    def slopes(self, z: Tensor, event: Tensor | bool) -> tuple[Tensor, Tensor]:
        rate = z.exp()
        return event * torch.ones_like(z) - rate, rate

    def mean(self, eta: Tensor) -> Tensor:
        return torch.exp(eta[0] + torch.lgamma(1 + eta[1].exp()))

    def variance_at(self, eta: Tensor) -> Tensor:
        scale = eta[1].exp()
        once, twice = torch.lgamma(1 + scale), torch.lgamma(1 + 2 * scale)
        return torch.exp(2 * (eta[0] + once)) * torch.expm1(twice - 2 * once)


class LogNormal(LogTimes):
    """Times (or amounts) whose logarithm is normal."""

    name = "lognormal"
    survival_link = links.Probit()
    centre, spread = 0.0, 1.0

    def log_density(self, z: Tensor) -> Tensor:
        return -0.5 * (z.square() + math.log(2 * math.pi))

    def log_beyond(self, z: Tensor) -> Tensor:
        return torch.special.log_ndtr(-z)

    def slopes(self, z: Tensor, event: Tensor | bool) -> tuple[Tensor, Tensor]:
        if isinstance(event, bool):
            return -z, torch.ones_like(z)
        hazard = math.sqrt(2 / math.pi) / torch.special.erfcx(z / math.sqrt(2))  # not by logarithms of the size of z^2
        square = z.clamp(min=LATE).square()
        fall = torch.where(z > LATE, 1 - (1 - 6 / square) / square, hazard * (hazard - z))
        return torch.where(event, -z, -hazard), torch.where(event, 1.0, fall)

    def mean(self, eta: Tensor) -> Tensor:
        return torch.exp(eta[0] + torch.exp(2 * eta[1]) / 2)

    def variance_at(self, eta: Tensor) -> Tensor:
        square = torch.exp(2 * eta[1])
        return torch.exp(2 * eta[0] + square) * torch.expm1(square)


class LogLogistic(LogTimes):
    """Times whose logarithm is logistic: the odds of having survived are proportional. No mean for a scale from 1."""

    name = "loglogistic"
    survival_link = links.Logit()
    centre, spread = 0.0, math.pi / math.sqrt(3)

    def log_density(self, z: Tensor) -> Tensor:
        return z - 2 * nn.functional.softplus(z, threshold=40)

    def log_beyond(self, z: Tensor) -> Tensor:
        return -nn.functional.softplus(z, threshold=40)

    def slopes(self, z: Tensor, event: Tensor | bool) -> tuple[Tensor, Tensor]:
        times = 1 + event * torch.ones_like(z)
        share, rest = torch.sigmoid(z), torch.sigmoid(-z)
        return times - 1 - times * share, times * share * rest

    def mean(self, eta: Tensor) -> Tensor:
        """Infinite where the scale is 1 or more."""
        scale = eta[1].exp()
        exists = scale < 1
        turn = math.pi * torch.where(exists, scale, 0.5)
        return eta[0].exp() * torch.where(exists, turn / turn.sin(), torch.inf)

    def variance_at(self, eta: Tensor) -> Tensor:
        """Infinite where the scale is 1/2 or more."""
        scale = eta[1].exp()
        exists = scale < 0.5
        turn = math.pi * torch.where(exists, scale, 0.25)
        square = 2 * turn / torch.sin(2 * turn) - (turn / turn.sin()).square()
        return torch.exp(2 * eta[0]) * torch.where(exists, square, torch.inf)


def _log_size(y: Response) -> tuple[Tensor, Tensor]:
    """The logarithms of the times, and which tell anything: a time censored at 0 does not."""
    size = size_of(y)
    told = size > 0
    return torch.where(told, size, 1.0).log(), told


def _apart(y: Intervals) -> Tensor:
    """Which intervals have two ends."""
    return (y.upper < torch.inf) & (y.upper > y.size)


def _log_ends(y: Intervals) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Which intervals begin above 0 and the logarithms of where, and which end, and of where."""
    begins, ends = y.size > 0, _apart(y)
    return begins, torch.where(begins, y.size, 1.0).log(), ends, torch.where(ends, y.upper, 1.0).log()


def _plain(y: Intervals) -> Times:
    """Events and right-censored times as they are, with harmless ones in place of the others."""
    return Times(torch.where(_apart(y), 1.0, y.size), y.upper < torch.inf)


def _typical(y: Intervals) -> Times:
    """Times from which a fit may begin: the middles of intervals, and the beginnings of those without an end."""
    ends = y.upper < torch.inf
    return Times(torch.where(ends, (y.size + y.upper) / 2, y.size), ends)
