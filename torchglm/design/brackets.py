"""Brackets: a formula cut into quoted names, quoted text and the code between them, with how deep each lies."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

DEEPEST = 50  # brackets, or signs in a row, that may lie in one another


def shortened(text: str, most: int = 200) -> str:
    """Text in quotes, its end left out where it is long."""
    return repr(text if len(text) <= most else f"{text[: most - 3]}…")


class Bracket(Enum):
    """What a piece of a formula is."""

    CODE = "code"
    TEXT = "text"  # in quotes
    NAME = "name"  # in backticks


def walk(formula: str) -> Iterator[tuple[Bracket, str, int]]:
    """The pieces of a formula, quotes and backticks included, each with the number of function calls it lies in.

    Raises ValueError for a quote that is not closed and for brackets that lie too deep in one another.
    """
    start, i, calls, open_ = 0, 0, 0, list[bool]()
    while i < len(formula):
        sign = formula[i]
        if sign in "`'\"":
            if start < i:
                yield Bracket.CODE, formula[start:i], calls
            end = _closing(formula, i)
            yield (Bracket.NAME if sign == "`" else Bracket.TEXT), formula[i:end], calls
            start = i = end
            continue
        if sign in "([{":
            call = sign == "{" or (i > 0 and (formula[i - 1].isalnum() or formula[i - 1] in "_.)]"))
            if start < i or not call:
                yield Bracket.CODE, formula[start : i + 1], calls
                start = i + 1
            open_.append(call or calls > 0)
            calls += open_[-1]
            if len(open_) > DEEPEST:
                raise ValueError(
                    f"A formula may nest brackets {DEEPEST} deep, not deeper. Compute the column in the table."
                )
        elif sign in ")]}" and open_:
            if start < i:
                yield Bracket.CODE, formula[start:i], calls
                start = i
            calls -= open_.pop()
        i += 1
    if start < len(formula):
        yield Bracket.CODE, formula[start:], calls


def _closing(formula: str, start: int) -> int:
    """Where the piece ends that begins with a quote at `start`."""
    sign, i = formula[start], start + 1
    while i < len(formula):
        if formula[i] == "\\" and sign != "`":
            i += 1
        elif formula[i] == sign:
            return i + 1
        i += 1
    said = f"the {sign} at character {start + 1} is not closed"
    raise ValueError(f"Cannot read the formula {shortened(formula)}: {said}.")
