"""Fits at the ends of what a report must show: exact, saturated, empty, censored, penalised."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

import torchglm
from tests.thinned import thinned
from torchglm.report import write_page


def odd(name: str) -> torchglm.Result:
    """A fit by its name."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(60, 2, generator=generator, dtype=torch.float64)
    eta = 0.4 + x @ x.new_tensor([0.3, -0.2])
    y = torch.poisson(eta.exp(), generator=generator)
    made = {
        "saturated": lambda: torchglm.fit(x[:3], eta[:3], family="gaussian"),
        "more columns than rows": lambda: torchglm.fit(x[:16].reshape(4, 8), y[:4], family="gaussian"),
        "exact": lambda: torchglm.fit(x, eta, family="gaussian"),
        "constant response": lambda: torchglm.fit(x, torch.full_like(y, 2), family="gaussian"),
        "all zero": lambda: torchglm.fit(x, 0 * y, family="poisson"),
        "intercept alone": lambda: torchglm.fit(x[:, :0], y, family="poisson"),
        "weights with zeros": lambda: torchglm.fit(x, y, family="poisson", weights=(y > 0).double()),
        "repeats": lambda: torchglm.fit(x, y, family="poisson", freq=torch.arange(60) % 4),
        "quasi": lambda: torchglm.fit(x, y, family="poisson", dispersion="pearson"),
        "penalised": lambda: torchglm.fit(x, y, family="poisson", penalty=torchglm.ElasticNet(0.3, 0.1)),
        "every time censored": lambda: torchglm.fit(x, eta.exp(), family="exponential", event=0 * y),
        "a model without rows": lambda: torchglm.fit(
            x, y.expand(2, -1), family="poisson", weights=torch.stack([y * 0 + 1, y * 0])
        ),
        "a batch of one": lambda: torchglm.fit(x[None], y[None], family="poisson"),
        "two batch dimensions": lambda: torchglm.fit(x, y.expand(2, 3, -1), family="poisson"),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torchglm.FitWarning)
        return made[name]()


@pytest.mark.parametrize(
    "name",
    thinned(
        [
            "saturated",
            "more columns than rows",
            "exact",
            "constant response",
            "all zero",
            "intercept alone",
            "weights with zeros",
            "repeats",
            "quasi",
            "penalised",
            "every time censored",
            "a model without rows",
            "a batch of one",
            "two batch dimensions",
        ],
        2,
    ),
)
def test_odd_fits_have_a_page_without_a_warning(name: str, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    text = write_page(odd(name), tmp_path / "odd.html").read_text()
    assert "Does the model hold?" in text and ">nan" not in text.lower()
    assert [str(one.message) for one in recwarn] == []


def test_a_check_that_fails_does_not_cost_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(result: torchglm.Result, level: float = 0.05) -> None:
        raise ValueError("these are not the rows of the fit")

    monkeypatch.setattr("torchglm.report.page.check", refuse)
    text = write_page(odd("quasi"), tmp_path / "odd.html").read_text()
    assert "The checks could not be made: these are not the rows of the fit" in text
    assert "Rows that move the fit most" in text and "Tests of the model" not in text
