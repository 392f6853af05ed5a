"""python -m benchmarks.absorbed [--rows N] [--levels L ...]: a Poisson fit beside crossed factors of very many levels.

`--files FOLDER` writes the rows to Parquet there and fits from the files. Else beside pyfixest's fepois, if installed.
"""

from __future__ import annotations

import argparse
import importlib
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import memory_mb, reset_peak

NUMBERS, PIECE = 3, 1_000_000


def table(rows: int, levels: list[int], seed: int = 6) -> Any:
    """A seeded Arrow table: a response, factors `f0`, `f1`, ... with effects, and three numbers."""
    import pyarrow as pa

    rng, fixed = np.random.default_rng(seed), np.random.default_rng(5)
    eta, columns = np.full(rows, -0.5), dict[str, Any]()
    for k, count in enumerate(levels):
        codes, effects = rng.integers(0, count, rows).astype(np.int32), fixed.normal(0, 0.5, count)
        eta += effects[codes]
        columns[f"f{k}"] = codes
    for j, slope in enumerate((0.1, 0.2, -0.1)):
        x = rng.standard_normal(rows) + 0.3 * (eta + 0.5)
        columns[f"x{j}"] = x.astype(np.float32)
        eta += slope * x
    return pa.table({"y": rng.poisson(np.exp(eta)).astype(np.float32), **columns})


def formula(levels: list[int]) -> str:
    return f"y ~ x0 + x1 + x2 | {' + '.join(f'f{k}' for k in range(len(levels)))}"


def main(argv: list[str] | None = None) -> None:
    import torchglm

    parser = argparse.ArgumentParser(prog="python -m benchmarks.absorbed", description=str(__doc__).splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--levels", type=int, nargs="+", default=[20_000, 20_000])
    parser.add_argument("--files", type=Path)
    given = parser.parse_args(argv)
    source: Any
    if given.files is None:
        source = table(given.rows, given.levels)
    else:
        source = _written(given.files, given.rows, given.levels)
    torchglm.fit(formula([9]), table(300, [9]), family="poisson")  # loads what is loaded on first use
    reset_peak()
    start = time.perf_counter()
    result = torchglm.fit(formula(given.levels), source, family="poisson")
    seconds = time.perf_counter() - start
    print(
        f"torchglm: {given.rows:,} rows, levels {given.levels}: {result.status}, {int(result.n_iter)} steps, "
        f"{seconds:.1f} s, peak {memory_mb('VmHWM'):,.0f} MB, coef {result.coef.tolist()}"
    )
    if given.files is None:
        _peer(source, given.levels)


def _written(folder: Path, rows: int, levels: list[int]) -> list[str]:
    """The files of so many rows, made where they are missing."""
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"part{k}.parquet" for k in range(-(-rows // PIECE))]
    for k, path in enumerate(paths):
        if not path.exists():
            pq.write_table(table(min(PIECE, rows - k * PIECE), levels, 6 + k), path)
    return [str(path) for path in paths]


def _peer(source: Any, levels: list[int]) -> None:
    try:
        pyfixest = importlib.import_module("pyfixest")
    except ImportError:
        return
    frame = source.to_pandas()
    for _ in range(2):  # the first compiles
        start = time.perf_counter()
        found = pyfixest.fepois(formula(levels), frame)
        print(f"pyfixest: {time.perf_counter() - start:.1f} s, coef {found.coef().tolist()}")


if __name__ == "__main__":
    main()
