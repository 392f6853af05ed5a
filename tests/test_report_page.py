"""The HTML page of real fits: complete, self-contained, escaped, and written whole or not at all."""

from __future__ import annotations

import re
from html import escape as _escape
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from torch import Tensor

import torchglm
from torchglm.report import tables, write_page
from torchglm.report.binned import Calibration, Rootogram
from torchglm.report.gathered import Gathered
from torchglm.report.influence import Influence
from torchglm.report.observations import Observations, chunks
from torchglm.report.panels import influence_panels, predictions, residual_panels
from torchglm.report.scores import normal_scores


def escape(text: str) -> str:
    """Text as the template escapes it."""
    return _escape(text).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")


VOID = {"meta", "img", "br", "hr", "input", "link"}


def design(n: int = 300) -> tuple[Tensor, Tensor, torch.Generator]:
    """Two columns and their linear predictor, (n, 2) and (n,)."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    return x, 0.4 + x @ x.new_tensor([0.3, -0.2]), generator


def fitted(family: str, n: int = 300) -> torchglm.Result:
    """A well-behaved fit of each family on simulated rows."""
    x, eta, generator = design(n)
    uniform = torch.rand(n, generator=generator, dtype=torch.float64)
    positive = eta.exp() * -uniform.log()
    counts = torch.poisson(positive if family == "negative_binomial" else eta.exp(), generator=generator)
    trials = torch.full_like(eta, 5)
    chosen = {
        "gaussian": eta + torch.special.ndtri(uniform),
        "poisson": counts,
        "bernoulli": (uniform < eta.sigmoid()).double(),
        "binomial": torch.binomial(trials, eta.sigmoid(), generator=generator),
        "gamma": positive,
        "exponential": positive,
        "inverse_gaussian": positive + 0.5,
        "negative_binomial": counts,
        "tweedie": counts * positive,
    }
    link = "log" if family in ("gamma", "exponential", "inverse_gaussian", "tweedie") else None
    extra = {"trials": trials} if family == "binomial" else {}
    kind = torchglm.families.get(family, power=1.5) if family == "tweedie" else family
    return torchglm.fit(x, chosen[family], family=kind, link=link, names=["age", "<b>size</b>"], **extra)


class Balance(HTMLParser):
    """Collects tags, and fails on one that is closed out of order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def read(path: Path) -> tuple[str, Balance]:
    text = path.read_text(encoding="utf-8")
    parser = Balance()
    parser.feed(text)
    assert parser.open == []
    return text, parser


@pytest.mark.parametrize("family", sorted({torchglm.families.get(n).name for n in torchglm.families.names()}))
def test_every_family_has_a_page(family: str, tmp_path: Path) -> None:
    path = write_page(fitted(family), tmp_path / "deep" / "report.html", config={"family": family, "seed": 0})
    text, tags = read(path)
    images = [attrs for tag, attrs in tags.seen if tag == "img"]
    assert len(images) >= 6 and all((i["src"] or "").startswith("data:image/svg+xml;base64,") for i in images)
    assert all(i["alt"] for i in images)
    assert not re.search(r'(src|href)="(?!data:)', text) and "<script" not in text and "@import" not in text
    assert "<b>size" not in text and "&lt;b&gt;size" in text
    assert "seed: 0" in text and "What the coefficients say" in text and "Does the model hold?" in text
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["report.html"]


@pytest.mark.parametrize(
    "family", ["gaussian", "poisson", "bernoulli", "binomial", "gamma", "exponential", "negative_binomial"]
)
def test_quantile_residuals_of_a_true_model_are_normal(family: str) -> None:
    result = fitted(family, 4000)
    rows = seen_rows(result)
    scores, kind = normal_scores(rows.y, rows.mu, result.family, rows.dispersion, rows.weight)
    assert kind == "quantile residual"
    expected = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    distance = (torch.special.ndtr(scores.sort().values) - expected).abs().max()
    assert distance < 1.63 / 4000**0.5  # Kolmogorov–Smirnov at 1 %


def test_rootogram_expects_as_many_rows_as_there_are() -> None:
    result = fitted("poisson")
    rows = seen_rows(result)
    sums = Rootogram.of(rows.y, rows.mu, result.family)
    assert sums.observed.sum() == 300 and torch.isclose(sums.expected.sum(), sums.observed.sum())
    doubled = sums + sums
    assert doubled.observed.sum() == 600


