"""Parity with R on real data: every case of tests/reference, one test for each group of quantities."""

from __future__ import annotations

import functools
import json
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch

import torchglm
from torchglm import ElasticNet, Family, Result

FOLDER = Path(__file__).parent / "reference"
CASES = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
QUASI = {"mu": "poisson", "mu^2": "gamma", "mu^3": "inverse_gaussian", "mu(1-mu)": "binomial"}
NAMES = {"Gamma": "gamma", "inverse.gaussian": "inverse_gaussian"}


def named(kind: str, field: str = "kind") -> list[str]:
    """The cases of a kind that hold a field."""
    return [name for name, case in CASES.items() if case["kind"] == kind and case.get(field) is not None]


def model(case: dict[str, Any]) -> tuple[Family, str | torchglm.Link, str | None]:
    """The family, link and dispersion that say in torchglm what the case says in R."""
    facts = case["family"]
    name, quasi = facts["name"], facts["name"].startswith("quasi")
    if quasi:
        name = QUASI[facts["quasi_variance"].replace(" ", "")] if name == "quasi" else name.removeprefix("quasi")
    link = {"1/mu^2": "inverse_squared"}.get(facts["link"], facts["link"])
    if "link_power" in facts:
        link = torchglm.links.Power(facts["link_power"]) if facts["link_power"] else "log"
    if name == "negative.binomial":
        family = torchglm.NegativeBinomial(None if facts.get("theta_estimated") else 1 / facts["theta"])
    elif name == "Tweedie":
        family = torchglm.Tweedie(facts["var_power"])
    else:
        name = "exponential" if facts.get("dispersion_fixed") else NAMES.get(name, name)
        family = torchglm.families.get(name)
    return family, link, "pearson" if quasi else None


class Data(NamedTuple):
    """The table of a case: numeric columns of the design, the response and what goes with each row."""

    x: torch.Tensor
    y: torch.Tensor
    extra: dict[str, torch.Tensor]
    frame: pd.DataFrame


def data(case: dict[str, Any]) -> Data:
    """Proportions with `.trials` become counts, as torchglm takes them."""
    frame = pd.read_csv(FOLDER / f"{case['case']}.csv", dtype={".group": str})
    columns = [name for name in case["columns"] if name != "(Intercept)"]
    wanted = {"weights": ".weights", "offset": ".offset"}
    if case["family"]["name"] in ("binomial", "quasibinomial"):
        wanted["trials"] = ".trials"
    extra = {k: torch.tensor(frame[v].to_numpy(float)) for k, v in wanted.items() if v in frame}
    y = torch.tensor(frame[".y"].to_numpy(float))
    return Data(torch.tensor(frame[columns].to_numpy(float)), y * extra.get("trials", 1.0), extra, frame)


@functools.cache
def fitted(name: str) -> Result:
    case = CASES[name]
    family, link, dispersion = model(case)
    table = data(case)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torchglm.FitWarning)
        return torchglm.fit(
            table.x,
            table.y,
            family=family,
            link=link,
            dispersion=dispersion,
            tol=1e-12,
            max_iter=200,
            intercept="(Intercept)" in case["columns"],
            names=table_names(case),
            **table.extra,
        )


def table_names(case: dict[str, Any]) -> list[str]:
    return [name for name in case["columns"] if name != "(Intercept)"]


def numbers(values: Any) -> np.ndarray:
    """Nested lists with null for NaN as an array."""
    return np.array(values, dtype=float)


def close(got: torch.Tensor, want: Any, rtol: float, scale: Any = 0.0) -> None:
    """Equal to `rtol` relative to the larger of the size and `scale`, NaN in the same places."""
    want, value = numbers(want), got.numpy().astype(float)
    assert value.shape == want.shape
    np.testing.assert_array_equal(np.isnan(value), np.isnan(want))
    known = ~np.isnan(want)
    size = np.maximum(np.abs(want), scale)[known]
    np.testing.assert_array_less(np.abs(value - want)[known], rtol * size + 1e-300)


def tolerance(case: dict[str, Any]) -> float:
    return 1e-6 if "ill_conditioned" in case["tags"] else 1e-7


def errors(case: dict[str, Any]) -> np.ndarray:
    return np.nan_to_num(numbers(case["std_err"]), nan=1.0)


def test_every_family_and_link_of_the_library_has_a_case() -> None:
    models = [model(case)[:2] for case in CASES.values()]
    known = {torchglm.families.get(name).name for name in torchglm.families.names()}
    assert {family.name for family, _ in models} == known - {"bernoulli"}  # the binomial without trials
    assert {torchglm.links.get(link).name for _, link in models} - {"power"} == (
        set(torchglm.links.names()) - {"loglog", "softplus"}
    )  # R has neither


@pytest.mark.parametrize("name", named("glm"))
def test_coefficients_and_their_errors_are_those_of_r(name: str) -> None:
    case, result, tight = CASES[name], fitted(name), tolerance(CASES[name])
    assert bool(result.converged)
    assert [n for n, c in zip(case["columns"], result.coef.tolist(), strict=True) if np.isnan(c)] == case["aliased"]
    close(result.coef, case["coef"], tight, errors(case))
    close(result.std_err, case["std_err"], tight)
    assert result.statistic_name == case["stat_name"]
    close(result.statistic, case["statistic"], 10 * tight, 1.0)
    close(result.p_value, case["p_value"], 1e-5)


