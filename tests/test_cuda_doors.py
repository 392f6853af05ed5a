"""Every door to a fit takes a CUDA device: each family with each link, formulas, files, loaders, streams, processes."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
from cuda_cases import DEVICE, agree, moved, there
from problems import Problem, close, problem

import torchglm
from torchglm import Family, GLMHead, Link, Renewable, families, links
from torchglm.inputs import GLMBatch
from torchglm.rows import indexed
from torchglm.rows.ranks import Ranks
from torchglm.rows.rows import CARD_BLOCK

pytestmark = [pytest.mark.cuda, pytest.mark.filterwarnings("ignore::torchglm.FitWarning")]

FAMILIES = [torchglm.families.get(name) for name in ("gaussian", "bernoulli", "binomial", "poisson", "gamma")]
FAMILIES += [torchglm.Exponential(), torchglm.InverseGaussian()]
FAMILIES += [torchglm.NegativeBinomial(0.7), torchglm.Tweedie(1.5), torchglm.Tweedie(3)]
LINKS = [links.get(name) for name in links.names()] + [links.Power(0.4)]


def drawn(family: Family, link: Link, n: int = 120) -> Problem | None:
    """Rows whose means lie round the middle of what the family takes; None where the link does not reach it."""
    level = link.link(torch.tensor(family.inner_mean, dtype=torch.float64))
    g = torch.Generator().manual_seed(4)
    x = torch.rand(n, 2, generator=g, dtype=torch.float64) * 2 - 1
    eta = level * (1 + 0.1 * x[:, 0] - 0.05 * x[:, 1]) + (0.1 * x[:, 1] if float(level) == 0 else 0.0)
    mu = link(eta)
    if not (bool(family.valid_mean(mu).all()) and bool(torch.isfinite(eta).all())):
        return None
    rows = {"weights": torch.rand(n, generator=g, dtype=torch.float64) + 0.5}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        if family.name == "binomial":
            rows["trials"] = torch.full_like(mu, 8.0)
            y = torch.distributions.Binomial(8, mu).sample()
        else:
            y = family.distribution(mu, torch.tensor(0.3, dtype=torch.float64)).sample()
    if family.mean_lower == 0 and family.name not in ("poisson", "negative_binomial", "bernoulli", "binomial"):
        y = y.clamp(min=1e-2)
    return Problem(family, link, x, y.double(), rows)  # type: ignore[arg-type]


PAIRS = [(f, link) for f in FAMILIES for link in LINKS if drawn(f, link) is not None]


@pytest.mark.parametrize(("family", "link"), PAIRS, ids=lambda part: repr(part))
def test_every_family_and_link_is_that_of_the_cpu(family: Family, link: Link) -> None:
    data = drawn(family, link)
    assert data is not None
    want = data.fit()
    agree(moved(data).fit(), want, 1e-8)


def table(n: int = 900) -> pa.Table:
    """Counts with two factors, one of many levels, a number, an exposure and groups of unequal size."""
    draw = np.random.default_rng(3)
    a = np.concatenate([np.arange(30), draw.integers(0, 30, n - 30)])
    z = draw.normal(size=n)
    t = draw.uniform(0.5, 2.0, n)
    y = draw.poisson(t * np.exp(0.8 + 0.3 * np.sin(a) + 0.2 * z)).astype(float)
    names = np.array([f"l{i:02d}" for i in range(30)])
    columns = {"y": y, "a": names[a], "b": np.where(draw.random(n) < 0.3, "u", "v"), "z": z, "t": t}
    return pa.table({**columns, "g": np.sort(draw.choice(["p", "q", "r"], n, p=[0.6, 0.3, 0.1]))})


@pytest.mark.parametrize("many", [8, 10**9], ids=["border", "all pairs"])
@pytest.mark.parametrize("formula", ["y ~ a + b + z", "y ~ a * z + b", "y ~ bs(z, df=4) + a", "y ~ a:b + z"])
def test_formulas_with_factors(monkeypatch: pytest.MonkeyPatch, formula: str, many: int) -> None:
    monkeypatch.setattr(indexed, "MANY", many)
    data = table()
    want, got = (torchglm.fit(formula, data, family="poisson", exposure="t", device=d) for d in ("cpu", DEVICE))
    agree(got, want, 1e-8)
    mean, error = got.predict(data, se=True)
    for value, right in zip((mean, error), want.predict(data, se=True), strict=True):
        assert value.device.type == DEVICE
        close(value.cpu(), right, 1e-7)
    close(got.robust("HC3").std_err.cpu(), want.robust("HC3").std_err, 1e-7)


def test_groups_of_unequal_size_and_of_a_frame() -> None:
    frame = table().to_pandas()
    want, got = (
        torchglm.fit("y ~ z + b", frame, family="poisson", by="g", exposure="t", device=d) for d in ("cpu", DEVICE)
    )
    agree(got, want, 1e-8)
    assert isinstance(frame, pd.DataFrame) and got.groups == want.groups


@pytest.mark.parametrize("kind", ["parquet", "csv", "chunks"])
def test_files_and_chunks_are_streamed_to_the_device(kind: str, tmp_path: Path) -> None:
    data, path = table(), tmp_path / f"rows.{kind}"
    if kind == "parquet":
        pq.write_table(data, path, row_group_size=200)
    elif kind == "csv":
        pa.csv.write_csv(data, path)
    source = [data.slice(at, 250) for at in range(0, 900, 250)] if kind == "chunks" else str(path)
    want, got = (torchglm.fit("y ~ a + z", source, family="poisson", exposure="t", device=d) for d in ("cpu", DEVICE))
    agree(got, want, 1e-8)
    close(got.predict(data).cpu(), want.predict(data), 1e-8)


@pytest.mark.parametrize("where", ["cpu", DEVICE])
def test_a_loader_of_batches_here_or_there(where: str) -> None:
    data = problem("gamma log", n=200).one(0)
    rows = {"x": data.x, "y": data.y, "weights": data.rows["weights"], "offset": data.rows["offset"]}
    batches = [
        GLMBatch(**{name: v[part].to(where) for name, v in rows.items()}) for part in torch.arange(200).split(60)
    ]
    got = torchglm.fit(batches, family="gamma", link="log", device=DEVICE, tol=1e-12)
    agree(got, data.fit(), 1e-8)


def test_responses_of_a_shared_design_of_a_loader() -> None:
    data = problem("poisson log", n=200)
    x, y = data.x[0], data.y
    want = torchglm.fit(x, y, family="poisson", tol=1e-12)
    batches = list(zip(x.split(70), y.mT.split(70), strict=True))
    agree(torchglm.fit(batches, family="poisson", device=DEVICE, tol=1e-12), want, 1e-8)


@pytest.mark.parametrize("shape", [(), (3,), (2, 2)])
def test_batches_of_any_depth(shape: tuple[int, ...]) -> None:
    data = problem("poisson log", models=4)
    models = data.x[: int(np.prod(shape))].reshape(*shape, 40, 3), data.y[: int(np.prod(shape))].reshape(*shape, 40)
    want = torchglm.fit(*models, family="poisson", tol=1e-12)
    agree(torchglm.fit(*models, family="poisson", tol=1e-12, device=DEVICE), want, 1e-8)


def test_rows_of_several_blocks_and_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    data = problem("poisson log", models=2, n=30_000, p=3)
    want = data.one(0).fit(), data.fit(), data.change(x=data.x[0]).fit()
    assert CARD_BLOCK > 1 << 20
    monkeypatch.setattr("torchglm.rows.rows.CARD_BLOCK", 1 << 15)
    for got, right in zip((data.one(0), data, data.change(x=data.x[0])), want, strict=True):
        agree(moved(got).fit(), right, 1e-8)


def test_a_model_of_many_columns_lends_its_gram() -> None:
    g = torch.Generator().manual_seed(8)
    x = torch.randn(100_000, 40, generator=g, dtype=torch.float64)
    y = torch.poisson((0.2 + 0.1 * x[:, 0] - 0.2 * x[:, 1]).exp(), generator=g)
    agree(torchglm.fit(x, y, family="poisson", device=DEVICE), torchglm.fit(x, y, family="poisson"), 1e-8)


def test_the_edge_of_the_means_is_found_there() -> None:
    x, y = torch.arange(10.0).double()[:, None], torch.tensor([0, 0, 0, 0, 1, 1, 3, 5, 9, 12]).double()
    want, got = (torchglm.fit(x, y, family="poisson", link="identity", device=d) for d in ("cpu", DEVICE))
    assert got.status == want.status
    close(got.coef.cpu(), want.coef, 1e-6, 1.0)


def test_a_stream_is_learned_on_the_device() -> None:
    data = problem("gamma log", n=300).one(0)
    here, far = Renewable("gamma", "log", 3), GLMHead(3, "gamma", "log", device=DEVICE, dtype=torch.float64)
    for part in torch.arange(300).split(60):
        here.update(data.x[part], data.y[part])
        online = far.partial_fit(data.x[part].to(DEVICE), data.y[part].to(DEVICE))
    assert online.coef.device.type == far.weight.device.type == DEVICE
    close(online.coef.cpu(), here.coef, 1e-8, 1.0)
    close(online.std_err.cpu(), here.std_err, 1e-8)
    close(online.dispersion.cpu(), here.dispersion, 1e-8)


def test_a_learned_shape_follows_its_head() -> None:
    data = problem("negative binomial log", n=400).one(0)
    want, got = (torchglm.fit(data.x, data.y, family=families.NegativeBinomial(), device=d) for d in ("cpu", DEVICE))
    close(got.head.family.alpha.detach().cpu(), want.head.family.alpha.detach(), 1e-5)
    assert copy.deepcopy(got.head).family.alpha.device.type == DEVICE


def test_sums_of_processes_go_through_nccl(tmp_path: Path) -> None:
    """One process only: a card is not shared by two under NCCL."""
    import torch.distributed as dist

    torch.cuda.set_device(0)
    dist.init_process_group("nccl", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        ranks = Ranks.here()
        ranks.size = 2  # so that it does call NCCL, in which it is alone
        values = torch.rand(3, 4, device=DEVICE, dtype=torch.float64), torch.arange(3, device=DEVICE)
        for sums in (ranks.sum(*values), ranks.largest(*values), ranks.sum(*(value.cpu() for value in values))):
            for value, right in zip(sums, values, strict=True):
                assert value.dtype == right.dtype
                assert torch.equal(value.to(DEVICE), right)
        path = tmp_path / "rows.parquet"
        pq.write_table(table(), path)
        want = torchglm.fit("y ~ a + z", table(), family="poisson")
        agree(torchglm.fit("y ~ a + z", str(path), family="poisson", device=DEVICE), want, 1e-8)
    finally:
        dist.destroy_process_group()


def test_saved_there_and_loaded_here_it_says_the_same(tmp_path: Path) -> None:
    data = table()
    got = torchglm.fit("y ~ a + z", data, family="poisson", exposure="t", device=DEVICE)
    got.save(tmp_path)
    again = torchglm.load(tmp_path)
    assert again.coef.device.type == "cpu"
    close(again.predict(data), got.predict(data).cpu(), 1e-12)
    close(again.with_rows(data).robust("HC3").std_err, got.robust("HC3").std_err.cpu(), 1e-8)
    assert str(again.summary()) == str(got.summary())
    there(got)


@pytest.mark.parametrize("device", [DEVICE, "auto", "cuda:0"])
def test_every_name_of_the_device(device: str) -> None:
    data = problem("poisson log").one(0)
    assert data.fit(device=device).coef.device == torch.device("cuda", 0)
    with pytest.raises((ValueError, RuntimeError)):
        data.fit(device=f"cuda:{torch.cuda.device_count()}")
