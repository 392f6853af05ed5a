"""What a penalty, or levels that were set apart, make of the numbers of a fit."""

from __future__ import annotations

from torchglm.inference.fitted import Fitted
from torchglm.writing import numbers


def levels_apart(result: Fitted) -> list[tuple[str, str]]:
    """The separated levels of one model that were set apart, as a fact; empty where there are none."""
    rows, levels = float(result.apart_rows), int(result.apart_levels)
    return [("Set apart", f"{rows:,.0f} rows of {levels:,} level{'s' * (levels != 1)}")] if levels else []


def effective(result: Fitted) -> list[tuple[str, str]]:
    """The effective degrees of freedom of one penalised model, as a fact; empty without a penalty."""
    return [] if result.penalty is None else [("Effective df", numbers.short(float(result.flat.df[0]), 5))]


def penalty_name(result: Fitted) -> str | None:
    """The penalty of a fit, that of smooth terms by how its strengths were found; None without one."""
    how = {"reml": "by REML", "ml": "by maximum likelihood", "given": "as given"}
    if result.context.get("smoothing") is not None:  # beside random effects by what finds their variances
        return f"smooth terms, strengths {how[result.context.get('method') or result.context['smoothing']]}"
    if result.bias_reduced:
        return "Jeffreys(), mean bias reduction"
    return None if result.penalty is None else str(result.penalty)


def penalised(result: Fitted) -> list[str]:
    """What a penalty makes of errors, df and criteria, in sentences; empty without one."""
    if result.bias_reduced:
        return [
            "Mean bias reduction (Jeffreys' adjusted score): the deviance is that at its coefficients, not the least; "
            "limits by the penalised likelihood, conf_int(method='profile'), suit small samples better than Wald's."
        ]
    if result.context.get("debiased"):
        return [
            f"Desparsified: from {result.context['debiased']} one step takes off the bias of its penalty. Errors and "
            "intervals are those of all columns, whichever were chosen; predictions use these estimates."
        ]
    if result.penalty is None:
        return []
    said = "Smooth terms" if result.context.get("smoothing") else f"Penalty {result.penalty}"
    counted = "df, dispersion, AIC and BIC count effective degrees of freedom at this strength"
    if result.flat.unknown is not None and bool(result.flat.unknown.any()):
        return [
            f"{said}: its absolute values choose the columns and shrink them, and what chance that "
            f"leaves is unknown: there are no standard errors, tests or intervals. {counted[:1].upper()}{counted[1:]}."
        ]
    if result.covariance_kind != "model":
        return [f"{said}: estimates are shrunk. {counted[:1].upper()}{counted[1:]}."]
    if result.flat.criterion is not None:
        return [
            f"{said}: strengths are estimated from the same rows by marginal likelihood, and the "
            f"intervals are Bayesian, the penalty at these strengths being a normal prior. {counted[:1].upper()}"
            f"{counted[1:]}."
        ]
    return [
        f"{said}: estimates are shrunk towards zero, and the intervals are Bayesian, the penalty at "
        f"this strength being a normal prior; for a strength chosen from the same rows they are too narrow. "
        f"{counted[:1].upper()}{counted[1:]}."
    ]
