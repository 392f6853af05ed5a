"""Binned sums add, plots are drawn from rows or from sums, and none of it touches pyplot."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor

from torchglm.report import plots
from torchglm.report.binned import Calibration, QuantilePairs, Residuals, weighted_quantiles
from torchglm.report.page import svg_uri


def sample(n: int = 3000, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Counts, their true means and weights, (n,) each."""
    generator = torch.Generator().manual_seed(seed)
    mu = torch.exp(0.5 * torch.randn(n, generator=generator, dtype=torch.float64))
    weight = torch.rand(n, generator=generator, dtype=torch.float64) + 0.5
    return torch.poisson(mu, generator=generator), mu, weight


def test_calibration_sums_are_those_of_the_rows() -> None:
    y, mu, weight = sample()
    sums = Calibration.of(y, mu, weight, exposure=2 * torch.ones_like(y))
    assert torch.isclose(sums.observed.sum(), (weight * y).sum())
    assert torch.isclose(sums.predicted.sum(), (weight * mu).sum())
    assert torch.isclose(sums.weight.sum(), 2 * weight.sum())
    assert (sums.weight / sums.weight.sum() - 0.1).abs().max() < 0.002
    observed, predicted, _ = sums.rates()
    assert (predicted.diff() > 0).all() and torch.corrcoef(torch.stack([observed, predicted]))[0, 1] > 0.97


def test_sums_of_chunks_are_the_sums_of_the_whole() -> None:
    y, mu, weight = sample()
    whole = Calibration.of(y, mu, weight)
    parts = [Calibration.of(y[i::3], mu[i::3], weight[i::3]) for i in range(3)]
    total = parts[0] + parts[1] + parts[2]
    assert torch.allclose(total.observed, whole.observed) and torch.equal(total.count, whole.count)
    fitted, residual = mu.log(), y - mu
    map_ = Residuals.of(fitted, residual)
    edges = (map_.fitted_edges, map_.residual_edges)
    halves = Residuals.of(fitted[:1000], residual[:1000], edges=edges) + Residuals.of(
        fitted[1000:], residual[1000:], edges=edges
    )
    assert torch.equal(halves.counts, map_.counts) and torch.allclose(halves.square, map_.square)


def test_sums_over_different_bins_do_not_add() -> None:
    y, mu, _ = sample()
    with pytest.raises(ValueError, match="same bins"):
        Residuals.of(mu, y - mu) + Residuals.of(2 * mu, y - mu)


def test_rows_of_one_prediction_share_a_bin() -> None:
    y = torch.tensor([0.0, 1.0, 0.0, 1.0])
    observed, predicted, error = Calibration.of(y, torch.full((4,), 0.5)).rates()
    assert observed.tolist() == [0.5] and predicted.tolist() == [0.5] and error.isnan().all()


def test_weights_act_as_repetition() -> None:
    y, mu, _ = sample(200)
    times = torch.arange(200) % 3 + 1
    a = Calibration.of(y, mu, weight=times.double())
    b = Calibration.of(y.repeat_interleave(times), mu.repeat_interleave(times))
    assert torch.allclose(a.observed, b.observed) and torch.allclose(a.weight, b.weight)


def test_gini_of_perfect_absent_and_reversed_order() -> None:
    y = torch.tensor([0.0, 0.0, 0.0, 1.0])
    right = Calibration.of(y, torch.tensor([0.1, 0.2, 0.3, 0.4])).gini()
    wrong = Calibration.of(y, torch.tensor([0.4, 0.3, 0.2, 0.1])).gini()
    assert math.isclose(right, 0.75) and math.isclose(wrong, -0.75)
    assert abs(Calibration.of(y, torch.full((4,), 0.25)).gini()) < 1e-12


def test_trend_finds_a_curve() -> None:
    x = torch.linspace(-1, 1, 5000, dtype=torch.float64)
    where, mean, error = Residuals.of(x, x.square()).trend()
    assert (mean - where.square()).abs().max() < 0.02 and (error < 0.02).all()


def test_quantile_pairs_keep_the_tails() -> None:
    z = torch.special.ndtri((torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000)
    pairs = QuantilePairs.of(z[torch.randperm(len(z), generator=torch.Generator().manual_seed(1))])
    assert len(pairs.theory) <= 400 and torch.allclose(pairs.theory, pairs.sample)
    assert pairs.sample[0] == z[0] and pairs.sample[-1] == z[-1]
    assert ((pairs.low < pairs.sample) & (pairs.sample < pairs.high)).all()


def test_weighted_quantiles() -> None:
    values, weight = torch.tensor([3.0, 1.0, 2.0]), torch.tensor([1.0, 1.0, 2.0])
    assert weighted_quantiles(values, weight, torch.tensor([0.1, 0.5, 0.9])).tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("y", "mu", "exposure", "message"),
    [
        ([1.0, 2.0], [1.0], None, "one length"),
        ([], [], None, "at least one row"),
        ([1.0], [1.0], [0.0], "exposure > 0"),
    ],
)
def test_bad_columns_are_refused(y: list[float], mu: list[float], exposure: list[float] | None, message: str) -> None:
    e = None if exposure is None else torch.tensor(exposure)
    with pytest.raises(ValueError, match=message):
        Calibration.of(torch.tensor(y), torch.tensor(mu), exposure=e)
    with pytest.raises(ValueError, match="second is None"):
        plots.lift(torch.ones(3))


@pytest.mark.parametrize("n", [1, 2, 50, 5000])
def test_every_plot_of_rows_draws(n: int) -> None:
    y, mu, weight = sample(n)
    drawn = [
        plots.calibration(y, mu, weight),
        plots.lift(y, mu, weight),
        plots.lorenz(y + 1, mu, weight),
        plots.residuals(mu.log(), y - mu),
        plots.spread(mu.log(), y - mu),
        plots.quantiles(y - mu),
    ]
    for figure in drawn:
        assert isinstance(figure, Figure)
        assert svg_uri(figure).startswith("data:image/svg+xml;base64,")


def test_plots_of_sums_equal_plots_of_rows() -> None:
    y, mu, weight = sample()
    assert svg_uri(plots.lift(Calibration.of(y, mu, weight))) == svg_uri(plots.lift(y, mu, weight))
    assert svg_uri(plots.quantiles(QuantilePairs.of(y - mu))) == svg_uri(plots.quantiles(y - mu))
    assert svg_uri(plots.residuals(Residuals.of(mu, y - mu))) == svg_uri(plots.residuals(mu, y - mu))


def test_degenerate_rows_draw_without_warning(recwarn: pytest.WarningsRecorder) -> None:
    same = torch.full((3000,), 2.0)
    for figure in (
        plots.calibration(same, same),
        plots.lift(same, same),
        plots.residuals(same, 0 * same),
        plots.quantiles(0 * same),
    ):
        svg_uri(figure)
    assert [str(w.message) for w in recwarn] == []


def test_summaries_need_no_matplotlib_and_plots_no_pyplot() -> None:
    code = (
        "import sys, torchglm.report; assert not {'matplotlib', 'jinja2'} & set(sys.modules);"
        "torchglm.report.plots, torchglm.report.write_page;"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
