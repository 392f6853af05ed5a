"""Penalties around a centre, credibility to another model: the fit of what is left beside it, at every door."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

import torchglm as tg
from torchglm import Quadratic, Ridge
from torchglm.cli import main

GENERATOR = torch.Generator().manual_seed(3)
N = 150
X = torch.randn(N, 4, generator=GENERATOR, dtype=torch.float64)
CENTRE = torch.tensor([0.4, -0.3, 0.0, 0.2], dtype=torch.float64)
ETA = 0.3 + X @ (CENTRE + 0.1)
BLOCK = [(list(range(1, 5)), torch.eye(4, dtype=torch.float64))]
pytestmark = pytest.mark.filterwarnings("ignore::torchglm.FitWarning")


def response(family: str) -> Tensor:
    torch.manual_seed(5)
    law = tg.families.get(family).distribution(ETA.sigmoid() if family == "bernoulli" else ETA.exp(), 0.5)
    return ETA + 0.5 * torch.randn(N, dtype=torch.float64) if family == "gaussian" else law.sample()


def penalties(kind: str, strength: Any, centre: Any = None) -> Any:
    if kind == "ridge":
        return Ridge(strength if isinstance(strength, str) else strength / N, centre=centre)
    return Quadratic(BLOCK, strength, centre=centre)


@pytest.mark.parametrize("strength", [3.0, "reml", "ml"])
@pytest.mark.parametrize("kind", ["ridge", "quadratic"])
@pytest.mark.parametrize("family", ["gaussian", "poisson", "gamma", "negative_binomial"])
def test_a_centre_is_an_offset_of_its_own(family: str, kind: str, strength: Any) -> None:
    y, link = response(family), {"gamma": "log"}.get(family)
    own = tg.fit(X, y, family=family, link=link, penalty=penalties(kind, strength, CENTRE), tol=1e-12)
    beside = tg.fit(X, y, family=family, link=link, penalty=penalties(kind, strength), offset=X @ CENTRE, tol=1e-12)
    whole = torch.cat([torch.zeros(1, dtype=torch.float64), CENTRE])
    torch.testing.assert_close(own.coef, beside.coef + whole, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(own.edf, beside.edf, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(own.std_err, beside.std_err, rtol=1e-5, atol=1e-7)
    if kind == "quadratic":
        torch.testing.assert_close(own.strength, beside.strength, rtol=1e-4, atol=0)
    if isinstance(strength, str):
        torch.testing.assert_close(own.criterion, beside.criterion, rtol=1e-9, atol=0)


def test_a_strength_without_end_is_the_other_model() -> None:
    other = tg.fit(X, response("poisson"), family="poisson").coef
    near = tg.fit(X[:40], response("poisson")[:40], family="poisson", penalty=Ridge(1e9, centre=other))
    torch.testing.assert_close(near.coef[1:], other[1:], rtol=1e-6, atol=1e-8)
    free = tg.fit(X[:40], response("poisson")[:40], family="poisson")
    none = tg.fit(X[:40], response("poisson")[:40], family="poisson", penalty=Ridge(0.0, centre=other))
    torch.testing.assert_close(none.coef, free.coef, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("strength", [2.0, "reml"])
@pytest.mark.parametrize("kind", ["ridge", "quadratic"])
def test_names_groups_files_and_batches(kind: str, strength: Any, tmp_path: Any) -> None:
    data = pd.DataFrame(X.numpy(), columns=list("abcd")).assign(y=response("poisson").numpy(), g=["u", "v"] * (N // 2))
    names = {"d": 0.2, "a": 0.4, "b": -0.3}
    plain = tg.fit(X, response("poisson"), family="poisson", penalty=penalties(kind, strength, CENTRE))
    named = tg.fit("y ~ a + b + c + d", data, family="poisson", penalty=penalties(kind, strength, names))
    torch.testing.assert_close(named.coef, plain.coef, rtol=1e-9, atol=1e-11)
    data.to_parquet(tmp_path / "rows.parquet", row_group_size=40)
    where, own = tmp_path / "rows.parquet", penalties(kind, strength, names)
    read = tg.fit("y ~ a + b + c + d", where, family="poisson", penalty=own)
    torch.testing.assert_close(read.coef, plain.coef, rtol=1e-6, atol=1e-8)
    groups = tg.fit("y ~ a + b + c + d", data, family="poisson", by="g", penalty=penalties(kind, strength, names))
    y = torch.stack([response("poisson"), response("poisson").flip(0)])
    both = tg.fit(X, y, family="poisson", penalty=penalties(kind, strength, torch.stack([CENTRE, -CENTRE])))
    for i, sign in enumerate((1, -1)):
        one = tg.fit(X, y[i], family="poisson", penalty=penalties(kind, strength, sign * CENTRE))
        torch.testing.assert_close(both[i].coef, one.coef, rtol=1e-6, atol=1e-8)
        part = data[data["g"] == "uv"[i]].reset_index(drop=True)
        alone = tg.fit("y ~ a + b + c + d", part, family="poisson", penalty=penalties(kind, strength, names))
        torch.testing.assert_close(groups[i].coef, alone.coef, rtol=1e-5, atol=1e-7)


def test_words_and_saving_name_the_centre(tmp_path: Any) -> None:
    result = tg.fit(X, response("poisson"), family="poisson", penalty=Ridge(0.02, centre=CENTRE))
    result.save(tmp_path / "fit")
    for fitted in (result, tg.load(tmp_path / "fit")):
        said = " ".join(str(fitted.summary()).split())
        assert "centre=[0, 0.4, -0.3, 0, 0.2]" in said and "shrunk towards its centre" in said
        assert "normal prior around its centre" in said and "towards zero" not in said
    assert torch.equal(tg.load(tmp_path / "fit").coef, result.coef)
    plain = " ".join(str(tg.fit(X, response("poisson"), family="poisson", penalty=Ridge(0.02)).summary()).split())
    assert "shrunk towards zero" in plain and "centre" not in plain
    assert repr(Ridge("reml", centre={"a": 1.0})) == "Ridge('reml', centre={a: 1})"


def test_a_config_names_it(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = pd.DataFrame(X.numpy(), columns=list("abcd")).assign(y=response("poisson").numpy())
    data.to_parquet("rows.parquet")
    (tmp_path / "job.yaml").write_text(
        "data: {path: rows.parquet, formula: y ~ a + b + c + d}\nfamily: poisson\n"
        "penalty: {name: ridge, l2: reml, centre: {a: 0.4, b: -0.3, d: 0.2}}\noutput_dir: run\n"
    )
    assert main(["fit", "job.yaml"]) == 0
    expected = tg.fit("y ~ a + b + c + d", data, family="poisson", penalty=Ridge("reml", centre=CENTRE))
    torch.testing.assert_close(tg.load("run").coef, expected.coef, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("centre", "said"),
    [
        ([0.1, 0.2], "centre has 2 values for 4 columns"),
        (torch.zeros(3, 4), "a row for each model"),
        ([0.1, float("nan"), 0, 0], "must be finite"),
        (torch.tensor(0.1), "one for each column"),
        ({"x9": 0.1}, "centre names 'x9'"),
        ({}, "must be finite numbers by the names"),
    ],
)
@pytest.mark.parametrize("kind", ["ridge", "quadratic"])
def test_what_cannot_be_a_centre_is_refused(kind: str, centre: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        tg.fit(X, response("poisson"), family="poisson", penalty=penalties(kind, 1.0, centre))
