"""Heads against torch's losses: visits to a doctor in the RAND experiment, by one network with embeddings.

python examples/heads.py [--quick]

Trains the same backbone under each loss, by seeds and learning rates, and scores the law that each of them says on
persons that nothing was trained on: a table of log scores, coverage and runs that end in NaN, drawn to
runs/heads/heads.png. For the losses that know no counts, mass between y - 1/2 and y + 1/2 counts as y, and mass below
1/2 as 0, which is kind to them.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

import torchglm as tg

DATA = Path(__file__).resolve().parent / "data" / "randhie.parquet"
NUMBERS = ["log_coinsurance", "income", "age", "female", "family_size", "chronic", "limitation"]
LEVELS = ["site", "plan", "year"]
PICTURE = Path("runs/heads/heads.png")
WIDTH = 16
BINS = 10


@dataclass
class Rows:
    """Numbers `(n, 7)`, levels `(n, 3)`, visits and exposures `(n,)`."""

    numbers: Tensor
    levels: Tensor
    y: Tensor
    exposure: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def take(self, index: Tensor) -> Rows:
        return Rows(self.numbers[index], self.levels[index], self.y[index], self.exposure[index])


class Backbone(nn.Module):
    """An embedding of each factor beside the numbers, and two layers: `WIDTH` features."""

    def __init__(self, levels: list[int]) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(count, 4) for count in levels)
        columns = len(NUMBERS) + 4 * len(levels)
        self.layers = nn.Sequential(nn.Linear(columns, 32), nn.ReLU(), nn.Linear(32, WIDTH), nn.ReLU())

    def forward(self, rows: Rows) -> Tensor:
        embedded = [table(rows.levels[:, k]) for k, table in enumerate(self.embeddings)]
        return self.layers(torch.cat([rows.numbers, *embedded], -1))


class Rival(nn.Module):
    """A last layer and a loss: `loss(features, rows)`, and of held-out rows the `Scores` of the law it says."""

    def loss(self, z: Tensor, rows: Rows) -> Tensor:
        raise NotImplementedError

    def scores(self, z: Tensor, rows: Rows) -> Scores:
        raise NotImplementedError


@dataclass
class Scores:
    """Of each row minus the log probability of its visits, and the law below them: `P(Y < y)`, `P(Y <= y)`, mean."""

    nll: Tensor
    below: Tensor
    until: Tensor
    mean: Tensor

    @classmethod
    def of_law(cls, law: tg.distributions.GLMDistribution, y: Tensor) -> Scores:
        before = torch.where(y > 0, law.cdf((y - 1).clamp(min=0)), 0.0)
        return cls(-law.log_prob(y), before, law.cdf(y), law.mean)

    @classmethod
    def of_normal(cls, mean: Tensor, variance: Tensor, y: Tensor) -> Scores:
        law = torch.distributions.Normal(mean, variance.sqrt(), validate_args=False)
        until = law.cdf(y + 0.5)
        nll = torch.where(y > 0, -law.log_prob(y), -torch.special.log_ndtr((0.5 - mean) / variance.sqrt()))
        return cls(nll, torch.where(y > 0, law.cdf(y - 0.5), 0.0), until, mean)


class Head(Rival):
    """A head of torchglm, of any family of counts."""

    def __init__(self, family: str) -> None:
        super().__init__()
        self.head = tg.GLMHead(WIDTH, family)

    def loss(self, z: Tensor, rows: Rows) -> Tensor:
        return self.head.loss(z, rows.y, exposure=rows.exposure)

    def scores(self, z: Tensor, rows: Rows) -> Scores:
        return Scores.of_law(self.head.law(z, rows.exposure.log()), rows.y[:, None])


class Torch(Rival):
    """A linear layer and a loss of torch on what `link` makes of it: the rate, times the exposure."""

    def __init__(self, loss: nn.Module, link: Callable[[Tensor], Tensor], outputs: int = 1) -> None:
        super().__init__()
        self.linear, self.criterion, self.link = nn.Linear(WIDTH, outputs), loss, link
        self.register_buffer("spread", torch.ones(()))  # of the least squares in training

    def means(self, z: Tensor, rows: Rows) -> Tensor:
        return self.link(self.linear(z)[:, 0]) * rows.exposure

    def loss(self, z: Tensor, rows: Rows) -> Tensor:
        if isinstance(self.criterion, nn.GaussianNLLLoss):
            return self.criterion(self.means(z, rows), rows.y, self.variance(z))
        if isinstance(self.criterion, nn.PoissonNLLLoss) and self.criterion.log_input:
            return self.criterion(self.linear(z)[:, 0] + rows.exposure.log(), rows.y)
        found = self.criterion(self.means(z, rows), rows.y)
        if isinstance(self.criterion, nn.MSELoss):
            self.spread.lerp_(found.detach(), 0.05)
        return found

    def variance(self, z: Tensor) -> Tensor:
        return functional.softplus(self.linear(z)[:, 1])

    def scores(self, z: Tensor, rows: Rows) -> Scores:
        mean = self.means(z, rows)
        if isinstance(self.criterion, nn.PoissonNLLLoss):
            return Scores.of_law(tg.GLMLoss("poisson").law(mean.log()), rows.y)
        known = isinstance(self.criterion, nn.MSELoss)
        return Scores.of_normal(mean, self.spread.expand_as(mean) if known else self.variance(z), rows.y)


def _same(eta: Tensor) -> Tensor:
    return eta


RIVALS: dict[str, Callable[[], Rival]] = {
    "GLMHead negative_binomial": lambda: Head("negative_binomial"),
    "GLMHead poisson": lambda: Head("poisson"),
    "PoissonNLLLoss, exp": lambda: Torch(nn.PoissonNLLLoss(), torch.exp),
    "PoissonNLLLoss, softplus": lambda: Torch(nn.PoissonNLLLoss(log_input=False), functional.softplus),
    "MSELoss, softplus": lambda: Torch(nn.MSELoss(), functional.softplus),
    "MSELoss": lambda: Torch(nn.MSELoss(), _same),
    "GaussianNLLLoss": lambda: Torch(nn.GaussianNLLLoss(), _same, outputs=2),
}


def parts(quick: bool) -> tuple[Rows, Rows, Rows, list[int]]:
    """Rows to train on, to choose the learning rate on and to test on, each person in one of them; counts of levels."""
    table = pd.read_parquet(DATA)
    table = table.iloc[::8] if quick else table
    place = table["person"] % 10
    known = table[place < 6]
    codes = table[LEVELS] - table[LEVELS].min()

    def rows(mask: pd.Series) -> Rows:
        own = table[mask]
        numbers = (own[NUMBERS] - known[NUMBERS].mean()) / known[NUMBERS].std()
        y, exposure = (torch.tensor(own[name].to_numpy("float32")) for name in ("visits", "eligible"))
        levels = torch.tensor(codes[mask].to_numpy("int64"))
        return Rows(torch.tensor(numbers.to_numpy("float32")), levels, y, exposure)

    return rows(place < 6), rows((place >= 6) & (place < 8)), rows(place >= 8), [int(n) + 1 for n in codes.max()]


@dataclass
class Run:
    """A trained network: whether it is finite, its log score on the rows to choose on, and scores on new ones."""

    seed: int
    rate: float
    finite: bool
    chosen_on: float
    scores: Scores


def train(
    make: Callable[[], Rival], seed: int, rate: float, epochs: int, data: tuple[Rows, Rows, Rows, list[int]]
) -> Run:
    """Adam on minibatches of 512 rows."""
    known, held, new, levels = data
    torch.manual_seed(seed)
    body, last = Backbone(levels), make()
    network = nn.ModuleList([body, last])
    optimizer = torch.optim.Adam(network.parameters(), lr=rate)
    for _ in range(epochs):
        for index in torch.randperm(len(known)).split(512):
            rows = known.take(index)
            optimizer.zero_grad()
            last.loss(body(rows), rows).backward()
            optimizer.step()
    finite = all(bool(parameter.isfinite().all()) for parameter in network.parameters())
    with torch.no_grad():
        return Run(seed, rate, finite, _mean(last, body, held), last.scores(body(new), new))


def _mean(last: Rival, body: nn.Module, rows: Rows) -> float:
    """The mean log score, infinite where it is none."""
    found = float(last.scores(body(rows), rows).nll.double().mean())
    return found if math.isfinite(found) else math.inf


def constant(data: tuple[Rows, Rows, Rows, list[int]]) -> float:
    """The log score on new rows of a negative binomial law that is the same for all."""
    known, _, new, _ = data
    fit = tg.fit(torch.zeros(len(known), 0), known.y, family="negative_binomial", exposure=known.exposure)
    law = fit.head.law(torch.zeros(len(new), 0, dtype=torch.float64), new.exposure.log())
    return -float(law.log_prob(new.y[:, None]).detach().mean())


def at_best(runs: list[Run]) -> list[Run]:
    """The runs, one a seed, of the learning rate that is best on the rows to choose on."""
    rates = sorted({run.rate for run in runs})
    best = min(rates, key=lambda rate: median(run.chosen_on for run in runs if run.rate == rate))
    return [run for run in runs if run.rate == best]


def line(name: str, runs: list[Run], y: Tensor, floor: float) -> str:
    """A row of the table: at the best rate medians over seeds, and of all runs what came to nothing."""
    best = at_best(runs)
    nll = median(float(run.scores.nll.mean()) for run in best)
    inside = median(_inside(run.scores) for run in best)
    balance = median(float(run.scores.mean.mean() / y.mean()) for run in best)
    lost = sum(not run.finite for run in runs)
    useless = sum(not float(run.scores.nll.mean()) < floor for run in runs)  # NaN among them
    return (
        f"| {name:<25} | {nll:.3f} | {inside:.3f} | {balance:.3f} | {lost} of {len(runs)} | {useless} of {len(runs)} |"
    )


def _inside(scores: Scores) -> float:
    """The share of visits between the 5 % and the 95 % quantile."""
    return float(((scores.until >= 0.05) & (scores.below < 0.95)).double().mean())


def pit(scores: Scores) -> Tensor:
    """Shares of the probability integral transforms of counts in bins: even where a law is calibrated.

    Source: Czado, Gneiting & Held (2009), Biometrics 65(4).
    """
    ends = torch.linspace(0, 1, BINS + 1, dtype=torch.float64)
    below, width = scores.below.double().flatten(), (scores.until - scores.below).double().flatten()
    reached = ((ends[:, None] - below) / width.clamp(min=1e-12)).clamp(0, 1).mean(-1)
    return reached.diff() * BINS


def draw(found: dict[str, list[Run]], floor: float) -> Path:
    """Log scores by learning rate, and at the best rate the histogram of transforms."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.6), layout="constrained")
    middle = (torch.arange(BINS) + 0.5) / BINS
    rates = sorted({run.rate for runs in found.values() for run in runs})
    for k, (name, runs) in enumerate(found.items()):
        colour, style = f"C{k}", "-" if name.startswith("GLMHead") else "--"
        score = [median(_finite(run) for run in runs if run.rate == rate) for rate in rates]
        left.plot(rates, [min(one, 6.0) for one in score], style, marker="o", color=colour, label=name)
        seen = torch.stack([pit(run.scores) for run in at_best(runs)]).mean(0)
        right.plot(middle, seen, style, marker="o", color=colour, label=name)
    left.axhline(floor, color="black", linewidth=0.8)
    left.annotate("one law for all", (rates[0], floor), textcoords="offset points", xytext=(0, 4), fontsize=8)
    left.set(
        xscale="log", ylim=(1.9, 6.1), xlabel="learning rate of Adam", ylabel="mean -log probability (6: worse, or NaN)"
    )
    left.set_title("Persons that nothing was trained on: log score")
    right.axhline(1.0, color="black", linewidth=0.8)
    right.set(xlabel="probability integral transform", ylabel="rows / rows expected", ylim=(0, None))
    right.set_title("Calibration at the best rate (even is right)")
    right.legend(fontsize=8)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE, dpi=130)
    return PICTURE


def _finite(run: Run) -> float:
    score = float(run.scores.nll.mean())
    return score if math.isfinite(score) else math.inf


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="every eighth row, one seed, two rates, three epochs")
    quick = parser.parse_args().quick
    data = parts(quick)
    seeds, epochs = (range(1), 3) if quick else (range(5), 15)
    rates = (1e-2, 1.0) if quick else (1e-3, 1e-2, 1e-1, 1.0)
    floor = constant(data)
    found = {
        name: [train(make, s, rate, epochs, data) for rate in rates for s in seeds] for name, make in RIVALS.items()
    }
    print(f"{len(data[2]):,} rows of persons that nothing was trained on; one law for all: {floor:.3f}\n")
    print("| loss | -log probability | inside 90 % | means / visits | NaN | no better than one law |")
    print("|---|---|---|---|---|---|")
    for name, runs in found.items():
        print(line(name, runs, data[2].y, floor))
    print(f"\npicture: {draw(found, floor)}")


if __name__ == "__main__":
    main()
