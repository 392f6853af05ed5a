"""The contract of a family; the families themselves are grouped by what they model in the files beside this one."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor, distributions, nn
from torch.distributions import constraints
from torch.func import jvp

from torchglm.families.numerics import any_observed, like, mask
from torchglm.families.row_error import refuse
from torchglm.links import Link
from torchglm.links.inheritance import check_name, renounce
from torchglm.rows.responses import Response, size_of
from torchglm.writing.answering import answering_init
from torchglm.writing.short import Short

# what a subclass with formulas of its own does not take from its parent, ingredients first: see `renounce`
MADE_OF = {
    "variance_log_deriv": ("variance",),
    "slope_over_variance": ("variance",),
    "theta": ("variance",),
    "cumulant": ("variance",),
    "unit_deviance": ("variance",),
    "nll": ("variance",),
    "nll_saturated": ("variance",),
    "log_base": ("variance",),
    "base_and_slope": ("variance", "log_base"),
    "log_constant": ("variance", "nll", "nll_saturated", "log_base"),
    "shape_slopes": ("variance", "unit_deviance", "log_base"),
    "first_mean": ("initial_mean",),
    "crps": ("variance", "log_base"),
    "distribution": ("variance", "log_base"),
    "law": ("distribution",),
    "log_prob": ("variance", "unit_deviance", "log_base"),
    "half_deviance": ("unit_deviance", "nll"),
    "cheap": ("unit_deviance", "nll", "half_deviance", "cumulant"),
    "canonical": ("variance", "score_and_weight"),  # a score that is written anew, not one that is renounced below
    "score_and_weight": ("variance", "unit_deviance", "nll", "variance_log_deriv", "slope_over_variance"),
    "constant_information": ("variance", "score_and_weight"),
    "least_squares": ("unit_deviance", "nll"),
    "nll_and_slope": ("variance", "nll", "score_and_weight"),
    "density_and_slopes": ("variance", "nll", "score_and_weight", "log_constant"),
    "dispersed_and_slopes": ("variance", "nll", "score_and_weight", "log_base"),
}


MODULE = vars(nn.Module()).keys()  # what every module has


@answering_init
class Family(nn.Module, metaclass=Short):
    """The contract of a family; every method works elementwise on tensors that broadcast.

    `y` is the response as `encode` leaves it, `mu > 0` the mean in the family's range, `eta` the linear
    predictor. Shapes are free; a shape parameter with batch dimensions `(*B)` meets rows `(*B, n)`.

    A family is what its class is: a name is for people, and a subclass has one of its own (else `TypeError`). Of its
    parent it keeps the formulas that its own bear out: one with another `variance` writes `unit_deviance`, `nll`,
    `nll_saturated` and `log_base` as well, and has the general score.
    Source: McCullagh & Nelder (1989), Generalized Linear Models, section 2.2; Jorgensen (1997), The Theory of
    Dispersion Models.
    """

    name: str
    has_dispersion: bool = True
    support: constraints.Constraint
    support_text: str
    canonical: type[Link] | None = None  # whose observed and expected information are the same
    least_squares: bool = False  # True where the unit deviance is (y - mu)^2
    advice: str = "or choose a family that allows it"  # where a response lies outside the support
    mean_text: str = "expected response"  # what the mean is called in a sentence
    ratio_text: str = "ratio of means"  # and what exp(coef) is, where it multiplies the mean
    mean_lower: float = 0.0
    mean_upper: float = math.inf
    _constants: tuple[str, ...] = ()  # shape parameters that are buffers
    durations: bool = False  # times to an event, which may be censored: `y` is then a tensor or `Times`

    def __dir__(self) -> list[str]:
        """Its own names, without those of every module."""
        return sorted({*super().__dir__()} - {*dir(nn.Module())})

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        renounce(cls, Family, MADE_OF)
        answering_init(cls)

    def __init__(self) -> None:
        check_name(type(self))
        super().__init__()

    @property
    def said(self) -> str:
        """Its name in a message, which is that of the family that a wrapper of several predictors was made of."""
        return self.name

    @property
    def canonical_link(self) -> Link:
        """The link for which `theta` is linear in `eta`: Newton's method and Fisher scoring are then one.

        Raises `ValueError` where the class names none.
        """
        if self.canonical is None:
            raise ValueError(
                f"the family {self.name} names no canonical link. Pass link=, or write default_link in its class."
            )
        return self.canonical()

    @property
    def default_link(self) -> Link:
        """The link used where none is named: the canonical one unless the class says otherwise."""
        return self.canonical_link

    @property
    def head_link(self) -> Link:
        """The link that a head takes where none is named: one that reaches no edge, whatever a network puts out."""
        return self.default_link

    def variance(self, mu: Tensor) -> Tensor:
        """The variance function `V(mu) = b''(theta)`: `Var(y) = phi V(mu) / w`."""
        self._unsaid("variance")

    def variance_log_deriv(self, mu: Tensor) -> Tensor:
        """`V'(mu) / V(mu)`."""
        pair = jvp(self.variance, (mu,), (torch.ones_like(mu),))
        return pair[1] / pair[0]

    def theta(self, mu: Tensor) -> Tensor:
        """The canonical parameter of a mean."""
        self._unsaid("theta")

    def cumulant(self, theta: Tensor) -> Tensor:
        """The cumulant function `b(theta)`: `b' = mu`, `b'' = V(mu)`."""
        self._unsaid("cumulant")

    def unit_deviance(self, y: Response, mu: Tensor) -> Tensor:
        """`d(y, mu) = 2 (loglik at mu = y minus loglik at mu)` for `phi = w = 1`: zero only at `y = mu`."""
        self._unsaid("unit_deviance")

    def nll(self, y: Response, eta: Tensor, link: Link) -> Tensor:
        """`b(theta) - y theta` from `eta`, finite in the tails of every dtype.

        The negative log-density for `phi = w = 1` less the terms that depend on `y` alone (see
        `nll_saturated` and `log_base`, which hold them).
        """
        self._unsaid("nll")

    def nll_and_slope(self, y: Response, eta: Tensor, link: Link) -> tuple[Tensor, Tensor] | None:
        """`nll` and its derivative by `eta` where a class writes them for the link, for `eta` between -30 and 30."""
        return None

    def density_and_slopes(self, y: Response, eta: Tensor, link: Link) -> tuple[Tensor, Tensor, Tensor] | None:
        """`nll - log_constant`, its derivative by `eta`, and by the one parameter of a family that learns a shape.

        As `nll_and_slope`, and None as well where the shape or the responses are such that the formulas lose digits.
        """
        return None

    def dispersed_and_slopes(
        self, y: Response, eta: Tensor, link: Link, log_dispersion: Tensor
    ) -> tuple[Tensor, ...] | None:
        """Minus the log-density at one dispersion, its derivatives by `eta`, `log phi` and shapes that are learned.

        As `nll_and_slope`, and None as well where the formulas lose digits.
        """
        known = None if self.estimates_shape else self.nll_and_slope(y, eta, link)
        base = None if known is None else self.base_and_slope(y, log_dispersion)
        if known is None or base is None:
            return None
        precision = torch.exp(-log_dispersion)
        scaled = (known[0] - self.nll_saturated(y)).mul_(precision)
        return scaled - base[0], known[1] * precision, scaled.add_(base[1]).neg_()

    def nll_saturated(self, y: Response) -> Tensor:
        """`nll` at `mu = y`, so that `nll - nll_saturated = unit_deviance / 2`."""
        self._unsaid("nll_saturated")

    def log_base(self, y: Response, dispersion: Tensor) -> Tensor:
        """The log-density at `mu = y`; `dispersion` is `phi / w`."""
        self._unsaid("log_base")

    def base_slopes(self, y: Response, log_dispersion: Tensor) -> tuple[Tensor, Tensor]:
        """The first and second derivative of `log_base(y, phi)` by `log phi`."""

        def slope(at: Tensor) -> Tensor:
            return jvp(lambda value: self.log_base(y, value.exp()), (at,), (torch.ones_like(at),))[1]

        first, second = jvp(slope, (log_dispersion,), (torch.ones_like(log_dispersion),))[:2]
        return first, second

    def base_and_slope(self, y: Response, log_dispersion: Tensor) -> tuple[Tensor, Tensor] | None:
        """`log_base(y, phi)` and its derivative by `log phi` where a class has a short way to both."""
        return None

    def shape_slopes(self, y: Response, mu: Tensor) -> tuple[Tensor, Tensor]:
        """The first and second derivative of the log-density by the logarithm of a family's one shape parameter."""
        self._unsaid("shape_slopes")

    def initial_mean(self, y: Response, weight: Tensor) -> Tensor:
        """A mean for each row from which the first step of IRLS is taken, inside the family's range."""
        self._unsaid("initial_mean")

    def first_mean(self, y: Response, weight: Tensor, offset: Tensor | None, link: Link) -> Tensor:
        """`initial_mean`, or one that knows of the offset (None for none) and of the other rows beside it."""
        return self.initial_mean(y, weight)

    def distribution(self, mu: Tensor, dispersion: Tensor | float = 1.0) -> distributions.Distribution:
        """The distribution of `y` as an object that can be sampled."""
        self._unsaid("distribution")

    def law(self, eta: Tensor, link: Link, dispersion: Tensor | float = 1.0) -> distributions.Distribution:
        """`distribution` from the linear predictor, exact where the mean rounds to the end of its range."""
        return self.distribution(link(eta), dispersion)

    def log_constant(self, y: Response) -> Tensor:
        """`log f(y) + nll(y, eta)`, which no mean moves: what a loss lacks of a density with `phi = w = 1`."""
        return self.nll_saturated(y) + self.log_base(y, torch.ones_like(size_of(y)))

    def crps(self, y: Response, mu: Tensor, dispersion: Tensor) -> Tensor:
        """The continuous ranked probability score of `distribution(mu, dispersion)` at what `y` stands for there.

        `integral (F(x) - 1{y <= x})^2 dx`; raises `ValueError` where no closed form is known.
        """
        raise ValueError(f"CRPS has no closed form for {self.name}. Use log_prob.")

    def log_prob(
        self, y: Response, mu: Tensor, dispersion: Tensor | float = 1.0, weight: Tensor | float = 1.0
    ) -> Tensor:
        """The fully normalised log-density, `-w d / (2 phi) + log_base(y, phi / w)`.

        Prior weights divide the dispersion; where there is none (`has_dispersion` is False) they multiply the
        log-density, as repeats do. A row of weight zero counts as dropped: 0.
        """
        phi, w = like(dispersion, mu), like(weight, mu)
        half = self.unit_deviance(y, mu) / 2
        if self.has_dispersion:
            density = self.log_base(y, phi / torch.where(w > 0, w, 1.0)) - half * w / phi
        else:
            density = w * (self.log_base(y, torch.ones_like(mu)) - half)
        return torch.where(w == 0, 0.0, density)

    def encode(
        self,
        y: Tensor,
        trials: Tensor | None = None,
        event: Tensor | None = None,
        until: Tensor | None = None,
    ) -> tuple[Response, Tensor | None]:
        """The response the formulas above take, and the factor its prior weight gains (or None).

        Raises `ValueError` where `trials`, `event` or `until` has no meaning for the family.
        """
        refuse(self.name, trials=trials, event=event, until=until)
        return y, None

    def supports(self, y: Response) -> Tensor:
        """True where a response lies in the support of the family."""
        return self.support.check(y)

    def score_and_weight(
        self, y: Response, eta: Tensor, mu: Tensor, link: Link, observed: Tensor | bool
    ) -> tuple[Tensor, Tensor]:
        """`dl/deta` and `-d2l/deta2` per row, for `phi = w = 1`.

        The second is the expected information, or where `observed` is true the observed one
        `d h - (y - mu) h'`, `h = (dmu/deta) / V`, from the relative slopes of link and variance.
        """
        if self.durations:
            self._unsaid("score_and_weight")
        slope = link.inverse_deriv(eta)
        ratio = self.slope_over_variance(slope, mu)
        score = (y - mu) * ratio
        weight = slope * ratio
        if not self.is_canonical(link) and any_observed(observed):
            bend = link.inverse_curvature(eta) - slope * self.variance_log_deriv(mu)
            weight = torch.where(mask(observed, weight), weight - score * bend, weight)
        return score, weight

    def is_canonical(self, link: Link) -> bool:
        """True where observed and expected information are known to be the same for this link."""
        return type(link) is self.canonical

    def constant_information(self, link: Link) -> bool:
        """True where the expected information of a row is known to be the same at every mean for this link."""
        return False

    def slope_over_variance(self, slope: Tensor, mu: Tensor) -> Tensor:
        """`(dmu/deta) / V(mu)`, by ratios where `V` itself would underflow."""
        return slope / self.variance(mu)

    def half_deviance(self, y: Response, eta: Tensor, mu: Tensor, link: Link) -> Tensor:
        """`unit_deviance / 2` where both `eta` and `mu = link(eta)` are at hand."""
        return self.unit_deviance(y, mu) / 2

    def cheap(
        self, y: Response, eta: Tensor, mu: Tensor, link: Link, relative: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """What a search compares: `half_deviance` up to rounding of the terms it is the difference of, and their size.

        The size is None where no digit is lost. `relative` leaves out what depends on `y` alone: `nll`, without a size.
        """
        return self.nll(y, eta, link) if relative else self.half_deviance(y, eta, mu, link), None

    def _unsaid(self, formula: str) -> NoReturn:
        parents = [
            base.__name__
            for base in type(self).__mro__[1:]
            if issubclass(base, Family) and getattr(base, formula) is not getattr(Family, formula)
        ]
        why = f", and that of {parents[0]} does not hold beside its other formulas" if parents else ""
        raise NotImplementedError(f"{type(self).__name__} does not say its {formula}{why}. Write it in the class.")

    def arguments(self) -> dict[str, float]:
        """What the class is called with to make one like this, but for parameters and buffers."""
        return {}

    @property
    def shapes(self) -> dict[str, Tensor]:
        """The shape parameters by name: those that are learned, and those that `fixed` made constants."""
        return dict(self.named_parameters()) | {name: getattr(self, name) for name in self._constants}

    def settled(self) -> Family:
        """A copy whose shape parameters are learned no more; the family itself where it has nothing of its own."""
        return copy.deepcopy(self).requires_grad_(False) if vars(self).keys() - MODULE or self.shapes else self

    def fixed(self) -> Family:
        """A copy whose shape parameters that are not learned are constants, which no optimizer is handed."""
        other = copy.deepcopy(self)
        for name, value in list(other.named_parameters()):
            if not value.requires_grad:
                delattr(other, name)
                other.register_buffer(name, value.detach())
                other._constants = (*other._constants, name)
        return other

    def with_parameters(self, values: dict[str, Tensor]) -> Family:
        """A copy of the family with these values of its shape parameters, by name."""
        other = copy.deepcopy(self)
        for name, value in values.items():
            learned = getattr(self, name).requires_grad
            setattr(other, name, nn.Parameter(value.detach().clone(), requires_grad=learned))
        other._constants = tuple(name for name in other._constants if name not in values)
        return other

    @property
    def inner_mean(self) -> float:
        """A mean well inside the family's range."""
        return 0.5 if self.mean_upper == 1.0 else 1.0

    def valid_mean(self, mu: Tensor) -> Tensor:
        """True where a fitted mean lies inside the family's range."""
        return (mu > self.mean_lower) & (mu < self.mean_upper)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Family:
        """Follow the head to a device or dtype; shape parameters stay float32 at least, as the arithmetic does."""

        def move(value: Tensor) -> Tensor:
            moved = fn(value)
            narrow = torch.finfo(moved.dtype).bits < 32
            return value.to(device=moved.device, dtype=torch.float32) if narrow else moved

        return super()._apply(move, recurse)

    @property
    def estimates_shape(self) -> bool:
        """True where a shape parameter of the family is learned from the data."""
        if not self._parameters and not self._modules:  # a walk over none takes a hundredth of a small fit
            return False
        return any(parameter.requires_grad for parameter in self.parameters())
