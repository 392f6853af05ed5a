"""Laplace's predictive intervals hold what they say, in 500 simulations: 90 % of 40 new responses of each.

An interval of counts ends at whole numbers and so holds more than it says. There it is checked that its limits are the
quantiles of the predictive law, found here by another way, and coverage is counted with the share of an atom at a limit
that the law has within it (a randomised probability integral transform).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchglm as tg

SIMULATIONS, LEVEL, TRIALS, NEW = 500, 0.9, 20.0, 40
TAIL = (1 - LEVEL) / 2
FAMILIES = (tg.Gaussian(), tg.Gamma(), tg.Poisson(), tg.Bernoulli(), tg.Binomial(), tg.NegativeBinomial())
# rows to learn from, and responses that share their columns: each is a simulation
BODIES = {"single layer": (80, 25), "network of random features": (80, 25), "trained network": (400, 1)}
NODES = torch.linspace(-6, 6, 201, dtype=torch.float64).reshape(-1, 1, 1)  # dense: step functions are integrated
SHARES = (-NODES.square() / 2).exp() / (-NODES.square() / 2).exp().sum()


def drawn(family: Any, eta: Tensor) -> Tensor:
    """Responses at linear predictors, of dispersion 1/2 and alpha 1/2."""
    if family.name == "gaussian":
        return eta + torch.randn_like(eta) / 2**0.5
    if family.name == "gamma":
        return eta.exp() * torch._standard_gamma(torch.full_like(eta, 2.0)) / 2
    if family.name == "negative_binomial":
        return torch.poisson(eta.exp() * torch._standard_gamma(torch.full_like(eta, 2.0)) / 2)
    if family.name == "poisson":
        return torch.poisson(eta.exp())
    trials = torch.full_like(eta, TRIALS if family.name == "binomial" else 1.0)
    return torch.binomial(trials, torch.sigmoid(eta))


def simulations(family: Any, body: str) -> Iterator[tuple[nn.Sequential, Tensor, Tensor]]:
    """A network before its fit in closed form, columns (n, 2) and responses (n, R)."""
    rows, many = BODIES[body]
    features = nn.Sequential(nn.Linear(2, 6), nn.Tanh()).double()
    truth = torch.randn(6).double() / 2
    for _ in range(SIMULATIONS // many):
        x = torch.randn(rows + NEW, 2).double()
        if body == "single layer":
            before, width, eta = nn.Identity(), 2, 0.3 + 0.4 * x[:, 0] - 0.3 * x[:, 1]
        elif body == "trained network":
            before, width = nn.Sequential(nn.Linear(2, 3), nn.Tanh()), 3
            eta = 0.3 + torch.tanh(x[:, 0] - x[:, 1])
        else:
            before, width, eta = features, 6, 0.3 + (features(x) @ truth).detach()
        head = tg.GLMHead(width, copy.deepcopy(family), out_features=many)
        yield nn.Sequential(before, head).double(), x, drawn(family, eta.unsqueeze(-1).expand(-1, many))


def train(network: nn.Sequential, x: Tensor, y: Tensor, roles: dict[str, Tensor]) -> None:
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
    for _ in range(40):
        optimizer.zero_grad()
        network[-1].loss(network[:-1](x), y, **roles).backward()
        optimizer.step()


@torch.no_grad()
def probability(laplace: tg.Laplace, head: tg.GLMHead, z: Tensor, y: Tensor) -> Tensor:
    """(n, R) of responses that are not above `y`: the mean of that over predictors about the estimate."""
    eta, error = laplace.result.predict(z, kind="link", se=True)
    at = (eta.reshape(-1, len(z)) + error.reshape(-1, len(z)) * NODES).mT  # (201, n, R)
    trials = torch.full_like(at, TRIALS) if head.family.name == "binomial" else None
    below = torch.where(y >= 0, head.law_at(at, trials).cdf(y.expand_as(at)), 0.0)
    return (below * SHARES).sum(0)


def covered(network: nn.Sequential, x: Tensor, y: Tensor, body: str, check: bool) -> Tensor:
    """The share of new responses within the interval, randomised where they are counts; a look at limits if `check`."""
    head, (rows, _) = network[-1], BODIES[body]
    roles = {"trials": torch.full_like(y, TRIALS)} if head.family.name == "binomial" else {}
    first, new = ({name: part[own] for name, part in roles.items()} for own in (slice(rows), slice(rows, None)))
    if body == "trained network":
        train(network, x[:rows], y[:rows], first)
    batch = {"x": x[:rows], "y": y[:rows]} | first
    tg.refit_(network, [batch])
    laplace, seen = tg.Laplace(network, [batch]), y[rows:]
    low, high = laplace.interval(x[rows:], LEVEL, **new)
    within = (low <= seen) & (seen <= high)
    if head.family.name in ("gaussian", "gamma"):
        return within.double().mean()
    z = network[:-1](x[rows:]).detach()
    for limit, share in ((low, TAIL), (high, 1 - TAIL)) if check else ():
        assert bool((probability(laplace, head, z, limit) >= share - 1e-4).all())
        assert bool((probability(laplace, head, z, limit - 1) <= share + 1e-4).all())
    at, before = probability(laplace, head, z, seen), probability(laplace, head, z, seen - 1)
    chance = before + torch.rand_like(at) * (at - before)
    assert bool((within | (chance < TAIL + 1e-4) | (chance > 1 - TAIL - 1e-4)).all())
    return ((chance > TAIL) & (chance < 1 - TAIL)).double().mean()


@pytest.mark.slow
@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_intervals_cover_in_500_simulations(family: Any, body: str) -> None:
    torch.manual_seed(0)
    share = float(torch.stack([covered(*one, body, k < 2) for k, one in enumerate(simulations(family, body))]).mean())
    assert 0.88 <= share <= 0.92, share
