"""Tables of rows: files, scans of them, chunks, and the columns they hold."""

from __future__ import annotations

from torchglm.tables.chunks import Chunks
from torchglm.tables.columns import as_table, numbers
from torchglm.tables.files import read_table
from torchglm.tables.reading import Reading
from torchglm.tables.scan import Scan

__all__ = ["Chunks", "Reading", "Scan", "as_table", "numbers", "read_table"]
