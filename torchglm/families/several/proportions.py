"""Rates strictly between 0 and 1, and counts out of trials whose rates vary."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor
from torch.distributions import constraints

from torchglm import links, special
from torchglm.distributions.around import Tails
from torchglm.families.base import Family
from torchglm.families.numerics import within
from torchglm.families.proportions import Binomial
from torchglm.families.row_error import refuse
from torchglm.families.several.base import START, Pairs, VectorFamily, units_of_mean
from torchglm.links import Link
from torchglm.rows.responses import Counts, Response
from torchglm.special.tracing import values_are_known

LEAST, MOST = 0.1, 1e4  # precision of a start
END = 27.0  # log precision above which the counts are binomial's to the last digit

Own = TypeVar("Own", bound="_Rates")


class _Rates(VectorFamily):
    """What both share: a mean in (0, 1) by a link, and the logarithm of a precision."""

    precise: str  # what it means where the precision has no end
    unknown: str  # and where there is nothing to begin with
    mean_text = "expected rate"
    ratio_text = "ratio of rates"

    def __init__(self, link: Link | None = None) -> None:
        super().__init__()
        self.link = links.Logit() if link is None else link

    def linked(self: Own, link: Link) -> Own:
        return type(self)(link)

    def parts(self) -> dict[str, Family | Link]:
        return {"link": self.link}

    @property
    def predictors(self) -> tuple[str, ...]:
        return ("mean", "precision")

    @property
    def links(self) -> dict[str, Link]:
        return {"mean": self.link, "precision": links.Log()}

    def _shares(self, eta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The mean, what it lacks to 1, and the precision."""
        return self.link(eta[0]), self.link.log_complement(eta[0]).exp(), eta[1].exp()

    def valid(self, eta: Tensor) -> Tensor:
        mu, rest, _ = self._shares(eta)
        return super().valid(eta) & (mu > 0) & (rest > 0) & (eta[1].abs() < END)

    def has_laws(self, eta: Tensor) -> bool:
        return type(self.link) is links.Logit and within(eta[1], END) or super().has_laws(eta)

    def _by_predictors(
        self, eta: Tensor, by_a: Tensor, by_b: Tensor, bends: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, Pairs]:
        """From the slopes of a log-density by `a = mu phi` and `b = (1 - mu) phi` to those by the predictors.

        `bends` are its second derivatives: twice by a, by both, twice by b.
        """
        mu, rest, phi = self._shares(eta)
        slope, (aa, ab, bb) = self.link.inverse_deriv(eta[0]), bends
        a, b, move = mu * phi, rest * phi, phi * slope
        first, second = move * (by_a - by_b), a * by_a + b * by_b
        pairs = {
            (0, 0): -move.square() * (aa - 2 * ab + bb) - first * self.link.inverse_curvature(eta[0]),
            (0, 1): -move * (a * (aa - ab) + b * (ab - bb)) - first,
            (1, 1): -(a.square() * aa + 2 * a * b * ab + b.square() * bb) - second,
        }
        return torch.stack([first, second]), pairs

    def units(self, eta: Tensor) -> Tensor:
        return units_of_mean(self.link, eta)

    @property
    def ends(self) -> dict[tuple[str, int], str]:
        return {("precision", 1): self.precise, START: self.unknown}

    @property
    def inner_mean(self) -> float:
        return 0.5


