"""Laws of every family of several predictors: derivatives, fits in pieces, repeats, dropped rows, batches."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import torchglm as tg
from torchglm import links
from torchglm.families.several import Dispersed, Multinomial, Ordinal, Plain, VectorFamily
from torchglm.fitting.irls import irls
from torchglm.inputs import Roles, several_from_arrays

TIGHT = {"tol": 1e-12, "max_iter": 100}
CLASSES = 4


def categorical() -> Iterator[VectorFamily]:
    yield Multinomial(classes=CLASSES)
    yield Multinomial(2, classes=["a", "b", "c", "d"])
    for link in ("logit", "probit", "cloglog", "loglog", "cauchit"):
        yield Ordinal(link, classes=CLASSES)
        yield Ordinal(link, "continuation", classes=CLASSES)
    yield Ordinal(kind="adjacent", classes=CLASSES)
    yield Ordinal(free=True, classes=CLASSES)


def continuous() -> Iterator[VectorFamily]:
    yield Dispersed(tg.Gaussian())
    yield Dispersed(tg.Gaussian(), links.Log())
    yield Dispersed(tg.Gamma(), links.Log())
    yield Dispersed(tg.InverseGaussian(), links.Log())


def families() -> list[VectorFamily]:
    return [*categorical(), *continuous(), Plain(tg.Poisson())]


def title(family: VectorFamily) -> str:
    inner = getattr(family, "family", None)
    parts = [family.name, getattr(family, "kind", ""), getattr(inner, "name", "")]
    link = getattr(family, "link", None)
    return " ".join(filter(None, [*parts, "" if link is None else link.name]))


every = pytest.mark.parametrize("family", families(), ids=title)


def draws(family: VectorFamily, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Responses in the support of the family, not fitted well by anything."""
    generator = torch.Generator().manual_seed(seed)
    if family.name in ("multinomial", "ordinal"):
        return torch.randint(0, CLASSES, shape, generator=generator).double()
    y = torch.randn(shape, generator=generator, dtype=torch.float64).exp() + 0.1
    return y.round() if isinstance(family, Plain) and type(family) is Plain else y


def predictors_of(family: VectorFamily, n: int, seed: int = 1) -> Tensor:
    """(K, n) predictors at which the family has a law."""
    generator = torch.Generator().manual_seed(seed)
    eta = torch.randn(len(family.predictors), n, generator=generator, dtype=torch.float64) * 1.5
    return eta.sort(0).values if family.name == "ordinal" else eta


