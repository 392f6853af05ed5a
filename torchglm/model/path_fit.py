"""`path`: elastic nets of falling strength, and their cross-validation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchglm import families, inputs, links
from torchglm.families import Family
from torchglm.families.several import Classes, VectorFamily
from torchglm.fitting.folds import fold_weights
from torchglm.fitting.lanes import Terms
from torchglm.fitting.penalties import Penalty
from torchglm.fitting.standard import Standard
from torchglm.inputs import Data, Roles
from torchglm.links import Identity, Link
from torchglm.model.fold_labels import column_of_folds, fold_codes
from torchglm.model.options import check_options, device_of
from torchglm.model.path import Path
from torchglm.model.path_options import column_values, strengths_of
from torchglm.model.path_search import Searches
from torchglm.model.path_shapes import ShapedPath, shape_of
from torchglm.model.sources import data_of
from torchglm.rows.ranks import ranks_of
from torchglm.rows.rows import Rows
from torchglm.rows.threads import small_operators
from torchglm.special.tracing import apart_from_graphs
from torchglm.tables.text_format import TextFormat
from torchglm.writing.answering import answering

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from torchglm.inputs.roles import RoleValues


@answering
@apart_from_graphs
@torch.no_grad()
@small_operators()
def path(
    x: Any,
    y: Any = None,
    *,
    family: str | Family,
    link: str | Link | None = None,
    intercept: bool = True,
    penalty: Penalty | None = None,
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
    unseen: str = "error",
    rare: int = 0,
    delimiter: str = ",",
    decimal: str = ".",
    encoding: str = "utf8",
    types: Mapping[str, str] | None = None,
    na: str | float | Sequence[str | float] | None = None,
    **roles: Unpack[RoleValues],
) -> Path:
    """Fit elastic nets of falling strength, in glmnet's form, and choose among them by cross-validation.

    The minimum of `mean(nll) + strength sum_j f_j (l1_ratio |s_j b_j| + (1 - l1_ratio) (s_j b_j)^2 / 2)` over
    `lower <= b <= upper`, the mean weighted and at `phi = 1`, `s_j` the weighted standard deviation with 1 / n of
    column j. The intercept is free.

    Args:
        x, y, family, link, intercept, names, device, dtype: as in `fit`, as are roles and what says how tables are read
            (`missing`, `unseen`, `rare`, `delimiter`, `decimal`, `encoding`, `types`, `na`). A batch of responses
            `(*B, n)` gets a path each. `Multinomial(baseline=None)` penalises a vector for every class.
        penalty: another shape, times the strengths: `GroupLasso(1.0)`, `Fused(1.0, "C(age)")`, `MCP(1.0)`, `SCAD(1.0)`,
            of columns as they are, in place of the four that follow but `strength`, `n` and `smallest`.
        l1_ratio: 1 is the lasso, 0 ridge.
        strength: falling values `(L,)` or `(*B, L)`; None: `n` of them in a geometric sequence from the least at which
            all penalised coefficients are zero, down to `smallest` times that (1e-4, or 1e-2 with fewer rows than
            columns).
        standardize: False takes `s_j = 1`.
        factor: `f_j`, one for each column, 0 for no penalty; as given (glmnet rescales them to the sum p).
        lower, upper: limits of the coefficients, a number or one for each column, around 0.
        folds: how many, drawn by `seed` and of like size, or a label for each row (a group, a block of time), with a
            formula also the name of their column. Columns are standardised anew without each fold.
        tol: of `kkt`.

    Raises `ValueError` or `TypeError` for what `fit` refuses; strengths that rise; limits that exclude 0; vectors of
    another length; a fold without rows, or without which the null model has no maximum (no event, say).
    Source: Friedman, Hastie & Tibshirani (2010), J. Stat. Software 33(1).
    """
    check_options(tol, 1, "drop", None, names, dtype)
    family, chosen = _family_and_link(families.get(family), link)
    beside = Roles.of(roles, "path")
    beside.check_link(chosen)
    reading = TextFormat.of(delimiter, decimal, encoding, types, na)
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
        policies={"missing": missing, "unseen": unseen, "rare": rare, "reading": reading},
        device=device_of(device),
        dtype=dtype,
    )
    if data.plan is not None and data.family is not None:
        family, chosen = data.family, data.family.default_link
    source = _whole(data)
    inputs.check_row_labels({"data" if isinstance(x, str) else "x": y if isinstance(x, str) else x, "folds": folds})
    if data.columns <= len(data.constants):
        raise ValueError("a path needs a column beside the intercept, and there is none. Fit the null model with fit.")
    if isinstance(folds, str):
        folds = column_of_folds(folds, x, y, data, reading)
    codes, labels = fold_codes(folds, source, seed)
    if penalty is not None:
        shape = shape_of(penalty, data, (l1_ratio, standardize, factor, lower, upper))
        return ShapedPath(data, family, chosen, shape, strength, n, smallest).path(source, codes, labels)
    limits = {"factor": factor, "lower": lower, "upper": upper}
    call = _Call(data, family, chosen, float(l1_ratio), strength, n, smallest, standardize, limits, tol, labels)
    return call.path(source, codes)


@dataclass(frozen=True)
class _Call:
    """What is asked of a path, whichever rows it has."""

    data: Data
    family: Family
    link: Link
    l1_ratio: float
    strength: Any
    n: int
    smallest: float | None
    standardize: bool
    limits: dict[str, Any]  # factor, lower, upper
    tol: float
    labels: list[Any]

    def path(self, source: Iterable[Rows], codes: Tensor | None) -> Path:
        """That of some rows, with the folds (n,) that they are in."""
        data, family, chosen, l1_ratio = self.data, self.family, self.link, self.l1_ratio
        standard = Standard.of_source(source, data.constant)
        slopes = column_values(data, standard, **self.limits, ratio=l1_ratio)
        search = Searches(standard, slopes, family, chosen, l1_ratio, self.standardize, self.tol)
        way = search.of(standard.source)
        given = strengths_of(self.strength, way.largest, data.batch, self.n, self.smallest, source)
        whole, *without = way.follow(given, () if codes is None else search.without(codes, self.labels))
        deviances = (None, None, None) if codes is None else search.validated(codes, without)
        fold_deviance, cv_mean, cv_se = (_shaped(value, data) for value in deviances)
        coef = standard.original(whole.coef)
        if search.symmetric:
            coef = _centred(coef, way.terms, standard)
        shared = not data.batch or (self.strength is not None and given.shape[0] > 0 and _alike(given))
        return Path(
            strength=given[0] if shared else given.reshape(*data.batch, -1),
            coef=coef.reshape(*data.batch, *coef.shape[1:]),
            df=_nonzero(whole.coef, standard).reshape(*data.batch, -1),
            dev_ratio=search.explained(whole.half, way.total).reshape(*data.batch, -1),
            kkt=whole.kkt.reshape(*data.batch, -1),
            names=data.names,
            l1_ratio=l1_ratio,
            family=family,
            link=chosen,
            fold_deviance=fold_deviance,
            cv_mean=cv_mean,
            cv_se=cv_se,
            data=data,
            weights=search.terms(standard.source, original=True),
            halved=partial(self._halved, source, codes),
        )

    @torch.no_grad()
    def _halved(self, source: Iterable[Rows], codes: Tensor | None, seed: int) -> tuple[Path, Iterable[Rows]]:
        """The path of half of the rows, drawn at random, and the other half."""
        if not isinstance(source, list):
            raise ValueError("inference='split' takes rows in memory. Read them into a table, or take 'debiased'.")
        sizes = [rows.y.shape[-1] for rows in source]
        first = torch.randperm(sum(sizes), generator=torch.Generator().manual_seed(seed)) < (sum(sizes) + 1) // 2
        parts = list(zip(source, first.to(source[0].y.device).split(sizes), strict=True))
        half, other = ([rows.at((own == side).nonzero()[:, 0]) for rows, own in parts] for side in (True, False))
        own = codes if codes is None else codes[first.to(codes.device)]
        if own is not None and bool((fold_weights(half, own, len(self.labels)) == 0).any()):
            raise ValueError("inference='split': a fold has no row in the half that chooses. Take fewer folds.")
        data = replace(self.data, source=half)
        return replace(self, data=data).path(half, own), other


def _family_and_link(family: Family, link: str | Link | None) -> tuple[Family, Link]:
    """The family of a path and its link. Raises `ValueError` for families it is not for."""
    if isinstance(family, VectorFamily):
        if not isinstance(family, Classes):
            raise ValueError(f"path is for families of one predictor and for classes, got {family.said}.")
        if link is not None:
            raise ValueError(f"{family.said} has its own link. Leave link= out.")
        return family, Identity() if family.classes is None else family.default_link
    if family.estimates_shape:
        raise ValueError(f"path takes {family.said} with a fixed shape parameter. Give it one, from a fit, say.")
    return family, family.default_link if link is None else links.get(link)


def _whole(data: Data) -> Iterable[Rows]:
    """The rows of a call. Raises `ValueError` where they are shared out to processes, or not finite."""
    if ranks_of(data.source).size > 1:
        raise ValueError("path is for one process. Call it in one, on files of any size, or fit one strength in all.")
    if data.skip is not None:
        at = int(data.skip.nonzero()[0, 0])
        raise ValueError(f"model {at} of the batch has rows that are not finite, or none at all. Leave it out.")
    return data.source


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


def _shaped(value: Tensor | None, data: Data) -> Tensor | None:
    return None if value is None else value.reshape(*data.batch, *value.shape[1:])
