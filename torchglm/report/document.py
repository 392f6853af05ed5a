"""A page of facts, tables and notes, and how each reads as text, Markdown, HTML and rich."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any, Protocol

from torchglm.report import words
from torchglm.writing import terminal

if TYPE_CHECKING:
    from rich.console import Group

_SHORTEST = 16  # characters to which a name may be cut


class Block(Protocol):
    """Anything that can stand in a `Document`."""

    def text(self, width: int) -> str: ...

    def markdown(self) -> str: ...

    def html(self) -> str: ...

    def rich(self, width: int) -> Any: ...


@dataclass(frozen=True)
class Facts:
    """Names and values; in text they stand in two columns, filled downward."""

    pairs: Sequence[tuple[str, str]]

    def text(self, width: int) -> str:
        half = (len(self.pairs) + 1) // 2
        left, right = _aligned(self.pairs[:half]), _aligned(self.pairs[half:])
        if not self._side_by_side(width):
            return "\n".join(_aligned(self.pairs))
        gap = max(map(terminal.width, left), default=0) + 4
        right += [""] * (half - len(right))
        return "\n".join(f"{terminal.left(a, gap)}{b}".rstrip() for a, b in zip(left, right, strict=True))

    def _side_by_side(self, width: int) -> bool:
        """Whether two columns of facts fit into lines of `width` characters."""
        half = (len(self.pairs) + 1) // 2
        sides = (_aligned(self.pairs[:half]), _aligned(self.pairs[half:]))
        return sum(max(map(terminal.width, side), default=0) for side in sides) + 4 <= width

    def markdown(self) -> str:
        return Grid("", ("", ""), self.pairs, left=2).markdown()

    def html(self) -> str:
        rows = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in self.pairs)
        return f'<dl class="facts">{rows}</dl>'

    def rich(self, width: int) -> Any:
        from rich.table import Table as RichTable
        from rich.text import Text

        half = (len(self.pairs) + 1) // 2 if self._side_by_side(width) else len(self.pairs)
        grid = RichTable.grid(padding=(0, 2))
        for _ in range(4 if half < len(self.pairs) else 2):
            grid.add_column(overflow="fold")
        for i in range(half):
            second = self.pairs[half + i] if half + i < len(self.pairs) else ("", "") if half < len(self.pairs) else ()
            cells = [*self.pairs[i], *second]
            grid.add_row(*(Text(c, style="dim" if j % 2 == 0 else "") for j, c in enumerate(cells)))
        return grid


@dataclass(frozen=True)
class Grid:
    """Rows of cells under column names; the first `left` columns are aligned left, numbers right."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1

    def text(self, width: int) -> str:
        head = [self.title] if self.title else []
        return "\n".join([*head, *(part._drawn(width) for part in self.parts(width))])

    def parts(self, width: int) -> list[Grid]:
        """The grid in as few grids as fit into lines of `width` characters, the left columns in each of them.

        Names may be cut or folded to sixteen characters; numbers never are.
        """
        sizes = self._sizes()
        first = min(sizes[0], _SHORTEST) + sum(size + 2 for size in sizes[1 : self.left])
        held: list[list[int]] = [[]]
        used = first
        for j in range(self.left, len(sizes)):
            if held[-1] and used + sizes[j] + 2 > width:
                held.append([])
                used = first
            held[-1].append(j)
            used += sizes[j] + 2
        if len(held) == 1:
            return [self]
        shown = [[*range(self.left), *group] for group in held]
        return [
            Grid("", [self.columns[j] for j in own], [[row[j] for j in own] for row in self.rows], self.left)
            for own in shown
        ]

    def _drawn(self, width: int) -> str:
        """The lines of the grid without its title; names give way, in their middle, where it is too wide."""
        excess = self.width() - width
        longest = max((terminal.width(row[0]) for row in self.rows), default=0)
        cells = [list(self.columns), *map(list, self.rows)]
        if excess > 0 and longest > _SHORTEST:
            cells = [[words.cut(row[0], max(longest - excess, _SHORTEST)), *row[1:]] for row in cells]
        sizes = [max(terminal.width(row[j]) for row in cells) for j in range(len(self.columns))]
        padded = [
            [terminal.left(c, w) if j < self.left else terminal.right(c, w) for j, (c, w) in enumerate(pairs)]
            for pairs in (list(zip(row, sizes, strict=True)) for row in cells)
        ]
        lines = ["  ".join(row).rstrip() for row in padded]
        rule = "-" * (sum(sizes) + 2 * (len(sizes) - 1))
        return "\n".join([rule, lines[0], rule, *lines[1:], rule])

    def _sizes(self) -> list[int]:
        """The width of each column."""
        cells = [self.columns, *self.rows]
        return [max(terminal.width(row[j]) for row in cells) for j in range(len(self.columns))]

    def width(self) -> int:
        """The number of characters that the text form takes."""
        return sum(size + 2 for size in self._sizes()) - 2

    def markdown(self) -> str:
        marks = [":---" if j < self.left else "---:" for j in range(len(self.columns))]
        body = [self.columns, marks, *([_pipe(c) for c in row] for row in self.rows)]
        table = "\n".join("| " + " | ".join(row) + " |" for row in body)
        return f"**{self.title}**\n\n{table}" if self.title else table

    def html(self) -> str:
        caption = f"<caption>{escape(self.title)}</caption>" if self.title else ""
        head = "".join(self._cell(c, j, "th", ' scope="col"') for j, c in enumerate(self.columns))
        body = "".join(f"<tr>{self._row(row)}</tr>" for row in self.rows)
        table = f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        return f'<div class="scroll" tabindex="0">{table}</div>'  # reached by keyboard, where it is too wide

    def _row(self, row: Sequence[str]) -> str:
        first = self._cell(row[0], 0, "th", ' scope="row"')
        return first + "".join(self._cell(c, j, "td") for j, c in enumerate(row[1:], start=1))

    def _cell(self, text: str, column: int, tag: str, scope: str = "") -> str:
        align = ' class="text"' if column < self.left else ""
        return f"<{tag}{scope}{align}>{escape(text)}</{tag}>"

    def rich(self, width: int) -> Any:
        from rich.console import Group
        from rich.text import Text

        tables = [part._rich_table() for part in self.parts(width - 2)]
        return Group(*([Text(self.title, style="bold")] if self.title else []), *tables)

    def _rich_table(self) -> Any:
        from rich import box
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        for j, name in enumerate(self.columns):
            table.add_column(
                Text(name),
                justify="left" if j < self.left else "right",
                no_wrap=j >= self.left,
                overflow="fold",
                min_width=min(len(name), _SHORTEST) if j < self.left else None,
            )
        for row in self.rows:
            table.add_row(*(Text(c) for c in row))
        return table


