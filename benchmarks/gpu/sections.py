"""What is measured: each section yields its lines as they come, and leaves the device's memory as it was."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import torchglm
from benchmarks.gpu.clock import Clock, Line, copy_bandwidth, free_memory
from torchglm import Family, GLMHead, Link, inputs
from torchglm.fitting import fused
from torchglm.fitting.irls import irls
from torchglm.fitting.kernel import block_moments, moments
from torchglm.fitting.moments import Moments, Point
from torchglm.rows.products import gram, linear_predictor, project
from torchglm.rows.rows import Rows

Sized = Callable[[Clock, "Size"], Iterator[Line]]


@dataclass(frozen=True)
class Size:
    """How large the problems are."""

    tall: tuple[tuple[int, int, torch.dtype], ...]
    many: tuple[tuple[int, int, int], ...]  # models, rows of each, columns
    factors: tuple[int, tuple[int, ...], int]  # rows, levels of each factor, columns of numbers
    steps: tuple[int, ...]  # rows of a training step
    both: tuple[tuple[int, int], ...]  # on the CPU as well
    copied: int  # bytes


FULL = Size(
    tall=(
        (10_000_000, 100, torch.float32),
        (10_000_000, 100, torch.float64),
        (10_000_000, 63, torch.float32),
        (10_000_000, 32, torch.float32),
        (10_000_000, 32, torch.float64),
    ),
    many=((10_000, 200, 8), (1_000_000, 200, 8)),
    factors=(5_000_000, (1_000, 100, 20), 10),
    steps=(65_536, 1_000_000),
    both=((200, 4), (2_000, 5), (1_000_000, 32)),
    copied=4 << 30,
)
QUICK = Size(
    tall=((20_000, 10, torch.float32), (20_000, 10, torch.float64)),
    many=((300, 50, 4),),
    factors=(5_000, (300, 10, 4), 3),
    steps=(512,),
    both=((200, 4), (5_000, 8)),
    copied=1 << 20,
)


def counts(n: int, p: int, device: torch.device, dtype: torch.dtype, models: int = 0) -> tuple[Tensor, Tensor]:
    """Columns `x` (n, p) or (models, n, p), and Poisson counts with mean `exp(0.3 + x b)`, made on the device."""
    torch.manual_seed(17)
    x = torch.randn(*([models] if models else []), n, p, device=device, dtype=dtype)
    slopes = 0.6 / p**0.5 * torch.cos(torch.arange(p, device=device, dtype=dtype))
    return x, torch.poisson((0.3 + x @ slopes).exp()).double()


def tall(clock: Clock, size: Size) -> Iterator[Line]:
    """One model of many rows, and what a pass over them is made of, beside a copy of as many bytes."""
    copied = copy_bandwidth(clock, size.copied)
    yield Line("tall", "device copy", 2 * size.copied / copied, 2 * size.copied / copied, 10, {"GB/s": copied / 1e9})
    for n, p, dtype in size.tall:
        yield from _tall(clock, n, p, dtype, copied)


def _tall(clock: Clock, n: int, p: int, dtype: torch.dtype, copied: float) -> Iterator[Line]:
    x, y = counts(n, p, clock.device, dtype)
    case = f"{n:,} × {p} {str(dtype).removeprefix('torch.')}, Poisson"
    line = clock.line("tall", f"{case}: fit", lambda: _poisson(x, y), 3)
    line.note = f"{clock.made.status}, {int(clock.made.n_iter)} steps"
    yield line
    yield from _passes(clock, case, x, y, clock.made.coef, copied)


def _passes(clock: Clock, case: str, x: Tensor, y: Tensor, coef: Tensor, copied: float) -> Iterator[Line]:
    """A pass with its Gram, one without, and the three products of a pass by themselves."""
    one = torch.ones((), dtype=torch.float64, device=clock.device).expand(1, len(y))
    rows = Rows(x, y[None], one, torch.zeros_like(one[:, :1]).expand(1, len(y)), None, True)
    family, link, at = torchglm.families.get("poisson"), torchglm.links.get("log"), coef.reshape(1, -1)
    needed = x.nbytes + y.nbytes  # each read once
    works: dict[str, Callable[[], Any]] = {
        "a pass with its Gram": lambda: moments(rows, Point(at), family, link),
        "a pass without": lambda: moments(rows, Point(at, curved=False), family, link),
    }
    if fused.ready(rows) and fused.serves(rows, Point(at), family, link):
        works["a pass with its Gram, without the kernel"] = lambda: unfused(rows, Point(at), family, link)
        works["a pass without, without the kernel"] = lambda: unfused(rows, Point(at, curved=False), family, link)
    block = next(iter(rows.blocks()))[1]
    block = block._replace(x=block.x.double())
    value, share = block.y + 0.5, block.y.shape[-1] / len(y)
    works["of it x coef"] = lambda: linear_predictor(block, at)
    works["of it the Gram"] = lambda: gram(block, value)
    works["of it x'r"] = lambda: project(block, value)
    for name, work in works.items():
        line = clock.line("tall", f"{case}: {name}", work, 5)
        bytes_read = needed if name.startswith("a pass") else x.nbytes
        if not name.startswith("a pass"):  # of one block, as so many of them
            line.seconds, line.least = line.seconds / share, line.least / share
        rate = bytes_read / line.least
        line.figures = {"GB/s": rate / 1e9, "of a copy": rate / copied}
        yield line


def unfused(rows: Rows, point: Point, family: Family, link: Link) -> Moments:
    """A pass in plain torch, where a kernel would take it."""
    parts = [block_moments(block, point, family, link) for _, block in rows.blocks(point.curved)]
    return reduce(Moments.__add__, parts)


def many(clock: Clock, size: Size) -> Iterator[Line]:
    """Many small models at once, in as few slices as the memory of the device allows."""
    for models, n, p in size.many:
        yield _many(clock, models, n, p)


def _many(clock: Clock, models: int, n: int, p: int) -> Line:
    room = free_memory(clock.device) // (8 * n * p * 5)  # the rows, a copy of them and what a pass makes
    slices = -(-models // max(1, room))
    part = -(-models // slices)
    x, y = counts(n, p, clock.device, torch.float64, part)
    of = f"{part:,} of " if slices > 1 else ""
    line = clock.line("many", f"{of}{models:,} Poisson models of {n} × {p}", lambda: _poisson(x, y), 3)
    line.figures = {"fits/s": part / line.least}
    line.note = f"{int(clock.made.converged.sum()):,} converged"
    return line


def factors(clock: Clock, size: Size) -> Iterator[Line]:
    """Factors as index columns: from a table to the fit, and a fit of rows that are on the device already."""
    import pyarrow as pa

    n, levels, numbers = size.factors
    draw = np.random.default_rng(5)
    eta = np.full(n, 0.2)
    columns: dict[str, Any] = {}
    for k, count in enumerate(levels):
        codes = np.concatenate([np.arange(count), draw.integers(0, count, n - count)]).astype(np.int32)
        columns[f"f{k}"] = pa.DictionaryArray.from_arrays(pa.array(codes), [f"{i:05d}" for i in range(count)])
        eta += draw.normal(0, 0.2, count)[codes]
    for j in range(numbers):
        columns[f"x{j}"] = draw.standard_normal(n)
        eta += 0.1 * columns[f"x{j}"]
    table = pa.table({"y": draw.poisson(np.exp(eta)).astype(float), **columns})
    case = f"{n:,} rows, factors of {', '.join(f'{k:,}' for k in levels)} levels, {numbers} numbers"
    formula = "y ~ " + " + ".join(columns)
    line = clock.line(
        "factors",
        f"{case}: from a table",
        lambda: torchglm.fit(formula, table, family="poisson", device=clock.device),
        1,
        warm=False,
        note="the table is read on the CPU",
    )
    result = clock.made
    line.figures = {"coefficients": float(len(result.names))}
    yield line
    spec = result.spec
    assert spec is not None
    start = clock.once(lambda: spec.design(table, response=True))
    yield Line("factors", f"{case}: of it the design, on the CPU", start, start, 1)
    data = inputs.from_design(spec.design(table, response=True), result.family, inputs.Roles(), [], clock.device, None)
    yield clock.line("factors", f"{case}: of it the search", lambda: irls(data.source, result.family, result.link), 2)
    yield clock.line("factors", f"{case}: HC1 standard errors", lambda: result.robust("HC1").std_err, 2)


def steps(clock: Clock, size: Size) -> Iterator[Line]:
    """A step of training by `GLMHead.loss`, beside the same loss written by hand over `nn.Linear`."""
    for n in size.steps:
        x, y = counts(n, 32, clock.device, torch.float32)
        poisson, negative = torchglm.families.get("poisson"), torchglm.NegativeBinomial(alpha=0.7)
        yield from _steps(clock, f"{n:,} × 32, Poisson", x, y.float(), poisson, _poisson_loss)
        yield from _steps(clock, f"{n:,} × 32, negative binomial", x, y.float(), negative, _negative_binomial_loss)


def _steps(
    clock: Clock, case: str, x: Tensor, y: Tensor, family: Family, loss: Callable[[Tensor, Tensor], Tensor]
) -> Iterator[Line]:
    layer = nn.Linear(x.shape[-1], 1, device=clock.device)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    head = GLMHead(x.shape[-1], family, "log", device=clock.device)
    by_hand = clock.line("step", f"{case}: by hand", _step(layer, lambda: loss(layer(x)[:, 0], y)), 50)
    own = clock.line("step", f"{case}: GLMHead", _step(head, lambda: head.loss(x, y)), 50)
    own.figures = {"× by hand": own.least / by_hand.least}
    yield by_hand
    yield own


def _step(module: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
    descent = torch.optim.SGD([v for v in module.parameters() if v.requires_grad], lr=1e-3)

    def work() -> None:
        descent.zero_grad(set_to_none=True)
        loss().backward()
        descent.step()

    return work


def _poisson_loss(eta: Tensor, y: Tensor) -> Tensor:
    return (eta.exp() - y * eta).mean()


def _negative_binomial_loss(eta: Tensor, y: Tensor, alpha: float = 0.7) -> Tensor:
    return ((y + 1 / alpha) * torch.log1p(alpha * eta.exp()) - y * eta).mean()


def ranks(clock: Clock, size: Size) -> Iterator[Line]:
    """A fit of a file under `torch.distributed` with one process, and what a reduction of its sums costs."""
    import torch.distributed as dist

    n, p = size.both[-1]
    x, y = counts(n, p, torch.device("cpu"), torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        _write(path, x, y)
        backend = "nccl" if clock.device.type == "cuda" else "gloo"
        dist.init_process_group(backend, init_method=f"file://{folder}/meeting", rank=0, world_size=1)
        try:
            sums = torch.ones(100 * 101 + 8, dtype=torch.float64, device=clock.device)
            yield clock.line("ranks", f"{backend}, one process: a reduction", lambda: dist.all_reduce(sums), 20)
            formula = "y ~ " + " + ".join(f"x{j}" for j in range(p))
            yield clock.line(
                "ranks",
                f"{backend}, one process: a fit of {n:,} × {p} from Parquet",
                lambda: torchglm.fit(formula, str(path), family="poisson", device=clock.device),
                1,
                warm=False,
            )
        finally:
            dist.destroy_process_group()


def _write(path: Path, x: Tensor, y: Tensor) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {f"x{j}": column.numpy() for j, column in enumerate(x.mT.contiguous())}
    pq.write_table(pa.table({"y": y.numpy(), **columns}), path)


def both(clock: Clock, size: Size) -> Iterator[Line]:
    """The same fit on the CPU and on the device: from the CPU's memory, and from the device's."""
    for n, p in size.both:
        yield from _both(clock, n, p)


def _both(clock: Clock, n: int, p: int) -> Iterator[Line]:
    x, y = counts(n, p, torch.device("cpu"), torch.float64)
    case, runs = f"{n:,} × {p}, Poisson", 5 if n > 10_000 else 20
    near = clock.line("both", f"{case}: CPU, {torch.get_num_threads()} threads", lambda: _poisson(x, y), runs)
    coef = clock.made.coef
    yield near
    moved = clock.line("both", f"{case}: device, moved there", lambda: _poisson(x, y, clock.device), runs)
    x, y = x.to(clock.device), y.to(clock.device)
    there = clock.line("both", f"{case}: device, there already", lambda: _poisson(x, y), runs)
    there.note = f"coefficients differ by {float((clock.made.coef.cpu() - coef).abs().max()):.0e}"
    for line in (moved, there):
        line.figures = {"× CPU": line.least / near.least}
        yield line


def _poisson(x: Tensor, y: Tensor, device: torch.device | None = None) -> torchglm.Result:
    return torchglm.fit(x, y, family="poisson", device=device)


SECTIONS: dict[str, Sized] = {
    "tall": tall,
    "many": many,
    "factors": factors,
    "step": steps,
    "ranks": ranks,
    "both": both,
}
