"""What `test_fused.py` runs in a process of its own: Triton is told as it is imported whether it interprets kernels.

On the CPU it interprets them; on a CUDA device (`FUSED_CASES_DEVICE`) the same cases hold the compiled kernel.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import torchglm
from torchglm.families import Family
from torchglm.families.on_card import PAIRS, pair_of
from torchglm.fitting import fused, kernel
from torchglm.fitting.moments import Moments, Point
from torchglm.links import Link
from torchglm.rows.rows import Rows

DEVICE = os.environ.get("FUSED_CASES_DEVICE", "cpu")
SHAPED = {"negative_binomial": {"alpha": 0.7}, "tweedie": {"power": 1.4}}


@pytest.fixture(autouse=True)
def programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many at a time as on a device of one multiprocessor."""
    if DEVICE == "cpu":
        monkeypatch.setattr(fused, "_programs", lambda device: 4)


def member(family: type[Family], link: type[Link]) -> tuple[Family, Link]:
    return family(**SHAPED.get(family.name, {})), link()


MEMBERS = [member(family, link) for family, link in PAIRS]
NAMED = {f"{family.name}-{link.name}": (family, link) for family, link in MEMBERS}


def drawn(family: Family, link: Link, shape: tuple[int, ...], at: torch.Generator) -> Tensor:
    """Responses in the support, with zeros and whole proportions among them where it has them."""
    level = torch.rand(shape, generator=at, dtype=torch.float64)
    if family.mean_upper == 1.0:
        return torch.where(level < 0.7, (level < 0.4).double(), level)
    if family.mean_lower == -math.inf:
        return 3 * level - 1
    y = torch.poisson(4 * level, generator=at)
    return y if bool(family.supports(torch.zeros(())).all()) and family.name != "gamma" else y + level + 0.01


def rows_of(
    family: Family,
    link: Link,
    n: int,
    p: int,
    models: int = 1,
    *,
    own: bool = False,
    dtype: torch.dtype = torch.float64,
    intercept: bool = False,
    weights: bool = False,
    offset: bool = False,
    repeats: bool = False,
    seed: int = 0,
) -> tuple[Rows, Tensor]:
    """Rows and coefficients near a fit; with `weights`, some are 0, and what stands in their rows is out of range."""
    at = torch.Generator().manual_seed(seed)
    first = int(intercept)
    x = torch.randn(*([models] if own else []), n, p - first, generator=at, dtype=dtype)
    y = drawn(family, link, (models, n), at)
    w = torch.ones(1, 1, dtype=torch.float64).expand(models, n)
    times = None
    if weights:
        w = torch.rand(models, n, generator=at, dtype=torch.float64) + 0.1
        w[:, ::3] = 0.0
        y[:, ::3] = -7.0
    if repeats:
        times = torch.randint(1, 4, (models, n), generator=at).double()
        w = w * times
    shift = torch.zeros(1, 1, dtype=torch.float64).expand(models, n)
    if offset:
        shift = torch.randn(models, n, generator=at, dtype=torch.float64) / 4
    coef = torch.randn(models, p, generator=at, dtype=torch.float64) / (2 * p**0.5)
    parts = (part if part is None else part.to(DEVICE) for part in (x, y, w, shift, times))
    x, y, w, shift, times = parts
    return Rows(x, y, w, shift, times, intercept), coef.to(DEVICE)


def close(own: Moments, plain: Moments, tol: float) -> None:
    """The sums of both, held to each other beside the size of what they are sums of."""
    gram, other = plain.gram.written_out(), own.gram.written_out()
    assert other.shape == gram.shape
    for name in ("weight", "count", "response", "objective", "scale", "score", "invalid"):
        assert getattr(own, name).shape == getattr(plain, name).shape, name
    torch.testing.assert_close(own.invalid > 0, plain.invalid > 0)
    for name in ("weight", "count", "response", "objective", "scale"):
        torch.testing.assert_close(getattr(own, name), getattr(plain, name), rtol=1e-12, atol=1e-12, msg=name)
    size = plain.score.abs().amax() + plain.weight.amax() + plain.objective.abs().amax() + 1
    assert float((own.score - plain.score).abs().amax()) <= 1e-13 * float(size)
    if gram.numel():
        length = gram.diagonal(dim1=-2, dim2=-1).abs().sqrt().clamp(min=1e-100)
        off = (other - gram).abs() / length.unsqueeze(-1) / length.unsqueeze(-2)
        assert float(off.amax()) <= tol


def compare(rows: Rows, point: Point, family: Family, link: Link, tol: float = 1e-12, **options: Any) -> None:
    family = family.to(rows.y.device)
    assert fused.serves(rows, point, family, link)
    close(fused.launch(rows, point, family, link, **options), kernel.block_moments(rows, point, family, link), tol)


@pytest.mark.parametrize("pair", NAMED)
def test_pair_says_what_plain_formulas_say(pair: str) -> None:
    family, link = NAMED[pair]
    rows, coef = rows_of(family, link, 301, 5, dtype=torch.float32, intercept=True)
    compare(rows, Point(coef), family, link, programs=3)
    asked = torch.tensor([True, False, True], device=DEVICE)
    rows, coef = rows_of(family, link, 140, 3, 3, own=True, weights=True, offset=True, repeats=True, seed=1)
    compare(rows, Point(coef, asked, census=True), family, link, programs=6)


