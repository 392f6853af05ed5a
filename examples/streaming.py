"""Training by minibatch from Parquet through Lightning, in flat memory, held against IRLS on the same rows.

python examples/streaming.py [--quick]
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from lightning.pytorch import Trainer

import torchglm
from torchglm.training import ArrowBatches, LitGLM

COLUMNS = ["age", "power", "density"]
COEF = np.array([-1.0, 0.30, 0.15, -0.20])  # intercept first
EPOCHS = 8


def write(path: Path, groups: int, rows: int) -> None:
    """Claims with exposure, one row group at a time, so that no more than one is ever in memory."""
    rng = np.random.default_rng(0)
    writer = None
    for _ in range(groups):
        x = rng.standard_normal((rows, 3)).astype(np.float32)
        years = rng.uniform(0.2, 1.0, rows)
        claims = rng.poisson(years * np.exp(COEF[0] + x @ COEF[1:]))
        table = pa.table({**dict(zip(COLUMNS, x.T, strict=True)), "years": years, "claims": claims})
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table, row_group_size=rows)
    if writer is not None:
        writer.close()


def train(path: Path, batch_size: int, rate: float) -> torchglm.GLMHead:
    """Adam on minibatches read from the file, the rate falling along a cosine to zero."""
    batches = ArrowBatches(path, COLUMNS, "claims", exposure="years", batch_size=batch_size, shuffle=True)
    head = torchglm.GLMHead(batches.in_features, "poisson")
    model = LitGLM(
        head,
        optimizer=partial(torch.optim.Adam, lr=rate),
        scheduler=partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=EPOCHS * len(batches)),
        scheduler_interval="step",
    )
    trainer = Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, batches)
    return head


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")
    torch.manual_seed(0)
    groups, rows, batch_size, rate = (4, 5_000, 256, 0.02) if args.quick else (20, 50_000, 4096, 0.005)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "claims.parquet"
        write(path, groups, rows)
        print(f"{groups * rows:,} rows in {groups} row groups, {path.stat().st_size / 1e6:.0f} MB")
        head = train(path, batch_size, rate)
        # The same rows at once, for comparison: this needs them all in memory.
        formula = "claims ~ " + " + ".join(COLUMNS)
        result = torchglm.fit(formula, pq.read_table(path), family="poisson", exposure="years")

    with torch.no_grad():
        streamed = torch.cat([head.bias, head.weight[0]]).double()
    print(f"{'':12}{'truth':>10}{'IRLS':>10}{'std.err':>10}{'streamed':>10}")
    columns = zip(COEF, result.coef, result.std_err, streamed, strict=True)
    for name, (true, irls, se, sgd) in zip(result.names, columns, strict=True):
        print(f"{name:12}{true:10.4f}{irls:10.4f}{se:10.4f}{sgd:10.4f}")
    gap = ((streamed - result.coef).abs() / result.std_err).max()
    print(f"largest distance from IRLS: {gap:.3f} standard errors")


if __name__ == "__main__":
    main()
