"""Heads: several heads, of any families, on the features of one network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from torchglm.families.several import Classes
from torchglm.model.eta_loss import some
from torchglm.model.face import GLMHead
from torchglm.model.head_rows import plan_of_head
from torchglm.writing.answering import answering_init
from torchglm.writing.short import Short


@answering_init
class Heads(nn.Module, metaclass=Short):
    """`Heads({"frequency": GLMHead(64, "poisson"), "severity": GLMHead(64, "gamma")})`: a loss that is their sum.

    Calling it gives the mean of every head by its name. `loss(x, y, **roles)` takes `y` as a mapping of these names,
    of which some may be left out; a role is a tensor for all of them, or such a mapping. A response that is missing in
    some rows has weight 0 there, and may hold anything: `weights={"severity": (claims > 0).float()}`.

    The losses are negative log-likelihoods, and add as they are. With `uncertainty=True` each head whose law has no
    dispersion of its own to learn gets one, `exp(log_scale)`: half its mean unit deviance over it, and half its
    logarithm (the extended quasi-likelihood), so that no head outweighs the others for its unit alone.
    Raises `ValueError` for no head, for what is none, and for names that are none of these.
    Source: Nelder & Pregibon (1987), Biometrika 74(2); Kendall, Gal & Cipolla (2018), CVPR.
    """

    def __init__(self, heads: Mapping[str, GLMHead], uncertainty: bool = False) -> None:
        super().__init__()
        if not isinstance(heads, Mapping):
            raise TypeError(
                f"Heads takes heads by name, such as {{'frequency': GLMHead(...)}}, got {type(heads).__name__}."
            )
        for name, head in heads.items():
            if not isinstance(name, str):
                raise TypeError(f"the name of a head must be text, got {name!r}.")
            if not isinstance(head, GLMHead):
                raise ValueError(f"{name!r} is a {type(head).__name__}, no GLMHead. Heads takes heads by name.")
            if not name or "." in name or hasattr(nn.ModuleDict, name):
                raise ValueError(f"{name!r} cannot be the name of a head: torch keeps it, or it is empty or has a dot.")
            plan_of_head(head)  # classes that are not known are told now
        if not heads:
            raise ValueError("Heads needs at least one head: Heads({'frequency': GLMHead(...)}).")
        self.heads = nn.ModuleDict(heads)
        own = [name for name, head in heads.items() if uncertainty and not _own_scale(head)]
        self.log_scale = nn.ParameterDict({name: nn.Parameter(torch.zeros(())) for name in own})

    def __getitem__(self, name: str) -> GLMHead:
        head = self.heads[self._known(name)]
        assert isinstance(head, GLMHead)
        return head

    def __iter__(self) -> Iterator[str]:
        return iter(self.heads)

    def __len__(self) -> int:
        return len(self.heads)

    def forward(self, x: Tensor, offset: Mapping[str, Tensor] | Tensor | None = None) -> dict[str, Tensor]:
        """Name -> the mean of that head."""
        return {name: self[name](x, _of(offset, name)) for name in self}

    def losses(self, x: Tensor, y: Mapping[str, Tensor], **roles: Any) -> dict[str, Tensor]:
        """Name -> the mean loss of that head, of those that `y` names; 0 where it has no row."""
        return {name: mean for name, (mean, _) in self.means(x, y, **roles).items()}

    def means(self, x: Tensor, y: Mapping[str, Tensor], **roles: Any) -> dict[str, tuple[Tensor, Tensor]]:
        """Name -> the mean loss of that head and the weight of its rows, of those that `y` names."""
        if not isinstance(y, Mapping):
            raise TypeError(f"y must be responses by the names of heads ({', '.join(self)}), got {type(y).__name__}.")
        for role in roles.values():
            for name in role if isinstance(role, Mapping) else ():
                self._known(name)
        return {name: self._loss(name, x, y[self._known(name)], roles) for name in y}

    def loss(self, x: Tensor, y: Mapping[str, Tensor], **roles: Any) -> Tensor:
        """The sum of the mean losses of the heads that `y` names, weighed where they have a scale."""
        return self.combined(self.means(x, y, **roles), y, **roles)

    def combined(self, means: Mapping[str, tuple[Tensor, Tensor]], y: Mapping[str, Tensor], **roles: Any) -> Tensor:
        """`loss` from the `means` of the same `y` and roles."""
        total: Tensor | float = 0.0
        for name, (mean, rows) in means.items():
            if name in self.log_scale:
                scale = self.log_scale[name]
                deviance = mean - self._least(name, y[name], roles)
                mean = torch.where(rows > 0, deviance * (-scale).exp() + scale / 2, 0.0)
            total = total + mean
        if not isinstance(total, Tensor):
            raise ValueError(f"y names no head. Known: {', '.join(self)}.")
        return total

    def _loss(self, name: str, x: Tensor, y: Tensor, roles: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """The mean loss of a head, and the weight of its rows."""
        own = {role: _of(value, name) for role, value in roles.items()}
        loss, w = self[name].training_loss(x, y, **{role: value for role, value in own.items() if value is not None})
        total = w.sum()
        return loss.sum() / some(total), total.detach()

    def _least(self, name: str, y: Tensor, roles: Mapping[str, Any]) -> Tensor | float:
        """The mean loss of a model that has every response for its mean, so that what is left is half the deviance."""
        head = self[name]
        if isinstance(head.family, Classes):
            return 0.0
        own = {role: _of(value, name) for role, value in roles.items() if role not in ("offset", "exposure")}
        return head.least_loss(y, **{role: value for role, value in own.items() if value is not None})

    def _known(self, name: str) -> str:
        if name not in self.heads:
            raise ValueError(f"{name!r} is none of the heads. Known: {', '.join(self)}.")
        return name


def _own_scale(head: GLMHead) -> bool:
    """Whether the law of a head says itself how far responses lie from their means."""
    return head.whole_density and not isinstance(head.family, Classes)


def _of(value: Any, name: str) -> Any:
    """What a role is for a head: a tensor for all, or its own of a mapping."""
    return value.get(name) if isinstance(value, Mapping) else value
