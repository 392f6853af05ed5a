"""A path of strengths: which traits of voters and which of their products tell a vote, and how sure one may be of it.

python examples/path.py [--quick]

The American National Election Study of 1996 (public domain, from statsmodels): the vote for Clinton or Dole by seven
traits and all their products, 28 columns for 944 persons. A lasso of a hundred strengths is cross-validated with ten
folds; the chosen columns have no errors of their own, so that half of the persons choose and the others fit, or the
bias of the lasso is taken off.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torchglm
from torchglm import tables
from torchglm.report import path_plots

DATA = Path(__file__).resolve().parent / "data" / "anes96.parquet"
FORMULA = "vote ~ (party + left_right + age + education + income + tv_news + log(1 + population))**2"


def interval(result: torchglm.Result, column: int) -> str:
    low, high = result.conf_int()[column].tolist()
    return f"{low:+.4f} to {high:+.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer strengths and folds")
    quick = parser.parse_args().quick
    data = tables.read_table(DATA)
    path = torchglm.path(FORMULA, data, family="bernoulli", folds=3 if quick else 10, n=30 if quick else 100)
    print(path)
    print(f"every point is the minimum, to {float(path.kkt.max()):.0e} of the largest slope")

    for word in ("best", "one_se", "aic", "bic", "ebic"):
        fit = path.select(word)
        place = int(path.place(word))
        strength, columns = float(path.strength[place]), int(path.df[place])
        print(f"{word:7} strength {strength:.4f}: {columns:2} columns, deviance {float(fit.deviance):.1f}")

    chosen = path.select("bic")
    debiased = path.select("bic", inference="debiased")
    halves = path.select("bic", inference="split", seed=1)
    print("\ncolumns that BIC chooses: of the lasso, with its bias taken off, and by the half that did not choose")
    for j, name in enumerate(path.names):
        if name != "(Intercept)" and float(chosen.coef[j]) != 0:
            other = "not chosen" if float(halves.coef[j]) == 0 else interval(halves, j)
            print(f"{name:28} {float(chosen.coef[j]):+.4f}   {interval(debiased, j)}   {other}")

    folder = Path("runs/path")
    folder.mkdir(parents=True, exist_ok=True)
    path_plots.coefficients(path, int(path.place("bic"))).savefig(folder / "coefficients.png", dpi=120)
    path_plots.validation(path, int(path.place("bic"))).savefig(folder / "validation.png", dpi=120)
    path.save(folder / "path")
    print(f"pictures of the path: {folder}")


if __name__ == "__main__":
    main()
