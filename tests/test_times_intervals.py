"""Times known to lie in intervals, `until=`: one law at every door, and the same as events, censoring and nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import Tensor

import torchglm as tg
from torchglm.families.several import LogLogistic, LogNormal, LogTimes, VectorFamily, Weibull
from torchglm.inputs import GLMBatch
from torchglm.rows.responses import Intervals, Times

FAMILIES = [Weibull(), LogNormal(), LogLogistic()]
each = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
N, INF = 200, torch.inf
G = torch.Generator().manual_seed(3)
X = torch.randn(N, 2, generator=G, dtype=torch.float64)


def uniform(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=G, dtype=torch.float64)


def intervals(time: Tensor) -> tuple[Tensor, Tensor]:
    """Ends around times: of every four one seen, one left-censored, one right-censored, one in an interval."""
    low, high = time * uniform(*time.shape), time * (1 + uniform(*time.shape))
    kind = torch.arange(time.shape[-1]) % 4
    low = torch.where(kind == 0, time, torch.where(kind == 1, 0.0, low))
    return low, torch.where(kind == 0, time, torch.where(kind == 2, INF, high))


def inspected(time: Tensor) -> tuple[Tensor, Tensor]:
    """Between which visits times lie, of every three; the others are seen; nobody comes after the third visit."""
    apart = 1.0 + torch.arange(time.shape[-1]) % 4  # between visits, whatever the time is
    low = (time / apart).floor().clamp(max=3) * apart
    high = torch.where(low < 3 * apart, low + apart, INF)
    exact = (torch.arange(time.shape[-1]) % 3 == 0) & (low < 3 * apart)
    return torch.where(exact, time, low), torch.where(exact, time, high)


TIME = (1 + 0.5 * X[:, 0] + 0.6 * (uniform(N) / uniform(N)).log()).exp()
LOW, HIGH = intervals(TIME)


@each
def test_derivatives_of_intervals_are_those_of_the_nll(family: LogTimes) -> None:
    eta = torch.randn(2, N, generator=G, dtype=torch.float64) * 0.7 + torch.tensor([[1.0], [0.0]])
    narrow = torch.where(torch.arange(N) % 8 == 3, LOW * (1 + 1e-4), HIGH)
    for y in (Intervals(LOW, HIGH), Intervals(LOW, torch.maximum(LOW, narrow))):
        (score, pairs), (slope, bends) = family.derivatives(y, eta), VectorFamily.derivatives(family, y, eta)
        torch.testing.assert_close(score, slope, rtol=1e-7, atol=1e-8)
        for pair, value in pairs.items():
            torch.testing.assert_close(value, bends[pair], rtol=1e-5, atol=1e-6)


@each
def test_intervals_share_the_law_out(family: LogTimes) -> None:
    """The probabilities of neighbours add up to 1; of a narrow one it is the density times the width."""
    eta = torch.randn(2, 50, generator=G, dtype=torch.float64) / 2
    cuts = torch.tensor([0.0, 0.1, 0.7, 1.0, 5.0, 40.0, INF], dtype=torch.float64).unsqueeze(-1)
    p = torch.exp(-family.nll(Intervals(cuts[:-1], cuts[1:]), eta.unsqueeze(1)))
    torch.testing.assert_close(p.sum(0), torch.ones(50, dtype=torch.float64))
    at, width = torch.tensor(1.3, dtype=torch.float64), 1e-5
    narrow = family.nll(Intervals(at - width / 2, at + width / 2), eta)
    torch.testing.assert_close(narrow, family.nll(at, eta) - np.log(width), rtol=1e-6, atol=1e-6)
    same, late = Intervals(at, at), Intervals(at, torch.tensor(INF).double())
    torch.testing.assert_close(family.nll(same, eta), family.nll(at, eta))
    torch.testing.assert_close(family.nll(late, eta), family.nll(Times(at, torch.tensor(False)), eta))
    assert bool((family.nll(Intervals(at * 0, late.upper), eta) == 0).all())


@each
def test_what_is_known_of_a_time_is_all_that_counts(family: LogTimes) -> None:
    """(y, y) is an event, (y, inf) is right-censored, (0, inf) is no row, and a row of weight 0 may hold anything."""
    seen = torch.arange(N) % 3 > 0
    until = torch.where(seen, TIME, INF)
    one, other = tg.fit(X, TIME, family=family, event=seen), tg.fit(X, TIME, family=family, until=until)
    torch.testing.assert_close(one.flat.coef, other.flat.coef, rtol=0, atol=1e-10)
    torch.testing.assert_close(one.covariance(), other.covariance())
    torch.testing.assert_close(one.loglik, other.loglik)
    assert bool(other.converged)
    kept = torch.arange(N) % 5 > 0
    whole = tg.fit(X[kept], LOW[kept], family=family, until=HIGH[kept])
    nothing = tg.fit(X, torch.where(kept, LOW, 0.0), family=family, until=torch.where(kept, HIGH, INF))
    junk = {
        "weights": kept.double(),
        "until": torch.where(kept, HIGH, torch.where(torch.arange(N) % 2 > 0, -1.0, torch.nan)),
    }
    for r in (nothing, tg.fit(X, LOW, family=family, **junk)):
        torch.testing.assert_close(r.flat.coef, whole.flat.coef, rtol=0, atol=1e-9)
        torch.testing.assert_close(r.covariance(), whole.covariance(), rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize(
    ("family", "law"), [("weibull", "weibull_min"), ("lognormal", "lognorm"), ("loglogistic", "fisk")]
)
def test_the_maximum_is_that_of_scipy(family: str, law: str) -> None:
    known = torch.arange(N) % 4
    censored = stats.CensoredData(
        uncensored=LOW[known == 0].numpy(),
        left=HIGH[known == 1].numpy(),
        right=LOW[known == 2].numpy(),
        interval=torch.stack([LOW, HIGH], -1)[known == 3].numpy(),
    )
    shape, _, scale = getattr(stats, law).fit(censored, floc=0)
    r = tg.fit(X[:, :0], LOW, family=family, until=HIGH)
    sigma = shape if family == "lognormal" else 1 / shape
    np.testing.assert_allclose(r.coef.numpy(), [np.log(scale), np.log(sigma)], rtol=2e-4, atol=2e-4)


def test_every_door_takes_intervals(tmp_path: Path) -> None:
    frame = pd.DataFrame({"low": LOW, "high": HIGH, "a": X[:, 0], "b": X[:, 1]})
    frame.to_parquet(tmp_path / "rows.parquet", row_group_size=33)
    frame.to_csv(tmp_path / "rows.csv", index=False)
    whole = tg.fit(X, LOW, family="weibull", until=HIGH)
    batch = GLMBatch(X, LOW, until=HIGH)
    rows = {
        "batch": tg.fit(X, torch.stack([LOW, LOW]), family="weibull", until=torch.stack([HIGH, HIGH]))[1],
        "formula": tg.fit("low ~ a + b", frame, family="weibull", until="high"),
        "values": tg.fit("low ~ a + b", frame, family="weibull", until=HIGH),
        "parquet": tg.fit("low ~ a + b", str(tmp_path / "rows.parquet"), family="weibull", until="high"),
        "csv": tg.fit("low ~ a + b", str(tmp_path / "rows.csv"), family="weibull", until="high"),
        "loader": tg.fit([batch], family="weibull"),
        "head": tg.GLMHead(2, "weibull", dtype=torch.float64).fit(X, LOW, until=HIGH),
    }
    for name, r in rows.items():
        torch.testing.assert_close(
            r.flat.coef, whole.flat.coef, rtol=0, atol=1e-8, msg=lambda m, name=name: f"{name} {m}"
        )
        torch.testing.assert_close(r.std_err, whole.std_err, rtol=1e-6, atol=0)
        torch.testing.assert_close(r.loglik, whole.loglik)
    head: Any = whole.head
    loss = head.loss(X, LOW, until=HIGH)
    torch.testing.assert_close(loss * N, -whole.loglik, rtol=1e-6, atol=1e-6)
    loss.backward()
    assert all(float(p.grad.abs().max()) < 1e-6 for p in head.parameters() if p.grad is not None)
    whole.save(tmp_path / "fit")
    back = tg.load(tmp_path / "fit").with_rows(X, LOW, until=HIGH)
    torch.testing.assert_close(back.residuals(), whole.residuals())
    torch.testing.assert_close(back.covariance("HC3"), whole.covariance("HC3"))
    pieces = whole.rows
    assert pieces is not None
    torch.testing.assert_close(whole.on([pieces.between(0, 90), pieces.between(90, N)]).leverage(), whole.leverage())


def test_residuals_of_intervals_are_standard_normal_where_the_law_is_right() -> None:
    g = torch.Generator().manual_seed(7)  # not that of the residuals, whose uniform numbers would be the same
    time = (torch.rand(4000, generator=g, dtype=torch.float64).log().neg().log() * 0.7 + 1).exp()
    low, high = inspected(time)
    residuals = tg.fit(torch.zeros(4000, 0, dtype=torch.float64), low, family="weibull", until=high).residuals()
    assert stats.kstest(residuals.numpy(), "norm").pvalue > 0.01


def test_what_cannot_be_an_interval_is_refused_at_its_row() -> None:
    for until, words in (
        (torch.where(torch.arange(N) == 17, LOW - 0.01, HIGH.clamp(max=100)), "row 17 has y = .* and until"),
        (torch.where(torch.arange(N) == 16, torch.nan, HIGH), "row 16 has y = .* and until = nan"),
    ):
        with pytest.raises(ValueError, match=words):
            tg.fit(X, LOW, family="weibull", until=until)
    with pytest.raises(ValueError, match="Give until= alone"):
        tg.fit(X, LOW, family="weibull", until=HIGH, event=torch.ones(N))
    for family in ("exponential", "poisson", "ordinal"):
        with pytest.raises(ValueError, match="until= is for Weibull, LogNormal and LogLogistic"):
            tg.fit(X, torch.ones(N) * (torch.arange(N) % 2), family=family, until=HIGH)
    with pytest.raises(ValueError, match="weibull family needs y > 0"):
        tg.fit(X, torch.zeros(N), family="weibull", until=torch.zeros(N))


@pytest.mark.slow
@each
def test_limits_from_intervals_cover_as_they_say(family: LogTimes) -> None:
    g, models, n = torch.Generator().manual_seed(1), 2000, 300
    x = torch.randn(n, 1, generator=g, dtype=torch.float64)
    law = {
        "weibull": lambda u: u.log().neg().log(),
        "lognormal": torch.special.ndtri,
        "loglogistic": torch.logit,
    }[family.name]
    u = torch.rand(models, n, generator=g, dtype=torch.float64)
    low, high = inspected((0.5 + 0.4 * x[:, 0] + 0.6 * law(u)).exp())
    r = tg.fit(x, low, family=family, until=high)
    truth = torch.tensor([0.5, 0.4, np.log(0.6)], dtype=torch.float64)
    limits = r.conf_int()
    inside = ((limits[..., 0] < truth) & (truth < limits[..., 1])).double().mean(0)
    assert bool((inside - 0.95).abs().max() < 0.015), inside
