"""The choice of a strength, and paths that were saved: the same fits, whatever chose them."""

from __future__ import annotations

import json
from pathlib import Path as Folder
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import torchglm
from torchglm import Multinomial, Ordinal
from torchglm.cli import main


def drawn(family: str, n: int = 90, p: int = 5) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(11)
    x = torch.randn(n, p, generator=draw, dtype=torch.float64)
    eta = x @ torch.tensor([0.6, -0.4, 0, 0, 0][:p], dtype=torch.float64)
    noise = torch.rand(n, generator=draw, dtype=torch.float64)
    made = {
        "gaussian": eta + noise,
        "poisson": torch.poisson(eta.exp(), generator=draw),
        "bernoulli": (noise < torch.sigmoid(eta)).to(torch.float64),
        "gamma": eta.exp() * (0.1 - noise.log()),
        "ordinal": ((eta + noise).argsort().argsort() * 3 // n).to(torch.float64),
    }
    return x, made[family]


WORDS = ("aic", "bic", "ebic", "best", "one_se")
CASES: list[tuple[str, dict[str, Any]]] = [
    ("gaussian", {"l1_ratio": 0.5}),
    ("gamma", {"link": "log", "lower": -0.2, "freq": 1 + torch.arange(90) % 2}),
    ("ordinal", {"family": Ordinal()}),
    ("ordinal", {"family": Multinomial(baseline=None), "l1_ratio": 0.7}),
]


@pytest.mark.parametrize(("name", "options"), CASES, ids=[f"{i}-{case[0]}" for i, case in enumerate(CASES)])
def test_criteria_are_those_of_the_fits_and_a_saved_path_selects_them(
    name: str, options: dict[str, Any], tmp_path: Folder
) -> None:
    x, y = drawn(name)
    path = torchglm.path(x, y, n=4, folds=2, **{"family": name} | options)
    path.save(tmp_path / "path")
    loaded = torchglm.load(tmp_path / "path")
    assert isinstance(loaded, torchglm.Path) and loaded.data is None and repr(loaded) == repr(path)
    for word in ("best", "ebic", 3, float(path.strength[2])):
        one, other = path.select(word), loaded.select(word)
        place = int(path.place(word))
        assert place == int(loaded.place(word)) and torch.equal(one.coef, path.coef[place, : len(one.names)])
        assert torch.equal(one.coef, other.coef)
        assert torch.allclose(one.edf, other.edf, rtol=1e-12)
        assert torch.equal(one.predict(x), other.predict(x))
        assert str(one.penalty) == str(other.penalty)
        torch.testing.assert_close(one.deviance, other.deviance, rtol=1e-12, atol=0)
        if options.get("lower") is None:  # a column at a limit counts as one here, and as none where its edf is asked
            torch.testing.assert_close(path.bic[place], one.bic)
            torch.testing.assert_close(loaded.aic[place], one.aic)
    assert int(path.place("aic")) == int(path.aic.argmin())
    assert bool((path.ebic >= path.bic).all())


def test_a_batch_is_saved_with_a_choice_for_each_model(tmp_path: Folder) -> None:
    x, y = drawn("poisson")
    path = torchglm.path(x, torch.stack([y, y.flip(0), y.roll(9)]), family="poisson", n=7, folds=2)
    path.save(tmp_path)
    loaded = torchglm.load(tmp_path)
    for word in ("aic", "best", torch.tensor([1, 6, 0]), path.strength[:, 3]):
        assert torch.equal(path.select(word).coef, loaded.select(word).coef)
    for b in range(3):
        alone = torchglm.path(x, torch.stack([y, y.flip(0), y.roll(9)])[b], family="poisson", n=7)
        torch.testing.assert_close(path.ebic[b], alone.ebic)


def test_a_large_path_keeps_the_fits_that_words_mean(tmp_path: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchglm.model.path.KEPT", 1)
    x, y = drawn("poisson")
    path = torchglm.path(x, y, family="poisson", n=12, folds=2)
    path.save(tmp_path)
    loaded = torchglm.load(tmp_path)
    for word in WORDS:
        assert torch.equal(path.select(word).coef, loaded.select(word).coef)
    dense = next(i for i in range(12) if i not in {int(path.place(word)) for word in WORDS})
    with pytest.raises(ValueError, match="was not saved"):
        loaded.select(dense)
    loaded.save(tmp_path / "again")
    assert torch.equal(torchglm.load(tmp_path / "again").select("bic").coef, path.select("bic").coef)


def test_a_formula_goes_with_its_path(tmp_path: Folder) -> None:
    x, y = drawn("poisson")
    table = {"y": y, "a": x[:, 0], "g": ["u", "v", "w"] * 30}
    path = torchglm.path("y ~ a + C(g)", table, family="poisson", n=5)
    path.save(tmp_path)
    result = torchglm.load(tmp_path).select("bic")
    torch.testing.assert_close(result.predict(table), path.select("bic").predict(table))
    with pytest.raises(ValueError, match="no rows"):
        result.residuals()


@pytest.mark.parametrize("damage", ["missing", "shape", "format", "text", "fits"])
def test_damaged_folders(damage: str, tmp_path: Folder) -> None:
    x, y = drawn("poisson")
    torchglm.path(x, y, family="poisson", n=4).save(tmp_path)
    facts = json.loads((tmp_path / "path.json").read_text())
    if damage == "missing":
        (tmp_path / "path.pt").unlink()
    elif damage == "fits":
        (tmp_path / "fits" / "tensors.pt").write_bytes(b"no")
    elif damage == "text":
        (tmp_path / "path.json").write_text("{")
    else:
        wrong = {"names": ["a"]} if damage == "shape" else {"format": 99}
        (tmp_path / "path.json").write_text(json.dumps(facts | wrong))
    with pytest.raises(ValueError, match="again"):
        torchglm.load(tmp_path)


def test_questions_without_an_answer() -> None:
    x, y = drawn("poisson")
    path = torchglm.path(x, y, family="poisson", n=4)
    with pytest.raises(ValueError, match="no strength of this path"):
        path.select(1e9)
    with pytest.raises(IndexError, match="4 strengths"):
        path.select(4)


def test_a_column_of_folds_from_every_table(tmp_path: Folder) -> None:
    x, y = drawn("poisson")
    labels = ["ab", "c", "d"] * 30
    table = {"y": y.tolist(), "a": x[:, 0].tolist(), "b": x[:, 1].tolist(), "site": labels}
    table["a"][7] = None
    keep = torch.arange(90) != 7
    frame = pd.DataFrame(table)
    frame[:40].to_parquet(tmp_path / "1.parquet")
    frame[40:].to_csv(tmp_path / "2.csv", index=False)
    frame[40:].to_parquet(tmp_path / "2.parquet")
    own = [label for i, label in enumerate(labels) if i != 7]
    want = torchglm.path(x[keep][:, :2], y[keep], family="poisson", n=5, folds=own)
    for source in (frame, str(tmp_path / "*.parquet"), lambda: iter([frame[:50], frame[50:]])):
        got = torchglm.path("y ~ a + b", source, family="poisson", n=5, folds="site", missing="drop")
        torch.testing.assert_close(got.fold_deviance, want.fold_deviance, rtol=1e-6, atol=0)
        torch.testing.assert_close(got.coef, want.coef, rtol=1e-6, atol=1e-9)
    with pytest.raises(ValueError, match="no formula"):
        torchglm.path(x, y, family="poisson", folds="site")
    with pytest.raises(ValueError, match="plot"):
        torchglm.path("y ~ b", frame, family="poisson", folds="plot")


def test_the_command_line_chooses_a_strength(tmp_path: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    x, y = drawn("poisson")
    frame = pd.DataFrame(x.numpy(), columns=list("abcde")).assign(y=y.numpy(), site=["u", "v", "w"] * 30)
    frame.to_csv(tmp_path / "rows.csv", index=False)
    config = {
        "data": {"path": str(tmp_path / "rows.csv"), "formula": "y ~ a + b + c + d + e"},
        "family": "poisson",
        "penalty": {"name": "elastic_net", "path": 8, "folds": "site", "l1_ratio": 0.5},
        "output_dir": str(tmp_path / "run"),
    }
    (tmp_path / "fit.yaml").write_text(json.dumps(config))
    assert main(["fit", str(tmp_path / "fit.yaml")]) == 0
    want = torchglm.path("y ~ a + b + c + d + e", frame, family="poisson", n=8, folds="site", l1_ratio=0.5)
    run = torchglm.load(tmp_path / "run")
    torch.testing.assert_close(run.coef, want.select("one_se").coef)
    path = torchglm.load(tmp_path / "run" / "path")
    torch.testing.assert_close(path.select("aic").coef, want.select("aic").coef)
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("<b>Coefficients along the path") == page.count("<b>Cross-validated deviance") == 1
    assert main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "again.html")]) == 0
    assert "Cross-validated deviance" in (tmp_path / "again.html").read_text()
    capsys.readouterr()
    for given, said in (
        ({"folds": 3}, "goes with a path"),
        ({"path": 5}, "needs a way to choose"),
        ({"path": 5, "folds": 3, "l1": 1}, "Leave out one"),
        ({"path": 5, "select": "best"}, "needs folds"),
        ({"path": 5, "folds": "plot"}, "plot"),
    ):
        wrong = config | {"penalty": {"name": "elastic_net"} | given, "output_dir": str(tmp_path / "no")}
        (tmp_path / "wrong.yaml").write_text(json.dumps(wrong))
        assert main(["fit", str(tmp_path / "wrong.yaml")]) == 2
        assert said in capsys.readouterr().err


