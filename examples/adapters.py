"""A loss of torchglm where other libraries train: gluonts, accelerate, skorch, and Trainer of Hugging Face.

python examples/adapters.py [--quick]

None of these needs to be installed: each part has the interface that the library calls, and a few lines in its place.
Where they are, the same parts go into `DeepAREstimator(distr_output=GLMOutput(loss))`, `accelerate.Accelerator()`,
`with_exposure(skorch.NeuralNet)` and `transformers.Trainer`; tests/test_adapters.py does so.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor, nn

import torchglm as tg

# gluonts: a network puts out arguments, and an object makes a distribution of them.

try:
    from gluonts.torch.distributions import DistributionOutput
except ImportError:  # what follows runs without it

    class DistributionOutput:  # type: ignore[no-redef]
        """The class that gluonts asks outputs to be of."""


class GLMOutput(DistributionOutput):
    """A `DistributionOutput` from a `GLMLoss` of one predictor: what gluonts' networks ask of one.

    `args_dim` are the arguments and their sizes, `get_args_proj` makes the layer that puts them out, `distribution` the
    law, and `loss` what is minimised. A `scale` is that of the series: on the log link it is an exposure.
    """

    event_shape: tuple[int, ...] = ()
    value_in_support = 0.0

    def __init__(self, loss: tg.GLMLoss) -> None:
        super().__init__()
        self.glm = loss
        self.args_dim = {"eta": 1}

    def get_args_proj(self, in_features: int) -> nn.Module:
        return Projection(in_features, self.glm)

    def domain_map(self, eta: Tensor) -> tuple[Tensor]:
        return (eta.squeeze(-1),)  # the link is the domain map

    def distribution(self, distr_args: tuple[Tensor], loc: Any = None, scale: Tensor | None = None) -> Any:
        return self.glm.law(self._eta(distr_args, loc, scale))

    def loss(self, target: Tensor, distr_args: tuple[Tensor], loc: Any = None, scale: Tensor | None = None) -> Tensor:
        return -self.distribution(distr_args, loc, scale).log_prob(target)

    def _eta(self, distr_args: tuple[Tensor], loc: Any, scale: Tensor | None) -> Tensor:
        (eta,) = distr_args
        if loc is not None and bool((loc != 0).any()):
            raise ValueError("counts are not shifted. Use a scaler without loc, such as gluonts' MeanScaler.")
        return eta if scale is None else eta + scale.log()


class Projection(nn.Module):
    """The last layer; it holds the loss, so that what that learns (alpha) is among the parameters of the network."""

    def __init__(self, in_features: int, loss: tg.GLMLoss) -> None:
        super().__init__()
        self.linear, self.glm = nn.Linear(in_features, 1), loss

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.linear(x).squeeze(-1),)


class Forecaster(nn.Module):
    """A recurrent network over scaled counts, as such libraries build them around a distribution output."""

    def __init__(self, output: GLMOutput, width: int = 16) -> None:
        super().__init__()
        self.output = output
        self.body = nn.GRU(1, width, batch_first=True)
        self.projection = output.get_args_proj(width)

    def forward(self, past: Tensor) -> tuple[tuple[Tensor], Tensor]:
        scale = past.mean(-1, keepdim=True).clamp(min=0.1)
        return self.projection(self.body((past / scale).unsqueeze(-1))[0]), scale


def forecasts(steps: int) -> None:
    """Counts of the next day, for series of very different sizes."""
    rate = (3 * torch.randn(64, 1)).exp().clamp(0.5, 200)
    season = 1 + 0.6 * torch.sin(torch.arange(29) * 2 * torch.pi / 7 + 6 * torch.rand(64, 1))
    series = torch.poisson(rate * season * torch.distributions.Gamma(4.0, 4.0).sample((64, 29)))
    model = Forecaster(GLMOutput(tg.GLMLoss(tg.NegativeBinomial())))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        args, scale = model(series[:, :-1])
        loss = model.output.loss(series[:, 1:], args, scale=scale).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    with torch.no_grad():
        args, scale = model(series[:, :-1])
        law = model.output.distribution(args, scale=scale)
        low, high = law.interval(0.9)
        inside = ((low <= series[:, 1:]) & (series[:, 1:] <= high)).double().mean()
    print(f"gluonts-style output:  loss {fell(losses)}, inside 90 %: {float(inside):.3f}, ", end="")
    print(f"paths {tuple(law.sample((5,)).shape)}")


# accelerate: `prepare` wraps the model, so that the loss must be what its call returns; `nn.WithLoss` is that.


class InOneProcess:
    """What the loop below calls of `accelerate.Accelerator()`, which takes this place as it is."""

    def prepare(self, *objects: Any) -> tuple[Any, ...]:
        return objects

    def backward(self, loss: Tensor) -> None:
        loss.backward()


def accelerated(steps: int, accelerator: Any) -> None:
    """Costs with exposure, by a network that ends in a head; `accelerator` is `accelerate.Accelerator()`."""
    x, years = torch.randn(512, 4), 0.5 + torch.rand(512)
    cost = years * torch.exp(0.5 * x[:, 0] - 0.3 * x[:, 1] ** 2) * torch.distributions.Gamma(2.0, 2.0).sample((512,))
    network = nn.Sequential(nn.Linear(4, 16), nn.SiLU(), tg.GLMHead(16, "gamma", "log"))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, cost, years), batch_size=128, shuffle=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    model, optimizer, loader = accelerator.prepare(tg.nn.WithLoss(network), optimizer, loader)
    losses = []
    for _ in range(max(1, steps // len(loader))):
        for rows, y, exposure in loader:
            optimizer.zero_grad()
            loss = model(rows, y, exposure=exposure)
            accelerator.backward(loss)
            optimizer.step()
            losses.append(loss.item())
    done = tg.refit_(network, [{"x": x, "y": cost, "exposure": years}])  # the last layer exactly
    print(f"accelerate-style loop: loss {fell(losses)}, last layer: {done.status[0].name.lower()}")


# skorch: `NeuralNet` makes the loss (`criterion`) and trains what it learns; what stands beside x and y comes in X.


class Visits(nn.Module):
    """A predictor for each row; the exposure that X holds is for the loss."""

    def __init__(self, columns: int = 4, width: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(columns, width), nn.SiLU(), nn.Linear(width, 1))

    def forward(self, x: Tensor, exposure: Tensor | None = None) -> Tensor:
        return self.layers(x).squeeze(-1)


def with_exposure(base: type) -> type:
    """`skorch.NeuralNet` whose loss has the exposure of its rows."""

    class GLMNet(base):
        def get_loss(self, y_pred: Tensor, y_true: Tensor, X: Any = None, training: bool = False) -> Tensor:
            return self.criterion_(y_pred, y_true, exposure=X["exposure"].to(y_pred))

    return GLMNet


class Net:
    """What the lines below call of `skorch.NeuralNet`, which takes this place as it is."""

    def __init__(self, module: type, criterion: type, lr: float, max_epochs: int, **more: Any) -> None:
        self.module_, self.lr, self.max_epochs = module(), lr, max_epochs
        self.criterion_ = criterion(**{name.removeprefix("criterion__"): value for name, value in more.items()})
        self.history: list[dict[str, float]] = []

    def get_loss(self, y_pred: Tensor, y_true: Tensor, X: Any = None, training: bool = False) -> Tensor:
        return self.criterion_(y_pred, y_true)

    def fit(self, X: dict[str, Any], y: Any) -> Net:
        rows, y = {name: torch.as_tensor(value) for name, value in X.items()}, torch.as_tensor(y)
        optimizer = torch.optim.SGD([*self.module_.parameters(), *self.criterion_.parameters()], lr=self.lr)
        for _ in range(self.max_epochs):
            losses = []
            for index in torch.arange(len(y)).split(128):
                batch = {name: value[index] for name, value in rows.items()}
                optimizer.zero_grad()
                loss = self.get_loss(self.module_(**batch), y[index], batch, True)
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
            self.history.append({"train_loss": sum(losses) / len(losses)})
        return self


def by_skorch(steps: int, base: type) -> None:
    """Counts with exposure and an alpha that is learned; `base` is `skorch.NeuralNet`."""
    x, years = torch.randn(512, 4), 0.5 + torch.rand(512)
    spread = torch.distributions.Gamma(2.0, 2.0).sample((512,))
    visits = torch.poisson(spread * years * torch.exp(0.5 * x[:, 0] - 0.3 * x[:, 1] ** 2))
    net = with_exposure(base)(
        Visits, criterion=tg.GLMLoss, criterion__family="negative_binomial", lr=0.1, max_epochs=max(2, steps // 5)
    )
    net.fit({"x": x.numpy(), "exposure": years.numpy()}, visits.numpy())
    losses = [row["train_loss"] for row in net.history]
    alpha = float(net.criterion_.family.alpha)
    print(f"skorch-style net:      loss {losses[0]:.3f} -> {losses[-1]:.3f}, alpha learned: {alpha:.2f}")


# Hugging Face: Trainer calls `model(**batch)` and takes the loss and the logits from what it returns.


class CountsOfTokens(nn.Module):
    """A count for each token. `labels` of -100 are left out, as Trainer's collators pad with them."""

    def __init__(self, vocabulary: int, width: int = 16) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.body = nn.TransformerEncoderLayer(width, nhead=2, dim_feedforward=32, dropout=0.0, batch_first=True)
        self.last = nn.Linear(width, 1)
        self.loss = tg.GLMLoss("poisson")

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        z = self.body(self.embedding(input_ids), src_key_padding_mask=attention_mask == 0)
        found = {"logits": self.last(z).squeeze(-1)}  # on the scale of the link
        if labels is not None:
            used = (labels != -100).to(z.dtype)
            found = {"loss": self.loss(found["logits"], labels.to(z.dtype), weights=used), **found}
        return found


