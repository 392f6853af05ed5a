"""Fonts for names in any script: those of the machine that have the characters which matplotlib's own lacks."""

from __future__ import annotations

from functools import cache
from typing import Any

from torchglm.writing.terminal import width

_OWN = "DejaVu Sans"
_GAP = "\u00a0"  # a space that no renderer swallows
_BOX, _SPACE = 0.6, 0.318  # of the font's size: what stands for a character that is lacking, and a space


def families(text: str) -> list[str]:
    """The families to write a text in, matplotlib's own first, then those that hold what it lacks."""
    return [_OWN, *dict.fromkeys(name for name in map(_holder, lacking(text)) if name is not None)]


def reserved(text: str) -> str:
    """A text that ends at an axis, with room before it for wide characters that no font here can draw.

    A browser has such fonts where this machine may have none: it writes the text itself, and only its place is made
    here.
    """
    wide = sum(width(c) == 2 and _holder(c) is None for c in lacking(text))
    return _GAP * round(wide * (1 - _BOX) / _SPACE) + text


def lacking(text: str) -> str:
    """The characters of a text that matplotlib's own font does not have, in their order."""
    return "" if text.isascii() else "".join(c for c in text if ord(c) not in _characters(_path(_OWN)))


@cache
def _holder(character: str) -> str | None:
    """A family on this machine that has a character, the upright ones of regular weight first."""
    from matplotlib.font_manager import fontManager

    plain = sorted(fontManager.ttflist, key=lambda font: (font.style != "normal", font.weight != 400, font.name))
    return next((font.name for font in plain if ord(character) in _characters(font.fname)), None)


def _path(family: str) -> str:
    from matplotlib.font_manager import FontProperties, fontManager

    return str(fontManager.findfont(FontProperties(family=[family])))


@cache
def _characters(path: str) -> Any:
    """The code points of a font, none of one that cannot be read."""
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()
