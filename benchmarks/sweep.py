"""python -m benchmarks.sweep [--rows 100 1000] [--quick]: torchglm beside its fastest peer, size by size.

Poisson, Gamma and logistic regression on 100 to 10,000,000 rows and 2 to 500 columns, and a formula on a frame, one
thread each, in seconds of the processor: other work on the machine counts little. Every peer stops at the loosest
tolerance of a ladder with which its coefficients are right (`measure.ACCURACY`), and takes the fastest of its roads.
Sizes that are named are measured anew and put beside the others of `sweep.json`; the table goes to `README.md`, what
others win to `docs/speed.md`, and the picture to `docs/sweep.png`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.measure import ACCURACY, gap
from benchmarks.problem import Fit, Problem, mean_of, reference
from benchmarks.render import write_into
from benchmarks.sweep_peers import Road, by_formula, installed
from benchmarks.workloads.tall import make

HERE = Path(__file__).resolve().parent
FOUND, PLOT, SPEED = HERE / "sweep.json", HERE.parent / "docs" / "sweep.png", HERE.parent / "docs" / "speed.md"
TABLE = ("<!-- sweep: written by python -m benchmarks.sweep -->", "<!-- end of sweep -->")
WINS = ("<!-- where others win: written by python -m benchmarks.sweep -->", "<!-- end of where others win -->")
ROWS, COLUMNS = (100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000), (2, 5, 10, 20, 50, 100, 200, 500)
AIMS = ((200, 4), (2_000, 5), (20_000, 10))  # sizes of which aims were set, beside those of the grid
NAMES = {"poisson": "Poisson", "gamma": "Gamma", "bernoulli": "logistic"}
SHOWN = NAMES | {"formula": "Poisson by a formula"}
FORMULA = (2_000, 11)
NUMBERS, WORK = 5 * 10**7, 4 * 10**9  # at most, of the design and of its products
LADDER = (1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-10)  # tolerances
LONG, LEAST, TURNS = (
    2.0,
    0.03,
    5,
)  # seconds of a run that is not repeated, of a measurement at least; runs of the others
BEHIND, FAR = 4.0, 10_000  # times the fastest on a tenth of the rows, where a peer is not asked about more than so many


Seconds = dict[str, dict[str, float]]  # of every peer, by family and size: {"poisson 100 2": {"torchglm": ...}}


@dataclass(eq=False)
class Runner:
    """A road of a peer: its first tolerance that has not failed yet, and the seconds of its runs at a size."""

    name: str
    road: Road
    step: int = 0
    samples: list[float] = field(default_factory=list)
    repeats: int = 1

    def once(self, problem: Problem) -> Any:
        """The coefficients, and the seconds of the processor into `samples`."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            start = time.process_time()
            for _ in range(self.repeats):
                coef = self.road(problem, LADDER[self.step])
            self.samples.append((time.process_time() - start) / self.repeats)
        return np.asarray(coef, dtype=float).reshape(-1)

    def prepare(self, problem: Problem, want: Fit) -> bool:
        """Find the tolerance, and how many runs a measurement takes; False where no tolerance is enough."""
        assert want.std_err is not None
        self.repeats = 1
        while self.step < len(LADDER):
            self.samples = []
            try:
                coef = self.once(problem)
            except Exception as error:  # a peer that breaks at a size has no figure there
                print(f"  {self.name}: {type(error).__name__}: {error}", file=sys.stderr)
                return False
            if gap(coef, want.coef, np.maximum(np.abs(want.coef), want.std_err)) <= ACCURACY:
                break
            self.step += 1
        else:
            self.step = len(LADDER) - 1
            return False
        if self.samples[0] < LONG:
            self.samples = []
            self.once(problem)
            self.repeats = max(1, round(LEAST / self.samples.pop()))
        return True