@pytest.mark.parametrize("pair", NAMED)
def test_pair_keeps_its_digits_far_out(pair: str) -> None:
    """Predictors to the ends of what can be, one to a row: means near 0, near 1, and beyond all numbers."""
    family, link = NAMED[pair]
    far = torch.tensor([-30.0, -1e-9, 0.0, 0.3, 3.0, 30.0], dtype=torch.float64)
    level = torch.tensor([0.0, 1e-3, 0.5, 1.0, 40.0], dtype=torch.float64)
    level = level[family.supports(level)]
    eta, y = (v.reshape(-1, 1).to(DEVICE) for v in torch.meshgrid(far, level, indexing="ij"))  # a model a row
    coef = torch.ones_like(y)
    rows, point = Rows(eta.unsqueeze(-1), y, coef, 0 * coef), Point(coef, (10 * y[:, 0] + eta[:, 0].ceil()) % 2 < 1)
    own, plain = fused.launch(rows, point, family, link), kernel.block_moments(rows, point, family, link)
    x, y = eta[:, 0].abs(), y[:, 0]
    terms = 1 + y * (1 + x)  # that half a deviance is the difference of
    assert bool(((own.objective - plain.objective).abs() <= 1e-11 * plain.objective + 1e-14 * terms).all())
    (score, gram), (other, beside) = ((m.score[:, 0], m.gram.written_out()[:, 0, 0]) for m in (own, plain))
    assert bool(((score - other).abs() <= 1e-12 * other.abs() + 1e-15 * x).all())
    assert bool(((gram - beside).abs() <= 1e-12 * beside.abs() + 1e-15 * x * other.abs()).all())


@pytest.mark.parametrize("p", [1, 2, 15, 16, 17, 31, 33, 63, 64])
def test_every_width(p: int) -> None:
    family, link = NAMED["poisson-log"]
    n = 5 * fused.TILE // 64 + 3
    rows, coef = rows_of(family, link, n, p, dtype=torch.float32 if p % 3 else torch.float64, intercept=p % 2 == 0)
    compare(rows, Point(coef), family, link, programs=2)
    compare(rows, Point(coef, curved=False, census=True), family, link, programs=1)


@pytest.mark.parametrize("n", [1, 2, 127, 128, 129, 255, 256, 257, 1000])
def test_ragged_and_short_last_tiles(n: int) -> None:
    family, link = NAMED["bernoulli-logit"]
    rows, coef = rows_of(family, link, n, 4, weights=n > 100, offset=True)
    for programs in (1, 3):
        compare(rows, Point(coef, census=True), family, link, programs=programs)


def test_models_on_one_design_and_on_their_own() -> None:
    family, link = NAMED["gamma-log"]
    for own in (False, True):
        rows, coef = rows_of(family, link, 90, 6, 5, own=own, intercept=True, offset=True)
        compare(rows, Point(coef, torch.tensor([True, False, True, True, False], device=DEVICE)), family, link)


def test_each_model_has_a_shape_of_its_own() -> None:
    for pair, shape in (("negative_binomial-log", "alpha"), ("tweedie-log", "power")):
        family, link = NAMED[pair]
        [name], at = dict(family.named_parameters()), torch.tensor([-2.0, 0.1, 1.5], dtype=torch.float64)
        each = family.with_parameters({name: at})
        assert getattr(each, shape).shape == (3,)
        rows, coef = rows_of(each, link, 70, 3, 3, own=True, weights=True)
        compare(rows, Point(coef, True), each, link)


def test_negative_binomial_meets_poisson() -> None:
    link = NAMED["poisson-log"][1]
    for alpha in (0.0, 1e-300, 1e-18, 1e-9, 1e-4):
        family = torchglm.NegativeBinomial(alpha=alpha)
        rows, coef = rows_of(family, link, 80, 3)
        compare(rows, Point(coef, True), family, link)


def test_strided_designs() -> None:
    family, link = NAMED["poisson-log"]
    rows, coef = rows_of(family, link, 200, 4)
    turned = rows._replace(x=rows.x.mT.contiguous().mT, y=rows.y.repeat_interleave(2, -1)[:, ::2])
    assert turned.x.stride() != rows.x.stride() and turned.y.stride() != rows.y.stride()
    compare(turned, Point(coef), family, link)


def test_single_products_are_ieee() -> None:
    """Of columns that float32 holds, products in float32 that are not rounded to TF32, whose digits end at 1e-3."""
    family, link = NAMED["poisson-log"]
    rows, coef = rows_of(family, link, 2000, 8, dtype=torch.float32)
    compare(rows, Point(coef, single=True), family, link, tol=2e-6)


