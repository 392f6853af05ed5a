"""Every exponential dispersion family, on one page: a row of McCullagh & Nelder's table is a class.

A family is the loss of a GLM: `log f(y) = w (y theta - b(theta)) / phi + c(y, phi / w)`, written here as
`-w d(y, mu) / (2 phi) + log_base(y, phi / w)` with the unit deviance `d`, so that nothing large cancels.
Families know nothing of links beyond the five functions every link offers.

To add a family, write one class here; the tests find it by themselves.
"""

import copy
import math

import torch
from torch import Tensor, distributions, nn
from torch.distributions import constraints

from torchglm import distributions as exact
from torchglm import links, special
from torchglm.links import Link

__all__ = ["Bernoulli", "Binomial", "Exponential", "Family", "Gamma", "Gaussian", "InverseGaussian",
           "NegativeBinomial", "Poisson", "Tweedie", "get", "names"]


class Family(nn.Module):
    """The contract of a family; every method works elementwise on tensors that broadcast.

    `y` is the response as `encode` leaves it, `mu > 0` the mean in the family's range, `eta` the linear
    predictor. Shapes are free; a shape parameter with batch dimensions `(*B)` meets rows `(*B, n)`.
    Source: McCullagh & Nelder (1989), Generalized Linear Models, section 2.2; Jorgensen (1997), The Theory of
    Dispersion Models.
    """

    name: str
    has_dispersion: bool = True
    support: constraints.Constraint
    support_text: str
    canonical_name: str = ""
    mean_lower: float = 0.0
    mean_upper: float = math.inf
    signed: bool = False  # True where `encode` gives the sign of y a meaning: the size is then |y|

    def __init__(self) -> None:
        super().__init__()

    @property
    def canonical_link(self) -> Link:
        """The link for which `theta` is linear in `eta`: Newton's method and Fisher scoring are then one."""
        raise NotImplementedError

    @property
    def default_link(self) -> Link:
        """The link used where none is named: the canonical one unless the class says otherwise."""
        return self.canonical_link

    def variance(self, mu: Tensor) -> Tensor:
        """The variance function `V(mu) = b''(theta)`: `Var(y) = phi V(mu) / w`."""
        raise NotImplementedError

    def variance_log_deriv(self, mu: Tensor) -> Tensor:
        """`V'(mu) / V(mu)`."""
        raise NotImplementedError

    def theta(self, mu: Tensor) -> Tensor:
        """The canonical parameter of a mean."""
        raise NotImplementedError

    def cumulant(self, theta: Tensor) -> Tensor:
        """The cumulant function `b(theta)`: `b' = mu`, `b'' = V(mu)`."""
        raise NotImplementedError

    def unit_deviance(self, y: Tensor, mu: Tensor) -> Tensor:
        """`d(y, mu) = 2 (loglik at mu = y minus loglik at mu)` for `phi = w = 1`: zero only at `y = mu`."""
        raise NotImplementedError

    def nll(self, y: Tensor, eta: Tensor, link: Link) -> Tensor:
        """`b(theta) - y theta` from `eta`, finite in the tails of every dtype.

        The negative log-density for `phi = w = 1` less the terms that depend on `y` alone (see
        `nll_saturated` and `log_base`, which hold them).
        """
        raise NotImplementedError

    def nll_saturated(self, y: Tensor) -> Tensor:
        """`nll` at `mu = y`, so that `nll - nll_saturated = unit_deviance / 2`."""
        raise NotImplementedError

    def log_base(self, y: Tensor, dispersion: Tensor) -> Tensor:
        """The log-density at `mu = y`; `dispersion` is `phi / w`."""
        raise NotImplementedError

    def initial_mean(self, y: Tensor, weight: Tensor) -> Tensor:
        """A mean for each row from which the first step of IRLS is taken, inside the family's range."""
        raise NotImplementedError

    def distribution(self, mu: Tensor, dispersion: "Tensor | float" = 1.0) -> distributions.Distribution:
        """The distribution of `y` as an object that can be sampled."""
        raise NotImplementedError

    def log_prob(self, y: Tensor, mu: Tensor, dispersion: "Tensor | float" = 1.0,
                 weight: "Tensor | float" = 1.0) -> Tensor:
        """The fully normalised log-density, `-w d / (2 phi) + log_base(y, phi / w)`.

        Prior weights divide the dispersion; where there is none (`has_dispersion` is False) they multiply the
        log-density, as repeats do.
        """
        phi, w = torch.as_tensor(dispersion, dtype=mu.dtype), torch.as_tensor(weight, dtype=mu.dtype)
        phi, w = phi.to(mu.device), w.to(mu.device)
        half = self.unit_deviance(y, mu) / 2
        if self.has_dispersion:
            return self.log_base(y, phi / w) - half * w / phi
        return w * (self.log_base(y, torch.ones_like(mu)) - half)

    def encode(self, y: Tensor, trials: "Tensor | None" = None,
               event: "Tensor | None" = None) -> tuple[Tensor, "Tensor | None"]:
        """The response the formulas above take, and the factor its prior weight gains (or None).

        Raises `ValueError` where `trials` or `event` has no meaning for the family.
        """
        if trials is not None:
            raise ValueError(f"trials= is for the Binomial family, got it with {self.name}. Remove it.")
        if event is not None:
            raise ValueError(f"event= is for the Exponential family, got it with {self.name}. Remove it.")
        return y, None

    def score_and_weight(self, y: Tensor, eta: Tensor, mu: Tensor, link: Link,
                         observed: "Tensor | bool") -> tuple[Tensor, Tensor]:
        """`dl/deta` and `-d2l/deta2` per row, for `phi = w = 1`.

        The second is the expected information, or where `observed` is true the observed one
        `d h - (y - mu) h'`, `h = (dmu/deta) / V`, from the relative slopes of link and variance.
        """
        slope = link.inverse_deriv(eta)
        ratio = self.slope_over_variance(slope, mu)
        score = (y - mu) * ratio
        weight = slope * ratio
        if not self.is_canonical(link) and _any(observed):
            bend = link.inverse_curvature(eta) - slope * self.variance_log_deriv(mu)
            weight = torch.where(_as_mask(observed, weight), weight - score * bend, weight)
        return score, weight

    def is_canonical(self, link: Link) -> bool:
        """True where observed and expected information are known to be the same for this link."""
        return link.name == self.canonical_name

    def slope_over_variance(self, slope: Tensor, mu: Tensor) -> Tensor:
        """`(dmu/deta) / V(mu)`, by ratios where `V` itself would underflow."""
        return slope / self.variance(mu)

    def half_deviance(self, y: Tensor, eta: Tensor, mu: Tensor, link: Link) -> Tensor:
        """`unit_deviance / 2` where both `eta` and `mu = link(eta)` are at hand."""
        return self.unit_deviance(y, mu) / 2

    def with_parameters(self, values: "dict[str, Tensor]") -> "Family":
        """A copy of the family with these values of its shape parameters, by name."""
        other = copy.deepcopy(self)
        for name, value in values.items():
            learned = getattr(self, name).requires_grad
            setattr(other, name, nn.Parameter(value.detach().clone(), requires_grad=learned))
        return other

    def valid_mean(self, mu: Tensor) -> Tensor:
        """True where a fitted mean lies inside the family's range."""
        return (mu > self.mean_lower) & (mu < self.mean_upper)

    @property
    def estimates_shape(self) -> bool:
        """True where a shape parameter of the family is learned from the data."""
        return any(parameter.requires_grad for parameter in self.parameters())


