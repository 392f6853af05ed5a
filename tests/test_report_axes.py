"""What a plot shows is true and can be read: whole intervals, numbers on every axis, points, names in any script."""

from __future__ import annotations

import base64
import math
import warnings
from html import unescape
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

import torchglm
from torchglm.report import plots, write_page
from torchglm.report.axes import faint
from torchglm.report.figures import leverage
from torchglm.report.fonts import families, lacking, reserved
from torchglm.report.influence import Influence
from torchglm.report.page import svg_uri
from torchglm.report.panels import coefficient_panels

LINKS = [
    ("gaussian", "identity"),
    ("gaussian", "log"),
    ("gamma", "inverse"),
    ("gamma", "log"),
    ("poisson", "sqrt"),
    ("poisson", "identity"),
    ("bernoulli", "logit"),
    ("bernoulli", "probit"),
    ("inverse_gaussian", "inverse_squared"),
]
SCALES = [(1.0, 1.0), (2500.0, 1.0), (1e-4, 1.0), (1e5, 1e-3)]


def drawn(figure: Figure) -> list[tuple[float, float]]:
    """The ends of the intervals of a forest, lowest first; all of them are within the axis."""
    axes = figure.axes[0]
    figure.draw_without_rendering()
    low, high = axes.get_xlim()
    ends = sorted((float(segment[0][0]), float(segment[1][0])) for segment in axes.collections[0].get_segments())
    assert all(low <= a <= b <= high for a, b in ends)
    return ends


@pytest.mark.parametrize(("family", "link"), LINKS)
@pytest.mark.parametrize("scales", SCALES)
def test_a_forest_draws_every_interval_whole(family: str, link: str, scales: tuple[float, float]) -> None:
    generator = torch.Generator().manual_seed(7)
    x = torch.rand(300, 2, dtype=torch.float64, generator=generator)
    mu = (1.0 + 0.5 * x[:, 0] + 0.3 * x[:, 1]) / (3.0 if family == "bernoulli" else 1.0)
    noise = torch.rand(300, dtype=torch.float64, generator=generator)
    y = torch.bernoulli(mu, generator=generator) if family == "bernoulli" else mu * (0.5 + noise)
    y = torch.poisson(3 * mu, generator=generator) if family == "poisson" else y
    y = y * 2500 if (family, link) == ("gaussian", "identity") else y
    result = torchglm.fit(x * torch.tensor(scales, dtype=torch.float64), y, family=family, link=link)
    want = sorted((float(a), float(b)) for a, b in result.conf_int()[1:])
    figure = plots.forest(result)
    shown = drawn(figure)
    for one, other in zip(shown, want, strict=True):
        assert one == pytest.approx(other, rel=1e-9, abs=1e-12)
    assert "arrow" not in coefficient_panels(result)[0].reading
    ticks = figure.axes[0].get_xticks()
    low, high = figure.axes[0].get_xlim()
    assert sum(low <= t <= high for t in ticks) >= 2


@pytest.mark.parametrize("numeric", [True, False])
def test_a_separated_coefficient_ends_in_arrows_and_the_page_says_so(numeric: bool) -> None:
    x = torch.linspace(-1, 1, 60, dtype=torch.float64)
    other = torch.sin(40 * x)
    y = (x + 0.9 * torch.sin(9 * x) > 0).double()
    group = (x > 0.5).double()
    y[group > 0] = 1.0
    column = group * (1 + x) if numeric else group  # a direction of the columns, or a level that is set apart
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torchglm.FitWarning)
        result = torchglm.fit(torch.stack([other, column], -1), y, family="bernoulli")
        batch = torchglm.fit(torch.stack([other, column], -1), torch.stack([y, y]), family="bernoulli")
    assert plots.unbounded(result, 0.95) == 1
    [panel] = coefficient_panels(result)
    assert "An arrow: the interval goes on past the axis" in panel.reading
    marks = [line.get_marker() for line in panel.figure.axes[0].lines]
    assert ">" in marks and "o" in marks and ("<" in marks) == numeric
    axes = panel.figure.axes[0]
    assert all(math.isfinite(end) for end in axes.get_xlim()) and math.exp(axes.get_xlim()[1]) < 100
    svg_uri(panel.figure)
    assert all(svg_uri(one.figure) for one in coefficient_panels(batch))


def test_what_a_forest_leaves_out_is_said() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(400, 60, dtype=torch.float64, generator=generator)
    x = torch.cat([x, x[:, :1]], -1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torchglm.FitWarning)
        result = torchglm.fit(x, torch.poisson((0.2 * x[:, 0]).exp(), generator=generator), family="poisson")
    [panel] = coefficient_panels(result)
    assert "Drawn are the 40 of 60 with the largest |z|" in panel.reading and "1 without an estimate" in panel.reading
    assert len(drawn(panel.figure)) == 40


@pytest.mark.parametrize("leverages", ["equal", "near", "wide"])
def test_the_axis_of_leverage_has_numbers(leverages: str) -> None:
    generator = torch.Generator().manual_seed(1)
    x = {
        "equal": torch.zeros(50, 0, dtype=torch.float64),
        "near": torch.linspace(0, 1, 50, dtype=torch.float64).round().unsqueeze(-1),
        "wide": torch.randn(400, 1, dtype=torch.float64, generator=generator) ** 5,
    }[leverages]
    if leverages == "near":
        x[:3] = 1.0
    result = torchglm.fit(x, torch.randn(len(x), dtype=torch.float64, generator=generator), family="gaussian")
    figure = leverage(Influence.of(result))
    figure.draw_without_rendering()
    axis = figure.axes[0].xaxis
    low, high = axis.get_view_interval()
    seen = [t.get_text() for t, at in zip(axis.get_ticklabels(), axis.get_ticklocs(), strict=True) if low <= at <= high]
    assert len(seen) >= 2 and all(math.isfinite(float(text)) for text in seen) and len(set(seen)) == len(seen)


def test_few_points_are_not_faint() -> None:
    opaque = [faint(n) for n in (1, 10, 40, 100, 400, 1000, 2000, 10**6)]
    assert opaque == sorted(opaque, reverse=True) and min(opaque[:4]) > 0.8 and opaque[-1] == 0.25


NAMES = ["年龄", "나이", "العمر", "возраст", "आयु", 'a<b>&"c"', "👍"]


def test_names_in_any_script_are_text_that_a_browser_draws(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(60, len(NAMES), dtype=torch.float64, generator=generator)
    result = torchglm.fit(x, torch.poisson((0.2 * x[:, 0]).exp(), generator=generator), family="poisson", names=NAMES)
    batch = torchglm.fit(
        x, torch.poisson((0.2 * x[:, 0]).exp().expand(3, -1), generator=generator), family="poisson", names=NAMES
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for figure in (plots.forest(result), *(panel.figure for panel in coefficient_panels(batch)[:2])):
            svg = base64.b64decode(svg_uri(figure).split(",")[1]).decode()
            assert all(name in unescape(svg) for name in NAMES)
        write_page(result, tmp_path / "p.html")


def test_fonts_are_those_that_have_the_characters() -> None:
    assert families("plain") == ["DejaVu Sans"] and reserved("plain") == "plain" and lacking("plain é ж") == ""
    assert lacking("a年") == "年"
    assert reserved("年龄").endswith("年龄")
