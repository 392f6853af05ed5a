"""Paths of elastic nets: their conditions recomputed from the rows, the laws they keep, and glmnet's numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import torchglm
from torchglm import ElasticNet, Multinomial, Ordinal, Ridge
from torchglm.fitting.kernel import fold
from torchglm.fitting.moments import Point
from torchglm.fitting.slopes import slopes
from torchglm.report import path_plots
from torchglm.rows.rows import Rows

FOLDER = Path(__file__).parent / "reference_path"
CASES = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
# every family with its default link, and others off the canonical one
MODELS = [
    ("gaussian", "identity"),
    ("gaussian", "log"),
    ("poisson", "log"),
    ("poisson", "sqrt"),
    ("bernoulli", "logit"),
    ("bernoulli", "probit"),
    ("bernoulli", "cloglog"),
    ("gamma", "log"),
    ("gamma", "inverse"),
    ("inverse_gaussian", "log"),
    ("exponential", "log"),
    ("negative_binomial", "log"),
    ("tweedie", "log"),
]


def family_of(name: str) -> torchglm.Family:
    made = {"negative_binomial": torchglm.NegativeBinomial(0.7), "tweedie": torchglm.Tweedie(1.5)}
    return made[name] if name in made else torchglm.families.get(name)


def drawn(name: str, link: str, n: int = 120, p: int = 7) -> tuple[Tensor, Tensor]:
    """Columns, some on far scales, and responses that a few of them move."""
    draw = torch.Generator().manual_seed(7)
    x = torch.randn(n, p, generator=draw, dtype=torch.float64)
    x = x * torch.tensor([1, 5, 0.1, 1, 1, 2, 30.0][:p]) + torch.tensor([0, 3, 0, 2000, 0, 0, 1.0][:p])
    base = torch.tensor([0.5, 0.1, -3, 0, 0, 0, 0.01][:p], dtype=torch.float64)
    eta = ((x - x.mean(0)) * base).sum(-1)
    if link == "inverse":
        eta = 2 + eta.clamp(-1.2, 3)
    elif link == "sqrt":
        eta = 3 + eta.clamp(-2, 2)
    mean = torchglm.links.get(link)(eta)
    noise = torch.rand(n, generator=draw, dtype=torch.float64)
    if name == "bernoulli":
        return x, (noise < mean).to(torch.float64)
    if name in ("poisson", "negative_binomial"):
        return x, torch.poisson(mean, generator=draw)
    if name == "gaussian":
        return x, mean + 0.3 * (noise - 0.5)
    y = mean * -torch.log(noise.clamp(1e-3, 1 - 1e-3)) + (1e-3 if name != "tweedie" else 0)
    return x, torch.where(noise > 0.8, 0.0, y) if name == "tweedie" else y


def excess_of(path: Any, x: Tensor, y: Tensor, i: int, weight: Tensor, offset: Tensor | float = 0.0) -> Tensor:
    """By how much every coefficient of step i could lower the objective: from the rows, by automatic derivatives."""
    mean = (weight @ x) / weight.sum()
    spread = ((weight @ (x - mean).square()) / weight.sum()).sqrt()
    coef = path.coef[i].clone().requires_grad_()
    mu = path.link(coef[0] + x @ coef[1:] + offset)
    (weight * path.family.unit_deviance(y, mu) / 2).sum().div(weight.sum()).backward()
    slope, b = coef.grad / torch.cat([spread.new_ones(1), spread]), path.coef[i]
    strength = float(path.strength[i])
    slope[1:] += strength * (1 - path.l1_ratio) * spread * b[1:]
    l1 = strength * path.l1_ratio
    inside = (slope[1:].abs() - l1).clamp(min=0)
    outside = (slope[1:] + l1 * torch.sign(b[1:])).abs()
    return torch.cat([slope[:1].abs(), torch.where(b[1:] == 0, inside, outside)])


@pytest.mark.parametrize("ratio", [1.0, 0.3])
@pytest.mark.parametrize(("name", "link"), MODELS)
def test_every_point_is_a_minimum(name: str, link: str, ratio: float) -> None:
    x, y = drawn(name, link)
    weight = 0.5 + torch.arange(len(y), dtype=torch.float64) % 3
    path = torchglm.path(x, y, family=family_of(name), link=link, l1_ratio=ratio, n=12, weights=weight)
    assert bool(path.converged.all())
    for i in range(12):
        # a column at 2000 and its intercept round to as much
        assert float(excess_of(path, x, y, i, weight).amax()) < 1e-8 * float(path.strength[0])
    assert bool((path.coef[0, 1:] == 0).all()) and int(path.df[0]) == 0 and abs(float(path.dev_ratio[0])) < 1e-12
    assert int(path.df[1]) > 0 and bool((path.dev_ratio.diff() > 0).all())


@pytest.mark.parametrize(("name", "link"), [("gaussian", "identity"), ("poisson", "log"), ("gamma", "log")])
def test_a_path_is_its_separate_fits(name: str, link: str) -> None:
    x, y = drawn(name, link)
    path = torchglm.path(x, y, family=name, link=link, l1_ratio=0.5, n=8)
    spread = x.std(0, correction=0)
    for i in (2, 5):
        strength = path.strength[i] * 0.5
        penalty = ElasticNet(l1=strength * spread, l2=strength * spread.square())
        fit = torchglm.fit(x, y, family=name, link=link, penalty=penalty, tol=1e-13)
        torch.testing.assert_close(path.coef[i], fit.coef, rtol=1e-6, atol=1e-8)
        chosen = path.select(i)
        torch.testing.assert_close(chosen.edf, fit.edf, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(chosen.deviance, fit.deviance, rtol=1e-9, atol=0)
        torch.testing.assert_close(chosen.penalty.l1[1:], penalty.l1)
        alone = torchglm.path(x, y, family=name, link=link, l1_ratio=0.5, strength=float(path.strength[i]))
        torch.testing.assert_close(alone.coef[0], path.coef[i], rtol=1e-6, atol=1e-8)


def test_ridge_and_no_penalty_are_fits() -> None:
    x, y = drawn("poisson", "log")
    spread = x.std(0, correction=0)
    path = torchglm.path(x, y, family="poisson", l1_ratio=0, strength=[0.3, 0.01, 0])
    for i, strength in enumerate((0.3, 0.01, 0.0)):
        fit = torchglm.fit(x, y, family="poisson", penalty=Ridge(strength * spread.square()), tol=1e-13)
        torch.testing.assert_close(path.coef[i], fit.coef, rtol=1e-7, atol=1e-9)
        torch.testing.assert_close(path.select(i).std_err, fit.std_err, rtol=1e-6, atol=1e-9)


def test_scales_and_centres_change_nothing() -> None:
    x, y = drawn("gamma", "log")
    scale, shift = torch.logspace(-4, 4, 7, dtype=torch.float64), torch.linspace(-1e4, 1e4, 7, dtype=torch.float64)
    one = torchglm.path(x, y, family="gamma", link="log", n=10)
    other = torchglm.path((x + shift) * scale, y, family="gamma", link="log", n=10)
    torch.testing.assert_close(other.strength, one.strength, rtol=1e-9, atol=0)
    torch.testing.assert_close(other.coef[:, 1:] * scale, one.coef[:, 1:], rtol=1e-6, atol=1e-9)


def test_roles() -> None:
    x, y = drawn("poisson", "log")
    offset = torch.linspace(-1, 1, len(y), dtype=torch.float64)
    repeats = 1.0 + torch.arange(len(y)) % 3
    path = torchglm.path(x, y, family="poisson", n=8, offset=offset, freq=repeats)
    assert float(excess_of(path, x, y, 6, repeats.to(torch.float64), offset).amax()) < 1e-9 * float(path.strength[0])
    whole = torch.arange(len(y)).repeat_interleave(repeats.long())
    written = torchglm.path(x[whole], y[whole], family="poisson", n=8, exposure=offset[whole].exp())
    torch.testing.assert_close(written.coef, path.coef, rtol=1e-6, atol=1e-8)
    zero = torch.where(torch.arange(len(y)) < 20, 0.0, 1.0)
    held = torchglm.path(x, y, family="poisson", n=8, weights=zero)
    short = torchglm.path(x[20:], y[20:], family="poisson", n=8)
    torch.testing.assert_close(held.strength, short.strength)
    torch.testing.assert_close(held.coef, short.coef, rtol=1e-6, atol=1e-8)
    trials = torch.full_like(y, 60)
    counts = torchglm.path(x, y, family="binomial", trials=trials, n=5)
    shares = torchglm.path(x, y / 60, family="binomial", weights=trials, n=5)
    torch.testing.assert_close(counts.coef, shares.coef)


def test_factors_and_limits() -> None:
    x, y = drawn("gaussian", "identity")
    factor = torch.tensor([1, 0, 2, 1, 1, 0.5, 1])
    path = torchglm.path(x, y, family="gaussian", n=15, factor=factor, lower=-0.2, upper=[0.2, 0.05, 1, 1, 1, 1, 1])
    assert bool(path.converged.all()) and bool((path.coef[:, 2] != 0).all())  # a factor of 0 is always in
    assert float(path.coef[:, 1:].min()) == pytest.approx(-0.2) and float(path.coef[-1, 1]) == pytest.approx(0.2)
    free = torchglm.path(x, y, family="gaussian", strength=path.strength, factor=factor)
    assert bool((free.coef[-1, 1] > 0.2).all()) and float(free.coef[-1, 3]) < -0.2
    chosen = path.select(14)
    assert float(chosen.edf[1]) == 0 and float(chosen.edf[4]) > 0
    torch.testing.assert_close(chosen.coef, path.coef[14])


def test_a_batch_is_its_models() -> None:
    x, y = drawn("poisson", "log")
    many = torch.stack([y, y.flip(0), y.roll(7)])
    for design in (x, torch.stack([x, x + 1, 2 * x])):
        path = torchglm.path(design, many, family="poisson", n=9, folds=4)
        assert path.strength.shape == (3, 9) and path.coef.shape == (3, 9, 8)
        best = path.select("best")
        for b in range(3):
            own = design if design.dim() == 2 else design[b]
            one = torchglm.path(own, many[b], family="poisson", n=9, folds=4)
            torch.testing.assert_close(path.strength[b], one.strength)
            torch.testing.assert_close(path.coef[b], one.coef, rtol=1e-6, atol=1e-8)
            torch.testing.assert_close(path.cv_mean[b], one.cv_mean, rtol=1e-8, atol=0)
            assert int(path.best[b]) == one.best and int(path.one_se[b]) == one.one_se
            torch.testing.assert_close(best[b].coef, one.select("best").coef, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["poisson", "bernoulli"])
def test_cross_validation_is_refits_by_hand(name: str) -> None:
    x, y = drawn(name, "log" if name == "poisson" else "logit")
    labels = np.array(["a", "b", "c"])[np.arange(len(y)) % 7 % 3]
    weight = 1.0 + torch.arange(len(y)) % 2
    path = torchglm.path(x, y, family=name, n=6, folds=labels, weights=weight)
    mass = []
    for k, label in enumerate("abc"):
        out = torch.from_numpy(labels == label)
        fit = torchglm.path(x[~out], y[~out], family=name, strength=path.strength, weights=weight[~out])
        mean = fit.link(fit.coef[:, :1] + fit.coef[:, 1:] @ x[out].mT)
        deviance = fit.family.unit_deviance(y[out], mean) @ weight[out].to(torch.float64) / weight[out].sum()
        torch.testing.assert_close(path.fold_deviance[k], deviance, rtol=1e-6, atol=0)
        mass.append(float(weight[out].sum()))
    share = torch.tensor(mass, dtype=torch.float64).div(sum(mass)).unsqueeze(-1)
    torch.testing.assert_close(path.cv_mean, (share * path.fold_deviance).sum(0))
    error = (share * (path.fold_deviance - path.cv_mean).square()).sum(0).div(2).sqrt()
    torch.testing.assert_close(path.cv_se, error)
    least = int(path.cv_mean.argmin())
    within = path.cv_mean <= path.cv_mean[least] + path.cv_se[least]
    assert path.best == least and path.one_se == int(within.nonzero()[0])
    torch.testing.assert_close(path.select().coef, path.coef[path.one_se])


def test_drawn_folds_are_of_like_size_and_the_same_again() -> None:
    x, y = drawn("gaussian", "identity", n=50)
    one, same, other = (torchglm.path(x, y, family="gaussian", n=4, folds=7, seed=s) for s in (0, 0, 1))
    assert torch.equal(one.fold_deviance, same.fold_deviance) and one.fold_deviance.shape == (7, 4)
    assert not torch.equal(one.fold_deviance, other.fold_deviance)


def test_more_columns_than_rows() -> None:
    draw = torch.Generator().manual_seed(3)
    x = torch.randn(60, 150, generator=draw, dtype=torch.float64)
    x[:, 100] = x[:, 3]  # one twice
    x[:, 101] = 5.0
    eta = x[:, :4] @ torch.tensor([2, -2, 1, 1.0], dtype=torch.float64)
    for name, y in (
        ("gaussian", eta + torch.randn(60, generator=draw, dtype=torch.float64)),
        ("bernoulli", (eta > 0).to(torch.float64)),
        ("poisson", torch.poisson((0.5 * eta).exp(), generator=draw)),
    ):
        path = torchglm.path(x, y, family=name, n=30, folds=3)
        assert bool(path.converged.all()), name
        assert float(path.strength[-1] / path.strength[0]) == pytest.approx(1e-2)
        assert bool((path.coef[:, 102] == 0).all()) and int(path.df[-1]) > 4


def test_a_fold_without_a_level_still_has_a_model() -> None:
    x, y = drawn("poisson", "log")
    level = torch.zeros(len(y), dtype=torch.float64)
    level[:10] = 1.0
    folds = torch.where(torch.arange(len(y)) < 10, 0, 1 + torch.arange(len(y)) % 3)
    path = torchglm.path(torch.cat([x, level[:, None]], -1), y, family="poisson", n=5, folds=folds)
    assert bool(torch.isfinite(path.cv_mean).all())


def test_a_formula() -> None:
    x, y = drawn("poisson", "log", p=3)
    frame = pd.DataFrame(x.numpy(), columns=list("abc")).assign(
        y=y.numpy(), g=np.array(list("uvwx"))[np.arange(120) % 4]
    )
    path = torchglm.path("y ~ a + b + C(g)", frame, family="poisson", n=5, folds=3)
    assert path.names[:3] == ["(Intercept)", "a", "b"] and path.coef.shape == (5, 6)
    dummies = pd.get_dummies(frame["g"], drop_first=True).to_numpy(float)
    design = torch.from_numpy(np.column_stack([frame[["a", "b"]].to_numpy(), dummies]))
    plain = torchglm.path(design, y, family="poisson", n=5, folds=3)
    torch.testing.assert_close(path.coef, plain.coef)
    result = path.select("best")
    assert result.predict(frame[:4]).shape == (4,)
    assert "best" in repr(path) and "KKT" in repr(path) and len(repr(path).splitlines()) == 8


def test_classes() -> None:
    x, _ = drawn("gaussian", "identity", n=150, p=4)
    eta = torch.stack([x[:, 0], 0.1 * x[:, 1], torch.zeros(150)], -1)
    draw = torch.Generator().manual_seed(2)
    y = torch.multinomial(torch.softmax(eta, -1), 1, generator=draw)[:, 0]
    path = torchglm.path(x, y, family=Multinomial(baseline=None), n=8, folds=3)
    assert path.coef.shape == (8, 15) and bool(path.converged.all())
    assert float(path.coef[:, ::5].sum(-1).abs().max()) < 1e-12
    result = path.select(5)
    direct = torch.softmax((path.coef[5].reshape(3, 5)[:, :1] + path.coef[5].reshape(3, 5)[:, 1:] @ x.mT).mT, -1)
    torch.testing.assert_close(result.predict(x, kind="probability"), direct)
    assert "up to a constant" in str(result.summary())
    # exchanging the classes exchanges their vectors
    other = torchglm.path(x, 2 - y, family=Multinomial(baseline=None), n=8)
    torch.testing.assert_close(other.coef.reshape(8, 3, 5).flip(1), path.coef.reshape(8, 3, 5), rtol=1e-6, atol=1e-7)
    ordered = torchglm.path(x, y, family=Ordinal(), n=5, folds=3)
    assert bool(ordered.converged.all())
    penalty = ElasticNet(ordered.strength[3] * x.std(0, correction=0))
    fit = torchglm.fit(x, y, family=Ordinal(), penalty=penalty, tol=1e-13)
    chosen = ordered.select(3)
    torch.testing.assert_close(chosen.coef, fit.coef, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(chosen.thresholds, fit.thresholds, rtol=1e-5, atol=1e-8)
    with pytest.raises(ValueError, match="torchglm.path"):
        torchglm.fit(x, y, family=Multinomial(baseline=None))


X, Y = drawn("bernoulli", "logit", n=40, p=3)
LONE = torch.zeros(40)
LONE[3] = 1.0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"strength": [0.1, 0.2]}, "it rises"),
        ({"strength": [0.1, -0.2]}, ">= 0"),
        ({"strength": torch.ones(2, 2)}, "strength has shape"),
        ({"factor": [1, 1]}, "factor has shape"),
        ({"factor": [1, -1, 1]}, "factor of x1 is -1"),
        ({"lower": 0.1}, "lower of x0 is 0.1"),
        ({"upper": [1, 1, -1]}, "upper of x2 is -1"),
        ({"l1_ratio": 1.5}, "l1_ratio"),
        ({"n": 0}, "n must be"),
        ({"smallest": 2.0}, "smallest"),
        ({"folds": 1}, "folds=1"),
        ({"folds": 50}, "folds=50"),
        ({"folds": [0, 1]}, "folds has shape"),
        ({"folds": np.zeros(40)}, "one label only"),
        ({"folds": np.where(np.arange(40) < 3, np.nan, 1.0)}, "missing labels"),
        ({"folds": torch.arange(40) % 2, "weights": (torch.arange(40) % 2).double()}, "no row of positive weight"),
        ({"folds": 5, "y": LONE}, r"without fold \d has no regular maximum"),
        ({"folds": ["a", "b"] * 20, "y": torch.stack([Y, LONE])}, "of model 1 without fold 'b' has no regular maximum"),
        ({"y": torch.zeros(40)}, "has no regular maximum"),
        ({"family": torchglm.Weibull()}, "one predictor"),
        ({"family": "negative_binomial"}, "fixed shape"),
        ({"factor": 0}, "no strength has all"),
    ],
)
def test_bad_input(options: dict[str, Any], said: str) -> None:
    given = {"y": Y, "family": "bernoulli"} | options
    with pytest.raises(ValueError, match=said):
        torchglm.path(X, given.pop("y"), **given)


def test_pictures() -> None:
    path = torchglm.path(X, Y, family="bernoulli", n=6, folds=4, factor=[1, 0, 2])
    drawn_lines = path_plots.coefficients(path).axes[0].get_lines()
    assert sum(len(line.get_xdata()) == 6 for line in drawn_lines) == 2  # the free column has no weight
    [axes] = path_plots.validation(path).axes
    assert any(np.allclose(line.get_ydata(), path.cv_mean) for line in axes.get_lines() if len(line.get_xdata()) == 6)
    with pytest.raises(ValueError, match="folds"):
        path_plots.validation(torchglm.path(X, Y, family="bernoulli", n=3))
    with pytest.raises(ValueError, match="batch"):
        path_plots.coefficients(torchglm.path(X, torch.stack([Y, 1 - Y]), family="bernoulli", n=3))


def test_questions_that_have_no_answer() -> None:
    path = torchglm.path(X, Y, family="bernoulli", n=3)
    for ask in (lambda: path.best, lambda: path.one_se, lambda: path.select()):
        with pytest.raises(ValueError, match="folds"):
            ask()
    with pytest.raises(ValueError, match="select also takes a strength"):
        path.select("least")
    with pytest.raises(IndexError, match="3 strengths"):
        path.select(3)


@pytest.mark.parametrize("name", CASES)
def test_glmnet(name: str) -> None:
    case = CASES[name]
    frame = pd.read_csv(FOLDER / f"{name}.csv")
    many, ratio = case["family"]["name"] == "multinomial", case["alpha"]

    def values(held: list[Any]) -> Tensor:
        return torch.tensor([float(v) for v in held], dtype=torch.float64)

    roles = {
        k: torch.from_numpy(frame[f".{k}"].to_numpy(float, copy=True))
        for k in ("weights", "offset")
        if f".{k}" in frame
    }
    strength = values(case["lambda"])
    options = {
        "family": Multinomial(baseline=None) if many else case["family"]["name"],
        "l1_ratio": ratio,
        "standardize": case["standardize"],
        "factor": values(case["penalty_factor_rescaled"]),
        "lower": values(case["lower_limits"]),
        "upper": values(case["upper_limits"]),
    } | roles
    y = frame[".y"].to_numpy(int if many else float)
    path = torchglm.path(frame[case["columns"]], y, strength=strength, folds=frame[".foldid"].to_numpy(), **options)
    assert bool(path.converged.all())
    first = torchglm.path(frame[case["columns"]], y, n=2, **options).strength[0]
    torch.testing.assert_close(first, strength[0], rtol=1e-10, atol=0)
    steps = [step["index"] for step in case["path"]]
    for step in case["path"]:
        blocks = [(step["intercept"][k], step["coef"][k]) for k in case["classes"]] if many else []
        blocks = blocks or [(step["intercept"], step["coef"])]
        want = torch.stack([values([start, *coef.values()]) for start, coef in blocks])
        got = path.coef[step["index"]].reshape(want.shape).clone()
        if many:
            want[:, 0] -= want[:, 0].mean()
        size = float(want[:, 1:].abs().max().clamp(min=1e-3))
        assert float((got - want)[:, 1:].abs().max()) < 1e-6 * size
        assert float((got - want)[:, 0].abs().max()) < 1e-6 * max(1.0, float(want[:, 0].abs().max()))
    assert path.df[steps].tolist() == [step["df"] for step in case["path"]]
    cv = case["cv"]
    torch.testing.assert_close(path.cv_mean[steps], values(cv["cvm_at_recorded"]), rtol=1e-7, atol=0)
    torch.testing.assert_close(path.cv_se[steps], values(cv["cvsd_at_recorded"]), rtol=1e-7, atol=0)
    assert (path.best, path.one_se) == (cv["index_min"], cv["index_1se"])


@pytest.mark.parametrize("name, link", [("poisson", "log"), ("gamma", "log"), ("bernoulli", "probit")])
def test_strengths_on_their_way_at_once_are_those_one_by_one(
    name: str, link: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = drawn(name, link)
    options: dict[str, Any] = {"family": name, "link": link, "n": 12, "folds": 3}
    together = torchglm.path(x, y, **options)
    monkeypatch.setattr("torchglm.fitting.path.SLOTS", 1)
    alone = torchglm.path(x, y, **options)
    assert bool(together.converged.all()) and bool(alone.converged.all())
    torch.testing.assert_close(together.coef, alone.coef, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(together.cv_mean, alone.cv_mean, rtol=1e-8, atol=0)


@pytest.mark.parametrize("name, link", MODELS)
def test_slopes_of_several_points_are_those_of_a_pass(name: str, link: str) -> None:
    x, y = drawn(name, link)
    weight = torch.rand(2, len(y), dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.5
    weight[1, :5] = 0.0
    x = (x - x.mean(0)) / x.std(0)
    x[2] = 1e5  # without weight in the second model, whatever its mean there
    zero = torch.zeros(1, 1, dtype=torch.float64).expand(2, len(y))
    rows = Rows(x, y.expand(2, -1), weight, zero, intercept=True)
    family, models = family_of(name), torch.tensor([0, 1, 1])
    own = torchglm.links.get(link)
    coef = 0.01 * torch.arange(24, dtype=torch.float64).reshape(3, 8).sin()
    coef[:, 0] = 1.0
    found = slopes([rows], models, coef, family, own)
    wanted = fold([rows.take(models)], Point(coef, curved=False), family, own)
    assert torch.equal(found.valid, wanted.valid) and bool(found.valid[1:].all())
    torch.testing.assert_close(found.half[1:], wanted.objective[1:], rtol=1e-12, atol=0)
    torch.testing.assert_close(found.slope[1:], wanted.score[1:], rtol=1e-10, atol=1e-10)
