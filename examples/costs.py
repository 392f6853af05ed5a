"""Costs in two parts: whether a family spends on care, and how much. The RAND experiment, three laws of the amount.

python examples/costs.py [--quick]

Writes the page of the chosen model to runs/costs/report.html. With --quick only every tenth row is taken.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

import torchglm as tg
from torchglm.report import write_page

DATA = Path(__file__).resolve().parent / "data" / "randhie.parquet"
TERMS = "log_coinsurance + C(health) + income"
PAGE = Path("runs/costs/report.html")
LAWS = {"gamma": "log", "inverse_gaussian": "log", "lognormal": None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="every tenth row")
    rows = pd.read_parquet(DATA)
    rows = rows.iloc[::10] if parser.parse_args().quick else rows

    fits = {}
    for law, link in LAWS.items():
        fits[law] = tg.fit(
            f"spending ~ {TERMS}", rows, family=tg.Hurdle(law), link=link, predictors={"zero": f"~ {TERMS}"}
        )
        print(f"{law:>17}: log-likelihood {float(fits[law].loglik):,.1f}, AIC {float(fits[law].aic):,.1f}")
    best = min(fits, key=lambda law: float(fits[law].aic))
    print(f"\nlowest AIC: {best}\n\n{fits[best].summary()}\n")

    # free care against full coinsurance: who spends nothing, and what is spent on average
    for name, level in (("free care", 0.0), ("95 % coinsurance", float(rows["log_coinsurance"].max()))):
        new = rows.assign(log_coinsurance=level)
        zero, mean = (fits[best].predict(new, kind=kind).mean() for kind in ("zero", "mean"))
        print(f"{name:>17}: {100 * float(zero):.1f} % spend nothing, mean spending {float(mean):.0f} dollars")
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    print(f"report: {write_page(fits[best], PAGE, data=DATA.name)}")


if __name__ == "__main__":
    main()
