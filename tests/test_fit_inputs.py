"""What fit takes, what it refuses and in which words; it never changes what it was given."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from problems import close

import torchglm
from torchglm import ElasticNet, FitWarning, Result

N = 24
X = torch.rand(N, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Y = torch.arange(N, dtype=torch.float64) % 5 + 1
FRAME = pd.DataFrame(
    {
        "y": Y,
        "a": X[:, 0],
        "b": X[:, 1],
        "g": list("pqrs") * 6,
        "w": np.arange(N) % 3 + 0.5,
        "time": np.arange(N) + 1.0,
        "n": 8,
        "seen": np.arange(N) % 2,
        "s": np.arange(N) % 5,
    }
)
ONES = torch.ones(N, dtype=torch.float64)


def fit(x: Any = X, y: Any = Y, **options: Any) -> Result:
    return torchglm.fit(x, y, **{"family": "poisson", **options})


WANT = fit()

# containers -----------------------------------------------------------------------------------------------

NUMPY = X.numpy()
DESIGNS = {
    "tensor": X,
    "tensor that wants a gradient": X.clone().requires_grad_(),
    "transposed": X.T.contiguous().T,
    "numpy": NUMPY,
    "fortran": np.asfortranarray(NUMPY),
    "read-only": NUMPY.copy(),
    "every second row": np.repeat(NUMPY, 2, axis=0)[::2],
    "backwards": NUMPY[::-1].copy()[::-1],
    "list": NUMPY.tolist(),
    "tuple": tuple(map(tuple, NUMPY.tolist())),
    "pandas": FRAME[["a", "b"]],
    "polars": pl.DataFrame(FRAME[["a", "b"]]),
    "arrow": pa.table({"a": NUMPY[:, 0], "b": NUMPY[:, 1]}),
}
DESIGNS["read-only"].flags.writeable = False
RESPONSES = {
    "tensor": Y,
    "int8 tensor": Y.to(torch.int8),
    "int64 tensor": Y.long(),
    "numpy": Y.numpy(),
    "uint8": Y.numpy().astype(np.uint8),
    "list of int": Y.long().tolist(),
    "pandas": FRAME["y"],
    "pandas Int64": FRAME["y"].astype("Int64"),
    "polars": pl.Series(Y.numpy()),
    "arrow": pa.array(Y.numpy()),
    "arrow in chunks": pa.chunked_array([Y.numpy()[:5], Y.numpy()[5:]]),
    "categorical index": FRAME.set_index("g")["y"],
}


@pytest.mark.parametrize("kind", DESIGNS)
def test_a_design_may_come_in_any_container(kind: str) -> None:
    result = fit(DESIGNS[kind])
    close(result.coef, WANT.coef, 1e-14, 1.0)
    assert result.names == (
        ["(Intercept)", "a", "b"] if kind in ("pandas", "polars", "arrow") else ["(Intercept)", "x0", "x1"]
    )


@pytest.mark.parametrize("kind", RESPONSES)
def test_a_response_may_come_in_any_container(kind: str) -> None:
    assert torch.equal(fit(y=RESPONSES[kind]).coef, WANT.coef)


@pytest.mark.parametrize("argument", ["weights", "offset", "exposure"])
@pytest.mark.parametrize(
    "make",
    [
        torch.Tensor.numpy,
        torch.Tensor.tolist,
        lambda t: pd.Series(t.numpy()),
        lambda t: pl.Series(t.numpy()),
        lambda t: pa.array(t.numpy()),
    ],
    ids=["numpy", "list", "pandas", "polars", "arrow"],
)
def test_a_value_for_each_row_may_come_in_any_container(argument: str, make: Any) -> None:
    value = torch.arange(N, dtype=torch.float64) / N + 0.5
    assert torch.equal(fit(**{argument: make(value)}).coef, fit(**{argument: value}).coef)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, bool])
def test_integers_and_booleans_become_float64(dtype: type) -> None:
    x = (np.arange(2 * N).reshape(N, 2) ** 2 % 7).astype(dtype)
    result = fit(x)
    assert result.coef.dtype == torch.float64
    assert torch.equal(result.coef, fit(x.astype(float)).coef)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_with_a_warning(dtype: torch.dtype) -> None:
    narrow = X.to(dtype)
    with pytest.warns(FitWarning, match=f"x is {str(dtype).removeprefix('torch.')}.*float64"):
        result = fit(narrow)
    assert result.coef.dtype == torch.float64 and torch.equal(result.coef, fit(narrow.double()).coef)


def test_float32_data_give_float64_coefficients_of_those_data() -> None:
    result = fit(X.float(), Y.float())
    assert result.coef.dtype == torch.float64
    close(result.coef, fit(X.float().double()).coef, 1e-6, WANT.std_err)


def test_objects_and_names_mean_the_same_family_and_link() -> None:
    for family in ("gaussian", "poisson", "gamma", "inverse_gaussian", "exponential"):
        for link in ("log", "sqrt"):
            byname, byobject = (
                fit(family=family, link=link),
                fit(family=torchglm.families.get(family), link=torchglm.links.get(link)),
            )
            assert torch.equal(byname.coef, byobject.coef)
    assert fit(family="gamma").link.name == "inverse" and fit(family="tweedie").link.name == "log"


def test_names_are_taken_or_made() -> None:
    assert fit(names=["p", "q"]).names == ["(Intercept)", "p", "q"]
    assert fit(names=["p", "q"], intercept=False).names == ["p", "q"]
    assert fit(FRAME[["a", "b"]], names=["p", "q"]).names == ["(Intercept)", "p", "q"]


def test_nothing_given_is_changed() -> None:
    given = {
        "x": X.clone(),
        "y": (Y % 2).clone(),
        "weights": ONES.clone(),
        "offset": 0.1 * ONES,
        "freq": 2 * ONES,
        "start": torch.zeros(3, dtype=torch.float64),
    }
    given["weights"][3] = 0.0
    given["x"][3], given["y"][3] = torch.nan, torch.nan
    before = {k: v.clone() for k, v in given.items()}
    versions = {k: v._version for k, v in given.items()}
    family, link = torchglm.Bernoulli(), torchglm.links.Logit()
    penalty = ElasticNet(l1=torch.tensor([0.01, 0.01]), l2=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = torchglm.fit(family=family, link=link, penalty=penalty, **given)  # type: ignore[arg-type]
        result.residuals(), result.covariance("HC3"), result.predict(X, offset=given["offset"], se=True)
    for name, value in before.items():
        assert given[name]._version == versions[name]
        assert torch.equal(given[name].nan_to_num(9.0), value.nan_to_num(9.0)), name
    assert penalty.l1.tolist() == pytest.approx([0.01, 0.01]) and float(penalty.l2) == 0.1


@pytest.mark.parametrize("option", [{"names": ["a"]}, {"intercept": False}])
def test_what_a_formula_says_is_not_said_twice(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="a formula names its columns and decides on its intercept"):
        torchglm.fit("y ~ a", {"y": [1.0, 2.0, 4.0], "a": [0.0, 1.0, 2.0]}, family="poisson", **option)


def test_the_least_solution_is_not_said_to_be_nan() -> None:
    x = torch.tensor([[0.0, 0.0], [1.0, 2.0], [2.0, 4.0], [3.0, 6.0]], dtype=torch.float64)
    y = torch.tensor([1.0, 2.0, 4.0, 5.0], dtype=torch.float64)
    with pytest.warns(torchglm.FitWarning, match="x1. The solution of least length stands for all others"):
        assert torchglm.fit(x, y, family="poisson", singular="minnorm").coef.isfinite().all()
    with pytest.warns(torchglm.FitWarning, match="x1. Their coefficients are NaN"):
        torchglm.fit(x, y, family="poisson")


def test_a_learned_family_given_by_hand_stays_as_it_was() -> None:
    family = torchglm.NegativeBinomial()
    before = float(family.alpha)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(family=family)
    assert float(family.alpha) == before and family.log_alpha.requires_grad


# formulas -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [lambda f: f, pl.DataFrame, pa.Table.from_pandas, lambda f: f.to_dict("list")],
    ids=["pandas", "polars", "arrow", "dict"],
)
def test_a_formula_reads_any_table(make: Any) -> None:
    result = torchglm.fit("y ~ a + b", make(FRAME), family="poisson", weights="w")
    close(result.coef, fit(weights=FRAME["w"]).coef, 1e-12, 1.0)
    assert result.names[1:] == ["a", "b"]


def test_a_formula_takes_column_names_for_every_row_argument() -> None:
    by_name = torchglm.fit("y ~ a", FRAME, family="poisson", weights="w", exposure="time", freq="n", offset="b")
    by_value = torchglm.fit(
        "y ~ a", FRAME, family="poisson", weights=FRAME["w"], exposure=FRAME["time"], freq=FRAME["n"], offset=FRAME["b"]
    )
    plain = fit(X[:, :1], weights=FRAME["w"], exposure=FRAME["time"], freq=FRAME["n"], offset=X[:, 1])
    for result in (by_name, by_value):
        close(result.coef, plain.coef, 1e-12, 1.0)
    binomial = torchglm.fit("s ~ a", FRAME, family="binomial", trials="n")
    close(binomial.coef, fit(X[:, :1], FRAME["s"], family="binomial", trials=FRAME["n"]).coef, 1e-12, 1.0)
    times = torchglm.fit("time ~ a", FRAME, family="exponential", event="seen")
    close(times.coef, fit(X[:, :1], FRAME["time"], family="exponential", event=FRAME["seen"]).coef, 1e-12, 1.0)


@pytest.mark.parametrize("keys", ["g", ["g", "seen"]], ids=str)
def test_by_fits_a_model_for_each_group(keys: Any) -> None:
    result = torchglm.fit("y ~ a", FRAME, family="poisson", by=keys, weights="w", exposure="time")
    parts = list(FRAME.groupby(keys))
    assert result.groups is not None and len(result.groups) == len(parts) == len(result)
    found = {tuple(label) if isinstance(label, (tuple, list)) else (label,): i for i, label in enumerate(result.groups)}
    for label, part in parts:
        i = found[tuple(label) if isinstance(label, tuple) else (label,)]
        alone = torchglm.fit("y ~ a", part, family="poisson", weights="w", exposure="time")
        close(result.coef[i], alone.coef, 1e-10, alone.std_err)
        close(result.std_err[i], alone.std_err, 1e-9)
        assert float(result.nobs[i]) == len(part)


def test_rows_with_missing_values_are_dropped_together_with_their_weights() -> None:
    holes = FRAME.assign(a=FRAME["a"].where(FRAME.index % 4 != 2))
    kept = holes.dropna()
    want = torchglm.fit("y ~ a", kept, family="poisson", weights="w")
    for weights in ("w", FRAME["w"].to_numpy()):
        got = torchglm.fit("y ~ a", holes, family="poisson", weights=weights, missing="drop")
        close(got.coef, want.coef, 1e-12, 1.0)
        assert float(got.nobs) == len(kept)


# refusals -------------------------------------------------------------------------------------------------


def spoiled(value: Any, place: int = 3, base: torch.Tensor | None = None) -> torch.Tensor:
    out = (ONES if base is None else base).clone()
    out[place] = value
    return out


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "NaN in x": ({"x": torch.where(torch.arange(N)[:, None] == 3, torch.nan, X)}, "x holds NaN at position .3, 0."),
    "infinity in x": ({"x": X / spoiled(0.0)[:, None]}, "x holds infinity at position .3, 0."),
    "NaN in y": ({"y": spoiled(torch.nan)}, "y holds NaN at row 3"),
    "infinity in y": ({"y": spoiled(torch.inf)}, "y holds infinity at row 3"),
    "NaN in a nullable column": ({"x": pd.DataFrame({"a": pd.array([None] + [1] * (N - 1), "Int64")})}, "x holds NaN"),
    "null in an arrow column": ({"x": pa.table({"a": [None] + [1.0] * (N - 1)})}, "x holds NaN"),
    "NaN in the weights": ({"weights": spoiled(torch.nan)}, "weights holds NaN at row 3"),
    "NaN in the offset": ({"offset": spoiled(torch.nan)}, "offset holds NaN at row 3"),
    "NaN in the start": ({"start": [0.0, torch.nan, 0.0]}, "start holds NaN"),
    "x with one dimension": ({"x": X[:, 0]}, r"x has shape \(24,\).*x\[:, None\]"),
    "y that is a number": ({"y": 1.0}, "y"),
    "y in columns": ({"y": Y[:, None].expand(N, 3)}, r"each row the response of one model.*head.loss it is \(n, R\)"),
    "y that is square": ({"y": Y.expand(N, N)}, r"may stand in rows or in columns.*y\[None\].*y.T\[None\]"),
    "short y": ({"y": Y[:-1]}, "24 rows and y has 23"),
    "y of another batch": ({"x": X.expand(2, N, 2), "y": Y.expand(3, N)}, "batch of models needs y of shape"),
    "a batch of x with one y": ({"x": X.expand(2, N, 2)}, "batch of models needs y of shape"),
    "no rows": ({"x": X[:0], "y": Y[:0]}, r"no rows \(n = 0\)"),
    "no y": ({"y": None}, "y is missing"),
    "short weights": ({"weights": ONES[:-1]}, r"weights has shape \(23,\), y has \(24,\)"),
    "a single weight": ({"weights": 2.0}, "weights has shape"),
    "columns of weights": ({"weights": ONES[:, None].expand(N, 2)}, r"weights has shape \(24, 2\)"),
    "negative weights": ({"weights": spoiled(-2.0)}, "weights must be >= 0; row 3 has -2"),
    "negative frequencies": ({"freq": spoiled(-2.0)}, "freq must be >= 0; row 3 has -2"),
    "weights all zero": ({"weights": 0 * ONES}, "weights are all zero"),
    "no exposure": ({"exposure": spoiled(0.0)}, "exposure must be finite and > 0; row 3 has 0"),
    "negative exposure": ({"exposure": spoiled(-1.0)}, "exposure.*row 3 has -1"),
    "infinite exposure": ({"exposure": spoiled(torch.inf)}, "exposure.*row 3 has inf"),
    "negative counts": ({"y": spoiled(-1.0)}, "poisson family needs y >= 0; row 3 has y = -1"),
    "a zero gamma": ({"y": spoiled(0.0), "family": "gamma"}, "gamma family needs y > 0; row 3 has y = 0"),
    "a zero inverse gaussian": ({"y": spoiled(0.0), "family": "inverse_gaussian"}, "inverse_gaussian.*y > 0; row 3"),
    "a negative tweedie": ({"y": spoiled(-1.0), "family": torchglm.Tweedie(1.5)}, "tweedie.*y >= 0; row 3"),
    "a zero tweedie of power 2": ({"y": spoiled(0.0), "family": torchglm.Tweedie(2.0)}, "tweedie.*y > 0; row 3"),
    "labels -1 and 1": ({"y": spoiled(-1.0), "family": "bernoulli"}, "bernoulli.*0 <= y <= 1.*row 3 has y = -1"),
    "successes over trials": ({"y": spoiled(9.0), "family": "binomial", "trials": 8 * ONES}, "row 3 has more succ"),
    "negative trials": ({"y": 0 * ONES, "family": "binomial", "trials": spoiled(-1.0)}, "trials must be finite and"),
    "trials for counts": ({"trials": ONES}, "trials= is for Binomial and BetaBinomial, got it with poisson"),
    "an event for counts": (
        {"event": ONES},
        "event= is for families of times, got it with poisson",
    ),
    "an event that is neither": ({"event": spoiled(2.0), "family": "exponential"}, "event must be 1 .* or 0"),
    "an unknown family": (
        {"family": "posson"},
        "unknown family 'posson' .did you mean 'poisson'.*Known: gaussian",
    ),
    "a family that is none": ({"family": None}, "family must be a name, a family or its class, got NoneType"),
    "an unknown link": ({"link": "lgo"}, "unknown link 'lgo' .did you mean 'log'.*Known: identity, log"),
    "an unknown way with aliases": ({"singular": "qr"}, "singular must be one of drop, minnorm, error, got 'qr'"),
    "too few names": ({"names": ["a"]}, "names has 1 entries for 2 columns"),
    "a start of another length": ({"start": [0.0, 0.0]}, r"start has shape \(2,\).*3.*intercept"),
    "groups without a formula": ({"by": "g"}, "by= needs a formula"),
    "text in x": ({"x": FRAME[["a", "g"]]}, "x holds str values such as .p., not numbers"),
    "text in y": ({"y": FRAME["g"]}, "y holds str values such as .p., not numbers"),
    "a column name without a table": ({"weights": "w"}, "weights holds .* not numbers"),
    "dates in x": ({"x": np.zeros((N, 1), "datetime64[s]")}, "x holds datetime64.* not numbers"),
    "complex numbers": ({"x": X.to(torch.complex128)}, "x is complex"),
    "nothing as x": ({"x": None}, "needs x"),
    "an unknown dispersion": ({"dispersion": "robust"}, "dispersion must be"),
    "a strength per column too few": ({"penalty": torchglm.Ridge(torch.ones(5))}, "l2 has 5 values for 2 columns"),
}
BAD_FORMULA: dict[str, tuple[dict[str, Any], str]] = {
    "no table": ({"y": None}, "a formula needs data"),
    "an unknown column": ({"x": "y ~ a + zz"}, "No column 'zz'.*It has: y, a, b"),
    "a misspelt column": ({"x": "y ~ time + seem"}, "No column 'seem'"),
    "an unknown weight": ({"weights": "ww"}, "No column 'ww'.*did you mean 'w'"),
    "an unknown group": ({"by": "gg"}, "No column 'gg'.*did you mean 'g'"),
    "text for weights": ({"weights": "g"}, "'g' must hold numbers"),
    "no response": ({"x": "~ a"}, "has no response"),
    "a syntax error": ({"x": "y ~ a +* b"}, "Cannot read the formula"),
    "a response of many levels": ({"x": "g ~ a"}, "response 'g' has 4 levels"),
    "no rows": ({"y": FRAME.iloc[:0]}, "no rows"),
    "missing values": ({"y": FRAME.assign(a=np.nan)}, "'a' has 24 missing values"),
    "an unknown policy": ({"missing": "omit"}, "missing must be one of error, drop"),
    "code in a formula": ({"x": "y ~ __import__('os').getcwd()"}, "formula|read"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_arrays_are_refused_in_words_that_say_where(what: str) -> None:
    options, words = BAD[what]
    with pytest.raises((ValueError, TypeError), match=words) as caught:
        fit(**options)
    assert str(caught.value).strip().endswith((".", ")", ")."))


@pytest.mark.parametrize("what", BAD_FORMULA)
def test_bad_formulas_are_refused_in_words_that_say_where(what: str) -> None:
    options, words = BAD_FORMULA[what]
    given = {"x": "y ~ a", "y": FRAME, **options}
    with pytest.raises((ValueError, TypeError), match=words):
        fit(**given)


UNHEARD: dict[str, tuple[dict[str, Any], str]] = {
    "a masked array": ({"x": np.ma.masked_less(NUMPY, 0.5)}, "mask"),
    "a masked response": ({"y": np.ma.masked_less(Y.numpy(), 2)}, "mask"),
    "an integer dtype": ({"dtype": torch.int32}, "dtype"),
    "a half dtype": ({"dtype": torch.float16}, "dtype"),
    "trials all zero": ({"y": 0 * ONES, "family": "binomial", "trials": 0 * ONES}, "trials"),
    "exposure without a log link": ({"exposure": 2 * ONES, "link": "identity"}, "exposure.*log"),
    "no iterations": ({"max_iter": 0}, "max_iter"),
    "half an iteration": ({"max_iter": 2.5}, "max_iter"),
    "a negative tolerance": ({"tol": -1.0}, "tol"),
    "a tolerance of NaN": ({"tol": float("nan")}, "tol"),
    "a number as penalty": ({"penalty": 0.1}, "penalty.*Ridge"),
    "an unknown device": ({"device": "abacus"}, "device"),
    "one string of names": ({"names": "ab"}, "names"),
    "a sparse tensor": ({"x": X.to_sparse()}, "sparse"),
}


@pytest.mark.parametrize("what", UNHEARD)
def test_what_cannot_be_meant_is_refused(what: str) -> None:
    options, words = UNHEARD[what]
    with pytest.raises((ValueError, TypeError), match=words):
        fit(**options)


def test_a_model_of_a_batch_without_a_row_is_not_called_converged() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = fit(y=Y.expand(2, N), weights=torch.stack([ONES, 0 * ONES]))
    assert bool(result.converged[0]) and not bool(result.converged[1])
    assert torch.equal(result.coef[0], fit(y=Y.expand(2, N), weights=ONES.expand(2, N)).coef[0])


def test_a_bad_weight_in_a_batch_is_named_with_its_own_value() -> None:
    with pytest.raises(ValueError, match="-2"):
        fit(y=Y.expand(2, N), weights=torch.stack([ONES, spoiled(-2.0)]))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="no CUDA device"):
        fit(device="cuda")
    assert fit(device="auto").coef.device.type == "cpu"


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_shape_parameters_outside_their_domain_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="alpha"):
        torchglm.NegativeBinomial(bad)
    with pytest.raises(ValueError, match="power"):
        torchglm.Tweedie(bad)


@pytest.mark.parametrize("power", [0.5, 0.999])
def test_there_is_no_tweedie_between_zero_and_one(power: float) -> None:
    with pytest.raises(ValueError, match="power 0 or >= 1"):
        torchglm.Tweedie(power)
