"""Rows drawn evenly from all that come by, in one pass, the same ones however they are cut into chunks."""

from __future__ import annotations

import torch
from torch import Tensor

_MIX = ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15))  # the constants of splitmix64, as signed integers
_STEP = -0x61C8864680B583EB


class EvenSample:
    """The `most` cells of smallest hashed number among all that were offered: each cell is as likely as any other.

    A cell is a row of a model; its number says where it stands among all, so that sorted rows, rows in turns and
    rows in any chunks are met alike. `values` (k, c) are the columns of those kept, in the order of their numbers.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.key = torch.zeros(0, dtype=torch.int64)
        self.number = torch.zeros(0, dtype=torch.int64)
        self.values: Tensor | None = None

    def offer(self, number: Tensor, columns: Tensor) -> None:
        """Take in cells `number` (k,) whose columns are `columns` (c, k)."""
        key = hashed(number)
        own = self.key.to(key.device)
        if len(own) == self.most and self.most:
            near = key <= own[-1]
            key, number, columns = key[near], number[near], columns[:, near]
        elif len(key) > self.most:
            near = key.topk(self.most, largest=False).indices
            key, number, columns = key[near], number[near], columns[:, near]
        values = columns.T if self.values is None else torch.cat([self.values, columns.T])
        key, number = torch.cat([own, key]), torch.cat([self.number.to(number.device), number])
        order = key.argsort()[: self.most]
        self.key, self.number, self.values = key[order], number[order], values[order]

    def columns(self) -> Tensor:
        """(c, k) the columns of the cells kept, in the order of their numbers."""
        assert self.values is not None  # something was offered
        return self.values[self.number.argsort()].T


def hashed(number: Tensor) -> Tensor:
    """Whole numbers scattered over all of int64, two never to one place (splitmix64 of Steele, Lea & Flood, 2014)."""
    z = number * _STEP
    for shift, factor in _MIX:
        z = (z ^ (z >> shift & (1 << 64 - shift) - 1)) * factor
    return z ^ (z >> 31 & (1 << 33) - 1)
