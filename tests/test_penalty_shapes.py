"""Penalties of every shape: the conditions of their optima by the textbook, batches as loops, chunks as a whole."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from penalty_cases import CASES, KINDS, soft
from problems import MODELS, Problem, close, problem
from scipy.optimize import minimize

import torchglm
from torchglm import MCP, SCAD, ElasticNet, Fused, GroupLasso, Penalty, Status

SHAPES = [name for name in CASES if name not in ("ridge", "elastic net")]


def wide(model: str, models: int = 1, n: int = 40, seed: int = 0) -> Problem:
    """A problem with a fourth column, nearly the first where the seed says so."""
    data = problem(model, models=models, n=n, p=3, seed=seed)
    g = torch.Generator().manual_seed(seed)
    more = torch.randn(*data.x.shape[:-1], 1, generator=g, dtype=torch.float64)
    more = data.x[..., :1] + 0.05 * more if seed % 3 == 0 else more
    noisy = data.y if data.family.name != "gaussian" else data.y + 0.3 * more[..., 0].roll(1, -1)
    return data.change(x=torch.cat([data.x, more], -1), y=noisy)


def mean_slope(data: Problem, result: torchglm.Result) -> tuple[np.ndarray, float, np.ndarray]:
    """(p + 1) the slope of the mean log-likelihood by autograd, the mean half deviance, the columns' mean squares."""
    coef = result.flat.coef[0].clone().requires_grad_()
    x = torch.cat([torch.ones_like(data.x[:, :1]), data.x], -1)
    trials = data.rows.get("trials", torch.ones_like(data.y))
    w = data.rows["weights"] * trials
    mu = result.link.inverse(x @ coef + data.rows["offset"])
    half = (w * result.family.unit_deviance(data.y / trials, mu) / 2).sum() / w.sum()
    (slope,) = torch.autograd.grad(half, coef)
    size = result.flat.gram.written_out()[0].diagonal() / w.sum()
    return -slope.numpy(), float(half.detach()), size.numpy()


def missed(name: str, strength: float, data: Problem, result: torchglm.Result) -> float:
    """The certificate by hand: the largest correlation that a column still has with the residuals."""
    slope, half, size = mean_slope(data, result)
    own = CASES[name].miss(strength, result.coef[1:].numpy(), slope[1:])
    return float((np.r_[abs(slope[0]), own] / np.sqrt(size * 2 * half)).max())


def test_every_penalty_has_a_case() -> None:
    offered = {one for one in vars(torchglm).values() if isinstance(one, type) and issubclass(one, Penalty)}
    assert offered - {Penalty} == set(KINDS)


@settings(max_examples=24, deadline=None, derandomize=True)
@given(
    st.sampled_from(list(MODELS)),
    st.sampled_from(SHAPES),
    st.floats(-3.5, 0.0),
    st.integers(0, 10**6),
    st.integers(12, 60),
)
def test_a_fit_that_converged_stands_at_its_optimum(model: str, name: str, power: float, seed: int, n: int) -> None:
    data, strength = wide(model, n=n, seed=seed).one(0), 10**power
    result = data.fit(penalty=CASES[name].made(strength), tol=1e-8)
    assert result.status == Status.CONVERGED
    assert float(result.flat.kkt[0]) < 1e-8  # of those by column, whose thresholds are met to a share of themselves
    assert missed(name, strength, data, result) < (3e-8 if name in ("mcp", "scad") else 2e-9)


