"""What a stream leaves behind: sums over all rows seen, and how they move as the coefficients do."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.links import Link
from torchglm.rows.grams import Dense
from torchglm.rows.inverses import DenseInverse
from torchglm.rows.products import gram, linear_predictor, project, quadratic
from torchglm.rows.rows import Rows, to_float64, whole

MOST = 64  # coefficients for which p^3 numbers are kept: 2 MB, and at 50 rows no more time than the rest of an update
TRUSTED = 0.5  # the share of itself by which a linear model may change a matrix in one move


@dataclass(frozen=True)
class StreamSummary:
    """All that is kept of the rows seen, in float64; `k` updates ago a minibatch counted `forgetting^k` of itself.

    `coef` (p,); `curvature` (p, p) the sum of observed information, each at the coefficients of its own time;
    `information` (p, p) the sum of expected information (observed where times are censored) and `bend` (p, p, p) of
    its derivative by the coefficients; `spread` and `spread_bend` the same with squared shares; `pearson` () the sum
    of `w (y - mu)^2 / V`, `pearson_slope` (p,) and `pearson_curvature` (p, p) of its derivatives; `count` () the
    shares of the rows of positive weight, `nobs` () those rows themselves. `bend` and `spread_bend` are empty
    beyond `MOST` coefficients.
    """

    coef: Tensor
    curvature: Tensor
    information: Tensor
    spread: Tensor
    bend: Tensor
    spread_bend: Tensor
    pearson: Tensor
    pearson_slope: Tensor
    pearson_curvature: Tensor
    count: Tensor
    nobs: Tensor

    @staticmethod
    def shapes(p: int) -> dict[str, tuple[int, ...]]:
        """The shape of every field for `p` coefficients."""
        orders = {"coef": 1, "pearson_slope": 1, "curvature": 2, "information": 2, "spread": 2, "pearson_curvature": 2}
        cube = (p,) * 3 if p <= MOST else (0,) * 3
        return {
            f.name: cube if f.name.endswith("bend") else (p,) * orders.get(f.name, 0) for f in fields(StreamSummary)
        }

    @classmethod
    def of_nothing(cls, coef: Tensor) -> StreamSummary:
        """The sums over no rows."""
        none = {name: coef.new_zeros(shape) for name, shape in cls.shapes(coef.shape[-1]).items()}
        return cls(**{**none, "coef": coef})

    def faded(self, forgetting: float) -> StreamSummary:
        """The same rows an update later."""
        powers = {"coef": 0, "nobs": 0, "spread": 2, "spread_bend": 2}
        return StreamSummary(
            **{f.name: getattr(self, f.name) * forgetting ** powers.get(f.name, 1) for f in fields(self)}
        )

    def moved(self, coef: Tensor) -> StreamSummary:
        """The same rows at other coefficients: Pearson's sum by its quadratic model, the information by its linear.

        What the models would take away beyond half of a sum, or add to the information beyond that, they do not.
        """
        step = coef - self.coef
        turn = self.pearson_curvature @ step
        pearson = self.pearson + self.pearson_slope @ step + step @ turn / 2
        new = replace(
            self, coef=coef, pearson=pearson.maximum(TRUSTED * self.pearson), pearson_slope=self.pearson_slope + turn
        )
        if not bool((self.bend != 0).any()):
            return new
        return replace(
            new,
            information=_changed(self.information, self.bend @ step),
            spread=_changed(self.spread, self.spread_bend @ step),
        )

    def inverse(self) -> Tensor:
        """(p, p) the inverse of the information."""
        return inverted(self.information).root.inverse()[0]

    def df_resid(self) -> Tensor:
        """The degrees of freedom of the dispersion."""
        return self.count - (self.inverse() * self.spread).sum()

    def dispersion(self) -> Tensor:
        """Pearson's estimate; NaN while no degree of freedom is left."""
        freedom = self.df_resid()
        return torch.where(freedom > 0, self.pearson / freedom, torch.nan)


