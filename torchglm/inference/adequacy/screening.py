"""Tests of the link from sums over the rows: one pass serves any number of them.

A screen takes in chunks with `add` and gives an `Outcome` with `outcome`; `run` shows it the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from torchglm import links
from torchglm.inference.fitted import Fitted
from torchglm.inference.rowwise import RowValues
from torchglm.inference.table import Outcome
from torchglm.rows.products import project

FLAT = 1e-9  # an added column that keeps less than this share of itself beside the design adds nothing
POWERS = {link.name: link.exponent for link in links.MEMBERS if link.exponent is not None}


class Screen(Protocol):
    """What sees every chunk once and then says something."""

    def add(self, values: RowValues) -> None: ...


@torch.no_grad()
def run(result: Fitted, screens: Sequence[Screen]) -> None:
    """Show every chunk of the rows to all screens: one pass."""
    for values in result.row_values():
        for screen in screens:
            screen.add(values)


class AddedColumn:
    """The score test for one column more, a combination of `k` columns made from the fitted values.

    With `z` the column, `U = sum z s` and `V = z' W z - z' W X (X' W X)^-1 X' W z`, the statistic is `U^2 / (phi V)`;
    where `phi` is estimated, `F(1, df - 1)` with the dispersion left when the column is in, which for least squares
    is the exact test. `step = U / V` is its coefficient after one step. Source: Pregibon (1982), Score tests in GLIM.
    """

    def __init__(self, result: Fitted, k: int) -> None:
        coef = result.flat.coef
        models, p = coef.shape
        self.result = result
        self.u, self.zz, self.zx = coef.new_zeros(models, k), coef.new_zeros(models, k, k), coef.new_zeros(models, k, p)

    def columns(self, values: RowValues) -> list[Tensor]:
        """The `k` columns (B, n) of a chunk."""
        raise NotImplementedError

    def combination(self) -> Tensor:
        """(B, k) the combination that is tested, once all rows were seen."""
        return torch.ones_like(self.u)

    def add(self, values: RowValues) -> None:
        z = torch.stack([torch.where(values.used, column, 0.0) for column in self.columns(values)], -2)
        heavy = z * values.information.unsqueeze(-2)
        self.u += (z @ values.score.unsqueeze(-1)).squeeze(-1)
        self.zz += heavy @ z.mT
        self.zx += torch.stack([project(values.rows, column) for column in heavy.unbind(-2)], -2)

    def solve(self) -> tuple[Tensor, Tensor]:
        """(B) the score `U` and its variance `V` for `phi = 1`; NaN where the column is one of the design's."""
        a = self.combination().unsqueeze(-1)
        inside = self.zx.mT @ a
        whole = (a.mT @ self.zz @ a)[:, 0, 0]
        variance = whole - self.result.flat.root.within(inside)[:, 0, 0]
        known = variance > FLAT * whole
        score = (self.u.unsqueeze(-2) @ a)[:, 0, 0]
        return torch.where(known, score, torch.nan), torch.where(known, variance, torch.nan)

    def step(self) -> tuple[Tensor, Tensor]:
        """(B) the coefficient of the column after one step, and its standard error."""
        score, variance = self.solve()
        return score / variance, (self.result.flat.dispersion / variance).sqrt()

    def test(self, title: str, inflation: Tensor | float = 1.0) -> Outcome:
        """The test, at `inflation` (B) times the dispersion of the fit."""
        score, variance = self.solve()
        square = score.square() / variance / (self.result.flat.dispersion * inflation)
        return from_square(self.result, title, square)


def from_square(result: Fitted, title: str, square: Tensor) -> Outcome:
    """A squared statistic of one degree of freedom as chi-squared, or as F where the dispersion is estimated."""
    one, out = torch.ones_like(square), result.shaped
    if result.statistic_name == "z":
        return Outcome(title, out(square), out(one))
    df = result.flat.nobs - result.flat.rank
    left = (df - square) / (df - 1)
    return Outcome(
        title,
        out(torch.where(left > 0, square / left, torch.inf).where(~square.isnan(), torch.nan)),
        out(one),
        out(df - 1),
    )


class LinkTest(AddedColumn):
    """The square of the linear predictor as one column more: does the link bend as the data do?

    The predictor is taken without its offset and from its mean. Source: Pregibon (1980), Goodness of link tests.
    """

    def __init__(self, result: Fitted) -> None:
        super().__init__(result, 3)
        self.origin: Tensor | None = None

    def columns(self, values: RowValues) -> list[Tensor]:
        predictor = values.eta - values.rows.offset
        if self.origin is None:
            self.origin = middle(predictor, values.used)
        far = predictor - self.origin
        return [torch.ones_like(far), far, far.square()]

    def combination(self) -> Tensor:
        mean = self.zz[:, 0, 1] / self.zz[:, 0, 0]
        return torch.stack([mean.square(), -2 * mean, torch.ones_like(mean)], -1)

    def outcome(self, inflation: Tensor | float = 1.0) -> Outcome:
        return self.test("link test (square of the linear predictor)", inflation)


class PowerLink(AddedColumn):
    """The derivative of `mu^power` by the power as one column more: would another power link fit better?

    `estimate` is the power after one step. Only where the link is a power of a positive mean (log: 0). Source:
    Pregibon (1980), Goodness of link tests for generalized linear models, Appl. Stat. 29.
    """

    def __init__(self, result: Fitted) -> None:
        super().__init__(result, 1)
        self.power = result.link.exponent
        self.origin: Tensor | None = None
        self.positive = torch.ones_like(result.flat.deviance, dtype=torch.bool)

    def columns(self, values: RowValues) -> list[Tensor]:
        power = 0.0 if self.power is None else self.power
        rate = values.mu if power else values.mu / values.rows.offset.exp()
        self.positive &= ((rate > 0) | ~values.used).all(-1)
        log = torch.where(values.used & (rate > 0), rate, 1.0).log()
        if self.origin is None:
            self.origin = middle(log, values.used)
        # the unit of the mean changes the column by others of the design only
        return [bent(log - self.origin, self.origin, power)]

    def solve(self) -> tuple[Tensor, Tensor]:
        score, variance = super().solve()
        known = self.positive & (self.power is not None)
        return torch.where(known, score, torch.nan), torch.where(known, variance, torch.nan)

    def estimate(self) -> tuple[Tensor, Tensor]:
        """(B) the power after one step, and its standard error."""
        step, error = self.step()
        return (0.0 if self.power is None else self.power) - step, error

    def outcome(self) -> Outcome:
        power, error = (float(value) if value.numel() == 1 else None for value in self.estimate())
        notes = (
            ()
            if power is None
            else (f"power after one step: {power:.3g} (std err {error:.2g}); the fit has {self.power}",)
        )
        return replace(self.test("power of the link"), notes=notes)


def bent(log: Tensor, origin: Tensor, power: float) -> Tensor:
    """The derivative of `mu^power` by the power, at logarithms of means less their `origin`."""
    if not power:
        return log.square() / 2
    return torch.exp(power * origin) * ((power * log).exp() * log - torch.expm1(power * log) / power)


def middle(value: Tensor, used: Tensor) -> Tensor:
    """(B, 1) the mean over the rows of a chunk that count."""
    return torch.where(used, value, 0.0).sum(-1, keepdim=True) / used.sum(-1, keepdim=True).clamp(min=1)
