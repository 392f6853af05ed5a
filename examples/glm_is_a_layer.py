"""A GLM is a single-layer network: IRLS, minibatch SGD and a bare nn.Linear meet in the same coefficients.

python examples/glm_is_a_layer.py [--quick] [--output FOLDER]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import torchglm

Loss = Callable[[Tensor, Tensor], Tensor]
TRUTH = torch.tensor([0.5, 0.4, -0.3, 0.2], dtype=torch.float64)  # intercept first


def simulate(n: int) -> tuple[Tensor, Tensor]:
    """Counts whose log mean is linear in three columns: x (n, 3), y (n,)."""
    x = torch.randn(n, 3, dtype=torch.float64)
    return x, torch.poisson(torch.exp(TRUTH[0] + x @ TRUTH[1:]))


def joined(layer: nn.Module) -> Tensor:
    """Bias and weight of a layer with one output, as one coefficient vector (p,)."""
    return torch.cat([layer.bias.detach(), layer.weight.detach()[0]])


def train(layer: nn.Module, loss: Loss, x: Tensor, y: Tensor, epochs: int) -> Tensor:
    """Adam on minibatches of 256, the rate falling to zero; the coefficients after each epoch (epochs, p)."""
    steps = epochs * -(-len(y) // 256)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.03)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    path = []
    for _ in range(epochs):
        for rows in torch.randperm(len(y)).split(256):
            optimizer.zero_grad()
            loss(x[rows], y[rows]).backward()
            optimizer.step()
            schedule.step()
        path.append(joined(layer))
    return torch.stack(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("runs/examples"))
    args = parser.parse_args()
    torch.manual_seed(0)
    epochs = 20 if args.quick else 60
    x, y = simulate(2_000 if args.quick else 20_000)

    # 1. The statistician's way: iteratively reweighted least squares, with standard errors.
    result = torchglm.fit(x, y, family="poisson")

    # 2. The same model as a layer: the link is its activation, the family its loss.
    head = torchglm.GLMHead(3, "poisson", dtype=torch.float64)
    by_sgd = train(head, head.loss, x, y, epochs)

    # 3. No torchglm at all: nn.Linear, exp, and PyTorch's Poisson loss.
    linear = nn.Linear(3, 1, dtype=torch.float64)
    bare = train(linear, lambda a, b: F.poisson_nll_loss(linear(a)[:, 0], b, log_input=True), x, y, epochs)

    print(f"{'':12}{'truth':>10}{'IRLS':>10}{'std.err':>10}{'head, SGD':>12}{'nn.Linear':>12}")
    columns = zip(TRUTH, result.coef, result.std_err, by_sgd[-1], bare[-1], strict=True)
    for name, (true, irls, se, sgd, lin) in zip(result.names, columns, strict=True):
        print(f"{name:12}{true:10.4f}{irls:10.4f}{se:10.4f}{sgd:12.4f}{lin:12.4f}")
    gap = max(((end - result.coef).abs() / result.std_err).max() for end in (by_sgd[-1], bare[-1]))
    print(f"largest distance from IRLS: {gap:.3f} standard errors")

    args.output.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for path, label in ((by_sgd, "GLMHead, Adam"), (bare, "nn.Linear, Adam")):
        distance = ((path - result.coef).abs() / result.std_err).amax(1)
        axes.semilogy(range(1, epochs + 1), distance, label=label)
    axes.set(xlabel="epoch", ylabel="largest distance from IRLS, in standard errors")
    axes.set_title(f"Three roads to one maximum likelihood (IRLS took {int(result.n_iter)} steps)")
    axes.legend()
    figure.savefig(args.output / "glm_is_a_layer.png", dpi=120)
    print(f"plot: {args.output / 'glm_is_a_layer.png'}")


if __name__ == "__main__":
    main()
