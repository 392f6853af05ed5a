"""A design as a module: raw columns of rows in, the columns of the design out, by operations of torch alone."""

from __future__ import annotations

import ast
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torchglm.design.expressions import ELEMENTWISE, OPERATORS, Expression, called
from torchglm.design.factors import OTHER, Categorical, Numeric
from torchglm.design.kinds import Factor
from torchglm.design.spec import DesignSpec

# functions of formulas that torch has under another name
RENAMED = {"absolute": "abs", "arcsin": "asin", "arccos": "acos", "arctan": "atan", "arcsinh": "asinh"}
RENAMED |= {"arccosh": "acosh", "arctanh": "atanh", "power": "pow"}
MOMENTS = ("scale", "center", "standardize")  # what they learn is a mean and a deviation


class RawColumns(nn.Module):
    """The columns of a design `(n, p)` of raw columns: numbers, and for text the codes of its `levels`.

    `levels` names the columns of text, each with its levels in order; any other code is a level never seen, which is
    NaN where the design refuses it. Raises `ValueError` for terms that are no arithmetic of columns (splines, smooths).
    """

    def __init__(self, spec: DesignSpec) -> None:
        super().__init__()
        self.parts = [part for part, _ in spec.prefixed_parts()]
        self.levels: dict[str, list[str]] = {}
        self.columns = spec.columns
        self.factors: dict[str, Factor] = {text: spec.factors[text] for part in self.parts for text, _ in part.factors}
        for text, factor in self.factors.items():
            self._look(text, factor)
        self.unseen = spec.unseen

    def _look(self, text: str, factor: Factor) -> None:
        if isinstance(factor, Categorical):
            kinds = {type(level) for level in factor.levels}
            if kinds <= {str} and isinstance(factor.expression, Expression) and factor.expression.column:
                pooled = [] if factor.pool is None else [one for one in factor.pool.levels if one != OTHER]
                self.levels[factor.expression.column] = [*factor.levels, *pooled]
                return
            if kinds <= {int, float, bool, np.int64, np.float64, np.bool_} and factor.pool is None:
                return
            raise ValueError(
                f"the levels of {text} are neither text nor numbers, which is all that a model file takes."
            )
        if not isinstance(factor, Numeric) or not all(_plain(node) for node in ast.walk(factor.expression.node)):
            raise ValueError(
                f"{text} is a spline or smooth, which model files do not hold. Use torchglm predict, or a rating table "
                "(torchglm export RUN --table)."
            )

    def forward(self, columns: dict[str, Tensor]) -> Tensor:
        """(n, p) the design, in float64."""
        rows = {name: columns[name] for name in self.columns}
        n = next(iter(rows.values()))
        found = []
        for part in self.parts:
            product = [torch.full_like(n, part.scale, dtype=torch.float64)]
            for text, reduced in part.factors:  # the columns of the first factor vary fastest
                own = self._block(self.factors[text], reduced, rows)
                product = [one * other for other in own for one in product]
            found += product
        return torch.stack(found, -1)

    def _block(self, factor: Factor, reduced: bool, rows: dict[str, Tensor]) -> list[Tensor]:
        if isinstance(factor, Categorical):
            return self._category(factor, reduced, rows)
        assert isinstance(factor, Numeric)
        return [_run(factor.expression.node, factor.expression, rows, factor.state)]

    def _category(self, factor: Categorical, reduced: bool, rows: dict[str, Tensor]) -> list[Tensor]:
        """The coded columns, from a column of zeros and ones for each level."""
        expression = factor.expression
        assert isinstance(expression, Expression)
        value = _run(expression.node, expression, rows, {})
        text, count = expression.column in self.levels, len(factor.levels)
        known = [float(k) if text else float(level) for k, level in enumerate(factor.levels)]
        hits = [(value == level).to(torch.float64) for level in known]
        if text:  # levels that were pooled count as the last
            for code in range(count, len(self.levels[str(expression.column)])):
                hits[-1] = hits[-1] + (value == code).to(torch.float64)
        strange = 1 - torch.stack(hits).sum(0)
        if self.unseen == "error" or (self.unseen == OTHER and factor.pool is None):
            hits = [torch.where(strange > 0, torch.nan, hit) for hit in hits]
        else:
            place = count - 1 if self.unseen == OTHER else factor.reference
            hits[place] = hits[place] + strange
        if factor.codings is not None:
            coding = factor.codings[reduced]
            return [
                torch.stack([float(coding[k, j]) * hit for k, hit in enumerate(hits)]).sum(0)
                for j in range(coding.shape[1])
            ]
        return [hit for k, hit in enumerate(hits) if not (reduced and k == factor.reference)]


def _plain(node: ast.AST) -> bool:
    """Whether part of an expression has its like in torch."""
    if not isinstance(node, ast.Call):
        return True
    name = called(node)
    return name in ("I", "Q", *MOMENTS) or (name in ELEMENTWISE and _function(name) is not None)


def _function(name: str) -> Any:
    if name == "cbrt":
        return lambda x: torch.sign(x) * x.abs() ** (1 / 3)
    if name == "exp10":
        return lambda x: torch.pow(10.0, x)
    return getattr(torch, RENAMED.get(name, name), None)


def _run(node: ast.AST, expression: Expression, rows: dict[str, Tensor], state: dict[str, Any]) -> Any:
    """The value of an expression over rows, as `Expression.evaluate` has it, in float64."""
    if isinstance(node, ast.Name):
        return rows[expression.column_of(node)].to(torch.float64)
    if isinstance(node, ast.Constant):
        return float(node.value) if isinstance(node.value, (int, float)) else node.value
    if isinstance(node, ast.BinOp):
        return _operate(node.op, [node.left, node.right], expression, rows, state)
    if isinstance(node, ast.UnaryOp):
        return _operate(node.op, [node.operand], expression, rows, state)
    if isinstance(node, ast.Compare):
        return _operate(node.ops[0], [node.left, node.comparators[0]], expression, rows, state)
    assert isinstance(node, ast.Call)
    name = called(node)
    if name == "Q":
        return rows[expression.columns[0] if expression.column else str(ast.literal_eval(node.args[0]))].double()
    values = [_run(argument, expression, rows, state) for argument in node.args]
    if name == "I":
        return values[0]
    if name in MOMENTS:
        held = state[ast.unparse(node)]
        return (values[0] - _number(held.get("center"), 0.0)) / _number(held.get("scale"), 1.0)
    like = next(value for value in values if isinstance(value, Tensor))
    each = [value if isinstance(value, Tensor) else torch.full_like(like, value) for value in values]
    if name == "where":
        each[0] = each[0] != 0
    return _function(name)(*each).to(torch.float64)


def _number(value: Any, otherwise: float) -> float:
    return otherwise if value is None else float(np.asarray(value).reshape(()))


def _operate(sign: ast.AST, nodes: list[Any], expression: Expression, rows: Any, state: Any) -> Any:
    values = [_run(node, expression, rows, state) for node in nodes]
    if isinstance(sign, (ast.BitAnd, ast.BitOr, ast.Invert)):
        values = [value != 0 for value in values]
    found = OPERATORS[type(sign)](*values)
    return found.to(torch.float64) if isinstance(found, Tensor) else found
