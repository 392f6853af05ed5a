"""A level is its value: whatever type, unit, scale or dictionary holds it, and after saving, too."""

from __future__ import annotations

import datetime
import decimal
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import torchglm
from torchglm.design import build, groups
from torchglm.design.values import Clock, Coded, Decimal, Interval, Moment, Period, Span, coded, plain, rich
from torchglm.tables import as_table

N = 60
CODE = np.tile([0, 1, 2], N // 3)
X = np.linspace(-1, 1, N)
Y = np.random.default_rng(0).poisson(np.exp(0.3 + 0.4 * X + 0.8 * (CODE == 1) - 0.5 * (CODE == 2)))

DAYS = [datetime.date(1066, 10, 14), datetime.date(2020, 2, 29), datetime.date(9999, 12, 31)]
LATE = [datetime.datetime(2020, 1, 1, 3), datetime.datetime(2020, 1, 1, 4), datetime.datetime(2021, 1, 1)]
CENTS = [decimal.Decimal(v) for v in ("1.50", "-2.25", "300.00")]
BANDS = pd.cut(np.array([0.5, 1.5, 2.5]), [0, 1, 2, 3])
MONTHS = pd.period_range("2020-01", periods=3, freq="M")
IDS = [uuid.UUID(int=7), uuid.UUID(int=2**100), uuid.UUID(int=3)]


def _arrow(values: list[Any], kind: Any = None) -> pa.ChunkedArray:
    """Rows of three values, in two chunks."""
    array = pa.array([values[code] for code in CODE], kind)
    return pa.chunked_array([array.slice(0, 20), array.slice(20)])


def _pandas(values: Any) -> pa.ChunkedArray:
    frame = pd.DataFrame({"k": pd.Series(values).iloc[CODE].reset_index(drop=True)})
    return pa.Table.from_pandas(frame, preserve_index=False).column("k")


def _zoned(zone: str, unit: str) -> pa.ChunkedArray:
    moments = [moment.replace(tzinfo=datetime.timezone.utc) for moment in LATE]
    return _arrow(moments, pa.timestamp(unit, zone))


SPELLINGS: dict[str, list[Callable[[], pa.ChunkedArray]]] = {
    "days": [
        lambda: _arrow(DAYS, pa.date32()),
        lambda: _arrow(DAYS, pa.date64()),
        lambda: _arrow(DAYS, pa.date32()).cast(pa.timestamp("s")),
        lambda: _arrow(DAYS, pa.date32()).cast(pa.timestamp("us")),
        lambda: _arrow(DAYS, pa.date32()).dictionary_encode(),
    ],
    "times": [*(lambda u=u: _arrow(LATE, pa.timestamp(u)) for u in ("s", "ms", "us", "ns"))],
    "zones": [lambda: _zoned("UTC", "ns"), lambda: _zoned("Europe/Berlin", "s"), lambda: _zoned("+05:00", "us")],
    "clocks": [
        lambda: _arrow([datetime.time(1), datetime.time(2), datetime.time(3)], pa.time32("s")),
        lambda: _arrow([datetime.time(1), datetime.time(2), datetime.time(3)], pa.time64("ns")),
    ],
    "durations": [
        *(lambda u=u: _arrow([datetime.timedelta(hours=h) for h in (1, 50, -3)], pa.duration(u)) for u in ("s", "ns"))
    ],
    "decimals": [
        lambda: _arrow(CENTS, pa.decimal128(9, 2)),
        lambda: _arrow(CENTS, pa.decimal128(30, 10)),
        lambda: _arrow(CENTS, pa.decimal256(60, 4)),
        lambda: _arrow([float(v) for v in CENTS]),
    ],
    "whole": [
        *(lambda k=k: _arrow([3, 1, 2], k) for k in (pa.int8(), pa.int64(), pa.uint64(), pa.float32(), pa.float64())),
        lambda: _arrow([3, 1, 2]).dictionary_encode(),
        lambda: _arrow([decimal.Decimal(v) for v in (3, 1, 2)], pa.decimal128(5, 2)),
    ],
    "hashes": [
        lambda: _arrow([2**63, 2**64 - 1, 2**53 + 1], pa.uint64()),
        lambda: _arrow([2**63, 2**64 - 1, 2**53 + 1], pa.uint64()).dictionary_encode(),
        lambda: _arrow([decimal.Decimal(v) for v in (2**63, 2**64 - 1, 2**53 + 1)], pa.decimal128(38, 0)),
    ],
    "zeros": [
        lambda: _arrow([0.0, 1.5, -1.0]),
        lambda: _arrow([-0.0, 1.5, -1.0]),
        lambda: _arrow([-0.0, 1.5, -1.0], pa.float32()),
        lambda: pa.chunked_array([_arrow([-0.0, 1.5, -1.0]).chunk(0), _arrow([0.0, 1.5, -1.0]).chunk(1)]),
        lambda: _arrow([-0.0, 1.5, -1.0]).dictionary_encode(),
    ],
    "text": [
        *(lambda k=k: _arrow(["ä", "b", ""], k) for k in (pa.string(), pa.large_string(), pa.string_view())),
        lambda: _arrow(["ä", "b", ""]).dictionary_encode(),
    ],
    "bytes": [
        *(lambda k=k: _arrow([b"aa", b"\xe4b", b"cc"], k) for k in (pa.binary(), pa.large_binary(), pa.binary(2)))
    ],
    "truth": [lambda: _arrow([True, False, False]), lambda: _arrow([True, False, False]).dictionary_encode()],
    "bands": [lambda: _pandas(BANDS), lambda: _pandas(pd.arrays.IntervalArray(BANDS))],
    "months": [lambda: _pandas(MONTHS), lambda: _pandas(pd.Categorical(MONTHS))],
    "ids": [lambda: _pandas(pd.Series(IDS, dtype=object)), lambda: _pandas(pd.Categorical(IDS))],
}
PAIRS = [(kind, i) for kind, made in SPELLINGS.items() for i in range(len(made))]


def _table(kind: str, i: int) -> pa.Table:
    return pa.table({"y": Y, "x": X, "k": SPELLINGS[kind][i]()})


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize(("kind", "i"), PAIRS)
def test_every_spelling_is_the_same_factor(kind: str, i: int, tmp_path: Path) -> None:
    truth = torchglm.fit("y ~ x + C(k)", {"y": Y, "x": X, "k": _codes(kind)}, family="poisson")
    first = torchglm.fit("y ~ x + C(k)", _table(kind, 0), family="poisson")
    other = _table(kind, i)
    fitted = torchglm.fit("y ~ x + C(k)", other, family="poisson")
    torch.testing.assert_close(fitted.deviance, truth.deviance)
    first.save(tmp_path)
    for result in (first, torchglm.load(tmp_path)):
        torch.testing.assert_close(result.predict(other), first.fitted)
        torch.testing.assert_close(result.with_rows(other).fitted, first.fitted)
        effect = result.marginal_effects(["x"], data=other).value
        torch.testing.assert_close(effect, (first.fitted.mean() * first.coef[1]).reshape(1))
        moved = result.predictions({"k": list(first.spec.factors["C(k)"].levels)}, data=other).value
        assert len(moved) == len(first.spec.factors["C(k)"].levels) and bool(torch.isfinite(moved).all())


def _codes(kind: str) -> np.ndarray:
    return np.minimum(CODE, 1) if kind == "truth" else CODE


@pytest.mark.parametrize(("kind", "i"), PAIRS)
def test_every_spelling_is_the_same_group(kind: str, i: int, tmp_path: Path) -> None:
    codes, labels = groups(as_table(_table(kind, i)), ["k"])
    again, same = groups(as_table(_table(kind, 0)), ["k"])
    assert [labels[c] for c in codes] == [same[c] for c in again]
    assert set(labels) == set(same)
    fitted = torchglm.fit("y ~ x", _table(kind, 0), family="poisson", by="k")
    fitted.save(tmp_path)
    assert torchglm.load(tmp_path).groups == fitted.groups


@pytest.mark.parametrize("kind", SPELLINGS)
def test_levels_survive_json(kind: str) -> None:
    import json

    values = coded(SPELLINGS[kind][0](), "k").values
    assert [rich(one) for one in json.loads(json.dumps([plain(one) for one in values]))] == values
    assert len({str(one) for one in values}) == len(values)


numbers = st.one_of(
    st.integers(-(2**80), 2**80), st.floats(allow_nan=False), st.decimals(allow_nan=False, allow_infinity=False)
)
moments = st.builds(Moment, st.booleans(), st.integers(-(2**70), 2**70))
single = st.one_of(
    numbers,
    st.text(),
    st.booleans(),
    st.binary(),
    st.uuids(),
    moments,
    st.builds(Clock, st.integers(0, 86_399 * 10**9)),
    st.builds(Span, st.integers(-(2**70), 2**70)),
    st.builds(Period, st.text(), st.integers(), st.text()),
)
levels = st.one_of(single, st.builds(Interval, single, single, st.sampled_from(["left", "right", "both", "neither"])))


@given(levels)
@settings(max_examples=200, deadline=None)
def test_any_level_is_written_and_read(level: Any) -> None:
    import json

    again = rich(json.loads(json.dumps(plain(level))))
    assert again == level and type(again) is type(level)


@given(st.lists(st.integers(-(10**15), 10**15), min_size=1, max_size=20), st.integers(0, 5), st.integers(0, 5))
@settings(max_examples=100, deadline=None)
def test_decimals_of_any_scale_are_one_value(cents: list[int], more: int, less: int) -> None:
    values = [decimal.Decimal(c).scaleb(-2) for c in cents]
    one, other = (
        coded(pa.chunked_array([pa.array(values, pa.decimal128(30, 2 + scale))]), "k") for scale in (more, less)
    )
    assert [one.values[i] for i in one.codes] == [other.values[i] for i in other.codes]
    assert [Decimal(str(one.values[i])) for i in one.codes] == values


@given(st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=1, max_size=30), st.integers(1, 25))
@settings(max_examples=60, deadline=None)
def test_labels_of_groups_are_those_of_their_rows(rows: list[list[int]], repeats: int) -> None:
    """Also where the numbers of values multiply to more than 2^63."""
    columns = {f"k{j}": [row[j % 4] * (j + 1) for row in rows] for j in range(4 * repeats)}
    columns["id"] = list(range(len(rows)))
    for keys in (list(columns), [name for name in columns if name != "id"]):
        codes, labels = groups(pa.table(columns), keys)
        assert [labels[c] for c in codes.tolist()] == [tuple(columns[k][i] for k in keys) for i in range(len(rows))]
        assert labels == sorted(set(labels))


