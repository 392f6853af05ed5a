"""Time to event with censoring: how long 9,105 seriously ill patients live, by a network that ends in a law of times.

python examples/survival.py [--quick]

Trains one network with an embedding of the disease under Weibull, log-normal and log-logistic heads, each with a
location and a scale of its own for every patient, and fits the log-logistic law of plain columns beside them. A third
of the patients were alive at the end of follow-up: a head takes them by `event`. Scores and curves are those of
patients that nothing was trained on: the picture, runs/survival/survival.png, has Kaplan-Meier curves of five groups by
predicted survival, and whether the transforms F(t) are uniform, as those of a right law are.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from matplotlib.axes import Axes
from torch import Tensor, nn

import torchglm as tg

DATA = Path(__file__).resolve().parent / "data" / "support.parquet"
PICTURE = Path("runs/survival/survival.png")
LAWS = ("weibull", "lognormal", "loglogistic")
# what the study puts in the place of a measurement that was not made: a normal value
NORMAL = {"albumin": 3.5, "oxygen": 333.3, "bilirubin": 1.01, "creatinine": 1.01, "white_cells": 9.0}
SKEWED = ["bilirubin", "creatinine", "white_cells"]
FLAGS = ["female", "diabetes", "dementia"]
NUMBERS = ["age", "comorbidities", "coma", "pressure", "heart_rate", "breath_rate", "temperature", "sodium", *NORMAL]
WIDTH = 16
YEAR = 365.25


@dataclass
class Patients:
    """Columns `(n, 18)`, codes of the disease, days from the third on, and whether they ended in death `(n,)`."""

    x: Tensor
    disease: Tensor
    days: Tensor
    died: Tensor

    def take(self, index: Tensor) -> Patients:
        return Patients(self.x[index], self.disease[index], self.days[index], self.died[index])

    @property
    def plain(self) -> Tensor:
        """The columns with indicators of the disease, for a model without a network."""
        return torch.cat([self.x, nn.functional.one_hot(self.disease)[:, 1:].to(self.x)], 1)


def patients(quick: bool) -> tuple[Patients, Patients]:
    """Two thirds to train on, a third that nothing is trained on."""
    rows = pd.read_parquet(DATA)
    rows = rows.iloc[::8] if quick else rows
    numbers = rows[NUMBERS].fillna(NORMAL)
    numbers = numbers.fillna(numbers.median())
    numbers[SKEWED] = numbers[SKEWED].clip(lower=0.1).apply("log")
    numbers = (numbers - numbers.mean()) / numbers.std()
    cancer = pd.get_dummies(rows["cancer"])[["yes", "metastatic"]]
    x = torch.tensor(pd.concat([numbers, rows[FLAGS], cancer], axis=1).to_numpy("float32"))
    codes = torch.tensor(rows["disease"].astype("category").cat.codes.to_numpy("int64"))
    days, died = (torch.tensor(rows[name].to_numpy("float32")) for name in ("days", "died"))
    every = Patients(x, codes, days - 2, died)  # patients entered on the third day: nobody died before
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    third = len(x) // 3
    return every.take(order[third:]), every.take(order[:third])


class Survival(nn.Module):
    """An embedding of the disease beside the columns, two layers, and a head of times."""

    def __init__(self, law: str, columns: int, diseases: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(diseases, 4)
        self.layers = nn.Sequential(
            nn.Linear(columns + 4, 48), nn.SiLU(), nn.Dropout(0.3), nn.Linear(48, WIDTH), nn.SiLU()
        )
        self.head = tg.GLMHead(WIDTH, law, predictors=("scale",))

    def features(self, of: Patients) -> Tensor:
        return self.layers(torch.cat([of.x, self.embedding(of.disease)], 1))

    def loss(self, of: Patients) -> Tensor:
        return self.head.loss(self.features(of), of.days, event=of.died)

    @torch.no_grad()
    def eta(self, of: Patients) -> Tensor:
        """(2, n) the location and the log scale of log time."""
        return self.head.predictors(self.features(of))[..., 0].double()


def train(law: str, known: Patients, epochs: int) -> Survival:
    """AdamW on minibatches of 256, from the law of all patients together, with a rate that falls to zero."""
    torch.manual_seed(0)
    network = Survival(law, known.x.shape[1], int(known.disease.max()) + 1)
    network.head.init_from(known.days, event=known.died)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for index in torch.randperm(len(known.days)).split(256):
            optimizer.zero_grad()
            network.loss(known.take(index)).backward()
            optimizer.step()
        schedule.step()
    return network.eval()


@dataclass
class Law:
    """A law of times for each of n patients: `family` at `eta` (2, n)."""

    family: str
    eta: Tensor

    def survival(self, days: Tensor) -> Tensor:
        """(*S, n) the probability to live longer than `days` (*S, 1) or (n,)."""
        return tg.GLMLoss(self.family, predictors=("scale",)).law(self.eta).sf(days)

    def nll(self, of: Patients) -> Tensor:
        """(n,) minus the log-likelihood: of deaths the density, of others the survival function."""
        law = tg.GLMLoss(self.family, predictors=("scale",)).law(self.eta)
        return -torch.where(of.died > 0, law.log_prob(of.days.double()), law.sf(of.days).log())


def plain(known: Patients, new: Patients) -> Law:
    """The log-logistic law of plain columns, with columns for its scale too: no network."""
    fit = tg.fit(known.plain, known.days, family="loglogistic", event=known.died, predictors={"scale": known.plain})
    design, width = new.plain.double(), new.plain.shape[1] + 1
    columns = torch.cat([torch.ones_like(design[:, :1]), design], 1)
    return Law("loglogistic", torch.stack([columns @ fit.coef[:width], columns @ fit.coef[width:]]))


def concordance(risk: Tensor, of: Patients) -> float:
    """The share of pairs of which one is known to have died first, that were told the right way round."""
    first = (of.days[:, None] < of.days) & (of.died[:, None] > 0)
    told = (risk[:, None] > risk).double() + 0.5 * (risk[:, None] == risk)
    return float(told[first].mean())


def kaplan_meier(time: Tensor, event: Tensor) -> tuple[Tensor, Tensor]:
    """The times at which something happened, and the share that survives each."""
    times, place = time.unique(return_inverse=True)
    left, died = (
        torch.zeros(len(times), dtype=torch.float64).index_add_(0, place, one)
        for one in (torch.ones_like(time).double(), event.double())
    )
    at_risk = left.flip(0).cumsum(0).flip(0)
    return times, (1 - died / at_risk).cumprod(0)


def line(name: str, law: Law, of: Patients) -> str:
    """A row of the table; the Brier score is that of death within a year, which all were watched for."""
    year = law.survival(torch.full_like(of.days, YEAR))
    watched = (of.died > 0) | (of.days >= YEAR)
    brier = ((of.days > YEAR).double() - year).square()[watched].mean()
    return (
        f"| {name:<24} | {law.nll(of).mean():.3f} | {concordance(-year, of):.3f} | {brier:.4f} "
        f"| {departure(law, of):.3f} |"
    )


def departure(law: Law, of: Patients) -> float:
    """The largest distance of the Kaplan-Meier curve of F(t) from that of uniform numbers."""
    at, share = kaplan_meier(1 - law.survival(of.days), of.died)
    return float((share - (1 - at)).abs()[at < 0.95].max())


def draw(laws: dict[str, Law], best: str, of: Patients) -> Path:
    """Five groups by predicted survival, seen and told, and the transforms of each law."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5), layout="constrained", width_ratios=[3, 2])
    _draw_groups(left, laws[best], best, of)
    for name, law in laws.items():
        at, share = kaplan_meier(1 - law.survival(of.days), of.died)
        right.plot(at, (1 - share) - at, label=name, linewidth=1.4)
    right.axhline(0, color="black", linewidth=0.8)
    right.set(
        xlabel="F(t) of the law", ylabel="share below, less what is due", title="Calibration of all times (0 is right)"
    )
    right.legend(fontsize=9)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE, dpi=130)
    return PICTURE


