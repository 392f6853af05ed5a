"""Constraints: limits, equations, inequalities and monotone levels, by the conditions of Karush, Kuhn and Tucker."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import MODELS, Problem, close
from scipy.optimize import LinearConstraint, isotonic_regression, minimize, nnls
from test_penalty_shapes import frame, mean_slope, wide

import torchglm
from torchglm import MCP, ElasticNet, Fused, GroupLasso, Jeffreys, Quadratic, Ridge, Status

__all__ = ["frame"]  # the fixture
ROWS = {
    "limits": {"lower": [-0.05, 0.1, -np.inf, 0.0], "upper": [0.1, np.inf, 0.05, 0.3]},
    "equation": {"constraints": "x0 + x1 = 0.1"},
    "inequalities": {"constraints": "x0 <= x1 <= x2, x2 - 2*x3 >= 0.1"},
    "all": {"lower": 0.0, "constraints": ["x0 + x1 + x2 + x3 = 0.5", "x3 <= x0"], "monotone": {"x1": "increasing"}},
}


def rows_of(name: str, result: torchglm.Result) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The constraints of a fit as it holds them: rows, limits, and whether each is an equation; `row b <= limit`."""
    kinks = result.penalty.kinks(torch.ones(1, dtype=torch.float64))  # type: ignore[union-attr]
    own = len(result.constraints.names)
    return kinks.matrix[:own].numpy(), kinks.centre[0, :own].numpy(), kinks.equations[:own].numpy()


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.sampled_from(list(MODELS)), st.sampled_from(list(ROWS)), st.integers(0, 10**6), st.integers(12, 60))
def test_a_constrained_fit_stands_at_its_optimum(model: str, name: str, seed: int, n: int) -> None:
    data = wide(model, n=n, seed=seed).one(0)
    result = data.fit(**ROWS[name], tol=1e-8)
    assert result.status == Status.CONVERGED and float(result.kkt) < 1e-9
    rows, limits, equal = rows_of(name, result)
    slope, half, size = mean_slope(data, result)
    total = float((data.rows["weights"] * data.rows.get("trials", torch.ones(n).double())).sum())
    pull = result.constraints.multiplier.numpy() / total
    assert (pull[~equal] >= 0).all()
    left = slope - pull @ rows
    assert (np.abs(left) <= 2e-9 * np.sqrt(size * 2 * half)).all()
    gap = rows @ result.coef.numpy() - limits
    assert (gap <= 1e-11).all() and (np.abs(gap)[equal | (pull != 0)] <= 1e-11).all()


@pytest.mark.parametrize("model", ["poisson log", "bernoulli logit", "gamma log"])
@pytest.mark.parametrize("name", list(ROWS))
def test_no_general_solver_finds_a_better_point(model: str, name: str) -> None:
    data = wide(model, seed=11).one(0)
    result = data.fit(**ROWS[name])
    rows, limits, equal = rows_of(name, result)
    x = np.column_stack([np.ones(len(data.y)), data.x])
    w, offset = data.rows["weights"].numpy(), data.rows["offset"].numpy()

    def objective(b: np.ndarray) -> float:
        mu = result.link.inverse(torch.from_numpy(x @ b + offset))
        return float((torch.from_numpy(w) * result.family.unit_deviance(data.y, mu) / 2).sum() / w.sum())

    parts = [(rows[equal], limits[equal], limits[equal]), (rows[~equal], -np.inf, limits[~equal])]
    held = [LinearConstraint(*part) for part in parts if len(part[0])]
    starts = (result.coef.numpy(), 0.9 * result.coef.numpy())
    best = min(minimize(objective, b, method="SLSQP", constraints=held, options={"ftol": 1e-14}).fun for b in starts)
    assert objective(result.coef.numpy()) <= best + 1e-9


