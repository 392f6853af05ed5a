"""The page of a fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torchglm import report as documents
from torchglm.inference.fitted import Fitted


def report(result: Fitted, path: str | Path, **options: Any) -> Path:
    """Write the fit as one HTML page with its tables, pictures and checks, see `report.write_page`."""
    return documents.write_page(result, path, **options)