def sizes(quick: bool, rows: list[int] | None) -> list[tuple[int, int]]:
    """The sizes, those of the same columns together."""
    if quick:
        return [(100, 2), (1_000, 2)]
    every = [(n, p) for p in COLUMNS for n in ROWS] + list(AIMS)
    return [
        (n, p)
        for n, p in every
        if (rows is None or n in rows) and 10 * p <= n and n * p <= NUMBERS and n * p * p <= WORK
    ]


def with_levels(n: int, p: int) -> Problem:
    """A Poisson model of a constant, two of three levels, and numbers."""
    rng = np.random.default_rng(0)
    level = np.arange(n)[:, None] % 3 == [1, 2]
    x = np.column_stack([np.ones(n), level, rng.standard_normal((n, p - 3))])
    y = rng.poisson(mean_of(x @ np.r_[0.5, 0.2, -0.2, 0.6 / np.sqrt(p) * rng.standard_normal(p - 3)], "log"))
    return Problem("by a formula", "poisson", "log", x, y.astype(float))


def measured(problem: Problem, runners: list[Runner], before: dict[str, float]) -> dict[str, float]:
    """The seconds of every peer on a problem, taken in turn; `before` are those on a tenth of the rows."""
    n = len(problem.y)
    want = reference(problem)
    limit = BEHIND * min(before.values(), default=np.inf)
    asked = [r for r in runners if n <= FAR or r.name == "torchglm" or before.get(r.name, 0.0) <= limit]
    ready = [r for r in asked if r.prepare(problem, want)]
    for turn in range(TURNS):
        for runner in ready[turn % len(ready) :] + ready[: turn % len(ready)]:
            if not runner.samples or runner.samples[0] < LONG:
                runner.once(problem)
    return {runner.name: median(runner.samples) for runner in ready}


def sweep(wanted: list[tuple[int, int]], families: list[str], known: Seconds, target: Path | None) -> Seconds:
    """What is known and what is measured now; `target` is written after each size."""
    found = dict(known)
    for family in families:
        for p in dict.fromkeys(p for _, p in wanted):
            runners = [Runner(name, road) for name, road in installed(family).items()]
            for n in (n for n, q in wanted if q == p):
                before = found.get(f"{family} {n // 10} {p}", {})
                found[f"{family} {n} {p}"] = one = measured(make(n, p, family), runners, before)
                print(f"{family} {n:,} × {p}: " + ", ".join(f"{k} {v:.4g}" for k, v in one.items()), flush=True)
                if target is not None:
                    target.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def formula(known: Seconds, target: Path | None) -> Seconds:
    """What is known with the seconds of a formula on a frame."""
    n, p = FORMULA
    problem = with_levels(n, p)
    one = measured(problem, [Runner(name, road) for name, road in by_formula(problem).items()], {})
    print(f"formula {n:,} × {p}: " + ", ".join(f"{k} {v:.4g}" for k, v in one.items()), flush=True)
    found = known | {f"formula {n} {p}": one}
    if target is not None:
        target.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


@dataclass(frozen=True)
class Cell:
    """A size: the seconds of torchglm and of its fastest peer."""

    family: str
    n: int
    p: int
    seconds: float
    peer: str
    least: float

    @property
    def ratio(self) -> float:
        return self.seconds / self.least


def cells(found: Seconds) -> list[Cell]:
    made = []
    for key, times in found.items():
        family, n, p = key.split()
        peers = {name: value for name, value in times.items() if name != "torchglm"}
        peer = min(peers, key=lambda name: peers[name])
        made.append(Cell(family, int(n), int(p), times["torchglm"], peer.split()[0], peers[peer]))
    return sorted(made, key=lambda c: (list(SHOWN).index(c.family), c.n, c.p))


def short(n: int) -> str:
    return f"{n // 10**6}M" if n >= 10**6 else f"{n // 1000}k" if n >= 1000 else str(n)


