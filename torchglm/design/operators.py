"""Operators: formulaic's, except that what multiplies terms stops where there would be too many of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

MOST = 20_000  # terms that a product may make


@lru_cache(maxsize=1)
def bounded_parser() -> Any:
    """formulaic's parser with bounded products. They raise ValueError where a formula makes more than `MOST` terms."""
    from formulaic.parser import DefaultFormulaParser, DefaultOperatorResolver
    from formulaic.parser.types import OrderedSet

    class Bounded(DefaultOperatorResolver):
        @property
        def operators(self) -> list[Any]:
            found = super().operators
            for one in found:
                if one.symbol in ("**", "^"):
                    one._to_terms = lambda base, power: OrderedSet(_power(base, power))
                elif one.symbol in ("*", ":", "/", "in"):
                    one._to_terms = _bounded(one._to_terms)
            return found

    return DefaultFormulaParser(operator_resolver=Bounded())


def _bounded(made: Callable[..., Any]) -> Callable[..., Any]:
    def product(*sides: Any) -> Any:
        first, second = sides
        _check(len(first) * len(second))
        return made(first, second)

    return product


def _power(base: Iterable[Any], power: Any) -> Iterable[Any]:
    """The products of `power` terms of `base`, in the order of formulaic; a power changes nothing from some one on."""
    [exponent] = [factor.expr for term in power for factor in term.factors] or [""]
    if not exponent.isdecimal() or not int(exponent[:9]):
        raise ValueError(f"the power of a term must be a whole number above 0, got {exponent[:20]!r}")
    terms = found = list(dict.fromkeys(base))
    for _ in range(1, int(exponent) if len(exponent) < 9 else 10**9):
        _check(len(found) * len(terms))
        new = list(dict.fromkeys(one * other for one in found for other in terms))
        if new == found:
            break
        found = new
    return found


def _check(terms: int) -> None:
    if terms > MOST:
        raise ValueError(f"it makes more than {MOST:,} terms")
