"""Goodness of fit against the saturated model, and calibration by groups of the fitted probability."""

from __future__ import annotations

import torch

from torchglm.inference.adequacy.grouping import SPARSE, few_expected, group_sums, grouped
from torchglm.inference.adequacy.several_fitness import goodness_of_fit_several, hosmer_lemeshow_several
from torchglm.inference.apart import of_like_size
from torchglm.inference.by_plan import answered_by
from torchglm.inference.fitted import Fitted
from torchglm.inference.rowwise import RowValues
from torchglm.inference.table import Outcome
from torchglm.writing.nearest import unknown


@of_like_size
@answered_by(goodness_of_fit_several)
def goodness_of_fit(result: Fitted, kind: str | None = None) -> Outcome:
    """(*B) the `deviance` (None), or `pearson`'s statistic, against chi-squared with `df_resid` degrees of freedom.

    Of classes the two compare the rows of equal columns with the shares expected, `patterns (C - 1) - rank` degrees of
    freedom. Of other laws of several predictors `cells` (None) compares the responses in ten cells of about equal
    probability, allowing for what was fitted: see `cells.Below`; not for censored times.

    It holds where the dispersion is known and every row carries much information (Poisson means or binomial counts of
    five and more); a note says where they are fewer, as in every fit of single yes-or-no answers. Raises `ValueError`
    where the dispersion is estimated, which leaves nothing to compare with, or for an unknown kind.
    Source: McCullagh & Nelder (1989), sections 2.3.4 and 4.4.5.
    """
    kind = "deviance" if kind is None else kind
    kinds = {"deviance": result.deviance, "pearson": result.pearson_chi2}
    if kind not in kinds:
        raise ValueError(unknown("kind", kind, kinds))
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


@of_like_size
@answered_by(hosmer_lemeshow_several)
def hosmer_lemeshow(result: Fitted, groups: int = 10) -> Outcome:
    """(*B) observed against expected counts of yes and no in groups of equal weight by fitted probability.

    `sum (O - E)^2 / (E (1 - E / n))` over the groups, chi-squared with `groups - 2` degrees of freedom; rows of equal
    probability stay together. Its power is low and it depends on the number of groups; notes warn where a group
    expects fewer than five of either. Raises `ValueError` for families that are no proportions or fewer than 3 groups.

    Of classes the counts of all are compared, `sum (O - E)^2 / E`: those of a multinomial model in groups by the
    probability of any class but the baseline, `(groups - 2) (C - 1)` degrees of freedom; those of an ordinal one by the
    mean of the class's number, `(groups - 2) (C - 1) + C - 2`.
    Source: Hosmer & Lemeshow (1980), Commun. Stat. A9; Hosmer et al. (1997), Stat. Med. 16; Fagerland, Hosmer & Bofin
    (2008), Stat. Med. 27; Fagerland & Hosmer (2013), Stat. Med. 32, and (2016), J. Stat. Comput. Simul. 86.
    """
    if result.family.mean_upper != 1.0:
        raise ValueError(f"hosmer_lemeshow() is for proportions (Bernoulli, binomial), this is {result.family}.")
    parts = [
        (values.mu, torch.where(values.used, values.rows.y * values.rows.weight, 0.0), values.rows.weight)
        for values in result.row_values()
    ]
    mu, yes, weight = (torch.cat(column, -1) for column in zip(*parts, strict=True))
    group = grouped(mu, weight, groups)
    expected = weight * torch.where(weight > 0, mu, 0.0)
    total, seen, expected = (group_sums(group, groups, v) for v in (weight, yes, expected))
    filled = total > 0
    variance = torch.where(filled, expected * (1 - expected / torch.where(filled, total, 1.0)), 1.0)
    statistic = torch.where(filled, (seen - expected).square() / variance, 0.0).sum(-1)
    df = (filled.sum(-1) - 2).to(mu)
    few = filled & (torch.minimum(expected, total - expected) < SPARSE)
    notes = few_expected(few, groups)
    return Outcome(f"Hosmer-Lemeshow ({groups} groups)", result.shaped(statistic), result.shaped(df), None, notes)