def test_standard_errors_of_calibration() -> None:
    result = fitted("poisson")
    rows = seen_rows(result)
    sums = Calibration.of(rows.y, rows.mu, family=result.family, bins=1)
    assert torch.isclose(sums.rates()[2][0], rows.mu.sum().sqrt() / 300)


def test_an_offset_is_read_as_exposure() -> None:
    x, eta, generator = design()
    exposure = torch.rand(300, generator=generator, dtype=torch.float64) + 0.5
    y = torch.poisson(exposure * eta.exp(), generator=generator)
    rows = seen_rows(torchglm.fit(x, y, family="poisson", exposure=exposure))
    assert rows.exposed
    assert torch.allclose(rows.exposure, exposure)


def test_rows_can_be_given_or_be_absent(tmp_path: Path) -> None:
    result = fitted("poisson")
    result.save(tmp_path / "fit")
    loaded = torchglm.load(tmp_path / "fit")
    text, _ = read(write_page(loaded, tmp_path / "a.html"))
    assert "no rows at hand" in text and "Does the model hold?" not in text
    text, _ = read(write_page(loaded, tmp_path / "b.html", y=result.rows.y, mu=result.fitted, title="A & B"))
    assert "diagnostics on 300 rows" in text and "<title>A &amp; B</title>" in text
    with pytest.raises(ValueError, match="y and mu together"):
        write_page(loaded, tmp_path / "c.html", y=result.rows.y)
    assert not (tmp_path / "c.html").exists()


def test_a_batch_has_a_page(tmp_path: Path) -> None:
    x, eta, generator = design()
    y = torch.poisson(eta.exp().expand(5, -1), generator=generator)
    text, tags = read(write_page(torchglm.fit(x, y, family="poisson"), tmp_path / "batch.html"))
    assert "5 models" in text and "Every model" in text and "How the models differ" in text
    assert len([tag for tag, _ in tags.seen if tag == "img"]) == 12


def test_all_rows_have_their_panels() -> None:
    result = fitted("poisson")
    rows = Gathered.of(result, chunks(result, None, None, None, None))
    assert rows is not None and len(predictions(result, rows)[0]) == 3
    assert len(residual_panels(result, rows)) + len(influence_panels(Influence.of(result))) == 6


def test_config_text_is_shown_as_it_is(tmp_path: Path) -> None:
    text, _ = read(write_page(fitted("poisson"), tmp_path / "p.html", config="a: <x>  # note"))
    assert "a: &lt;x&gt;  # note" in text


def seen_rows(result: torchglm.Result) -> Observations:
    """The rows behind a fit in one chunk."""
    return next(chunks(result, None, None, None, None))


def row_tables(text: str, caption: str) -> list[list[str]]:
    """The cells of the body of the table with this caption."""
    found = text.split(f"<caption>{caption}</caption>", 1)[1].split("</table>", 1)[0].split("<tbody>", 1)[1]
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in found.split("</tr>")[:-1]]


def test_the_page_says_what_the_check_says(tmp_path: Path) -> None:
    x, eta, generator = design(800)
    mixed = torch.poisson(4 * eta.exp() * torch.rand(800, generator=generator, dtype=eta.dtype), generator=generator)
    result = torchglm.fit(x, mixed, family="poisson")
    check = result.check()
    text, _ = read(write_page(result, tmp_path / "p.html"))
    assert check.findings[0] and all(escape(f.sentence) in text and escape(f.advice) in text for f in check.findings[0])
    assert text.count("so the standard errors are too small") == 0  # the summary's warning would say it twice
    assert [row[0] for row in row_tables(text, "Tests of the model")] == [
        "link (curvature)",
        "dispersion of counts",
        "number of zeros",
    ]
    quiet, _ = read(write_page(fitted("gaussian"), tmp_path / "q.html"))
    assert "no finding by the checks" in quiet
    assert f">{len(check.findings[0])} finding" in text
    assert "Nothing found by 2 tests (link, variance)" in quiet and "Before you rely on this fit" not in quiet


def test_the_rows_listed_are_those_of_largest_cooks_distance(tmp_path: Path) -> None:
    result = fitted("gamma")
    text, _ = read(write_page(result, tmp_path / "p.html"))
    cook = result.cooks_distance().topk(10)
    listed = row_tables(text, "Rows that move the fit most")
    assert [int(row[0]) for row in listed] == cook.indices.tolist()
    found = Influence.of(result)
    torch.testing.assert_close(found.largest.leverage, result.leverage()[cook.indices])
    torch.testing.assert_close(found.largest.residual, result.residuals("pearson", standardized=True)[cook.indices])
    torch.testing.assert_close(found.largest.shift, (result.dfbetas(scaled=False) / result.std_err)[cook.indices])
    assert found.high == int((result.cooks_distance() > 4 / 300).sum()) and found.count == 300


