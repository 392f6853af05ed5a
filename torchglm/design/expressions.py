"""Expressions: what may stand in a formula, checked before it runs and evaluated without `eval`.

A formula is text that may come from a file, so it is read as data: arithmetic, comparisons and the functions
listed here, walked node by node. Nothing else can run, neither when a design is built nor when one is loaded.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

from torchglm.design.brackets import shortened
from torchglm.design.contrasts import category_arguments
from torchglm.design.transforms import learned
from torchglm.writing.nearest import nearest

UNARY = """log log10 log2 log1p exp exp2 expm1 sqrt cbrt square abs absolute sign floor ceil round trunc
sin cos tan arcsin arccos arctan sinh cosh tanh arcsinh arctanh isnan isfinite logical_not""".split()
BINARY = "maximum minimum power logical_and logical_or".split()
# Row by row, so a chunk gives what the whole gives. Name -> function, number of arguments.
ELEMENTWISE: dict[str, tuple[Callable[..., Any], int]] = {
    **{name: (getattr(np, name), 1) for name in UNARY},
    **{name: (getattr(np, name), 2) for name in BINARY},
    "clip": (np.clip, 3),
    "where": (np.where, 3),
    "exp10": (lambda x: np.power(10.0, x), 1),
}
# What they learn from the data (knots, bounds, moments) is kept in the spec.
STATEFUL = ("bs", "cr", "cs", "cc", "poly", "scale", "center", "standardize")
OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Invert: operator.invert,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
REFUSED = {
    "lag": "it looks at other rows; compute the lagged column in the table",
    "hashed": "write C(column) instead",
    "mean": "it is not row by row; use center(x) or scale(x)",
    "std": "it is not row by row; use scale(x)",
    "offset": "give fit the column by name, offset='name', or exposure='name' where its logarithm is the offset",
    "factor": "write C(column)",
    "categorical": "write C(column)",
    "relevel": "write C(column, Treatment('B')) for the reference level B",
    "i": "write C(column), or C(a):b",
    "ns": "write cr(x, df=3), the natural cubic spline",
    "lo": "write s(x), a smooth whose wiggliness is estimated",
    "numeric": "give fit types={'column': 'number'}",
    "cbind": "give the successes on the left and their totals as trials='name'",
    "Surv": "give the time on the left, event='name', and a family of times such as 'weibull'",
    "strata": "write y ~ x | column, which absorbs its levels, or by='column' for one model each",
    "ifelse": "write where(condition, a, b)",
    "pow": "write x**2 or power(x, 2)",
    "sw": "fit each formula and set them side by side: torchglm.side_by_side(fit1, fit2)",
    "csw": "fit each formula and set them side by side: torchglm.side_by_side(fit1, fit2)",
}
QUOTED = re.compile(r"`([^`]*)`")
LARGEST = 1000  # degree or number of columns that a transform may be asked for
UNREADABLE = (AttributeError, TypeError, KeyError, ValueError, OverflowError, RecursionError, MemoryError)


class HasColumns(Protocol):
    """Rows of a table: `values(name)` is one column as an array `(n,)`."""

    def values(self, name: str) -> np.ndarray: ...


class Expression:
    """One factor of a formula, such as `income`, `log(income + 1)` or `bs(age, df=4)`, checked but not run.

    `columns` are the columns it reads, in order; `learns` says whether it holds a stateful transform.
    Raises ValueError for anything that is not arithmetic on columns and the listed functions.
    """

    def __init__(self, text: str, lookup: bool = False) -> None:
        self.text, self.lookup = text, lookup
        self._quoted: dict[str, str] = {}
        if lookup:
            self._quoted["_quoted_0_"] = text
            self.node: ast.expr = ast.Name("_quoted_0_")
        else:
            self.node = self._parse(text)
        if isinstance(self.node, ast.Call) and called(self.node) == "C":
            self.categorical, self.contrasts, self.levels = True, *category_arguments(self.node, text)
            self.node = self.node.args[0]
        else:
            self.categorical, self.contrasts, self.levels = False, None, None
        try:
            self.columns = tuple(dict.fromkeys(self._check(self.node)))
        except RecursionError:
            raise ValueError(
                f"{shortened(text, 80)} is nested too deep, or too long a sum. Compute it in the table."
            ) from None
        if not self.columns:
            raise ValueError(f"{shortened(text, 80)} reads no column. A term of a formula needs at least one.")
        self.learns = not lookup and any(called(node) in STATEFUL for node in ast.walk(self.node))
        if self.categorical and self.learns:
            raise ValueError(f"C() takes a column or arithmetic, not a transform that learns: {shortened(text, 80)}.")

    @property
    def column(self) -> str | None:
        """The column's name where the expression is just a column (inside `C()`, too)."""
        plain = isinstance(self.node, ast.Name) or called(self.node) == "Q"
        return self.columns[0] if plain else None

    def column_of(self, node: ast.Name) -> str:
        """The column that a name in the expression stands for."""
        return self._quoted.get(node.id, node.id)

    def evaluate(self, rows: HasColumns, state: dict[str, Any]) -> Any:
        """The values over the rows; a stateful transform reads `state`, or fills it where it is empty."""
        try:
            with np.errstate(all="ignore"):
                return self._run(self.node, rows, state)
        except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
            raise ValueError(f"Cannot evaluate {shortened(self.text, 80)}: {error}") from error

    def _parse(self, text: str) -> ast.expr:
        def name_for(match: re.Match[str]) -> str:
            key = f"_quoted_{len(self._quoted)}_"
            self._quoted[key] = match.group(1)
            return key

        try:
            return ast.parse(QUOTED.sub(name_for, text).strip(), mode="eval").body
        except (SyntaxError, *UNREADABLE) as error:
            raise ValueError(
                f"Cannot read {shortened(text, 80)} in the formula: {error or 'it is nested too deep'}."
            ) from None

    def _check(self, node: ast.AST) -> Iterator[str]:
        """The columns below a node, or ValueError at the first thing that may not stand in a formula."""
        if isinstance(node, ast.Name):
            yield self.column_of(node)
        elif isinstance(node, ast.Call):
            name = called(node)
            if name == "Q":
                yield _quoted_column(node, self.text)
                return
            _check_call(node, name, self.text)
            for argument in [*node.args, *(keyword.value for keyword in node.keywords)]:
                yield from self._check(argument)
        elif isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
            yield from self._check(node.left)
            yield from self._check(node.right)
        elif isinstance(node, ast.UnaryOp) and type(node.op) in OPERATORS:
            yield from self._check(node.operand)
        elif isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in OPERATORS:
            yield from self._check(node.left)
            yield from self._check(node.comparators[0])
        elif isinstance(node, (ast.List, ast.Tuple)):
            for item in node.elts:
                yield from self._check(item)
        elif not (isinstance(node, ast.Constant) and isinstance(node.value, (int, float, str, type(None)))):
            raise ValueError(_refusal(node, self.text))

    def _run(self, node: ast.AST, rows: HasColumns, state: dict[str, Any]) -> Any:
        if isinstance(node, ast.Name):
            return rows.values(self.column_of(node))
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, (ast.List, ast.Tuple)):
            return [self._run(item, rows, state) for item in node.elts]
        if isinstance(node, ast.BinOp):
            return _arithmetic(node.op, self._run(node.left, rows, state), self._run(node.right, rows, state))
        if isinstance(node, ast.UnaryOp):
            return _arithmetic(node.op, self._run(node.operand, rows, state))
        if isinstance(node, ast.Compare):
            left, right = self._run(node.left, rows, state), self._run(node.comparators[0], rows, state)
            return np.asarray(OPERATORS[type(node.ops[0])](left, right), dtype=bool)
        assert isinstance(node, ast.Call)
        return self._call(node, rows, state)

    def _call(self, node: ast.Call, rows: HasColumns, state: dict[str, Any]) -> Any:
        name = called(node)
        if name == "Q":
            return rows.values(_quoted_column(node, self.text))
        arguments = [self._run(argument, rows, state) for argument in node.args]
        named = {str(k.arg): self._run(k.value, rows, state) for k in node.keywords}
        if name == "I":
            return arguments[0]
        if name in ELEMENTWISE:
            return ELEMENTWISE[name][0](*map(_number, arguments))

        return learned(name, arguments, named, state.setdefault(ast.unparse(node), {}))


