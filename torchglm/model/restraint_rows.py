"""Constraints as a user writes them, as rows: limits by name, equations in words, levels in their order."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchglm import inputs
from torchglm.design.neighbours import factor_of, neighbours
from torchglm.design.restrictions import restrictions
from torchglm.inputs import Data

WAYS = {"increasing": 1.0, "decreasing": -1.0}
SIGN = re.compile(r"(<=|>=|==|=|<|>)")


@dataclass(frozen=True)
class Row:
    """`lower <= row b <= upper`, in words; the limits are of one model or of each."""

    row: Tensor
    lower: Tensor
    upper: Tensor
    said: str


# limits of single coefficients --------------------------------------------------------------------------


def limits_of(lower: Any, upper: Any, data: Data) -> list[Row]:
    low, high = _ends(lower, "lower", -torch.inf, data), _ends(upper, "upper", torch.inf, data)
    crossed = low > high
    if bool(crossed.any()):
        at = tuple(crossed.nonzero()[0].tolist())
        raise ValueError(
            f"lower of {data.names[at[-1]]} is {float(low[at]):g}, above its upper {float(high[at]):g}. Swap them, or "
            "leave one out."
        )
    low, high = torch.broadcast_tensors(low, high)
    unit = torch.eye(data.columns, dtype=torch.float64)
    found = []
    for j, name in enumerate(data.names):
        own, top = low[..., j], high[..., j]
        if bool(torch.isfinite(own).any()) or bool(torch.isfinite(top).any()):
            found.append(Row(unit[j], own, top, _between(name, own, top)))
    return found


def _between(name: str, low: Tensor, high: Tensor) -> str:
    """Limits of a coefficient in words, of all models where they are one."""
    if bool((low != low.reshape(-1)[0]).any()) or bool((high != high.reshape(-1)[0]).any()):
        return f"limits of {name}"
    bottom, top = float(low.reshape(-1)[0]), float(high.reshape(-1)[0])
    if bottom == top:
        return f"{name} = {bottom:g}"
    return (f"{bottom:g} <= " if bottom > -torch.inf else "") + name + (f" <= {top:g}" if top < torch.inf else "")


def _ends(value: Any, what: str, default: float, data: Data) -> Tensor:
    """(p,) or (B, p) limits: a number is that of all columns but the intercept."""
    whole = torch.full((data.columns,), default, dtype=torch.float64)
    slopes = [j for j in range(data.columns) if j not in set(data.constants)]
    if value is None:
        return whole
    if isinstance(value, Mapping):
        for name, one in value.items():
            for at in _columns(str(name), what, data):
                whole[at] = _number(one, f"{what}[{name!r}]")
        return whole
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        whole[slopes] = _number(value, what)
        return whole
    given = inputs.tensor(value, what).to(device="cpu", dtype=torch.float64)
    if given.dim() == 0 or given.shape[-1] != len(slopes) or given.shape[:-1] not in (torch.Size(), data.batch):
        batch = f", or {(*data.batch, len(slopes))} for each model" if data.batch else ""
        raise ValueError(
            f"{what} has shape {tuple(given.shape)} for {len(slopes)} columns. Give a number, one for each column (the "
            f"intercept has none){batch}, or a limit by name: {{{data.names[-1]!r}: 0.0}}."
        )
    if bool(given.isnan().any()):
        at = slopes[int(given.isnan().nonzero()[0, -1])]
        raise ValueError(f"{what} of {data.names[at]} is NaN. Write infinity where there is no limit.")
    whole = whole.expand(*given.shape[:-1], -1).clone()
    whole[..., slopes] = given
    return whole.reshape(-1, data.columns) if given.dim() > 1 else whole


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
        raise ValueError(f"{what} must be a number, or infinity where there is no limit; got {value!r}.")
    return float(value)


def _columns(name: str, what: str, data: Data) -> list[int]:
    """The coefficients that are called so: a column's, or those of a term."""
    if name in data.names:
        return [j for j, own in enumerate(data.names) if own == name]
    spec = data.context.get("spec")
    if spec is not None and name in spec.terms:
        return spec.terms[name] if data.plan is None else data.plan.places(spec.terms[name])
    raise ValueError(f"{what} names {name!r}, which is no column. Known: {', '.join(data.names)}.")


# levels in order ----------------------------------------------------------------------------------------


def steps_of(data: Data, term: str, what: str) -> list[tuple[list[int], list[tuple[str, str]], Tensor]]:
    """Of a factor the coefficients, the names of neighbouring levels, and their differences, in every predictor."""
    spec = data.context.get("spec")
    if spec is None:
        raise ValueError(
            f"{what} names the term {term!r}, and the columns come from no formula. Name the columns: "
            "constraints='b1 <= b2', or Fused(strength, [[None, 'b1', 'b2']])."
        )
    found = []
    for columns, names, steps in neighbours(spec, term, what):
        for places in [columns] if data.plan is None else data.plan.alike(columns):
            found.append((places, names, torch.from_numpy(steps)))
    return found


