"""Analysis of deviance by term: one after the other, each against the rest, and what dropping one costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from torchglm.inference.apart import of_like_size
from torchglm.inference.fitted import Fitted
from torchglm.inference.hypotheses.nested import unpenalised
from torchglm.inference.submodel import submodel
from torchglm.inference.table import Table, upper_tail
from torchglm.inference.vector.columns import columns_by_name, terms_of

Terms = Mapping[str, Sequence["int | str"]]
TYPES = {1: "I", 2: "II", 3: "III", "1": "I", "2": "II", "3": "III", "I": "I", "II": "II", "III": "III"}


@of_like_size
def anova(result: Fitted, type: int | str = 1, terms: Terms | None = None) -> Table:
    """The analysis of deviance by term, for every model of a batch.

    Type I adds the terms in the order of the formula to the null model; type II gives each term its rise of deviance
    beyond all terms that do not contain it; type III drops its columns from the whole model (which says something of
    a main effect only under contrasts that sum to zero). Columns: `df`, `deviance` (the fall it brings), `resid_df` and
    `resid_deviance` (type I: with the term in, else without it), `F` where the dispersion is estimated and else `chi2`
    (`deviance / phi`, `F` also over df, phi that of the whole model), and `p`. Shape parameters stay at those of the
    whole model. `terms` maps names to columns (positions or names); the default are the formula's, or each
    column. With several predictors a column of theirs stands for all the coefficients it has, a name `dispersion:x` for
    those of one predictor, and the intercepts and thresholds stay.
    Raises `ValueError` for penalised and robust fits, unknown types and columns.
    Source: Hastie & Pregibon (1992) in Statistical Models in S, chapter 6 (R's anova.glm); Fox (2016), Applied
    Regression Analysis, 15.3 (car::Anova).
    """
    if isinstance(type, Fitted):
        raise TypeError("anova is of the terms of one fit. Of two fits it is torchglm.compare(one, other).")
    if type not in TYPES:
        raise ValueError(f"unknown type {type!r}. Known: 1 (sequential), 2, 3.")
    unpenalised(result, "an analysis of deviance")
    base, named = columns_of(result, terms)
    fits = _Fits(result)
    if TYPES[type] == "I":
        inside, chain = list(base), [tuple(base)]
        for own in named.values():
            inside += own
            chain.append(tuple(sorted(inside)))
        pairs = list(zip(chain[:-1], chain[1:], strict=True))
        shown = chain[1:]
    else:
        pairs = [_pair(base, named, name, TYPES[type] == "II") for name in named]
        shown = [small for small, _ in pairs]
    table = _tests(result, fits, pairs)
    columns = {
        "df": table["df"],
        "deviance": table["deviance"],
        "resid_df": torch.stack([result.nobs - fits.rank(c) for c in shown], -1),
        "resid_deviance": torch.stack([fits.deviance(c) for c in shown], -1),
    } | table
    return Table(f"Analysis of deviance, type {TYPES[type]}", list(named), columns, fits.notes())


@of_like_size
def drop1(result: Fitted, terms: Terms | None = None) -> Table:
    """What dropping each term costs, for every model of a batch; terms inside an interaction are not dropped.

    Columns: `df`, `deviance` (of the fit without the term), `aic` (as `Result.aic`), `F` or `chi2` and `p` as `anova`
    has them; the first row `<none>` is the whole model. Arguments and errors as for `anova`. R's `drop1(test="F")`
    takes the dispersion `deviance / df`: fit with `dispersion="deviance"` for that.
    Source: Chambers (1992) in Statistical Models in S, chapter 4 (R's drop1.glm).
    """
    unpenalised(result, "drop1")
    base, named = columns_of(result, terms)
    free = [name for name in named if not any(_contains(other, name) for other in named)]
    fits = _Fits(result)
    pairs = [_pair(base, named, name, False) for name in free]
    tested = _tests(result, fits, pairs)
    none = torch.full_like(result.deviance, torch.nan).unsqueeze(-1)
    columns = {
        "df": torch.cat([none, tested["df"]], -1),
        "deviance": torch.stack([result.deviance, *(fits.deviance(small) for small, _ in pairs)], -1),
        "aic": torch.stack([result.aic, *(fits(small).aic for small, _ in pairs)], -1),
    }
    columns |= {key: torch.cat([none, tested[key]], -1) for key in tested if key not in columns}
    return Table("Single terms dropped", ["<none>", *free], columns, fits.notes())


class _Fits:
    """The fits of submodels, each made once; the whole model is at hand."""

    def __init__(self, result: Fitted) -> None:
        self.whole = tuple(range(len(result.all_names)))
        self.result, self.made = result, {self.whole: result}

    def __call__(self, columns: tuple[int, ...]) -> Fitted:
        if columns not in self.made:
            self.made[columns] = submodel(self.result, columns)
        return self.made[columns]

    def notes(self) -> tuple[str, ...]:
        """A sentence where a fit did not end at a regular maximum: its deviance is then not one."""
        failed = torch.stack([~fit.converged for fit in self.made.values()])
        if not bool(failed.any()):
            return ()
        return (
            f"{int(failed.sum())} of the {failed.numel()} fits behind this table did not converge; their tests are "
            "doubtful.",
        )

    def deviance(self, columns: tuple[int, ...]) -> Tensor:
        return self(columns).deviance

    def rank(self, columns: tuple[int, ...]) -> Tensor:
        return self(columns).rank


def _tests(result: Fitted, fits: _Fits, pairs: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> dict[str, Tensor]:
    """`df`, `deviance`, the statistic and `p` of pairs of a smaller and a larger set of columns."""
    df = torch.stack([fits.rank(big) - fits.rank(small) for small, big in pairs], -1)
    fall = torch.stack([fits.deviance(small) - fits.deviance(big) for small, big in pairs], -1)
    usable = torch.where(df > 0, df, torch.nan)
    statistic = fall.clamp(min=0) / result.dispersion.unsqueeze(-1) * usable / usable
    if result.statistic_name == "t":
        statistic = statistic / usable
        p = upper_tail(statistic, usable, result.df_resid.unsqueeze(-1).expand_as(statistic))
        return {"df": df, "deviance": fall, "F": statistic, "p": p}
    return {"df": df, "deviance": fall, "chi2": statistic, "p": upper_tail(statistic, usable, None)}


def _pair(
    base: list[int], named: dict[str, list[int]], name: str, marginal: bool
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The columns without and with a term; `marginal` leaves out of both the terms that contain it."""
    rest = [columns for other, columns in named.items() if other != name and not (marginal and _contains(other, name))]
    without = sorted([*base, *(j for columns in rest for j in columns)])
    return tuple(without), tuple(sorted([*without, *named[name]]))


def columns_of(result: Fitted, terms: Terms | None = None) -> tuple[list[int], dict[str, list[int]]]:
    """The columns that are always in (the intercept, and those of no term), and the columns of each term."""
    if terms is not None and not isinstance(terms, Mapping):
        raise TypeError(f"terms is a dict, the name of a term -> its columns, {{'dose': ['dose']}}; got {terms!r}.")
    names = result.all_names
    own = result.context.get("terms") if result.plan is None else terms_of(result)
    given: Terms = terms or own or {name: [j] for j, name in enumerate(names) if not (j == 0 and result.intercept)}
    place = {name: j for j, name in enumerate(names)}
    known: Mapping[Any, Sequence[Any]] = {} if result.plan is None else columns_by_name(result)
    named: dict[str, list[int]] = {}
    for term, columns in given.items():
        if term == "(Intercept)":
            continue
        if result.plan is not None and terms:
            columns = [j for c in columns for j in known.get(c, [c])]
        unknown = [c for c in columns if (c not in place if isinstance(c, str) else not 0 <= c < len(names))]
        if unknown or not columns:
            raise ValueError(f"the term {term!r} has the columns {list(columns)}; known: {', '.join(names)}.")
        named[term] = [place[c] if isinstance(c, str) else int(c) for c in columns]
    used = [j for columns in named.values() for j in columns]
    if not used or len(set(used)) < len(used):
        raise ValueError("the terms hold no column, or one column twice. Give each column of the design to one term.")
    return [j for j in range(len(names)) if j not in used], named


def _contains(term: str, other: str) -> bool:
    """True where `term` is an interaction that holds all factors of `other` and more."""
    return set(factors(other)) < set(factors(term))


def factors(term: str) -> list[str]:
    """The factors of a term, `a:C(b):poly(c, 2)`: parted by colons outside of brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for sign in term:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "`'\"":
            quote = sign
        depth += (sign in "([{") - (sign in ")]}") if not quote else 0
        if sign == ":" and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += sign
    return parts
