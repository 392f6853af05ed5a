"""Quoting: column names of any spelling in a formula, each given to the parser as a word it reads as a column."""

from __future__ import annotations

import keyword
import re
import unicodedata
from collections.abc import Iterable
from functools import cached_property

from torchglm.design.brackets import Bracket, walk
from torchglm.design.expressions import REFUSED

BARE = re.compile(r"[^\W\d][\w.]*")  # what formulaic's tokenizer takes for a name
LONGEST = 200  # signs of a name that the parser reads one by one
WORD = re.compile(r"(?<!\w)_column_\d+_(?!\w)")


class Quoting:
    """The columns behind backticks and dots of one formula, and the words that stand for them while it is parsed.

    A word stands for a name that the parser or Python would read as something else: a number, an operator, a keyword,
    several words. `text` is the formula with these words; `names` and `quoted` undo it.
    """

    def __init__(self, formula: str) -> None:
        self._words: dict[str, str] = {}
        self.text = "".join(self._pieces(formula))

    def _pieces(self, formula: str) -> Iterable[str]:
        for kind, piece, depth in walk(formula):
            if kind is Bracket.CODE:
                piece = piece.replace("^", "**") if depth else piece  # a power, as R reads it, and no exclusive or
                yield BARE.sub(lambda found: found[0] if _as_read(found[0]) else self._word(found[0]), piece)
            elif kind is not Bracket.NAME:
                yield piece
            elif depth:
                yield piece[1:-1] if _identifier(piece[1:-1]) else self._word(piece[1:-1])
            else:
                yield self.bare(piece[1:-1])

    def bare(self, name: str) -> str:
        """How a column that stands alone, outside of any function, is written for the parser."""
        own = len(name) <= LONGEST and BARE.fullmatch(name) and name != "in" and not WORD.fullmatch(name)
        return name if own else self._word(name)

    def _word(self, name: str) -> str:
        return self._words.setdefault(name, f"_column_{len(self._words)}_")

    @cached_property
    def _names(self) -> dict[str, str]:  # once all are known
        return {word: name for name, word in self._words.items()}

    def name(self, word: str) -> str:
        """The column that a word stands for, or the word itself."""
        return self._names.get(word, word)

    def quoted(self, text: str) -> str:
        """An expression with backticks round the columns that words stand for."""
        return WORD.sub(lambda found: f"`{self._names[found.group(0)]}`", text)


def _identifier(name: str) -> bool:
    return name.isidentifier() and _as_read(name) and not keyword.iskeyword(name) and not WORD.fullmatch(name)


def _as_read(name: str) -> bool:
    """False where Python reads another name in the place of one: the Greek letter for a micro sign, say; or long."""
    return len(name) <= LONGEST and unicodedata.normalize("NFKC", name) == name


def advice(formula: str, available: Iterable[str]) -> str:
    """How columns have to be written that a formula names without the backticks they need; "" where there are none."""
    said = "".join(piece for kind, piece, _ in walk(formula) if kind is Bracket.CODE)
    known = [name for name in available if name.strip() and name in said and not _identifier(name)]
    words = BARE.findall(said)
    reserved = [word for word in words if keyword.iskeyword(word) and word not in ("in", "None", "True", "False")]
    dotted = [word for word in words if "." in word and not word.startswith(("np.", "numpy.", "contr."))]
    other = [word for word in dotted if word.rpartition(".")[2] in REFUSED]
    if other:
        return f" Instead of {other[0]}(): {REFUSED[other[0].rpartition('.')[2]]}."
    names = list(dict.fromkeys([*(name for name in known if not name.isdigit()), *reserved, *dotted]))[:3]
    if not names:
        return ""
    return f" Write a column of that name in backticks: {', '.join(f'`{name}`' for name in names)}."
