"""Metrics of order and calibration: Gini, lift table and calibration error, for means and for censored times."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import matplotlib
import pytest
import torch
from torch import Tensor
from torchmetrics import MetricCollection

import torchglm.metrics as ours
from torchglm.metrics import CalibrationError, Deviance, Gini, LiftTable
from torchglm.metrics.base import FamilyMetric

RANKED: list[type[FamilyMetric]] = [Gini, LiftTable, CalibrationError]


def value(metric: FamilyMetric) -> Tensor:
    """What a metric says as one tensor."""
    found = metric.compute()
    return found if isinstance(found, Tensor) else torch.stack(list(found.values()))


def times(n: int = 6000) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Means over a hundredfold, times half of which are censored, weights, events."""
    rng = torch.Generator().manual_seed(5)
    mu = 0.1 * 100 ** torch.rand(n, generator=rng, dtype=torch.float64)
    time, end = (-mu * torch.rand(n, generator=rng, dtype=torch.float64).log() for _ in range(2))
    weight = 0.5 + torch.rand(n, generator=rng, dtype=torch.float64)
    return mu, torch.minimum(time, end), weight, (time <= end).double()


@pytest.mark.parametrize("metric", RANKED, ids=lambda m: m.__name__)
def test_censored_times_are_events_over_time_at_risk(metric: type[FamilyMetric]) -> None:
    mu, t, weight, event = times()
    assert 0.45 < float(event.mean()) < 0.55
    censored, counts = metric("exponential"), metric("poisson")
    censored.update(mu, t, weights=weight, event=event)
    counts.update(t / mu, event, weights=weight, exposure=t)
    torch.testing.assert_close(value(censored), value(counts), rtol=1e-12, atol=0)


@pytest.mark.parametrize("metric", RANKED, ids=lambda m: m.__name__)
def test_an_exposure_of_times_is_the_unit_they_are_counted_in(metric: type[FamilyMetric]) -> None:
    mu, t, weight, event = times()
    unit = 2.0 ** (torch.arange(len(mu)) % 3).double()
    plain, scaled = metric("exponential"), metric("exponential")
    plain.update(mu, t, weights=weight, event=event)
    scaled.update(unit * mu, unit * t, weights=weight, exposure=unit, event=event)
    torch.testing.assert_close(value(scaled), value(plain), rtol=1e-12, atol=0)


@pytest.mark.parametrize("metric", RANKED, ids=lambda m: m.__name__)
def test_no_event_column_means_every_event_was_seen(metric: type[FamilyMetric]) -> None:
    mu, t, weight, _ = times()
    silent, said = metric("exponential"), metric("exponential")
    silent.update(mu, t, weights=weight)
    said.update(mu, t, weights=weight, event=torch.ones_like(t))
    assert torch.equal(value(silent), value(said))


def test_hazards_that_are_right_are_calibrated_and_ordered_under_censoring() -> None:
    mu, t, weight, event = times(20_000)
    table, error, index, reverse = (
        LiftTable("exponential"),
        CalibrationError("exponential"),
        *(Gini("exponential") for _ in range(2)),
    )
    for metric in (table, error, index):
        metric.update(mu, t, event=event)
    reverse.update(1 / mu, t, event=event)
    columns = table.compute()
    observed, predicted, at_risk = (columns[name] for name in ("observed", "predicted", "weight"))
    noise = (predicted / at_risk).sqrt()  # a count of events over the time at risk
    assert bool(((observed - predicted).abs() < 4 * noise).all()) and bool((observed > 0).all())
    assert float(error.compute()) < 2 * float((noise * at_risk).sum() / at_risk.sum())
    found = float(index.compute())
    assert 0.3 < found < 1 and float(reverse.compute()) == pytest.approx(-found, abs=1e-3)


def test_gini_lift_and_calibration() -> None:
    rng = torch.Generator().manual_seed(3)
    mu, v, weight = 0.5 + 3 * torch.rand(3, 4000, generator=rng, dtype=torch.float64)
    y = (mu * v).floor()
    exposure = 0.5 + torch.rand(4000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    order = (mu / exposure).argsort()
    w, s = (weight * exposure)[order].cumsum(0), (weight * y)[order].cumsum(0)
    shares = [torch.nn.functional.pad(c / c[-1], (1, 0)) for c in (w, s)]
    exact = 1 - 2 * torch.trapezoid(shares[1], shares[0])
    index = ours.gini(mu, y, "poisson", weights=weight, exposure=exposure)
    assert float(index) == pytest.approx(float(exact), abs=2e-3)
    table = ours.lift_table(mu, y, "poisson", weights=weight, exposure=exposure)
    assert table["weight"].max() < 1.05 * table["weight"].min()
    assert bool((table["predicted"].diff() > 0).all())
    total = (table["weight"] * table["observed"]).sum()
    torch.testing.assert_close(total, (weight * y).sum())
    error = (table["weight"] * (table["observed"] - table["predicted"]).abs()).sum() / table["weight"].sum()
    torch.testing.assert_close(ours.calibration_error(mu, y, "poisson", weights=weight, exposure=exposure), error)
    below_zero = torch.tensor([-2.0, -1.0, 1.0, 2.0])
    assert float(ours.gini(below_zero, 3 + below_zero, "gaussian")) > 0


@pytest.fixture
def pyplot() -> Iterator[Any]:
    matplotlib.use("Agg")
    from matplotlib import pyplot

    yield pyplot
    pyplot.close("all")


def scores() -> MetricCollection:
    mu, t, _, _ = times(500)
    made = MetricCollection([LiftTable("poisson"), Gini("poisson"), CalibrationError("poisson"), Deviance("poisson")])
    made.update(mu, t.floor())
    return made


def test_a_collection_keeps_a_lift_table_whole_and_draws_it(pyplot: Any) -> None:
    made = scores()
    found = made.compute()
    assert set(found) == {"LiftTable", "Gini", "CalibrationError", "Deviance"}
    alone = made["LiftTable"].compute()
    assert all(torch.equal(found["LiftTable"][name], alone[name]) for name in alone)
    for drawn in (made.plot(), made.plot(found), made.plot([found, found])):
        assert [axes.get_ylabel() for _, axes in drawn][list(found).index("LiftTable")] == "rate"


def test_lift_tables_over_steps_are_drawn_beside_each_other(pyplot: Any) -> None:
    mu, t, _, _ = times(500)
    metric = LiftTable("exponential")
    steps = [metric(mu[part], t[part]) for part in (slice(0, 200), slice(200, 500))]
    _, axes = metric.plot(steps)
    assert [line.get_label() for line in axes.get_lines()] == [
        "observed, step 0",
        "predicted, step 0",
        "observed, step 1",
        "predicted, step 1",
    ]
    drawn = torch.as_tensor(axes.get_lines()[2].get_ydata())
    torch.testing.assert_close(drawn, steps[1]["observed"], equal_nan=True)
    _, axes = metric.plot(steps[0])
    assert [line.get_label() for line in axes.get_lines()] == ["observed", "predicted"]


def test_a_table_of_one_bin_has_one_row(pyplot: Any) -> None:
    mu, t, _, _ = times(500)
    metric = LiftTable("poisson", bins=1)
    metric.update(mu, t.floor())
    table = pickle.loads(pickle.dumps(copy.deepcopy(metric.compute())))
    assert {name: tuple(column.shape) for name, column in table.items()} == dict.fromkeys(
        ("weight", "observed", "predicted", "lift"), (1,)
    )
    assert float(table["lift"]) == 1
    metric.plot()
