"""Parts: what the terms of a design are made of, and its sets of random effects, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from torchglm.design.formulas import Scoped


@dataclass(frozen=True)
class Part:
    """A product of coded factors times a number: some of a term's columns."""

    factors: tuple[Scoped, ...]
    scale: float = 1.0

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"factors": [list(scoped) for scoped in self.factors], "scale": self.scale}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Part:
        """The inverse of `to_dict`."""
        return cls(tuple((str(text), bool(low)) for text, low in data["factors"]), float(data["scale"]))


Terms: TypeAlias = tuple[tuple[str, tuple[Part, ...]], ...]  # the terms of a predictor, each with its parts


@dataclass(frozen=True)
class RandomSet:
    """A set of random effects of the levels of the factor `group`: its text, the parts of its terms, its predictor."""

    text: str
    group: str
    terms: Terms
    predictor: str = ""


class RandomGrouping(NamedTuple):
    """Random effects of one factor: its name, its levels, and of each set the names of its effects, its predictor."""

    name: str
    levels: list[Any]
    sets: list[list[str]]
    predictors: list[str]

    @property
    def effects(self) -> int:
        """The number of effects of each level."""
        return sum(map(len, self.sets))


def parts_of(terms: Terms) -> list[Part]:
    return [part for _, inside in terms for part in inside]


def by_grouping(random: Sequence[RandomSet]) -> dict[str, list[RandomSet]]:
    """The sets of random effects by the factor that they belong to, in the order of their columns."""
    found: dict[str, list[RandomSet]] = {}
    for one in random:
        found.setdefault(one.group, []).append(one)
    return found


def terms_dict(terms: Terms) -> list[dict[str, Any]]:
    return [{"name": name, "parts": [part.to_dict() for part in inside]} for name, inside in terms]


def by_prefix(own: Terms, others: Mapping[str, Terms]) -> dict[str, Terms]:
    """The terms of the first predictor and of the others, by what the names of their columns begin with."""
    return {"": own} | {f"{name}:": terms for name, terms in others.items()}


def terms_from(data: Any) -> Terms:
    return tuple((str(term["name"]), tuple(Part.from_dict(part) for part in term["parts"])) for term in data)
