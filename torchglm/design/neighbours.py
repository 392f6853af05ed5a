"""The levels of a factor in their order: which columns tell them apart, and the differences of neighbours."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from torchglm.design.factors import Categorical
from torchglm.design.parts import by_prefix
from torchglm.design.spec import DesignSpec


class Neighbours(NamedTuple):
    """The `columns` of a factor, the `names` of its neighbouring levels, and their differences `steps` (levels - 1, m).

    A step over the coefficients of the columns is the effect of a level less that of the level before.
    """

    columns: list[int]
    names: list[tuple[str, str]]
    steps: np.ndarray


def factor_of(spec: DesignSpec, term: str) -> str | None:
    """The text of the factor that a term names, `"age"` or `"C(age)"`; None where there is none."""
    texts = [text for text in (term, f"C({term})") if isinstance(spec.factors.get(text), Categorical)]
    return texts[0] if texts else None


def neighbours(spec: DesignSpec, term: str, what: str) -> list[Neighbours]:
    """The levels of a factor as each predictor has them, `what` being who asks.

    Raises `ValueError` where there is no such factor, where it is part of an interaction, or has one level.
    """
    text = factor_of(spec, term)
    if text is None:
        known = [one for one, factor in spec.factors.items() if isinstance(factor, Categorical)]
        raise ValueError(
            f"{what} names {term!r}, which is no factor of the formula. Known: {', '.join(known) or 'none'}."
        )
    factor, found = spec.factors[text], list[Neighbours]()
    assert isinstance(factor, Categorical)
    if len(factor.levels) < 2:
        raise ValueError(f"{what} names {term!r}, which has one level, {factor.levels[0]!r}. Leave it out.")
    pairs = [(str(a), str(b)) for a, b in zip(factor.levels, factor.levels[1:], strict=False)]
    for prefix, terms in by_prefix(spec.parts, spec.others).items():
        inside = [(name, part) for name, parts in terms for part in parts if text in [one for one, _ in part.factors]]
        if not inside:
            continue
        if len(inside) != 1 or len(inside[0][1].factors) != 1:
            raise ValueError(
                f"{what} names {term!r}, which is part of an interaction, so that its levels differ by different "
                "amounts. Write the interaction as one factor, or give rows of your own as constraints=(matrix, …)."
            )
        name, part = inside[0]
        coding = _coding(factor, part.factors[0][1]) * part.scale
        found.append(Neighbours(spec.terms[prefix + name], pairs, coding[1:] - coding[:-1]))
    return found


def _coding(factor: Categorical, reduced: bool) -> np.ndarray:
    """(levels, columns) what each level of a factor puts into its columns."""
    if factor.codings is not None:
        return np.asarray(factor.codings[int(reduced)], np.float64)
    kept = [j for j in range(len(factor.levels)) if not reduced or j != factor.reference]
    return np.eye(len(factor.levels))[:, kept]
