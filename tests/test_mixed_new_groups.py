"""Tests of intervals for responses of groups that a fit with random effects has not seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import torchglm as tg
from torchglm.cli import main

pytestmark = pytest.mark.filterwarnings("ignore:.*BOUNDARY")
close = torch.testing.assert_close
NEW = pd.DataFrame({"x": [0.0, 2.0, -1.0], "z": [1.0, 0.5, -2.0]})


def drawn(seed: int, family: str, groups: int = 40, each: int = 8) -> pd.DataFrame:
    """Rows whose groups differ by a standard deviation of 1 on the scale of the link."""
    rng = np.random.default_rng(seed)
    g, x, z = np.repeat(np.arange(groups), each), *rng.normal(size=(2, groups * each))
    eta = 0.5 + 0.3 * x + rng.normal(size=groups)[g] + 0.5 * rng.normal(size=groups)[g] * z
    if family == "gaussian":
        y = eta + rng.normal(size=len(g))
    else:
        y = rng.poisson(np.exp(eta) * (rng.gamma(2.0, 0.5, len(g)) if family == "negative_binomial" else 1.0))
    return pd.DataFrame({"g": g, "h": g % 7, "part": np.where(g % 2, "a", "b"), "x": x, "z": z, "y": y})


def between(result: tg.Result, columns: list[Tensor]) -> Tensor:
    """(*B, m) the variance between groups, of columns (m, q) for each grouping."""
    found = zip(columns, result.random.values(), strict=True)
    return sum(((z @ effects.covariance) * z).sum(-1) for z, effects in found)  # type: ignore[return-value]


@pytest.mark.parametrize("by", [None, "part"])
def test_gaussian_limits_add_the_variance_between_groups(by: str | None) -> None:
    fit = tg.fit("y ~ x + (0 + z | g) + (1 + x | h)", drawn(1, "gaussian"), family="gaussian", by=by)
    eta, error = fit.predict(NEW, se=True)
    z, x, one = torch.tensor(NEW.z)[:, None], torch.tensor(NEW.x), torch.ones(3, dtype=torch.float64)
    columns = [z, torch.stack([one, x], -1)]
    noise = fit.dispersion.unsqueeze(-1) / 2.0
    half = fit.quantile(0.9).unsqueeze(-1) * (error**2 + noise + between(fit, columns)).sqrt()
    limits = fit.predict_interval(NEW, kind="response", level=0.9, weights=2.0)
    close(limits, torch.stack([eta - half, eta + half], -1), rtol=1e-7, atol=1e-7)
    means = fit.predict_interval(NEW, level=0.9)
    close(means[..., 1] - eta, fit.quantile(0.9).unsqueeze(-1) * error)  # of effects of 0, as before


def test_limits_of_several_predictors_are_those_of_one() -> None:
    data = drawn(2, "gaussian")
    one = tg.fit("y ~ x + (1 | g)", data, family="gaussian", smoothing="ml")
    two = tg.fit("y ~ x + (1 | g)", data, family="gaussian", predictors={"dispersion": "~ 1"})
    close(two.random["g"].sd, one.random["g"].sd, rtol=1e-4, atol=0)
    a, b = (fit.predict_interval(NEW, kind="response", level=0.9) for fit in (one, two))
    close(b, a, rtol=0, atol=0.03)  # one allows for the dispersion by t, the other by the normal law of its logarithm


def test_rows_need_no_groups_but_what_effects_multiply() -> None:
    data = drawn(3, "poisson")
    fit = tg.fit("y ~ x + (1 + z | g)", data, family="poisson")
    limits = fit.predict_interval(NEW, kind="response", level=0.9)
    close(fit.predict_interval(NEW.assign(g=[1, 2, 99]), kind="response", level=0.9), limits)
    with pytest.raises(ValueError, match="z"):
        fit.predict_interval(NEW[["x"]], kind="response")
    with pytest.raises(ValueError, match=r"x is a tensor.*Pass a table"):
        fit.predict_interval(torch.tensor(NEW[["x"]].to_numpy()), kind="response")
    plain = tg.fit("y ~ x + (1 | g)", data, family="poisson")
    rows = torch.tensor(NEW[["x"]].to_numpy())
    close(plain.predict_interval(rows, kind="response"), plain.predict_interval(NEW, kind="response"))


def test_files_are_read_with_what_effects_multiply(tmp_path: Path) -> None:
    fit = tg.fit("y ~ x + (1 + z | g)", drawn(4, "poisson"), family="poisson")
    fit.save(tmp_path / "run")
    NEW.to_csv(tmp_path / "new.csv", index=False)
    out = tmp_path / "out.parquet"
    flags = ["--response", "0.9", "--fixed", "--out", str(out)]
    assert main(["predict", str(tmp_path / "run"), str(tmp_path / "new.csv"), *flags]) == 0
    limits = torch.from_numpy(pd.read_parquet(out)[["response_low", "response_high"]].to_numpy())
    close(limits, fit.predict_interval(NEW, kind="response", level=0.9))


LAWS: dict[str, dict[str, Any]] = {
    "gaussian": {"family": "gaussian"},
    "poisson": {"family": "poisson"},
    "alpha": {"family": "negative_binomial", "predictors": {"alpha": "~ 1"}},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LAWS)
def test_limits_cover_responses_of_new_groups(name: str) -> None:
    options, inside = LAWS[name], []
    for seed in range(40):
        data = drawn(seed, options["family"], groups=80)
        fit = tg.fit("y ~ x + (1 + z || g)", data[data.g < 40], **options)
        new = data[data.g >= 40]
        low, high = fit.predict_interval(new, kind="response", level=0.9, unseen="reference").unbind(-1)
        y = torch.tensor(new.y.to_numpy(), dtype=torch.float64)
        inside.append(float(((y >= low) & (y <= high)).double().mean()))
    assert 0.88 < np.mean(inside) < (0.92 if name == "gaussian" else 0.96)
