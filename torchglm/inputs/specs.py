"""What the design of a formula says of a family of several predictors: its plan, and its classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.families.several import Classes, Ordinal, VectorFamily
from torchglm.fitting.mixed.effects import Groupings
from torchglm.fitting.status import FitWarning
from torchglm.rows.arrow import Grouping
from torchglm.rows.plan import Plan, PlanBlock
from torchglm.writing.warning import tell

if TYPE_CHECKING:
    from torchglm.design import DesignSpec
    from torchglm.design.parts import RandomGrouping

INTERCEPT = "(Intercept)"
CONSTANT = "~ 1"  # the right side of an intercept alone


def check_predictors(predictors: Mapping[str, Any], family: VectorFamily) -> None:
    """Raise `ValueError` for names that are no predictors of the family beside the first."""
    strange = [name for name in predictors if name not in family.others]
    if strange:
        known = ", ".join(family.others) or "none"
        raise ValueError(
            f"predictors= names {', '.join(map(repr, strange))}; those of {family.said} beside the first are: {known}."
        )


def formulas_of(family: Family, predictors: Mapping[str, Any]) -> dict[str, Any]:
    """What `design.build` is told of a family of several predictors; nothing of one that has one.

    Raises `ValueError` for names that are none of its predictors, and for what is no formula.
    """
    if not isinstance(family, VectorFamily):
        return {}
    if isinstance(family, Classes):
        check_predictors(predictors, family)
        return {"classes": True}
    check_predictors(predictors, family)
    for name, right in predictors.items():
        if not isinstance(right, str):
            raise ValueError(
                f"predictors[{name!r}] is a {type(right).__name__}; beside a formula it is one too, such as '~ age'."
            )
    return {"predictors": {name: predictors.get(name, CONSTANT) for name in family.others}}


def designs_of(family: VectorFamily, names: Sequence[str], intercept: bool) -> dict[str, dict[str, int]]:
    """Columns for the first predictor, whose places are from 1 on, and a constant, place 0, for all others."""
    first = ({INTERCEPT: 0} if intercept else {}) | {name: 1 + j for j, name in enumerate(names)}
    return {"": first} | {name: {INTERCEPT: 0} for name in family.others}


def plan_of_columns(family: VectorFamily, names: Sequence[str], intercept: bool) -> tuple[Plan, list[str]]:
    """The plan of columns for the first predictor alone, and the names of its coefficients."""
    return family.plan(designs_of(family, names, intercept), (0,))


def family_of(family: Family, spec: DesignSpec) -> Family:
    """The family as the response of a design shows it: one of classes knows them now.

    Raises `ValueError` where it was given others.
    """
    if not isinstance(family, Classes) or spec.response is None:
        return family
    levels = spec.response.levels or []
    if family.classes is None:
        if spec.response.sorted_text:
            tell_of_sorted_text(family, levels)
        return family.of_classes(levels)
    strange = [level for level in levels if level not in family.classes]
    empty = [level for level in family.classes if level not in levels]
    if strange or empty:
        what = f"holds {strange[0]!r}, which is none of" if strange else f"has no row of {empty[0]!r}, one of"
        raise ValueError(f"{spec.response.expression.text!r} {what} the classes {family.classes}. Correct one of them.")
    return family


def tell_of_sorted_text(family: Classes, classes: Sequence[Any]) -> None:
    """Warn where the order of the classes is that of the alphabet, and the model is one of their order."""
    if isinstance(family, Ordinal) and len(classes) > 2 and all(isinstance(label, str) for label in classes):
        tell(
            f"the classes of this ordinal response are text, in the order of the alphabet: {' < '.join(classes)}. Say "
            f"their order: Ordinal(classes={list(classes)}), turned as it is meant, or an ordered pandas.Categorical.",
            FitWarning,
        )


def terms_of(spec: DesignSpec, plan: Plan | None) -> dict[str, list[int]]:
    """The places of each term's coefficients: its columns, in every predictor that has them."""
    if plan is None:
        return spec.terms
    return {name: plan.places(columns) for name, columns in spec.terms.items()}


def in_class_order(y: Tensor, family: Family, spec: DesignSpec) -> Tensor:
    """The codes of levels as those of the family's classes."""
    if not isinstance(family, Classes) or spec.response is None:
        return y
    levels = spec.response.levels or []
    if levels == family.known:
        return y
    place = torch.tensor([family.known.index(level) for level in levels], dtype=y.dtype, device=y.device)
    return place[y.long()]


def groupings_of(spec: DesignSpec, family: Family) -> list[RandomGrouping]:
    """The factors that random effects belong to; the effects of each class are effects of their own."""
    if not isinstance(family, VectorFamily):
        return spec.groupings
    return [
        group._replace(
            sets=[
                [before + name for before in family.effects(predictor) for name in own]
                for own, predictor in zip(group.sets, group.predictors, strict=True)
            ]
        )
        for group in spec.groupings
    ]


def effects_of(spec: DesignSpec, columns: int, family: Family) -> Groupings | None:
    """Where the coefficients of random effects are, behind `columns` others; None where there are none."""
    if not spec.random:
        return None
    start, groupings, correlated = columns, list[Grouping](), list[tuple[tuple[int, ...], ...]]()
    groups = groupings_of(spec, family)
    for group in groups:
        groupings.append(Grouping(start, len(group.levels), group.effects))
        start, first, sets = start + len(group.levels) * group.effects, 0, list[tuple[int, ...]]()
        for one in group.sets:
            sets.append(tuple(range(first, first + len(one))))
            first += len(one)
        correlated.append(tuple(sets))
    names = tuple(group.name for group in groups)
    labels = tuple(tuple(name for own in group.sets for name in own) for group in groups)
    return Groupings(columns, tuple(groupings), tuple(correlated), names, labels)


def plan_of(family: Family, spec: DesignSpec) -> tuple[Plan | None, list[str]]:
    """The plan of the predictors, and the names of the coefficients; None for a family of one predictor.

    The coefficients of random effects stand behind those that have names.
    """
    if not isinstance(family, VectorFamily):
        return None, list(spec.names)
    plan, names = family.plan(spec.designs, spec.ones)
    start, blocks = len(spec.names), list[PlanBlock]()
    for group in spec.groupings:
        levels = len(group.levels)
        for own, predictor in zip(group.sets, group.predictors, strict=True):
            ranges = [range(start + r * levels, start + (r + 1) * levels) for r in range(len(own))]
            for contrast in family.effects(predictor).values():
                column = torch.tensor(contrast, dtype=torch.float64).unsqueeze(-1)
                blocks += [PlanBlock(columns, column) for columns in ranges]
            start += len(own) * levels
    return Plan(plan.predictors, (*plan.blocks, *blocks), plan.ones), names
