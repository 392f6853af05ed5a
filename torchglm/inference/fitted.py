"""Fitted: what fitting leaves of a model or a batch of them, and the numbers of the fit as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from torchglm import special
from torchglm.families import Family
from torchglm.families.several import Classes, VectorFamily
from torchglm.fitting.bias import information_term
from torchglm.fitting.kernel import take_family
from torchglm.fitting.penalties import Penalty
from torchglm.fitting.shape import dispersion_ml, loglik
from torchglm.fitting.shape_sums import has_alpha
from torchglm.fitting.status import Status
from torchglm.inference.class_counts import class_counts
from torchglm.inference.flat import Flat
from torchglm.inference.levels import check_level
from torchglm.inference.null import null_deviance
from torchglm.inference.origin import Origin
from torchglm.inference.rowwise import RowValues, row_values
from torchglm.links import Link
from torchglm.rows.plan import Plan
from torchglm.rows.ranks import members
from torchglm.rows.rows import Rows

DISPERSIONS = ("pearson", "deviance", "ml", "fletcher", "reml")  # those that are estimated
Kind = TypeVar("Kind", bound="Fitted")


@dataclass(frozen=True, eq=False, repr=False)
class Fitted(Origin):
    """A fitted GLM or a batch of them: what the search left (`flat`), and the numbers of the fit, each `(*B)`.

    All of inference and every report is a function of a `Fitted`; `torchglm.Result` is one. `chunks` are the rows it
    was fitted on, read again at each pass where they do not fit into memory, or None where they are not held.
    """

    flat: Flat
    names: list[str]
    family: Family
    link: Link
    penalty: Penalty | str | None
    batch_shape: torch.Size  # the batch dimensions (*B); empty for one model
    intercept: bool
    dispersion_kind: str
    estimated_shape: bool
    minnorm: bool  # dropped columns have coefficients after all
    tol: float
    context: dict[str, Any]
    covariance_kind: str = "model"  # of the covariance behind `std_err`: "model", or the one `robust` was asked for
    chunks: Iterable[Rows] | None = None
    plan: Plan | None = None  # how several predictors are made of the design; None for one
    cuts: tuple[str, ...] = ()  # the names of the thresholds of an ordinal model: the last coefficients of `flat`

    # shapes ------------------------------------------------------------------------------------------------

    def shaped(self, value: Tensor) -> Tensor:
        """(*B, ...) a tensor over the flat models (B, ...) in the batch's own shape."""
        return value.reshape(self.batch_shape + value.shape[1:])

    def member(self: Kind, model: int) -> Kind:
        """One model of a batch; of a batch of several dimensions the slice. The rows of a stream stay where they are.

        Raises `TypeError` for one model.
        """
        if not self.batch_shape:
            raise TypeError("this is one model, not a batch; it has no members.")
        index = torch.arange(self.batch_shape.numel()).reshape(self.batch_shape)[model]
        flat = index.reshape(-1).to(self.flat.coef.device)
        group = None if self.groups is None else self.groups[int(model)]
        places = self.context.get("places")
        return replace(
            self,
            flat=self.flat.take(flat),
            family=take_family(self.family, flat if index.dim() else flat[0]),
            penalty=self.penalty.take(flat) if isinstance(self.penalty, Penalty) else self.penalty,
            batch_shape=index.shape,
            context=self.context | {"groups": None, "group": group, "places": places and places.member(flat)},
            chunks=None if self.chunks is None else members(self.chunks, flat),
        )

    # predictors --------------------------------------------------------------------------------------------

    @property
    def predictors(self) -> tuple[str, ...]:
        """The names of the predictors of a fit of several; of one predictor `("mean",)`."""
        return self.family.predictors if isinstance(self.family, VectorFamily) else ("mean",)

    @property
    def all_names(self) -> list[str]:
        """The names of all coefficients: `names`, and after them the thresholds of an ordinal model."""
        return [*self.names, *self.cuts]

    # coefficients ------------------------------------------------------------------------------------------

    @property
    def coef(self) -> Tensor:
        """(*B, p) the coefficients; NaN where a column is aliased. Those of an ordinal model are its slopes."""
        return self._whole[..., : len(self.names)]

    @property
    def thresholds(self) -> Tensor:
        """(*B, C - 1) the thresholds of an ordinal model. Raises `ValueError` for another family."""
        if not self.cuts:
            raise ValueError(f"thresholds are those of an ordinal model; this fit is {self.family.name}.")
        return self._whole[..., len(self.names) :]

    @property
    def _whole(self) -> Tensor:
        found = ~self.flat.failed.unsqueeze(-1)
        return self.shaped(torch.where(found if self.minnorm else found & self.flat.keep, self.flat.coef, torch.nan))

    @property
    def std_err(self) -> Tensor:
        """(*B, p) standard errors, the square roots of the diagonal of `covariance()`."""
        return self.shaped(self._variances.sqrt())[..., : len(self.names)]

    @cached_property
    def _variances(self) -> Tensor:
        if not self.covariance_is_root:
            return torch.where(self.flat.known, self.flat_covariance.diagonal(dim1=-2, dim2=-1), torch.nan)
        own = self.flat.root.inverse_diagonal()  # without the products of all pairs of columns
        return torch.where(self.flat.known, self.flat.dispersion.unsqueeze(-1) * own, torch.nan)

    @property
    def covariance_is_root(self) -> bool:
        """Whether the covariance behind `std_err` is the dispersion times the inverse whose root the fit left."""
        return self.flat.covariance is None and (self.penalty is not None or not self.context.get("event"))

    @property
    def flat_covariance(self) -> Tensor:
        """(B, p, p) the covariance behind `std_err`; NaN for aliased columns."""
        return self.model_covariance if self.flat.covariance is None else self.flat.covariance

    @property
    def model_covariance(self) -> Tensor:
        """(B, p, p) dispersion times the inverse information, which holds the curvature of a penalty.

        With a quadratic penalty it is the covariance of the coefficients given the data, the penalty being a normal
        prior: Wahba (1983), J. R. Stat. Soc. B 45; mgcv's `Vp`.
        """
        flat = self.flat
        if self.penalty is None and self.context.get("event") and flat.observed is not None:
            unscaled = flat.observed
        else:
            unscaled = flat.root.inverse()
        both = flat.determined.unsqueeze(-1) & flat.determined.unsqueeze(-2)
        return torch.where(both, flat.dispersion[:, None, None] * unscaled, torch.nan)

    def covariance(self) -> Tensor:
        """(*B, p, p) the covariance behind `std_err`; NaN for aliased columns."""
        return self.shaped(self.flat_covariance)

    @property
    def statistic(self) -> Tensor:
        """(*B, p) coefficient over standard error: t or z, see `statistic_name`."""
        return self.coef / self.std_err

    @property
    def statistic_name(self) -> str:
        """`"t"` where the dispersion is estimated, or the covariance brings degrees of freedom; else `"z"`."""
        return "t" if self.flat.reference is not None or self.dispersion_kind in DISPERSIONS else "z"

    @property
    def p_value(self) -> Tensor:
        """(*B, p) two-sided p-values by the survival function, so that they never round to zero early."""
        size = self.statistic.abs()
        if self.statistic_name == "z":
            return 2 * special.normal_sf(size)
        return 2 * special.student_t_sf(size, self.reference_df.expand_as(size))

    @property
    def reference_df(self) -> Tensor:
        """(*B, p) the degrees of freedom of `statistic` where it is a t: `df_resid`, or those of the covariance."""
        flat = self.flat
        df = self.flat.df_resid.unsqueeze(-1).expand_as(flat.coef) if flat.reference is None else flat.reference
        return self.shaped(df)[..., : len(self.names)]

    @property
    def least_df(self) -> Tensor:
        """(*B) the degrees of freedom behind functions of the coefficients: the least of `reference_df`."""
        if self.flat.reference is None:
            return self.df_resid
        return self.shaped(torch.where(self.flat.reference.isnan(), torch.inf, self.flat.reference).amin(-1))

    def conf_int(self, level: float = 0.95) -> Tensor:
        """(*B, p, 2) Wald limits of the coefficients, with t or z quantiles.

        They say nothing where the status is SEPARATED or BOUNDARY. Raises `ValueError` for a level outside (0, 1).
        """
        check_level(level)
        if self.flat.reference is None:
            half = self.quantile(level).unsqueeze(-1) * self.std_err
        else:
            tail = torch.full_like(self.reference_df, 0.5 + level / 2)
            half = special.student_t_icdf(tail, self.reference_df) * self.std_err
        return torch.stack([self.coef - half, self.coef + half], -1)

    def quantile(self, level: float) -> Tensor:
        """(*B) the two-sided quantile of the reference distribution of `statistic`."""
        tail = torch.full_like(self.df_resid, 0.5 + level / 2)
        if self.statistic_name == "z":
            return special.normal_icdf(tail)
        return special.student_t_icdf(tail, self.least_df)

    # how well ----------------------------------------------------------------------------------------------

    @property
    def deviance(self) -> Tensor:
        """(*B) the unscaled weighted deviance."""
        return self.shaped(self.flat.deviance)

    @property
    def pearson_chi2(self) -> Tensor:
        """(*B) Pearson's statistic, `sum w (y - mu)^2 / V(mu)`; NaN with several predictors, which have none."""
        return self.shaped(self.flat.pearson)

    @property
    def dispersion(self) -> Tensor:
        """(*B) the dispersion `phi` behind the standard errors."""
        return self.shaped(self.flat.dispersion)

    @property
    def nobs(self) -> Tensor:
        """(*B) rows of positive weight, or the sum of the repeats."""
        return self.shaped(self.flat.nobs)

    @property
    def rank(self) -> Tensor:
        """(*B) independent columns of the design."""
        return self.shaped(self.flat.rank)

    @property
    def infinite(self) -> Tensor:
        """(*B, p) the sign with which a coefficient runs to infinity, where separated levels were set apart; else 0.

        `coef` has a number so far out that their rows have the means they would have there.
        """
        none = torch.zeros_like(self.flat.coef)
        return self.shaped(none if self.flat.infinite is None else self.flat.infinite.sign())[..., : len(self.names)]

    @property
    def apart_rows(self) -> Tensor:
        """(*B) the rows of levels that were set apart, see `Status.SEPARATED_LEVELS`."""
        rows = self.flat.apart_rows
        return self.shaped(torch.zeros_like(self.flat.deviance) if rows is None else rows)

    @property
    def apart_levels(self) -> Tensor:
        """(*B) the levels that were set apart."""
        levels = self.flat.apart_levels
        return self.shaped(torch.zeros_like(self.flat.deviance) if levels is None else levels)

    @property
    def shape_std_err(self) -> Tensor:
        """(*B) the standard error of `family.alpha` or `family.power`, estimated together with the coefficients.

        By the observed information of all of them. NaN at a limit and where the shape was not estimated so.
        """
        error = self.flat.shape_error
        if error is None:
            return self.shaped(torch.full_like(self.flat.deviance, torch.nan))
        if has_alpha(self.family):
            return self.shaped(error * self.family.get_parameter("log_alpha").exp())
        share = self.family.get_parameter("raw_power").sigmoid()
        return self.shaped(error * share * (1 - share))

    @property
    def edf(self) -> Tensor:
        """(*B, p) the effective degrees of freedom of each coefficient, 1 where no penalty draws on it.

        `diag((X'WX + S)^-1 X'WX)` with the Fisher weights `W` and the curvature `S` of the penalty, on the columns that
        an l1 penalty does not hold at zero; 0 for those and for aliased ones.
        """
        return self.shaped(self.flat.keep.to(torch.float64) if self.flat.edf is None else self.flat.edf)

    @property
    def df_resid(self) -> Tensor:
        """(*B) `nobs - rank`; of a penalised fit `nobs` less the sum of `edf`; without levels that were set apart."""
        return self.shaped(self.flat.df_resid)

    @property
    def df_null(self) -> Tensor:
        """(*B) `nobs` less one for the intercept of the null model, or one for each of several predictors."""
        if "absorbed" in self.context:
            return self.nobs - 1.0
        return self.nobs - float(self.intercept if self.plan is None else self.plan.constants().columns)

    @cached_property
    def null_deviance(self) -> Tensor:
        """(*B) the deviance of the model with the intercept (and the offset) alone."""
        if self.flat.null_deviance is not None:
            return self.shaped(self.flat.null_deviance)
        return self.shaped(
            null_deviance(self.scored, self.family, self.link, self.intercept, self.tol, self.flat.failed)
        )

    @cached_property
    def loglik(self) -> Tensor:
        """(*B) the fully normalised log-likelihood, at the maximum likelihood dispersion; NaN for a quasi fit."""
        flat = self.flat
        if flat.loglik is not None:
            return self.shaped(flat.loglik)
        phi = flat.dispersion
        if self.plan is not None:
            return self.shaped(torch.where(flat.failed, torch.nan, -flat.deviance / 2))
        if not self.family.has_dispersion:
            if self.dispersion_kind != "fixed":
                return self.shaped(torch.full_like(phi, torch.nan))  # a quasi-likelihood has no likelihood
        elif self.dispersion_kind != "number":
            phi = dispersion_ml(self.scored, self.family, self.link, flat.coef, flat.deviance / flat.nobs)
        value = loglik(self.scored, self.family, self.link, flat.coef, phi)
        return self.shaped(torch.where(flat.failed, torch.nan, value))

    @cached_property
    def class_counts(self) -> Tensor:
        """(*B, C) the rows of each class, repeats counted. Raises `ValueError` for a family without classes."""
        if not isinstance(self.family, Classes):
            raise ValueError(f"classes are those of a multinomial or ordinal model; this fit is {self.family.name}.")
        if self.flat.counts is not None:
            return self.shaped(self.flat.counts)
        return self.shaped(class_counts(self.source, len(self.family.known)))

    def numbers_of_rows(self) -> dict[str, Any]:
        """The numbers over the flat models that are found in passes over the rows, by their names in `flat`."""
        known: dict[str, Any] = {"null_deviance": self.null_deviance.reshape(-1), "loglik": self.loglik.reshape(-1)}
        if isinstance(self.family, Classes):
            known["counts"] = self.class_counts.reshape(-1, len(self.family.known))
        return known

    @property
    def bias_reduced(self) -> bool:
        """Whether the score was adjusted by `Jeffreys`."""
        return bool(self.context.get("bias_reduced"))

    @property
    def penalized_loglik(self) -> Tensor:
        """(*B) `loglik + log det(X'WX) / 2` of a bias-reduced fit.

        Raises `ValueError` for another, and for a family with a dispersion.
        """
        if not self.bias_reduced or self.family.has_dispersion:
            raise ValueError("penalized_loglik is that of penalty=Jeffreys() for a family without dispersion.")
        return self.loglik + self.shaped(information_term(self.flat.gram, self.flat.keep))

    @property
    def n_parameters(self) -> Tensor:
        """(*B) every estimated parameter: the rank (penalised: the sum of `edf`), dispersion, shape, covariances."""
        dispersion = self.family.has_dispersion and self.dispersion_kind != "number"
        effects = 0 if self.flat.effect_psi is None else self.flat.effect_psi.shape[-1]
        return self.shaped(self.flat.df) + float(dispersion) + float(self.estimated_shape) + effects

    @property
    def aic(self) -> Tensor:
        """(*B) Akaike's criterion, `-2 loglik + 2 k`, with every estimated parameter counted."""
        return -2 * self.loglik + 2 * self.n_parameters

    @property
    def bic(self) -> Tensor:
        """(*B) the Bayesian criterion, `-2 loglik + k log(nobs)`."""
        return -2 * self.loglik + self.n_parameters * self.nobs.log()

    @property
    def status(self) -> Status | list[Any]:
        """How the fit ended: a `Status`, or for a batch a (nested) list of them."""

        def named(codes: Any) -> Any:
            return [named(code) for code in codes] if isinstance(codes, list) else Status(codes)

        return named(self.shaped(self.flat.status).tolist())

    @property
    def converged(self) -> Tensor:
        """(*B) True where the maximum was found, see `Status.converged`."""
        return self.shaped(self.flat.converged)

    @property
    def n_iter(self) -> Tensor:
        """(*B) accepted steps."""
        return self.shaped(self.flat.n_iter)

    @cached_property
    def lengths(self) -> dict[int, Tensor]:
        """(B, n) `x' H^-1 x` of the pieces of rows in memory it was asked of: what all leverages are made of."""
        return {}

    def row_values(self, observed: bool = False) -> Iterator[RowValues]:
        """The values of every chunk of the rows at the fitted coefficients, see `rowwise.row_values`."""
        return row_values(self.source, self.family, self.link, self.flat.coef, observed)

    def scored_values(self) -> Iterator[RowValues]:
        """`row_values` where no more is asked of them than means and scores: beside absorbed factors as well."""
        return row_values(self.scored, self.family, self.link, self.flat.coef)
