"""Satterthwaite's degrees of freedom of Gaussian fits with random effects: numbers of lmerTest, and laws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import torchglm

TIGHT: dict[str, Any] = {"family": "gaussian", "tol": 1e-12}
# reaction times (ms) of subjects after 0 to 9 days of little sleep: Belenky et al. (2003), the sleepstudy of lme4
SLEEP = """
308: 249.5600 258.7047 250.8006 321.4398 356.8519 414.6901 382.2038 290.1486 430.5853 466.3535
309: 222.7339 205.2658 202.9778 204.7070 207.7161 215.9618 213.6303 217.7272 224.2957 237.3142
310: 199.0539 194.3322 234.3200 232.8416 229.3074 220.4579 235.4208 255.7511 261.0125 247.5153
330: 321.5426 300.4002 283.8565 285.1330 285.7973 297.5855 280.2396 318.2613 305.3495 354.0487
331: 287.6079 285.0000 301.8206 320.1153 316.2773 293.3187 290.0750 334.8177 293.7469 371.5811
332: 234.8606 242.8118 272.9613 309.7688 317.4629 309.9976 454.1619 346.8311 330.3003 253.8644
333: 283.8424 289.5550 276.7693 299.8097 297.1710 338.1665 332.0265 348.8399 333.3600 362.0428
334: 265.4731 276.2012 243.3647 254.6723 279.0244 284.1912 305.5248 331.5229 335.7469 377.2990
335: 241.6083 273.9472 254.4907 270.8021 251.4519 254.6362 245.4523 235.3110 235.7541 237.2466
337: 312.3666 313.8058 291.6112 346.1222 365.7324 391.8385 404.2601 416.6923 455.8643 458.9167
349: 236.1032 230.3167 238.9256 254.9220 250.7103 269.7744 281.5648 308.1020 336.2806 351.6451
350: 256.2968 243.4543 256.2046 255.5271 268.9165 329.7247 379.4445 362.9184 394.4872 389.0527
351: 250.5265 300.0576 269.8939 280.5891 271.8274 304.6336 287.7466 266.5955 321.5418 347.5655
352: 221.6771 298.1939 326.8785 346.8555 348.7402 352.8287 354.4266 360.4326 375.6406 388.5417
369: 271.9235 268.4369 257.2424 277.6566 314.8222 317.2135 298.1353 348.1229 340.2800 366.5131
370: 225.2640 234.5235 238.9008 240.4730 267.5373 344.1937 281.1481 347.5855 365.1630 372.2288
371: 269.8804 272.4428 277.8989 281.7895 279.1705 284.5120 259.2658 304.6306 350.7807 369.4692
372: 269.4117 273.4740 297.5968 310.6316 287.1726 329.6076 334.4818 343.2199 369.1417 364.1236
"""


def sleepstudy() -> pd.DataFrame:
    rows = [
        {"subject": line[:3], "days": day, "reaction": float(value)}
        for line in SLEEP.strip().splitlines()
        for day, value in enumerate(line[5:].split())
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("effects", "error", "df"), [("days", [6.825, 1.546], [17.0, 17.0]), ("1", [9.7467, 0.8042], [22.8102, 161.0])]
)
def test_degrees_of_freedom_are_those_of_lmertest(effects: str, error: list[float], df: list[float]) -> None:
    fit = torchglm.fit(f"reaction ~ days + ({effects} | subject)", sleepstudy(), **TIGHT)
    np.testing.assert_allclose(fit.coef, [251.4051, 10.4673], atol=6e-5)
    np.testing.assert_allclose(fit.std_err, error, rtol=2e-4)
    small = fit.satterthwaite()
    np.testing.assert_allclose(small.reference_df, df, atol=6e-5)
    torch.testing.assert_close(small.statistic, fit.statistic, rtol=0, atol=0)
    tail = torchglm.special.student_t_sf(small.statistic.abs(), small.reference_df)
    torch.testing.assert_close(small.p_value, 2 * tail)
    assert bool(((small.conf_int()[:, 1] - small.coef) > (fit.conf_int()[:, 1] - fit.coef)).all())
    assert "Satterthwaite" in str(small.summary())
    with pytest.raises(ValueError, match="one by one"):
        small.wald("days = 0, (Intercept) = 0")


def test_a_balanced_mean_has_one_df_less_than_groups_and_a_batch_is_a_loop(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    data = pd.DataFrame({"g": np.tile(np.repeat(np.arange(7), 6), 2), "run": np.repeat([0, 1], 42)})
    data["x"], data["y"] = rng.normal(size=84), rng.normal(size=(2, 7)).ravel()[data["g"] + 7 * data["run"]]
    data["y"] += rng.normal(size=84)
    mean = torchglm.fit("y ~ 1 + (1 | g)", data, by="run", **TIGHT).satterthwaite()
    torch.testing.assert_close(mean.reference_df, torch.full_like(mean.coef, 6.0), rtol=1e-5, atol=0)
    both = torchglm.fit("y ~ x + (1 | g)", data, by="run", **TIGHT).satterthwaite()
    for run in range(2):
        one = torchglm.fit("y ~ x + (1 | g)", data[data["run"] == run], **TIGHT)
        torch.testing.assert_close(both[run].reference_df, one.satterthwaite().reference_df, rtol=1e-6, atol=0)
        torch.testing.assert_close(both[run].p_value, one.satterthwaite().p_value, rtol=1e-5, atol=0)
    both.save(tmp_path)
    torch.testing.assert_close(torchglm.load(tmp_path).reference_df, both.reference_df, rtol=0, atol=0)


def _counts(groups: int = 9, each: int = 5, seed: int = 3) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(groups), each)
    v, x = rng.normal(size=groups)[g], rng.normal(size=groups * each)
    eta = 0.5 + 0.3 * x + 0.4 * v + 0.7 * rng.normal(size=groups)[g]
    return pd.DataFrame(
        {"g": g, "x": x, "v": v, "n": rng.poisson(np.exp(eta)), "y": np.exp(eta + rng.normal(size=len(g)))}
    )


def _laplace(log_sd: float, beta: np.ndarray, data: pd.DataFrame) -> tuple[float, np.ndarray]:
    """Minus the Laplace approximation of a Poisson model at given fixed effects, and their variances there."""
    x = np.column_stack([np.ones(len(data)), data["x"], data["v"]])
    z, y = np.eye(data["g"].nunique())[data["g"]], data["n"].to_numpy()
    u, precision = np.zeros(z.shape[1]), np.exp(-2 * log_sd)
    for _ in range(30):
        mu = np.exp(x @ beta + z @ u)
        bend = z.T @ (mu[:, None] * z) + precision * np.eye(len(u))
        u = u + np.linalg.solve(bend, z.T @ (y - mu) - precision * u)
    value = -(y * np.log(mu) - mu).sum() + precision * u @ u / 2 + np.linalg.slogdet(bend)[1] / 2 + len(u) * log_sd
    both = np.column_stack([x, z])
    whole = both.T @ (mu[:, None] * both) + np.diag([0.0] * 3 + [precision] * len(u))
    return value, np.linalg.inv(whole).diagonal()[:3]


def test_degrees_of_freedom_of_counts_are_those_of_the_likelihood_written_out() -> None:
    data = _counts()
    fit = torchglm.fit("n ~ x + v + (1 | g)", data, family="poisson", tol=1e-12)
    at = np.r_[float(fit.random["g"].sd.log()), fit.coef.numpy()]
    h, unit = 1e-3, np.eye(4)

    def value(move: np.ndarray) -> float:
        return _laplace((at + move)[0], (at + move)[1:], data)[0]

    corners = [(1, 1), (1, -1), (-1, 1), (-1, -1)]
    hessian = [[sum(a * b * value(h * (a * i + b * j)) for a, b in corners) for j in unit] for i in unit]
    spread = np.linalg.inv(np.array(hessian) / (4 * h**2))[0, 0]  # of the logarithm of the standard deviation
    here, (up, down) = _laplace(at[0], at[1:], data)[1], [_laplace(at[0] + s, at[1:], data)[1] for s in (h, -h)]
    df = 2 * here**2 / (((up - down) / (2 * h)) ** 2 * spread)
    np.testing.assert_allclose(fit.satterthwaite().reference_df, df, rtol=1e-3)


@pytest.mark.parametrize(
    ("formula", "options"),
    [
        ("n ~ x + v + (1 | g)", {"family": "poisson"}),
        ("n ~ x + v + (1 | g)", {"family": "poisson", "smoothing": "reml"}),
        ("n ~ x + v + (1 | g)", {"family": "negative_binomial"}),
        ("y ~ x + v + (1 | g)", {"family": "gamma", "link": "log"}),
        ("y ~ x + v + (1 | g)", {"family": "gaussian", "dispersion": 2.0}),
        ("y ~ x + v + (1 | g)", {"family": "gamma", "link": "log", "predictors": {"dispersion": "~ 1"}}),
        ("n > 1 ~ x + v + (1 | g)", {"family": "binomial", "quadrature": 5}),
    ],
)
def test_other_laws_have_them_and_a_batch_is_a_loop(formula: str, options: dict[str, Any], tmp_path: Path) -> None:
    data = pd.concat([_counts(12, 8, seed).assign(run=seed) for seed in (1, 2)])
    if ">" in formula:
        data["n"] = (data["n"] > 1).astype(int)
        formula = formula.replace("n > 1", "n")
    both = torchglm.fit(formula, data, by="run", tol=1e-12, **options)
    small = both.satterthwaite()
    assert small.statistic_name == "t" and both.conf_int().shape == small.conf_int().shape
    assert bool(((small.conf_int() - both.conf_int()).abs() > 0)[:, 0].all())
    v = both.names.index("v")
    assert bool(((small.reference_df[:, v] > 4) & (small.reference_df[:, v] < 40)).all()), small.reference_df
    for k, run in enumerate((1, 2)):
        one = torchglm.fit(formula, data[data["run"] == run], tol=1e-12, **options)
        tail = torch.full_like(one.coef, 0.975)
        wide = torchglm.special.student_t_icdf(tail, one.satterthwaite().reference_df) * one.std_err
        torch.testing.assert_close(small[k].conf_int()[:, 1] - small[k].coef, wide, rtol=1e-3, atol=0)
    assert "Satterthwaite" in str(small[0].summary()) and "satterthwaite()" in str(both[0].summary())
    small.save(tmp_path / "fit")
    torch.testing.assert_close(torchglm.load(tmp_path / "fit").conf_int(), small.conf_int(), rtol=0, atol=0)


def test_a_config_asks_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchglm.cli import main

    monkeypatch.chdir(tmp_path)
    _counts().to_csv("rows.csv", index=False)
    head = "data: {path: rows.csv, formula: n ~ x + v + (1 | g)}\nfamily: poisson\ncovariance: satterthwaite\n"
    Path("config.yaml").write_text(head + "output_dir: run\n")
    assert main(["fit", "config.yaml"]) == 0
    fit = torchglm.fit("n ~ x + v + (1 | g)", "rows.csv", family="poisson").satterthwaite()
    torch.testing.assert_close(torchglm.load("run").conf_int(), fit.conf_int())
    assert "Satterthwaite" in Path("run/summary.txt").read_text()


def test_what_has_none_says_so() -> None:
    data = sleepstudy().assign(n=lambda d: d["reaction"].round().astype(int))
    for formula, options in (
        ("n ~ days", {"family": "poisson"}),
        ("reaction ~ days", {"family": "gaussian"}),
        ("reaction ~ s(days, k=4) + (1 | subject)", {"family": "gaussian"}),
        ("n ~ s(days, k=4) + (1 | subject)", {"family": "poisson"}),
    ):
        with pytest.raises(ValueError, match="satterthwaite"):
            torchglm.fit(formula, data, **options).satterthwaite()  # type: ignore[arg-type]