def called(node: ast.AST) -> str:
    """The bare name of the function a node calls (`np.log` is `log`), or ''."""
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Name):
            return node.func.id
        if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
            if node.func.value.id in ("np", "numpy") and node.func.attr in ELEMENTWISE:
                return node.func.attr
    return ""


def _check_call(node: ast.Call, name: str, text: str) -> None:
    """Raise ValueError unless a known function is called with arguments that reach nothing but its values."""
    if name not in ELEMENTWISE and name not in STATEFUL and name != "I":
        raise ValueError(_refusal(node, text))
    named = [str(keyword.arg) for keyword in node.keywords]
    if name in STATEFUL:
        hidden = [key for key in named if key.startswith("_") or key == "None"]
        if hidden:
            raise ValueError(f"{name}() in {shortened(text, 80)} takes no argument {hidden[0]!r}.")
        counts = [*node.args[1:], *(k.value for k in node.keywords if k.arg in ("degree", "df"))]
        if any(isinstance(one, ast.Constant) and isinstance(one.value, int) and one.value > LARGEST for one in counts):
            raise ValueError(f"{name}() in {shortened(text, 80)} is asked for more than {LARGEST:,} columns.")
        return
    takes = 1 if name == "I" else ELEMENTWISE[name][1]
    if named or len(node.args) != takes:
        raise ValueError(
            f"{name}() takes {takes} argument{'s' if takes > 1 else ''} in a formula, "
            f"got {len(node.args) + len(named)} in {shortened(text, 80)}."
        )


