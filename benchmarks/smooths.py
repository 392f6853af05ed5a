"""python -m benchmarks.smooths [--rounds N] [--files N]: smooth terms with estimated strengths, beside pyGAM and mgcv.

Every contender fits the same counts, in turn with torchglm, in processor time. They do not have the same criterion:
torchglm and mgcv take strengths by REML, pyGAM the least GCV of a grid. So each fit is held to the mean that the counts
were drawn from: the root mean square of the difference of its linear predictor. mgcv is an optional peer, by `Rscript`,
which reads the data from a file and times itself. With `--files` so many rows are fitted from Parquet instead, by bins
and by rows, each in a process of its own.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

import torchglm as tg

TERMS = ("a", "b", "c")
SCRIPT = """suppressMessages(library(mgcv)); d <- read.csv("{path}", stringsAsFactors = TRUE)
for (i in 1:{rounds}) {{ t <- system.time(m <- {call}); cat(t[1] + t[2], "\\n") }}
cat(sqrt(mean((predict(m) - d$eta)^2)), "\\n")
"""
FORMULA = "y ~ g + " + " + ".join(f"s({name}, bs = 'cr')" for name in TERMS)
BINNED = FORMULA.replace("'cr'", "'cr', bins=1000")
PART = 1_000_000  # rows that are written to a file together
MGCV = {
    "mgcv gam, REML": f"gam({FORMULA}, family = poisson, data = d, method = 'REML')",
    "mgcv bam, discrete": f"bam({FORMULA}, family = poisson, data = d, discrete = TRUE)",
}


def counts(n: int, seed: int = 0) -> pd.DataFrame:
    """Counts with three curves and a factor, and their linear predictor."""
    rng = np.random.default_rng(seed)
    data = pd.DataFrame({name: rng.uniform(size=n) for name in TERMS})
    data["eta"] = -1 + np.sin(6 * data["a"]) + data["b"] ** 2 - 0.5 * np.cos(5 * data["c"])
    level = rng.integers(0, 8, n)
    data["eta"], data["g"] = data["eta"] + 0.1 * level, pd.Categorical.from_codes(level, [f"g{k}" for k in range(8)])
    data["y"] = rng.poisson(np.exp(data["eta"]))
    return data


def ours(data: pd.DataFrame, formula: str = FORMULA) -> np.ndarray:
    """The linear predictor of torchglm."""
    fit = tg.fit(formula, data, family="poisson")
    return np.log(fit.fitted.numpy())


def grid(data: pd.DataFrame) -> np.ndarray:
    """That of pyGAM, one strength for all terms from its grid of eleven."""
    from pygam import PoissonGAM, f, s

    x = np.column_stack([data[list(TERMS)].to_numpy(), data["g"].cat.codes])
    found = PoissonGAM(s(0, n_splines=10) + s(1, n_splines=10) + s(2, n_splines=10) + f(3))
    return np.log(found.gridsearch(x, data["y"].to_numpy(), progress=False).predict_mu(x))


CONTENDERS = {"torchglm": ours, "torchglm, bins=1000": lambda data: ours(data, BINNED), "pyGAM gridsearch": grid}


def timed(fit: Callable[[pd.DataFrame], np.ndarray], data: pd.DataFrame) -> tuple[float, float]:
    """Seconds of the processor, and how far the linear predictor is from the truth."""
    start = time.process_time()
    eta = fit(data)
    return time.process_time() - start, float(np.sqrt(np.mean((eta - data["eta"].to_numpy()) ** 2)))


def of_mgcv(call: str, data: pd.DataFrame, rounds: int) -> tuple[float, float]:
    """The same of a call of R."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "counts.csv"
        data.to_csv(path, index=False)
        script = SCRIPT.format(path=path, rounds=rounds, call=call)
        said = subprocess.run(["Rscript", "-e", script], capture_output=True, text=True, check=True).stdout.split()
    return statistics.median(map(float, said[:-1])), float(said[-1])


