"""The layer behind `GLMHead`: `nn.Linear` whose link is the activation and whose family is the loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, distributions, nn

from torchglm import families, links
from torchglm.families import Family
from torchglm.families.numerics import values_are_known
from torchglm.inference.fitted import Fitted
from torchglm.inference.origin import refuse_beside
from torchglm.inputs import Roles
from torchglm.links import Link
from torchglm.model.continuation import Continuation
from torchglm.model.made import kind_of, make_weight, own_family, start_of
from torchglm.model.renewable import Renewable
from torchglm.rows.responses import Response, each, filled

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from torchglm.inputs.roles import RoleValues

Own = TypeVar("Own", bound="GLMLayer")


class GLMLayer(nn.Module):
    """All of a `GLMHead` but `fit`: linear predictor, mean, law, loss, and learning from a stream."""

    weight: nn.Parameter
    bias: nn.Parameter | None
    log_dispersion: Tensor  # a parameter where it is learned, else a buffer; not finite while nobody knows it
    online: Renewable | None = None  # what `partial_fit` has learned so far

    def __init__(
        self,
        in_features: int,
        family: str | Family,
        link: str | Link | None = None,
        out_features: int = 1,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        predictors: str | Sequence[str] = (),
        dispersion: str | float | None = None,
    ) -> None:
        super().__init__()
        if predictors:
            raise ValueError(f"{type(self).__name__} has one linear predictor. Use GLMHead for predictors=.")
        self.in_features, self.out_features = in_features, out_features
        precise = wide(torch.get_default_dtype() if dtype is None else dtype)
        self.family = own_family(families.get(family), out_features).to(dtype=precise)
        self.link = self.family.head_link if link is None else links.get(link)
        self.dispersion_kind = kind_of(dispersion, self.family)
        self.weight = nn.Parameter(torch.empty(out_features, in_features, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype)) if bias else None
        start = start_of(self.dispersion_kind, self.family)
        phi = torch.full((out_features,) if out_features > 1 else (), start, device=device, dtype=precise)
        if self.dispersion_kind == "learned":
            self.log_dispersion = nn.Parameter(phi)
        else:
            self.register_buffer("log_dispersion", phi)
        # the form of the loss, once and for all: the whole density where something of it beside the mean is learned
        self.whole_density = self.dispersion_kind == "learned" or self.family.estimates_shape
        self.continuation = Continuation(self.family, self.link)
        if device is not None:
            self.family = self.family.to(device=device)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Go back to the null model: the mean is 1 for every row, 1/2 for proportions, 0 for `mu = eta` on the line.

        Without a bias each weight holds that start, which is the null model of a one-hot `x` and a valid one
        where the entries of `x` are positive.
        """
        start = (
            0.0
            if type(self.link) is links.Identity and self.family.mean_lower < 0
            else (float(self.link.link(torch.tensor(self.family.inner_mean, dtype=torch.float64))))
        )
        with torch.no_grad():
            self.weight.fill_(start if self.bias is None else 0.0)
            if self.bias is not None:
                self.bias.fill_(start)

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
    def coef(self) -> Tensor:
        """The coefficients `(out_features, p)` in float64, the bias first, as a copy without its graph."""
        bias = [] if self.bias is None else [self.bias.detach().unsqueeze(-1)]
        return torch.cat([*bias, self.weight.detach()], -1).double()

    @torch.no_grad()
    def set_coef_(self, coef: Tensor) -> None:
        """Put coefficients `(out_features, p)`, or `(p,)` for one response, the bias first, into `weight` and `bias`.

        Raises `ValueError` for another shape.
        """
        bias = int(self.bias is not None)
        wanted = (self.out_features, self.in_features + bias)
        if coef.shape != wanted and (self.out_features > 1 or coef.shape != wanted[1:]):
            raise ValueError(
                f"the coefficients have shape {tuple(coef.shape)}, this head takes {wanted} (responses, columns"
                f"{', the bias first' if bias else '; it has no bias'}). Make the head with those sizes."
            )
        coef = coef.reshape(wanted)
        for name, value in (("weight", coef[:, bias:]), ("bias", coef[:, 0]))[: 1 + bias]:
            held = self._parameters.get(name)
            if held is not None:
                held.copy_(value)
            elif name in getattr(self, "parametrizations", {}):
                setattr(self, name, value.to(getattr(self, name)))  # by the right inverse of what makes it
            else:
                raise ValueError(
                    f"the {name} of this head is made by a hook (torch.nn.utils.weight_norm, prune), so that nothing "
                    "can be put there. Use torch.nn.utils.parametrizations, or remove the hook first."
                )

    def linear_predictor(self, x: Tensor, offset: Tensor | None = None) -> Tensor:
        """`eta = x weight' + bias + offset`, shape `(*N, out_features)`, in float32 or wider.

        Raises `ValueError` where `x` or `offset` has another shape.
        """
        self._check_columns(x)
        with no_autocast(x):
            return self._eta(x, offset)

    def _eta(self, x: Tensor, offset: Tensor | None) -> Tensor:
        if "weight" not in self._parameters:
            make_weight(self, x)
        dtype = wide(self.weight.dtype)
        bias = None if self.bias is None else self.bias.to(dtype)
        eta = nn.functional.linear(x.to(dtype), self.weight.to(dtype), bias)
        return eta if offset is None else eta + self.per_response(offset, eta, "offset")

    def forward(self, x: Tensor, offset: Tensor | None = None) -> Tensor:
        self._check_columns(x)
        with no_autocast(x):  # one region for both: torch.export cannot load one in which nothing is computed
            return self.link(self._eta(x, offset))

    def _check_columns(self, x: Tensor) -> None:
        if x.dim() == 0 or x.shape[-1] != self.in_features:
            raise ValueError(
                f"x has shape {tuple(x.shape)}, this head in_features={self.in_features}. "
                f"Pass x of shape (..., {self.in_features})."
            )

    def distribution(self, x: Tensor, offset: Tensor | None = None) -> distributions.Distribution:
        """The distribution of the response given `x`, batch shape `(*N, out_features)`, made from `eta`.

        Raises `ValueError` while the dispersion is to be estimated and has not been.
        """
        phi = self.log_dispersion
        if values_are_known() and not phi.is_meta and not bool(torch.isfinite(phi).all()):
            raise ValueError(
                f"the dispersion of this {self.family.name} head is not known yet, and its distribution needs it. Call "
                "head.estimate_dispersion_(x, y) on the training rows (LitGLM and head.fit do so by themselves), or "
                "make the head with dispersion='learned' or a number."
            )
        eta, family = self.linear_predictor(x, offset), self.family
        each = {name: value.expand(eta.shape) for name, value in family.shapes.items() if value.dim()}
        with no_autocast(x):
            family = family.with_parameters(each) if each else family
            return family.law(eta, self.link, self.dispersion.to(eta.dtype))

    def loss(self, x: Tensor, y: Tensor, *, reduction: str = "mean", **roles: Unpack[RoleValues]) -> Tensor:
        """The negative log-likelihood, from `eta` so that it stays finite in the tails.

        `y` and the roles are `(*N, out_features)`, a response in each column, or `(*N,)` where there is one response.
        `mean` divides the weighted sum by the sum of the weights (trials and repeats count as weights), `sum` and
        `none` are as in torch. It is divided by the dispersion (by 1 while that is not known). Terms that depend on `y`
        alone are dropped, unless the head was made to learn its dispersion or a shape parameter: then the log-density
        is complete, whatever is frozen later. Beyond the range of the link the loss goes on, see `Continuation`. A row
        of weight zero counts as dropped, whatever it holds; with no row left the loss is 0. Raises `ValueError` for
        other shapes or reductions, an exposure where the link has no rates, and `TypeError` for what is no role.
        """
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}.")
        loss, w = self.weighted_loss(x, y, **roles)
        if reduction == "none":
            return loss
        return loss.sum() if reduction == "sum" else loss.sum() / some(w.sum())

    def weighted_loss(self, x: Tensor, y: Tensor, **roles: Unpack[RoleValues]) -> tuple[Tensor, Tensor]:
        """`w nll / phi` of each row and `w` (with trials and repeats), `(*N, out_features)`: what `loss` adds up."""
        return self._weighted_loss(x, y, roles, self._phi())

    def training_loss(self, x: Tensor, y: Tensor, **roles: Unpack[RoleValues]) -> tuple[Tensor, Tensor]:
        """`weighted_loss` on a scale that stays: a dispersion that is estimated afterwards counts as 1 in it."""
        return self._weighted_loss(x, y, roles, None if self.dispersion_kind == "estimated" else self._phi())

    @property
    def loss_is_plain(self) -> bool:
        """Whether `training_loss` is `w nll`: no dispersion divides it, and no constant is added."""
        divided = self.family.has_dispersion and self.dispersion_kind != "estimated"
        return not self.whole_density and not (divided and bool((self.log_dispersion != 0).any()))

    def _phi(self) -> Tensor | None:
        """What divides the loss; None where it is 1, of a family without dispersion."""
        if not self.family.has_dispersion:
            return None
        return torch.where(torch.isfinite(self.log_dispersion), self.log_dispersion, 0.0).exp()

    def _weighted_loss(self, x: Tensor, y: Tensor, roles: RoleValues, phi: Tensor | None) -> tuple[Tensor, Tensor]:
        beside = Roles.of(roles, "the loss of a head")
        beside.check_link(self.link)
        dropped = dropped_rows(beside)
        eta = self.linear_predictor(x if dropped is None else without(x, dropped), beside.shift())
        with no_autocast(x):
            beside = beside.map(lambda name, value: self.per_response(value, eta, name))
            y = self.per_response(y, eta, "y")
            if dropped is not None and beside.weight is not None:
                used = beside.weight > 0
                y, beside = beside.readable(y, used)
                eta = torch.where(used, eta, self.link.link(torch.full_like(eta, self.family.inner_mean)))
            response, factor = self.family.encode(y, **beside.of_response)
            w = torch.ones_like(eta) if beside.weights is None else beside.weights
            w = w if factor is None else w * factor
            if beside.freq is None:
                return self._row_loss(response, eta, w, phi), w
            once = self._row_loss(response, eta, torch.where(beside.freq > 0, w, 0.0), phi)
            return once * beside.freq, w * beside.freq

    def _row_loss(self, y: Response, eta: Tensor, w: Tensor, phi: Tensor | None) -> Tensor:
        y = filled(y, w > 0, 1.0)  # in the support of every family: what is dropped may hold anything
        y = each(y, lambda part: part.unsqueeze(-1))
        eta, w = eta.unsqueeze(-1), w.unsqueeze(-1)  # shape parameters of (out_features,) fit
        phi = None if phi is None else phi.to(eta.dtype).unsqueeze(-1)
        return self._log_density_loss(y, eta, w, phi).squeeze(-1)

    def _log_density_loss(self, y: Response, eta: Tensor, w: Tensor, phi: Tensor | None) -> Tensor:
        nll = self.continuation.nll(self.family, self.link, y, eta)
        if not self.whole_density:
            return w * nll if phi is None else w * nll / phi
        half = nll - self.family.nll_saturated(y)
        if phi is not None:
            base = self.family.log_base(y, phi / torch.where(w > 0, w, 1.0))
            return w * half / phi - torch.where(w > 0, base, 0.0)
        return w * (half - self.family.log_base(y, torch.ones_like(eta)))

    def per_response(self, value: Tensor, eta: Tensor, name: str) -> Tensor:
        """`value` in the shape of `eta`; a missing last dimension of one response is added, nothing is broadcast.

        Of several responses all but `y` may be one column, `(*N,)` or `(*N, 1)`.
        """
        if value.shape == eta.shape:
            return value.to(eta.dtype)
        if value.shape == eta.shape[:-1] and (name != "y" or self.out_features == 1):
            return value.to(eta.dtype).unsqueeze(-1).expand_as(eta)
        if name != "y" and value.shape == (*eta.shape[:-1], 1):
            return value.to(eta.dtype).expand_as(eta)
        turned = " Responses in rows, (R, n), are what fit(x, y) takes." if value.shape == eta.mT.shape[-2:] else ""
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}, the linear predictor {tuple(eta.shape)}. "
            f"Pass {name} of shape {tuple(eta.shape)}"
            + (f" or {tuple(eta.shape[:-1])}." if self.out_features == 1 else ", a response in each column.")
            + turned
        )

    @torch.no_grad()
    def partial_fit(self, x: Any, y: Any = None, *, forgetting: float = 1.0, **roles: Unpack[RoleValues]) -> Renewable:
        """Learn from one more minibatch of a stream into `weight` and `bias`, for one response; see `Renewable`.

        The one argument may be a `GLMBatch` or a dict of its names. What is returned has the standard errors; it stays
        in `online`, which is no part of the state_dict: save its own, and set `online = None` to begin anew.
        """
        if self.out_features != 1:
            raise ValueError(f"partial_fit learns one response, this head has {self.out_features}. Use one head each.")
        if self.online is None:
            self.online = Renewable(self.family, self.link, self.in_features, self.bias is not None)
        self.online.forgetting = forgetting
        if not self.online.update(x, y, **roles).nobs:
            return self.online
        self.set_coef_(self.online.coef)
        if self.family.has_dispersion and bool(self.online.dispersion > 0):
            self.set_dispersion_(self.online.dispersion)
        return self.online

    @torch.no_grad()
    def load(self, fitted: Fitted) -> None:
        """Take weight, bias, dispersion and shape of a fit; aliased coefficients are zero.

        Raises `ValueError` for a fit of other sizes, or with an intercept where this head has no bias.
        """
        intercept = fitted.added_intercept
        if intercept != (self.bias is not None):
            raise ValueError(
                f"the fit has {'an' if intercept else 'no'} intercept, this head bias={self.bias is not None}. "
                f"Make the head with bias={intercept}."
            )
        coef = fitted.coef.reshape(-1, len(fitted.names))
        self.set_coef_(torch.where(torch.isfinite(coef), coef, 0.0))
        self.set_shapes_(fitted.family)
        phi, unknown = fitted.flat.dispersion, math.inf if self.family.has_dispersion else 0.0
        self.log_dispersion.copy_(torch.where(phi > 0, phi.log(), unknown).reshape(self.log_dispersion.shape))

    @classmethod
    def of(cls: type[Own], fitted: Fitted) -> Own:
        """The head of a fit; a batch gives one response for each model."""
        refuse_beside(fitted)
        first, like = fitted.added_intercept, fitted.flat.coef
        columns, models = len(fitted.names) - int(first), fitted.batch_shape.numel()
        head = cls(columns, fitted.family, fitted.link, models, first, like.device, like.dtype)
        head.load(fitted)
        return head

    def options_of_fit(self, x: Any) -> dict[str, Any]:
        """What `torchglm.fit` is told of this head."""
        given = self.dispersion_kind not in ("learned", "estimated") and self.family.has_dispersion
        own = {"dispersion": float(self.dispersion_kind)} if given else {}
        return own | {"family": self.family, "link": self.link, "intercept": self.bias is not None}

    @torch.no_grad()
    def set_shapes_(self, family: Family) -> None:
        """Take the shape parameters of a family of this head's kind: one for each response, or one for all."""
        for name, theirs in family.shapes.items():
            mine = getattr(self.family, name)
            mine.copy_(theirs.reshape(mine.shape) if theirs.numel() == mine.numel() else theirs.expand_as(mine))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> GLMLayer:
        """Go to a device or dtype; the dispersion stays float32 at least, as the arithmetic does."""
        super()._apply(fn, recurse)
        if torch.finfo(self.log_dispersion.dtype).bits < 32:
            narrow = self.log_dispersion
            if isinstance(narrow, nn.Parameter):
                narrow.data = narrow.data.float()
            else:
                self.log_dispersion = narrow.float()
        return self

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


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
    """Autocast off where it could be on: there is none on the meta device."""
    kind = x.device.type
    return nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False)


def some(total: Tensor) -> Tensor:
    """A sum of weights to divide by: 1 where there is no row, whose loss is 0."""
    return torch.where(total > 0, total, 1.0)


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type to calculate in: float32 or wider."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
