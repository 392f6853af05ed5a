"""Families for proportions: a yes or no, successes out of trials."""

from __future__ import annotations

import torch
from torch import Tensor, distributions, nn
from torch.distributions import constraints

from torchglm import links, special
from torchglm.families.base import Family
from torchglm.families.numerics import any_observed, checking, like, mask, product
from torchglm.families.row_error import RowError, RowWarning, refuse
from torchglm.links import Link
from torchglm.special.tracing import values_are_known
from torchglm.writing.warning import tell

WHOLE = 1e-6  # a count this near to a whole number is one


class _Proportion(Family):
    """What Bernoulli and Binomial share: `V = mu (1 - mu)` on proportions of `w` trials."""

    canonical = links.Logit
    has_dispersion = False
    support = constraints.unit_interval
    mean_text = "probability"
    ratio_text = "risk ratio"
    mean_upper = 1.0

    def variance(self, mu: Tensor) -> Tensor:
        return mu * (1 - mu)

    def variance_log_deriv(self, mu: Tensor) -> Tensor:
        return 1 / mu - 1 / (1 - mu)

    def theta(self, mu: Tensor) -> Tensor:
        return torch.logit(mu)

    def cumulant(self, theta: Tensor) -> Tensor:
        return nn.functional.softplus(theta, threshold=40)

    def unit_deviance(self, y: Tensor, mu: Tensor) -> Tensor:
        return 2 * _half_deviance(y, mu)

    def nll(self, y: Tensor, eta: Tensor, link: Link) -> Tensor:
        return -product(y, link.log_inverse(eta)) - product(1 - y, link.log_complement(eta))

    def nll_and_slope(self, y: Tensor, eta: Tensor, link: Link) -> tuple[Tensor, Tensor] | None:
        if not self.is_canonical(link):
            return None
        if y.shape != eta.shape:
            y, eta = torch.broadcast_tensors(y, eta)
        # from the probability of what is less probable, and the other outcome less y: no tail loses digits
        less = eta.abs().neg_().sigmoid_().neg_()
        rest = torch.gt(eta, 0, out=torch.empty_like(eta)).sub_(y)
        value = torch.log1p(less).neg_().addcmul_(rest, eta)
        return value, rest.sub_(less.copysign_(eta))

    def nll_saturated(self, y: Tensor) -> Tensor:
        return torch.special.entr(y) + torch.special.entr(1 - y)

    def half_deviance(self, y: Tensor, eta: Tensor, mu: Tensor, link: Link) -> Tensor:
        # logarithms of the means from eta: exact where mu rounds to 0 or 1; kl_div where y and mu are close
        far = self.nll(y, eta, link) - self.nll_saturated(y)
        inside = (y > 0) & (y < 1) & (mu > 0) & (mu < 1)
        if values_are_known(inside) and not inside.is_cuda and not inside.any():  # a look would wait for the device
            return far
        safe = torch.where(inside, mu, 0.5)
        return torch.where(inside, _half_deviance(y, safe, link.log_complement(eta)), far)

    def cheap(
        self, y: Tensor, eta: Tensor, mu: Tensor, link: Link, relative: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        if not self.is_canonical(link):
            return super().cheap(y, eta, mu, link, relative)
        if relative:
            return self.cumulant(eta) - y * eta, None
        if y.is_cuda:
            terms = -y * nn.functional.logsigmoid(eta) - (1 - y) * nn.functional.logsigmoid(-eta)
            return terms - self.nll_saturated(y), terms
        if bool(((y > 0) & (y < 1)).any()):
            return self.half_deviance(y, eta, mu, link), None
        return -nn.functional.logsigmoid((2 * y - 1) * eta), None

    def score_and_weight(
        self, y: Tensor, eta: Tensor, mu: Tensor, link: Link, observed: Tensor | bool
    ) -> tuple[Tensor, Tensor]:
        if self.is_canonical(link):
            other = torch.sigmoid(-eta)  # 1 - mu, without rounding at the upper end
            return y * other - (1 - y) * mu, mu * other
        up, down = link.relative_slope(eta), link.complement_slope(eta)
        success, failure = product(y, up), product(1 - y, down)
        weight = torch.where(down == 0, 0.0, product(up, down))  # (dmu/deta)^2 / V
        if any_observed(observed):
            bend = link.inverse_curvature(eta)
            seen = product(success, up - bend) + product(failure, down + bend)
            weight = torch.where(mask(observed, weight), seen, weight)
        return success - failure, weight

    def valid_mean(self, mu: Tensor) -> Tensor:
        return (mu >= 0) & (mu <= 1)  # links that saturate round to the ends

    def log_base(self, y: Tensor, dispersion: Tensor) -> Tensor:
        trials = 1 / dispersion
        remainder = special.log_factorial_remainder
        # 1 - y rounds; the failures are what is left of the trials
        return remainder(trials) - remainder(trials * y) - remainder((trials - trials * y).clamp(min=0))

    def log_prob(self, y: Tensor, mu: Tensor, dispersion: Tensor | float = 1.0, weight: Tensor | float = 1.0) -> Tensor:
        """The log-probability of `w y` successes in `w` trials, the binomial coefficient included."""
        trials = like(weight, mu)
        coefficient = self.log_base(y, 1 / torch.where(trials > 0, trials, 1.0))
        return torch.where(trials > 0, coefficient - trials * self.unit_deviance(y, mu) / 2, 0.0)

    def initial_mean(self, y: Tensor, weight: Tensor) -> Tensor:
        return (weight * y + 0.5) / (weight + 1)


class Bernoulli(_Proportion):
    """A yes or no: `y` in {0, 1} (values between are taken as proportions). The logit makes logistic regression."""

    name = "bernoulli"
    support_text = "0 <= y <= 1"

    def crps(self, y: Tensor, mu: Tensor, dispersion: Tensor) -> Tensor:
        return (y - mu).square()

    def distribution(self, mu: Tensor, dispersion: Tensor | float = 1.0) -> distributions.Distribution:
        return distributions.Bernoulli(probs=mu, validate_args=checking())

    def law(self, eta: Tensor, link: Link, dispersion: Tensor | float = 1.0) -> distributions.Distribution:
        return distributions.Bernoulli(logits=_logits(eta, link), validate_args=checking())


class Binomial(_Proportion):
    """Successes out of `trials`: `y` in counts with `trials=`, or proportions where the weights are the trials."""

    name = "binomial"
    support_text = "0 <= y <= trials (y is a count where trials= is given, else a proportion)"

    def encode(
        self,
        y: Tensor,
        trials: Tensor | None = None,
        event: Tensor | None = None,
        until: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        refuse(self.name, event=event, until=until)
        if trials is None:
            return y, None
        if values_are_known(y):
            self.check(y, trials)
        return torch.where(trials > 0, y / torch.where(trials > 0, trials, 1.0), 0.0).clamp(max=1.0), trials

    @staticmethod
    def check(y: Tensor, trials: Tensor) -> None:
        """Raise `ValueError` for counts and totals that do not go together, and warn of counts that are not whole."""
        if not bool(((trials >= 0) & torch.isfinite(trials)).all()):
            raise ValueError("trials must be finite and >= 0. Correct or drop those rows.")
        over = y > trials * (1 + 1e-9)
        if bool(over.any()):
            raise RowError(
                "counts need y <= trials; ",
                over.nonzero()[0].tolist(),
                " has more successes than trials (y is a count where trials= is given). Correct that row.",
            )
        _check_whole(y, trials)

    def crps(self, y: Tensor, mu: Tensor, dispersion: Tensor) -> Tensor:
        trials = 1 / dispersion
        return special.binomial_crps((y * trials).round(), trials.round(), mu)

    def distribution(self, mu: Tensor, dispersion: Tensor | float = 1.0) -> distributions.Distribution:
        """Counts out of `1 / dispersion` trials of probability `mu`."""
        return distributions.Binomial((1 / like(dispersion, mu)).round(), probs=mu, validate_args=checking())

    def law(self, eta: Tensor, link: Link, dispersion: Tensor | float = 1.0) -> distributions.Distribution:
        trials = (1 / like(dispersion, eta)).round()
        return distributions.Binomial(trials, logits=_logits(eta, link), validate_args=checking())


def _logits(eta: Tensor, link: Link) -> Tensor:
    """`log(mu / (1 - mu))`."""
    return eta if type(link) is links.Logit else link.log_inverse(eta) - link.log_complement(eta)


def _half_deviance(y: Tensor, mu: Tensor, log_other: Tensor | None = None) -> Tensor:
    """`y log(y / mu) + (1 - y) log((1 - y) / (1 - mu))`: two terms of second order in `y - mu`.

    `log_other` is `log(1 - mu)` where it is known better than from a mean near 1.
    """
    failures, excess = 1 - y, y - mu  # the rounding of 1 - y and 1 - mu would be all there is of a small excess
    some = failures > 0
    safe = torch.where(some, failures, 1.0)
    log_ratio = torch.log((1 - mu) / safe) if log_other is None else log_other - torch.log(safe)
    rest = -excess * special.log_one_plus_minus_over(excess / safe, log_ratio)
    return special.kl_div(y, mu) + torch.where(some, rest, 1 - mu)


def _check_whole(y: Tensor, trials: Tensor) -> None:
    """Look at counts beside `trials` that are not whole: where none is above 1 they are proportions.

    Raises `RowError` for those, and warns of others.
    """
    y, trials = torch.broadcast_tensors(y, trials)
    broken = ((y - y.round()).abs() > WHOLE) & (trials > 0)
    if not bool(broken.any()):
        return
    proportions = broken & (trials > 1)
    if bool(proportions.any()) and not bool((y > 1).any()):
        place = proportions.nonzero()[0].tolist()
        raise RowError(
            "y is a count where trials= is given; ",
            place,
            f" has y = {float(y[tuple(place)]):g}, a proportion, and no y is above 1. Give proportions their totals as "
            "weights=, or multiply them by the trials.",
        )
    tell(
        f"{int(broken.sum())} counts beside trials= are not whole, such as {float(y[broken][0]):g}; they are taken as "
        "they are. Proportions have their totals in weights=.",
        RowWarning,
    )
