"""What is done otherwise where a graph is traced: branches on values, and loops that end by them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop

State = tuple[Tensor, ...]
P = ParamSpec("P")
R = TypeVar("R")


def values_are_known(like: Tensor | None = None) -> bool:
    """False under `torch.compile`, inside a `torch.func` transform and of a meta tensor: no branch by values there."""
    if like is not None and like.is_meta:
        return False
    return not torch.compiler.is_compiling() and torch._C._functorch.peek_interpreter_stack() is None


def apart_from_graphs(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, which ends by the values it finds: `torch.compile` breaks its graph there and runs it as it is.

    Its derivatives are those of autograd, and what stands before and behind it is compiled. With `fullgraph=True` there
    is no way to break, which is said.
    """
    note = f"{function.__name__} looks at values, which no graph has. Call it outside, or without fullgraph=True."
    apart: Callable[P, R] | None = None

    @wraps(function)
    def call(*args: P.args, **given: P.kwargs) -> R:
        nonlocal apart
        if torch.compiler.is_dynamo_compiling():
            torch._dynamo.graph_break(msg=note)
        if "torch._dynamo" not in sys.modules:  # nothing is compiled: its import takes longer than many a fit
            return function(*args, **given)
        apart = apart or torch.compiler.disable(function)
        return apart(*args, **given)

    return call


def traced() -> bool:
    """Whether what runs becomes a graph, of `torch.compile` or `torch.export`."""
    return torch.compiler.is_compiling()


def constants(values: Sequence[float], like: Tensor) -> Tensor:
    """Numbers `(m,)` in the dtype and on the device of `like`; one by one in a graph, whose loops hold no tensors."""
    if traced():
        return torch.stack([like.new_full((), value) for value in values])
    return like.new_tensor(values)


def repeated(step: Callable[..., State], state: State, unfinished: Callable[..., Tensor], most: int) -> State:
    """`state = step(*state)` while `unfinished(*state)` is true anywhere, `most` times at most.

    In a graph it is one loop, which holds the step once and makes no more of them than the rows of a call need.
    Tensors of the state keep their shapes and dtypes.
    """
    if traced():
        return _loop(step, state, unfinished, most)
    for _ in range(most):
        if values_are_known(state[0]) and not bool(unfinished(*state).any()):
            break
        state = step(*state)
    return state


def _loop(step: Callable[..., State], state: State, unfinished: Callable[..., Tensor], most: int) -> State:
    def more(made: Tensor, *values: Tensor) -> Tensor:
        return (made < most) & unfinished(*values).any()

    def body(made: Tensor, *values: Tensor) -> State:
        return (made + 1, *(value.clone() for value in step(*values)))

    carried = tuple(value.detach().contiguous().clone() for value in state)
    made = torch.zeros((), dtype=torch.int64, device=carried[0].device)
    return tuple(while_loop(more, body, (made, *carried))[1:])