def many(models: int = 1000, n: int = 200, some: int = 20) -> list[str]:
    """The rows of a table of so many small models at once, beside loops over some of them, one curve each."""
    data = pd.concat([counts(n, k).assign(m=k) for k in range(models)], ignore_index=True)
    start = time.process_time()
    tg.fit("y ~ s(a, bs='cr')", data, family="poisson", by="m")
    found = {"torchglm, one call": time.process_time() - start}
    few = [data[data["m"] == k] for k in range(some)]
    start = time.process_time()
    for one in few:
        tg.fit("y ~ s(a, bs='cr')", one, family="poisson")
    found["torchglm, a loop"] = (time.process_time() - start) * models / some
    start = time.process_time()
    for one in few:
        _small_grid(one)
    found["pyGAM gridsearch, a loop"] = (time.process_time() - start) * models / some
    if shutil.which("Rscript") is not None:
        call = "gam(y ~ s(a, bs = 'cr'), family = poisson, data = d, method = 'REML')"
        each = [of_mgcv(call, one, 3)[0] for one in few]
        found["mgcv gam, REML, a loop"] = statistics.mean(each) * models
    own = found["torchglm, one call"]
    title = f"{models:,} models of {n}"
    return [f"| {title} | {name} | {seconds:.2f} | {seconds / own:.2f} | |" for name, seconds in found.items()]


def _small_grid(data: pd.DataFrame) -> None:
    from pygam import PoissonGAM, s

    PoissonGAM(s(0, n_splines=10)).gridsearch(data[["a"]].to_numpy(), data["y"].to_numpy(), progress=False)


def of_files(n: int) -> None:
    """The rows of a table of so many rows from Parquet, with the most memory that a process has taken."""
    with tempfile.TemporaryDirectory() as folder:
        for part in range(-(-n // PART)):
            data = counts(min(PART, n - part * PART), part).drop(columns="eta").astype(dict.fromkeys(TERMS, "float32"))
            data.to_parquet(Path(folder) / f"rows{part}.parquet")
        print("| rows from Parquet | torchglm | processor seconds | seconds | peak memory of the process, GB |")
        print("|---:|---|---:|---:|---:|")
        for name, formula in (("bins=1000", BINNED), ("by rows", FORMULA)):
            given = [sys.executable, "-m", "benchmarks.smooths", "--fit", folder, formula]
            said = subprocess.run(given, capture_output=True, text=True, check=True).stdout.split()
            print(f"| {n:,} | {name} | {' | '.join(said)} |", flush=True)


def of_one_file(path: str, formula: str) -> None:
    """Fit the rows of a file in this process, and say what it took."""
    start, clock = time.process_time(), time.perf_counter()
    tg.fit(formula, path, family="poisson").summary()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{time.process_time() - start:.0f} {time.perf_counter() - clock:.0f} {peak:.2f}")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.smooths", description=str(__doc__).splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000, 100_000])
    parser.add_argument("--files", type=int, help="fit so many rows from Parquet")
    parser.add_argument("--fit", nargs=2, metavar=("FILE", "FORMULA"), help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.fit:
        return of_one_file(*given.fit)
    if given.files:
        return of_files(given.files)
    print(
        "| rows | contender | processor seconds | times torchglm | error of the predictor |\n|---:|---|---:|---:|---:|"
    )
    for n in given.rows:
        data, found = counts(n), dict[str, list[tuple[float, float]]]()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ours(data.head(200))
            for _ in range(given.rounds):
                for name, fit in CONTENDERS.items():
                    found.setdefault(name, []).append(timed(fit, data))
        rows = {name: (statistics.median(t for t, _ in one), one[0][1]) for name, one in found.items()}
        if shutil.which("Rscript") is not None:
            rows |= {name: of_mgcv(call, data, given.rounds) for name, call in MGCV.items()}
        for name, (seconds, error) in rows.items():
            print(f"| {n:,} | {name} | {seconds:.2f} | {seconds / rows['torchglm'][0]:.2f} | {error:.4f} |", flush=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        print("\n".join(many()))


if __name__ == "__main__":
    main()
