"""Hard, bad and degenerate problems end as tests/pathology/README.md asks: in the right numbers, or in plain words."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pathology import arrays, designs, likelihoods  # noqa: F401 - they enter their problems into CASES
from pathology.base import CASES

import torchglm
from torchglm import ElasticNet, Result, Status

EXPECTED: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "pathology" / "expected.json").read_text())
FAMILIES = {"negbin": "negative_binomial"}
FIT = ("weights", "offset", "trials", "start")


def of(outcome: str) -> list[str]:
    return [name for name, expected in EXPECTED.items() if expected["outcome"] == outcome]


def penalty(problem: dict[str, Any]) -> ElasticNet | None:
    """glmnet's `lambda` and `alpha` as strengths for each column; the first is an intercept."""
    given = problem.get("family_args") or {}
    if "lam" not in given:
        return None
    x, mix = np.asarray(problem["X"]), given["alpha"]
    spread = x.std(0) if given.get("standardize") else np.ones(x.shape[1])
    free = np.where(np.arange(x.shape[1]) == 0, 0.0, np.where(spread > 0, spread, 1.0))
    return ElasticNet(torch.tensor(given["lam"] * mix * free), torch.tensor(given["lam"] * (1 - mix) * free**2))


def family(problem: dict[str, Any]) -> torchglm.Family:
    given, name = problem.get("family_args") or {}, FAMILIES.get(problem["family"], problem["family"])
    if name == "negative_binomial":
        theta = given["theta"]
        return torchglm.NegativeBinomial(None if theta == "estimate" else 1 / theta)
    return torchglm.families.get(name, **({"power": given["var_power"]} if name == "tweedie" else {}))


