"""Families for counts: Poisson, and the negative binomial where they vary more."""

from __future__ import annotations

import torch
from torch import Tensor, distributions, nn
from torch.distributions import constraints

from torchglm import distributions as exact
from torchglm import links, special
from torchglm.families.base import Family
from torchglm.families.numerics import checking, number, product, rows_of, text
from torchglm.links import Link

COMMON = 4.0  # of |log alpha|: within, no term of the log-density is much larger than the whole
LEAST = 1e-200  # in place of zero in a logarithm that is multiplied by zero
TINY = 1e-30  # in place of an average rate that exposures divide down to nothing
PRIOR = 0.75  # events that the average rate is worth where a fit begins: one or two steps fewer than from y + 0.1


def pooled_mean(y: Tensor, weight: Tensor, offset: Tensor | None) -> Tensor:
    """What a count says of its mean where the average rate of the last dimension is worth `PRIOR` events.

    `(y + k) / (1 + k / m)`, the mean of a Gamma law after a count whose mean before it was `m`: the exposure
    `exp(offset)` at the average rate.
    """
    events = torch.linalg.vecdot(weight, torch.where(weight > 0, y, 0.0))
    if offset is None:
        size, total = events.new_ones(()), weight.sum(-1)
    else:
        size = (offset - offset.amax(-1, keepdim=True)).exp()
        total = torch.linalg.vecdot(weight, size)
    rate = torch.where(events > 0, events / total, 0.1)
    mean = (size * rate.unsqueeze(-1)).clamp(min=TINY)
    return (y + PRIOR) / (1 + PRIOR / mean)


class _Count(Family):
    """What Poisson and NegativeBinomial share: counts, whose fit begins at their average rate."""

    has_dispersion = False
    support = constraints.nonnegative
    support_text = "y >= 0"
    mean_text = "expected count"
    ratio_text = "rate ratio"

    def initial_mean(self, y: Tensor, weight: Tensor) -> Tensor:
        return y + 0.1

    def first_mean(self, y: Tensor, weight: Tensor, offset: Tensor | None, link: Link) -> Tensor:
        if offset is not None and type(link) is not links.Log:
            return self.initial_mean(y, weight)
        return pooled_mean(y, weight, offset)