def trained_as_by_trainer(steps: int) -> None:
    """Padded sequences, drawn anew at every step."""
    model = CountsOfTokens(20)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(steps):
        batch = padded(32)
        optimizer.zero_grad()
        outputs = model(**batch)
        outputs["loss"].backward()
        optimizer.step()
        losses.append(outputs["loss"].item())
    batch = padded(256)
    with torch.no_grad():
        mean = model.loss.law(model(batch["input_ids"], batch["attention_mask"])["logits"]).mean
    error = float((mean - batch["input_ids"] % 5)[batch["attention_mask"] > 0].abs().mean())
    print(f"Trainer-style model:   loss {fell(losses)}, mean error of the rates: {error:.3f}")


def padded(size: int) -> dict[str, Tensor]:
    """A batch whose counts have the rate `token % 5`."""
    ids, lengths = torch.randint(0, 20, (size, 12)), torch.randint(4, 13, (size, 1))
    mask = (torch.arange(12) < lengths).long()
    labels = torch.where(mask > 0, torch.poisson((ids % 5).float()).long(), -100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def fell(losses: list[float]) -> str:
    """The mean of the first and of the last four."""
    return f"{sum(losses[:4]) / 4:.3f} -> {sum(losses[-4:]) / 4:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a fifth of the steps")
    steps = 40 if parser.parse_args().quick else 200
    torch.manual_seed(0)
    forecasts(steps)
    accelerated(steps, InOneProcess())
    by_skorch(steps, Net)
    trained_as_by_trainer(steps)


if __name__ == "__main__":
    main()
