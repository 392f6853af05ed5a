"""The kernel of a pass says what the plain road says: by Triton's interpreter, without a CUDA device.

Triton is told at its import whether it interprets, so that all of it runs in a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from torchglm import families, links
from torchglm.fitting import fused
from torchglm.fitting.kernel import block_moments
from torchglm.fitting.moments import Point
from torchglm.rows.rows import Rows

HERE = Path(__file__).resolve().parent
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed (see pyproject.toml)")


def run(*command: str, limit: int = 300, **environment: str) -> str:
    """What a process of its own prints, where it goes well."""
    own = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, *command], cwd=HERE, env=own | environment, capture_output=True, text=True, timeout=limit
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    return done.stdout


def cases(device: str, interpreted: str, *some: str) -> str:
    options = (*some, "-q", "-x", "--no-header", "-p", "no:cacheprovider", "-p", "no:randomly")
    return run("-m", "pytest", "fused_cases.py", *options, FUSED_CASES_DEVICE=device, TRITON_INTERPRET=interpreted)


@needs_triton
def test_interpreted_kernel_is_the_plain_road() -> None:
    out = cases("cpu", "1")
    assert " passed" in out and "skipped" not in out


@pytest.mark.cuda
@needs_triton
def test_compiled_kernel_is_the_plain_road() -> None:
    # kernels are compiled case by case: these are about twenty
    assert " passed" in cases("cuda", "0", "-k", "pair_says or single or 64 or models_on")


def compiled(tmp_path: Path, wanted: list[tuple[str, int, bool, int, str]]) -> list[tuple[Any, dict[str, int]]]:
    out = run("compiled_pass.py", json.dumps(wanted), TRITON_CACHE_DIR=str(tmp_path), TRITON_INTERPRET="0", limit=900)
    return [tuple(json.loads(line)) for line in out.splitlines()]


@pytest.mark.slow
@needs_triton
def test_kernel_is_made_for_a_card_without_one(tmp_path: Path) -> None:
    [(_, counts)] = compiled(tmp_path, [("poisson-log", 64, False, 90, "float32")])
    assert counts["mma.sync"] > 0 and counts[".tf32"] == counts["fma.rn.f32"] == 0  # products are of float64


@pytest.mark.slow
@needs_triton
@pytest.mark.parametrize(("width", "single", "arch"), [(16, False, 80), (32, True, 90), (64, False, 100)])
def test_every_pair_is_made_for_every_card(width: int, single: bool, arch: int, tmp_path: Path) -> None:
    for pair, counts in compiled(tmp_path, [("every", width, single, arch, "float64")]):
        assert counts[".tf32"] == 0 and (counts["fma.rn.f32"] > 0) == single, pair


def test_rows_on_a_cpu_go_the_plain_road() -> None:
    one = torch.ones(1, fused.LEAST, dtype=torch.float64)
    rows, point = Rows(one.mT, one, one, one), Point(one[:, :1])
    assert not fused.ready(rows)
    assert fused.fused(rows, point, families.get("poisson"), links.get("log"), block_moments) is None
