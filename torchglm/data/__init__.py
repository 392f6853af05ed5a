"""Where rows come from: tables (files and frames) and designs (from a formula to columns)."""

from .chunks import Chunks
from .design import build, build_columns, learn
from .files import read_table
from .levels import groups
from .scan import Scan
from .sources import is_source
from .spec import Design, DesignSpec
from .tables import as_table, numbers
from .tally import Tally

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
