"""One method draws every picture of a fit: every fit draws every kind, or says why not and what to do."""

from __future__ import annotations

import itertools
import re
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

import torchglm as tg
from torchglm.report.effect_plots import Effect
from torchglm.report.pictures import KINDS
from torchglm.report.seen import seen


@cache
def table() -> pd.DataFrame:
    g = np.random.default_rng(3)
    n = 160
    d = pd.DataFrame({"x": g.normal(size=n), "g": g.choice(list("abcdef"), n), "k": g.integers(0, 2, n)})
    d["y"] = g.poisson(np.exp(0.4 + 0.3 * d.x))
    d["cost"] = g.gamma(2.0, np.exp(0.2 * d.x))
    d["grade"] = np.digitize(0.8 * d.x + g.logistic(size=n), [-0.5, 1.0])
    d["name"] = np.asarray(["low", "mid", "top"])[d.grade]
    d["time"], d["seen"] = g.weibull(1.3, n) * np.exp(0.3 * d.x), g.integers(0, 2, n)
    return d


FITS: dict[str, Any] = {
    "poisson": lambda d: tg.fit("y ~ x + g", d, family="poisson"),
    "arrays": lambda d: tg.fit(d[["x", "k"]], d.y, family="poisson"),
    "intercept": lambda d: tg.fit("y ~ 1", d, family="poisson"),
    "smooth": lambda d: tg.fit("y ~ s(x, k=5) + g", d, family="poisson"),
    "two smooths": lambda d: tg.fit("y ~ s(x, k=5) + s(cost, k=5)", d, family="poisson"),
    "random": lambda d: tg.fit("cost ~ x + (1 + x | g)", d, family="gaussian"),
    "dispersion": lambda d: tg.fit("cost ~ x", d, family="gamma", link="log", predictors={"dispersion": "~ g"}),
    "part": lambda d: FITS["dispersion"](d)["dispersion"],
    "zeros": lambda d: tg.fit("y ~ x", d, family=tg.ZeroInflated("poisson"), predictors={"zero": "~ k"}),
    "classes": lambda d: tg.fit("name ~ x + k", d, family=tg.Multinomial()),
    "classes of arrays": lambda d: tg.fit(d[["x", "k"]].to_numpy(), d.grade, family=tg.Multinomial()),
    "ordered": lambda d: tg.fit("grade ~ x + g", d, family="ordinal"),
    "times": lambda d: tg.fit("time ~ x", d, family="weibull", event="seen"),
    "exponential": lambda d: tg.fit("time ~ x", d, family="exponential", event="seen"),
    "groups": lambda d: tg.fit("y ~ x", d, family="poisson", by="g"),
    "groups of classes": lambda d: tg.fit("grade ~ x", d.head(120), family="ordinal", by="k"),
    "a batch": lambda d: tg.fit(torch.randn(3, 60, 2), torch.randn(3, 60), family="gaussian"),
    "path": lambda d: tg.path(d[["x", "k"]].to_numpy(), d.y, family="poisson", n=8, folds=3).select("best"),
    "absorbed": lambda d: tg.fit("cost ~ x | g", d, family="gaussian"),
    "saturated": lambda d: tg.fit("cost ~ x", d.head(2), family="gaussian"),
    "files": lambda d: tg.fit("y ~ x", [d.head(100), d.tail(60)], family="poisson"),
}


@cache
def fitted(case: str) -> tg.Result:
    torch.manual_seed(0)
    result: tg.Result = FITS[case](table())
    return result