@pytest.mark.parametrize("name", [name for name in SHAPES if CASES[name].convex])
@pytest.mark.parametrize("model", ["poisson log", "bernoulli logit", "gaussian identity"])
def test_no_general_solver_finds_a_lower_objective(model: str, name: str) -> None:
    data, strength = wide(model, seed=4).one(0), 0.03
    result = data.fit(penalty=CASES[name].made(strength))
    x = np.column_stack([np.ones(len(data.y)), data.x])
    w, offset = data.rows["weights"].numpy(), data.rows["offset"].numpy()
    trials = data.rows.get("trials", torch.ones_like(data.y)).numpy()

    def objective(b: np.ndarray) -> float:
        mu = result.link.inverse(torch.from_numpy(x @ b + offset))
        half = torch.from_numpy(w * trials) * result.family.unit_deviance(data.y / torch.from_numpy(trials), mu) / 2
        return float(half.sum() / (w * trials).sum()) + CASES[name].value(strength, b[1:])

    here = objective(result.coef.numpy())
    best = minimize(objective, result.coef.numpy() + 0.05, method="Nelder-Mead", options={"maxiter": 2000})
    assert here <= best.fun + 1e-12
    assert here == pytest.approx(best.fun, abs=2e-3)


@pytest.mark.parametrize(("name", "model"), list(zip(SHAPES, ["poisson log", "gamma log"] * 3, strict=False)))
def test_a_batch_is_a_loop_and_chunks_are_a_whole(name: str, model: str) -> None:
    data, penalty = wide(model, models=3, seed=7), CASES[name].made(0.02)
    batch = data.fit(penalty=penalty)
    for i in range(3):
        one = data.one(i)
        alone = one.fit(penalty=penalty)
        close(batch.coef[i], alone.coef, 1e-9, 1.0)
        assert torch.equal(batch.coef[i] == 0, alone.coef == 0)
    one = data.one(1)
    frame = pd.DataFrame(one.x.numpy(), columns=list("abcd")).assign(
        y=one.y, w=one.rows["weights"], o=one.rows["offset"]
    )
    pieces = [frame.iloc[:13], frame.iloc[13:14], frame.iloc[14:]]
    own = {"family": one.family, "link": one.link, "weights": "w", "offset": "o", "tol": 1e-12, "penalty": penalty}
    if name in ("group", "sparse group"):
        own["penalty"] = GroupLasso(0.02, [["a", "b", "c"], ["d"]], l1_ratio=0.4 if name == "sparse group" else 0.0)
    close(torchglm.fit("y ~ a + b + c + d", pieces, **own).coef, batch.coef[1], 1e-9, 1.0)


@pytest.mark.parametrize("kind", [GroupLasso, Fused, MCP, SCAD], ids=lambda kind: kind.__name__)
def test_every_model_of_a_batch_may_have_a_strength(kind: type[Penalty]) -> None:
    data, strengths = wide("poisson log", models=3, seed=2), torch.tensor([0.3, 0.03, 0.003], dtype=torch.float64)
    more = {GroupLasso: ([0, 0, 0, 1],), Fused: ([[None, 1, 2, 3]],)}.get(kind, ())
    each = strengths if kind in (GroupLasso, Fused) else strengths.unsqueeze(-1)
    batch = data.fit(penalty=kind(each, *more))
    for i, strength in enumerate(strengths.tolist()):
        close(batch.coef[i], data.one(i).fit(penalty=kind(strength, *more)).coef, 1e-9, 1.0)


def test_ends_of_the_strength_are_the_null_model_and_the_whole() -> None:
    data = wide("poisson log", seed=5).one(0)
    free, null = data.fit(), data.fit(penalty=ElasticNet(100.0))
    for name in SHAPES:
        made = CASES[name].made
        close(data.fit(penalty=made(1e-13)).coef, free.coef, 1e-7, free.std_err)
        if name != "fused":
            close(data.fit(penalty=made(100.0)).coef, null.coef, 1e-10, 1.0)
    fused = data.fit(penalty=Fused(100.0, [[None, 1, 2, 3]]))
    assert torch.equal(fused.coef[1:4], torch.zeros(3).double())


