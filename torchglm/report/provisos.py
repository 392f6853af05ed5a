"""What a penalty, or levels that were set apart, make of the numbers of a fit."""

from __future__ import annotations

from torchglm.inference.fitted import Fitted
from torchglm.writing import numbers

NAMED = 6  # constraints that are written out


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
            + (" Deviance, dispersion and df are those of the penalised fit." if result.penalty is not None else "")
        ]
    if result.context.get("split"):
        own = result.context["split"]
        return [
            f"Sample splitting: {own['rows']:,} rows, drawn by seed {own['seed']}, chose the columns by {own['by']}; "
            f"the other {own['left']:,} fitted those without a penalty. Columns that were not chosen are zero, without "
            "errors."
        ]
    if result.penalty is None:
        return []
    return constrained(result) + _shrunk(result)


def constrained(result: Fitted) -> list[str]:
    """What constraints make of errors, in sentences; empty without any."""
    multiplier = result.flat.multiplier
    if multiplier is None:
        return []
    names = result.context["constraints"]
    binds = (multiplier != 0).any(0).tolist()
    held = [name for name, own in zip(names, binds, strict=True) if own]
    none = not bool(result.flat.known.any())  # the penalty leaves no errors
    if not held:
        said = f"None of the {len(names)} constraints binds: estimates are those without them."
        return [said if none else f"{said} Errors are the usual ones, though chance might have made one bind."]
    listed = ", ".join(held[:NAMED]) + (f" and {len(held) - NAMED} more" if len(held) > NAMED else "")
    some = " in some model" if len(multiplier) > 1 else ""
    unequal = [name for name in held if " = " not in name]
    given = (
        "Errors and intervals take these as known, and not as found by the data: they are conditional on the "
        "constraints that bind, and too narrow where chance decided which do. A coefficient that these fix has none."
        if unequal
        else "Errors and intervals are those of the fit within these equations; a coefficient that these fix has none."
    )
    said = f"{len(held)} of {len(names)} constraints bind{some}: {listed}."
    return [said if none else f"{said} {given}"]


def _shrunk(result: Fitted) -> list[str]:
    """What the penalty itself makes of errors, df and criteria."""
    if result.flat.multiplier is not None and " and " not in str(result.penalty):
        return []  # constraints alone
    said = "Smooth terms" if result.context.get("smoothing") else f"Penalty {result.penalty}"
    centred = ", centre=" in str(result.penalty)  # of a loaded fit it is a text
    aim, around = ("its centre", " around its centre") if centred else ("zero", "")
    counted = "df, dispersion, AIC and BIC count effective degrees of freedom at this strength"
    if result.flat.unknown is not None and not bool(result.flat.known.any()):
        return [
            f"{said}: its absolute values choose the columns and shrink them, and what chance that "
            f"leaves is unknown: there are no standard errors, tests or intervals. {counted[:1].upper()}{counted[1:]}."
        ]
    if result.covariance_kind != "model":
        return [f"{said}: estimates are shrunk. {counted[:1].upper()}{counted[1:]}."]
    if result.flat.criterion is not None:
        return [
            f"{said}: strengths are estimated from the same rows by marginal likelihood, and the "
            f"intervals are Bayesian, the penalty at these strengths being a normal prior{around}. "
            f"{counted[:1].upper()}{counted[1:]}."
        ]
    return [
        f"{said}: estimates are shrunk towards {aim}, and the intervals are Bayesian, the penalty at "
        f"this strength being a normal prior{around}; for a strength chosen from the same rows they are too narrow. "
        f"{counted[:1].upper()}{counted[1:]}."
    ]
