"""`path`: elastic nets of falling strength and their cross-validation, and the `Path` that holds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchglm import families, links
from torchglm.families import Family
from torchglm.families.several import Classes, Multinomial, VectorFamily
from torchglm.fitting.folds import held_out, mean_deviance, training
from torchglm.fitting.kernel import fold
from torchglm.fitting.moments import Point
from torchglm.fitting.path import Terms, WayDown, null_coefficients
from torchglm.fitting.penalties import ElasticNet
from torchglm.fitting.problem import Problem
from torchglm.fitting.standard import Standard
from torchglm.fitting.state import Solution
from torchglm.fitting.status import Status
from torchglm.inference.build import build
from torchglm.inputs import Data, Roles
from torchglm.links import Identity, Link
from torchglm.model.face import Result
from torchglm.model.options import check_options, device_of
from torchglm.model.path_options import column_values, fold_codes, strengths_of
from torchglm.model.sources import data_of
from torchglm.report.strengths import path_table
from torchglm.rows.rows import Rows, wide
from torchglm.rows.threads import small_operators
from torchglm.tables.text_format import TextFormat

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from torchglm.inputs.roles import RoleValues

CERTIFIED = 1e-9  # largest excess of a slope at which a point is called the minimum


@dataclass(frozen=True, eq=False, repr=False)
class Path:
    """Elastic nets of L falling strengths; every quantity has the batch dimensions `(*B)` of the responses in front.

    `strength` (L,) is shared by all models, or (*B, L) where each has its own; `coef` (*B, L, P) are the coefficients
    of the columns as they came, in the order of `names`; `df` (*B, L) counts the columns that are not zero, without
    intercepts; `dev_ratio` (*B, L) is the explained share of the deviance. `kkt` (*B, L) certifies each minimum: by how
    much the objective could still fall along a column in units of its spread, as a share of the largest such slope
    of the null model. With folds `cv_mean` (*B, L) is the mean of the deviance of the folds, each by the models
    without it, weighted by the weight of its rows, and `cv_se` its standard error; `fold_deviance` (*B, K, L).
    """

    strength: Tensor
    coef: Tensor
    df: Tensor
    dev_ratio: Tensor
    kkt: Tensor
    names: list[str]
    l1_ratio: float
    family: Family
    link: Link
    fold_deviance: Tensor | None = None
    cv_mean: Tensor | None = None
    cv_se: Tensor | None = None
    data: Data = field(kw_only=True)
    weights: Terms = field(kw_only=True)  # of a strength of 1 on the columns as they came

    @property
    def converged(self) -> Tensor:
        """(*B, L) whether `kkt` is at most 1e-9."""
        return self.kkt <= CERTIFIED

    @property
    def best(self) -> int | Tensor:
        """The place of the strength with the least `cv_mean`, an int or (*B). Raises `ValueError` without folds."""
        return _place(self._validated[0].argmin(-1))

    @property
    def one_se(self) -> int | Tensor:
        """The place of the largest strength whose `cv_mean` is within a standard error of the least, an int or (*B).

        Raises `ValueError` without folds.
        """
        mean, error = self._validated
        least = mean.argmin(-1, keepdim=True)
        within = mean <= mean.gather(-1, least) + error.gather(-1, least)
        return _place(within.to(torch.int8).argmax(-1))

    @property
    def _validated(self) -> tuple[Tensor, Tensor]:
        if self.cv_mean is None or self.cv_se is None:
            raise ValueError("this path was not cross-validated. Pass folds=10, or a label of a fold for each row.")
        return self.cv_mean, self.cv_se

    def select(self, which: str | int | Tensor = "one_se") -> Result:
        """The fit at one strength: `"best"`, `"one_se"`, or its place, an int or `(*B)`.

        Its `penalty` holds the strengths of all columns in their own units. Columns that stand at a limit count no
        degree of freedom. Raises `ValueError` for another word, `IndexError` for a place that is not there.
        """
        if isinstance(which, str):
            if which not in ("best", "one_se"):
                raise ValueError(f"select takes 'best', 'one_se' or the place of a strength, got {which!r}.")
            which = self.best if which == "best" else self.one_se
        batch, length = self.data.batch, self.kkt.shape[-1]
        place = torch.as_tensor(which, device=self.coef.device).expand(batch).reshape(-1, 1)
        if not bool(((place >= -length) & (place < length)).all()):
            raise IndexError(f"the path has {length} strengths, from 0 to {length - 1}; got {which}.")
        place = place % length
        models = place.shape[0]
        coef = self.coef.reshape(models, length, -1).gather(1, place.unsqueeze(-1).expand(-1, -1, len(self.names)))
        strength = self.strength.expand(*batch, length).reshape(models, length).gather(1, place)
        kkt = self.kkt.reshape(models, length).gather(1, place)[:, 0]
        own = self.weights
        penalty = ElasticNet(
            (strength * self.l1_ratio * own.absolute).reshape(*batch, -1),
            (strength * (1 - self.l1_ratio) * own.square).reshape(*batch, -1),
        ).expand(self.data.constants, len(self.names), batch)
        return self._built(coef[:, 0], kkt, penalty)

    def _built(self, coef: Tensor, kkt: Tensor, penalty: ElasticNet) -> Result:
        data, own, models = self.data, self.weights, coef.shape[0]
        keep = ~own.held & (coef > own.lower) & (coef < own.upper)
        source = list(data.source)
        problem = Problem.of(source, source[0], self.family, self.link, penalty)
        point = Point(coef, problem.several and not problem.canonical, before=coef)
        moments = fold(source, point, self.family, self.link)
        none = torch.zeros(models, dtype=torch.bool, device=coef.device)
        inverse = problem.inverse(moments, coef, keep, none, moments.weight)
        status = torch.where(kkt <= CERTIFIED, int(Status.CONVERGED), int(Status.ITERATION_LIMIT))
        root = inverse.root.only(inverse.positive)
        steps = torch.zeros(models, dtype=torch.int64, device=coef.device)
        solution = Solution(coef, keep, moments, root, status, steps, none, minnorm=True)
        fitted = build(
            solution,
            data.source,
            self.family,
            self.link,
            data.batch,
            data.names,
            constant=data.constant,
            penalty=penalty,
            dispersion=None,
            tol=1e-8,
            context=data.context,
            plan=data.plan,
        )
        return Result.of(fitted)

    def __repr__(self) -> str:
        return path_table(self)


@torch.no_grad()
@small_operators()
def path(
    x: Any,
    y: Any = None,
    *,
    family: str | Family,
    link: str | Link | None = None,
    intercept: bool = True,
    l1_ratio: float = 1.0,
    strength: Any = None,
    n: int = 100,
    smallest: float | None = None,
    standardize: bool = True,
    factor: Any = None,
    lower: Any = None,
    upper: Any = None,
    folds: Any = None,
    seed: int = 0,
    tol: float = 1e-10,
    names: Sequence[str] | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    missing: str = "error",
    **roles: Unpack[RoleValues],
) -> Path:
    """Fit elastic nets of falling strength, in glmnet's form, and choose among them by cross-validation.

    The minimum of `mean(nll) + strength sum_j f_j (l1_ratio |s_j b_j| + (1 - l1_ratio) (s_j b_j)^2 / 2)` over
    `lower <= b <= upper`, the mean weighted and at `phi = 1`, `s_j` the weighted standard deviation with 1 / n of
    column j. The intercept is free.

    Args:
        x, y, family, link, intercept, names, device, dtype, missing, roles: as in `fit`, in memory. A batch of
            responses `(*B, n)` gets a path each. `Multinomial(baseline=None)` penalises a vector for every class.
        l1_ratio: 1 is the lasso, 0 ridge.
        strength: falling values `(L,)` or `(*B, L)`; None: `n` of them in a geometric sequence from the least at which
            all penalised coefficients are zero, down to `smallest` times that (1e-4, or 1e-2 with fewer rows than
            columns).
        standardize: False takes `s_j = 1`.
        factor: `f_j`, one for each column, 0 for no penalty; as given (glmnet rescales them to the sum p).
        lower, upper: limits of the coefficients, a number or one for each column, around 0.
        folds: how many, drawn by `seed` and of like size, or a label for each row. Columns are standardised anew
            without each fold.
        tol: of `kkt`.

    Raises `ValueError` or `TypeError` for what `fit` refuses; strengths that rise; limits that exclude 0; vectors of
    another length; a fold without rows, or without which the null model has no maximum (no event, say).
    Source: Friedman, Hastie & Tibshirani (2010), J. Stat. Software 33(1).
    """
    check_options(tol, 1, "drop", None, names, dtype)
    family, chosen = _family_and_link(families.get(family), link)
    if not 0 <= l1_ratio <= 1:
        raise ValueError(f"l1_ratio must lie between 0 (ridge) and 1 (lasso), got {l1_ratio}.")
    beside = Roles.of(roles, "path")
    beside.check_link(chosen)
    reading = TextFormat.of(",", ".", "utf8", None, None)
    data = data_of(
        x,
        y,
        family,
        chosen,
        beside,
        intercept=intercept,
        names=names,
        predictors={},
        by=None,
        policies={"missing": missing, "unseen": "error", "rare": 0, "reading": reading},
        device=device_of(device),
        dtype=dtype,
    )
    if data.plan is not None and data.family is not None:
        family, chosen = data.family, data.family.default_link
    rows = _in_memory(data)
    standard = Standard.of_rows(wide(rows), data.constant)
    slopes = column_values(data, standard, factor, lower, upper, l1_ratio)
    codes, labels = fold_codes(folds, rows.y.shape[-1], rows.weight, seed)
    search = _Searches(standard, slopes, family, chosen, l1_ratio, standardize, tol)
    way = search.of(standard.rows, "")
    given = strengths_of(strength, way.largest, data.batch, n, smallest, rows)
    whole = way.follow(given)
    deviances = (None, None, None) if codes is None else search.validated(codes, labels, given)
    fold_deviance, cv_mean, cv_se = (_shaped(value, data) for value in deviances)
    coef = standard.original(whole.coef)
    if search.symmetric:
        coef = _centred(coef, way.terms, standard)
    shared = not data.batch or (strength is not None and given.shape[0] > 0 and _alike(given))
    return Path(
        strength=given[0] if shared else given.reshape(*data.batch, -1),
        coef=coef.reshape(*data.batch, *coef.shape[1:]),
        df=_nonzero(whole.coef, standard).reshape(*data.batch, -1),
        dev_ratio=search.explained(whole.half).reshape(*data.batch, -1),
        kkt=whole.kkt.reshape(*data.batch, -1),
        names=data.names,
        l1_ratio=float(l1_ratio),
        family=family,
        link=chosen,
        fold_deviance=fold_deviance,
        cv_mean=cv_mean,
        cv_se=cv_se,
        data=data,
        weights=search.terms(standard.rows, original=True),
    )


def _family_and_link(family: Family, link: str | Link | None) -> tuple[Family, Link]:
    """The family of a path and its link. Raises `ValueError` for families it is not for."""
    if isinstance(family, VectorFamily):
        if not isinstance(family, Classes):
            raise ValueError(f"path is for families of one predictor and for classes, got {family.name}.")
        if link is not None:
            raise ValueError(f"{family.name} has its own link. Leave link= out.")
        return family, Identity() if family.classes is None else family.default_link
    if family.estimates_shape:
        raise ValueError(f"path takes {family.name} with a fixed shape parameter. Give it one, from a fit, say.")
    return family, family.default_link if link is None else links.get(link)


@dataclass(frozen=True)
class _Searches:
    """How the models of a call are penalised, whichever rows they have."""

    standard: Standard
    slopes: Terms  # (1, P): the factors as they are given, twice, and the limits
    family: Family
    link: Link
    ratio: float
    standardize: bool
    tol: float

    def terms(self, rows: Rows, original: bool = False) -> Terms:
        """What a strength of 1 weighs each coefficient with: of the scaled columns, or of those as they came."""
        spread = self.standard.spread(rows.weight)
        scale = self.standard.scales().expand_as(spread)
        held = spread == 0
        unit = scale if original else torch.ones_like(scale)
        size = spread if self.standardize else torch.where(self.standard.ones, 1.0, 1 / scale)
        size, own = size * unit, self.slopes
        held = held | self.pinned
        lower, upper = (torch.where(held, 0.0, value * scale / unit) for value in (own.lower, own.upper))
        return Terms(own.absolute * size, own.square * size.square(), lower, upper)

    @property
    def symmetric(self) -> bool:
        """Whether every class has a vector of coefficients."""
        return isinstance(self.family, Multinomial) and self.family.baseline is None

    @property
    def pinned(self) -> Tensor:
        """(P,) free coefficients that are held at zero, as those of the other classes make up for them."""
        free = (self.slopes.absolute == 0)[0]
        if not self.symmetric:
            return torch.zeros_like(free)
        return free & (torch.arange(free.numel(), device=free.device) < free.numel() // self.standard.contrast.shape[1])

    def of(self, rows: Rows, without: str) -> WayDown:
        """The way down on some rows. Raises `ValueError` where a null model has no regular maximum."""
        way = WayDown(rows, self.family, self.link, self.terms(rows), self.ratio, self.tol, self.standard.lever())
        bad = way.failed | ~way.here.valid
        if bool(bad.any()):
            which = f" of model {int(bad.nonzero()[0, 0])}" if len(bad) > 1 and not without else ""
            raise ValueError(
                f"the null model{which}{without} has no regular maximum: its response does not vary, or its means "
                "leave their range. Leave such responses out, or draw other folds (a label for each row)."
            )
        return way

    def validated(self, codes: Tensor, labels: list[Any], strength: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, K, L) the mean deviance of every fold, its weighted mean (B, L), and the standard error of that."""
        deviance, weight = self._left_out(codes, labels, strength)
        share = (weight / weight.sum(-1, keepdim=True)).unsqueeze(-1)  # (B, K, 1)
        mean = (share * deviance).sum(1)
        square = (share * (deviance - mean.unsqueeze(1)).square()).sum(1)
        return deviance, mean, (square / (len(labels) - 1)).sqrt()

    def _left_out(self, codes: Tensor, labels: list[Any], strength: Tensor) -> tuple[Tensor, Tensor]:
        """(B, K, L) the mean deviance of every fold, by the models without it, and the weights (B, K) of the folds."""
        rows, count = self.standard.rows, len(labels)
        together = [list(range(count))] if rows.shared else [[k] for k in range(count)]
        deviance = strength.new_empty(rows.y.shape[0], count, strength.shape[-1])
        weight = strength.new_empty(rows.y.shape[0], count)
        for some in together:
            index = torch.tensor(some, device=codes.device)
            own = torch.where((codes.unsqueeze(-1) == index).any(-1), codes - some[0], -2)
            train = training(rows, own, len(some))
            first = torch.arange(train.y.shape[0], device=codes.device) % (1 + len(some)) == 0
            train = train.take((~first).nonzero()[:, 0])
            without = f" without fold {labels[some[0]]!r}" if len(some) == 1 else " without one of the folds"
            found = self.of(train, without).follow(strength.repeat_interleave(len(some), 0))
            coef = found.coef.unflatten(0, (-1, len(some)))
            for place, held in held_out(rows, own, len(some)):
                k = some[place]
                deviance[:, k], weight[:, k] = mean_deviance(held, self.family, self.link, coef[:, place])
        return deviance, weight

    def explained(self, half: Tensor) -> Tensor:
        """(B, L) the share of the deviance of the intercepts alone that is gone at mean half deviances (B, L)."""
        rows = self.standard.rows
        coef, _, _ = null_coefficients(rows, self.family, self.link, self.standard.ones & ~self.pinned)
        null = fold([rows], Point(coef, curved=False), self.family, self.link).objective / rows.weight.sum(-1)
        return 1 - half / null.unsqueeze(-1)


