"""Rows of files, piece by piece: kept where they are few, read again at each pass where not."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchglm.design import Tally, learn
from torchglm.design.absorbing import absorbing
from torchglm.design.sources import check_source, columns_read, scan
from torchglm.families import Family
from torchglm.families.row_error import RowError
from torchglm.fitting.sample import Thinning
from torchglm.inputs.arrays import Data, assemble
from torchglm.inputs.roles import Roles
from torchglm.inputs.specs import effects_of, family_of, formulas_of, in_class_order, plan_of, terms_of
from torchglm.rows.places import Places
from torchglm.rows.ranks import Ranks, Shard, weightless
from torchglm.rows.rows import Rows, is_all
from torchglm.tables import TextFormat, numbers

if TYPE_CHECKING:
    from torchglm.design import DesignSpec, Tally
    from torchglm.tables import Chunks, Scan
    from torchglm.tables.pieces import Piece

HOLD = 1 << 30  # bytes of rows that a process keeps in memory


class SpecRows:
    """The rows of files (or chunks) by a design that is known, read again at each iteration, as `Rows` piece by piece.

    `roles` says which columns they are, by the names of `Roles`. Raises `ValueError` where columns
    are missing, and while iterating for rows that do not suit the family, naming the place.
    """

    def __init__(
        self,
        path: Any,
        spec: DesignSpec,
        family: Family,
        roles: Mapping[str, str],
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:

        self.path, self.spec, self.roles = path, spec, dict(roles)
        self._suit(family)
        self.device, self.dtype = device or torch.device("cpu"), dtype or torch.float64
        self.also = list(self.roles.values())
        self.columns = list(dict.fromkeys([*spec.response_columns, *spec.columns, *spec.random_columns, *self.also]))
        self.reading = spec.reading
        self.places: Places | None = None  # of the rows kept, once all were read
        check_source(path, self.columns, self.reading)

    def _suit(self, family: Family) -> None:
        """The family as the design shows it, and how its coefficients are made of the columns."""
        self.family = family_of(family, self.spec)
        self.plan, self.names = plan_of(self.family, self.spec)

    def __iter__(self) -> Iterator[Rows]:
        return self._read(Ranks(), None)

    def _scan(self, types: dict[str, str], ranks: Ranks) -> Scan | Chunks:

        return scan(self.path, self.columns, types, (ranks.rank, ranks.size), self.reading)

    def _read(self, ranks: Ranks, tally: Tally | None) -> Iterator[Rows]:
        """The rows of a share, piece by piece; `tally` counts what the policies leave out or recode."""
        types = {name: kind for name, kind in self.spec.types.items() if name in self.columns}
        places = Places()
        for rows in self._scan(types, ranks).each_piece(lambda piece: self._rows(piece, tally, places)):
            if rows.y.shape[-1]:
                yield rows
        self.places = places

    def _rows(self, piece: Piece, tally: Tally | None, places: Places) -> Rows:
        """Raises `ValueError` where the rows of a piece, counted as in its file, do not suit."""

        table, first = piece.table, piece.first
        design = self.spec.design(table, response=True, also=self.also, first=first, random=True, rounded=True)
        places.add(piece.file, first, len(table), design.kept)
        if tally is not None:
            tally.add(design)
        roles = Roles(**{role: numbers(design.table, name).to(self.device) for role, name in self.roles.items()})
        assert design.y is not None  # the formula has a response
        x, y = design.numbers.to(self.device, self.dtype), design.y.to(self.device)
        y = in_class_order(y, self.family, self.spec)
        indexed = design.whole_index
        indexed = None if indexed is None else indexed.to(self.device, self.dtype)
        try:
            data = assemble(
                x,
                y,
                self.family,
                roles,
                self.names,
                False,
                self.spec.intercept,
                strict=False,
                indexed=indexed,
                plan=self.plan,
            )
        except RowError as error:
            raise error.moved(first + design.row(error.place[-1])) from None
        [rows] = data.source
        return rows if design.codes is None else rows._replace(codes=design.codes.to(self.device))


class FileRows(SpecRows):
    """The rows of CSV or Parquet files (a file, a glob, a folder or a list) by a formula, as a re-iterable of `Rows`.

    `path` may also be tables that come one after the other, see `data.Chunks`.
    `roles` names the columns of weights, freq, offset, exposure, trials and event; `policies` are `missing`, `unseen`,
    `rare` and `reading` as in `data.build`, and `tally` counts the rows they touched. A first pass learns levels and
    transforms, a second looks at every row and keeps them where they take no more than `HOLD` bytes. Raises
    `ValueError` for rows that do not suit the family, weights or exposure, and says which, in which file.

    The processes `ranks` (those of `torch.distributed`, where it is initialised) have a share of the rows each, and
    iterating gives those of this one: at least a row, though without weight where the share is empty.
    """

    def __init__(
        self,
        formula: str,
        path: Any,
        family: Family,
        roles: Mapping[str, str],
        policies: Mapping[str, Any] | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        ranks: Ranks | None = None,
        predictors: Mapping[str, Any] | None = None,
        absorb: bool = False,
    ) -> None:

        policies = dict(policies or {})
        self.reading = policies.setdefault("reading", TextFormat())
        self.path, self.roles, more = path, dict(roles), formulas_of(family, predictors or {})
        self.predictors = dict(predictors or {})
        self.device, self.dtype = device or torch.device("cpu"), dtype or torch.float64
        self.also = list(self.roles.values())
        self.ranks = Ranks.here() if ranks is None else ranks
        with self.ranks.together():
            self.columns = columns_read(
                formula, path, self.also, reading=self.reading, predictors=more.get("predictors")
            )
            scan = self._scan({}, self.ranks)
        self.spec: DesignSpec = learn(formula, scan, also=self.also, ranks=self.ranks, **policies, **more)
        if absorb and not more:
            self.spec = absorbing(self.spec)
        self._suit(family)
        if self.plan is not None and self.spec.absorbed:
            self.spec.check_fixed(f"the family {family.said}, which has several predictors")
        self.tally = Tally()
        self.places = None
        self.stand_in: Rows | None = None  # for a share without rows
        pieces: list[Rows] = []
        thinned = Thinning()
        size, used, seen, keep = 0, 0, 0, True
        coming = scan.count or 0
        with self.ranks.together():
            for rows in self._read(self.ranks, self.tally):
                thinned.add(rows)
                used += int((rows.weight > 0).any())
                size += rows.nbytes
                seen += rows.y.shape[-1]
                # what is sure not to fit is not gathered first
                keep = bool(self.spec.absorbed) or keep and size * max(1.0, coming / seen) <= HOLD
                pieces = [*pieces, rows] if keep else []
        size, used = (int(most) for most in self.ranks.largest(torch.tensor([size, used]))[0])
        if not used:
            raise ValueError("Every row has weight 0 or a missing value; none is left to fit.")
        self.tally.join(self.ranks.gather(self.tally))
        with self.ranks.together():
            if not thinned.parts:
                self.stand_in = weightless(next(self._read(Ranks(), None)))
        if self.spec.absorbed:
            size = 0  # all rows are held, whatever they take
        self._held = None if size > HOLD else _joined(pieces or [*self])
        self.part = thinned.parts  # where a fit begins

    @property
    def width(self) -> int:
        """The number of coefficients, those of random effects among them."""
        if self.plan is not None:
            return self.plan.columns
        return len(self.names) + sum(len(group.levels) * group.effects for group in self.spec.groupings)

    @property
    def source(self) -> list[Rows] | FileRows | Shard:
        """The rows for a fit: in one piece where they are kept, else this object; a `Shard` of several processes."""
        own = self if self._held is None else [self._held]
        return own if self.ranks.size == 1 else Shard(own, self.ranks)

    def __iter__(self) -> Iterator[Rows]:
        return self._read(self.ranks, None) if self.stand_in is None else iter([self.stand_in])

    @property
    def context(self) -> dict[str, Any]:
        """What a result remembers of where its rows came from."""
        return {
            **Roles(**self.roles).context,
            "formula": self.spec.formula,
            "predictors": self.predictors,
            "spec": self.spec,
            "columns": self.roles,
            "terms": terms_of(self.spec, self.plan),
            "group_names": None,
            "tally": self.tally.to_dict(),
            "places": self.places,
        }


def from_files(
    formula: str,
    path: Any,
    family: Family,
    roles: Roles,
    policies: Mapping[str, Any],
    device: torch.device | None,
    dtype: torch.dtype | None,
    predictors: Mapping[str, Any] | None = None,
) -> Data:
    """The rows of files. Raises `ValueError` for roles that are not names of columns."""
    rows = FileRows(formula, path, family, _named(roles), policies, device, dtype, None, predictors, absorb=True)
    return Data(
        rows.source,
        torch.Size(),
        rows.names,
        rows.width,
        rows.device,
        rows.dtype == torch.float32,
        rows.spec.intercept,
        context=rows.context,
        family=rows.family,
        plan=None if rows.plan is None else rows.plan.first(len(rows.names)),
        random=effects_of(rows.spec, len(rows.names), rows.family),
    )


def rows_by_spec(path: Any, spec: DesignSpec, family: Family, roles: Roles, device: torch.device | None) -> SpecRows:
    """The rows of files by a known design. Raises `ValueError` for roles that are not names of columns."""
    return SpecRows(path, spec, family, _named(roles), device)


def _named(roles: Roles) -> dict[str, str]:
    for name, value in roles.given.items():
        if not isinstance(value, str):
            raise ValueError(f"{name} must name a column where the rows come from files, got {type(value).__name__}.")
    return roles.columns


def _joined(pieces: list[Rows]) -> Rows:
    """Pieces of one model as one."""
    x, y, weight, offset = (
        _stacked(list(parts), -2 if i == 0 or parts[0].dim() == 3 else -1)
        for i, parts in enumerate(zip(*(piece[:4] for piece in pieces), strict=True))
    )
    repeats = [piece.repeats for piece in pieces if piece.repeats is not None]
    indexed = [piece.indexed for piece in pieces if piece.indexed is not None]
    seconds = [piece.second for piece in pieces if piece.second is not None]
    return Rows(
        x,
        y,
        weight,
        offset,
        torch.cat(repeats, -1) if repeats else None,
        False,
        indexed[0].stacked(indexed[1:]) if indexed else None,
        torch.cat(seconds, -1) if seconds else None,
        pieces[0].plan,
        pieces[0].pair,
        None if pieces[0].codes is None else torch.cat([p.codes for p in pieces if p.codes is not None], 1),
    )


def _stacked(parts: list[Tensor], dim: int) -> Tensor:
    """Values one below the other; a number that stands for all of them is not written out."""
    first = parts[0]
    number = float(first.reshape(-1)[0]) if first.dim() == 2 and first.numel() else math.nan
    if dim == -1 and all(is_all(part, number) for part in parts):
        return first[:, :1].expand(-1, sum(part.shape[-1] for part in parts))
    return torch.cat(parts, dim)
