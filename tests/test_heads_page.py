"""The pages on heads: their code runs as it stands, block after block, and says what the text does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from test_readme import blocks

import torchglm as tg

DOCS = Path(__file__).resolve().parent.parent / "docs"


def run(page: str, holding: str = "") -> dict[str, Any]:
    """What the Python blocks of a page leave behind, those that hold a text."""
    scope: dict[str, Any] = {"__name__": "page"}
    for block in blocks((DOCS / page).read_text(encoding="utf-8")):
        if block.language == "python" and holding in block.text:
            exec(compile(block.text, page, "exec"), scope)
    return scope


def test_the_page_on_heads_runs() -> None:
    left = run("heads.md")
    network, x, counts, done = (left[name] for name in ("network", "x", "counts", "done"))
    assert [str(status) for status in done.status] == ["CONVERGED"] and bool(done.after < done.before)
    features = network[:-1](x).detach().double()
    want = tg.fit(features, counts, family=tg.ZeroInflated("poisson"), tol=1e-12)
    torch.testing.assert_close(network[-1].coef[0], want.flat.coef[0], rtol=1e-3, atol=1e-3)
    inside = (counts >= left["low"][:, 0]) & (counts <= left["high"][:, 0])
    assert float(inside.float().mean()) > 0.85
    assert all(bool(part.grad.isfinite().all()) for part in left["features"].parameters())
    assert set(left["heads"].log_scale) == {"grade"}


def test_the_page_on_several_predictors_runs() -> None:
    left = run("several.md", "fit_sgd")
    want = tg.fit(left["x"], left["cost"], family="gamma", link="log", predictors={"dispersion": left["x"]}, tol=1e-12)
    torch.testing.assert_close(left["head"].coef[0], want.coef, rtol=0, atol=1e-8)
    assert left["trained"].distance < 1