DRAWN = {  # the pictures that a fit has; of every other it says why not
    "poisson": "coefficients effect residuals calibration influence",
    "arrays": "coefficients effect residuals calibration influence",
    "intercept": "residuals calibration influence",
    "smooth": "coefficients effect smooth residuals calibration influence",
    "two smooths": "coefficients effect smooth residuals calibration influence",
    "random": "coefficients effect random residuals calibration influence",
    "dispersion": "coefficients effect residuals calibration influence",
    "part": "coefficients",
    "zeros": "coefficients effect residuals calibration influence",
    "classes": "coefficients effect calibration influence",
    "classes of arrays": "coefficients effect calibration influence",
    "ordered": "coefficients effect residuals calibration influence",
    "times": "coefficients effect residuals calibration influence",
    "exponential": "coefficients effect residuals calibration influence",
    "groups": "coefficients residuals calibration influence",
    "groups of classes": "coefficients residuals calibration influence",
    "a batch": "coefficients residuals calibration influence",
    "path": "coefficients effect residuals calibration influence path",
    "absorbed": "coefficients",
    "saturated": "coefficients effect residuals calibration",
    "files": "coefficients residuals calibration influence",
}
FIRST = {"poisson": "g", "two smooths": "x"}  # whose effect, where there are several


@pytest.mark.parametrize(("case", "kind"), list(itertools.product(FITS, KINDS)))
@pytest.mark.filterwarnings("ignore")
def test_a_fit_draws_or_says_why_not(case: str, kind: str) -> None:
    result = fitted(case)
    of = None
    try:
        figure = result.plot(kind)
    except ValueError as error:
        named = re.search(r"say (?:whose|which).*plot\('\w+', '(.+?)'\)", str(error))
        if named is None:
            assert kind not in DRAWN[case].split(), str(error)
            assert re.search(r"plot\(|with_rows|make them|[Ss]ee |Ask |holds|saturated|has as many|absorb", str(error))
            return
        of = named[1]  # the remedy that it offers is one
        figure = result.plot(kind, of)
    assert kind in DRAWN[case].split()
    assert isinstance(figure, Figure) and figure.axes[0].has_data()
    assert re.search(r"\d", seen(figure)) and "nan" not in seen(figure)


NAMED = {
    ("poisson", "coefficients"): ["slopes"],
    ("poisson", "residuals"): ["fitted", "normal", "spread", "rootogram"],
    ("poisson", "calibration"): ["deciles", "lift", "lorenz"],
    ("poisson", "influence"): ["leverage", "cook"],
    ("random", "residuals"): ["fitted", "normal", "spread", "histogram"],
    ("random", "random"): ["g: (Intercept)", "g: x"],
    ("two smooths", "smooth"): ["s(x)", "s(cost)"],
    ("dispersion", "coefficients"): ["mean", "dispersion"],
    ("ordered", "coefficients"): ["slopes", "thresholds"],
    ("classes", "calibration"): ["classes"],
    ("times", "calibration"): ["survival", "thirds"],
    ("groups", "coefficients"): ["across", "distribution", "fit"],
    ("path", "path"): ["coefficients", "validation"],
}


@pytest.mark.parametrize(("case", "kind"), NAMED)
@pytest.mark.filterwarnings("ignore")
def test_every_picture_has_a_name_and_an_unknown_one_is_told_them(case: str, kind: str) -> None:
    with pytest.raises(ValueError, match="Known: ") as error:
        fitted(case).plot(kind, "none such")
    assert str(error.value).partition("Known: ")[2] == f"{', '.join(NAMED[case, kind])}."
    for name in NAMED[case, kind]:
        assert fitted(case).plot(kind, name).axes


def test_an_unknown_kind_is_told_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"unknown kind 'residual'.*did you mean 'residuals'.*effect, smooth"):
        fitted("poisson").plot("residual")
    with pytest.raises(ValueError, match="level must lie"):
        fitted("poisson").plot(level=95)
    with pytest.raises(ValueError, match="no term of the formula reads 'z'"):
        fitted("poisson").plot("effect", "z")


def test_slopes_of_all_predictors_stand_on_one_axis() -> None:
    def labels(case: str) -> list[str]:
        return [tick.get_text() for tick in fitted(case).plot().axes[0].get_yticklabels()]

    assert labels("zeros") == ["x", "zero:k"]
    assert labels("classes") == ["mid:x", "mid:k", "top:x", "top:k"]
    assert labels("part") == [f"g: {level}" for level in "bcdef"]


