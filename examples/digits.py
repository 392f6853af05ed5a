"""Ten classes from pixels: handwritten digits by a small convolutional network, multinomial and ordinal heads.

python examples/digits.py [--quick]

Trains one backbone under each head, scores both on digits of persons who wrote none of those in training, and draws to
runs/digits/digits.png the axis on which the ordinal head puts the digits, how often a stated probability is right, and
the digits that the multinomial head finds hardest. Digits have no order by their shape: the layers before the ordinal
head must learn to put them on one axis, and what that head gets wrong lies beside what was written. Its last layer has
33 numbers, that of the multinomial head 225, and its law is the worse one: ordinal heads are for classes in an order.
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

DATA = Path(__file__).resolve().parent / "data" / "digits.parquet"
PICTURE = Path("runs/digits/digits.png")
WIDTH = 24
NEW = 597  # the last rows, by other hands


@dataclass
class Digits:
    """Images `(n, 1, 8, 8)` in 0 to 1, and digits `(n,)`."""

    x: Tensor
    y: Tensor


def parts(quick: bool) -> tuple[Digits, Digits]:
    """Digits to train on, and those of other hands."""
    rows = pd.read_parquet(DATA)

    def digits(own: pd.DataFrame) -> Digits:
        own = own.iloc[::4] if quick else own
        pixels = torch.tensor(own.drop(columns="digit").to_numpy("float32")) / 16
        return Digits(pixels.reshape(-1, 1, 8, 8), torch.tensor(own["digit"].to_numpy("int64")))

    return digits(rows[:-NEW]), digits(rows[-NEW:])


def backbone() -> nn.Sequential:
    """Two convolutions and a layer: `WIDTH` features of an image."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(32 * 16, WIDTH),
        nn.Tanh(),
    )


def train(family: str, known: Digits, epochs: int) -> nn.Sequential:
    """Adam on minibatches of 64, then the last layer exactly, with a ridge."""
    torch.manual_seed(0)
    kind = tg.Ordinal if family == "ordinal" else tg.Multinomial
    network = nn.Sequential(*backbone(), tg.GLMHead(WIDTH, kind(classes=10)))
    loss = tg.nn.WithLoss(network)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-2)
    for _ in range(epochs):
        for index in torch.randperm(len(known.y)).split(64):
            optimizer.zero_grad()
            loss(known.x[index], known.y[index]).backward()
            optimizer.step()
    network.eval()
    done = tg.refit_(network, [(known.x, known.y)], penalty=tg.Ridge(3e-3))
    print(f"{family:>12}: last layer of {network[-1].coef.numel()} numbers, {done.status[0].name.lower()}")
    return network


@torch.no_grad()
def probabilities(network: nn.Sequential, x: Tensor) -> Tensor:
    """(n, 10)"""
    return network[-1].law(network[:-1](x)).probs.squeeze(1)


def line(name: str, p: Tensor, y: Tensor) -> str:
    """A row of the table."""
    told = p.argmax(1)
    nll = -p.gather(1, y[:, None]).log().mean()
    steps = (told - y).abs()
    near = (steps[steps > 0] == 1).double().mean()
    right, sure = (told == y).double().mean(), p.max(1).values.mean()
    return f"| {name:<11} | {nll:.3f} | {right:.3f} | {sure:.3f} | {steps.double().mean():.3f} | {near:.2f} |"


@torch.no_grad()
def draw(networks: dict[str, nn.Sequential], new: Digits) -> Path:
    """The axis of the ordinal head, calibration, and the digits that are hardest to tell."""
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(12, 7.2), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[5, 3])
    axis, calibration = top.subplots(1, 2, width_ratios=[3, 2])
    network = networks["ordinal"]
    head, thresholds = network[-1], network[-1].thresholds[0]
    place = thresholds[0] - head.predictors(network[:-1](new.x))[0, :, 0]
    _draw_axis(axis, place, thresholds, new.y)
    found = {name: probabilities(one, new.x) for name, one in networks.items()}
    _draw_calibration(calibration, found, new.y)
    p = found["multinomial"]
    bottom.suptitle("What the multinomial head finds hardest: its two most probable digits, and the one written")
    hardest = p.gather(1, new.y[:, None])[:, 0].argsort()[:8]
    for box, k in zip(bottom.subplots(1, 8), hardest, strict=True):
        box.imshow(new.x[k, 0], cmap="gray_r")
        first, second = p[k].topk(2).indices.tolist()
        box.set_title(f"{first}: {p[k, first]:.0%}\n{second}: {p[k, second]:.0%}", fontsize=10)
        box.set_xlabel(f"written: {new.y[k]}")
        box.set(xticks=[], yticks=[])
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE, dpi=130)
    return PICTURE


def _draw_axis(axes: Axes, place: Tensor, thresholds: Tensor, y: Tensor) -> None:
    """Where the ordinal head puts each digit, between its thresholds."""
    jitter = y + 0.5 * torch.rand(len(y)) - 0.25
    told = torch.bucketize(place, thresholds)
    for right, colour, name in ((True, "tab:blue", "right"), (False, "tab:red", "wrong")):
        own = (told == y) == right
        axes.plot(place[own], jitter[own], ".", color=colour, markersize=4, alpha=0.6, label=name)
    for k, threshold in enumerate(thresholds):
        axes.axvline(float(threshold), color="black", linewidth=0.6, label=None if k else "thresholds")
    low, high = float(place.min()), float(place.max())
    margin = 0.03 * (high - low)
    axes.set(xlim=(low - margin, high + margin), yticks=range(10))
    axes.set(xlabel="where the head puts it: x \N{GREEK SMALL LETTER BETA}", ylabel="digit written")
    axes.set_title("One axis: the ordinal head, digits of other hands")
    axes.legend(loc="lower right", fontsize=9)


def _draw_calibration(axes: Axes, found: dict[str, Tensor], y: Tensor) -> None:
    """The share that is right by the probability of the digit told, of six groups of equal size."""
    for name, p in found.items():
        sure, told = p.max(1)
        groups = sure.argsort().chunk(6)
        stated = [float(sure[own].mean()) for own in groups]
        right = [float((told[own] == y[own]).double().mean()) for own in groups]
        axes.plot(stated, right, "o-", label=name)
    axes.axline((1, 1), slope=1, color="black", linewidth=0.8)
    axes.set(
        xlabel="probability of the digit told", ylabel="share that is right", title="Calibration (the line is right)"
    )
    axes.legend(fontsize=9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="every fourth digit, four epochs")
    quick = parser.parse_args().quick
    known, new = parts(quick)
    networks = {name: train(name, known, epochs=4 if quick else 30) for name in ("multinomial", "ordinal")}
    print(f"\n{len(new.y)} digits of other hands\n")
    print("| head        | -log p | right | as sure | mean distance | wrong ones that are neighbours |")
    print("|---|---|---|---|---|---|")
    for name, network in networks.items():
        print(line(name, probabilities(network, new.x), new.y))
    print(f"\npicture: {draw(networks, new)}")


if __name__ == "__main__":
    main()
