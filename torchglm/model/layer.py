"""The layer behind `GLMHead`: `nn.Linear` whose link is the activation and whose family is the loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, distributions, nn

from torchglm import families, links
from torchglm.families import Family
from torchglm.inference.fitted import Fitted
from torchglm.inference.origin import refuse_beside
from torchglm.inputs import Roles
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
    without,
)
from torchglm.model.law import EtaLaw
from torchglm.model.made import make_weight
from torchglm.model.renewable import Renewable
from torchglm.special.tracing import apart_from_graphs
from torchglm.writing.answering import answering_init, answering_methods

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from torchglm.inputs.roles import RoleValues

Own = TypeVar("Own", bound="GLMLayer")


@answering_methods
@answering_init
class GLMLayer(EtaLoss):
    """All of a `GLMHead` but `fit`: linear predictor, mean, law, loss, and learning from a stream."""

    weight: nn.Parameter
    bias: nn.Parameter | None
    online: Renewable | None = None  # what `partial_fit` has learned so far
    carried: int = 0  # columns of `x` behind those of the weight: predictors of another model, added as they are

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
        own = default_device(device)
        with torch.device("cpu"):  # numbers are told of a family, whatever device it goes to
            self.set_law(families.get(family), link, dispersion, own, dtype)
            self.weight = nn.Parameter(torch.empty(out_features, in_features, device=own, dtype=dtype))
            self.bias = nn.Parameter(torch.empty(out_features, device=own, dtype=dtype)) if bias else None
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

    def least_loss(self, y: Tensor, **roles: Unpack[RoleValues]) -> Tensor:
        """The mean loss of a model that has every response for its mean: what `loss` is above it is half the deviance.

        `y` and roles are as for `loss`; of heads whose loss is no whole density.
        """
        beside = Roles.of(roles, "least_loss")
        shape = y.shape if self.out_features > 1 or y.shape[-1:] == (1,) else (*y.shape, 1)
        like = torch.zeros(shape, dtype=wide(self.weight.dtype), device=self.weight.device)
        return self.saturated_at(like, y, beside)

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
        columns = self.in_features + self.carried
        check_tensors({"x": x})
        if x.dim() == 0 or x.shape[-1] != columns:
            raise ValueError(
                f"x has shape {tuple(x.shape)}, this head in_features={columns}. Pass x of shape (..., {columns})."
            )

    def distribution(self, x: Tensor, offset: Tensor | None = None) -> distributions.Distribution:
        """The distribution of the response given `x`, batch shape `(*N, out_features)`, made from `eta`.

        Raises `ValueError` while the dispersion is to be estimated and has not been.
        """
        self.know_dispersion()
        eta, family = self.linear_predictor(x, offset), self.family
        each = {name: value.expand(eta.shape) for name, value in family.shapes.items() if value.dim()}
        with no_autocast(x):
            family = family.with_parameters(each) if each else family
            return family.law(eta, self.link, self.dispersion.to(eta.dtype))

    def law(self, x: Tensor, offset: Tensor | None = None, *, trials: Tensor | None = None) -> EtaLaw:
        """The law of the response given `x`, batch shape `(*N, out_features)`, whose log-density is minus the loss.

        It has `log_prob`, `cdf`, `sf`, `icdf`, `interval(0.9)`, `mean`, `variance`, `sample`, `rsample` where draws
        have a gradient, and of classes `probs` `(*N, out_features, C)`. It is made from `eta`: where the mean rounds to
        an end of its range nothing is lost, and a row without a law is NaN beside the others. `trials` are those of
        binomial responses, like `eta`. Raises `ValueError` while the dispersion is to be estimated and has not been.
        """
        eta = self.linear_predictor(x, offset)
        with no_autocast(x):
            like = eta[0] if eta.dim() > x.dim() else eta  # several predictors lead
            return self.law_at(eta, None if trials is None else self.per_response(trials, like, "trials"))

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
        check_reduction(reduction)
        return reduced(*self._weighted_loss(x, y, roles, self._log_phi()), reduction)

    def weighted_loss(self, x: Tensor, y: Tensor, **roles: Unpack[RoleValues]) -> tuple[Tensor, Tensor]:
        """`w nll / phi` of each row and `w` (with trials and repeats), `(*N, out_features)`: what `loss` adds up."""
        return with_weights(*self._weighted_loss(x, y, roles, self._log_phi()))

    def training_loss(self, x: Tensor, y: Tensor, **roles: Unpack[RoleValues]) -> tuple[Tensor, Tensor]:
        """`weighted_loss` on a scale that stays: a dispersion that is estimated afterwards counts as 1 in it."""
        log_phi = None if self.dispersion_kind == "estimated" else self._log_phi()
        return with_weights(*self._weighted_loss(x, y, roles, log_phi))

    def _weighted_loss(
        self, x: Tensor, y: Tensor, roles: RoleValues, log_phi: Tensor | None
    ) -> tuple[Tensor | Closed, Tensor | None]:
        beside = Roles.of(roles, "the loss of a head")
        check_tensors({"y": y} | beside.given)
        beside.check_link(self.link)
        dropped = dropped_rows(beside)
        eta = self.linear_predictor(x if dropped is None else without(x, dropped), beside.shift())
        with no_autocast(x):
            return self.loss_at(eta, y, beside, log_phi, dropped)

    @apart_from_graphs
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

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
