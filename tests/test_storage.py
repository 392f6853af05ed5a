"""A saved fit comes back as it was, holds no row of data and runs no code; a broken folder is refused."""

from __future__ import annotations

import json
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from problems import MODELS, Problem, problem

import torchglm
from torchglm import ElasticNet, NegativeBinomial, Result, Ridge, Tweedie

QUANTITIES = (
    "coef",
    "std_err",
    "statistic",
    "p_value",
    "dispersion",
    "deviance",
    "null_deviance",
    "pearson_chi2",
    "loglik",
    "aic",
    "bic",
    "df_resid",
    "df_null",
    "nobs",
    "rank",
    "converged",
    "n_iter",
)
FACTS = (
    "names",
    "status",
    "statistic_name",
    "dispersion_kind",
    "formula",
    "groups",
    "group_names",
    "batch_shape",
    "intercept",
    "covariance_kind",
)


def back(result: Result, folder: Path) -> Result:
    result.save(folder)
    return torchglm.load(folder)


def equal(got: Result, want: Result) -> None:
    for name in QUANTITIES:
        mine, theirs = getattr(got, name), getattr(want, name)
        assert mine.dtype == theirs.dtype and torch.equal(mine.nan_to_num(-9.0), theirs.nan_to_num(-9.0)), name
        assert torch.equal(torch.isnan(mine), torch.isnan(theirs)), name
    for name in FACTS:
        assert getattr(got, name) == getattr(want, name), name
    assert torch.equal(got.covariance().nan_to_num(-9.0), want.covariance().nan_to_num(-9.0))
    assert torch.equal(got.conf_int(0.9).nan_to_num(-9.0), want.conf_int(0.9).nan_to_num(-9.0))
    assert repr(got) == repr(want) and got.describe() == want.describe()


@pytest.mark.parametrize("model", list(MODELS))
@pytest.mark.parametrize("batched", [False, True], ids=["one model", "a batch"])
def test_a_fit_comes_back_as_it_was(model: str, batched: bool, tmp_path: Path) -> None:
    data = problem(model) if batched else problem(model).one(1)
    result = data.fit()
    again = back(result, tmp_path)
    equal(again, result)
    new = torch.linspace(-0.5, 0.5, 6).double().reshape(2, 3)
    offset = torch.tensor([0.1, -0.1]).double()
    for kind in ("mean", "link"):
        for mine, theirs in zip(
            again.predict(new, offset=offset, kind=kind, se=True),
            result.predict(new, offset=offset, kind=kind, se=True),
            strict=True,
        ):
            assert torch.equal(mine, theirs)
    assert torch.equal(again.head(new), result.head(new))
    assert str(again.summary()) == str(result.summary())


def two_of(data: Problem) -> Problem:
    return data.change(data.x[:2], data.y[:2], **{k: v[:2] for k, v in data.rows.items()})