def run(name: str, **options: Any) -> tuple[Result, list[str]]:
    """The fit of a problem as a user would ask for it, and what it warned of."""
    problem = CASES[name]()
    keys = {key: problem[key] for key in FIT if problem.get(key) is not None}
    x, y = problem["X"], problem["y"]
    if np.ndim(y) == 2:
        y = np.asarray(y).T  # many responses go in rows
    if "trials" in keys:
        y = y * keys["trials"]  # the problems hold proportions, torchglm takes counts
    power = (problem.get("family_args") or {}).get("link_power")
    link = torchglm.links.Power(power) if power else problem["link"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = torchglm.fit(
            x,
            y,
            **{
                "family": family(problem),
                "link": link,
                "intercept": False,
                "tol": 1e-12,
                "max_iter": 500,
                "penalty": penalty(problem),
            }
            | keys
            | options,
        )
    return result, [str(w.message) for w in caught]


def close(got: torch.Tensor, want: Any, rtol: float, scale: Any = 0.0) -> None:
    want = np.array(want, dtype=float)
    np.testing.assert_array_less(np.abs(got.numpy() - want), rtol * np.maximum(np.abs(want), scale) + 1e-300)


def precision(name: str) -> float:
    hard = "nist" in name or "collinear" in name
    return max(1e-6 if hard else 1e-7, 3 * EXPECTED[name].get("attainable", 0.0))


def test_every_problem_says_what_is_asked_of_it() -> None:
    assert set(CASES) == set(EXPECTED)


@pytest.mark.parametrize("name", of("solve"))
def test_a_hard_problem_with_a_maximum_is_solved(name: str) -> None:
    expected, (result, said) = EXPECTED[name], run(name)
    want, rtol = expected.get("certified") or expected["solution"], precision(name)
    assert result.status == Status.CONVERGED
    scale = np.minimum(np.array(want.get("std_err_phi1") or want["coef"], dtype=float), 1e3)
    close(result.coef, want["coef"], rtol, np.maximum(np.abs(scale), 1e-12))
    if "deviance" in want:
        close(result.deviance, want["deviance"], max(rtol, 1e-7), 1e-6)
    assert not [text for text in said if "SEPARATED" in text or "LIMIT" in text]


@pytest.mark.parametrize("name", [n for n in of("solve") if EXPECTED[n].get("solution", {}).get("std_err_phi1")])
def test_a_solved_problem_has_the_right_standard_errors(name: str) -> None:
    result, _ = run(name, dispersion=1.0)  # the errors at phi = 1 are known to 60 digits
    close(result.std_err, EXPECTED[name]["solution"]["std_err_phi1"], 1e-4 if name == "near_collinear_1e10" else 1e-5)


@pytest.mark.parametrize("name", [n for n in of("solve") if "certified" in EXPECTED[n]])
def test_nist_errors_and_residual_deviation_are_the_certified_ones(name: str) -> None:
    certified, (result, _) = EXPECTED[name]["certified"], run(name)
    close(result.std_err, certified["std_err"], 1e-6, 1e-3)
    close(result.dispersion.sqrt(), certified["residual_sd"], 1e-6, 1e-3)


@pytest.mark.parametrize("name", of("infinite"))
def test_a_maximum_at_infinity_is_separation_with_finite_numbers(name: str) -> None:
    limit, (result, said) = EXPECTED[name]["limit"], run(name)
    levels = name == "poisson_all_zero_cell"  # all else is estimated
    assert result.status == (Status.SEPARATED_LEVELS if levels else Status.SEPARATED)
    assert bool(result.converged) == levels
    assert torch.isfinite(result.coef).all()
    assert len([text for text in said if "SEPARATED" in text]) == 1
    close(result.deviance, limit["deviance"], 1e-5, 1e-2 if limit["deviance"] == 0 else 0.0)
    for place, value in limit.get("finite_coef", {}).items():
        close(result.coef[int(place)], value, 1e-5)
    for place, sign in limit.get("infinite", {}).items():
        assert torch.sign(result.coef[int(place)]) == float(sign + "1")


@pytest.mark.parametrize("name", of("boundary"))
def test_a_maximum_on_the_edge_is_found_and_named(name: str) -> None:
    result, said = run(name)
    assert result.status == Status.BOUNDARY
    assert len([text for text in said if "BOUNDARY" in text]) == 1
    close(result.coef, EXPECTED[name]["constrained_solution"]["coef"], 1e-4)


@pytest.mark.parametrize("name", of("aliased"))
def test_dependent_columns_are_nan_and_the_fit_is_that_without_them(name: str) -> None:
    result, said = run(name)
    assert len([text for text in said if "aliased columns" in text]) == 1
    reduced = EXPECTED[name].get("reduced_fit")
    if reduced is None:  # more columns than rows: saturated on the first independent ones
        assert float(result.rank) == 10 and float(result.df_resid) == 0
        assert torch.isfinite(result.coef).sum() == 10 and torch.isfinite(result.coef[:10]).all()
        close(result.deviance, 0.0, 1e-8, 1.0)
        return
    kept = reduced["keep"]
    assert torch.isnan(result.coef[reduced["drop"]]).all() and torch.isnan(result.std_err[reduced["drop"]]).all()
    close(result.coef[kept], reduced["coef"], 1e-7, reduced["std_err"])
    close(result.std_err[kept], reduced["std_err"], 1e-6)
    close(result.deviance, reduced["deviance"], 1e-9)
    assert float(result.df_resid) == reduced["df_residual"]


@pytest.mark.parametrize("name", of("degenerate"))
def test_a_response_with_nothing_to_explain_is_fitted_exactly(name: str) -> None:
    result, _ = run(name)
    want = EXPECTED[name].get("solution", {"coef": [4.0], "deviance": 0.0})
    assert bool(result.converged)
    close(result.coef, want["coef"], 1e-9, 1.0)
    close(result.deviance, 0.0, 1e-12, 1.0)
    if name == "n_equals_1_gaussian":
        assert torch.isnan(result.dispersion)
    else:
        close(result.dispersion, 0.0, 1e-12, 1.0)


ERRORS = {
    "empty_input": "no rows",
    "inf_in_X": "x holds infinity at position \\(3, 1\\)",
    "nan_in_y": "y holds NaN at row 3",
    "inf_in_y": "y holds infinity at row 3",
    "nan_in_weights": "weights holds NaN at row 3",
    "exposure_zero_y_zero": "offset holds infinity at row 3.*exposure",
    "negative_weights": "weights.*>= 0.*row 3",
    "all_zero_weights": "weights are all zero",
    "negative_counts": "poisson.*y >= 0.*row 3 has y = -1",
    "gamma_zero_y": "gamma.*y > 0.*row 3",
    "invgauss_zero_y": "inverse_gaussian.*y > 0.*row 3",
    "binomial_y_above_1": "binomial.*row 3 has y = 1.2",
    "binomial_labels_minus1_plus1": "binomial.*y = -1",
    "successes_exceed_trials": "row 3 has more successes than trials",
    "length_mismatch": "60 rows and y has 59",
    "X_one_dimensional": r"x has shape \(60,\)",
    "object_strings": "y holds .* not numbers",
}


@pytest.mark.parametrize("name", of("error"))
def test_bad_input_is_refused_in_words_that_say_where(name: str) -> None:
    with pytest.raises((ValueError, TypeError), match=ERRORS[name]):
        run(name)


@pytest.mark.parametrize("name", of("isolate"))
def test_one_bad_model_of_a_batch_leaves_the_others_as_they_are_alone(name: str) -> None:
    together, said = run(name)
    bad = {"batch_one_separated": 2, "batch_one_all_zero": 3, "batch_one_nan": 1}[name]
    status = Status.NOT_FINITE if name == "batch_one_nan" else Status.SEPARATED
    assert [s == Status.CONVERGED for s in together.status] == [j != bad for j in range(5)]
    assert together.status[bad] == status
    assert len([text for text in said if text.startswith("1 of 5 models")]) == 1
    problem = CASES[name]()
    others = [j for j in range(5) if j != bad]
    clean = torchglm.fit(
        problem["X"], problem["y"].T[others], family=problem["family"], intercept=False, tol=1e-12, max_iter=500
    )
    # a design shared by all goes through one product of matrices, whose last bit depends on the number of models
    close(together.coef[others], clean.coef.numpy(), 1e-15, 1.0)
    close(together.std_err[others], clean.std_err.numpy(), 1e-14)
    for j in others:
        alone = torchglm.fit(problem["X"], problem["y"][:, j], family=problem["family"], intercept=False, tol=1e-12)
        close(together.coef[j], alone.coef.numpy(), 1e-12, 1.0)


def test_a_row_of_weight_zero_may_hold_nan() -> None:
    result, said = run("zero_weight_row_with_nan")
    problem = CASES["zero_weight_row_with_nan"]()
    keep = problem["weights"] > 0
    without = torchglm.fit(problem["X"][keep], problem["y"][keep], family="poisson", intercept=False, tol=1e-12)
    close(result.coef, without.coef.numpy(), 1e-13, 1.0)
    assert float(result.nobs) == 59 and any("weight zero" in text for text in said)


def test_half_precision_is_computed_wide_and_said() -> None:
    result, said = run("float16_input")
    close(result.coef, EXPECTED["float16_input"]["solution"]["coef"], 1e-7, 1.0)
    assert any("float16" in text for text in said)


def test_counts_less_dispersed_than_poisson_give_the_poisson_limit() -> None:
    result, said = run("negbin_underdispersed")
    assert result.status == Status.SHAPE_LIMIT and bool(result.converged) and len(said) == 1
    assert float(result.family.alpha) == 0.0
    close(result.coef, EXPECTED["negbin_underdispersed"]["limit"]["coef"], 1e-7)


def test_a_link_that_is_not_one_to_one_keeps_to_its_branch_and_says_so() -> None:
    result, said = run("tweedie_sqrt_link_nonmonotone")
    eta = result.link.link(result.fitted)
    assert (eta > 0).all() and (result.status != Status.CONVERGED or said)


def test_no_columns_leave_the_offset() -> None:
    expected, (result, _) = EXPECTED["no_columns_offset_only"]["solution"], run("no_columns_offset_only")
    assert result.coef.shape == (0,) and result.std_err.shape == (0,) and result.covariance().shape == (0, 0)
    close(result.fitted, expected["fitted"], 1e-12)
    close(result.deviance, expected["deviance"], 1e-12)
    assert float(result.df_resid) == 6 and bool(result.converged)


def test_a_penalty_gives_a_separated_problem_a_finite_answer_without_a_warning() -> None:
    result, said = run("ridge_separated")
    assert not said and result.status == Status.CONVERGED
    close(result.coef, EXPECTED["ridge_separated"]["solution"]["coef"], 1e-9)
