"""python -m benchmarks.stream [--rows N]: an exact Poisson fit from a Parquet file, in scans, seconds and memory."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import memory_mb, reset_peak

COLUMNS = 20
GROUP = 125_000  # rows of a row group


def write(path: Path, rows: int) -> None:
    """A file of float32 columns, seeded, written a row group at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    slopes = rng.normal(size=COLUMNS) * 0.1
    writer = None
    for first in range(0, rows, GROUP):
        x = rng.standard_normal((min(GROUP, rows - first), COLUMNS)).astype(np.float32)
        y = rng.poisson(np.exp(x @ slopes)).astype(np.float32)
        table = pa.table({f"x{j}": x[:, j] for j in range(COLUMNS)} | {"y": y})
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()


def scan(path: Path) -> float:
    """Seconds of merely reading the file, a row group at a time."""
    import pyarrow.parquet as pq

    start = time.perf_counter()
    file = pq.ParquetFile(path, memory_map=False)
    for i in range(file.num_row_groups):
        file.read_row_group(i)
    return time.perf_counter() - start


@contextmanager
def counted_scans() -> Iterator[list[bool]]:
    """A list that grows by one each time a file is read from its beginning: True where it then is to its end."""
    import torchglm.tables

    scans: list[bool] = []
    plain = torchglm.tables.Scan.pieces

    def counting(self: torchglm.tables.Scan) -> Iterator[Any]:
        place = len(scans)
        scans.append(False)
        yield from plain(self)
        scans[place] = True

    torchglm.tables.Scan.pieces = counting  # type: ignore[method-assign]
    try:
        yield scans
    finally:
        torchglm.tables.Scan.pieces = plain  # type: ignore[method-assign]


@contextmanager
def held(most: int) -> Iterator[None]:
    """Within it fits keep no more than so many bytes of rows, and read others again at each step."""
    import torchglm.inputs.files

    before, torchglm.inputs.files.HOLD = torchglm.inputs.files.HOLD, most
    try:
        yield
    finally:
        torchglm.inputs.files.HOLD = before


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stream", description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000_000)
    rows = parser.parse_args(argv).rows
    import torchglm

    torchglm.fit("y ~ a", {"y": [1.0, 2.0, 4.0], "a": [0.0, 1.0, 2.0]}, family="poisson")  # load what is lazy
    with tempfile.TemporaryDirectory() as folder, counted_scans() as scans, held(0):
        path = Path(folder) / "rows.parquet"
        write(path, rows)
        size, merely = path.stat().st_size / 1e6, scan(path)
        reset_peak()
        before, start = memory_mb("VmRSS"), time.perf_counter()
        formula = "y ~ " + " + ".join(f"x{j}" for j in range(COLUMNS))
        result = torchglm.fit(formula, path, family="poisson")
        std_err = result.std_err
        seconds = time.perf_counter() - start
    print(f"{rows:,} rows x {COLUMNS} columns, {size:,.0f} MB of Parquet; a mere scan takes {merely:.1f} s")
    print(
        f"exact fit, standard errors included: {len(scans)} scans, {sum(scans)} of them whole, {seconds:.1f} s, "
        f"{memory_mb('VmHWM') - before:.0f} MB above what was resident; {result.status}, "
        f"largest standard error {float(std_err.max()):.1e}"
    )


if __name__ == "__main__":
    main()
