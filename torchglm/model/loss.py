"""GLMLoss: the loss and the law of whatever predictors a network puts out, by the formulas of the heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchglm import families
from torchglm.families import Family
from torchglm.families.several import VectorFamily, of_predictors
from torchglm.inputs import Roles, check_predictors, check_support, check_weights, finite
from torchglm.links import Link
from torchglm.model.closed_form import Closed
from torchglm.model.eta_loss import (
    EtaLoss,
    check_reduction,
    check_tensors,
    default_device,
    dropped_rows,
    no_autocast,
    reduced,
    wide,
    with_weights,
)
from torchglm.model.law import EtaLaw
from torchglm.model.vector_eta_loss import VectorEtaLoss
from torchglm.model.vector_parts import is_several
from torchglm.writing.answering import answering_init, answering_methods

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from torchglm.inputs.roles import RoleValues


@answering_methods
@answering_init
class GLMLoss(EtaLoss):
    """The negative log-likelihood at predictors `eta` of any network, as a head has it.

    `loss(eta, y, **roles)`: of one predictor `eta` is `(*N)` like `y`, or `(*N, 1)`; of a family of several
    (`"ordinal"`, `ZeroInflated("poisson")`, or with `predictors=("dispersion",)`) `(K, *N)`, or with `dim=-1`
    `(*N, K)`, in the order of `loss.family.predictors`. The mean is over the weights of the rows, trials and repeats
    among them; a row of weight 0 counts as dropped, whatever `eta` and `y` hold there. The loss is finite wherever a
    network may end, and float32 at least. `law(eta)` is the law of a response, see `GLMHead.law`.

    `link=None` is the family's `head_link`; `dispersion` is `"learned"`, a parameter in a loss that is the whole
    density, a number, or `"estimated"`: unknown, 1 in the loss, until `set_dispersion_`. Shapes that the family
    estimates are parameters too: hand `loss.parameters()` to the optimizer. `check=True` looks at the responses and
    weights of every call, which waits for the device.
    Raises `ValueError` for an unknown family, link, dispersion, predictor or reduction, for classes that are not known,
    and in a call for shapes that differ, an exposure where the link has no rates, and with `check` for responses
    outside the support.
    """

    out_features = 1

    def __new__(cls, family: str | Family = "", *args: Any, **options: Any) -> GLMLoss:
        several = cls is GLMLoss and (options.get("predictors") or is_several(family))
        return super().__new__(VectorLoss if several else cls)

    def __init__(
        self,
        family: str | Family,
        link: str | Link | None = None,
        reduction: str = "mean",
        check: bool = False,
        dim: int = 0,
        *,
        predictors: str | Sequence[str] = (),
        dispersion: str | float | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_reduction(reduction)
        self.reduction, self.check, self.dim = reduction, check, dim
        own = default_device(device)
        with torch.device("cpu"):  # numbers are told of it, whatever device it goes to
            self._take(families.get(family), link, predictors, dispersion, own, dtype)

    def _take(
        self,
        family: Family,
        link: str | Link | None,
        predictors: str | Sequence[str],
        dispersion: str | float | None,
        device: torch.device,
        dtype: torch.dtype | None,
    ) -> None:
        self.set_law(family, link, dispersion, device, dtype)

    def forward(self, eta: Tensor, y: Tensor, **roles: Unpack[RoleValues]) -> Tensor:
        """The loss, a scalar, or `(*N)` without reduction."""
        loss = reduced(*self._weighted_loss(eta, y, roles), self.reduction)
        return loss.reshape(y.shape) if self.reduction == "none" else loss

    def weighted_loss(self, eta: Tensor, y: Tensor, **roles: Unpack[RoleValues]) -> tuple[Tensor, Tensor]:
        """`w nll / phi` of each row and `w` (with trials and repeats), in the shape of `y`: what `forward` adds up."""
        loss, w = with_weights(*self._weighted_loss(eta, y, roles))
        return loss.reshape(y.shape), w.reshape(y.shape)

    def _weighted_loss(self, eta: Tensor, y: Tensor, roles: RoleValues) -> tuple[Tensor | Closed, Tensor | None]:
        """The loss of each row and its weight, of shape `(*N, 1)` where that of `y` is `(*N)`."""
        beside = Roles.of(roles, "GLMLoss")
        check_tensors({"eta": eta, "y": y} | beside.given)
        beside.check_link(self.link)
        with no_autocast(eta):
            eta = self._leading(eta)
            shape, rows = y.shape, eta.shape[self._lead :]
            if rows == shape:
                eta, y = eta.unsqueeze(-1), y.unsqueeze(-1)
                beside = beside.map(lambda _, value: value.unsqueeze(-1) if value.shape == shape else value)
            elif rows != (*shape, 1):
                raise ValueError(
                    f"eta has shape {tuple(rows)} for each predictor, y {tuple(shape)}. Pass y in that shape, nothing "
                    "is broadcast; a last dimension of 1 may stand in eta alone."
                )
            like = eta[0] if self._lead else eta
            y = self.per_response(y, like, "y")
            if self.check:
                self._look(y, beside.map(lambda name, value: self.per_response(value, like, name)))
            return self.loss_at(self._shifted(eta, like, beside), y, beside, self._log_phi(), dropped_rows(beside))

    def law(self, eta: Tensor, *, trials: Tensor | None = None) -> EtaLaw:
        """The law of a response at `eta`, in the batch shape `(*N)`; see `GLMHead.law`."""
        with no_autocast(eta):
            return self.law_at(self._leading(eta), trials)

    _lead = 0  # dimensions of the predictors before those of the rows

    def _leading(self, eta: Tensor) -> Tensor:
        """The predictors in float32 or wider, those of a row in front where there are several."""
        return eta.to(wide(eta.dtype))

    def _shifted(self, eta: Tensor, like: Tensor, beside: Roles) -> Tensor:
        shift = beside.shift()
        return eta if shift is None else eta + self.per_response(shift, like, "offset")

    def _look(self, y: Tensor, beside: Roles) -> None:
        """Raise `ValueError` for weights below 0 and responses outside the support."""
        for name, value in (("weights", beside.weights), ("freq", beside.freq)):
            if value is not None:
                check_weights(value, name, False)
        used = torch.ones_like(y, dtype=torch.bool) if beside.weight is None else beside.weight > 0
        y, beside = beside.readable(y, used)
        finite(y, "y", used)
        response, _ = self.family.encode(y, **beside.of_response)
        check_support(response, self.family, used)

    def extra_repr(self) -> str:
        return f"reduction={self.reduction!r}, check={self.check}, dim={self.dim}"


class VectorLoss(VectorEtaLoss, GLMLoss):
    __doc__ = GLMLoss.__doc__
    _lead = 1

    def _take(
        self,
        family: Family,
        link: str | Link | None,
        predictors: str | Sequence[str],
        dispersion: str | float | None,
        device: torch.device,
        dtype: torch.dtype | None,
    ) -> None:
        if dispersion is not None:
            raise ValueError("the law of this loss has a predictor for its dispersion. Leave dispersion= out.")
        if isinstance(family, VectorFamily) and link is None:
            family = family.for_heads()
        chosen = family.head_link if link is None and not isinstance(family, VectorFamily) else link
        several = of_predictors(family, chosen)
        check_predictors(dict.fromkeys([predictors] if isinstance(predictors, str) else predictors), several)
        self.set_predictors(several, device, dtype)
        self.know()

    def _leading(self, eta: Tensor) -> Tensor:
        size = len(self.family.predictors)
        if not -eta.dim() <= self.dim < eta.dim() or eta.shape[self.dim] != size:
            raise ValueError(
                f"eta has shape {tuple(eta.shape)}, and {self.family.name} {size} predictors "
                f"({', '.join(self.family.predictors)}). Pass eta with {size} in dimension dim={self.dim}."
            )
        return eta.to(wide(eta.dtype)).movedim(self.dim, 0)

    def _shifted(self, eta: Tensor, like: Tensor, beside: Roles) -> Tensor:
        shift = beside.shift()
        if shift is None:
            return eta
        shifts = self.family.shifts().to(eta).reshape(-1, *[1] * like.dim())
        return eta + shifts * self.per_response(shift, like, "offset")