def table(made: list[Cell]) -> str:
    """Milliseconds, and the share of the fastest peer's, as Markdown."""
    lines = ["| | rows | columns | torchglm, ms | fastest peer, ms | share |", "|---|---:|---:|---:|---:|---:|"]
    for c in made:
        share = f"**{c.ratio:.2f}**" if c.ratio > 1 else f"{c.ratio:.2f}"
        times = f"{1e3 * c.seconds:,.3g} | {c.peer} {1e3 * c.least:,.3g}"
        lines.append(f"| {SHOWN[c.family]} | {c.n:,} | {c.p} | {times} | {share} |")
    return "\n".join(lines)


def wins(made: list[Cell]) -> str:
    """Where others are faster, the worst first, as Markdown."""
    lost = sorted((c for c in made if c.ratio > 1), key=lambda c: -c.ratio)
    lines = [
        f"- {SHOWN[c.family]}, {c.n:,} × {c.p}: {c.peer} {1e3 * c.least:,.3g} ms, torchglm {1e3 * c.seconds:,.3g} ms"
        for c in lost
    ]
    return "\n".join([f"Of {len(made)} sizes others win {len(lost)}:", "", *lines]) if lost else "Of these sizes none."


def draw(made: list[Cell], path: Path) -> None:
    """A heat map for each family, on a ground of its own so that it can be read on any page."""
    import matplotlib.pyplot as plt
    from matplotlib.colors import LogNorm

    figure, panels = plt.subplots(1, 3, figsize=(17, 4.6), layout="constrained", facecolor="white")
    for panel, (family, title) in zip(panels, NAMES.items(), strict=True):
        grid = np.full((len(ROWS), len(COLUMNS)), np.nan)
        for c in (c for c in made if c.family == family and c.n in ROWS and c.p in COLUMNS):
            i, j = ROWS.index(c.n), COLUMNS.index(c.p)
            grid[i, j] = c.ratio
            ink = "white" if not 0.3 < c.ratio < 3.3 else "black"
            panel.text(j, i, f"{c.ratio:.2g}\n{c.peer}", ha="center", va="center", fontsize=6.5, color=ink)
        image = panel.imshow(grid, cmap="RdBu_r", norm=LogNorm(1 / 8, 8), aspect="auto")
        panel.set_facecolor("#eeeeee")
        panel.set_xticks(range(len(COLUMNS)), [str(p) for p in COLUMNS])
        panel.set_yticks(range(len(ROWS)), [short(n) for n in ROWS])
        panel.set_xlabel("columns")
        panel.set_title(title)
    panels[0].set_ylabel("rows")
    bar = figure.colorbar(image, ax=panels, ticks=[1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8], shrink=0.9)
    bar.ax.set_yticklabels(["⅛", "¼", "½", "1", "2", "4", "8"])
    bar.ax.minorticks_off()
    bar.set_label("torchglm's time / the fastest peer's")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep", description=str(__doc__).splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes, written nowhere")
    parser.add_argument(
        "--rows",
        nargs="+",
        type=int,
        choices=sorted({*ROWS, *(n for n, _ in AIMS)}),
        help="these rows alone; the others stay",
    )
    parser.add_argument("--families", nargs="+", choices=list(SHOWN), default=list(SHOWN), help="these alone")
    parser.add_argument("--found", type=Path, default=FOUND, help="the file of what is known, and is found")
    args = parser.parse_args(argv)
    anew = args.quick or (args.rows is None and len(args.families) == len(SHOWN)) or not args.found.exists()
    known = {} if anew else json.loads(args.found.read_text(encoding="utf-8"))
    import torch

    torch.set_num_threads(1)
    with threadpool_limits(1):
        target = None if args.quick else args.found
        found = sweep(sizes(args.quick, args.rows), [one for one in args.families if one in NAMES], known, target)
        if "formula" in args.families:
            found = formula(found, target)
    if args.quick:
        print(table(cells(found)), wins(cells(found)), sep="\n\n")
    elif args.found == FOUND:
        write(cells(found))


def write(made: list[Cell]) -> None:
    """The picture and the two tables."""
    draw(made, PLOT)
    write_into(HERE / "README.md", table(made), *TABLE)
    write_into(SPEED, wins(made), *WINS)


if __name__ == "__main__":
    main()
