"""A network that ends in a head: the head, and what the layers before it make of a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from torchglm.inputs import GLMBatch, Roles, as_batch
from torchglm.model.eta_loss import dropped_rows, without
from torchglm.model.face import GLMHead
from torchglm.model.head_rows import plan_of_head
from torchglm.model.spread import flat_rows

Before = Callable[[Any], Tensor]


def split(model: nn.Module, name: str | None = None) -> tuple[Before | None, GLMHead]:
    """What comes before the head (None: nothing), and the head, which `name` finds among the parts of the model.

    Raises `ValueError` where there is none, or its classes are not known.
    """
    plain = getattr(model, "_orig_mod", model)  # what torch.compile was given
    before, head = _parts(plain) if name is None else _named(plain, name)
    if plain is not model and isinstance(before, nn.Module):
        before = torch.compile(before)
    plan_of_head(head)
    return before, head


def _parts(model: nn.Module) -> tuple[Before | None, GLMHead]:
    if isinstance(model, GLMHead):
        return None, model
    if isinstance(model, nn.Sequential) and len(model) and isinstance(model[-1], GLMHead):
        return model[:-1], model[-1]
    backbone, head = getattr(model, "backbone", None), getattr(model, "head", None)
    if isinstance(backbone, nn.Module) and isinstance(head, GLMHead):
        return backbone, head
    raise ValueError(
        "a network needs a GLMHead: a head alone, an nn.Sequential that ends in one, or a module with .backbone "
        f"and .head; got {type(model).__name__}. For example: nn.Sequential(net, GLMHead(...)). Where the head has "
        "another name, say head='name'."
    )


def _named(model: nn.Module, name: str) -> tuple[Before | None, GLMHead]:
    head = dict(model.named_modules()).get(name)
    if not isinstance(head, GLMHead):
        known = [place for place, part in model.named_modules() if isinstance(part, GLMHead) and place]
        raise ValueError(
            f"{type(model).__name__} has no GLMHead named {name!r}. Its heads: {', '.join(known) or 'none'}."
        )
    return HandedTo(model, head), head


class HandedTo:
    """What a network hands to its head, by running it."""

    def __init__(self, model: nn.Module, head: GLMHead) -> None:
        self.model, self.head = model, head

    def __call__(self, x: Any) -> Tensor:
        """The features `(*N, in_features)`. Raises `ValueError` where the network does not call the head once."""
        seen: list[Tensor] = []

        def look(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            seen.append(given[0] if given else named["x"])

        handle = self.head.register_forward_pre_hook(look, with_kwargs=True)
        try:
            self.model(x)
        finally:
            handle.remove()
        if len(seen) != 1:
            raise ValueError(
                f"{type(self.model).__name__} called its head {len(seen)} times for one batch, which needs to be once. "
                "Of a compiled network compile the layers before the head alone."
            )
        return seen[0]


def readable(x: Any, roles: Roles) -> Any:
    """`x` with zeros in dropped rows: what they hold would reach the gradient of the layers before a head."""
    dropped = dropped_rows(roles)
    return x if dropped is None or not isinstance(x, Tensor) else without(x, dropped)


class Features:
    """The batches of a loader, on the head's device, with the features of each in the place of `x`.

    Sequences (*N, in_features) become rows.
    """

    def __init__(self, loader: Iterable[Any], head: GLMHead, features: Before | None) -> None:
        if not hasattr(loader, "__iter__") and not hasattr(loader, "__getitem__"):
            raise TypeError(
                f"loader must be batches that can be read again, such as a DataLoader or TensorBatches, got {loader!r}."
            )
        self.loader, self.head, self.features = loader, head, features

    def __iter__(self) -> Iterator[GLMBatch]:
        for batch in self.loader:
            rows = as_batch(batch, self.head.link).to(self.head.weight.device)
            if self.features is not None:
                with torch.no_grad():
                    rows = rows._replace(x=self.features(rows.x))
            rows = rows._replace(x=rows.x.to(torch.promote_types(rows.x.dtype, torch.float32)))
            yield flat_rows(self.head, rows)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """All parts of a module in evaluation mode (no dropout, running averages), and no random number spent."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        for part, training in modes:
            part.training = training