def test_least_squares_within_limits_is_nnls_and_monotone_means_are_isotonic(frame: pd.DataFrame) -> None:
    g = torch.Generator().manual_seed(2)
    x = torch.randn(40, 6, generator=g, dtype=torch.float64)
    y = x @ torch.tensor([1.0, -1, 0.5, 0, -0.3, 0.2], dtype=torch.float64)
    y = y + torch.randn(40, generator=g, dtype=torch.float64)
    found = torchglm.fit(x, y, family="gaussian", intercept=False, lower=0.0)
    close(found.coef, torch.from_numpy(nnls(x.numpy(), y.numpy())[0]), 1e-12, 1.0)
    short = torchglm.fit(x[:4], y[:4], family="gaussian", intercept=False, lower=0.0)  # more columns than rows
    want = nnls(x[:4].numpy(), y[:4].numpy())
    assert short.status == Status.CONVERGED
    assert float(short.deviance) == pytest.approx(want[1] ** 2, abs=1e-10)
    level = torchglm.fit("y ~ 0 + band", frame, family="gaussian", monotone={"band": "increasing"})
    mean = frame.groupby("band", observed=True).y.agg(["mean", "size"])
    pooled = isotonic_regression(mean["mean"].to_numpy(), weights=mean["size"].to_numpy()).x
    close(level.coef, torch.from_numpy(pooled), 1e-12, 1.0)
    counts = torchglm.fit("y ~ 0 + band", frame, family="poisson", monotone={"band": "decreasing"})
    falling = isotonic_regression(mean["mean"].to_numpy(), weights=mean["size"].to_numpy(), increasing=False).x
    close(counts.coef, torch.tensor(falling.copy()).log(), 1e-11, 1.0)


def test_equations_are_a_fit_of_fewer_columns_with_its_errors() -> None:
    data = wide("poisson log", n=60, seed=3).one(0)
    held = data.fit(constraints="x0 = x1, x3 = 0.25")
    x = torch.stack([data.x[:, 0] + data.x[:, 1], data.x[:, 2]], -1)
    fewer = data.change(x=x, offset=data.rows["offset"] + 0.25 * data.x[:, 3]).fit()
    close(held.coef[[0, 1, 3]], fewer.coef, 1e-10, 1.0)
    close(held.std_err[[0, 1, 3]], fewer.std_err, 1e-9, 1.0)
    robust = held.robust("HC1").std_err, fewer.robust("HC1").std_err
    close(robust[0][[0, 1, 3]], robust[1], 1e-9, 1.0)
    with pytest.raises(ValueError, match="does not know the constraints"):
        held.covariance("observed")
    assert held.std_err[4].isnan() and held.coef[4] == 0.25 and held.coef[1] == held.coef[2]
    close(held.deviance, fewer.deviance, 1e-12)
    assert float(held.flat.df[0]) == pytest.approx(3.0) and held.aic == pytest.approx(float(fewer.aic))
    own = held.predict(data.x, offset=torch.zeros(60), se=True)
    close(own[1], fewer.predict(x, offset=0.25 * data.x[:, 3], se=True)[1], 1e-9, 1.0)


def test_the_multiplier_is_what_a_limit_costs() -> None:
    data, step = wide("gamma log", seed=6).one(0), 1e-5
    one, other = (data.fit(upper={"x0": -0.3 + move}) for move in (-step, step))
    at = data.fit(upper={"x0": -0.3})
    gain = (one.deviance - other.deviance) / 2 / (2 * step)
    assert float(at.constraints.multiplier[0]) == pytest.approx(float(gain), rel=1e-6)
    assert at.constraints.binding == ["x0 <= -0.3"] and at.constraints.binds.tolist() == [True]


def test_what_does_not_bind_changes_nothing() -> None:
    data = wide("bernoulli logit", n=60, seed=2).one(0)
    free, loose = data.fit(), data.fit(lower=-50.0, constraints="x0 + x1 <= 90")
    close(loose.coef, free.coef, 1e-9, 1.0)
    close(loose.std_err, free.std_err, 1e-7, 1.0)
    assert "None of the 5 constraints binds" in str(loose.summary())


def test_a_batch_has_limits_for_each_model_and_is_a_loop() -> None:
    data = wide("poisson log", models=3, seed=9)
    lower = torch.tensor([[0.3, -1, -1, -1], [-1, 0.0, 0.2, -1], [-1, -1, -1, -1]], dtype=torch.float64)
    batch = data.fit(lower=lower, constraints="x2 <= x3")
    assert batch.converged.all() and batch.kkt.shape == (3,) and (batch.kkt < 1e-9).all()
    for i in range(3):
        alone = data.one(i).fit(lower=lower[i], constraints="x2 <= x3")
        close(batch.coef[i], alone.coef, 1e-9, 1.0)
        close(batch.std_err[i].nan_to_num(-1), alone.std_err.nan_to_num(-1), 1e-7, 1.0)
        assert len(batch[i].constraints.binding) == len(alone.constraints.binding)