class Gaussian(Family):
    """Normal errors: `V = 1`. The identity link makes least squares."""

    name = "gaussian"
    canonical_name = "identity"
    support = constraints.real
    support_text = "finite y"
    mean_lower = -math.inf

    @property
    def canonical_link(self) -> Link:
        return links.Identity()

    def variance(self, mu: Tensor) -> Tensor:
        return torch.ones_like(mu)

    def variance_log_deriv(self, mu: Tensor) -> Tensor:
        return torch.zeros_like(mu)

    def theta(self, mu: Tensor) -> Tensor:
        return mu

    def cumulant(self, theta: Tensor) -> Tensor:
        return theta.square() / 2

    def unit_deviance(self, y: Tensor, mu: Tensor) -> Tensor:
        return (y - mu).square()

    def nll(self, y: Tensor, eta: Tensor, link: Link) -> Tensor:
        return (y - link(eta)).square() / 2

    def nll_saturated(self, y: Tensor) -> Tensor:
        return torch.zeros_like(y)

    def log_base(self, y: Tensor, dispersion: Tensor) -> Tensor:
        return -0.5 * torch.log(2 * math.pi * dispersion) + torch.zeros_like(y)

    def initial_mean(self, y: Tensor, weight: Tensor) -> Tensor:
        return y

    def distribution(self, mu: Tensor, dispersion: "Tensor | float" = 1.0) -> distributions.Distribution:
        return distributions.Normal(mu, _like(dispersion, mu).sqrt())


