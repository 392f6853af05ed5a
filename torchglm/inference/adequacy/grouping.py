"""Groups of rows of like prediction, in which observed and expected numbers are compared."""

from __future__ import annotations

import torch
from torch import Tensor

SPARSE = 5.0  # an expected count below which chi-squared is a poor law for a cell


def grouped(value: Tensor, weight: Tensor, groups: int) -> Tensor:
    """(B, n) the group of every row, by `value` from low to high, of about equal weight; equal values are together.

    Equal values go where the middle of their whole weight lies, so that it is all one whether rows are counted or
    written out, and in which order. Raises `ValueError` for fewer than 3 groups.
    """
    if groups < 3:
        raise ValueError(f"groups must be 3 or more, got {groups}.")
    ordered, order = torch.where(weight > 0, value, torch.inf).sort(-1)
    sorted_weight = weight.gather(-1, order)
    tie = _ties(ordered)
    total = torch.zeros_like(sorted_weight).scatter_add(-1, tie, sorted_weight)
    middle = (total.cumsum(-1) - total / 2).gather(-1, tie)
    group = (middle / sorted_weight.sum(-1, keepdim=True) * groups).long().clamp(0, groups - 1)
    return torch.empty_like(group).scatter_(-1, order, group)


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


def _ties(ordered: Tensor) -> Tensor:
    """(B, n) the number of the value of every row among the different ones of sorted values, rounding apart."""
    gap = ordered[..., 1:] - ordered[..., :-1]
    new = gap > torch.finfo(ordered.dtype).eps ** 0.75 * ordered[..., 1:].abs()
    return torch.nn.functional.pad(new.cumsum(-1), (1, 0))
