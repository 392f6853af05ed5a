"""Goodness of fit of laws of several predictors: classes against their patterns and groups, others cell by cell."""

from __future__ import annotations

import torch
from torch import Tensor

from torchglm.families.several import BetaBinomial, Classes, Multinomial
from torchglm.inference.adequacy.cells import cells_test
from torchglm.inference.adequacy.grouping import SPARSE, few_expected, group_sums, grouped
from torchglm.inference.fitted import Fitted
from torchglm.inference.hypotheses.nested import unpenalised
from torchglm.inference.several import family_of
from torchglm.inference.table import Outcome
from torchglm.inference.vector.score import pieces
from torchglm.rows.planned import predictors
from torchglm.rows.rows import Rows, whole
from torchglm.writing.nearest import unknown

KINDS = ("deviance", "pearson")


@torch.no_grad()
def goodness_of_fit_several(result: Fitted, kind: str | None = None) -> Outcome:
    """(*B) classes against the shares of their patterns, other laws against cells of equal probability.

    See `fitness.goodness_of_fit`.
    """
    unpenalised(result, "a test of the model")
    classes = isinstance(family_of(result), Classes)
    known = KINDS if classes else ("cells",)
    if kind is not None and kind not in known:
        said = "" if classes else f" The deviance of a {result.family.said} fit is no distance from a saturated one."
        raise ValueError(unknown("kind", kind, known) + said)
    if not classes:
        return cells_test(result)
    kind = KINDS[0] if kind is None else kind
    found = _patterns(result)
    values = torch.stack([_distance(seen, expected, kind) for seen, expected in found])
    sizes = result.flat.deviance.new_tensor([len(seen) for seen, _ in found])
    df = sizes * (found[0][0].shape[-1] - 1) - result.flat.rank
    share = max(float((expected < SPARSE).double().mean()) for _, expected in found)
    notes = (
        (
            f"{share:.0%} of the cells of {int(sizes.max()):,} patterns of the columns expect less than {SPARSE:g} "
            "rows: chi-squared is not the law of this statistic here. See hosmer_lemeshow().",
        )
        if share > 0.2
        else ()
    )
    df = torch.where(df > 0, df, torch.nan)
    return Outcome(
        f"goodness of fit ({kind}, rows of equal columns together)",
        result.shaped(torch.where(df.isnan(), torch.nan, values)),
        result.shaped(df),
        None,
        notes,
    )


Patterns = tuple[Tensor, Tensor, Tensor]  # the columns (G, q), and the rows seen and expected of each class (G, C)


def _patterns(result: Fitted) -> list[tuple[Tensor, Tensor]]:
    """Of each model (G, C) the rows seen and expected of each class, for every pattern of its columns."""
    family = family_of(result)
    assert isinstance(family, Classes)
    found: list[Patterns | None] = [None] * len(result.flat.coef)
    for rows in pieces(result):
        design, eta = whole(rows).to(torch.float64), predictors(rows, result.flat.coef)
        for model, before in enumerate(found):
            share = family.probabilities(eta[:, model : model + 1])[:, 0].mT  # (n, C)
            found[model] = _joined(before, rows, design if rows.shared else design[model], share, model)
    return [known[1:] for known in found if known is not None]


def _joined(before: Patterns | None, rows: Rows, design: Tensor, share: Tensor, model: int) -> Patterns:
    """The patterns of one model with those of a piece of its rows, whose classes have the chances `share` (n, C)."""
    weight, code = rows.weight[model], rows.y[model].long()
    used = weight > 0
    pattern = torch.cat([design, rows.offset[model].to(design)], -1)[used]
    seen = torch.nn.functional.one_hot(code[used], share.shape[-1]) * weight[used].unsqueeze(-1)
    expected = share[used] * weight[used].unsqueeze(-1)
    if before is not None:
        pattern, seen, expected = (torch.cat(pair) for pair in zip(before, (pattern, seen, expected), strict=True))
    known, place = torch.unique(pattern, dim=0, return_inverse=True)
    empty = expected.new_zeros(len(known), expected.shape[-1])
    return known, empty.index_add(0, place, seen), empty.index_add(0, place, expected)


def _distance(seen: Tensor, expected: Tensor, kind: str) -> Tensor:
    """() the deviance from the saturated model, or Pearson's statistic."""
    if kind == "pearson":
        return ((seen - expected).square() / expected).sum()
    return 2 * torch.special.xlogy(seen, seen / expected).sum()


@torch.no_grad()
def hosmer_lemeshow_several(result: Fitted, groups: int = 10) -> Outcome:
    """(*B) rows of each class seen and expected in groups of like prediction, see `fitness.hosmer_lemeshow`."""
    family = family_of(result)
    if not isinstance(family, Classes):
        other = "goodness_of_fit()" if not isinstance(family, BetaBinomial) else "goodness_of_fit(), by cells of counts"
        raise ValueError(f"hosmer_lemeshow() is for proportions and classes, this is {family.said}. Use {other}.")
    unpenalised(result, "a test of the model")
    shares, codes, weights = list[Tensor](), list[Tensor](), list[Tensor]()
    for rows in pieces(result):
        shares.append(family.probabilities(predictors(rows, result.flat.coef)))  # (C, B, n)
        codes.append(rows.y.long())
        weights.append(rows.weight.expand(shares[-1].shape[1:]))
    share, code, weight = (torch.cat(parts, -1) for parts in (shares, codes, weights))
    share, classes = torch.where(weight > 0, share, 0.0), len(share)
    if isinstance(family, Multinomial):
        assert family.base is not None
        order, lost = 1 - share[family.base], 0
    else:  # a share of each class times its number: the ordinal score
        order, lost = (share * torch.arange(1.0, classes + 1).to(share)[:, None, None]).sum(0), classes - 2
    group = grouped(order, weight, groups)
    seen = torch.stack([group_sums(group, groups, weight * (code == k)) for k in range(classes)], -1)
    expected = torch.stack([group_sums(group, groups, weight * one) for one in share], -1)  # (B, groups, C)
    filled = expected > 0
    statistic = torch.where(filled, (seen - expected).square() / torch.where(filled, expected, 1.0), 0.0).sum((-2, -1))
    df = (filled.any(-1).sum(-1) - 2).to(statistic) * (classes - 1) + lost
    df = torch.where(df > 0, df, torch.nan)
    notes = few_expected((filled & (expected < SPARSE)).any(-1), groups)
    name = "Fagerland-Hosmer-Bofin" if isinstance(family, Multinomial) else "Fagerland-Hosmer"
    return Outcome(f"{name} ({groups} groups)", result.shaped(statistic), result.shaped(df), None, notes)
