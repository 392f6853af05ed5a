"""Times split at cuts: the likelihood of a hazard that is constant between them, by hand and beside others."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

import torchglm as tg

G = np.random.default_rng(2)
N = 300
DATA = pd.DataFrame({"age": G.normal(size=N), "region": G.choice(list("ab"), N)})
DATA["time"] = G.exponential(np.exp(1 - 0.5 * DATA.age))
DATA["seen"] = (G.random(N) < 0.7).astype(int)
X = torch.tensor(DATA[["age"]].to_numpy())
CUTS = [0.5, 2.0, 10.0]


def test_without_cuts_it_is_the_exponential_model() -> None:
    split = tg.split_times(DATA, [], "time", "seen")
    assert len(split) == N and list(split.piece.cat.categories) == ["(0, inf)"]
    one = tg.fit("event ~ age", split, family="poisson", exposure="exposure")
    other = tg.fit("time ~ age", DATA, family="exponential", event="seen")
    torch.testing.assert_close(one.coef, -other.coef, rtol=0, atol=1e-9)
    torch.testing.assert_close(one.std_err, other.std_err, rtol=1e-7, atol=0)


def test_pieces_are_those_split_by_hand() -> None:
    found = tg.PersonTime.of([0.5, 3.0, 12.0, 0.0], CUTS, event=[1, 0, 1, 0], entry=[0.0, 1.0, 0.0, 0.0])
    assert found.row.tolist() == [0, 1, 1, 2, 2, 2, 2] and found.piece.tolist() == [0, 1, 2, 0, 1, 2, 3]
    assert found.exposure.tolist() == [0.5, 1.0, 1.0, 0.5, 1.5, 8.0, 2.0]
    assert found.event.tolist() == [1, 0, 0, 0, 0, 0, 1]
    assert found.labels == ["(0, 0.5]", "(0.5, 2]", "(2, 10]", "(10, inf)"]


def test_time_and_events_are_kept_and_doors_agree() -> None:
    pieces = tg.PersonTime.of(DATA.time, CUTS, event=DATA.seen)
    spent = torch.zeros(N, dtype=torch.float64).index_add(0, pieces.row, pieces.exposure)
    torch.testing.assert_close(spent, torch.tensor(DATA.time.to_numpy()))
    assert float(pieces.event.sum()) == DATA.seen.sum()
    named = tg.fit("event ~ piece + age - 1", pieces.table(DATA), family="poisson", exposure="exposure")
    assert named.names[:2] == ["piece[(0, 0.5]]", "piece[(0.5, 2]]"]
    arrow = pieces.table({name: DATA[name].to_numpy() for name in ("age", "region", "time")})
    plain = tg.fit(pieces.columns(X), pieces.event, family="poisson", exposure=pieces.exposure, intercept=False)
    for other in (plain, tg.fit("event ~ piece + age - 1", arrow, family="poisson", exposure="exposure")):
        torch.testing.assert_close(other.coef, named.coef, rtol=0, atol=1e-9)
    alone = tg.fit(pieces.columns(X[:, :0]), pieces.event, family="poisson", exposure=pieces.exposure, intercept=False)
    each = torch.zeros(2, 4, dtype=torch.float64)
    each[0].index_add_(0, pieces.piece, pieces.event), each[1].index_add_(0, pieces.piece, pieces.exposure)
    torch.testing.assert_close(alone.coef.exp(), each[0] / each[1])  # events over person-time


def test_survival_is_that_of_the_hazards() -> None:
    pieces, at = tg.PersonTime.of(DATA.time, CUTS, event=DATA.seen), [0.25, 2.0, 15.0]
    formula = tg.fit("event ~ piece + C(region) + age", pieces.table(DATA), family="poisson", exposure="exposure")
    new = DATA[:4]
    survival, error = pieces.survival(formula, new, at)
    split = tg.PersonTime.of(np.repeat(at, 4), CUTS)
    hazard = formula.predict(split.table(pd.concat([new] * 3)).assign(exposure=1.0))
    total = torch.zeros(12, dtype=torch.float64).index_add(0, split.row, hazard * split.exposure)
    torch.testing.assert_close(survival, torch.exp(-total).reshape(3, 4).T)
    assert bool((error > 0).all())
    once = tg.PersonTime.of(DATA.time, [], event=DATA.seen)
    flat = tg.fit(once.columns(X), once.event, family="poisson", exposure=once.exposure, intercept=False)
    exponential = tg.fit(X, DATA.time, family="exponential", event=DATA.seen)
    for one, other in zip(
        once.survival(flat, X[:5], at), exponential.predict(X[:5], kind="survival", at=at, se=True), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-12)
    with pytest.raises(ValueError, match="above 0"):
        pieces.survival(formula, new, 0.0)
    with pytest.raises(ValueError, match="log link"):
        pieces.survival(tg.fit(X, DATA.time, family="gaussian"), X, 1.0)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"cuts": [2.0, 1.0]}, "rising"),
        ({"cuts": [0.0, 1.0]}, "above 0"),
        ({"time": [1.0, -1.0]}, "row 1 goes from 0 to -1"),
        ({"time": [1.0, 0.0]}, "row 1 goes from 0 to 0"),
        ({"time": [1.0, float("nan")]}, "NaN"),
        ({"event": [1, 2]}, "must be 1"),
        ({"entry": [0.0, 4.0]}, "row 1 goes from 4 to 3"),
        ({"event": [1.0]}, "event has shape"),
    ],
)
def test_what_is_no_time_is_refused(given: dict[str, list[float]], words: str) -> None:
    options = {"time": [2.0, 3.0], "cuts": [1.0], "event": [1, 1], "entry": None} | given
    with pytest.raises(ValueError, match=words):
        tg.PersonTime.of(options.pop("time"), options.pop("cuts"), **options)