@pytest.mark.parametrize("name", named("glm"))
def test_deviance_dispersion_and_degrees_of_freedom_are_those_of_r(name: str) -> None:
    case, result = CASES[name], fitted(name)
    close(result.deviance, case["deviance"], 1e-8, 1e-8)
    close(result.df_resid, case["df_residual"], 1e-15)
    close(result.dispersion, case["dispersion"], tolerance(case))
    close(result.pearson_chi2, case["pearson_chi2"], tolerance(case))
    if result.intercept:
        close(result.null_deviance, case["null_deviance"], 1e-8)
        close(result.df_null, case["df_null"], 1e-15)


@pytest.mark.parametrize("name", named("glm", "loglik"))
def test_loglik_and_aic_are_the_normalised_ones(name: str) -> None:
    case, result = CASES[name], fitted(name)
    close(result.loglik, case["loglik"], 1e-8)
    close(result.aic, case["aic"], 1e-8)


@pytest.mark.parametrize("name", named("glm", "alpha"))
def test_an_estimated_alpha_is_that_of_glm_nb(name: str) -> None:
    close(fitted(name).family.alpha.detach(), CASES[name]["alpha"], 1e-6)


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, kind) for name in named("glm") for kind, lower in CASES[name]["covariance"].items() if lower],
)
def test_covariances_are_those_of_r_and_sandwich(name: str, kind: str) -> None:
    case, result = CASES[name], fitted(name)
    kept = [j for j, column in enumerate(case["columns"]) if column not in case["aliased"]]
    clusters = {"clusters": pd.factorize(data(case).frame[".cluster"])[0], "type": "HC1"} if kind == "cluster" else {}
    got = result.covariance(kind, **clusters)[kept][:, kept]
    lower = case["covariance"][kind]
    want = np.array([[lower[max(i, j)][min(i, j)] for j in range(len(lower))] for i in range(len(lower))])
    size = errors(case)[kept]
    rtol = {"model": 10 * tolerance(case), "observed": 1e-5}.get(kind, 1e-6)
    close(got, want, rtol, np.outer(size, size))


@pytest.mark.parametrize("name", named("glm", "residuals"))
def test_residuals_leverage_and_influence_are_those_of_r(name: str) -> None:
    case, result = CASES[name], fitted(name)
    for kind, want in case["residuals"].items():
        got = result.residuals(kind)
        close(got[:20], want, 1e-6, 1e-6)
        total, square = case["residual_sums"][kind]
        close(got.square().sum(), square, 1e-6)
        close(got.sum(), total, 1e-6, max(1.0, square))
    close(result.leverage()[:20], case["leverage"], 1e-6, 1e-6)
    close(result.leverage().sum(), case["leverage_sum"], 1e-6)
    close(result.cooks_distance()[:20], case["cooks_distance"], 1e-6, 1e-8)
    close(result.cooks_distance().nansum(), case["cooks_sum"], 1e-6)
    close(result.residuals("deviance", standardized=True)[:20], case["standardized_deviance"], 1e-6, 1e-6)


@pytest.mark.parametrize("name", named("glm", "predict"))
@pytest.mark.parametrize(("kind", "value", "error"), [("link", "eta", "se_eta"), ("mean", "mu", "se_mu")])
def test_predictions_and_their_errors_are_those_of_r(name: str, kind: str, value: str, error: str) -> None:
    case, result = CASES[name], fitted(name)
    new = case["predict"]
    keep = [j for j, column in enumerate(case["columns"]) if column != "(Intercept)"]
    offset = {"offset": new["offset"]} if "offset" in data(case).extra else {}
    got, se = result.predict(numbers(new["X"])[:, keep], kind=kind, se=True, **offset)
    close(got, new[value], 1e-6, 1e-6)
    close(se, new[error], 1e-6)


@pytest.mark.parametrize("name", named("glm", "conf_int"))
def test_wald_intervals_are_those_of_r(name: str) -> None:
    case = CASES[name]
    close(fitted(name).conf_int(0.95), case["conf_int"], 10 * tolerance(case), errors(case)[:, None])


@pytest.mark.parametrize("name", named("batch"))
def test_a_batch_of_groups_gives_the_fit_of_r_in_each_group(name: str) -> None:
    case = CASES[name]
    family, link, _ = model(case)
    frame = data(case).frame.rename(columns={".y": "y", ".group": "group"})
    formula = "y ~ " + " + ".join(table_names(case))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torchglm.FitWarning)
        result = torchglm.fit(formula, frame, family=family, link=link, by="group", tol=1e-12, max_iter=200)
    assert result.groups is not None
    place = {str(label[0] if isinstance(label, tuple) else label): i for i, label in enumerate(result.groups)}
    for group, want in case["groups"].items():
        one = result[place[group]]
        close(one.coef, want["coef"], 1e-6, numbers(want["std_err"]))
        close(one.std_err, want["std_err"], 1e-6)
        close(one.deviance, want["deviance"], 1e-7)
        close(one.dispersion, want["dispersion"], 1e-6)


@pytest.mark.parametrize(
    ("name", "step"), [(name, step) for name in named("elastic_net") for step in range(len(CASES[name]["path"]))]
)
def test_the_elastic_net_path_is_that_of_glmnet(name: str, step: int) -> None:
    case = CASES[name]
    family, link, _ = model(case)
    table, want = data(case), CASES[name]["path"][step]
    penalty = ElasticNet(torch.tensor(want["l1"]), torch.tensor(want["l2"]))
    result = torchglm.fit(
        table.x, table.y, family=family, link=link, penalty=penalty, tol=1e-12, max_iter=500, **table.extra
    )
    largest = max(1e-3, max(map(abs, want["coef"])))
    assert bool(result.converged)
    close(result.coef[1:], want["coef"], 1e-5, largest)
    close(result.coef[0], want["intercept"], 1e-5, largest)
    assert ((result.coef[1:] == 0) == (torch.tensor(want["coef"]) == 0)).all() or torch.tensor(want["l1"]).eq(0).all()
