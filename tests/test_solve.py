"""`solve`: coefficients as a function of the data, and derivatives of it to any order, or NaN."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from family_cases import CASES, PAIRS, Case
from several_cases import draws, families, title
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import torchglm as tg
from torchglm.families.several import Classes, Multinomial, VectorFamily
from torchglm.fitting.penalties import MCP
from torchglm.links import Link

MANY = {"atol": 1e-5, "rtol": 1e-4}


def wide(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def drawn(case: Case, link: Link, n: int = 12) -> tuple[Tensor, Tensor]:
    """(2, n, 1) columns and (2, n) responses about means that the link reaches."""
    x = wide(2, n, 1, seed=1)
    if case.family.mean_upper == 1:
        mu = 0.35 + 0.3 * x[..., 0]
        return x, (mu + 0.25 * (wide(2, n, seed=2) - 0.5)).clamp(0.02, 0.98)
    mu = 2.0 + x[..., 0]
    return x, mu * (0.75 + 0.5 * wide(2, n, seed=2))


def parts_of(case: Case, link: Link) -> tuple[Tensor, ...]:
    """x, y, weights, offset and strength of two models."""
    x, y = drawn(case, link)
    return x, y, 0.5 + wide(2, 12, seed=3), 0.02 * wide(2, 12, seed=4), torch.tensor(0.03, dtype=torch.float64)


def solved(family: Any, link: Any = None, **options: Any) -> Any:
    def coef(x: Tensor, y: Tensor, weights: Tensor, offset: Tensor, strength: Tensor) -> Tensor:
        return tg.solve(x, y, family=family, link=link, weights=weights, offset=offset, strength=strength, **options)

    return coef


def check_along(coef: Any, parts: tuple[Tensor, ...], again: bool = True, step: float = 1e-5) -> None:
    """The derivative along one direction of all parts, and that of its own along it, against differences."""
    ways = [(wide(*part.shape, seed=7 + k) - 0.5) * part.abs().clamp(min=0.02) for k, part in enumerate(parts)]
    pull = 1 + wide(*coef(*parts).shape, seed=3)

    def slope(parts: list[Tensor], again: bool = False) -> tuple[Tensor, list[Tensor]]:
        held = [part.clone().requires_grad_() for part in parts]
        value = (coef(*held).square() * pull).sum()
        grads = torch.autograd.grad(value, held, create_graph=again, materialize_grads=True)
        along = sum((grad * way).sum() for grad, way in zip(grads, ways, strict=True))
        return along, list(torch.autograd.grad(along, held, materialize_grads=True)) if again else []

    ahead, behind = ([part + sign * step * way for part, way in zip(parts, ways, strict=True)] for sign in (1, -1))
    first, _ = slope(list(parts))
    value = [(coef(*at).square() * pull).sum() for at in (ahead, behind)]
    torch.testing.assert_close(first, (value[0] - value[1]) / (2 * step), rtol=1e-4, atol=1e-6)
    if not again:
        return
    same, second = slope(list(parts), again=True)
    torch.testing.assert_close(same, first, rtol=1e-7, atol=1e-9)  # torch.polygamma has eight digits
    bend = sum((grad * way).sum() for grad, way in zip(second, ways, strict=True))
    torch.testing.assert_close(bend, (slope(ahead)[0] - slope(behind)[0]) / (2 * step), rtol=1e-4, atol=1e-6)


def regular(case: Case, link: Link) -> bool:
    """Not a power of the mean so small that every mean has nearly the same predictor."""
    return not 0 < abs(getattr(link, "power", 1.0)) < 0.01


EVERY = [pair for pair in PAIRS if regular(*pair)]


def some(pairs: list[Any], name: Any, known: set[str]) -> list[Any]:
    """All of them, but those beside a first one of each name, or not among the known ones, as slow tests."""
    return [
        pytest.param(*pair) if name(pair) in known else pytest.param(*pair, marks=pytest.mark.slow) for pair in pairs
    ]


# of every family one member, with its default link and one that is not canonical
NAMED = {
    f"{cases[len(cases) // 2]!r} {link}"
    for cases in CASES.values()
    for link in (cases[0].family.default_link.name, "softplus")
}


@pytest.mark.parametrize(
    "case, link", some(EVERY, lambda pair: f"{pair[0]!r} {pair[1].name}", NAMED), ids=lambda value: repr(value)
)
def test_derivatives_of_every_family_and_link(case: Case, link: Link) -> None:
    check_along(solved(case.family, link), parts_of(case, link))


@pytest.mark.slow
@pytest.mark.parametrize("case, link", EVERY, ids=lambda value: repr(value))
def test_gradcheck_of_every_family_and_link(case: Case, link: Link) -> None:
    held = [part.requires_grad_() for part in parts_of(case, link)]
    assert gradcheck(solved(case.family, link), held, fast_mode=True, **MANY)
    assert gradgradcheck(solved(case.family, link), held, fast_mode=True, **MANY)


def several_parts(family: VectorFamily, n: int = 60) -> tuple[dict[str, Tensor], tuple[Tensor, ...]]:
    found = draws(family, (2, n), seed=5)
    roles = found.roles
    x = wide(2, n, 1, seed=1)
    return roles, (x, found["y"], 0.5 + wide(2, n, seed=3), 0.02 * wide(2, n, seed=4), torch.tensor(0.05).double())


SEVERAL = {
    "multinomial identity",
    "ordinal cumulative logit",
    "gamma_with_dispersion log",
    "zero_inflated poisson log",
    "weibull identity",
    "tweedie_with_dispersion log",
}


@pytest.mark.parametrize(
    "family", some([(one,) for one in families()], lambda one: title(*one), SEVERAL), ids=lambda one: title(one)
)
def test_derivatives_of_families_of_several_predictors(family: VectorFamily) -> None:
    if isinstance(family, Multinomial) and family.baseline is None:
        return
    roles, (x, y, weights, offset, strength) = several_parts(family)
    fixed = isinstance(family, Classes) or family.counts

    def coef(x: Tensor, y_: Tensor, weights: Tensor, offset: Tensor, strength: Tensor) -> Tensor:
        given = y if fixed or "trials" in roles or "event" in roles else torch.where(y > 0, y_, y)
        shift = {} if isinstance(family, Multinomial) else {"offset": offset}
        return tg.solve(x, given, family=family, weights=weights, strength=strength, **shift, **roles)

    parts = (x, y, weights, offset, strength)
    check_along(coef, parts)


def test_one_model_has_the_derivatives_it_has_in_a_batch() -> None:
    x, y, weights, offset, strength = (part.clone().requires_grad_() for part in parts_of(*PAIRS[0]))
    family, link = PAIRS[0][0].family, PAIRS[0][1]
    both = solved(family, link)(x, y, weights, offset, strength)
    one = solved(family, link)(x[1], y[1], weights[1], offset[1], strength)
    torch.testing.assert_close(both[1], one, rtol=1e-12, atol=1e-14)
    whole, part = (torch.autograd.grad(value.sum(), x)[0] for value in (both[1], one))
    torch.testing.assert_close(whole, part, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(
        tg.fit(
            x.detach(),
            y.detach(),
            family=family,
            link=link,
            weights=weights.detach(),
            offset=offset.detach(),
            penalty=tg.Ridge(0.03),
        ).coef,
        both.detach(),
        rtol=1e-8,
        atol=1e-10,
    )


def test_the_information_is_the_observed_one() -> None:
    """Of a Gamma with a log link the expected one would be 9 % off."""
    x = torch.linspace(0, 1, 30, dtype=torch.float64).unsqueeze(-1)
    y = (1 + x[:, 0]) * (0.2 + 1.6 * wide(30))
    y.requires_grad_()
    found = torch.autograd.grad(tg.solve(x, y, family="gamma", link="log")[1], y)[0]
    step = 1e-6 * torch.eye(30, dtype=torch.float64)[[3, 17]]
    ends = [tg.fit(x, y.detach() + sign * step, family="gamma", link="log", tol=1e-12).coef[:, 1] for sign in (1, -1)]
    torch.testing.assert_close(found[[3, 17]], (ends[0] - ends[1]) / 2e-6, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("penalty", ["ridge for each", "quadratic", "l1", "ridge of models"])
def test_derivatives_by_strengths(penalty: str) -> None:
    x, y = wide(2, 40, 3, seed=1), torch.poisson(3 * wide(2, 40, seed=2), generator=torch.Generator().manual_seed(1))
    first = {"l1": 0.05, "quadratic": 2.0}.get(penalty, 0.1)
    shape = {"ridge for each": (3,), "quadratic": (2,), "l1": (), "ridge of models": (2, 1)}[penalty]
    strength = first * (0.5 + wide(*shape, seed=5))

    def coef(x: Tensor, strength: Tensor) -> Tensor:
        if penalty == "quadratic":
            blocks = [([1, 2], torch.eye(2)), ([3], torch.eye(1))]
            return tg.solve(x, y, family="poisson", penalty=tg.Quadratic(blocks, strength))
        if penalty == "l1":
            return tg.solve(x, y, family="poisson", penalty=tg.ElasticNet(strength, 0.01))
        return tg.solve(x, y, family="poisson", strength=strength)

    if penalty == "l1":
        assert bool((coef(x, strength) == 0).any()) and bool((coef(x, strength)[:, 1:] != 0).any())
    check_along(coef, (x, strength))


@pytest.mark.parametrize("kind", ["ridge", "quadratic"])
def test_derivatives_by_what_coefficients_are_drawn_to(kind: str) -> None:
    """Credibility to another model, by its coefficients: they are those of a fit themselves."""
    x, y = wide(2, 30, 2, seed=1), 2 * wide(2, 30, seed=2)

    def coef(x: Tensor, y: Tensor, strength: Tensor) -> Tensor:
        base = tg.solve(x.flatten(0, 1), y.flatten(), family="gamma", link="log")
        if kind == "ridge":
            return tg.solve(x, y, family="gamma", link="log", penalty=tg.Ridge(strength, centre=base[1:]))
        blocks = [([1, 2], torch.eye(2))]
        return tg.solve(x, y, family="gamma", link="log", penalty=tg.Quadratic(blocks, strength, centre=base))

    check_along(coef, (x, y + 0.1, torch.tensor(0.3).double()))


def test_derivatives_by_columns_of_other_predictors() -> None:
    x, z = wide(60, 2, seed=1), wide(60, 1, seed=2)
    y = (1 + x[:, 0]) * wide(60, seed=3) + 0.1

    def coef(x: Tensor, z: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        return tg.solve(x, y, family="gamma", link="log", predictors={"dispersion": z}, weights=weights)

    check_along(coef, (x, z, y, 0.5 + wide(60, seed=4)))
    found = tg.fit(x, y, family="gamma", link="log", predictors={"dispersion": z}).coef
    torch.testing.assert_close(coef(x, z, y, torch.ones(60)), found, rtol=1e-8, atol=1e-9)


def test_derivatives_by_an_alpha_that_is_estimated_go_through_its_predictor() -> None:
    x, y = wide(80, 1, seed=1), torch.poisson(6 * wide(80, seed=2).square(), generator=torch.Generator().manual_seed(0))
    check_along(lambda x: tg.solve(x, y, family="negative_binomial", predictors={"alpha": "~ 1"}), (x,))
    found = tg.fit(x, y, family="negative_binomial")
    coef = tg.solve(x, y, family="negative_binomial", predictors={"alpha": "~ 1"})
    torch.testing.assert_close(coef[:2], found.coef, rtol=1e-8, atol=1e-9)
    with pytest.raises(ValueError, match="predictors="):
        tg.solve(x, y, family="negative_binomial")


SEPARATED = (torch.linspace(-1, 1, 20, dtype=torch.float64).unsqueeze(-1), (torch.arange(20) > 9).double())


def test_a_model_that_failed_has_nan_and_leaves_the_others_alone() -> None:
    x, y = SEPARATED[0].clone().requires_grad_(), torch.stack([SEPARATED[1], wide(20).round()])
    strength = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
    with pytest.warns(tg.FitWarning, match="1 of 2 models .* SEPARATED"):
        coef = tg.solve(x, y, family="bernoulli", strength=strength)
    assert coef[0].isnan().all() and coef[1].isfinite().all()
    alone = tg.solve(x, y[1], family="bernoulli", strength=strength)
    for part in (x, strength):
        mine, its = (torch.autograd.grad(value.sum(), part, retain_graph=True)[0] for value in (coef[1], alone))
        torch.testing.assert_close(mine, its, rtol=1e-9, atol=1e-11)
        assert torch.autograd.grad(coef.sum(), part, retain_graph=True)[0].isnan().all()
        assert torch.autograd.grad(coef[0, 1], part, retain_graph=True, create_graph=True)[0].isnan().all()
    with pytest.raises(ValueError, match="SEPARATED"):
        tg.solve(x, y, family="bernoulli", failed="error")


def test_columns_that_depend_on_others_have_no_derivative() -> None:
    x = torch.cat([wide(20, 1), wide(20, 1)], 1).requires_grad_()
    with pytest.warns(tg.FitWarning, match="depend on others, .*: x1"):
        assert tg.solve(x, wide(20, seed=1), family="gaussian").isnan().all()
    assert tg.solve(x, wide(20, seed=1), family="gaussian", strength=0.1).isfinite().all()


def test_a_row_of_weight_zero() -> None:
    x, y = wide(20, 2), wide(20, seed=1)
    weights = torch.ones(20, dtype=torch.float64)
    weights[:2] = 0

    def coef(weights: Tensor) -> Tensor:
        return tg.solve(x, y, family="gaussian", weights=weights)

    held = weights.clone().requires_grad_()
    [found] = torch.autograd.grad(coef(held)[1], held)
    ahead = weights.clone()
    ahead[0] = 1e-6
    torch.testing.assert_close(found[0], (coef(ahead) - coef(weights))[1] / 1e-6, rtol=1e-4, atol=1e-9)
    spoilt = y.clone()
    spoilt[0] = torch.nan
    with pytest.warns(tg.FitWarning, match="weight zero"):
        [other] = torch.autograd.grad(tg.solve(x, spoilt, family="gaussian", weights=held)[1], held)
    assert other[0] == 0
    torch.testing.assert_close(other[1:], found[1:], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "options, says",
    [
        ({"penalty": tg.Ridge(0.1), "strength": 0.1}, "Give one"),
        ({"penalty": tg.Ridge("reml")}, "estimated"),
        ({"failed": "zero"}, "failed must be"),
        ({"penalty": tg.Quadratic([([1], torch.eye(1))]).with_limits([1])}, "without limits"),
        ({"penalty": MCP(0.1)}, "solve has derivatives through"),
        ({"strength": -1.0}, "l2 must be"),
    ],
)
def test_what_cannot_be_meant_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        tg.solve(wide(20, 2), wide(20, seed=1), family="gaussian", **options)


def test_classes_have_no_derivative_by_their_labels() -> None:
    x, y = wide(30, 2), torch.arange(30).remainder(3)
    assert tg.solve(x, [["a", "b", "c"][k] for k in y.tolist()], family="multinomial").shape == (6,)
    with pytest.raises(ValueError, match="classes"):
        tg.solve(x, y.double().requires_grad_(), family="multinomial")


def test_float32_stays() -> None:
    x = wide(40, 2).float().requires_grad_()
    coef = tg.solve(x, wide(40, seed=1), family="gaussian")
    assert coef.dtype == torch.float32 and torch.autograd.grad(coef.sum(), x)[0].dtype == torch.float32


def test_a_network_learns_through_a_fit() -> None:
    """Features that a network makes of x, a fit on the first half of the rows, the loss on the second."""
    x, y = wide(80, 1) * 4, torch.sin(wide(80, 1)[:, 0] * 4)
    torch.manual_seed(0)
    body = torch.nn.Sequential(torch.nn.Linear(1, 6), torch.nn.Tanh()).double()
    optimizer, losses = torch.optim.Adam(body.parameters(), lr=0.03), []
    for _ in range(8):
        z = body(x)
        coef = tg.solve(z[:40], y[:40], family="gaussian", strength=1e-3)
        loss = (y[40:] - coef[0] - z[40:] @ coef[1:]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("name", ["x", "y", "weights", "offset", "penalty", "predictors"])
def test_fit_says_that_it_has_no_gradient(name: str) -> None:
    values = {"x": wide(20, 2), "y": wide(20, seed=1), "weights": wide(20, seed=2), "offset": wide(20, seed=3)}
    if name in values:
        values[name].requires_grad_()
    options: dict[str, Any] = {"family": "gaussian", **values}
    if name == "penalty":
        options["penalty"] = tg.Ridge(torch.tensor(0.1, requires_grad=True))
    if name == "predictors":
        options["predictors"] = {"dispersion": wide(20, 1).requires_grad_()}
    with pytest.warns(tg.FitWarning, match=f"{name} requires? grad.*torchglm.solve"):
        tg.fit(**options)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        tg.fit(**options)


def test_thresholds_stand_behind_the_slopes() -> None:
    x, y = wide(60, 2), (3 * wide(60, seed=1)).floor()
    fit = tg.fit(x, y, family="ordinal")
    torch.testing.assert_close(
        tg.solve(x, y, family="ordinal"), torch.cat([fit.coef, fit.thresholds]), rtol=1e-8, atol=1e-9
    )