def test_influence_of_a_stream_is_that_of_the_whole() -> None:
    result = fitted("poisson")
    rows = result.rows
    streamed = result.on([rows.between(0, 90), rows.between(90, 300)])
    whole, parts = Influence.of(result), Influence.of(streamed)
    assert torch.equal(whole.largest.row, parts.largest.row) and whole.high == parts.high
    assert torch.equal(whole.drawn.columns(), parts.drawn.columns())


def test_influence_of_a_batch_is_that_of_its_members() -> None:
    x, eta, generator = design(120)
    batch = torchglm.fit(x, torch.poisson(eta.exp().expand(4, -1), generator=generator), family="poisson")
    found = Influence.of(batch).largest
    cook = batch.cooks_distance()
    torch.testing.assert_close(found.cook, cook.reshape(-1).topk(10).values)
    torch.testing.assert_close(found.cook, cook[found.model, found.row])
    member = Influence.of(batch[int(found.model[0])]).largest
    assert int(member.row[0]) == int(found.row[0])
    torch.testing.assert_close(member.shift[0], found.shift[0])


def test_other_rows_get_predictions_and_no_check(tmp_path: Path) -> None:
    result = fitted("poisson")
    x, eta, generator = design(200)
    other = result.with_rows(x, torch.poisson(eta.exp(), generator=generator))
    text, tags = read(write_page(other, tmp_path / "n.html", new_rows=True))
    assert "diagnostics on 200 rows that were handed in" in text and "Rows that move" not in text
    assert len([tag for tag, _ in tags.seen if tag == "img"]) == 8


def test_deciles_hold_all_rows_and_their_exposure() -> None:
    x, eta, generator = design()
    exposure = torch.rand(300, generator=generator, dtype=torch.float64) + 0.5
    result = torchglm.fit(
        x, torch.poisson(exposure * eta.exp(), generator=generator), family="poisson", exposure=exposure
    )
    rows = seen_rows(result)
    assert rows.exposed
    sums = Calibration.of(rows.y, rows.mu, rows.weight, rows.exposure, result.family)
    table = tables.deciles(sums, False)
    assert table.columns[2] == "exposure" and len(table.rows) == 10
    assert sum(int(row[1]) for row in table.rows) == 300
    assert abs(sum(float(row[2]) for row in table.rows) - float(exposure.sum())) < 0.01
    assert float(table.rows[0][3]) < float(table.rows[-1][3])


def test_a_separated_and_an_aliased_fit_have_a_page(tmp_path: Path) -> None:
    x = torch.linspace(-1, 1, 40, dtype=torch.float64)
    with pytest.warns(torchglm.FitWarning):
        split = torchglm.fit(torch.stack([x, 2 * x], -1), (x > 0).double(), family="bernoulli")
    text, _ = read(write_page(split, tmp_path / "s.html"))
    assert "separat" in text.lower() and "aliased" in text


def test_robust_errors_are_named_and_quiet_the_warning_on_spread() -> None:
    x, eta, generator = design(800)
    mixed = torch.poisson(4 * eta.exp() * torch.rand(800, generator=generator, dtype=eta.dtype), generator=generator)
    result = torchglm.fit(x, mixed, family="poisson")
    assert "spreads more" in str(result.summary())
    robust = str(result.robust("HC3").summary())
    assert "standard errors HC3" in robust and "spreads more" not in robust


def test_a_censored_time_is_listed_with_a_plus(tmp_path: Path) -> None:
    x, eta, generator = design(200)
    time = eta.exp() * -torch.rand(200, generator=generator, dtype=torch.float64).log()
    result = torchglm.fit(x, time.clamp(max=1.0), family="exponential", event=(time < 1).double())
    text, _ = read(write_page(result, tmp_path / "t.html"))
    listed = row_tables(text, "Rows that move the fit most")
    rows = [int(row[0]) for row in listed]
    assert [row[1].endswith("+") for row in listed] == [bool(time[i] >= 1) for i in rows]
    assert not any(row[1].startswith("-") for row in listed)