class Poisson(_Count):
    """Counts: `V = mu`. The log link makes rates that multiply."""

    name = "poisson"
    canonical = links.Log

    def variance(self, mu: Tensor) -> Tensor:
        return mu

    def variance_log_deriv(self, mu: Tensor) -> Tensor:
        return 1 / mu

    def theta(self, mu: Tensor) -> Tensor:
        return mu.log()

    def cumulant(self, theta: Tensor) -> Tensor:
        return theta.exp()

    def unit_deviance(self, y: Tensor, mu: Tensor) -> Tensor:
        return 2 * special.kl_div(y, mu)

    def cheap(
        self, y: Tensor, eta: Tensor, mu: Tensor, link: Link, relative: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        if relative:
            return mu - y * eta if self.is_canonical(link) else self.nll(y, eta, link), None
        return y * torch.log(y.clamp(min=LEAST) / mu) - (y - mu), y + mu

    def score_and_weight(
        self, y: Tensor, eta: Tensor, mu: Tensor, link: Link, observed: Tensor | bool
    ) -> tuple[Tensor, Tensor]:
        if self.is_canonical(link):
            return y - mu, mu
        return super().score_and_weight(y, eta, mu, link, observed)

    def nll(self, y: Tensor, eta: Tensor, link: Link) -> Tensor:
        return link(eta) - product(y, link.log_inverse(eta))

    def nll_and_slope(self, y: Tensor, eta: Tensor, link: Link) -> tuple[Tensor, Tensor] | None:
        if not self.is_canonical(link):
            return None
        mu = eta.exp()
        return torch.addcmul(mu, y, eta, value=-1), mu - y

    def nll_saturated(self, y: Tensor) -> Tensor:
        return y - y * torch.where(y == 0, 1.0, y).log()  # a quarter of the time of xlogy

    def log_base(self, y: Tensor, dispersion: Tensor) -> Tensor:
        return -special.log_factorial_remainder(y)

    def log_constant(self, y: Tensor) -> Tensor:
        return -torch.lgamma(y + 1)

    def crps(self, y: Tensor, mu: Tensor, dispersion: Tensor) -> Tensor:
        return special.poisson_crps(y, mu)

    def distribution(self, mu: Tensor, dispersion: Tensor | float = 1.0) -> distributions.Distribution:
        return distributions.Poisson(mu, validate_args=checking())


class NegativeBinomial(_Count):
    """Over-dispersed counts: `V = mu + alpha mu^2`; `alpha = 0` is Poisson, `theta = 1 / alpha`.

    `alpha=None` estimates it: it is then a parameter of the module that is learned with the rest (by maximum
    likelihood in `torchglm.fit`). Raises `ValueError` for `alpha < 0`.
    """

    name = "negative_binomial"

    def __init__(self, alpha: float | Tensor | None = None) -> None:
        super().__init__()
        value = number(1.0 if alpha is None else alpha)
        if not bool(((value >= 0) & torch.isfinite(value)).all()):
            raise ValueError(f"NegativeBinomial needs alpha >= 0, got {alpha}. alpha = 0 is Poisson.")
        self.log_alpha = nn.Parameter(value.log(), requires_grad=alpha is None)

    @property
    def alpha(self) -> Tensor:
        """The over-dispersion, shape `(*B)`."""
        return self.log_alpha.exp()

    def _alpha(self, mu: Tensor) -> Tensor:
        return rows_of(self.alpha, mu)

    @property
    def canonical_link(self) -> Link:
        return NegativeBinomialCanonical(self.alpha.detach())

    @property
    def default_link(self) -> Link:
        return links.Log()

    def variance(self, mu: Tensor) -> Tensor:
        return mu * (1 + self._alpha(mu) * mu)

    def variance_log_deriv(self, mu: Tensor) -> Tensor:
        alpha = self._alpha(mu)
        return 1 / mu + alpha / (1 + alpha * mu)

    def theta(self, mu: Tensor) -> Tensor:
        return torch.log(mu) - torch.log1p(self._alpha(mu) * mu)

    def cumulant(self, theta: Tensor) -> Tensor:
        rate = theta.exp()
        u = -self._alpha(theta) * rate
        return rate * (1 + special.log_one_plus_minus_over(u, torch.log1p(u)))  # rate log(1 + u) / u

    def unit_deviance(self, y: Tensor, mu: Tensor) -> Tensor:
        return 2 * special.negative_binomial_half_deviance(y, mu, self._alpha(mu))

    def nll(self, y: Tensor, eta: Tensor, link: Link) -> Tensor:
        log_mean = link.log_inverse(eta)
        return self._softened(y, log_mean) - product(y, log_mean)

    def nll_and_slope(self, y: Tensor, eta: Tensor, link: Link) -> tuple[Tensor, Tensor] | None:
        if type(link) is not links.Log or not bool((self.log_alpha.detach().abs() < COMMON).all()):
            return None
        return self._nll_and_slopes(y, eta)[:2]

    def density_and_slopes(self, y: Tensor, eta: Tensor, link: Link) -> tuple[Tensor, Tensor, Tensor] | None:
        if (
            type(link) is not links.Log
            or self.log_alpha.numel() != 1
            or not bool(self.log_alpha.detach().abs() < COMMON)
        ):
            return None
        constant = special.log_rising_table(self.alpha.detach(), y)
        if constant is None:
            return None
        value, slope, by_alpha = self._nll_and_slopes(y, eta)
        return value - constant[0], slope, by_alpha - constant[1]

    def _nll_and_slopes(self, y: Tensor, eta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`(y + r) log(1 + mu / r) - y log mu`, its derivative by `log mu`, and by `log alpha`, `r = 1 / alpha`."""
        alpha = self._alpha(eta).detach()
        mu, r = eta.exp(), 1 / alpha
        product = alpha * mu
        log, score = torch.log1p(product), (y - mu) / (1 + product)
        value = torch.addcmul((y + r) * log, y, eta, value=-1)
        return value, -score, y - score - r * log

    def nll_saturated(self, y: Tensor) -> Tensor:
        return self._softened(y, y.log()) - torch.xlogy(y, y)

    def _softened(self, y: Tensor, log_mean: Tensor) -> Tensor:
        """`(y + 1/alpha) log(1 + alpha mu)` with its limit `mu` at `alpha = 0`, from `log mu`: no mean overflows."""
        log_alpha = rows_of(self.log_alpha, log_mean)
        log_product = log_alpha + log_mean
        log = nn.functional.softplus(log_product, threshold=40)
        small = log_product < (-9 if log_product.dtype == torch.float64 else -4.6)
        t = torch.exp(torch.where(small, log_product, -10.0))
        series = 1 - t * (1 / 2 - t * (1 / 3 - t * (1 / 4 - t / 5)))  # log(1 + t) / t
        limit = torch.exp(torch.where(small, log_mean, 0.0)) * series
        return y * log + torch.where(small, limit, log * torch.exp(-torch.where(small, 0.0, log_alpha)))

    def log_base(self, y: Tensor, dispersion: Tensor) -> Tensor:
        mean = torch.where(y > 0, y, 1.0)
        at_mean = special.negative_binomial_log_prob(y, mean, self._alpha(y))
        return torch.where(y > 0, at_mean, 0.0)

    def log_constant(self, y: Tensor) -> Tensor:
        alpha = self._alpha(y)
        return special.log_rising_of_inverse(alpha, y) - torch.lgamma(y + 1)

    def crps(self, y: Tensor, mu: Tensor, dispersion: Tensor) -> Tensor:
        return special.negative_binomial_crps(y, mu, self._alpha(mu))

    def shape_slopes(self, y: Tensor, mu: Tensor) -> tuple[Tensor, Tensor]:
        return special.negative_binomial_slopes(y, mu, self._alpha(mu))

    def distribution(self, mu: Tensor, dispersion: Tensor | float = 1.0) -> distributions.Distribution:
        return exact.NegativeBinomialMean(mu, self._alpha(mu).expand_as(mu), validate_args=checking())

    def extra_repr(self) -> str:
        return "alpha=estimated" if self.log_alpha.requires_grad else f"alpha={text(self.alpha)}"


class NegativeBinomialCanonical(Link):
    """`mu = exp(eta) / (1 - alpha exp(eta))`, `eta < -log(alpha)`, for `alpha` of shape `(*B)`; seldom of use.

    It ties `eta` to `alpha`, so the negative binomial names it but takes the log. Source: McCullagh & Nelder
    (1989), section 6.2.3.
    """

    name = "negative_binomial_canonical"
    alpha: Tensor

    def __init__(self, alpha: Tensor | float = 1.0) -> None:
        super().__init__()
        self.register_buffer("alpha", number(alpha).clone())

    def _log_free(self, eta: Tensor) -> Tensor:
        """`log(1 - alpha exp(eta))`."""
        return torch.log1p(-rows_of(self.alpha, eta) * eta.exp())

    def inverse(self, eta: Tensor) -> Tensor:
        return torch.exp(self.log_inverse(eta))

    def link(self, mu: Tensor) -> Tensor:
        return -torch.log(1 / mu + rows_of(self.alpha, mu))

    def log_inverse(self, eta: Tensor) -> Tensor:
        return eta - self._log_free(eta)

    def log_inverse_deriv(self, eta: Tensor) -> Tensor:
        return eta - 2 * self._log_free(eta)

    def inverse_deriv(self, eta: Tensor) -> Tensor:
        return torch.exp(self.log_inverse_deriv(eta))

    def inverse_curvature(self, eta: Tensor) -> Tensor:
        return 1 + 2 * rows_of(self.alpha, eta) * self.inverse(eta)

    def inside(self, eta: Tensor) -> Tensor:
        return rows_of(self.alpha, eta) * eta.exp() < 1
