"""Absorbed factors of a fit: their effects, what they cost in degrees of freedom, and the rows that were taken out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchglm.fitting.absorb import Absorption
from torchglm.fitting.status import FitWarning
from torchglm.rows.crossed import Crossed
from torchglm.writing.warning import tell

if TYPE_CHECKING:
    from torchglm.inference.fitted import Fitted


@dataclass(frozen=True)
class Beside:
    """What a search beside absorbed factors leaves for the fit: `rank` of the factors, and `facts` by name."""

    rank: int
    effects: Tensor  # (1, L)
    joined: Tensor  # (1, F L) int64
    null_deviance: Tensor
    facts: dict[str, Any]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What a fit keeps, by the names in `Flat`."""
        return {"absorbed": self.effects, "joined": self.joined, "null_deviance": self.null_deviance}

    @staticmethod
    def of(found: Absorption, null: Tensor) -> Beside:
        """From where the search stopped. Effects of further factors have the mean 0 in each connected component."""
        assert found.rows.codes is not None
        crossed, used = found.crossed, found.rows.weight[0] > 0
        joined = crossed.components(used)
        effects = _settled(crossed, found.effects.clone(), joined, used)
        out = found.isolated
        components = max((int(joined[f].max()) + 1 for f in crossed.others), default=1)
        present = [int(torch.unique(codes[used]).numel()) for codes in crossed.codes]
        facts = {
            "singletons": int(out.singletons.sum()),
            "separated": int(out.separated.sum()),
            "levels": present,
            "df": found.rank,
            "exact": found.exact,
            "components": components,
        }
        return Beside(found.rank, effects.unsqueeze(0), joined.reshape(1, -1), null, facts)


def _settled(crossed: Crossed, effects: Tensor, joined: Tensor, used: Tensor) -> Tensor:
    """Effects of which those of the other factors average to 0 over the rows: in each component, of two factors."""
    for f in crossed.others:
        own, main = crossed.of(effects, f), crossed.of(effects, crossed.main)
        group, there = crossed.of(joined[f], f), crossed.of(joined[f], crossed.main)
        if len(crossed.others) > 1:
            group, there = group.clamp(max=0), there.clamp(max=0)
        count = int(group.max()) + 1
        codes = crossed.codes[f][used].long()
        at, value = group[codes], own[codes]
        size = torch.zeros(count, dtype=own.dtype).index_add_(0, at, torch.ones_like(value))
        mean = torch.zeros(count, dtype=own.dtype).index_add_(0, at, value) / size.clamp(min=1)
        own.copy_(torch.where(group >= 0, own - mean[group.clamp(min=0)], own))
        main.copy_(torch.where(there >= 0, main + mean[there.clamp(min=0)], main))
    return effects


@dataclass(frozen=True)
class Absorbed:
    """The absorbed factors of a fit.

    `factors` their names, `levels` those that are left of each; `df` the independent columns of all of them (`exact`,
    or of three and more factors of many levels at most so many), `components` the connected components of the first
    two; `singletons` and `separated` count rows that were taken out. `effects[name]` (L,) are those of the levels
    `known[name]`, in order: infinite for separated levels, NaN for levels of singletons; of further factors they
    average to 0 over the rows.
    """

    factors: list[str]
    levels: list[int]
    df: int
    exact: bool
    components: int
    singletons: int
    separated: int
    effects: dict[str, Tensor]
    known: dict[str, list[Any]]


def absorbed(result: Fitted) -> Absorbed:
    """See `Absorbed`. Raises `ValueError` for a fit without absorbed factors."""
    facts = result.context.get("absorbed")
    if facts is None or result.flat.absorbed is None or result.spec is None:
        raise ValueError("this fit has no absorbed factors. Write them behind a bar: y ~ x | firm + worker.")
    known = result.spec.absorbed_levels
    parts = result.flat.absorbed[0].split([len(levels) for levels in known.values()])
    return Absorbed(list(known), effects=dict(zip(known, parts, strict=True)), known=known, **facts)


def shift_of_levels(result: Fitted, codes: Tensor) -> Tensor:
    """(m,) the effects of new rows, `codes` (F, m): NaN where they are not known, of which it warns."""
    assert result.flat.absorbed is not None and result.flat.joined is not None and result.spec is not None
    known = result.spec.absorbed_levels
    counts = [len(levels) for levels in known.values()]
    starts = [sum(counts[:f]) for f in range(len(counts))]
    effects = result.flat.absorbed[0]
    joined = result.flat.joined[0].reshape(len(counts), -1)
    main = max(range(len(counts)), key=lambda f: counts[f])
    total, apart = effects.new_zeros(codes.shape[1]), torch.zeros(codes.shape[1], dtype=torch.bool)
    new = torch.zeros_like(apart)
    for f, own in enumerate(codes.long()):
        new |= own >= counts[f]
        place = starts[f] + own.clamp(max=counts[f] - 1)
        total = total + effects[place]
        if f != main:
            here = joined[f, place]
            there = joined[f, starts[main] + codes[main].long().clamp(max=counts[main] - 1)]
            apart |= (here >= 0) & (there >= 0) & (here != there)
    lost = new | apart
    total = torch.where(lost, torch.nan, total)
    alone = int((total.isnan() & ~lost).sum())
    said = {
        "levels never seen": int(new.sum()),
        "levels that no row connects, whose sum the data do not tell": int((apart & ~new).sum()),
        "levels of singletons, or of which one runs up and one down": alone,
    }
    found = [f"{count:,} rows have {what}" for what, count in said.items() if count]
    if found:
        tell(f"{'; '.join(found)} (of {', '.join(known)}): their prediction is NaN.", FitWarning)
    return total


def absorbed_facts(result: Fitted) -> list[tuple[str, str]]:
    """What was absorbed, for the head of a summary; empty where nothing was."""
    if "absorbed" not in result.context:
        return []
    found = absorbed(result)
    named = [f"{name} ({levels:,} levels)" for name, levels in zip(found.factors, found.levels, strict=True)]
    pieces = f", {found.components:,} connected components" if len(named) > 1 and found.components > 1 else ""
    facts = [
        ("Absorbed", ", ".join(named)),
        ("Absorbed df", f"{'' if found.exact else 'at most '}{found.df:,}{pieces}"),
    ]
    out = [
        f"{count:,} {what}"
        for count, what in ((found.singletons, "singletons"), (found.separated, "separated rows"))
        if count
    ]
    return [*facts, ("Taken out", ", ".join(out))] if out else facts
