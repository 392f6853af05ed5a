"""The known name nearest to one that is not known, and what is said of one that is not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import TypeVar

Named = TypeVar("Named")


def nearest(name: str, known: Iterable[str]) -> str:
    """`" (did you mean 'x'?)"`, or nothing where no known name is near."""
    known = list(known)
    near = _alike(name, known) or [one for one in known if len(name) > 2 and _abbreviates(name, one)]
    return f" (did you mean {near[0]!r}?)" if near else ""


def absent(owner: str, name: str, elsewhere: Mapping[str, str], known: Iterable[str]) -> str:
    """What is said of an attribute that `owner` has not: the one it has under another name, or one that is near."""
    has = f"{owner} has no attribute {name!r}"
    if name in elsewhere:
        return f"{has}. Here it is {elsewhere[name]}."
    near = [] if name.startswith("_") else _alike(name, [one for one in known if not one.startswith("_")])
    return f"{has} (did you mean {near[0]!r}?)" if near else has


def unknown(what: str, name: object, known: Iterable[str], elsewhere: Mapping[str, str] | None = None) -> str:
    """`"unknown kind 'respons' (did you mean 'response'?). Known: ..."`; `elsewhere` are names of other libraries."""
    known = list(known)
    if not isinstance(name, str):
        said = ""
    elif name in (elsewhere or {}):
        said = f" (here it is {(elsewhere or {})[name]})"
    else:
        said = nearest(name, known)
    return f"unknown {what} {name!r}{said}. Known: {', '.join(known)}."


def _alike(name: str, known: Sequence[str]) -> list[str]:
    return [one for one in known if one.lower() == name.lower()] or get_close_matches(name, known, n=1)


def _abbreviates(short: str, name: str) -> bool:
    """Whether the letters of `short` occur in `name` in order, as those of negbin in negative_binomial."""
    letters = iter(name)
    return all(letter in letters for letter in short.lower())


class ByName(dict[str, Named]):
    """Values by their names, which says of a name that is not there which are; `what` a name is of."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def __missing__(self, name: object) -> Named:
        raise KeyError(unknown(self.what, name, self))
