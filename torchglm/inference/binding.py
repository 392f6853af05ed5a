"""What a fit says of its constraints: which of them bind, and what each costs."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from torchglm.inference.fitted import Fitted
from torchglm.writing import numbers

SHOWN = 12  # constraints that are written out


@dataclass(frozen=True, eq=False)
class Constraints:
    """The constraints of a fit by `names`, a side each: their `multiplier` (*B, c), and whether they bind (*B, c).

    The multiplier is the slope of the objective (half the deviance, with the penalty) that a constraint holds: what it
    would gain per unit if it gave way, and 0 where it does not bind.
    """

    names: list[str]
    multiplier: Tensor

    @property
    def binds(self) -> Tensor:
        """(*B, c) True for constraints that hold the coefficients; equations always do."""
        return self.multiplier != 0

    @property
    def binding(self) -> list[str]:
        """The names of those of one model that bind. Raises `ValueError` for a batch."""
        if self.multiplier.dim() > 1:
            raise ValueError("these are the constraints of a batch. Take one model: result[i].constraints.")
        return [name for name, own in zip(self.names, self.binds.tolist(), strict=True) if own]

    def __repr__(self) -> str:
        if self.multiplier.dim() > 1:
            return f"Constraints({len(self.names)}, of {self.multiplier.shape[:-1].numel():,} models)"
        width = max(map(len, self.names))
        lines = [f"{'':{width}}  multiplier"]
        for name, value in zip(self.names[:SHOWN], self.multiplier.tolist(), strict=False):
            lines.append(f"{name:{width}}  {numbers.short(value, 4) if value else 'does not bind':>10}")
        more = len(self.names) - SHOWN
        return "\n".join([*lines, *([f"and {more} more"] if more > 0 else [])])


def constraints(result: Fitted) -> Constraints:
    """The constraints of a fit and which of them bind. Raises `ValueError` for a fit without constraints."""
    if result.flat.multiplier is None:
        raise ValueError("constraints are those of fit(lower=, upper=, constraints=, monotone=); this fit has none.")
    return Constraints(list(result.context["constraints"]), result.shaped(result.flat.multiplier))


def kkt(result: Fitted) -> Tensor:
    """(*B) the certificate of a penalty with kinks, or of constraints: 1e-9 and less is the optimum.

    It is the largest correlation that a column still has with what is left over: the slope that kinks do not account
    for, over the length of the column (`x'Wx`) and that of the residuals. Raises `ValueError` where there is no kink.
    """
    if result.flat.kkt is None:
        raise ValueError("kkt is that of constraints and of penalties with kinks; this fit has neither.")
    return result.shaped(result.flat.kkt)
