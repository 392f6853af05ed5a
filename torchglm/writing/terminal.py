"""How many columns of a terminal a text takes."""

from __future__ import annotations

import unicodedata


def width(text: str) -> int:
    """Columns: two for wide characters (Chinese, Japanese, Korean, emoji), none for marks that join another."""
    return len(text) if text.isascii() else sum(map(_width, text))


def _width(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Cf", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def left(text: str, columns: int) -> str:
    """A text filled up with spaces behind it."""
    return text + " " * (columns - width(text))


def right(text: str, columns: int) -> str:
    """A text filled up with spaces before it."""
    return " " * (columns - width(text)) + text


def head(text: str, columns: int) -> str:
    """As many of the first characters of a text as fit."""
    taken = 0
    for i, character in enumerate(text):
        taken += _width(character)
        if taken > columns:
            return text[:i]
    return text
