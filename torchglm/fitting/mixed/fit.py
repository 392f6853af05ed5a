"""Fits of models with random effects, from the rows to what is kept of them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.families.several import VectorFamily
from torchglm.fitting.kernel import fold
from torchglm.fitting.mixed.criterion import MixedCriterion
from torchglm.fitting.mixed.crossed import AnyEliminated
from torchglm.fitting.mixed.effects import Groupings, Lambda, unit_of
from torchglm.fitting.mixed.found import MixedFound
from torchglm.fitting.mixed.freedom import freedom
from torchglm.fitting.mixed.identified import unidentified
from torchglm.fitting.mixed.one_by_one import crosses_apart, one_by_one
from torchglm.fitting.mixed.rows import conditional, without_effects
from torchglm.fitting.mixed.search import MixedSearch
from torchglm.fitting.moments import Moments, Point
from torchglm.fitting.penalties import Quadratic
from torchglm.fitting.shape import loglik
from torchglm.fitting.shape_sums import has_alpha
from torchglm.fitting.solve import solve
from torchglm.fitting.state import Solution
from torchglm.fitting.status import FitWarning, Status
from torchglm.fitting.strengths import ALPHA, scales_of
from torchglm.links import Link
from torchglm.rows.inverses import DenseRoot
from torchglm.rows.meetings import EffectGram, effect_gram, lengths
from torchglm.rows.planned import contributions
from torchglm.rows.planned_meetings import lengths_of
from torchglm.rows.products import times
from torchglm.rows.ragged import Ragged
from torchglm.rows.ranks import own_rows, ranks_of
from torchglm.rows.rows import Rows, to_float64
from torchglm.rows.threads import small_operators
from torchglm.writing.warning import tell

EARLY = 6.0  # of the logarithm of the strength that counts as infinite


@torch.no_grad()
@small_operators()
def solve_mixed(
    source: Iterable[Rows],
    family: Family,
    link: Link,
    effects: Groupings,
    penalty: Quadratic | None,
    method: str,
    options: dict[str, Any],
    phi: float | None = None,
    nodes: int = 1,
    models: int = 1,
) -> tuple[Family, Solution, MixedFound]:
    """The fits of `models` by their largest marginal likelihoods, by the method `"reml"` or `"ml"`.

    `options` are those of `irls`.

    A dispersion `phi` is held; with more than one of `nodes` the one effect of each level is integrated by quadrature.
    A model some of whose effects have a singular covariance has the status BOUNDARY. Raises `ValueError` for families
    whose marginal likelihood is not known.
    """
    _check(family)
    if crosses_apart(source, effects, models):
        each = partial(_one, link=link, effects=effects, penalty=penalty, method=method, options=options, phi=phi)
        return one_by_one(source, family, effects, models, each)
    plain = without_effects(source, effects.columns)
    some = None if penalty is None else penalty.with_strength(scales_of(plain, family, link, penalty)[1].exp())
    family, first = solve(plain, family, link, None, options | {"penalty": some})
    name = "log_alpha" if family.estimates_shape else ""
    criterion = MixedCriterion(source, family, link, effects, penalty, first.keep, method == "reml", phi, name)
    criterion.nodes = nodes
    search = begun(criterion, first, penalty, plain, options["max_iter"])
    for said, where in criterion.vague.items():
        tell(f"in {int(where.sum()):,} of {len(where):,} models {said}", FitWarning)
    search.run()
    if criterion.flat:
        search.refresh()
    return _finished(criterion, search, family, first, source)


def _one(source: Iterable[Rows], family: Family, **given: Any) -> tuple[Family, Solution, MixedFound]:
    return solve_mixed(source, family, **given)


def based(criterion: MixedCriterion, first: Tensor) -> Tensor:
    """Let a criterion know the rows, by a pass at fixed effects `first` (B, p); all coefficients (B, P) there."""
    effects, models = criterion.effects, len(first)
    coef = torch.cat([first, first.new_zeros(models, effects.width - effects.columns)], 1)
    here = fold(criterion.source, Point(coef, False, before=coef, census=True), criterion.family, criterion.link)
    gram = effect_gram(here.gram, criterion.grouping)
    criterion.count = here.count
    estimated = criterion.phi is None and criterion.family.has_dispersion
    rows = here.count if estimated else None
    criterion.vague = unidentified(effects, gram, criterion.rotation[:, criterion.fixed], rows)
    for sets, block in zip(effects.correlated, effects.blocks(gram), strict=True):
        mean = block.mean(1)
        criterion.units.append(unit_of(mean * effects.mask(sets, mean)))
    one, family = torch.ones_like(here.objective), criterion.family
    held = one if criterion.phi is None or family.least_squares else one * criterion.phi
    if isinstance(family, VectorFamily):  # whose deviance is the whole likelihood
        criterion.constant = torch.zeros_like(one)
    else:
        criterion.constant = loglik(criterion.source, family, criterion.link, coef, held) + here.objective / held
    if criterion.flat:
        criterion.base, criterion.at_base = here, coef
    criterion.ends = torch.full((models, sum(criterion.counts), 2), torch.inf).to(coef)
    criterion.ends[..., 0] = -torch.inf
    if criterion.name:
        criterion.ends[:, sum(criterion.counts[:2])] = coef.new_tensor(ALPHA)
    return coef


def begun(
    criterion: MixedCriterion, first: Solution, penalty: Quadratic | None, plain: Iterable[Rows], most: int
) -> MixedSearch:
    """The search at its start, beside a `first` fit without random effects."""
    effects, family, models = criterion.effects, criterion.family, len(first.coef)
    coef = based(criterion, first.coef)
    u = torch.cat([first.coef @ criterion.rotation, coef[:, effects.columns :]], 1)
    roots = torch.tensor([float(row == column) for _, row, column in effects.entries]).to(coef)
    psi = [roots.expand(models, -1)]
    if penalty is not None:
        limits, strengths = scales_of(plain, family, criterion.link, penalty)
        criterion.ends[:, len(roots) : len(roots) + criterion.counts[1]] = limits
        psi.append(strengths)
    if criterion.name:
        psi.append(family.shapes[criterion.name].expand(models).clamp(*ALPHA).unsqueeze(-1))
    if criterion.apart:
        psi.append(u[:, criterion.fixed])
    return MixedSearch(criterion, torch.cat(psi, -1), u, most)


def _finished(
    criterion: MixedCriterion, search: MixedSearch, family: Family, first: Solution, source: Iterable[Rows]
) -> tuple[Family, Solution, MixedFound]:
    """What is kept: the fixed effects as a solution on rows whose offset holds the modes, and the rest."""
    every, mark = search.every, search.settled()
    turn = criterion.turn(every, mark.psi)
    eliminated = criterion.eliminated(every, mark.gram, turn, mark.psi)
    effects = criterion.effects
    coef, p = turn.times(mark.u), effects.columns
    fixed = torch.where(criterion.keep, coef[:, :p], 0.0)
    roots, free = criterion.counts[0], sum(criterion.counts[:3])
    unscaled, psi_covariance = _covariances(criterion, search, eliminated)
    if criterion.name:
        raw = criterion.parts(mark.psi)[2][:, 0]
        raw = torch.where(raw <= ALPHA[0] + 1.0, -torch.inf, raw)
        family = family.with_parameters({criterion.name: raw[0] if raw.numel() == 1 else raw})
    whole = torch.cat([fixed, coef[:, p:]], 1)
    rows = conditional(criterion.source, effects, whole)
    moments = fold(rows, Point(fixed, False, before=fixed, census=True), family, criterion.link)
    solution = Solution(
        fixed, criterion.keep, moments, DenseRoot(_root(unscaled, criterion.keep)), _status(criterion, search, first),
        first.n_iter + search.steps, torch.zeros_like(first.cut),
    )  # fmt: skip
    found = MixedFound(
        mark.value, whole, mark.phi, turn.roots, _spreads(criterion, eliminated),
        *_strengths(criterion, search), _edf(criterion, eliminated, mark.psi),
        criterion.parts(mark.psi)[0], psi_covariance[:, :roots, :roots], criterion.units, p,
        _explained(criterion, search, turn, fixed, moments),
        freedom(criterion, mark, search.slopes, psi_covariance[:, :free, :free]), source,
    )  # fmt: skip
    return family, solution, found


def _strengths(criterion: MixedCriterion, search: MixedSearch) -> tuple[Tensor, Tensor]:
    """(B, J) the strengths of smooths, infinite where that is the limit, and as they are in the fit."""
    first, many = criterion.counts[:2]
    logs, ends = search.mark.psi[:, first : first + many], criterion.ends[:, first : first + many]
    used = logs.exp()
    return torch.where(logs >= ends[..., 1] - EARLY, torch.inf, used), used


def _edf(criterion: MixedCriterion, eliminated: AnyEliminated, psi: Tensor) -> Tensor | None:
    """(B, p) `1 - diag(H^-1 R)` of the first columns, None without smooths."""
    if criterion.ranges is None:
        return None
    p, turn = criterion.effects.columns, criterion.rotation
    inverse = eliminated.on(criterion.every).inverse[:, :p, :p]
    share = turn @ (inverse @ criterion.ridge(psi)) @ turn.mT
    return torch.where(criterion.keep, 1 - share.diagonal(dim1=-2, dim2=-1), 0.0)


def _explained(criterion: MixedCriterion, search: MixedSearch, turn: Lambda, fixed: Tensor, moments: Moments) -> Tensor:
    """(B, 3) the variance of the fixed part over the rows, the mean variance of the random part, the mean response.

    Of several predictors these are the parts of the first.
    """
    effects, phi = criterion.effects, search.mark.phi.unsqueeze(-1)
    coef = torch.cat([fixed, fixed.new_zeros(len(fixed), effects.width - effects.columns)], 1)
    spread = turn.spread(search.mark.gram)

    def sums(rows: Rows, own: Tensor, among: EffectGram) -> Tensor:
        part = times(rows, own) if rows.plan is None else contributions(rows, own)[0]
        if rows.plan is None:
            random = lengths(rows, among)
        else:
            random = lengths_of(rows, among)[0, 0]
        weight = rows.weight
        return torch.stack(
            [weight.sum(-1), (weight * part).sum(-1), (weight * part**2).sum(-1), (weight * random).sum(-1)], -1
        )

    total, ranks = torch.zeros_like(fixed[:, :1]).repeat(1, 4), ranks_of(criterion.source)
    own = own_rows(criterion.source)
    for models, chunk in own.parts if isinstance(own, Ragged) else ((search.every, chunk) for chunk in own):
        rows = to_float64(chunk)
        for piece in [block for _, block in rows.blocks()] if rows.indexed is not None else rows.pieces():
            total[models] += sums(piece, coef[models], spread[models])
    weight, first, second, random = ranks.sum(total)[0].unsqueeze(-1).unbind(1)
    mean = first / weight
    return torch.cat(
        [second / weight - mean**2, random / weight * phi, (moments.response / moments.weight).unsqueeze(-1)], -1
    )


def _status(criterion: MixedCriterion, search: MixedSearch, first: Solution) -> Tensor:
    status = search.status.clone()
    regular = status == int(Status.CONVERGED)
    psi, ends = search.mark.psi, criterion.ends
    shape = slice(sum(criterion.counts[:2]), sum(criterion.counts[:3]))
    if criterion.name:
        edge = (psi[:, shape] <= ends[:, shape, 0] + 1.0).any(-1)
        status[regular & edge] = int(Status.SHAPE_LIMIT)
    roots = criterion.counts[0]
    strong = (psi[:, roots : shape.start] >= ends[:, roots : shape.start, 1] - EARLY).any(-1)
    status[regular & strong] = int(Status.STRENGTH_LIMIT)
    status[regular & search.singular()] = int(Status.BOUNDARY)
    for where in criterion.vague.values():
        status[where] = int(Status.STALLED)
    status[first.status == int(Status.NOT_FINITE)] = int(Status.NOT_FINITE)
    return status


def _root(matrix: Tensor, keep: Tensor) -> Tensor:
    """(B, p, p) a root of covariances, zero for columns that are not kept."""
    size = matrix.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
    scale = torch.where(size > 0, size, 1.0)
    values, vectors = torch.linalg.eigh((matrix / scale.unsqueeze(-1) / scale.unsqueeze(-2)).nan_to_num())
    root = scale.unsqueeze(-1) * vectors * values.clamp(min=0).sqrt().unsqueeze(-2)
    return torch.where(keep.unsqueeze(-1), root, 0.0)


def _covariances(criterion: MixedCriterion, search: MixedSearch, eliminated: AnyEliminated) -> tuple[Tensor, Tensor]:
    """(B, p, p) the covariance of the first columns over `phi`, and (B, K, K) that of the parameters.

    Where fixed effects are parameters their covariance is the inverse Hessian of all parameters.
    """
    p, mark, turn = criterion.effects.columns, search.mark, criterion.rotation
    inverse = eliminated.on(criterion.every).inverse[:, :p, :p]  # in the rotated basis
    first = sum(criterion.counts[:3])
    own, cross, rest = (
        search.hessian[:, :first, :first],
        search.hessian[:, :first, first:],
        search.hessian[:, first:, first:],
    )
    of_own = torch.linalg.pinv(own, rtol=1e-8, hermitian=True)
    if not criterion.apart:
        return turn @ inverse @ turn.mT, of_own
    exact = torch.linalg.pinv(rest - cross.mT @ of_own @ cross, rtol=1e-14, hermitian=True) / mark.phi[:, None, None]
    f = criterion.fixed
    old = inverse[:, f.unsqueeze(-1), f]
    along = inverse[:, :, f] @ torch.linalg.pinv(old, hermitian=True)  # how the others follow the fixed effects
    inverse = inverse + along @ (exact - old) @ along.mT
    whole = exact * mark.phi[:, None, None]
    back = -of_own @ cross @ whole
    top = of_own + of_own @ cross @ whole @ cross.mT @ of_own
    both = torch.cat([torch.cat([top, back], -1), torch.cat([back.mT, whole], -1)], -2)
    return turn @ inverse @ turn.mT, both


def _spreads(criterion: MixedCriterion, eliminated: AnyEliminated) -> list[Tensor]:
    """(B, L, q, q) of each grouping the covariance of the effects over `phi`, given fixed effects and covariances."""
    return criterion.effects.blocks(eliminated.on(criterion.penalised).covariance())


def _check(family: Family) -> None:
    if family.estimates_shape and not has_alpha(family):
        raise ValueError("random effects and a Tweedie power are not estimated at once. Give it: Tweedie(power=1.5).")
