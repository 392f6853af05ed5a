"""Formulas: from `y ~ a + b:C(g)` to terms, and the rank rule that says how each term's factors are coded."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product

from torchglm.design.brackets import shortened
from torchglm.design.expressions import UNREADABLE, Expression
from torchglm.design.operators import bounded_parser
from torchglm.design.quoting import Quoting, advice
from torchglm.design.random import Bar, Grouped, absorbed, split
from torchglm.design.smooths.call import SmoothCall, is_smooth

# A factor in a part of a term: its text, and whether it is coded at reduced rank.
Scoped = tuple[str, bool]
RESERVED = ("(Intercept)",)  # names of terms that are not columns
COMPARISON = re.compile(r"operator '[<>=!]")
COLOUR = re.compile(r"\x1b\[[0-9;]*m|⧛\[[0-9;]*m|⧚")


@dataclass(frozen=True)
class Term:
    """A product of factors times a number; no factors is the intercept."""

    name: str
    factors: tuple[Expression | SmoothCall, ...]
    scale: float = 1.0


@dataclass(frozen=True)
class RandomTerm:
    """A set of random effects: its `text`, the `terms` of its effects, its `group` and predictor, empty the first."""

    text: str
    terms: tuple[Term, ...]
    group: Grouped
    predictor: str = ""


@dataclass(frozen=True)
class Formula:
    """What a formula says: the response (or None) and the terms, in the order of their columns.

    `others` are the terms of further predictors by their names; with `classes` the response holds labels; `random` are
    the sets of random effects, and `absorbed` the factors after a bar, `y ~ x | firm`, which are not written out.
    """

    text: str
    response: Expression | None
    terms: tuple[Term, ...]
    others: dict[str, tuple[Term, ...]] = field(default_factory=dict)
    classes: bool = False
    random: tuple[RandomTerm, ...] = ()
    absorbed: tuple[Grouped, ...] = ()

    @property
    def effects(self) -> list[Expression]:
        """Every factor of every term of random effects, the groups, and the factors that are absorbed."""
        inside = [factor for one in self.random for term in one.terms for factor in term.factors]
        groups = [*(one.group for one in self.random), *self.absorbed]
        return [*inside, *groups]  # type: ignore[list-item]  # groups stand for expressions

    @property
    def factors(self) -> list[Expression | SmoothCall]:
        """Every factor of every term."""
        return [f for terms in (self.terms, *self.others.values()) for term in terms for f in term.factors]

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column the right side reads, in order."""
        return tuple(dict.fromkeys(c for factor in [*self.factors, *self.effects] for c in factor.columns))


def parse(text: str, available: Sequence[str] = ()) -> Formula:
    """Read a Wilkinson formula with formulaic's parser, and check every expression in it.

    `available` are the columns that `.` stands for (the response is left out of them).
    Raises ValueError for a formula that cannot be read, that has several responses or parts, no term at all, too
    many of them, or that holds anything but arithmetic and known functions.
    """
    from formulaic import Formula as Parser
    from formulaic.errors import FormulaicError

    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"A formula is text such as 'y ~ a + C(b)', got {text!r}.")
    whole, (text, bars) = text, split(text)
    text, factors = absorbed(text)
    grouping = {name for group in [*(bar.group for bar in bars), *(one.columns for one in factors)] for name in group}
    quoting = Quoting(text)
    columns = [quoting.bare(name) for name in available if name not in grouping]
    try:
        parsed = Parser(
            quoting.text,
            _parser=bounded_parser(),
            _nested_parser=bounded_parser(),
            _context={"__formulaic_variables_available__": columns},
        )
    except (FormulaicError, SyntaxError, *UNREADABLE) as error:
        said = COLOUR.sub("", quoting.quoted(str(error))).replace(" (<unknown>, line 1)", "").strip()
        reason = (said.splitlines() or ["it is nested too deep"])[0].removesuffix(".")
        if COMPARISON.search(reason):
            reason += ". Write a comparison within I(), as I(a > 0)"
        raise ValueError(f"Cannot read the formula {shortened(text)}: {reason}.{advice(text, available)}") from None
    left, right = getattr(parsed, "lhs", None), getattr(parsed, "rhs", parsed)
    if not _is_flat(right) or (left is not None and not _is_flat(left)):
        raise ValueError(
            f"The formula {shortened(whole)} has several parts. Write one 'y ~ terms', with random effects in "
            "brackets: (1 | group)."
        )
    try:
        terms = tuple(_term(term, quoting) for term in right)
        sides = [] if left is None else [_expression(factor, quoting) for term in left for factor in term.factors]
    except ValueError as error:
        raise ValueError(f"{error}{advice(text, available)}") from None
    if left is not None and len(sides) != 1:
        raise ValueError(
            f"The left side of {shortened(text)} must be one column or expression, got {len(sides)}. "
            "For successes out of trials give trials=; fit several responses as a tensor."
        )
    if not terms:
        beside = " beside its random effects" if bars else ""
        raise ValueError(
            f"The formula {shortened(whole)} leaves no column{beside}. Write 'y ~ 1' for the intercept alone, "
            "'y ~ x - 1' for x without an intercept."
        )
    return Formula(whole, sides[0] if sides else None, terms, random=_random(bars, available), absorbed=factors)