def _in_memory(data: Data) -> Rows:
    """The rows of a call. Raises `ValueError` where they are not held, or not finite."""
    source = data.source
    if not isinstance(source, list) or len(source) != 1:
        raise ValueError(
            "path holds its rows in memory: pass arrays, or a formula and a table (torchglm.tables.read_table(path))."
        )
    if data.skip is not None:
        at = int(data.skip.nonzero()[0, 0])
        raise ValueError(f"model {at} of the batch has rows that are not finite, or none at all. Leave it out.")
    rows: Rows = source[0]
    return rows


def _centred(coef: Tensor, terms: Terms, standard: Standard) -> Tensor:
    """Coefficients (B, L, P) whose free ones have the mean 0 over the classes, as nothing else tells them apart."""
    coef = coef.clone()
    for column in standard.of[terms.free].unique():
        at = ((standard.of == column) & terms.free).nonzero()[:, 0]
        coef[..., at] -= coef[..., at].mean(-1, keepdim=True)
    return coef


def _nonzero(coef: Tensor, standard: Standard) -> Tensor:
    """(B, L) how many columns beside the ones have a coefficient that is not zero."""
    width = int(standard.of.max()) + 1 if standard.of.numel() else 0
    count = torch.zeros(*coef.shape[:-1], width, dtype=torch.int64, device=coef.device)
    count.index_add_(-1, standard.of, ((coef != 0) & ~standard.ones).to(torch.int64))
    return (count > 0).sum(-1)


def _alike(value: Tensor) -> bool:
    return bool((value == value[:1]).all())


def _place(value: Tensor) -> int | Tensor:
    return value if value.dim() else int(value)


def _shaped(value: Tensor | None, data: Data) -> Tensor | None:
    return None if value is None else value.reshape(*data.batch, *value.shape[1:])