def _null_in(values: list[Any], kind: Any) -> pa.ChunkedArray:
    array = pa.array([values[code] for code in CODE], kind)
    return pa.chunked_array([pc.dictionary_encode(array, null_encoding="encode")])


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["a", None, "b"], pa.string()),
        ([1.5, float("nan"), 2.0], pa.float64()),
        ([DAYS[0], None, DAYS[1]], pa.date32()),
    ],
)
def test_null_in_a_dictionary_is_missing(values: list[Any], kind: Any) -> None:
    table = pa.table({"y": Y, "k": _null_in(values, kind)})
    for formula in ("y ~ k", "y ~ C(k)"):
        with pytest.raises(ValueError, match="'k' has 20 missing values"):
            build(formula, table)
        design = build(formula, table, missing="drop")
        assert len(design.x) == 40 and len(design.spec.factors.popitem()[1].levels) == 2
    with pytest.raises(ValueError, match="missing"):
        groups(table, ["k"])


@pytest.mark.parametrize(
    "data",
    [
        None,
        [1],
        {"@decimal": "x"},
        {"@uuid": 3},
        {"@moment": [True]},
        {"@moment": "now"},
        {"@what": 1},
        {"@bytes": "zz"},
    ]
    + [{"@interval": [1, 2]}, {"@period": 3}, {"a": 1, "b": 2}, {}],
)
def test_what_is_no_level_is_refused(data: Any) -> None:
    with pytest.raises(ValueError, match="Not a level"):
        rich(data)


