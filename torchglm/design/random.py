"""Random effects in a formula: `(1 + x | g)` taken out of the text, and what becomes of it.

`(effects | group)` is a set of effects with a covariance of its own; `||` makes a set of each term; `a/b` is short for
two groups, `a` and `a:b`. Source: Bates, Maechler, Bolker & Walker (2015), J. Stat. Software 67(1), section 2.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from torchglm.design.brackets import Bracket, shortened, walk
from torchglm.design.values import Coded

if TYPE_CHECKING:
    from torchglm.design.frame import Frame

MARK = "| "  # in front of the name of groups among expressions
SHOWN = "Write random effects as (1 | group), (1 + x | group), (x || group) or (1 | a/b)"
COLUMN = re.compile(r"[^\W\d]\w*|`[^`]+`")
CATEGORY = re.compile(r"C\(\s*([^\W\d]\w*|`[^`]+`)\s*\)")


class Bar(NamedTuple):
    """One set of random effects: its `text`, the right side of its `effects`, and the columns of its `group`."""

    text: str
    effects: str
    group: tuple[str, ...]


class Grouped:
    """The groups that rows belong to, by one column or by the combinations of several: a factor of levels.

    It stands among expressions: `text` begins with a bar, `name` is that of its effects (`clinic`, `school:class`), and
    `columns` are those that it reads.
    """

    categorical, lookup, learns = True, False, False
    contrasts, levels = None, None

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = tuple(columns)
        self.column = columns[0] if len(columns) == 1 else None
        self.name = ":".join(f"`{name}`" if ":" in name or "`" in name else name for name in columns)
        self.text = f"{MARK}{self.name}"

    @classmethod
    def of_text(cls, text: str) -> Grouped:
        """The groups that are called so."""
        return cls([part.strip("`") for part in _cut(text.removeprefix(MARK), ":")])

    def coded(self, frame: Frame) -> Coded:
        """The levels of the rows; combinations are written `a:b`."""
        parts = [frame.coded(name) for name in self.columns]
        if len(parts) == 1:
            return parts[0]
        code, labels = parts[0].codes, list(map(_label, parts[0].values))
        for part in parts[1:]:
            used, code = np.unique(code * len(part.values) + part.codes, return_inverse=True)
            places, own = [divmod(one, len(part.values)) for one in used.tolist()], list(map(_label, part.values))
            labels = [f"{labels[a]}:{own[b]}" for a, b in places]
        return Coded(code.reshape(-1), labels)


def _label(value: Any) -> str:
    """What a level is called in a combination: the same for equal numbers, and text that holds ':' in backticks."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    text = str(value)
    return f"`{text}`" if ":" in text or "`" in text else text


def absorbed(formula: str) -> tuple[str, tuple[Grouped, ...]]:
    """A formula without what stands behind a bar outside of brackets, and these factors: `y ~ x | firm + worker`.

    Raises ValueError for what is no factor, and for more than one bar.
    """
    places = _bar(formula)
    if not places:
        return formula, ()
    if len(places) > 1:
        raise ValueError(
            f"The formula {shortened(formula)} has several parts after its terms. Write one 'y ~ terms', or with one "
            "bar y ~ terms | firm + worker, whose factors are absorbed; random effects stand in brackets: (1 | group)."
        )
    found = list[Grouped]()
    for part in _cut(formula[places[0] + 1 :], "+"):
        names = list[str]()
        for piece in _cut(part.replace("^", ":"), ":"):
            match = CATEGORY.fullmatch(piece) or COLUMN.fullmatch(piece)
            if match is None:
                raise ValueError(
                    f"{part!r} behind the bar of {shortened(formula)} is no factor to absorb. Write columns, joined by "
                    "':' where their combinations are the levels: y ~ x | firm + worker:year."
                )
            names.append((match[1] if match.re is CATEGORY else match[0]).strip("`"))
        found.append(Grouped(tuple(dict.fromkeys(names))))
    return formula[: places[0]], tuple({one.text: one for one in found}.values())


