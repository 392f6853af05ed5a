"""Covariances of dependent rows by brute force and beside statsmodels, and the wild bootstrap of clustered scores."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import torch

import torchglm as tg
from torchglm.cli import main

G, N = 10, 120


@pytest.fixture(scope="module")
def rows() -> dict[str, Any]:
    draw = np.random.default_rng(3)
    group = np.sort(draw.integers(0, G, N))
    time = np.concatenate([np.arange((group == k).sum()) for k in range(G)])
    x = np.stack([draw.normal(size=N), draw.normal(size=G)[group]], 1)
    eta = 0.3 * x[:, 0] + 0.2 * x[:, 1] + 0.4 * draw.normal(size=G)[group]
    y = {"gaussian": eta + draw.normal(size=N), "poisson": draw.poisson(np.exp(eta)) * 1.0}
    y["bernoulli"] = (y["gaussian"] > 0) * 1.0
    return {"x": x, "y": y, "group": group, "time": time}


def brute(fit: Any, x: np.ndarray, y: np.ndarray, group: np.ndarray, power: float) -> tuple[np.ndarray, np.ndarray]:
    """The covariance and Satterthwaite's df with every hat matrix written out, in the metric of the weights."""
    z = np.concatenate([np.ones((len(y), 1)), x], 1)
    mu = fit.fitted.numpy()
    w = {"gaussian": np.ones_like(mu), "poisson": mu, "bernoulli": mu * (1 - mu)}[str(fit.family)[:-2].lower()]
    root = z * np.sqrt(w)[:, None]
    inverse, e = np.linalg.inv(root.T @ root), (y - mu) / np.sqrt(w)
    left = np.eye(len(y)) - root @ inverse @ root.T
    meat, adjust = 0.0, []
    for k in np.unique(group):
        own = group == k
        size, vectors = np.linalg.eigh(left[np.ix_(own, own)])
        adjust.append(vectors @ np.diag(np.where(size > 1e-9, np.abs(size) ** -power, 0)) @ vectors.T)
        s = root[own].T @ adjust[-1] @ e[own]
        meat = meat + np.outer(s, s)
    df = []
    for j in range(z.shape[1]):
        parts = [
            left[:, group == k] @ adjust[i] @ root[group == k] @ inverse[:, j] for i, k in enumerate(np.unique(group))
        ]
        gram = np.stack(parts) @ np.stack(parts).T
        df.append(np.trace(gram) ** 2 / (gram**2).sum())
    return inverse @ meat @ inverse, np.array(df)


def wishart_df(fit: Any, x: np.ndarray, y: np.ndarray, group: np.ndarray, power: float) -> float:
    """The df of the two slopes together, from the covariances of all pairs of clusters."""
    z = np.concatenate([np.ones((len(y), 1)), x], 1)
    mu = fit.fitted.numpy()
    w = {"gaussian": np.ones_like(mu), "poisson": mu, "bernoulli": mu * (1 - mu)}[str(fit.family)[:-2].lower()]
    root = z * np.sqrt(w)[:, None]
    inverse = np.linalg.inv(root.T @ root)
    left, parts = np.eye(len(y)) - root @ inverse @ root.T, []
    for k in np.unique(group):
        own = group == k
        size, vectors = np.linalg.eigh(left[np.ix_(own, own)])
        adjust = vectors @ np.diag(np.where(size > 1e-9, np.abs(size) ** -power, 0)) @ vectors.T
        parts.append(inverse[1:] @ root[own].T @ adjust @ left[own])
    size, vectors = np.linalg.eigh(sum(part @ part.T for part in parts))
    parts = [vectors @ np.diag(size**-0.5) @ vectors.T @ part for part in parts]
    pairs = [a @ b.T for a in parts for b in parts]
    return 6 / sum(np.trace(pair) ** 2 + np.trace(pair @ pair) for pair in pairs)


