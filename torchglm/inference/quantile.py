"""Randomised quantile residuals: standard normal under the model, for every family with a distribution function."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution

from torchglm.distributions import tails_around
from torchglm.families import Family
from torchglm.inference.fitted import Fitted
from torchglm.inference.rowwise import RowValues
from torchglm.rows.responses import Response, event_of, filled, response, size_of

SMALLEST = 1e-300  # a probability that rounds to 0 has no normal quantile
Tails = tuple[Tensor, Tensor]  # F and 1 - F, each to full relative precision


@torch.no_grad()
def quantile_residuals(result: Fitted, seed: int = 0) -> Tensor:
    """(*B, n) `Phi^-1(u)`, `u = F(y)`, or uniform on `(F(y-), F(y)]` where the law of `y` has an atom.

    The uniform numbers depend on `seed` and on the row alone: a model of a batch, or a chunk of a stream, has the
    residuals it would have by itself. To pool the models of a batch take them one by one, each with its own seed, for
    they share these numbers. A censored time is drawn from beyond it. NaN for rows of weight zero, for counts that are
    not whole, and in saturated models of unknown dispersion. Raises `ValueError` for a quasi-likelihood, which has no
    law.
    Source: Dunn & Smyth (1996), J. Comput. Graph. Stat. 5.
    """
    refuse_quasi(result, "quantile residuals")
    phi = result.flat.dispersion.unsqueeze(-1)
    generator, parts = torch.Generator().manual_seed(seed), []
    for values in result.scored_values():
        uniform = torch.rand(values.mu.shape[-1], dtype=torch.float64, generator=generator).to(values.mu.device)
        parts.append(_scores(values, result.family, phi, uniform))
    return result.shaped(torch.cat(parts, -1))


def refuse_quasi(result: Fitted, what: str) -> None:
    """Raise `ValueError` where the fit is a quasi-likelihood and `what` needs a law."""
    if not result.family.has_dispersion and result.dispersion_kind != "fixed":
        raise ValueError(
            f"{what} need a distribution; a quasi-likelihood ({result.family.name}, dispersion="
            f"{result.dispersion_kind!r}) has none. Fit without dispersion=, or another family."
        )


def _scores(values: RowValues, family: Family, phi: Tensor, uniform: Tensor) -> Tensor:
    known = (phi > 0) & torch.isfinite(phi)  # (B, 1): nothing is left to estimate the dispersion of a saturated model
    used, phi = values.used & known, torch.where(known, phi, 1.0)
    y = filled(values.rows.response, used, 1.0)
    mu = torch.where(used & torch.isfinite(values.mu), values.mu, 0.5)
    found = scores(y, mu, family, phi, torch.where(used, values.prior, 1.0), uniform)
    return torch.where(used, found, torch.nan)


def scores(y: Response, mu: Tensor, family: Family, phi: Tensor, prior: Tensor, uniform: Tensor) -> Tensor:
    """The normal quantile of a probability a share `uniform` of the way from `F(y-)` to `F(y)`, by the smaller tail.

    `prior` divides the dispersion `phi`. NaN for counts that are not whole; raises `NotImplementedError` for a law
    whose tails are not known.
    """
    law, value = law_of(family, mu, phi, prior, y)
    return between(*tails_around(law, response(value, event_of(y))), uniform)


def between(below: Tails, at: Tails, uniform: Tensor) -> Tensor:
    """The normal quantile a share `uniform` of the way between two probabilities, each with its complement."""
    low = torch.lerp(below[0], at[0], uniform).clamp(min=SMALLEST)
    high = torch.lerp(below[1], at[1], uniform).clamp(min=SMALLEST)
    return torch.where(low < high, torch.special.ndtri(low), -torch.special.ndtri(high))


def law_of(family: Family, mu: Tensor, phi: Tensor, prior: Tensor, y: Response) -> tuple[Distribution, Tensor]:
    """The law of rows of mean `mu` and prior weight `prior`, and their responses in the units of that law."""
    law = family.distribution(mu, phi / prior)
    counts = getattr(law, "total_count", None)  # the family takes proportions, a binomial law counts
    return law, size_of(y) if counts is None else y * counts
