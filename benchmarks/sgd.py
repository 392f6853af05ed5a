"""python -m benchmarks.sgd [--rows N] [--quick]: logistic SGD in rows per second, from a bare loop of torch to fit_sgd.

All contenders make the same steps of SGD at one learning rate on runs of rows in random order, in one process, in
turn; none is listed whose loss at the end is off the optimum.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import SGD

COLUMNS, RATE, EPOCHS = 50, 0.1, 4
NEAR = 5e-3  # share of the optimal loss by which a loss may be above it
BATCHES = (1024, 8192)
QUIET: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
}


@dataclass(frozen=True)
class Data:
    """Rows of a logistic regression, in memory and in a Parquet file, and the least mean loss."""

    x: Tensor
    y: Tensor
    file: Path
    optimum: float

    def loss(self, weight: Tensor, bias: Tensor) -> float:
        """The mean loss over all rows."""
        return float(F.binary_cross_entropy_with_logits(self.x @ weight.detach() + bias.detach(), self.y))


def make(rows: int, folder: Path) -> Data:
    """Seeded rows, float32."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    import torchglm

    rng = torch.Generator().manual_seed(0)
    x, slopes = torch.randn(rows, COLUMNS, generator=rng), torch.randn(COLUMNS, generator=rng) * 0.2
    y = (torch.rand(rows, generator=rng) < torch.sigmoid(x @ slopes)).float()
    file = folder / "rows.parquet"
    table = pa.table({f"x{j}": x[:, j].numpy() for j in range(COLUMNS)} | {"y": y.numpy()})
    pq.write_table(table, file, row_group_size=max(1, min(rows // 4, 125_000)))
    optimum = torchglm.fit(x, y, family="bernoulli").deviance / 2 / rows
    return Data(x, y, file, float(optimum))


def bare(data: Data, batch: int) -> float:
    """A loop of torch over views of the rows, with autograd."""
    model = torch.nn.Linear(COLUMNS, 1)
    optimizer, starts = SGD(model.parameters(), lr=RATE), range(0, len(data.x), batch)
    for _ in range(EPOCHS):
        for block in torch.randperm(len(starts)).tolist():
            rows = slice(starts[block], starts[block] + batch)
            optimizer.zero_grad()
            F.binary_cross_entropy_with_logits(model(data.x[rows]).squeeze(-1), data.y[rows]).backward()
            optimizer.step()
    return data.loss(model.weight[0], model.bias)


def dataloader(data: Data, batch: int) -> float:
    """The same loop over DataLoader(TensorDataset)."""
    from torch.utils.data import DataLoader, TensorDataset

    model = torch.nn.Linear(COLUMNS, 1)
    optimizer = SGD(model.parameters(), lr=RATE)
    for _ in range(EPOCHS):
        for x, y in DataLoader(TensorDataset(data.x, data.y), batch, shuffle=True):
            optimizer.zero_grad()
            F.binary_cross_entropy_with_logits(model(x).squeeze(-1), y).backward()
            optimizer.step()
    return data.loss(model.weight[0], model.bias)


def memory(data: Data, batch: int) -> float:
    """LitGLM under a Trainer, from memory."""
    from torchglm.training import GLMBatch, TensorBatches

    return _trained(data, TensorBatches(GLMBatch(data.x, data.y), batch, shuffle="blocks"))


def stream(data: Data, batch: int, cache: bool | Path = False) -> float:
    """LitGLM under a Trainer, from a Parquet file that is read in every epoch, or decoded once."""
    return _trained(data, _batches(data, batch, cache))


def _batches(data: Data, batch: int, cache: bool | Path) -> Any:
    from torchglm.training import ArrowBatches

    names = [f"x{j}" for j in range(COLUMNS)]
    return ArrowBatches(data.file, names, "y", batch_size=batch, shuffle=True, cache=cache)


def _trained(data: Data, batches: Any) -> float:
    from lightning.pytorch import Trainer

    from torchglm.model.face import GLMHead
    from torchglm.training import LitGLM

    lit = LitGLM(GLMHead(COLUMNS, "bernoulli"), lambda parameters: SGD(parameters, lr=RATE), metrics={})
    Trainer(max_epochs=EPOCHS, **QUIET).fit(lit, batches)
    assert lit.head.bias is not None
    return data.loss(lit.head.weight[0], lit.head.bias)


def solver(data: Data, batch: int, epochs: int = EPOCHS) -> float:
    """fit_sgd as it is called: a pass to whiten the columns, training, a pass that says how near the optimum is."""
    from torchglm.model.face import GLMHead
    from torchglm.training import GLMBatch, fit_sgd

    head = GLMHead(COLUMNS, "bernoulli")
    fit_sgd(head, GLMBatch(data.x, data.y), batch_size=batch, trainer={"max_epochs": epochs})
    assert head.bias is not None
    return data.loss(head.weight[0], head.bias)


def read(data: Data, batch: int, cache: bool | Path = False) -> float:
    """Merely the batches of the file, in every epoch."""
    batches = _batches(data, batch, cache)
    for _ in range(EPOCHS):
        for _ in batches:
            pass
    return data.optimum


def timed(run: Callable[[], float], data: Data, clock: Callable[[], float]) -> float:
    """Seconds of a run. Raises RuntimeError where its loss is not that of the optimum."""
    start = clock()
    loss = run()
    seconds = clock() - start
    if not loss < data.optimum * (1 + NEAR):
        raise RuntimeError(f"ended at a loss of {loss:.5f}, the optimum is {data.optimum:.5f}")
    return seconds


def measured(data: Data, batch: int, rounds: int, clock: Callable[[], float]) -> dict[str, float]:
    """Rows per second of each contender, in millions, at the median of interleaved rounds."""
    kept = data.file.parent / "cache"
    read(data, batch, kept)
    contenders: dict[str, Callable[[], float]] = {
        "bare loop of torch": lambda: bare(data, batch),
        "LitGLM, TensorBatches": lambda: memory(data, batch),
        "LitGLM, ArrowBatches": lambda: stream(data, batch),
        "the same with cache=True": lambda: stream(data, batch, True),
        "the same from a cache that is there": lambda: stream(data, batch, kept),
        "the file read alone": lambda: read(data, batch),
        "the cache read alone": lambda: read(data, batch, kept),
        "fit_sgd, whole": lambda: solver(data, batch),
        "fit_sgd, many epochs": lambda: solver(data, batch, 5 * EPOCHS),
        "DataLoader(TensorDataset)": lambda: dataloader(data, batch),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds):
        for name, run in contenders.items():
            if turn < 1 or not name.startswith("DataLoader"):  # it takes a minute
                seconds[name].append(timed(run, data, clock))
    done = len(data.x) * EPOCHS / 1e6
    found = {name: done / median(values) for name, values in seconds.items()}
    training = [
        (many - few) / 4
        for few, many in zip(seconds["fit_sgd, whole"], seconds.pop("fit_sgd, many epochs"), strict=True)
    ]
    del found["fit_sgd, many epochs"]
    return {**found, "fit_sgd, its training": done / max(median(training), 1e-9)}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sgd", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: 1; more of them slow small steps)")
    parser.add_argument("--cpu", action="store_true", help="time of the processor, where others share the machine")
    parser.add_argument("--quick", action="store_true", help="few rows, one round")
    given = parser.parse_args(argv)
    rows, rounds = (20_000, 1) if given.quick else (given.rows, given.rounds)
    torch.set_num_threads(given.threads)
    import lightning.pytorch  # noqa: F401, which sets the level of its logger

    warnings.filterwarnings("ignore", module="lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        data = make(rows, Path(folder))
        memory(data, BATCHES[0])  # load what is lazy
        for batch in (256,) if given.quick else BATCHES:
            torch.manual_seed(0)
            found = measured(data, batch, rounds, time.process_time if given.cpu else time.perf_counter)
            print(
                f"\nlogistic, {rows:,} x {COLUMNS} float32, batches of {batch:,}, {given.threads} thread(s), "
                f"{'processor' if given.cpu else 'wall'} time\n"
            )
            print("| contender | million rows per second | x the bare loop | x DataLoader |\n|---|---:|---:|---:|")
            loop, plain = found["bare loop of torch"], found["DataLoader(TensorDataset)"]
            for name, rate in found.items():
                print(f"| {name} | {rate:.3g} | {rate / loop:.2f} | {rate / plain:.0f} |")


if __name__ == "__main__":
    main()