def _quoted_column(node: ast.Call, text: str) -> str:
    if len(node.args) == 1 and not node.keywords and isinstance(node.args[0], ast.Constant):
        return str(node.args[0].value)
    raise ValueError(f"Cannot read {shortened(text, 80)}. Q takes a column's name in quotes: Q('my column').")


def _refusal(node: ast.AST, text: str) -> str:
    said = ast.unparse(node)
    if isinstance(node, ast.Call):
        name = ast.unparse(node.func)
        bare = name.rpartition(".")[2]
        if bare == "C":
            return f"C() must stand alone in its factor, with nothing around it; got {shortened(text, 80)}."
        if bare in REFUSED:
            return f"The function {name!r} cannot be used in a formula: {REFUSED[bare]}."
        known = ["C", "I", "Q", *STATEFUL, *sorted(ELEMENTWISE)]
        return (
            f"The function {name!r} cannot be used in a formula{nearest(bare, known)}. Known: {', '.join(known)} "
            "(also as np.…)."
        )
    said, whole = shortened(said, 80), shortened(text, 80)
    return f"{said} cannot stand in a formula (in {whole}). It holds arithmetic and known functions only."


def _number(value: Any) -> Any:
    """Booleans as 0.0 and 1.0, whole constants as floats: arithmetic is float64 throughout."""
    if isinstance(value, np.ndarray):
        return value.astype(np.float64) if value.dtype == bool else value
    return float(value) if isinstance(value, (bool, int)) else value


def _arithmetic(sign: ast.AST, *values: Any) -> Any:
    if any(isinstance(value, (str, list)) for value in values):
        raise ValueError("arithmetic needs numbers")
    if any(isinstance(value, np.ndarray) and value.dtype == object for value in values):
        raise ValueError("arithmetic needs numbers, and a column here holds text; write C(column)")
    if isinstance(sign, (ast.BitAnd, ast.BitOr, ast.Invert)):
        return OPERATORS[type(sign)](*(np.asarray(value, dtype=bool) for value in values))
    if all(isinstance(value, (bool, int)) for value in values) and isinstance(sign, (ast.USub, ast.UAdd)):
        return OPERATORS[type(sign)](*values)  # keeps -1 whole, as in degree=-1
    return OPERATORS[type(sign)](*map(_number, values))
