"""The layer behind a `GLMHead` whose family has several linear predictors: classes, dispersions, zeros, times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, distributions, nn

from torchglm import families
from torchglm.families import Family
from torchglm.families.several import Classes, Ordinal, VectorFamily, of_predictors
from torchglm.inference.fitted import Fitted
from torchglm.inputs import check_predictors
from torchglm.links import Identity, Link
from torchglm.model.eta_loss import default_device, no_autocast, wide
from torchglm.model.layer import GLMLayer
from torchglm.model.vector_beyond import harmless
from torchglm.model.vector_eta_loss import VectorEtaLoss
from torchglm.model.vector_parts import (
    Shape,
    is_ordered,
    law,
    of_a_law,
    ordered,
    plan_of,
    plan_of_fit,
    unordered,
)
from torchglm.rows.plan import Plan
from torchglm.writing.answering import answering_init, answering_methods

if TYPE_CHECKING:
    pass

Own = TypeVar("Own", bound="VectorLayer")


@answering_methods
@answering_init
class VectorLayer(VectorEtaLoss, GLMLayer):
    """A `GLMHead` of a family of several predictors, which `GLMHead` makes: classes, dispersions, zeros, times.

    `predictors(x)` is `(K, *N, out_features)`, in the order of `head.family.predictors`. Calling the head gives the
    mean `(*N, out_features)`, of classes their probabilities `(*N, out_features, C)`; `parameter("dispersion", x)` what
    another predictor stands for. All but the first have a constant alone unless `predictors=` names them; the logits of
    a multinomial and the cuts of an ordinal model are one first predictor, which has all columns. `loss` is minus the
    whole log-density: prior weights divide a dispersion that has a predictor, and multiply elsewhere. Classes are codes
    0, 1, ... in `loss`; a head that was not told how many, `GLMHead(3, "ordinal")`, has its parameters after `fit`,
    `init_from` or `know_classes`.

    `weight` is `(out_features, R, in_features)`: a row for each predictor that has columns, one for all of them where
    slopes are shared (an ordinal model's enter with a minus). `bias` is `(out_features, C)`, the constants of the
    predictors; of a cumulative ordinal model the first threshold, and what `softplus` makes the gaps above it of, so
    that thresholds are in order whatever is trained.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    slopes: Tensor | None  # (K, R) how the rows of the weight enter the predictors; None for each its own
    tops: Tensor  # (K, C) how the constants do
    mask: Tensor | None  # (R, in_features) which of the weight is used; None where all of it is

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
        plan: Plan | None = None,
    ) -> None:
        nn.Module.__init__(self)
        if dispersion is not None:
            raise ValueError("the law of this head has a predictor for its dispersion. Leave dispersion= out.")
        dtype = torch.get_default_dtype() if dtype is None else dtype
        own = default_device(device)
        with torch.device("cpu"):  # numbers are told of a family, whatever device it goes to
            known = families.get(family)
            if isinstance(known, VectorFamily) and plan is None and link is None:
                known = known.for_heads()
            chosen = known.head_link if link is None and not isinstance(known, VectorFamily) else link
            self.set_predictors(of_predictors(known, chosen), own, dtype)
            self.named = (predictors,) if isinstance(predictors, str) else tuple(predictors)
            check_predictors(dict.fromkeys(self.named), self.family)
            self.in_features, self.out_features, self.intercept, self.plan = in_features, out_features, bias, plan
            self._like = torch.empty(0, device=own, dtype=dtype)
            self.register_parameter("weight", None)
            self.register_parameter("bias", None)
            if not isinstance(self.family, Classes) or self.family.classes is not None:
                self._make()

    def _make(self) -> None:
        """Make the parameters, once the predictors are known."""
        like, out = self._like, self.out_features
        if self.plan is None:
            self.plan = plan_of(self.family, self.in_features, self.intercept, self.named)
        self.shape = Shape.of(self.plan)
        self.weight = nn.Parameter(like.new_empty(out, self.shape.height, self.in_features))
        constants = len(self.shape.constants)
        self.bias = nn.Parameter(like.new_empty(out, constants)) if constants else None
        exact = like.new_empty(0, dtype=wide(like.dtype))
        mask, slopes = self.shape.used(self.in_features), self.shape.slopes
        held = {"mask": mask, "slopes": None if slopes is None else slopes.to(exact), "tops": self.shape.tops.to(exact)}
        for name, value in held.items():
            if value is None:
                setattr(self, name, None)  # torch.export takes no buffer that is None
            else:
                self.register_buffer(name, value.to(like.device), persistent=False)
        self.reset_parameters()

    def know_classes(self, classes: list[Any]) -> None:
        """Make the parameters for these classes, where the head did not know its own.

        Raises `ValueError` where it knows others.
        """
        if not isinstance(self.family, Classes) or self.family.classes == classes:
            return
        if self.family.classes is not None:
            raise ValueError(
                f"the classes are {classes}, those of this head {self.family.classes}. Make the head with those."
            )
        self.family = self.family.of_classes(classes).to(self._like.device)
        self._make()

    def reset_parameters(self) -> None:
        """Go back to slopes of 0 and a law for every row: even classes, a mean of 1 or 1/2, all else at 0."""
        self.know()
        with torch.no_grad():
            self.weight.zero_()
            self.set_constants_(self.even_predictors())

    def even_predictors(self) -> Tensor:
        """(K,) the predictors where every class is as likely, a mean is 1 or 1/2, and all else 0."""
        start = torch.zeros(len(self.family.predictors), dtype=torch.float64)
        if isinstance(self.family, Classes):
            return harmless(self.family, torch.zeros(()), start)
        if not isinstance(self.link, Identity):
            start[0] = float(self.link.link(torch.tensor(self.family.inner_mean, dtype=torch.float64)))
        return start

    @torch.no_grad()
    def set_constants_(self, eta: Tensor) -> None:
        """Begin where the predictors are `eta`, `(K,)` or `(out_features, K)`, wherever `x` is 0; without bias, not."""
        if self.bias is None:
            return
        own = torch.linalg.lstsq(self.shape.tops, eta.reshape(-1, len(self.shape.tops)).double().mT.cpu()).solution.mT
        self.bias.copy_((unordered(own) if self.keeps_order else own).expand_as(self.bias))

    @property
    def keeps_order(self) -> bool:
        """Whether the bias holds the constants in a form in which they are in order, whatever it is."""
        return is_ordered(self.family)

    @property
    def constants(self) -> Tensor | None:
        """(out_features, C) the constants of the predictors: of an ordinal model its thresholds. None without any."""
        if self.bias is None:
            return None
        bias = self.bias.to(wide(self.bias.dtype))
        return ordered(bias) if self.keeps_order else bias

    @property
    def thresholds(self) -> Tensor:
        """(out_features, C - 1) the thresholds of an ordinal model, in order where it is cumulative.

        Raises `ValueError` for another family.
        """
        self.know()
        found = self.constants
        if not isinstance(self.family, Ordinal) or found is None:
            raise ValueError(f"thresholds are those of an ordinal model; this head is {self.family.name}.")
        return found

    @property
    def coef(self) -> Tensor:
        """The coefficients `(out_features, P)` in float64 and in the order of a fit, as a copy without its graph."""
        self.know()
        out = torch.zeros(self.out_features, self.plan_columns, dtype=torch.float64, device=self.weight.device)
        shape, constants = self.shape, self.constants
        out[:, shape.places] = self.weight.detach().double()[:, shape.rows, shape.columns]
        if constants is not None:
            out[:, shape.constants] = constants.detach().double()
        return out

    @property
    def plan_columns(self) -> int:
        """The number P of coefficients."""
        assert self.plan is not None
        return self.plan.columns

    @torch.no_grad()
    def set_coef_(self, coef: Tensor) -> None:
        """Put coefficients `(out_features, P)`, or `(P,)` for one response, in the order of a fit, into the head.

        Raises `ValueError` for another shape.
        """
        self.know()
        wanted = (self.out_features, self.plan_columns)
        if coef.shape != wanted and (self.out_features > 1 or coef.shape != wanted[1:]):
            raise ValueError(
                f"the coefficients have shape {tuple(coef.shape)}, this head takes {wanted} (responses, coefficients "
                "of all predictors). Make the head with those sizes."
            )
        coef, shape = coef.reshape(wanted).double(), self.shape
        weight = torch.zeros_like(self.weight, dtype=torch.float64)
        weight[:, shape.rows, shape.columns] = coef[:, shape.places]
        self.weight.copy_(weight)
        if self.bias is not None:
            constants = coef[:, shape.constants]
            self.bias.copy_(unordered(constants) if self.keeps_order else constants)

    # what it says of x -------------------------------------------------------------------------------------

    def predictors(self, x: Tensor, offset: Tensor | None = None) -> Tensor:
        """The linear predictors `(K, *N, out_features)`, in float32 or wider, in the order of `family.predictors`.

        Raises `ValueError` where `x` or `offset` has another shape, and while classes are not known.
        """
        self.know()
        self._check_columns(x)
        with no_autocast(x):
            return self._predictors(x, offset)

    def linear_predictor(self, x: Tensor, offset: Tensor | None = None) -> Tensor:
        """`predictors`."""
        return self.predictors(x, offset)

    def _predictors(self, x: Tensor, offset: Tensor | None) -> Tensor:
        dtype = wide(self.weight.dtype)
        weight = self.weight if self.mask is None else torch.where(self.mask, self.weight, 0.0)
        inner = nn.functional.linear(x.to(dtype), weight.to(dtype).flatten(0, 1))
        inner = inner.unflatten(-1, (self.out_features, -1)).movedim(-1, 0)  # (R, *N, out)
        eta = inner if self.slopes is None else torch.tensordot(self.slopes.to(dtype), inner, 1)
        constants = self.constants
        if constants is not None:
            own = self.tops.to(dtype) @ constants.mT  # (K, out)
            eta = eta + own.reshape(len(own), *[1] * (x.dim() - 1), self.out_features)
        if offset is None:
            return eta
        shifts = self.family.shifts().to(eta).reshape(-1, *[1] * x.dim())
        return eta + shifts * self.per_response(offset, eta[0], "offset")

    def forward(self, x: Tensor, offset: Tensor | None = None) -> Tensor:
        """The mean `(*N, out_features)`; for classes their probabilities `(*N, out_features, C)`."""
        self.know()
        self._check_columns(x)
        with no_autocast(x):
            eta = of_a_law(self.family, self._predictors(x, offset))
            mean = self.family.mean(eta)
            if isinstance(self.family, Classes):  # a row that is not known has no probabilities
                mean = torch.where(eta.isnan().any(0), torch.nan, mean).movedim(0, -1)
        return mean

    def parameter(self, name: str, x: Tensor, offset: Tensor | None = None) -> Tensor:
        """A parameter of the law by the name of its predictor, `(*N, out_features)`: a dispersion, a probability of 0.

        Raises `ValueError` for a name that is no predictor.
        """
        self.know()
        if name not in self.family.predictors or isinstance(self.family, Classes):
            known = "none, call the head for probabilities" if isinstance(self.family, Classes) else None
            raise ValueError(
                f"{name!r} is no parameter of {self.family.name}. Known: {known or ', '.join(self.family.predictors)}."
            )
        eta = self.predictors(x, offset)
        with no_autocast(x):
            return self.family.parameter(name, eta[self.family.predictors.index(name)])

    def distribution(self, x: Tensor, offset: Tensor | None = None) -> distributions.Distribution:
        """The distribution of the response given `x`, batch shape `(*N, out_features)`; of classes that of their codes.

        Raises `ValueError` for a family whose law torch does not know.
        """
        eta = self.predictors(x, offset)
        with no_autocast(x):
            return law(self.family, eta)

    # what it takes from a fit ------------------------------------------------------------------------------

    @torch.no_grad()
    def load(self, fitted: Fitted) -> None:
        """Take the coefficients of a fit of these predictors; aliased ones are zero.

        Raises `ValueError` for a fit of other predictors, classes or sizes.
        """
        if not isinstance(fitted.family, VectorFamily) or type(fitted.family) is not type(self.family):
            raise ValueError(f"the fit is {fitted.family.name}, this head {self.family.name}. Make the head with that.")
        if isinstance(fitted.family, Classes):
            self.know_classes(fitted.family.known)
        assert fitted.plan is not None
        theirs = Shape.of(plan_of_fit(fitted, fitted.plan)[0])
        if theirs.tops.shape != self.shape.tops.shape or len(theirs.places) != len(self.shape.places):
            raise ValueError(
                f"the fit has {fitted.plan.columns} coefficients of its predictors, this head {self.plan_columns}. "
                "Make the head with the same predictors= and bias=."
            )
        coef = fitted.flat.coef
        self.set_coef_(torch.where(torch.isfinite(coef) & fitted.flat.keep, coef, 0.0))
        self.set_shapes_(fitted.family)

    def options_of_fit(self, x: Any) -> dict[str, Any]:
        """What `torchglm.fit` is told of this head: `x` holds the columns of all predictors that have some."""
        own = x if not isinstance(x, str) else f"~ {x.partition('~')[2]}"
        intercept = self.intercept or isinstance(x, str)
        return {"family": self.family, "predictors": dict.fromkeys(self.named, own), "intercept": intercept}

    @classmethod
    def of(cls: type[Own], fitted: Fitted) -> Own:
        """The head of a fit of several predictors.

        It takes the columns of all of them side by side, those of the first in front: of a formula the columns of its
        design, `result.spec.design(table).numbers`.
        """
        assert fitted.plan is not None
        plan, columns = plan_of_fit(fitted, fitted.plan)
        like, models = fitted.flat.coef, fitted.batch_shape.numel()
        head = cls(columns, fitted.family, None, models, True, like.device, like.dtype, plan=plan)
        head.load(fitted)
        return head

    def estimate_dispersion_(self, x: Any, y: Any, **roles: Any) -> Tensor:
        """Not for several predictors: raises `ValueError`."""
        raise ValueError("the dispersion of this head has a predictor, which is trained with the others.")

    def partial_fit(self, x: Any, y: Any = None, **options: Any) -> Any:
        """Not for several predictors: raises `ValueError`."""
        raise ValueError(f"partial_fit learns one linear predictor, {self.family.name} has several. Use loss or fit.")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> VectorLayer:
        nn.Module._apply(self, fn, recurse)
        self._like = fn(self._like)
        return self
