"""The face: `fit`, the `Result` it gives, and the `GLMHead` that a result is and that fits itself.

Each of the three leads to the others, so they stand in one file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.fitting.bias import Jeffreys
from torchglm.fitting.penalties import Penalty
from torchglm.fitting.progress import Observer, Progress
from torchglm.inference import absorbed as absorbing
from torchglm.inference import asked_covariance as asked
from torchglm.inference import (
    binding,
    bootstrap,
    effects,
    estimates,
    influence,
    intervals,
    likelihood,
    mixed,
    several,
    smooths,
    strengths,
)
from torchglm.inference import predict as prediction
from torchglm.inference.adequacy import check as checking
from torchglm.inference.adequacy import collinearity, diagnostics, fitness
from torchglm.inference.adequacy import separation as separating
from torchglm.inference.adequacy.basis_check import k_check
from torchglm.inference.adequacy.concurvity import concurvity
from torchglm.inference.build import build
from torchglm.inference.fitted import Fitted
from torchglm.inference.hypotheses import linear, nested, terms
from torchglm.inference.labels import named
from torchglm.inference.limits import interval as limits
from torchglm.inference.limits import shape
from torchglm.inference.random_intervals import variance_components
from torchglm.inference.random_shares import variance_shares
from torchglm.inference.standardized import standardized
from torchglm.inference.vector.columns import refuse_part
from torchglm.inputs import Roles
from torchglm.links import Link
from torchglm.model import storage
from torchglm.model.attach import attached
from torchglm.model.layer import GLMLayer
from torchglm.model.maketables import MakeTables
from torchglm.model.options import check_options, check_resume, device_of, start_of, tell_of_graph, warned
from torchglm.model.pages import report
from torchglm.model.restraints import Restraints, constraint_names
from torchglm.model.simulate import simulate
from torchglm.model.solved import penalty_of, solved
from torchglm.model.sources import data_of, family_and_link, named_or_placed
from torchglm.model.spread import estimate_dispersion_, init_from
from torchglm.model.usual import USUAL
from torchglm.model.vector_layer import VectorLayer
from torchglm.model.vector_null import init_vector_from
from torchglm.model.vector_parts import is_several
from torchglm.report import describe as facts
from torchglm.report import plot as drawn
from torchglm.report.summary import Summary
from torchglm.rows.places import Places
from torchglm.rows.rows import Rows
from torchglm.special.tracing import apart_from_graphs
from torchglm.tables.text_format import TextFormat
from torchglm.writing.answering import answering, answering_methods
from torchglm.writing.nearest import absent

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from torchglm.inputs.roles import RoleValues


@answering
@apart_from_graphs
def fit(
    x: Any = None,
    y: Any = None,
    *,
    family: str | Family | type[Family],
    link: str | Link | type[Link] | None = None,
    formula: str | None = None,
    data: Any = None,
    intercept: bool = True,
    penalty: Penalty | Jeffreys | None = None,
    lower: Any = None,
    upper: Any = None,
    constraints: Any = None,
    monotone: Mapping[str, str] | None = None,
    dispersion: str | float | None = None,
    names: Sequence[str] | None = None,
    start: Any = None,
    tol: float = 1e-8,
    max_iter: int = 50,
    singular: str = "drop",
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    by: str | Sequence[str] | None = None,
    missing: str = "error",
    unseen: str = "error",
    rare: int = 0,
    delimiter: str = ",",
    decimal: str = ".",
    encoding: str = "utf8",
    types: Mapping[str, str] | None = None,
    na: str | float | Sequence[str | float] | None = None,
    observe: Observer | None = None,
    resume: Progress | None = None,
    predictors: Mapping[str, Any] | None = None,
    smoothing: str | float | Tensor | Mapping[str, float] | None = None,
    quadrature: int = 1,
    **roles: Unpack[RoleValues],
) -> Result:
    """Fit a generalised linear model, or many at once, by maximum likelihood: `g(E[y]) = x coef + offset`.

    Args:
        x: `(n, p)` numbers (tensor, array, data frame), shared by all models, or `(*B, n, p)`; or a formula
            such as `"claims ~ age + C(region)"`; or a re-iterable loader of batches (`y` is then None).
        y: `(n,)` or a column `(n, 1)`, or `(*B, n)` for a batch of models, each row the response of one (batches and
            `head.loss` have responses in columns); with a formula the data frame or table, or the path of CSV or
            Parquet files (a glob, a folder, a list), or chunks: a list of tables, an Arrow dataset, or a function that
            returns an iterator of tables. Both are read again at each step where they are too large to hold.
        family, link: objects, names or classes; `link=None` is the family's default.
        formula, data: other names for `x` and `y` where `x` is a formula.
        intercept: put a column of ones in front (a formula decides for itself).
        penalty: `Ridge`, `ElasticNet` or `Quadratic`, with strengths for all models or one each, or of quadratic ones
            `"reml"` or `"ml"`, which estimates them; or `Jeffreys` for mean bias reduction. With the first three df,
            dispersion and AIC count `edf`; intervals of a quadratic one are Bayesian, an l1 penalty leaves none. As
            `ElasticNet` choose `GroupLasso` (terms), `Fused` (neighbouring levels), `MCP` and `SCAD`.
        lower, upper: limits of coefficients: one for all columns, one each (the intercept has none), `(*B, p)`, or by
            name `{"age": 0.0}`. constraints: `"age + bmi = 1, 0 <= a <= b"`, a list of such texts, or `(matrix, lower,
            upper)`. monotone: `{"C(age)": "increasing"}`, levels in their order. Errors are those given the constraints
            that bind, see `result.constraints`.
        dispersion: None or `"pearson"`, `"deviance"`, `"ml"`, or a number; for families without one, a value
            other than None asks for quasi-likelihood.
        names: of the columns of `x`. start: first coefficients, `(*B, p)` with the intercept.
        tol, max_iter: of the solver, see `irls`.
        singular: what aliased columns become: `"drop"` (NaN, with a warning), `"minnorm"` or `"error"`.
        device, dtype: where the data are held and in which precision; sums are float64 everywhere.
        by: columns whose groups get a model each, fitted in one call (formula only).
        missing: `"error"` or `"drop"` for rows with missing values (formula only). unseen: what a level never seen
            counts as when predicting: `"error"`, `"reference"` or `"other"` (formula only).
        rare: levels with fewer rows are pooled into one level `"other"`; `unseen="other"` needs it (formula only).
        delimiter, decimal, encoding: of CSV files: `";"` or `"tab"`, `","`, `"latin-1"` or `"utf-16"` (formula only).
        types: column -> `"number"`, `"integer"`, `"text"`, `"date"` or an Arrow type (formula only).
        na: what means missing beside empty fields, instead of NA, NaN and null: `["?", -999]` (formula only).
        observe: called after every accepted step with a `Progress`, from which a later fit can go on as `resume`.
        quadrature: nodes of adaptive quadrature over the effects of `(1 | group)`; 1 is Laplace's approximation.
        predictors: the columns of the other parameters of the law by name, `{"dispersion": z}`, or `"~ 1"`.
        smoothing: how strengths of `s(x)` and random effects `(1 + x | clinic)` are estimated: `"reml"` or `"ml"`, or
            numbers for strengths, by name; None is `"reml"`, but `"ml"` for random effects beside other laws.
        weights: prior weights, `phi_i = phi / w_i`; `freq`: repeats of a row. A zero drops the row.
        offset: added to the linear predictor; `exposure`: its logarithm is (links with rates).
        trials: totals of counts `y`. Times: `event`, 1 seen, 0 right-censored; `until`, ends of intervals from `y`.

    The last seven are the roles, `(n,)` or like `y`; with a formula they may be names of columns. The processes of
    `torch.distributed` share the rows of files: all call `fit` and get the same result. Raises `ValueError` or
    `TypeError` for data that do not fit together, are not finite or lie outside the family's support.
    """
    family, chosen = family_and_link(family, link, predictors)
    check_options(tol, max_iter, singular, penalty, names, dtype, dispersion)
    beside = Roles.of(roles, "fit")
    tell_of_graph({"x": x, "y": y, "predictors": predictors} | beside.given, penalty)
    beside.check_link(chosen)
    read = data_of(
        *named_or_placed(x, y, formula, data),
        family,
        chosen,
        beside,
        intercept=intercept,
        names=names,
        predictors=predictors or {},
        by=by,
        policies={
            "missing": missing,
            "unseen": unseen,
            "rare": rare,
            "reading": TextFormat.of(delimiter, decimal, encoding, types, na),
        },
        device=device_of(device),
        dtype=dtype,
    )
    if read.plan is not None and read.family is not None:
        family, chosen = read.family, read.family.default_link
    penalty = penalty_of(penalty, read, smoothing, Restraints(lower, upper, constraints, monotone))
    first = None if start is None else start_of(start, read)
    check_resume(resume, start, read)
    options = {"tol": tol, "max_iter": max_iter, "rank_tol": 1e-6 if read.single else 1e-12, "skip": read.skip}
    found = solved(
        read, family, chosen, penalty, first, options, dispersion, observe, resume, smoothing, singular, quadrature
    )
    family, solution, apart = found.family, found.solution, found.apart
    solution = warned(solution, read, chosen, found.penalty, apart, singular)
    fitted = build(
        solution,
        read.source,
        family,
        chosen,
        read.batch,
        read.names,
        constant=read.constant,
        penalty=found.penalty,
        dispersion=dispersion,
        tol=tol,
        context=read.context | {"bias_reduced": isinstance(penalty, Jeffreys)} | constraint_names(penalty),
        plan=read.plan,
        apart=apart,
        estimated=found.estimated,
        mixed=found.mixed,
        beside=found.beside,
    )
    return Result.of(fitted)


@answering_methods
@dataclass(frozen=True, eq=False, repr=False)
class Result(MakeTables):
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

    def __len__(self) -> int:
        if self.batch_shape:
            return self.batch_shape[0]
        raise TypeError("this is one model, not a batch; it has no length.")

    def __getitem__(self, model: int | str) -> Result:
        """One model of a batch (of a flat batch the model, of a deeper one the slice); by its name one predictor."""
        return several.part(self, model) if isinstance(model, str) else self.member(model)

    named = named
    conf_int = limits.conf_int
    covariance = asked.covariance
    robust = asked.robust
    strength = property(strengths.strength)
    constraints, kkt = property(binding.constraints), property(binding.kkt)
    criterion = property(strengths.criterion)
    random = property(mixed.random)
    satterthwaite = mixed.satterthwaite
    wild_bootstrap = bootstrap.wild_bootstrap
    variance_shares, variance_components = variance_shares, variance_components
    smooths = property(smooths.smooths)
    absorbed = property(absorbing.absorbed)

    wald = linear.wald
    score_test = nested.score_test
    anova = terms.anova
    drop1 = terms.drop1
    shape_parameters = shape.shape_parameters
    like = likelihood.like
    lr_test = nested.lr_test

    # what each row says and does
    fitted = property(influence.fitted_means)
    residuals = influence.residuals
    leverage, cooks_distance = influence.leverage, influence.cooks_distance
    dfbetas, dffits = influence.dfbetas, influence.dffits
    loo_predict, cv_deviance = influence.loo_predict, influence.cv_deviance
    simulate = simulate

    # new rows, and functions of the coefficients
    predict = prediction.predict
    classes = property(several.classes)
    predict_interval = intervals.predict_interval
    delta = estimates.delta
    ratios = effects.ratios
    standardized = standardized
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
    concurvity, k_check = concurvity, k_check
    condition_indices = collinearity.condition_indices

    @property
    def head(self) -> GLMHead:
        """The fit as a layer, a response for each model; see `VectorLayer.of` for several predictors."""
        refuse_part(self)
        return (GLMHead if self.plan is None else VectorHead).of(self)

    def summary(self, level: float = 0.95) -> Summary:
        """A summary that prints, and turns into rich, HTML, Markdown, a dict or a frame; limits at `level`."""
        return Summary(self, level)

    describe = facts.describe
    plot = drawn
    report = report

    def on(self, source: Iterable[Rows], places: Places | None = None, table: Any = None) -> Result:
        """The same fit with these rows behind it; `places` say where they stand in the data, unless `source` does."""
        return replace(self, chunks=source, context=self.context | {"places": places, "table": table})

    def with_rows(
        self, x: Any, y: Any = None, *, predictors: Mapping[str, Any] | None = None, **roles: Unpack[RoleValues]
    ) -> Result:
        """The same fit with rows attached, for residuals and robust covariances; rows and roles as for `fit`.

        A formula fit takes its table alone, or the path of files, or chunks, which are read again at each pass.
        Deviance, null deviance, likelihood and criteria stay those of the fit, whatever rows are attached.
        Raises `ValueError` for rows of another shape.
        """
        rows, places, table = attached(self, x, y, Roles.of(roles, "with_rows"), predictors)
        # numbers that are else found in passes over the rows are held before there are others
        settled = replace(self, flat=replace(self.flat, **self.numbers_of_rows())) if self.has_rows else self
        return settled.on(rows, places, table)

    def save(self, path: Any) -> None:
        """Write the fit into a folder: tensors, and JSON; no row of data and no pickle."""
        storage.save(self, path)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if hasattr(type(self), name):  # what failed is within it, and says so again
                return object.__getattribute__(self, name)
            raise AttributeError(absent("'Result' object", name, USUAL, dir(self)))

    def _repr_html_(self) -> str:
        return self.summary()._repr_html_()

    def __str__(self) -> str:
        return self.summary().to_text()

    def __repr__(self) -> str:
        many = f", {self.batch_shape.numel()} models" if self.batch_shape else ""
        return f"Result({self.family}, link={self.link.name}, {len(self.names)} coefficients{many})"


@answering_methods
class GLMHead(GLMLayer):
    """A generalised linear model as a layer: `mu = g^-1(x weight' + bias + offset)`.

    `weight` is `(out_features, in_features)` and `bias` `(out_features)`, as in `nn.Linear`; they start at a null
    model (see `reset_parameters` and `init_from`), since the likelihood has one optimum. `family` and `link` are
    objects or names, of which the family is copied; `link=None` is its `head_link`, which reaches no edge (log for
    Gamma and inverse Gaussian). Inputs `(*N, in_features)` give `(*N, out_features)`. The arithmetic is float32 at
    least, autocast or not.

    `dispersion` says how the head comes by its phi, one for each response. `"estimated"`, and None: it is unknown
    until `estimate_dispersion_`, `fit`, `partial_fit`, `LitGLM`, `IRLSHead`, `LitIRLS` or `fit_sgd` finds it; until
    then the loss takes 1 and `distribution` refuses. `"learned"`: a parameter, in a loss that is the whole density
    (None and `"estimated"` mean this for a Tweedie that estimates its power). A number: that one. Of a family without
    a dispersion it is 1. Shape parameters that the family estimates are learned with the rest; there is one for each
    response. What is frozen later does not change the form of the loss.

    A family of several predictors (`"ordinal"`, `ZeroInflated("poisson")`), or names in `predictors`, which then have
    all columns, make a `VectorHead`. Raises `ValueError` for an unknown family, link, dispersion or predictor.
    """

    def __new__(cls, in_features: int = 0, family: str | Family = "", *args: Any, **options: Any) -> GLMHead:
        several = cls is GLMHead and (options.get("predictors") or is_several(family))
        return super().__new__(VectorHead if several else cls)

    init_from = init_from
    estimate_dispersion_ = estimate_dispersion_

    def fit(self, x: Any, y: Any = None, **options: Any) -> Result:
        """Fit by IRLS into this head's own `weight` and `bias`; arguments and result are those of `torchglm.fit`.

        Several responses are rows of `y`, `(out_features, n)`, and columns in a loader of batches `x`, as in `loss`.
        Raises `ValueError` where the fit has not this head's shape.
        """
        result = fit(x, y, **self.options_of_fit(x) | options)
        self.load(result)
        return result


@answering_methods
class VectorHead(VectorLayer, GLMHead):
    __doc__ = VectorLayer.__doc__
    init_from = init_vector_from
