"""FisherHead: a step on all rows is a step of IRLS; beside Adam it ends where IRLS does, whatever the body does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_cann import rows
from torch import Tensor, nn

import torchglm as tg

FAMILIES: list[tuple[Any, str | None]] = [
    (tg.Poisson(), "log"),
    (tg.Bernoulli(), "logit"),
    (tg.Bernoulli(), "probit"),
    (tg.Gaussian(), "identity"),
    (tg.Gamma(), "log"),
    (tg.NegativeBinomial(0.5), "log"),
]
SEVERAL: list[Any] = [tg.ZeroInflated("poisson"), tg.Ordinal(classes=3), tg.Multinomial(classes=3), tg.Weibull()]


def made(family: Any, link: str | None = None, **options: Any) -> tuple[Tensor, Tensor, nn.Linear, tg.GLMHead]:
    x, y = rows(family)
    torch.manual_seed(0)
    body = nn.Linear(3, 2).double()
    return body(x).detach(), y, body, tg.GLMHead(2, family, link, dtype=torch.float64, **options)


@pytest.mark.parametrize("family, link", FAMILIES, ids=repr)
def test_a_step_on_all_rows_is_a_step_of_irls(family: Any, link: str) -> None:
    z, y, _, head = made(family, link)
    weights = 0.5 + torch.rand(200, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    offset = 0.1 * torch.randn(200, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    design = torch.cat([torch.ones(200, 1, dtype=torch.float64), z], 1)
    head.init_from(y)
    optimizer = tg.optim.FisherHead(head, forgetting=0.0)
    for _ in range(3):
        coef = head.coef[0]
        eta = design @ coef + offset
        mu = head.link(eta)
        slope = head.link.inverse_deriv(eta)
        w = weights * slope.square() / head.family.variance(mu).detach()  # of IRLS: the working weights, and responses
        working = eta - offset + (y - mu) / slope
        want = torch.linalg.solve(design.mT @ (w[:, None] * design), design.mT @ (w * working))
        optimizer.step(z, y, weights=weights, offset=offset)
        torch.testing.assert_close(head.coef[0], want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "family",
    [FAMILIES[0][0], FAMILIES[4][0], *(pytest.param(one, marks=pytest.mark.slow) for one in SEVERAL)],
    ids=repr,
)
def test_steps_end_where_a_refit_does(family: Any) -> None:
    z, y, _, head = made(family)
    head.init_from(y)
    optimizer = tg.optim.FisherHead(head, forgetting=0.0, damping=1e-3)
    losses = [float(optimizer.step(z, y)[0]) for _ in range(20)]
    assert all(after <= before + 1e-12 for before, after in zip(losses, losses[1:], strict=False))
    found = head.coef
    tg.refit_(head, [(z, y)])
    torch.testing.assert_close(found, head.coef, rtol=1e-6, atol=1e-6)


def test_minibatches_beside_adam_for_the_body() -> None:
    x, y = rows(tg.Poisson(), 2000)
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(3, 8), nn.Tanh()).double()
    head = tg.GLMHead(8, "poisson", dtype=torch.float64)
    adam, fisher = torch.optim.Adam(body.parameters(), lr=0.01), tg.optim.FisherHead(head, penalty=tg.Ridge(1e-3))
    for _ in range(5):
        for batch in torch.randperm(2000).split(200):
            z = body(x[batch])
            adam.zero_grad()
            head.loss(z, y[batch]).backward()
            adam.step()
            fisher.step(z, y[batch])
    with torch.no_grad():
        deep = 2 * (head.loss(body(x), y, reduction="sum") + head.family.nll_saturated(y).neg().sum())
    assert float(deep) < 0.85 * float(tg.fit(x, y, family="poisson").deviance)
    again = tg.optim.FisherHead(head, lr=0.5)
    again.load_state_dict(fisher.state_dict())
    assert torch.equal(*(one.state[head.weight]["information"] for one in (again, fisher)))
    torch.optim.lr_scheduler.ExponentialLR(again, 0.5)


def test_sequences_padding_and_columns_that_say_nothing() -> None:
    z, y, _, head = made(tg.Poisson(), "log")
    other = made(tg.Poisson(), "log")[3]
    padded = (
        torch.cat([z, torch.full((20, 2), torch.nan).double()]),
        torch.cat([y, torch.full((20,), torch.nan).double()]),
    )
    weights = torch.cat([torch.ones(200), torch.zeros(20)]).double()
    tg.optim.FisherHead(head).step(z, y)
    with pytest.warns(tg.FitWarning, match="weight zero"):
        tg.optim.FisherHead(other).step(
            padded[0].reshape(22, 10, 2), padded[1].reshape(22, 10), weights=weights.reshape(22, 10)
        )
    torch.testing.assert_close(head.coef, other.coef, rtol=1e-12, atol=1e-14)
    twice = tg.GLMHead(3, "poisson", dtype=torch.float64)
    tg.optim.FisherHead(twice).step(torch.cat([z, z[:, :1]], 1), y)  # two columns are one
    torch.testing.assert_close(twice(torch.cat([z, z[:, :1]], 1)), head(z), rtol=1e-9, atol=1e-10)


def test_what_cannot_be_meant_is_refused() -> None:
    head = tg.GLMHead(2, "poisson")
    for options, says in (
        ({"lr": 0.0}, "lr must"),
        ({"forgetting": 2}, "lr must"),
        ({"penalty": tg.ElasticNet(1.0)}, "l1"),
    ):
        with pytest.raises(ValueError, match=says):
            tg.optim.FisherHead(head, **options)
    with pytest.raises(ValueError, match="classes"):
        tg.optim.FisherHead(tg.GLMHead(2, "ordinal"))