def test_text_is_no_number() -> None:
    fitted = torchglm.fit("y ~ C(k)", {"y": Y, "k": CODE}, family="poisson")
    with pytest.raises(ValueError, match="It holds text here, and held numbers in the fit"):
        fitted.predict({"k": [str(code) for code in CODE]})


def test_nan_of_an_expression_is_no_level() -> None:
    with pytest.raises(ValueError, match="no value in 30 rows; the first is row 0"):
        build("y ~ C(sqrt(x))", {"y": Y, "x": X})


def test_types_without_levels_are_refused_in_words() -> None:
    for column in (pa.array([[1]] * N), pa.array([{"a": 1}] * N), pa.nulls(N)):
        with pytest.raises(ValueError, match="'k' ha|'k' holds"):
            build("y ~ C(k)", pa.table({"y": Y, "k": column}))


def test_periods_and_intervals_held_as_objects() -> None:
    for values in (MONTHS, pd.arrays.IntervalArray(BANDS)):
        frame = pd.DataFrame({"y": Y, "k": pd.Series(list(values), dtype=object).iloc[CODE].to_numpy()})
        assert len(build("y ~ C(k)", frame).names) == 3


@pytest.mark.parametrize(
    ("level", "text"),
    [
        (Moment(False, 0), "1970-01-01"),
        (Moment(True, 0), "1970-01-01 00:00:00Z"),
        (Moment(False, -1), "1969-12-31 23:59:59.999999999"),
        (Clock(3_600_000_000_000), "01:00:00"),
        (Span(-90_000_000_000_000), "-1 days 01:00:00"),
        (Span(0), "0 days"),
        (Interval(1, 2.5, "right"), "(1, 2.5]"),
        (Interval(Moment(False, 0), Moment(False, 86_400 * 10**9), "left"), "[1970-01-01, 1970-01-02)"),
    ],
)
def test_levels_in_words(level: Any, text: str) -> None:
    assert str(level) == text


def test_listed_levels_and_contrasts_of_dates() -> None:
    table = _table("days", 0)
    design = build("y ~ C(k, Treatment('2020-02-29'))", table)
    assert design.names[1:] == [
        "C(k, Treatment('2020-02-29'))[T.1066-10-14]",
        "C(k, Treatment('2020-02-29'))[T.9999-12-31]",
    ]
    listed = build("y ~ C(k, levels=['2020-02-29', '1066-10-14', '9999-12-31'])", table)
    assert listed.x[:, 1].tolist() == (CODE == 0).astype(float).tolist()


def test_coded_counts() -> None:
    assert Coded(np.array([0, -1, 2, 2]), ["a", "b", "c"]).counts.tolist() == [1, 0, 2]
