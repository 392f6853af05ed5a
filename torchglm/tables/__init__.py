"""Tables of rows: files, scans of them, chunks, and the columns they hold."""

from __future__ import annotations

from torchglm.tables.chunks import Chunks
from torchglm.tables.columns import as_table, numbers
from torchglm.tables.files import read_table
from torchglm.tables.scan import Scan
from torchglm.tables.text_format import TextFormat

__all__ = ["Chunks", "TextFormat", "Scan", "as_table", "numbers", "read_table"]
