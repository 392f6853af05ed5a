"""Laws of every family of several predictors: derivatives, fits in pieces, repeats, dropped rows, batches."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from several_cases import (
    Drawn,
    calm_predictors_of,
    categorical,
    draws,
    families,
    predictors_of,
    support,
    title,
)
from torch import Tensor

import torchglm as tg
from torchglm.families.several import MEMBERS, Plain, VectorFamily
from torchglm.fitting.irls import irls
from torchglm.inputs import Roles, several_from_arrays

TIGHT = {"tol": 1e-12, "max_iter": 100}
every = pytest.mark.parametrize("family", families(), ids=title)


def design(n: int, p: int = 2, seed: int = 2) -> Tensor:
    return 2 * torch.rand(n, p, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 1


def fitted(family: VectorFamily, x: Tensor, drawn: Drawn, **options: Any) -> tg.Result:
    others = {name: x[..., :1] for name in family.others}
    return tg.fit(x, drawn["y"], family=family, predictors=others, **drawn.roles, **TIGHT, **options)


def agree(one: tg.Result, other: tg.Result, tolerance: float = 1e-9) -> None:
    assert bool(one.converged.all()), one.status
    torch.testing.assert_close(one.flat.coef, other.flat.coef, rtol=0, atol=tolerance)
    torch.testing.assert_close(one.covariance(), other.covariance(), rtol=1e-7, atol=1e-12)
    torch.testing.assert_close(one.loglik, other.loglik, rtol=1e-12, atol=0)


def test_every_family_has_an_example() -> None:
    assert {type(family) for family in families()} == set(MEMBERS)


@every
def test_derivatives_are_those_of_the_nll(family: VectorFamily) -> None:
    eta, y = predictors_of(family, 400), draws(family, (400,)).response(family)
    score, pairs = family.derivatives(y, eta)
    slope, bends = VectorFamily.derivatives(family, y, eta)
    torch.testing.assert_close(score, slope, rtol=1e-8, atol=1e-8)
    none = torch.zeros_like(eta[0])
    for pair in pairs | bends:
        torch.testing.assert_close(pairs.get(pair, none), bends.get(pair, none), rtol=1e-7, atol=1e-8)


@every
def test_the_law_sums_to_one_and_bears_its_information(family: VectorFamily) -> None:
    """The score has mean zero; its variance is the mean of the observed information, and the expected one."""
    eta = calm_predictors_of(family, 40)
    y, weight = support(family)
    spread = eta.unsqueeze(1).expand(-1, len(weight), -1).contiguous()
    each = y if isinstance(y, Tensor) else y.size
    density = (-family.nll(y, spread)).exp() * weight
    torch.testing.assert_close(density.sum(0), torch.ones_like(eta[0]), rtol=0, atol=1e-9)
    score, pairs = family.derivatives(y, spread)
    score = torch.where(density > 0, score, 0.0)  # far out a slope may overflow where the density is nil
    pairs = {pair: torch.where(density > 0, value, 0.0) for pair, value in pairs.items()}
    torch.testing.assert_close((density * score).sum(1), torch.zeros_like(eta), rtol=0, atol=1e-7)
    none, size = torch.zeros_like(density), len(eta)
    expected = family.expected(eta)
    for k in range(size):
        for j in range(k, size):
            outer = (density * score[k] * score[j]).sum(0)
            torch.testing.assert_close((density * pairs.get((k, j), none)).sum(0), outer, rtol=1e-6, atol=1e-6)
            if expected is not None:
                known = expected.get((k, j), torch.zeros_like(outer))
                torch.testing.assert_close(known, outer, rtol=1e-6, atol=1e-6)
    if family.name not in ("multinomial", "ordinal", "beta_binomial"):
        torch.testing.assert_close((density * each).sum(0), family.mean(eta), rtol=1e-7, atol=1e-7)


@every
def test_a_safe_curvature_is_nowhere_negative(family: VectorFamily) -> None:
    eta, y = predictors_of(family, 400), draws(family, (400,)).response(family)
    pairs = family.safe(y, eta, family.derivatives(y, eta)[1])
    matrices = torch.zeros(400, len(eta), len(eta), dtype=torch.float64)
    for (k, j), value in pairs.items():
        matrices[:, k, j] = matrices[:, j, k] = value
    values = torch.linalg.eigvalsh(matrices)
    assert bool((values[:, 0] >= -1e-12 * values[:, -1]).all())


@every
def test_repeats_and_dropped_rows(family: VectorFamily) -> None:
    x, drawn = design(120), draws(family, (120,))
    freq = torch.randint(0, 4, (120,), generator=torch.Generator().manual_seed(3))
    repeated = drawn.each(lambda value: value.repeat_interleave(freq))
    agree(fitted(family, x, drawn, freq=freq), fitted(family, x.repeat_interleave(freq, 0), repeated))
    kept = freq > 0
    known = family.name in ("multinomial", "ordinal")  # a missing label is refused before the weights are looked at
    spoiled = Drawn(drawn | {"y": drawn["y"] if known else torch.where(kept, drawn["y"], torch.nan)})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="rows of weight zero")
        dropped = fitted(family, x, spoiled, weights=kept.double())
    agree(dropped, fitted(family, x[kept], drawn.each(lambda value: value[kept])))


@every
def test_a_batch_is_a_loop(family: VectorFamily) -> None:
    x, drawn = torch.stack([design(200, seed=s) for s in range(3)]), draws(family, (3, 200))
    whole = fitted(family, x, drawn)
    for k in range(3):
        agree(whole[k], fitted(family, x[k], drawn.each(lambda value, k=k: value[k])))
    shared = fitted(family, x[0], drawn)
    agree(shared[1], fitted(family, x[0], drawn.each(lambda value: value[1])))


@every
def test_chunks_are_the_whole(family: VectorFamily) -> None:
    x, drawn = design(150), draws(family, (150,))
    others = {name: x[..., :1] for name in family.others}
    data = several_from_arrays(x, drawn["y"], family, Roles(**drawn.roles), True, None, None, None, others)
    known = family if data.family is None else data.family
    [rows] = data.source
    pieces = [rows.between(start, start + 40) for start in range(0, 150, 40)]
    one, many = (irls(source, known, known.default_link, tol=1e-12) for source in (data.source, pieces))
    torch.testing.assert_close(one.coef, many.coef, rtol=0, atol=1e-9)


@every
def test_an_aliased_column_and_a_year(family: VectorFamily) -> None:
    x, drawn = design(120), draws(family, (120,))
    plain = fitted(family, x, drawn)
    year = torch.cat([x[:, :1], x[:, 1:] * 1e-3 + 2020], -1)
    torch.testing.assert_close(fitted(family, year, drawn).loglik, plain.loglik, rtol=1e-9, atol=0)
    twice = torch.cat([x, x[:, :1] + x[:, 1:]], -1)
    with pytest.warns(tg.FitWarning, match="aliased"):
        aliased = fitted(family, twice, drawn)
    torch.testing.assert_close(aliased.loglik, plain.loglik, rtol=1e-10, atol=0)
    assert float(aliased.rank) == float(plain.rank)


@pytest.mark.parametrize("name", ["poisson", "bernoulli"])
def test_one_predictor_wrapped_is_the_plain_fit(name: str) -> None:
    family = tg.families.get(name)
    x = design(200)
    y = (
        (draws(Plain(tg.Poisson()), (200,))["y"] > 1).double()
        if name == "bernoulli"
        else draws(Plain(tg.Poisson()), (200,))["y"]
    )
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
