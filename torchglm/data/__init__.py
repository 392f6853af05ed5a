"""Where rows come from: tables (files and frames) and designs (from a formula to columns)."""

from .design import build, build_columns, learn
from .files import Scan, read_table
from .levels import groups
from .spec import Design, DesignSpec
from .tables import as_table, numbers

__all__ = [
    "Design",
    "DesignSpec",
    "Scan",
    "as_table",
    "build",
    "build_columns",
    "groups",
    "learn",
    "numbers",
    "read_table",
]
