"""Numbers, p-values and sentences: what a reader of a summary sees."""

from __future__ import annotations

import math

import pytest

from torchglm import families, links
from torchglm.report import words
from torchglm.report.document import Document, Facts, Grid, Notes
from torchglm.writing import numbers

NAN = math.nan


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (0.0, "<1e-16"),
        (1e-300, "<1e-16"),
        (2.3e-12, "2.3e-12"),
        (9.4e-4, "9.4e-04"),
        (0.0412, "0.0412"),
        (0.00096, "0.0010"),
        (0.5, "0.5000"),
        (1.0, ">0.9999"),
        (NAN, "NA"),
    ],
)
def test_p_value_is_never_printed_as_zero(p: float, text: str) -> None:
    assert numbers.p_value(p) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (62939.138, "62939.14"),
        (0.125, "0.125000"),
        (20190.0, "20190"),
        (1e-9, "1.00000e-09"),
        (NAN, "NA"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (0.0, "0"),
        (-1234567.891, "-1234567.89"),
    ],
)
def test_number_keeps_six_digits(value: float, text: str) -> None:
    assert numbers.number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.0, "1.000"), (12345.6, "12,346"), (0.00012346, "0.0001235"), (3.2e-9, "3.200e-09"), (0.0, "0.000")],
)
def test_short_keeps_four_digits(value: float, text: str) -> None:
    assert numbers.short(value) == text


def test_fixed_shares_the_decimals_of_the_median_scale() -> None:
    rows = [(0.5096, 0.0492), (-12.3, 3.1), (1.217e-6, 3.9e-7), (0.00184, 0.00115), (NAN, NAN), (0.3, 0.02)]
    assert numbers.fixed(rows, [0.0492, 3.1, 3.9e-7, 0.000115, NAN, 0.02]) == [
        ["0.5096", "0.0492"],
        ["-12.3000", "3.1000"],
        ["1.217e-06", "3.900e-07"],
        ["0.001840", "0.001150"],
        ["NA", "NA"],
        ["0.3000", "0.0200"],
    ]


def test_fixed_shows_how_a_ratio_differs_from_one() -> None:
    assert numbers.fixed([(1.000001217, 1.000000451, 1.000001983)], [3.9e-7]) == [
        ["1.000001217", "1.000000451", "1.000001983"]
    ]


def test_fixed_without_any_scale() -> None:
    assert numbers.fixed([(NAN, NAN)], [NAN]) == [["NA", "NA"]]
    assert numbers.fixed([(0.0, 0.0)], [0.0]) == [["0.00", "0.00"]]


@pytest.mark.parametrize(
    ("family", "link", "name"),
    [
        ("poisson", "log", "rate ratio"),
        ("negative_binomial", "log", "rate ratio"),
        ("bernoulli", "logit", "odds ratio"),
        ("binomial", "log", "risk ratio"),
        ("gamma", "log", "ratio of means"),
        ("tweedie", "log", "ratio of means"),
        ("poisson", "identity", None),
        ("bernoulli", "probit", None),
    ],
)
def test_ratio_name(family: str, link: str, name: str | None) -> None:
    assert words.ratio_name(families.get(family), links.get(link)) == name


