"""Tests of the spread of the responses and of their zeros, from sums over the rows.

A row that stands for repeats (`freq`) counts as often as it was seen.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchglm.families import Binomial, Poisson
from torchglm.inference.adequacy.screening import middle
from torchglm.inference.fitted import Fitted
from torchglm.inference.rowwise import RowValues, leverage, residuals
from torchglm.inference.table import Outcome
from torchglm.rows.products import project
from torchglm.writing.nearest import unknown


class Overdispersion:
    """Do the counts vary more, or less, than Poisson or binomial counts of these means?

    Poisson: `sum((y - mu)^2 - y + h mu) / sqrt(2 sum mu^2)`. Binomial, `y` successes in `m` trials of probability
    `p`: `sum(((y - m p)^2 + p (y - m p) - y (1 - p)) / (p (1 - p)) + h m) / sqrt(2 sum m (m - 1))`. Standard normal
    under the model, positive where they vary more; `h` is the leverage, which corrects for the fit. Poisson responses
    that are all 0 or 1 tell nothing: where only one event can be seen (a time at risk as exposure) they vary less by
    their make. Sources: Dean & Lawless (1989), JASA 84, 467-472; Dean (1992), JASA 87, 451-457.
    """

    FAMILIES = (Poisson, Binomial)

    def __init__(self, result: Fitted) -> None:
        self.result, self.binomial = result, type(result.family) is Binomial
        self.excess = torch.zeros_like(result.flat.deviance)
        self.square, self.base = self.excess.clone(), self.excess.clone()
        self.several = torch.zeros_like(self.excess, dtype=torch.bool)

    def add(self, values: RowValues) -> None:
        mu, used = values.mu, values.used
        times = values.repeats if self.binomial else values.rows.weight  # the weight of a Poisson row repeats it
        times = torch.where(used, times, 1.0)
        h = leverage(values, self.result.flat.root) / times
        if self.binomial:
            m = values.prior
            y = m * values.rows.y
            far = y - m * mu
            excess = (far.square() + mu * far - y * (1 - mu)) / (mu * (1 - mu)) + h * m
            square, base = 2 * m * (m - 1), torch.where(m > 1, m, 0.0)
        else:
            far = values.rows.y - mu
            excess, square, base = far.square() - values.rows.y + h * mu, 2 * mu.square(), mu
        self.excess += torch.where(used, times * excess, 0.0).sum(-1)
        self.square += torch.where(used, times * square, 0.0).sum(-1)
        self.base += torch.where(used, times * base, 0.0).sum(-1)
        self.several |= (used & (values.rows.y > 1)).any(-1) | self.binomial

    def score(self) -> Tensor:
        """(B) the statistic, standard normal under the model; NaN where every row is a single trial or event."""
        return torch.where((self.square > 0) & self.several, self.excess / self.square.sqrt(), torch.nan)

    def ratio(self) -> Tensor:
        """(B) the squared distances over what the family expects of them: a dispersion that no small mean inflates."""
        return 1 + self.excess / self.base

    def outcome(self) -> Outcome:
        square = self.result.shaped(self.score().square())
        return Outcome("dispersion (Dean)", square, torch.ones_like(square))


class CameronTrivedi:
    """Regression of `((y - mu)^2 - y) / mu` on `mu` (`nb2`) or on 1 (`nb1`), through the origin.

    The slope estimates `alpha` in `V = mu + alpha mu^2` or `V = (1 + alpha) mu`; its t statistic is standard normal
    under the Poisson model in large samples (at 200 rows with means near 2 a 5 % test rejects 8 %).
    Source: Cameron & Trivedi (1990), J. Econometrics 46, 347-364.
    """

    def __init__(self, result: Fitted, kind: str = "nb2") -> None:
        if kind not in ("nb1", "nb2"):
            raise ValueError(unknown("kind", kind, ("nb1", "nb2")))
        self.result, self.kind = result, kind
        self.sums = torch.zeros(4, *result.flat.deviance.shape).to(result.flat.deviance)

    def add(self, values: RowValues) -> None:
        y, mu, times = values.rows.y, values.mu, values.rows.weight
        z = ((y - mu).square() - y) / mu
        v = mu if self.kind == "nb2" else torch.ones_like(mu)
        self.sums += torch.stack(
            [
                torch.where(values.used, times * one, 0.0).sum(-1)
                for one in (z * v, v.square(), z.square(), torch.ones_like(z))
            ]
        )

    def alpha(self) -> tuple[Tensor, Tensor]:
        """(B) the slope and its standard error."""
        zv, vv, zz, count = self.sums
        slope = zv / vv
        return slope, ((zz - slope * zv) / (count - 1) / vv).sqrt()

    def outcome(self) -> Outcome:
        slope, error = self.alpha()
        square = self.result.shaped((slope / error).square())
        notes = (f"alpha {float(slope):.4g} (std err {float(error):.2g})",) if slope.numel() == 1 else ()
        return Outcome(f"dispersion (Cameron-Trivedi, {self.kind})", square, torch.ones_like(square), notes=notes)


class ZeroCount:
    """Are there more (or fewer) zeros than the model expects?

    `(observed - sum p0) / sd`, `sd^2 = sum p0 (1 - p0) - c' I^-1 c` with `c = sum p0 s(0) x`, which takes away what
    the fitted coefficients have adapted to; a shape estimated by maximum likelihood counts as known, which keeps the
    test on the safe side. Source: He, Zhang, Ye & Tang (2019), A test of inflated zeros for Poisson regression
    models, Stat. Methods Med. Res. 28.
    """

    def __init__(self, result: Fitted) -> None:
        self.result = result
        flat = result.flat
        self.observed = torch.zeros_like(flat.deviance)
        self.expected, self.spread = self.observed.clone(), self.observed.clone()
        self.pull = torch.zeros_like(flat.coef)
        self.several = torch.full_like(self.observed, type(result.family) is not Poisson, dtype=torch.bool)

    def add(self, values: RowValues) -> None:
        family, phi = self.result.family, self.result.flat.dispersion.unsqueeze(-1)
        mu = torch.where(values.used, values.mu, 1.0)
        zero = torch.zeros_like(mu)
        none = family.log_prob(zero, mu, phi, torch.where(values.used, values.prior, 1.0)).exp()
        score, _ = family.score_and_weight(zero, values.eta, mu, self.result.link, False)
        times = torch.where(values.used, values.repeats, 0.0)
        self.observed += (times * (values.rows.y == 0)).sum(-1)
        self.several |= (values.used & (values.rows.y > 1)).any(-1)
        self.expected += (times * none).sum(-1)
        self.spread += (times * none * (1 - none)).sum(-1)
        share = torch.where(values.used, none * score * values.rows.weight, 0.0)
        self.pull += project(values.rows, share)

    def score(self) -> Tensor:
        """(B) the statistic, standard normal under the model; NaN where no zero can be told from the fit.

        As for `Overdispersion`, Poisson responses that are all 0 or 1 tell nothing.
        """
        flat = self.result.flat
        adapted = flat.root.within(self.pull.unsqueeze(-1))[:, 0, 0] / flat.dispersion
        variance = self.spread - adapted
        known = (variance > 1e-8 * self.spread) & self.several
        return torch.where(known, (self.observed - self.expected) / variance.sqrt(), torch.nan)

    def outcome(self) -> Outcome:
        square = self.result.shaped(self.score().square())
        notes = (
            (f"{float(self.observed):g} zeros, {float(self.expected):.1f} expected",)
            if (self.observed.numel() == 1)
            else ()
        )
        return Outcome("zeros", square, torch.ones_like(square), notes=notes)


class VarianceTrend:
    """Does the variance grow with the mean as the family says?

    Squared standardised Pearson residuals regressed on `log mu` (on `mu` where means may be negative): `n R^2` is
    chi-squared under the model whatever their own spread. `power` is the slope over their mean, about what is missing
    in the power of the mean. Source: Koenker (1981), J. Econometrics 17, 107-112.
    """

    def __init__(self, result: Fitted) -> None:
        self.result = result
        self.sums = torch.zeros(6, *result.flat.deviance.shape).to(result.flat.deviance)
        self.origin: Tensor | None = None
        self.least = torch.full_like(result.flat.deviance, torch.inf)

    def add(self, values: RowValues) -> None:
        self.least = torch.minimum(self.least, torch.where(values.used, values.rows.y, torch.inf).amin(-1))
        left = 1 - leverage(values, self.result.flat.root) / values.repeats
        square = residuals(values, self.result.family, self.result.link, "pearson").square() / left
        used = values.used & (left > 1e-6)
        v = torch.where(used, values.mu, 1.0)
        v = v.log() if self.result.family.mean_lower == 0 else v
        self.origin = middle(v, used) if self.origin is None else self.origin
        v = v - self.origin
        self.sums += torch.stack(
            [
                torch.where(used, values.repeats * one, 0.0).sum(-1)
                for one in (torch.ones_like(v), v, square, v.square(), v * square, square.square())
            ]
        )

    def power(self) -> Tensor:
        """(B) the slope of the squared residuals over their mean."""
        n, v, q, vv, vq, _ = self.sums
        return (vq - v * q / n) / (vv - v.square() / n) / (q / n)

    def outcome(self) -> Outcome:
        n, v, q, vv, vq, qq = self.sums
        spread = vv - v.square() / n
        square = n * (vq - v * q / n).square() / (spread * (qq - q.square() / n))
        square = self.result.shaped(torch.where(spread > 1e-12 * vv, square, torch.nan))
        notes = (f"slope of the variance ratio {float(self.power()):.3g}",) if spread.numel() == 1 else ()
        return Outcome("variance against the mean (Koenker)", square, torch.ones_like(square), notes=notes)


class PearsonRows:
    """The rows that add most to Pearson's chi-squared of each model, and what a right model would let it spread.

    `parts` (B, k) are the largest, largest first, `row`, `y` and `mu` (B, k) those rows; `total` (B) is the sum.
    `excess` (B) sums the excess kurtosis of the residuals where the variance is a power of the mean.
    """

    MOST = 3

    def __init__(self, result: Fitted) -> None:
        self.result = result
        empty = result.flat.deviance.new_zeros(len(result.flat.deviance), 0)
        self.parts, self.y, self.mu = empty, empty, empty
        self.row = empty.long()
        self.total = torch.zeros_like(result.flat.deviance)
        self.excess, self.count = self.total.clone(), self.total.clone()
        self.seen = 0

    def add(self, values: RowValues) -> None:
        family, phi = self.result.family, self.result.flat.dispersion.unsqueeze(-1)
        square = residuals(values, family, self.result.link, "pearson").square() * values.repeats
        square = torch.where(values.used, square, 0.0)
        self.total += square.sum(-1)
        self.count += (values.used * values.repeats).sum(-1)
        if family.has_dispersion:
            mu = torch.where(values.used, values.mu, 1.0)
            power = mu * family.variance_log_deriv(mu)
            tall = phi * power * (2 * power - 1) * family.variance(mu) / mu.square()
            self.excess += torch.where(values.used & (mu != 0), values.repeats * tall / values.prior, 0.0).sum(-1)
        rows = torch.arange(self.seen, self.seen + square.shape[-1], device=square.device).expand(square.shape)
        y, mu = values.rows.y.expand(square.shape), values.mu
        parts, row, y, mu = (
            torch.cat(pair, -1) for pair in ((self.parts, square), (self.row, rows), (self.y, y), (self.mu, mu))
        )
        first = parts.topk(min(self.MOST, parts.shape[-1])).indices
        self.parts, self.row, self.y, self.mu = (one.gather(-1, first) for one in (parts, row, y, mu))
        self.seen += square.shape[-1]

    def error(self) -> Tensor:
        """(B) the standard error of the log of Pearson's dispersion under a right model."""
        return ((2 + self.excess / self.count) / self.count).sqrt()
