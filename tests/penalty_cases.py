"""Every penalty with the conditions of its optimum by the textbook: what its slope must be at given coefficients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import lsq_linear

from torchglm import MCP, SCAD, ElasticNet, Fused, GroupLasso, Penalty, Quadratic, Ridge

Array = np.ndarray
Miss = Callable[[Array, Array], Array]  # coefficients and the slope of the mean log-likelihood to what is missed


@dataclass(frozen=True)
class Case:
    """A penalty of four columns behind an intercept, by its strength: the penalty, what it adds, and what it misses."""

    made: Callable[[float], Penalty]
    value: Callable[[float, Array], float]
    miss: Callable[[float, Array, Array], Array]
    convex: bool = True


def soft(slope: Array, l1: float) -> Array:
    return np.sign(slope) * np.maximum(np.abs(slope) - l1, 0)


def by_column(rate: Callable[[float, Array], Array]) -> Callable[[float, Array, Array], Array]:
    """Of a penalty of single coefficients with slope `rate` of their sizes: at 0 it holds a slope up to its first."""

    def miss(strength: float, b: Array, slope: Array) -> Array:
        held = np.maximum(np.abs(slope) - rate(strength, np.zeros_like(b)), 0)
        return np.where(b == 0, held, np.abs(slope - np.sign(b) * rate(strength, np.abs(b))))

    return miss


def mcp_value(strength: float, b: Array, gamma: float = 3.0) -> float:
    size = np.abs(b)
    inside = strength * size - size**2 / (2 * gamma)
    return float(np.where(size <= gamma * strength, inside, gamma * strength**2 / 2).sum())


def scad_rate(strength: float, size: Array, a: float = 3.7) -> Array:
    return np.where(size <= strength, strength, np.maximum(a * strength - size, 0) / (a - 1))


def scad_value(strength: float, b: Array, a: float = 3.7) -> float:
    size = np.abs(b)
    middle = (2 * a * strength * size - size**2 - strength**2) / (2 * (a - 1))
    flat = strength**2 * (a + 1) / 2
    return float(np.where(size <= strength, strength * size, np.where(size <= a * strength, middle, flat)).sum())


GROUPS = ((0, 1, 2), (3,))


def group_value(share: float) -> Callable[[float, Array], float]:
    def value(strength: float, b: Array) -> float:
        lengths = sum(np.sqrt(len(g)) * np.linalg.norm(b[list(g)]) for g in GROUPS)
        return float(strength * ((1 - share) * lengths + share * np.abs(b).sum()))

    return value


def group_miss(share: float) -> Callable[[float, Array, Array], Array]:
    def miss(strength: float, b: Array, slope: Array) -> Array:
        out, l1 = np.zeros_like(b), strength * share
        for g in map(list, GROUPS):
            own, length = strength * (1 - share) * np.sqrt(len(g)), np.linalg.norm(b[g])
            if length == 0:
                left = soft(slope[g], l1)
                out[g] = max(np.linalg.norm(left) - own, 0)
            else:
                rest = slope[g] - own * b[g] / length
                out[g] = np.where(b[g] == 0, np.maximum(np.abs(rest) - l1, 0), np.abs(rest - l1 * np.sign(b[g])))
        return out

    return miss


def rows_miss(rows: Array) -> Callable[[float, Array, Array], Array]:
    """Of `strength sum |rows b|`: the least that multipliers within their limits leave of the slope, by scipy."""

    def miss(strength: float, b: Array, slope: Array) -> Array:
        at = rows @ b
        low = np.where(at > 1e-12, strength * (1 - 1e-12), -strength)
        high = np.where(at < -1e-12, -strength * (1 - 1e-12), strength)
        found = lsq_linear(rows.T, slope, (low, high), tol=1e-15, method="bvls")
        return np.abs(slope - rows.T @ found.x)

    return miss


CHAIN = np.array([[1.0, 0, 0, 0], [-1, 1, 0, 0], [0, -1, 1, 0]])  # a level without a column, and three beside it
LABELS = [0, 0, 0, 1]

CASES: dict[str, Case] = {
    "ridge": Case(Ridge, lambda s, b: float(s * b @ b / 2), lambda s, b, g: np.abs(g - s * b)),
    "elastic net": Case(
        lambda s: ElasticNet(s, s / 2),
        lambda s, b: float(s * np.abs(b).sum() + s * b @ b / 4),
        lambda s, b, g: by_column(lambda t, _: t + 0 * b)(s, b, g - s * b / 2),
    ),
    "mcp": Case(MCP, mcp_value, by_column(lambda s, size: np.maximum(s - size / 3.0, 0)), convex=False),
    "scad": Case(SCAD, scad_value, by_column(scad_rate), convex=False),
    "group": Case(lambda s: GroupLasso(s, LABELS), group_value(0.0), group_miss(0.0)),
    "sparse group": Case(lambda s: GroupLasso(s, LABELS, l1_ratio=0.4), group_value(0.4), group_miss(0.4)),
    "fused": Case(
        lambda s: Fused(s, [[None, 1, 2, 3]]), lambda s, b: float(s * np.abs(CHAIN @ b).sum()), rows_miss(CHAIN)
    ),
}
KINDS: Sequence[type[Penalty]] = (Ridge, ElasticNet, MCP, SCAD, GroupLasso, Fused, Quadratic)  # the last: its own tests
