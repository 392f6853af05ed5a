"""What a user hands over, looked at once and turned into Rows: arrays, a formula with a table or files, loaders.

To accept another kind of source, write a module here that yields `Rows`.
"""

from __future__ import annotations

from torchglm.inputs.arrays import Data, assemble, from_arrays
from torchglm.inputs.batch import GLMBatch, as_batch, minibatch, named, unpacked
from torchglm.inputs.checks import (
    all_finite,
    check_shapes,
    check_support,
    check_weights,
    finite,
    per_row,
    tensor,
)
from torchglm.inputs.classes import class_codes, is_counts
from torchglm.inputs.columns import column_names, in_order, own_names
from torchglm.inputs.files import FileRows, SpecRows, from_files, rows_by_spec
from torchglm.inputs.formula import from_design, from_formula
from torchglm.inputs.live import live_design, live_rows
from torchglm.inputs.loader import LoaderRows, from_loader, is_loader
from torchglm.inputs.pandas_index import check_row_labels
from torchglm.inputs.roles import ROLES, Roles, paired
from torchglm.inputs.several import several_from_arrays, whole_design
from torchglm.inputs.specs import check_predictors, in_class_order, plan_of

__all__ = [
    "ROLES",
    "Data",
    "FileRows",
    "GLMBatch",
    "LoaderRows",
    "Roles",
    "SpecRows",
    "all_finite",
    "as_batch",
    "assemble",
    "check_predictors",
    "check_row_labels",
    "check_shapes",
    "check_support",
    "check_weights",
    "class_codes",
    "column_names",
    "finite",
    "in_class_order",
    "in_order",
    "own_names",
    "from_arrays",
    "from_design",
    "from_files",
    "from_formula",
    "from_loader",
    "is_counts",
    "is_loader",
    "live_design",
    "live_rows",
    "minibatch",
    "named",
    "paired",
    "per_row",
    "plan_of",
    "rows_by_spec",
    "several_from_arrays",
    "tensor",
    "unpacked",
    "whole_design",
]
