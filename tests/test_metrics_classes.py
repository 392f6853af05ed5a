"""Metrics of classes against scikit-learn, concordance against all pairs: weighted, in parts, with dropped rows."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import Tensor

import torchglm as tg
from torchglm import metrics
from torchglm.metrics.classes import Accuracy, ClassMetric, Concordance

C = 4
ALL = [*ClassMetric.__subclasses__(), Accuracy]


def rows(n: int = 300) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    p = torch.rand(n, C, generator=generator, dtype=torch.float64).softmax(-1)
    return p, torch.randint(0, C, (n,), generator=generator), torch.rand(n, generator=generator, dtype=torch.float64)


def function_of(metric: type) -> object:
    return getattr(metrics, re.sub(r"(?<=[a-z])(?=[A-Z])", "_", metric.__name__).lower())


def test_they_are_those_of_scikit_learn() -> None:
    score = pytest.importorskip("sklearn.metrics")
    p, y, w = rows()
    hit = torch.nn.functional.one_hot(y, C).double()
    assert float(metrics.log_score(p, y, C, weights=w)) == pytest.approx(score.log_loss(y, p, sample_weight=w))
    brier = (w * (p - hit).square().sum(1)).sum() / w.sum()
    assert float(metrics.brier_score(p, y, C, weights=w)) == pytest.approx(float(brier))
    guess = p.argmax(1)
    assert float(metrics.accuracy(p, y, C, weights=w)) == pytest.approx(score.accuracy_score(y, guess, sample_weight=w))
    matrix = torch.from_numpy(score.confusion_matrix(y, guess, sample_weight=w))
    torch.testing.assert_close(metrics.confusion_matrix(p, y, C, weights=w), matrix)
    metric = Accuracy(tg.Ordinal(classes=C))
    metric.update(p, y, weights=w)
    torch.testing.assert_close(metric.by_class, matrix.diagonal() / matrix.sum(1))
    apart = sum((p[:, : k + 1].sum(1) - (y <= k).double()).square() for k in range(C - 1))
    ranked = metrics.ranked_probability_score(p, y, ["a", "b", "c", "d"], weights=w)
    torch.testing.assert_close(ranked, (w * apart).sum() / w.sum())


@pytest.mark.parametrize("metric", ALL, ids=lambda m: m.__name__)
def test_parts_repeats_dropped_rows_and_what_is_not_known(metric: type[ClassMetric]) -> None:
    p, y, w = rows()
    freq = torch.randint(0, 3, (300,), generator=torch.Generator().manual_seed(1))
    whole, value = metric(C), function_of(metric)
    for part in (slice(0, 100), slice(100, 100), slice(100, 300)):
        whole.update(p[part].unsqueeze(1), y[part], weights=w[part], freq=freq[part])
    torch.testing.assert_close(whole.compute(), value(p, y, C, weights=w, freq=freq))
    torch.testing.assert_close(
        value(p, y, C, freq=freq), value(p.repeat_interleave(freq, 0), y.repeat_interleave(freq), C)
    )
    bad = torch.where(freq.unsqueeze(1) == 0, math.nan, p)
    torch.testing.assert_close(value(bad, torch.where(freq == 0, 99, y), C, freq=freq), value(p, y, C, freq=freq))
    for broken in (value(bad, y, C), value(p, torch.full_like(y, C), C), value(p, y, C, weights=w - 1)):
        assert bool(broken.isnan().any())
    with pytest.raises(ValueError, match="classes last"):
        value(p[:, :3], y, C)
    with pytest.raises(TypeError, match="offset"):
        value(p, y, C, offset=w)


def pairs(mu: Tensor, time: Tensor, event: Tensor, weight: Tensor) -> Tensor:
    """Harrell's C by all pairs."""
    longer = (time > time[:, None]) | (time == time[:, None]) & ~event
    known = (longer & event[:, None]) * weight * weight[:, None]
    return (known * ((mu > mu[:, None]) + 0.5 * (mu == mu[:, None]))).sum() / known.sum()


@pytest.mark.parametrize("n", [2, 3, 7, 64, 65, 400])
def test_concordance_counts_all_pairs(n: int) -> None:
    generator = torch.Generator().manual_seed(n)
    time, mu = (torch.randint(1, 4 + n // 4, (n,), generator=generator).double() for _ in range(2))
    event = torch.rand(n, generator=generator) < 0.6
    event[time.argmin()] = True
    w = torch.randint(0, 3, (n,), generator=generator).double() + (n < 10)
    want = pairs(mu, time, event, w)
    torch.testing.assert_close(metrics.concordance(mu, time, event=event, weights=w), want, equal_nan=True)
    torch.testing.assert_close(
        metrics.concordance(mu, time, weights=w), pairs(mu, time, event | True, w), equal_nan=True
    )
    metric = Concordance()
    for part in (slice(0, n // 2), slice(n // 2, n)):
        metric.update(mu[part], time[part], event=event[part], freq=w[part])
    torch.testing.assert_close(metric.compute(), want, equal_nan=True)
    assert bool(metrics.concordance(mu * math.nan, time).isnan())
