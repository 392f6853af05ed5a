"""What a page shows is made of all rows, or drawn evenly from all, in whatever order and chunks they come."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import torchglm
from torchglm.report import write_page
from torchglm.report.binned import Calibration
from torchglm.report.gathered import Gathered
from torchglm.report.influence import Influence
from torchglm.report.observations import chunks
from torchglm.report.panels import predictions, residual_panels
from torchglm.report.sample import EvenSample, hashed

N = 120_000


def two_years() -> tuple[torch.Tensor, torch.Tensor]:
    """(n, 1) a column and counts: the second half of the rows has ten times the events of the first."""
    generator = torch.Generator().manual_seed(3)
    x = (torch.arange(N) >= N // 2).double().unsqueeze(-1)
    return x, torch.poisson(0.2 * 10 ** x[:, 0], generator=generator)


@pytest.fixture(scope="module")
def sorted_fit() -> torchglm.Result:
    x, y = two_years()
    return torchglm.fit(x, y, family="poisson")


def gathered(result: torchglm.Result) -> Gathered:
    found = Gathered.of(result, chunks(result, None, None, None, None))
    assert found is not None
    return found


@pytest.mark.parametrize("size", [7_001, 50_000, N])
def test_panels_are_of_all_rows_however_they_come(sorted_fit: torchglm.Result, size: int) -> None:
    rows = sorted_fit.rows
    assert rows is not None
    streamed = sorted_fit.on([rows.between(i, min(i + size, N)) for i in range(0, N, size)])
    whole, parts = gathered(sorted_fit), gathered(streamed)
    for one, other in zip(whole.calibration.rates(), parts.calibration.rates(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=0)
    assert torch.equal(whole.drawn.observations().mu, parts.drawn.observations().mu)
    observed, predicted, _ = parts.calibration.rates()
    torch.testing.assert_close(observed, predicted, rtol=1e-9, atol=0)  # each half has its own mean
    some = parts.drawn.observations()
    assert len(some.y) == 50_000
    share = (some.mu > some.mu.min() + 1e-9).double().mean()
    assert abs(float(share) - 0.5) < 0.02  # of both halves alike
    assert float(some.y.mean()) == pytest.approx(float(rows.y.mean()), rel=0.03)
    text = " ".join(panel.reading for panel in [*predictions(streamed, parts)[0], *residual_panels(streamed, parts)])
    assert text.count(f"All {N:,} rows.") == 3 and text.count(f"50,000 rows drawn evenly from all {N:,}.") == 4


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 64), st.lists(st.integers(1, 4000), min_size=1, max_size=12))
def test_a_sample_is_even_over_rows_in_turns_and_chunks_of_any_size(period: int, sizes: list[int]) -> None:
    total = sum(sizes)
    number = torch.arange(total)
    parts, whole = EvenSample(500), EvenSample(500)
    whole.offer(number, number.unsqueeze(0).double())
    for piece in number.split(sizes):
        parts.offer(piece, piece.unsqueeze(0).double())
    kept = parts.columns()[0]
    assert torch.equal(kept, whole.columns()[0]) and len(kept) == min(500, total)
    if total > 8 * 500:
        turns = torch.bincount(kept.long() % period, minlength=period).double()
        assert float((turns - 500 / period).abs().max()) < 6 * (500 / period) ** 0.5


def test_numbers_are_scattered_without_loss() -> None:
    key = hashed(torch.arange(100_000))
    assert len(key.unique()) == 100_000
    quarters = torch.histc(key.double(), 4, -(2.0**63), 2.0**63)
    assert float((quarters - 25_000).abs().max()) < 800


def test_models_of_very_different_size_are_drawn_by_their_rows() -> None:
    """A large model beside small ones: its rows are neither padded nor preferred."""
    generator = torch.Generator().manual_seed(5)
    y = torch.poisson(torch.full((3, 4000), 2.0, dtype=torch.float64), generator=generator)
    weight = torch.ones_like(y)
    weight[1:, 100:] = 0
    result = torchglm.fit(torch.zeros(4000, 0, dtype=torch.float64), y, family="poisson", weights=weight)
    found = gathered(result)
    some = found.drawn.observations()
    assert found.count == 4200 and some.model is not None
    assert torch.bincount(some.model).tolist() == [4000, 100, 100]
    torch.testing.assert_close(some.mu[:, 0], result.fitted[:, 0][some.model].double())


def test_shapes_of_models_meet_their_rows() -> None:
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(500, 1, dtype=torch.float64, generator=generator)
    mu = (1 + 0.3 * x[:, 0]).exp()
    law = torch.distributions.NegativeBinomial(torch.tensor([[0.7], [4.0]], dtype=torch.float64), logits=mu.log())
    with torch.random.fork_rng():
        torch.manual_seed(1)
        y = law.sample()
    batch = torchglm.fit(x, y, family="negative_binomial")
    both = gathered(batch).drawn.observations()
    density = both.family.log_prob(both.y, both.mu)
    assert both.model is not None and density.shape == both.y.shape
    for i in range(2):
        alone = gathered(batch[i]).drawn.observations()
        torch.testing.assert_close(density[both.model == i], alone.family.log_prob(alone.y, alone.mu))


def test_repeats_do_not_thin_the_plot_of_leverage() -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(60, 1, dtype=torch.float64, generator=generator)
    result = torchglm.fit(
        x, torch.poisson(x[:, 0].exp(), generator=generator), family="poisson", freq=torch.full((60,), 5000.0)
    )
    assert Influence.of(result).drawn.columns().shape == (2, 60)


def test_exposure_that_begins_later_is_exposure(tmp_path: Path) -> None:
    """A chunk whose offsets are all zero, before one with exposures."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(400, 1, dtype=torch.float64, generator=generator)
    exposure = torch.cat([torch.ones(200), 1 + torch.rand(200, generator=generator)]).double()
    y = torch.poisson(exposure * (0.5 * x[:, 0]).exp(), generator=generator)
    result = torchglm.fit(x, y, family="poisson", exposure=exposure)
    rows = result.rows
    assert rows is not None
    sums = gathered(result.on([rows.between(0, 200), rows.between(200, 400)])).calibration
    whole = Calibration.of(y, result.fitted, None, exposure)
    torch.testing.assert_close(sums.weight, whole.weight)
    assert sums.exposed
    page = write_page(result, tmp_path / "p.html").read_text(encoding="utf-8")
    assert re.search(r"Rates by decile of prediction", page)


