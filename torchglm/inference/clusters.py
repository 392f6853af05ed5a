"""Clustered covariances with corrections for leverage, and the degrees of freedom of their t statistics.

With `M = R R'` the inverse information, `s_g` the score sum of cluster `g`, `K_g` its information and
`Q L Q' = R'K_gR`: the score of CR2 is `R' v_g = Q (1 - L)^(-1/2) Q' R' s_g`, of CR3 `Q (1 - L)^-1 Q' R' s_g`, and the
covariance `R (sum R'v_g v_g'R) R'`. These are the adjustments `(I - H_gg)^(-1/2)` and `(I - H_gg)^-1` in the
metric of the working weights, without a matrix of the size of a cluster. Of least squares they are those of
clubSandwich; with other weights its Cholesky metric differs a little.
Source: Bell & McCaffrey (2002), Survey Methodology 28; McCaffrey & Bell (2006), Stat. Med. 25; Pustejovsky & Tipton
(2018), J. Bus. Econ. Stat. 36.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.fitting.kernel import take_family
from torchglm.inference.limits.refit import ROOM
from torchglm.inference.rowwise import row_values
from torchglm.links import Link
from torchglm.rows.inverses import Root
from torchglm.rows.ragged import Ragged
from torchglm.rows.ranks import members
from torchglm.rows.rows import Rows

POWERS = {"CR2": 0.5, "CR3": 1.0, "HC2": 0.5, "HC3": 1.0}
WHOLE = 1e-9  # what a cluster leaves of a direction that it determines alone


def adjusted(
    source: Iterable[Rows], family: Family, link: Link, coef: Tensor, root: Tensor, codes: Tensor, type: str
) -> tuple[Tensor, Tensor]:
    """(B, p, p) the covariance CR2 or CR3 of one label `codes` (n,) or (B, n), and (B, p) the df of each coefficient.

    `root` (B, p, p) is a square root of the inverse information, see `written`.
    `df = (sum P_gg)^2 / sum P_gh^2` (Satterthwaite), `P_gh` being the covariance, under the model, of the parts of two
    clusters in the estimate. Raises `ValueError` where no model has two clusters.
    """
    parts = [
        _corrected(*sums, root[chosen], POWERS[type])
        for chosen, sums in _sums_of_models(source, family, link, coef, codes)
    ]
    covariance, df = (in_order(source, torch.cat(part)) for part in zip(*parts, strict=True))
    return covariance, df


def joint_df(
    source: Iterable[Rows],
    family: Family,
    link: Link,
    coef: Tensor,
    root: Tensor,
    codes: Tensor,
    type: str,
    matrix: Tensor,
) -> Tensor:
    """(B,) the df `eta` of the Wishart law that stands for the covariance of `matrix` (q, p) times the coefficients.

    `eta = q (q + 1) / sum_st Var(d_st)` under the model, `d` being that covariance in units of its expectation; with
    one row Satterthwaite's. Then `(eta - q + 1) / (eta q) W` is referred to `F(q, eta - q + 1)`.
    Source: Pustejovsky & Tipton (2018), J. Bus. Econ. Stat. 36, equation 17 (HTZ).
    """
    parts = [
        _joint(*sums[1:], root[chosen], POWERS[type], matrix)
        for chosen, sums in _sums_of_models(source, family, link, coef, codes)
    ]
    return in_order(source, torch.cat(parts))


def _sums_of_models(
    source: Iterable[Rows], family: Family, link: Link, coef: Tensor, codes: Tensor
) -> Iterator[tuple[Tensor, tuple[Tensor, Tensor, Tensor]]]:
    """Some of the models at a time, and the sums over their clusters."""
    several = False
    for chosen, rows, [own] in labelled(source, [codes], coef.shape[0], coef.shape[1] ** 2):
        sums = _sums(rows, take_family(family, chosen), link, coef[chosen], own, int(own.max()) + 1)
        several |= bool(((sums[2] > 0).sum(-1) > 1).any())
        yield chosen, sums
    if not several:
        raise ValueError("clusters holds one cluster; a clustered covariance needs at least two.")


def labelled(
    source: Iterable[Rows], labels: list[Tensor], models: int, width: int
) -> Iterator[tuple[Tensor, Iterable[Rows], list[Tensor]]]:
    """Some of the models at a time, those of like size together, with their rows and the codes of each of the labels.

    `labels` are codes (n,) or (B, n), n counting the rows of the longest model; so many at a time that `width` numbers
    for each cluster can be held. Raises `ValueError` for another number of labels.
    """
    if not isinstance(source, Ragged):
        yield from _blocks(torch.arange(models, device=labels[0].device), source, labels, width)
        return
    longest = int(source.sizes.max())
    for codes in labels:
        if codes.shape[-1] != longest:
            raise ValueError(f"clusters has {codes.shape[-1]} labels for {longest} rows. Give one for each row.")
    for at, rows in source.parts:
        cut = [(codes if codes.dim() == 1 else codes[at])[..., : rows.y.shape[-1]] for codes in labels]
        yield from _blocks(at, [rows], [torch.unique(codes, return_inverse=True)[1] for codes in cut], width)


def _blocks(
    models: Tensor, source: Iterable[Rows], labels: list[Tensor], width: int
) -> Iterator[tuple[Tensor, Iterable[Rows], list[Tensor]]]:
    at_once = max(1, ROOM // (width * max(int(codes.max()) + 1 for codes in labels)))
    for place in torch.arange(len(models), device=models.device).split(at_once):
        yield models[place], members(source, place), [c if c.dim() == 1 else c[place] for c in labels]


def in_order(source: Iterable[Rows], value: Tensor, dim: int = 0) -> Tensor:
    """What was found of models in the order of `labelled`, in that of the models themselves."""
    return value.index_select(dim, source.order) if isinstance(source, Ragged) else value


def written(root: Root) -> Tensor:
    """(B, p, p) a square root of the inverse information."""
    values, vectors = torch.linalg.eigh(root.inverse())
    return vectors * values.clamp(min=0).sqrt().unsqueeze(-2)


def _sums(
    source: Iterable[Rows], family: Family, link: Link, coef: Tensor, codes: Tensor, groups: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores (B, G, p), information (B, G, p, p) and rows (B, G) of the clusters."""
    models, p = coef.shape
    scores, held = coef.new_zeros(models, groups, p), coef.new_zeros(models, groups)
    information = coef.new_zeros(models, groups, p * p)
    start = 0
    for values in row_values(source, family, link, coef):
        n = values.used.shape[-1]
        index = codes[..., start : start + n].expand(models, -1)
        if index.shape[-1] != n:
            raise ValueError(f"clusters has {codes.shape[-1]} labels, fewer than the rows. Give one for each row.")
        x = values.x.to(coef.dtype).expand(models, n, p)
        pairs = ((x * values.information.unsqueeze(-1)).unsqueeze(-1) * x.unsqueeze(-2)).flatten(2)
        at = index.unsqueeze(-1)
        scores.scatter_add_(1, at.expand(models, n, p), values.score.unsqueeze(-1) * x)
        information.scatter_add_(1, at.expand(models, n, p * p), pairs)
        held.scatter_add_(1, index, values.used.to(coef.dtype))
        start += n
    if start != codes.shape[-1]:
        raise ValueError(f"clusters has {codes.shape[-1]} labels for {start} rows. Give one for each row.")
    return scores, information.unflatten(-1, (p, p)), held


