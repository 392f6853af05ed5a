"""Functions and classes that answer a keyword which they do not take by the one that stands for it here."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from inspect import Parameter, isfunction, signature
from typing import Any, ParamSpec, TypeVar

from torchglm.writing.nearest import nearest
from torchglm.writing.usual_keywords import BESIDE, DOORS, OF_RESULT, ROLES, SAME, SOME_ROLES

P = ParamSpec("P")
R = TypeVar("R")
Made = TypeVar("Made", bound=type)
FEW = 16  # names that are listed
OPEN = (Parameter.VAR_KEYWORD, Parameter.VAR_POSITIONAL)


def refusal(door: str, strange: Iterable[str], known: Iterable[str], own: Mapping[str, str] | None = None) -> str:
    """What is said of keywords that a door does not take: what stands for each, and what it takes."""
    known = list(known)
    here = _usual(DOORS.get(door, {}) if own is None else own, known)
    said = [f"{name}=" + (f" (here it is {here[name]})" if name in here else nearest(name, known)) for name in strange]
    return f"{door} takes no {', '.join(said)}. {_takes(door, known)}"


def _takes(door: str, known: list[str]) -> str:
    """What a door takes, the roles of rows apart where it has more than an offset; many arguments are not listed."""
    roles = [name for name in known if name in BESIDE]
    beside = roles if door in SOME_ROLES or len(roles) > 2 or roles == known else []
    own = [name for name in known if name not in beside]
    said = [] if beside and not 0 < len(own) <= FEW else [f"It takes {', '.join(own) or 'no arguments'}."]
    return " ".join(said + [f"What stands beside the rows is given by name: {', '.join(beside)}."] * bool(beside))


def _usual(own: Mapping[str, str], known: list[str]) -> dict[str, str]:
    """Usual name -> what stands for it at a door that takes the keywords `known` and has a table of its `own`."""
    here = {name: f"{taken[0]}=" for name, ours in SAME.items() if (taken := [one for one in ours if one in known])}
    return {name: text for name, text in (OF_RESULT | here | ROLES | dict(own)).items() if _is_taken(text, known)}


def _is_taken(text: str, known: list[str]) -> bool:
    """Whether a keyword that a text begins with is one of the door's, or said to be another's."""
    named = re.match(r"(\w+)=(?! of )", text)
    return named is None or named[1] in known


def answering(function: Callable[P, R], door: str | None = None, *, bound: bool = False) -> Callable[P, R]:
    """`function`, whose `TypeError` at a keyword that it does not take says what it takes; `door` is what it is called.

    The first argument of what is `bound` is not named. A function of open keywords but `**roles` answers for itself.
    """
    taken = _taken(function)
    if taken is None:
        return function
    called = door or function.__name__
    known = frozenset(taken)
    places = _places(function)
    shown = [name for name in taken[bound:] if name not in BESIDE or name in SOME_ROLES.get(called, BESIDE)]

    @wraps(function)
    def call(*args: P.args, **given: P.kwargs) -> R:
        for name in given:
            if name not in known:
                raise TypeError(refusal(called, [one for one in given if one not in known], shown))
        if len(args) > places:
            few = f"{called} takes {places - bound:.0f} arguments by place, got {len(args) - bound}."
            raise TypeError(f"{few} {_takes(called, shown)}")
        return function(*args, **given)

    return call


def answering_methods(cls: Made) -> Made:
    """Decorator of a class whose own public methods are to be `answering`."""
    for name, member in list(vars(cls).items()):
        if isfunction(member) and not name.startswith("_"):
            setattr(cls, name, answering(member, "a call" if name == "forward" else name, bound=True))
    return cls


def answering_init(cls: Made) -> Made:
    """Decorator of a class whose own constructor is to answer, for it and for what inherits it.

    `DOORS` of the class and of what it inherits from are asked; `""` there is said of an argument too many.
    """
    init = vars(cls).get("__init__")
    taken = None if init is None else _taken(init)
    if init is None or taken is None:
        return cls
    known, shown = frozenset(taken), taken[1:]
    places = _places(init)

    @wraps(init)
    def call(self: Any, *args: Any, **given: Any) -> None:
        strange = [name for name in given if name not in known]
        if strange or len(args) >= places:
            here: dict[str, str] = {}
            for part in reversed(type(self).__mro__):
                here |= DOORS.get(part.__name__, {})
            door = type(self).__name__
            if strange:
                raise TypeError(refusal(door, strange, shown, here))
            takes = f" It takes {', '.join(shown)}." if shown else ""
            raise TypeError(f"{door} takes {places - 1} arguments by place, got {len(args)}.{takes}{here.get('', '')}")
        init(self, *args, **given)

    cls.__init__ = call  # type: ignore[misc]
    return cls


def _taken(function: Callable[..., Any]) -> list[str] | None:
    """The keywords of a function, roles among them; None where they are open."""
    parameters = list(signature(function).parameters.values())
    opened = {one.name for one in parameters if one.kind in OPEN}
    if opened - {"roles", "fits"}:
        return None
    return [one.name for one in parameters if one.kind not in OPEN] + list(BESIDE if "roles" in opened else ())


def _places(function: Callable[..., Any]) -> float:
    """How many arguments a function takes by place."""
    kinds = [one.kind for one in signature(function).parameters.values()]
    named = (Parameter.KEYWORD_ONLY, Parameter.VAR_KEYWORD)
    return math.inf if Parameter.VAR_POSITIONAL in kinds else sum(kind not in named for kind in kinds)
