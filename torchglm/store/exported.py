"""Models as files that run without torchglm: programs of torch.export (.pt2) and ONNX (.onnx)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchglm.model.face import GLMHead
from torchglm.nn.predictive import Predictive
from torchglm.store.constants import exact_
from torchglm.store.elementary import everywhere
from torchglm.writing.answering import answering
from torchglm.writing.files import replaced

ENDINGS = (".pt2", ".onnx")
ROWS = 3  # of an example; neither 0 nor 1, which torch.export takes for constants
DIM = "rows"


@answering
def export(
    model: nn.Module, path: Any, *, level: float | None = None, x: Any = None, head: str | None = None
) -> torch.export.ExportedProgram:
    """Write what a model says of new rows to a file: `.pt2`, for `torch.export.load`, or `.onnx`, for any runtime.

    The outputs are those of `nn.Predictive(model, level)`: `mean`, with `level` the ends `low` and `high` between which
    a response lies with that probability, of classes `probabilities`. The input is `x` `(rows, in_features)`, of a
    network without torch's own example `x=` a tensor as it takes it, whose first dimension is free. ONNX needs the
    packages onnx and onnxscript, and holds special functions written out, so that a runtime needs no more than
    exponentials. Returns the program. Raises `ValueError` for another ending, for a network without `x`, and as
    `nn.Predictive` does; `ImportError` without these packages.
    """
    target = ending(path)
    module = Predictive(model, level, head=head).eval()
    example = _example(model) if x is None else x
    dynamic = ({0: torch.export.Dim(DIM, min=1)},)
    program = program_of(module, (example,), dynamic)
    write(program, target, list(_named(example)), module.names)
    return program


def program_of(module: nn.Module, example: tuple[Any, ...], dynamic: Any) -> torch.export.ExportedProgram:
    """A module as a graph for inference."""
    with torch.no_grad():
        return torch.export.export(module, example, dynamic_shapes=dynamic)


def ending(path: Any) -> Path:
    """The path of a file to write. Raises `ValueError` for an ending that says no format."""
    target = Path(path)
    if target.suffix not in ENDINGS:
        raise ValueError(f"{path} must end in {' or '.join(ENDINGS)}, which say how the model is written.")
    return target


def write(program: torch.export.ExportedProgram, target: Path, inputs: list[str], outputs: list[str]) -> None:
    """Write a program in the format that the ending of its file says."""
    if target.suffix == ".pt2":
        with replaced(target) as draft:
            with open(draft, "wb") as file:
                torch.export.save(program, file)
        return
    made = to_onnx(program, inputs, outputs)
    with replaced(target) as draft:
        draft.write_bytes(made)


def to_onnx(program: torch.export.ExportedProgram, inputs: list[str], outputs: list[str]) -> bytes:
    """A program as an ONNX model, its special functions written out. Raises `ImportError` without onnxscript."""
    try:
        import onnxscript  # noqa: F401  torch.onnx translates with it
    except ImportError:
        raise ImportError("ONNX needs the packages onnx and onnxscript: pip install 'torchglm[onnx]'.") from None
    plain = exact_(program.run_decompositions(everywhere()))
    made = torch.onnx.export(
        plain, (), dynamo=True, input_names=inputs, output_names=outputs, optimize=True, verbose=False
    )
    assert made is not None
    return made.model_proto.SerializeToString()


def _example(model: nn.Module) -> Tensor:
    """Rows as a head takes them. Raises `ValueError` for a network."""
    if not isinstance(model, GLMHead):
        raise ValueError(f"what a {type(model).__name__} takes is not known. Pass x=, a few rows as it takes them.")
    dtype = model.weight.dtype if model.weight.dtype == torch.float64 else torch.float32
    return torch.zeros(ROWS, model.in_features, dtype=dtype, device=model.weight.device)


def _named(example: Any) -> list[str]:
    return ["x"] if isinstance(example, Tensor) else [f"x_{k}" for k in range(len(example))]
