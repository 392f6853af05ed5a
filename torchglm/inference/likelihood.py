"""The likelihood as another system reports it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchglm.families import (
    Bernoulli,
    Binomial,
    Exponential,
    Family,
    Gamma,
    Gaussian,
    InverseGaussian,
    NegativeBinomial,
    Poisson,
)
from torchglm.families.several import VectorFamily
from torchglm.fitting.shape import RowMeans
from torchglm.inference.apart import part_by_part
from torchglm.inference.by_plan import answered_by
from torchglm.inference.fitted import Fitted
from torchglm.inference.several import family_of
from torchglm.rows.rows import Rows
from torchglm.writing.nearest import unknown

SYSTEMS = ("R",)
DISPERSED = (Gaussian, Gamma, InverseGaussian)  # R's logLik.glm counts a dispersion for these
COUNTED = (Poisson, Binomial, Bernoulli, NegativeBinomial, Exponential)


@dataclass(frozen=True)
class Likelihood:
    """The log-likelihood `(*B)`, the parameters `df` it counts, and the criteria made of them."""

    loglik: Tensor
    df: Tensor
    nobs: Tensor

    @property
    def aic(self) -> Tensor:
        """(*B) `-2 loglik + 2 df`."""
        return -2 * self.loglik + 2 * self.df

    @property
    def bic(self) -> Tensor:
        """(*B) `-2 loglik + df log(nobs)`."""
        return -2 * self.loglik + self.df * self.nobs.log()

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, or lists for a batch."""
        return {name: getattr(self, name).tolist() for name in ("loglik", "df", "aic", "bic")}


def _like_several(result: Fitted, system: str = "R") -> Likelihood:
    """`like` of several predictors: their own numbers, which R's are."""
    _check_system(system)
    family = family_of(result)
    if family.weighted is not None and any(
        bool((rows.offset[..., _place(family)] != 0).any()) for rows in result.source
    ):
        raise ValueError(
            f"R multiplies log-densities by prior weights, and the weights of this {family.name} fit divide its "
            f"{family.weighted}: another model. Use freq= for repeats."
        )
    count = part_by_part(result, _rows_with_weight)
    return Likelihood(result.loglik, result.n_parameters, result.shaped(count))


def _rows_with_weight(result: Fitted) -> Tensor:
    return torch.stack([(rows.weight > 0).sum(-1).to(torch.float64) for rows in result.source]).sum(0)


def _place(family: VectorFamily) -> int:
    return family.predictors.index(str(family.weighted))


@answered_by(_like_several)
def like(result: Fitted, system: str = "R") -> Likelihood:
    """The log-likelihood, df, AIC and BIC of a fit as R's `logLik`, `AIC` and `BIC` give them.

    Where R differs: Gamma and inverse Gaussian take `phi = D / sum w` in place of the maximum likelihood one, and
    multiply the log-densities by the prior weights; a dispersion always counts as estimated; BIC's n is the number of
    rows of positive weight, whatever their repeats. Binomial counts, `round(w y)` of `round(w)` trials, are rounded
    (half to even) as `binomial()$aic` does, with `w` of one repeat: prior weights, times trials where these are given.
    An exponential fit is that of `survival::survreg`. Fits of several predictors have the numbers of `nnet::multinom`,
    `MASS::polr`, `survival::survreg`, `pscl::zeroinfl` and `hurdle`, and `glmmTMB`, which are their own. NaN where R
    has no likelihood: quasi and Tweedie fits, families of one's own. Raises `ValueError` for an unknown system.
    Source: R 4.2, `stats::logLik.glm`, `Gamma()$aic`, `inverse.gaussian()$aic`, `MASS::logLik.negbin`.
    """
    _check_system(system)
    kind = type(result.family)
    quasi = not result.family.has_dispersion and result.dispersion_kind != "fixed"
    known = kind in DISPERSED + COUNTED and not quasi
    df = result.rank + float(kind in DISPERSED) + float(result.estimated_shape)
    found = part_by_part(result, lambda part: _at_mean_deviance(part, kind in DISPERSED))
    loglik, nobs = (result.shaped(value) for value in found.unbind(-1))
    return Likelihood(torch.where(torch.tensor(known, device=loglik.device), loglik, torch.nan), df, nobs)


def _check_system(system: str) -> None:
    if system not in SYSTEMS:
        raise ValueError(unknown("system", system, SYSTEMS))


def _at_mean_deviance(result: Fitted, dispersed: bool) -> Tensor:
    """(B, 2) R's log-likelihood and number of rows."""
    flat, family = result.flat, result.family
    means = RowMeans(result.scored, result.link, flat.coef)
    weight, count = means.sum(lambda rows, _: torch.stack([rows.weight.sum(-1), (rows.weight > 0).sum(-1)]))
    gaussian = type(family) is Gaussian  # its phi and its weights are those of least squares
    phi = flat.deviance / (count if gaussian else weight) if dispersed else torch.ones_like(count)

    def log_density(rows: Rows, mu: Tensor) -> Tensor:
        if type(family) in (Binomial, Bernoulli):
            return _of_rounded_counts(rows, family, mu)
        density = family.log_prob(
            rows.response, mu, phi.unsqueeze(-1), rows.weight if gaussian or not dispersed else 1.0
        )
        times = 1.0 if gaussian or not dispersed else rows.weight
        return torch.where(rows.weight > 0, times * density, 0.0).sum(-1)

    return torch.stack([means.sum(log_density), count], -1)


def _of_rounded_counts(rows: Rows, family: Family, mu: Tensor) -> Tensor:
    """(B,) the binomial log-likelihood of counts made whole."""
    used = rows.weight > 0
    repeats = torch.ones_like(rows.weight) if rows.repeats is None else rows.repeats.to(rows.weight.dtype)
    total = torch.where(used, rows.weight / torch.where(used, repeats, 1.0), 0.0)
    trials, successes = total.round(), (total * rows.y).round()
    counted = used & (trials > 0)
    share = torch.where(counted, successes / torch.where(counted, trials, 1.0), 0.0)
    return torch.where(counted, repeats * family.log_prob(share, mu, 1.0, trials), 0.0).sum(-1)
