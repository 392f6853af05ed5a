"""What every metric of a family shares: its model, its sums as the state of a torchmetrics metric, its `update`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from torchglm import families, links
from torchglm.families import Family
from torchglm.inputs import Roles
from torchglm.links import Link
from torchglm.metrics.rows import Column, Scored, scored

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from torchglm.inputs.roles import RoleValues


class FamilyMetric(Metric):
    """A metric of a family whose state is one tensor of sums: a subclass gives the sums of rows, and their value.

    A `torchmetrics.MetricCollection` lets metrics share a state of one name if it holds the same numbers after the
    first batch, which may hold no row that counts. So the name tells apart whatever makes other sums: the formula,
    the family with its parameters, the link, and what a subclass names in `given`.
    The family is held, not owned: it is no submodule, so that a metric adds nothing to a state_dict.
    """

    is_differentiable = False
    full_state_update = False
    size: tuple[int, ...] = (2,)
    offset_counts = False  # True where the value depends on offsets, so that exposure= needs a link for rates

    def __init__(
        self, family: str | Family, link: str | Link | None = None, given: Sequence[Any] = (), **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        known = families.get(family)
        self._model = (known, known.default_link if link is None else links.get(link))
        formula = type(self)._part
        readable = f"{formula.__qualname__.split('.')[-2]}_{self.family.name}_{self.link.name}".lower()
        parts = [formula.__module__, formula.__qualname__, *self._model, *given]
        self._state = f"{re.sub(r'[^a-z0-9]+', '_', readable)}_{fingerprint(parts)}"
        self.add_state(self._state, torch.zeros(self.size, dtype=torch.float64), dist_reduce_fx=self._merge())

    @property
    def family(self) -> Family:
        """The family whose formulas are used."""
        return self._model[0]

    @property
    def link(self) -> Link:
        """The link, where a null model needs one."""
        return self._model[1]

    @property
    def sums(self) -> Tensor:
        """The sums so far."""
        return getattr(self, self._state)

    def update(self, mu: Column, y: Column, **roles: Unpack[RoleValues]) -> None:
        """Take in rows; `ValueError` where shapes differ, or where an exposure has no meaning for the link."""
        beside = Roles.of(roles, type(self).__name__)
        if self.offset_counts:
            beside.check_link(self.link)
        with self._for_each(mu):
            part = self._part(scored(self.family, mu, y, beside))
        merge = self._merge()
        joined = self.sums + part if merge == "sum" else merge(torch.stack([self.sums, part]))
        setattr(self, self._state, joined)

    @contextmanager
    def _for_each(self, mu: Column) -> Iterator[None]:
        """With the shape of its response for each mean `(*N, R)`, where the responses have shapes of their own."""
        family, link = self._model
        several = {name: value for name, value in family.shapes.items() if value.dim()}
        if not several or not isinstance(mu, Tensor) or mu.shape[-1:] != next(iter(several.values())).shape:
            yield
            return
        each = family.with_parameters({name: value.expand(mu.shape).reshape(-1) for name, value in several.items()})
        self._model = each, link
        try:
            yield
        finally:
            self._model = family, link

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draw one value, or a sequence of values over steps, with matplotlib."""
        return self._plot(val, ax)

    def _merge(self) -> Any:
        return "sum"

    def _part(self, rows: Scored) -> Tensor:
        raise NotImplementedError


def fingerprint(parts: Sequence[Any]) -> str:
    """Sixteen letters that differ where the parts do, and are the same in every process.

    A module is told by its classes, attributes, parameters and buffers; a tensor by its values.
    """
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            found.update(repr(tuple(part.shape)).encode())
            found.update(part.detach().cpu().double().numpy().tobytes())
        elif isinstance(part, nn.Module):
            found.update(fingerprint([inner for module in part.modules() for inner in _held(module)]).encode())
        else:
            found.update(repr(part).encode())
        found.update(b";")
    return found.hexdigest()[:16]


def _held(module: nn.Module) -> list[Any]:
    """The class of a module and what it holds itself, with names."""
    own = [pair for name, value in vars(module).items() if name not in _OF_EVERY_MODULE for pair in (name, value)]
    tensors = [
        pair
        for name, value in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
        for pair in (name, value)
    ]
    return [type(module).__module__, type(module).__qualname__, *own, *tensors]


_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