def test_shares_of_a_sparse_group_lasso_end_at_lasso_and_groups() -> None:
    data = wide("bernoulli logit", seed=8).one(0)
    lasso = data.fit(penalty=ElasticNet(0.01))
    close(data.fit(penalty=GroupLasso(0.01, [0, 0, 0, 1], l1_ratio=1.0)).coef, lasso.coef, 1e-8, 1.0)
    single = data.fit(penalty=GroupLasso(0.01, [0, 1, 2, 3]))
    close(single.coef, lasso.coef, 1e-8, 1.0)
    close(data.fit(penalty=MCP(0.01, gamma=1e9)).coef, lasso.coef, 1e-7, 1.0)
    close(data.fit(penalty=SCAD(0.01, a=1e9)).coef, lasso.coef, 1e-7, 1.0)


def test_a_group_lasso_on_one_orthonormal_group_is_its_closed_form() -> None:
    g = torch.Generator().manual_seed(3)
    x = torch.linalg.qr(torch.randn(50, 3, generator=g, dtype=torch.float64))[0] * 50**0.5
    y = x @ torch.tensor([0.5, -0.2, 0.1], dtype=torch.float64) + torch.randn(50, generator=g, dtype=torch.float64)
    ols = x.T @ y / 50
    found = torchglm.fit(x, y, family="gaussian", intercept=False, penalty=GroupLasso(0.2, [0, 0, 0]))
    close(found.coef, ols * (1 - 0.2 * 3**0.5 / ols.norm()), 1e-12, 1.0)
    mcp = torchglm.fit(x, y, family="gaussian", intercept=False, penalty=MCP(0.15, gamma=2.0))
    own = ols.numpy()
    want = np.where(np.abs(own) <= 0.3, soft(own, 0.15) / (1 - 1 / 2.0), own)
    close(mcp.coef, torch.from_numpy(want), 1e-12, 1.0)


# formulas -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(5)
    n = 600
    band, kind, x = rng.integers(0, 6, n), rng.integers(0, 3, n), rng.normal(size=n)
    rate = np.exp(0.2 + 0.5 * (band >= 3) + 0.3 * x)
    names = pd.Categorical.from_codes(band, [f"{10 * k}-{10 * k + 9}" for k in range(6)])
    return pd.DataFrame({"y": rng.poisson(rate), "band": names, "kind": np.array(["a", "b", "c"])[kind], "x": x})


def test_terms_of_a_formula_are_groups(frame: pd.DataFrame) -> None:
    found = torchglm.fit("y ~ band + kind + x", frame, family="poisson", penalty=GroupLasso(0.05))
    spec = found.spec
    assert spec is not None
    for at in spec.terms.values():
        zeros = (found.coef[at] == 0).tolist()
        assert all(zeros) or not any(zeros)
    by_hand = GroupLasso(0.05, {name: at for name, at in spec.terms.items() if name != "(Intercept)"})
    close(torchglm.fit("y ~ band + kind + x", frame, family="poisson", penalty=by_hand).coef, found.coef, 1e-12, 1.0)
    assert (found.coef[spec.terms["kind"]] == 0).all()


def test_levels_become_bands_whatever_their_contrasts(frame: pd.DataFrame) -> None:
    treated = torchglm.fit("y ~ band + x", frame, family="poisson", penalty=Fused(0.03, "band"))
    spec = treated.spec
    assert spec is not None
    levels = torch.cat([torch.zeros(1).double(), treated.coef[spec.terms["band"]]])
    assert 2 <= len(levels.unique()) < 6
    assert float(treated.flat.df[0]) == pytest.approx(len(levels.unique()) + 1)
    term = "C(band, contr.helmert)"
    other = torchglm.fit(f"y ~ {term} + x", frame, family="poisson", penalty=Fused(0.03, term))
    close(other.predict(frame), treated.predict(frame), 1e-8, 1.0)
    moved = frame.assign(band=frame.band.cat.reorder_categories(frame.band.cat.categories[::-1]))
    close(
        torchglm.fit("y ~ band + x", moved, family="poisson", penalty=Fused(0.03, "band")).predict(moved),
        treated.predict(frame),
        1e-8,
        1.0,
    )


