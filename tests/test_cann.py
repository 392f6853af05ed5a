"""CANN: it begins as the GLM to the last digits, trains by whatever trains a network, and is balanced when refitted."""

from __future__ import annotations

import copy
from typing import Any

import lightning
import pytest
import torch
from test_refit import TRAINER
from torch import Tensor, nn
from torch.utils.data import DataLoader

import torchglm as tg
from torchglm.training import IRLSHead, LitGLM

FAMILIES: list[tuple[Any, dict[str, Any]]] = [
    (tg.Poisson(), {}),
    (tg.Bernoulli(), {}),
    (tg.Gaussian(), {}),
    (tg.Gamma(), {"link": "log"}),
    (tg.NegativeBinomial(), {}),
    (tg.Gamma(), {"link": "log", "predictors": {"dispersion": "x"}}),
    (tg.ZeroInflated("poisson"), {}),
    (tg.Ordinal(), {}),
    (tg.Multinomial(), {}),
    (tg.Weibull(), {}),
]


def rows(family: Any, n: int = 200) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    eta = 0.4 * x[:, 0] + torch.sin(2 * x[:, 1])
    u = torch.rand(n, generator=generator, dtype=torch.float64)
    if family.name == "bernoulli":
        return x, (u < torch.sigmoid(eta)).double()
    if family.name in ("ordinal", "multinomial"):
        return x, (eta + 2 * u).clamp(0, 2.9).floor()
    if family.name == "gaussian":
        return x, eta + u
    amount = eta.exp() * torch._standard_gamma(torch.full_like(eta, 2.0), generator=generator)
    return x, torch.poisson(amount, generator=generator) if family.name not in ("gamma", "weibull") else amount


def fitted(family: Any, options: dict[str, Any]) -> tuple[Tensor, Tensor, tg.Result]:
    x, y = rows(family)
    known = {name: {k: x for k in v} if name == "predictors" else v for name, v in options.items()}
    glm = tg.fit(x, y, family=family, **known)
    return (torch.cat([x, x], 1) if "predictors" in options else x), y, glm


def network(columns: int, out: int) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(columns, 4), nn.Tanh(), nn.Linear(4, out))  # float32, beside a GLM in float64


def cann_of(x: Tensor, glm: tg.Result, **options: Any) -> tg.nn.CANN:
    head = glm.head
    out = head.weight.shape[:-1].numel() if isinstance(glm.family, tg.Ordinal) else 1
    if glm.plan is not None and not isinstance(glm.family, tg.Ordinal):
        out = len(glm.family.predictors)
    return tg.nn.CANN(glm, network(x.shape[1], out), **options)


