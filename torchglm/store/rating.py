"""The rating table of a fit: what each level and each unit multiplies, or adds to, the prediction of a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from torchglm import links
from torchglm.design.factors import Categorical
from torchglm.design.frame import Frame
from torchglm.design.kinds import Factor
from torchglm.design.parts import Part
from torchglm.design.spec import INTERCEPT, DesignSpec
from torchglm.model.face import Result
from torchglm.tables.columns import as_table

if TYPE_CHECKING:
    import pandas as pd

BASE = "base"
MOST = 1_000_000  # lines of a table
PREDICT = "Use predict, of a run torchglm predict RUN DATA."


@dataclass(frozen=True)
class _Axis:
    """What one factor of a term is over its levels or values: `coding` (L, columns), and how they are told."""

    coding: np.ndarray
    labels: list[dict[str, Any]]
    per: list[str] = field(default_factory=list)


def rating_table(result: Result, values: Mapping[str, Sequence[Any]] | None = None) -> pd.DataFrame:
    """The fit of one predictor as lines `term`, one cell for each variable, `per`, `points`, with a log link `factor`.

    A row takes every line whose filled cells are its own values. `points` add up to the linear predictor, the line
    `base` among them; factors multiply to the mean. A line with `per`, an expression of columns, counts that many
    times: its points are multiplied by it, its factor is raised to it. Curves such as `bs(age, df=4)` and `s(age)` have
    a line for each of `values["age"]`. Offset and exposure of a row come on top.
    Raises `ValueError` for a fit without a formula, of many models, of several predictors or with random effects, and
    for a curve without values.
    """
    import pandas as pd

    spec = _spec(result)
    coef = np.where(np.isnan(found := result.coef.detach().cpu().numpy()), 0.0, found)
    lines: list[dict[str, Any]] = []
    start = 0
    for name, inside in spec.parts:
        for part in inside:
            axes = [_axis(spec.factors[text], reduced, values or {}) for text, reduced in part.factors]
            count = int(np.prod([axis.coding.shape[1] for axis in axes], dtype=np.int64))
            lines += _lines(BASE if name == INTERCEPT else name, part, axes, coef[start : start + count])
            start += count
    if len(lines) > MOST:
        raise ValueError(f"the table would have {len(lines):,} lines. Write the fit as ONNX.")
    variables = list(dict.fromkeys(key for line in lines for key in line if key not in ("term", "per", "points")))
    table = pd.DataFrame(lines, columns=["term", *variables, "per", "points"])
    if type(result.link) is links.Log:
        table["factor"] = np.exp(table["points"])
    return table


def curves_of(spec: DesignSpec) -> list[str]:
    """The columns whose values a table needs, since a curve is drawn over them."""
    used = [spec.factors[text] for _, inside in spec.parts for part in inside for text, _ in part.factors]
    return list(dict.fromkeys(column for one in used if _is_curve(one) for column in one.expression.columns))


def _spec(result: Result) -> DesignSpec:
    spec = result.spec
    if spec is None:
        raise ValueError("this fit has no formula, so its columns have no levels. Its coefficients are result.coef.")
    for what, there in (
        ("many models", bool(result.batch_shape)),
        ("several predictors", result.plan is not None),
        ("random effects", bool(spec.random)),
        ("absorbed factors", bool(spec.absorbed)),
    ):
        if there:
            raise ValueError(
                f"a rating table is of one model with one predictor, and this fit has {what}, which it does not hold. "
                f"{PREDICT}"
            )
    return spec


def _is_curve(factor: Factor) -> bool:
    """Whether a factor is neither levels nor a number of its own, as `age` and `log(age)` are."""
    number = len(factor.full) == 1 and not getattr(factor.expression, "learns", True)
    return not isinstance(factor, Categorical) and not number


def _axis(factor: Factor, reduced: bool, values: Mapping[str, Sequence[Any]]) -> _Axis:
    if isinstance(factor, Categorical):
        name = getattr(factor.expression, "column", None) or factor.expression.text
        return _Axis(_coding(factor, reduced), [{name: level} for level in factor.levels])
    columns = factor.expression.columns
    if not _is_curve(factor):
        return _Axis(np.ones((1, 1)), [{}], [factor.expression.text])
    if len(columns) != 1 or columns[0] not in values:
        raise ValueError(
            f"{factor.expression.text} is a curve, which a table has at values of {', '.join(columns)}. "
            + ("Give them: values={" + repr(columns[0]) + ": [...]}." if len(columns) == 1 else PREDICT)
        )
    own = list(values[columns[0]])
    frame = Frame(as_table({columns[0]: own}, list(columns)), list(columns))
    [block] = factor.blocks(frame, reduced, "error", {})
    written = np.stack(block.columns, -1) if hasattr(block, "columns") else np.eye(block.width)[block.codes]
    return _Axis(written, [{columns[0]: value} for value in own])


def _coding(factor: Categorical, reduced: bool) -> np.ndarray:
    """(L, columns) what a category is coded by."""
    if factor.codings is not None:
        return factor.codings[reduced]
    whole = np.eye(len(factor.levels))
    return np.delete(whole, factor.reference, 1) if reduced else whole


def _lines(name: str, part: Part, axes: list[_Axis], coef: np.ndarray) -> list[dict[str, Any]]:
    """The lines of a product of factors, whose first has the columns that vary fastest."""
    points = coef.reshape([axis.coding.shape[1] for axis in axes], order="F") * part.scale
    for axis in axes:
        points = np.tensordot(points, axis.coding, (0, 1))
    per = " * ".join(text for axis in axes for text in axis.per)
    return [
        {"term": name, **{key: value for label in chosen for key, value in label.items()}, "per": per, "points": value}
        for chosen, value in zip(product(*(axis.labels for axis in axes)), points.reshape(-1).tolist(), strict=True)
    ]
