"""The dispersion at which a marginal likelihood is greatest, of families whose density holds it in a way of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.fitting.shape import RowMeans
from torchglm.rows.rows import Rows
from torchglm.special.roots import root as root_of


def least_dispersion(
    means: RowMeans, family: Family, drawn: Tensor, count: Tensor, free: Tensor
) -> tuple[Tensor, Tensor]:
    """(B,) where the criterion of deviances with penalty `drawn` is least, and the curvature by the logarithm there."""

    def slopes(log_phi: Tensor) -> tuple[Tensor, Tensor]:
        first, second = _base_slopes(means, family, log_phi)
        half = drawn * torch.exp(-log_phi) / 2
        return -half - first - free / 2, half - second

    def step(log_phi: Tensor) -> Tensor:
        slope, bend = slopes(log_phi)
        return -slope / torch.where(bend > 0, bend, slope.abs())

    start = (drawn / (count - free).clamp(min=1)).clamp(min=1e-300).log()
    log_phi = root_of(step, start, longest=(4.0, 4.0), limits=(-700.0, 700.0))
    return log_phi.exp(), slopes(log_phi)[1]


def bend_at_least(means: RowMeans, family: Family, phi: Tensor, free: Tensor) -> Tensor:
    """(B,) that curvature at dispersions (B,) where the criterion is least."""
    first, second = _base_slopes(means, family, phi.log())
    return -first - second - free / 2


def _base_slopes(means: RowMeans, family: Family, log_phi: Tensor) -> tuple[Tensor, Tensor]:
    """(B,) two derivatives, by the logarithm of the dispersion, of what a log-likelihood has beside the deviance."""

    def term(rows: Rows, mu: Tensor) -> Tensor:
        used = rows.weight > 0
        repeats = torch.ones_like(rows.weight) if rows.repeats is None else rows.repeats.to(mu.dtype)
        prior = torch.where(used, rows.weight / torch.where(used, repeats, 1.0), 1.0)
        each = family.base_slopes(rows.response, log_phi.unsqueeze(-1) - prior.log())
        return torch.stack([torch.where(used, repeats * value, 0.0).sum(-1) for value in each], -1)

    first, second = means.sum(term).unbind(-1)
    return first, second