class _Proportion(Family):
    """What Bernoulli and Binomial share: `V = mu (1 - mu)` on proportions of `w` trials."""

    canonical_name = "logit"
    has_dispersion = False
    support = constraints.unit_interval
    mean_upper = 1.0

    @property
    def canonical_link(self) -> Link:
        return links.Logit()

    def variance(self, mu: Tensor) -> Tensor:
        return mu * (1 - mu)

    def variance_log_deriv(self, mu: Tensor) -> Tensor:
        return 1 / mu - 1 / (1 - mu)

    def theta(self, mu: Tensor) -> Tensor:
        return torch.logit(mu)

    def cumulant(self, theta: Tensor) -> Tensor:
        return nn.functional.softplus(theta, threshold=40)

    def unit_deviance(self, y: Tensor, mu: Tensor) -> Tensor:
        return 2 * (special.kl_div(y, mu) + special.kl_div(1 - y, 1 - mu))

    def nll(self, y: Tensor, eta: Tensor, link: Link) -> Tensor:
        return -_product(y, link.log_inverse(eta)) - _product(1 - y, link.log_complement(eta))

    def nll_saturated(self, y: Tensor) -> Tensor:
        return torch.special.entr(y) + torch.special.entr(1 - y)

    def half_deviance(self, y: Tensor, eta: Tensor, mu: Tensor, link: Link) -> Tensor:
        # logarithms of the means from eta: exact where mu rounds to 0 or 1; kl_div where y and mu are close
        far = self.nll(y, eta, link) - self.nll_saturated(y)
        inside = (y > 0) & (y < 1) & (mu > 0) & (mu < 1)
        if not inside.any():
            return far
        safe = torch.where(inside, mu, 0.5)
        return torch.where(inside, special.kl_div(y, safe) + special.kl_div(1 - y, 1 - safe), far)

    def score_and_weight(self, y: Tensor, eta: Tensor, mu: Tensor, link: Link,
                         observed: "Tensor | bool") -> tuple[Tensor, Tensor]:
        if link.name == "logit":
            other = torch.sigmoid(-eta)  # 1 - mu, without rounding at the upper end
            return y * other - (1 - y) * mu, mu * other
        log_slope = link.log_inverse_deriv(eta)
        up = torch.exp(log_slope - link.log_inverse(eta))  # d log mu / d eta
        down = torch.exp(log_slope - link.log_complement(eta))  # -d log(1 - mu) / d eta
        success, failure = _product(y, up), _product(1 - y, down)
        weight = torch.exp(2 * log_slope - link.log_inverse(eta) - link.log_complement(eta))
        if _any(observed):
            bend = link.inverse_curvature(eta)
            seen = _product(success, up - bend) + _product(failure, down + bend)
            weight = torch.where(_as_mask(observed, weight), seen, weight)
        return success - failure, weight

    def valid_mean(self, mu: Tensor) -> Tensor:
        return (mu >= 0) & (mu <= 1)  # links that saturate round to the ends

    def log_base(self, y: Tensor, dispersion: Tensor) -> Tensor:
        trials = 1 / dispersion
        remainder = special.log_factorial_remainder
        # 1 - y rounds; the failures are what is left of the trials
        return remainder(trials) - remainder(trials * y) - remainder((trials - trials * y).clamp(min=0))

    def log_prob(self, y: Tensor, mu: Tensor, dispersion: "Tensor | float" = 1.0,
                 weight: "Tensor | float" = 1.0) -> Tensor:
        """The log-probability of `w y` successes in `w` trials, the binomial coefficient included."""
        trials = _like(weight, mu)
        coefficient = self.log_base(y, 1 / torch.where(trials > 0, trials, 1.0))
        return torch.where(trials > 0, coefficient - trials * self.unit_deviance(y, mu) / 2, 0.0)

    def initial_mean(self, y: Tensor, weight: Tensor) -> Tensor:
        return (weight * y + 0.5) / (weight + 1)