def _draw_groups(axes: Axes, law: Law, name: str, of: Patients) -> None:
    days = torch.logspace(0, 3.3, 60)
    told = law.survival(days[:, None])
    order = law.survival(torch.full_like(of.days, YEAR)).argsort()
    for k, group in enumerate(order.chunk(5)):
        at, share = kaplan_meier(of.days[group], of.died[group])
        axes.step(at, share, where="post", color=f"C{k}", label="seen (Kaplan-Meier)" if k == 0 else None)
        axes.plot(days, told[:, group].mean(1), "--", color=f"C{k}", label="told by the head" if k == 0 else None)
        axes.annotate(f"{k + 1}", (days[-1], float(told[-1, group].mean())), xytext=(5, -3), textcoords="offset points")
    axes.set(
        xscale="log",
        xlabel="days from the third in hospital on",
        ylabel="share alive",
        ylim=(0, 1.02),
        xlim=(1, 2700),
    )
    axes.set_title(f"New patients, five groups by predicted survival: {name}")
    axes.set_xticks([1, 3, 10, 30, 100, 365, 1000], ["1", "3", "10", "30", "100", "365", "1000"])
    axes.minorticks_off()
    axes.legend(loc="lower left", fontsize=9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="every eighth patient, three epochs")
    quick = parser.parse_args().quick
    known, new = patients(quick)
    alive = float(1 - known.died.mean())
    print(
        f"{len(known.days):,} patients to train on, {alive:.0%} of them alive at the end; {len(new.days):,} new ones\n"
    )
    laws = {f"network, {law}": Law(law, train(law, known, 3 if quick else 30).eta(new)) for law in LAWS}
    laws["columns, loglogistic"] = plain(known, new)
    print("| model                    | -log likelihood | concordance | Brier, a year | departure from uniform |")
    print("|---|---|---|---|---|")
    for name, law in laws.items():
        print(line(name, law, new))
    best = min(laws, key=lambda name: float(laws[name].nll(new).mean()))
    print(f"\nbest: {best}; picture: {draw(laws, best, new)}")


if __name__ == "__main__":
    main()
