"""python -m benchmarks.scaling [--quick]: how the time of a Poisson fit grows with rows, columns, models and levels.

Each axis is doubled from a small size to a large one, the sizes measured in turn, round after round; the exponent is
the slope of log time over log size on the upper half of the sizes. Writes the table into README.md, and a plot.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

import torchglm
from benchmarks.render import write_into

HERE = Path(__file__).resolve().parent
PLOT = HERE.parent / "docs" / "scaling.png"
MARKERS = ("<!-- scaling: written by python -m benchmarks.scaling -->", "<!-- end of scaling -->")


@dataclass(frozen=True)
class Axis:
    """A quantity that grows: its sizes, and the arguments of the fit at a size."""

    name: str
    what: str
    sizes: list[int]
    make: Callable[[int], dict[str, Any]]


def numbers(n: int, p: int, models: int = 0) -> dict[str, Any]:
    """A Poisson problem of `p` columns on `n` rows, or one for each of `models`."""
    rng = np.random.default_rng(3)
    shape = (models, n) if models else (n,)
    x = rng.standard_normal((*shape, p))
    y = rng.poisson(np.exp(0.3 + (x @ rng.normal(0, 0.3, p)) / np.sqrt(p)))
    return {"x": x, "y": y.astype(float)}


def levels(count: int, n: int) -> dict[str, Any]:
    """A formula with one factor of `count` levels and three numbers on `n` rows."""
    rng = np.random.default_rng(4)
    codes = np.concatenate([np.arange(count), rng.integers(0, count, n - count)]).astype(np.int32)
    x = rng.standard_normal((3, n))
    y = rng.poisson(np.exp(0.5 + rng.normal(0, 0.3, count)[codes] + 0.2 * x.sum(0)))
    factor = pa.DictionaryArray.from_arrays(pa.array(codes), [f"{i:05d}" for i in range(count)])
    table = pa.table({"y": y.astype(float), "f": factor, **{f"x{j}": x[j] for j in range(3)}})
    return {"x": "y ~ f + x0 + x1 + x2", "y": table}


def axes(quick: bool) -> list[Axis]:
    """The four axes; `quick` at sizes that only show that all runs."""
    n, steps = (2_000, 2) if quick else (50_000, 6)

    def doubled(first: int) -> list[int]:
        return [first * 2**k for k in range(steps)]

    return [
        Axis("rows", "20 columns", doubled(n), lambda size: numbers(size, 20)),
        Axis("columns", f"{2 * n:,} rows", doubled(10), lambda size: numbers(2 * n, size)),
        Axis("models", "own x of 100 × 5", doubled(n // 50), lambda size: numbers(100, 5, size)),
        Axis("levels", f"{6 * n:,} rows, three numbers", doubled(50), lambda size: levels(size, 6 * n)),
    ]


def seconds(axis: Axis, rounds: int) -> list[float]:
    """The median seconds of a fit with its standard errors at every size."""
    taken: list[list[float]] = [[] for _ in axis.sizes]
    for _ in range(rounds):
        for size, own in zip(axis.sizes, taken, strict=True):
            given = axis.make(size)
            start = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                _ = torchglm.fit(**given, family="poisson").std_err
            own.append(time.perf_counter() - start)
    return [median(own) for own in taken]


def exponent(sizes: list[int], times: list[float]) -> float:
    """The slope of log time over log size, by least squares on the upper half of the sizes."""
    half = len(sizes) // 2 if len(sizes) > 3 else 0
    return float(np.polyfit(np.log(sizes[half:]), np.log(times[half:]), 1)[0])


def table(found: list[tuple[Axis, list[float]]]) -> str:
    """The sizes, the times and the exponents as Markdown."""
    lines = ["| grows | the rest | from–to | seconds from–to | time grows as size to the |", "|---|---|---:|---:|---:|"]
    for axis, times in found:
        spans = f"{axis.sizes[0]:,}–{axis.sizes[-1]:,} | {times[0]:.3g}–{times[-1]:.3g}"
        lines.append(f"| {axis.name} | {axis.what} | {spans} | {exponent(axis.sizes, times):.2f} |")
    return "\n".join(lines)


def draw(found: list[tuple[Axis, list[float]]], path: Path) -> None:
    """A panel for each axis, both scales logarithmic."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(found), figsize=(11, 2.8), sharey=True, layout="constrained")
    for panel, (axis, times) in zip(panels, found, strict=True):
        sizes: NDArray[np.float64] = np.array(axis.sizes, dtype=float)
        slope = exponent(axis.sizes, times)
        panel.loglog(sizes, times, "o-", color="#1f5f8b", ms=4)
        panel.loglog(sizes, times[-1] * (sizes / sizes[-1]) ** slope, ":", color="#888888")
        panel.set_title(f"{axis.name} ({axis.what})", fontsize=9)
        panel.set_xlabel(f"{axis.name}: time ~ size^{slope:.2f}", fontsize=9)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("seconds")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=str(__doc__).splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes, written nowhere")
    quick = parser.parse_args(argv).quick
    found = [(axis, seconds(axis, 1 if quick else 3)) for axis in axes(quick)]
    print(table(found))
    if not quick:
        draw(found, PLOT)
        write_into(HERE / "README.md", table(found), *MARKERS)


if __name__ == "__main__":
    main()