def _joint(information: Tensor, held: Tensor, root: Tensor, power: float, matrix: Tensor) -> Tensor:
    q, groups = len(matrix), information.shape[1]
    out = []
    for model, there, own in zip(information, held, root, strict=True):
        share = own.mT @ model @ own
        size, vectors = torch.linalg.eigh((share + share.mT) / 2)  # (G, p), (G, p, p)
        left = 1 - size
        factor = torch.where(left > WHOLE, left.clamp(min=WHOLE).pow(-power), 0.0)
        along = (matrix @ own) @ vectors  # (G, q, p)
        alone = (along * (size * factor.square()).unsqueeze(-2)) @ along.mT  # (G, q, q)
        parts = (along * (size * factor).unsqueeze(-2)) @ vectors.mT  # (G, q, p)
        each = alone - parts @ parts.mT
        lower, info = torch.linalg.cholesky_ex(each.sum(0))
        if int((there > 0).sum()) < 2 or int(info):
            out.append(torch.nan)
            continue
        white = torch.linalg.solve_triangular(lower, parts.transpose(0, 1).flatten(1), upper=False)
        each = torch.linalg.solve_triangular(lower, each, upper=False)
        each = torch.linalg.solve_triangular(lower, each.mT, upper=False)
        wide = white.unflatten(1, (groups, -1)).transpose(0, 1)  # (G, q, p)
        trace, square = each.diagonal(dim1=-2, dim2=-1).sum(-1), (each @ each).diagonal(dim1=-2, dim2=-1).sum()
        total = trace.square().sum() + square
        for at in torch.arange(groups).split(max(1, ROOM // (groups * q * q))):
            # of two clusters the covariance of the parts is minus the product of what they share with others
            cross = torch.einsum("gsp,htp->ghst", wide[at], wide)
            cross[torch.arange(len(at)), at] = 0.0
            total = total + cross.diagonal(dim1=-2, dim2=-1).sum(-1).square().sum() + (cross * cross.mT).sum()
        out.append(float(q * (q + 1) / total))
    return information.new_tensor(out)


def _corrected(scores: Tensor, information: Tensor, held: Tensor, root: Tensor, power: float) -> tuple[Tensor, Tensor]:
    share = root.mT.unsqueeze(1) @ information @ root.unsqueeze(1)
    size, vectors = torch.linalg.eigh((share + share.mT) / 2)  # (B, G, p), (B, G, p, p)
    left = 1 - size
    factor = torch.where(left > WHOLE, left.clamp(min=WHOLE).pow(-power), 0.0)
    turned = vectors.mT @ (scores @ root).unsqueeze(-1)  # (B, G, p, 1)
    own = (vectors @ (factor.unsqueeze(-1) * turned)).squeeze(-1) @ root.mT  # (B, G, p)
    covariance = own.mT @ own
    # along coefficient j, u = R'e_j: what a cluster has by itself, and what it shares with others by the fit
    along = vectors.mT @ root.mT.unsqueeze(1)  # (B, G, p, p): column j is Q'u
    alone = (along.square() * (size * factor.square()).unsqueeze(-1)).sum(-2)  # (B, G, p)
    shared = vectors @ ((size * factor).unsqueeze(-1) * along)  # (B, G, p, p)
    total, squares = (alone - shared.square().sum(-2)).sum(1), list[Tensor]()
    for j in range(root.shape[-1]):
        part = shared[..., j]
        cross = part.mT @ part  # the Gram of the parts: its squared norm is that of all pairs of clusters
        each = alone[..., j] - part.square().sum(-1)
        pairs = cross.square().sum((-1, -2)) - part.square().sum(-1).square().sum(-1)
        squares.append(each.square().sum(-1) + pairs)
    square = torch.stack(squares, -1)
    several = ((held > 0).sum(-1) > 1).unsqueeze(-1)
    df = torch.where(several & (square > 0), total.square() / square, torch.nan)
    return torch.where(several.unsqueeze(-1), covariance, torch.nan), df
