"""The columns of a frame are found by their names at every door, and what is no number says so."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import torchglm
from torchglm import GLMHead, Renewable
from torchglm.inputs import in_order

N = 80
G = np.random.default_rng(2)
X = pd.DataFrame({"a": G.normal(size=N), "b": 3 + G.normal(size=N), "c": G.uniform(size=N)})
Y = G.poisson(np.exp(0.3 + 0.5 * X.a - 0.2 * X.b)).astype(float)
FIT = torchglm.fit(X, Y, family="poisson")
FRAMES: dict[str, Callable[[pd.DataFrame], Any]] = {
    "pandas": lambda frame: frame,
    "polars": pl.from_pandas,
    "arrow": lambda frame: pa.Table.from_pandas(frame, preserve_index=False),
    "batch": lambda frame: pa.RecordBatch.from_pandas(frame, preserve_index=False),
}
SHUFFLED = [["b", "a", "c"], ["c", "b", "a"], ["c", "a", "b"]]
each_frame = pytest.mark.parametrize("frame", FRAMES)
each_order = pytest.mark.parametrize("order", SHUFFLED, ids="".join)


def by_predict(new: Any, folder: Path) -> torch.Tensor:
    return FIT.predict(new)


def by_loaded(new: Any, folder: Path) -> torch.Tensor:
    FIT.save(folder / "fit")
    return torchglm.load(folder / "fit").predict(new)


def by_interval(new: Any, folder: Path) -> torch.Tensor:
    return FIT.predict_interval(new)


def by_rows(new: Any, folder: Path) -> torch.Tensor:
    return FIT.with_rows(new, Y).fitted


def by_stream(new: Any, folder: Path) -> torch.Tensor:
    stream = Renewable("poisson", "log", 3).update(X[:40], Y[:40])
    return stream.update(_part(new), Y[40:]).coef


def by_loaded_stream(new: Any, folder: Path) -> torch.Tensor:
    torch.save(Renewable("poisson", "log", 3).update(X[:40], Y[:40]).state_dict(), folder / "state.pt")
    stream = Renewable("poisson", "log", 3)
    stream.load_state_dict(torch.load(folder / "state.pt", weights_only=True))
    return stream.update(_part(new), Y[40:]).coef


def by_head(new: Any, folder: Path) -> torch.Tensor:
    head = GLMHead(3, "poisson", dtype=torch.float64)
    head.partial_fit(X[:40], Y[:40])
    return head.partial_fit({"x": _part(new), "y": Y[40:]}).coef


def by_loader(new: Any, folder: Path) -> torch.Tensor:
    batches = [(X[:40], Y[:40]), {"x": _part(new), "y": Y[40:]}]
    result = torchglm.fit(batches, family="poisson")
    torch.testing.assert_close(result.predict(new), result.predict(X))
    return result.coef


def _part(new: Any) -> Any:
    return new[40:] if not isinstance(new, (pa.Table, pa.RecordBatch)) else new.slice(40)


DOORS = {name.removeprefix("by_"): door for name, door in list(globals().items()) if name.startswith("by_")}


@each_order
@each_frame
@pytest.mark.parametrize("door", DOORS)
def test_columns_in_another_order_are_the_same_columns(door: str, frame: str, order: list[str], tmp_path: Path) -> None:
    truth = DOORS[door](X, tmp_path)
    torch.testing.assert_close(DOORS[door](FRAMES[frame](X[order]), tmp_path), truth)
    torch.testing.assert_close(DOORS[door](FRAMES[frame](X[order].assign(more=1.0)), tmp_path), truth)
    torch.testing.assert_close(DOORS[door](X.to_numpy(), tmp_path), truth)


@each_frame
@pytest.mark.parametrize("door", DOORS)
def test_other_names_are_refused(door: str, frame: str, tmp_path: Path) -> None:
    for wrong in (X.rename(columns={"b": "B"}), X[["a", "b"]]):
        with pytest.raises(ValueError, match="x lacks the column"):
            DOORS[door](FRAMES[frame](wrong), tmp_path)


@given(
    st.permutations(["a", "b", "c", "d", "e"]),
    st.permutations(["a", "b", "c", "d", "e"]),
    st.sampled_from(list(FRAMES)),
)
@settings(max_examples=60, deadline=None)
def test_any_order_comes_back_to_that_of_the_fit(first: list[str], second: list[str], frame: str) -> None:
    whole = pd.DataFrame(G.normal(size=(4, 5)), columns=list("abcde"))
    found = in_order(FRAMES[frame](whole[second]), first)
    np.testing.assert_array_equal(torchglm.inputs.tensor(found, "x").numpy(), whole[first].to_numpy())


def test_columns_without_names_go_by_place() -> None:
    array = torchglm.fit(X.to_numpy(), Y, family="poisson")
    torch.testing.assert_close(array.predict(X), FIT.fitted)  # the fit knows no names
    numbered = pd.DataFrame(X.to_numpy())
    torch.testing.assert_close(FIT.predict(numbered), FIT.fitted)  # the rows have none
    result = torchglm.fit(numbered, Y, family="poisson")
    torch.testing.assert_close(result.predict(X), FIT.fitted)
    named = torchglm.fit(X.to_numpy(), Y, family="poisson", names=["a", "b", "c"])
    torch.testing.assert_close(named.predict(X[["c", "a", "b"]]), FIT.fitted)
    own = torchglm.fit(X, Y, family="poisson", names=["u", "v", "w"])
    assert own.names == ["(Intercept)", "u", "v", "w"]
    torch.testing.assert_close(own.predict(X[["c", "a", "b"]]), FIT.fitted)


def test_names_that_stand_twice() -> None:
    twice = pd.concat([X[["a"]], X[["b"]].rename(columns={"b": "a"})], axis=1)
    result = torchglm.fit(twice, Y, family="poisson")
    torch.testing.assert_close(result.predict(twice), result.fitted)
    assert len(result.marginal_effects().value) == 2
    with pytest.raises(ValueError, match="'a' twice"):
        result.predict(twice.assign(c=1.0))


@pytest.mark.parametrize("intercept", [True, False])
def test_a_column_called_like_the_intercept(intercept: bool, tmp_path: Path) -> None:
    x = pd.DataFrame({"(Intercept)": 1.0 if not intercept else X.c, "a": X.a})
    result = torchglm.fit(x, Y, family="poisson", intercept=intercept)
    truth = torchglm.fit(x.to_numpy(), Y, family="poisson", intercept=intercept)
    result.save(tmp_path)
    for one in (result, torchglm.load(tmp_path)):
        torch.testing.assert_close(one.predict(x[["a", "(Intercept)"]]), truth.fitted)
        torch.testing.assert_close(one.with_rows(x, Y).deviance, truth.deviance)
        torch.testing.assert_close(one.predict_interval(x), truth.predict_interval(x.to_numpy()))
        assert one.head.weight.shape == (1, 2) and (one.head.bias is not None) == intercept


ODD: list[tuple[Any, str]] = [
    (pd.Categorical(np.arange(N) % 3), "x holds categories in column 'a'"),
    (pd.Categorical(np.array([0.5, 1.5])[np.arange(N) % 2]), "x holds categories"),
    (pd.Categorical(np.arange(N) % 2 == 0), "x holds categories"),
    (pd.array([1] * (N - 1) + [None], dtype="Int64"), "x has a missing value in row 79"),
    (pd.array([True] * (N - 1) + [None], dtype="boolean"), "x has a missing value in row 79"),
    (np.array([1.0] * (N - 1) + [None], dtype=object), "x has a missing value in row 79"),
    (np.array([1.0] * (N - 1) + ["oops"], dtype=object), "x holds str values such as 'oops'"),
    (np.array([1.0] * (N - 1) + ["1000"], dtype=object), "x holds str values such as '1000'"),
    (np.array(["1"] * N), "x holds"),
    (pd.to_datetime(["2020-01-01"] * N), "x holds"),
    (pd.to_timedelta([1] * N), "x holds"),
]


@pytest.mark.parametrize(("values", "said"), ODD, ids=lambda value: str(getattr(value, "dtype", value))[:20])
def test_what_is_no_number_is_refused_at_every_door(values: Any, said: str) -> None:
    odd = X.assign(a=values)
    doors: list[Callable[[], Any]] = [
        lambda: torchglm.fit(odd, Y, family="poisson"),
        lambda: FIT.predict(odd),
        lambda: FIT.with_rows(odd, Y),
        lambda: Renewable("poisson", "log", 3).update(odd, Y),
        lambda: torchglm.fit([(odd, Y)], family="poisson"),
    ]
    for door in doors:
        with pytest.raises((ValueError, TypeError), match=said):
            door()
    for name in ("y", "weights", "offset"):
        with pytest.raises((ValueError, TypeError), match=_of(said, name)):
            torchglm.fit(X, **{"y": Y, name: odd.a}, family="poisson")


def _of(said: str, name: str) -> str:
    """What is said of one column alone, whose missing values pandas may have made NaN."""
    return f"{said.replace('x h', f'{name} h').split(' in column')[0]}|NaN"


def test_late_text_in_a_long_column() -> None:
    x = np.zeros((20_000, 1), dtype=object)
    x[19_999, 0] = "oops"
    with pytest.raises(TypeError, match="x holds str values such as 'oops'"):
        torchglm.fit(x, np.ones(20_000), family="poisson")


@pytest.mark.parametrize("kind", [">f8", ">f4", ">i4", ">u2", "<f8", "longdouble", "i1", "u8", "?", "object"])
def test_numbers_in_any_form(kind: str) -> None:
    numbers = (X.a > 0).to_numpy() * 1.0
    truth = torchglm.fit(numbers[:, None], Y, family="poisson").coef
    for values in (numbers.astype(kind)[:, None], pd.DataFrame({"a": pd.Series(numbers.astype(kind))})):
        torch.testing.assert_close(torchglm.fit(values, Y, family="poisson").coef, truth)
        torch.testing.assert_close(
            torchglm.fit(values, Y.astype(kind if "f" in kind else float), family="poisson").coef, truth
        )


def test_weights_of_another_length_beside_dropped_rows() -> None:
    frame = X.assign(y=Y)
    frame.loc[3, "a"] = np.nan
    for name in ("weights", "freq", "offset", "exposure"):
        with pytest.raises(ValueError, match=f"{name} has shape .*79.*80 rows"):
            torchglm.fit("y ~ a", frame, family="poisson", missing="drop", **{name: np.ones(N - 1)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert float(torchglm.fit("y ~ a", frame, family="poisson", missing="drop", weights=np.ones(N)).nobs) == N - 1
