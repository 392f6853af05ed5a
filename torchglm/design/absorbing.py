"""Which factors of a formula are absorbed though it does not ask for it: those that are too large to be written out."""

from __future__ import annotations

from collections import Counter

from torchglm.design.factors import Categorical
from torchglm.design.spec import DesignSpec
from torchglm.rows.inverses import FULL

FEWEST = 1_000  # levels of a factor that may be absorbed unasked


def absorbing(spec: DesignSpec) -> DesignSpec:
    """The design whose largest factors are absorbed, where two or more are too many for a Gram; else as it is.

    Such a factor is a term of its own in treatment coding, and is in no other term.
    """
    if spec.penalties or spec.others or spec.absorbed or spec.random or not spec.intercept:
        return spec
    inside = Counter(text for _, parts in spec.parts for part in parts for text, _ in part.factors)
    large = {
        name: len(factor.levels)
        for name, parts in spec.parts
        if len(parts) == 1 and [text for text, _ in parts[0].factors] == [name] and inside[name] == 1
        if isinstance(factor := spec.factors[name], Categorical) and factor.codings is None
        if parts[0].scale == 1.0 and len(factor.levels) >= FEWEST
    }
    width = len(spec.names)
    beside = width - max(large.values(), default=0)
    return spec.beside(tuple(large)) if len(large) > 1 and beside * width > FULL else spec
