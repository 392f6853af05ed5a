"""Wald tests of linear hypotheses, given by a matrix or in words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from torchglm.inference.fitted import Fitted
from torchglm.inference.table import Outcome

NUMBER = re.compile(r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
DEPENDENT = 1e-10  # of its own length: a restriction with no more than this of its own says what others say


def wald(result: Fitted, hypothesis: Any, value: Any = None) -> Outcome:
    """The Wald test of `L b = r` in every model, `W = (L b - r)' (L V L')^-1 (L b - r)`.

    `hypothesis` is text on coefficient names, restrictions parted by commas, such as `"age = 0, 2*x2 = x3 + 1"`
    (no `=` means `= 0`; names that are no words may stand in backticks), or a matrix `L` (q, p), or one row (p,), with
    `value` `r` (q,) or a number (default 0). `V` is the covariance behind `std_err`, so that a robust result is tested
    robustly. Chi-squared with q degrees of freedom, or `F = W / q` with `df_resid` where the dispersion is estimated.
    NaN where a coefficient of the hypothesis is aliased or `L V L'` is singular (fewer clusters than restrictions).
    Raises `ValueError` for unknown names and for restrictions that depend on one another.
    Source: Wald (1943); Fox & Weisberg, An R Companion to Applied Regression, 5.3 (linearHypothesis).
    """
    matrix, right = _restrictions(result, hypothesis, value)
    covariance, coef = result.covariance(), result.coef
    unknown = (torch.isnan(coef) & (matrix != 0).any(0)).any(-1)
    known = torch.isfinite(covariance)
    left = matrix @ torch.where(known, covariance, 0.0) @ matrix.mT
    gap = (matrix @ torch.nan_to_num(coef, nan=0.0).unsqueeze(-1)).squeeze(-1) - right
    needed = (matrix != 0).any(0)
    broken = (~known & needed & needed.unsqueeze(-1)).any(-1).any(-1)
    statistic = torch.where(unknown | broken, torch.nan, quadratic(gap, left))
    q = torch.full_like(statistic, float(matrix.shape[0]))
    title = f"Wald test ({result.covariance_kind} covariance)"
    notes = (f"  {hypothesis}",) if isinstance(hypothesis, str) else ()
    if result.statistic_name == "t":
        return Outcome(title, statistic / q, q, result.df_resid, notes)
    return Outcome(title, statistic, q, None, notes)


def quadratic(gap: Tensor, matrix: Tensor) -> Tensor:
    """(*B) `g' M^-1 g` for vectors (*B, q) and matrices (*B, q, q); NaN where `M` is singular to rounding."""
    size = matrix.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
    scale = torch.where(size > 0, size, 1.0)
    scaled = matrix / scale.unsqueeze(-1) / scale.unsqueeze(-2)
    lower, info = torch.linalg.cholesky_ex(scaled)
    regular = (info == 0) & (lower.diagonal(dim1=-2, dim2=-1).square() > DEPENDENT).all(-1)
    lower = torch.where(
        regular[..., None, None], lower, torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device)
    )
    white = torch.linalg.solve_triangular(lower, (gap / scale).unsqueeze(-1), upper=False).squeeze(-1)
    return torch.where(regular, white.square().sum(-1), torch.nan)


def _restrictions(result: Fitted, hypothesis: Any, value: Any) -> tuple[Tensor, Tensor]:
    """The matrix (q, p) and the right side (q,) of a hypothesis."""
    p, device = len(result.names), result.coef.device
    if isinstance(hypothesis, str):
        if value is not None:
            raise ValueError("a hypothesis in words has its values in it ('age = 1'); leave value= away.")
        matrix, right = parse(hypothesis, result.names)
    else:
        matrix = torch.atleast_2d(torch.as_tensor(hypothesis, dtype=torch.float64))
        right = torch.as_tensor(0.0 if value is None else value, dtype=torch.float64).expand(matrix.shape[:1])
    if matrix.dim() != 2 or matrix.shape[-1] != p or not bool(torch.isfinite(matrix).all()):
        raise ValueError(
            f"the hypothesis has shape {tuple(matrix.shape)}; give finite numbers (q, {p}), a column for "
            f"each coefficient: {', '.join(result.names)}."
        )
    length = matrix.square().sum(-1, keepdim=True).sqrt()
    rank = int(torch.linalg.matrix_rank(matrix / torch.where(length > 0, length, 1.0), rtol=DEPENDENT))
    if rank < matrix.shape[0]:
        raise ValueError(
            f"the hypothesis has {matrix.shape[0]} restrictions, but only {rank} are independent. "
            "Leave out those that follow from (or contradict) the others."
        )
    return matrix.to(device), right.to(device)


def parse(text: str, names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """`L` (q, p) and `r` (q,) of restrictions in words, see `wald`. Raises `ValueError` where they cannot be read."""
    rows, right = [], []
    reader = _Reader(text, names)
    while True:
        row, constant = reader.side()
        if reader.take("="):
            other, number = reader.side()
            row, constant = row - other, constant - number
        if not bool((row != 0).any()):
            raise ValueError(f"a restriction of {text!r} holds no coefficient. Known: {', '.join(names)}.")
        rows.append(row)
        right.append(-constant)
        if reader.done:
            return torch.stack(rows), torch.tensor(right, dtype=torch.float64)
        if not reader.take(","):
            raise reader.error("a comma, '=', '+' or '-'")


class _Reader:
    """Reads sums of multiples of names, the longest name first, for names may hold any sign."""

    def __init__(self, text: str, names: Sequence[str]) -> None:
        self.text, self.at = text, 0
        self.names = {name: j for j, name in enumerate(names)}
        self.longest = sorted(names, key=len, reverse=True)

    @property
    def done(self) -> bool:
        self.skip()
        return self.at >= len(self.text)

    def skip(self) -> None:
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1

    def take(self, sign: str) -> bool:
        self.skip()
        found = self.text.startswith(sign, self.at)
        self.at += len(sign) if found else 0
        return found

    def error(self, wanted: str) -> ValueError:
        return ValueError(
            f"cannot read the hypothesis {self.text!r} at {self.text[self.at :] or 'its end'!r}: expected "
            f"{wanted}. Known coefficients: {', '.join(self.names)}."
        )

    def side(self) -> tuple[Tensor, float]:
        """One side of an equation: a row of coefficients and a constant."""
        row, constant = torch.zeros(len(self.names), dtype=torch.float64), 0.0
        sign = -1.0 if self.take("-") else 1.0
        while True:
            factor, column = self.product()
            if column is None:
                constant += sign * factor
            else:
                row[column] += sign * factor
            if self.take("+"):
                sign = 1.0
            elif self.take("-"):
                sign = -1.0
            else:
                return row, constant

    def product(self) -> tuple[float, int | None]:
        """Numbers times at most one name."""
        factor, column = self.atom()
        while True:
            if self.take("*"):
                number, other = self.atom()
                if column is not None and other is not None:
                    raise ValueError(f"the hypothesis {self.text!r} multiplies two coefficients; it must be linear.")
                factor, column = factor * number, other if column is None else column
            elif self.take("/"):
                number, other = self.atom()
                if other is not None or number == 0:
                    raise self.error("a number other than 0 to divide by")
                factor /= number
            else:
                return factor, column

    def atom(self) -> tuple[float, int | None]:
        self.skip()
        quoted = self.take("`")
        for name in self.longest:
            end = self.at + len(name)
            if self.text.startswith(name, self.at) and (self.text[end : end + 1] == "`" if quoted else self._ends(end)):
                self.at = end + int(quoted)
                return 1.0, self.names[name]
        match = None if quoted else NUMBER.match(self.text, self.at)
        if match is None or not self._ends(match.end()):
            raise self.error("a coefficient or a number")
        self.at = match.end()
        return float(match.group()), None

    def _ends(self, end: int) -> bool:
        """True where a word may end: the next character does not carry it on."""
        following = self.text[end : end + 1]
        return not following or not (following.isalnum() or following in "_.[:(")
