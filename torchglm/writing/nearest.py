"""The known name nearest to one that is not known."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, known: Iterable[str]) -> str:
    """`" (did you mean 'x'?)"`, or nothing where no known name is near."""
    known = list(known)
    near = [one for one in known if one.lower() == name.lower()] or get_close_matches(name, known, n=1)
    near = near or [one for one in known if len(name) > 2 and _abbreviates(name, one)]
    return f" (did you mean {near[0]!r}?)" if near else ""


def _abbreviates(short: str, name: str) -> bool:
    """Whether the letters of `short` occur in `name` in order, as those of negbin in negative_binomial."""
    letters = iter(name)
    return all(letter in letters for letter in short.lower())
