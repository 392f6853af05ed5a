"""Parity with mgcv on real data: strengths by REML, and what follows from them, for designs and penalties as given."""

from __future__ import annotations

import functools
import json
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

import torchglm
from torchglm import FitWarning, Quadratic, Result, Status

FOLDER = Path(__file__).parent / "reference_smooth"
CASES = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
FAMILIES = {"Gamma": "gamma", "inverse.gaussian": "inverse_gaussian", "nb": "negative_binomial"}


def vector(values: Any) -> Tensor:
    numbers = values.values() if isinstance(values, dict) else values
    return torch.tensor([float(value) for value in numbers], dtype=torch.float64)


@functools.cache
def fitted(name: str) -> Result:
    case, frame = CASES[name], pd.read_csv(FOLDER / f"{name}.csv")
    blocks = [
        (case["columns"][p["first"] - 1 : p["last"]], torch.tensor(p["S"], dtype=torch.float64))
        for p in case["penalties"]
    ]
    roles = {key: frame[f".{key}"].to_numpy() for key in ("weights", "offset", "trials") if f".{key}" in frame}
    family = case["family"]["name"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        return torchglm.fit(
            frame[case["columns"]],
            frame[".y"].to_numpy(float),
            family=FAMILIES.get(family, family),
            link=case["family"]["link"],
            intercept=False,
            penalty=Quadratic(blocks, "reml"),
            tol=1e-12,
            max_iter=200,
            **roles,
        )


@pytest.mark.parametrize("name", CASES)
def test_strengths_and_criterion(name: str) -> None:
    case, result = CASES[name], fitted(name)
    want = vector(case["sp"])
    finite = want.isfinite()
    assert result.status == (Status.CONVERGED if bool(finite.all()) else Status.STRENGTH_LIMIT)
    assert torch.equal(result.strength.isfinite(), finite)
    torch.testing.assert_close(result.strength[finite].log(), want[finite].log(), rtol=0, atol=1e-7)
    assert float(result.criterion) == pytest.approx(case["reml"], rel=1e-10 if bool(finite.all()) else 2e-10)
    if case["scale"]["estimated"]:
        assert float(result.dispersion) == pytest.approx(case["scale"]["sig2"], rel=1e-8)
    if case["theta"] is not None:
        assert float(result.family.alpha) == pytest.approx(1 / case["theta"], rel=1e-8)  # type: ignore[operator, arg-type]


@pytest.mark.parametrize("name", CASES)
def test_coefficients_errors_and_means(name: str) -> None:
    case, result = CASES[name], fitted(name)
    error = (result.coef - vector(case["coef"])).abs() / vector(case["std_err_bayes"])
    assert float(error.max()) < 1e-6
    variance = vector(case["Vp_diag"])
    torch.testing.assert_close(result.covariance("bayes").diagonal(), variance, rtol=1e-6, atol=0)
    torch.testing.assert_close(result.fitted[:20], vector(case["fitted"]["first20"]), rtol=1e-7, atol=0)


@pytest.mark.parametrize("name", CASES)
def test_effective_degrees_of_freedom(name: str) -> None:
    """Of a term at infinity in all: the share of each column there depends on the basis that mgcv takes."""
    case, result = CASES[name], fitted(name)
    assert float(result.edf.sum()) == pytest.approx(case["edf_total"], abs=1e-6)
    rest = torch.ones_like(result.edf, dtype=torch.bool)
    for penalty, strength in zip(case["penalties"], vector(case["sp"]), strict=True):
        if not bool(strength.isfinite()):
            rest[penalty["first"] - 1 : penalty["last"]] = False
    torch.testing.assert_close(result.edf[rest], vector(case["edf"])[rest], rtol=0, atol=1e-6)