def monotone_of(asked: Mapping[str, str] | None, data: Data) -> list[Row]:
    if asked is None:
        return []
    if not isinstance(asked, Mapping):
        raise TypeError(f"monotone must be a mapping such as {{'C(age)': 'increasing'}}, got {asked!r}.")
    rows = list[Row]()
    zero, top = torch.tensor(0.0, dtype=torch.float64), torch.tensor(torch.inf, dtype=torch.float64)
    for term, way in asked.items():
        if way not in WAYS:
            raise ValueError(f"monotone[{term!r}] must be 'increasing' or 'decreasing', got {way!r}.")
        spec = data.context.get("spec")
        if term in data.names and (spec is None or factor_of(spec, term) is None):
            unit = torch.eye(data.columns, dtype=torch.float64)
            sign = ">=" if WAYS[way] > 0 else "<="
            rows += [
                Row(WAYS[way] * unit[at], zero, top, f"{term} {sign} 0") for at in _columns(term, "monotone", data)
            ]
            continue
        for places, names, steps in steps_of(data, term, "monotone"):
            for (below, above), step in zip(names, steps, strict=True):
                row = step.new_zeros(data.columns)
                row[places] = WAYS[way] * step
                said = f"{term}: {below} {'<=' if WAYS[way] > 0 else '>='} {above}"
                rows.append(Row(row, zero, top, said))
    return rows


# rows of one's own --------------------------------------------------------------------------------------


def in_words(asked: Any, data: Data) -> list[Row]:
    """Constraints in words, or as `(matrix, lower, upper)`."""
    if asked is None:
        return []
    if isinstance(asked, tuple):
        return _as_matrix(asked, data)
    texts = [asked] if isinstance(asked, str) else list(asked)
    if not all(isinstance(text, str) for text in texts):
        raise TypeError(
            f"constraints must be text such as 'a <= b', a list of texts, or (matrix, lower, upper); got {asked!r}."
        )
    return [row for text in texts for part in _parted(text) for row in _read(part.strip(), data)]


def _parted(text: str) -> list[str]:
    """The constraints of a text, parted by the commas that stand in no brackets."""
    parts, depth = [""], 0
    for sign in text:
        depth += (sign in "([{") - (sign in ")]}")
        if sign == "," and not depth:
            parts.append("")
        else:
            parts[-1] += sign
    return parts


def _read(text: str, data: Data) -> list[Row]:
    """The rows of one constraint, of several where it is a chain: `0 <= a <= b`."""
    names = list(data.names)
    held = {f"\x00{j}\x00": name for j, name in enumerate(names) if SIGN.search(name)}  # names with a sign in them
    hidden = text
    for mark, name in sorted(held.items(), key=lambda one: -len(one[1])):
        hidden = hidden.replace(name, mark)
    pieces = SIGN.split(hidden)
    sides = [_shown(side, held).strip() for side in pieces[0::2]]
    signs = pieces[1::2]
    if not signs or not all(sides):
        raise ValueError(
            f"the constraint {text!r} has no sign between two sides. Write 'a = 1', 'a <= b' or '0 <= a <= 1'."
        )
    zero, end = torch.tensor(0.0, dtype=torch.float64), torch.tensor(torch.inf, dtype=torch.float64)
    found = []
    for left, sign, right in zip(sides, signs, sides[1:], strict=False):
        matrix, value = restrictions(f"{left} = {right}", names)
        row, at = torch.from_numpy(matrix[0]), torch.tensor(float(value[0]), dtype=torch.float64)
        low = at if "<" not in sign else -end
        high = at if ">" not in sign else end
        said = f"{left} {sign if sign not in ('==', '<', '>') else {'==': '=', '<': '<=', '>': '>='}[sign]} {right}"
        found.append(Row(row, low + zero, high + zero, said))
    return found


def _shown(side: str, held: Mapping[str, str]) -> str:
    for mark, name in held.items():
        side = side.replace(mark, name)
    return side


def _as_matrix(asked: tuple[Any, ...], data: Data) -> list[Row]:
    if len(asked) != 3:
        raise ValueError(
            f"constraints has {len(asked)} parts. Give (matrix, lower, upper): lower <= matrix @ coef <= upper."
        )
    matrix = inputs.tensor(asked[0], "the matrix of constraints").to(device="cpu", dtype=torch.float64)
    if matrix.dim() != 2 or matrix.shape[1] != data.columns or not matrix.shape[0]:
        raise ValueError(
            f"the matrix of constraints has shape {tuple(matrix.shape)} for {data.columns} coefficients: "
            f"{', '.join(data.names[:6])}{', …' if data.columns > 6 else ''}. Give (m, {data.columns})."
        )
    ends = []
    for value, what in ((asked[1], "lower"), (asked[2], "upper")):
        one = torch.as_tensor(value, dtype=torch.float64)
        if one.shape not in (torch.Size(), matrix.shape[:1]) or bool(one.isnan().any()):
            raise ValueError(
                f"{what} of constraints has shape {tuple(one.shape)} for {len(matrix)} rows. Give a number, or one "
                "each, infinity for none."
            )
        ends.append(one.expand(len(matrix)))
    bad = ~torch.isfinite(matrix).all(-1) | ~(matrix != 0).any(-1) | (ends[0] > ends[1])
    if bool(bad.any()):
        at = int(bad.nonzero()[0, 0])
        raise ValueError(
            f"row {at} of constraints is zero, not finite, or has its lower limit above its upper. Leave it out."
        )
    return [
        Row(row, low, high, _between(_combined(row, data.names), low, high))
        for row, low, high in zip(matrix, *ends, strict=True)
    ]


def _combined(row: Tensor, names: Sequence[str]) -> str:
    """A row in words."""
    parts = [f"{float(row[j]):+g} {names[j]}" for j in row.nonzero()[:, 0].tolist()]
    return " ".join(parts).removeprefix("+").replace("1 ", "", 1) if len(parts) == 1 else " ".join(parts)
