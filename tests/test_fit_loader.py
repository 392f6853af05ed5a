"""Fits from loaders of batches: the answer of the rows in memory, however they come."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import torchglm
from torchglm.inputs import GLMBatch

N = 300


@pytest.fixture
def rows() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(4)
    x = torch.randn(N, 3, generator=draw, dtype=torch.float64)
    exposure = torch.rand(N, generator=draw, dtype=torch.float64) + 0.2
    y = torch.poisson(exposure * torch.exp(x @ torch.tensor([0.2, -0.1, 0.4], dtype=torch.float64) + 1), generator=draw)
    return {"x": x, "y": y, "weights": torch.rand(N, generator=draw, dtype=torch.float64), "exposure": exposure}


def same(one: torchglm.Result, other: torchglm.Result) -> None:
    for name in ("coef", "std_err", "deviance", "null_deviance", "dispersion", "pearson_chi2", "loglik", "aic", "nobs"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-9, atol=1e-11)
    assert one.names == other.names and one.status == other.status
    torch.testing.assert_close(one.covariance("HC3"), other.covariance("HC3"), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(one.residuals("pearson"), other.residuals("pearson"), rtol=1e-9, atol=1e-11)


def dicts(rows: dict[str, Tensor], size: int) -> list[dict[str, Tensor]]:
    return [{k: v[i : i + size] for k, v in rows.items()} for i in range(0, N, size)]


@pytest.mark.parametrize("family, link", [("poisson", "log"), ("gamma", "log"), ("gaussian", "log")])
@pytest.mark.parametrize("size", [1000, 64, 7])
def test_batches_are_the_rows_they_hold(rows: dict[str, Tensor], family: str, link: str, size: int) -> None:
    rows["y"] = rows["y"] + 0.5
    same(torchglm.fit(dicts(rows, size), family=family, link=link), torchglm.fit(**rows, family=family, link=link))


def test_a_data_loader_a_list_and_a_function_are_read_alike(rows: dict[str, Tensor]) -> None:
    x, y, w = rows["x"], rows["y"], rows["weights"]
    want = torchglm.fit(x, y, weights=w, family="poisson")
    plain = torchglm.fit(x, y, family="poisson")
    same(torchglm.fit(DataLoader(TensorDataset(x, y), batch_size=50), family="poisson"), plain)
    each = [{"x": x[i], "y": y[i], "weights": w[i]} for i in range(N)]
    same(torchglm.fit(DataLoader(each, batch_size=50), family="poisson"), want)  # type: ignore[arg-type]
    rest = {"x": x[90:], "y": y[90:], "weights": w[90:]}
    same(torchglm.fit([GLMBatch(x[:90], y[:90], weights=w[:90]), rest], family="poisson"), want)

    def stream() -> Iterator[GLMBatch]:
        for i in range(0, N, 100):
            yield GLMBatch(x[i : i + 100], y[i : i + 100], weights=w[i : i + 100])

    same(torchglm.fit(stream, family="poisson"), want)


def test_a_shape_parameter_is_estimated_from_batches(rows: dict[str, Tensor]) -> None:
    one = torchglm.fit(dicts(rows, 80), family=torchglm.NegativeBinomial())
    whole = torchglm.fit(**rows, family=torchglm.NegativeBinomial())
    torch.testing.assert_close(one.family.alpha, whole.family.alpha, rtol=1e-7, atol=0.0)
    torch.testing.assert_close(one.coef, whole.coef, rtol=1e-8, atol=1e-10)


def test_a_head_fits_itself_from_a_loader(rows: dict[str, Tensor]) -> None:
    head = torchglm.GLMHead(3, "poisson", dtype=torch.float64)
    result = head.fit(dicts(rows, 100))
    torch.testing.assert_close(head.weight[0], torchglm.fit(**rows, family="poisson").coef[1:])
    torch.testing.assert_close(result.head.weight, head.weight)


def test_several_responses_in_a_batch_are_several_models(rows: dict[str, Tensor]) -> None:
    x, y = rows["x"], torch.stack([rows["y"], rows["y"].flip(0)], -1)
    got = torchglm.fit([(x[:100], y[:100]), (x[100:], y[100:])], family="poisson")
    torch.testing.assert_close(got.coef, torchglm.fit(x, y.mT, family="poisson").coef, rtol=1e-9, atol=1e-11)


def test_rows_of_weight_zero_may_fill_a_batch(rows: dict[str, Tensor]) -> None:
    x, y = rows["x"], rows["y"]
    got = torchglm.fit([(x[:100], y[:100]), GLMBatch(x[100:], y[100:], weights=torch.zeros(200))], family="poisson")
    torch.testing.assert_close(got.coef, torchglm.fit(x[:100], y[:100], family="poisson").coef, rtol=1e-9, atol=1e-11)
    assert float(got.nobs) == 100


def test_batches_without_rows_are_none(rows: dict[str, Tensor]) -> None:
    x, y = rows["x"], rows["y"]
    got = torchglm.fit([(x[:0], y[:0]), (x[:100], y[:100]), (x[:0], y[:0]), (x[100:], y[100:])], family="poisson")
    torch.testing.assert_close(got.coef, torchglm.fit(x, y, family="poisson").coef, rtol=1e-9, atol=1e-11)


def test_a_loader_must_give_the_same_rows_each_time(rows: dict[str, Tensor]) -> None:
    x, y, lengths = rows["x"], rows["y"], iter(range(200, 0, -10))

    def shrinking() -> Iterator[tuple[Tensor, Tensor]]:
        n = next(lengths)
        yield from ((x[i : i + 50], y[i : i + 50]) for i in range(0, n, 50))

    with pytest.raises(ValueError, match="rows in its first pass and .* in a later one"):
        torchglm.fit(shrinking, family="poisson")
    loader = DataLoader(TensorDataset(x, y), 70, shuffle=True, drop_last=True)
    with pytest.raises(ValueError, match="drops its last batch, other rows each time"):
        torchglm.fit(loader, family="poisson")


ONCE = iter([(torch.ones(3, 1), torch.ones(3))] * 9)


@pytest.mark.parametrize(
    "loader, words",
    [
        (lambda: ONCE, "the same iterator each time"),
        (lambda: None, "returns NoneType; it must return an iterator"),
        ([(torch.ones(3, 1), torch.ones(3)), (torch.ones(3, 2), torch.ones(3))], "batch 1: it has 2 columns in x"),
        (iter([(torch.ones(3, 1), torch.ones(3))]), "read once"),
        ([], "y is missing"),
        (lambda: iter(()), "no rows"),
        ([(torch.ones(3, 1), torch.tensor([1.0, -1.0, 2.0]))], "batch 0: the poisson family needs y >= 0"),
        ([(torch.ones(3, 1), torch.ones(3)), (torch.ones(3, 1), torch.ones(2))], "batch 1: x has n = 3 rows"),
        ([(torch.ones(3, 1),)], "batch 0: y is missing"),
        ([{"x": torch.ones(3, 1), "z": torch.ones(3)}], "the names"),
    ],
)
def test_what_is_wrong_names_the_batch(loader: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        torchglm.fit(loader, family="poisson")


def test_arguments_per_row_belong_into_the_batches(rows: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match="weights came beside a loader"):
        torchglm.fit(dicts(rows, 100), family="poisson", weights=rows["weights"])
