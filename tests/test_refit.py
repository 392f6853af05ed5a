"""`refit_`, in Lightning and without: the head is what a fit of its features finds, with dispersion and shapes."""

from __future__ import annotations

from typing import Any

import lightning
import numpy as np
import pytest
import statsmodels.api as sm
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import torchglm as tg
from torchglm.training import IRLSHead, LitGLM

HEADS: list[tuple[Any, str | None, dict[str, Any]]] = [
    (tg.Poisson(), "log", {}),
    (tg.NegativeBinomial(), "log", {}),
    (tg.Gaussian(), "identity", {"dispersion": "learned"}),
    (tg.Gamma(), "log", {"dispersion": "learned"}),
    (tg.Gamma(), "log", {}),
    (tg.Tweedie(), "log", {}),
    (tg.ZeroInflated("poisson"), None, {}),
    (tg.Weibull(), None, {}),
]
TRAINER: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
}


def sequences(family: Any) -> list[tuple[Tensor, Tensor]]:
    """Four batches of (sequences, times, features)."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(4, 5, 8, 4, generator=generator, dtype=torch.float64)
    mean = (0.4 + 0.5 * torch.tanh(x[..., 0] - x[..., 1])).exp()
    amount = mean * torch._standard_gamma(torch.full_like(mean, 2.0), generator=generator) / 2
    if family.name in ("poisson", "negative_binomial", "zero_inflated"):
        amount = torch.poisson(amount, generator=generator)
    if family.name == "tweedie":
        amount = torch.where(torch.rand(amount.shape, generator=generator) < 0.3, 0.0, amount)
    return list(zip(x, amount, strict=True))


def network(family: Any, options: dict[str, Any]) -> nn.Sequential:
    torch.manual_seed(1)
    body = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Dropout(0.5)).double()
    return nn.Sequential(body, tg.GLMHead(3, family, dtype=torch.float64, **options))


def features(model: nn.Sequential, batches: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    model.eval()
    with torch.no_grad():
        z = torch.cat([model[0](x) for x, _ in batches]).reshape(-1, 3)
    return z, torch.cat([y for _, y in batches]).reshape(-1)


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize(
    "family, link, options",
    [pytest.param(*one, marks=[] if k in (0, 1, 3, 4) else pytest.mark.slow) for k, one in enumerate(HEADS)],
    ids=lambda value: repr(value),
)
def test_a_refitted_head_is_the_fit_of_its_features(family: Any, link: Any, options: Any, inside: bool) -> None:
    batches, model = sequences(family), network(family, options)
    if inside:
        refit = IRLSHead()
        module = LitGLM(model, optimizer=lambda some: torch.optim.SGD(some, lr=1e-3), metrics={})
        lightning.Trainer(max_epochs=1, callbacks=[refit], **TRAINER).fit(module, DataLoader(batches, batch_size=None))
        done = refit.last
    else:
        done = tg.refit_(model, batches)
    assert done is not None and bool((done.after <= done.before).all()) and done.status == [tg.Status.CONVERGED]
    z, y = features(model, batches)
    kind = {"learned": "ml", "estimated": "pearson"}.get(model[1].dispersion_kind)
    fit = tg.fit(z, y, family=family, link=link, dispersion=kind, tol=1e-12)
    torch.testing.assert_close(model[1].coef[0], fit.flat.coef[0], rtol=1e-8, atol=1e-9)
    for name, value in fit.family.shapes.items():
        torch.testing.assert_close(model[1].family.shapes[name].detach(), value, rtol=1e-8, atol=1e-8)
    if kind is not None:
        torch.testing.assert_close(model[1].dispersion.detach(), fit.dispersion, rtol=1e-8, atol=1e-10)
    if model[1].whole_density:  # the loss is minus the mean log-likelihood
        loss = torch.stack([model[1].loss(model[0](x), y).detach() for x, y in batches]).mean()
        torch.testing.assert_close(done.after[0], loss, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(-fit.loglik / len(y), loss, rtol=1e-8, atol=1e-10)


def test_statsmodels_finds_the_same_on_the_features() -> None:
    for family, peer in ((tg.NegativeBinomial(), None), (tg.Gamma(), sm.families.Gamma(sm.families.links.Log()))):
        batches, model = sequences(family), network(family, {})
        tg.refit_(model, batches)
        z, y = (value.numpy() for value in features(model, batches))
        design = sm.add_constant(z)
        if peer is None:
            found = sm.NegativeBinomial(y, design).fit(disp=0, method="newton", tol=1e-14, maxiter=200)
            np.testing.assert_allclose(found.params[-1], model[1].family.alpha.item(), rtol=1e-8)
        else:
            found = sm.GLM(y, design, family=peer).fit(tol=1e-14, tol_criterion="params")
            np.testing.assert_allclose(found.scale, model[1].dispersion.item(), rtol=1e-8)
        np.testing.assert_allclose(np.asarray(found.params)[:4], model[1].coef[0].numpy(), rtol=1e-8, atol=1e-9)


def test_what_is_frozen_stays() -> None:
    batches, model = sequences(tg.NegativeBinomial()), network(tg.NegativeBinomial(), {})
    model[1].family.log_alpha.requires_grad_(False)
    tg.refit_(model, batches)
    assert model[1].family.alpha.item() == 1.0
    batches, model = sequences(tg.Gamma()), network(tg.Gamma(), {"dispersion": "learned"})
    model[1].log_dispersion.requires_grad_(False)
    tg.refit_(model, batches)
    assert model[1].dispersion.item() == 1.0


def test_several_responses_have_shapes_of_their_own() -> None:
    z = torch.randn(200, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    y = torch.poisson(torch._standard_gamma(torch.tensor([1.0, 4.0]).double().expand(200, 2), generator=generator))
    head = tg.GLMHead(2, tg.NegativeBinomial(), out_features=2, dtype=torch.float64)
    tg.refit_(head, [(z[:120], y[:120]), (z[120:], y[120:])])
    fit = tg.fit(z, y.mT.contiguous()[None].squeeze(0), family="negative_binomial", tol=1e-12)
    torch.testing.assert_close(head.coef, fit.coef, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(head.family.alpha.detach(), fit.family.alpha, rtol=1e-8, atol=1e-9)
