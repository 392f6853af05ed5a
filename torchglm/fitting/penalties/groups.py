"""Lengths of groups of coefficients: the columns of a term are in or out together."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from torchglm.fitting.group_step import Lengths, group_step
from torchglm.fitting.penalties.base import ONE, columns_in, is_number, listed_in, numbers, position, slope_places
from torchglm.fitting.penalties.elastic_net import listed
from torchglm.fitting.penalties.one_strength import OneStrength

Groups = Mapping[str, Sequence[int | str]] | Sequence[Any]


class GroupLasso(OneStrength):
    """`strength sum_g f_g ((1 - l1_ratio) sqrt(m_g) |b_g| + l1_ratio sum_j |b_j|)`, `|b_g|` the length of a group.

    A group of `m_g` columns is in or out as one; with `l1_ratio` above 0 columns inside it may be out as well (sparse
    group lasso). `groups` are the terms of a formula where they are not given (with classes a term in all of them), or
    a label for each column (the intercept has none), or columns by name or by position in `coef` from 0: `{"dose":
    ["d1", "d2"]}` or `[[1, 2], [3]]`; columns in no group are not penalised. `factor` is `f_g`, one for each group, and
    0 for one that is always in. `strength` is a number, or one for each model of a batch `(*B,)`. Columns are not
    standardised. Raises `ValueError` for groups that share a column or have none, and for strengths and shares out of
    range. Source: Yuan & Lin (2006), J. R. Stat. Soc. B 68(1); Simon et al. (2013), J. Comput. Graph. Stat. 22(2).
    """

    def __init__(
        self,
        strength: float | Tensor,
        groups: Groups | None = None,
        l1_ratio: float = 0.0,
        factor: Sequence[float] | Tensor | None = None,
    ) -> None:
        super().__init__(strength)
        if not is_number(l1_ratio) or not 0 <= l1_ratio <= 1:
            raise ValueError(f"l1_ratio must lie between 0 (groups alone) and 1 (the lasso), got {l1_ratio!r}.")
        _check_groups(groups)
        self.l1_ratio, self.groups = float(l1_ratio), groups
        self.factor = None if factor is None else numbers(factor, "factor", "numbers, one for each group")
        self.places: list[list[int]] = []
        self.said: list[str] = []
        self.multiple: Tensor | None = None  # (G,) the factor of every group
        self.p = 0

    @property
    def smooth(self) -> bool:
        return False

    def of_terms(self, terms: Mapping[str, Sequence[int]]) -> GroupLasso:
        """The same penalty with the places of terms for groups, where none were given."""
        if self.groups is not None:
            return self
        other = copy.copy(self)
        other.groups = {name: list(at) for name, at in terms.items()}
        return other

    def named(self, names: Sequence[str]) -> GroupLasso:
        other = copy.copy(self)
        if isinstance(self.groups, Mapping):
            other.groups = {
                name: [position(column, names, f"group {name!r}") for column in at] for name, at in self.groups.items()
            }
        elif self.groups is not None and _of_columns(self.groups):
            other.groups = [
                [position(column, names, f"group {g}") for column in at] for g, at in enumerate(self.groups)
            ]
        return other

    def expand(self, constants: Sequence[int], p: int, batch: torch.Size = ONE) -> GroupLasso:
        if self.groups is None:
            raise ValueError(
                "GroupLasso has no groups, and the columns come from no formula whose terms they are. Give groups=: a "
                "label for each column, or lists of columns."
            )
        other = self.of_batch(batch)
        found = _places(self.groups, slope_places(constants, p))
        _check_places(found, p)
        other.places, other.said, other.p = list(found.values()), list(found), p
        other.multiple = _factors(self.factor, other.said)
        return other

    def with_columns(self, more: int) -> GroupLasso:
        """The same penalty with so many columns behind, which have none."""
        other = copy.copy(self)
        other.p = self.p + more
        return other

    def lengths(self, total: Tensor) -> Lengths:
        """The groups with their weights times the total weight (B,)."""
        assert self.multiple is not None
        own = (total * self.strength.to(total.device)).unsqueeze(-1) * self.multiple.to(total.device)  # (B, G)
        root = torch.tensor([float(len(at)) for at in self.places], dtype=own.dtype, device=own.device).sqrt()
        l1 = own.new_zeros(len(total), self.p)
        for g, at in enumerate(self.places):
            l1[:, at] = self.l1_ratio * own[:, g, None]
        return Lengths(self.places, (1 - self.l1_ratio) * own * root, l1)

    def kink(self, coef: Tensor, total: Tensor) -> Tensor:
        return self.lengths(total).value(coef)

    def free(self, coef: Tensor, total: Tensor) -> Tensor:
        return (coef != 0) | ~self.lengths(total).penalised()

    def holds(self, coef: Tensor, total: Tensor) -> Tensor:
        return self.lengths(total).penalised()

    def step(self, curvature: Tensor, score: Tensor, coef: Tensor, total: Tensor, keep: Tensor) -> Tensor:
        return group_step(curvature, score, coef, self.lengths(total), keep)

    def excess(self, curvature: Tensor, score: Tensor, coef: Tensor, total: Tensor, keep: Tensor) -> Tensor:
        return torch.where(keep, self.lengths(total).excess(score, coef), 0.0)

    def curved(self, coef: Tensor, total: Tensor) -> Tensor | None:
        return self.lengths(total).curvature(coef)

    def __repr__(self) -> str:
        sparse = f", l1_ratio={self.l1_ratio:g}" if self.l1_ratio else ""
        count = f", {len(self.places)} group{'s' * (len(self.places) > 1)}" if self.places else ""
        return f"GroupLasso(strength={listed(self.strength)}{sparse}{count})"


def _of_columns(groups: Sequence[Any]) -> bool:
    """Whether groups are lists of columns, and not a label for each column."""
    return len(groups) > 0 and all(isinstance(one, (list, tuple)) for one in groups)


def _places(groups: Groups, slopes: list[int]) -> dict[str, list[int]]:
    """The columns of every group by its name."""
    if isinstance(groups, Mapping):
        return {str(name): [int(column) for column in at] for name, at in groups.items()}
    own = groups.tolist() if hasattr(groups, "tolist") else list(groups)
    if _of_columns(own):
        return {str(g): [int(column) for column in at] for g, at in enumerate(own)}
    if len(own) != len(slopes):
        raise ValueError(
            f"groups has {len(own)} labels for {len(slopes)} columns. Give one for each column (the intercept has "
            "none), or lists of columns: [[1, 2], [3]]."
        )
    found: dict[str, list[int]] = {}
    for label, place in zip(own, slopes, strict=True):
        found.setdefault(str(label), []).append(place)
    return found


def _check_places(found: Mapping[str, list[int]], p: int) -> None:
    """Raise `ValueError` for groups without columns, with columns that are not there, or that share one."""
    if not found:
        raise ValueError("groups is empty. Give at least one group of columns.")
    seen: dict[int, str] = {}
    for name, at in found.items():
        if not at:
            raise ValueError(f"group {name!r} has no columns. Leave it out.")
        for column in at:
            if not 0 <= column < p:
                raise ValueError(
                    f"group {name!r} has column {column} and the fit has {p} coefficients, counted from 0."
                )
            if column in seen:
                raise ValueError(f"column {column} is in the groups {seen[column]!r} and {name!r}. Put it into one.")
            seen[column] = name


def _check_groups(groups: Groups | None) -> None:
    """Raise `TypeError` for groups that are no labels, and whose columns are no lists."""
    if isinstance(groups, Mapping):
        for name, at in groups.items():
            columns_in(at, f"group {name!r}")
        return
    kind = "a label for each column, lists of columns, or lists of columns by name"
    found = [] if groups is None else listed_in(groups, "groups", kind)
    if _of_columns(found):
        for g, at in enumerate(found):
            columns_in(at, f"group {g}")
    elif any(isinstance(one, (list, tuple, dict)) or one is None for one in found):
        raise TypeError(f"groups must be {kind}, got {groups!r}.")


def _factors(given: Tensor | None, names: Sequence[str]) -> Tensor:
    """(G,) the factor of every group."""
    if given is None:
        return torch.ones(len(names), dtype=torch.float64)
    if given.shape != (len(names),) or not bool((torch.isfinite(given) & (given >= 0)).all()):
        raise ValueError(
            f"factor must be a finite number >= 0 for each of the {len(names)} groups ({', '.join(names[:6])}"
            f"{', …' if len(names) > 6 else ''}), got {given.tolist()}."
        )
    return given
