"""A tariff of ordered bands: which ages cost alike, and a price that does not rise with the family (RAND experiment).

python examples/tariff.py [--quick]

The expected visits to a physician per year, by three-year steps of age and the size of the family, three times: every
level by itself; steps of age held together by a fused lasso whose strength BIC chooses; and the price list, with the
bands it made, in which a larger family never costs more a head. Writes runs/tariff/bands.png and the page of the price
list. With --quick only every fourth row is taken.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import torchglm as tg
from torchglm.report import write_page

DATA = Path(__file__).resolve().parent / "data" / "randhie.parquet"
FOLDER = Path("runs/tariff")
STEP = 3  # years
SIZES = range(1, 10)
MODEL = {"family": "poisson", "exposure": "eligible"}
BESIDE = "family + C(health) + female + log_coinsurance"


def banded(rows: pd.DataFrame) -> tuple[tg.Result, pd.Series]:
    """The fused fit of the least BIC, and the band of every step of age that it makes."""
    count = len(rows)
    fits = [
        tg.fit(f"visits ~ step + {BESIDE}", rows, **MODEL, dispersion="pearson", penalty=tg.Fused(strength, "step"))
        for strength in np.geomspace(0.2, 0.002, 20)
    ]
    spread = float(fits[-1].dispersion)  # visits vary more than Poisson counts
    best = min(fits, key=lambda fit: float(fit.deviance) / spread + np.log(count) * float(fit.flat.df))
    steps = list(rows["step"].cat.categories)
    level = torch.cat([torch.zeros(1).double(), best.coef[1 : len(steps)]])
    start = [0, *(j for j in range(1, len(steps)) if level[j] != level[j - 1]), len(steps)]
    names = {}
    for first, end in zip(start, start[1:], strict=False):
        last = steps[end - 1].split("-")[-1]
        names |= dict.fromkeys(steps[first:end], f"{steps[first].split('-')[0]}-{last}")
    return best, pd.Series(names)


def levels(fit: tg.Result, term: str, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The factors of the levels of a term against its first, and their standard errors on the log scale."""
    known = {name: j for j, name in enumerate(fit.names)}
    at = [known.get(f"{term}[T.{name}]") for name in names]
    coef = [0.0 if j is None else float(fit.coef[j]) for j in at]
    return np.exp(coef), np.nan_to_num([0.0 if j is None else float(fit.std_err[j]) for j in at])


def picture(plain: tg.Result, fused: tg.Result, price: tg.Result, bands: pd.Series, file: Path) -> None:
    import matplotlib.pyplot as plt

    steps, sizes = list(bands.index), [str(size) for size in SIZES]
    _, (left, right) = plt.subplots(1, 2, figsize=(10, 4), width_ratios=[2, 1], sharey=True, layout="constrained")
    for axes, term, names, place in (
        (left, "step", steps, np.arange(len(steps)) * STEP + STEP / 2),
        (right, "family", sizes, np.array(SIZES, float)),
    ):
        each, error = levels(plain, term, names)
        bars = each - each * np.exp(-1.96 * error), each * np.exp(1.96 * error) - each
        axes.errorbar(place, each, bars, fmt="o", ms=4, color="0.45", lw=1, label="every level alone")
        axes.spines[["top", "right"]].set_visible(False)
    edges = np.arange(len(steps) + 1) * STEP
    left.stairs(levels(fused, "step", steps)[0], edges, color="tab:blue", lw=1.5, ls="--", baseline=None, label="fused")
    left.stairs(
        levels(price, "band", list(bands))[0], edges, color="tab:orange", lw=2, baseline=None, label="price list"
    )
    right.stairs(
        levels(price, "family", sizes)[0], np.r_[SIZES, SIZES[-1] + 1] - 0.5, color="tab:orange", lw=2, baseline=None
    )
    left.set_xlabel("age")
    right.set_xlabel(f"persons in the family ({SIZES[-1]}: and more)")
    left.set_ylabel("visits over those of the first level")
    left.set_ylim(0, None)
    left.legend(frameon=False, loc="lower right")
    plt.savefig(file, dpi=150)
    plt.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="every fourth row")
    rows = pd.read_parquet(DATA)
    rows = rows.iloc[::4] if parser.parse_args().quick else rows
    starts = range(0, 63, STEP)
    names = [f"{a}-{a + STEP - 1}" for a in starts]
    rows = rows.assign(
        step=pd.cut(rows["age"], [*starts, 1000], right=False, labels=names),
        family=pd.Categorical(rows["family_size"].clip(upper=SIZES[-1]), SIZES),
    )

    plain = tg.fit(f"visits ~ step + {BESIDE}", rows, **MODEL, dispersion="pearson")
    fused, bands = banded(rows)
    ordered = pd.Categorical(rows["step"].map(bands), list(dict.fromkeys(bands)), ordered=True)
    rows = rows.assign(band=ordered)
    price = tg.fit(
        f"visits ~ band + {BESIDE}",
        rows,
        **MODEL,
        dispersion="pearson",
        monotone={"family": "decreasing", "C(health)": "increasing"},
        upper={"log_coinsurance": 0.0},
    )
    print(price.summary())
    print(price.constraints)
    print(f"{len(names)} steps of age make {len(ordered.categories)} bands: {', '.join(ordered.categories)}")
    print(f"certificates: {float(fused.kkt):.1e} (fused), {float(price.kkt):.1e} (price list)")
    FOLDER.mkdir(parents=True, exist_ok=True)
    picture(plain, fused, price, bands, FOLDER / "bands.png")
    print(f"picture of the bands: {FOLDER / 'bands.png'}")
    print(f"report: {write_page(price, FOLDER / 'report.html', data=DATA.name)}")


if __name__ == "__main__":
    main()
