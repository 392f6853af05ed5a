"""Coefficients and a shape parameter by one search, and the error that is that of all of them together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import torchglm
import torchglm.fitting.irls
from torchglm import special
from torchglm.design import blocks
from torchglm.fitting.kernel import fold
from torchglm.fitting.moments import Moments
from torchglm.fitting.status import Status
from torchglm.rows import indexed
from torchglm.rows.arrow import Arrow, Grouping
from torchglm.rows.grams import Bordered

KINDS = {"alpha": torchglm.NegativeBinomial, "power": torchglm.Tweedie}
BESIDE = {"alpha": {"alpha": "~ 1"}, "power": {"dispersion": "~ 1", "power": "~ 1"}}


@pytest.fixture(autouse=True)
def in_float64() -> Iterator[None]:
    """Tensors are made in float64 here, and elsewhere as they were."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def sample(kind: str, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 2))
    mu = np.exp(0.5 + x @ np.array([0.4, -0.2]))
    if kind == "alpha":
        return x, rng.negative_binomial(2.0, 2.0 / (2.0 + mu)).astype(float)
    jumps = rng.poisson(2 * mu**0.5)
    return x, np.where(jumps > 0, rng.gamma(np.maximum(jumps, 1), 0.5 * mu**0.5), 0.0)


def close(got: Tensor, want: Tensor, tol: float) -> None:
    torch.testing.assert_close(got, want, rtol=tol, atol=tol)


@pytest.mark.parametrize("roles", [{}, {"freq": True}, {"weights": True}])
@pytest.mark.parametrize("kind", KINDS)
def test_shape_and_error_are_those_of_a_predictor_without_columns(kind: str, roles: dict[str, bool]) -> None:
    x, y = sample(kind, 400)
    own = {name: np.random.default_rng(1).integers(0, 3, len(y)).astype(float) for name in roles}
    table = {"y": y, "a": x[:, 0], "b": x[:, 1]}
    one = torchglm.fit("y ~ a + b", table, family=KINDS[kind](), **own)
    several = torchglm.fit("y ~ a + b", table, family=KINDS[kind](), predictors=BESIDE[kind], **own)
    close(one.coef, several.coef[:3], 1e-8)
    raw, error = several[kind].coef[0], several[kind].std_err[0]
    share = raw.sigmoid()
    value, slope = (raw.exp(), raw.exp()) if kind == "alpha" else (1 + share, share * (1 - share))
    close(getattr(one.family, kind), value, 1e-8)
    close(one.shape_std_err, error * slope, 1e-6)
    close(one.loglik, several.loglik, 1e-10) if kind == "alpha" else None
    assert "std err" in one.summary().to_text()


@pytest.mark.parametrize("kind", KINDS)
def test_every_door_finds_the_same_shape(kind: str) -> None:
    x, y = sample(kind, 300)
    table = {"y": y, "a": x[:, 0], "b": x[:, 1], "g": np.arange(300) % 3}
    whole = torchglm.fit("y ~ a + b", table, family=KINDS[kind]())
    batch = torchglm.fit(np.stack([x, x[::-1]]), np.stack([y, y[::-1]]), family=KINDS[kind]())
    chunks = [(torch.tensor(x[i::7]), torch.tensor(y[i::7])) for i in range(7)]
    streamed = torchglm.fit(chunks, family=KINDS[kind]())
    ragged = torchglm.fit("y ~ a + b", table, family=KINDS[kind](), by="g")
    alone = torchglm.fit(x[::3], y[::3], family=KINDS[kind]())
    for got, want in [(batch, whole), (streamed, whole), (ragged, alone)]:
        for name in ("coef", "shape_std_err"):
            own = getattr(got, name)
            close(own[0] if got.batch_shape else own, getattr(want, name), 1e-9)
        value = getattr(got.family, kind)
        close(value[0] if got.batch_shape else value, getattr(want.family, kind), 1e-9)


