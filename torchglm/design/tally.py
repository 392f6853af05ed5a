"""Tally: how many rows the policies on missing values and unseen levels touched, over all pieces of the data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchglm.design.spec import Design, DesignSpec


class Tally:
    """Counts that add over designs: `rows` left out, `missing` values per column, `unseen` rows per factor."""

    def __init__(self) -> None:
        self.rows = 0
        self.missing: dict[str, int] = {}
        self.unseen: dict[str, int] = {}

    def add(self, design: Design) -> None:
        """Take in the counts of one more design."""
        self.rows += 0 if design.kept is None else int((~design.kept).sum())
        self._count(design.dropped, design.unseen)

    def join(self, parts: Iterable[Tally]) -> None:
        """Become the counts of all parts together, of which this may be one."""
        whole = Tally()
        for part in parts:
            whole.rows += part.rows
            whole._count(part.missing, part.unseen)
        self.rows, self.missing, self.unseen = whole.rows, whole.missing, whole.unseen

    def _count(self, missing: Mapping[str, int], unseen: Mapping[str, int]) -> None:
        for mine, found in ((self.missing, missing), (self.unseen, unseen)):
            for name, count in found.items():
                mine[name] = mine.get(name, 0) + count

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"rows": self.rows, "missing": self.missing, "unseen": self.unseen}

    @classmethod
    def of(cls, design: Design) -> Tally:
        """The counts of one design."""
        made = cls()
        made.add(design)
        return made


def left_out(counts: Mapping[str, Any]) -> str:
    """`12 rows with missing values (age 5, income 7)` of a `Tally.to_dict`; "" where no row was left out."""
    return f"{_rows(counts['rows'])} with missing values ({_each(counts['missing'])})" if counts["rows"] else ""


def recoded(counts: Mapping[str, Any], unseen: str) -> str:
    """`3 rows with unseen levels as 'other' (region 3)`; "" where no row has one. `unseen` is the policy."""
    total, level = sum(counts["unseen"].values()), "the reference level" if unseen == "reference" else f"{unseen!r}"
    return f"{_rows(total)} with unseen levels as {level} ({_each(counts['unseen'])})" if total else ""


def pooled(spec: DesignSpec) -> str:
    """`C(region) 12 levels of 37 rows` for each factor with rare levels in one; "" where there is none."""
    found = {text: pool for text, factor in spec.factors.items() if (pool := getattr(factor, "pool", None))}
    return ", ".join(
        f"{text} {len(pool.levels)} level{'s' * (len(pool.levels) != 1)} of {_rows(pool.rows)}"
        for text, pool in found.items()
    )


def _rows(count: int) -> str:
    return f"{count:,} row{'s' * (count != 1)}"


def _each(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())
