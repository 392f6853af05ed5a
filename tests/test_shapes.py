"""Smooths of a shape: the fit under limits by its conditions, its strengths, and the doors that know it or not."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import torchglm as tg
from torchglm.design.smooths.call import SHAPES
from torchglm.design.smooths.shaped import turn_of
from torchglm.fitting.irls import irls
from torchglm.fitting.shape import RowMeans

RNG = np.random.default_rng(7)
N = 400
DATA = pd.DataFrame({"x": RNG.uniform(size=N), "z": RNG.uniform(size=N), "g": RNG.choice(["a", "b"], N)})
DATA["e"] = RNG.uniform(0.5, 2, N)
MEAN = np.exp(0.5 + 2 / (1 + np.exp(-10 * (DATA["x"] - 0.5))) + np.sin(5 * DATA["z"]))
DATA["y"] = RNG.poisson(DATA["e"] * MEAN)
DATA["c"] = RNG.gamma(2, MEAN / 2)
DATA["n"] = np.log(MEAN) + 0.3 * RNG.normal(size=N)
LINE = np.exp(0.5 + 1.5 * DATA["x"] + np.sin(5 * DATA["z"]))
DATA["line_y"], DATA["line_c"] = RNG.poisson(LINE), RNG.gamma(2, LINE / 2)
DATA["line_n"] = np.log(LINE) + 0.3 * RNG.normal(size=N)
FAR = np.linspace(-1, 2, 3001)
pytestmark = pytest.mark.filterwarnings("ignore::torchglm.FitWarning")


def fit(terms: str, y: str = "y", family: str = "poisson", data: object = DATA, **options: object) -> tg.Result:
    if y == "y":
        options["exposure"] = "e"
    return tg.fit(f"{y} ~ {terms}", data, family=family, **options)


def shaped(shape: str, more: str = "k=12") -> str:
    return f"s(x, bs='ps', {more}, shape='{shape}')"


def signs(value: torch.Tensor, shape: str) -> float:
    """By how much a curve on even values is not of its shape."""
    slope, bend = torch.diff(value), torch.diff(value, n=2)
    parts = {"increasing": -slope, "decreasing": slope, "convex": -bend, "concave": bend}
    return max(float(parts[word].max()) for word in shape.split())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("y", "family"), [("y", "poisson"), ("n", "gaussian")])
def test_the_curve_has_its_shape_everywhere_and_is_the_best_that_has(shape: str, y: str, family: str) -> None:
    result = fit(f"{shaped(shape)} + s(z, bs='ps')", y, family)
    assert bool(result.converged)
    value, error = result.smooths["s(x)"].curve(FAR)
    assert signs(value, shape) < 1e-12 and bool(torch.isfinite(error).all())
    slope, _ = result.smooths["s(x)"].slope(FAR)
    torch.testing.assert_close(slope[1:-1], (value[2:] - value[:-2]) / (FAR[2] - FAR[0]), rtol=1e-3, atol=2e-2)
    # Karush, Kuhn, Tucker: the slope of the penalised likelihood is 0, or points out of the limits
    x = torch.cat([values.x for values in result.row_values()])
    score = torch.cat([values.score for values in result.row_values()], -1)[0] @ x
    left = score - result.penalty.slope(result.coef[None], result.nobs[None])[0]
    held = torch.zeros_like(left, dtype=torch.bool)
    held[result.spec.nonnegative] = True
    stands = held & (result.coef == 0)
    size = 1e-6 * float((score.abs() + result.coef.abs()).max().clamp(min=1))
    assert float(left[~stands].abs().max()) < size and float(left[stands].max() if stands.any() else 0.0) < size
    assert float(result.coef[held].min()) >= 0 and int(result.smooths["s(x)"].at_limit) == int(stands.sum())
    bound = result.covariance()[stands]
    assert not bool(bound.any()) and float(result.edf[stands].sum()) == 0


@pytest.mark.parametrize(
    ("y", "family", "close"), [("line_n", "gaussian", 1e-6), ("line_y", "poisson", 1e-4), ("line_c", "gamma", 5e-3)]
)
def test_a_shape_that_does_not_bind_changes_nothing(y: str, family: str, close: float) -> None:
    terms, options = "s(x, bs='ps', k=5{}) + s(z, bs='ps')", {"link": "log"} if family == "gamma" else {}
    shape = ", shape='increasing'"
    for smoothing, own in ((2.0, 1e-9), ("reml", close)):
        free = fit(terms.format(""), y, family, smoothing=smoothing, **options)
        held = fit(terms.format(shape), y, family, smoothing=smoothing, **options)
        assert int(held.smooths["s(x)"].at_limit) == 0
        torch.testing.assert_close(held.fitted, free.fitted, rtol=own, atol=own)
        torch.testing.assert_close(held.edf.sum(), free.edf.sum(), rtol=10 * own, atol=0)
        _, first = free.smooths["s(x)"].curve(np.linspace(0, 1))
        _, second = held.smooths["s(x)"].curve(np.linspace(0, 1))
        torch.testing.assert_close(first, second, rtol=10 * own, atol=own)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_columns_span_all_splines_and_signs_say_the_shape(shape: str) -> None:
    turn, signed = turn_of(shape, 9)
    assert np.linalg.matrix_rank(turn) == 9 and np.array_equal(turn[:, 0], np.ones(9)) and 0 not in signed
    b = torch.from_numpy(turn @ np.where(np.isin(np.arange(9), signed), RNG.uniform(size=9), 0.0))
    assert signs(b, shape) <= 1e-12
    # and every such curve is one of them
    way = {"increasing": 1.0, "decreasing": -1.0}.get(shape.split()[0], 0.0)
    own = np.linalg.solve(turn, way * np.arange(9.0))
    assert own[signed].min() > -1e-12


def test_strengths_take_as_much_freedom_as_the_curves_have_drawn() -> None:
    result = fit(f"{shaped('increasing')} + s(z, bs='ps')", "n", "gaussian")
    x = torch.cat([values.x for values in result.row_values()])
    face, penalty = result.covariance().diagonal() > 0, result.penalty
    assert 0 < int(face.sum()) < len(face)
    whole = x.mT @ x + penalty.ridge(result.coef[None], result.nobs[None])[0]
    inverse = torch.linalg.inv(whole[face][:, face])
    for j, (places, matrix) in enumerate(penalty.blocks):
        own = torch.zeros_like(whole)
        own[torch.tensor(places)[:, None], torch.tensor(places)] = matrix * result.strength[j]
        part = own[face][:, face]
        freedom = torch.linalg.matrix_rank(part, rtol=1e-9) - torch.trace(inverse @ part)
        drawn = result.coef @ own @ result.coef / result.dispersion
        torch.testing.assert_close(drawn, freedom, rtol=1e-5, atol=0)
    assert bool(torch.isfinite(result.criterion))


def test_groups_pieces_and_shares_are_as_one_fit(tmp_path) -> None:
    terms = f"{shaped('increasing')} + s(z, bs='ps', k=6)"
    batch = fit(terms, by="g")
    for i in range(2):
        value, error = batch.smooths["s(x)"].curve(FAR)
        assert signs(value[i], "increasing") < 1e-12
    one = fit(terms, by="g", smoothing=batch.strength)
    torch.testing.assert_close(one.coef, batch.coef, rtol=1e-4, atol=1e-6)
    DATA.to_parquet(tmp_path / "rows.parquet", row_group_size=90)
    whole, read = fit(terms), fit(terms, data=tmp_path / "rows.parquet")
    torch.testing.assert_close(read.coef, whole.coef, rtol=1e-6, atol=1e-8)
    whole.save(tmp_path / "saved")
    again = tg.load(tmp_path / "saved")
    assert torch.equal(again.predict(DATA, exposure="e"), whole.predict(DATA, exposure="e"))
    assert again.smooths["s(x)"].shape == "increasing"


@pytest.mark.parametrize("by", ["g", "e"])
def test_by_gives_every_level_or_a_multiple_a_curve_of_the_shape(by: str) -> None:
    result = fit(f"C(g) + {shaped('increasing', f'k=8, by={by}')}", "n", "gaussian")
    for term in result.smooths.values():
        assert signs(term.curve(FAR)[0], "increasing") < 1e-12


@pytest.mark.parametrize(
    ("y", "family"), [("y", "negative_binomial"), pytest.param("t", "tweedie", marks=pytest.mark.slow)]
)
def test_a_shape_parameter_is_estimated_beside(y: str, family: str) -> None:
    data = DATA.assign(t=np.where(DATA["y"] > 1, DATA["c"], 0.0))
    result = tg.fit(f"{y} ~ {shaped('increasing')}", data, family=family)
    assert bool(result.converged) and signs(result.smooths["s(x)"].curve(FAR)[0], "increasing") < 1e-12
    value = result.family.alpha if family == "negative_binomial" else result.family.power
    means, phi = RowMeans(result.source, result.link, result.flat.coef), result.flat.dispersion
    if family == "negative_binomial":
        found = [float(means.loglik(family_at(family, value * by), phi)) for by in (0.99, 1.0, 1.01)]
        assert found[1] > max(found[0], found[2])


def family_at(family: str, value: torch.Tensor) -> object:
    if family == "tweedie":
        return tg.families.Tweedie(power=float(value))
    return tg.families.NegativeBinomial(alpha=float(value))


def test_a_curve_against_its_shape_is_flat_and_says_so() -> None:
    result = fit(shaped("decreasing"), "n", "gaussian")
    assert int(result.smooths["s(x)"].at_limit) == 11 and float(result.smooths["s(x)"].curve(FAR)[0].abs().max()) == 0
    said = str(result.summary())
    assert "s(x) is held decreasing (11 of 11 coefficients stand at their limit)" in " ".join(said.split())
    with pytest.raises(ValueError, match="is held decreasing"):
        result.smooths["s(x)"].test()


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        ("s(x, bs='ps', shape='rising')", "is no shape. Known: increasing"),
        ("s(x, shape='increasing')", "is that of P-splines"),
        ("te(x, z, bs='ps', shape='increasing')", "is that of P-splines"),
        ("s(x, bs='cp', shape='convex')", "is that of P-splines"),
        ("s(x, bs='ps', shape='convex') + (1 | g)", "do not stand beside random effects"),
    ],
)
def test_what_has_no_shape_is_refused(terms: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        fit(terms)


def test_what_refits_without_limits_is_refused() -> None:
    result = fit(shaped("increasing"))
    with pytest.raises(ValueError, match="smoothing='reml'"):
        fit(shaped("increasing"), smoothing="ml")
    with pytest.raises(ValueError, match="terms with a shape="):
        irls(result.source, result.family, result.link, penalty=result.penalty)


@pytest.mark.parametrize("given", [{}, {"by": "g"}, {"smoothing": 1.0}, {"family": "negative_binomial"}], ids=str)
def test_a_fit_within_a_shape_tells_of_its_steps_and_goes_on_from_any(given: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    data = pd.DataFrame({"x": rng.uniform(size=200), "g": rng.integers(0, 2, 200)})
    data["y"] = rng.poisson(np.exp(1 + np.sqrt(data.x)))
    formula, options, seen = "y ~ s(x, bs='ps', k=7, shape='increasing')", {"family": "poisson"} | given, list[Any]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tg.FitWarning)
        own = tg.fit(formula, data, observe=seen.append, **options)
        again = tg.fit(formula, data, resume=seen[-2], **options)
    steps = [int(one.n_iter.max()) for one in seen]
    assert steps == sorted(steps) and steps[-1] == int(own.n_iter.max()) > 3
    torch.testing.assert_close(seen[-1].coef.reshape(own.coef.shape), own.coef, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(seen[-1].deviance.reshape(own.deviance.shape), own.deviance, rtol=1e-6, atol=0)
    torch.testing.assert_close(again.coef, own.coef, rtol=1e-7, atol=1e-8)
