"""Checks of smooth terms: columns enough by the k-check, and concurvity, against their definitions."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

import torchglm as tg
from torchglm.design import build

RNG = np.random.default_rng(4)
N = 600
DATA = pd.DataFrame({"x": RNG.uniform(size=N), "z": RNG.uniform(size=N), "g": RNG.choice(["a", "b"], N)})
DATA["w"] = DATA["x"] + 0.02 * RNG.normal(size=N)
DATA["d"] = RNG.uniform(0.5, 2, N) * RNG.choice([-1, 1], N)
DATA["y"] = RNG.poisson(np.exp(0.5 + np.sin(20 * DATA["x"]) + DATA["z"]))
pytestmark = pytest.mark.filterwarnings("ignore::torchglm.FitWarning")


def fit(terms: str, data: pd.DataFrame = DATA, **options: object) -> tg.Result:
    return tg.fit(f"y ~ {terms}", data, family="poisson", **options)


def test_concurvity_is_that_of_projections() -> None:
    result = fit("d + s(x, k=8) + s(w, bs='ps') + te(z, d, k=4) - d")
    x, coef = build("y ~ s(x, k=8) + s(w, bs='ps') + te(z, d, k=4)", DATA).x.numpy(), result.coef.numpy()
    table = result.concurvity()
    assert table.rows[0] == "parametric" and list(table.rows[1:]) == list(result.smooths)
    for name, term in result.smooths.items():
        own, rest = x[:, term.places], np.delete(x, term.places, 1)
        inside = rest @ np.linalg.lstsq(rest, own, rcond=None)[0]
        b, basis = coef[term.places], np.linalg.qr(own)[0]
        worst = np.linalg.svd(np.linalg.qr(rest)[0].T @ basis)[1][0] ** 2
        expected = [worst, ((inside @ b) ** 2).sum() / ((own @ b) ** 2).sum(), (inside**2).sum() / (own**2).sum()]
        got = [float(table.row(name)[key]) for key in ("worst", "observed", "estimate")]
        np.testing.assert_allclose(got, expected, rtol=1e-8)


def test_prior_weights_say_nothing_of_concurvity_and_repeats_do() -> None:
    counts = np.arange(N) % 3
    freq = fit("s(x) + s(w)", DATA, freq=counts, smoothing=1.0)
    repeated = freq.with_rows(DATA.loc[np.repeat(np.arange(N), counts)]).concurvity()
    plain = fit("s(x) + s(w)", DATA, smoothing=1.0).concurvity()
    weighted = fit("s(x) + s(w)", DATA, weights=RNG.uniform(0.5, 2, N), smoothing=1.0).concurvity()
    torch.testing.assert_close(freq.concurvity()["worst"], repeated["worst"], rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(weighted["worst"], plain["worst"], rtol=1e-8, atol=1e-12)
    assert not torch.allclose(freq.concurvity()["estimate"], plain["estimate"], rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    "term", ["s(x)", "s(x, bs='cr')", "s(x, bs='ps')", "s(x, bs='ts')", "s(x, by=d)", "s(x, by=g)"]
)
def test_the_k_index_compares_neighbours_along_the_variable(term: str) -> None:
    result = fit(term)
    left = result.residuals("deviance").numpy()
    expected = (np.diff(left[np.argsort(DATA["x"].to_numpy())]) ** 2).mean() / 2 / (left**2).mean()
    table = result.k_check()
    np.testing.assert_allclose(table["k-index"].numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(table["edf"].numpy(), [float(one.edf) for one in result.smooths.values()])


def test_cyclic_terms_and_surfaces_have_neighbours_too_and_effects_have_none() -> None:
    table = fit("s(x, bs='cc', k=6) + ti(x, z, k=4) + s(z, bs='cr') + s(g, bs='re')").k_check()
    assert bool(torch.isfinite(table["p"][:3]).all()) and bool(table["p"][3].isnan())
    assert bool(fit("ti(x, z)").k_check()["p"].isnan())
    both = fit("s(x, z, k=12)").k_check()
    assert float(both["k-index"]) < 0.8 and float(both["p"]) == 1 / 401


def test_p_values_are_seeded_and_uniform_where_columns_are_enough() -> None:
    models, n = 60, 150
    flat = pd.DataFrame({"x": RNG.uniform(size=models * n), "y": RNG.normal(size=models * n)})
    flat["m"] = np.repeat(np.arange(models), n)
    result = tg.fit("y ~ s(x, k=5)", flat, family="gaussian", by="m")
    p = result.k_check()["p"]
    assert torch.equal(p, result.k_check()["p"]) and not torch.equal(p, result.k_check(seed=1)["p"])
    assert float((p < 0.1).double().mean()) < 0.25 and 0.3 < float(p.mean()) < 0.7


def test_a_check_says_what_to_write() -> None:
    check = fit("s(x, k=5) + s(z)").check()
    [few] = [one for one in check.findings[0] if one.topic == "basis"]
    assert "s(x)" in few.sentence and "larger k" in few.advice and few.value < 1
    again = fit("s(x, k=20) + s(z)").check()
    assert not bool(again.found("basis")) and not bool(again.found("concurvity"))
    beside = fit("s(x, k=20) + s(w, k=20)").check()
    found = [one for one in beside.findings[0] if one.topic == "concurvity"]
    said = {one.sentence.split(" of ")[1].split(" could")[0]: one for one in found}
    assert set(said) == {"s(x)", "s(w)"} and "s(w)" in said["s(x)"].sentence and "te()" in said["s(x)"].advice
    assert json.dumps(beside.to_dict()["smooths"]) and beside.smooths is not None


def test_batches_have_the_numbers_of_each_model() -> None:
    result = fit("s(x, k=5) + s(z)", by="g")
    together = result.check()
    for i in range(2):
        alone = result[i].check()
        for name, value in alone.smooths.columns.items():
            torch.testing.assert_close(together[i].smooths[name], value, rtol=1e-9, atol=1e-12)
        assert [one.topic for one in together[i].findings[0]] == [one.topic for one in alone.findings[0]]


def test_files_have_the_numbers_of_memory(tmp_path) -> None:
    DATA.to_parquet(tmp_path / "rows.parquet", row_group_size=130)
    whole, read = fit("s(x, k=5) + s(z)"), fit("s(x, k=5) + s(z)", tmp_path / "rows.parquet")
    for name, value in whole.check().smooths.columns.items():
        torch.testing.assert_close(read.check().smooths[name], value, rtol=1e-6, atol=1e-8)


def test_without_smooth_terms_they_are_refused_in_words() -> None:
    plain = fit("x + z")
    for ask in (plain.concurvity, plain.k_check):
        with pytest.raises(ValueError, match="smooth terms such as s\\(x\\)"):
            ask()
    assert plain.check().smooths is None