class Bernoulli(_Proportion):
    """A yes or no: `y` in {0, 1} (values between are taken as proportions). The logit makes logistic regression."""

    name = "bernoulli"
    support_text = "0 <= y <= 1"

    def distribution(self, mu: Tensor, dispersion: "Tensor | float" = 1.0) -> distributions.Distribution:
        return distributions.Bernoulli(probs=mu)


class Binomial(_Proportion):
    """Successes out of `trials`: `y` in counts with `trials=`, or proportions where the weights are the trials."""

    name = "binomial"
    support_text = "0 <= y <= trials (y is a count where trials= is given, else a proportion)"

    def encode(self, y: Tensor, trials: "Tensor | None" = None,
               event: "Tensor | None" = None) -> tuple[Tensor, "Tensor | None"]:
        if event is not None:
            raise ValueError("event= is for the Exponential family, got it with binomial. Remove it.")
        if trials is None:
            return y, None
        if not bool(((trials >= 0) & torch.isfinite(trials)).all()):
            raise ValueError("trials must be finite and >= 0. Correct or drop those rows.")
        if bool((y > trials * (1 + 1e-9)).any()):
            row = int((y > trials * (1 + 1e-9)).flatten().nonzero()[0])
            raise ValueError(f"Binomial needs y <= trials; row {row} has more successes than trials "
                             "(y is a count where trials= is given). Correct that row.")
        return torch.where(trials > 0, y / torch.where(trials > 0, trials, 1.0), 0.0).clamp(max=1.0), trials

    def distribution(self, mu: Tensor, dispersion: "Tensor | float" = 1.0) -> distributions.Distribution:
        """Counts out of `1 / dispersion` trials of probability `mu`."""
        return distributions.Binomial(total_count=(1 / _like(dispersion, mu)).round(), probs=mu)


class Poisson(Family):
    """Counts: `V = mu`. The log link makes rates that multiply."""

    name = "poisson"
    canonical_name = "log"
    has_dispersion = False
    support = constraints.nonnegative
    support_text = "y >= 0"

    @property
    def canonical_link(self) -> Link:
        return links.Log()

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

    def nll(self, y: Tensor, eta: Tensor, link: Link) -> Tensor:
        return link(eta) - _product(y, link.log_inverse(eta))

    def nll_saturated(self, y: Tensor) -> Tensor:
        return y - torch.xlogy(y, y)

    def log_base(self, y: Tensor, dispersion: Tensor) -> Tensor:
        return -special.log_factorial_remainder(y)

    def initial_mean(self, y: Tensor, weight: Tensor) -> Tensor:
        return y + 0.1

    def distribution(self, mu: Tensor, dispersion: "Tensor | float" = 1.0) -> distributions.Distribution:
        return distributions.Poisson(mu)


class Gamma(Family):
    """Positive and skewed, constant coefficient of variation: `V = mu^2`; the shape is `1 / phi`."""

    name = "gamma"
    canonical_name = "inverse"
    support = constraints.positive
    support_text = "y > 0"

    @property
    def canonical_link(self) -> Link:
        return links.Inverse()

    def variance(self, mu: Tensor) -> Tensor:
        return mu.square()

    def variance_log_deriv(self, mu: Tensor) -> Tensor:
        return 2 / mu

    def theta(self, mu: Tensor) -> Tensor:
        return -1 / mu

    def cumulant(self, theta: Tensor) -> Tensor:
        return -torch.log(-theta)

    def unit_deviance(self, y: Tensor, mu: Tensor) -> Tensor:
        return -2 * _log_less_excess(y, mu)

    def nll(self, y: Tensor, eta: Tensor, link: Link) -> Tensor:
        log_mean = link.log_inverse(eta)
        return y * torch.exp(-log_mean) + log_mean

    def nll_saturated(self, y: Tensor) -> Tensor:
        return 1 + y.log()

    def log_base(self, y: Tensor, dispersion: Tensor) -> Tensor:
        return -0.5 * torch.log(2 * math.pi * dispersion) - y.log() - special.stirling_remainder(1 / dispersion)

    def slope_over_variance(self, slope: Tensor, mu: Tensor) -> Tensor:
        return slope / mu / mu

    def initial_mean(self, y: Tensor, weight: Tensor) -> Tensor:
        return y

    def distribution(self, mu: Tensor, dispersion: "Tensor | float" = 1.0) -> distributions.Distribution:
        shape = 1 / _like(dispersion, mu)
        return distributions.Gamma(shape, shape / mu)