class Beta(_Rates):
    """Rates in (0, 1): `Var(y) = mu (1 - mu) / (1 + phi)`, the mean by a link and `log phi` with a predictor.

    Source: Ferrari & Cribari-Neto (2004), J. Appl. Stat. 31(7); Smithson & Verkuilen (2006), Psychol. Methods 11(1).
    """

    name = "beta"
    support = constraints.unit_interval
    support_text = "0 < y < 1"
    precise = "The precision runs to infinity: the mean fits the rates without error. Drop columns of the mean."
    unknown = "The rates are all one. There is nothing to fit."
    advice = (
        "or let zeros stand apart, Hurdle(Beta()), or draw all rates in a little, (y (n - 1) + 0.5) / n; shares of a "
        "count are for Binomial or BetaBinomial with trials="
    )

    def supports(self, y: Response) -> Tensor:
        return (y > 0) & (y < 1)

    def nll(self, y: Response, eta: Tensor) -> Tensor:
        mu, rest, phi = self._shares(eta)
        a, b = mu * phi, rest * phi
        norm = torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(phi)
        return norm - (a - 1) * y.log() - (b - 1) * torch.log1p(-y)

    def nll_and_score(self, y: Response, eta: Tensor) -> tuple[Tensor, Tensor]:
        mu, rest, phi = self._shares(eta)
        a, b, log_y, log_other = mu * phi, rest * phi, y.log(), torch.log1p(-y)
        value = torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(phi) - (a - 1) * log_y - (b - 1) * log_other
        whole = torch.digamma(phi)
        by_a, by_b = whole - torch.digamma(a) + log_y, whole - torch.digamma(b) + log_other
        slope = self.link.inverse_deriv(eta[0])
        return value, torch.stack([phi * slope * (by_a - by_b), a * by_a + b * by_b])

    def derivatives(self, y: Response, eta: Tensor) -> tuple[Tensor, Pairs]:
        mu, rest, phi = self._shares(eta)
        a, b = mu * phi, rest * phi
        whole, bend = torch.digamma(phi), special.trigamma(phi)
        by_a, by_b = whole - torch.digamma(a) + y.log(), whole - torch.digamma(b) + torch.log1p(-y)
        return self._by_predictors(eta, by_a, by_b, (bend - special.trigamma(a), bend, bend - special.trigamma(b)))

    def expected(self, eta: Tensor) -> Pairs:
        mu, rest, phi = self._shares(eta)
        move = phi * self.link.inverse_deriv(eta[0])
        at_a, at_b, whole = (special.trigamma(value) for value in (mu * phi, rest * phi, phi))
        return {
            (0, 0): (at_a + at_b) * move.square(),
            (0, 1): (at_a * mu - at_b * rest) * phi * move,
            (1, 1): phi.square() * (at_a * mu.square() + at_b * rest.square() - whole),
        }

    def tails(self, y: Response, eta: Tensor) -> tuple[Tails, Tails]:
        mu, rest, phi = self._shares(eta)
        lower, upper = special.log_betainc(mu * phi, rest * phi, y)
        at = lower.exp(), upper.exp()
        return at, at

    def variance_at(self, eta: Tensor) -> Tensor:
        mu, rest, phi = self._shares(eta)
        return mu * rest / (1 + phi)

    def start(self, averages: Tensor) -> Tensor:
        mean, square = averages[0], averages[1]
        spread = (square - mean.square()).clamp(min=1e-8)
        return torch.stack([self.link.link(mean), (mean * (1 - mean) / spread - 1).clamp(LEAST, MOST).log()])


