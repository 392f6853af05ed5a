"""What a head and a `GLMLoss` share: a family, a link, a dispersion, and the loss and the law of predictors `eta`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from torchglm import links
from torchglm.families import Family
from torchglm.inputs import Roles
from torchglm.links import Link
from torchglm.model.closed_form import Closed
from torchglm.model.continuation import (
    Continuation,
    known_density,
    known_dispersed,
    known_nll,
)
from torchglm.model.law import EtaLaw, PlainLaw
from torchglm.model.made import kind_of, own_family, start_of
from torchglm.rows.responses import Response, each, filled
from torchglm.special.tracing import values_are_known
from torchglm.writing.answering import answering_methods
from torchglm.writing.short import Short

Own = TypeVar("Own", bound="EtaLoss")


@answering_methods
class EtaLoss(nn.Module, metaclass=Short):
    """A family, a link and a dispersion, and what they say at predictors `eta` (*N, out_features)."""

    family: Family
    link: Link
    out_features: int
    dispersion_kind: str
    whole_density: bool  # the form of the loss: the whole density where something of it beside the mean is learned
    log_dispersion: Tensor  # a parameter where it is learned, else a buffer; not finite while nobody knows it

    def set_law(
        self,
        family: Family,
        link: str | Link | None,
        dispersion: str | float | None,
        device: torch.device,
        dtype: torch.dtype | None,
    ) -> None:
        """Take a copy of a family, a link, and the way to come by a dispersion.

        Raises `ValueError` for a family of several predictors or another number of shapes, and an unknown dispersion.
        """
        precise = wide(torch.get_default_dtype() if dtype is None else dtype)
        self.family = own_family(family, self.out_features).to(dtype=precise)
        self.link = self.family.head_link if link is None else links.get(link)
        self.dispersion_kind = kind_of(dispersion, self.family)
        start = start_of(self.dispersion_kind, self.family)
        phi = torch.full((self.out_features,) if self.out_features > 1 else (), start, device=device, dtype=precise)
        if self.dispersion_kind == "learned":
            self.log_dispersion = nn.Parameter(phi)
        else:
            self.register_buffer("log_dispersion", phi)
        self.whole_density = self.dispersion_kind == "learned" or self.family.estimates_shape
        self.continuation = Continuation(self.family, self.link)
        self.family = self.family.to(device=device)

    @property
    def dispersion(self) -> Tensor:
        """The dispersion `phi`, one for each response; NaN while it is to be estimated and has not been."""
        return torch.where(torch.isfinite(self.log_dispersion), self.log_dispersion.exp(), torch.nan)

    @torch.no_grad()
    def set_dispersion_(self, dispersion: Tensor | float) -> None:
        """Put a dispersion, one for each response or one for all, in the place of the one here.

        Raises `ValueError` where one is not finite and above 0.
        """
        phi = torch.as_tensor(dispersion, dtype=torch.float64, device=self.log_dispersion.device)
        if not bool((torch.isfinite(phi) & (phi > 0)).all()):
            raise ValueError(f"A dispersion must be finite and above 0, got {phi.tolist()}.")
        phi = phi.reshape(self.log_dispersion.shape) if phi.numel() == self.log_dispersion.numel() else phi
        self.log_dispersion.copy_(phi.log().expand_as(self.log_dispersion))

    @property
    def loss_is_plain(self) -> bool:
        """Whether `training_loss` is `w nll`: no dispersion divides it, and no constant is added."""
        divided = self.family.has_dispersion and self.dispersion_kind != "estimated"
        return not self.whole_density and not (divided and bool((self.log_dispersion != 0).any()))

    def _log_phi(self) -> Tensor | None:
        """The logarithm of what divides the loss; None without dispersion, and where all of it is known to be 1."""
        if not self.family.has_dispersion:
            return None
        phi = self.log_dispersion
        if not self.whole_density and phi.device.type == "cpu" and values_are_known(phi):
            values = phi.reshape(-1).tolist()
            if all(one == 0 or not math.isfinite(one) for one in values):
                return None
        return phi

    def loss_at(
        self, eta: Tensor, y: Tensor, beside: Roles, log_phi: Tensor | None, dropped: Tensor | None
    ) -> tuple[Tensor | Closed, Tensor | None]:
        """`w nll / phi` of each row at predictors `eta`, and `w`, None where it is 1 in all of them.

        Rows that are `dropped` may hold anything; a dispersion that is not finite counts as 1.
        """
        beside = beside.map(lambda name, value: self.per_response(value, eta, name))
        y = self.per_response(y, eta, "y")
        if dropped is not None and beside.weight is not None:
            used = beside.weight > 0
            y, beside = beside.readable(y, used)
            eta = torch.where(used, eta, self.link.link(torch.full_like(eta, self.family.inner_mean)))
        response, factor = self.family.encode(y, **beside.of_response)
        if beside.weights is None and beside.freq is None and factor is None:
            return self._row_loss(response, eta, None, log_phi), None
        w = torch.ones_like(eta) if beside.weights is None else beside.weights
        w = w if factor is None else w * factor
        if beside.freq is None:
            return self._row_loss(response, eta, w, log_phi), w
        once = self._row_loss(response, eta, torch.where(beside.freq > 0, w, 0.0), log_phi)
        return rows_of_loss(once) * beside.freq, w * beside.freq

    def saturated_at(self, like: Tensor, y: Tensor, beside: Roles) -> Tensor:
        """The weighted mean of `nll` at `mu = y`, values being spread over the shape of `like` (*N, out_features)."""
        beside = beside.map(lambda name, value: self.per_response(value, like, name))
        y = self.per_response(y, like, "y")
        used = torch.ones_like(y, dtype=torch.bool) if beside.weight is None else beside.weight > 0
        y, beside = beside.readable(y, used)
        response, factor = self.family.encode(y, **beside.of_response)
        w = torch.ones_like(y) if beside.weight is None else beside.weight
        w = torch.where(used, w if factor is None else w * factor, 0.0)
        least = self.family.nll_saturated(filled(response, used, self.family.inner_mean))
        return (w * least).sum() / some(w.sum())

    def law_at(self, eta: Tensor, trials: Tensor | None = None) -> EtaLaw:
        """The law of a response at predictors `eta` (*N, out_features), made from `eta`; see `EtaLaw`.

        Raises `ValueError` while the dispersion is to be estimated and has not been.
        """
        self.know_dispersion()
        return PlainLaw(self.family, self.link, self.continuation, eta, self.log_dispersion.exp(), trials)

    def know_dispersion(self) -> None:
        """Raise `ValueError` while the dispersion is to be estimated and has not been."""
        phi = self.log_dispersion
        if values_are_known(phi) and not bool(torch.isfinite(phi).all()):
            raise ValueError(
                f"the dispersion of this {self.family.name} head is not known yet, and its distribution needs it. Call "
                "head.estimate_dispersion_(x, y) on the training rows (LitGLM and head.fit do so by themselves), or "
                "make the head with dispersion='learned' or a number."
            )

    def _row_loss(self, y: Response, eta: Tensor, w: Tensor | None, log_phi: Tensor | None) -> Tensor | Closed:
        if w is not None:
            y = filled(y, w > 0, 1.0)  # in the support of every family: what is dropped may hold anything
        log_phi = None if log_phi is None else log_phi.to(eta.dtype)
        if not any(shape.dim() for shape in self.family.shapes.values()):
            return self._log_density_loss(y, eta, w, log_phi)
        y = each(y, lambda part: part.unsqueeze(-1))  # so that shape parameters of (out_features,) fit
        w = None if w is None else w.unsqueeze(-1)
        log_phi = None if log_phi is None else log_phi.unsqueeze(-1)
        return rows_of_loss(self._log_density_loss(y, eta.unsqueeze(-1), w, log_phi)).squeeze(-1)

    def _log_density_loss(self, y: Response, eta: Tensor, w: Tensor | None, log_phi: Tensor | None) -> Tensor | Closed:
        if w is None and (self.whole_density or log_phi is None) and self.continuation.is_common(eta):
            known = self._known(y, eta, log_phi)
            if known is not None:
                return known
        nll = self.continuation.nll(self.family, self.link, y, eta)
        if not self.whole_density:
            return times(w, nll) if log_phi is None else times(w, nll) / _finite_exp(log_phi)
        if log_phi is None:
            return times(w, nll - self.family.log_constant(y))
        half, phi = nll - self.family.nll_saturated(y), _finite_exp(log_phi)
        if w is None:
            return half / phi - self.family.log_base(y, phi)
        base = self.family.log_base(y, phi / torch.where(w > 0, w, 1.0))
        return w * half / phi - torch.where(w > 0, base, 0.0)

    def _known(self, y: Response, eta: Tensor, log_phi: Tensor | None) -> Closed | None:
        """The loss of each row by a closed form, if there is one."""
        if log_phi is not None:
            return known_dispersed(self.family, self.link, y, eta, log_phi)
        return (known_density if self.whole_density else known_nll)(self.family, self.link, y, eta)

    def per_response(self, value: Tensor, eta: Tensor, name: str) -> Tensor:
        """`value` in the shape of `eta`; a missing last dimension of one response is added, nothing is broadcast.

        Of several responses all but `y` may be one column, `(*N,)` or `(*N, 1)`.
        """
        if value.shape == eta.shape:
            return value.to(eta.dtype)
        if value.shape == eta.shape[:-1] and (name != "y" or self.out_features == 1):
            own = value.to(eta.dtype).unsqueeze(-1)
            return own if self.out_features == 1 else own.expand_as(eta)
        if name != "y" and value.shape == (*eta.shape[:-1], 1):
            return value.to(eta.dtype).expand_as(eta)
        turned = (
            " Responses in rows, (R, n), are what fit(x, y) takes."
            if eta.dim() > 1 and value.shape == eta.mT.shape[-2:]
            else ""
        )
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}, the linear predictor {tuple(eta.shape)}. "
            f"Pass {name} of shape {tuple(eta.shape)}"
            + (f" or {tuple(eta.shape[:-1])}." if self.out_features == 1 else ", a response in each column.")
            + turned
        )

    @torch.no_grad()
    def set_shapes_(self, family: Family) -> None:
        """Take the shape parameters of a family of this head's kind: one for each response, or one for all."""
        for name, theirs in family.shapes.items():
            mine = getattr(self.family, name)
            mine.copy_(theirs.reshape(mine.shape) if theirs.numel() == mine.numel() else theirs.expand_as(mine))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> EtaLoss:
        """Go to a device or dtype; the dispersion stays float32 at least, as the arithmetic does."""
        super()._apply(fn, recurse)
        if torch.finfo(self.log_dispersion.dtype).bits < 32:
            narrow = self.log_dispersion
            if isinstance(narrow, nn.Parameter):
                narrow.data = narrow.data.float()
            else:
                self.log_dispersion = narrow.float()
        return self


