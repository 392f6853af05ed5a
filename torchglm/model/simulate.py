"""Responses drawn from a fit: what the data would look like if the model held."""

from __future__ import annotations

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.families.several import VectorFamily
from torchglm.inference.apart import check_room
from torchglm.inference.fitted import Fitted
from torchglm.inference.quantile import law_of, refuse_quasi
from torchglm.inference.rowwise import RowValues
from torchglm.inference.several import VectorValues, vector_values
from torchglm.model.law import VectorLaw
from torchglm.rows.responses import Counts, filled


def _refuse_counts(result: Fitted) -> None:
    """Raise `ValueError` for counts whose rows do not say out of how many whole trials they are."""
    if result.context.get("counted"):
        raise ValueError("the rows are counts of classes, one for each class. Fit a row for each label instead.")
    if result.context.get("trials") and result.context.get("weights"):
        raise ValueError(
            "weights= beside trials= are no trials, and no law has them. Fit without weights=, or by freq=."
        )


@torch.no_grad()
def simulate(result: Fitted, times: int = 1, seed: int = 0) -> Tensor:
    """(times, *B, n) draws of the responses of the fit's rows, from its law at its estimates.

    A row has its own offset, prior weight (which divides a dispersion, and says nothing where there is none) and
    trials; counts out of trials are counts, classes their places in `result.classes`, times are not censored. NaN for
    rows without weight. The draws depend on `seed` alone and leave torch's generator as it was.
    Raises `ValueError` for `times` below 1, a quasi-likelihood, counts of classes, and a
    result without rows.
    """
    if isinstance(times, bool) or not isinstance(times, int) or times < 1:
        raise ValueError(f"times must be a whole number, at least 1; got {times!r}.")
    refuse_quasi(result, "draws")
    _refuse_counts(result)
    check_room(result.chunks, times, "simulate()")
    family = result.family
    device = result.flat.coef.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        if isinstance(family, VectorFamily):
            values = vector_values(result.source, family, result.flat.coef)
            parts = [_of_several(family, part, times) for part in values]
        else:
            phi = result.flat.dispersion.unsqueeze(-1)
            parts = [_of_one(family, part, phi, times) for part in result.scored_values()]
    return torch.stack([result.shaped(one) for one in torch.cat(parts, -1)])


def _of_one(family: Family, values: RowValues, phi: Tensor, times: int) -> Tensor:
    """(times, B, n) draws of a chunk."""
    known = (phi > 0) & torch.isfinite(phi)
    used, phi = values.used & torch.isfinite(values.mu) & known, torch.where(known, phi, 1.0)
    mu = torch.where(used, values.mu, family.inner_mean)
    y = filled(values.rows.response, used, family.inner_mean)
    law, _ = law_of(family, mu, phi, torch.where(used, values.prior, 1.0), y)
    return torch.where(used, law.sample(torch.Size([times])), torch.nan)


def _of_several(family: VectorFamily, values: VectorValues, times: int) -> Tensor:
    y = values.rows.response
    trials = y.trials if isinstance(y, Counts) else None
    return torch.where(values.used, VectorLaw(family, values.eta, trials).sample((times,)).to(values.eta), torch.nan)