def test_several_predictors_have_their_terms_and_bands(frame: pd.DataFrame) -> None:
    formula = "kind ~ band + x"
    found = torchglm.fit(formula, frame, family=torchglm.Multinomial(), penalty=GroupLasso(0.02))
    assert found.status == Status.CONVERGED and float(found.kkt) < 1e-9
    assert (found.coef == 0).any()
    fused = torchglm.fit(formula, frame, family=torchglm.Multinomial(), penalty=Fused(0.01, "band"))
    assert fused.status == Status.CONVERGED and float(fused.kkt) < 1e-9
    strong = torchglm.fit(formula, frame, family=torchglm.Multinomial(), penalty=Fused(10.0, "band"))
    without = torchglm.fit("kind ~ x", frame, family=torchglm.Multinomial())
    close(strong.predict(frame), without.predict(frame), 1e-7, 1.0)


def test_a_fit_that_chooses_says_so_and_is_saved(frame: pd.DataFrame, tmp_path: object) -> None:
    found = torchglm.fit("y ~ band + x", frame, family="poisson", penalty=Fused(0.03, "band"))
    assert found.std_err.isnan().all() and "no standard errors" in str(found.summary())
    found.save(tmp_path)
    again = torchglm.load(tmp_path)
    assert again.kkt == found.kkt and str(again.penalty) == "Fused(strength=0.03, 5 differences)"
    with pytest.raises(ValueError, match="neither"):
        _ = torchglm.fit("y ~ x", frame, family="poisson").kkt


