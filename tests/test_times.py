"""Times to an event are sizes and events: no sign says anything, at no door, and no time is both seen and zero."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from scipy import special, stats

import torchglm as tg
from torchglm import metrics
from torchglm.inputs import GLMBatch
from torchglm.model.renewable import Renewable
from torchglm.training.row_checks import check_rows

N, ROW = 60, 17
X = torch.randn(N, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TIME = torch.rand(N, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.1
EVENT = (torch.arange(N) % 3 > 0).to(torch.float64)
EVENT[ROW] = 1.0


def _frame(time: torch.Tensor, event: torch.Tensor | None) -> pd.DataFrame:
    columns = {"time": time, "a": X[:, 0], "b": X[:, 1]} | ({} if event is None else {"seen": event})
    return pd.DataFrame({name: column.numpy() for name, column in columns.items()})


def _arrays(time: torch.Tensor, event: torch.Tensor | None, folder: Path) -> Any:
    return tg.fit(X, time, family="exponential", event=event)


def _batched(time: torch.Tensor, event: torch.Tensor | None, folder: Path) -> Any:
    both = None if event is None else torch.stack([event, event])
    return tg.fit(X, torch.stack([time, time]), family="exponential", event=both).member(0)


def _formula(time: torch.Tensor, event: torch.Tensor | None, folder: Path) -> Any:
    return tg.fit("time ~ a + b", _frame(time, event), family="exponential", event=event if event is None else "seen")


def _file(time: torch.Tensor, event: torch.Tensor | None, folder: Path) -> Any:
    _frame(time, event).to_parquet(folder / "rows.parquet", row_group_size=13)
    path, seen = str(folder / "rows.parquet"), None if event is None else "seen"
    return tg.fit("time ~ a + b", path, family="exponential", event=seen)


def _loader(time: torch.Tensor, event: torch.Tensor | None, folder: Path) -> Any:
    batch = {"x": X, "y": time} | ({} if event is None else {"event": event})
    return tg.fit([batch], family="exponential")


def _head(time: torch.Tensor, event: torch.Tensor | None, folder: Path) -> Any:
    return tg.GLMHead(2, "exponential", dtype=torch.float64).fit(X, time, event=event)


def _online(time: torch.Tensor, event: torch.Tensor | None, folder: Path) -> Any:
    return Renewable("exponential", "log", 2).update(X, time, event=event)


def _training(time: torch.Tensor, event: torch.Tensor | None, folder: Path) -> Any:
    return check_rows(GLMBatch(X, time, event=event), tg.families.Exponential())


FITS: dict[str, Callable[..., Any]] = {
    "arrays": _arrays,
    "a batch of models": _batched,
    "a formula": _formula,
    "a file": _file,
    "a loader": _loader,
    "a head": _head,
}
DOORS = FITS | {"online": _online, "training": _training}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(("time", "event"), [(-0.5, None), (0.0, None), (-0.5, 1.0), (0.0, 1.0), (-0.5, 0.0)], ids=str)
def test_a_time_that_is_none_is_refused_with_its_row(
    door: str, time: float, event: float | None, tmp_path: Path
) -> None:
    times, events = TIME.clone(), None if event is None else EVENT.clone()
    times[ROW] = time
    if events is not None:
        events[ROW] = event
    with pytest.raises(ValueError, match=rf"needs y > 0; .*(row|position).*\D{ROW}\D.* y = {time:g}\D(.|\n)*event="):
        DOORS[door](times, events, tmp_path)


@pytest.mark.parametrize("door", FITS)
def test_a_censored_time_of_zero_says_nothing(door: str, tmp_path: Path) -> None:
    times, events = TIME.clone(), EVENT.clone()
    times[ROW] = events[ROW] = 0.0
    found = FITS[door](times, events, tmp_path)
    keep = torch.arange(N) != ROW
    want = tg.fit(X[keep], times[keep], family="exponential", event=events[keep])
    for what in ("coef", "std_err", "deviance", "loglik"):
        torch.testing.assert_close(getattr(found, what), getattr(want, what), rtol=1e-7, atol=1e-9)
    assert bool(found.converged)


@pytest.mark.parametrize("door", FITS)
def test_events_that_were_all_seen_are_no_news(door: str, tmp_path: Path) -> None:
    plain, seen = (FITS[door](TIME, event, tmp_path) for event in (None, torch.ones(N, dtype=torch.float64)))
    for what in ("coef", "deviance", "loglik"):
        torch.testing.assert_close(getattr(plain, what), getattr(seen, what), rtol=1e-9, atol=1e-9)


def test_the_likelihood_is_that_of_the_censored_law() -> None:
    fit = tg.fit(X, TIME, family="exponential", event=EVENT)
    law = stats.expon(scale=fit.fitted.numpy())
    want = torch.where(EVENT > 0, torch.tensor(law.logpdf(TIME)), torch.tensor(law.logsf(TIME))).sum()
    torch.testing.assert_close(fit.loglik, want, rtol=1e-12, atol=0)


@pytest.mark.parametrize("event", [None, 0.0, 1.0])
@pytest.mark.parametrize("metric", ["deviance", "d2", "nll", "pearson_dispersion", "observed_expected", "crps", "gini"])
def test_no_metric_takes_a_negative_time_for_a_number(metric: str, event: float | None) -> None:
    times, events = TIME.clone(), None if event is None else torch.full_like(EVENT, event)
    if events is not None:
        events[0] = 1.0
    times[ROW] *= -1
    assert bool(getattr(metrics, metric)(torch.ones_like(times), times, "exponential", event=events).isnan())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_hazard_of_log_normal_times_has_its_digits_however_late(dtype: torch.dtype) -> None:
    z = torch.tensor([-8.0, -1.0, 0.0, 2.0, 12.0, 199.0, 201.0, 1e4, 1e7], dtype=dtype)
    slope, fall = tg.LogNormal().slopes(z, torch.zeros(len(z), dtype=torch.bool))
    exact = [(2 / torch.pi) ** 0.5 / special.erfcx(float(value) / 2**0.5) for value in z]
    torch.testing.assert_close(slope, -torch.tensor(exact, dtype=dtype))
    assert bool((fall[3:] > 0.8).all() and (fall[5:] < 1.01).all())  # rises to 1, where the law is a normal one
    torch.testing.assert_close(fall[-2:], torch.ones(2, dtype=dtype))
