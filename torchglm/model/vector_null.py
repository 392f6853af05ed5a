"""The null model of responses in a head of several predictors: constants alone, by maximum likelihood."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchglm.families.several import Classes, Multinomial, Ordinal, VectorFamily
from torchglm.fitting.solve import solve
from torchglm.fitting.status import Status
from torchglm.inputs import GLMBatch, Roles, class_codes, several_from_arrays
from torchglm.model.spread import flat_rows
from torchglm.model.vector_layer import VectorLayer
from torchglm.rows.rows import Rows
from torchglm.special.tracing import apart_from_graphs

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from torchglm.inputs.roles import RoleValues


@apart_from_graphs
@torch.no_grad()
def init_vector_from(head: VectorLayer, y: Tensor, **roles: Unpack[RoleValues]) -> None:
    """Begin at the null model of `y` `(*N, out_features)`, or `(*N,)`: the constants of all predictors.

    Of a head whose classes are not known `y` shows them; else it holds their codes. Where responses have no such model
    (counts that are all 0) the constants are those a fit begins at. Raises `ValueError` for a head without constants,
    and for responses outside the support.
    """
    if isinstance(head.family, Classes) and head.family.classes is None:
        y, classes = class_codes(y)
        head.know_classes(classes)
    if head.bias is None:
        raise ValueError("init_from sets the constants, and this head has none. Make it with bias=True.")
    family = _of_codes(head.family)
    column = head.out_features > 1 or y.dim() > 1 and y.shape[-1] == 1
    x = y.new_zeros(*(y.shape[:-1] if column else y.shape), 1, dtype=torch.float64)
    rows = flat_rows(head, GLMBatch(x, y.detach(), **Roles.of(roles, "init_from").given))
    across = {name: _across(value) for name, value in rows._asdict().items() if name != "x" and value is not None}
    given = Roles(**{name: value for name, value in across.items() if name != "y"})
    data = several_from_arrays(rows.x[:, :0], across["y"], family, given, True, None, head.weight.device, None, {})
    options = {"penalty": None, "tol": 1e-8, "max_iter": 50, "rank_tol": 1e-12, "skip": data.skip}
    _, null = solve(data.source, family, family.default_link, None, options)
    head.reset_parameters()
    [whole] = data.source
    ended = (null.status == int(Status.CONVERGED)).unsqueeze(-1)
    eta = torch.where(ended, null.coef, family.start(_averages(head, whole)).reshape(len(family.predictors), -1).mT)
    known = torch.isfinite(eta).all(-1, keepdim=True)
    head.set_constants_(torch.where(known, eta, head.even_predictors().to(eta)))


def _of_codes(family: VectorFamily) -> VectorFamily:
    """The family whose classes are their codes, and which asks for no column."""
    if isinstance(family, Multinomial):
        return Multinomial(family.base, len(family.known))
    return Ordinal(family.link, family.kind, (), len(family.known)) if isinstance(family, Ordinal) else family


def _averages(head: VectorLayer, rows: Rows) -> Tensor:
    """(S, B) the weighted averages of what a fit begins at."""
    used = rows.weight > 0
    values = torch.where(used, head.family.statistics(rows.response) * rows.weight, 0.0)
    return values.sum(-1) / rows.weight.sum(-1)


def _across(value: Any) -> Any:
    """Responses in columns `(n, R)` as rows `(R, n)`."""
    if isinstance(value, Tensor) and value.dim() == 2:
        return value[:, 0] if value.shape[1] == 1 else value.mT
    return value