def test_dispersion_and_shape_are_estimated_beside_them(frame: pd.DataFrame) -> None:
    for penalty in (Fused(0.02, "band"), GroupLasso(0.02), MCP(0.02)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", torchglm.FitWarning)  # alpha may be 0
            found = torchglm.fit("y ~ band + x", frame, family="negative_binomial", penalty=penalty)
        assert found.converged and float(found.kkt) < 1e-8
        family = torchglm.NegativeBinomial(float(found.family.alpha))
        again = torchglm.fit("y ~ band + x", frame, family=family, penalty=penalty)
        close(again.coef, found.coef, 1e-6, 1.0)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: MCP(0.1, gamma=1.0), "gamma must be a finite number > 1"),
        (lambda: SCAD(0.1, a=2.0), "a must be a finite number > 2"),
        (lambda: MCP(-0.1), "strength must be one number >= 0"),
        (lambda: GroupLasso(-1.0), "strength must be finite numbers >= 0"),
        (lambda: GroupLasso(0.1, l1_ratio=1.5), "l1_ratio must lie between 0"),
        (lambda: Fused(float("nan"), [[1, 2]]), "strength must be finite"),
        (lambda: Fused(0.1, [[1]]), "at least two neighbouring columns"),
        (lambda: Fused(0.1, []), "levels is empty"),
    ],
    ids=lambda value: value if isinstance(value, str) else "made",
)
def test_a_penalty_that_cannot_be_meant_says_what_to_give(made: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        made()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("penalty", "said"),
    [
        (GroupLasso(0.1), "has no groups"),
        (GroupLasso(0.1, [0, 0]), "groups has 2 labels for 4 columns"),
        (GroupLasso(0.1, {"one": []}), "group 'one' has no columns"),
        (GroupLasso(0.1, []), "groups has 0 labels|groups is empty"),
        (GroupLasso(0.1, [[1, 2], [2]]), "in the groups '0' and '1'"),
        (GroupLasso(0.1, [[1, 9]]), "has column 9"),
        (GroupLasso(0.1, [["x1", "no"]]), "names column 'no'"),
        (GroupLasso(0.1, [0, 0, 1, 1], factor=[1.0]), "for each of the 2 groups"),
        (Fused(0.1, "band"), "columns come from no formula"),
        (Fused(0.1, [[1, 9]]), "has the columns"),
        (MCP(torch.tensor([0.1, 0.2])), "strength has 2 values for 4 columns"),
        (Fused(torch.tensor([0.1, 0.2]), [[1, 2]]), "strength has shape"),
    ],
    ids=str,
)
def test_a_penalty_that_does_not_go_with_the_columns_says_so(penalty: Penalty, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        wide("poisson log").one(0).fit(penalty=penalty)


def test_terms_that_are_no_factors_are_named(frame: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="'x', which is no factor"):
        torchglm.fit("y ~ band + x", frame, family="poisson", penalty=Fused(0.1, "x"))
    with pytest.raises(ValueError, match="part of an interaction"):
        torchglm.fit("y ~ band * x", frame, family="poisson", penalty=Fused(0.1, "band"))


# paths --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["group", "fused", "mcp", "scad"])
def test_a_path_of_a_shape_is_its_fits(kind: str, frame: pd.DataFrame, tmp_path: object) -> None:
    made: dict[str, Callable[[float], Penalty]] = {
        "group": lambda s: GroupLasso(s, l1_ratio=0.2),
        "fused": lambda s: Fused(s, "band"),
        "mcp": MCP,
        "scad": SCAD,
    }
    formula, n = "y ~ band + x", 5
    path = torchglm.path(formula, frame, family="poisson", penalty=made[kind](1.0), n=n, smallest=0.02, folds=3)
    assert path.converged.all() and path.strength.shape == (n,) and path.cv_mean is not None
    null = ["y ~ 1", "y ~ x"][kind == "fused"]
    assert float(path.dev_ratio[0]) == pytest.approx(
        1
        - float(
            torchglm.fit(null, frame, family="poisson").deviance
            / torchglm.fit("y ~ 1", frame, family="poisson").deviance
        )
    )
    assert path.df[0] == (kind == "fused") and (path.df.diff() >= 0).all() and path.df[-1] > path.df[0]
    for at in (1, 4):
        alone = torchglm.fit(formula, frame, family="poisson", penalty=made[kind](float(path.strength[at])))
        if kind in ("group", "fused"):  # the others have several optima
            close(path.coef[at], alone.coef, 1e-8, 1.0)
        chosen = path.select(at)
        close(chosen.coef, path.coef[at], 1e-15)
        assert chosen.status == Status.CONVERGED and float(chosen.kkt) < 1e-9
        close(chosen.flat.df, alone.flat.df, 1e-6) if kind in ("group", "fused") else None
    path.save(tmp_path)
    again = torchglm.load(tmp_path)
    assert again.select("bic").coef.equal(path.select("bic").coef) and kind in str(again).lower()
    with pytest.raises(ValueError, match="is for elastic nets"):
        path.select("bic", inference="debiased")


def test_the_first_strength_of_a_path_is_the_least_that_holds_all(frame: pd.DataFrame) -> None:
    for penalty in (GroupLasso(1.0), Fused(1.0, "band")):
        first = torchglm.path("y ~ band + x", frame, family="poisson", penalty=penalty, n=1).strength[0]
        held = 1 if isinstance(penalty, Fused) else 0
        for share, more in ((1.0, False), (0.98, True)):
            path = torchglm.path(
                "y ~ band + x", frame, family="poisson", penalty=penalty, strength=[float(share * first)]
            )
            assert bool(path.df[0] > held) is more


def test_a_path_of_a_shape_refuses_what_is_of_elastic_nets(frame: pd.DataFrame) -> None:
    for options, said in (({"l1_ratio": 0.5}, "l1_ratio="), ({"lower": 0.0}, "lower="), ({"factor": 1.0}, "factor=")):
        with pytest.raises(ValueError, match=said):
            torchglm.path("y ~ band + x", frame, family="poisson", penalty=GroupLasso(1.0), **options)
    with pytest.raises(TypeError, match="GroupLasso, Fused, MCP or SCAD"):
        torchglm.path("y ~ x", frame, family="poisson", penalty=torchglm.Ridge(1.0))
