"""Quantities estimated beside the coefficients, with the errors the delta method gives them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from torchglm import special
from torchglm.inference.fitted import Fitted
from torchglm.inference.levels import check_level
from torchglm.inference.table import Table
from torchglm.writing.numbers import limits

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Estimates:
    """Named quantities with standard errors and limits, each `(*B, k)`; `statistic` is `value / std_err`, t or z.

    `df` (*B) are the degrees of freedom of t, infinite for z. Prints as a table.
    """

    names: list[str]
    value: Tensor
    std_err: Tensor
    low: Tensor
    high: Tensor
    statistic: Tensor
    p_value: Tensor
    df: Tensor
    level: float

    def exp(self) -> Estimates:
        """The ratios `exp(value)`: limits mapped, `std_err` by the delta method, test of a ratio of 1 unchanged."""
        value = self.value.exp()
        return replace(self, value=value, std_err=value * self.std_err, low=self.low.exp(), high=self.high.exp())

    def table(self) -> Table:
        """The numbers as a table, which prints, gives columns and turns into a frame."""
        low, high = limits(self.level)
        name = "t" if bool(torch.isfinite(self.df).any()) else "z"
        return Table(
            "Estimates",
            self.names,
            {
                "value": self.value,
                "std err": self.std_err,
                low: self.low,
                high: self.high,
                name: self.statistic,
                "p": self.p_value,
            },
        )

    def __str__(self) -> str:
        return str(self.table())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


def delta(result: Fitted, function: Function, names: Sequence[str], level: float = 0.95) -> Estimates:
    """The quantities `function(coef)`, with `coef` (B, p) to `(B, k)`, model by model, and their delta method errors.

    The derivatives are taken by automatic differentiation, the covariance is the result's own; aliased
    coefficients enter as 0. Raises `ValueError` for another number of names or a level outside (0, 1).
    """
    value, slope = jacobian(function, result.flat.coef)
    return estimates(result, value, errors(result, slope), names, level)


def jacobian(function: Function, coef: Tensor) -> tuple[Tensor, Tensor]:
    """`function(coef)` (B, k), and its derivatives (B, k, p)."""
    with torch.enable_grad():
        at = coef.detach().clone().requires_grad_()
        value = function(at)
        if not isinstance(value, Tensor) or value.dim() != 2 or value.shape[0] != coef.shape[0]:
            what = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                f"the function must turn coef {tuple(coef.shape)} into a tensor ({coef.shape[0]}, k), k quantities of "
                f"each model; it gave {what}. Keep the first dimension: coef[:, 1:2].exp(), say."
            )
        if not value.requires_grad:
            raise ValueError("the function cuts its result off from coef (by detach, float or numpy). Use torch alone.")
        rows = [
            torch.autograd.grad(value[:, j].sum(), at, retain_graph=True, allow_unused=True)[0]
            for j in range(value.shape[-1])
        ]
    whole = [torch.zeros_like(coef) if row is None else row for row in rows]
    return value.detach(), torch.stack(whole, -2) if whole else coef.new_zeros(coef.shape[0], 0, coef.shape[1])


def errors(result: Fitted, slope: Tensor) -> Tensor:
    """(B, k) standard errors of quantities with derivatives `slope` (B, k, p).

    NaN where one depends on a coefficient without a variance, and where it is what constraints make it.
    """
    cov = result.covariance().reshape(-1, slope.shape[-1], slope.shape[-1])
    known = torch.isfinite(cov)
    variance = ((slope @ torch.where(known, cov, 0.0)) * slope).sum(-1).clamp(min=0)
    aliased = ~result.flat.keep.unsqueeze(-2)
    lost = (~known.diagonal(dim1=-2, dim2=-1).unsqueeze(-2) & ~aliased & (slope != 0)).any(-1)
    if result.flat.multiplier is not None:
        lost = lost | (variance == 0)
    return torch.where(lost, torch.nan, variance.sqrt())


def estimates(result: Fitted, value: Tensor, error: Tensor, names: Sequence[str], level: float) -> Estimates:
    """Wald tests and limits of quantities `(B, k)` with standard errors `(B, k)`."""
    check_level(level)
    if len(names) != value.shape[-1]:
        raise ValueError(
            f"the function gives {value.shape[-1]} quantities, names has {len(names)}. Give one name for each."
        )
    value, error = result.shaped(value), result.shaped(error)
    half = result.quantile(level).unsqueeze(-1) * error
    statistic = value / error
    df = result.least_df if result.statistic_name == "t" else torch.full_like(result.df_resid, torch.inf)
    p_value = 2 * special.student_t_sf(statistic.abs(), df.unsqueeze(-1).expand_as(statistic))
    return Estimates(list(names), value, error, value - half, value + half, statistic, p_value, df, level)
