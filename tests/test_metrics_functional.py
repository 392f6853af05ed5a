"""A function of metrics takes what its class takes, and says the same."""

from __future__ import annotations

import inspect
import re
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import torchglm.metrics as ours
from torchglm.metrics import D2, NLL, CalibrationError, Coverage, Deviance, Gini, LiftTable, PearsonDispersion
from torchglm.metrics.base import FamilyMetric
from torchglm.metrics.classes import ClassMetric, Concordance

CLASSES: list[type[Any]] = [
    getattr(ours, name)
    for name in ours.__all__
    if name[0].isupper() and name != "FamilyMetric" and not issubclass(getattr(ours, name), (ClassMetric, Concordance))
]  # of means: those of classes and pairs in test_metrics_classes
SETTINGS: dict[str, Any] = {"link": "log", "dispersion": 0.4, "null": 0.3, "n_coef": 7, "bins": 4}
PER_ROW = ["weights", "freq", "offset", "exposure", "trials", "event"]
FAMILY = {"trials": "binomial", "event": "exponential", "dispersion": "gamma", "link": "gamma"}


def twin(metric: type[Any]) -> Any:
    return getattr(ours, re.sub(r"(?<=[a-z])(?=[A-Z])", "_", metric.__name__).lower())


def arguments(function: Any) -> set[str]:
    return set(inspect.signature(function).parameters) - {"self", "kwargs", "given"}


def rows(argument: str, n: int = 300) -> dict[str, Tensor]:
    """Means and responses in the support of the family of an argument, and that argument where it is one of rows."""
    rng = torch.Generator().manual_seed(8)
    u, v, w = torch.rand(3, n, generator=rng, dtype=torch.float64)
    family = FAMILY.get(argument, "poisson")
    trials = 1 + (6 * w).floor()
    mu = 0.1 + 0.8 * u if family == "binomial" else 0.5 + 3 * u
    y = {"poisson": (mu * v * 2 + 0.5).floor(), "binomial": (trials * v).round()}.get(family, mu * v + 0.1)
    extra = {"trials": trials, "event": (v < 0.6).double(), "weights": w, "freq": w, "offset": w, "exposure": 0.5 + w}
    return {"mu": mu, "y": y, **({argument: extra[argument]} if argument in extra else {})}


def stacked(found: Any) -> Tensor:
    return found if isinstance(found, Tensor) else torch.stack(list(found.values()))


@pytest.mark.parametrize("metric", CLASSES, ids=lambda m: m.__name__)
def test_a_function_takes_every_argument_of_its_class(metric: type[Any]) -> None:
    assert arguments(twin(metric)) == arguments(metric.__init__) | arguments(metric.update)


def test_every_argument_is_tried() -> None:
    tried = {*SETTINGS, "roles", "mu", "y", "family", "low", "high"}
    assert {name for metric in CLASSES for name in arguments(twin(metric))} == tried


TRIED = [
    (metric, argument)
    for metric in CLASSES
    if metric is not Coverage
    for argument in [*PER_ROW, *SETTINGS]
    if argument in PER_ROW or argument in arguments(twin(metric))
]


