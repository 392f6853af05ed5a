"""Pieces: rows that come as tables of bounded size, each with the place it comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple, TypeVar

if TYPE_CHECKING:
    import pyarrow as pa

Made = TypeVar("Made")


class Piece(NamedTuple):
    """Some rows: `place` says where they come from, for messages, `first` is the number of the first of them there.

    `file` is the file they were read from, None where there is none.
    """

    table: pa.Table
    place: str
    first: int
    file: str | None = None


class Pieces:
    """Rows in pieces that can be read as often as one likes; a source says which."""

    def pieces(self) -> Iterator[Piece]:
        """The pieces, with their places. Raises ValueError for what cannot be read."""
        raise NotImplementedError

    @property
    def count(self) -> int | None:
        """How many rows there are, where the source says so before it is read."""
        return None

    def __iter__(self) -> Iterator[pa.Table]:
        return (piece.table for piece in self.pieces())

    def each(self, work: Callable[[pa.Table, int], Made]) -> Iterator[Made]:
        """What `work(table, first)` makes of each piece, `first` being the number of its first row.

        A ValueError of `work` is raised again with the place in front.
        """
        return self.each_piece(lambda piece: work(piece.table, piece.first))

    def each_piece(self, work: Callable[[Piece], Made]) -> Iterator[Made]:
        """What `work` makes of each piece; a ValueError of it is raised again with the place in front."""
        for piece in self.pieces():
            try:
                made = work(piece)
            except ValueError as error:
                raise ValueError(f"{piece.place}: {error}") from error
            yield made