def test_a_shape_beside_a_large_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Grams with a border and a diagonal take the shape into their corner."""
    rng = np.random.default_rng(3)
    code, x = rng.integers(0, 70, 2000), rng.standard_normal(2000)
    y = rng.negative_binomial(2.0, 2.0 / (2.0 + np.exp(0.5 + 0.3 * x + 0.01 * code))).astype(float)
    table = pd.DataFrame({"y": y, "x": x, "g": pd.Categorical(code.astype(str))})
    monkeypatch.setattr(indexed, "MANY", 8)
    bordered = torchglm.fit("y ~ g + x", table, family=torchglm.NegativeBinomial())
    assert next(iter(bordered.source)).layout.levels is not None
    monkeypatch.setattr(blocks, "MANY", 10**9)
    dense = torchglm.fit("y ~ g + x", table, family=torchglm.NegativeBinomial())
    assert next(iter(dense.source)).indexed is None
    for name in ("coef", "std_err", "shape_std_err", "loglik"):
        close(getattr(bordered, name), getattr(dense, name), 1e-9)
    close(bordered.family.alpha, dense.family.alpha, 1e-9)


@pytest.mark.parametrize("l1", [0.0, 0.02])
@pytest.mark.parametrize("kind", KINDS)
def test_a_shape_beside_penalised_coefficients(kind: str, l1: float) -> None:
    """At the shape that was found the coefficients are those of a fit that was given it; no other shape is better."""
    x, y = sample(kind, 120)
    penalty = torchglm.ElasticNet(l1, 0.1)
    free = torchglm.fit(x, y, family=KINDS[kind](), penalty=penalty)
    value = float(getattr(free.family, kind))
    held = torchglm.fit(x, y, family=KINDS[kind](value), penalty=penalty)
    close(free.coef, held.coef, 1e-9)
    mu, ys = free.predict(x), torch.tensor(y)

    def loglik(shape: float) -> float:
        if kind == "alpha":
            return float(torchglm.NegativeBinomial(shape).log_prob(ys, mu).sum())
        at = torch.linspace(-1, 1, 201).exp()[:, None]
        return float(torchglm.Tweedie(shape).log_prob(ys, mu.expand(201, -1), at).sum(-1).amax())

    best = loglik(value)
    assert all(loglik(value * factor) < best for factor in (0.97, 1.03))


@pytest.mark.parametrize(("kind", "most"), [("alpha", 14), ("power", 18)])
def test_a_search_takes_few_passes(kind: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = 0

    def counted(*args: Any) -> Moments:
        nonlocal passes
        passes += 1
        return fold(*args)

    monkeypatch.setattr(torchglm.fitting.irls, "fold", counted)
    x, y = sample(kind, 500)
    result = torchglm.fit(x, y, family=KINDS[kind]())
    assert bool(result.converged) and passes <= most


@pytest.mark.filterwarnings("ignore::torchglm.FitWarning")
def test_models_on_the_limit_are_poisson_models_beside_others() -> None:
    x, y = sample("alpha", 300)
    even = np.random.default_rng(4).binomial(4, 0.5, 300).astype(float)  # varies less than Poisson counts
    both = torchglm.fit(np.stack([x, x]), np.stack([even, y]), family=torchglm.NegativeBinomial())
    poisson, alone = torchglm.fit(x, even, family="poisson"), torchglm.fit(x, y, family=torchglm.NegativeBinomial())
    assert both.status == [torchglm.Status.SHAPE_LIMIT, torchglm.Status.CONVERGED]
    close(both.coef, torch.stack([poisson.coef, alone.coef]), 1e-10)
    assert float(both.family.alpha[0]) == 0.0 and bool(both.shape_std_err[0].isnan())


# log f and its derivatives in log phi, p, log phi twice, both, p twice; by sums of 40 digits
DIGITS = [
    (0.0, 1.3, 0.2, 1.4, -1.597187360191833, 1.597187360191833, -2.242934046679551, -1.597187360191833,
     2.242934046679551, -7.586389225814834),
    (0.7, 1.3, 0.2, 1.4, -1.09446082496572, -0.6646872406576313, 0.3149306278282818, -0.7193049361071897,
     0.8116914530953349, 0.6527649394731695),
    (2.5, 2.5, -1.0, 1.62, -1.186103281319034, -0.5257856650034175, -0.4781507041844915, -0.02750049992475036,
     -0.02031835547370946, 0.01559343457790755),
    (30.0, 12.0, -2.0, 1.15, -47.88406855001139, 45.50810843813069, 127.3436037008107, -46.00944247557812,
     -129.0491836147321, -364.1899581055232),
    (0.01, 0.5, 1.0, 1.9, 1.756297678159363, 0.08941208562358621, 2.200345758335701, -1.012139308830296,
     3.192481775209663, -14.69127899120272),
]  # fmt: skip


@pytest.mark.parametrize("case", DIGITS)
def test_slopes_of_the_tweedie_density_have_all_their_digits(case: tuple[float, ...]) -> None:
    y, mu, log_phi, power = torch.tensor(case[:4])
    found = special.tweedie_slopes(y, mu, log_phi.exp(), power)
    close(torch.stack(found[:6]), torch.tensor(case[4:]), 2e-13)


def test_slopes_of_the_tweedie_density_are_its_derivatives() -> None:
    generator = torch.Generator().manual_seed(0)
    u = torch.rand(4, 400, generator=generator)
    y, mu = torch.where(u[0] < 0.2, 0.0, 6 * u[0]), 0.1 + 4 * u[1]
    mu[:20] = torch.where(y[:20] > 0, y[:20] * (1 + 1e-9), mu[:20])
    at = torch.stack([4 * u[2] - 3, 1.02 + 0.96 * u[3]]).requires_grad_()
    [slope] = torch.autograd.grad(special.tweedie_log_prob(y, mu, at[0].exp(), at[1]).sum(), at, create_graph=True)
    bends = [torch.autograd.grad(slope[k].sum(), at, retain_graph=True)[0] for k in (0, 1)]
    found = special.tweedie_slopes(y, mu, at[0].detach().exp(), at[1].detach())
    close(torch.stack(found[1:3]), slope.detach(), 1e-11)
    close(torch.stack(found[3:6]), torch.stack([bends[0][0], bends[0][1], bends[1][1]]), 1e-9)


def test_every_kind_of_gram_takes_columns_behind() -> None:
    generator = torch.Generator().manual_seed(1)
    root = torch.randn(2, 9, 9, generator=generator)
    whole = root @ root.mT
    inner, across, corner = whole[:, :7, :7], whole[:, :7, 7:], whole[:, 7:, 7:]
    arrow = Arrow.of_pairs(inner, Grouping(1, 2, 2))
    levels = torch.eye(2).repeat(2, 2).bool()  # of the levels of a grouping no two meet
    beside = torch.ones(9, 9, dtype=torch.bool)
    beside[1:5, 1:5] = levels
    close(arrow.with_columns(across, corner).written_out(), torch.where(beside, whole, 0.0), 1e-14)
    own = inner[:, 2:5, 2:5].diagonal(dim1=-2, dim2=-1)
    others = [0, 1, 5, 6]
    bordered = Bordered(inner[:, others][:, :, others], inner[:, 2:5][:, :, others], own, 2)
    beside = torch.ones(9, 9, dtype=torch.bool)
    beside[2:5, 2:5] = torch.eye(3).bool()
    close(bordered.with_columns(across, corner).written_out(), torch.where(beside, whole, 0.0), 1e-14)


def with_level(kind: str, n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A sample in which a level, the last column, has no events, and where that is."""
    x, y = sample(kind, n, seed)
    told = np.arange(n) % 20 == 3
    return np.column_stack([x, told]), np.where(told, 0.0, y), told


