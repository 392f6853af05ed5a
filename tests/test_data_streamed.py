"""A fit whose rows are read again at each pass says what the fit of the table in memory says, page and all."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import torchglm
from torchglm.report import write_page

N = 900
FORMULA = "~ a + C(g) + a:b"
FITS: dict[str, dict[str, Any]] = {
    "poisson": {"y": "count", "family": "poisson", "exposure": "years", "weights": "w"},
    "binomial": {"y": "hits", "family": "binomial", "trials": "trials"},
    "gamma": {"y": "cost", "family": "gamma", "link": "log"},
    "negative binomial": {"y": "spread", "family": "negative_binomial", "freq": "repeats"},
    "exponential": {"y": "time", "family": "exponential", "event": "event"},
}
NUMBER = r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?"
ASKED: dict[str, Callable[[torchglm.Result], Any]] = {
    **{kind: lambda r, kind=kind: r.covariance(kind) for kind in ("model", "observed", "HC0", "HC1", "HC2", "HC3")},
    "cluster": lambda r: r.covariance("cluster", np.arange(N) % 60),
    **{
        kind: lambda r, kind=kind: r.residuals(kind)
        for kind in ("response", "pearson", "deviance", "anscombe", "studentized", "quantile")
    },
    "leverage": lambda r: r.leverage(),
    "Cook": lambda r: r.cooks_distance(),
    "dfbetas": lambda r: r.dfbetas(),
    "cv": lambda r: r.cv_deviance(),
    "null deviance": lambda r: r.null_deviance,
    "loglik": lambda r: r.loglik,
    "profile": lambda r: r.conf_int(method="profile"),
    "score test": lambda r: r.score_test(np.cos(np.arange(N))),
    "anova": lambda r: r.anova(2),
    "drop1": lambda r: r.drop1(),
    "shape": lambda r: r.shape_parameters(),
    "link test": lambda r: r.link_test(),
    "vif": lambda r: r.vif(),
    "summary": lambda r: r.summary(),
    "check": lambda r: r.check(),
}


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    draw = np.random.default_rng(3)
    a, b, g, years = draw.normal(size=N), draw.normal(size=N), draw.choice(list("uvw"), N), draw.uniform(0.3, 2, N)
    eta = 0.3 + 0.2 * a + 0.4 * (g == "v") - 0.2 * a * b
    trials, time = draw.integers(1, 9, N), draw.exponential(np.exp(eta))
    return pd.DataFrame(
        {
            "a": a,
            "b": b,
            "g": g,
            "years": years,
            "w": draw.uniform(0.5, 2, N),
            "repeats": draw.integers(1, 4, N),
            "count": draw.poisson(years * np.exp(eta)),
            "spread": draw.poisson(np.exp(eta) * draw.gamma(2, 0.5, N)),
            "trials": trials,
            "hits": draw.binomial(trials, 1 / (1 + np.exp(-eta))),
            "cost": draw.gamma(2, np.exp(eta) / 2),
            "time": np.minimum(time, 3),
            "event": (time < 3).astype(int),
        }
    )


@pytest.fixture(scope="module", params=FITS)
def pair(
    request: pytest.FixtureRequest, frame: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory
) -> tuple[torchglm.Result, torchglm.Result]:
    return both(request.param, frame, tmp_path_factory.mktemp("rows"))


def both(name: str, frame: pd.DataFrame, folder: Path) -> tuple[torchglm.Result, torchglm.Result]:
    """The fit in memory and the one that reads nine row groups of three files at each pass."""
    options = dict(FITS[name])
    formula = f"{options.pop('y')} {FORMULA}"
    for i in range(3):
        frame.iloc[300 * i : 300 * (i + 1)].to_parquet(folder / f"{i}.parquet", row_group_size=140)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torchglm.inputs.files.HOLD", 0)
        streamed = torchglm.fit(formula, folder, **options)
    assert streamed.rows is None
    return torchglm.fit(formula, frame, **options), streamed


def test_rows_of_files_are_attached_to_a_loaded_fit(frame: pd.DataFrame, tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    whole, _ = both("poisson", frame, tmp_path / "rows")
    whole.save(tmp_path / "fit")
    loaded = torchglm.load(tmp_path / "fit")
    for source in (tmp_path / "rows", lambda: (frame[i : i + 70] for i in range(0, N, 70))):
        one = loaded.with_rows(source)
        assert one.rows is None
        torch.testing.assert_close(one.covariance("HC3"), whole.covariance("HC3"), rtol=1e-9, atol=1e-13)
        torch.testing.assert_close(one.residuals("deviance"), whole.residuals("deviance"), rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="No column 'a' in"):
        loaded.with_rows([frame.drop(columns="a")])
    with pytest.raises(ValueError, match="weights must name a column"):
        loaded.with_rows(tmp_path / "rows", weights=np.ones(N))
    by = torchglm.fit("count ~ a", frame, family="poisson", by="g")
    with pytest.raises(ValueError, match="sorted in memory. Pass a table"):
        by.with_rows(tmp_path / "rows")


def numbers(value: Any) -> list[Tensor]:
    """Every number in an answer, in order, but how many steps led there."""
    if isinstance(value, Tensor):
        return [value.to(torch.float64)]
    if isinstance(value, dict):
        return [one for key in sorted(value) if key != "n_iter" for one in numbers(value[key])]
    if isinstance(value, list):
        return [one for item in value for one in numbers(item)]
    if hasattr(value, "to_dict"):
        return numbers(value.to_dict())
    return [torch.tensor(float(value), dtype=torch.float64)] if isinstance(value, (int, float)) else []


@pytest.mark.parametrize("asked", ASKED)
def test_streamed_passes_say_what_the_rows_in_memory_say(
    pair: tuple[torchglm.Result, torchglm.Result], asked: str
) -> None:
    answers = []
    for result in pair:
        try:
            answers.append(numbers(ASKED[asked](result)))
        except ValueError as error:  # a test that does not apply to the family: the same words in both
            answers.append([str(error)])  # type: ignore[list-item]
    held, streamed = answers
    assert len(held) == len(streamed) > 0
    for one, other in zip(held, streamed, strict=True):
        if isinstance(one, str):
            assert one == other
        else:
            size = float(one[one.isfinite()].abs().max()) if one.isfinite().any() else 1.0
            torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-10 * max(size, 1e-3), equal_nan=True)


def test_the_report_of_a_streamed_fit_is_that_of_the_rows_in_memory(frame: pd.DataFrame, tmp_path: Path) -> None:
    words, figures = [], []
    for result in both("poisson", frame, tmp_path):
        page = write_page(result, tmp_path / "page.html", title="one").read_text()
        before, influential = page.split("Rows that move the fit most")
        # rows of a stream are those of their file, of which each holds 300
        influential = re.sub(
            r'(<th scope="row"[^>]*>)(\d+)</th>', lambda m: f"{m[1]}{int(m[2]) % 300}</th>", influential
        )
        page = before + influential
        text = re.sub(r"<[^>]*>", " ", re.sub(r"<(style|svg).*?</\1>", "", page, flags=re.DOTALL))
        text = re.sub(r"\S+\.parquet|\bfile\b|\d+ iterations", "", text)
        words.append(" ".join(re.sub(NUMBER, "#", text).split()))
        figures.append([float(one) for one in re.findall(NUMBER, text)])
    assert words[0] == words[1] and len(figures[0]) > 200
    np.testing.assert_allclose(figures[1], figures[0], rtol=1e-3, atol=1e-3)
