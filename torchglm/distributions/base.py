"""What the laws that torch lacks share: parameters that broadcast, and both tails and quantiles by `tails`."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import Size, Tensor
from torch.distributions import Distribution
from torch.distributions.utils import broadcast_all

from torchglm.distributions import tails

Kind = TypeVar("Kind", bound="Law")


class Law(Distribution):
    """A torch distribution whose parameters are those of its `arg_constraints`, the mean among them.

    A subclass gives `_log_prob`, and registers its `tails.log_tails` and `tails.quantile`.
    """

    mean: Tensor = None  # type: ignore[assignment]  # an argument, where the base class has a property

    def __init__(self, validate_args: bool | None, **parameters: Tensor | float) -> None:
        for name, value in zip(parameters, broadcast_all(*parameters.values()), strict=True):
            setattr(self, name, value)
        super().__init__(self.mean.shape, validate_args=validate_args)

    def expand(self: Kind, batch_shape: Any, _instance: Any = None) -> Kind:
        shape = Size(batch_shape)
        parameters = {name: getattr(self, name).expand(shape) for name in self.arg_constraints}
        return type(self)(**parameters, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return self._log_prob(value)

    def _log_prob(self, value: Tensor) -> Tensor:
        raise NotImplementedError

    def cdf(self, value: Tensor) -> Tensor:
        return tails.cdf(self, value)

    def icdf(self, value: Tensor) -> Tensor:
        return tails.icdf(self, value)