class Exponential(Family):
    """Time to an event at a constant rate, right-censored where `event` is 0: `l = -event log mu - t / mu`.

    A censored time is encoded as `-t` (the sign is free, times being positive). The default link is the log,
    so that effects multiply the expected time.
    """

    name = "exponential"
    has_dispersion = False
    signed = True
    support = constraints.positive
    support_text = "y > 0"

    @property
    def canonical_link(self) -> Link:
        return links.Inverse()

    @property
    def default_link(self) -> Link:
        return links.Log()

    def encode(self, y: Tensor, trials: "Tensor | None" = None,
               event: "Tensor | None" = None) -> tuple[Tensor, "Tensor | None"]:
        if trials is not None:
            raise ValueError("trials= is for the Binomial family, got it with exponential. Remove it.")
        if event is None:
            return y, None
        if not bool(((event == 0) | (event == 1)).all()):
            raise ValueError("event must be 1 (the event was seen) or 0 (censored). Recode the column.")
        return torch.where(event.bool(), y, -y), None

    def variance(self, mu: Tensor) -> Tensor:
        return mu.square()

    def variance_log_deriv(self, mu: Tensor) -> Tensor:
        return 2 / mu

    def theta(self, mu: Tensor) -> Tensor:
        return -1 / mu

    def cumulant(self, theta: Tensor) -> Tensor:
        return -torch.log(-theta)

    def unit_deviance(self, y: Tensor, mu: Tensor) -> Tensor:
        censored = y <= 0
        seen = -2 * _log_less_excess(torch.where(censored, mu, y), mu)
        return torch.where(censored, -2 * y / mu, seen)

    def nll(self, y: Tensor, eta: Tensor, link: Link) -> Tensor:
        log_mean = link.log_inverse(eta)
        return y.abs() * torch.exp(-log_mean) + torch.where(y > 0, log_mean, 0.0)

    def nll_saturated(self, y: Tensor) -> Tensor:
        return torch.where(y > 0, 1 + y.clamp(min=torch.finfo(y.dtype).tiny).log(), 0.0)

    def score_and_weight(self, y: Tensor, eta: Tensor, mu: Tensor, link: Link,
                         observed: "Tensor | bool") -> tuple[Tensor, Tensor]:
        relative = link.inverse_deriv(eta) / mu  # d log mu / d eta
        ratio, seen = y.abs() / mu, (y > 0).to(mu.dtype)
        score = (ratio - seen) * relative
        weight = relative.square() * torch.where(y > 0, 1.0, ratio)
        if _any(observed):
            bend = link.inverse_curvature(eta)
            exact_weight = relative * (seen * (bend - relative) - ratio * (bend - 2 * relative))
            weight = torch.where(_as_mask(observed, weight), exact_weight, weight)
        return score, weight

    def log_base(self, y: Tensor, dispersion: Tensor) -> Tensor:
        return -self.nll_saturated(y)

    def initial_mean(self, y: Tensor, weight: Tensor) -> Tensor:
        return y.abs()

    def distribution(self, mu: Tensor, dispersion: "Tensor | float" = 1.0) -> distributions.Distribution:
        return distributions.Exponential(1 / mu)