def check_tensors(values: Mapping[str, Any]) -> None:
    """Raise `TypeError` for what is no tensor: where a number for all rows or a list would stand is not guessed."""
    for name, value in values.items():
        if value is not None and not isinstance(value, Tensor):
            raise TypeError(
                f"{name} is a {type(value).__name__}, and heads and losses take tensors, a value for each row. "
                f"Pass torch.as_tensor({name})."
            )


def default_device(device: torch.device | str | None) -> torch.device:
    """The device that was named, or the one torch makes tensors on: within `with torch.device("meta")` that."""
    return torch.get_default_device() if device is None else torch.device(device)


def dropped_rows(roles: Roles) -> Tensor | None:
    """Where a row has no weight, in the shape of the weights; None where it is known that every row has some."""
    weight = roles.weight
    if weight is None:
        return None
    dropped = weight <= 0
    known = values_are_known() and weight.device.type == "cpu"
    return None if known and not bool(dropped.any()) else dropped


def without(x: Tensor, dropped: Tensor) -> Tensor:
    """`x` (*N, in_features) with zeros in rows that every response drops, so that what they hold reaches no product."""
    if dropped.dim() == x.dim():
        dropped = dropped.all(-1)
    return torch.where(dropped.unsqueeze(-1), 0.0, x) if dropped.shape == x.shape[:-1] else x


