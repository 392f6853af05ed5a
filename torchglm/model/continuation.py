"""The loss of a head beyond the range of its link: finite, rising, and the same as before inside.

A network may put out any `eta`. Where the mean it stands for is no mean (the identity link below 0), or where `exp`
overflows, the negative log-likelihood goes on along its tangent, so that a gradient always leads back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.func import functional_call

from torchglm import families, links
from torchglm.families import Family
from torchglm.families.counts import NegativeBinomialCanonical
from torchglm.families.numerics import within
from torchglm.links import Link
from torchglm.model.closed_form import Closed, has_closed_form
from torchglm.rows.responses import Response, size_of
from torchglm.special.tracing import values_are_known

FAR = 30.0  # of an exponent: means above 1e13 have the tangent
FAR_SQUARED = 20.0  # of one that is squared, in float32
NEAR, FEW = 1e-6, 1e-3  # of an edge, as a share of the response
STEEPEST = 1e13  # a larger slope would be infinite once an optimizer squares it in float32


class Continuation:
    """Where the loss of a family under a link goes on along its tangent, and the loss there.

    Edges are the ends of the range of `eta`, where the mean reaches 0, 1 or infinity. Beyond a point `e` near one, as
    far inside as a small share of the way to the row's own response, the loss is `nll(e) + |slope| d + (d / s)^2 / 2`,
    with the distance `d` from `e` and that way `s`: it rises outward whatever the response is. Where `exp(eta)` grows
    steeply (log links beyond 30, complementary log-log links likewise) it is the tangent `nll(c) + slope (eta - c)`, in
    rows that lie lower inside.
    """

    def __init__(self, family: Family, link: Link) -> None:
        limits = [0.0, 1.0] if family.mean_upper == 1 else [0.0, math.inf]
        if family.mean_lower < 0 and not math.isfinite(link.lower):
            limits = []
        centre = _at(link, family.inner_mean)
        edges = [(limit, _at(link, limit)) for limit in limits]
        self.lower = next((pair for pair in edges if math.isfinite(pair[1]) and pair[1] < centre), None)
        self.upper = next((pair for pair in edges if math.isfinite(pair[1]) and pair[1] > centre), None)
        self.squared = family.least_squares or family.canonical is links.InverseSquared
        positive = family.mean_upper == math.inf  # amounts, which some families divide by their mean
        falling = (links.Log, links.Softplus, links.Logit, links.CLogLog) if positive else ()
        rising = (links.Log,) if positive else ()
        exponential = self.upper is None and type(link) is NegativeBinomialCanonical  # alpha = 0
        self.steep = (
            exponential or type(link) in (*falling, links.LogLog),
            exponential or type(link) in (*rising, links.CLogLog),
        )
        self.quadratic = family.least_squares and type(link) is links.Identity  # the same at any eta
        self.pole = not limits and _at(link, math.inf) == 0.0  # of the inverse link, where means have either sign
        # y > 1000 mu has no density in positive families, y < mu / 1000 none of counts; elsewhere both may be so
        self.above_zero = FEW if family.support is constraints.positive else NEAR
        self.below_infinity = FEW if isinstance(family, families.Poisson) else NEAR

    @property
    def edged(self) -> bool:
        """Whether some `eta` stands for no mean of the family."""
        return self.lower is not None or self.upper is not None

    def is_common(self, eta: Tensor) -> bool:
        """Whether no row lies where the loss goes on, nor at an infinite `eta`, told by one look at all of them."""
        if self.edged or self.pole or not values_are_known(eta) or eta.device.type != "cpu" or not eta.numel():
            return False
        if self.quadratic:
            return True
        far = FAR_SQUARED if self.squared and eta.dtype == torch.float32 else FAR
        least, most = torch.aminmax(eta.detach())
        return -far < float(least) and float(most) < far

    def nll(self, family: Family, link: Link, y: Response, eta: Tensor) -> Tensor:
        """`family.nll(y, eta, link)`, continued, in the shape of `eta`."""
        if self.is_common(eta):
            known = known_nll(family, link, y, eta)
            return family.nll(y, eta, link) if known is None else known.rows()
        if not (self.edged or self.pole or any(self.steep)):
            return family.nll(y, eta, link)
        low, high = self._steep_ends(eta) if not self.edged else self._edge_ends(family, link, y, eta)
        beyond = (eta < low) | (eta > high)
        if self.pole:
            low = high = torch.where(eta < 0, -1.0, 1.0) * link.link(_scale(family, y, eta) / NEAR)
            beyond = eta.abs() < high.abs()
        if values_are_known() and eta.device.type == "cpu" and not bool(beyond.any()):
            return family.nll(y, eta, link)
        end = torch.where(beyond, torch.minimum(torch.maximum(eta.detach(), low), high), link.link(_inner(family, eta)))
        slope = -family.score_and_weight(y, end, link(end), link, False)[0].clamp(-STEEPEST, STEEPEST)
        if not self.edged:
            beyond = beyond & (slope * (eta - end) > 0).detach()
        inside = torch.where(beyond, end, eta)
        away = torch.where(beyond, eta - end, 0.0)
        more = slope * away
        if self.edged:
            scale = (end - link.link(_scale(family, y, eta))).abs()
            more = slope.abs() * away.abs() + (away / scale).square() / 2
        return family.nll(y, inside, link) + torch.where(beyond, more, 0.0)

    def _steep_ends(self, eta: Tensor) -> tuple[Tensor, Tensor]:
        far = FAR_SQUARED if self.squared and eta.dtype == torch.float32 else FAR
        low, high = (far if steep else math.inf for steep in self.steep)
        return eta.new_full((), -low), eta.new_full((), high)

    def _edge_ends(self, family: Family, link: Link, y: Response, eta: Tensor) -> tuple[Tensor, Tensor]:
        """For each row the values of `eta` a little inside the edges."""
        scale = _scale(family, y, eta)
        low, high = self._steep_ends(eta)
        if self.lower is not None:
            low = self._end(link, *self.lower, scale)
        if self.upper is not None:
            high = self._end(link, *self.upper, scale)
        return low, high

    def _end(self, link: Link, limit: float, edge: float, scale: Tensor) -> Tensor:
        """The `eta` of a mean near a limit, no farther from the edge than a thousandth of the way to the scale.

        But as far as the mean needs to be a number, and `eta` to be another one than the edge.
        """
        near, whole = link.link(self._beside(limit, scale)) - edge, link.link(scale) - edge
        near = torch.where(near.abs() < FEW * whole.abs(), near, FEW * whole)
        numbers = torch.finfo(scale.dtype)
        least = torch.full_like(scale, 64 * numbers.eps * abs(edge))
        if limit == math.inf:
            largest = (link.link(torch.full_like(scale, numbers.max**0.9)) - edge).abs()
            least = torch.where(torch.isfinite(largest), torch.maximum(least, largest), least)
        return edge + torch.where(near.abs() < least, torch.sign(whole) * least, near)

    def _beside(self, limit: float, scale: Tensor) -> Tensor:
        """A mean near a limit."""
        if limit == 0.0:
            return self.above_zero * scale
        return scale / self.below_infinity if limit == math.inf else 1 - NEAR * (1 - scale)


def known_nll(family: Family, link: Link, y: Response, eta: Tensor) -> Closed | None:
    """`family.nll(y, eta, link)` of common `eta` by its closed form, if the family has one."""
    found = family.nll_and_slope(y, eta.detach(), link) if has_closed_form(y, eta) else None
    if found is None:
        return None
    shapes = {name: value for name, value in _shapes(family).items() if value.requires_grad}
    formula = _of_shapes(family, shapes, lambda own, at: own.nll(y, at, link))
    return Closed(found[0], found[1:], formula, (eta, *shapes.values()))


def known_density(family: Family, link: Link, y: Response, eta: Tensor) -> Closed | None:
    """`nll - log_constant` of common `eta` by the closed form of a family that learns its one shape, if it has one."""
    shapes = _shapes(family)
    if len(shapes) != 1 or not has_closed_form(y, eta, *shapes.values()):
        return None
    found = family.density_and_slopes(y, eta.detach(), link)
    if found is None:
        return None
    formula = _of_shapes(family, shapes, lambda own, at: own.nll(y, at, link) - own.log_constant(y))
    return Closed(found[0], found[1:], formula, (eta, *shapes.values()))


def dispersed_nll(family: Family, link: Link, y: Response, eta: Tensor, log_phi: Tensor) -> Tensor:
    """Minus the log-density of each row at the dispersion `exp(log_phi)`."""
    phi = log_phi.exp()
    return (family.nll(y, eta, link) - family.nll_saturated(y)) / phi - family.log_base(y, phi)


def known_dispersed(family: Family, link: Link, y: Response, eta: Tensor, log_phi: Tensor) -> Closed | None:
    """`dispersed_nll` of common `eta` and one dispersion by the closed form of the family, if it has one."""
    shapes = _shapes(family)
    if log_phi.dim() or not has_closed_form(y, eta, log_phi, *shapes.values()) or not within(log_phi.detach(), FAR):
        return None
    found = family.dispersed_and_slopes(y, eta.detach(), link, log_phi.detach())
    if found is None:
        return None
    formula = _of_shapes(family, shapes, lambda own, at, phi: dispersed_nll(own, link, y, at, phi))
    return Closed(found[0], found[1:], formula, (eta, log_phi, *shapes.values()))


def _shapes(family: Family) -> dict[str, Tensor]:
    """The shapes of a family that it may learn, by name."""
    return dict(family.named_parameters()) if family.estimates_shape else {}


class _Formula(nn.Module):
    """A formula of a family, as a call that takes other shapes."""

    def __init__(self, family: Family, formula: Callable[..., Tensor]) -> None:
        super().__init__()
        self.family, self.formula = family, formula

    def forward(self, *moved: Tensor) -> Tensor:
        return self.formula(self.family, *moved)


def _of_shapes(family: Family, shapes: Iterable[str], formula: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`formula(family, *moved)` as a function of what moved, and behind it of the shapes by these names."""
    names = [f"family.{name}" for name in shapes]

    def call(*moved: Tensor) -> Tensor:
        if not names:
            return formula(family, *moved)
        others = dict(zip(names, moved[-len(names) :], strict=True))
        found: Tensor = functional_call(_Formula(family, formula), others, moved[: -len(names)])
        return found

    return call


def _at(link: Link, mean: float) -> float:
    """The linear predictor of a mean, or of a limit of means."""
    return float(link.link(torch.tensor(mean, dtype=torch.float64)).detach().cpu().max())


def _inner(family: Family, eta: Tensor) -> Tensor:
    return torch.full_like(eta, family.inner_mean).detach()


def _scale(family: Family, y: Response, eta: Tensor) -> Tensor:
    """For each row a mean that its response stands for: itself, or one well inside where it is on an end."""
    size = size_of(y)
    size = size.abs().clamp(min=1.0) if family.mean_lower < 0 else size
    return torch.where((size > 0) & (size < family.mean_upper), size, family.inner_mean).to(eta.dtype)
