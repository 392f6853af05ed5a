"""Where rows come from: tables (files and frames) and designs (from a formula to columns)."""

from __future__ import annotations

from torchglm.data.chunks import Chunks
from torchglm.data.design import build, build_columns, learn
from torchglm.data.files import read_table
from torchglm.data.levels import groups
from torchglm.data.scan import Scan
from torchglm.data.sources import is_source
from torchglm.data.spec import Design, DesignSpec
from torchglm.data.tables import as_table, numbers
from torchglm.data.tally import Tally

__all__ = [
    "Chunks",
    "Design",
    "DesignSpec",
    "Scan",
    "Tally",
    "as_table",
    "build",
    "build_columns",
    "groups",
    "is_source",
    "learn",
    "numbers",
    "read_table",
]
