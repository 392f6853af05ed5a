"""What a head takes from responses alone, and from what it leaves over: its null model, and its dispersion."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchglm.fitting.kernel import fold
from torchglm.fitting.moments import Moments, Point
from torchglm.fitting.solve import solve
from torchglm.fitting.status import Status
from torchglm.inputs import GLMBatch, LoaderRows, Roles
from torchglm.model.head_rows import rows_of_batches
from torchglm.model.layer import GLMLayer
from torchglm.rows.ranks import ALONE, Ranks
from torchglm.special.tracing import apart_from_graphs

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from torchglm.inputs.roles import RoleValues

RANK = 1e-10  # directions of less than this share of the largest, in columns of one length, are no columns
MOST = 2048  # columns of which a Gram is made to count those that depend on others; of more all count


def flat_rows(head: GLMLayer, rows: GLMBatch) -> GLMBatch:
    """A batch of sequences, `x` (*N, in_features), as one of rows: `x` (n, in_features), all else (n,) or (n, R).

    Raises `ValueError` for other shapes, as the loss does.
    """
    if rows.x.dim() == 2:
        return rows
    like = torch.empty(*rows.x.shape[:-1], head.out_features, dtype=torch.float64, device="meta")

    def flat(name: str, value: Any) -> Any:
        if value is None or name == "x":
            return value
        every = head.per_response(value, like, name).reshape(-1, head.out_features)
        return every[:, 0] if head.out_features == 1 else every

    given = {name: flat(name, value) for name, value in rows._asdict().items()}
    return GLMBatch(**given | {"x": rows.x.reshape(-1, rows.x.shape[-1])})


@torch.no_grad()
def pearson(head: GLMLayer, batches: Iterable[Any], ranks: Ranks = ALONE) -> Tensor:
    """Pearson's chi-square over `n - rank`, `(R,)`, as in `torchglm.fit`, by one pass over batches of features.

    Raises `ValueError` where there are no more rows than coefficients, or some mean is out of range.
    """
    coef, few = head.coef, head.coef.shape[1] <= MOST
    source = rows_of_batches(head, batches, head.weight.device)
    sums = fold(source, Point(coef, before=coef, census=True, curved=few), head.family, head.link).over(ranks)
    rank = _rank(sums, coef) if few else torch.full_like(sums.count, coef.shape[1])
    if bool((sums.count <= rank).any()):
        raise ValueError(
            f"there are {int(sums.count.min())} rows of positive weight for {int(rank.max())} coefficients: nothing is "
            "left to estimate the dispersion from. Give more rows, or make the head with dispersion= a number."
        )
    if bool((sums.invalid > 0).any()):
        raise ValueError(
            f"the means of {int(sums.invalid.sum())} rows are out of the range of the family {head.family.name}. "
            "Train on, or take a link that reaches every mean, such as log."
        )
    return sums.pearson / (sums.count - rank)


def _rank(sums: Moments, coef: Tensor) -> Tensor:
    """(R,) how many columns do not depend on others."""
    gram = sums.gram.written_out()
    length = gram.diagonal(dim1=-2, dim2=-1).sqrt()
    length = torch.where(length > 0, length, 1.0)
    values = torch.linalg.eigvalsh(gram / length.unsqueeze(-1) / length.unsqueeze(-2))
    return (values > RANK * values[..., -1:]).sum(-1).to(sums.count)


@apart_from_graphs
@torch.no_grad()
def estimate_dispersion_(head: GLMLayer, x: Tensor, y: Tensor, **roles: Unpack[RoleValues]) -> Tensor:
    """Put Pearson's estimate, chi-square over `n - rank` as in `torchglm.fit`, in the place of the dispersion.

    `x` `(*N, in_features)` are features as the head takes them, of the rows it was trained on; `y` and roles as for
    `loss`. Returns it, one for each response; 1 for a family without a dispersion. Raises `ValueError` where there are
    no more rows than coefficients.
    """
    if head.family.has_dispersion:
        beside = Roles.of(roles, "estimate_dispersion_")
        head.set_dispersion_(pearson(head, [flat_rows(head, GLMBatch(x, y, **beside.given))]))
    return head.dispersion


@apart_from_graphs
@torch.no_grad()
def init_from(head: GLMLayer, y: Tensor, **roles: Unpack[RoleValues]) -> None:
    """Begin at the null model of `y` `(*N, out_features)`, or `(*N,)`: a bias alone, by maximum likelihood.

    A dispersion or shape that is learned begins there as well, and the weight at 0. Where responses have no such model
    (counts that are all 0) the bias is that of the mean IRLS begins at. Roles as for `loss`. Raises `ValueError` for a
    head without a bias and for responses outside the support.
    """
    if head.bias is None:
        raise ValueError("init_from sets the bias, and this head has none. Make it with bias=True.")
    column = head.out_features > 1 or y.dim() > 1 and y.shape[-1] == 1
    x = y.new_zeros(*(y.shape[:-1] if column else y.shape), 1)
    rows = flat_rows(head, GLMBatch(x, y.detach(), **Roles.of(roles, "init_from").given))
    source = LoaderRows([rows._replace(x=rows.x[:, :0])], head.family, head.link, True, head.weight.device, None)
    options = {"penalty": None, "tol": 1e-8, "max_iter": 50, "rank_tol": 1e-12, "skip": None}
    family, null = solve(source, head.family, head.link, None, options)
    head.reset_parameters()
    ended, sums = null.status == int(Status.CONVERGED), null.moments
    start = head.link.link(head.family.initial_mean(sums.response / sums.weight, sums.weight))
    head.bias.copy_(torch.where(ended, null.coef[:, 0], start))
    if head.whole_density and bool(ended.all()):
        head.set_shapes_(family)
        phi = sums.pearson / (sums.count - 1)
        if head.dispersion_kind == "learned" and head.family.has_dispersion and bool((phi > 0).all()):
            head.set_dispersion_(phi)
