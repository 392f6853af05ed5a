"""Penalties: they see the quadratic model of a step, never the rows.

The penalised fit minimises `(1 / sum w) * negative log-likelihood (phi = 1) + sum_j l1_j |b_j| + l2_j b_j^2 / 2`,
glmnet's form. To add a penalty, write one class here.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

ONE = torch.Size()  # of one model
LISTED = 6  # strengths that are written out
METHODS = ("reml", "ml")  # by which a strength is estimated
NARROW = 8.0  # times the rounding of a penalty given in float32 below which an eigenvalue of it is none
NEGATIVE = 1e-8  # share of the largest eigenvalue of a penalty by which another may be negative: rounding


class Penalty:
    """A penalty as a step sees it: its value, a quadratic part, and absolute values.

    All methods take `coef` (B, p) and the total weight `(B,)` of the rows; the quadratic model of a step `d` is
    `d' gram d / 2 - score' d`.
    """

    diagonal = True  # its quadratic part has no products of two coefficients
    each = False  # every model of a batch has its own

    @property
    def smooth(self) -> bool:
        """Whether it has no absolute values."""
        return type(self).nonsmooth is Penalty.nonsmooth

    def value(self, coef: Tensor, total: Tensor) -> Tensor:
        """(B,) the penalty times the total weight."""
        raise NotImplementedError

    def ridge(self, coef: Tensor, total: Tensor) -> Tensor:
        """(B, p) the diagonal its quadratic part adds to the information, or (B, p, p) where it is no diagonal."""
        raise NotImplementedError

    def slope(self, coef: Tensor, total: Tensor) -> Tensor:
        """(B, p) the derivative of its quadratic part."""
        return self.ridge(coef, total) * coef

    def nonsmooth(self, coef: Tensor, total: Tensor) -> Tensor | None:
        """(B, p) the weights of the absolute values, or None where there are none."""
        return None

    def expand(self, constants: Sequence[int], p: int, batch: torch.Size = ONE) -> Penalty:
        """The same penalty on a design of `p` columns, of which `constants` are intercepts and are not penalised.

        `batch` are the batch dimensions of the models that it is for.
        """
        raise NotImplementedError

    def take(self, models: Tensor) -> Penalty:
        """That of some of the models."""
        return self


class ElasticNet(Penalty):
    """`sum_j l1_j |b_j| + l2_j b_j^2 / 2`, with one strength for all columns or one each (the intercept has none).

    Strengths `(*B, p)` are those of each model of a batch, `(*B, 1)` one for all columns of each. In glmnet's terms
    `l1 = lambda alpha`, `l2 = lambda (1 - alpha)`; columns are not standardised here.
    Raises `ValueError` for negative or non-finite strengths, or a shape that is not that of the columns and models.
    Source: Friedman, Hastie & Tibshirani (2010), J. Stat. Software 33(1).
    """

    def __init__(self, l1: float | Tensor = 0.0, l2: float | Tensor = 0.0) -> None:
        self.l1 = torch.as_tensor(l1, dtype=torch.float64)
        self.l2 = torch.as_tensor(l2, dtype=torch.float64)
        for name, value in (("l1", self.l1), ("l2", self.l2)):
            if not bool((torch.isfinite(value) & (value >= 0)).all()):
                raise ValueError(
                    f"{name} must be one number >= 0, or one for each column (and model), got {value.tolist()}."
                )

    @property
    def each(self) -> bool:  # type: ignore[override]
        return self.l1.dim() > 1 or self.l2.dim() > 1

    @property
    def smooth(self) -> bool:
        return not bool((self.l1 > 0).any())

    def expand(self, constants: Sequence[int], p: int, batch: torch.Size = ONE) -> ElasticNet:
        kept = [j for j in range(p) if j not in set(constants)]
        slopes = len(kept)

        def column(value: Tensor, name: str) -> Tensor:
            models, columns = value.shape[:-1], value.shape[-1] if value.dim() else 1
            if value.dim() > 1 and models != batch:
                raise ValueError(
                    f"{name} has shape {tuple(value.shape)} and the models are {tuple(batch)}. Give (*B, p) strengths, "
                    "a row for each model, or one for each column, or a single number."
                )
            if value.dim() and columns == p:
                return value.reshape(-1, p) if models else value  # the intercept, or a user's own, has a value too
            if value.dim() and columns != slopes and not (models and columns == 1):
                raise ValueError(
                    f"{name} has {columns} values for {slopes} columns. Give one for each column "
                    "(the intercept is never penalised), or a single number."
                )
            whole = value.new_zeros(*models, p)
            whole[..., kept] = value.expand(*models, slopes)
            return whole.reshape(-1, p) if models else whole

        return ElasticNet(column(self.l1, "l1"), column(self.l2, "l2"))

    def take(self, models: Tensor) -> ElasticNet:
        l1, l2 = (value[models.to(value.device)] if value.dim() > 1 else value for value in (self.l1, self.l2))
        return ElasticNet(l1, l2)

    def value(self, coef: Tensor, total: Tensor) -> Tensor:
        l1, l2 = self.l1.to(coef.device), self.l2.to(coef.device)
        return total * (l1 * coef.abs() + l2 * coef.square() / 2).sum(-1)

    def ridge(self, coef: Tensor, total: Tensor) -> Tensor:
        return (total.unsqueeze(-1) * self.l2.to(coef.device)).expand_as(coef)

    def nonsmooth(self, coef: Tensor, total: Tensor) -> Tensor | None:
        if self.smooth:
            return None
        return (total.unsqueeze(-1) * self.l1.to(coef.device)).expand_as(coef)

    def __repr__(self) -> str:
        if not bool(self.l1.any()):
            return f"Ridge(l2={_text(self.l2)})"
        return f"ElasticNet(l1={_text(self.l1)}, l2={_text(self.l2)})"


class Ridge(ElasticNet):
    """`sum_j l2_j b_j^2 / 2`, with one strength for all columns or one each (the intercept has none).

    `"reml"` or `"ml"` estimates one strength for all columns: they are a `Quadratic` with the identity, on whose scale
    the result has its `strength`, `l2` times the total weight. Raises `ValueError` for another text.
    """

    def __init__(self, l2: float | Tensor | Literal["reml", "ml"]) -> None:
        self.method = _method(l2) if isinstance(l2, str) else None
        super().__init__(0.0, 0.0 if isinstance(l2, str) else l2)

    def expand(self, constants: Sequence[int], p: int, batch: torch.Size = ONE) -> Penalty:  # type: ignore[override]
        if self.method is None:
            return super().expand(constants, p, batch)
        kept = [j for j in range(p) if j not in set(constants)]
        block = (kept, torch.eye(len(kept), dtype=torch.float64))
        return Quadratic([block], self.method).expand(constants, p, batch)

    def __repr__(self) -> str:
        return super().__repr__() if self.method is None else f"Ridge({self.method!r})"


class Quadratic(Penalty):
    """`sum_j strength_j b_j' S_j b_j / 2` on blocks of coefficients, whatever the weight of the rows.

    Each block `j` is a pair of its columns, by name or by position in `coef` from 0, and `S_j` (m, m), symmetric and
    positive semi-definite: `b` beyond the null space of `S_j` has a normal prior of precision `strength_j S_j / phi`.
    `strength` is a number, `(J,)` or one for each model of a batch `(*B, J)`, on the scale of `S` as given; or `"reml"`
    or `"ml"`, which estimate it in `torchglm.fit` (see `fitting.strengths`). `names` are those of the strengths.
    Raises `ValueError` for a matrix or strengths of another kind, `TypeError` for blocks that are no pairs.
    Source: Wood (2017), Generalized Additive Models, section 5.8.
    """

    diagonal = False

    def __init__(
        self,
        blocks: Sequence[tuple[Sequence[int | str], Tensor]],
        strength: float | Tensor | str = 1.0,
        names: Sequence[str] | None = None,
    ) -> None:
        if not isinstance(blocks, Sequence) or not all(isinstance(b, (tuple, list)) and len(b) == 2 for b in blocks):
            raise TypeError("blocks must be a list of pairs (columns, S), such as [([1, 2], torch.eye(2))].")
        self.blocks = [_block(j, columns, matrix) for j, (columns, matrix) in enumerate(blocks)]
        if not self.blocks:
            raise ValueError("blocks is empty. Give at least one pair (columns, S).")
        self.method = _method(strength) if isinstance(strength, str) else None
        value = torch.as_tensor(0.0 if isinstance(strength, str) else strength, dtype=torch.float64)
        if not bool((torch.isfinite(value) & (value >= 0)).all()):
            raise ValueError(
                f"strength must be finite numbers >= 0, one for each block (and model), got {value.tolist()}. Where it "
                "is infinite the columns are the null space of S: use those in their place."
            )
        many = len(self.blocks)
        self.names = [f"strength {j}" for j in range(many)] if names is None else list(names)
        if len(self.names) != many:
            raise ValueError(f"names has {len(self.names)} entries for {many} blocks. Give each strength one.")
        self.strength = value.expand(many) if value.dim() == 0 else value
        self._sums: dict[int, Tensor] = {}  # of all blocks, made once
        if self.strength.shape[-1] != many:
            raise ValueError(
                f"strength has shape {tuple(value.shape)} for {many} blocks. Give a number, ({many},) or (*B, {many})."
            )

    @property
    def each(self) -> bool:  # type: ignore[override]
        return self.strength.dim() > 1

    def named(self, names: Sequence[str]) -> Quadratic:
        """The same penalty with positions for names. Raises `ValueError` for a name that is not there, or twice."""
        other = copy.copy(self)
        other.blocks = [([_position(column, names) for column in columns], matrix) for columns, matrix in self.blocks]
        for columns, _ in other.blocks:
            if len(set(columns)) != len(columns):
                raise ValueError(f"a block names a column twice: {', '.join(names[int(at)] for at in columns)}.")
        return other

    def with_strength(self, strength: Tensor) -> Quadratic:
        """The same blocks with these strengths, (J,) or (B, J)."""
        other = copy.copy(self)
        other.strength, other.method, other._sums = strength, None, {}
        return other

    def expand(self, constants: Sequence[int], p: int, batch: torch.Size = ONE) -> Quadratic:
        for columns, _ in self.blocks:
            if not all(isinstance(column, int) and 0 <= column < p for column in columns):
                raise ValueError(f"a block has columns {columns} and the fit has {p} coefficients, counted from 0.")
        if self.each and self.strength.shape[:-1] != batch:
            raise ValueError(
                f"strength has shape {tuple(self.strength.shape)} and the models are {tuple(batch)}. Give one number, "
                "one for each block, or (*B, J), a row for each model."
            )
        return self.with_strength(self.strength.reshape(-1, len(self.blocks))) if self.each else self

    def take(self, models: Tensor) -> Quadratic:
        return self.with_strength(self.strength[models.to(self.strength.device)]) if self.each else self

    def value(self, coef: Tensor, total: Tensor) -> Tensor:
        return (coef * self.slope(coef, total)).sum(-1) / 2

    def ridge(self, coef: Tensor, total: Tensor) -> Tensor:
        return self._whole(coef.shape[-1]).to(coef.device).expand(*coef.shape, coef.shape[-1])

    def slope(self, coef: Tensor, total: Tensor) -> Tensor:
        strength, out = self._known.to(coef.device), torch.zeros_like(coef)
        for j, (at, matrix) in enumerate(self._placed(coef.device)):
            out[:, at] += strength[..., j, None] * (coef[:, at] @ matrix)
        return out

    def _placed(self, device: torch.device) -> list[tuple[Tensor, Tensor]]:
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
        return f"Quadratic({many}, strength={_listed(self.strength) if self.method is None else repr(self.method)})"


def _block(j: int, columns: Sequence[int | str], matrix: Tensor) -> tuple[list[int | str], Tensor]:
    own = list(columns)
    given = torch.as_tensor(matrix)
    whole = given.to(torch.float64)
    if whole.shape != (len(own), len(own)) or not own or len(set(own)) != len(own):
        raise ValueError(f"block {j} has {len(own)} columns, each once, and S {tuple(whole.shape)}: give S (m, m).")
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


def _method(text: str) -> str:
    if text not in METHODS:
        raise ValueError(f"unknown strength {text!r}. Known: 'reml', 'ml', or numbers.")
    return text


def _position(column: int | str, names: Sequence[str]) -> int | str:
    if not isinstance(column, str):
        return int(column)
    if list(names).count(column) != 1:
        raise ValueError(f"a block names column {column!r}, which is not one of {', '.join(names)}.")
    return list(names).index(column)


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


class Around(Penalty):
    """`(b - centre)' curvature (b - centre) / 2`, whatever the weight of the rows: what is known of `b` beforehand.

    `centre` (B, p) or (p,), `curvature` (B, p, p) or (p, p), positive definite.
    """

    diagonal = False

    def __init__(self, centre: Tensor, curvature: Tensor) -> None:
        self.centre, self.curvature = centre, curvature

    def value(self, coef: Tensor, total: Tensor) -> Tensor:
        return ((coef - self.centre) * self.slope(coef, total)).sum(-1) / 2

    def ridge(self, coef: Tensor, total: Tensor) -> Tensor:
        return self.curvature.expand(*coef.shape, coef.shape[-1])

    def slope(self, coef: Tensor, total: Tensor) -> Tensor:
        return (self.curvature @ (coef - self.centre).unsqueeze(-1)).squeeze(-1)

    def expand(self, constants: Sequence[int], p: int, batch: torch.Size = ONE) -> Around:
        return self


class Along(Penalty):
    """Another penalty on the coefficients `b matrix` (B, p) of parameters `b` (B, q), `matrix` being (q, p)."""

    diagonal = False

    def __init__(self, penalty: Penalty, matrix: Tensor) -> None:
        self.penalty, self.matrix = penalty, matrix

    @property
    def smooth(self) -> bool:
        return self.penalty.smooth

    def value(self, coef: Tensor, total: Tensor) -> Tensor:
        return self.penalty.value(coef @ self.matrix, total)

    def ridge(self, coef: Tensor, total: Tensor) -> Tensor:
        own = self.penalty.ridge(coef @ self.matrix, total)
        return self.matrix @ (own.unsqueeze(-1) * self.matrix.mT if self.penalty.diagonal else own @ self.matrix.mT)

    def slope(self, coef: Tensor, total: Tensor) -> Tensor:
        return self.penalty.slope(coef @ self.matrix, total) @ self.matrix.mT

    def nonsmooth(self, coef: Tensor, total: Tensor) -> Tensor | None:
        return self.penalty.nonsmooth(coef @ self.matrix, total)

    def expand(self, constants: Sequence[int], p: int, batch: torch.Size = ONE) -> Along:
        return self


def _text(value: Tensor) -> str:
    """The strength of all columns; where they differ each, or from the least to the largest of many."""
    found = value.reshape(-1).tolist() if value.dim() else [float(value)]
    own = found[1:] if value.dim() and value.shape[-1] > 1 and not bool(value[..., 0].any()) else found
    if value.dim() > 1 and value.shape[0] > 1:
        own = value[..., int(not bool(value[..., 0].any())) :].reshape(-1).tolist()
    if len(set(own)) <= 1:
        return f"{(own or found)[0]:.6g}"
    if len(found) <= LISTED:
        return "[" + ", ".join(f"{one:.6g}" for one in found) + "]"
    return f"{min(own):.6g} to {max(own):.6g}"
