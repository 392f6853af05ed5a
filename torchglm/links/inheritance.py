"""What a subclass of a link or a family takes from its parent: nothing that its own formulas do not bear out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def stated(cls: type, contract: type) -> set[str]:
    """The names that a class states itself, or by what it mixes in, beyond its parent among those of the contract."""
    parent = next(base for base in cls.__mro__[1:] if issubclass(base, contract))
    return {name for own in cls.__mro__ if own not in parent.__mro__ for name in vars(own)}


def renounce(cls: type, contract: type, made_of: Mapping[str, tuple[str, ...]]) -> None:
    """Put the contract's form in place of each formula of the parents whose ingredients the class states anew.

    `made_of` names the ingredients of each formula that closed forms replace, ingredients first. So a subclass of
    `Log` whose inverse is `2^eta` has the slopes of `2^eta`, not those of `exp(eta)`.
    """
    own = stated(cls, contract)
    changed = set(own)
    for name, ingredients in made_of.items():
        if name not in own and not changed.isdisjoint(ingredients) and _found(cls, name) is not vars(contract)[name]:
            setattr(cls, name, vars(contract)[name])
            changed.add(name)


def _found(cls: type, name: str) -> Any:
    """What stands under a name in the class or its parents, unbound."""
    return next(vars(base)[name] for base in cls.__mro__ if name in vars(base))


def check_name(cls: type) -> None:
    """Raise `TypeError` for a class that goes by the name of its parent: identity is the class, a name is its own."""
    if "name" in vars(cls) or not isinstance(getattr(cls, "name", None), str):
        return
    parent = next(base for base in cls.__mro__ if "name" in vars(base))
    raise TypeError(
        f"{cls.__name__} goes by the name {vars(parent)['name']!r} of {parent.__name__}, which it is not. "
        f"Give the class a name of its own, such as name = {cls.__name__.lower()!r}."
    )


def require_text(part: object, kind: str, known: Iterable[str], elsewhere: Mapping[str, str]) -> None:
    """Raise `TypeError` for what is no name of a link or family either; of another library's say which one it is."""
    if isinstance(part, str):
        return
    made = part if isinstance(part, type) else type(part)
    known, letters = list(known), made.__name__.lower()
    same = {name.replace("_", ""): repr(name) for name in known} | dict(elsewhere)
    here = f" of {made.__module__.partition('.')[0]} (here it is {same[letters]})" if letters in same else ""
    raise TypeError(
        f"{kind} must be a name, a {kind} or its class, got {made.__name__}{here}. Known: {', '.join(known)}."
    )


def require_name(part: Any, kind: str) -> None:
    """Raise `TypeError` for a link or family without a name."""
    if not isinstance(getattr(part, "name", None), str):
        raise TypeError(
            f"the {kind} {type(part).__name__} has no name. Give its class one, such as "
            f"name = {type(part).__name__.lower()!r}."
        )
