"""DesignSpec: what a design learned from its data, as plain data, and the way from a table to columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from torchglm.design.blocks import MANY, columns_of
from torchglm.design.effects import effect_columns, groupings_of, level_codes
from torchglm.design.factors import UNSEEN, Categorical
from torchglm.design.frame import MISSING, Frame
from torchglm.design.kinds import PENALISED, Factor, factor_dict, factor_from, plain_factor_from
from torchglm.design.parts import Part, RandomGrouping, RandomSet, Terms, by_prefix, parts_of, terms_dict, terms_from
from torchglm.design.random import MARK
from torchglm.design.response import Response
from torchglm.design.smooths.factor import PenaltyBlock, Smooth
from torchglm.rows.indexed import Indexed
from torchglm.tables.columns import as_table
from torchglm.tables.text_format import TextFormat

if TYPE_CHECKING:
    import pyarrow as pa

VERSION = 4
INTERCEPT = "(Intercept)"


@dataclass(frozen=True, eq=False)
class Design:
    """The rows of a table as a fit takes them.

    `x` `(n, p)` with the intercept first where there is one, `names` of its columns, `y` `(n,)` or None. Where
    factors have many levels they are kept as index columns: `indexed` says which, `numbers` `(n, q)` holds the other
    columns, and `x` writes all of them out when it is first asked for. `table` holds the kept rows of every column read
    (and of those asked for with `also=`), aligned with x.
    `kept` `(rows given,)` is the mask of the complete rows, or
    None where all are; `dropped` counts the missing values per column and `unseen` the rows with a level never seen in
    training per factor. `random` are the columns of random effects, where they were asked for.
    """

    numbers: torch.Tensor
    names: list[str]
    y: torch.Tensor | None
    spec: DesignSpec
    table: pa.Table
    indexed: Indexed | None = None
    kept: torch.Tensor | None = None
    dropped: dict[str, int] = field(default_factory=dict)
    unseen: dict[str, int] = field(default_factory=dict)
    random: Indexed | None = None
    codes: torch.Tensor | None = None

    @cached_property
    def x(self) -> torch.Tensor:
        """The design `(n, p)`, every column written out."""
        return self.numbers if self.indexed is None else self.indexed.whole(self.numbers)

    @property
    def whole_index(self) -> Indexed | None:
        """The index columns, with those of random effects behind all others."""
        return self.indexed if self.random is None else self.random.behind(len(self.names), self.indexed)

    def row(self, i: int) -> int:
        """The number, among the rows given, of the design's row `i`."""
        return i if self.kept is None else int(self.kept.nonzero()[i])

    @property
    def intercept(self) -> bool:
        """Whether the first column is the intercept."""
        return self.spec.intercept

    @property
    def terms(self) -> dict[str, list[int]]:
        """The positions of each term's columns."""
        return self.spec.terms


