"""Plans: how several linear predictors per row are made of the columns of one design.

A family of K predictors is a plain model with K rows for each observation. Its columns come in blocks that share a
matrix `C` (K, r): `eta = offset + sum_b C_b Theta_b x_b`, with `Theta_b` (r, m) the coefficients of the m columns of a
block. All columns in all predictors is one block with `C = I`; each predictor its own columns are K blocks with the
unit vectors; slopes that all predictors share have a `C` of one column. Coefficients are in the order of the blocks,
within one in the order of the columns of `C`, and within these in that of the columns of the design.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class PlanBlock:
    """`columns` of the design that enter the predictors through `contrast` (K, r): r coefficients for each.

    A range are the levels of an effect, index columns that are looked up.
    """

    columns: tuple[int, ...] | range
    contrast: Tensor

    @property
    def width(self) -> int:
        """How many coefficients each of the columns has."""
        return self.contrast.shape[1]

    @property
    def size(self) -> int:
        """The number of coefficients."""
        return self.width * len(self.columns)

    @cached_property
    def is_unit(self) -> bool:
        """Whether every predictor has coefficients of its own: `C = I`."""
        return len(self.contrast) == self.width and bool((self.contrast == torch.eye(self.width)).all())

    @cached_property
    def entries(self) -> list[list[tuple[int, float]]]:
        """For every column of the contrast the predictors that it enters, each with its factor."""
        return [[(k, float(row[t])) for k, row in enumerate(self.contrast) if row[t] != 0] for t in range(self.width)]


@dataclass(frozen=True, eq=False)
class Plan:
    """How the columns of a design make so many `predictors`; those in `ones` are columns of ones."""

    predictors: int
    blocks: tuple[PlanBlock, ...]
    ones: tuple[int, ...] = (0,)

    @staticmethod
    def each(columns: Sequence[Sequence[int]], ones: tuple[int, ...] = (0,)) -> Plan:
        """Every predictor has columns of its own."""
        unit = torch.eye(len(columns), dtype=torch.float64)
        blocks = tuple(PlanBlock(tuple(own), unit[:, k : k + 1]) for k, own in enumerate(columns))
        return Plan(len(columns), blocks, ones)

    @staticmethod
    def all(columns: Sequence[int], predictors: int, ones: tuple[int, ...] = (0,)) -> Plan:
        """Every predictor has all columns."""
        return Plan(predictors, (PlanBlock(tuple(columns), torch.eye(predictors, dtype=torch.float64)),), ones)

    @cached_property
    def columns(self) -> int:
        """The number of coefficients."""
        return sum(block.size for block in self.blocks)

    @property
    def reach(self) -> int:
        """How many columns a design has at least that this is a plan of."""
        return max((column + 1 for block in self.blocks for column in block.columns), default=0)

    @cached_property
    def slices(self) -> tuple[slice, ...]:
        """Where the coefficients of every block stand."""
        ends = list(accumulate((block.size for block in self.blocks), initial=0))
        return tuple(slice(*pair) for pair in zip(ends, ends[1:], strict=False))

    def select(self, kept: Sequence[int]) -> Plan:
        """The plan of some of the coefficients, in ascending order."""
        wanted, blocks = set(kept), list[PlanBlock]()
        for block, place in zip(self.blocks, self.slices, strict=True):
            m = len(block.columns)
            own = [
                tuple(block.columns[j] for j in range(m) if place.start + t * m + j in wanted)
                for t in range(block.width)
            ]
            if len(set(own)) == 1:
                blocks.append(PlanBlock(own[0], block.contrast))
            else:
                blocks += [PlanBlock(columns, block.contrast[:, t : t + 1]) for t, columns in enumerate(own)]
        return Plan(self.predictors, tuple(block for block in blocks if block.columns), self.ones)

    def first(self, columns: int) -> Plan:
        """The plan of the first coefficients, where a block begins behind them: this one where there is none."""
        blocks = tuple(b for b, place in zip(self.blocks, self.slices, strict=True) if place.start < columns)
        return self if len(blocks) == len(self.blocks) else Plan(self.predictors, blocks, self.ones)

    @cached_property
    def free(self) -> tuple[int, ...]:
        """The coefficients of columns of ones."""
        return tuple(self.places(self.ones))

    def places(self, columns: Sequence[int]) -> list[int]:
        """The coefficients of some columns of the design, in all predictors, in ascending order."""
        each = (column for block in self.blocks for _ in range(block.width) for column in block.columns)
        return [place for place, column in enumerate(each) if column in columns]

    def alike(self, columns: Sequence[int]) -> list[list[int]]:
        """The coefficients of some columns of the design in their order, for each place of the plan that has them."""
        return [
            [place.start + t * len(block.columns) + block.columns.index(column) for column in columns]
            for block, place in zip(self.blocks, self.slices, strict=True)
            for t in range(block.width)
            if set(columns) <= set(block.columns)
        ]

    def is_constant(self, block: PlanBlock) -> bool:
        """Whether a block is a column of ones alone."""
        return len(block.columns) == 1 and block.columns[0] in self.ones

    def constants(self) -> Plan:
        """The plan of the null model: the constants of the predictors alone, on a design of ones."""
        own = (PlanBlock((0,), block.contrast) for block in self.blocks if set(self.ones) & set(block.columns))
        return Plan(self.predictors, tuple(own))

    def to_dict(self) -> dict[str, Any]:
        """The plan as numbers and lists."""
        blocks = [{"columns": list(block.columns), "contrast": block.contrast.tolist()} for block in self.blocks]
        return {"predictors": self.predictors, "ones": list(self.ones), "blocks": blocks}

    @staticmethod
    def from_dict(state: dict[str, Any]) -> Plan:
        """The plan that `to_dict` wrote. Raises `ValueError`, `KeyError` or `TypeError` for anything else."""
        number = int(state["predictors"])
        blocks = [
            PlanBlock(
                tuple(int(column) for column in block["columns"]),
                torch.tensor(block["contrast"], dtype=torch.float64).reshape(number, -1),
            )
            for block in state["blocks"]
        ]
        return Plan(number, tuple(blocks), tuple(int(place) for place in state["ones"]))
