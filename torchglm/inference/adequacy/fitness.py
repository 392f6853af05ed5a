"""Goodness of fit against the saturated model, and calibration by groups of the fitted probability."""

from __future__ import annotations

import torch
from torch import Tensor

from torchglm.inference.by_plan import of_one_predictor
from torchglm.inference.fitted import Fitted
from torchglm.inference.rowwise import RowValues
from torchglm.inference.table import Outcome

SPARSE = 5.0  # an expected count below which chi-squared is a poor law for a cell


@of_one_predictor("Use check(), or look at residuals(), which are standard normal where the law is right.")
def goodness_of_fit(result: Fitted, kind: str = "deviance") -> Outcome:
    """(*B) the deviance, or Pearson's statistic, against chi-squared with `df_resid` degrees of freedom.

    It holds where the dispersion is known and every row carries much information (Poisson means or binomial counts of
    five and more); a note says where they are fewer, as in every fit of single yes-or-no answers. Raises `ValueError`
    where the dispersion is estimated, which leaves nothing to compare with, or for an unknown kind.
    Source: McCullagh & Nelder (1989), sections 2.3.4 and 4.4.5.
    """
    kinds = {"deviance": result.deviance, "pearson": result.pearson_chi2}
    if kind not in kinds:
        raise ValueError(f"unknown kind {kind!r}. Known: {', '.join(kinds)}.")
    if result.dispersion_kind not in ("fixed", "number"):
        raise ValueError(
            "the dispersion was estimated from these residuals, so they fit it by construction. Look at "
            "link_test() and variance_test(), or fit with a known dispersion."
        )
    notes: tuple[str, ...] = ()
    if result.has_rows:
        screen = _Sparse(result)
        for values in result.row_values():
            screen.add(values)
        share = float((screen.few / screen.count).max())
        if share > 0.2:
            notes = (
                f"{share:.0%} of the rows carry less than {SPARSE:g} expected counts (or are single trials): "
                "chi-squared is not the law of this statistic here. See hosmer_lemeshow() or dispersion_test().",
            )
    df = result.df_resid
    return Outcome(f"goodness of fit ({kind})", kinds[kind] / result.dispersion, df, None, notes)


class _Sparse:
    """Counts the rows whose statistic is far from chi-squared: `w mu` (and `w (1 - mu)`) below five."""

    def __init__(self, result: Fitted) -> None:
        self.result = result
        self.few = torch.zeros_like(result.flat.deviance)
        self.count = self.few.clone()

    def add(self, values: RowValues) -> None:
        family = self.result.family
        counted = values.mu if family.mean_upper == torch.inf else torch.minimum(values.mu, 1 - values.mu)
        discrete = family.mean_lower == 0 and not family.has_dispersion and not family.durations
        few = values.used & (values.prior * counted < SPARSE) & discrete
        self.few += (few * values.repeats).sum(-1)
        self.count += (values.used * values.repeats).sum(-1)


@of_one_predictor("Use check(), or look at residuals(), which are standard normal where the law is right.")
def hosmer_lemeshow(result: Fitted, groups: int = 10) -> Outcome:
    """(*B) observed against expected counts of yes and no in groups of equal weight by fitted probability.

    `sum (O - E)^2 / (E (1 - E / n))` over the groups, chi-squared with `groups - 2` degrees of freedom; rows of equal
    probability stay together. Its power is low and it depends on the number of groups; notes warn where a group
    expects fewer than five of either. Raises `ValueError` for families that are no proportions or fewer than 3 groups.
    Source: Hosmer & Lemeshow (1980), Commun. Stat. A9; Hosmer et al. (1997), Stat. Med. 16.
    """
    if result.family.mean_upper != 1.0:
        raise ValueError(f"hosmer_lemeshow() is for proportions (Bernoulli, binomial), this is {result.family}.")
    if groups < 3:
        raise ValueError(f"groups must be 3 or more, got {groups}.")
    parts = [
        (values.mu, torch.where(values.used, values.rows.y * values.rows.weight, 0.0), values.rows.weight)
        for values in result.row_values()
    ]
    mu, yes, weight = (torch.cat(column, -1) for column in zip(*parts, strict=True))
    mu, order = torch.where(weight > 0, mu, torch.inf).sort(-1)
    yes, weight = yes.gather(-1, order), weight.gather(-1, order)
    place = weight.cumsum(-1) - weight / 2
    group = (place / weight.sum(-1, keepdim=True) * groups).long().clamp(0, groups - 1)
    group = _tied(group, mu)
    mu = torch.where(weight > 0, mu, 0.0)
    total, seen, expected = (
        torch.zeros(mu.shape[0], groups).to(mu).scatter_add(-1, group, v) for v in (weight, yes, weight * mu)
    )
    filled = total > 0
    variance = torch.where(filled, expected * (1 - expected / torch.where(filled, total, 1.0)), 1.0)
    statistic = torch.where(filled, (seen - expected).square() / variance, 0.0).sum(-1)
    df = (filled.sum(-1) - 2).to(mu)
    few = filled & (torch.minimum(expected, total - expected) < SPARSE)
    notes = (
        (
            f"{int(few.sum(-1).max())} of {groups} groups expect fewer than {SPARSE:g} of one kind: the p-value is "
            "rough. Use fewer groups.",
        )
        if bool(few.any())
        else ()
    )
    return Outcome(f"Hosmer-Lemeshow ({groups} groups)", result.shaped(statistic), result.shaped(df), None, notes)


def _tied(group: Tensor, sorted_value: Tensor) -> Tensor:
    """The groups with equal values put into the group of the first of them."""
    new = torch.ones_like(group, dtype=torch.bool)
    new[..., 1:] = sorted_value[..., 1:] != sorted_value[..., :-1]
    first = torch.where(new, torch.arange(group.shape[-1], device=group.device), 0).cummax(-1).values
    return group.gather(-1, first)
