"""A device that is not there: tensors that compute on the CPU and mix with those of the CPU as little as a GPU's do.

`Card` tensors say that they lie on the device `meta`, and on CUDA; `card()` lists what would have the processor wait:
copies to the CPU, and looks at values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

HERE = torch.device("meta")
MOVES = ("copy_", "index", "index_put_", "index_put")  # that take tensors of both


class Card(Tensor):
    """A tensor on the device that is not there; `held` are its values. torch itself takes it for one of the CPU."""

    held: Tensor
    is_cuda = True  # type: ignore[assignment]
    device = HERE  # type: ignore[assignment]
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, held: Tensor) -> Card:
        made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype
        )
        made.held = held
        return made

    def to(self, *args: Any, device: Any = None, **options: Any) -> Tensor:  # type: ignore[override]
        """As a tensor's own, which would find itself on the CPU."""
        wanted = [torch.device(v) for v in (*args, device) if isinstance(v, (torch.device, str))]
        rest = [v for v in args if not isinstance(v, (torch.device, str))]
        options.pop("non_blocking", None)
        if wanted and wanted[0] != HERE:
            Counted.now().waits.append("copy")
            return self.held.clone().to(*rest, **options)
        return super().to(*rest, **options) if rest or options else self

    def cpu(self) -> Tensor:  # type: ignore[override]
        return self.to("cpu")

    def numpy(self, **options: Any) -> Any:
        raise TypeError("numpy takes no tensor of a card")

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{function}: a Card outside card()")


class Counted(TorchDispatchMode):
    """Runs what touches a Card on its values; `waits` are the operators that would wait for the device."""

    one: Counted | None = None

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    @staticmethod
    def now() -> Counted:
        assert Counted.one is not None, "a Card outside card()"
        return Counted.one

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        flat, _ = tree_flatten((args, kwargs))
        cards, there = [v for v in flat if isinstance(v, Card)], kwargs.get("device") == HERE
        if not cards and not there:
            return function(*args, **kwargs)
        name = function._schema.name.removeprefix("aten::")
        if cards and name not in MOVES and any(type(v) is Tensor and v.dim() for v in flat):
            raise RuntimeError(f"{name}: tensors on the card and on the CPU")
        if name in ("_local_scalar_dense", "nonzero", "equal"):
            self.waits.append(name)
        if there:
            kwargs["device"] = torch.device("cpu")
        out = function(*tree_map(_held, args), **tree_map(_held, kwargs))
        if function._schema.is_mutable and isinstance(args[0], Tensor):
            return args[0]
        return tree_map(lambda v: Card(v) if isinstance(v, Tensor) else v, out)


class Made(TorchFunctionMode):
    """What makes tensors of numbers, which no dispatch sees."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if function not in (torch.tensor, torch.as_tensor) or kwargs.get("device") != HERE:
            return function(*args, **kwargs)
        if isinstance(args[0], Card):
            return args[0].to(kwargs.get("dtype") or args[0].dtype)
        return Card(function(*args, **(kwargs | {"device": "cpu"})))


def _held(value: Any) -> Any:
    return value.held if isinstance(value, Card) else value


@contextmanager
def card() -> Iterator[tuple[Counted, Callable[[Tensor], Tensor]]]:
    """While it lasts there is such a device: what is counted, and how a tensor gets there."""
    with Made(), Counted() as counted:
        Counted.one = counted
        try:
            yield counted, Card
        finally:
            Counted.one = None