@dataclass(frozen=True, eq=False, repr=False)
class DesignSpec:
    """A design without its rows: apply it to any table, chunk or file and the columns are the same.

    Made by `build`; kept as JSON by `to_dict` and `from_dict`. Loading runs no code: expressions are read as
    arithmetic on columns, with known functions. `missing` is "error" or "drop". `unseen` says what a level never
    seen is: "error"; "reference", the reference level; or "other", the level that the rare ones were pooled into
    (`rare=` of `build`). `types` are the Arrow types, by name, to read the columns with (`Scan`), and
    `reading` says how text becomes columns. The columns of further predictors, `others`, follow those of the first;
    their names begin with that of the predictor. The columns of `random` effects are none of these: they are made
    where they are asked for, and so are the codes of the `absorbed` factors, by their texts.
    """

    formula: str
    factors: dict[str, Factor]
    parts: Terms
    response: Response | None = None
    missing: str = "error"
    unseen: str = "error"
    types: dict[str, str] = field(default_factory=dict)
    reading: TextFormat = field(default_factory=TextFormat)
    others: dict[str, Terms] = field(default_factory=dict)
    random: tuple[RandomSet, ...] = ()
    absorbed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.missing not in MISSING:
            raise ValueError(f"missing must be one of {', '.join(MISSING)}; got {self.missing!r}.")
        if self.unseen not in UNSEEN:
            raise ValueError(f"unseen must be one of {', '.join(UNSEEN)}; got {self.unseen!r}.")

    def __repr__(self) -> str:
        return f"DesignSpec({self.formula or ' + '.join(self.terms)!r}, {len(self.names)} columns)"

    @property
    def names(self) -> list[str]:
        """The column names: formulaic's, with "(Intercept)" for the intercept."""
        return [name for part, prefix in self.prefixed_parts() for name in self._names(part, prefix)]

    @property
    def designs(self) -> dict[str, dict[str, int]]:
        """Of each predictor (the first is `""`) the names of its columns, and their places among all."""
        found, start = {}, 0
        for predictor, terms in {"": self.parts, **self.others}.items():
            names = [name for _, inside in terms for part in inside for name in self._names(part)]
            found[predictor] = {name: start + j for j, name in enumerate(names)}
            start += len(names)
        return found

    @property
    def ones(self) -> tuple[int, ...]:
        """The places of the columns of ones."""
        return tuple(own[INTERCEPT] for own in self.designs.values() if INTERCEPT in own)

    def prefixed_parts(self) -> list[tuple[Part, str]]:
        """The parts of all predictors, each with what its names begin with."""
        groups = by_prefix(self.parts, self.others).items()
        return [(part, prefix) for prefix, terms in groups for _, inside in terms for part in inside]

    @property
    def terms(self) -> dict[str, list[int]]:
        """The positions of each term's columns, the intercept under "(Intercept)"."""
        found, start = {}, 0
        for prefix, terms in by_prefix(self.parts, self.others).items():
            for name, inside in terms:
                count = sum(len(self._names(part)) for part in inside)
                found[prefix + name] = list(range(start, start + count))
                start += count
        return found

    @property
    def penalties(self) -> list[PenaltyBlock]:
        """The penalties that terms bring with them, on the columns of the whole design, each with its name."""
        each = ((at, prefix, one) for at, prefix, one in self._started() if isinstance(one, PENALISED))
        return [block.behind(at, prefix) for at, prefix, one in each for block in one.penalties]

    @property
    def nonnegative(self) -> list[int]:
        """The columns of the whole design whose coefficients terms of a shape hold at 0 or above."""
        each = ((start, one) for start, _, one in self._started() if isinstance(one, Smooth))
        return [start + j for start, one in each for j in one.nonnegative]

    def _started(self) -> Iterator[tuple[int, str, Factor]]:
        """Each factor with the first column of its product and what its names begin with."""
        start = 0
        for factors, prefix, count in self.pieces:
            yield from ((start, prefix, factor) for factor in factors)
            start += count

    @property
    def pieces(self) -> list[tuple[list[Factor], str, int]]:
        """The products of factors of all predictors: the factors, what their names begin with, and their columns."""
        return [
            ([self.factors[text] for text, _ in part.factors], prefix, len(self._names(part)))
            for part, prefix in self.prefixed_parts()
        ]

    @property
    def variables(self) -> dict[str, frozenset[str]]:
        """Which columns of the data each term is made of."""
        return {
            name: frozenset(
                column
                for part in inside
                for text, _ in part.factors
                for column in self.factors[text].expression.columns
            )
            for name, inside in self.parts
        }

    @property
    def intercept(self) -> bool:
        """Whether the first column is the intercept."""
        return bool(self.parts) and any(not part.factors for part in self.parts[0][1])

    @property
    def width(self) -> int:
        """The most columns of numbers in a row, those of factors of many levels left out, which are kept as codes."""
        counts = {True: 0, False: 0}
        for part, _ in self.prefixed_parts():
            factors = [self.factors[text] for text, _ in part.factors]
            coded = any(isinstance(one, Categorical) and one.codings is None for one in factors)
            counts[coded] += len(self._names(part))
        return counts[False] + (counts[True] if counts[True] < MANY else 0)

    @property
    def columns(self) -> list[str]:
        """The columns that prediction needs: all but the response."""
        used = {text for part, _ in self.prefixed_parts() for text, _ in part.factors}
        return list(dict.fromkeys(c for text, f in self.factors.items() if text in used for c in f.expression.columns))

    @property
    def random_columns(self) -> list[str]:
        """The columns that random effects and absorbed factors need."""
        used = {text for one in self.random for part in parts_of(one.terms) for text, _ in part.factors}
        used |= {one.group for one in self.random} | set(self.absorbed)
        return list(
            dict.fromkeys(c for text in self.factors if text in used for c in self.factors[text].expression.columns)
        )

    @property
    def groupings(self) -> list[RandomGrouping]:
        """The factors that random effects belong to, in the order of their columns."""
        return groupings_of(self.random, self.factors, self._names)

    @property
    def absorbed_levels(self) -> dict[str, list[Any]]:
        """The levels of each absorbed factor, by its name."""
        found = {text: self.factors[text] for text in self.absorbed}
        return {text.removeprefix(MARK): one.levels for text, one in found.items() if isinstance(one, Categorical)}

    def beside(self, absorbed: tuple[str, ...]) -> DesignSpec:
        """The design whose factors of these texts are absorbed: without their terms, and without the intercept."""
        if not absorbed:
            return self
        parts = tuple((name, inside) for name, inside in self.parts if name != INTERCEPT and name not in absorbed)
        return replace(self, parts=parts, absorbed=absorbed)

    def check_fixed(self, where: str) -> None:
        """Raise ValueError for random effects, absorbed factors, and smooths, where `where` does not know them."""
        if self.absorbed:
            said = ", ".join(self.absorbed_levels)
            raise ValueError(f"the absorbed factors {said} are fitted by torchglm.fit alone, not by {where}.")
        if self.penalties:
            raise ValueError(
                f"the term {self.penalties[0].name} has a penalty, whose strength torchglm.fit finds, not {where}. "
                "Use torchglm.fit, or write a basis without one: bs(x, df=5), cr(x, df=5)."
            )
        if self.random:
            said = ", ".join(one.text for one in self.random)
            raise ValueError(
                f"the random effects {said} are fitted by torchglm.fit alone, not by {where}. Use torchglm.fit, or "
                "leave them out."
            )

    @property
    def response_columns(self) -> list[str]:
        """The columns the response is made of; none where the formula has no left side."""
        return [] if self.response is None else list(self.response.expression.columns)

    def transform(self, data: Any, dtype: torch.dtype = torch.float64, unseen: str | None = None) -> torch.Tensor:
        """The design `(n, p)` of new rows; `data` is anything `as_table` takes, the response may be absent.

        Every row gets its row: a missing value is an error here, whatever the policy; `design` can drop.
        Raises ValueError for a missing column or value, an unseen level, or a value that is not finite.
        """
        return self.design(data, missing="error", unseen=unseen, dtype=dtype).x

    def design(
        self,
        data: Any,
        *,
        response: bool = False,
        also: Sequence[str] = (),
        missing: str | None = None,
        unseen: str | None = None,
        first: int = 0,
        dtype: torch.dtype = torch.float64,
        random: bool = False,
        rounded: bool = False,
    ) -> Design:
        """As `transform`, with y where `response` is set, the mask of kept rows and the counts.

        `also` names further columns to keep complete and aligned (weights, exposure); `first` is the number
        of the first row in the whole data, for messages; `missing` and `unseen` override the spec's policies; `random`
        asks for the columns of random effects as well, and `rounded` for the values of `s(x, bins=)` as a fit takes
        them.
        """
        spec = replace(self, missing=missing or self.missing, unseen=unseen or self.unseen)
        wanted = [*spec.columns, *also, *(spec.random_columns if random else ())]
        if response:
            if spec.response is None:
                raise ValueError("This design has no response: its formula has no left side.")
            wanted += spec.response_columns
        table = self.reading.applied(as_table(data, wanted))
        return spec.apply(Frame(table, wanted, spec.missing, first), response, dtype, random, rounded)

    def apply(
        self,
        frame: Frame,
        response: bool = False,
        dtype: torch.dtype = torch.float64,
        random: bool = False,
        rounded: bool = False,
    ) -> Design:
        """The design of rows already found complete."""
        counts: dict[str, int] = {}
        used = dict.fromkeys(scoped for part, _ in self.prefixed_parts() for scoped in part.factors)
        factors = {text: f if rounded or not isinstance(f, Smooth) else f.exact for text, f in self.factors.items()}
        coded = {(text, reduced): factors[text].blocks(frame, reduced, self.unseen, counts) for text, reduced in used}
        pieces = [
            ([b for scoped in part.factors for b in coded[scoped]], part.scale) for part, _ in self.prefixed_parts()
        ]
        numbers, indexed = columns_of(pieces, len(frame), dtype)
        y = None
        if response and self.response is not None:
            y = torch.from_numpy(np.array(self.response.values(frame))).to(dtype)
        kept = None if frame.kept is None else torch.from_numpy(frame.kept)
        effects = None
        if random and self.random:
            effects = effect_columns(self.random, self.factors, frame, self.unseen, counts).to(numbers.device, dtype)
        codes = None
        if random and self.absorbed:
            codes = level_codes([self.factors[text] for text in self.absorbed], frame, self.unseen, counts)
        return Design(numbers, self.names, y, self, frame.table, indexed, kept, frame.dropped, counts, effects, codes)

    def to_dict(self) -> dict[str, Any]:
        """The spec as plain data, ready for JSON."""
        response = self.response
        return {
            "version": VERSION,
            "formula": self.formula,
            "missing": self.missing,
            "unseen": self.unseen,
            "types": self.types,
            "reading": self.reading.to_dict(),
            "response": None if response is None else factor_dict(response.factor),
            "factors": [factor_dict(factor) for factor in self.factors.values()],
            "classes": response is not None and response.classes,
            "terms": terms_dict(self.parts),
            "others": {name: terms_dict(terms) for name, terms in self.others.items()},
            "random": [
                {"text": one.text, "group": one.group, "terms": terms_dict(one.terms), "predictor": one.predictor}
                for one in self.random
            ],
            "absorbed": list(self.absorbed),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> DesignSpec:
        """The inverse of `to_dict`; runs no code.

        Raises ValueError for data that is no design spec, is of a newer version, or holds an expression that
        is not arithmetic on columns and known functions.
        """
        if not isinstance(data, dict) or data.get("version") != VERSION:
            got = data.get("version") if isinstance(data, dict) else type(data).__name__
            raise ValueError(f"Not a design spec of version {VERSION}, got version {got!r}.")
        try:
            factors = [factor_from(item) for item in data["factors"]]
            left = None if data["response"] is None else plain_factor_from(data["response"])
            spec = cls(
                data["formula"],
                {factor.expression.text: factor for factor in factors},
                terms_from(data["terms"]),
                None if left is None else Response.of(left, bool(data["classes"])),
                data["missing"],
                data["unseen"],
                dict(data["types"]),
                TextFormat(**{**data["reading"], "na": _tuple(data["reading"].get("na"))}),
                {str(name): terms_from(terms) for name, terms in data["others"].items()},
                tuple(
                    RandomSet(
                        str(one["text"]), str(one["group"]), terms_from(one["terms"]), str(one.get("predictor", ""))
                    )
                    for one in data["random"]
                ),
                tuple(str(text) for text in data["absorbed"]),
            )
            spec.names  # noqa: B018  every part must name known factors
            return spec
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"Not a design spec: {type(error).__name__} {error}.") from None

    def _names(self, part: Part, prefix: str = "") -> list[str]:
        if not part.factors:
            return [prefix + INTERCEPT]
        names = [""]
        for text, reduced in part.factors:
            factor = self.factors[text]
            own = factor.reduced if reduced else factor.full
            names = [f"{before}:{name}" if before else name for name in own for before in names]
        return [prefix + name for name in names]


def _tuple(value: Any) -> tuple[str, ...] | None:
    return None if value is None else tuple(map(str, value))
