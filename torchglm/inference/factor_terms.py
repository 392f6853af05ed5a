"""A factor of a formula as the term it is: its columns, and the differences between all pairs of its levels."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchglm.design.parts import by_prefix
from torchglm.inference.fitted import Fitted


class FactorTerm(NamedTuple):
    """The `columns` of a factor, the `names` of its pairs of levels, `"b - a"`, and their `coding` (pairs, columns)."""

    columns: list[int]
    names: list[str]
    coding: Tensor


def factor_terms(result: Fitted, factor: str) -> list[FactorTerm]:
    """The terms that a factor is, of each predictor that has it. `factor` is `"region"` or `"C(region)"`.

    Raises `ValueError` where no predictor has such a factor, or where it is part of an interaction, so that its levels
    differ by different amounts.
    """
    spec = result.spec
    text = next((t for t in (factor, f"C({factor})") if spec is not None and t in spec.factors), None)
    levels = None if text is None else getattr(spec.factors[text], "levels", None)
    if text is None or levels is None:
        known = [] if spec is None else [t for t, one in spec.factors.items() if hasattr(one, "levels")]
        raise ValueError(f"no factor {factor!r} in the fit. Known: {', '.join(known) or 'none'}.")
    pairs = list(itertools.combinations(range(len(levels)), 2))
    first, second = ([pair[k] for pair in pairs] for k in (0, 1))
    names, found = [f"{levels[b]} - {levels[a]}" for a, b in pairs], list[FactorTerm]()
    for prefix, terms in by_prefix(spec.parts, spec.others).items():
        inside = [
            (name, part) for name, parts in terms for part in parts if any(one == text for one, _ in part.factors)
        ]
        if not inside:
            continue
        if len(inside) != 1 or len(inside[0][1].factors) != 1:
            raise ValueError(
                f"{factor!r} is part of an interaction, so its levels differ by different amounts. "
                f"Use predictions({{{factor!r}: [...]}}, data=...) at chosen values."
            )
        name, part = inside[0]
        coding = _coding(spec.factors[text], part.factors[0][1]).to(result.flat.coef)
        columns = spec.terms[prefix + name]
        found.append(FactorTerm(columns, names, (coding[second] - coding[first]) * part.scale))
    return found


def _coding(factor: Any, reduced: bool) -> Tensor:
    """(levels, columns) what each level of a factor puts into its columns."""
    if factor.codings is not None:
        return torch.tensor(factor.codings[int(reduced)], dtype=torch.float64)
    whole = torch.eye(len(factor.levels), dtype=torch.float64)
    kept = [j for j in range(len(factor.levels)) if not reduced or j != factor.reference]
    return whole[:, kept]