def pearson_slopes(rows: Rows, known: StreamSummary, family: Family, link: Link) -> tuple[Tensor, Tensor]:
    """The derivatives `(p,)` and `(p, p)` of a minibatch's sum of `w (y - mu)^2 / V` by the coefficients.

    Neither vanishes at the fit: its expectation has a slope wherever `V` depends on the mean. `known` holds the
    minibatch. No row's model changes by more than its value and `phi / w` within a standard error of its `eta`, which
    least squares never does.
    """
    rows = to_float64(rows)
    eta, error, phi = _predicted(rows, known, family)
    with torch.enable_grad():
        mu, y = link(eta), rows.y
        square = (y - mu).square() / family.variance(mu)
        first = _derivative(square, eta, again=True)
        second = _derivative(first, eta)
    size = square.detach() + phi / rows.weight
    first, second = _held(first.detach(), size / error), _held(second, 2 * size / error.square())
    return project(rows, rows.weight * first)[0], gram(rows, rows.weight * second).written_out()[0]


def information_bend(rows: Rows, known: StreamSummary, family: Family, link: Link, observed: bool) -> Tensor:
    """The derivative `(p, p, p)` of a minibatch's information by the coefficients; `known` holds the minibatch.

    A linear model of a row's information tells nothing beyond where it would be 0: its slope is held so that this
    lies no nearer than a standard error of its `eta`, which shrinks as rows come in.
    """
    if not known.bend.numel():
        return known.bend
    rows = to_float64(rows)
    eta, error, _ = _predicted(rows, known, family)
    with torch.enable_grad():
        weight = family.score_and_weight(rows.response, eta, link(eta), link, observed)[1]
        slope = _derivative(weight, eta)
    slope = rows.weight * _held(slope, weight.detach().abs() / error)
    if not bool((slope != 0).any()):
        return torch.zeros_like(known.bend)
    total, start, p = torch.zeros_like(known.bend).flatten(1), 0, rows.columns
    for piece in rows.pieces(p * p):
        x = whole(piece)
        stop = start + x.shape[0]
        pairs = (x.unsqueeze(-1) * x.unsqueeze(-2)).flatten(1)
        total += (x * slope[0, start:stop].unsqueeze(-1)).mT @ pairs
        start = stop
    return total.view_as(known.bend)


def inverted(information: Tensor) -> DenseInverse:
    """The inverse of one `(p, p)` information, as `DenseInverse` of a batch of one."""
    keep = torch.ones(1, information.shape[-1], dtype=torch.bool, device=information.device)
    return Dense(information.unsqueeze(0)).invert(keep)


def _predicted(rows: Rows, known: StreamSummary, family: Family) -> tuple[Tensor, Tensor, Tensor]:
    """`eta` (1, n) to differentiate by, its standard error, and `phi` (infinite while it is not known)."""
    eta = linear_predictor(rows, known.coef.unsqueeze(0)).requires_grad_()
    phi = known.dispersion().nan_to_num(torch.inf) if family.has_dispersion else torch.ones_like(known.count)
    return eta, (phi * quadratic(rows, inverted(known.information).root)).sqrt(), phi


def _derivative(value: Tensor, by: Tensor, again: bool = False) -> Tensor:
    """The derivative of every element of `value` by the same element of `by`, itself to be derived `again`."""
    if not value.requires_grad:
        return torch.zeros_like(by)
    [slope] = torch.autograd.grad(value.sum(), by, create_graph=again)
    return slope


def _held(slope: Tensor, most: Tensor) -> Tensor:
    """`slope` within `most`; where that is not a number (no degree of freedom is left) as it is."""
    most = most.nan_to_num(torch.inf, posinf=torch.inf)
    return slope.clamp(-most, most)


def _changed(matrix: Tensor, change: Tensor) -> Tensor:
    """`matrix + change`, the change shortened where in some direction it is more than its trusted share."""
    root = inverted(matrix).root.matrix[0]
    share = torch.linalg.eigvalsh(root.mT @ change @ root).abs().amax()
    return matrix + change * (TRUSTED / share.clamp(min=TRUSTED))