def test_rows_that_are_read_at_each_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = drawn("poisson")
    frame = pd.DataFrame(x.numpy(), columns=list("abcde")).assign(y=y.numpy(), w=1.0 + np.arange(90) % 2)
    want = torchglm.path("y ~ a + b + c", frame, family="poisson", n=3, weights="w", folds=2)
    monkeypatch.setattr("torchglm.inputs.files.HOLD", 1)
    chunks = lambda: iter([frame[:20], frame[20:]])  # noqa: E731
    path = torchglm.path("y ~ a + b + c", chunks, family="poisson", n=3, weights="w", folds=2)
    assert not isinstance(path.data.source, list) and bool(path.converged.all())
    torch.testing.assert_close(path.coef, want.coef, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(path.aic, want.aic)
    torch.testing.assert_close(path.select("bic").deviance, want.select("bic").deviance)
    torch.testing.assert_close(path.cv_mean, want.cv_mean, rtol=1e-7, atol=0)


def test_criteria_of_every_kind_of_likelihood() -> None:
    x, y = drawn("poisson")
    positive = 0.1 + y + x[:, 0].abs()
    for family, response, options in (
        ("poisson", y, {}),
        ("exponential", positive, {"event": torch.arange(90) % 3 > 0}),
        (torchglm.NegativeBinomial(0.5), y, {}),
        ("binomial", y.clamp(max=9), {"trials": torch.full((90,), 9)}),
        ("inverse_gaussian", positive, {"link": "log"}),
    ):
        path = torchglm.path(x, response, family=family, n=4, **options)
        want = torch.stack([path.select(i).aic for i in range(4)])
        torch.testing.assert_close(path.aic, want, rtol=1e-10, atol=0)
