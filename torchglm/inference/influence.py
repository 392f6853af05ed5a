"""What each row does to the fit: deletion by one Newton step, in closed form and one chunk at a time.

Without row `i` the step from the fitted coefficients is `-H^-1 x_i s_i / (1 - h_i)`, with the score `s_i` of the row
and its leverage `h_i`. It is exact for least squares and good to second order elsewhere. With `freq` residuals are
those of one repeat, and predictions and deviances that leave one out leave out one; leverage and the measures of
influence (Cook's distance, DFBETAs, DFFITs) take a row away with all its repeats.
Source: Pregibon (1981), Logistic regression diagnostics, Ann. Stat. 9; Williams (1987), Appl. Stat. 36.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from torchglm.inference import rowwise
from torchglm.inference.apart import each_apart, side_by_side
from torchglm.inference.beside import levered_values, shared_out
from torchglm.inference.by_plan import answered_by
from torchglm.inference.fitted import Fitted
from torchglm.inference.quantile import quantile_residuals
from torchglm.inference.rowwise import RowValues
from torchglm.inference.several import fitted_means as fitted_of_several
from torchglm.inference.vector import deletion as several
from torchglm.inference.vector.residuals import residuals_several
from torchglm.writing.nearest import unknown

EXACT = 1e-9  # a row that keeps less than this share of its residual is fitted exactly; nothing is left without it
MEANS = ("mean", "link")


@side_by_side("residuals()")
@answered_by(residuals_several)
def residuals(result: Fitted, kind: str | None = None, standardized: bool = False, seed: int = 0) -> Tensor:
    """(*B, n) residuals: response, pearson, deviance (None), working, anscombe, studentized or (randomised) quantile.

    Those of one repeat where rows have `freq`. With `standardized` the first five are divided by `sqrt(phi (1 - h))`,
    with the leverage of that repeat; `seed` is for the quantile residuals. A fit of several predictors has quantile
    (None), response and pearson residuals, the last two of classes being (*B, n, C).
    Raises `ValueError` for an unknown kind. Source: McCullagh & Nelder (1989), sections 2.4 and 12.5.
    """
    if kind == "studentized":
        return studentized(result)
    if kind == "quantile":
        return quantile_residuals(result, seed)
    parts = []
    for values in levered_values(result) if standardized else result.scored_values():
        part = rowwise.residuals(values, result.family, result.link, "deviance" if kind is None else kind)
        if standardized:
            left = 1 - _one_leverage(result, values)
            part = part / (result.flat.dispersion.unsqueeze(-1) * left).sqrt()
        parts.append(part)
    return result.shaped(torch.cat(parts, -1))


@side_by_side("fitted")
@answered_by(fitted_of_several)
def fitted_means(result: Fitted) -> Tensor:
    """(*B, n) the fitted means of the rows; for classes (*B, n, C) their probabilities."""
    return result.shaped(torch.cat([values.mu for values in result.scored_values()], -1))


@side_by_side("leverage()")
@answered_by(several.leverage)
def leverage(result: Fitted) -> Tensor:
    """(*B, n) the diagonal of the hat matrix; with `freq` that of a row with all its repeats."""
    root = result.flat.root
    return _side_by_side(result, lambda values: rowwise.leverage(values, root))


def _side_by_side(result: Fitted, value: Callable[[RowValues], Tensor]) -> Tensor:
    """(*B, n) a value of every row."""
    if isinstance(result.scored, list):
        parts = shared_out(result, lambda each: [value(values) for values in each])
    else:
        parts = [[value(values) for values in levered_values(result)]]
    return result.shaped(torch.cat([one for part in parts for one in part], -1))


class Deletion(NamedTuple):
    """What taking a row away does, (B, n) each; NaN, but for the leverage, where nothing is left of the row.

    `left` is `1 - h`; `residual` is Pearson's over `sqrt(phi (1 - h))`, both of one repeat; `cook` is of the row with
    all its repeats.
    """

    leverage: Tensor
    left: Tensor
    residual: Tensor
    cook: Tensor


def deletion(result: Fitted, values: RowValues) -> Deletion:
    """The leverage and Cook's distance of the rows of a chunk. Source: Cook (1977), Technometrics 19."""
    flat = result.flat
    h = rowwise.leverage(values, flat.root)
    left = _left(1 - h)
    phi, pearson = flat.dispersion.unsqueeze(-1), rowwise.residuals(values, result.family, result.link, "pearson")
    residual = pearson / (phi * _left(1 - h / values.repeats)).sqrt()
    cook = values.repeats * pearson.square() / (phi * left) * h / left / flat.df.unsqueeze(-1)
    return Deletion(h, left, residual, cook)


@side_by_side("cooks_distance()")
@answered_by(several.cooks_distance)
def cooks_distance(result: Fitted) -> Tensor:
    """(*B, n) Cook's distance, `(pearson / (1 - h))^2 h / (phi rank)`; NaN for a row of leverage one.

    With `freq` it says what the row does with all its repeats.
    """
    return _side_by_side(result, lambda values: deletion(result, values).cook)


@side_by_side("dfbetas()")
@answered_by(several.dfbetas)
def dfbetas(result: Fitted, scaled: bool = True) -> Tensor:
    """(*B, n, p) how far each coefficient moves when the row is taken in, in its standard errors without the row.

    `scaled=False` leaves the differences in the units of the coefficients. NaN for a row of leverage one and for
    aliased columns.
    """
    keep, root = result.flat.keep, result.flat.root
    error, inverse = root.inverse_diagonal().sqrt().unsqueeze(-2), root.inverse()  # (B, 1, p), (B, p, p)
    parts = []
    for values, left in _deleted(result):
        moved = (values.x @ inverse) * (values.score / left).unsqueeze(-1)
        if scaled:
            without = _deletion_dispersion(result, values, left, values.repeats)
            moved = moved / (error * without.sqrt().unsqueeze(-1))
        parts.append(torch.where(keep.unsqueeze(-2), moved, torch.nan))
    return result.shaped(torch.cat(parts, -2))


