"""Result: what a fit says, for one model or for a batch of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchglm import special
from torchglm.fitting.status import Status
from torchglm.inference import covariance as sandwich
from torchglm.inference import effects, estimates, influence, intervals, rowwise
from torchglm.inference import predict as prediction
from torchglm.inference.adequacy import check as checking
from torchglm.inference.adequacy import collinearity, diagnostics, fitness
from torchglm.inference.adequacy import separation as separating
from torchglm.inference.fit import Fit
from torchglm.inference.table import Outcome, Table
from torchglm.rows import bordered
from torchglm.rows.rows import Rows

if TYPE_CHECKING:
    from torchglm.inference.likelihood import Likelihood
    from torchglm.model.head import GLMHead

DISPERSIONS = ("pearson", "deviance", "ml")


class Result(Fit):
    """A fitted GLM, or a batch of them: every quantity has the batch dimensions `(*B)` in front.

    `coef`, `std_err`, `statistic` (t where the dispersion is estimated, else z) and `p_value` are `(*B, p)` in
    the order of `names`; aliased coefficients are NaN. `deviance`, `pearson_chi2`, `dispersion`, `nobs`, `rank`,
    `df_resid`, `df_null`, `n_iter`, `converged` are `(*B)`. Residuals and what else needs rows take them from
    `rows`, which a saved and loaded result no longer holds.
    """

    # models ------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        if not self._batch:
            raise TypeError("this is one model, not a batch; it has no length.")
        return self._batch[0]

    def __getitem__(self, model: int) -> Result:
        """One model of a batch (of a flat batch the model, of a deeper one the slice)."""
        if not self._batch:
            raise TypeError("this is one model, not a batch; it has no members.")
        from torchglm.model.views import member

        return member(self, model)

    # coefficients ------------------------------------------------------------------------------------------

    @property
    def _flat_reported(self) -> Tensor:
        keep = self._state["keep"] | self._state["minnorm"]
        known = (self._state["status"] != int(Status.NOT_FINITE)).unsqueeze(-1)
        return torch.where(keep & known, self._coef, torch.nan)

    @property
    def coef(self) -> Tensor:
        """(*B, p) the coefficients; NaN where a column is aliased."""
        return self._out(self._flat_reported)

    @property
    def std_err(self) -> Tensor:
        """(*B, p) standard errors, the square roots of the diagonal of `covariance()`."""
        return self._out(self._variances.sqrt())

    @cached_property
    def _variances(self) -> Tensor:
        if not self.covariance_is_root:
            return self._covariance().diagonal(dim1=-2, dim2=-1)
        own = bordered.inverse_diagonal(self._state["root"])  # without the products of all pairs of columns
        return torch.where(self._state["keep"], self._state["dispersion"].unsqueeze(-1) * own, torch.nan)

    @property
    def covariance_is_root(self) -> bool:
        """Whether the covariance behind `std_err` is the dispersion times the inverse whose root the fit left."""
        return "covariance" not in self._state and self.penalty is None and not self.context.get("event")

    @property
    def statistic(self) -> Tensor:
        """(*B, p) coefficient over standard error: t or z, see `statistic_name`."""
        return self.coef / self.std_err

    @property
    def statistic_name(self) -> str:
        """`"t"` where the dispersion is estimated, else `"z"`."""
        return "t" if self.dispersion_kind in DISPERSIONS else "z"

    @property
    def p_value(self) -> Tensor:
        """(*B, p) two-sided p-values by the survival function, so that they never round to zero early."""
        size = self.statistic.abs()
        if self.statistic_name == "z":
            return 2 * special.normal_sf(size)
        return 2 * special.student_t_sf(size, self.df_resid.unsqueeze(-1).expand_as(size))

    def conf_int(self, level: float = 0.95, method: str = "wald") -> Tensor:
        """(*B, p, 2) confidence limits of the coefficients: Wald with t or z quantiles, or profile likelihood.

        Wald limits say nothing where the status is SEPARATED or BOUNDARY; `method="profile"` does, with infinite limits
        where the likelihood sets none (see `profile.profile_interval`).
        Raises `ValueError` for a level outside (0, 1) or an unknown method.
        """
        if not 0 < level < 1:
            raise ValueError(f"level must lie between 0 and 1, got {level}. 0.95 is 95 %.")
        if method == "profile":
            from torchglm.inference.limits.profile import profile_interval

            return self._out(profile_interval(self, level))
        if method != "wald":
            raise ValueError(f"unknown method {method!r}. Known: wald, profile.")
        half = self.quantile(level).unsqueeze(-1) * self.std_err
        return torch.stack([self.coef - half, self.coef + half], -1)

    def quantile(self, level: float) -> Tensor:
        """(*B) the two-sided quantile of the reference distribution of `statistic`."""
        tail = torch.full_like(self.df_resid, 0.5 + level / 2)
        if self.statistic_name == "z":
            return special.normal_icdf(tail)
        return special.student_t_icdf(tail, self.df_resid)

    def covariance(self, kind: str | None = None, clusters: Any = None) -> Tensor:
        """(*B, p, p) the covariance of the coefficients; NaN for aliased columns.

        `model`: dispersion times the inverse expected information; `observed`: with the observed information;
        `HC0` to `HC3` and `cluster` (with `clusters`, labels of the rows): sandwich estimates. None is the one behind
        `std_err`: `model`, or what `robust` was asked for. Raises `ValueError` for an unknown kind.
        """
        return self._out(self._covariance(kind, clusters))

    def _covariance(self, kind: str | None = None, clusters: Any = None) -> Tensor:
        if kind is None and "covariance" in self._state:
            return self._state["covariance"]
        return sandwich.covariance(self, kind or "model", clusters)

    @property
    def covariance_kind(self) -> str:
        """The covariance behind `std_err`: `"model"`, or the one `robust` was asked for."""
        return self._state.get("covariance_kind", "model")

    def robust(self, kind: str = "HC3", clusters: Any = None) -> Result:
        """The same fit whose standard errors, statistics, intervals and Wald tests use another covariance.

        `kind` as in `covariance`; `clusters` (for `"cluster"`) holds a label for each row, `(n,)` or `(*B, n)`, or
        several label columns for multi-way clusters: a frame, a dict, a tuple of columns, or an array `(n, k)`.
        The reference distribution stays: t with `df_resid` where the dispersion is estimated, else z. Clusters of
        one member count as any other (all of them: HC0 times the correction); one cluster is a `ValueError`; fewer
        clusters than coefficients warn, for the covariance is then singular. See `covariance.clustered`.
        """
        state = self._state | {"covariance": self._covariance(kind, clusters), "covariance_kind": kind}
        return Result(state, self._source)

    # tests -------------------------------------------------------------------------------------------------

    def wald(self, hypothesis: Any, value: Any = None) -> Outcome:
        """The Wald test of `"age = 0, x2 = x3"` or of a matrix `(q, p)`, see `linear.wald`."""
        from torchglm.inference.hypotheses.linear import wald

        return wald(self, hypothesis, value)

    def lr_test(self, small: Result) -> Outcome:
        """The likelihood ratio test of a smaller fit against this one, see `nested.lrt`."""
        from torchglm.inference.hypotheses.nested import lrt

        return lrt(small, self)

    def score_test(self, added: Any) -> Outcome:
        """The score test of added columns `(n, q)` without a refit, see `nested.score_test`."""
        from torchglm.inference.hypotheses.nested import score_test

        return score_test(self, added)

    def anova(self, type: int | str = 1, terms: Mapping[str, Sequence[int | str]] | None = None) -> Table:
        """The analysis of deviance by term: sequential, or of type 2 or 3; see `terms.anova`."""
        from torchglm.inference.hypotheses.terms import anova

        return anova(self, type, terms)

    def drop1(self, terms: Mapping[str, Sequence[int | str]] | None = None) -> Table:
        """What dropping each term costs, see `terms.drop1`."""
        from torchglm.inference.hypotheses.terms import drop1

        return drop1(self, terms)

    def shape_parameters(self, level: float = 0.95) -> Table:
        """Dispersion, Gamma shape, NB alpha, Tweedie power with errors and limits, see `shape.shape_parameters`."""
        from torchglm.inference.limits.shape import shape_parameters

        return shape_parameters(self, level)

    def like(self, system: str = "R") -> Likelihood:
        """`loglik`, `df`, `aic` and `bic` as R reports them, see `likelihood.like`."""
        from torchglm.inference.likelihood import like

        return like(self, system)

    # rows --------------------------------------------------------------------------------------------------

    def _values(self, observed: bool = False) -> Iterable[rowwise.RowValues]:
        return rowwise.row_values(self.source, self.family, self.link, self._coef, observed)

    @property
    def fitted(self) -> Tensor:
        """(*B, n) the fitted means of the rows."""
        return self._out(torch.cat([values.mu for values in self._values()], -1))

    # what each row says and does
    residuals = influence.residuals
    leverage = influence.leverage
    cooks_distance = influence.cooks_distance
    dfbetas = influence.dfbetas
    dffits = influence.dffits
    loo_predict = influence.loo_predict
    cv_deviance = influence.cv_deviance

    # new rows, and functions of the coefficients
    predict = prediction.predict
    predict_interval = intervals.predict_interval
    delta = estimates.delta
    ratios = effects.ratios
    standardized = effects.standardized
    marginal_effects = effects.marginal_effects
    predictions = effects.predictions
    contrasts = effects.contrasts

    # does the model hold
    check = checking.check
    link_test = diagnostics.link_test
    power_link_test = diagnostics.power_link_test
    dispersion_test = diagnostics.dispersion_test
    zero_test = diagnostics.zero_test
    variance_test = diagnostics.variance_test
    goodness_of_fit = fitness.goodness_of_fit
    hosmer_lemeshow = fitness.hosmer_lemeshow
    separation = separating.separation
    vif = collinearity.vif
    condition_indices = collinearity.condition_indices

    # for people --------------------------------------------------------------------------------------------

    @property
    def head(self) -> GLMHead:
        """The fit as a layer; a batch gives one response for each model."""
        from torchglm.model.head import GLMHead

        coef = torch.where(torch.isfinite(self._flat_reported), self._flat_reported, 0.0)
        first = self.names[:1] == ["(Intercept)"]
        head = GLMHead(
            coef.shape[-1] - int(first),
            self.family,
            self.link,
            coef.shape[0],
            first,
            device=coef.device,
            dtype=coef.dtype,
        )
        with torch.no_grad():
            head.set_coef_(coef)
            phi = self._state["dispersion"]
            head.log_dispersion.copy_(torch.where(phi > 0, phi, 1.0).log().reshape(head.log_dispersion.shape))
        return head

    def summary(self) -> Any:
        """A summary that prints, and turns into rich, HTML, Markdown, a dict or a frame."""
        from torchglm.report.summary import Summary

        return Summary(self)

    def describe(self) -> dict[str, Any]:
        """The facts about the fit as plain numbers, lists and strings."""
        from torchglm.model.views import describe

        return describe(self)

    def on(self, source: Iterable[Rows]) -> Result:
        """The same fit with these rows behind it."""
        return Result(self._state, source)

    def with_rows(self, x: Any, y: Any = None, **per_row: Any) -> Result:
        """The same fit with rows attached, for residuals and robust covariances; arguments as for `fit`.

        A formula fit takes its table alone, or the path of files, or chunks, which are read again at each pass.
        Raises `ValueError` for rows of another shape.
        """
        from torchglm.model.fit import attach

        return attach(self, x, y, per_row)

    def save(self, path: Any) -> None:
        """Write the fit into a folder: tensors, and JSON; no row of data and no pickle."""
        from torchglm.model.storage import save

        save(self, path)

    def __repr__(self) -> str:
        many = f", {self._batch.numel()} models" if self._batch else ""
        return f"Result({self.family}, link={self.link.name}, {len(self.names)} coefficients{many})"