@pytest.mark.parametrize("family, options", FAMILIES, ids=repr)
def test_it_begins_as_the_glm(family: Any, options: dict[str, Any]) -> None:
    x, y, glm = fitted(family, options)
    cann = cann_of(x, glm)
    split = cann.split([(x[:90], y[:90]), (x[90:], y[90:])])
    want = -2 * glm.loglik if glm.plan is not None else glm.deviance
    torch.testing.assert_close(split.glm[0], want, rtol=1e-12, atol=0.0)
    torch.testing.assert_close(split.cann[0], want, rtol=1e-12, atol=0.0)
    if glm.plan is None:
        torch.testing.assert_close(split.null[0], glm.null_deviance, rtol=1e-10, atol=0.0)
    assert float(split.null[0]) > float(split.glm[0]) and "with network" in str(split)
    with torch.no_grad():
        torch.testing.assert_close(cann(x), glm.head(x), rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(
            cann.head.law(cann.backbone(x)).log_prob(y[:, None]),
            glm.head.law(x).log_prob(y[:, None]),
            rtol=1e-12,
            atol=1e-13,
        )


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize(
    "family, options",
    [pytest.param(*one, marks=[] if k in (0, 7) else pytest.mark.slow) for k, one in enumerate(FAMILIES)],
    ids=repr,
)
def test_a_loop_trains_it_and_refitting_restores_the_balance(family: Any, options: Any, frozen: bool) -> None:
    x, y, glm = fitted(family, options)
    cann = cann_of(x, glm, frozen=frozen)
    before, loss = copy.deepcopy(cann.glm.state_dict()), tg.nn.WithLoss(cann)
    optimizer = torch.optim.Adam([part for part in loss.parameters() if part.requires_grad], lr=0.02)
    for _ in range(30):
        optimizer.zero_grad()
        loss(x, y).backward()
        optimizer.step()
    moved = any(not torch.equal(value, before[name]) for name, value in cann.glm.state_dict().items())
    assert moved == (not frozen)
    split = cann.split([(x, y)])
    assert float(split.cann[0]) < float(split.glm[0])
    cann.double()
    done = tg.refit_(cann, [(x[:90], y[:90]), (x[90:], y[90:])])
    assert done.status == [tg.Status.CONVERGED] and bool((done.after <= done.before).all())
    split = cann.split([(x, y)])
    if family.name in ("poisson", "bernoulli", "gaussian"):
        torch.testing.assert_close(split.balance, torch.ones_like(split.balance), rtol=1e-9, atol=0.0)
    if glm.plan is None and not glm.estimated_shape:  # the last layer is the fit with the GLM for its offset
        with torch.no_grad():
            z = cann.backbone(x)
        own = tg.fit(z[:, :4], y, family=family, link=glm.link, offset=z[:, 4], tol=1e-12)
        torch.testing.assert_close(cann.head.coef[0], own.coef, rtol=1e-8, atol=1e-9)
        torch.testing.assert_close(split.cann[0], own.deviance, rtol=1e-10, atol=0.0)


def test_lightning_trains_and_refits_it_with_exposure() -> None:
    x, y, _ = fitted(tg.Poisson(), {})
    exposure = torch.rand(200, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) + 0.5
    glm = tg.fit(x, y, family="poisson", exposure=exposure)
    cann, refit = cann_of(x, glm), IRLSHead()
    batches = [{"x": x[k : k + 50], "y": y[k : k + 50], "exposure": exposure[k : k + 50]} for k in range(0, 200, 50)]
    torch.testing.assert_close(cann.split(batches).cann[0], glm.deviance, rtol=1e-12, atol=0.0)
    trainer = lightning.Trainer(max_epochs=3, callbacks=[refit], **TRAINER)
    trainer.fit(LitGLM(cann), DataLoader(batches, batch_size=None))
    split = cann.split(batches)
    assert float(split.cann[0]) < float(split.glm[0]) and refit.last is not None
    torch.testing.assert_close(split.balance, torch.ones_like(split.balance), rtol=1e-6, atol=0.0)  # float32


def test_several_responses_and_columns_of_their_own() -> None:
    x, y, _ = fitted(tg.Poisson(), {})
    glm = tg.fit(x[:, :2], torch.stack([y, y.flip(0)]), family="poisson")
    other = torch.randn(200, 5, generator=torch.Generator().manual_seed(1))
    cann = tg.nn.CANN(glm, network(5, 2))
    both = torch.stack([y, y.flip(0)], -1)
    split = cann.split([((x[:, :2], other), both)])
    torch.testing.assert_close(split.cann, glm.deviance, rtol=1e-12, atol=0.0)
    assert cann((x[:, :2], other)).shape == (200, 2)
    cann.double()
    tg.refit_(cann, [((x[:, :2], other.double()), both)])
    torch.testing.assert_close(cann.split([((x[:, :2], other.double()), both)]).balance, torch.ones(2).double())


def test_features_of_any_network_and_a_head_for_the_glm() -> None:
    x, y, glm = fitted(tg.Poisson(), {})
    sequences = x.reshape(20, 10, 3), y.reshape(20, 10)
    body = nn.Sequential(nn.Linear(3, 4), nn.ReLU()).double()
    cann = tg.nn.CANN(glm.head, body, features=4)
    assert cann.head.weight.shape == (1, 4) and cann(sequences[0]).shape == (20, 10, 1)
    torch.testing.assert_close(cann.split([sequences]).cann[0], glm.deviance, rtol=1e-12, atol=0.0)
    other = tg.nn.CANN(glm, copy.deepcopy(body), features=4)
    other.load_state_dict(cann.state_dict())
    torch.testing.assert_close(copy.deepcopy(other)(x), cann(x))


def test_what_does_not_fit_is_refused() -> None:
    x, _, glm = fitted(tg.Poisson(), {})
    with pytest.raises(ValueError, match="features="):
        tg.nn.CANN(glm, nn.Sequential(nn.Linear(3, 4), nn.ReLU()))
    with pytest.raises(ValueError, match="2 numbers, and the GLM has 1 predictor"):
        tg.nn.CANN(glm, network(3, 2))
    with pytest.raises(ValueError, match="in_features=5"):
        cann_of(x, glm).head(x)


@pytest.mark.parametrize("frozen", [True, False])
def test_every_parameter_that_is_trained_has_a_gradient(frozen: bool) -> None:
    x, y, _ = fitted(tg.NegativeBinomial(), {})
    for head in (tg.GLMHead(3, "negative_binomial"), tg.GLMHead(3, "gamma", dispersion="learned")):
        cann = tg.nn.CANN(head, network(3, 1), frozen=frozen)
        tg.nn.WithLoss(cann)(x.float(), y.float() + 1).backward()
        trained = {name for name, part in cann.named_parameters() if part.requires_grad}
        assert trained == {name for name, part in cann.named_parameters() if part.grad is not None}
        assert {"head.family.log_alpha", "head.log_dispersion"} & trained  # what the head learns, it goes on to learn
        assert any("glm" in name for name in trained) == (not frozen)
