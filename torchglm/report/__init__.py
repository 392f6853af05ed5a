"""A fit for people: summary tables, plots and one HTML page."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from torchglm.report.summary import Summary

__all__ = ["Summary", "plots", "write_page"]


def __getattr__(name: str) -> Any:
    """`write_page` and `plots` bring in jinja2 and matplotlib when they are first asked for."""
    if name == "write_page":
        return import_module("torchglm.report.page").write_page
    if name == "plots":
        return import_module("torchglm.report.plots")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
