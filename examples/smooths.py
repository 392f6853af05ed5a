"""Curves of age and income in the number of visits to a physician: the RAND experiment, a rate per year of eligibility.

python examples/smooths.py [--quick]

Writes the page of the fit to runs/smooths/report.html. With --quick only every tenth row is taken.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

import torchglm as tg
from torchglm.report import write_page

DATA = Path(__file__).resolve().parent / "data" / "randhie.parquet"
FORMULA = "visits ~ C(health) + log_coinsurance + s(age, by=sex, bs='cr') + C(sex) + s(income, bs='ps') + s(chronic)"
PAGE = Path("runs/smooths/report.html")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="every tenth row")
    rows = pd.read_parquet(DATA)
    rows = rows.iloc[::10] if parser.parse_args().quick else rows
    rows = rows.assign(sex=rows["female"].map({0: "male", 1: "female"}))

    fit = tg.fit(FORMULA, rows, family="negative_binomial", exposure="eligible")
    print(fit.summary())

    # how far the rate of the young and the old lies from that at 40, for women and men
    for sex in ("female", "male"):
        curve = fit.smooths[f"s(age):sex{sex}"]
        value, _ = curve.curve([5, 40, 60])
        ratios = (value - value[1]).exp().tolist()
        print(f"{sex:>7}: rate at 5 and at 60 over that at 40: {ratios[0]:.2f} and {ratios[2]:.2f}")
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    print(f"report: {write_page(fit, PAGE, data=DATA.name)}")


if __name__ == "__main__":
    main()