class InverseGaussian(Family):
    """Positive with a heavy right tail (first passage times): `V = mu^3`."""

    name = "inverse_gaussian"
    canonical_name = "inverse_squared"
    support = constraints.positive
    support_text = "y > 0"

    @property
    def canonical_link(self) -> Link:
        return links.InverseSquared()

    def variance(self, mu: Tensor) -> Tensor:
        return mu.pow(3)

    def variance_log_deriv(self, mu: Tensor) -> Tensor:
        return 3 / mu

    def theta(self, mu: Tensor) -> Tensor:
        return -0.5 / mu.square()

    def cumulant(self, theta: Tensor) -> Tensor:
        return -torch.sqrt(-2 * theta)

    def unit_deviance(self, y: Tensor, mu: Tensor) -> Tensor:
        return ((y - mu) / mu).square() / y

    def nll(self, y: Tensor, eta: Tensor, link: Link) -> Tensor:
        inverse = torch.exp(-link.log_inverse(eta))
        return (y * inverse - 1).square() / (2 * y)

    def nll_saturated(self, y: Tensor) -> Tensor:
        return torch.zeros_like(y)

    def log_base(self, y: Tensor, dispersion: Tensor) -> Tensor:
        return -0.5 * (torch.log(2 * math.pi * dispersion) + 3 * y.log())

    def slope_over_variance(self, slope: Tensor, mu: Tensor) -> Tensor:
        return slope / mu / mu / mu

    def initial_mean(self, y: Tensor, weight: Tensor) -> Tensor:
        return y

    def distribution(self, mu: Tensor, dispersion: "Tensor | float" = 1.0) -> distributions.Distribution:
        return exact.InverseGaussian(mu, _like(dispersion, mu))


class NegativeBinomial(Family):
    """Over-dispersed counts: `V = mu + alpha mu^2`; `alpha = 0` is Poisson, `theta = 1 / alpha`.

    `alpha=None` estimates it: it is then a parameter of the module that is learned with the rest (by maximum
    likelihood in `torchglm.fit`). Raises `ValueError` for `alpha < 0`.
    """

    name = "negative_binomial"
    has_dispersion = False
    support = constraints.nonnegative
    support_text = "y >= 0"

    def __init__(self, alpha: "float | Tensor | None" = None) -> None:
        super().__init__()
        value = torch.as_tensor(1.0 if alpha is None else alpha, dtype=torch.float64)
        if not bool((value >= 0).all()):
            raise ValueError(f"NegativeBinomial needs alpha >= 0, got {alpha}. alpha = 0 is Poisson.")
        self.log_alpha = nn.Parameter(value.log(), requires_grad=alpha is None)

    @property
    def alpha(self) -> Tensor:
        """The over-dispersion, shape `(*B)`."""
        return self.log_alpha.exp()

    def _alpha(self, mu: Tensor) -> Tensor:
        return _rows(self.alpha, mu)

    @property
    def canonical_link(self) -> Link:
        return _NegativeBinomialCanonical()

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
        alpha = self._alpha(theta)
        return -torch.log1p(-alpha * theta.exp()) / alpha

    def unit_deviance(self, y: Tensor, mu: Tensor) -> Tensor:
        return 2 * special.negative_binomial_half_deviance(y, mu, self._alpha(mu))

    def nll(self, y: Tensor, eta: Tensor, link: Link) -> Tensor:
        mu = link(eta)
        alpha = self._alpha(mu)
        return self._softened(y, alpha * mu, mu) - _product(y, link.log_inverse(eta))

    def nll_saturated(self, y: Tensor) -> Tensor:
        return self._softened(y, self._alpha(y) * y, y) - torch.xlogy(y, y)

    @staticmethod
    def _softened(y: Tensor, product: Tensor, mu: Tensor) -> Tensor:
        """`(y + 1/alpha) log(1 + alpha mu)` with its limit `mu` at `alpha = 0`."""
        log = torch.log1p(product)
        small = product < 1e-4 if product.dtype == torch.float64 else product < 1e-2
        series = 1 - product * (1 / 2 - product * (1 / 3 - product * (1 / 4 - product / 5)))
        return y * log + mu * torch.where(small, series, log / torch.where(small, 1.0, product))

    def log_base(self, y: Tensor, dispersion: Tensor) -> Tensor:
        mean = torch.where(y > 0, y, 1.0)
        at_mean = special.negative_binomial_log_prob(y, mean, self._alpha(y))
        return torch.where(y > 0, at_mean, 0.0)

    def initial_mean(self, y: Tensor, weight: Tensor) -> Tensor:
        return y + 0.1

    def distribution(self, mu: Tensor, dispersion: "Tensor | float" = 1.0) -> distributions.Distribution:
        return exact.NegativeBinomialMean(mu, self._alpha(mu).expand_as(mu))

    def extra_repr(self) -> str:
        return "alpha=estimated" if self.log_alpha.requires_grad else f"alpha={_text(self.alpha)}"


