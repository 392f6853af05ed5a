"""A call whose factors are absorbed, brought to its maximum."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from torchglm.families import Family
from torchglm.fitting.absorb import Absorption, absorb
from torchglm.fitting.irls import evaluate
from torchglm.fitting.progress import Observer
from torchglm.fitting.shape import RowMeans, alpha_ml, power_ml
from torchglm.fitting.shape_sums import has_alpha
from torchglm.fitting.solve import ROUNDS, SETTLED
from torchglm.fitting.state import Solution
from torchglm.fitting.status import Status
from torchglm.inference.absorbed import Beside
from torchglm.inference.null import null_deviance
from torchglm.inputs import Data
from torchglm.links import Link
from torchglm.rows.ranks import ranks_of
from torchglm.rows.rows import Rows, whole


def check_absorbed(data: Data, singular: str, **given: Any) -> None:
    """Raise `ValueError` for what a fit beside absorbed factors does not take, where something of it is `given`."""
    spec = data.context["spec"]
    if spec.penalties:
        raise ValueError(
            f"the term {spec.penalties[0].name} has a penalty, which does not stand beside absorbed factors "
            f"({', '.join(spec.absorbed_levels)}). Write a basis without one: bs(x, df=5); or the factors as terms."
        )
    said = [f"{name}=" for name, value in given.items() if value is not None]
    said += ["singular='minnorm'"] if singular == "minnorm" else []
    said += ["by="] if data.batch else []
    said += ["several processes"] if ranks_of(data.source).size > 1 else []
    said += ["device=" + str(data.device)] if data.device.type != "cpu" else []
    if said:
        raise ValueError(
            f"{', '.join(said)}: not beside absorbed factors ({', '.join(spec.absorbed_levels)}), "
            "which are solved for one model on the CPU without a penalty. Leave it out, or write the factors as terms."
        )


def solved_beside(
    data: Data, family: Family, link: Link, tol: float, max_iter: int, observe: Observer | None
) -> tuple[Family, Solution, Beside]:
    """The family with its shape, the solution on the rows that the factors were taken out of, and what was absorbed."""
    names = data.context["spec"].absorbed_levels
    counts = tuple(len(levels) for levels in names.values())
    rows = _gathered(data.source)
    family, found = _with_shape(rows, counts, family, link, {"tol": tol, "max_iter": max_iter, "observe": observe})
    solution = evaluate([found.rows], family, link, found.coef.unsqueeze(0), found.status, found.n_iter)
    solution.keep[0] &= found.keep
    beside = Beside.of(found, _null(rows, found, family, link, tol))
    data.source, data.context = [found.rows], data.context | {"absorbed": beside.facts}
    return family, solution, beside


def _with_shape(
    rows: Rows, counts: tuple[int, ...], family: Family, link: Link, options: dict[str, Any]
) -> tuple[Family, Absorption]:
    """The maximum, in turn over the coefficients and over the shape that the family estimates, if any."""
    found = absorb(rows, counts, family, link, **options)
    if not family.estimates_shape:
        return family, found
    name = next(iter(dict(family.named_parameters())))
    alone = has_alpha(family)
    value = torch.ones(1, dtype=torch.float64) * (1.0 if alone else 1.5)
    phi, limit, moved = torch.ones_like(value), torch.zeros(1, dtype=torch.bool), value
    for _ in range(ROUNDS):
        means = RowMeans([found.rows], link, found.coef.unsqueeze(0))
        if alone:
            new, limit = alpha_ml(means, family, value)
        else:
            new, phi, limit = power_ml(means, family, value, phi)
        moved = ((new - value).abs() / (new + 1e-3 * value + 1e-300)).nan_to_num()
        value = new
        raw = value.log() if alone else (value - 1).logit()
        family = family.with_parameters({name: raw[0]})
        found = absorb(rows, counts, family, link, **options)
        if bool((moved < SETTLED).all()):
            break
    if found.status == Status.CONVERGED:
        status = Status.SHAPE_LIMIT if bool(limit.any()) else found.status
        found = found.ended(status if bool((moved < SETTLED).all() | limit.any()) else Status.ITERATION_LIMIT)
    return family, found


def _null(rows: Rows, found: Absorption, family: Family, link: Link, tol: float) -> torch.Tensor:
    """(1,) the deviance of an intercept and the offset on the rows that are left."""
    left = rows._replace(weight=found.rows.weight, codes=None, indexed=None, x=rows.x[..., :0])
    return null_deviance([left], family, link, True, tol, torch.zeros(1, dtype=torch.bool))


def _gathered(source: Iterable[Rows]) -> Rows:
    """All rows in memory, in one piece, every column written out but those that are absorbed."""
    pieces = [piece._replace(x=whole(piece), indexed=None, intercept=False) for piece in source]
    if len(pieces) == 1:
        return pieces[0]
    fields: dict[str, Any] = {}
    for name, at in (("x", 0), ("y", 1), ("weight", 1), ("offset", 1), ("repeats", 1), ("second", 1), ("codes", 1)):
        parts = [getattr(piece, name) for piece in pieces]
        fields[name] = None if parts[0] is None else torch.cat(parts, at)
    return pieces[0]._replace(**fields)