def no_autocast(x: Tensor) -> AbstractContextManager[None]:
    """Autocast off where it is on: a region in a graph costs, and one in which nothing is computed cannot be loaded."""
    kind = x.device.type
    on = kind != "meta" and torch.is_autocast_enabled(kind)
    return torch.autocast(kind, enabled=False) if on else nullcontext()


def times(w: Tensor | None, value: Tensor) -> Tensor:
    """`w value`, and the value itself where no row has a weight."""
    return value if w is None else w * value


def some(total: Tensor) -> Tensor:
    """A sum of weights to divide by: 1 where there is no row, whose loss is 0."""
    return torch.where(total > 0, total, 1.0)


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type to calculate in: float32 or wider."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def check_reduction(reduction: str) -> None:
    """Raise `ValueError` for a reduction that torch does not know."""
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}.")


def rows_of_loss(loss: Tensor | Closed) -> Tensor:
    """The loss of each row."""
    return loss if isinstance(loss, Tensor) else loss.rows()


def with_weights(loss: Tensor | Closed, w: Tensor | None) -> tuple[Tensor, Tensor]:
    """The rows' losses and their weights."""
    rows = rows_of_loss(loss)
    return rows, torch.ones_like(rows) if w is None else w


def reduced(loss: Tensor | Closed, w: Tensor | None, reduction: str) -> Tensor:
    """The rows' losses, their sum, or that over the sum of their weights; 0 where there is no row."""
    if isinstance(loss, Closed) and w is None and reduction != "none":
        return loss.total(reduction == "mean")
    rows = rows_of_loss(loss)
    if reduction == "none":
        return rows
    if w is None:
        return rows.sum() if reduction == "sum" else rows.sum() / max(rows.numel(), 1)
    return rows.sum() if reduction == "sum" else rows.sum() / some(w.sum())


def _finite_exp(log_phi: Tensor) -> Tensor:
    """The dispersion, 1 where its logarithm is not finite: while nobody knows it."""
    return torch.where(torch.isfinite(log_phi), log_phi, 0.0).exp()
