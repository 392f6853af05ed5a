"""Seven classes in an order: party identification in 1996, by proportional odds, freed odds and a multinomial model.

python examples/classes.py [--quick]

Writes the page of the ordinal model to runs/classes/report.html. With --quick only every third row is taken.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
import torch

import torchglm as tg
from torchglm.report import write_page

DATA = Path(__file__).resolve().parent / "data" / "anes96.parquet"
FORMULA = "party ~ left_right + age + education + income"
PAGE = Path("runs/classes/report.html")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="every third row")
    rows = pd.read_parquet(DATA)
    rows = rows.iloc[::3] if parser.parse_args().quick else rows

    ordinal = tg.fit(FORMULA, rows, family="ordinal")
    free = tg.fit(FORMULA, rows, family=tg.Ordinal(free=["left_right"]))
    multinomial = tg.fit(FORMULA, rows, family="multinomial")
    print(ordinal.summary(), end="\n\n")

    models = {"proportional odds": ordinal, "left_right by cut": free, "multinomial": multinomial}
    for name, model in models.items():
        print(f"{name:>18}: {int(model.n_parameters):2d} parameters, AIC {float(model.aic):.1f}")

    # what a step from the left to the right does to the probability of every class, all else as it is
    left, right = (ordinal.predict(rows.assign(left_right=place)).mean(0) for place in (2, 6))
    print("\nmean probability   " + "  ".join(f"{name!s:>5}" for name in ordinal.classes))
    for name, share in (("liberal", left), ("conservative", right)):
        print(f"{name:>18} " + "  ".join(f"{value:.3f}" for value in share))

    told = (ordinal.predict(rows).argmax(-1) == torch.tensor(rows["party"].to_numpy())).double().mean()
    print(f"\nshare of rows whose class is the most probable one: {float(told):.3f}")
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    print(f"report: {write_page(ordinal, PAGE, data=DATA.name)}")


if __name__ == "__main__":
    main()
