"""Random effects in a summary: a table of their standard deviations, what they account for, and how they were found."""

from __future__ import annotations

import torch

from torchglm.inference.fitted import Fitted
from torchglm.inference.mixed import random
from torchglm.inference.random_shares import variance_shares
from torchglm.inputs.specs import groupings_of
from torchglm.report.document import Grid
from torchglm.writing import numbers

FEW_DF = 60.0  # degrees of freedom below which an interval by t is wider by two hundredths and more


def random_table(result: Fitted) -> list[Grid]:
    """Each effect with its standard deviation, variance, and correlations with those before it; empty without any."""
    if result.flat.modes is None:
        return []
    rows, most = list[tuple[str, ...]](), 0
    for name, effects in random(result).items():
        sd, correlation = effects.sd.tolist(), effects.correlation.tolist()
        known = _correlated(result, name)
        for j, effect in enumerate(effects.effects):
            first = (name, f"{len(effects.levels):,}") if not j else ("", "")
            before = [f"{correlation[j][k]:.3f}" if (k, j) in known else "" for k in range(j)]
            most = max(most, sum(map(bool, before)))
            rows.append((*first, effect, numbers.short(sd[j], 5), numbers.short(sd[j] ** 2, 5), *before))
    if result.family.has_dispersion:
        phi = float(result.dispersion)
        rows.append(("residual", "", "", numbers.short(phi**0.5, 5), numbers.short(phi, 5)))
    width = max(map(len, rows)) if most else 5
    head = ("random effects", "levels", "effect", "sd", "variance", *(["correlation"] + [""] * width)[: width - 5])
    return [Grid("", head, [(*row[:width], *[""] * (width - len(row))) for row in rows])]


def _correlated(result: Fitted, name: str) -> set[tuple[int, int]]:
    """The pairs of effects of a grouping that have a correlation."""
    assert result.spec is not None  # random effects come from a formula
    found, start = set[tuple[int, int]](), 0
    for inside in next(group for group in groupings_of(result.spec, result.family) if group.name == name).sets:
        places = range(start, start + len(inside))
        found |= {(k, j) for j in places for k in places if k < j}
        start += len(inside)
    return found


def random_facts(result: Fitted) -> list[tuple[str, str]]:
    """The intraclass correlation and R2 with and without random effects; empty without any."""
    if result.flat.modes is None:
        return []
    names = {"icc": "ICC (adjusted)", "r2_marginal": "R² (marginal)", "r2_conditional": "R² (conditional)"}
    shares = {names[key]: float(value) for key, value in variance_shares(result).items()}
    return [(name, f"{value:.4f}") for name, value in shares.items() if value == value]


def random_remarks(result: Fitted) -> list[str]:
    """How random effects were estimated, in sentences; empty without any."""
    if result.flat.modes is None:
        return []
    method = result.context["method"]
    exact = result.family.least_squares and result.link.name == "identity"
    how = {
        "reml": "restricted maximum likelihood (REML), whose log-likelihood compares fits of the same fixed effects",
        "ml": "maximum likelihood",
    }[method]
    nodes = result.context["quadrature"]
    way = "Laplace's approximation" if nodes == 1 else f"adaptive quadrature with {nodes} nodes"
    by = "" if exact else f", the integral over the effects by {way}"
    return [
        f"Random effects by {how}{by}. Deviance, Pearson χ² and residuals are given the effects of each group; "
        "AIC counts fixed effects, variances and covariances.",
        *_few(result),
    ]


def _few(result: Fitted) -> list[str]:
    """What allows for variances that few groups tell of, in a sentence; empty where it is in use, or needless."""
    df, flat = result.flat.effect_df, result.flat
    least = FEW_DF if df is None else float(torch.where(df.isnan(), torch.inf, df).amin())
    if least >= FEW_DF or flat.reference is not None or flat.covariance is not None:
        return []
    return [
        f"Intervals take the variances as known, and few groups tell of them ({least:.0f} degrees of freedom): "
        "satterthwaite() allows for it."
    ]
