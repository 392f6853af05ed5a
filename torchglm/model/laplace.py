"""Laplace: what the rows of a loader leave open of the last layer of a network, and what follows for new rows."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from torchglm.families.several import Classes, VectorFamily
from torchglm.fitting.irls import evaluate
from torchglm.fitting.kernel import fold
from torchglm.fitting.moments import Point
from torchglm.fitting.penalties import Quadratic
from torchglm.fitting.penalties.base import is_number
from torchglm.fitting.shape import maximise
from torchglm.fitting.status import Status
from torchglm.inference.build import build
from torchglm.inference.predictive import predictive_mean
from torchglm.inputs import GLMBatch, Roles
from torchglm.model.face import Result, VectorHead
from torchglm.model.head_rows import check_some, columns_of_head, plan_of_head, rows_of_batches
from torchglm.model.network import Features, evaluating, split
from torchglm.model.spread import flat_rows
from torchglm.special.tracing import apart_from_graphs
from torchglm.writing.answering import answering_init, answering_methods

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from torchglm.inputs.roles import RoleValues

WEAKEST, STRONGEST = -30.0, 30.0  # logarithms of a strength beside the mean curvature, between which one is looked for


def _checked(strength: Any) -> float | str:
    """The strength of a prior. Raises `ValueError` for what is none."""
    if isinstance(strength, str) and strength == "evidence":
        return strength
    one = strength.item() if isinstance(strength, Tensor) and strength.numel() == 1 else strength
    if not is_number(one) or not 0 <= one < math.inf:
        raise ValueError(f"strength must be a number, at least 0, or 'evidence', got {strength!r}.")
    return float(one)


@answering_methods
@answering_init
class Laplace:
    """The coefficients of a head as normal about where they are, `N(coef, phi (H + strength I)^-1)`.

    `model` is what `refit_` takes, `loader` a re-iterable of the batches it was trained on, read a few times and held
    nowhere. `H` is the information of the rows in the features that the layers before the head make of them, which
    count as known; `strength` is that of the prior on the weight, whose bias is flat: 0, a number, or `"evidence"`, the
    one of the largest evidence for each response. Of a single layer that was fitted `covariance()` is that of its
    `torchglm.Result`. Refitted with `refit_(model, loader, penalty=laplace.penalty)` the head stands at the mode.

    `covariance`, `predict` and `interval` say what is left open of the coefficients, of means and of responses;
    `result` is the head on its features as a `Result`, of which all else can be asked.
    Raises `ValueError` for a model without a head, features that depend on each other without a prior, and a head that
    carries the predictors of a GLM with several predictors.
    Source: MacKay (1992), A practical Bayesian framework for backpropagation networks, Neural Comput. 4(3); Daxberger
    et al. (2021), Laplace redux, NeurIPS.
    """

    @apart_from_graphs
    def __init__(
        self, model: nn.Module, loader: Iterable[Any], *, head: str | None = None, strength: float | str = 0.0
    ) -> None:
        self.model = model
        self.before, self.head = split(model, head)
        if self.head.carried and isinstance(self.head.family, VectorFamily):
            raise ValueError(
                "a CANN whose GLM has several predictors has no Laplace approximation here. Take its head's own."
            )
        strength = _checked(strength)
        with evaluating(model), torch.no_grad():
            source = rows_of_batches(self.head, Features(loader, self.head, self.before))
            self.source, coef = source, self.head.coef
            sums = fold(source, Point(coef, True, before=coef, census=True), self.head.family, self.head.link)
            check_some(sums.weight)
            self._observed = sums.gram
            phi = self._phi(sums.pearson / (sums.count - coef.shape[1]))
            if isinstance(strength, str):
                self.strength = self._of_evidence(coef, phi)
            else:
                self.strength = torch.full_like(sums.weight, float(strength))
            self.result = self._result(coef)
        if not bool(self.result.flat.keep.all()):
            raise ValueError(
                "the features depend on each other, or some are constant: the rows do not tell all coefficients. Give "
                "a prior: strength='evidence', or a number."
            )

    @property
    def penalty(self) -> Quadratic | None:
        """The prior on the weight as a penalty; None where it is flat."""
        if not bool((self.strength > 0).any()):
            return None
        eye = torch.eye(len(self._places), dtype=torch.float64)
        return Quadratic(
            [(self._places, eye)], self.strength if len(self.strength) == 1 else self.strength.unsqueeze(-1)
        )

    def covariance(self, kind: str | None = None) -> Tensor:
        """(P, P) or (R, P, P) the covariance of the coefficients in the order of `head.coef`; `kind` as of a result."""
        return self.result.covariance(kind)

    @property
    def log_evidence(self) -> Tensor:
        """(R,) the logarithm of the evidence at the mode by Laplace, with the observed information.

        `loglik + log prior + P/2 log 2 pi - 1/2 log det((H + strength I) / phi)`; the flat prior of the bias counts 1.
        Raises `ValueError` for a flat prior on the weight, whose evidence has no scale.
        """
        if not bool((self.strength > 0).all()):
            raise ValueError("a flat prior has no evidence. Give a prior: strength='evidence', or a number.")
        flat, weight = self.result.flat, self.result.flat.coef[:, self._places]
        phi, columns = flat.dispersion, flat.coef.shape[1]
        loglik = self.result.loglik.reshape(-1)
        prior = weight.shape[1] / 2 * (self.strength / phi / (2 * math.pi)).log()
        prior = prior - self.strength * weight.square().sum(-1) / (2 * phi)
        bend = (
            torch.linalg.slogdet(self._observed.written_out() + self._prior(self.strength)).logabsdet
            - columns * phi.log()
        )
        return loglik + prior + columns / 2 * math.log(2 * math.pi) - bend / 2

    @apart_from_graphs
    @torch.no_grad()
    def predict(self, x: Any, **roles: Unpack[RoleValues]) -> Tensor:
        """The predictive means `(*N, out_features)` of new rows, of classes probabilities `(*N, out_features, C)`.

        They are means over what is left open of the coefficients. Roles are `offset` and `exposure`.
        """
        rows, shape = self._rows(x, roles)
        mean = predictive_mean(self.result, rows.x, **rows.roles.given)
        classes = isinstance(self.head.family, Classes)
        mean = (
            mean.movedim(-2, 0) if classes and mean.dim() > 2 else mean.mT if mean.dim() == 2 and not classes else mean
        )
        tail = (self.head.out_features, mean.shape[-1]) if classes else (self.head.out_features,)
        return mean.reshape(*shape, *tail)

    @apart_from_graphs
    @torch.no_grad()
    def interval(self, x: Any, level: float = 0.9, **roles: Unpack[RoleValues]) -> tuple[Tensor, Tensor]:
        """The limits `(*N, out_features)` of new responses with this probability within, as much beyond either.

        They hold what is left open of the coefficients, and of a dispersion that was estimated. Roles are `offset`,
        `exposure`, and `weights` and `trials` where the law has them. Raises `ValueError` for classes.
        """
        rows, shape = self._rows(x, roles)
        limits = self.result.predict_interval(rows.x, kind="response", level=level, **rows.roles.given)
        limits = limits.movedim(-1, 0)  # (2, m) or (2, R, m)
        low, high = (limits.mT if limits.dim() == 3 else limits).reshape(2, *shape, self.head.out_features)
        return low, high

    def _rows(self, x: Any, roles: RoleValues) -> tuple[GLMBatch, torch.Size]:
        """New rows with the features of `x`, flat, and their shape (*N)."""
        with evaluating(self.model):
            z = x if self.before is None else self.before(x)
        shape, head = z.shape[:-1], self.head
        beside = Roles.of(roles, "Laplace").given
        rows = flat_rows(
            head,
            GLMBatch(
                z.reshape(1, *z.shape) if z.dim() == 2 else z,
                None,
                **{name: value.reshape(1, *value.shape) if z.dim() == 2 else value for name, value in beside.items()},
            ),
        )
        # a head has its responses in columns (m, R), a batch of fits a model in each row (R, m)
        given = {name: value.mT if value.dim() == 2 else value for name, value in rows.roles.given.items()}
        rows = rows._replace(x=rows.x.double(), **given)
        if not head.carried:
            return rows, shape
        own, eta = rows.x.split([head.in_features, head.carried], -1)
        eta = eta.squeeze(-1) if head.carried == 1 else eta.mT
        return rows._replace(x=own, offset=eta if rows.offset is None else eta + rows.offset), shape

    @property
    def _places(self) -> list[int]:
        """The coefficients of the weight."""
        columns, constants = columns_of_head(self.head)
        return [place for place in range(columns) if place not in constants]

    def _prior(self, strength: Tensor) -> Tensor:
        """(R, P, P) the curvature of the prior for `phi = 1`."""
        size = torch.zeros(columns_of_head(self.head)[0], dtype=torch.float64, device=strength.device)
        size[self._places] = 1.0
        return torch.diag_embed(strength.unsqueeze(-1) * size)

    def _phi(self, pearson: Tensor) -> Tensor:
        """(R,) the dispersion, Pearson's where the head is to estimate it."""
        head = self.head
        if isinstance(head.family, VectorFamily) or not head.family.has_dispersion:
            return torch.ones_like(pearson)
        return pearson if head.dispersion_kind == "estimated" else head.dispersion.detach().double().expand_as(pearson)

    def _of_evidence(self, coef: Tensor, phi: Tensor) -> Tensor:
        """(R,) the strength of the largest evidence at these coefficients: a maximum along the logarithm of it.

        The information enters by the eigenvalues of what the bias leaves of that of the weight.
        """
        places = torch.tensor(self._places, device=coef.device)
        others = torch.tensor([k for k in range(coef.shape[1]) if k not in self._places], device=coef.device).long()
        gram = self._observed.written_out()
        inner, across = gram[:, places][..., places], gram[:, places][..., others]
        inner = inner - across @ torch.linalg.pinv(gram[:, others][..., others], hermitian=True) @ across.mT
        values = torch.linalg.eigvalsh(inner).clamp(min=0)
        unit, square = values.mean(-1).clamp(min=1e-300), coef[:, places].square().sum(-1) / (2 * phi)

        def evidence(log_strength: Tensor) -> Tensor:
            strength = unit * log_strength.exp()
            bend = (values + strength.unsqueeze(-1)).log().sum(-1)
            return len(places) / 2 * strength.log() - strength * square - bend / 2

        return unit * maximise(evidence, torch.zeros_like(unit), WEAKEST, STRONGEST).exp()

    def _result(self, coef: Tensor) -> Result:
        """The head on its features as a result."""
        head, source = self.head, self.source
        several = isinstance(head, VectorHead)
        found = evaluate(source, head.family, head.link, coef, Status.CONVERGED, 0, penalty=self.penalty)
        if several:  # whose covariance is that by the observed information
            ridge = None if self.penalty is None else self._prior(self.strength)
            inverse = self._observed.with_ridge(ridge).invert(found.keep)
            if not bool(inverse.positive.all()):
                raise ValueError("the likelihood does not bend down at the head's coefficients: call refit_ first.")
            found = replace(found, root=inverse.root, moments=replace(found.moments, gram=self._observed))
        names = [f"x{j}" for j in range(coef.shape[1])]
        added = head.bias is not None
        context: dict[str, Any] = {"added": added, "inputs": None, "beside": {}}
        context |= Roles(**dict.fromkeys(source.given, True)).context
        context["offset"] = context["offset"] or ["offset"] * bool(head.carried)
        if isinstance(head, VectorHead):
            first = {f"x{j}": j + 1 for j in range(head.in_features)}
            designs = {"": ({"(Intercept)": 0} if head.intercept else {}) | first}
            designs |= {name: {"(Intercept)": 0} for name in head.family.others}
            context["designs"] = {name: list(own.items()) for name, own in designs.items()}
        fitted = build(
            found,
            source,
            head.family,
            head.link,
            torch.Size() if len(coef) == 1 else torch.Size([len(coef)]),
            names if several or not added else ["(Intercept)", *names[:-1]],
            constant=added,
            penalty=self.penalty,
            dispersion=None,
            tol=1e-8,
            context=context,
            plan=plan_of_head(head),
        )
        if not several and head.family.has_dispersion and head.dispersion_kind != "estimated":
            phi = self._phi(fitted.flat.dispersion)
            fitted = replace(fitted, flat=replace(fitted.flat, dispersion=phi), dispersion_kind="number")
        return Result.of(fitted)
