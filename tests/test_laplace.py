"""Laplace: on a single layer what the fit says; through a network what the fit of its features says; evidence."""

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
    (tg.Gaussian(), "identity"),
    (tg.Gamma(), "log"),
    (tg.NegativeBinomial(), "log"),
    (tg.ZeroInflated("poisson"), None),
    (tg.Ordinal(classes=3), None),
    (tg.Multinomial(classes=3), None),
    (tg.Weibull(), None),
]


def batched(x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(zip(x.split(70), y.split(70), strict=True))


@pytest.mark.parametrize("family, link", FAMILIES, ids=repr)
def test_of_a_single_layer_it_is_the_fit(family: Any, link: str | None) -> None:
    x, y = rows(family)
    fit = tg.fit(x, y, family=family, link=link, tol=1e-12)
    head = tg.GLMHead(3, fit.family, link, dtype=torch.float64)
    tg.refit_(head, batched(x, y))
    laplace = tg.Laplace(head, batched(x, y))
    torch.testing.assert_close(laplace.covariance(), fit.covariance(), rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(laplace.result.loglik, fit.loglik, rtol=1e-10, atol=1e-9)
    if family.name in ("ordinal", "multinomial"):
        assert laplace.predict(x).shape == (200, 1, 3)
        torch.testing.assert_close(laplace.predict(x).sum(-1), torch.ones(200, 1, dtype=torch.float64))
        return
    low, high = laplace.interval(x[:20], 0.9)
    want = fit.predict_interval(x[:20], kind="response", level=0.9)
    torch.testing.assert_close(torch.stack([low, high], -1)[:, 0], want, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(laplace.predict(x[:20])[:, 0], fit.predict(x[:20]), rtol=0.2, atol=0.05)


def test_a_network_sequences_exposure_and_several_responses() -> None:
    x, y = rows(tg.Poisson())
    exposure = 0.5 + torch.rand(200, dtype=torch.float64)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Dropout(), tg.GLMHead(4, "poisson")).double()
    batches = [{"x": x.reshape(20, 10, 3), "y": y.reshape(20, 10), "exposure": exposure.reshape(20, 10)}]
    tg.refit_(network, batches)
    laplace = tg.Laplace(network, batches)
    network.eval()
    z = network[:-2](x).detach()
    fit = tg.fit(z, y, family="poisson", exposure=exposure, tol=1e-12)
    torch.testing.assert_close(laplace.covariance(), fit.covariance(), rtol=1e-8, atol=1e-10)
    low, high = laplace.interval(x.reshape(20, 10, 3), exposure=exposure.reshape(20, 10))
    assert low.shape == (20, 10, 1)
    want = fit.predict_interval(z, kind="response", level=0.9, exposure=exposure)
    torch.testing.assert_close(torch.stack([low, high], -1).reshape(200, 2), want)
    mean = laplace.predict(x, exposure=exposure)
    eta, error = fit.predict(z, kind="link", se=True, exposure=exposure)
    torch.testing.assert_close(mean[:, 0], (eta + error.square() / 2).exp(), rtol=1e-8, atol=1e-10)  # lognormal
    both = tg.GLMHead(3, "poisson", out_features=2, dtype=torch.float64)
    pair = [(x, torch.stack([y, y.flip(0)], -1))]
    tg.refit_(both, pair)
    found = tg.Laplace(both, pair)
    assert found.covariance().shape == (2, 4, 4) and found.interval(x)[0].shape == found.predict(x).shape == (200, 2)
    alone = tg.fit(x, y.flip(0), family="poisson")
    torch.testing.assert_close(found.covariance()[1], alone.covariance(), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(found.interval(x)[1][:, 1], alone.predict_interval(x, kind="response", level=0.9)[:, 1])


@pytest.mark.parametrize("family, role", [("poisson", "exposure"), ("binomial", "trials"), ("poisson", "offset")])
def test_roles_of_each_response(family: str, role: str) -> None:
    """A head of two responses says of each what a head of that alone does."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 3, generator=generator, dtype=torch.float64)
    own = 1 + 4 * torch.rand(60, 2, generator=generator, dtype=torch.float64).round(decimals=1)
    own = own.round() if role == "trials" else own
    y = torch.poisson(own.clamp(max=3), generator=generator).minimum(own.floor())
    both = tg.GLMHead(3, family, out_features=2, dtype=torch.float64)
    tg.refit_(both, [{"x": x, "y": y, role: own}])
    laplace = tg.Laplace(both, [{"x": x, "y": y, role: own}])
    found = [*laplace.interval(x, 0.9, **{role: own})]
    found += [] if role == "trials" else [laplace.predict(x, **{role: own})]
    for k in range(2):
        head = tg.GLMHead(3, family, dtype=torch.float64)
        head.set_coef_(both.coef[k : k + 1])
        alone = tg.Laplace(head, [{"x": x, "y": y[:, k], role: own[:, k]}])
        want = [*alone.interval(x, 0.9, **{role: own[:, k]})]
        want += [] if role == "trials" else [alone.predict(x, **{role: own[:, k]})]
        torch.testing.assert_close([part[:, k : k + 1] for part in found], want, rtol=1e-8, atol=1e-10)


def test_a_cann_knows_what_its_glm_says() -> None:
    x, y = rows(tg.Poisson())
    glm = tg.fit(x, y, family="poisson")
    torch.manual_seed(0)
    cann = tg.nn.CANN(glm, nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double())
    tg.refit_(cann, [(x, y)])
    laplace, z = tg.Laplace(cann, [(x, y)]), cann.backbone(x).detach()
    own = tg.fit(z[:, :4], y, family="poisson", offset=z[:, 4], tol=1e-12)
    torch.testing.assert_close(laplace.covariance(), own.covariance(), rtol=1e-8, atol=1e-10)
    want = own.predict_interval(z[:, :4], kind="response", level=0.9, offset=z[:, 4])
    torch.testing.assert_close(torch.stack(laplace.interval(x), -1)[:, 0], want)


def test_the_evidence_of_least_squares_is_exact() -> None:
    x, y = rows(tg.Gaussian(), 60)
    phi, strength = 0.4, 3.0
    head = tg.GLMHead(3, "gaussian", dtype=torch.float64, bias=False, dispersion=phi)
    tg.refit_(head, [(x, y)], penalty=tg.Quadratic([([0, 1, 2], torch.eye(3))], strength))
    laplace = tg.Laplace(head, [(x, y)], strength=strength)
    cov = phi * torch.eye(60, dtype=torch.float64) + phi / strength * x @ x.mT
    want = torch.distributions.MultivariateNormal(torch.zeros(60).double(), cov.double()).log_prob(y)
    torch.testing.assert_close(laplace.log_evidence[0], want, rtol=1e-10, atol=1e-9)
    posterior = phi * torch.linalg.inv(x.mT @ x + strength * torch.eye(3))
    torch.testing.assert_close(laplace.covariance(), posterior, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("family, link", [FAMILIES[0], FAMILIES[3], FAMILIES[5]], ids=repr)
def test_the_strength_by_evidence_is_where_it_is_largest(family: Any, link: str | None) -> None:
    x, y = rows(family)
    wide = torch.cat([x, x[:, :1], torch.ones_like(x[:, :1])], 1)  # features of a network depend on each other
    head = tg.GLMHead(5, family, link, dtype=torch.float64)
    tg.refit_(head, [(wide, y)], penalty=tg.Ridge(0.01))
    with pytest.raises(ValueError, match="evidence"):
        tg.Laplace(head, [(wide, y)])
    best = tg.Laplace(head, [(wide, y)], strength="evidence")
    if head.dispersion_kind == "estimated":  # Pearson's is over n less the freedom that the strength leaves
        head = tg.GLMHead(5, family, link, dtype=torch.float64, dispersion=float(best.result.dispersion))
        tg.refit_(head, [(wide, y)], penalty=tg.Ridge(0.01))
        best = tg.Laplace(head, [(wide, y)], strength="evidence")
    near = [tg.Laplace(head, [(wide, y)], strength=float(best.strength) * factor).log_evidence for factor in (0.9, 1.1)]
    assert float(best.log_evidence) > max(map(float, near))
    assert bool(torch.isfinite(best.covariance()).all())
    done = tg.refit_(head, [(wide, y)], penalty=best.penalty)
    assert done.status == [tg.Status.CONVERGED]


def test_what_cannot_be_meant_is_refused() -> None:
    x, y = rows(tg.Poisson())
    head = tg.GLMHead(3, "poisson")
    with pytest.raises(ValueError, match="strength must be"):
        tg.Laplace(head, [(x, y)], strength="reml")
    with pytest.raises(ValueError, match="flat prior"):
        tg.Laplace(head, [(x, y)]).log_evidence  # noqa: B018
