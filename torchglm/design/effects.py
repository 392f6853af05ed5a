"""Random effects as columns: grouping by grouping, effect by effect, a column for each level."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from torchglm.design.blocks import Indicator, index_columns, width
from torchglm.design.factors import Categorical
from torchglm.design.frame import Frame
from torchglm.design.kinds import Factor
from torchglm.design.parts import Part, RandomGrouping, RandomSet, by_grouping, parts_of
from torchglm.design.random import Grouped
from torchglm.rows.index import Index
from torchglm.rows.indexed import Indexed


def groupings_of(
    random: Sequence[RandomSet], factors: Mapping[str, Factor], names: Callable[[Part], list[str]]
) -> list[RandomGrouping]:
    """The factors that sets of random effects belong to, in the order of their columns."""
    return [
        RandomGrouping(
            Grouped.of_text(group).name,
            _levels(factors[group]).levels,
            [[name for part in parts_of(one.terms) for name in names(part)] for one in sets],
            [one.predictor for one in sets],
        )
        for group, sets in by_grouping(random).items()
    ]


def effect_columns(
    random: Sequence[RandomSet], factors: Mapping[str, Factor], frame: Frame, unseen: str, counts: dict[str, int]
) -> Indexed:
    """The columns of random effects over the rows of a frame; a row of a new level has none of its own.

    Raises ValueError for effects whose columns cannot be looked up, and where a level is new and `unseen` an error.
    """
    found, start = list[Index](), 0
    for group, sets in by_grouping(random).items():
        factor = _levels(factors[group])
        levels = Indicator(factor.codes(frame, unseen, counts, none=True), len(factor.levels))
        for one in sets:
            for part in parts_of(one.terms):
                inside = [b for text, low in part.factors for b in factors[text].blocks(frame, low, unseen, counts)]
                own = index_columns([levels, *inside], start, part.scale)
                if own is None:
                    raise ValueError(
                        f"The random effects {one.text} multiply a factor by a transform of several columns. Make "
                        "columns of these first."
                    )
                found += own
                start += width([levels, *inside])
    return Indexed(torch.zeros(0, dtype=torch.int64), tuple(found), start)


def _levels(factor: Factor) -> Categorical:
    assert isinstance(factor, Categorical)  # groups are categories
    return factor


def level_codes(factors: Sequence[Factor], frame: Frame, unseen: str, counts: dict[str, int]) -> torch.Tensor:
    """(F, n) int32 the levels of absorbed factors; the number of levels where one was never seen."""
    found = []
    for factor in factors:
        assert isinstance(factor, Categorical)  # groups are categories
        own = factor.codes(frame, unseen, counts, none=True)
        found.append(torch.from_numpy(np.where(own < 0, len(factor.levels), own).astype(np.int32)))
    return torch.stack(found)
