"""How a number is written: for a table, a sentence or a program; a p-value is never written as zero."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

MISSING = "NA"


def number(value: float, decimals: int = 2) -> str:
    """`value` with at least six significant digits and at least `decimals` decimals; `NA` for NaN."""
    if math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if value == 0 or float(value).is_integer() and abs(value) < 1e10:
        return f"{value:.0f}"
    if not 1e-4 <= abs(value) < 1e10:
        return f"{value:.5e}"
    return f"{value:.{max(decimals, 5 - math.floor(math.log10(abs(value))))}f}"


def short(value: float, digits: int = 4) -> str:
    """`value` with `digits` significant digits, for a sentence: 1.500, 12,346, 3.200e-09."""
    if not math.isfinite(value):
        return number(value)
    if value != 0 and not 1e-4 <= abs(value) < 1e7:
        return f"{value:.{digits - 1}e}"
    decimals = digits - 1 - (math.floor(math.log10(abs(value))) if value else 0)
    return f"{value:,.{max(0, decimals)}f}"


def p_value(p: float) -> str:
    """A p-value that is never printed as zero: `0.0412`, `2.3e-12`, `<1e-16`; `NA` for NaN."""
    if math.isnan(p):
        return MISSING
    if p < 1e-16:
        return "<1e-16"
    if p < 0.00095:
        return f"{p:.1e}"
    return ">0.9999" if p > 0.99995 else f"{p:.4f}"


def stated(p: float) -> str:
    """A p-value after the letter p: `= 0.0123`, or `< 1e-16`."""
    text = p_value(p)
    return f"{text[0]} {text[1:]}" if text[0] in "<>" else f"= {text}"


def cell(value: float) -> str:
    """A number of a table of tests: five digits, whole numbers without decimals, and a blank for NaN."""
    if math.isnan(value):
        return ""
    if math.isinf(value):
        return number(value)
    if value == int(value):
        return f"{value:.0f}"
    return f"{value:.5g}" if abs(value) < 1e5 else f"{value:.1f}"


def statistic(value: float) -> str:
    """A test statistic to two decimals, in powers of ten where it is huge."""
    if not math.isfinite(value):
        return number(value)
    return f"{value:.2f}" if abs(value) < 1e5 else f"{value:.2e}"


def percent(level: float) -> str:
    """`0.95` as `95 %`; a level such as 0.999 keeps its decimals."""
    return f"{100 * level:.4g} %"


def limits(level: float) -> tuple[str, str]:
    """The names of the two ends of an interval: `2.5 %` and `97.5 %`."""
    return percent((1 - level) / 2), percent((1 + level) / 2)


def fixed(rows: Sequence[Sequence[float]], scales: Iterable[float], digits: int = 3) -> list[list[str]]:
    """Cells that share one number of decimals: the median scale (standard error) keeps `digits` digits.

    A row whose scale would vanish at that number, or whose values pass 1e7, has decimals of its own (values
    near 1) or powers of ten. `rows` holds rows of values, `scales` one positive number (or NaN) per row.
    """
    scales = [_scale(scale, row) for scale, row in zip(scales, rows, strict=True)]
    known = sorted(s for s, row in zip(scales, rows, strict=True) if not all(map(math.isnan, row)))
    places = min(6, max(2, digits - 1 - math.floor(math.log10(known[len(known) // 2])))) if known else 2
    return [_cells(row, scale, places, digits) for row, scale in zip(rows, scales, strict=True)]


def _cells(row: Sequence[float], scale: float, places: int, digits: int) -> list[str]:
    """One row of `fixed`, all its cells in one style."""
    finite = [abs(v) for v in row if math.isfinite(v)]
    form = f".{places}f"
    if scale < 10.0 ** (1 - places) or max(finite, default=0.0) >= 1e7:
        own = digits - 1 - math.floor(math.log10(scale))
        plain = own <= 6 or own <= 9 and min(finite, default=0.0) >= 0.1
        form = f".{max(own, 0)}f" if plain and max(finite, default=0.0) < 1e7 else ".3e"
    return [format(v, form) if math.isfinite(v) else number(v) for v in row]


def _scale(scale: float, row: Sequence[float]) -> float:
    """`scale` where it says something, else a hundredth of the largest value of the row, else 1."""
    if scale > 0 and math.isfinite(scale):
        return scale
    finite = [abs(v) for v in row if math.isfinite(v) and v != 0]
    return max(finite) / 100 if finite else 1.0


def jsonable(value: Any) -> Any:
    """`value` as JSON knows it: NaN and the infinities as None, every sequence as a list, keys as text."""
    if isinstance(value, Mapping):
        return {str(key): jsonable(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
