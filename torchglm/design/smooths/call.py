"""What a smooth term of a formula says: `s(x, bs="cr", k=10)`, `te(lon, lat)`, `ti(x, z, by=region)`, read, not run."""

from __future__ import annotations

import ast
from typing import Any

from torchglm.design.brackets import shortened
from torchglm.design.expressions import QUOTED, Expression

KINDS = ("s", "te", "ti")
BASES = ("cr", "cs", "cc", "ps", "cp", "tp", "ts", "re")
ARGUMENTS = ("bs", "k", "m", "by", "select", "knots", "d", "shape", "bins")
SHAPES = (
    *("increasing", "decreasing", "convex", "concave"),
    *("increasing convex", "increasing concave", "decreasing convex", "decreasing concave"),
)
LARGEST = 1000  # columns of a term
FEWEST_BINS = 20  # that a variable is rounded to


class SmoothCall:
    """A smooth term as it was written: `variables` and `by` are expressions, the rest are constants.

    `label` is what the term is called, `s(x)`, without `by`. It stands in for an `Expression` where a design
    asks for a factor's text and columns. Raises `ValueError` for what cannot be read, with what to write.
    """

    categorical, contrasts, levels, learns, lookup, column = False, None, None, True, False, None

    def __init__(self, text: str) -> None:
        self.text, self._names = text, dict[str, str]()
        node = self._parse(text)
        assert isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        self.kind = node.func.id
        named = {str(one.arg): one.value for one in node.keywords}
        if len(named) < len(node.keywords):
            twice = next(name for name in named if sum(one.arg == name for one in node.keywords) > 1)
            raise ValueError(f"{self.said} gives {twice}= twice. Give it once.")
        strange = sorted(set(named) - set(ARGUMENTS))
        if strange:
            raise ValueError(
                f"{self.kind}() in {self.said} takes no argument {strange[0]!r}. Known: {', '.join(ARGUMENTS)}."
            )
        if not node.args or any(isinstance(one, ast.Starred) for one in node.args):
            raise ValueError(f"{self.said} names no column. Write {self.kind}(x), {self.kind}(x, k=10).")
        self.variables = [self._expression(one) for one in node.args]
        self.by = None if _is_none(named.get("by")) else self._expression(named["by"])
        given = {name: self._constant(name, one) for name, one in named.items() if name != "by"}
        self.select = _truth(given.get("select", False), self.said)
        self.dims = self._dims(given.get("d"))
        self.knots, self.shape, self.bins = given.get("knots"), given.get("shape"), given.get("bins")
        default = ["tp" if d > 1 or self.kind == "s" else "cr" for d in self.dims]
        self.bases = self._each("bs", given.get("bs", default), str)
        self.sizes = self._each("k", given.get("k"), int)
        self.orders = self._each("m", given.get("m"), (int, list)) if self.kind != "s" else [given.get("m")]
        self._check()
        inside = ",".join(one.text for one in self.variables)
        self.label = f"{self.kind}({inside})"

    @property
    def said(self) -> str:
        """The term in a message."""
        return shortened(self.text, 80)

    @property
    def expressions(self) -> list[Expression]:
        """The variables, and what `by` names."""
        return [*self.variables, *([] if self.by is None else [self.by])]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it reads, in order."""
        return tuple(dict.fromkeys(column for one in self.expressions for column in one.columns))

    @property
    def margins(self) -> list[list[Expression]]:
        """The variables of each margin; a term of `s()` is one margin."""
        starts = [sum(self.dims[:i]) for i in range(len(self.dims))]
        return [self.variables[at : at + d] for at, d in zip(starts, self.dims, strict=True)]

    def _parse(self, text: str) -> ast.expr:
        def name_for(found: Any) -> str:
            word = f"_quoted_{len(self._names)}_"
            self._names[word] = found.group(1)
            return word

        try:
            return ast.parse(QUOTED.sub(name_for, text).strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ValueError(f"Cannot read {self.said} in the formula: {error}.") from None

    def _expression(self, node: ast.expr) -> Expression:
        if isinstance(node, ast.Constant):
            raise ValueError(
                f"{self.said} has the constant {node.value!r} where a column stands. Write k={node.value!r}."
            )
        text = ast.unparse(node)
        for word, name in self._names.items():
            text = name if text == word else text.replace(word, f"`{name}`")
        one = Expression(text, lookup=isinstance(node, ast.Name))
        if one.learns:
            raise ValueError(f"{self.said} has a transform that learns, {text!r}, inside. Leave it out: smooths learn.")
        return one

    def _constant(self, name: str, node: ast.expr) -> Any:
        try:
            value = ast.literal_eval(node)
        except (ValueError, TypeError, SyntaxError):
            raise ValueError(f"{name}= in {self.said} must be a constant or a list of constants.") from None
        return list(value) if isinstance(value, tuple) else value

    def _dims(self, given: Any) -> list[int]:
        count = len(self.variables)
        if self.kind == "s":
            if given is not None:
                raise ValueError(f"d= in {self.said} shares out the variables of te() and ti(); s() has one part.")
            return [count]
        dims = [1] * count if given is None else given
        right = isinstance(dims, list) and all(isinstance(one, int) and one > 0 for one in dims)
        if not right or sum(dims) != count:
            raise ValueError(f"d={given!r} in {self.said} must share out {count} variables, such as d=[2, 1].")
        return dims

    def _each(self, name: str, given: Any, kind: Any) -> list[Any]:
        """One value for each margin. Raises `ValueError` for others."""
        many = len(self.dims)
        each = isinstance(given, list) and len(given) == many and (name != "m" or many > 1)
        found = given if each else [given] * many
        right = all(one is None or (isinstance(one, kind) and not isinstance(one, bool)) for one in found)
        if not right or (isinstance(given, list) and found is not given and name != "m"):
            what = "a name of a basis" if name == "bs" else "a whole number"
            raise ValueError(f"{name}={given!r} in {self.said} must be {what}, or one for each of {many} margins.")
        return found

    def _check(self) -> None:
        for basis, size, d in zip(self.bases, self.sizes, self.dims, strict=True):
            if basis not in BASES:
                raise ValueError(f"bs={basis!r} in {self.said} is no basis. Known: {', '.join(BASES)}.")
            if self.kind != "s" and basis == "re":
                raise ValueError(f"bs='re' in {self.said} stands in s() alone: s(group, bs='re').")
            if basis == "re" and size is not None:
                raise ValueError(f"k= in {self.said} has no meaning with bs='re', which has a column for each level.")
            if size is not None and not 1 <= size <= LARGEST:
                raise ValueError(f"k={size} in {self.said} must lie between 3 and {LARGEST}.")
            if d > 1 and basis not in ("tp", "ts", "re"):
                raise ValueError(
                    f"bs={basis!r} takes one variable, {self.said} has {d}: write te() for them, or bs='tp'."
                )
        if self.knots is not None and self.kind != "s":
            raise ValueError(f"knots= in {self.said} are those of one variable: s(x, knots=[...]).")
        if self.knots is not None and self.bases[0] in ("tp", "ts", "re"):
            raise ValueError(f"knots= in {self.said} has no meaning with bs={self.bases[0]!r}. Use bs='cr'.")
        if self.shape is not None:
            if self.shape not in SHAPES:
                raise ValueError(f"shape={self.shape!r} in {self.said} is no shape. Known: {', '.join(SHAPES)}.")
            if self.kind != "s" or self.bases != ["ps"]:
                raise ValueError(f"shape= in {self.said} is that of P-splines: s(x, bs='ps', shape={self.shape!r}).")
        if self.bins is not None:
            if not isinstance(self.bins, int) or isinstance(self.bins, bool) or self.bins < FEWEST_BINS:
                raise ValueError(
                    f"bins={self.bins!r} in {self.said} must be a whole number of {FEWEST_BINS} or more: the different "
                    "values that a variable is rounded to, such as bins=1000."
                )
            if self.bases == ["re"]:
                raise ValueError(f"bins= in {self.said} has no meaning with bs='re'.")
        texts = [one.text for one in self.variables]
        if len(set(texts)) < len(texts):
            raise ValueError(f"{self.said} names {texts[0]!r} twice. Name each variable once.")

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"text": self.text}


def is_smooth(text: str) -> bool:
    """Whether a factor of a formula is a call of `s`, `te` or `ti`."""
    return any(text.startswith(f"{kind}(") for kind in KINDS)


def _is_none(node: ast.expr | None) -> bool:
    return node is None or (isinstance(node, ast.Constant) and node.value is None)


def _truth(value: Any, said: str) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"select= in {said} must be True or False, got {value!r}.")
    return value
