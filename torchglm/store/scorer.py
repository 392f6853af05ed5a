"""A fit with its design as one file that scores the raw columns of rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchglm.model.face import Result
from torchglm.nn.predictive import Predictive
from torchglm.rows.rows import kept_columns
from torchglm.store.exported import DIM, ROWS, ending, program_of, to_onnx
from torchglm.store.raw_columns import RawColumns
from torchglm.writing.files import replaced

LEVELS = "levels.json"  # in a program of torch: the levels of its columns of text, whose places are their codes


class RawScores(nn.Module):
    """`RawScores(result, level)(columns)`: what a fit says of raw columns by their names, see `nn.Predictive`.

    `columns` are numbers, and codes where the fit had text. Offset and exposure of the fit are columns like others.
    Of a run that is a network its columns go through the backbone. Raises `ValueError` for a fit without a formula, of
    many models, and one with random effects or splines.
    """

    def __init__(self, result: Result, level: float | None = None) -> None:
        super().__init__()
        network = result.context.get("network")
        spec = result.spec if network is None else network.spec
        self.body: nn.Module | None = None if network is None else network.body
        if spec is None or result.batch_shape:
            raise ValueError("a model file of raw columns is of one model that was fitted by a formula.")
        beside = [one.text for one in spec.random] or list(spec.absorbed_levels)
        if beside:
            what = "random effects" if spec.random else "absorbed factors"
            raise ValueError(
                f"the {what} {', '.join(beside)} are levels, which model files do not hold. Use torchglm predict."
            )
        self.design = RawColumns(spec)
        self.predictive = Predictive(result.head.requires_grad_(False), level)
        every = range(len(spec.names))
        # the intercept is the bias of a head; a plan has ones among its columns, which a backbone has not
        gone = (
            spec.ones if network is not None else (0,) if result.plan is None and result.head.bias is not None else ()
        )
        self.kept = [j for j in every if j not in gone]
        named = result.context.get("columns") or {}
        self.shifts = {role: named[role] for role in ("offset", "exposure") if role in named}

    @property
    def columns(self) -> list[str]:
        """The names of the columns it takes, in order."""
        return list(dict.fromkeys([*self.design.columns, *self.shifts.values()]))

    def forward(self, columns: dict[str, Tensor]) -> dict[str, Tensor]:
        """The outputs by name."""
        shift: Tensor | None = None
        for role, name in self.shifts.items():
            own = columns[name].double() if role == "offset" else columns[name].double().log()
            shift = own if shift is None else shift + own
        x = kept_columns(self.design(columns), self.kept)
        if self.body is not None:
            x = self.body(x.to(next(self.body.buffers()))).double()
        found: dict[str, Tensor] = self.predictive(x, shift)
        return found


def export_result(result: Result, path: Any, *, level: float | None = None) -> None:
    """Write a fit with a formula to `.onnx` or `.pt2`, an input for each raw column, see `RawScores`.

    In ONNX a column of text takes text, in a program of torch the places of its levels, which its extra file
    `levels.json` lists. Numbers are float64. Raises `ValueError` as `RawScores` and `export` do, and for a backbone
    that torch cannot export.
    """
    target, module = ending(path), RawScores(result, level).eval()
    levels = module.design.levels
    example = {name: torch.ones(ROWS, dtype=_dtype(name, levels)) for name in module.columns}
    rows = torch.export.Dim(DIM, min=1)
    try:
        program = program_of(module, (example,), ({name: {0: rows} for name in example},))
    except RuntimeError as error:
        if module.body is None:
            raise
        raise ValueError(f"torch cannot export the backbone of this run: {str(error).splitlines()[0]}") from error
    if target.suffix == ".pt2":
        with replaced(target) as draft, open(draft, "wb") as file:
            torch.export.save(program, file, extra_files={LEVELS: json.dumps(levels)})
        return
    made = to_onnx(program, list(example), module.predictive.names)
    with replaced(target) as draft:
        Path(draft).write_bytes(_with_text(made, levels))


def _dtype(name: str, levels: dict[str, list[str]]) -> torch.dtype:
    return torch.int64 if name in levels else torch.float64


def _with_text(model: bytes, levels: dict[str, list[str]]) -> bytes:
    """The model with text in the place of codes: an encoder before each such column."""
    if not levels:
        return model
    import onnx

    found = onnx.load_model_from_string(model)
    graph = found.graph
    for place in graph.input:
        if place.name not in levels:
            continue
        name, codes = place.name, f"{place.name}:code"
        for node in graph.node:
            node.input[:] = [codes if one == name else one for one in node.input]
        known = levels[name]
        graph.node.insert(
            0,
            onnx.helper.make_node(
                "LabelEncoder",
                [name],
                [codes],
                domain="ai.onnx.ml",
                keys_strings=known,
                values_int64s=list(range(len(known))),
                default_int64=-1,
            ),
        )
        place.type.tensor_type.elem_type = onnx.TensorProto.STRING
    if not any(one.domain == "ai.onnx.ml" for one in found.opset_import):
        found.opset_import.append(onnx.helper.make_opsetid("ai.onnx.ml", 2))
    return found.SerializeToString()
