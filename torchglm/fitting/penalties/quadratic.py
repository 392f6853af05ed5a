"""Quadratic penalties on blocks of coefficients, whose strengths may be estimated."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from torchglm.fitting.penalties.base import ONE, Penalty, columns_in, listed_in, numbers, position
from torchglm.fitting.penalties.centres import Centre, away_from, by_place, centre_of, in_words, of_models, on_all

LISTED = 6  # strengths that are written out
METHODS = ("reml", "ml")  # by which a strength is estimated
NARROW = 8.0  # times the rounding of a penalty given in float32 below which an eigenvalue of it is none
NEGATIVE = 1e-8  # share of the largest eigenvalue of a penalty by which another may be negative: rounding


class Quadratic(Penalty):
    """`sum_j strength_j d_j' S_j d_j / 2`, `d = b - centre`, on blocks of coefficients, whatever the weight of rows.

    Each block `j` is a pair of its columns, by name or by position in `coef` from 0, and `S_j` (m, m), symmetric and
    positive semi-definite: `b` beyond the null space of `S_j` has a normal prior of precision `strength_j S_j / phi`.
    `strength` is a number, `(J,)` or one for each model of a batch `(*B, J)`, on the scale of `S` as given; or `"reml"`
    or `"ml"`, which estimate it in `torchglm.fit` (see `fitting.strengths`). `names` are those of the strengths.
    `centre` is the mean of that prior, as in `Ridge`: one number for each coefficient (but those of constants), or by
    name; None is 0. `nonnegative` are the places of coefficients held at 0 or above, those of terms with a `shape=`.
    Raises `ValueError` for a matrix or strengths of another kind, `TypeError` for blocks that are no pairs and for
    what are no numbers.
    Source: Wood (2017), Generalized Additive Models, section 5.8.
    """

    diagonal = False

    def __init__(
        self,
        blocks: Sequence[tuple[Sequence[int | str], Tensor]],
        strength: float | Tensor | str = 1.0,
        names: Sequence[str] | None = None,
        centre: Centre = None,
    ) -> None:
        if not isinstance(blocks, Sequence) or not all(isinstance(b, (tuple, list)) and len(b) == 2 for b in blocks):
            raise TypeError("blocks must be a list of pairs (columns, S), such as [([1, 2], torch.eye(2))].")
        self.blocks = [_block(j, columns, matrix) for j, (columns, matrix) in enumerate(blocks)]
        if not self.blocks:
            raise ValueError("blocks is empty. Give at least one pair (columns, S).")
        self.method = method_of(strength) if isinstance(strength, str) else None
        one = "'reml', 'ml', a number, or one for each block (and model)"
        value = numbers(0.0 if isinstance(strength, str) else strength, "strength", one)
        if not bool((torch.isfinite(value) & (value >= 0)).all()):
            raise ValueError(
                f"strength must be finite numbers >= 0, one for each block (and model), got {value.tolist()}. Where it "
                "is infinite the columns are the null space of S: use those in their place."
            )
        many = len(self.blocks)
        self.names = [f"strength {j}" for j in range(many)] if names is None else _texts(names)
        if len(self.names) != many:
            raise ValueError(f"names has {len(self.names)} entries for {many} blocks. Give each strength one.")
        self.strength = value.expand(many) if value.dim() == 0 else value
        self.nonnegative: tuple[int, ...] = ()
        self.centre = centre_of(centre)
        self._sums: dict[int, Tensor] = {}  # of all blocks, made once
        if self.strength.shape[-1] != many:
            raise ValueError(
                f"strength has shape {tuple(value.shape)} for {many} blocks. Give a number, ({many},) or (*B, {many})."
            )

    @property
    def each(self) -> bool:  # type: ignore[override]
        return self.strength.dim() > 1 or isinstance(self.centre, Tensor) and self.centre.dim() > 1

    def named(self, names: Sequence[str]) -> Quadratic:
        """The same penalty with positions for names. Raises `ValueError` for a name that is not there, or twice."""
        other = copy.copy(self)
        other.blocks = [
            ([position(column, names, "a block") for column in columns], matrix) for columns, matrix in self.blocks
        ]
        other.centre = by_place(self.centre, names)
        for columns, _ in other.blocks:
            if len(set(columns)) != len(columns):
                raise ValueError(f"a block names a column twice: {', '.join(names[int(at)] for at in columns)}.")
        return other

    def with_strength(self, strength: Tensor) -> Quadratic:
        """The same blocks with these strengths, (J,) or (B, J)."""
        other = copy.copy(self)
        other.strength, other.method, other._sums = strength, None, {}
        return other

    def with_limits(self, nonnegative: Sequence[int]) -> Quadratic:
        """The same penalty on coefficients of which those of the columns `nonnegative` are held at 0 or above."""
        other = copy.copy(self)
        other.nonnegative = tuple(nonnegative)
        return other

    def without_limits(self) -> Quadratic:
        """The same penalty on coefficients of any sign."""
        return self.with_limits(())

    def expand(self, constants: Sequence[int], p: int, batch: torch.Size = ONE) -> Quadratic:
        for columns, _ in self.blocks:
            if any(isinstance(column, str) for column in columns):
                raise ValueError(
                    f"a block names columns, {columns}, which have no names here. Give their places among the {p} "
                    "coefficients, counted from 0."
                )
            if not all(isinstance(column, int) and 0 <= column < p for column in columns):
                raise ValueError(f"a block has columns {columns} and the fit has {p} coefficients, counted from 0.")
        several = self.strength.dim() > 1
        if several and self.strength.shape[:-1] != batch:
            raise ValueError(
                f"strength has shape {tuple(self.strength.shape)} and the models are {tuple(batch)}. Give one number, "
                "one for each block, or (*B, J), a row for each model."
            )
        other = self.with_strength(self.strength.reshape(-1, len(self.blocks))) if several else copy.copy(self)
        other.method, other.centre = self.method, on_all(self.centre, constants, p, batch)
        return other

    def take(self, models: Tensor) -> Quadratic:
        if not self.each:
            return self
        several = self.strength.dim() > 1
        other = self.with_strength(self.strength[models.to(self.strength.device)]) if several else copy.copy(self)
        other.centre = of_models(self.centre, models)
        return other

    def away(self, coef: Tensor) -> Tensor:
        """(B, p) coefficients less what they are drawn to."""
        return away_from(coef, self.centre)

    def value(self, coef: Tensor, total: Tensor) -> Tensor:
        return (self.away(coef) * self.slope(coef, total)).sum(-1) / 2

    def ridge(self, coef: Tensor, total: Tensor) -> Tensor:
        return self._whole(coef.shape[-1]).to(coef.device).expand(*coef.shape, coef.shape[-1])

    def slope(self, coef: Tensor, total: Tensor) -> Tensor:
        strength, out, away = self._known.to(coef.device), torch.zeros_like(coef), self.away(coef)
        for j, (at, matrix) in enumerate(self.placed(coef.device)):
            out[:, at] += strength[..., j, None] * (away[:, at] @ matrix)
        return out

    def placed(self, device: torch.device) -> list[tuple[Tensor, Tensor]]:
        """The columns and the matrix of every block, on a device."""
        return [(torch.tensor(columns, device=device), matrix.to(device)) for columns, matrix in self.blocks]

    def _whole(self, p: int) -> Tensor:
        """(p, p) or (B, p, p) the sum of all blocks, made once."""
        if p not in self._sums:
            whole = self._known.new_zeros(*self.strength.shape[:-1], p, p)
            for j, (columns, matrix) in enumerate(self.blocks):
                at = torch.tensor(columns, device=whole.device)
                whole[..., at.unsqueeze(-1), at] += self.strength[..., j, None, None] * matrix.to(whole.device)
            self._sums[p] = whole
        return self._sums[p]

    @property
    def _known(self) -> Tensor:
        if self.method is not None:
            raise ValueError(f"strength={self.method!r} is estimated by torchglm.fit alone. Give numbers here.")
        return self.strength

    def __repr__(self) -> str:
        many = f"{len(self.blocks)} block{'s' * (len(self.blocks) != 1)}"
        own = f"Quadratic({many}, strength={_listed(self.strength) if self.method is None else repr(self.method)}"
        return f"{own})" if self.centre is None else f"{own}, centre={in_words(self.centre)})"


def _block(j: int, columns: Sequence[int | str], matrix: Tensor) -> tuple[list[int | str], Tensor]:
    own = columns_in(columns, f"columns of block {j}")
    if not own:
        raise ValueError(f"block {j} has no columns. Name at least one, by its name or its place in coef.")
    twice = next((one for one in own if own.count(one) > 1), None)
    if twice is not None:
        raise ValueError(f"block {j} names column {twice!r} twice. Name each once.")
    whole, given = numbers(matrix, f"S of block {j}", "a matrix (m, m)"), torch.as_tensor(matrix)
    if whole.shape != (m := len(own), m):
        raise ValueError(f"block {j} has {m} columns and S {tuple(whole.shape)}. Give S ({m}, {m}).")
    if not bool(torch.isfinite(whole).all()):
        raise ValueError(f"S of block {j} has values that are not finite.")
    coarse = NARROW * torch.finfo(given.dtype).eps if given.dtype.is_floating_point else 0.0
    uneven = float((whole - whole.mT).abs().max()) > max(NEGATIVE, coarse) * float(whole.abs().max())
    whole = (whole + whole.mT) / 2
    values, vectors = torch.linalg.eigh(whole)
    if uneven or not values[-1] > 0 or values[0] < -max(NEGATIVE, coarse) * values[-1]:
        raise ValueError(f"S of block {j} must be symmetric, positive semi-definite and not zero.")
    if given.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return own, whole
    # a null space whose rounding is that of few digits would pass for penalised
    return own, (vectors * torch.where(values > coarse * values[-1], values, 0.0)) @ vectors.mT


def _texts(names: object) -> list[str]:
    found = listed_in(names, "names", "a list of texts")
    if not all(isinstance(name, str) for name in found):
        raise TypeError(f"names must be a list of texts, got {found!r}.")
    return found


def method_of(text: str) -> str:
    if text not in METHODS:
        raise ValueError(f"unknown strength {text!r}. Known: 'reml', 'ml', or numbers.")
    return text


def _listed(value: Tensor) -> str:
    """Strengths of one model each, or from the least to the largest of many."""
    found = value.reshape(-1).tolist()
    if len(found) == 1:
        return f"{found[0]:.6g}"
    return (
        f"{min(found):.6g} to {max(found):.6g}"
        if len(found) > LISTED
        else "[" + ", ".join(map("{:.6g}".format, found)) + "]"
    )
