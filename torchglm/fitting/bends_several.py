"""How the information of several predictors changes with the coefficients: one pass over the rows.

Per row these are the third and fourth derivatives of the log-density by the K predictors, by differences of the
information: along each of them, and along the sum and the difference of two, whose second derivatives are four times
the mixed one apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from torchglm.families.several import VectorFamily
from torchglm.fitting.bends import FIRST, NODES, SECOND, STEP, Bends, added, difference
from torchglm.rows.planned import Pairs, contributions, expanded, gram_of, predictors, project_each
from torchglm.rows.ranks import own_rows, ranks_of
from torchglm.rows.rows import Rows, to_float64
from torchglm.rows.threads import spread


class PlannedBends:
    """The derivatives by row of a family of several predictors at coefficients `(B, P)`."""

    def __init__(self, source: Iterable[Rows], family: VectorFamily, coef: Tensor) -> None:
        self.source, self.ranks = own_rows(source), ranks_of(source)
        self.family, self.coef = family, coef

    def along(self, inner: Tensor, directions: Tensor) -> Bends:
        """The sums for a root `inner` (B, P, r) of `A` and directions (B, J, P)."""

        def of(pieces: Sequence[Rows]) -> tuple[Tensor, ...]:
            return added(self._sums(rows, inner, directions) for rows in pieces)

        with self.ranks.together():
            total = added(new for chunk in self.source for new in spread(of, list(to_float64(chunk).pieces())))
        pull, grams, twice = self.ranks.sum(*total)
        return Bends(pull, grams, twice, None)

    def _sums(self, rows: Rows, inner: Tensor, directions: Tensor) -> tuple[Tensor, ...]:
        at = RowThirds(rows, self.family, self.coef)
        lengths = {pair: length * at.weight for pair, length in _lengths(rows, inner)}
        moves = torch.stack([contributions(rows, directions[:, j]) for j in range(directions.shape[1])])  # (J, K, B, n)
        grams = [gram_of(rows, at.change(move)).written_out() for move in moves]
        bends = at.second_of(lengths)
        each = [torch.einsum("bn,jbn,kbn->bjk", h, moves[:, k], moves[:, j]) for (k, j), h in bends.items()]
        pull = at.first_of(lengths)
        return project_each(rows, pull), torch.stack(grams, 1), torch.stack(each).sum(0)


class RowThirds:
    """Rows of a chunk at coefficients `(B, P)`: how their information changes with their predictors `eta` (K, B, n)."""

    def __init__(self, rows: Rows, family: VectorFamily, coef: Tensor) -> None:
        self.rows, self.family = rows, family
        used, eta = rows.weight > 0, predictors(rows, coef)
        self.weight = torch.where(used, rows.weight, 0.0)
        if not bool(used.all()):  # rows without weight stand where one with it does
            first = used.to(torch.int8).argmax(-1, keepdim=True)
            eta = torch.where(used, eta, eta.gather(-1, first.expand(len(eta), -1, -1)))
        self.eta, self.step = eta, STEP * family.units(eta)
        self.around = [[self._information(k, s) for s in NODES] for k in range(len(eta))]
        self.pairs = sorted({pair for one in self.around for each in one for pair in each})

    def _information(self, k: int, times: float, beside: int | None = None, sign: float = 1.0) -> Pairs:
        eta = self.eta.clone()
        eta[k] += times * self.step[k]
        if beside is not None:
            eta[beside] += sign * times * self.step[beside]
        return self.family.derivatives(self.rows.response, eta)[1]

    def _values(self, around: Sequence[Pairs], pair: tuple[int, int]) -> list[Tensor]:
        none = torch.zeros_like(self.eta[0])
        return [each.get(pair, none) for each in around]

    def change(self, move: Tensor) -> Pairs:
        """The change of the information along `move` (K, B, n), with the weights of the rows."""
        none = torch.zeros_like(self.eta[0])
        found = {
            pair: sum(
                (
                    difference(self._values(one, pair), FIRST, self.step[k]) * move[k]
                    for k, one in enumerate(self.around)
                ),
                none,
            )
            for pair in self.pairs
        }
        return {pair: value * self.weight for pair, value in found.items()}

    def first_of(self, lengths: Pairs) -> Tensor:
        """(K, B, n) the derivatives of `tr Q W` for matrices Q by their pairs."""
        return torch.stack(
            [
                difference([_trace(lengths, each) for each in one], FIRST, self.step[k])
                for k, one in enumerate(self.around)
            ]
        )

    def second_of(self, lengths: Pairs) -> Pairs:
        """The second derivatives of `tr Q W`, both of a mixed one."""
        middle = _trace(lengths, self.family.derivatives(self.rows.response, self.eta)[1])
        found: Pairs = {}
        for k, one in enumerate(self.around):
            found[k, k] = difference([_trace(lengths, each) for each in one], SECOND, self.step[k], middle)
            for j in range(k):
                both = [
                    difference([_trace(lengths, self._information(k, s, j, sign)) for s in NODES], SECOND, 1.0, middle)
                    for sign in (1.0, -1.0)
                ]
                mixed = (both[0] - both[1]) / (4 * self.step[k] * self.step[j])
                found[j, k] = found[k, j] = mixed
        return found


def _lengths(rows: Rows, inner: Tensor) -> Iterator[tuple[tuple[int, int], Tensor]]:
    """(B, n) `z_k' A z_l` of every row, for each pair `k <= l` of predictors, by a root (B, P, r) of A."""
    design = expanded(rows)  # (K, n, P) or (K, B, n, P)
    half = (design.unsqueeze(1) if rows.shared else design) @ inner  # (K, B, n, r)
    for k in range(len(half)):
        for j in range(k, len(half)):
            yield (k, j), (half[k] * half[j]).sum(-1)


def _trace(lengths: Pairs, information: Pairs) -> Tensor:
    """(B, n) `tr Q W` of every row."""
    return sum(
        (lengths[k, j] * value * (1.0 if k == j else 2.0) for (k, j), value in information.items()),
        torch.zeros_like(next(iter(lengths.values()))),
    )
