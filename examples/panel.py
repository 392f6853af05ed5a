"""Firms over the years: absorbed factors, few clusters, dependence in time.

python examples/panel.py [--quick]

Grunfeld's panel (Boot & de Wit 1960; public domain, from statsmodels): the investment of eleven firms over twenty years
by the value of the firm and its stock of capital. Effects of firms and years are absorbed, y ~ x | firm + year; eleven
clusters are few, so that errors, degrees of freedom and limits are those of CR2 and of the wild bootstrap of scores.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torchglm
from torchglm import tables

DATA = Path(__file__).resolve().parent / "data" / "grunfeld.parquet"


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer draws of the bootstrap")
    draws = 199 if parser.parse_args().quick else 999
    data = tables.read_table(DATA)
    firm, year = (data[name].to_numpy(zero_copy_only=False) for name in ("firm", "year"))

    # a Poisson likelihood for a mean that is a product of effects (PPML); its errors are robust, not Poisson's
    absorbed = torchglm.fit("invest ~ log(value) + log(capital) | firm + year", data, family="poisson")
    print(absorbed.robust("cluster", firm).summary())
    effects = absorbed.absorbed.effects["firm"]
    for name, effect in sorted(zip(absorbed.absorbed.known["firm"], effects.tolist(), strict=True), key=lambda e: e[1]):
        print(f"  {name:18} {effect:+.2f}")

    # so few firms: with them written out, errors corrected for leverage and degrees of freedom of each coefficient
    written = torchglm.fit("invest ~ log(value) + log(capital) + C(firm) + C(year)", data, family="poisson")
    few = written.robust("cluster", firm, type="CR2")
    columns = ["log(value)", "log(capital)"]
    for name in columns:
        j = written.names.index(name)
        plain, corrected = absorbed.robust("cluster", firm), few
        low, high = corrected.conf_int()[j].tolist()
        print(
            f"{name:13} {float(few.coef[j]):.3f}   clustered {float(plain.std_err[columns.index(name)]):.3f}   "
            f"CR2 {float(few.std_err[j]):.3f} with {float(few.reference_df[j]):.1f} df: {low:.3f} to {high:.3f}"
        )
    print(written.wild_bootstrap(firm, columns, draws=draws))

    # shocks of a year reach all firms, and last: Driscoll and Kraay's errors
    shocks = absorbed.robust("driscoll_kraay", order=year, lags=2)
    print(f"errors by year, two lags: {', '.join(f'{error:.3f}' for error in shocks.std_err.tolist())}")
    gap = (absorbed.coef - written.coef[1:3]).abs().max()
    print(f"largest distance of absorbed from written out: {float(gap):.1e}")


if __name__ == "__main__":
    main()
