"""Profile likelihood limits: those of R, their defining equation, and what they are where nothing is regular."""

from __future__ import annotations

import functools
import json
import math
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from test_reference import fitted

import torchglm
from torchglm import FitWarning, Result
from torchglm.fitting.irls import irls
from torchglm.fitting.state import Solution
from torchglm.inference.limits.crossing import crossing
from torchglm.rows.rows import Rows

EXPECTED = json.loads((Path(__file__).parent / "reference_inference" / "expected.json").read_text())
Z = 1.959963984540054


@functools.cache
def counts(seed: int = 0, n: int = 80) -> tuple[torch.Tensor, torch.Tensor]:
    """A design of two columns and Poisson counts."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    return x, torch.poisson((0.5 + x @ torch.tensor([0.4, -0.3], dtype=torch.float64)).exp(), generator=generator)


def profile(result: Result, level: float = 0.95) -> torch.Tensor:
    return result.conf_int(level, method="profile")


def quiet(*args: object, **options: object) -> Result:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        return torchglm.fit(*args, **options)  # type: ignore[arg-type]


ROOTS = {  # signed roots and where they reach 2
    "line": (lambda u: u, 2.0),
    "convex": (lambda u: u + u**3, 1.0),
    "concave": (lambda u: u.sqrt(), 4.0),
    "steep": (lambda u: 2e6 * u, 1e-6),
    "far": (lambda u: u / 500, 1000.0),
    "jump": (lambda u: (u > 3) * 9.0 + u / 9, 3.0),
    "asymptote": (lambda u: 1.9 * u / (1 + u), math.inf),
    "flat": (lambda u: 0 * u, math.inf),
    "wall": (lambda u: torch.where(u < 1.5, u, math.nan), math.inf),
    "wall beyond": (lambda u: torch.where(u < 2.5, u**2 / 2, math.inf), 2.0),
    "on the edge": (lambda u: math.nan * u, math.inf),
}


@pytest.mark.parametrize("slope", [1.0, math.nan, 1e9])
def test_crossings_are_found_wherever_they_are(slope: float) -> None:
    functions = [function for function, _ in ROOTS.values()]

    def root(lanes: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return torch.stack([functions[int(lane)](at) for lane, at in zip(lanes, u, strict=True)])

    first = torch.full((len(ROOTS),), 2.0, dtype=torch.float64)
    got = crossing(root, first, torch.full_like(first, slope), 2.0)
    want = torch.tensor([place for _, place in ROOTS.values()], dtype=torch.float64)
    torch.testing.assert_close(got, want, rtol=1e-7, atol=0)


def test_lanes_without_a_first_step_have_no_crossing() -> None:
    first = torch.tensor([math.nan, 0.0, math.inf, 1.0], dtype=torch.float64)
    got = crossing(lambda lanes, u: u, first, torch.ones(4, dtype=torch.float64), 2.0)
    assert torch.isnan(got[:3]).all() and float(got[3]) == pytest.approx(2)


@pytest.mark.parametrize("name", [name for name, case in EXPECTED.items() if "profile" in case])
def test_limits_are_those_of_r(name: str) -> None:
    result = fitted(name)
    want, got = np.array(EXPECTED[name]["profile"], dtype=float), profile(result).numpy()
    assert np.isfinite(got).all()  # R's refits do not reach one limit (null); the defining equation holds there too
    size = np.maximum(np.abs(want), result.std_err[:, None].numpy())
    np.testing.assert_array_less(np.nan_to_num(np.abs(got - want)), 1e-6 * np.nan_to_num(size, nan=1.0))


@pytest.mark.parametrize("level", [0.5, 0.9, 0.999])
@pytest.mark.parametrize("family", ["poisson", "gamma", "negative_binomial"])
def test_at_a_limit_the_scaled_deviance_has_risen_by_the_quantile(family: str, level: float) -> None:
    x, y = counts()
    y = {"gamma": y + 0.5, "negative_binomial": y.square(), "poisson": y}[family]
    result = torchglm.fit(x, y, family=family, link="log", tol=1e-12)
    target = torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(0.5 + level / 2, dtype=torch.float64)).square()
    shape = torchglm.NegativeBinomial(float(result.family.alpha)) if family == "negative_binomial" else family
    for side in (0, 1):
        value = profile(result, level)[1, side]
        rest = torchglm.fit(x[:, 1:], y, family=shape, link="log", offset=x[:, 0] * value, tol=1e-12)
        torch.testing.assert_close((rest.deviance - result.deviance) / result.dispersion, target, rtol=1e-7, atol=0)


def test_with_a_known_variance_the_profile_of_least_squares_is_wald() -> None:
    x, y = counts()
    result = torchglm.fit(x, y, family="gaussian", dispersion=1.0)
    torch.testing.assert_close(profile(result), result.conf_int(), rtol=1e-9, atol=1e-9)


def test_a_batch_gives_the_limits_of_its_members() -> None:
    x, first = counts()
    y = torch.stack([first, counts(1)[1], first.flip(0)]).reshape(3, 1, -1)
    weights = torch.ones_like(y)
    weights[1, 0, :20] = 0
    batch = torchglm.fit(x, y, family="poisson", weights=weights)
    assert profile(batch).shape == (3, 1, 3, 2)
    for i in range(3):
        one = torchglm.fit(x, y[i, 0], family="poisson", weights=weights[i, 0])
        torch.testing.assert_close(profile(batch)[i, 0], profile(one), rtol=1e-8, atol=1e-8)


def test_models_with_designs_and_alphas_of_their_own_give_the_limits_of_each() -> None:
    pairs = [counts(seed) for seed in range(3)]
    x, y = torch.stack([a for a, _ in pairs]), torch.stack([b for _, b in pairs]) ** 2
    batch = torchglm.fit(x, y, family=torchglm.NegativeBinomial(), tol=1e-12)
    for i in range(3):
        one = torchglm.fit(x[i], y[i], family=torchglm.NegativeBinomial(), tol=1e-12)
        torch.testing.assert_close(profile(batch)[i], profile(one), rtol=1e-6, atol=1e-6)


def test_streamed_rows_give_the_limits_of_rows_in_memory() -> None:
    x, y = counts()

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        yield from zip(x.split(17), y.split(17), strict=True)

    streamed = torchglm.fit(batches, family="poisson")
    torch.testing.assert_close(profile(streamed), profile(torchglm.fit(x, y, family="poisson")), rtol=1e-9, atol=1e-9)


def test_pieces_and_lanes_of_little_room_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = counts()
    result = torchglm.fit(x, y, family="poisson")
    whole = profile(result)
    for module in ("refit", "profile"):
        monkeypatch.setattr(f"torchglm.inference.limits.{module}.ROOM", 400)
    torch.testing.assert_close(profile(result), whole, rtol=1e-9, atol=1e-9)


def test_no_piece_of_a_refitted_design_takes_more_than_its_room(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = counts(n=5000)
    result = torchglm.fit(x, y, family="poisson")
    sizes = []

    def watched(source: Iterable[Rows], *args: object, **options: object) -> Solution:
        assert not isinstance(source, list)
        sizes.append(max(rows.x.numel() for rows in source))
        return irls(source, *args, **options)  # type: ignore[arg-type]

    for module in ("refit", "profile"):
        monkeypatch.setattr(f"torchglm.inference.limits.{module}.ROOM", 4000)
    monkeypatch.setattr("torchglm.inference.limits.profile.irls", watched)
    profile(result)
    assert sizes and max(sizes) <= 4000


def test_a_separated_coefficient_has_an_infinite_limit_on_one_side() -> None:
    x = torch.arange(12.0, dtype=torch.float64).unsqueeze(-1)
    result = quiet(x, (x[:, 0] > 5).double(), family="binomial")
    limits = profile(result)
    assert limits[1, 1] == math.inf and limits[0, 0] == -math.inf
    value = limits[1, 0]
    rest = quiet(x[:, :0], (x[:, 0] > 5).double(), family="binomial", offset=x[:, 0] * value)
    torch.testing.assert_close(
        (rest.deviance - result.deviance).sqrt(), torch.tensor(Z, dtype=torch.float64), rtol=1e-4, atol=0
    )


def test_a_level_without_events_has_no_lower_limit() -> None:
    group = torch.arange(3, dtype=torch.float64).repeat_interleave(8)
    x = torch.stack([group == 1, group == 2], -1).double()
    y = torch.tensor([1.0, 2, 0, 3, 1, 0, 2, 1], dtype=torch.float64).repeat(3) * (group != 2)
    limits = profile(quiet(x, y, family="poisson"))
    assert limits[2, 0] == -math.inf and torch.isfinite(limits[2, 1])
    assert torch.isfinite(limits[:2]).all()


def test_an_estimate_on_the_edge_of_the_parameter_space_has_no_limit_beyond_it() -> None:
    x = torch.eye(2, dtype=torch.float64).repeat_interleave(2, 0)
    limits = profile(quiet(x, torch.tensor([3.0, 2.0, 0.0, 0.0]), family="poisson", link="identity", intercept=False))
    assert limits[1, 0] == -math.inf and float(limits[1, 1]) == pytest.approx(Z**2 / 4, rel=1e-5)
    assert torch.isfinite(limits[0]).all()


def test_aliased_columns_have_no_limits_and_leave_the_others_alone() -> None:
    x, y = counts()
    wide = torch.cat([x, x.sum(-1, keepdim=True)], -1)
    limits = profile(quiet(wide, y, family="poisson"))
    assert torch.isnan(limits[3]).all()
    torch.testing.assert_close(limits[:3], profile(torchglm.fit(x, y, family="poisson")), rtol=1e-8, atol=1e-8)


def test_a_model_that_was_not_fitted_and_one_without_freedom_have_no_limits() -> None:
    x, y = counts()
    bad = y.clone()
    bad[3] = math.nan
    limits = profile(quiet(x, torch.stack([y, bad]), family="poisson"))
    assert torch.isfinite(limits[0]).all() and torch.isnan(limits[1]).all()
    saturated = quiet(x[:3], y[:3] + 1, family="gamma", link="log")
    assert torch.isnan(profile(saturated)).all()


def test_profiles_refuse_penalised_fits_and_unknown_levels() -> None:
    x, y = counts()
    with pytest.raises(ValueError, match="penalty"):
        profile(torchglm.fit(x, y, family="poisson", penalty=torchglm.Ridge(0.1)))
    with pytest.raises(ValueError, match="level"):
        profile(torchglm.fit(x, y, family="poisson"), 95)