def design(n: int, p: int = 2, seed: int = 2) -> Tensor:
    return 2 * torch.rand(n, p, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 1


def fitted(family: VectorFamily, x: Tensor, y: Tensor, **options: object) -> tg.Result:
    others = {name: x[..., :1] for name in family.others}
    return tg.fit(x, y, family=family, predictors=others, **TIGHT, **options)


def agree(one: tg.Result, other: tg.Result, tolerance: float = 1e-9) -> None:
    assert bool(one.converged.all()), one.status
    torch.testing.assert_close(one.flat.coef, other.flat.coef, rtol=0, atol=tolerance)
    torch.testing.assert_close(one.covariance(), other.covariance(), rtol=1e-7, atol=1e-12)
    torch.testing.assert_close(one.loglik, other.loglik, rtol=1e-12, atol=0)


@every
def test_derivatives_are_those_of_the_nll(family: VectorFamily) -> None:
    eta, y = predictors_of(family, 400), draws(family, (400,))
    score, pairs = family.derivatives(y, eta)
    slope, bends = VectorFamily.derivatives(family, y, eta)
    torch.testing.assert_close(score, slope, rtol=1e-8, atol=1e-8)
    none = torch.zeros_like(eta[0])
    for pair in pairs | bends:
        torch.testing.assert_close(pairs.get(pair, none), bends.get(pair, none), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("family", list(categorical()), ids=title)
def test_classes_have_a_law(family: VectorFamily) -> None:
    """Probabilities sum to one, the score has mean zero, and the expected information is that of the score."""
    eta = predictors_of(family, 200)
    p = family.mean(eta)
    torch.testing.assert_close(p.sum(0), torch.ones(200, dtype=torch.float64), rtol=0, atol=1e-14)
    mean, outer, bend = 0.0, 0.0, 0.0
    size = len(eta)
    for k in range(CLASSES):
        y = torch.full((200,), float(k), dtype=torch.float64)
        score, pairs = family.derivatives(y, eta)
        mean = mean + p[k] * score
        outer = outer + p[k] * score.unsqueeze(0) * score.unsqueeze(1)
        none = torch.zeros_like(p[k])
        own = [[pairs.get((min(i, j), max(i, j)), none) for j in range(size)] for i in range(size)]
        bend = bend + p[k] * torch.stack([torch.stack(row) for row in own])
    torch.testing.assert_close(mean, torch.zeros_like(eta), rtol=0, atol=1e-12)
    torch.testing.assert_close(outer, bend, rtol=1e-7, atol=1e-10)
    expected = family.expected(eta)
    assert expected is not None
    for (i, j), value in expected.items():
        torch.testing.assert_close(value, outer[i, j], rtol=1e-7, atol=1e-10)


@every
def test_repeats_and_dropped_rows(family: VectorFamily) -> None:
    x, y = design(120), draws(family, (120,))
    freq = torch.randint(0, 4, (120,), generator=torch.Generator().manual_seed(3))
    agree(fitted(family, x, y, freq=freq), fitted(family, x.repeat_interleave(freq, 0), y.repeat_interleave(freq)))
    kept = freq > 0
    agree(fitted(family, x, y, weights=kept.double()), fitted(family, x[kept], y[kept]))


@every
def test_a_batch_is_a_loop(family: VectorFamily) -> None:
    x, y = torch.stack([design(200, seed=s) for s in range(3)]), draws(family, (3, 200))
    whole = fitted(family, x, y)
    for k in range(3):
        agree(whole[k], fitted(family, x[k], y[k]))
    shared = fitted(family, x[0], y)
    agree(shared[1], fitted(family, x[0], y[1]))


@every
def test_chunks_are_the_whole(family: VectorFamily) -> None:
    x, y = design(150), draws(family, (150,))
    others = {name: x[..., :1] for name in family.others}
    data = several_from_arrays(x, y, family, Roles(), True, None, None, None, others)
    known = family if data.family is None else data.family
    [rows] = data.source
    pieces = [rows.between(start, start + 40) for start in range(0, 150, 40)]
    one, many = (irls(source, known, known.default_link, tol=1e-12) for source in (data.source, pieces))
    torch.testing.assert_close(one.coef, many.coef, rtol=0, atol=1e-9)


@every
def test_an_aliased_column_and_a_year(family: VectorFamily) -> None:
    x, y = design(120), draws(family, (120,))
    plain = fitted(family, x, y)
    year = torch.cat([x[:, :1], x[:, 1:] * 1e-3 + 2020], -1)
    if family.name != "dispersed":
        torch.testing.assert_close(fitted(family, year, y).loglik, plain.loglik, rtol=1e-9, atol=0)
    twice = torch.cat([x, x[:, :1] + x[:, 1:]], -1)
    with pytest.warns(tg.FitWarning, match="aliased"):
        aliased = fitted(family, twice, y)
    torch.testing.assert_close(aliased.loglik, plain.loglik, rtol=1e-10, atol=0)
    assert float(aliased.rank) == float(plain.rank)


@pytest.mark.parametrize("name", ["poisson", "bernoulli"])
def test_one_predictor_wrapped_is_the_plain_fit(name: str) -> None:
    family = tg.families.get(name)
    x = design(200)
    y = (draws(Plain(tg.Poisson()), (200,)) > 1).double() if name == "bernoulli" else draws(Plain(tg.Poisson()), (200,))
    plain, wrapped = tg.fit(x, y, family=family, **TIGHT), tg.fit(x, y, family=Plain(family), **TIGHT)
    torch.testing.assert_close(wrapped.coef, plain.coef, rtol=0, atol=1e-11)
    torch.testing.assert_close(wrapped.std_err, plain.std_err, rtol=1e-10, atol=0)
    torch.testing.assert_close(wrapped.loglik, plain.loglik, rtol=1e-12, atol=0)


@pytest.mark.parametrize("family", list(categorical()), ids=title)
def test_separated_classes_never_converge(family: VectorFamily) -> None:
    x = torch.linspace(-1, 1, 80, dtype=torch.float64).unsqueeze(-1)
    y = torch.bucketize(x[:, 0], torch.tensor([-0.5, 0.0, 0.5], dtype=torch.float64)).double()
    with pytest.warns(tg.FitWarning):
        result = tg.fit(x, y, family=family)
    assert not bool(result.converged), result.status
