"""Neighbouring coefficients held together: levels of an ordered factor become bands."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from torchglm.fitting.kinks import Kinks
from torchglm.fitting.penalties.base import ONE, columns_in, listed_in, position
from torchglm.fitting.penalties.elastic_net import listed
from torchglm.fitting.penalties.one_strength import OneStrength
from torchglm.fitting.penalties.rowwise import RowWise

Chain = Sequence[int | str | None]  # columns of neighbouring levels in order; None is a level whose coefficient is 0

KIND = "a term such as 'C(age)', or lists of neighbouring columns"


class Fused(OneStrength, RowWise):
    """`strength sum |b_(k+1) - b_k|` over neighbouring levels of ordered factors: levels of one value make a band.

    `levels` are the terms of a formula, `"C(age)"` or a list of them, whose levels stand in order; or of arrays lists
    of neighbouring columns, by name or by position in `coef` from 0, in which None stands for a level without a column
    (the reference of dummies, whose coefficient is 0): `[[None, "30-39", "40-49"]]`. `strength` is a number, or one
    for each model of a batch `(*B,)`. Raises `ValueError` for strengths below 0 and for fewer than two levels.
    Source: Tibshirani et al. (2005), J. R. Stat. Soc. B 67(1), 91-108; Gertheiss & Tutz (2010), Ann. Appl. Stat. 4(4).
    """

    def __init__(self, strength: float | Tensor, levels: str | Sequence[str | Chain]) -> None:
        super().__init__(strength)
        given = [levels] if isinstance(levels, str) else listed_in(levels, "levels", KIND)
        if not given:
            raise ValueError("levels is empty. Give a term such as 'C(age)', or lists of neighbouring columns.")
        self.terms = [one for one in given if isinstance(one, str)]
        self.chains = [_chain(one) for one in given if not isinstance(one, str)]
        self.rows: Tensor | None = None  # (m, p) the differences, once the columns are known
        self.extra: list[tuple[list[int], Tensor]] = []  # differences of terms: columns, and rows over them

    def resolved(self, steps: Mapping[str, list[tuple[list[int], Tensor]]]) -> Fused:
        """The same penalty with its terms replaced by their `steps`, each columns and the differences over them."""
        other = copy.copy(self)
        other.extra, other.terms = [one for term in self.terms for one in steps[term]], []
        return other

    def named(self, names: Sequence[str]) -> Fused:
        other = copy.copy(self)
        other.chains = [[None if c is None else position(c, names, "levels") for c in chain] for chain in self.chains]
        return other

    def expand(self, constants: Sequence[int], p: int, batch: torch.Size = ONE) -> Fused:
        if self.terms:
            raise ValueError(
                f"levels names the term {self.terms[0]!r}, and the columns come from no formula. Give lists of "
                "neighbouring columns: [[None, 1, 2]]."
            )
        other = self.of_batch(batch)
        rows = [_differences(chain, p) for chain in self.chains]
        for columns, matrix in self.extra:
            whole = matrix.new_zeros(len(matrix), p)
            whole[:, columns] = matrix
            rows.append(whole)
        other.rows = torch.cat(rows)
        return other

    def kinks(self, total: Tensor) -> Kinks:
        assert self.rows is not None
        rows = self.rows.to(total.device)
        limit = (total * self.strength.to(total.device)).unsqueeze(-1).expand(-1, len(rows))
        return Kinks(rows, torch.zeros_like(limit), -limit, limit)

    def __repr__(self) -> str:
        count = "" if self.rows is None else f", {len(self.rows)} differences"
        return f"Fused(strength={listed(self.strength)}{count})"


def _chain(columns: Chain) -> list[int | str | None]:
    given = listed_in(columns, "levels", KIND)
    columns_in([one for one in given if one is not None], "levels")
    own: list[int | str | None] = given
    if len(own) < 2 or len(set(own)) != len(own) or own.count(None) == len(own):
        raise ValueError(f"levels has the list {own!r}. Give at least two neighbouring columns, each once.")
    return own


def _differences(chain: Sequence[int | str | None], p: int) -> Tensor:
    """(m - 1, p) the differences of neighbours."""
    if not all(c is None or isinstance(c, int) and 0 <= c < p for c in chain):
        raise ValueError(f"levels has the columns {list(chain)} and the fit has {p} coefficients, counted from 0.")
    unit = torch.eye(p, dtype=torch.float64)
    each = torch.stack([unit.new_zeros(p) if c is None else unit[int(c)] for c in chain])
    return each[1:] - each[:-1]
