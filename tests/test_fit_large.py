"""Large fits start from a part of the rows and reuse a Gram: the answer is that of the plain search."""

import pytest
import torch
from torch import Tensor

import torchglm
from torchglm.fitting import sample, search

N, P = 6000, 30
CASES = [("poisson", "log"), ("gamma", "log"), ("bernoulli", "logit"), ("bernoulli", "probit"), ("gaussian", "log"),
         ("negative_binomial", "log"), ("poisson", "identity")]


def data(family: str, link: str, seed: int = 0) -> dict[str, Tensor]:
    """Rows in an order that tells of their columns, weights, an offset, a rare level and a column far from zero."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    x = normal(N, P)
    x = x[x[:, 3].argsort()]
    x[:, 5] = 0.0
    x[::197, 5] = 1.0  # a level of 31 rows
    x[:, 6] += 100
    x[:, 7] = x[:, 6] * 0.1 + 0.05 * x[:, 7]
    offset = 0.2 * normal(N)
    eta = x[:, :4] @ torch.tensor([0.3, -0.2, 0.1, 0.25], dtype=torch.float64) + 0.8 * x[:, 5] + offset
    eta = (eta.abs() + 2 if link == "identity" else eta)
    mu = torchglm.links.get(link)(eta)
    y = {"poisson": lambda: torch.poisson(mu, generator=draw), "gamma": lambda: mu * (normal(N).square() + 0.1),
         "bernoulli": lambda: torch.bernoulli(mu, generator=draw), "gaussian": lambda: mu + normal(N),
         "negative_binomial": lambda: torch.poisson(mu * (normal(N).square() + 0.1), generator=draw)}[family]()
    return {"x": x, "y": y, "offset": offset, "weights": torch.rand(N, generator=draw, dtype=torch.float64) + 0.5}


def pair(monkeypatch: pytest.MonkeyPatch, family: str, link: str, **options: object) -> tuple[torchglm.Result, ...]:
    """The fit as small ones go, and as large ones go."""
    chosen = torchglm.NegativeBinomial(0.7) if family == "negative_binomial" else family
    rows = data(family, link) | options
    monkeypatch.setattr(search, "CHORD_COLUMNS", 1000)
    plain = torchglm.fit(**rows, family=chosen, link=link, tol=1e-13)
    monkeypatch.setattr(search, "CHORD_COLUMNS", 4)
    monkeypatch.setattr(sample, "LARGE", 1)
    monkeypatch.setattr(sample, "STRIDE", 4)
    return plain, torchglm.fit(**rows, family=chosen, link=link)


@pytest.mark.parametrize("family, link", CASES)
def test_a_large_fit_ends_where_a_small_one_does(monkeypatch: pytest.MonkeyPatch, family: str, link: str) -> None:
    plain, large = pair(monkeypatch, family, link)
    assert large.status == plain.status == torchglm.Status.CONVERGED
    assert float(((large.coef - plain.coef) / plain.std_err).abs().max()) < 1e-5
    torch.testing.assert_close(large.std_err, plain.std_err, rtol=1e-5, atol=0.0)
    torch.testing.assert_close(large.deviance, plain.deviance, rtol=1e-10, atol=0.0)
    torch.testing.assert_close(large.pearson_chi2, plain.pearson_chi2, rtol=1e-6, atol=0.0)
    torch.testing.assert_close(large.nobs, plain.nobs, rtol=0.0, atol=0.0)


def test_a_large_ridge_fit_ends_where_a_small_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, large = pair(monkeypatch, "poisson", "log", penalty=torchglm.Ridge(0.3))
    torch.testing.assert_close(large.coef, plain.coef, rtol=1e-7, atol=1e-9)


def test_a_gram_is_reused_only_while_it_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[bool] = []
    fold = search.fold

    def counted(source: list, point: search.Point, *rest: object) -> search.Moments:
        if source[0].y.shape[-1] == N:
            passes.append(point.curved)
        return fold(source, point, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(search, "fold", counted)
    monkeypatch.setattr(search, "CHORD_COLUMNS", 4)
    monkeypatch.setattr(sample, "LARGE", 1)
    torchglm.fit(**data("poisson", "log"), family="poisson")
    assert passes[0] and passes[-1] and sum(passes) < len(passes)


def test_a_level_the_part_does_not_hold_goes_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = data("poisson", "log")
    rows["x"][:, 5] = 0.0
    rows["x"][7, 5] = 1.0
    rows["y"][7] = 3.0
    monkeypatch.setattr(search, "CHORD_COLUMNS", 1000)
    plain = torchglm.fit(**rows, family="poisson", tol=1e-13)
    monkeypatch.setattr(sample, "LARGE", 1)
    monkeypatch.setattr(search, "CHORD_COLUMNS", 4)
    large = torchglm.fit(**rows, family="poisson")
    assert large.status == torchglm.Status.CONVERGED
    assert float(((large.coef - plain.coef) / plain.std_err).abs().max()) < 1e-5


def test_separation_is_seen_in_a_large_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = data("bernoulli", "logit")
    rows["y"] = torch.where(rows["x"][:, 5] == 1, 1.0, rows["y"])
    monkeypatch.setattr(sample, "LARGE", 1)
    monkeypatch.setattr(search, "CHORD_COLUMNS", 4)
    with pytest.warns(torchglm.FitWarning, match="SEPARATED"):
        assert torchglm.fit(**rows, family="bernoulli").status == torchglm.Status.SEPARATED
