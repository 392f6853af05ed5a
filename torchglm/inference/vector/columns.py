"""Which coefficients of several predictors belong to a column of their design."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from torchglm.families.several import Multinomial, VectorFamily
from torchglm.inference.fitted import Fitted
from torchglm.rows.plan import Plan

PART = "part"  # the entry of the context that names the predictor of which a fit is the part


def refuse_part(result: Fitted) -> None:
    """Raise `ValueError` for the part of one predictor, where only the whole fit has an answer."""
    if PART in result.context:
        name = result.context[PART]
        raise ValueError(
            f"this is the part of the predictor {name!r} alone: its coefficients, errors, limits, ratios and summary. "
            f"Ask the whole fit, as in predict(x, kind={name!r})."
        )


def plan_of(result: Fitted) -> Plan:
    """The plan of a fit of several predictors."""
    assert result.plan is not None
    return result.plan


def design_columns(result: Fitted) -> list[int]:
    """The column of the design of every coefficient."""
    return [column for block in plan_of(result).blocks for _ in range(block.width) for column in block.columns]


def designs_of(result: Fitted) -> dict[str, dict[str, int]]:
    """Of every predictor with columns of its own (the first is `""`) their names and places in the design."""
    refuse_part(result)
    if result.spec is not None:
        return result.spec.designs
    return {predictor: dict(own) for predictor, own in result.context["designs"].items()}


def column_names(result: Fitted) -> dict[int, str]:
    """Place in the design -> its name there, `dispersion:z` for columns of a further predictor, without constants."""
    ones = plan_of(result).ones
    return {
        place: f"{predictor}:{name}" if predictor else name
        for predictor, own in designs_of(result).items()
        for name, place in own.items()
        if place not in ones
    }


def coefficients_of(result: Fitted, places: Sequence[int]) -> list[int]:
    """The coefficients of some columns of the design."""
    return [j for j, column in enumerate(design_columns(result)) if column in places]


def columns_by_name(result: Fitted) -> dict[str, list[int]]:
    """The coefficients of every column of the design that is no constant."""
    return {name: coefficients_of(result, [place]) for place, name in sorted(column_names(result).items())}


def terms_of(result: Fitted) -> dict[str, list[int]]:
    """The coefficients of every term of the formula without its constants, else of every column."""
    refuse_part(result)
    terms = result.context.get("terms")
    if terms is None:
        return columns_by_name(result)
    kept = column_names(result)
    found = {name: coefficients_of(result, [j for j in places if j in kept]) for name, places in terms.items()}
    return {name: own for name, own in found.items() if own}


def slopes(family: VectorFamily, predictor: str | None = None) -> Tensor:
    """(K, r) how a further column enters the predictors: as the others of the first do, or that of `predictor` alone.

    Raises `ValueError` for a name that is no predictor.
    """
    if predictor is None:
        if isinstance(family, Multinomial):
            return torch.eye(len(family.predictors), dtype=torch.float64)
        return family.shifts().unsqueeze(-1)
    if predictor not in family.predictors:
        raise ValueError(f"{predictor!r} is no predictor of {family.said}. Known: {', '.join(family.predictors)}.")
    return torch.eye(len(family.predictors), dtype=torch.float64)[:, [family.predictors.index(predictor)]]
