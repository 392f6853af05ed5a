"""Groups of rows of like prediction, in which observed and expected numbers are compared."""

from __future__ import annotations

import torch
from torch import Tensor

SPARSE = 5.0  # an expected count below which chi-squared is a poor law for a cell


def grouped(value: Tensor, weight: Tensor, groups: int) -> Tensor:
    """(B, n) the group of every row, by `value` from low to high, of about equal weight; equal values are together.

    Raises `ValueError` for fewer than 3 groups.
    """
    if groups < 3:
        raise ValueError(f"groups must be 3 or more, got {groups}.")
    ordered, order = torch.where(weight > 0, value, torch.inf).sort(-1)
    sorted_weight = weight.gather(-1, order)
    place = sorted_weight.cumsum(-1) - sorted_weight / 2
    group = (place / sorted_weight.sum(-1, keepdim=True) * groups).long().clamp(0, groups - 1)
    return torch.empty_like(group).scatter_(-1, order, _tied(group, ordered))


def group_sums(group: Tensor, groups: int, value: Tensor) -> Tensor:
    """(B, groups) the sums of values (B, n) over the rows of each group."""
    return value.new_zeros(*value.shape[:-1], groups).scatter_add(-1, group, value)


def few_expected(few: Tensor, groups: int) -> tuple[str, ...]:
    """The note that some of the cells (B, ...) expect too few."""
    most = int(few.flatten(1).sum(-1).max())
    return (
        (
            f"{most} of {groups} groups expect fewer than {SPARSE:g} of one kind: the p-value is rough. Use fewer "
            "groups.",
        )
        if most
        else ()
    )


def _tied(group: Tensor, sorted_value: Tensor) -> Tensor:
    """The groups with equal values put into the group of the first of them."""
    new = torch.ones_like(group, dtype=torch.bool)
    new[..., 1:] = sorted_value[..., 1:] != sorted_value[..., :-1]
    first = torch.where(new, torch.arange(group.shape[-1], device=group.device), 0).cummax(-1).values
    return group.gather(-1, first)
