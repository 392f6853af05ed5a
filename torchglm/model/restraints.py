"""What a call says of the coefficients beside a penalty: limits, equations, inequalities, monotone levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from torchglm.fitting import linalg
from torchglm.fitting.bias import Jeffreys
from torchglm.fitting.feasible import excluding
from torchglm.fitting.penalties import Constrained, Fused, GroupLasso, Penalty, Quadratic
from torchglm.inputs import Data
from torchglm.model.restraint_rows import Row, in_words, limits_of, monotone_of, steps_of

ALIKE = 1e-10  # share of an equation that is its own, below which others say it


@dataclass(frozen=True)
class Restraints:
    """`lower`, `upper`: limits of coefficients, one for all, one each, or by name; `constraints`: in words such as
    `"age + bmi = 1"`, or `(matrix, lower, upper)`; `monotone`: factors or columns, each increasing or decreasing."""

    lower: Any = None
    upper: Any = None
    constraints: Any = None
    monotone: Mapping[str, str] | None = None

    def __bool__(self) -> bool:
        return any(one is not None for one in (self.lower, self.upper, self.constraints, self.monotone))


def restrained(inner: Penalty | Jeffreys | None, asked: Restraints, data: Data) -> Penalty | Jeffreys | None:
    """A penalty with the constraints of a call, or what it is where there are none.

    Raises `ValueError` for constraints that cannot be meant, exclude one another or go with no such penalty.
    """
    if not asked:
        return inner
    _check_company(inner, data)
    rows = (
        limits_of(asked.lower, asked.upper, data)
        + monotone_of(asked.monotone, data)
        + in_words(asked.constraints, data)
    )
    if not rows:
        raise ValueError("lower=, upper=, constraints= and monotone= name no constraint. Leave them out.")
    assert inner is None or isinstance(inner, Penalty)
    made = _constrained(inner, _independent(rows))
    _check_zero(made, data)
    found = excluding(_constrained(None, rows).kinks(torch.ones(_models(made), dtype=torch.float64)))
    if found:
        said = list(dict.fromkeys(rows[at].said for at in _constrained(None, rows).sides[found].tolist()))
        raise ValueError(
            f"no coefficients satisfy all constraints: {'; '.join(said)} exclude one another. Leave one of them out, "
            "or widen its limits."
        )
    return made


def _check_company(inner: Penalty | Jeffreys | None, data: Data) -> None:
    """Raise `ValueError` for constraints beside what does not go with them."""
    spec = data.context.get("spec")
    if isinstance(inner, (Jeffreys, GroupLasso)):
        raise ValueError(
            f"constraints do not go with {type(inner).__name__}. They go with Ridge, ElasticNet, MCP, SCAD, Fused, and "
            "Quadratic with numbers for strengths."
        )
    if isinstance(inner, Quadratic) and inner.method is not None:
        raise ValueError(
            f"strengths are not estimated (smoothing={inner.method!r}) beside constraints. Give numbers: "
            "smoothing=1.0, or penalty=Quadratic(blocks, strength)."
        )
    if data.random is not None or spec is not None and spec.absorbed:
        raise ValueError("constraints do not go with random effects or absorbed factors. Write the factors as terms.")


def _constrained(inner: Penalty | None, rows: Sequence[Row]) -> Constrained:
    ends = torch.broadcast_tensors(*[one.lower for one in rows], *[one.upper for one in rows])
    lower, upper = torch.stack(ends[: len(rows)], -1), torch.stack(ends[len(rows) :], -1)
    return Constrained(inner, torch.stack([one.row for one in rows]), lower, upper, [one.said for one in rows])


def _models(made: Constrained) -> int:
    return len(made.lower) if made.lower.dim() > 1 else 1


def _independent(rows: Sequence[Row]) -> list[Row]:
    """The rows without equations that others say; those that contradict others are found where all are looked at."""
    equal = [one for one in rows if bool((one.lower == one.upper).all())]
    if len(equal) < 2:
        return list(rows)
    own = linalg.independent_columns(torch.stack([one.row for one in equal], -1).unsqueeze(0), ALIKE)[0]
    dropped = {id(one) for one, kept in zip(equal, own.tolist(), strict=True) if not kept}
    return [one for one in rows if id(one) not in dropped]


def _check_zero(made: Constrained, data: Data) -> None:
    """Raise `ValueError` for a limit that keeps a coefficient from the 0 to which absolute values draw it."""
    zero = torch.zeros(_models(made), data.columns, dtype=torch.float64)
    l1 = None if made.inner is None else made.inner.nonsmooth(zero, torch.ones(len(zero), dtype=torch.float64))
    if l1 is None:
        return
    for row, low, high, said in zip(
        made.rows, made.lower.movedim(-1, 0), made.upper.movedim(-1, 0), made.said, strict=True
    ):
        at = row.nonzero()[:, 0]
        if len(at) == 1 and bool((l1[:, at] > 0).any()) and bool(((low > 0) | (high < 0)).any()):
            raise ValueError(
                f"{said} keeps {data.names[int(at)]} from 0, where the penalty's absolute values draw it. Let the "
                "limits hold 0, or give that column no l1: a strength for each column."
            )


def constraint_names(penalty: Penalty | Jeffreys | None) -> dict[str, list[str]]:
    """The constraints in words, a side each, as a result keeps them; empty where there are none."""
    if not isinstance(penalty, Constrained):
        return {}
    return {"constraints": [penalty.said[row] for row in penalty.sides.tolist()]}


def placed_on_terms(penalty: Penalty | Jeffreys | None, data: Data) -> Penalty | Jeffreys | None:
    """A penalty of terms of a formula with the columns that they have. Raises `ValueError` for terms it has not."""
    spec = data.context.get("spec")
    if isinstance(penalty, GroupLasso) and spec is not None and penalty.groups is None:
        constants = set(data.constants)
        places = spec.terms if data.plan is None else {name: data.plan.places(at) for name, at in spec.terms.items()}
        own = {name: [j for j in at if j not in constants] for name, at in places.items()}
        return penalty.of_terms({name: at for name, at in own.items() if at})
    if isinstance(penalty, Fused) and penalty.terms:
        steps = {}
        for term in penalty.terms:
            steps[term] = [(places, rows) for places, _, rows in steps_of(data, term, "Fused")]
        return penalty.resolved(steps)
    return penalty
