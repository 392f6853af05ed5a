"""Smooth terms in a summary: how much freedom each has used, whether it is zero, and its strength."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from torchglm.design.smooths.factor import Smooth
from torchglm.inference.fitted import Fitted
from torchglm.inference.smooths import SmoothTerm, smooths
from torchglm.report.document import Grid
from torchglm.writing import numbers

TESTED = 2000  # models of which each is tested for a table
FULL = 0.95  # share of the freedom of a term beyond which its columns may be too few


def smooth_places(result: Fitted) -> set[int]:
    """The places of coefficients that stand in curves, not in the table of coefficients."""
    return {place for term in smooths(result).values() for place in term.places}


def smooth_table(result: Fitted) -> list[Grid]:
    """Each smooth term of one model with its freedom, its test and its strength; empty without any."""
    terms = smooths(result)
    if not terms:
        return []
    name = "F" if result.statistic_name == "t" else "χ²"
    head = ("smooth terms", "edf", "of", f"{name} value", "test df", "p-value", "strength")
    return [Grid("", head, [_row(term) for term in terms.values()])]


def _row(term: SmoothTerm) -> tuple[str, ...]:
    strengths = ", ".join("infinite" if v == float("inf") else numbers.short(v, 4) for v in term.strength.tolist())
    own = (term.label, f"{max(float(term.edf), 0.0):.3f}", str(len(term.places)))
    if not term.tested:
        return (*own, "", "", "", strengths)
    statistic, df, p = term.test()
    return (*own, numbers.statistic(statistic), f"{df:.3f}", numbers.p_value(p), strengths)


def smooth_spread(result: Fitted) -> list[Grid]:
    """Each smooth term over the converged models of a batch: its freedom, strengths and tests; empty without any."""
    terms = smooths(result)
    fine = result.converged.reshape(-1).cpu()
    if not terms or not bool(fine.any()):
        return []
    head = ("smooth terms", "of", "edf: min", "median", "max", "strength: median", "infinite", "p < 0.05")
    return [Grid("", head, [_spread_row(term, fine) for term in terms.values()])]


def _spread_row(term: SmoothTerm, fine: Tensor) -> tuple[str, ...]:
    edf = term.edf.reshape(-1).cpu()[fine].clamp(min=0)
    strength = term.strength.reshape(len(fine), -1).cpu()[fine]
    middle = ", ".join(numbers.short(float(one), 4) for one in strength.quantile(0.5, 0, interpolation="lower"))
    ends = "" if strength.isinf().sum() == 0 else f"{int(strength.isinf().any(-1).sum()):,}"
    low = ""
    if term.tested and len(edf) <= TESTED:
        p = [one.p_value for one, good in zip(term.tests(), fine.tolist(), strict=True) if good]
        low = f"{sum(value < 0.05 for value in p):,} of {len(p):,}"
    freedom = (f"{float(one):.3f}" for one in (edf.min(), edf.median(), edf.max()))
    return (term.label, str(len(term.places)), *freedom, middle.replace("inf", "infinite"), ends, low)


def smooth_remarks(result: Fitted) -> list[str]:
    """What the table of smooth terms says, in sentences; empty without any."""
    terms = smooths(result)
    if not terms:
        return []
    said = [
        "Smooth terms: edf are effective degrees of freedom; the test of a curve that is zero everywhere is Wood's "
        "(2013), which does not count the choice of strengths."
    ]
    if any(term.tested and term.drawn for term in terms.values()):
        said[0] += " Effects of levels, and curves that penalties can take to zero, are tested by their variance."
    shaped = [
        f"{name} is held {term.shape} ({int(term.at_limit)} of {len(term.places)} coefficients stand at their limit)"
        for name, term in terms.items()
        if term.shape is not None
    ]
    if shaped:
        said.append(f"{'; '.join(shaped)}. Errors and limits hold given the coefficients that stand there.")
    said += _rounded(terms)
    full = [name for name, term in terms.items() if isinstance(term.factor, Smooth) and _full(term)]
    if full:
        said.append(
            f"{', '.join(full)} {'have' if len(full) > 1 else 'has'} used nearly all freedom that its columns give: "
            "try a larger k=, and see k_check()."
        )
    return said


def _rounded(terms: Mapping[str, SmoothTerm]) -> list[str]:
    """Which variables the fit has rounded, in a sentence; empty where none is."""
    bins = {
        ", ".join(one.text for one in term.factor.call.variables): term.factor.call.bins
        for term in terms.values()
        if isinstance(term.factor, Smooth) and term.factor.rounds
    }
    if not bins:
        return []
    each = ", ".join(f"{variables} to {count:,}" for variables, count in bins.items())
    return [
        f"For the fit values were rounded, {each} bins (bins=): estimates are those of the rounded values. Predictions "
        "and curves are at the values themselves."
    ]


def _full(term: SmoothTerm) -> bool:
    return float(term.edf) > FULL * len(term.places)


def smooth_facts(result: Fitted) -> list[dict[str, Any]]:
    """The smooth terms as plain values."""
    found = []
    for term in smooths(result).values():
        own = {"name": term.label, "edf": float(term.edf), "columns": len(term.places)}
        own["strength"] = [float(v) for v in term.strength.tolist()]
        if term.shape is not None:
            own |= {"shape": term.shape, "at_limit": int(term.at_limit)}
        if term.tested:
            own |= dict(zip(("statistic", "df", "p_value"), term.test(), strict=True))
        found.append(own)
    return found
