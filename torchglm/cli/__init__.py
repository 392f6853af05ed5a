"""The command line: `torchglm fit`, `predict`, `evaluate`, `summary`, `check`, `report` and `compare`."""

from __future__ import annotations

from torchglm.cli.entry import main

__all__ = ["main"]