def test_a_start_and_files_and_ragged_groups_end_at_the_same_point(frame: pd.DataFrame) -> None:
    own: dict[str, Any] = {"family": "poisson", "monotone": {"band": "increasing"}, "upper": {"x": 0.1}}
    whole = torchglm.fit("y ~ band + x", frame, **own)
    begun = torchglm.fit("y ~ band + x", frame, start=whole.coef + torch.linspace(-1, 1, 7).double(), **own)
    chunks = torchglm.fit("y ~ band + x", [frame.iloc[:100], frame.iloc[100:]], **own)
    for other in (begun, chunks):
        close(other.coef, whole.coef, 1e-9, 1.0)
    each = torchglm.fit("y ~ band + x", frame, by="kind", **own)
    for i, kind in enumerate("abc"):
        close(each.coef[i], torchglm.fit("y ~ band + x", frame[frame.kind == kind], **own).coef, 1e-8, 1.0)


def test_levels_are_monotone_whatever_their_contrasts_and_in_every_class(frame: pd.DataFrame) -> None:
    formula = "y ~ C(band, contr.{}) + x"
    fits = [
        torchglm.fit(formula.format(kind), frame, family="gaussian", monotone={f"C(band, contr.{kind})": "decreasing"})
        for kind in ("treatment", "sum", "helmert")
    ]
    for other in fits[1:]:
        close(other.predict(frame), fits[0].predict(frame), 1e-10, 1.0)
    several = torchglm.fit("kind ~ band + x", frame, family=torchglm.Multinomial(), monotone={"band": "increasing"})
    assert several.status == Status.CONVERGED and float(several.kkt) < 1e-9
    for name in several.predictors:
        levels = torch.cat([torch.zeros(1).double(), several[name].coef[1:6]])
        assert (levels.diff() >= 0).all()
    ordered = torchglm.fit("kind ~ band + x", frame, family=torchglm.Ordinal(), monotone={"band": "increasing"})
    assert (torch.cat([torch.zeros(1).double(), ordered.coef[:5]]).diff() >= 0).all() and ordered.converged


@pytest.mark.parametrize(
    "penalty",
    [
        Ridge(0.1),
        ElasticNet(0.02, 0.1),
        MCP(0.05),
        Fused(0.02, [[None, 1, 2]]),
        Quadratic([([1, 2], torch.eye(2))], 3.0),
    ],
    ids=str,
)
def test_constraints_stand_beside_a_penalty(penalty: torchglm.Penalty) -> None:
    data = wide("poisson log", n=60, seed=4).one(0)
    both = data.fit(penalty=penalty, constraints="x0 + x1 = 0.4", lower={"x2": 0.0})
    assert both.status == Status.CONVERGED and float(both.kkt) < 1e-9
    assert float(both.coef[1] + both.coef[2]) == pytest.approx(0.4, abs=1e-13)
    assert both.std_err.isnan().all() == penalty.selects
    free = data.fit(penalty=penalty)
    close(data.fit(penalty=penalty, lower=-50.0).coef, free.coef, 1e-8, 1.0)


def test_more_columns_than_an_intercept_leaves_are_fitted_within_an_equation(frame: pd.DataFrame) -> None:
    dummies = pd.get_dummies(frame.band, dtype=float)
    names = list(dummies)
    summed = torchglm.fit(dummies, frame.y, family="poisson", constraints=(np.r_[0.0, np.ones(6)][None], 0.0, 0.0))
    assert summed.status == Status.CONVERGED and float(summed.coef[1:].sum()) == pytest.approx(0, abs=1e-12)
    effects = torchglm.fit("y ~ C(band, contr.sum)", frame, family="poisson")
    close(summed.coef[:6], effects.coef, 1e-9, 1.0)
    close(summed.std_err[:6], effects.std_err, 1e-8, 1.0)
    assert names == summed.names[1:]