class Tweedie(Family):
    """`V = mu^power`. Between 1 and 2: exactly zero or positive, a Poisson sum of Gammas.

    The powers 0, 1, 2 and 3 are the Gaussian, (over-dispersed) Poisson, Gamma and inverse Gaussian families.
    `power=None` estimates a power in (1, 2): it is then a learned parameter of the module.
    Raises `ValueError` for a power in (0, 1), where no such family exists, or below 0.
    Source: Dunn & Smyth (2005), Series evaluation of Tweedie exponential dispersion model densities.
    """

    name = "tweedie"
    support = constraints.nonnegative

    def __init__(self, power: "float | None" = None) -> None:
        super().__init__()
        value = 1.5 if power is None else float(power)
        if not (value == 0 or value >= 1) or not math.isfinite(value):
            raise ValueError(f"Tweedie needs power 0 or >= 1, got {power}. Between 1 and 2 is the usual range.")
        self._limit: Family | None = _TWEEDIE_LIMITS[value]() if value in _TWEEDIE_LIMITS else None
        self._fixed = None if 1 < value < 2 else value
        self.canonical_name = "" if self._limit is None else self._limit.canonical_name
        raw = torch.tensor(value - 1 if 1 < value < 2 else 0.5, dtype=torch.float64).logit()
        self.raw_power = nn.Parameter(raw, requires_grad=power is None)
        self.support = constraints.real if value == 0 else (
            constraints.positive if value >= 2 else constraints.nonnegative)
        self.support_text = "finite y" if value == 0 else ("y > 0" if value >= 2 else "y >= 0")
        self.mean_lower = -math.inf if value == 0 else 0.0

    @property
    def power(self) -> Tensor:
        """The variance power, shape `(*B)`."""
        if self._fixed is not None:
            return torch.full_like(self.raw_power, self._fixed)
        return 1 + self.raw_power.sigmoid()

    def _power(self, mu: Tensor) -> Tensor:
        return _rows(self.power, mu)

    @property
    def canonical_link(self) -> Link:
        if self._limit is not None:
            return self._limit.canonical_link
        return links.Power(1 - float(self.power.mean()))

    @property
    def default_link(self) -> Link:
        return links.Log()

    def variance(self, mu: Tensor) -> Tensor:
        return mu.pow(self._power(mu))

    def variance_log_deriv(self, mu: Tensor) -> Tensor:
        return self._power(mu) / mu

    def theta(self, mu: Tensor) -> Tensor:
        if self._limit is not None:
            return self._limit.theta(mu)
        p = self._power(mu)
        return mu.pow(1 - p) / (1 - p)

    def cumulant(self, theta: Tensor) -> Tensor:
        if self._limit is not None:
            return self._limit.cumulant(theta)
        p = self._power(theta)
        return ((1 - p) * theta).pow((2 - p) / (1 - p)) / (2 - p)

    def unit_deviance(self, y: Tensor, mu: Tensor) -> Tensor:
        if self._limit is not None:
            return self._limit.unit_deviance(y, mu)
        p = self._power(mu)
        q = 2 - p
        zero = y <= 0
        t = torch.log(torch.where(zero, mu, y) / mu)
        # (r^q - 1) - q (r - 1) with r = exp(t), as two terms of second order
        bracket = q * _minus_expm1_excess(t) - _minus_expm1_excess(q * t)
        return 2 * mu.pow(q) * torch.where(zero, 1 / q, bracket / (q * (q - 1)))

    def nll(self, y: Tensor, eta: Tensor, link: Link) -> Tensor:
        if self._limit is not None:
            return self._limit.nll(y, eta, link)
        log_mean = link.log_inverse(eta)
        p = self._power(log_mean)
        return torch.exp((2 - p) * log_mean) / (2 - p) - y * torch.exp((1 - p) * log_mean) / (1 - p)

    def nll_saturated(self, y: Tensor) -> Tensor:
        if self._limit is not None:
            return self._limit.nll_saturated(y)
        p = self._power(y)
        return -y.pow(2 - p) / ((1 - p) * (2 - p))

    def log_base(self, y: Tensor, dispersion: Tensor) -> Tensor:
        if self._limit is not None and self._fixed == 1:
            return self._limit.log_base(y / dispersion, torch.ones_like(y))
        if self._limit is not None:
            return self._limit.log_base(y, dispersion)
        mean = torch.where(y > 0, y, 1.0)
        at_mean = special.tweedie_log_prob(mean, mean, dispersion, self._power(y))
        return torch.where(y > 0, at_mean, 0.0)

    def slope_over_variance(self, slope: Tensor, mu: Tensor) -> Tensor:
        return slope / mu * mu.pow(1 - self._power(mu))

    def initial_mean(self, y: Tensor, weight: Tensor) -> Tensor:
        return torch.where(y == 0, 0.1, y)

    def distribution(self, mu: Tensor, dispersion: "Tensor | float" = 1.0) -> distributions.Distribution:
        if self._limit is not None:
            return self._limit.distribution(mu, dispersion)
        return exact.Tweedie(mu, _like(dispersion, mu), self._power(mu))

    def extra_repr(self) -> str:
        return "power=estimated" if self.raw_power.requires_grad else f"power={_text(self.power)}"


