"""Sequences of counts with padding: visits to a doctor, year after year, by a causal transformer with a head.

python examples/sequences.py [--quick]

Persons in the RAND experiment were watched for one to five years. A transformer reads what is known of a person in a
year and the visits of the years before, and a negative binomial head says the law of the visits of that year. Years not
watched are padding: a mask for the attention, weight 0 for the head, and NaN in their place reaches nothing. Beside it
stand the same network without the visits of earlier years, and GLMs without and with those of the last year. The
picture, runs/sequences/sequences.png, has log scores by year, and means by the visits of the year before, of persons
that nothing was trained on.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

import torchglm as tg

DATA = Path(__file__).resolve().parent / "data" / "randhie.parquet"
PICTURE = Path("runs/sequences/sequences.png")
NUMBERS = ["log_coinsurance", "income", "age", "female", "family_size", "chronic", "limitation"]
YEARS, WIDTH = 5, 32
BEFORE = [0, 1, 2, 4, 7, 12]  # groups of the visits of the year before


@dataclass
class Persons:
    """Of n persons and five years: columns `(n, 5, 13)`, visits, exposures and whether there is a row `(n, 5)`."""

    x: Tensor
    visits: Tensor  # NaN where there is no row
    exposure: Tensor
    watched: Tensor

    def take(self, index: Tensor) -> Persons:
        return Persons(self.x[index], self.visits[index], self.exposure[index], self.watched[index])

    @property
    def last(self) -> Tensor:
        """(n, 5) the visits of the year before, NaN where it was not watched."""
        return torch.cat([torch.full_like(self.visits[:, :1], torch.nan), self.visits[:, :-1]], 1)


def persons(quick: bool) -> tuple[Persons, Persons]:
    """Persons to train on, and a fifth of them that nothing is trained on."""
    rows = pd.read_parquet(DATA)
    rows = rows[rows["person"] % 8 == 0] if quick else rows
    codes, names = rows["person"].factorize()
    place = torch.tensor(codes), torch.tensor(rows["year"].to_numpy("int64") - 1)
    numbers = (rows[NUMBERS] - rows[NUMBERS].mean()) / rows[NUMBERS].std()
    sites = pd.get_dummies(rows["site"]).iloc[:, 1:]
    columns = torch.tensor(pd.concat([numbers, sites], axis=1).to_numpy("float32"))

    def padded(values: Tensor, padding: float) -> Tensor:
        out = torch.full((len(names), YEARS, *values.shape[1:]), padding)
        return out.index_put_(place, values)

    visits, exposure = (torch.tensor(rows[name].to_numpy("float32")) for name in ("visits", "eligible"))
    every = Persons(
        padded(columns, 0.0), padded(visits, torch.nan), padded(exposure, 1.0), padded(torch.ones(len(rows)), 0.0)
    )
    new = torch.tensor(names % 5 == 0)
    return every.take(~new), every.take(new)


class Sequences(nn.Module):
    """A causal transformer over the years of a person: `WIDTH` features of each year, for the head."""

    def __init__(self, columns: int, history: bool) -> None:
        super().__init__()
        self.history = history
        self.into = nn.Linear(columns + 2, WIDTH)
        self.year = nn.Parameter(torch.zeros(YEARS, WIDTH))
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 64, dropout=0.1, batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.register_buffer("later", torch.ones(YEARS, YEARS).triu(1).bool())
        self.head = tg.GLMHead(WIDTH, "negative_binomial")

    def features(self, of: Persons) -> Tensor:
        seen = of.last.isfinite()
        visits = torch.where(seen, of.last, 0.0).log1p()
        told = torch.stack([visits, seen.float()], -1) * self.history
        z = self.into(torch.cat([of.x, told], -1)) + self.year
        alone = (of.watched == 0) & (torch.arange(YEARS) > 0)  # the first year may be read, so that no row is empty
        return self.body(z, mask=self.later, src_key_padding_mask=alone)

    def loss(self, of: Persons) -> Tensor:
        return self.head.loss(self.features(of), of.visits, weights=of.watched, exposure=of.exposure)

    @torch.no_grad()
    def law(self, of: Persons) -> Distribution:
        return self.head.law(self.features(of), of.exposure.log())


def train(known: Persons, history: bool, epochs: int) -> Sequences:
    """AdamW on minibatches of 128 persons, with a rate that falls to zero."""
    torch.manual_seed(0)
    network = Sequences(known.x.shape[-1], history)
    rates = known.visits[known.watched > 0]
    network.head.init_from(rates, exposure=known.exposure[known.watched > 0])
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for index in torch.randperm(len(known.x)).split(128):
            optimizer.zero_grad()
            network.loss(known.take(index)).backward()
            optimizer.step()
        schedule.step()
    return network.eval()


def glm(known: Persons, new: Persons, history: bool) -> Distribution:
    """The law of a negative binomial GLM for new persons; with `history` the visits of the year before are a column."""

    def columns(of: Persons) -> Tensor:
        years = torch.eye(YEARS)[1:].T.expand(len(of.x), YEARS, YEARS - 1)
        last = of.last.nan_to_num(0.0).log1p().unsqueeze(-1)
        return torch.cat([of.x, years, *([last] * history)], -1)

    rows = known.watched > 0
    fit = tg.fit(columns(known)[rows], known.visits[rows], family="negative_binomial", exposure=known.exposure[rows])
    with torch.no_grad():
        return fit.head.law(columns(new).double(), new.exposure.double().log())


@torch.no_grad()
def scored(law: Distribution, of: Persons) -> Tensor:
    """(n, 5) minus the log probability of the visits, NaN where there is no row."""
    y = torch.where(of.watched > 0, of.visits, 0.0).unsqueeze(-1)
    return torch.where(of.watched > 0, -law.log_prob(y)[..., 0].float(), torch.nan)


def line(name: str, law: Distribution, of: Persons) -> str:
    """A row of the table."""
    rows = of.watched > 0
    low, high = (end[..., 0] for end in law.interval(0.9))
    inside = ((low <= of.visits) & (of.visits <= high))[rows].double().mean()
    balance = law.mean[..., 0][rows].mean() / of.visits[rows].mean()
    score = scored(law, of)
    by_year = " ".join(f"{float(one):.3f}" for one in score.nanmean(0))
    return f"| {name:<27} | {score.nanmean():.3f} | {by_year} | {inside:.3f} | {balance:.3f} |"


def draw(laws: dict[str, Distribution], of: Persons) -> Path:
    """Log scores by year, and mean visits by those of the year before, seen and told."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.8), layout="constrained")
    groups = torch.bucketize(of.last.nan_to_num(-1.0), torch.tensor(BEFORE, dtype=torch.float32), right=True)
    groups = torch.where((of.watched > 0) & of.last.isfinite(), groups, 0)
    names = [
        *(f"{a}" if a + 1 == b else f"{a}-{b - 1}" for a, b in zip(BEFORE, BEFORE[1:], strict=False)),
        f"{BEFORE[-1]}+",
    ]

    def means(values: Tensor) -> list[float]:
        return [float(values[groups == k + 1].mean()) for k in range(len(BEFORE))]

    right.plot(names, means(of.visits), "ko", label="seen", zorder=3)
    for k, (name, law) in enumerate(laws.items()):
        style = "-" if name.startswith("transformer") else "--"
        left.plot(range(1, YEARS + 1), scored(law, of).nanmean(0), style, marker="o", color=f"C{k}", label=name)
        right.plot(names, means(law.mean[..., 0]), style, color=f"C{k}", label=name)
    left.set(xlabel="year of the study", ylabel="mean -log probability", xticks=range(1, YEARS + 1))
    left.set_title("Persons that nothing was trained on: log score")
    right.set(xlabel="visits in the year before", ylabel="mean visits", ylim=(0, None), title="Seen and told")
    right.legend(fontsize=9)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE, dpi=130)
    return PICTURE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="every eighth person, three epochs")
    quick = parser.parse_args().quick
    known, new = persons(quick)
    epochs = 3 if quick else 25
    laws: dict[str, Distribution] = {}
    for history, said in ((False, "no history"), (True, "with history")):
        laws[f"transformer, {said}"] = train(known, history, epochs).law(new)
        laws[f"GLM, {said}"] = glm(known, new, history)
    print(f"{int(new.watched.sum()):,} years of {len(new.x):,} persons that nothing was trained on\n")
    print("| model | -log probability | by year | inside 90 % | means / visits |")
    print("|---|---|---|---|---|")
    for name, law in laws.items():
        print(line(name, law, new))
    print(f"\npicture: {draw(laws, new)}")


if __name__ == "__main__":
    main()