@pytest.mark.parametrize(
    ("family", "link", "name", "triple", "sentence"),
    [
        (
            "poisson",
            "log",
            "age",
            (math.log(1.35), math.log(1.256), math.log(1.4501)),
            "One unit more of age multiplies the expected count by 1.350 (95 % interval 1.256 to 1.450), "
            "35.0 % more, the other terms held fixed.",
        ),
        (
            "bernoulli",
            "logit",
            "C(region)[T.B]",
            (math.log(0.594), math.log(0.413), math.log(0.8538)),
            "region = B, against the reference level, multiplies the odds by 0.59 (95 % interval 0.41 to 0.85), "
            "40.6 % less, the other terms held fixed.",
        ),
        (
            "gaussian",
            "identity",
            "size",
            (-2.5, -3.5, -1.5),
            "One unit more of size takes 2.50 (95 % interval 1.50 to 3.50) from the expected response, "
            "the other terms held fixed.",
        ),
        (
            "bernoulli",
            "probit",
            "a:b",
            (0.25, 0.05, 0.45),
            "The interaction a:b adds 0.25 (95 % interval 0.05 to 0.45) to the probit predictor, on top of its parts.",
        ),
        (
            "bernoulli",
            "logit",
            "(Intercept)",
            (0.0, -1.0, 1.0),
            "With every other term at zero and factors at their reference level, the odds are 1.00 "
            "(95 % interval 0.37 to 2.72), a probability of 0.500.",
        ),
        (
            "poisson",
            "log",
            "flat",
            (0.1, NAN, NAN),
            "One unit more of flat multiplies the expected count by 1.105 (no interval), 10.5 % more, the "
            "other terms held fixed.",
        ),
    ],
)
def test_sentences(family: str, link: str, name: str, triple: tuple[float, ...], sentence: str) -> None:
    estimate, low, high = triple
    assert words.Reading(families.get(family), links.get(link)).sentence(name, estimate, low, high) == sentence


def test_a_separated_coefficient_still_makes_a_sentence() -> None:
    assert "do not bound" in words.Reading(families.Bernoulli(), links.Logit()).sentence("x", 40.0, -4e4, 4e4)
    assert "not estimated" in words.Reading(families.Bernoulli(), links.Logit()).sentence("x", NAN, NAN, NAN)


def test_html_escapes_everything() -> None:
    bad = '<script>alert("x")</script>'
    page = Document(bad, [Facts([(bad, bad)]), Grid(bad, ("", bad), [(bad, bad)]), Notes([bad])]).html()
    assert "<script" not in page and page.count("&lt;script&gt;") == 8


def test_markdown_keeps_bars_and_stars_literal() -> None:
    table = Grid("", ("", "x"), [("a|b*c*", "<b>")]).markdown()
    assert table.splitlines()[-1] == r"| a\|b\*c\* | \<b> |"


def test_text_table_lines_up() -> None:
    lines = Grid("", ("", "n"), [("a", "1"), ("long name", "1000")]).text(80).splitlines()
    assert lines[3] == "a             1" and lines[4] == "long name  1000"


def test_long_names_are_cut_in_the_middle() -> None:
    assert words.cut("abcdefghij", 7) == "abc…hij" and words.cut("abc", 3) == "abc"
    assert words.label("C(region)[T.B]") == "region: B" and words.label("a:C(b)[T.c]") == "a:C(b)[T.c]"
    table = Grid("", ("", "estimate"), [("a name " * 20, "1.234"), ("b", "5")])
    assert max(map(len, table.text(60).splitlines())) == 60 and table.width() > 140


def test_a_level_is_compared_with_its_reference_by_name() -> None:
    names = ["(Intercept)", "C(health)[T.poor]", "age", "age:C(health)[T.poor]"]
    reading = words.Reading(families.Poisson(), links.Log(), names, {"C(health)": "good"}, exposure=True)
    assert reading.sentence(names[1], 0.1, 0.0, 0.2).startswith("health = poor, against good, multiplies")
    assert "where the terms it interacts with are zero" in reading.sentence("age", 0.1, 0.0, 0.2)
    assert "on top of its parts" in reading.sentence(names[3], 0.1, 0.0, 0.2)
    assert reading.sentence("C(health)[poor]", 0.1, 0.0, 0.2).startswith("health = poor multiplies")
    assert reading.sentence(names[0], 0.1, 0.0, 0.2).endswith(", per unit of exposure.")


def test_names_split_outside_brackets_only() -> None:
    assert words.factors("a:C(b, levels=['x:y'])[T.x:y]") == ["a", "C(b, levels=['x:y'])[T.x:y]"]
    assert words.label("C(a, contr.sum)[S.x]") == "C(a, contr.sum)[S.x]"