@pytest.mark.parametrize("roles", [(), ("weights", "offset"), ("freq",)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_separated_level_leaves_the_fit_of_the_other_rows(kind: str, roles: tuple[str, ...]) -> None:
    """Coefficients, shape and its error, at every door, beside models without one."""
    x, y, told = with_level(kind, 240, 8)
    rng = np.random.default_rng(9)
    own: dict[str, Any] = {name: rng.integers(1, 3, 240).astype(float) for name in roles}
    rest = {name: value[~told] for name, value in own.items()}
    one = torchglm.fit(x[~told, :2], y[~told], family=KINDS[kind](), **rest)
    whole = sample(kind, 240, 10)[1] + told
    doors = [(np.stack([x, x]), np.stack([whole, y])), (x, y)]
    doors += [] if roles else [([tuple(map(torch.tensor, (x[i::5], y[i::5]))) for i in range(5)],)]
    for args in doors:
        with pytest.warns(torchglm.FitWarning, match="set apart"):
            got = torchglm.fit(*args, family=KINDS[kind](), **own)
        last = (-1,) if got.batch_shape else ()
        assert (got.status[-1] if last else got.status) == Status.SEPARATED_LEVELS
        close(got.coef[last][:3], one.coef, 1e-9)
        close(getattr(got.family, kind)[last], getattr(one.family, kind), 1e-9)
        close(got.shape_std_err[last], one.shape_std_err, 1e-8)
        close(got.loglik[last], one.loglik, 1e-7)
        if last:
            alone = torchglm.fit(x, whole, family=KINDS[kind](), **own)
            assert got.status[0] == Status.CONVERGED
            close(got.coef[0], alone.coef, 1e-12)
            close(got.shape_std_err[0], alone.shape_std_err, 1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_separated_levels_of_groups_leave_the_fits_of_the_other_rows(kind: str) -> None:
    """Of models with rows in unlike number, where one has such a level and one has not."""
    x, y, told = with_level(kind, 300, 11)
    group = np.where(np.arange(300) < 120, "few", "many")
    y = np.where(told & (group == "few"), 2.0, y)
    table = {"y": y, "a": x[:, 0], "told": x[:, 2], "g": group}
    with pytest.warns(torchglm.FitWarning, match="set apart"):
        got = torchglm.fit("y ~ a + told", table, family=KINDS[kind](), by="g")
    few, many = group == "few", (group == "many") & ~told
    wants = [
        torchglm.fit(x[few][:, [0, 2]], y[few], family=KINDS[kind]()),
        torchglm.fit(x[many, :1], y[many], family=KINDS[kind]()),
    ]
    assert got.status == [Status.CONVERGED, Status.SEPARATED_LEVELS]
    for at, want in enumerate(wants):
        close(got.coef[at][: len(want.coef)], want.coef, 1e-9)
        close(getattr(got.family, kind)[at], getattr(want.family, kind), 1e-9)
        close(got.shape_std_err[at], want.shape_std_err, 1e-8)


def test_other_rows_on_the_limit_of_the_shape_are_a_poisson_model() -> None:
    x, _, told = with_level("alpha", 300, 12)
    even = np.where(told, 0.0, np.random.default_rng(4).binomial(4, 0.5, 300))  # varies less than Poisson counts
    with pytest.warns(torchglm.FitWarning, match="set apart"):
        got = torchglm.fit(x, even, family=torchglm.NegativeBinomial())
    want = torchglm.fit(x[~told, :2], even[~told], family="poisson")
    close(got.coef[:3], want.coef, 1e-9)
    assert float(got.family.alpha) == 0.0 and bool(got.shape_std_err.isnan())


@pytest.mark.filterwarnings("ignore::torchglm.FitWarning")
@pytest.mark.parametrize("roles", [(), ("weights", "offset"), ("freq",)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_column_that_depends_on_others_leaves_everything_what_it_is(kind: str, roles: tuple[str, ...]) -> None:
    """Wherever it stands, at every door."""
    x, y = sample(kind, 240, seed=5)
    rng = np.random.default_rng(6)
    own: dict[str, Any] = {name: rng.integers(0, 3, 240).astype(float) for name in roles}
    one = torchglm.fit(x, y, family=KINDS[kind](), **own)
    columns = [0, 1, 4]  # of the constant and the first two
    more = np.column_stack([x[:, 0], np.full(240, 3.0), x[:, 0] - 2, x[:, 1], x @ [1.0, 2.0]])
    chunks = [tuple(map(torch.tensor, (more[i::5], y[i::5], *(v[i::5] for v in own.values())))) for i in range(5)]
    batch = torchglm.fit(np.stack([more, more]), np.stack([y[::-1], y]), family=KINDS[kind](), **own)
    doors = [torchglm.fit(more, y, family=KINDS[kind](), **own), batch]
    doors += [] if roles else [torchglm.fit(chunks, family=KINDS[kind]())]
    for got in doors:
        last = (-1,) if got.batch_shape else ()
        close(got.coef[last][columns], one.coef, 1e-9)
        close(getattr(got.family, kind)[last], getattr(one.family, kind), 1e-9)
        close(got.shape_std_err[last], one.shape_std_err, 1e-8)
    turned = torchglm.fit(more, y[::-1].copy(), family=KINDS[kind](), **own)
    close(batch.coef[0].nan_to_num(), turned.coef.nan_to_num(), 1e-9)
    close(batch.shape_std_err[0], turned.shape_std_err, 1e-8)


@pytest.mark.parametrize(
    ("kind", "penalty", "tol"), [("alpha", None, 1e-9), ("power", None, 1e-9), ("alpha", torchglm.Ridge(1e-9), 1e-3)]
)
def test_nearly_dependent_columns_leave_the_shape_its_digits(
    kind: str, penalty: torchglm.Ridge | None, tol: float
) -> None:
    """A step by a triangular factor takes the shape along: powers of a year, beside those of a scaled one."""
    x, y = sample(kind, 300, seed=7)
    year = 2000 + np.linspace(0, 20, 300).round()
    raw, scaled = (np.column_stack([x[:, 0], a, a**2]) for a in (year, (year - 2010) / 10))
    got = torchglm.fit(raw, y, family=KINDS[kind](), penalty=penalty)
    want = torchglm.fit(scaled, y, family=KINDS[kind]())
    assert got.status == want.status == Status.CONVERGED
    close(getattr(got.family, kind), getattr(want.family, kind), tol)
    close(got.shape_std_err, want.shape_std_err, tol)
    close(got.deviance, want.deviance, tol)


@pytest.mark.parametrize("link", ["log", "identity", "sqrt"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_with_nearly_dependent_columns_leaves_the_others_alone(kind: str, link: str) -> None:
    """Also where rows bend the other way, of which a triangular factor knows nothing."""
    rng = np.random.default_rng(13)
    year = 2000 + np.linspace(0, 20, 300).round()
    a = (year - 2010) / 10
    x = rng.uniform(size=300)
    y = rng.poisson(np.exp(1 + x) * rng.gamma(2.0, 0.5, 300)).astype(float)
    raw, scaled = (np.column_stack([x, v, v**2]) for v in (year, a))
    both = torchglm.fit(np.stack([raw, scaled]), np.stack([y, y]), family=KINDS[kind](), link=link)
    assert both.status == [Status.CONVERGED] * 2
    for at, columns in enumerate((raw, scaled)):
        alone = torchglm.fit(columns, y, family=KINDS[kind](), link=link)
        close(getattr(both.family, kind)[at], getattr(alone.family, kind), 1e-10)
        close(both.shape_std_err[at], alone.shape_std_err, 1e-7)
    close(getattr(both.family, kind)[0], getattr(both.family, kind)[1], 1e-9)
    close(both.shape_std_err[0], both.shape_std_err[1], 1e-7)
