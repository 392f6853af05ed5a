"""FisherHead: Newton steps of a head by its own information, while another optimizer trains the layers before it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from torchglm.fitting.kernel import fold
from torchglm.fitting.moments import Moments, Point
from torchglm.fitting.penalties import Penalty
from torchglm.inputs import GLMBatch, Roles
from torchglm.model.face import GLMHead
from torchglm.model.head_rows import penalty_on, plan_of_head, rows_of_batches
from torchglm.model.spread import flat_rows
from torchglm.rows.grams import Dense
from torchglm.special.tracing import apart_from_graphs
from torchglm.writing.answering import answering_init

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from torchglm.inputs.roles import RoleValues

HALVINGS = 12
FLAT = (
    1e-10  # share of the largest curvature, of columns of one length, below which a direction is not told by the rows
)


@answering_init
class FisherHead(Optimizer):
    """Damped Newton steps of the weight and the bias of a head: `step(features, y, **roles)` on each minibatch.

    A step is `lr (H + damping diag H)^-1 score`, with the score of the batch and `H` the expected information (of
    several predictors, where that has no closed form, a curvature that is nowhere negative), summed over the batches so
    far with `forgetting`: each earlier one counts that share of the next. The first step on all rows is a step of
    IRLS, and later ones are shorter the more is known; with `forgetting=0` each batch stands for itself. A step that
    does not lower the loss of its batch is halved. `penalty` is on the weight.

    It replaces the gradient of the head alone: the layers before it have theirs from `head.loss(...).backward()` and
    an optimizer of their own, which is not handed the head, and what the head learns beside its coefficients is
    theirs, too. Learning rates follow any scheduler, sums are in the state_dict.
    Raises `ValueError` for a head whose classes are not known, for options that cannot be meant, and for rows as
    `refit_` does.
    Source: Amari (1998), Natural gradient works efficiently in learning, Neural Comput. 10(2); Marquardt (1963), J.
    SIAM 11(2).
    """

    def __init__(
        self,
        head: GLMHead,
        lr: float = 1.0,
        *,
        damping: float = 0.0,
        forgetting: float = 0.9,
        penalty: Penalty | None = None,
    ) -> None:
        if not lr > 0 or not damping >= 0 or not 0 <= forgetting <= 1:
            raise ValueError(
                f"lr must be above 0, damping at least 0 and forgetting within [0, 1]; got lr={lr}, damping={damping}, "
                f"forgetting={forgetting}."
            )
        plan_of_head(head)  # classes that are not known are told now
        self.head, self.penalty = head, penalty_on(head, penalty)
        if self.penalty is not None and not self.penalty.smooth:
            raise ValueError("FisherHead takes steps along a slope, and an l1 penalty has none at zero. Use Ridge.")
        parameters = [part for part in (head.weight, head.bias) if part is not None]
        super().__init__(parameters, {"lr": lr, "damping": damping, "forgetting": forgetting})

    def __getstate__(self) -> dict[str, Any]:
        """What a copy is made of: the head goes with it, as its parameters do."""
        state: dict[str, Any] = super().__getstate__()
        return state | {"head": self.head, "penalty": self.penalty}

    @apart_from_graphs
    @torch.no_grad()
    def step(self, x: Tensor, y: Tensor, **roles: Unpack[RoleValues]) -> Tensor:  # type: ignore[override]
        """Take a step on features `x` (*N, in_features), `y` and roles as for `head.loss`.

        Returns (R,) the mean loss before it: half the mean deviance; of several predictors the mean negative
        log-likelihood.
        """
        head, group = self.head, self.param_groups[0]
        batch = flat_rows(head, GLMBatch(x.detach(), y, **Roles.of(roles, "FisherHead.step").given))
        source, coef = rows_of_batches(head, [batch]), head.coef
        sums = fold(source, Point(coef, before=coef, census=True), head.family, head.link)
        if not bool((sums.weight > 0).all()):
            return torch.zeros_like(sums.weight)
        before = self._objective(sums, coef)
        score = sums.score if self.penalty is None else sums.score - self.penalty.slope(coef, sums.weight)
        move = group["lr"] * _solved(self._information(sums, coef), score, group["damping"])
        for _ in range(HALVINGS):
            head.set_coef_(coef + move)
            point = Point(head.coef, before=head.coef, census=True, curved=False)
            good = self._objective(fold(source, point, head.family, head.link), head.coef) <= before
            if bool(good.all()):
                break
            move = torch.where(good.unsqueeze(-1), move, move / 2)
        else:
            head.set_coef_(torch.where(good.unsqueeze(-1), coef + move, coef))
        return before / sums.weight

    def _information(self, sums: Moments, coef: Tensor) -> Tensor:
        """(R, P, P) the information of the batches so far, and the curvature of the penalty."""
        state = self.state[self.param_groups[0]["params"][0]]
        gram = sums.gram.written_out()
        if "information" in state:
            gram = gram + self.param_groups[0]["forgetting"] * state["information"].to(gram)
        state["information"] = gram
        return gram if self.penalty is None else Dense(gram).with_ridge(self.penalty.ridge(coef, sums.weight)).matrix

    def _objective(self, sums: Moments, coef: Tensor) -> Tensor:
        """(R,) the loss of a batch, infinite where it has none."""
        value = sums.objective if self.penalty is None else sums.objective + self.penalty.value(coef, sums.weight)
        return torch.where(sums.valid, value, torch.inf)


def _solved(information: Tensor, score: Tensor, damping: float) -> Tensor:
    """(R, P) a step that moves nothing along directions of which the rows tell nothing."""
    size = information.diagonal(dim1=-2, dim2=-1).clamp(min=0)
    scale = torch.where(size > 0, 1 / torch.where(size > 0, size, 1.0).sqrt(), 0.0)
    values, vectors = torch.linalg.eigh(information * scale.unsqueeze(-1) * scale.unsqueeze(-2))
    told = values > FLAT * values.amax(-1, keepdim=True)
    inverse = torch.where(told, 1 / torch.where(told, values + damping, 1.0), 0.0)
    turned = (vectors.mT @ (score * scale).unsqueeze(-1)).squeeze(-1) * inverse
    return (vectors @ turned.unsqueeze(-1)).squeeze(-1) * scale