@side_by_side("dffits()")
@answered_by(several.dffits)
def dffits(result: Fitted) -> Tensor:
    """(*B, n) how far the row's own linear predictor moves when it is taken in, in standard errors without it.

    `pearson sqrt(h) / (1 - h) / sqrt(phi without the row)`. Of several predictors (*B, n, K), each in its own.
    """
    parts = []
    for values, left in _deleted(result):
        pearson = rowwise.residuals(values, result.family, result.link, "pearson") * values.repeats.sqrt()
        share = rowwise.leverage(values, result.flat.root).sqrt() / left
        parts.append(pearson * share / _deletion_dispersion(result, values, left, values.repeats).sqrt())
    return result.shaped(torch.cat(parts, -1))


def studentized(result: Fitted) -> Tensor:
    """(*B, n) deletion residuals, `sign(y - mu) sqrt((d^2 + h p^2 / (1 - h)) / phi without the row)`.

    `d` and `p` are the deviance and the Pearson residual. For least squares the externally studentised residual,
    t distributed with `df_resid - 1` degrees of freedom. With `freq` one repeat is deleted.
    """
    parts = []
    for values in levered_values(result):
        h = _one_leverage(result, values)
        left = _left(1 - h)
        d, p = (rowwise.residuals(values, result.family, result.link, kind) for kind in ("deviance", "pearson"))
        without = _deletion_dispersion(result, values, left, torch.ones_like(left))
        square = (d.square() + h * p.square() / left) / without
        parts.append(torch.sign(d) * square.sqrt())
    return result.shaped(torch.cat(parts, -1))


@side_by_side("loo_predict()")
@answered_by(several.loo_predict)
def loo_predict(result: Fitted, kind: str = "mean") -> Tensor:
    """(*B, n) the mean (or the linear predictor, `kind="link"`) of each row by the fit without it.

    NaN for a row of leverage one and where the step leaves the range of the link. Raises `ValueError` for an
    unknown kind.
    """
    if kind not in MEANS:
        raise ValueError(unknown("kind", kind, MEANS))
    parts = [eta if kind == "link" else result.link(eta) for _, eta in _left_out(result)]
    return result.shaped(torch.cat(parts, -1))


@each_apart
@answered_by(several.cv_deviance)
def cv_deviance(result: Fitted) -> Tensor:
    """(*B) the deviance of every row at the mean predicted without it: leave-one-out cross-validation.

    For least squares the prediction sum of squares (PRESS). NaN where a row of leverage one has no prediction.
    Source: Allen (1974), Technometrics 16.
    """
    total = torch.zeros_like(result.flat.deviance)
    for values, eta in _left_out(result):
        half = result.family.half_deviance(values.rows.response, eta, result.link(eta), result.link)
        total = total + torch.where(values.used, 2 * half * values.rows.weight, 0.0).sum(-1)
    return result.shaped(total)


def _deleted(result: Fitted) -> Iterator[tuple[RowValues, Tensor]]:
    """Every chunk, and what `1 - h` leaves of each row: NaN where nothing is left."""
    for values in levered_values(result):
        left = 1 - rowwise.leverage(values, result.flat.root)
        yield values, _left(left)


def _one_leverage(result: Fitted, values: RowValues) -> Tensor:
    """(B, n) the leverage of one repeat of each row."""
    return rowwise.leverage(values, result.flat.root) / values.repeats


def _left(share: Tensor) -> Tensor:
    """What is left of each row: NaN where it is nothing."""
    return torch.where(share > EXACT, share, torch.nan)


def _left_out(result: Fitted) -> Iterator[tuple[RowValues, Tensor]]:
    """Every chunk, and the linear predictor of each row by the fit without one repeat of it."""
    for values in levered_values(result):
        spread = rowwise.spread(values, result.flat.root)  # x' H^-1 x
        left = 1 - values.information / values.repeats * spread
        eta = values.eta - spread * values.score / values.repeats / _left(left)
        eta = torch.where(values.used, eta, values.eta)
        inside = result.link.inside(eta) & result.family.valid_mean(result.link(eta))
        yield values, torch.where(inside, eta, torch.nan)


def _deletion_dispersion(result: Fitted, values: RowValues, left: Tensor, repeats: Tensor) -> Tensor:
    """(B, n) the dispersion estimated without `repeats` of the row; 1, or the number given, where it is not estimated.

    `(T - r^2 / (1 - h)) / (df - 1)`, with Pearson's statistic and residual, or the deviance and its residual
    where that is the estimate.
    """
    phi = result.flat.dispersion.unsqueeze(-1)
    if result.statistic_name == "z":
        return phi.expand_as(left)
    kind = "pearson" if result.dispersion_kind == "pearson" else "deviance"
    total = (result.flat.pearson if kind == "pearson" else result.flat.deviance).unsqueeze(-1)
    freedom = result.flat.df_resid.unsqueeze(-1)
    share = repeats * rowwise.residuals(values, result.family, result.link, kind).square() / left / total
    without = phi * (1 - share) * freedom / (freedom - repeats)
    return torch.where((without > 0) & (freedom > repeats), without, torch.nan)