@dataclass(frozen=True)
class Notes:
    """Sentences, each its own paragraph; `alarm` marks what a reader must not overlook."""

    lines: Sequence[str]
    alarm: bool = False

    def text(self, width: int) -> str:
        mark = "! " if self.alarm else ""
        return "\n".join(
            textwrap.fill(line, width, initial_indent=mark, subsequent_indent=" " * len(mark), break_long_words=False)
            for line in self.lines
        )

    def markdown(self) -> str:
        mark = "**Warning.** " if self.alarm else ""
        return "\n\n".join(f"> {mark}{_pipe(line)}" if self.alarm else _pipe(line) for line in self.lines)

    def html(self) -> str:
        name = "notes alarm" if self.alarm else "notes"
        return f'<div class="{name}">' + "".join(f"<p>{escape(line)}</p>" for line in self.lines) + "</div>"

    def rich(self, width: int) -> Any:
        from rich.text import Text

        return Text("\n".join(self.lines), style="yellow" if self.alarm else "dim")


@dataclass(frozen=True)
class Document:
    """A title and its blocks."""

    title: str
    blocks: Sequence[Block] = field(default_factory=tuple)

    def text(self, width: int = 100) -> str:
        """Plain text, lines of at most `width` characters where the tables allow it."""
        return "\n\n".join([f"{self.title}\n{'=' * len(self.title)}", *(b.text(width) for b in self.blocks)])

    def markdown(self) -> str:
        """GitHub-flavoured Markdown, headed at level 3."""
        return "\n\n".join([f"### {self.title}", *(b.markdown() for b in self.blocks)])

    def html(self) -> str:
        """An HTML fragment (`<section>`), every text escaped."""
        body = "".join(b.html() for b in self.blocks)
        return f'<section class="torchglm-summary"><h2>{escape(self.title)}</h2>{body}</section>'

    def rich(self, width: int = 100) -> Group:
        """A rich renderable for lines of `width` characters: the title and the blocks one below the other."""
        from rich.console import Group
        from rich.text import Text

        parts: list[Any] = [Text(self.title, style="bold"), Text()]
        for block in self.blocks:
            parts += [block.rich(width), Text()]
        return Group(*parts[:-1])


def _aligned(pairs: Sequence[tuple[str, str]]) -> list[str]:
    size = max((terminal.width(k) for k, _ in pairs), default=0)
    return [f"{terminal.left(k, size)}  {v}" for k, v in pairs]


def _pipe(cell: str) -> str:
    """A cell that Markdown shows as it is: no bar ends it, no star or bracket starts anything."""
    return re.sub(r"([\\|*_<`\[])", r"\\\1", cell)
