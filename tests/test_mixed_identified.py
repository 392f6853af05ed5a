"""Random effects and smooths that say what others say, or of which rows cannot tell: at every door, with what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import torchglm


def _data(n: int = 96) -> pd.DataFrame:
    rng = np.random.default_rng(2)
    g = rng.permutation(np.arange(n) % 8)
    data = pd.DataFrame({"x": rng.normal(size=n), "g": g, "code": np.array(list("abcdefgh"))[g], "one": 1.0})
    data["h"], data["run"], data["each"] = rng.integers(0, 5, n), np.arange(n) % 3, np.arange(n)
    data["y"] = rng.normal(size=n) + 0.5 * rng.normal(size=8)[g]
    data["count"], data["kind"] = rng.poisson(np.exp(data["y"] / 2)), rng.integers(0, 3, n)
    return data.assign(double=2 * data["x"], big=data["x"] * 1e300, tiny=data["x"] * 1e-300)


DATA = _data()
SAID = [
    ("(1 | g) + C(g)", "fixed effects say the same as the random effect .*Intercept.* of 'g'"),
    ("(x | g) + C(g):x + x", "fixed effects say the same as the random effect .*x of 'g'"),
    ("(1 | g) + (1 | code)", "groups 'g' and 'code' say the same"),
    ("(1 + one | g)", "effects .*Intercept.*, .*one of 'g' say the same"),
    ("(0 + x + double | g)", "effects .*x, .*double of 'g' say the same"),
    ("(1 + big | g)", "effect .*big of 'g' no row tells"),
    ("(1 + tiny | g)", "effect .*tiny of 'g' no row tells"),
    ("s(code, bs='re') + (1 | code)", r"s\(code, bs='re'\) and \(1 | code\) say the same"),
    ("s(code, x, bs='re') + (x | code)", "say the same"),
    ("(s(x) | g)", "have a smooth before the bar"),
    ("((1 | g))", "bracket that is not closed, or that holds another"),
    ("x + (1 | g", "bracket that is not closed, or that holds another"),
    ("s(big)", "'big' has values of the size .* Rescale"),
    ("s(tiny, bs='ps')", "'tiny' has values of the size .* Rescale"),
    ("s(x, k=5, k=6)", "gives k= twice"),
    ("s(x, bs='cc', knots=['a', 'b'])", "knots= must be 2 or 10 increasing numbers, got .*'b'\\]\\.$"),
]


@pytest.mark.parametrize(("terms", "said"), SAID)
def test_what_rows_cannot_tell_is_said(terms: str, said: str) -> None:
    doors: list[dict[str, Any]] = [
        {"formula": f"y ~ {terms}", "family": "gaussian"},
        {"formula": f"count ~ {terms}", "family": "poisson", "by": "run"},
        {"formula": f"kind ~ {terms}", "family": "ordinal"},
        {"formula": "y ~ x", "family": "gaussian", "predictors": {"dispersion": f"~ {terms}"}},
    ]
    for options in doors[: 4 if "e+" not in terms else 1]:
        with pytest.raises(ValueError, match=said):
            torchglm.fit(options.pop("formula"), DATA, **options)


def test_files_and_groups_are_told_the_same(tmp_path: Path) -> None:
    DATA.to_parquet(tmp_path / "rows.parquet", row_group_size=20)
    for given, options in ((DATA, {}), (str(tmp_path / "rows.parquet"), {}), (DATA, {"by": "run"})):
        with pytest.raises(ValueError, match=r"'each' has \d+ levels with 1 effect each and the data \d+ rows"):
            torchglm.fit("y ~ x + (1 | each)", given, family="gaussian", **options)  # type: ignore[arg-type]
    torchglm.fit("count ~ x + (1 | each)", DATA, family="poisson")  # which has no residuals beside


def test_a_model_of_a_batch_that_cannot_be_told_is_no_converged_one() -> None:
    data = DATA.assign(g=np.where(DATA["run"] == 1, 3, DATA["g"]))
    with pytest.warns(torchglm.FitWarning, match="in 1 of 3 models the fixed effects say the same"):
        fit = torchglm.fit("y ~ x + (1 | g)", data, family="gaussian", by="run")
    assert [one is torchglm.Status.STALLED for one in fit.status] == [False, True, False]  # type: ignore[union-attr]


def test_groups_that_are_no_copies_are_fitted() -> None:
    for terms in ("(1 | g) + (0 + x | code)", "C(h) + (1 | g)", "(1 | g) + (1 | h)", "x + C(g) + (0 + x | g)"):
        torchglm.fit(f"y ~ {terms}", DATA, family="gaussian")


@pytest.mark.filterwarnings("ignore::torchglm.FitWarning")
def test_what_is_asked_of_a_fit_by_a_wrong_name_or_kind() -> None:
    fit = torchglm.fit("y ~ s(x) + (1 | g)", DATA, family="gaussian")
    with pytest.raises(KeyError, match=r"unknown smooth term 's\(z\)'.*Known: s\(x\)"):
        fit.smooths["s(z)"]
    with pytest.raises(KeyError, match="unknown group of random effects 'h'.*Known: g"):
        fit.random["h"]
    with pytest.raises(ValueError, match="no numbers"):
        fit.smooths["s(x)"].curve(["a"])
    with pytest.raises(TypeError, match="random must be True, False or None"):
        fit.predict(DATA, random="no")
    with pytest.raises(ValueError, match="^'g' has 96 rows with unknown levels: 99"):
        fit.predict(DATA.assign(g=99))
    for bad in ("a", [1, 2], None, True):
        with pytest.raises((TypeError, ValueError), match=r"smoothing"):
            torchglm.fit("y ~ s(x)", DATA, family="gaussian", smoothing={"s(x)": bad})
    with pytest.raises(TypeError, match=r"torchglm\.fit"):
        torchglm.training.LitGLM("y ~ s(x)")
