"""Numbers of a graph in all of their digits: the way to ONNX rounds what is written beside float64 to float32.

So each number becomes a tensor that is made, exactly, of numbers that float32 holds.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor

_aten = torch.ops.aten
_FILLS = (_aten.scalar_tensor.default, _aten.full.default, _aten.full_like.default)
_OF_TENSORS = {
    _aten.lt.Scalar: _aten.lt.Tensor,
    _aten.le.Scalar: _aten.le.Tensor,
    _aten.gt.Scalar: _aten.gt.Tensor,
    _aten.ge.Scalar: _aten.ge.Tensor,
    _aten.eq.Scalar: _aten.eq.Tensor,
    _aten.ne.Scalar: _aten.ne.Tensor,
    _aten.clamp.default: _aten.clamp.Tensor,
    _aten.clamp_min.default: _aten.clamp_min.Tensor,
    _aten.clamp_max.default: _aten.clamp_max.Tensor,
    _aten.pow.Tensor_Scalar: _aten.pow.Tensor_Tensor,
    _aten.pow.Scalar: _aten.pow.Tensor_Tensor,
    _aten.remainder.Scalar: _aten.remainder.Tensor,
    _aten.fmod.Scalar: _aten.fmod.Tensor,
    _aten.masked_fill.Scalar: _aten.masked_fill.Tensor,
    **{op: op for op in (_aten.add.Tensor, _aten.sub.Tensor, _aten.mul.Tensor, _aten.div.Tensor)},
}
_LEAST, _MOST = 2.0**-60, 2.0**60  # between which the rest of a number has parts in float32
_STEP = 60  # of an exponent that is taken off at once


def exact_(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Write the numbers beside float64 in a program anew, in place; `rounded` of it is then empty."""
    for module in program.graph_module.modules():
        if isinstance(module, fx.GraphModule):
            for node in list(module.graph.nodes):
                _rewrite(module.graph, node)
            module.graph.lint()
            module.recompile()
    return program


def rounded(program: torch.export.ExportedProgram) -> list[str]:
    """The operations of a program beside whose float64 stands a number that float32 does not hold."""
    modules = [module for module in program.graph_module.modules() if isinstance(module, fx.GraphModule)]
    return [str(node.target) for module in modules for node in module.graph.nodes if _numbers(node)]


def _numbers(node: fx.Node) -> list[float]:
    """The numbers of a node that would be rounded."""
    if node.op != "call_function" or not _is_double(node):
        return []
    given = [*node.args, *node.kwargs.values()]
    return [value for value in given if isinstance(value, float) and not _held(value)]


def _is_double(node: fx.Node) -> bool:
    """Whether a node computes in float64: by what it puts out, or what it compares."""
    own = [node, *node.all_input_nodes]
    found = [value.meta.get("val") for value in own]
    return any(isinstance(value, Tensor) and value.dtype == torch.float64 for value in found)


def _held(value: float) -> bool:
    """Whether float32 holds a number, zero, infinity and NaN among them."""
    if value != value or value == 0 or math.isinf(value):
        return True
    return _single(value) == value and abs(value) >= float(np.finfo(np.float32).tiny)


def _single(value: float) -> float:
    """A number as float32 holds it."""
    with np.errstate(over="ignore", under="ignore"):
        return float(np.float32(value))


def _rewrite(graph: fx.Graph, node: fx.Node) -> None:
    if not _numbers(node):
        return
    with graph.inserting_before(node):
        if node.target in _FILLS:
            place = 0 if node.target is _aten.scalar_tensor.default else 1
            made = _number(graph, float(node.args[place]), node)  # type: ignore[arg-type]
            if place:
                zero = _call(graph, node, node.target, (node.args[0], 0.0), dict(node.kwargs))
                made = _call(graph, node, _aten.add.Tensor, (zero, made))
            node.replace_all_uses_with(made)
            graph.erase_node(node)
        elif node.target in _OF_TENSORS and "alpha" not in node.kwargs:
            node.args = tuple(_number(graph, v, node) if isinstance(v, (int, float)) else v for v in node.args)
            node.kwargs = {
                name: _number(graph, v, node) if isinstance(v, (int, float)) else v for name, v in node.kwargs.items()
            }
            node.target = _OF_TENSORS[node.target]
        elif "alpha" in node.kwargs:
            alpha = _number(graph, float(node.kwargs["alpha"]), node)  # type: ignore[arg-type]
            scaled = _call(graph, node, _aten.mul.Tensor, (node.args[1], alpha))
            node.args, node.kwargs = (node.args[0], scaled), {}


def _number(graph: fx.Graph, value: float, node: fx.Node) -> fx.Node:
    """A number as a tensor without dimensions, made of parts of 24 bits and powers of 2."""
    options = {"dtype": torch.float64}
    parts, power = _parts(float(value))
    made = _call(graph, node, _aten.scalar_tensor.default, (parts[0],), options)
    for part in parts[1:]:
        made = _call(graph, node, _aten.add.Tensor, (made, part))
    while power:
        step = max(-_STEP, min(_STEP, power))
        made, power = _call(graph, node, _aten.mul.Tensor, (made, 2.0**step)), power - step
    return made


def _parts(value: float) -> tuple[list[float], int]:
    """Numbers of 24 bits, and a power of 2 that multiplies their sum."""
    power = 0
    if math.isfinite(value) and value and not _LEAST < abs(value) < _MOST:
        value, power = math.frexp(value)
    parts = [_single(value)]
    while math.isfinite(value) and sum(parts) != value:
        parts.append(_single(value - sum(parts)))
    return parts, power


def _call(graph: fx.Graph, node: fx.Node, target: Any, args: tuple[Any, ...], kwargs: Any = None) -> fx.Node:
    """A node with the value it has for shapes, in the mode of the one it stands before."""
    made = graph.call_function(target, args, kwargs or {})
    values = [one.meta.get("val") for one in [node, *node.all_input_nodes]]
    mode = next(value.fake_mode for value in values if isinstance(value, FakeTensor))
    own = fx.node.map_arg((args, kwargs or {}), lambda one: one.meta["val"])
    with mode:
        made.meta["val"] = target(*own[0], **own[1])
    return made