@pytest.mark.parametrize(("metric", "argument"), TRIED, ids=lambda v: v if isinstance(v, str) else v.__name__)
def test_a_function_says_what_its_class_says(metric: type[FamilyMetric], argument: str) -> None:
    family, given = FAMILY.get(argument, "poisson"), rows(argument)
    settings = {argument: SETTINGS[argument]} if argument in SETTINGS else {}
    whole, parts = metric(family, **settings), metric(family, **settings)
    whole.update(**given)
    for part in (slice(0, 100), slice(100, None)):
        parts.update(**{name: value[part] for name, value in given.items()})
    found = stacked(twin(metric)(family=family, **settings, **given))
    torch.testing.assert_close(found, stacked(whole.compute()), rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(found, stacked(parts.compute()), rtol=1e-9, atol=1e-12, equal_nan=True)


MATTER: list[tuple[type[FamilyMetric], str]] = [
    *(
        (metric, argument)
        for metric in (Deviance, Gini, LiftTable, CalibrationError, D2)
        for argument in ("weights", "freq", "trials", "event")
    ),
    *((metric, "exposure") for metric in (Gini, LiftTable, CalibrationError, D2)),
    (NLL, "dispersion"),
    (D2, "null"),
    (PearsonDispersion, "n_coef"),
    (CalibrationError, "bins"),
]


@pytest.mark.parametrize(("metric", "argument"), MATTER, ids=lambda v: v if isinstance(v, str) else v.__name__)
def test_an_argument_that_counts_changes_what_a_function_says(metric: type[FamilyMetric], argument: str) -> None:
    family, given = FAMILY.get(argument, "poisson"), rows(argument)
    settings = {argument: SETTINGS[argument]} if argument in SETTINGS else {}
    left_out = {"mu": given["mu"], "y": given["y"] / given.get("trials", 1.0)}
    found = stacked(twin(metric)(family=family, **settings, **given))
    without = stacked(twin(metric)(family=family, **left_out))
    assert bool(((found - without).abs() > 1e-6).any())


def test_coverage_as_a_function_says_what_its_class_says() -> None:
    y = torch.arange(10.0)
    metric = Coverage()
    metric.update(y - 1, 6 - y, y, weights=y + 1)
    assert float(ours.coverage(low=y - 1, high=6 - y, y=y, weights=y + 1)) == float(metric.compute()) > 0


@pytest.mark.parametrize("metric", [D2, Gini, LiftTable, CalibrationError], ids=lambda m: m.__name__)
def test_an_exposure_needs_a_link_for_rates(metric: type[FamilyMetric]) -> None:
    given = rows("dispersion") | {"exposure": torch.full((300,), 2.0, dtype=torch.float64)}
    for score in (metric("gamma").update, lambda **known: twin(metric)(family="gamma", **known)):
        with pytest.raises(ValueError, match="exposure needs a link on whose scale rates multiply .* got inverse"):
            score(**given)
    assert stacked(twin(metric)(family="gamma", link="log", **given)).isfinite().all()
    Deviance("gamma").update(**given)


@pytest.mark.parametrize(
    "convert",
    [Tensor.numpy, Tensor.tolist, lambda v: pd.Series(v.numpy(), index=v.numpy())],
    ids=["array", "list", "series"],
)
@pytest.mark.parametrize(
    ("metric", "argument"),
    [pair for pair in TRIED if pair[1] in PER_ROW],
    ids=lambda v: v if isinstance(v, str) else v.__name__,
)
def test_rows_may_be_arrays_lists_and_series(metric: type[FamilyMetric], argument: str, convert: Any) -> None:
    family, given = FAMILY.get(argument, "poisson"), rows(argument, 40)
    other = {name: convert(value) for name, value in given.items()}
    mixed = other | {"mu": given["mu"]}
    expected = stacked(twin(metric)(family=family, **given))
    for columns in (other, mixed):
        found = metric(family)
        found.update(**columns)
        torch.testing.assert_close(stacked(found.compute()), expected, rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(
            stacked(twin(metric)(family=family, **columns)), expected, rtol=0, atol=0, equal_nan=True
        )


@pytest.mark.parametrize("score", [ours.nll, ours.crps])
def test_each_row_may_have_a_dispersion(score: Any) -> None:
    mu, y = rows("dispersion", 2000).values()
    phi = torch.linspace(0.2, 2, 2000, dtype=torch.float64)
    found = score(mu, y, "gamma", dispersion=phi)
    each = torch.stack(
        [score(mu[i : i + 1], y[i : i + 1], "gamma", dispersion=float(phi[i])) for i in range(0, 2000, 250)]
    )
    torch.testing.assert_close(score(mu[::250], y[::250], "gamma", dispersion=phi[::250]), each.mean())
    assert torch.equal(score(mu, y, "gamma", dispersion=phi.numpy()), found)


def test_intervals_may_be_arrays() -> None:
    y = np.arange(10.0)
    assert float(ours.coverage(y - 1, np.full(10, 5), y.tolist(), weights=np.ones(10, dtype=int))) == 0.6


@pytest.mark.parametrize("name", ["mu", "y", "weights"])
def test_text_and_arrays_of_another_shape_are_refused_by_name(name: str) -> None:
    given: dict[str, Any] = {key: value.numpy() for key, value in rows("weights", 3).items()}
    with pytest.raises(TypeError, match=f"{name} holds .* values, not numbers"):
        Deviance("poisson").update(**given | {name: np.array(["a", "b", "c"])})
    with pytest.raises(ValueError, match="shape"):
        ours.gini(family="poisson", **given | {name: given[name][:2]})


WHOLE = [(LiftTable, "bins", 1), (CalibrationError, "bins", 1), (PearsonDispersion, "n_coef", 0)]


@pytest.mark.parametrize("bad", [-1, "10", 2.5, True, None])
@pytest.mark.parametrize(("metric", "name", "least"), WHOLE)
def test_counts_are_whole_numbers(metric: type[FamilyMetric], name: str, least: int, bad: Any) -> None:
    for make in (partial(metric, "poisson"), partial(twin(metric), [1.0], [1.0], "poisson")):
        with pytest.raises(ValueError, match=f"{name} must be a whole number of at least {least}, got {bad!r}"):
            make(**{name: bad})
        make(**{name: np.int64(least)})
    with pytest.raises(ValueError, match=f"at least {least}"):
        metric("poisson", **{name: least - 1})