def test_means_out_of_range_are_told_of() -> None:
    for pair, level in (("poisson-log", 800.0), ("gamma-log", -800.0), ("poisson-log", math.nan)):
        family, link = NAMED[pair]
        rows, coef = rows_of(family, link, 50, 2)
        rows = rows._replace(offset=torch.full_like(rows.y, 0.0))
        rows.offset[0, 7] = level
        found = fused.launch(rows, Point(coef), family, link)
        assert float(found.invalid) == 1 and not bool(found.valid.any())


def test_what_a_kernel_does_not_know_is_left() -> None:
    family, link = NAMED["poisson-log"]
    rows, coef = rows_of(family, link, 50, 3)
    assert fused.serves(rows, Point(coef), family, link)
    left: list[tuple[Rows, Point, Family, Link]] = [
        (rows, Point(), family, link),
        (rows, Point(coef, before=coef), family, link),
        (rows, Point(coef, factor=True), family, link),
        (rows, Point(coef, relative=True), family, link),
        (rows, Point(coef, fence=1.0), family, link),
        (rows, Point(coef, lack=coef[:, 0]), family, link),
        (rows, Point(coef), family, torchglm.links.get("sqrt")),
        (rows, Point(coef), torchglm.families.get("gaussian"), link),
        (rows, Point(coef.clone().requires_grad_()), family, link),
        (rows._replace(second=rows.y), Point(coef), family, link),
        (rows._replace(x=rows.x.repeat(1, 30)), Point(coef.repeat(1, 30)), family, link),
    ]
    for case in left:
        assert not fused.serves(*case)
    for power in (0, 1, 2, 3, 2.5):
        assert pair_of(torchglm.Tweedie(power=power), link) is None

    class Counts(torchglm.Poisson):  # a family is what its class is
        name = "own_counts"

    assert pair_of(Counts(), link) is None


FITS: dict[str, Callable[[Tensor], Tensor]] = {
    "poisson": lambda eta: torch.poisson(eta.exp()),
    "bernoulli": lambda eta: torch.bernoulli(eta.sigmoid()),
    "gaussian": lambda eta: eta + torch.randn_like(eta),
    "gamma": lambda eta: eta.exp() * torch.distributions.Gamma(2.0, 2.0).sample(eta.shape).double() + 1e-9,
    "negative_binomial": lambda eta: torch.poisson(eta.exp() * (torch.rand_like(eta) + 0.5)),
}


@pytest.fixture
def trusted(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[object, ...], bool]:
    """The kernel takes passes of rows wherever they are, and no kind of it is known yet."""
    known: dict[tuple[object, ...], bool] = {}
    monkeypatch.setattr(fused, "_trusted", known)
    monkeypatch.setattr(fused, "ready", lambda rows: True)
    monkeypatch.setattr(Rows, "on_card", property(lambda rows: True))
    monkeypatch.setattr("torchglm.fitting.irls.fit_small_models", lambda problem, source, lane, out: lane)
    return known


@pytest.mark.parametrize("name", FITS)
def test_a_fit_by_the_kernel_is_the_fit(name: str, trusted: dict[tuple[object, ...], bool]) -> None:
    torch.manual_seed(3)
    x = torch.randn(2, 150, 4, dtype=torch.float64)
    y = FITS[name](0.3 + x @ torch.tensor([0.4, -0.3, 0.2, 0.0], dtype=torch.float64)).to(DEVICE)
    x = x.to(DEVICE)
    family = torchglm.NegativeBinomial(alpha=0.4) if name == "negative_binomial" else name
    link = "log" if name == "gamma" else None
    own = torchglm.fit(x, y, family=family, link=link)
    assert all(trusted.values())
    assert trusted or name == "gaussian"  # whose first step is the last
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "fused", lambda *given: None)
        plain = torchglm.fit(x, y, family=family, link=link)
    assert own.status == plain.status if isinstance(own.status, str) else bool((own.converged == plain.converged).all())
    torch.testing.assert_close(own.coef, plain.coef, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(own.std_err, plain.std_err, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(own.deviance, plain.deviance, rtol=1e-12, atol=1e-12)


def test_a_kernel_that_is_off_or_broken_is_told_of_and_left(
    trusted: dict[tuple[object, ...], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    family, link = NAMED["poisson-log"]
    rows, coef = rows_of(family, link, 100, 3)
    point, right = Point(coef, census=True), fused.launch

    def call() -> Moments | None:
        return fused.fused(rows, point, family, link, kernel.block_moments)

    def broken(*given: Any) -> Moments:
        raise RuntimeError("PassManager::run failed")

    monkeypatch.setattr(fused, "launch", broken)
    with pytest.warns(RuntimeWarning, match="could not be made .RuntimeError: PassManager::run failed.*Plain torch"):
        assert call() is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert call() is None  # told once
    for name in ("score", "objective", "scale", "count"):
        trusted.clear()

        def off(*given: Any, name: str = name) -> Moments:
            found = right(*given)
            getattr(found, name).mul_(1 + 1e-6)
            return found

        monkeypatch.setattr(fused, "launch", off)
        with pytest.warns(RuntimeWarning, match="disagrees with torch"):
            assert call() is None
    trusted.clear()
    monkeypatch.setattr(fused, "launch", right)
    assert call() is not None and list(trusted.values()) == [True]