def _random(bars: Sequence[Bar], available: Sequence[str]) -> tuple[RandomTerm, ...]:
    """The sets of random effects. Raises ValueError for one without effects, and for two that say the same."""
    found: list[RandomTerm] = []
    for bar in bars:
        if bar.effects.replace(" ", "") in ("0", "-1"):
            raise ValueError(f"The random effects {shortened(bar.text)} have no effects: 1 is one for each group.")
        own = parse(f"~ {bar.effects}", available)
        group = Grouped(bar.group)
        if any(isinstance(factor, SmoothCall) for term in own.terms for factor in term.factors):
            raise ValueError(
                f"The random effects {shortened(bar.text)} have a smooth before the bar. A curve for each level is "
                "s(x, by=g) beside C(g); effects before a bar are columns, such as x or poly(x, 2)."
            )
        names = {term.name for term in own.terms}
        twice = [one for one in found if one.group.text == group.text and names & {term.name for term in one.terms}]
        if twice:
            raise ValueError(
                f"The random effects {shortened(bar.text)} and {shortened(twice[0].text)} give {group.name!r} the same "
                "effect twice. Leave one out: (0 + x | g) has a slope without the effect of (1 | g)."
            )
        found.append(RandomTerm(bar.text, own.terms, group))
    return tuple(found)


def plain(columns: Iterable[str], response: str | None = None, intercept: bool = True) -> Formula:
    """The formula that adds up the named columns, whatever their names: no parser is involved."""
    terms = [Term("1", ())] if intercept else []
    terms += [Term(name, (Expression(name, lookup=True),)) for name in dict.fromkeys(columns)]
    return Formula("", None if response is None else Expression(response, lookup=True), tuple(terms))


def parts(terms: Iterable[tuple[str, ...]], spans: dict[str, bool]) -> list[list[tuple[Scoped, ...]]]:
    """For each term (a tuple of factor texts) the products of coded factors that make up its columns.

    A factor that spans the intercept (a category in full) is reduced exactly where the terms before it
    already hold what it would repeat, so that the design has full rank by structure. The rule is R's and
    patsy's: (anything) + (anything):(reduced) = (anything):(full).
    """
    spanned: set[frozenset[Scoped]] = set()
    found = []
    for term in terms:
        options = [((text, True), None) if spans[text] else ((text, False),) for text in term]
        spread = [tuple(p for p in chosen if p is not None) for chosen in product(*options)]
        new = [chosen for chosen in dict.fromkeys(spread) if frozenset(chosen) not in spanned]
        spanned.update(map(frozenset, new))
        found.append(_merged(new))
    return found


def _merged(combinations: list[tuple[Scoped, ...]]) -> list[tuple[Scoped, ...]]:
    """Apply the rule until nothing merges, shorter products first."""
    kept: list[tuple[Scoped, ...]] = []
    for candidate in sorted(combinations, key=len):
        for other in kept:
            extra = set(candidate) - set(other)
            if len(candidate) - 1 == len(other) and len(extra) == 1 and (factor := extra.pop())[1]:
                whole = tuple((text, False) if (text, r) == factor else (text, r) for text, r in candidate)
                kept = _merged([*(k for k in kept if k != other), whole])
                break
        else:
            kept.append(candidate)
    return kept


def _is_flat(side: object) -> bool:
    return all(hasattr(term, "factors") for term in side)  # type: ignore[attr-defined]


def _term(term: object, quoting: Quoting) -> Term:
    scale = 1.0
    factors, names = list[Expression | SmoothCall](), []
    for factor in term.factors:  # type: ignore[attr-defined]
        if factor.eval_method.value == "literal":
            scale *= _number(factor.expr)
            names.append(factor.expr)
            continue
        factors.append(_factor(factor, quoting))
        text = factors[-1].text
        names.append(f"`{text}`" if factors[-1].lookup and (":" in text or text in RESERVED) else text)
    smooth = [one for one in factors if isinstance(one, SmoothCall)]
    if smooth and (len(factors) > 1 or scale != 1.0):
        raise ValueError(
            f"{smooth[0].said} cannot be multiplied by another term. Let it vary with by=: s(x, by=z); or write "
            "te(x, z)."
        )
    return Term(":".join(names), tuple(factors), scale)


def _number(text: str) -> float:
    try:
        value = float(ast.literal_eval(text))
    except (SyntaxError, *UNREADABLE):
        value = math.inf
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]!r} is no number that can scale a term of a formula.")
    return value


def _factor(factor: object, quoting: Quoting) -> Expression | SmoothCall:
    lookup = factor.eval_method.value == "lookup"  # type: ignore[attr-defined]
    text = "" if lookup else quoting.quoted(factor.expr)  # type: ignore[attr-defined]
    return SmoothCall(text) if is_smooth(text) else _expression(factor, quoting)


def _expression(factor: object, quoting: Quoting) -> Expression:
    if factor.eval_method.value == "lookup":  # type: ignore[attr-defined]
        return Expression(quoting.name(factor.expr), lookup=True)  # type: ignore[attr-defined]
    return Expression(quoting.quoted(factor.expr))  # type: ignore[attr-defined]
