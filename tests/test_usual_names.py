"""Doors for those who come from R, statsmodels or scikit-learn: usual names are answered, usual calls work."""

from __future__ import annotations

import copy
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import torchglm
from torchglm import families, links
from torchglm.model.usual import USUAL


@pytest.fixture(scope="module")
def data() -> dict[str, object]:
    draw = np.random.default_rng(4)
    a = draw.normal(size=80)
    return {"a": a, "g": ["u", "v"] * 40, "y": draw.poisson(np.exp(0.3 + 0.4 * a))}


@pytest.fixture(scope="module")
def result(data: dict[str, object]) -> torchglm.Result:
    return torchglm.fit("y ~ a + g", data, family="poisson")


@pytest.mark.parametrize("name", USUAL)
def test_a_usual_name_is_answered_by_one_that_is_there(result: torchglm.Result, name: str) -> None:
    with pytest.raises(AttributeError, match="Here it is") as said:
        getattr(result, name)
    named = str(said.value).partition("Here it is ")[2]
    ours = next(iter(named.replace("(", " ").replace(",", " ").rstrip(".").split()))
    assert ours in dir(result)


def test_another_name_is_an_attribute_error(result: torchglm.Result) -> None:
    with pytest.raises(AttributeError, match="no attribute 'colour'$"):
        result.colour  # noqa: B018
    assert copy.deepcopy(result).coef.equal(result.coef)


def test_a_failure_within_an_attribute_is_said_as_it_is(
    result: torchglm.Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> None:
        raise AttributeError("within")

    monkeypatch.setattr(torchglm.Result, "broken", property(broken), raising=False)
    with pytest.raises(AttributeError, match="^within$"):
        result.broken  # type: ignore[attr-defined]  # noqa: B018


def test_a_formula_and_its_data_go_by_these_names(result: torchglm.Result, data: dict[str, object]) -> None:
    for call in ({"formula": "y ~ a + g", "data": data}, {"x": "y ~ a + g", "data": data}):
        assert torchglm.fit(**call, family="poisson").coef.equal(result.coef)  # type: ignore[arg-type]
    x = np.ones((3, 1))
    for wrong, said in (
        ({}, "needs x"),
        ({"x": x, "data": data}, "table of a formula"),
        ({"x": "y ~ a", "y": data, "data": data}, "Give each once"),
        ({"x": x, "formula": "y ~ a"}, "Give each once"),
    ):
        with pytest.raises(TypeError, match=said):
            torchglm.fit(**wrong, family="poisson")


@pytest.mark.parametrize("kind", families.MEMBERS)
def test_the_class_of_a_family_is_the_family(kind: type[torchglm.Family]) -> None:
    assert type(families.get(kind)) is kind
    assert isinstance(torchglm.GLMHead(2, kind), torchglm.GLMHead)


@pytest.mark.parametrize("kind", links.MEMBERS)
def test_the_class_of_a_link_is_the_link(kind: type[torchglm.Link]) -> None:
    assert type(links.get(kind)) is kind


def test_the_class_of_a_family_of_several_predictors_fits(data: dict[str, object]) -> None:
    by_class = torchglm.fit("g ~ a", data, family=torchglm.Multinomial)
    assert by_class.coef.equal(torchglm.fit("g ~ a", data, family="multinomial").coef)
    assert torchglm.GLMHead(2, torchglm.Ordinal(classes=3)).loss is not None


@pytest.mark.parametrize("name", families.ELSEWHERE)
def test_a_name_of_another_library_is_answered(name: str) -> None:
    if name not in families.names():
        with pytest.raises(ValueError, match=r"\(here it is "):
            families.get(name.upper())


@pytest.mark.parametrize(("name", "near"), [("Poisson", "poisson"), ("poison", "poisson"), ("gama", "gamma")])
def test_the_nearest_family_is_named(name: str, near: str) -> None:
    with pytest.raises(ValueError, match=f"did you mean {near!r}"):
        families.get(name)


def test_the_nearest_link_is_named() -> None:
    with pytest.raises(ValueError, match="did you mean 'logit'"):
        links.get("loggit")


@pytest.mark.parametrize("value", [0.3, np.float64(0.3), np.array(0.3), torch.tensor(0.3, dtype=torch.float64)])
def test_a_single_value_stands_in_every_row(result: torchglm.Result, value: object) -> None:
    torch.testing.assert_close(
        result.predict({"a": value, "g": ["u", "v"]}), result.predict({"a": [0.3, 0.3], "g": ["u", "v"]})
    )
    torch.testing.assert_close(result.predict({"a": value, "g": "v"}), result.predict({"a": [0.3], "g": ["v"]}))


class _Balanced(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in ("br", "col", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_what_notebooks_show_is_html(data: dict[str, object]) -> None:
    named = {"a<b": data["a"], "g": data["g"], "y": data["y"]}
    result = torchglm.fit("y ~ `a<b` + g", named, family="poisson")
    batch = torchglm.fit(np.ones((30, 1)) * np.arange(30)[:, None], np.arange(60).reshape(2, 30) % 5, family="poisson")
    for shown in (result, result.summary(), result.anova(), result.check(), batch, batch.check(), batch.anova()):
        text = shown._repr_html_()
        _Balanced(text)
        assert "a<b" not in text


def test_a_result_writes_its_report(result: torchglm.Result, tmp_path: Path) -> None:
    page = result.report(tmp_path / "page.html", title="Visits")
    assert "Visits" in page.read_text("utf-8")


@pytest.mark.parametrize("part", [families.Tweedie(), families.Poisson(), links.Log(), links.Power(0.3)])
def test_dir_leaves_out_what_every_module_has(part: nn.Module) -> None:
    assert not {*dir(part)} & {*dir(nn.Module())}
    assert "name" in dir(part)


@pytest.mark.parametrize("wrong", [torch.ones(3), 3, None, ["poisson"]], ids=["tensor", "number", "none", "list"])
def test_what_is_no_family_or_link_is_told_by_its_type(wrong: object) -> None:
    with pytest.raises(TypeError, match=rf"family must be a name, a family or its class, got {type(wrong).__name__}"):
        torchglm.families.get(wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=rf"link must be a name, a link or its class, got {type(wrong).__name__}"):
        torchglm.links.get(wrong)  # type: ignore[arg-type]