VARIANTS: dict[str, Callable[[], Result]] = {
    "an estimated alpha": lambda: problem("negative binomial log", n=100).one(0).fit(family=NegativeBinomial()),
    "estimated alphas": lambda: two_of(problem("negative binomial log", n=100)).fit(family=NegativeBinomial()),
    "a power": lambda: problem("tweedie log").one(0).fit(family=Tweedie(1.3)),
    "a power of a limit": lambda: problem("gamma log").one(0).fit(family=Tweedie(3.0)),
    "a power link": lambda: problem("gamma log").one(0).fit(link=torchglm.links.Power(0.4)),
    "alpha zero": lambda: problem("poisson log").one(0).fit(family=NegativeBinomial(0.0)),
    "ridge": lambda: problem("poisson log").one(0).fit(penalty=Ridge(0.1)),
    "ridge by column": lambda: problem("poisson log").one(0).fit(penalty=Ridge(torch.tensor([0.1, 0.2, 0.0]))),
    "elastic net": lambda: problem("gaussian identity").one(0).fit(penalty=ElasticNet(0.05, 0.1)),
    "quasi": lambda: problem("poisson log").one(0).fit(dispersion="pearson"),
    "dispersion by likelihood": lambda: problem("gamma log").one(0).fit(dispersion="ml"),
    "dispersion by hand": lambda: problem("gamma log").one(0).fit(dispersion=0.2),
    "no intercept": lambda: problem("poisson log").one(0).fit(intercept=False),
    "own names": lambda: problem("poisson log").one(0).fit(names=["größe", 'a "b"', "c\n"]),
    "two batch dimensions": lambda: (
        problem("poisson log", models=6)
        .change(
            problem("poisson log", models=6).x.reshape(2, 3, 40, 3),
            problem("poisson log", models=6).y.reshape(2, 3, 40),
            **{k: v.reshape(2, 3, 40) for k, v in problem("poisson log", models=6).rows.items()},
        )
        .fit()
    ),
    "robust errors": lambda: problem("poisson log").one(0).fit().robust("HC3"),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_of_a_fit_comes_back(variant: str, tmp_path: Path) -> None:
    result = VARIANTS[variant]()
    again = back(result, tmp_path)
    equal(again, result)
    for mine, theirs in zip(again.family.parameters(), result.family.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.filterwarnings("ignore::torchglm.FitWarning")
def test_fits_that_went_wrong_come_back_with_their_status(tmp_path: Path) -> None:
    data = problem("bernoulli logit")
    x, y = data.x.clone(), data.y.clone()
    x[0, :, 2] = x[0, :, 0] - x[0, :, 1]
    y[1, 3] = torch.nan
    y[2] = 1.0
    result = data.change(x, y).fit()
    equal(back(result, tmp_path), result)
    assert [str(status) for status in result.status] == ["CONVERGED", "NOT_FINITE", "SEPARATED", "CONVERGED"]


def censored() -> Result:
    data = problem("exponential log").one(0)
    return data.fit(event=torch.arange(40) % 3 > 0)


def test_a_censored_fit_keeps_its_observed_information(tmp_path: Path) -> None:
    result = censored()
    equal(back(result, tmp_path), result)


FRAME = pd.DataFrame(
    {
        "claims": np.arange(60) % 7 * 1.0,
        "age": 20.123456789 + np.arange(60) * 1.37,
        "region": ["north", "south", "east"] * 20,
        "years": 0.777 + np.arange(60) % 5,
        "month": np.arange(60) // 30,
    }
)


@pytest.mark.parametrize(
    "formula",
    [
        "claims ~ age + C(region)",
        "claims ~ bs(age, df=4)",
        "claims ~ poly(age, 2)",
        "claims ~ center(age) * region",
        "claims ~ 0 + np.log(age)",
    ],
)
def test_a_formula_fit_predicts_for_new_tables_after_loading(formula: str, tmp_path: Path) -> None:
    result = torchglm.fit(formula, FRAME, family="poisson", exposure="years")
    again = back(result, tmp_path)
    equal(again, result)
    new = FRAME.iloc[[3, 17, 40]]
    assert torch.equal(again.predict(new), result.predict(new))
    close_rows = again.with_rows(FRAME)
    torch.testing.assert_close(close_rows.residuals(), result.residuals())


@pytest.mark.parametrize("keys", ["region", ["region", "month"]], ids=str)
def test_a_fit_by_groups_comes_back_with_its_groups(keys: Any, tmp_path: Path) -> None:
    result = torchglm.fit("claims ~ age", FRAME, family="poisson", by=keys)
    again = back(result, tmp_path)
    for name in QUANTITIES:
        assert torch.equal(getattr(again, name), getattr(result, name))
    assert again.groups is not None and result.groups is not None

    def plain(labels: Any) -> list[Any]:
        return [tuple(label) if isinstance(label, (list, tuple)) else label for label in labels]

    assert plain(again.groups) == plain(result.groups) and again.group_names == result.group_names


# what the files hold --------------------------------------------------------------------------------------


def contents(folder: Path) -> bytes:
    """Every byte of every file, archives unpacked."""
    whole = b""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            whole += path.read_bytes()
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    whole += b"".join(archive.read(name) for name in archive.namelist())
    return whole


@pytest.mark.parametrize("batched", [False, True], ids=["one model", "a batch"])
def test_no_row_of_the_data_is_in_the_files(batched: bool, tmp_path: Path) -> None:
    data = problem("gamma log") if batched else problem("gamma log").one(0)
    result = data.fit()
    result.residuals(), result.leverage(), result.covariance("HC3")  # nothing looked at may stay behind
    result.save(tmp_path)
    whole = contents(tmp_path)
    hidden = torch.cat([data.x.flatten(), data.y.flatten(), *(v.flatten() for v in data.rows.values())])
    for value in hidden.tolist():
        assert struct.pack("<d", value) not in whole and struct.pack("<f", value) not in whole
        assert repr(value).encode() not in whole
    for value in result.coef.flatten().tolist():  # the search finds what is there
        assert struct.pack("<d", value) in whole


def test_no_row_of_a_table_is_in_the_files(tmp_path: Path) -> None:
    torchglm.fit("claims ~ age + C(region)", FRAME, family="poisson", exposure="years").save(tmp_path)
    whole = contents(tmp_path)
    for value in FRAME["age"]:
        assert struct.pack("<d", value) not in whole and repr(float(value)).encode() not in whole
    assert b"north" in whole  # levels are part of the design


def test_the_size_of_the_files_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    sizes = []
    for n in (50, 5000):
        problem("poisson log", n=n).one(0).fit().save(tmp_path / str(n))
        sizes.append(sum(path.stat().st_size for path in (tmp_path / str(n)).rglob("*")))
    assert abs(sizes[1] - sizes[0]) < 100


def test_the_files_name_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = problem("negative binomial log").one(0).fit()
    result.save(tmp_path)
    for path in tmp_path.rglob("*"):
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    if name.endswith(".pkl"):
                        found = [arg for op, arg, _ in pickletools.genops(archive.read(name)) if op.name == "GLOBAL"]
                        assert all(str(arg).startswith(("torch", "collections")) for arg in found)
        else:
            json.loads(path.read_text())

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    equal(torchglm.load(tmp_path), result)


def test_tensors_that_hold_code_are_refused(tmp_path: Path) -> None:
    problem("poisson log").one(0).fit().save(tmp_path)

    class Evil:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return (exec, (f"open({str(tmp_path / 'ran')!r}, 'w').close()",))

    torch.save({"coef": Evil()}, tmp_path / "tensors.pt")
    with pytest.raises((ValueError, pickle.UnpicklingError)):
        torchglm.load(tmp_path)
    assert not (tmp_path / "ran").exists()


# folders that hold no fit ---------------------------------------------------------------------------------


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def without(key: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        facts = json.loads(path.read_text())
        del facts[key]
        path.write_text(json.dumps(facts))

    return change


def swap(key: str, value: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))

    return change


def less_tensors(path: Path) -> None:
    tensors = torch.load(path, weights_only=True)
    del tensors["root.matrix"]
    torch.save(tensors, path)


def other_shape(path: Path) -> None:
    tensors = torch.load(path, weights_only=True)
    tensors["coef"] = tensors["coef"][:, :2]
    torch.save(tensors, path)


BROKEN: dict[str, tuple[str, Callable[[Path], None]]] = {
    "no result.json": ("result.json", Path.unlink),
    "no tensors": ("tensors.pt", Path.unlink),
    "half a result.json": ("result.json", half),
    "half the tensors": ("tensors.pt", half),
    "an empty result.json": ("result.json", lambda p: p.write_bytes(b"") and None),
    "empty tensors": ("tensors.pt", lambda p: p.write_bytes(b"") and None),
    "binary in result.json": ("result.json", lambda p: p.write_bytes(b"\xff\xfe\x00") and None),
    "a list in result.json": ("result.json", lambda p: p.write_text("[]") and None),
    "another format": ("result.json", swap("format", 99)),
    "no names": ("result.json", without("names")),
    "an unknown family": ("result.json", swap("family", {"name": "gompertz", "arguments": {}, "learned": []})),
    "an unknown link": ("result.json", swap("link", {"name": "loog", "arguments": {}, "learned": []})),
    "a tensor too few": ("tensors.pt", less_tensors),
    "a tensor of another shape": ("tensors.pt", other_shape),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_folder_is_refused_in_words(what: str, tmp_path: Path) -> None:
    problem("poisson log").one(0).fit().save(tmp_path)
    file, spoil = BROKEN[what]
    spoil(tmp_path / file)
    with pytest.raises(ValueError) as caught:
        torchglm.load(tmp_path)
    assert str(tmp_path) in str(caught.value) or file in str(caught.value) or "nknown" in str(caught.value)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no saved result in"):
        torchglm.load(tmp_path / "nowhere")


def test_saving_again_replaces_the_fit(tmp_path: Path) -> None:
    problem("poisson log").one(0).fit().save(tmp_path)
    want = problem("gamma log").fit()
    equal(back(want, tmp_path), want)


def test_what_needs_rows_says_so_after_loading_and_takes_them(tmp_path: Path) -> None:
    data = problem("poisson log").one(0)
    result = data.fit()
    again = back(result, tmp_path)
    for ask in (
        again.residuals,
        again.leverage,
        again.cooks_distance,
        lambda: again.covariance("HC3"),
        lambda: again.covariance("observed"),
        lambda: again.fitted,
    ):
        with pytest.raises(ValueError, match="holds no rows.*with_rows"):
            ask()
    full = again.with_rows(data.x, data.y, **data.rows)
    assert torch.equal(full.residuals("pearson"), result.residuals("pearson"))
    assert torch.equal(full.covariance("HC3"), result.covariance("HC3"))


def test_a_loaded_fit_can_be_saved_and_indexed(tmp_path: Path) -> None:
    result = problem("gamma log").fit()
    again = back(back(result, tmp_path / "a"), tmp_path / "b")
    equal(again, result)
    equal(again[2], result[2])
