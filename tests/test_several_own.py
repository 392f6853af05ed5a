"""A family of one's own, in a few lines as the docs show it, has everything that torchglm's have."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import torch
from several_cases import Drawn
from test_pages import blocks

import torchglm as tg
from torchglm.families.several import VectorFamily

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "several.md").read_text(encoding="utf-8")
MOST_LINES = 15
TIGHT = {"tol": 1e-12, "max_iter": 100}


def shown() -> dict[str, Any]:
    """What the block of the page leaves behind."""
    scope: dict[str, Any] = {"__name__": "page"}
    [block] = [block for block in blocks(PAGE) if block.language == "python" and "class " in block.text]
    exec(compile(block.text, "several.md", "exec"), scope)
    return scope


def own() -> VectorFamily:
    family: VectorFamily = shown()["TruncatedPoisson"]()
    return family


def truncated(n: int, seed: int = 0) -> tuple[torch.Tensor, Drawn]:
    generator = torch.Generator().manual_seed(seed)
    x = 2 * torch.rand(n, 2, generator=generator, dtype=torch.float64) - 1
    y = torch.poisson((0.5 + 0.5 * x[:, 0]).exp(), generator=generator)
    return x, Drawn(y=y)


def test_the_page_shows_a_family_in_few_lines() -> None:
    [block] = [block for block in blocks(PAGE) if block.language == "python" and "class " in block.text]
    [kind] = [node for node in ast.parse(block.text).body if isinstance(node, ast.ClassDef)]
    lines = block.text.splitlines()[kind.lineno - 1 : kind.end_lineno]
    assert sum(bool(line.strip()) and '"""' not in line for line in lines) <= MOST_LINES
    fit = shown()["fit"]
    assert bool(fit.converged) and bool(torch.isfinite(fit.std_err).all())


def test_it_is_the_part_of_a_hurdle_model_beyond_zero() -> None:
    x, drawn = truncated(400)
    seen = drawn["y"] > 0
    part = tg.fit(x[seen], drawn["y"][seen], family=own(), **TIGHT)
    whole = tg.fit(x, drawn["y"], family=tg.Hurdle("poisson"), **TIGHT)["mean"]
    torch.testing.assert_close(part.coef, whole.coef, rtol=0, atol=1e-9)
    torch.testing.assert_close(part.std_err, whole.std_err, rtol=1e-8, atol=0)


def test_it_is_fitted_in_batches_and_with_repeats() -> None:
    x, drawn = truncated(200)
    y = drawn["y"].clamp(min=1)
    batch = tg.fit(x, torch.stack([y, y.flip(0)]), family=own(), **TIGHT)
    one = tg.fit(x, y, family=own(), **TIGHT)
    torch.testing.assert_close(batch[0].coef, one.coef, rtol=0, atol=1e-9)
    freq = torch.arange(200) % 3
    repeated = tg.fit(x.repeat_interleave(freq, 0), y.repeat_interleave(freq), family=own(), **TIGHT)
    torch.testing.assert_close(tg.fit(x, y, family=own(), freq=freq, **TIGHT).coef, repeated.coef, rtol=0, atol=1e-9)
    assert "truncated poisson" in str(one.summary()).lower()


def test_it_is_saved_and_given_back_when_loaded(tmp_path: Path) -> None:
    x, drawn = truncated(200)
    fit = tg.fit(x, drawn["y"].clamp(min=1), family=own())
    fit.save(tmp_path)
    with pytest.raises(ValueError, match="of your own class .*TruncatedPoisson.*Pass it"):
        tg.load(tmp_path)
    loaded = tg.load(tmp_path, family=own())
    assert torch.equal(loaded.predict(x), fit.predict(x))

    class Other(type(fit.family)):  # type: ignore[misc]
        name = "other"

    with pytest.raises(ValueError, match="Pass that one"):
        tg.load(tmp_path, family=Other())
