"""Conformal intervals: they cover as often as they say, whatever the law; limits are where the score says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchglm as tg

CASES: list[Any] = [
    (tg.Gaussian(), "pit"),
    (tg.Gaussian(), "deviance"),
    (tg.Gamma(), "pit"),
    (tg.Gamma(), "deviance"),
    (tg.Poisson(), "pit"),
    (tg.Poisson(), "deviance"),
    (tg.NegativeBinomial(0.3), "pit"),
    (tg.Tweedie(1.5), "deviance"),
    (tg.Weibull(), "pit"),
    pytest.param(tg.ZeroInflated("poisson"), "pit", marks=pytest.mark.slow),
    pytest.param(tg.Beta(), "pit", marks=pytest.mark.slow),
]


def drawn(family: Any, n: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """x, y and exposure: responses that vary more than any of the laws says."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    exposure = 0.3 + torch.rand(n, generator=generator, dtype=torch.float64)
    noise = torch.randn(n, generator=generator, dtype=torch.float64)
    if family.name == "gaussian":
        return x, x[:, 0] + noise.pow(3), exposure
    if family.name == "beta":
        return x, torch.sigmoid(x[:, 0] + 2 * noise).clamp(1e-9, 1 - 1e-9), exposure
    amount = exposure * 4 * (0.3 * x[:, 0] + noise).exp()
    if family.name in ("poisson", "negative_binomial", "zero_inflated"):
        return x, torch.poisson(amount, generator=generator), exposure
    if family.name == "tweedie":
        return x, torch.where(amount < 1, 0.0, amount), exposure
    return x, amount, exposure


def roles(family: Any, exposure: Tensor) -> dict[str, Tensor]:
    return {} if family.name in ("gaussian", "beta", "weibull") else {"exposure": exposure}


@pytest.mark.parametrize("family, score", CASES, ids=repr)
def test_they_cover_whatever_the_law_is(family: Any, score: str) -> None:
    x, y, exposure = drawn(family, 2300, 0)
    head = tg.GLMHead(2, family, dtype=torch.float64)
    train, held, new = slice(0, 500), slice(500, 1500), slice(1500, 2300)
    tg.refit_(head, [{"x": x[train], "y": y[train], **roles(family, exposure[train])}])
    conformal = tg.Conformal(head, [{"x": x[held], "y": y[held], **roles(family, exposure[held])}], score=score)
    low, high = conformal.interval(x[new], 0.9, **roles(family, exposure[new]))
    inside = (low[:, 0] <= y[new]) & (y[new] <= high[:, 0])
    assert low.shape == (800, 1) and bool((low <= high).all())
    covered = float(inside.double().mean())
    whole = family.name in ("poisson", "negative_binomial", "zero_inflated")
    assert 0.86 <= covered <= (0.97 if whole or family.name == "tweedie" else 0.94), covered
    if whole:
        assert torch.equal(low, low.round()) and torch.equal(high, high.round())
    again = conformal.interval(x[held], 0.9, **roles(family, exposure[held]))
    inside = (again[0][:, 0] <= y[held]) & (y[held] <= again[1][:, 0])
    near = conformal.scores[:, 0] <= conformal.limit(0.9)
    assert bool((inside | ~near).all())
    if not (whole and score == "deviance"):  # whose intervals hold the nearest count, however far that is
        assert float((inside == near).double().mean()) > 0.998  # but where one is the limit itself, to rounding


def test_a_network_sequences_repeats_and_dropped_rows() -> None:
    x, y, exposure = drawn(tg.Poisson(), 600, 1)
    network = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Dropout(), tg.GLMHead(4, "poisson")).double()
    plain = tg.Conformal(network, [{"x": x[:400], "y": y[:400], "exposure": exposure[:400]}])
    spoilt = torch.where(torch.arange(600) < 400, y, torch.nan)
    weights = (torch.arange(600) < 400).double()
    batch = {"x": x, "y": spoilt, "exposure": exposure, "weights": weights}
    dropped = tg.Conformal(network, [{name: value.reshape(30, 20, *value.shape[1:]) for name, value in batch.items()}])
    torch.testing.assert_close(dropped.limit(0.9), plain.limit(0.9))
    twice = tg.Conformal(network, [{"x": x[:400], "y": y[:400], "exposure": exposure[:400], "freq": 2 * weights[:400]}])
    both = tg.Conformal(network, [{"x": x[:400], "y": y[:400], "exposure": exposure[:400]}] * 2)
    torch.testing.assert_close(twice.limit(0.8), both.limit(0.8))
    low, high = plain.interval(x.reshape(30, 20, 2), exposure=exposure.reshape(30, 20))
    assert low.shape == (30, 20, 1)
    torch.testing.assert_close(high.reshape(600, 1), plain.interval(x, exposure=exposure)[1])


def test_too_few_rows_leave_no_limit() -> None:
    x, y, _ = drawn(tg.Poisson(), 8, 1)
    found = tg.Conformal(tg.GLMHead(2, "poisson"), [(x.float(), y.float())])
    low, high = found.interval(x.float(), 0.9)
    assert bool((low == 0).all()) and bool(torch.isinf(high).all())
    assert bool(torch.isfinite(found.interval(x.float(), 0.8)[1]).all())


def test_what_cannot_be_meant_is_refused() -> None:
    x, y, _ = drawn(tg.Poisson(), 20, 1)
    head = tg.GLMHead(2, "poisson").double()
    for made, says in (
        (lambda: tg.Conformal(head, [(x, y)], score="rank"), "score must"),
        (lambda: tg.Conformal(head, [{"x": x, "y": y, "weights": y + 0.5}]), "freq="),
        (lambda: tg.Conformal(tg.GLMHead(2, "weibull").double(), [{"x": x, "y": y + 1, "event": y > 0}]), "censored"),
        (lambda: tg.Conformal(tg.GLMHead(2, "weibull").double(), [(x, y + 1)], score="deviance"), "unit deviance"),
        (lambda: tg.Conformal(tg.GLMHead(2, tg.Ordinal(classes=3)), [(x, y)]), "classes"),
        (lambda: tg.Conformal(head, []), "no row"),
        (lambda: tg.Conformal(head, [(x, y)]).interval(x, 1.5), "level"),
    ):
        with pytest.raises(ValueError, match=says):
            made()
