"""Large fits start from a part of the rows and reuse a Gram: the answer is that of the plain search."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import torchglm
from torchglm.fitting import descent, irls, linalg, problem, sample
from torchglm.fitting.moments import Moments, Point
from torchglm.rows.grams import Dense

N, P = 6000, 30
CASES = [
    ("poisson", "log"),
    ("gamma", "log"),
    ("bernoulli", "logit"),
    ("bernoulli", "probit"),
    ("gaussian", "log"),
    ("negative_binomial", "log"),
    ("poisson", "identity"),
]


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
    eta = eta.abs() + 2 if link == "identity" else eta
    mu = torchglm.links.get(link)(eta)
    y = {
        "poisson": lambda: torch.poisson(mu, generator=draw),
        "gamma": lambda: mu * (normal(N).square() + 0.1),
        "bernoulli": lambda: torch.bernoulli(mu, generator=draw),
        "gaussian": lambda: mu + normal(N),
        "negative_binomial": lambda: torch.poisson(mu * (normal(N).square() + 0.1), generator=draw),
    }[family]()
    return {"x": x, "y": y, "offset": offset, "weights": torch.rand(N, generator=draw, dtype=torch.float64) + 0.5}


def pair(
    monkeypatch: pytest.MonkeyPatch, family: str, link: str, tol: float = 1e-13, **options: object
) -> tuple[torchglm.Result, ...]:
    """The fit as small ones go, and as large ones go."""
    chosen = torchglm.NegativeBinomial(0.7) if family == "negative_binomial" else family
    rows = data(family, link) | options
    monkeypatch.setattr(problem, "CHORD_COLUMNS", 1000)
    plain = torchglm.fit(**rows, family=chosen, link=link, tol=tol)
    as_large(monkeypatch)
    return plain, torchglm.fit(**rows, family=chosen, link=link)


def as_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have all that large fits do done for these, by the search."""
    monkeypatch.setattr(irls, "fit_one_model", lambda *_: None)
    monkeypatch.setattr(problem, "CHORD_COLUMNS", 4)
    monkeypatch.setattr(problem, "CHORD_PRODUCTS", 1)
    for name, value in {"LARGE": 1, "STRIDE": 4, "LEAST": 2, "FEWEST": 20}.items():
        monkeypatch.setattr(sample, name, value)
    monkeypatch.setattr(irls, "LENDING", 20)


@pytest.mark.parametrize("family, link", CASES)
def test_a_large_fit_ends_where_a_small_one_does(monkeypatch: pytest.MonkeyPatch, family: str, link: str) -> None:
    plain, large = pair(monkeypatch, family, link)
    assert large.status == plain.status == torchglm.Status.CONVERGED
    assert float(((large.coef - plain.coef) / plain.std_err).abs().max()) < 1e-7
    torch.testing.assert_close(large.std_err, plain.std_err, rtol=1e-6, atol=0.0)
    torch.testing.assert_close(large.deviance, plain.deviance, rtol=1e-10, atol=0.0)
    torch.testing.assert_close(large.pearson_chi2, plain.pearson_chi2, rtol=1e-6, atol=0.0)
    torch.testing.assert_close(large.nobs, plain.nobs, rtol=0.0, atol=0.0)


@pytest.mark.parametrize(
    "family", [torchglm.Multinomial(), torchglm.Ordinal(kind="adjacent")], ids=["classes", "order"]
)
@pytest.mark.parametrize("options", [{}, {"penalty": torchglm.Ridge(0.1)}], ids=["plain", "ridge"])
def test_a_large_fit_of_classes_ends_where_a_small_one_does(
    monkeypatch: pytest.MonkeyPatch, family: torchglm.families.Family, options: dict[str, object]
) -> None:
    rows = data("poisson", "log")
    rows["y"] = rows["y"].clamp(max=2)
    rows.pop("offset")
    monkeypatch.setattr(problem, "CHORD_COLUMNS", 1000)
    plain = torchglm.fit(**rows, family=family, tol=1e-13, **options)
    as_large(monkeypatch)
    monkeypatch.setattr(irls, "LENDING_OF_SEVERAL", 5)
    monkeypatch.setattr(descent, "NEAR_OF_SEVERAL", 2.0)
    monkeypatch.setattr(descent, "CONTRACTION_OF_SEVERAL", 1.0)
    points = watch(monkeypatch)
    large = torchglm.fit(**rows, family=family, **options)
    assert large.status == plain.status == torchglm.Status.CONVERGED
    assert float(((large.coef - plain.coef) / plain.std_err).abs().max()) < 1e-7
    torch.testing.assert_close(large.std_err, plain.std_err, rtol=1e-5, atol=0.0)
    assert len(points) > 3 and sum(point.curved for point in points) <= 2  # the others bend the Gram of the part


