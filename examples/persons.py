"""Visits to doctors of 5,912 persons in six places over five years: random effects at three levels.

python examples/persons.py [--quick]

The RAND health insurance experiment: how far does a share of the costs of one's own keep people from the doctor? A year
belongs to a person, a person to a place. With --quick every tenth person is taken.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

import torchglm as tg
from torchglm.report.random_plots import caterpillar

DATA = Path(__file__).resolve().parent / "data" / "randhie.parquet"
RUNS = Path("runs/persons")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    data = pd.read_parquet(DATA)
    data = data[data["person"] % 10 == 0] if quick else data

    fixed = "visits ~ log_coinsurance + chronic + female"
    plain = tg.fit(fixed, data, family="negative_binomial")
    persons = tg.fit(f"{fixed} + (1 | person)", data, family="negative_binomial")
    both = tg.fit(f"{fixed} + (1 | site) + (1 | person)", data, family="negative_binomial")

    print(both.summary())
    print("\nWithout persons a year counts as if it were somebody else's: standard errors of the share of costs")
    print(f"  none {float(plain.std_err[1]):.4f}, persons {float(persons.std_err[1]):.4f}")
    print(both.lr_test(persons))
    print(both.variance_components())

    RUNS.mkdir(parents=True, exist_ok=True)
    for name in both.random:
        caterpillar(both.random[name]).savefig(RUNS / f"{name}.svg")
    print(f"pictures of the effects: {RUNS}")


if __name__ == "__main__":
    main()
