"""One adapter per contender, one signature: `fit(problem) -> Fit`. A contender not installed is left out."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module, metadata

from benchmarks.problem import Fit, Problem

NAMES = {"torchglm": "torchglm", "glum": "glum", "sklearn": "scikit-learn", "statsmodels": "statsmodels"}


def installed() -> dict[str, str]:
    """The contenders at hand and their versions."""
    versions = {}
    for name, distribution in NAMES.items():
        try:
            versions[name] = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return versions


def load(name: str) -> Callable[[Problem], Fit]:
    fit: Callable[[Problem], Fit] = import_module(f"benchmarks.contenders.with_{name}").fit
    return fit