def test_a_large_ridge_fit_ends_where_a_small_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, large = pair(monkeypatch, "poisson", "log", penalty=torchglm.Ridge(0.3))
    torch.testing.assert_close(large.coef, plain.coef, rtol=1e-7, atol=1e-9)


def watch(monkeypatch: pytest.MonkeyPatch) -> list[Point]:
    """The points of the passes over all rows, as they come."""
    points: list[Point] = []
    fold = irls.fold

    def seen(source: list, point: Point, *rest: object) -> Moments:
        if source[0].y.shape[-1] == N:
            points.append(point)
        return fold(source, point, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(irls, "fold", seen)
    return points


def test_the_gram_of_a_part_serves_until_the_last_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    points = watch(monkeypatch)
    as_large(monkeypatch)
    monkeypatch.setattr(descent, "NEAR", 1.0)  # a part of 1,500 rows is a small one
    monkeypatch.setattr(descent, "CONTRACTION", 0.5)
    rows = data("poisson", "log")
    rows["x"][:, 5] = rows["x"][:, 0] ** 2 / 3  # no rare level
    torchglm.fit(**rows, family="poisson")
    assert not points[0].curved and points[-1].curved and points[-1].before is not None
    assert sum(point.curved for point in points) == 1


def test_a_gram_that_leaves_too_much_of_the_way_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    points = watch(monkeypatch)
    as_large(monkeypatch)
    rows = data("poisson", "log")
    rows["x"][:, 5] = 0.0
    rows["x"][::1500, 5] = 1.0  # four rows of all, and hardly one of the part
    rows["x"][3::1500, 5] = 0.01
    torchglm.fit(**rows, family="poisson")
    assert sum(point.curved for point in points) > 1


@pytest.mark.parametrize("power", range(0, 13, 3))
def test_no_condition_or_weight_leads_a_large_fit_astray(monkeypatch: pytest.MonkeyPatch, power: int) -> None:
    rows = data("poisson", "log", seed=power)
    rows["x"][:, 8] = rows["x"][:, 9] + 10.0**-power * rows["x"][:, 8]
    draw = torch.Generator().manual_seed(power)
    rows["weights"] = 10.0 ** (6 * torch.rand(N, generator=draw, dtype=torch.float64) - 3)
    plain, large = pair(monkeypatch, "poisson", "log", tol=1e-10, **rows)
    assert large.status == plain.status == torchglm.Status.CONVERGED
    assert torch.equal(large.coef.isnan(), plain.coef.isnan())
    # with a QR factor a fit ends where the tolerance, a share of the deviance, lets it
    close = 1e-5 if power < 12 else float((1e-8 * plain.deviance).sqrt())
    assert float(((large.coef - plain.coef) / plain.std_err).abs().nan_to_num().max()) < close
    torch.testing.assert_close(large.std_err, plain.std_err, rtol=close, atol=0.0, equal_nan=True)


def test_float32_sums_are_for_steps_alone_and_where_the_condition_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    as_large(monkeypatch)
    monkeypatch.setattr(irls, "LENDING", 1000)  # a Gram of all rows at the first point
    for near in (False, True):
        rows = data("poisson", "log")
        if not near:  # columns 6 and 7 of the data have a multiple correlation with the constant
            rows["x"][:, 6:8] = rows["x"][:, 0:2] ** 2
        with monkeypatch.context() as watched:
            points = watch(watched)
            torchglm.fit(**rows, family="poisson")
        assert points[0].curved and points[0].single is not near
        assert not any(point.single for point in points if point.before is not None)


def test_a_gram_in_float32_is_one_to_seven_digits() -> None:
    gram = Dense(torch.eye(3, dtype=torch.float64).unsqueeze(0))
    for scale, allowed in ((1.0, True), (1e30, False), (1e-30, False)):
        scaled = gram.scaled(torch.tensor([scale], dtype=torch.float64))
        inverse = scaled.invert(torch.ones(1, 3, dtype=torch.bool))
        assert bool(linalg.allows_single(scaled, inverse)) is allowed


def test_a_level_the_part_does_not_hold_goes_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = data("poisson", "log")
    rows["x"][:, 5] = 0.0
    rows["x"][7, 5] = 1.0
    rows["y"][7] = 3.0
    monkeypatch.setattr(problem, "CHORD_COLUMNS", 1000)
    plain = torchglm.fit(**rows, family="poisson", tol=1e-13)
    as_large(monkeypatch)
    large = torchglm.fit(**rows, family="poisson")
    assert large.status == torchglm.Status.CONVERGED
    assert float(((large.coef - plain.coef) / plain.std_err).abs().max()) < 1e-5


def test_separation_is_seen_in_a_large_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = data("bernoulli", "logit")
    rows["y"] = torch.where(rows["x"][:, 5] == 1, 1.0, rows["y"])
    as_large(monkeypatch)
    with pytest.warns(torchglm.FitWarning, match="SEPARATED"):
        assert torchglm.fit(**rows, family="bernoulli").status == torchglm.Status.SEPARATED_LEVELS
