"""The coefficients of a fit of several predictors, predictor by predictor."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

from torchglm.families.several import Ordinal
from torchglm.inference.fitted import Fitted
from torchglm.inference.several import family_of
from torchglm.inference.vector.columns import PART
from torchglm.report.laws import Quantity, quantity

Kind = TypeVar("Kind", bound=Fitted)


@dataclass(frozen=True)
class Section:
    """The coefficients at `places` that make one predictor (None: all of an ordinal model), by their own `names`.

    `thresholds` says that they are those of an ordinal model.
    """

    quantity: Quantity
    predictor: str | None
    places: tuple[int, ...]
    names: tuple[str, ...]
    thresholds: bool = False


def whole(result: Kind) -> Kind:
    """The fit with the thresholds of an ordinal model for coefficients like others, the last of all."""
    return replace(result, names=[*result.names, *result.cuts], cuts=())


def sections(result: Fitted) -> list[Section]:
    """Every predictor with its coefficients, in the order of the coefficients; thresholds last."""
    family, plan = family_of(result), result.plan
    assert plan is not None
    names = [*result.names, *result.cuts]
    if PART in result.context:
        part = result.context[PART]
        return [Section(quantity(family, part), part, tuple(range(len(names))), tuple(names))]
    held: dict[str | None, list[int]] = {}
    cuts: list[int] = []
    for block, place in zip(plan.blocks, plan.slices, strict=True):
        m = len(block.columns)
        for t, entries in enumerate(block.entries):
            own = range(place.start + t * m, place.start + (t + 1) * m)
            name: str | None = family.predictors[entries[0][0]]
            if isinstance(family, Ordinal):
                if set(block.columns) <= set(plan.ones):
                    cuts += own
                    continue
                name = name if names[own[0]].startswith(f"{name}:") else None
            held.setdefault(name, []).extend(own)
    found = [
        Section(quantity(family, name), name, tuple(own), tuple(names[j].removeprefix(f"{name}:") for j in own))
        for name, own in held.items()
    ]
    if cuts:
        found.append(
            Section(
                replace(quantity(family, None), title="Thresholds", ratio=None),
                None,
                tuple(cuts),
                tuple(names[j] for j in cuts),
                thresholds=True,
            )
        )
    return found