def test_several_labels_are_corrected_by_inclusion_and_exclusion(rows: dict[str, Any]) -> None:
    fit = tg.fit(rows["x"], rows["y"]["poisson"], family="poisson")
    first, second = rows["group"], rows["time"] % 7
    both = fit.robust("cluster", (first, second), "CR2")
    each = [fit.robust("cluster", labels, "CR2") for labels in (first, second, first * 7 + second)]
    wanted = each[0].covariance() + each[1].covariance() - each[2].covariance()
    torch.testing.assert_close(both.covariance(), wanted)
    torch.testing.assert_close(both.reference_df, torch.minimum(each[0].reference_df, each[1].reference_df))
    with pytest.raises(ValueError, match="one by one"):
        both.wald("x0, x1")


@pytest.mark.parametrize(("type", "power"), [("CR2", 0.5), ("CR3", 1.0), ("HC2", 0.5), ("HC3", 1.0)])
@pytest.mark.parametrize("family", ["gaussian", "poisson", "bernoulli"])
def test_leverage_of_clusters_by_brute_force(rows: dict[str, Any], family: str, type: str, power: float) -> None:
    fit = tg.fit(rows["x"], rows["y"][family], family=family)
    covariance, df = brute(fit, rows["x"], rows["y"][family], rows["group"], power)
    robust = fit.robust("cluster", rows["group"], type)
    np.testing.assert_allclose(robust.covariance().numpy(), covariance, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(robust.reference_df.numpy(), df, rtol=1e-8)
    assert robust.statistic_name == "t" and "Satterthwaite" in str(robust.summary())
    p = robust.wald("x1").p_value
    torch.testing.assert_close(p, robust.p_value[2])
    joint = robust.wald("x0, x1")
    eta = wishart_df(fit, rows["x"], rows["y"][family], rows["group"], power)
    np.testing.assert_allclose(float(joint.df_resid), eta - 1, rtol=1e-8)
    contrast = np.array([[0, 1, 0], [0, 0, 1.0]]) @ fit.coef.numpy()
    inner = np.linalg.inv(covariance[1:, 1:])
    np.testing.assert_allclose(float(joint.statistic), (eta - 1) / (2 * eta) * contrast @ inner @ contrast, rtol=1e-8)
    torch.testing.assert_close(robust.wald("2 * x1").p_value, robust.wald("x1 + 0 * x0").p_value)


def test_single_rows_are_hc2_and_a_batch_is_its_models(rows: dict[str, Any]) -> None:
    fit = tg.fit(rows["x"], rows["y"]["poisson"], family="poisson")
    torch.testing.assert_close(fit.covariance("cluster", np.arange(N), "CR2"), fit.covariance("HC2"))
    torch.testing.assert_close(fit.covariance("cluster", np.arange(N), "CR3"), fit.covariance("HC3"))
    both = tg.fit(rows["x"], np.stack([rows["y"]["poisson"], rows["y"]["poisson"] + 1]), family="poisson")
    many = both.robust("cluster", np.stack([rows["group"], rows["group"] // 2]), "CR2")
    one = both[1].robust("cluster", rows["group"] // 2, "CR2")
    torch.testing.assert_close(many[1].std_err, one.std_err)
    torch.testing.assert_close(many[1].conf_int(), one.conf_int())


@pytest.mark.parametrize(
    ("kind", "cov_type", "ours", "theirs"),
    [
        ("HAC", "HAC", {"lags": 4}, {"maxlags": 4}),
        ("HAC", "hac-panel", {"lags": 3, "clusters": "group"}, {"maxlags": 3, "groups": "group"}),
        ("driscoll_kraay", "hac-groupsum", {"lags": 3, "order": "time"}, {"maxlags": 3, "time": "time"}),
    ],
)
def test_time_beside_statsmodels(
    rows: dict[str, Any], kind: str, cov_type: str, ours: dict[str, Any], theirs: dict[str, Any]
) -> None:
    def told(options: dict[str, Any]) -> dict[str, Any]:
        return {name: rows[value] if isinstance(value, str) else value for name, value in options.items()}

    x, y = rows["x"], rows["y"]["poisson"]
    fit = tg.fit(x, y, family="poisson")
    other = sm.GLM(y, sm.add_constant(x), family=sm.families.Poisson())
    found = other.fit(cov_type=cov_type, cov_kwds=told(theirs) | {"use_correction": False})
    np.testing.assert_allclose(fit.covariance(kind, **told(ours)).numpy(), found.cov_params(), rtol=1e-8, atol=1e-12)
    shuffled = np.random.default_rng(0).permutation(N)
    if kind == "HAC":
        again = tg.fit(x[shuffled], y[shuffled], family="poisson")
        more = {"clusters": rows["group"][shuffled]} if "clusters" in ours else {}
        order = (rows["time"] if more else np.arange(N))[shuffled]
        torch.testing.assert_close(
            again.covariance(kind, lags=ours["lags"], order=order, **more), fit.covariance(kind, **told(ours))
        )
    assert "standard errors " + kind in str(fit.robust(kind, **told(ours)).summary())


def test_wild_bootstrap_by_hand(rows: dict[str, Any]) -> None:
    """With seven clusters all 128 signs are drawn once: the p-value is a count, and the limits are its edges."""
    x, y, group = rows["x"], rows["y"]["poisson"], rows["group"] % 7
    fit = tg.fit(x, y, family="poisson")
    found = fit.wild_bootstrap(group, ["x1"])
    small = tg.fit(x[:, :1], y, family="poisson")
    z, mu = np.concatenate([np.ones((N, 1)), x], 1), small.fitted.numpy()
    along = np.linalg.inv(z.T @ (mu[:, None] * z))[2]
    parts = np.array([((z @ along) * (y - mu))[group == k].sum() for k in range(7)])
    signs = np.array(list(itertools.product([-1, 1], repeat=7)))
    t = (signs @ parts) / np.sqrt((parts**2).sum() - (signs @ parts) ** 2 / 7)
    own = parts.sum() / np.sqrt((parts**2).sum() - parts.sum() ** 2 / 7)
    assert float(found.statistic[0]) == pytest.approx(own, rel=1e-7)
    assert float(found.p_value[0]) == pytest.approx((np.abs(t) >= abs(own) * (1 - 1e-9)).mean())
    for limit in (found.low, found.high):
        inside = limit + 1e-3 * (found.value - limit).sign()
        outside = limit - 1e-3 * (found.value - limit).sign()
        p = [float(fit.wild_bootstrap(group, ["x1"], value=float(v), level=None).p_value[0]) for v in (inside, outside)]
        assert p[0] >= 0.05 > p[1]
    draws = [
        fit.wild_bootstrap(rows["group"], ["x0"], draws=199, seed=s, weights="webb", level=None).p_value
        for s in (1, 1, 2)
    ]
    assert draws[0] == draws[1] and draws[0] != draws[2]


def test_what_has_no_meaning_says_so(rows: dict[str, Any]) -> None:
    x, y, group = rows["x"], rows["y"]["poisson"], rows["group"]
    fit = tg.fit(x, y, family="poisson")
    frame = pd.DataFrame(x, columns=["a", "b"]).assign(y=y, g=group)
    absorbed = tg.fit("y ~ a | g", frame, family="poisson")
    several = tg.fit(
        x, np.abs(rows["y"]["gaussian"]) + 0.1, family="gamma", link="log", predictors={"dispersion": "~ 1"}
    )
    ridge = tg.fit(x, y, family="poisson", penalty=tg.Ridge(0.1))
    for ask, said in [
        (lambda: fit.covariance("HC3", lags=2), "lags= and order="),
        (lambda: fit.covariance("driscoll_kraay"), "order="),
        (lambda: fit.covariance("HAC", lags=-1), "lags must be"),
        (lambda: fit.covariance("HAC", order=np.zeros(N)), "two rows at one time"),
        (lambda: fit.covariance("HAC", order=np.zeros(3)), "order has shape"),
        (lambda: fit.covariance("HAC", type="CR2"), "is of 'cluster' alone"),
        (lambda: fit.covariance("cluster", np.zeros(N), "CR2"), "one cluster"),
        (lambda: fit.covariance("cluster", group[:5], "CR2"), "5 labels"),
        (lambda: absorbed.covariance("cluster", group[:5], "CR2"), "5 labels"),
        (lambda: several.covariance("cluster", group, "CR2"), "of one predictor"),
        (lambda: several.covariance("HAC"), "of one predictor"),
        (lambda: ridge.covariance("cluster", group, "CR3"), "without a penalty"),
        (lambda: ridge.wild_bootstrap(group), "no penalty"),
        (lambda: absorbed.wild_bootstrap(group), "absorbed"),
        (lambda: fit.wild_bootstrap(np.zeros(N)), "one cluster"),
        (lambda: fit.wild_bootstrap(group, ["z"]), "no coefficient 'z'"),
        (lambda: fit.wild_bootstrap(group, weights="normal"), "unknown weights"),
    ]:
        with pytest.raises(ValueError, match=said):
            ask()


@pytest.mark.slow
def test_few_clusters_are_covered() -> None:
    """Ten clusters, a column that varies between them: CR2 with its df and the bootstrap cover, HC0 does not."""
    draw, hits = np.random.default_rng(1), {"HC0": 0, "CR2": 0, "wild": 0}
    for _ in range(300):
        group = np.repeat(np.arange(10), 20)
        x = (draw.normal(size=10) ** 3)[group]
        y = draw.poisson(np.exp(0.2 + 0.1 * x + 0.4 * draw.normal(size=10)[group])) * 1.0
        fit = tg.fit(x[:, None], y, family="poisson")
        for name in ("HC0", "CR2"):
            low, high = fit.robust("cluster", group, name).conf_int()[1].tolist()
            hits[name] += low <= 0.1 <= high
        hits["wild"] += float(fit.wild_bootstrap(group, value=0.1, draws=399, level=None).p_value[0]) >= 0.05
    assert hits["HC0"] < 0.86 * 300
    assert hits["CR2"] > hits["HC0"] + 15 and hits["wild"] > hits["HC0"] + 15, hits


@pytest.mark.parametrize(
    ("flag", "ask"),
    [
        ("HC3", {"kind": "HC3"}),
        ("{kind: cluster, clusters: g, type: CR2}", {"kind": "cluster", "clusters": "g", "type": "CR2"}),
        ("{kind: cluster, clusters: [g, t]}", {"kind": "cluster", "clusters": ("g", "t")}),
        ("{kind: HAC, clusters: g, order: t, lags: 2}", {"kind": "HAC", "clusters": "g", "order": "t", "lags": 2}),
        ("{kind: driscoll_kraay, order: t}", {"kind": "driscoll_kraay", "order": "t"}),
    ],
)
def test_the_command_line_asks_for_a_covariance(
    rows: dict[str, Any], tmp_path: Path, flag: str, ask: dict[str, Any]
) -> None:
    frame = pd.DataFrame(rows["x"], columns=["a", "b"]).assign(y=rows["y"]["poisson"], g=rows["group"], t=rows["time"])
    frame.loc[5, "a"] = np.nan  # a row that the fit leaves out
    frame.to_csv(tmp_path / "rows.csv", index=False)
    said = ["--data.path", str(tmp_path / "rows.csv"), "--data.formula", "y ~ a + b", "--data.missing", "drop"]
    folder = tmp_path / "run"
    assert main(["fit", *said, "--family", "poisson", "--covariance", flag, "--output_dir", str(folder)]) == 0
    left = frame.drop(index=5)
    labels = {
        k: tuple(left[c] for c in v) if isinstance(v, tuple) else left[v] if k in ("clusters", "order") else v
        for k, v in ask.items()
    }
    wanted = tg.fit("y ~ a + b", left, family="poisson").robust(**labels)
    found = tg.load(folder)
    torch.testing.assert_close(found.std_err, wanted.std_err)
    torch.testing.assert_close(found.reference_df, wanted.reference_df)


def test_a_covariance_of_a_config_that_cannot_be(
    rows: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = pd.DataFrame(rows["x"], columns=["a", "b"]).assign(y=rows["y"]["poisson"], g=rows["group"])
    frame.to_csv(tmp_path / "rows.csv", index=False)
    said = ["--data.path", str(tmp_path / "rows.csv"), "--data.formula", "y ~ a", "--family", "poisson"]
    said += ["--output_dir", str(tmp_path / "run")]
    for flags, words in (
        (["--covariance", "{kind: cluster, clusters: h}"], "h"),
        (["--covariance", "{kind: cluster}"], "needs clusters, a label for each row"),
        (["--covariance", "{kind: cluster, clusters: g}", "--data.by", "g"], "data.by"),
    ):
        assert main(["fit", *said, *flags]) != 0
        assert words in capsys.readouterr().err
