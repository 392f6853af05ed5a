"""The law of a response at the predictors of a head, as a distribution made from `eta`, not from the mean.

Its log-density is minus the loss, which is finite wherever a network may end. What else it says is computed in float64
where the device has it, and is NaN in rows that have no law; no row raises.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import Distribution

from torchglm.distributions import icdf, log_tails
from torchglm.families import Family
from torchglm.families.several import Classes, VectorFamily
from torchglm.inference.levels import check_level
from torchglm.links import Link
from torchglm.model.law_scores import crps
from torchglm.model.quantiles import Ends, Tails, ends_of, quantile_of
from torchglm.model.vector_beyond import continued_nll, harmless
from torchglm.model.vector_parts import of_a_law
from torchglm.rows.responses import Response, filled


class EtaLaw(Distribution):
    """What the laws of one and of several predictors share. `trials` are those of binomial responses."""

    arg_constraints: dict[str, Any] = {}

    def __init__(self, family: Family, batch_shape: Size, trials: Tensor | None) -> None:
        self.family, self.trials = family, trials
        super().__init__(batch_shape, validate_args=False)

    # what a law of one or of several predictors says

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density of `value` (*S, *batch): minus the loss; minus infinity outside the support."""
        raise NotImplementedError

    @property
    def known(self) -> Tensor:
        """(*batch) where the predictors have a law."""
        raise NotImplementedError

    @property
    def torch_law(self) -> Distribution | None:
        """The law as a distribution of torch where there is one, in float64 and harmless where there is no law."""
        raise NotImplementedError

    def _tails_like(self, value: Tensor) -> Tails:
        """`P(Y <= value)` and its complement in float64 at values of a shape, where there is no law of torch."""
        raise NotImplementedError

    @property
    def _dtype(self) -> torch.dtype:
        raise NotImplementedError

    @property
    def ends(self) -> Ends:
        """Between which numbers responses lie, where there is no distribution of torch."""
        raise NotImplementedError

    # what follows

    @property
    def support(self) -> Any:
        return self.family.support

    def _told(self, value: Tensor) -> Tensor:
        """A value in the dtype of the predictors, NaN where there is no law."""
        return torch.where(self.known, value, math.nan).to(self._dtype)

    def _both(self, value: Tensor) -> tuple[Tensor, Tensor]:
        law, value = self.torch_law, double(value)
        if law is None:
            return self._tails_like(value)(value)
        lower, upper = log_tails(law, value)
        return lower.exp(), upper.exp()

    def cdf(self, value: Tensor) -> Tensor:
        """`P(Y <= value)`."""
        return self._told(self._both(value)[0])

    def sf(self, value: Tensor) -> Tensor:
        """`P(Y > value)`, to its own digits."""
        return self._told(self._both(value)[1])

    def icdf(self, value: Tensor | float) -> Tensor:
        """The smallest response with `P(Y <= response) >= value`; NaN outside [0, 1]."""
        p = torch.as_tensor(value, dtype=torch.float64, device=self.known.device)
        p = p.expand(torch.broadcast_shapes(p.shape, self.batch_shape))
        law = self.torch_law
        with torch.no_grad():
            found = quantile_of(self.ends, self._tails_like(p), p) if law is None else icdf(law, p)
        return self._told(found)

    def interval(self, level: float = 0.9) -> tuple[Tensor, Tensor]:
        """The quantiles between which a response lies with this probability, as much beyond either.

        Raises `ValueError` for a level outside (0, 1).
        """
        check_level(level)
        ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64, device=self.known.device)
        low, high = self.icdf(ends.reshape(2, *[1] * len(self.batch_shape))).unbind(0)
        return low, high

    def crps(self, value: Tensor) -> Tensor:
        """The continuous ranked probability score at responses (*S, *batch), see `law_scores.crps`; less is better."""
        return crps(self, value)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether draws have a gradient."""
        law = self.torch_law
        return law is not None and law.has_rsample

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws (*S, *batch) with a gradient. Raises `NotImplementedError` for a law whose draws have none."""
        law = self.torch_law
        if law is None or not law.has_rsample:
            raise NotImplementedError(f"draws of {self.family.name} have no gradient. Use sample.")
        return self._told(law.rsample(Size(sample_shape)))

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws (*S, *batch)."""
        law, shape = self.torch_law, Size(sample_shape)
        if law is None:
            return self.icdf(torch.rand(self._extended_shape(shape), dtype=torch.float64, device=self.known.device))
        return self._told(law.sample(shape))


class PlainLaw(EtaLaw):
    """The law of one predictor `eta` (*batch); `phi` is the dispersion, one or one for each of the last dimension."""

    def __init__(self, family: Family, link: Link, continuation: Any, eta: Tensor, phi: Tensor, trials: Any) -> None:
        super().__init__(family, eta.shape, trials)
        self.link, self.continuation, self.eta, self.phi = link, continuation, eta, phi

    @property
    def _dtype(self) -> torch.dtype:
        return self.eta.dtype

    @property
    def known(self) -> Tensor:
        eta = double(self.eta.detach())
        mu = self.link(eta)
        inside = torch.isfinite(eta) & self.link.inside(eta) & torch.isfinite(mu) & self.family.valid_mean(mu)
        return inside & (mu != 0) if self.family.mean_upper == math.inf and self.family.mean_lower == 0 else inside

    @property
    def torch_law(self) -> Distribution:
        eta, phi = torch.broadcast_tensors(double(self.eta), double(self.phi))
        inner = self.link.link(torch.full_like(eta, self.family.inner_mean)).detach()
        eta = torch.where(self.known, eta, inner)
        if self.trials is not None:
            phi = 1 / self.trials.to(phi).expand_as(phi)
        each = {name: value.expand(eta.shape) for name, value in self.family.shapes.items() if value.dim()}
        return (self.family.with_parameters(each) if each else self.family).law(eta, self.link, phi)

    @property
    def mean(self) -> Tensor:
        """(*batch) the expected response."""
        mean = self.link(double(self.eta))
        return self._told(mean if self.trials is None else mean * self.trials)

    @property
    def variance(self) -> Tensor:
        return self._told(self.torch_law.variance)

    def log_prob(self, value: Tensor) -> Tensor:
        family, eta = self.family, self.eta
        value = value.to(eta.dtype).expand(torch.broadcast_shapes(value.shape, eta.shape))
        trials = None if self.trials is None else self.trials.to(eta.dtype).expand_as(value)
        inside = torch.ones_like(value, dtype=torch.bool)
        if trials is not None:
            inside = (value >= 0) & (value <= trials) & (value == value.round())
            value = torch.where(inside, value, 0.0)
        y, factor = family.encode(value, trials=trials)
        inside = inside & family.supports(y)
        y = filled(y, inside, family.inner_mean)
        y, eta, phi = (part.unsqueeze(-1) for part in (y, eta.expand_as(value), self.phi.to(eta).expand_as(value)))
        half = self.continuation.nll(family, self.link, y, eta) - family.nll_saturated(y)
        times = torch.ones_like(eta) if factor is None else factor.unsqueeze(-1)
        divided = phi if family.has_dispersion else 1 / torch.where(times > 0, times, 1.0)
        logs = family.log_base(y, divided) - half / divided
        return torch.where(inside, torch.where(times > 0, logs, 0.0).squeeze(-1), -math.inf)

    def expand(self, batch_shape: Any, _instance: Any = None) -> PlainLaw:
        shape = Size(batch_shape)
        phi = self.phi if not self.phi.dim() else self.phi.expand(self.eta.shape).expand(shape)
        trials = None if self.trials is None else self.trials.expand(shape)
        return PlainLaw(self.family, self.link, self.continuation, self.eta.expand(shape), phi, trials)


class VectorLaw(EtaLaw):
    """The law of several predictors `eta` (K, *batch); of classes that of their codes."""

    family: VectorFamily

    def __init__(self, family: VectorFamily, eta: Tensor, trials: Tensor | None) -> None:
        super().__init__(family, eta.shape[1:], trials)
        self.eta = eta

    @property
    def _dtype(self) -> torch.dtype:
        return self.eta.dtype

    @property
    def known(self) -> Tensor:
        eta = of_a_law(self.family, double(self.eta.detach()))
        if isinstance(self.family, Classes):
            return torch.isfinite(eta).all(0)
        valid = self.family.valid(eta)
        return valid & torch.isfinite(self.family.mean(eta)) if self.family.always_has_mean else valid

    @property
    def _inside(self) -> Tensor:
        """(K, *batch) the predictors in float64, harmless where there is no law."""
        eta = of_a_law(self.family, double(self.eta))
        response = self._response(torch.full_like(eta[0], self.family.inner_mean))[0]
        return torch.where(self.known, eta, harmless(self.family, response, eta.detach()))

    @property
    def torch_law(self) -> Distribution | None:
        if type(self.family).law_at is VectorFamily.law_at:
            return None
        return self.family.law_at(self._inside)

    def _response(self, value: Tensor) -> tuple[Response, Tensor]:
        """Values as the formulas take them, harmless outside the support, and where they lie inside."""
        if self.trials is None:
            inside = self.family.supports(value)
            return filled(value, inside, self.family.inner_mean), inside
        trials = self.trials.to(value).expand_as(value)
        inside = (value >= 0) & (value <= trials) & (value == value.round())
        return self.family.encode(torch.where(inside, value, 0.0), trials=trials)[0], inside

    def _at(self, eta: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Predictors (K, *S, *batch) and values (*S, *batch) of one shape."""
        shape = torch.broadcast_shapes(value.shape, self.batch_shape)
        lead = [1] * (len(shape) - len(self.batch_shape))
        eta = eta.reshape(len(eta), *lead, *self.batch_shape).expand(len(eta), *shape)
        return eta, value.expand(shape)

    def log_prob(self, value: Tensor) -> Tensor:
        eta, value = self._at(self.eta, value.to(self.eta.dtype))
        y, inside = self._response(value)
        return torch.where(inside, -continued_nll(self.family, y, eta), -math.inf)

    @property
    def probs(self) -> Tensor:
        """(*batch, C) the probabilities of classes. Raises `ValueError` for another family."""
        if not isinstance(self.family, Classes):
            raise ValueError(f"probs are those of classes; this law is {self.family.name}.")
        return self._told(self.family.probabilities(self._inside)).movedim(0, -1)

    @property
    def mean(self) -> Tensor:
        """(*batch) the expected response, infinite where a tail is that heavy; of classes, which have none, NaN."""
        if isinstance(self.family, Classes):
            return torch.full_like(self.eta[0], math.nan)
        mean = self.family.mean(self._inside)
        return self._told(mean if self.trials is None else mean * self.trials)

    @property
    def variance(self) -> Tensor:
        if isinstance(self.family, Classes):
            return torch.full_like(self.eta[0], math.nan)
        if self.trials is None:
            return self._told(self.family.variance_at(self._inside))
        response = self._response(torch.zeros_like(self.eta[0], dtype=torch.float64))[0]
        return self._told(self.family.departure(response, self._inside)[1] * self.trials.double().square())

    @property
    def ends(self) -> Ends:
        return ends_of(self.family, self.trials)

    def _tails_like(self, value: Tensor) -> Tails:
        eta, value = self._at(self._inside, value)
        return partial(self._tails_at, self.ends, eta)

    def _tails_at(self, ends: Ends, eta: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        value = value.expand_as(eta[0])
        at = torch.floor(value) if ends.whole else value
        over = at >= ends.high
        y, inside = self._response(torch.where(over, ends.low, at))
        under = ~inside & ~over
        lower, upper = self.family.tails(y, eta)[1]
        lower = torch.where(under, 0.0, torch.where(over, 1.0, lower))
        return torch.where(value.isnan(), math.nan, lower), torch.where(over, 0.0, torch.where(under, 1.0, upper))

    def expand(self, batch_shape: Any, _instance: Any = None) -> VectorLaw:
        shape = Size(batch_shape)
        eta, _ = self._at(self.eta, self.eta.new_zeros(shape))
        return VectorLaw(self.family, eta, None if self.trials is None else self.trials.expand(shape))


def double(value: Tensor) -> Tensor:
    """A tensor in float64 where the device has it."""
    return value if value.device.type == "mps" else value.double()
