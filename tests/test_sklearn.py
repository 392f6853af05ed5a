"""Estimators: scikit-learn's own checks, and that they are the fit and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sklearn
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, ShuffleSplit, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import torchglm as tg
from torchglm.sklearn import GLMClassifier, GLMRegressor, GLMRegressorCV

G = np.random.default_rng(3)
X, YEARS, W = G.normal(size=(240, 3)), G.uniform(0.5, 2, 240), G.uniform(0.5, 2, 240)
Y = G.poisson(YEARS * np.exp(0.3 + X @ [0.4, -0.2, 0.0])).astype(float)
GRADE = np.minimum(Y, 2)

ESTIMATORS = {
    "gaussian": GLMRegressor(),
    "poisson": GLMRegressor("poisson"),
    "gamma": GLMRegressor("gamma", "log"),
    "classes": GLMClassifier(),
    "ordinal": GLMClassifier(ordinal=True),
    "cv": GLMRegressorCV(n=4, cv=2),
}

QUICK = ("gaussian", "poisson", "classes")
SLOW = ("gamma", "ordinal", "cv")  # the same laws, seconds each


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
@pytest.mark.filterwarnings("ignore")
def test_scikit_learn_finds_no_fault(name: str) -> None:
    found = check_estimator(ESTIMATORS[name], on_fail=None)
    assert len(found) > 50 and [one for one in found if one["status"] not in ("passed", "skipped")] == []


@pytest.mark.parametrize("family", ["poisson", "negative_binomial", tg.Tweedie(1.5), "gaussian"])
def test_a_regressor_is_the_fit(family: Any) -> None:
    model = GLMRegressor(family, penalty=tg.Ridge(0.05)).fit(X, Y, sample_weight=W, offset=0.1 * YEARS)
    want = tg.fit(X, Y, family=family, penalty=tg.Ridge(0.05), weights=W, offset=0.1 * YEARS)
    np.testing.assert_allclose([model.intercept_, *model.coef_], want.coef, rtol=1e-12)
    np.testing.assert_allclose(model.predict(X, offset=0.1 * YEARS), want.fitted, rtol=1e-12)
    with pytest.raises(ValueError, match="fitted with an offset"):
        model.predict(X)


def test_the_score_is_the_explained_share_of_the_deviance() -> None:
    model = GLMRegressor("poisson").fit(X, Y)
    assert model.score(X, Y) == pytest.approx(float(1 - model.result_.deviance / model.result_.null_deviance), rel=1e-9)
    half = X.shape[0] // 2
    assert model.score(X[:half], Y[:half]) < 1


def test_an_aliased_column_has_the_coefficient_0_and_predictions_stay() -> None:
    twice = np.c_[X, 2 * X[:, 0]]
    with pytest.warns(tg.FitWarning, match="aliased"):
        model = GLMRegressor("poisson").fit(twice, Y)
    eta = model.intercept_ + twice @ model.coef_
    np.testing.assert_allclose(np.exp(eta), model.predict(twice), rtol=1e-12)


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("classes", [2, 3])
def test_a_classifier_has_the_shapes_of_its_peers(classes: int, intercept: bool) -> None:
    y = np.array(["a", "b", "c"])[np.minimum(GRADE, classes - 1).astype(int)]
    model = GLMClassifier(fit_intercept=intercept).fit(X, y, sample_weight=W)
    assert list(model.classes_) == sorted(set(y)) and model.coef_.shape == (classes - 1, 3)
    eta = X @ model.coef_.T + model.intercept_
    odds = np.exp(np.c_[np.zeros(len(X)), eta])
    np.testing.assert_allclose(model.predict_proba(X), odds / odds.sum(-1, keepdims=True), rtol=1e-10)
    np.testing.assert_array_equal(model.predict(X), model.classes_[model.predict_proba(X).argmax(-1)])


def test_an_ordinal_classifier_keeps_the_order_of_its_classes() -> None:
    model = GLMClassifier("probit", ordinal=True).fit(X, GRADE)
    want = tg.fit(X, GRADE.astype(int), family=tg.Ordinal("probit"))
    np.testing.assert_allclose(model.coef_[0], want.coef, rtol=1e-10)
    np.testing.assert_allclose(model.intercept_, want.thresholds, rtol=1e-10)


def test_roles_are_routed_through_pipelines_and_searches() -> None:
    with sklearn.config_context(enable_metadata_routing=True):
        routed = GLMRegressor("poisson").set_fit_request(exposure=True).set_score_request(exposure=True)
        pipe = make_pipeline(StandardScaler(), clone(routed).set_predict_request(exposure=True))
        pipe.fit(X, Y, exposure=YEARS)
        want = tg.fit(X, Y, family="poisson", exposure=YEARS)
        np.testing.assert_allclose(pipe.predict(X, exposure=YEARS), want.fitted, rtol=1e-9)
        scores = cross_val_score(routed, X, Y, params={"exposure": YEARS}, cv=KFold(4))
        by_hand = []
        for train, test in KFold(4).split(X):
            fit = GLMRegressor("poisson").fit(X[train], Y[train], exposure=YEARS[train])
            by_hand.append(fit.score(X[test], Y[test], exposure=YEARS[test]))
        np.testing.assert_allclose(scores, by_hand, rtol=1e-12)
        grid = {"penalty": [tg.Ridge(0.001), tg.Ridge(10.0)]}
        search = GridSearchCV(routed, grid, cv=KFold(4)).fit(X, Y, exposure=YEARS)
    assert str(search.best_params_["penalty"]) == str(tg.Ridge(0.001))


def test_cross_validation_takes_the_folds_of_a_splitter() -> None:
    groups = np.arange(240) % 6
    folds = list(GroupKFold(3).split(X, Y, groups))
    labels = np.zeros(240, dtype=int)
    for k, (_, test) in enumerate(folds):
        labels[test] = k
    model = GLMRegressorCV("poisson", n=15, cv=folds, rule="one_se").fit(X, Y, exposure=YEARS)
    want = tg.path(X, Y, family="poisson", n=15, folds=labels, exposure=YEARS).select("one_se")
    np.testing.assert_allclose([model.intercept_, *model.coef_], want.coef, rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="rows into no test set or into several"):
        GLMRegressorCV("poisson", n=5, cv=ShuffleSplit(3, random_state=0)).fit(X, Y)


@pytest.mark.parametrize("frame", ["pandas", "polars"])
def test_coefficients_have_the_names_of_the_columns_of_a_frame(frame: str) -> None:
    table = pytest.importorskip(frame).DataFrame({"a": X[:, 0], "b": X[:, 1], "c": X[:, 2]})
    for model, y in (
        (GLMRegressor("poisson"), Y),
        (GLMRegressorCV("poisson", n=4, cv=2), Y),
        (GLMClassifier(), GRADE > 0),
    ):
        result = model.fit(table, y).result_
        assert result.names == ["(Intercept)", "a", "b", "c"]
        np.testing.assert_allclose(result.predict(table[["c", "b", "a"]]), result.predict(X))
    assert GLMRegressor("poisson").fit(X, Y).result_.names[1:] == ["x0", "x1", "x2"]
    made = make_pipeline(StandardScaler().set_output(transform=frame), GLMRegressor("poisson")).fit(table, Y)
    assert made[-1].result_.names[1:] == ["a", "b", "c"]


@pytest.mark.parametrize("family", ["multinomial", "ordinal", "beta", tg.ZeroInflated("poisson")], ids=str)
@pytest.mark.parametrize("kind", [GLMRegressor, GLMRegressorCV])
def test_a_family_of_several_predictors_is_refused(kind: Any, family: Any) -> None:
    with pytest.raises(ValueError, match=f"{kind.__name__} has families of one predictor"):
        kind(family).fit(X, Y)


@pytest.mark.parametrize("link", ["logit", "probit", "cloglog", "cauchit"])
def test_logarithms_of_probabilities_are_exact_where_these_are_nearly_0(link: str) -> None:
    model = GLMClassifier(link).fit(X[:, :1], Y > 1)
    near = X[:4, :1]
    np.testing.assert_allclose(np.exp(model.predict_log_proba(near)), model.predict_proba(near), rtol=1e-12)
    far = np.array([[200.0], [-200.0]])
    logs = model.predict_log_proba(far)
    assert np.isfinite(logs).all() and (logs.max(1) <= 0).all() and (logs.min(1) < -3).all()
    classes = GLMClassifier().fit(X, GRADE)
    np.testing.assert_allclose(np.exp(classes.predict_log_proba(X)), classes.predict_proba(X), rtol=1e-12)
