"""The laws every link obeys; links are found by themselves, and one without a reference formula here fails."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache

import mpmath
import pytest
import torch
from torch import Tensor
from torch.func import jvp

from torchglm import families, links
from torchglm.links import Link, Power

mp = mpmath.mp
Formula = tuple[Callable[..., mpmath.mpf], Callable[..., mpmath.mpf]]

# mu and 1 - mu as functions of eta (and of the link), each written so that it keeps its digits
REFERENCE: dict[str, Formula] = {
    "identity": (lambda x, _: x, lambda x, _: 1 - x),
    "log": (lambda x, _: mp.exp(x), lambda x, _: -mp.expm1(x)),
    "logit": (lambda x, _: 1 / (1 + mp.exp(-x)), lambda x, _: 1 / (1 + mp.exp(x))),
    "probit": (lambda x, _: mp.erfc(-x / mp.sqrt(2)) / 2, lambda x, _: mp.erfc(x / mp.sqrt(2)) / 2),
    "cloglog": (lambda x, _: -mp.expm1(-mp.exp(x)), lambda x, _: mp.exp(-mp.exp(x))),
    "loglog": (lambda x, _: mp.exp(-mp.exp(-x)), lambda x, _: -mp.expm1(-mp.exp(-x))),
    "cauchit": (lambda x, _: 0.5 + mp.atan(x) / mp.pi, lambda x, _: 0.5 - mp.atan(x) / mp.pi),
    "inverse": (lambda x, _: 1 / x, lambda x, _: 1 - 1 / x),
    "inverse_squared": (lambda x, _: 1 / mp.sqrt(x), lambda x, _: 1 - 1 / mp.sqrt(x)),
    "sqrt": (lambda x, _: x * x, lambda x, _: 1 - x * x),
    "power": (lambda x, g: mp.power(x, 1 / mp.mpf(g.power)), lambda x, g: 1 - mp.power(x, 1 / mp.mpf(g.power))),
    "softplus": (lambda x, _: mp.log1p(mp.exp(x)), lambda x, _: 1 - mp.log1p(mp.exp(x))),
    "negative_binomial_canonical": (
        lambda x, g: 1 / (mp.exp(-x) - mp.mpf(float(g.alpha))),
        lambda x, g: 1 - 1 / (mp.exp(-x) - mp.mpf(float(g.alpha))),
    ),
}
# links that are made with an argument
MADE = {
    "power": [Power(p) for p in (0.5, -1.5, 2.0, 1 / 3)],
    "negative_binomial_canonical": [families.NegativeBinomial(0.4).canonical_link],
}
# every link of the library; other tests may have made their own before this module is read
CLASSES = sorted((c for c in Link.__subclasses__() if c.__module__.startswith("torchglm.")), key=lambda c: c.__name__)
LINKS = [link for c in CLASSES for link in MADE.get(c.name) or [c()]]
DTYPES = (torch.float64, torch.float32)
TOLERANCE = {torch.float64: 2e-13, torch.float32: 3e-5}
OF_PROPORTIONS = {"logit", "probit", "cloglog", "loglog", "cauchit"}

each_link = pytest.mark.parametrize("link", LINKS, ids=repr)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def etas(link: Link, dtype: torch.dtype = torch.float64, step: float = 2.5, end: float = 40.0) -> Tensor:
    """Points from -40 to 40 inside the domain of the link, exact in either precision."""
    eta = torch.arange(-end, end + step / 2, step, dtype=dtype) + 0.125
    return eta[link.inside(eta)]


@cache
def exact(link: Link, eta: float) -> dict[str, mpmath.mpf]:
    """Every quantity a link offers, from the reference formula and its numerical derivatives, to 40 digits."""
    value, other = (lambda x, f=f: f(x, link) for f in REFERENCE[link.name])
    with mp.workdps(100):
        x = mp.mpf(eta)
        mu, rest = value(x), other(x)
        sign, small = (1, value) if abs(mu) < abs(rest) else (-1, other)
        slope, bend = sign * mp.diff(small, x), sign * mp.diff(small, x, 2)
        return {
            "inverse": mu,
            "inverse_deriv": slope,
            "inverse_curvature": bend / slope,
            "log_inverse": _log(mu, rest),
            "log_complement": _log(rest, mu),
            "log_inverse_deriv": mp.log(abs(slope)),
            "relative_slope": slope / mu if mu else None,
            "complement_slope": slope / rest if 0 < mu < 1 else None,
        }


def _log(part: mpmath.mpf, rest: mpmath.mpf) -> mpmath.mpf | None:
    """`log(part)` where `part + rest = 1`; None where there is none."""
    return None if part <= 0 else mp.log1p(-rest) if abs(rest) < 0.5 else mp.log(part)


def test_every_link_has_a_reference_formula() -> None:
    assert {c.name for c in CLASSES} == set(REFERENCE)


@each_dtype
@pytest.mark.parametrize("quantity", list(exact(links.Log(), 1.0)))
@each_link
def test_quantities_are_those_of_the_formula(link: Link, quantity: str, dtype: torch.dtype) -> None:
    eta = etas(link, dtype)
    got = getattr(link, quantity)(eta).double()
    pairs = [(e, g, exact(link, e)[quantity]) for e, g in zip(eta.tolist(), got.tolist(), strict=True)]
    limits = torch.finfo(dtype)
    for e, g, want in pairs:
        if want is None or abs(want) > limits.max:
            continue
        allowed = TOLERANCE[dtype] * abs(want) + limits.tiny
        if quantity == "log_inverse_deriv" or quantity == "log_inverse":  # a logarithm near zero is no relative matter
            allowed += TOLERANCE[dtype]
        assert abs(g - want) <= allowed, f"eta = {e}: {g}, not {mp.nstr(want, 17)}"


@each_link
def test_slopes_are_those_of_autodiff(link: Link) -> None:
    eta = etas(link, end=6.0, step=0.5)
    one = torch.ones_like(eta)
    torch.testing.assert_close(link.inverse_deriv(eta), jvp(link.inverse, (eta,), (one,))[1], rtol=1e-11, atol=1e-14)
    bend = jvp(lambda e: jvp(link.inverse, (e,), (one,))[1], (eta,), (one,))[1]
    torch.testing.assert_close(link.inverse_curvature(eta) * link.inverse_deriv(eta), bend, rtol=1e-9, atol=1e-12)
    leaf = eta.clone().requires_grad_()
    link(leaf).sum().backward()
    torch.testing.assert_close(leaf.grad, link.inverse_deriv(eta), rtol=1e-11, atol=1e-14)


@each_link
def test_the_defaults_of_the_contract_agree_with_the_closed_forms(link: Link) -> None:
    eta = etas(link, end=3.0, step=0.5)
    for name in ("inverse_deriv", "inverse_curvature", "log_inverse_deriv", "relative_slope"):
        default = getattr(Link, name)(link, eta)
        torch.testing.assert_close(getattr(link, name)(eta), default, rtol=1e-9, atol=1e-12)
    positive = eta[link(eta) > 0]
    torch.testing.assert_close(link.log_inverse(positive), Link.log_inverse(link, positive), rtol=1e-9, atol=1e-12)
    proper = eta[(link(eta) > 0) & (link(eta) < 0.999)]  # beyond, 1 - mu has lost its digits
    for name in ("log_complement", "complement_slope"):
        torch.testing.assert_close(
            getattr(link, name)(proper), getattr(Link, name)(link, proper), rtol=1e-9, atol=1e-12
        )


@each_dtype
@each_link
def test_the_mean_is_finite_and_monotone(link: Link, dtype: torch.dtype) -> None:
    eta = etas(link, dtype, step=0.25)
    mu = link(eta)
    assert mu.dtype == dtype and bool(torch.isfinite(mu).all())
    pieces = [mu[eta < 0], mu[eta > 0]] if link.name == "inverse" else [mu]  # 1 / eta has two branches
    for piece in pieces:
        steps = piece.diff()
        assert bool((steps >= 0).all() or (steps <= 0).all())
        assert bool((steps != 0).any())


@each_dtype
@pytest.mark.parametrize("link", [g for g in LINKS if g.name in OF_PROPORTIONS], ids=repr)
def test_links_of_proportions_have_finite_logarithms_and_gradients(link: Link, dtype: torch.dtype) -> None:
    for name in ("log_inverse", "log_complement", "log_inverse_deriv"):
        eta = etas(link, dtype, step=0.25).requires_grad_()
        value = getattr(link, name)(eta)
        value.sum().backward()
        assert bool(torch.isfinite(value).all()) and bool(torch.isfinite(eta.grad).all()), name


@each_dtype
@pytest.mark.parametrize("link", [links.Log(), links.Softplus(), links.Sqrt(), links.InverseSquared()], ids=repr)
def test_links_of_positive_means_have_finite_logarithms_and_gradients(link: Link, dtype: torch.dtype) -> None:
    eta = etas(link, dtype, step=0.25).requires_grad_()
    value = link.log_inverse(eta)
    value.sum().backward()
    assert bool(torch.isfinite(value).all()) and bool(torch.isfinite(eta.grad).all())


@each_dtype
@each_link
def test_there_and_back_is_the_identity(link: Link, dtype: torch.dtype) -> None:
    eps = torch.finfo(dtype).eps
    eta = etas(link, dtype, end=5.0, step=0.25)
    mu, slope = link(eta), link.inverse_deriv(eta).abs()
    allowed = 8 * eps * (eta.abs() + mu.abs() / slope + 1)  # what rounding mu once costs eta
    kept = (allowed < 0.1) & (mu.abs() > torch.finfo(dtype).tiny)
    assert bool(kept[eta.abs() < 2].all()) and bool(((link.link(mu) - eta).abs() <= allowed)[kept].all())
    back = link(link.link(mu))
    assert bool(((back - mu).abs() <= 8 * eps * (mu.abs() + slope * (eta.abs() + 1)))[kept].all())


@each_dtype
@pytest.mark.parametrize("link", [g for g in LINKS if g.name in OF_PROPORTIONS], ids=repr)
def test_small_proportions_survive_the_way_back(link: Link, dtype: torch.dtype) -> None:
    mu = torch.tensor([1e-30, 1e-12, 1e-6, 0.01, 0.5], dtype=dtype)
    eta = link.link(mu)
    condition = (link.relative_slope(eta) * eta).abs() + 1
    assert bool(((link(eta) / mu - 1).abs() <= 16 * torch.finfo(dtype).eps * condition).all())


@each_link
def test_any_shape_goes_through_and_nothing_is_changed(link: Link) -> None:
    eta = etas(link)[:6].reshape(-1, 1, 2).contiguous()
    kept = eta.clone()
    for name in ("inverse", "inverse_deriv", "inverse_curvature", "log_inverse_deriv", "relative_slope", "inside"):
        assert getattr(link, name)(eta).shape == eta.shape
    assert link.link(link(eta)).shape == eta.shape and torch.equal(eta, kept)


@pytest.mark.parametrize("link", [g for g in LINKS if g.lower == 0], ids=repr)
def test_half_line_links_say_where_they_are_one_to_one(link: Link) -> None:
    assert link.inside(torch.tensor([-2.0, 0.0, 1e-30, 3.0])).tolist() == [False, False, True, True]
    assert bool(link.inside(link.link(torch.tensor([1e-3, 1.0, 1e3]))).all())


@pytest.mark.parametrize("link", [g for g in LINKS if g.lower != 0 and g.name in links.names()], ids=repr)
def test_the_other_links_take_the_whole_line(link: Link) -> None:
    assert bool(link.inside(torch.tensor([-1e30, -1.0, 2.0, 1e30])).all())


def test_the_registry_knows_every_link_that_needs_no_argument() -> None:
    passed_on = {"self", "args", "kwargs"}
    free = {c.name: c for c in CLASSES if not inspect.signature(c.__init__).parameters.keys() - passed_on}
    assert {c.name for c in CLASSES} - set(free) == set(MADE)
    assert {name: type(links.get(name)) for name in links.names()} == free
    assert all(links.get(link) is link for link in LINKS)
    assert {type(g).__name__ for g in LINKS} - {"NegativeBinomialCanonical"} <= set(links.__all__)


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown link 'logarithm'.*identity, log, logit.*Power"):
        links.get("logarithm")


@pytest.mark.parametrize("power", [0.0, float("inf"), float("nan")])
def test_a_power_link_needs_a_power(power: float) -> None:
    with pytest.raises(ValueError, match="other than 0, got .* Use Log"):
        Power(power)


def test_powers_meet_the_links_that_have_a_name() -> None:
    eta = torch.linspace(0.1, 9, 20, dtype=torch.float64)
    for power, name in ((1.0, "identity"), (0.5, "sqrt"), (-1.0, "inverse"), (-2.0, "inverse_squared")):
        torch.testing.assert_close(Power(power)(eta), links.get(name)(eta), rtol=1e-14, atol=0)
    assert repr(Power(-2)) == "Power(-2)"
