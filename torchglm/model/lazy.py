"""LazyGLMHead: a head that learns its number of columns from its first input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedParameter

from torchglm.families import Family
from torchglm.inference.fitted import Fitted
from torchglm.inputs import Roles, minibatch, unpacked
from torchglm.links import Link
from torchglm.model.face import GLMHead
from torchglm.model.renewable import Renewable
from torchglm.writing.answering import answering_init

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from torchglm.inputs.roles import RoleValues


@answering_init
class LazyGLMHead(LazyModuleMixin, GLMHead):
    """A `GLMHead` that learns `in_features` from its first input."""

    cls_to_become = GLMHead
    weight: UninitializedParameter  # type: ignore[assignment]

    def __init__(
        self,
        family: str | Family,
        link: str | Link | None = None,
        out_features: int = 1,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        dispersion: str | float | None = None,
    ) -> None:
        super().__init__(0, family, link, out_features, bias, device, dtype, dispersion=dispersion)
        self.weight = UninitializedParameter(device=device, dtype=dtype)  # type: ignore[call-arg]

    def initialize_parameters(self, x: Tensor, offset: Tensor | None = None) -> None:
        """Make the parameters for inputs `(*N, in_features)`; a loaded state has made them already."""
        if self.has_uninitialized_params():
            self.weight.materialize((self.out_features, x.shape[-1]))
            self.in_features = x.shape[-1]
            self.reset_parameters()
        self.in_features = self.weight.shape[-1]

    def linear_predictor(self, x: Tensor, offset: Tensor | None = None) -> Tensor:
        """As in `GLMHead`; the first call, by `loss` or `distribution` as by `forward`, makes the parameters."""
        self._infer_parameters(self, (x, offset))
        return self.linear_predictor(x, offset)  # of the GLMHead this has become

    def partial_fit(self, x: Any, y: Any = None, *, forgetting: float = 1.0, **roles: Unpack[RoleValues]) -> Renewable:
        """As in `GLMHead`, taking the number of columns from the first minibatch."""
        first, response, given = unpacked(x, y, Roles.of(roles, "partial_fit"))
        rows = minibatch(first, response, self.family, self.link, self.bias is not None, given)
        self._infer_parameters(self, (rows.x,))
        return self.partial_fit(x, y, forgetting=forgetting, **roles)

    def load(self, fitted: Fitted) -> None:
        """As in `GLMHead`, taking the number of columns from the fit."""
        columns = len(fitted.names) - int(self.bias is not None)
        self._infer_parameters(self, (fitted.coef.new_zeros(1, columns),))
        self.load(fitted)
