"""Shared by all tests: those marked `cuda` are skipped where no CUDA device is at hand.

Files whose tests need a package that a machine with one may lack are left out there, and the header says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch


def importing(package: str) -> list[str]:
    """The files of tests that import a package at their top."""
    found = re.compile(rf"^(import|from) {package}\b", re.MULTILINE)
    return [path.name for path in sorted(Path(__file__).parent.glob("test_*.py")) if found.search(path.read_text())]


NEEDED = {
    "polars": importing("polars"),
    "jsonargparse": ["test_cli*.py", "test_configs.py"],
}
missing = [package for package in NEEDED if find_spec(package) is None]
collect_ignore_glob = [pattern for package in missing for pattern in NEEDED[package]]


def pytest_report_header() -> list[str]:
    return [f"left out for want of {package}: {', '.join(NEEDED[package])}" for package in missing]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if addresses := [item.nodeid for item in items if " at 0x" in item.nodeid]:
        raise pytest.UsageError(f"an address in the name of a test differs between processes: {addresses[0]}")
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="no CUDA device")
    for item in items:
        if "cuda" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def tf32(request: pytest.FixtureRequest) -> Iterator[None]:
    """TF32 is on before each test on a CUDA device, as a user may have it, and must still be on after."""
    if "cuda" not in request.keywords:
        yield
        return
    matmul, convolution = torch.backends.cuda.matmul, torch.backends.cudnn
    flags, precision = (matmul.allow_tf32, convolution.allow_tf32), torch.get_float32_matmul_precision()
    matmul.allow_tf32 = convolution.allow_tf32 = True
    before = torch.get_float32_matmul_precision()
    yield
    assert matmul.allow_tf32 and convolution.allow_tf32
    assert torch.get_float32_matmul_precision() == before
    matmul.allow_tf32, convolution.allow_tf32 = flags
    torch.set_float32_matmul_precision(precision)
