"""CANN: a network that corrects a generalised linear model on the scale of its link."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchglm.families import Family
from torchglm.families.several import Classes, VectorFamily
from torchglm.fitting.irls import irls
from torchglm.fitting.kernel import fold
from torchglm.fitting.moments import Point
from torchglm.inference.fitted import Fitted
from torchglm.inputs import LoaderRows
from torchglm.model.face import GLMHead, Result, VectorHead
from torchglm.model.head_rows import check_some, plan_of_head, rows_of_batches
from torchglm.model.network import Features, evaluating
from torchglm.rows.planned import predictors
from torchglm.rows.products import linear_predictor
from torchglm.rows.ranks import seen
from torchglm.rows.rows import Rows, to_float64, without_columns
from torchglm.writing.answering import answering_init
from torchglm.writing.short import Short


@answering_init
class CANN(nn.Module, metaclass=Short):
    """A combined actuarial neural network: `eta = eta_glm(x) + network(x)`, the last layer of the network at zero.

    So it begins as the GLM it is given, a `Result` or a `GLMHead`, and training finds what that has missed. `network`
    is an `nn.Sequential` that ends in `nn.Linear`, whose place a head takes; or with `features=` any module that puts
    out so many, `(*N, features)`, for which a last layer is made. All predictors of a law are corrected. `x` is what
    both take, or a pair of what the GLM takes (its columns) and what the network takes.

    With `frozen=False` the GLM is trained as well. It is a network with a `.backbone` and a `.head`, whatever trains
    those trains it: `LitGLM`, `nn.WithLoss`, loops around `cann.head.loss(cann.backbone(x), y, **roles)`. After
    training `refit_(cann, loader)` fits the last layer exactly, so that with the canonical link and a bias the means
    add up to the responses again, as those of a GLM do.
    Of a fit with random effects it takes the fixed ones. Raises `ValueError` for a network whose last layer is not
    known or of another size, and for a fit with absorbed factors.
    Source: Schelldorfer & Wuthrich (2019), Nesting classical actuarial models into neural networks; Wuthrich & Merz
    (2023), Statistical Foundations of Actuarial Learning, section 7.
    """

    def __init__(
        self, glm: Fitted | GLMHead, network: nn.Module, *, features: int | None = None, frozen: bool = True
    ) -> None:
        super().__init__()
        if not isinstance(glm, (Fitted, GLMHead)):
            raise TypeError(f"glm must be a fit of torchglm.fit or a GLMHead, got {type(glm).__name__}.")
        base = Result.of(glm).head if isinstance(glm, Fitted) else copy.deepcopy(glm)
        plan_of_head(base)  # classes that are not known are told now
        family = copy.deepcopy(base.family)  # what it learns beside its coefficients the head goes on to learn
        for name, parameter in base.named_parameters():
            parameter.requires_grad_(not frozen and name in ("weight", "bias"))
        if not isinstance(base, VectorHead):
            base.family = base.family.fixed()
        body, last = _parted(network, features)
        self.backbone = BesideGLM(base, body)
        self.head = _head(base, family, last, last.weight if isinstance(last, nn.Linear) else _like(body, base))

    @property
    def glm(self) -> GLMHead:
        """The GLM that is corrected."""
        return self.backbone.glm

    def forward(self, x: Any, offset: Tensor | None = None) -> Tensor:
        """The mean `(*N, out_features)`; for classes their probabilities `(*N, out_features, C)`."""
        return self.head(self.backbone(x), offset)

    @torch.no_grad()
    def split(self, loader: Iterable[Any]) -> Split:
        """How the deviance of the rows of a re-iterable loader is split between the GLM and the network."""
        head, coef = self.head, self.head.coef
        with evaluating(self):
            rows = Features(loader, head, self.backbone)
            source = rows_of_batches(head, rows)
            glm, cann = (_sums(source, head, at) for at in (torch.zeros_like(coef), coef))
            plain = LoaderRows(rows, head.family, head.link, True, None, None, plan_of_head(head))
            null = irls(seen(plain, lambda one: without_columns(one, True)), head.family, head.link)
        return Split(2 * null.moments.objective, glm[0], cann[0], glm[1], cann[1])


@dataclass(frozen=True)
class Split:
    """Deviances `(R,)` of the null model (a constant beside the offset), of the GLM, and with the network.

    Of several predictors they are minus twice the log-likelihood. `glm_balance` and `balance` are the sums of the means
    over the sum of the responses, NaN for classes. Prints as a table.
    """

    null: Tensor
    glm: Tensor
    cann: Tensor
    glm_balance: Tensor
    balance: Tensor

    @property
    def by_glm(self) -> Tensor:
        """The share of the null deviance that the GLM explains."""
        return 1 - self.glm / self.null

    @property
    def by_network(self) -> Tensor:
        """The share that the network explains beyond it."""
        return (self.glm - self.cann) / self.null

    def __str__(self) -> str:
        rows = [f"{'':<16}{'deviance':>14}{'explained':>12}{'means / responses':>20}"]
        for k in range(len(self.null)):
            rows.append(f"{'null model':<16}{float(self.null[k]):>14,.1f}{'':>12}{'':>20}")
            for name, deviance, share, balance in (
                ("GLM", self.glm, self.by_glm, self.glm_balance),
                ("with network", self.cann, self.by_glm + self.by_network, self.balance),
            ):
                rows.append(f"{name:<16}{float(deviance[k]):>14,.1f}{float(share[k]):>12.2%}{float(balance[k]):>20.6f}")
        return "\n".join(rows)


def _sums(source: Iterable[Rows], head: GLMHead, coef: Tensor) -> tuple[Tensor, Tensor]:
    """(R,) the deviance at coefficients (R, p), infinite where means are out of range, and the balance."""
    sums = fold(source, Point(coef, before=coef, census=True, curved=False), head.family, head.link)
    check_some(sums.weight)
    deviance = 2 * torch.where(sums.valid, sums.objective, torch.inf)
    if isinstance(head.family, Classes):
        return deviance, torch.full_like(deviance, torch.nan)
    means = torch.zeros_like(deviance)
    for rows in map(to_float64, source):
        if isinstance(head.family, VectorFamily):
            mu = head.family.mean(predictors(rows, coef))
        else:
            mu = head.link(linear_predictor(rows, coef))
        means = means + torch.where(rows.weight > 0, rows.weight * mu, 0.0).sum(-1)
    return deviance, means / sums.response


class BesideGLM(nn.Module):
    """The features of a network, and behind them the predictors of a GLM, `(*N, features + K out_features)`.

    Where both take the same `x`, the network is handed it in the dtype of its parameters.
    """

    def __init__(self, glm: GLMHead, network: nn.Module) -> None:
        super().__init__()
        self.glm, self.network = glm, network

    def forward(self, x: Any) -> Tensor:
        """The columns for a head that carries the last of them."""
        if isinstance(x, (tuple, list)) and len(x) != 2:
            raise ValueError(
                f"x must be a tensor, or a pair of what the GLM and the network take, got {len(x)} values."
            )
        own, other = x if isinstance(x, (tuple, list)) else (x, x)
        if other is own and own.is_floating_point():
            other = own.to(_like(self.network, self.glm).dtype)
        eta = self.glm.linear_predictor(own)
        if isinstance(self.glm, VectorHead):
            eta = eta.movedim(0, -2).flatten(-2)
        return torch.cat([self.network(other), eta], -1)


class CarryingHead(GLMHead):
    """The last layer of a CANN: its predictors are those it makes of the features, and those behind the features."""

    def _eta(self, x: Tensor, offset: Tensor | None) -> Tensor:
        own, eta = x.split([self.in_features, self.carried], -1)
        return super()._eta(own, offset) + eta


class CarryingVectorHead(VectorHead):
    """The same for several predictors, each of which has all features."""

    keeps_order = False  # a correction of thresholds is no threshold

    def _predictors(self, x: Tensor, offset: Tensor | None) -> Tensor:
        own, eta = x.split([self.in_features, self.carried], -1)
        return super()._predictors(own, offset) + eta.unflatten(-1, (-1, self.out_features)).movedim(-2, 0)


def _parted(network: nn.Module, features: int | None) -> tuple[nn.Module, nn.Linear | int]:
    """What comes before the last layer, and that, or its features. Raises `ValueError` where it is not known."""
    if not isinstance(network, nn.Module):
        raise TypeError(f"network must be an nn.Module, got {type(network).__name__}.")
    if features is not None:
        if isinstance(features, bool) or not isinstance(features, int) or features < 1:
            raise ValueError(f"features must be the number that the network puts out, 1 or more, got {features!r}.")
        return network, features
    if isinstance(network, nn.Linear):
        return nn.Identity(), network
    if isinstance(network, nn.Sequential) and len(network) and isinstance(network[-1], nn.Linear):
        return network[:-1], network[-1]
    raise ValueError(
        f"the last layer of {type(network).__name__} is not known. Pass an nn.Sequential that ends in nn.Linear, or "
        "what comes before the last layer with features=, the number it puts out."
    )


def _head(glm: GLMHead, family: Family, last: nn.Linear | int, like: Tensor) -> GLMHead:
    """A head at zero in the place of a last layer. Raises `ValueError` for a layer of another size."""
    bias, columns = (True, last) if isinstance(last, int) else (last.bias is not None, last.in_features)
    made: dict[str, Any] = {"out_features": glm.out_features, "bias": bias, "device": like.device, "dtype": like.dtype}
    head: GLMHead
    if isinstance(glm, VectorHead):
        head = CarryingVectorHead(columns, family, predictors=glm.family.others, **made)
    else:
        kind = glm.dispersion_kind
        known = kind if kind in ("learned", "estimated") else float(kind)
        head = CarryingHead(columns, family, glm.link, dispersion=known, **made)
        head.log_dispersion.data = glm.log_dispersion.detach().clone()  # in all of its digits
    head.family = family
    rows = head.weight.shape[:-1].numel()
    if isinstance(last, nn.Linear) and last.out_features != rows:
        raise ValueError(
            f"the last layer puts out {last.out_features} numbers, and the GLM has {rows} predictors to correct "
            f"({glm.family.name}, responses: {glm.out_features}). Make it nn.Linear(..., {rows})."
        )
    for parameter in (head.weight, head.bias):
        if parameter is not None:
            nn.init.zeros_(parameter)
    head.carried = glm.out_features * (len(glm.family.predictors) if isinstance(glm.family, VectorFamily) else 1)
    return head


def _like(module: nn.Module, other: nn.Module) -> Tensor:
    """A floating parameter of a module, or where it has none of another."""
    every = (part for one in (module, other) for part in one.parameters() if part.is_floating_point())
    return next(every)