def split(formula: str) -> tuple[str, list[Bar]]:
    """A formula without its random effects, and these. Raises ValueError for `|` that cannot be read."""
    pieces = list(_top(formula))
    _check_rest("".join(text for text, bar in pieces if not bar), formula)
    if not any(bar for _, bar in pieces):
        return formula, []
    found, rest = list[Bar](), list[str]()
    for k, (text, bar) in enumerate(pieces):
        if not bar:
            rest.append(text)
            continue
        before, after = "".join(rest).rstrip(), "".join(one for one, _ in pieces[k + 1 :]).lstrip()
        if after[:1] == "|":
            raise ValueError(
                f"The formula {shortened(formula)} has random effects and absorbed factors, which are not fitted at "
                "once. Write (1 | group) + (1 | firm), or the terms alone before | firm."
            )
        if before[-1:] not in ("+", "~") or after[:1] not in ("+", "-", ""):
            raise ValueError(
                f"The random effects {text} in {shortened(formula)} are added to the other terms, with nothing but "
                f"'+' beside them. {SHOWN}."
            )
        rest = [before[:-1] if before[-1] == "+" else before + " 1 "]
        found += _bars(text)
    return "".join(rest), found


def _check_rest(rest: str, formula: str) -> None:
    """Raise ValueError for a bar in a bracket that is no set of random effects."""
    deep = 0
    for kind, piece, calls in walk(rest):
        for sign in piece if kind is Bracket.CODE else ():
            deep += (sign in ("(", "[")) - (sign in (")", "]"))
            if sign == "|" and deep and not calls:
                raise ValueError(
                    f"A bar of {shortened(formula)} stands in a bracket that is not closed, or that holds another. "
                    f"{SHOWN}."
                )


def _top(formula: str) -> Iterator[tuple[str, bool]]:
    """The formula in pieces, each with whether it is a bracket that stands for itself and holds a bar."""
    plain, held, start = "", "", 0
    for kind, piece, _depth in walk(formula):
        for sign in piece if kind is Bracket.CODE else [piece]:
            if held:
                held += sign
            elif sign == "(" and not re.search(r"[\w.`)\]]\s*$", plain):
                held, start = sign, 1
                continue
            else:
                plain += sign
                continue
            if kind is Bracket.CODE:
                start += (sign == "(") - (sign == ")")
            if not start:
                if _bar(held[1:-1]):
                    yield plain, False
                    yield held, True
                    plain = ""
                else:
                    plain += held
                held = ""
    yield plain + held, False


def _bar(text: str) -> list[int]:
    """The places of bars that stand in no bracket, quotes or backticks."""
    found, at, deep = list[int](), 0, 0
    for kind, piece, _ in walk(text):
        for sign in piece if kind is Bracket.CODE else [piece]:
            deep += (sign in ("(", "[")) - (sign in (")", "]"))
            if sign == "|" and not deep:
                found.append(at)
            at += len(sign)
    return found


def _bars(text: str) -> list[Bar]:
    """The sets of effects of one bracket."""
    inside, places = text[1:-1], _bar(text[1:-1])
    apart = len(places) == 2 and places[1] == places[0] + 1
    if len(places) != 1 and not apart:
        raise ValueError(f"The random effects {shortened(text)} have more than one bar. {SHOWN}.")
    effects, group = inside[: places[0]].strip(), inside[places[-1] + 1 :].strip()
    if not effects or not group:
        missing = (
            "no effects before the bar (1 is an effect for each group)" if not effects else "no group after the bar"
        )
        raise ValueError(f"The random effects {shortened(text)} have {missing}. {SHOWN}.")
    sets = _apart(effects) if apart else [effects]
    return [Bar(text, one, names) for names in _groups(group, text) for one in sets]


def _apart(effects: str) -> list[str]:
    """The terms of effects that have no correlation, each as effects of its own."""
    parts = _cut(effects, "+")
    slopes = [part for part in parts if part not in ("0", "1")]
    return ([] if "0" in parts else ["1"]) + [f"0 + {part}" for part in slopes]


def _groups(group: str, text: str) -> list[tuple[str, ...]]:
    """The columns of each group that the right side of a bar stands for."""
    found, names = list[tuple[str, ...]](), list[str]()
    for nested in _cut(group, "/"):
        for part in _cut(nested, ":"):
            match = CATEGORY.fullmatch(part) or COLUMN.fullmatch(part)
            if match is None:
                raise ValueError(
                    f"The group {shortened(group)} of the random effects {shortened(text)} is no column, nor several "
                    f"joined by ':' or '/'. {SHOWN}; groups that cross stand in brackets of their own."
                )
            names.append((match[1] if match.re is CATEGORY else match[0]).strip("`"))
        found.append(tuple(dict.fromkeys(names)))
    return found


def _cut(text: str, sign: str) -> list[str]:
    """The parts of a text between signs outside of backticks."""
    parts = [""]
    for kind, piece, _ in walk(text):
        first, *more = piece.split(sign) if kind is Bracket.CODE else [piece]
        parts = [*parts[:-1], parts[-1] + first, *more]
    return [part.strip() for part in parts]
