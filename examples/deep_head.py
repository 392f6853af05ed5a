"""A GLM head on a deep model: counts with a curved rate, exposure as an offset, predictive intervals.

python examples/deep_head.py [--quick]
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn

import torchglm


class DeepPoisson(nn.Module):
    """A small backbone that finds the features, and a GLM that is fitted on them."""

    def __init__(self, in_features: int, width: int = 32) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(in_features, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.head = torchglm.GLMHead(width, "poisson")

    def forward(self, x: Tensor, offset: Tensor | None = None) -> Tensor:
        return self.head(self.backbone(x), offset=offset)[:, 0]  # (n, 1) -> (n,)


def simulate(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """x (n, 4), counts (n,), and the log exposure (n,); the log rate is curved in x."""
    x = 2 * torch.rand(n, 4) - 1
    offset = torch.log(0.5 + 2 * torch.rand(n))
    rate = torch.exp(torch.sin(3 * x[:, 0]) + 2 * x[:, 1] * x[:, 2] - x[:, 3] ** 2)
    return x, torch.poisson(rate * offset.exp()), offset


def deviance(family: nn.Module, y: Tensor, mu: Tensor) -> float:
    return float(family.unit_deviance(y, mu).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(0)
    n = 4_000 if args.quick else 20_000
    x, y, offset = simulate(n)
    held_x, held_y, held_offset = simulate(n)

    plain = torchglm.fit(x, y, family="poisson", offset=offset)
    model = DeepPoisson(4)
    family = model.head.family
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(5 if args.quick else 10):
        for rows in torch.randperm(n).split(256):
            optimizer.zero_grad()
            model.head.loss(model.backbone(x[rows]), y[rows], offset=offset[rows]).backward()
            optimizer.step()

    with torch.no_grad():
        flat = deviance(family, held_y, plain.predict(held_x, offset=held_offset).to(held_y.dtype))
        deep = deviance(family, held_y, model(held_x, held_offset))
        features = model.backbone(x)
        # The last layer is a GLM, so it can be solved outright on the features the backbone has found.
        model.head.fit(features, y, offset=offset)
        solved = deviance(family, held_y, model(held_x, held_offset))
        predictive = model.head.distribution(model.backbone(held_x), offset=held_offset)
        draws = predictive.sample((200,))
    low, high = draws[..., 0].quantile(0.05, 0), draws[..., 0].quantile(0.95, 0)
    covered = ((low <= held_y) & (held_y <= high)).float().mean()

    print("mean deviance on held-out rows")
    print(f"  linear predictor:             {flat:.4f}")
    print(f"  backbone + head, Adam:        {deep:.4f}")
    print(f"  head solved again by IRLS:    {solved:.4f}")
    print(f"share of held-out counts inside the 5–95 % predictive interval: {covered:.3f}")


if __name__ == "__main__":
    main()