class BetaBinomial(_Rates):
    """Successes out of `trials=`, whose rate varies as Beta: `Var(y) = m mu (1 - mu) (m + phi) / (1 + phi)`.

    The mean is that of the rate. Source: Williams (1975), Biometrics 31(4).
    """

    name = "beta_binomial"
    support = constraints.nonnegative
    support_text = "0 <= y <= trials, y being a count"
    precise = "The precision runs to infinity: the counts vary no more than binomial ones. Fit Binomial there."
    unknown = "No row has more than one trial, so nothing tells how much the rates vary. Fit Bernoulli."
    mean_text = "probability"

    def encode(
        self,
        y: Tensor,
        trials: Tensor | None = None,
        event: Tensor | None = None,
        until: Tensor | None = None,
    ) -> tuple[Response, Tensor | None]:
        refuse(self.name, event=event, until=until)
        if trials is None:
            raise ValueError("beta_binomial needs trials=, out of how many each count of successes y is.")
        if values_are_known(y):
            Binomial.check(y, trials)
        return Counts(y, trials.to(y.dtype).expand_as(y)), None

    def supports(self, y: Counts) -> Tensor:
        return (y.size >= 0) & (y.size <= y.trials)

    def statistics(self, y: Counts) -> Tensor:
        """The successes and the trials, and what moments take of their spread: `y (y - 1)` and `m (m - 1)`."""
        size, trials = y
        return torch.stack([size, trials, size * (size - 1), trials * (trials - 1)])

    def nll(self, y: Counts, eta: Tensor) -> Tensor:
        mu, rest, phi = self._shares(eta)
        failures = y.trials - y.size
        choose = torch.lgamma(y.trials + 1) - torch.lgamma(y.size + 1) - torch.lgamma(failures + 1)
        powers = y.size * self.link.log_inverse(eta[0]) + failures * self.link.log_complement(eta[0])
        rising = special.log_rising(mu * phi, y.size) + special.log_rising(rest * phi, failures)
        return -choose - powers - rising + special.log_rising(phi, y.trials)

    def derivatives(self, y: Counts, eta: Tensor) -> tuple[Tensor, Pairs]:
        mu, rest, phi = self._shares(eta)
        size, failures = y.size, y.trials - y.size
        whole, bend = special.log_rising_slopes(phi, y.trials)
        one, other = special.log_rising_slopes(mu * phi, size), special.log_rising_slopes(rest * phi, failures)
        # the powers of the shares of phi are in the terms by their own: nothing of the size of the counts cancels
        slope = self.link.inverse_deriv(eta[0])
        up, down = size / mu, failures / rest
        score, pairs = self._by_predictors(
            eta, one[0] - whole, other[0] - whole, (one[1] - bend, -bend, other[1] - bend)
        )
        own = slope * (up - down)
        weight = slope.square() * (up / mu + down / rest) - own * self.link.inverse_curvature(eta[0])
        score = torch.stack([score[0] + own, score[1]])
        return score, pairs | {(0, 0): pairs[0, 0] + weight}

    def tails(self, y: Counts, eta: Tensor) -> tuple[Tails, Tails]:
        """Sums of the law from both ends."""
        size, trials = (torch.broadcast_to(part, eta.shape[1:]) for part in y)
        low, own, high = (torch.zeros_like(eta[0]) for _ in range(3))
        for k in range(int(trials.amax()) + 1 if trials.numel() else 0):
            inside = k <= trials
            value = torch.where(inside, torch.full_like(low, float(k)), 0.0)
            share = torch.where(inside, torch.exp(-self.nll(Counts(value, trials), eta)), 0.0)
            low, high = low + torch.where(k < size, share, 0.0), high + torch.where(k > size, share, 0.0)
            own = own + torch.where(size == k, share, 0.0)
        return (low, own + high), (low + own, high)

    def departure(self, y: Counts, eta: Tensor) -> tuple[Tensor, Tensor]:
        """Of the rate of successes."""
        mu, rest, phi = self._shares(eta)
        trials = torch.where(y.trials > 0, y.trials, torch.nan)  # none tell nothing
        return y.size / trials - mu, mu * rest * (trials + phi) / (1 + phi) / trials

    def start(self, averages: Tensor) -> Tensor:
        size, trials, pairs, most = averages
        mean = (size / trials).clamp(1e-6, 1 - 1e-6)
        most = torch.where(most > 0, most, torch.nan)  # of single trials none tells the precision
        alike = pairs / most  # the chance that two trials of a row both succeed
        rho = ((alike - mean.square()) / (mean * (1 - mean))).clamp(1 / MOST, 1 / (1 + LEAST))
        return torch.stack([self.link.link(mean), (1 / rho - 1).log()])
