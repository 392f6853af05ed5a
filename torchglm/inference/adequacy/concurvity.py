"""Concurvity: how far a smooth term could be made of the other terms, as collinearity is of columns."""

from __future__ import annotations

import torch
from torch import Tensor

from torchglm.inference.fitted import Fitted
from torchglm.inference.rowwise import RowValues
from torchglm.inference.smooths import smooths
from torchglm.inference.table import Table

PARAMETRIC = "parametric"
FLAT = 1e-13  # share of the largest eigenvalue of a scaled Gram below which a direction is none


class PlainGram:
    """`X'X` (B, p, p) over the rows of positive weight, repeats counted: prior weights say nothing of columns."""

    def __init__(self, result: Fitted) -> None:
        models, p = result.flat.coef.shape
        self.gram = result.flat.coef.new_zeros(models, p, p)

    def add(self, values: RowValues) -> None:
        x, count = values.x, torch.where(values.used, values.repeats, 0.0)  # (n, p) or (B, n, p); (B, n)
        if x.dim() == 2 and bool((count == count[:1]).all()):
            self.gram += x.mT @ (x * count[0].unsqueeze(-1))
            return
        for i in range(len(count)):
            own = x if x.dim() == 2 else x[i]
            self.gram[i] += own.mT @ (own * count[i].unsqueeze(-1))


@torch.no_grad()
def concurvity(result: Fitted) -> Table:
    """How far each smooth term, and all that is not smooth together, could be made of the rest of the model.

    Columns `(*B, terms)`, each between 0 and 1: of the part of a term in the space of the others, `worst` is the
    largest share that any function of the term can have, `observed` the share of the one estimated, `estimate` that of
    its columns on the whole. Above 0.8 or so the data hardly tell the term from the others. Rows count alike, whatever
    their prior weights. One pass. Raises `ValueError` without smooth terms, with several predictors, and without the
    rows of the fit. Source: mgcv's `concurvity`; Wood (2017), Generalized Additive Models, section 5.6.3.
    """
    if result.plan is not None:
        raise ValueError("concurvity is that of the terms of one predictor; this fit has several.")
    if not smooths(result):
        raise ValueError("concurvity is that of smooth terms such as s(x); this fit has none.")
    sums = PlainGram(result)
    for values in result.row_values():
        sums.add(values)
    return concurvity_of(result, sums)


def places_of(result: Fitted) -> dict[str, list[int]]:
    """The coefficients of what is not smooth, where there are such, and of each smooth term."""
    terms = {name: term.places for name, term in smooths(result).items()}
    inside = {place for own in terms.values() for place in own}
    rest = [j for j in range(len(result.names)) if j not in inside]
    return ({PARAMETRIC: rest} if rest else {}) | terms


def concurvity_of(result: Fitted, sums: PlainGram) -> Table:
    """The table from the sums of a pass."""
    places, everything = places_of(result), set(range(len(result.names)))
    rows = [_measures(sums.gram, own, sorted(everything - set(own)), result.flat.coef) for own in places.values()]
    worst, observed, estimate = (result.shaped(torch.stack(column, -1)) for column in zip(*rows, strict=True))
    return Table("Concurvity", list(places), {"worst": worst, "observed": observed, "estimate": estimate})


def nearest_term(result: Fitted, sums: PlainGram, name: str, model: int) -> str:
    """The other smooth term that most of a term's columns could be made of."""
    places = places_of(result)
    others = [other for other in places if other not in (name, PARAMETRIC)] or [PARAMETRIC]
    gram, coef = sums.gram[model : model + 1], result.flat.coef[model : model + 1]
    shares = [float(_measures(gram, places[name], places[other], coef)[2]) for other in others]
    return others[shares.index(max(shares))]


def _measures(gram: Tensor, own: list[int], rest: list[int], coef: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B,) each: the largest share of a function of columns `own` in the space of `rest`, that at `coef`, of all."""
    if not rest:
        return tuple(torch.zeros_like(coef[:, 0]) for _ in range(3))  # type: ignore[return-value]
    inner, cross, outer = gram[:, own][:, :, own], gram[:, rest][:, :, own], gram[:, rest][:, :, rest]
    half = _root(outer) @ cross  # (B, r, q): what projects on the others
    inside = half.mT @ half
    turn = _root(inner)
    worst = torch.linalg.eigvalsh(turn @ inside @ turn.mT)[..., -1]
    b = coef[:, own].unsqueeze(-1)
    observed = (b.mT @ inside @ b)[:, 0, 0] / (b.mT @ inner @ b)[:, 0, 0]
    traces = [m.diagonal(dim1=-2, dim2=-1).sum(-1) for m in (inside, inner)]
    return worst.clamp(0, 1), observed.clamp(0, 1), (traces[0] / traces[1]).clamp(0, 1)


def _root(gram: Tensor) -> Tensor:
    """(B, q, q) `R` with `R'R` the pseudo-inverse of a Gram."""
    size = gram.diagonal(dim1=-2, dim2=-1)
    scale = torch.where(size > 0, size, 1.0).rsqrt()
    values, vectors = torch.linalg.eigh(gram * scale.unsqueeze(-1) * scale.unsqueeze(-2))
    held = values > FLAT * values[:, -1:]
    return (vectors * torch.where(held, values, torch.inf).rsqrt().unsqueeze(-2)).mT * scale.unsqueeze(-2)
