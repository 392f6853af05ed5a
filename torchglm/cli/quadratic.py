"""The quadratic penalty of a config: its blocks by the names of their columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from torchglm.fitting.penalties import Quadratic


@dataclass
class PenalisedColumns:
    """Columns that are penalised together.

    Args:
        columns: their names, or places among the coefficients from 0
        matrix: the rows of S, symmetric and positive semi-definite; null is the identity, a ridge
    """

    columns: list[str | int]
    matrix: list[list[float]] | None = None

    def __post_init__(self) -> None:
        sizes = [len(row) for row in self.matrix or []]
        if self.matrix is not None and sizes != [len(self.columns)] * len(self.columns):
            raise ValueError(
                f"penalty.blocks: matrix has rows of {sizes} numbers for {len(self.columns)} columns "
                f"({', '.join(map(str, self.columns))}). Give as many rows and numbers as columns."
            )

    @property
    def pair(self) -> tuple[list[str | int], torch.Tensor]:
        """The columns and S."""
        eye = torch.eye(len(self.columns), dtype=torch.float64)
        return self.columns, eye if self.matrix is None else torch.tensor(self.matrix, dtype=torch.float64)


class QuadraticOfBlocks(Quadratic):
    """`sum_j strength_j d_j' S_j d_j / 2`, `d = b - centre`, on blocks of columns.

    Args:
        blocks: each {columns: [a, b], matrix: [[1, -1], [-1, 1]]}; without a matrix a ridge
        strength: reml or ml, which estimate it, or a number, or one for each block
        names: of the strengths
        centre: what coefficients are drawn to, by name or one for each; null is 0
    """

    def __init__(
        self,
        blocks: list[PenalisedColumns],
        strength: Literal["reml", "ml"] | float | list[float] = 1.0,
        names: list[str] | None = None,
        centre: dict[str, float] | list[float] | None = None,
    ) -> None:
        given = torch.tensor(strength, dtype=torch.float64) if isinstance(strength, list) else strength
        super().__init__([block.pair for block in blocks], given, names, centre)
