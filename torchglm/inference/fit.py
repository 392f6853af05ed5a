"""Fit: what the search left of a model or a batch of them, and how well it does as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.fitting.irls import irls
from torchglm.fitting.penalties import Penalty
from torchglm.fitting.shape import dispersion_ml, loglik
from torchglm.fitting.status import Status
from torchglm.links import Link
from torchglm.rows.ranks import seen
from torchglm.rows.rows import Rows, WithoutColumns


class Fit:
    """What the search left, and the numbers of the fit as a whole, each `(*B)`."""

    def __init__(self, state: dict[str, Any], source: Iterable[Rows] | None = None) -> None:
        self._state = state
        self._source = source
        self.names: list[str] = state["names"]
        self.family: Family = state["family"]
        self.link: Link = state["link"]
        self.penalty: Penalty | str | None = state["penalty"]
        self.intercept: bool = state["intercept"]
        self.dispersion_kind: str = state["dispersion_kind"]
        self.context: dict[str, Any] = state["context"]
        self._batch = torch.Size(state["batch"])

    # shapes and coefficients -----------------------------------------------------------------------------

    def _out(self, value: Tensor) -> Tensor:
        """A tensor over the flat models in the batch's own shape."""
        return value.reshape(self._batch + value.shape[1:])

    @property
    def batch_shape(self) -> torch.Size:
        """The batch dimensions `(*B)`; empty for one model."""
        return self._batch

    @property
    def _coef(self) -> Tensor:
        return self._state["coef"]

    # how well ----------------------------------------------------------------------------------------------

    @property
    def deviance(self) -> Tensor:
        """(*B) the unscaled weighted deviance."""
        return self._out(self._state["deviance"])

    @property
    def pearson_chi2(self) -> Tensor:
        """(*B) Pearson's statistic, `sum w (y - mu)^2 / V(mu)`."""
        return self._out(self._state["pearson"])

    @property
    def dispersion(self) -> Tensor:
        """(*B) the dispersion `phi` behind the standard errors."""
        return self._out(self._state["dispersion"])

    @property
    def nobs(self) -> Tensor:
        """(*B) rows of positive weight, or the sum of the repeats."""
        return self._out(self._state["nobs"])

    @property
    def rank(self) -> Tensor:
        """(*B) independent columns of the design."""
        return self._out(self._state["rank"])

    @property
    def df_resid(self) -> Tensor:
        """(*B) `nobs - rank`."""
        return self.nobs - self.rank

    @property
    def df_null(self) -> Tensor:
        """(*B) `nobs` less one for the intercept of the null model."""
        return self.nobs - float(self.intercept)

    @cached_property
    def _flat_null_deviance(self) -> Tensor:
        if "null_deviance" in self._state:
            return self._state["null_deviance"]
        skip = self._state["status"] == int(Status.NOT_FINITE)
        source = seen(self.source, lambda own: WithoutColumns(own, self.intercept))
        null = irls(source, self.family, self.link, tol=self._state["tol"], skip=skip)
        return 2 * null.moments.objective

    @property
    def null_deviance(self) -> Tensor:
        """(*B) the deviance of the model with the intercept (and the offset) alone."""
        return self._out(self._flat_null_deviance)

    @cached_property
    def _flat_loglik(self) -> Tensor:
        if "loglik" in self._state:
            return self._state["loglik"]
        phi = self._state["dispersion"]
        if not self.family.has_dispersion:
            if self.dispersion_kind != "fixed":
                return torch.full_like(phi, torch.nan)  # a quasi-likelihood has no likelihood
        elif self.dispersion_kind != "number":
            phi = dispersion_ml(
                self.source, self.family, self.link, self._coef, self._state["deviance"] / self._state["nobs"]
            )
        value = loglik(self.source, self.family, self.link, self._coef, phi)
        return torch.where(self._state["status"] == int(Status.NOT_FINITE), torch.nan, value)

    @property
    def loglik(self) -> Tensor:
        """(*B) the fully normalised log-likelihood, at the maximum likelihood dispersion; NaN for a quasi fit."""
        return self._out(self._flat_loglik)

    @property
    def _parameters(self) -> Tensor:
        """Every estimated parameter: the rank, a dispersion, a shape."""
        dispersion = self.family.has_dispersion and self.dispersion_kind != "number"
        return self.rank + float(dispersion) + float(self._state["estimated_shape"])

    @property
    def aic(self) -> Tensor:
        """(*B) Akaike's criterion, `-2 loglik + 2 k`, with every estimated parameter counted."""
        return -2 * self.loglik + 2 * self._parameters

    @property
    def bic(self) -> Tensor:
        """(*B) the Bayesian criterion, `-2 loglik + k log(nobs)`."""
        return -2 * self.loglik + self._parameters * self.nobs.log()

    @property
    def status(self) -> Status | list[Any]:
        """How the fit ended: a `Status`, or for a batch a (nested) list of them."""

        def named(codes: Any) -> Any:
            return [named(code) for code in codes] if isinstance(codes, list) else Status(codes)

        return named(self._out(self._state["status"]).tolist())

    @property
    def converged(self) -> Tensor:
        """(*B) True where the maximum was found."""
        return self._out(self._state["status"] == int(Status.CONVERGED))

    @property
    def n_iter(self) -> Tensor:
        """(*B) accepted steps."""
        return self._out(self._state["n_iter"])

    # where the rows came from ----------------------------------------------------------------------------

    @property
    def source(self) -> Iterable[Rows]:
        """The rows the model was fitted on; raises `ValueError` where they are not held (a loaded result)."""
        if self._source is None:
            raise ValueError("this result holds no rows (it was loaded). Attach them: result.with_rows(x, y, ...).")
        return self._source

    @property
    def rows(self) -> Rows | None:
        """The rows in memory, or None for a loaded or streamed fit."""
        chunks = self._source
        return chunks[0] if isinstance(chunks, list) and len(chunks) == 1 else None

    @property
    def formula(self) -> str | None:
        """The formula of the fit, or None."""
        return self.context.get("formula")

    @property
    def spec(self) -> Any:
        """The design's specification (a `DesignSpec`), or None for a fit on arrays."""
        return self.context.get("spec")

    @property
    def groups(self) -> Sequence[Any] | None:
        """The labels of the models of a `by=` fit, or None."""
        return self.context.get("groups")

    @property
    def group_names(self) -> list[str] | None:
        """The columns of a `by=` fit, or None."""
        return self.context.get("group_names")
