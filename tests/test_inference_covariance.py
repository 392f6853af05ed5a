"""Robust covariances: textbook sums, labels of every kind, and results that carry them along."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import torch
from torch import Tensor

import torchglm
from torchglm import FitWarning, Result

KINDS = ["model", "observed", "HC0", "HC1", "HC2", "HC3", "cluster"]


def sample(n: int = 60, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A design, counts, and two columns of labels."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    y = torch.poisson((0.5 + 0.3 * x[:, 0]).exp(), generator=generator)
    firm, year = (torch.randint(k, (n,), generator=generator) for k in (9, 5))
    return x, y, firm, year


def poisson(x: Tensor, y: Tensor, **options: object) -> Result:
    return torchglm.fit(x, y, family="poisson", **options)  # type: ignore[arg-type]


def meat(result: Result, x: Tensor, y: Tensor, labels: np.ndarray) -> np.ndarray:
    """The sum over clusters by a loop."""
    design = np.c_[np.ones(len(x)), x.numpy()]
    scores = design * (y.numpy() - result.fitted.numpy())[:, None]
    return sum(np.outer(s, s) for s in (scores[labels == label].sum(0) for label in np.unique(labels)))


def one_way(result: Result, x: Tensor, y: Tensor, labels: np.ndarray) -> np.ndarray:
    bread, groups = result.covariance("model").numpy(), len(np.unique(labels))
    return groups / (groups - 1) * bread @ meat(result, x, y, labels) @ bread


def test_one_way_clusters_are_those_of_statsmodels() -> None:
    x, y, firm, _ = sample()
    result = poisson(x, y).robust("cluster", clusters=firm, type="HC1")
    design = np.c_[np.ones(60), x.numpy()]
    other = sm.GLM(y.numpy(), design, sm.families.Poisson()).fit(
        cov_type="cluster", cov_kwds={"groups": firm.numpy()}, tol=1e-14
    )
    np.testing.assert_allclose(result.std_err, other.bse, rtol=1e-7)
    np.testing.assert_allclose(result.p_value, other.pvalues, rtol=1e-6)


def test_two_way_clusters_add_the_ways_and_take_off_their_crossing() -> None:
    x, y, firm, year = sample()
    result = poisson(x, y)
    both = (firm * 5 + year).numpy()
    want = one_way(result, x, y, firm.numpy()) + one_way(result, x, y, year.numpy()) - one_way(result, x, y, both)
    np.testing.assert_allclose(result.covariance("cluster", clusters=(firm, year)), want, rtol=1e-9, atol=1e-14)


def test_three_ways_follow_inclusion_and_exclusion() -> None:
    x, y, firm, year = sample()
    third = torch.arange(60) % 4
    result = poisson(x, y)
    a, b, c = firm.numpy(), year.numpy() + 100, third.numpy() + 1000
    pairs = [a * 1000 + b, a * 10000 + c, b * 10000 + c]
    want = sum(one_way(result, x, y, v) for v in (a, b, c)) - sum(one_way(result, x, y, v) for v in pairs)
    want = want + one_way(result, x, y, a * 10**8 + b * 10**4 + c)
    got = result.covariance("cluster", clusters=[firm, year, third])
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("form", ["frame", "dict", "tuple", "array", "text"])
def test_labels_may_come_in_any_form(form: str) -> None:
    x, y, firm, year = sample()
    text = [f"firm {k}" for k in firm.tolist()]
    forms = {
        "frame": pd.DataFrame({"firm": text, "year": year.numpy()}),
        "dict": {"firm": text, "year": year},
        "tuple": (pd.Categorical(text), year.numpy()),
        "array": torch.stack([firm, year], -1),
        "text": [text, year.tolist()],
    }
    result = poisson(x, y)
    torch.testing.assert_close(result.covariance("cluster", forms[form]), result.covariance("cluster", (firm, year)))


@pytest.mark.parametrize("family", ["gaussian", "poisson", "gamma"])
@pytest.mark.parametrize("link", ["identity", "log"])
@pytest.mark.parametrize("type", [None, "HC0", "HC1"])
def test_the_factor_of_least_squares_is_there_where_vcovcl_has_it(family: str, link: str, type: str | None) -> None:
    x, y, firm, year = sample()
    result = torchglm.fit(x / 10, y + 5, family=family, link=link)
    plain = result.covariance("cluster", (firm, year), type="HC0")
    times = 59 / 57 if type == "HC1" or (type is None and (family, link) == ("gaussian", "identity")) else 1.0
    for got in (
        result.covariance("cluster", (firm, year), type=type),
        result.robust("cluster", (firm, year), type=type).covariance(),
    ):
        torch.testing.assert_close(got, times * plain, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", ["model", "HC3"])
def test_a_type_is_of_clusters_and_known(kind: str) -> None:
    x, y, firm, _ = sample()
    result = poisson(x, y)
    with pytest.raises(ValueError, match="type="):
        result.covariance(kind, type="HC1")
    with pytest.raises(ValueError, match="HC0 or HC1 or CR2"):
        result.robust("cluster", clusters=firm, type="CR9")


def test_clusters_of_one_member_are_hc0_with_the_correction() -> None:
    x, y, _, _ = sample()
    result = poisson(x, y)
    want = result.covariance("HC0") * 60 / 59
    torch.testing.assert_close(result.covariance("cluster", clusters=range(60)), want, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_everything_that_a_robust_result_says_uses_its_covariance(kind: str) -> None:
    x, y, firm, _ = sample()
    plain = torchglm.fit(x, y + 0.5, family="gamma", link="log")
    labels = firm if kind == "cluster" else None
    robust = plain.robust(kind, clusters=labels)
    assert robust.covariance_kind == kind and plain.covariance_kind == "model"
    covariance = plain.covariance(kind, clusters=labels)
    torch.testing.assert_close(robust.covariance(), covariance)
    torch.testing.assert_close(robust.std_err, covariance.diagonal().sqrt())
    torch.testing.assert_close(robust.statistic, plain.coef / robust.std_err)
    half = plain.quantile(0.9) * robust.std_err
    torch.testing.assert_close(robust.conf_int(0.9), torch.stack([plain.coef - half, plain.coef + half], -1))
    error = robust.predict(x[:1], kind="link", se=True)[1]
    row = torch.cat([x.new_ones(1), x[0]])
    torch.testing.assert_close(error[0], (row @ covariance @ row).sqrt())
    torch.testing.assert_close(robust.robust("model").std_err, plain.std_err)
    assert robust.describe()["covariance"] == kind


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_has_the_robust_errors_of_its_members(kind: str) -> None:
    x, y, firm, year = sample()
    many = torch.stack([y, y.flip(0)])
    labels = torch.stack([firm, year]) if kind == "cluster" else None
    batch = poisson(x, many).robust(kind, clusters=labels)
    for i in range(2):
        one = poisson(x, many[i]).robust(kind, clusters=None if labels is None else labels[i])
        torch.testing.assert_close(batch.std_err[i], one.std_err, rtol=1e-9, atol=0)
        torch.testing.assert_close(batch[i].p_value, one.p_value, rtol=1e-7, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_streamed_rows_give_the_robust_errors_of_rows_in_memory(kind: str) -> None:
    x, y, firm, year = sample()

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(x.split(17), y.split(17), strict=True)

    labels = (firm, year) if kind == "cluster" else None
    streamed = torchglm.fit(batches, family="poisson").robust(kind, clusters=labels)
    torch.testing.assert_close(streamed.std_err, poisson(x, y).robust(kind, clusters=labels).std_err, rtol=1e-9, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_with_repeats_counts_as_that_many_rows(kind: str) -> None:
    x, y, firm, _ = sample()
    freq = torch.arange(60) % 4  # some rows not at all
    labels, repeated = (firm, firm.repeat_interleave(freq)) if kind == "cluster" else (None, None)
    weighted = poisson(x, y, freq=freq).robust(kind, clusters=labels)
    long = poisson(x.repeat_interleave(freq, 0), y.repeat_interleave(freq)).robust(kind, clusters=repeated)
    torch.testing.assert_close(weighted.std_err, long.std_err, rtol=1e-9, atol=0)


def test_a_robust_result_is_saved_with_its_covariance(tmp_path: Path) -> None:
    x, y, firm, _ = sample()
    robust = poisson(x, y).robust("cluster", clusters=firm)
    robust.save(tmp_path)
    loaded = torchglm.load(tmp_path)
    assert loaded.covariance_kind == "cluster"
    torch.testing.assert_close(loaded.std_err, robust.std_err)


def test_models_a_few_at_a_time_have_the_errors_of_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, firm, year = sample()
    result = torchglm.fit(x, torch.stack([y, y.flip(0), y + 1]).square(), family=torchglm.NegativeBinomial())
    labels = (torch.stack([firm, year, firm]), year)
    whole = result.covariance("cluster", clusters=labels)
    monkeypatch.setattr("torchglm.inference.clusters.ROOM", 400)
    torch.testing.assert_close(result.covariance("cluster", clusters=labels), whole, rtol=1e-12, atol=1e-15)


def test_a_row_of_weight_zero_is_no_member_of_its_cluster() -> None:
    x, y, firm, _ = sample()
    weights = (firm != 3).double()
    kept = firm != 3
    dropped = poisson(x[kept], y[kept]).robust("cluster", clusters=firm[kept])
    torch.testing.assert_close(
        poisson(x, y, weights=weights).robust("cluster", clusters=firm).std_err, dropped.std_err, rtol=1e-9, atol=0
    )


def test_a_model_of_a_batch_with_one_cluster_has_no_errors() -> None:
    x, y, firm, _ = sample()
    labels = torch.stack([firm, torch.zeros_like(firm)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        batch = poisson(x, torch.stack([y, y])).robust("cluster", clusters=labels)
    assert torch.isfinite(batch.std_err[0]).all() and torch.isnan(batch.std_err[1]).all()


def test_fewer_clusters_than_coefficients_are_spoken_of() -> None:
    x, y, _, _ = sample()
    with pytest.warns(FitWarning, match="2 clusters are fewer than the 3 coefficients"):
        poisson(x, y).robust("cluster", clusters=torch.arange(60) % 2)


@pytest.mark.parametrize(
    ("clusters", "message"),
    [
        (torch.zeros(60), "one cluster"),
        (torch.arange(59), "59 labels"),
        (torch.arange(61), "61 labels for 60"),
        ([*range(59), None], "1 missing"),
        (torch.full((60,), torch.nan), "60 missing"),
        (None, "needs clusters"),
        (3, "shape"),
    ],
)
def test_labels_that_do_not_fit_are_refused(clusters: object, message: str) -> None:
    x, y, _, _ = sample()
    with pytest.raises(ValueError, match=message):
        poisson(x, y).robust("cluster", clusters=clusters)


def test_clusters_beside_another_kind_and_unknown_kinds_are_refused() -> None:
    x, y, firm, _ = sample()
    with pytest.raises(ValueError, match="no other kind"):
        poisson(x, y).robust("HC3", clusters=firm)
    with pytest.raises(ValueError, match="unknown covariance 'HC4'"):
        poisson(x, y).robust("HC4")


def test_profiles_are_refused_where_the_covariance_is_robust() -> None:
    x, y, _, _ = sample()
    with pytest.raises(ValueError, match="cannot use the covariance HC3"):
        poisson(x, y).robust("HC3").conf_int(method="profile")