@pytest.mark.parametrize(
    ("case", "kind", "of", "words"),
    [
        ("poisson", "coefficients", None, r"^x, g: b, .*, g: f along rate ratio, 95 % interval from .*: 6 intervals"),
        ("poisson", "calibration", None, r"^mean response from .* against mean prediction from .*: 10 points between"),
        ("poisson", "residuals", "rootogram", r"√ frequency .* against count .* bars, the tallest at 1, a line from"),
        ("classes", "effect", "x", r"low from 0\.\d+ to 0\.0\d+, mid from .*, most 0\.\d+ at .*, top from 0\.0"),
        ("random", "random", "g: x", r"^\w, \w, \w, \w, \w, \w along x, .* 6 across it\.$"),
        ("ordered", "coefficients", "thresholds", r"labelled 0, 1, 2\.$"),
        ("groups", "coefficients", "distribution", r"^\(Intercept\): values from .* bars, .*; x: values from"),
    ],
)
def test_a_picture_is_told_in_words(case: str, kind: str, of: str | None, words: str) -> None:
    assert re.search(words, seen(fitted(case).plot(kind, of)))


def test_intervals_are_counted_by_the_side_of_the_line() -> None:
    found = re.search(
        r"6 intervals(?:, (\d) to the right of the line)?(?:, (\d) across it)?", seen(fitted("poisson").plot())
    )
    low, high = fitted("poisson").conf_int()[1:].T
    assert found is not None and int(found[1]) == int((low > 0).sum()) and int(found[2]) == int((low * high < 0).sum())


@pytest.mark.parametrize("case", ["poisson", "arrays", "classes", "ordered", "zeros"])
def test_an_effect_is_what_predictions_say(case: str) -> None:
    result = fitted(case)
    shown = Effect.of(result, "x", 0.9)
    said = result.predictions({"x": list(shown.values)}, level=0.9)
    assert (shown.marks is not None) and len(shown.values) == 40
    for one, name in ((shown.mean, "value"), (shown.low, "low"), (shown.high, "high")):
        torch.testing.assert_close(one.flatten(), getattr(said, name), rtol=1e-12, atol=1e-12)
    assert list(shown.labels) == {"classes": ["low", "mid", "top"], "ordered": ["0", "1", "2"]}.get(case, [""])


def test_an_effect_is_the_same_in_many_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Effect.of(fitted("classes"), "x", 0.95)
    monkeypatch.setattr("torchglm.report.effect_plots._MOST_CELLS", 7 * 160 * 6)
    parts = Effect.of(fitted("classes"), "x", 0.95)
    torch.testing.assert_close(parts.high, whole.high)
    assert parts.mean.shape == (3, 40)


def test_few_values_and_categories_are_points() -> None:
    assert list(Effect.of(fitted("poisson"), "g", 0.95).values) == list("abcdef")
    few = Effect.of(fitted("classes"), "k", 0.95)
    assert list(few.values) == [0.0, 1.0] and few.marks is None
    labels = [tick.get_text() for tick in fitted("poisson").plot("effect", "g").axes[0].get_yticklabels()]
    assert labels == list("abcdef")


def test_a_loaded_fit_is_told_to_attach_rows(tmp_path: Any) -> None:
    fitted("poisson").save(tmp_path / "fit")
    loaded = tg.load(tmp_path / "fit")
    assert loaded.plot().axes
    for kind, of in (("effect", "g"), ("residuals", None)):
        with pytest.raises(ValueError, match="with_rows"):
            loaded.plot(kind, of)
        assert loaded.with_rows(table()).plot(kind, of).axes


def test_without_matplotlib_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    def missing(module: str) -> Any:
        raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib.figure")

    monkeypatch.setattr("torchglm.report.import_module", missing)
    for draw in (fitted("poisson").plot, lambda: fitted("poisson").report(tmp_path / "page.html")):
        with pytest.raises(ImportError, match="pip install matplotlib"):
            draw()