def test_a_page_of_new_rows_says_so_and_keeps_the_numbers_of_the_fit(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(300, 1, dtype=torch.float64, generator=generator)
    y = torch.poisson((0.5 * x[:, 0]).exp(), generator=generator)
    result = torchglm.fit(x, y, family="poisson")
    own = torchglm.fit(x, y, family="poisson").summary().to_dict()
    other = result.with_rows(x[:80] + 1, y[:80] + 3)
    assert other.summary().to_dict() == own
    text = write_page(other, tmp_path / "n.html", new_rows=True, run="first", data="later.csv").read_text("utf-8")
    assert "Run first; 80 rows of later.csv: new rows, not those of the fit." in text
    assert "These are other rows than those of the fit" in text and "right on the new rows?" in text
    same = write_page(result, tmp_path / "o.html", run="first", data=["a.csv", "b.csv"]).read_text("utf-8")
    assert "Run first; 300 rows of a.csv, b.csv: the rows of the fit." in same and "new rows" not in same


def test_a_title_names_the_response(tmp_path: Path) -> None:
    table = {"claims": [0.0, 1.0, 2.0, 1.0, 3.0, 0.0], "age": [1.0, 2.0, 3.0, 4.0, 5.0, 2.5]}
    result = torchglm.fit("claims ~ age", table, family="poisson")
    text = write_page(result, tmp_path / "t.html").read_text("utf-8")
    assert "<title>claims: Poisson regression, log link</title>" in text
