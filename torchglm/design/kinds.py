"""The kinds of factors that a term may hold, and how each is kept as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from torchglm.design.expressions import Expression
from torchglm.design.factors import Categorical, Numeric
from torchglm.design.formulas import RandomTerm
from torchglm.design.random import MARK, Grouped
from torchglm.design.smooths.call import SmoothCall
from torchglm.design.smooths.effects import LevelEffects
from torchglm.design.smooths.factor import Smooth

Factor: TypeAlias = Numeric | Categorical | Smooth | LevelEffects
Penalised: TypeAlias = Smooth | LevelEffects  # whose columns bring penalties with them
PENALISED = (Smooth, LevelEffects)


def check_labels(factors: Sequence[Penalised]) -> None:
    """Raise `ValueError` where two terms say the same: their curves would be one."""
    seen: dict[str, str] = {}
    for factor in factors:
        for part in factor.parts:
            if part.label in seen:
                raise ValueError(
                    f"{seen[part.label]} and {factor.call.text} say the same: both are {part.label}. "
                    "Leave one of them out."
                )
            seen[part.label] = factor.call.text


def check_bars(factors: Sequence[Penalised], bars: Sequence[RandomTerm]) -> None:
    """Raise `ValueError` where `s(g, bs="re")` says what random effects say."""
    for factor in factors:
        if not isinstance(factor, LevelEffects) or factor.by is not None or not factor.categories:
            continue
        groups = {one.expression.column or one.expression.text for one in factor.categories}
        effect = ":".join(one.expression.text for one in factor.numbers) or "1"
        for bar in bars:
            if groups == set(bar.group.columns) and effect in {term.name for term in bar.terms}:
                raise ValueError(f"{factor.call.text} and {bar.text} say the same. Leave one of them out.")


def factor_dict(factor: Factor) -> dict[str, Any]:
    """A factor as plain data for JSON."""
    expression = factor.expression
    return {"text": expression.text, "lookup": expression.lookup, **factor.to_dict()}


def factor_from(data: dict[str, Any]) -> Factor:
    """The inverse of `factor_dict`; runs no code."""
    if data["kind"] in (Smooth.kind, LevelEffects.kind):
        call = SmoothCall(data["text"])
        return Smooth.from_dict(call, data) if data["kind"] == Smooth.kind else LevelEffects.from_dict(call, data)
    return plain_factor_from(data)


def plain_factor_from(data: dict[str, Any]) -> Numeric | Categorical:
    """The inverse of `factor_dict` of a factor without penalties, such as a response."""
    text = str(data["text"])
    if text.startswith(MARK):
        return Categorical.from_dict(Grouped.of_text(text), data)
    expression = Expression(text, bool(data["lookup"]))
    kinds: dict[str, type[Numeric] | type[Categorical]] = {Numeric.kind: Numeric, Categorical.kind: Categorical}
    return kinds[data["kind"]].from_dict(expression, data)