class _NegativeBinomialCanonical(Link):
    """Names the canonical link of the negative binomial, which is not offered: it ties `alpha` to `eta`."""

    name = "negative_binomial_canonical"


def _like(value: "Tensor | float", mu: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=mu.dtype, device=mu.device)


def _rows(parameter: Tensor, mu: Tensor) -> Tensor:
    """A shape parameter `(*B)` beside rows `(*B, n)`, in their dtype."""
    value = parameter.to(mu.dtype)
    return value.unsqueeze(-1) if value.dim() else value


def _product(a: Tensor, b: Tensor) -> Tensor:
    """`a b`, and 0 where `a` is 0 though `b` is infinite."""
    return torch.where(a == 0, 0.0, a * torch.where(a == 0, 0.0, b))


def _log_less_excess(y: Tensor, mu: Tensor) -> Tensor:
    """`log(y / mu) - (y - mu) / mu`, without cancellation where they are close nor rounding where they are far."""
    excess = (y - mu) / mu
    return excess * special.log_one_plus_minus_over(excess, torch.log(y / mu))


def _minus_expm1_excess(t: Tensor) -> Tensor:
    """`t - (exp(t) - 1)`, without cancellation."""
    excess = torch.expm1(t)
    return excess * special.log_one_plus_minus_over(excess, t)


def _any(observed: "Tensor | bool") -> bool:
    return observed if isinstance(observed, bool) else bool(observed.any())


def _as_mask(observed: "Tensor | bool", like: Tensor) -> Tensor:
    return torch.as_tensor(observed, device=like.device)


def _text(value: Tensor) -> str:
    return f"{float(value):.6g}" if value.dim() == 0 else f"tensor{tuple(value.shape)}"


_TWEEDIE_LIMITS: dict[float, type[Family]] = {0.0: Gaussian, 1.0: Poisson, 2.0: Gamma, 3.0: InverseGaussian}
_BY_NAME: dict[str, type[Family]] = {family.name: family for family in (
    Gaussian, Bernoulli, Binomial, Poisson, Gamma, Exponential, InverseGaussian, NegativeBinomial, Tweedie)}
_BY_NAME["normal"] = Gaussian


def names() -> list[str]:
    """The names that `get` knows."""
    return list(_BY_NAME)


def get(family: "str | Family", **arguments: float) -> Family:
    """The family of that name with those arguments, or the family itself; `ValueError` for an unknown name."""
    if isinstance(family, Family):
        return family
    if family not in _BY_NAME:
        raise ValueError(f"unknown family {family!r}. Known: {', '.join(_BY_NAME)}.")
    return _BY_NAME[family](**arguments)
