"""python -m benchmarks.levels [--rows N] [--levels L]: a Poisson fit with one factor of very many levels, in memory."""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

from benchmarks.measure import memory_mb, reset_peak

NUMBERS = 3


def table(rows: int, levels: int) -> Any:
    """A seeded Arrow table: a response, a factor of `levels` levels with every one in a row at least, three numbers."""
    import pyarrow as pa

    rng = np.random.default_rng(6)
    codes = np.concatenate([np.arange(levels), rng.integers(0, levels, rows - levels)]).astype(np.int32)
    eta = 1.0 + rng.normal(0, 0.3, levels)[codes]
    names = [f"{i:07d}" for i in range(levels)]
    columns: dict[str, Any] = {"f": pa.DictionaryArray.from_arrays(pa.array(codes), names)}
    for j in range(NUMBERS):
        x = rng.standard_normal(rows)
        eta += 0.2 * x
        columns[f"x{j}"] = x
    return pa.table({"y": rng.poisson(np.exp(eta)).astype(float), **columns})


def main(argv: list[str] | None = None) -> None:
    import torchglm

    parser = argparse.ArgumentParser(prog="python -m benchmarks.levels", description=str(__doc__).splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--levels", type=int, default=100_000)
    given = parser.parse_args(argv)
    data = table(given.rows, given.levels)
    torchglm.fit("y ~ f + x0", table(2_000, 300), family="poisson")  # loads what is loaded on first use
    reset_peak()
    before, start = memory_mb("VmRSS"), time.perf_counter()
    result = torchglm.fit("y ~ f + x0 + x1 + x2", data, family="poisson")
    errors = result.std_err
    seconds = time.perf_counter() - start
    print(
        f"{given.rows:,} rows, {len(result.names):,} coefficients: {result.status}, {int(result.n_iter)} steps, "
        f"{seconds:.1f} s with {int(errors.isfinite().sum()):,} standard errors; "
        f"{memory_mb('VmHWM') - before:,.0f} MB above the data of {data.nbytes / 1e6:,.0f} MB"
    )


if __name__ == "__main__":
    main()
