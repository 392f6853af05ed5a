"""What a GLM misses, by a network beside it: visits to a doctor in the RAND experiment, with exposure.

python examples/cann.py [--quick]

Fits a negative binomial GLM, nests it in a network (CANN), refits the last layer, says how the deviance is split on
persons that nothing was trained on, and draws what the network has added to runs/cann/cann.png.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

import torchglm as tg

DATA = Path(__file__).resolve().parent / "data" / "randhie.parquet"
FORMULA = "visits ~ log_coinsurance + C(health) + income + age + female + family_size"
NUMBERS = ["log_coinsurance", "income", "age", "female", "family_size", "chronic", "limitation", "year"]
PICTURE = Path("runs/cann/cann.png")


def columns(rows: pd.DataFrame, like: pd.DataFrame) -> Tensor:
    """The columns of the network: numbers in units of their spread, sites and health as indicators."""
    numbers = (rows[NUMBERS] - like[NUMBERS].mean()) / like[NUMBERS].std()
    levels = pd.get_dummies(rows[["site", "health"]], columns=["site", "health"])
    return torch.tensor(pd.concat([numbers, levels], axis=1).to_numpy("float32"))


def parts(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Rows to train on, to calibrate on and to test on, each person in one of them."""
    place = rows["person"] % 10
    return rows[place < 6], rows[(place >= 6) & (place < 8)], rows[place >= 8]


def batches(glm: tg.Result, rows: pd.DataFrame, like: pd.DataFrame, size: int = 1024) -> list[dict[str, object]]:
    """Batches whose `x` is a pair: the columns of the GLM, and those of the network."""
    pair = glm.spec.design(rows).numbers[:, 1:], columns(rows, like)  # a head has its constant itself
    y, exposure = (torch.tensor(rows[name].to_numpy("float64")) for name in ("visits", "eligible"))
    every = torch.arange(len(rows)).split(size)
    return [{"x": (pair[0][at], pair[1][at]), "y": y[at], "exposure": exposure[at]} for at in every]


def train(cann: tg.nn.CANN, data: list[dict[str, object]], epochs: int) -> None:
    """Adam on minibatches; the GLM stays as it is."""
    loss = tg.nn.WithLoss(cann)
    trained = [parameter for parameter in cann.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=3e-3, weight_decay=1e-2)
    for _ in range(epochs):
        for at in torch.randperm(len(data)):
            batch = data[int(at)]
            optimizer.zero_grad()
            loss(batch["x"], batch["y"], exposure=batch["exposure"]).backward()
            optimizer.step()


def covered(conformal: tg.Conformal, data: list[dict[str, object]]) -> float:
    """The share of responses within their 90 % limits."""
    inside = []
    for batch in data:
        low, high = conformal.interval(batch["x"], 0.9, exposure=batch["exposure"])
        inside.append((low[:, 0] <= batch["y"]) & (batch["y"] <= high[:, 0]))
    return float(torch.cat(inside).double().mean())


@torch.no_grad()
def draw(cann: tg.nn.CANN, data: list[dict[str, object]], rows: pd.DataFrame) -> Path:
    """Visits a year by age, seen and expected, and the factor by which the network corrects the GLM."""
    import matplotlib.pyplot as plt

    y, exposure = (torch.cat([batch[name] for batch in data]) for name in ("y", "exposure"))
    glm = torch.cat([cann.glm(batch["x"][0])[:, 0] for batch in data])
    both = torch.cat([cann(batch["x"])[:, 0] for batch in data]).double()
    table = pd.DataFrame({"y": y, "exposure": exposure, "glm": glm * exposure, "cann": both * exposure})
    table["age"], table["female"] = rows["age"].to_numpy(), rows["female"].to_numpy()
    table["factor"] = (both / glm).numpy()
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained", sharex=True)
    for female, colour, name in ((0, "tab:blue", "male"), (1, "tab:orange", "female")):
        own = table[table["female"] == female]
        groups = own.groupby((own["age"] // 6 * 6 + 3).clip(upper=57))[["y", "glm", "cann", "exposure"]].sum()
        rate = groups.div(groups["exposure"], axis=0)
        axes[0].plot(rate.index, rate["y"], "o", color=colour, label=f"{name}, seen")
        axes[0].plot(rate.index, rate["glm"], "--", color=colour, label="GLM")
        axes[0].plot(rate.index, rate["cann"], "-", color=colour, label="with network")
        axes[1].plot(own["age"], own["factor"], ".", color=colour, markersize=2, alpha=0.4, label=name)
    axes[0].set(xlabel="age", ylabel="visits a year", title="Persons that nothing was trained on", ylim=(0, None))
    axes[1].set(xlabel="age", ylabel="mean with network / mean of the GLM", title="What the network adds", yscale="log")
    axes[1].set_yticks([0.3, 0.5, 1.0, 2.0, 3.0], ["0.3", "0.5", "1", "2", "3"], minor=False)
    axes[1].minorticks_off()
    axes[1].axhline(1.0, color="black", linewidth=0.8)
    axes[0].legend(ncols=2, fontsize=8)
    axes[1].legend(markerscale=5)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE, dpi=130)
    return PICTURE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="every eighth row, three epochs")
    quick = parser.parse_args().quick
    torch.manual_seed(0)
    rows = pd.read_parquet(DATA)
    rows = rows.iloc[::8] if quick else rows
    training, held, new = parts(rows)

    glm = tg.fit(FORMULA, training, family="negative_binomial", exposure="eligible")
    size = columns(training, training).shape[1]
    body = nn.Sequential(nn.Linear(size, 32), nn.Tanh(), nn.Linear(32, 16), nn.Tanh(), nn.Linear(16, 1))
    cann = tg.nn.CANN(glm, body)
    known, held_out, test = (batches(glm, part, training) for part in (training, held, new))
    print(f"at the start, in training\n{cann.split(known)}\n")

    train(cann, known, epochs=3 if quick else 25)
    print(f"trained\n{cann.split(known)}\n")
    tg.refit_(cann, known, penalty=tg.Ridge(1e-3))
    print(f"last layer refitted\n{cann.split(known)}\n")
    print(f"on persons that nothing was trained on\n{cann.split(test)}\n")

    share = covered(tg.Conformal(cann, held_out), test)
    print(f"share of their visits within conformal 90 % limits: {share:.3f}")
    print(f"picture: {draw(cann, test, new)}")


if __name__ == "__main__":
    main()
