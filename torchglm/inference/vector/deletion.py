"""What each row of several predictors does to the fit: deletion by one Newton step.

With the score `s` (K) of a row, its information `W` (K, K), its rows `Z` (K, P) of the design and the inverse
information `V` (P, P) of the fit, the step without the row is `-V Z' t`, `t = (I - W G)^-1 s`, `G = Z V Z'`. With
`G = R R'` every function of `W G` is one of the symmetric `R' W R`, whatever the signs of the curvature `W` are:
`f(W G) = f(0) I + W R g(R' W R) R'`, `g(x) = (f(x) - f(0)) / x`.
Source: Pregibon (1981), Ann. Stat. 9; Lesaffre & Albert (1989), Multiple-group logistic regression diagnostics, Appl.
Stat. 38; Higham (2008), Functions of Matrices, theorem 1.35.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from torchglm.inference.fitted import Fitted
from torchglm.inference.several import VectorValues, family_of, vector_values
from torchglm.rows.planned import applied, expanded, full
from torchglm.rows.ranks import own_rows
from torchglm.writing.nearest import unknown

EXACT = 1e-9  # a row that keeps less than this share of a residual is fitted exactly; nothing is left without it


@dataclass(frozen=True)
class Reach:
    """A chunk with its design `z` (B or 1, n, K, P), `z V` (B, n, K, P) and the spread `G` (B, n, K, K)."""

    values: VectorValues
    z: Tensor
    moved: Tensor
    spread: Tensor

    def left(self, power: float, whole: bool) -> Tensor:
        """(K, B, n) `(I - W G)^-power s`, power 1/2 or 1, of a row with all its repeats or of one of them.

        NaN where nothing is left of the row.
        """
        repeats = torch.ones_like(self.values.repeats) if whole else self.values.repeats
        weights = full(self.values.information, len(self.values.score)) / repeats[..., None, None]
        score = (self.values.score / repeats).movedim(0, -1).unsqueeze(-1)  # (B, n, K, 1)
        values, vectors = torch.linalg.eigh(self.spread)
        root = vectors * values.clamp(min=0).sqrt().unsqueeze(-2)
        share, turn = torch.linalg.eigh(root.mT @ weights @ root)
        rest = 1 - share
        rest = torch.where(rest > EXACT, rest, torch.nan)
        bend = 1 / rest if power == 1 else 1 / (rest.sqrt() * (1 + rest.sqrt()))
        across = weights @ root @ turn
        far = across @ (bend.unsqueeze(-1) * (turn.mT @ (root.mT @ score)))
        return (score + far).squeeze(-1).movedim(-1, 0)

    @property
    def leverage(self) -> Tensor:
        """(B, n) `tr W G`, of a row with all its repeats."""
        total = torch.zeros_like(self.spread[..., 0, 0])
        for (k, j), weight in self.values.information.items():
            total = total + (1 if k == j else 2) * weight * self.spread[..., k, j]
        return total

    def step(self, left: Tensor) -> Tensor:
        """(B, n, P) `V Z' t` for `t` (K, B, n)."""
        return (self.moved * left.movedim(0, -1).unsqueeze(-1)).sum(-2)


def reaches(result: Fitted) -> Iterator[Reach]:
    """Every chunk of the rows of this process, in pieces of which all that is asked can be held."""
    flat = result.flat
    inverse, models = flat.root.inverse(), flat.coef.shape[0]
    chunks = own_rows(result.source)
    pieces = (piece for rows in chunks for piece in rows.pieces(rows.columns * (models if rows.shared else 1)))
    for values in vector_values(pieces, family_of(result), flat.coef):
        z = expanded(values.rows)  # (K, n, P) or (K, B, n, P)
        z = (z.unsqueeze(1) if values.rows.shared else z).movedim(0, -2)
        moved = z @ inverse.unsqueeze(1)
        yield Reach(values, z, moved, moved @ z.mT)


def leverage(result: Fitted) -> Tensor:
    """(*B, n) the trace of `W G`: it sums to the rank."""
    return result.shaped(torch.cat([reach.leverage for reach in reaches(result)], -1))


def cook_of(reach: Reach, df: Tensor) -> Tensor:
    """(B, n) `t' G t / P` of the rows with all their repeats; NaN where nothing is left."""
    left = reach.left(1, True).movedim(0, -1).unsqueeze(-1)
    return (left.mT @ reach.spread @ left)[..., 0, 0] / df.unsqueeze(-1)


def cooks_distance(result: Fitted) -> Tensor:
    """(*B, n) how far the coefficients move without the row, in the metric of the information, over their number."""
    return result.shaped(torch.cat([cook_of(reach, result.flat.df) for reach in reaches(result)], -1))


def dfbetas(result: Fitted, scaled: bool = True) -> Tensor:
    """(*B, n, P) how far each coefficient, the thresholds last, moves when the row is taken in."""
    keep = result.flat.keep.unsqueeze(-2)
    error = result.flat.root.inverse_diagonal().sqrt().unsqueeze(-2) if scaled else 1.0
    parts = [torch.where(keep, reach.step(reach.left(1, True)) / error, torch.nan) for reach in reaches(result)]
    return result.shaped(torch.cat(parts, -2))


def dffits(result: Fitted) -> Tensor:
    """(*B, n, K) how far each predictor of the row moves when it is taken in, `G t` in its standard errors."""
    parts = []
    for reach in reaches(result):
        left = reach.left(1, True).movedim(0, -1).unsqueeze(-1)
        size = reach.spread.diagonal(dim1=-2, dim2=-1)
        moved = (reach.spread @ left).squeeze(-1) / torch.where(size > 0, size, 1.0).sqrt()
        parts.append(torch.where(reach.values.used.unsqueeze(-1), moved, 0.0))
    return result.shaped(torch.cat(parts, -2))


def left_out(result: Fitted) -> Iterator[tuple[VectorValues, Tensor]]:
    """Every chunk, and the predictors (K, B, n) of each row by the fit without one repeat of it."""
    family = family_of(result)
    for reach in reaches(result):
        values, left = reach.values, reach.left(1, False)
        size = len(left)
        pairs = {(k, j): reach.spread[..., k, j] for k in range(size) for j in range(k, size)}
        eta = torch.where(values.used, values.eta - applied(pairs, left), values.eta)
        yield values, torch.where(family.valid(eta), eta, torch.nan)


def loo_predict(result: Fitted, kind: str = "mean") -> Tensor:
    """(*B, n) the mean of each row by the fit without it, for classes (*B, n, C); `link` gives the predictors."""
    if kind not in ("mean", "link"):
        raise ValueError(unknown("kind", kind, ("mean", "link")))
    parts = [eta if kind == "link" else family_of(result).mean(eta) for _, eta in left_out(result)]
    value = torch.cat(parts, -1)
    return result.shaped(value if value.dim() == 2 else value.movedim(0, -1))


def cv_deviance(result: Fitted) -> Tensor:
    """(*B) minus twice the log-likelihood of every row at the predictors without it."""
    total = torch.zeros_like(result.flat.deviance)
    for values, eta in left_out(result):
        half = family_of(result).nll(values.rows.response, torch.where(values.used, eta, values.eta))
        total = total + torch.where(values.used, 2 * half * values.rows.weight, 0.0).sum(-1)
    return result.shaped(total)
