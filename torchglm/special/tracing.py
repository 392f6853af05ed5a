"""What is done otherwise where a graph is traced: branches on values, and loops that end by them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop

State = tuple[Tensor, ...]


def values_are_known(like: Tensor | None = None) -> bool:
    """False under `torch.compile`, inside a `torch.func` transform and of a meta tensor: no branch by values there."""
    if like is not None and like.is_meta:
        return False
    return not torch.compiler.is_compiling() and torch._C._functorch.peek_interpreter_stack() is None


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