def test_a_constrained_fit_says_what_binds_and_is_saved(frame: pd.DataFrame, tmp_path: Any) -> None:
    found = torchglm.fit("y ~ band + x", frame, family="poisson", monotone={"band": "increasing"}, upper={"x": 0.1})
    said = str(found.summary())
    steps = found.contrasts("band")
    assert steps.std_err[0].isnan() and steps.p_value[0].isnan() and steps.std_err[4] > 0
    assert found.marginal_effects().std_err[-1] > 0  # x is fixed, the rates that it multiplies are not
    assert "constraints bind" in said and "conditional on the constraints that bind" in " ".join(said.split())
    found.save(tmp_path)
    again = torchglm.load(tmp_path)
    assert again.constraints.names == found.constraints.names and again.kkt == found.kkt
    assert torch.equal(again.constraints.multiplier, found.constraints.multiplier)
    assert str(again.summary()) == said and again.describe() == found.describe()
    close(again.std_err.nan_to_num(-1), found.std_err.nan_to_num(-1), 1e-15)
    facts = json.loads((tmp_path / "result.json").read_text())
    facts["context"]["constraints"] = facts["context"]["constraints"][1:]
    (tmp_path / "result.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match="multipliers are not those"):
        torchglm.load(tmp_path)
    with pytest.raises(ValueError, match="this fit has none"):
        _ = torchglm.fit("y ~ x", frame, family="poisson").constraints


BAD: list[tuple[dict[str, Any], str]] = [
    ({"lower": {"x0": 1.0}, "upper": {"x0": 0.0}}, "lower of x0 is 1, above its upper 0"),
    ({"lower": {"nobody": 1.0}}, "'nobody', which is no column"),
    ({"lower": [0.0, 1.0]}, r"lower has shape \(2,\) for 4 columns"),
    ({"lower": float("nan")}, "lower must be a number"),
    ({"upper": [0.0, float("nan"), 0.0, 0.0]}, "upper of x1 is NaN"),
    ({"constraints": "x0"}, "no sign between two sides"),
    ({"constraints": "x0 <= nobody"}, "nobody"),
    ({"constraints": "x0 <= x0"}, "holds no coefficient"),
    ({"constraints": "x0 >= 1, x0 <= 0"}, "exclude one another"),
    ({"constraints": "x0 = 1, x0 = 2"}, "x0 = 1; x0 = 2 exclude one another"),
    ({"constraints": "x0 + x1 = 1", "upper": 0.0}, "exclude one another"),
    ({"constraints": (np.eye(3), 0, 1)}, "for 5 coefficients"),
    ({"constraints": (np.zeros((1, 5)), 0, 1)}, "row 0 of constraints is zero"),
    ({"constraints": (np.eye(5), 0)}, "has 2 parts"),
    ({"monotone": {"x0": "up"}}, "must be 'increasing' or 'decreasing'"),
    ({"monotone": {"band": "increasing"}}, "columns come from no formula"),
    ({"lower": 0.1, "penalty": ElasticNet(0.1)}, "keeps x0 from 0"),
    ({"lower": 0.0, "penalty": GroupLasso(0.1, [0, 0, 1, 1])}, "do not go with GroupLasso"),
    ({"lower": 0.0, "penalty": Jeffreys()}, "do not go with Jeffreys"),
    ({"lower": 0.0, "penalty": Ridge("reml")}, "strengths are not estimated"),
    ({"constraints": []}, "name no constraint"),
]


@pytest.mark.parametrize(("options", "said"), BAD, ids=[said for _, said in BAD])
def test_constraints_that_cannot_be_meant_say_what_to_give(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        wide("poisson log").one(0).fit(**options)


def test_constraints_do_not_go_with_effects_of_their_own(frame: pd.DataFrame) -> None:
    for formula in ("y ~ x + (1 | kind)", "y ~ x | kind"):
        with pytest.raises(ValueError, match="random effects or absorbed factors"):
            torchglm.fit(formula, frame, family="poisson", lower=0.0)
    with pytest.raises(ValueError, match="strengths are not estimated"):
        torchglm.fit("y ~ s(x)", frame, family="poisson", lower=0.0)


def test_constraints_that_leave_no_valid_mean_have_a_status() -> None:
    data: Problem = wide("gamma inverse", seed=1).one(0)
    with pytest.warns(torchglm.FitWarning):
        found = data.fit(constraints=(np.array([[1.0, 0, 0, 0, 0]]), -9.0, -8.0), upper=0.0, lower=-1e-3)
    assert not found.converged
