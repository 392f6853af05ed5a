"""Result: what a fit says, for one model or for a batch of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchglm.inference import covariance as sandwich
from torchglm.inference import effects, estimates, influence, intervals, likelihood
from torchglm.inference import predict as prediction
from torchglm.inference.adequacy import check as checking
from torchglm.inference.adequacy import collinearity, diagnostics, fitness
from torchglm.inference.adequacy import separation as separating
from torchglm.inference.fitted import Fitted
from torchglm.inference.hypotheses import linear, nested, terms
from torchglm.inference.limits import shape
from torchglm.inference.limits.profile import profile_interval
from torchglm.inference.table import Outcome
from torchglm.inputs import Roles
from torchglm.model import storage
from torchglm.report.describe import describe
from torchglm.report.summary import Summary
from torchglm.rows.rows import Rows

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from torchglm.inputs.roles import RoleValues
    from torchglm.model.head import GLMHead


@dataclass(frozen=True, eq=False, repr=False)
class Result(Fitted):
    """A fitted GLM, or a batch of them: every quantity has the batch dimensions `(*B)` in front.

    `coef`, `std_err`, `statistic` (t where the dispersion is estimated, else z) and `p_value` are `(*B, p)` in
    the order of `names`; aliased coefficients are NaN. `deviance`, `pearson_chi2`, `dispersion`, `nobs`, `rank`,
    `df_resid`, `df_null`, `n_iter`, `converged` are `(*B)`. Residuals and what else needs rows take them from
    `rows`, which a saved and loaded result no longer holds.
    """

    @classmethod
    def of(cls, fitted: Fitted) -> Result:
        """What fitting left, with everything that can be asked of it."""
        return cls(**vars(fitted))

    # models ------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        if not self.batch_shape:
            raise TypeError("this is one model, not a batch; it has no length.")
        return self.batch_shape[0]

    def __getitem__(self, model: int) -> Result:
        """One model of a batch (of a flat batch the model, of a deeper one the slice)."""
        return self.member(model)

    # coefficients ------------------------------------------------------------------------------------------

    def conf_int(self, level: float = 0.95, method: str = "wald") -> Tensor:
        """(*B, p, 2) confidence limits of the coefficients: Wald with t or z quantiles, or profile likelihood.

        Wald limits say nothing where the status is SEPARATED or BOUNDARY; `method="profile"` does, with infinite limits
        where the likelihood sets none (see `profile.profile_interval`).
        Raises `ValueError` for a level outside (0, 1) or an unknown method.
        """
        wald = super().conf_int(level)
        if method == "wald":
            return wald
        if method == "profile":
            return self.shaped(profile_interval(self, level))
        raise ValueError(f"unknown method {method!r}. Known: wald, profile.")

    def covariance(self, kind: str | None = None, clusters: Any = None) -> Tensor:
        """(*B, p, p) the covariance of the coefficients; NaN for aliased columns.

        `model`: dispersion times the inverse expected information; `observed`: with the observed information;
        `HC0` to `HC3` and `cluster` (with `clusters`, labels of the rows): sandwich estimates. None is the one behind
        `std_err`: `model`, or what `robust` was asked for. Raises `ValueError` for an unknown kind.
        """
        if kind is None and clusters is None:
            return super().covariance()
        return self.shaped(sandwich.covariance(self, kind or "model", clusters))

    def robust(self, kind: str = "HC3", clusters: Any = None) -> Result:
        """The same fit whose standard errors, statistics, intervals and Wald tests use another covariance.

        `kind` as in `covariance`; `clusters` (for `"cluster"`) holds a label for each row, `(n,)` or `(*B, n)`, or
        several label columns for multi-way clusters: a frame, a dict, a tuple of columns, or an array `(n, k)`.
        The reference distribution stays: t with `df_resid` where the dispersion is estimated, else z. Clusters of
        one member count as any other (all of them: HC0 times the correction); one cluster is a `ValueError`; fewer
        clusters than coefficients warn, for the covariance is then singular. See `covariance.clustered`.
        """
        covariance = sandwich.covariance(self, kind, clusters)
        return replace(self, flat=replace(self.flat, covariance=covariance), covariance_kind=kind)

    # tests
    wald = linear.wald
    score_test = nested.score_test
    anova = terms.anova
    drop1 = terms.drop1
    shape_parameters = shape.shape_parameters
    like = likelihood.like

    def lr_test(self, small: Fitted) -> Outcome:
        """The likelihood ratio test of a smaller fit against this one, see `nested.lrt`."""
        return nested.lrt(small, self)

    @property
    def fitted(self) -> Tensor:
        """(*B, n) the fitted means of the rows."""
        return self.shaped(torch.cat([values.mu for values in self.row_values()], -1))

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

        coef = self.coef.reshape(-1, len(self.names))
        coef = torch.where(torch.isfinite(coef), coef, 0.0)
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
            phi = self.flat.dispersion
            head.log_dispersion.copy_(torch.where(phi > 0, phi, 1.0).log().reshape(head.log_dispersion.shape))
        return head

    def summary(self) -> Summary:
        """A summary that prints, and turns into rich, HTML, Markdown, a dict or a frame."""
        return Summary(self)

    def describe(self) -> dict[str, Any]:
        """The facts about the fit as plain numbers, lists and strings."""
        return describe(self)

    def on(self, source: Iterable[Rows]) -> Result:
        """The same fit with these rows behind it."""
        return replace(self, chunks=source)

    def with_rows(self, x: Any, y: Any = None, **roles: Unpack[RoleValues]) -> Result:
        """The same fit with rows attached, for residuals and robust covariances; rows and roles as for `fit`.

        A formula fit takes its table alone, or the path of files, or chunks, which are read again at each pass.
        Raises `ValueError` for rows of another shape.
        """
        from torchglm.model.fit import attach

        return attach(self, x, y, Roles.of(roles, "with_rows"))

    def save(self, path: Any) -> None:
        """Write the fit into a folder: tensors, and JSON; no row of data and no pickle."""
        storage.save(self, path)

    def __repr__(self) -> str:
        many = f", {self.batch_shape.numel()} models" if self.batch_shape else ""
        return f"Result({self.family}, link={self.link.name}, {len(self.names)} coefficients{many})"
