"""Multinomial models of very many coefficients are fitted without their information, to the same maximum."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import torchglm as tg
from torchglm.fitting import conjugate

CLASSES = 5


def table(n: int = 800, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Columns of very unlike scales, one nearly constant, and classes of unlike frequency."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 4))
    eta = np.c_[np.zeros(n), x[:, :3] @ rng.standard_normal((3, CLASSES - 1)) * 0.7 - np.arange(CLASSES - 1) * 0.4]
    x[:, 1] = 2000 + 3 * x[:, 1]
    x[:, 3] *= 1e-5
    return x, (eta + rng.gumbel(size=eta.shape)).argmax(1)


def both(monkeypatch: pytest.MonkeyPatch, fit: Any) -> tuple[tg.Result, tg.Result]:
    """The fits by conjugate gradients, and with the information."""
    want = fit()
    monkeypatch.setattr(conjugate, "DENSE", 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tg.FitWarning)
        return fit(), want


def same(got: tg.Result, want: tg.Result) -> None:
    assert got.status == want.status
    away = ((got.coef - want.coef) / want.std_err).abs()
    assert float(away.nan_to_num().max()) < 1e-5 and torch.equal(got.coef.isnan(), want.coef.isnan())
    for name in ("loglik", "deviance", "nobs", "rank", "null_deviance"):
        torch.testing.assert_close(getattr(got, name), getattr(want, name), rtol=1e-9, atol=1e-7)
    assert bool(got.std_err.isnan().all())


X, Y = table()
W = np.random.default_rng(5).random(len(Y)) * (np.arange(len(Y)) % 4 > 0)
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "baseline": {"family": tg.Multinomial(3)},
    "weights": {"weights": W},
    "freq": {"freq": np.arange(len(Y)) % 3},
    "ridge": {"penalty": tg.Ridge(0.02)},
    "a column twice": {"x": np.c_[X, X[:, 0] + 1]},
    "no intercept": {"intercept": False, "x": X[:, [0, 2]]},
    "float32": {"dtype": torch.float32, "x": X[:, [0, 2, 3]]},
    "start": {"start": np.zeros(5 * (CLASSES - 1))},
}


@pytest.mark.filterwarnings("ignore::torchglm.FitWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_the_maximum_is_the_same(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    options = {"x": X, "y": Y, "family": tg.Multinomial()} | KINDS[kind]
    got, want = both(monkeypatch, lambda: tg.fit(**options))
    same(got, want)


@pytest.mark.filterwarnings("ignore::torchglm.FitWarning")
def test_batches_streams_and_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = np.stack([X[:400], X[400:]]), np.stack([Y[:400], Y[400:]])
    rows = {"y": Y, "a": X[:, 0], "g": np.array(["u", "v", "w"])[np.arange(len(Y)) % 3], "k": np.arange(len(Y)) % 2}
    parts = [{name: value[at : at + 150] for name, value in rows.items()} for at in range(0, len(Y), 150)]

    def frames() -> Any:
        import pandas as pd

        return [pd.DataFrame(part) for part in parts]

    fits = [
        lambda: tg.fit(x, y, family=tg.Multinomial()),
        lambda: tg.fit("y ~ a + C(g)", frames(), family=tg.Multinomial()),
        lambda: tg.fit("y ~ a", rows, family=tg.Multinomial(), by="k"),
    ]
    for fit in fits:
        with monkeypatch.context() as patch:
            got, want = both(patch, fit)
        same(got, want)


@pytest.mark.filterwarnings("ignore::torchglm.FitWarning")
def test_a_ridge_alone_holds_classes_that_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """The information is flat along most coefficients there: a small rest of the score may be most of the way."""
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((150, 20)), np.arange(150) % 12
    got, want = both(monkeypatch, lambda: tg.fit(x, y, family=tg.Multinomial(), penalty=tg.Ridge(1e-3)))
    assert got.status == want.status == tg.Status.CONVERGED
    assert float(((got.coef - want.coef) / want.std_err).abs().max()) < 1e-5


@pytest.mark.filterwarnings("ignore::torchglm.FitWarning")
def test_ends_have_the_same_names(monkeypatch: pytest.MonkeyPatch) -> None:
    apart = np.digitize(X[:, 0], [-1.0, 0.0, 1.0, 2.0])
    got, want = both(monkeypatch, lambda: tg.fit(X[:, [0, 2]], apart, family=tg.Multinomial()))
    assert want.status == got.status == tg.Status.SEPARATED
    got = tg.fit(X, Y, family=tg.Multinomial(), max_iter=1)
    assert got.status == tg.Status.ITERATION_LIMIT


def test_what_rests_on_the_information_is_refused_in_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    want = tg.fit(X, Y, family=tg.Multinomial())
    monkeypatch.setattr(conjugate, "DENSE", 3)
    steps: list[float] = []
    with pytest.warns(tg.FitWarning, match="no standard errors: this fit of 20 coefficients"):
        got = tg.fit(X, Y, family=tg.Multinomial(), observe=lambda now: steps.append(float(now.deviance)))
    assert len(steps) == int(got.n_iter)
    assert all(after <= before * (1 + 1e-9) for before, after in zip(steps, steps[1:], strict=False))
    for ask in (
        got.covariance,
        lambda: got.covariance("observed"),
        lambda: got.robust("HC0"),
        lambda: got.predict(X, se=True),
        got.check,
    ):
        with pytest.raises(ValueError, match="without their information matrix"):
            ask()
    torch.testing.assert_close(got.covariance("model"), want.covariance(), rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(got.predict(X), want.predict(X), rtol=1e-7, atol=1e-9)
    assert "Multinomial" in str(got.summary()) or "multinomial" in str(got.summary())
    got.save(tmp_path / "many")
    again = tg.load(tmp_path / "many")
    assert torch.equal(again.coef, got.coef)
    with pytest.raises(ValueError, match="without their information matrix"):
        again.covariance()
