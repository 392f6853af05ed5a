"""`Path`: elastic nets of falling strength, how well each did, and the fit at one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.fitting.certificate import certified
from torchglm.fitting.kernel import fold, take_family
from torchglm.fitting.lanes import Terms
from torchglm.fitting.moments import Point
from torchglm.fitting.penalties import ElasticNet, Penalty
from torchglm.fitting.problem import Problem
from torchglm.fitting.shape import dispersion_ml, loglik
from torchglm.fitting.state import Solution
from torchglm.fitting.status import Status
from torchglm.inference.build import build
from torchglm.inference.fitted import Fitted
from torchglm.inputs import Data
from torchglm.links import Link
from torchglm.model import path_storage
from torchglm.model.debiased import debiased
from torchglm.model.face import Result
from torchglm.model.split import split
from torchglm.model.usual import OF_PATH
from torchglm.report.strengths import path_table
from torchglm.rows.ranks import members, own_rows
from torchglm.rows.rows import Rows
from torchglm.writing.answering import answering_methods
from torchglm.writing.nearest import absent, unknown

CERTIFIED = 1e-9  # largest excess of a slope at which a point is called the minimum
CRITERIA = ("aic", "bic", "ebic")
ROOM = 1 << 24  # numbers of rows, or of Grams, for fits at several strengths that are made at once
KEPT = 1 << 23  # numbers of Grams that a folder holds; beyond, the fits that a word selects
Halved: TypeAlias = "Callable[[int], tuple[Path, Iterable[Rows]]]"
INFERENCES = (None, "debiased", "split")
PRIOR = 0.5  # weight of the number of sets of columns in the extended BIC


@answering_methods
@dataclass(frozen=True, eq=False, repr=False)
class Path:
    """Elastic nets of L falling strengths; every quantity has the batch dimensions `(*B)` of the responses in front.

    `strength` (L,) is shared by all models, or (*B, L) where each has its own; `coef` (*B, L, P) are the coefficients
    of the columns as they came, in the order of `names`; `df` (*B, L) counts the columns that are not zero, without
    intercepts; `dev_ratio` (*B, L) is the explained share of the deviance. `kkt` (*B, L) certifies each minimum: by how
    much the objective could still fall along a column in units of its spread, as a share of the largest such slope
    of the null model. With folds `cv_mean` (*B, L) is the mean of the deviance of the folds, each by the models
    without it, weighted by the weight of its rows, and `cv_se` its standard error; `fold_deviance` (*B, K, L).
    A loaded path has no rows (`data` is None), and selects among the fits that were `saved` with it.
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
    weights: Terms = field(kw_only=True)  # of a strength of 1 on the columns as they came
    data: Data | None = field(kw_only=True, default=None)
    saved: path_storage.Saved | None = field(kw_only=True, default=None)
    halved: Halved | None = field(kw_only=True, default=None)  # the path of half of the rows, and the other half
    shape: Penalty | str | None = field(kw_only=True, default=None)  # of strength 1; a loaded path knows its text

    @property
    def converged(self) -> Tensor:
        """(*B, L) whether `kkt` is at most 1e-9."""
        return self.kkt <= CERTIFIED

    @property
    def batch_shape(self) -> torch.Size:
        """The batch dimensions (*B); empty for one model."""
        return self.kkt.shape[:-1]

    # the choice of a strength ------------------------------------------------------------------------------

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

    @property
    def aic(self) -> Tensor:
        """(*B, L) `-2 loglik + 2 k`; `k` counts the coefficients that are not zero, and a dispersion.

        Of an elastic net that is no lasso they count by their effective degrees of freedom. The log-likelihood is the
        normalised one, at the dispersion of each point. Raises `ValueError` where it was not saved.
        Source: Zou, Hastie & Tibshirani (2007), Ann. Statist. 35, 2173-2192.
        """
        value, count, _ = self._likelihoods
        return -2 * value + 2 * count

    @property
    def bic(self) -> Tensor:
        """(*B, L) `-2 loglik + k log(nobs)`, `k` as in `aic`."""
        value, count, nobs = self._likelihoods
        return -2 * value + count * nobs.log()

    @property
    def ebic(self) -> Tensor:
        """(*B, L) `bic + log(p choose df)`, for many columns p.

        Source: Chen & Chen (2008), Biometrika 95, 759-771, with gamma = 1/2.
        """
        p = float(((self.weights.absolute + self.weights.square) > 0).any(0).sum())
        df = self.df.to(torch.float64).clamp(max=p)
        total = self.df.new_tensor(p + 1, dtype=torch.float64)
        ways = total.lgamma() - (df + 1).lgamma() - (p - df + 1).lgamma()
        return self.bic + 2 * PRIOR * ways

    @cached_property
    def _likelihoods(self) -> tuple[Tensor, Tensor, Tensor]:
        """(*B, L) the log-likelihood of every point, its degrees of freedom, and (*B, 1) the number of rows."""
        if self.saved is not None:
            return self.saved.likelihoods
        data, every = self._rows, torch.arange(self.kkt.numel(), device=self.kkt.device)
        if self.l1_ratio < 1 or data.plan is not None or self.shape is not None:
            own = [self._fits(lanes) for lanes in every.split(max(1, ROOM // max(1, len(self.names)) ** 2))]
            found = [torch.stack([fits.loglik, fits.n_parameters, fits.nobs]) for fits in own]
        else:
            held = sum(rows.y.shape[-1] for rows in own_rows(data.source)) if isinstance(data.source, list) else 1 << 18
            lanes = every if self.family.has_dispersion else every[:: self.kkt.shape[-1]]
            value, objective, nobs = torch.cat(
                [self._at_dispersion(some) for some in lanes.split(max(1, ROOM // max(1, held)))], -1
            ).reshape(3, *self.batch_shape, -1)
            if not self.family.has_dispersion:  # then what is not said by the deviance is the same at all strengths
                left = 1 - self.dev_ratio
                value = value + objective * (1 - left / left[..., :1])
            estimated = self.coef[..., 0].new_tensor(float(self.family.has_dispersion))
            return value, (self.coef != 0).sum(-1) + estimated, nobs[..., :1]
        value, count, nobs = torch.cat(found, -1).reshape(3, *self.kkt.shape)
        return value, count, nobs[..., :1]

    def _at_dispersion(self, lanes: Tensor) -> Tensor:
        """(3, S) log-likelihood, half the deviance and number of rows at points `lanes` of lassos."""
        source, family, coef = self._source(lanes), self._family(lanes), self._coef(lanes)
        sums = fold(source, Point(coef, before=coef, curved=False, census=True), family, self.link)
        phi = torch.ones_like(sums.objective)
        if family.has_dispersion:
            phi = dispersion_ml(source, family, self.link, coef, 2 * sums.objective / sums.count)
        return torch.stack([loglik(source, family, self.link, coef, phi), sums.objective, sums.count])

    def place(self, which: str | int | float | Tensor) -> Tensor:
        """(*B) the place of what `select` takes. Raises as it does."""
        length = self.kkt.shape[-1]
        if isinstance(which, str):
            if which not in ("best", "one_se", *CRITERIA):
                words = {"min": "'best'", "lambda.min": "'best'", "1se": "'one_se'", "lambda.1se": "'one_se'"}
                said = unknown("word", which, ("best", "one_se", *CRITERIA), words)
                raise ValueError(f"{said} select also takes a strength, or the place of one (a whole number).")
            found = getattr(self, which)
            which = found.argmin(-1) if which in CRITERIA else found
        elif isinstance(which, float) or isinstance(which, Tensor) and which.is_floating_point():
            which = self._nearest(torch.as_tensor(which, dtype=torch.float64, device=self.kkt.device))
        elif not isinstance(which, Tensor) and (isinstance(which, bool) or not hasattr(which, "__index__")):
            raise TypeError(f"select takes a word, a strength (a float) or its place (a whole number); got {which!r}.")
        place = torch.as_tensor(which, device=self.coef.device).expand(self.batch_shape)
        if not bool(((place >= -length) & (place < length)).all()):
            raise IndexError(f"the path has {length} strengths, from 0 to {length - 1}; got {which}.")
        return place % length

    def _nearest(self, strength: Tensor) -> Tensor:
        """The place of a strength of the path, up to rounding to six digits. Raises `ValueError` for another."""
        away = (self.strength - strength.unsqueeze(-1)).abs()
        if not bool((away.amin(-1) <= 1e-6 * strength.abs()).all()):
            raise ValueError(
                f"{strength.tolist()} is no strength of this path ({float(self.strength.min()):g} to "
                f"{float(self.strength.max()):g}). Take one of path.strength, or fit it: path(..., strength=[...])."
            )
        return away.argmin(-1)

    # fits at chosen strengths ------------------------------------------------------------------------------

    def select(
        self, which: str | int | float | Tensor = "one_se", inference: str | None = None, seed: int = 0
    ) -> Result:
        """The fit at one strength: `"best"`, `"one_se"`, `"aic"`, `"bic"`, `"ebic"`, a strength, or its place (an int).

        A strength is a float, a place a whole number; a tensor `(*B)` has one for each model. The `penalty` of the fit
        holds the strengths of all columns in their own units. Columns that stand at a limit count no degree of freedom.
        It has no standard errors; with `inference="debiased"` the bias of the penalty is taken off in one step, which
        gives every column an estimate, an error and an interval (see `debiased`), and needs the rows. With
        `inference="split"` half of the rows, drawn by `seed`, choose the strength and the columns, and the other half
        fits those without a penalty (see `split`).
        Raises `ValueError` for another word or strength, `IndexError` for a place that is not there.
        """
        if inference not in INFERENCES:
            raise ValueError(f"inference is None, 'debiased' or 'split', got {inference!r}.")
        if inference is not None and self.shape is not None:
            raise ValueError(f"inference={inference!r} is for elastic nets, and not for {self.shape}. Leave it out.")
        if inference == "split":
            if self.halved is None:
                raise ValueError("this path was loaded, without rows. Fit it again: torchglm.path(...).")
            half, other = self.halved(seed)
            return Result.of(split(half.select(which), other, half.weights.free, seed))
        place, length = self.place(which).reshape(-1), self.kkt.shape[-1]
        lanes = torch.arange(place.numel(), device=place.device) * length + place
        held = self.saved
        fitted = self._fits(lanes, self.batch_shape) if held is None else held.at(lanes, self.batch_shape)
        fitted = replace(fitted, penalty=self._penalty(lanes), context=fitted.context | {"path": self})
        if inference is None:
            return Result.of(fitted)
        if bool((self.weights.lower.isfinite() | self.weights.upper.isfinite()).any()):
            raise ValueError("inference='debiased' takes a path without limits and constant columns. Leave them out.")
        return Result.of(debiased(fitted))

    def _fits(self, lanes: Tensor, batch: torch.Size | None = None) -> Fitted:
        """The fits at points `lanes` (S,) of the flat (B L), with batch dimensions."""
        data, coef, penalty = self._rows, self._coef(lanes), self._penalty(lanes)
        source, family, own = self._source(lanes), self._family(lanes), self.weights
        kkt, batch = self.kkt.reshape(-1)[lanes], lanes.shape if batch is None else batch
        model = (lanes // self.kkt.shape[-1]) % own.lower.shape[0]
        keep = ~own.held[model] & (coef > own.lower[model]) & (coef < own.upper[model])
        problem = Problem.of(source, next(iter(own_rows(source))), family, self.link, penalty)
        moments = fold(source, Point(coef, problem.several and not problem.canonical, before=coef), family, self.link)
        none = torch.zeros(len(coef), dtype=torch.bool, device=coef.device)
        inverse = problem.inverse(moments, coef, keep, none, moments.weight)
        status = torch.where(kkt <= CERTIFIED, int(Status.CONVERGED), int(Status.ITERATION_LIMIT))
        root = inverse.root.only(inverse.positive)
        steps = torch.zeros(len(coef), dtype=torch.int64, device=coef.device)
        solution = Solution(coef, keep, moments, root, status, steps, none, minnorm=True)
        return build(
            solution if self.shape is None else certified(solution, problem),
            source,
            family,
            self.link,
            batch,
            data.names,
            constant=data.constant,
            penalty=penalty,
            dispersion=None,
            tol=1e-8,
            context=data.context,
            plan=data.plan,
        )

    @property
    def _rows(self) -> Data:
        if self.data is None:
            raise ValueError("this path was loaded, without rows. Fit it again: torchglm.path(...).")
        return self.data

    def _source(self, lanes: Tensor) -> Any:
        return members(self._rows.source, lanes // self.kkt.shape[-1])

    def _family(self, lanes: Tensor) -> Family:
        return take_family(self.family, lanes // self.kkt.shape[-1])

    def _coef(self, lanes: Tensor) -> Tensor:
        return self.coef.reshape(-1, self.coef.shape[-1])[lanes]

    def _penalty(self, lanes: Tensor) -> Any:
        """That of points `lanes` (S,), in the units of the columns; of a loaded path of another shape its text."""
        own, length = self.weights, self.kkt.shape[-1]
        model = lanes // length
        strength = self.strength.expand(*self.batch_shape, length).reshape(-1)[lanes].unsqueeze(-1)
        if self.shape is not None:
            one = not self.batch_shape and len(strength) == 1
            if isinstance(self.shape, str):
                return f"{strength.reshape(-1)[0]:.6g} × {self.shape}" if one else f"strengths × {self.shape}"
            return self.shape.scaled(strength.reshape(()) if one else strength.squeeze(-1))
        absolute, square = (value[model % value.shape[0]] for value in (own.absolute, own.square))
        l1, l2 = strength * self.l1_ratio * absolute, strength * (1 - self.l1_ratio) * square
        return ElasticNet(l1, l2) if self.batch_shape or len(l1) > 1 else ElasticNet(l1[0], l2[0])

    def save(self, folder: Any) -> None:
        """Write the path into a folder: tensors and JSON, no row of data and no pickle; `torchglm.load` reads it.

        The fits at all strengths go with it where their Grams take no more than 64 MB, else those that the words of
        `select` mean.
        """
        every = torch.arange(self.kkt.numel(), device=self.kkt.device)
        if self.saved is not None:
            path_storage.save(self, folder, self.saved)
            return
        if self.kkt.numel() * len(self.names) ** 2 > KEPT:
            words = [*CRITERIA, *(("best", "one_se") if self.cv_mean is not None else ())]
            places = torch.stack([self.place(word).reshape(-1) for word in words], -1)
            first = torch.arange(len(places), device=places.device).unsqueeze(-1) * self.kkt.shape[-1]
            every = (first + places).unique()
        path_storage.save(self, folder, path_storage.Saved(every, self._fits(every), self._likelihoods))

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if hasattr(type(self), name):  # what failed is within it, and says so again
                return object.__getattribute__(self, name)
            raise AttributeError(absent("'Path' object", name, OF_PATH, dir(self)))

    def __repr__(self) -> str:
        return path_table(self)


def _place(value: Tensor) -> int | Tensor:
    return value if value.dim() else int(value)
