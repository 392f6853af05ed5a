"""Designs: from a formula (or a list of columns) and a table to the tensor a fit takes, and its spec."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from torchglm.design.absorbing import absorbing
from torchglm.design.expressions import Expression
from torchglm.design.factors import OTHER, Categorical, Numeric, Pool
from torchglm.design.formulas import Formula, Term, parse, parts, plain
from torchglm.design.frame import Frame
from torchglm.design.kinds import PENALISED, Factor, check_bars, check_labels
from torchglm.design.levels import category, is_categorical, occurring
from torchglm.design.odd import check_response, check_text, without_index
from torchglm.design.parts import Part, RandomSet, Terms
from torchglm.design.response import Response
from torchglm.design.smooths.call import SmoothCall
from torchglm.design.smooths.learned import learn_smooth
from torchglm.design.spec import INTERCEPT, Design, DesignSpec
from torchglm.rows.ranks import Ranks
from torchglm.tables.columns import as_table, check_columns, names_of, type_name
from torchglm.tables.pieces import Pieces
from torchglm.tables.text_format import TextFormat

if TYPE_CHECKING:
    import pyarrow as pa


def build(
    formula: str,
    data: Any,
    *,
    also: Sequence[str] = (),
    missing: str = "error",
    unseen: str = "error",
    rare: int = 0,
    reading: TextFormat | None = None,
    predictors: Mapping[str, str] | None = None,
    classes: bool = False,
    absorb: bool = False,
) -> Design:
    """The design of a formula over a table: x, column names, y and the spec for later rows.

    Formulas are Wilkinson's as formulaic reads them, e.g. `y ~ log(a) + C(b) * bs(c, df=4)`. Categories get
    treatment coding with the first level (sorted, or in category order) as the reference; unused categories
    are left out, as in R. A response of two levels or booleans becomes 0 and 1, the second level being 1.
    `also` names further columns (weights, exposure, groups) to keep complete and aligned in `Design.table`;
    a `.` in the formula leaves them out.
    Missing values are an error that names column and count, or with `missing="drop"` such rows are left out
    before anything is learned. Levels with fewer than `rare` complete rows are pooled into one, "other", the last
    of its factor (a level that is called so joins it); `unseen` says what later rows with a new level get
    (`DesignSpec`), and "other" needs `rare`. `reading` says what means missing in text, and the types of columns.
    `predictors` are the right sides of further predictors by name, `{"dispersion": "~ age"}`, whose columns follow;
    with `classes` the response may have any number of levels, and is coded 0, 1, ... in their order; with `absorb`
    factors that are too large to be written out are absorbed.

    Raises ValueError for a formula that cannot be read, unknown columns, missing or non-finite values.
    """
    formula_ = read(formula, names_of(data), also, predictors, classes)
    return _build(formula_, data, also, missing, unseen, rare, reading, absorb)


def build_columns(
    columns: Sequence[str],
    data: Any,
    *,
    response: str | None = None,
    intercept: bool = True,
    also: Sequence[str] = (),
    missing: str = "error",
    unseen: str = "error",
    rare: int = 0,
) -> Design:
    """The design that adds up the named columns (text and categories treatment-coded), without a formula.

    Otherwise as `build`; formulaic is not needed.
    """
    return _build(plain(columns, response, intercept), data, also, missing, unseen, rare, None)


def learn(
    formula: str,
    tables: Iterable[pa.Table],
    *,
    also: Sequence[str] = (),
    missing: str = "error",
    unseen: str = "error",
    rare: int = 0,
    ranks: Ranks | None = None,
    reading: TextFormat | None = None,
    predictors: Mapping[str, str] | None = None,
    classes: bool = False,
) -> DesignSpec:
    """The spec of a formula over tables that arrive in pieces, in one pass: the same as over the whole.

    The pass ends early where no column is a category and no transform learns: the first rows tell the types.
    Of a `Scan` or `Chunks`, what is wrong in a piece is said with its place. Memory holds the levels of each
    category and, for `bs`, `poly`, `scale` and their like, the columns those transforms read (8 bytes a row):
    quantiles and moments are then exact, to the last bit. Where the processes `ranks` have a part of the tables each,
    all learn the same spec, that of the whole. Otherwise as `build`.
    """
    learner: _Learner | None = None
    rows, ranks, reading = 0, ranks or Ranks(), reading or TextFormat()

    def see(piece: pa.Table, first: int) -> bool:
        nonlocal learner, rows
        if learner is None:
            learner = _Learner(read(formula, piece.column_names, also, predictors, classes), rare)
        table = reading.applied(as_table(piece, learner.columns(also)))
        learner.see(Frame(table, table.column_names, missing, first))
        rows += table.num_rows
        return learner.settled

    with ranks.together():
        for settled in tables.each(see) if isinstance(tables, Pieces) else (see(piece, rows) for piece in tables):
            if settled:
                break
    shares = [share for share in ranks.gather(learner) if share is not None]
    if not shares:
        raise ValueError("There are no rows to learn a design from.")
    found = [share for share in shares if share.rows]
    if not found:
        raise ValueError("Every row has a missing value; none is left to learn a design from.")
    found[0].join(found[1:])
    return found[0].spec(missing, unseen, reading)


def read(
    formula: str,
    names: Sequence[str],
    also: Sequence[str],
    predictors: Mapping[str, str] | None = None,
    classes: bool = False,
) -> Formula:
    """A formula over a table with these columns, with the right sides of further predictors.

    A `.` leaves out the response, `also`, and what numbers the rows. Raises `ValueError` for a right side with a left.
    """
    known = [name for name in names if name not in also]
    known = without_index(known, formula) if isinstance(formula, str) else known
    found, others = parse(formula, known), dict[str, tuple[Term, ...]]()
    random = list(found.random)
    left = () if found.response is None else found.response.columns
    for name, right in (predictors or {}).items():
        own = parse(right, [column for column in known if column not in left])
        if own.response is not None:
            raise ValueError(f"the predictor {name!r} has the formula {right!r} with a left side. Write '~ terms'.")
        if own.absorbed:
            raise ValueError(f"the predictor {name!r} has a bar, {right!r}. Write its random effects as (1 | group).")
        others[name] = own.terms
        random += [replace(one, predictor=name) for one in own.random]
    if classes and found.response is not None:
        found.response.categorical = True
    return replace(found, others=others, classes=classes, random=tuple(random))


def _build(
    formula: Formula,
    data: Any,
    also: Sequence[str],
    missing: str,
    unseen: str,
    rare: int,
    reading: TextFormat | None,
    absorb: bool = False,
) -> Design:
    learner, reading = _Learner(formula, rare), reading or TextFormat()
    reading.check(names_of(data), "the data")
    wanted = learner.columns(also)
    check_columns(wanted, names_of(data))
    table = reading.applied(as_table(data, wanted))
    if table.num_rows == 0:
        raise ValueError("The data have no rows.")
    frame = Frame(table, wanted, missing)
    if len(frame) == 0:
        raise ValueError(f"Every row has a missing value; per column: {frame.dropped}.")
    learner.see(frame)
    spec = learner.spec(missing, unseen, reading)
    return (absorbing(spec) if absorb else spec).apply(frame, formula.response is not None, random=True, rounded=True)


class _Learner:
    """Collects over frames what the factors of a formula need to know, then makes the spec."""

    def __init__(self, formula: Formula, rare: int = 0) -> None:
        if isinstance(rare, bool) or not isinstance(rare, int) or rare < 0:
            raise ValueError(f"rare must be a whole number >= 0, the fewest rows of a level of its own; got {rare!r}.")
        self.formula, self.rare = formula, rare
        right = [*formula.factors, *formula.effects]
        left = [] if formula.response is None else [formula.response]
        self.smooths = [one for one in right if isinstance(one, SmoothCall)]
        plain = [one for one in right if not isinstance(one, SmoothCall)]
        inner = [one for call in self.smooths for one in call.expressions]
        self.expressions = {one.text: one for one in [*inner, *left, *plain]}
        for one in [*inner, *left, *plain]:
            if one.lookup != self.expressions[one.text].lookup:
                raise ValueError(f"{one.text!r} is both a column and an expression. Rename the column.")
        self.levels: dict[str, dict[Any, int]] = {}
        self.ordered: dict[str, bool] = {}
        self.ranked: dict[str, bool] = {}  # categories whose levels are said to have an order
        self.gathered = _Gathered()
        self.types: dict[str, str] = {}
        self.rows = 0  # complete ones, seen so far

    def columns(self, also: Sequence[str] = ()) -> list[str]:
        """Every column to read."""
        return list(dict.fromkeys([*(c for e in self.expressions.values() for c in e.columns), *also]))

    def see(self, frame: Frame) -> None:
        """Take in the rows of one frame; one without rows tells nothing, not even types."""
        if not len(frame):
            return
        if not self.rows:
            self._begin(frame.table.schema)
        self.rows += len(frame)
        for text, levels in self.levels.items():
            column = category(self.expressions[text], frame)
            found = zip(column.values, column.counts.tolist(), strict=True)
            if levels:
                levels.update([(level, levels.get(level, 0) + count) for level, count in found])
            else:
                levels.update(found)
        self.gathered.add(frame)

    @property
    def settled(self) -> bool:
        """Whether further rows can tell nothing: there are neither categories nor transforms that learn."""
        return self.rows > 0 and not self.levels and not self.gathered.pieces

    def join(self, others: Sequence[_Learner]) -> None:
        """Take in what other processes have seen, in their order."""
        for other in others:
            if other.levels.keys() != self.levels.keys():
                text = sorted(other.levels.keys() ^ self.levels.keys())[0]
                raise ValueError(f"Column {text!r} holds numbers in some files and text in others. Give it one type.")
            for text, levels in self.levels.items():
                for level, count in other.levels[text].items():
                    levels[level] = levels.get(level, 0) + count
            for name, pieces in self.gathered.pieces.items():
                pieces += other.gathered.pieces[name]

    def _begin(self, schema: pa.Schema) -> None:
        """Decide from the columns' types which factors are categories."""
        import pyarrow as pa

        for text, expression in self.expressions.items():
            kind = None if expression.column is None else schema.field(expression.column).type
            if expression.categorical or (kind is not None and is_categorical(expression, kind)):
                self.levels[text] = {}
                self.ordered[text] = kind is not None and pa.types.is_dictionary(kind)
                self.ranked[text] = kind is not None and self.ordered[text] and bool(kind.ordered)
            elif expression.learns:
                self.gathered.pieces.update({name: [] for name in expression.columns})
        numbers = [one for call in self.smooths for one in call.expressions if one.text not in self.levels]
        self.gathered.pieces.update({name: [] for one in numbers for name in one.columns})
        coded = {name for text in self.levels for name in self.expressions[text].columns}
        loose = (
            set(self.columns()) - coded
        )  # numbers that may be decimal elsewhere; keys of groups are kept as they are
        self.types = {field.name: type_name(field.type, field.name not in loose) for field in schema}

    def spec(self, missing: str, unseen: str, reading: TextFormat) -> DesignSpec:
        """What was learned."""
        if unseen == OTHER and not self.rare:
            raise ValueError(
                "unseen='other' needs the level 'other' to be in the fit. Give rare=, such as rare=10: "
                "levels with fewer rows are then pooled into it."
            )
        left = self.formula.response
        response = None if left is None else self._left(left)
        right = {
            f.text: self._smooth(f) if isinstance(f, SmoothCall) else self._factor(self.expressions[f.text], self.rare)
            for f in [*self.formula.factors, *self.formula.effects]
        }
        for predictor, terms in {"": self.formula.terms, **self.formula.others}.items():
            own = {factor.text: right[factor.text] for term in terms for factor in term.factors}
            smooths = [factor for factor in own.values() if isinstance(factor, PENALISED)]
            check_labels(smooths)
            check_bars(smooths, [one for one in self.formula.random if one.predictor == predictor])
        spans = {text: factor.spans for text, factor in right.items()}
        # absorbed factors have the constant, so that others are coded as beside an intercept
        constant = (Term("1", ()),) if self.formula.absorbed and all(t.factors for t in self.formula.terms) else ()
        first = _coded([*constant, *self.formula.terms], spans)
        others = {name: _coded(own, spans) for name, own in self.formula.others.items()}
        random = tuple(
            RandomSet(one.text, one.group.text, _coded(one.terms, spans), one.predictor) for one in self.formula.random
        )
        made = (self.formula.text, right, first, response, missing, unseen, self.types, reading, others, random)
        return DesignSpec(*made).beside(tuple(one.text for one in self.formula.absorbed))

    def _left(self, expression: Expression) -> Response:
        factor = self._response(expression)
        free = expression.levels is None and not self.ordered.get(expression.text)
        text = isinstance(factor, Categorical) and all(isinstance(level, str) for level in factor.levels)
        return Response(expression, factor, self.formula.classes, sorted_text=free and text)

    def _response(self, expression: Expression) -> Numeric | Categorical:
        factor = self._factor(expression, 0)
        if isinstance(factor, Categorical) and not expression.categorical:
            check_response(expression.text, factor.levels)
        return factor

    def _smooth(self, call: SmoothCall) -> Factor:
        def category(one: Expression) -> Categorical | None:
            found = self._factor(self.expressions[one.text], self.rare) if one.text in self.levels else None
            return found if isinstance(found, Categorical) else None

        return learn_smooth(call, self.gathered, category, lambda one: self.ranked[one.text])

    def _factor(self, expression: Expression, rare: int) -> Numeric | Categorical:
        if expression.text not in self.levels:
            return Numeric.learn(expression, self.gathered)
        seen = self.levels[expression.text]
        levels = occurring(seen, self.ordered[expression.text])
        if not expression.categorical and not self.ordered[expression.text]:
            check_text(expression.text, seen)
        return Categorical.learn(expression, levels, Pool.of(seen, levels, rare))


def _coded(terms: Sequence[Term], spans: dict[str, bool]) -> Terms:
    """The parts of the terms of one predictor, coded by the rank rule."""
    products = parts([tuple(factor.text for factor in term.factors) for term in terms], spans)
    return tuple(
        (term.name if term.factors else INTERCEPT, tuple(Part(product, term.scale) for product in found))
        for term, found in zip(terms, products, strict=True)
    )


class _Gathered:
    """The columns that stateful transforms learn from, over all frames."""

    def __init__(self) -> None:
        self.pieces: dict[str, list[np.ndarray]] = {}

    def add(self, frame: Frame) -> None:
        for name, pieces in self.pieces.items():
            pieces.append(frame.values(name))

    def values(self, name: str) -> np.ndarray:
        """One column over all rows; joined once."""
        if len(self.pieces[name]) > 1:
            self.pieces[name] = [np.concatenate(self.pieces[name])]
        return self.pieces[name][0]
