"""The k-check: has a smooth term columns enough, or do neighbouring residuals still resemble each other?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from torchglm.design.smooths.factor import Smooth
from torchglm.design.smooths.tensor import TensorProduct
from torchglm.inference import rowwise
from torchglm.inference.fitted import Fitted
from torchglm.inference.rowwise import RowValues
from torchglm.inference.smooths import SmoothTerm, smooths
from torchglm.inference.table import Table

ROWS = 5000  # that are looked at
DRAWS = 400  # permutations
NEIGHBOURS = 3  # of a row, in several variables
GRID = {1: 2001, 2: 2500}  # values at which columns are compared with those of rows
EXACT = 1e-6  # share of its range by which a variable may be missed that is read back from columns
TILE = 500  # rows whose distances to all are held at a time


class BasisSample:
    """Deviance residuals and columns of rows drawn evenly, by a seed: the same rows however they come in pieces."""

    def __init__(self, result: Fitted, seed: int = 0) -> None:
        self.result, self._generator = result, np.random.default_rng(seed)
        self.places = sorted({place for term in smooths(result).values() for place in term.places})
        self._held: tuple[np.ndarray, ...] | None = None

    def add(self, values: RowValues) -> None:
        left = rowwise.residuals(values, self.result.family, self.result.link, "deviance")
        own: np.ndarray = torch.where(values.used, left, torch.nan).cpu().numpy()  # (B, n)
        columns = values.x[..., self.places].cpu().numpy()
        columns = columns if columns.ndim == 3 else columns[None]
        order: np.ndarray = self._generator.random(own.shape[-1:])
        keep = np.flatnonzero(np.isfinite(own).any(0))
        new: tuple[np.ndarray, ...] = (order[keep], own[:, keep], columns[:, keep])
        if self._held is not None:
            new = (
                np.concatenate([self._held[0], new[0]]),
                *(np.concatenate([a, b], 1) for a, b in zip(self._held[1:], new[1:], strict=True)),
            )
        if len(new[0]) > ROWS:
            first = np.sort(np.argpartition(new[0], ROWS)[:ROWS])
            new = (new[0][first], new[1][:, first], new[2][:, first])
        self._held = new

    def of(self, model: int) -> tuple[np.ndarray, np.ndarray]:
        """(m,) the residuals of the rows of a model, and (m, q) its columns at `places`."""
        assert self._held is not None
        _, left, columns = self._held
        used = np.isfinite(left[model])
        return left[model][used], (columns[model] if len(columns) > 1 else columns[0])[used]


@dataclass(frozen=True)
class BasisCheck:
    """Of one term of one model: the k-index and its p-value, NaN where the term has no neighbours to compare."""

    index: float
    p_value: float


@torch.no_grad()
def k_check(result: Fitted, seed: int = 0) -> Table:
    """Whether each smooth term has columns enough: columns `edf`, `k'`, `k-index` and `p`, `(*B, terms)`.

    `k'` is the largest freedom that the term can have. The k-index compares deviance residuals of neighbours along the
    term with those of any two rows: below 1 they still resemble each other. `p` is the share of 400 permutations of
    the residuals with a smaller one, the rows as they stand counted, random but by `seed`. Where it is small and
    `edf` near `k'`, give the term a larger `k`. At most 5,000 rows are looked at. NaN for effects of levels, and for
    `ti()` of variables that no other term has. One pass. Raises `ValueError` without smooth terms, with several
    predictors, and without the rows of the fit. Source: mgcv's `k.check`; Wood (2017), section 5.9.
    """
    if result.plan is not None:
        raise ValueError("the k-check is for the terms of one predictor; this fit has several.")
    if not smooths(result):
        raise ValueError("the k-check is for smooth terms such as s(x); this fit has none.")
    sample = BasisSample(result, seed)
    for values in result.row_values():
        sample.add(values)
    return k_check_of(result, sample, seed)


def k_check_of(result: Fitted, sample: BasisSample, seed: int = 0) -> Table:
    """The table from a sample of the rows."""
    terms = smooths(result)
    found = [_of_model(result, sample, i, terms, seed) for i in range(len(result.flat.coef))]
    index, p = (
        torch.tensor([[getattr(one, name) for one in own] for own in found], dtype=torch.float64)
        for name in ("index", "p_value")
    )
    edf = torch.stack([term.edf.reshape(-1) for term in terms.values()], -1).cpu()
    most = torch.tensor([float(len(term.places)) for term in terms.values()]).expand_as(edf)
    columns = {"edf": edf, "k'": most, "k-index": index.to(edf), "p": p.to(edf)}
    return Table("Basis dimensions", list(terms), {name: result.shaped(value) for name, value in columns.items()})


def _of_model(
    result: Fitted, sample: BasisSample, model: int, terms: dict[str, SmoothTerm], seed: int
) -> list[BasisCheck]:
    left, columns = sample.of(model)
    if len(left) < 10 or not bool(result.flat.converged[model]):
        return [BasisCheck(float("nan"), float("nan")) for _ in terms]
    known, generator = _variables(terms, sample.places, columns), np.random.default_rng(seed)
    order = generator.permuted(np.tile(np.arange(len(left)), (DRAWS, 1)), axis=1)
    shuffled, alone = left[order], None  # (draws, m)
    found = []
    for term in terms.values():
        at = known.get(term.label)
        if at is None:
            found.append(BasisCheck(float("nan"), float("nan")))
            continue
        used = np.isfinite(at).all(0)
        whole = bool(used.all())
        own, draws = left[used], shuffled if whole else _within(order, used, left)
        if len(at) == 1:
            value = float(_gap(own[np.argsort(at[0][used], kind="stable")]))
            if whole and alone is None:
                alone = _gap(draws)
            drawn = alone if whole and alone is not None else _gap(draws)
        else:
            near = _neighbours(_scaled(term, at[:, used], model))
            value = _apart(own, near)
            drawn = np.array([_apart(one, near) for one in draws])
        found.append(BasisCheck(float(value / (own**2).mean()), (1 + float((drawn < value).sum())) / (1 + DRAWS)))
    return found


def _within(order: np.ndarray, used: np.ndarray, left: np.ndarray) -> np.ndarray:
    """(draws, m) the residuals of the used rows alone, in the orders of all."""
    inside = order[used[order]].reshape(len(order), -1)
    return left[inside]


def _gap(left: np.ndarray) -> np.ndarray:
    """Half the mean squared difference of neighbours along the last axis."""
    return (np.diff(left, axis=-1) ** 2).mean(-1) / 2


def _apart(left: np.ndarray, near: np.ndarray) -> float:
    return float(((left[:, None] - left[near]) ** 2).mean() / 2)


def _neighbours(at: np.ndarray) -> np.ndarray:
    """(m, 3) the nearest other rows of each of values (d, m)."""
    found = np.empty((at.shape[1], NEIGHBOURS), np.int64)
    for first in range(0, at.shape[1], TILE):
        part = slice(first, first + TILE)
        square = sum((own[part, None] - own) ** 2 for own in at)
        square[np.arange(square.shape[0]), np.arange(first, first + square.shape[0])] = np.inf
        found[part] = np.argpartition(square, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
    return found


def _scaled(term: SmoothTerm, at: np.ndarray, model: int) -> np.ndarray:
    """The variables of a tensor product over their ranges, each times the slope of the curve along it."""
    factor = term.factor
    if not isinstance(factor, Smooth) or not isinstance(factor.basis, TensorProduct):
        return at
    coef = term.coef.reshape(-1, len(term.places))[model].cpu().numpy()
    here, found = coef @ factor.columns(at), np.empty_like(at)
    for j, own in enumerate(at):
        step = np.zeros((len(at), 1))
        step[j] = np.ptp(own) / 1000
        slope = np.abs(coef @ factor.columns(at + step) - here).mean() / step[j, 0]
        found[j] = slope * (own - own.min()) / np.ptp(own)
    return found


def _variables(terms: dict[str, SmoothTerm], places: list[int], columns: np.ndarray) -> dict[str, np.ndarray]:
    """(d, m) the variables of each term at rows with these columns, NaN where a row does not say."""
    found, read = dict[str, np.ndarray](), dict[str, np.ndarray]()
    grouped: dict[int, list[SmoothTerm]] = {}
    for term in terms.values():
        grouped.setdefault(id(term.factor), []).append(term)
    lacking = []
    for group in grouped.values():
        factor = group[0].factor
        if not isinstance(factor, Smooth):
            continue
        at = [[places.index(place) for place in term.places] for term in group]
        values = _read(factor, np.sum([columns[:, own] for own in at], 0))
        if values is None:
            lacking.append(group)
            continue
        read |= {one.text: own for one, own in zip(factor.call.variables, values, strict=True)}
        found |= {term.label: values for term in group}
    for group in lacking:
        texts = [one.text for one in group[0].factor.call.variables]
        if all(text in read for text in texts):
            found |= {term.label: np.stack([read[text] for text in texts]) for term in group}
    return found


def _read(factor: Smooth, columns: np.ndarray) -> np.ndarray | None:
    """(d, m) the variables at rows with columns (m, q) of a term: a basis that holds straight lines says them."""
    many = round(GRID.get(len(factor.ranges), 4096) ** (1 / len(factor.ranges)))
    sides = [np.linspace(low, high, many) for low, high in factor.ranges]
    grid = np.stack([side.reshape(-1) for side in np.meshgrid(*sides, indexing="ij")])  # (d, g)
    made, empty = factor.columns(grid).T, (columns == 0).all(1)
    centred = factor.constraint is not None
    one = np.ones((grid.shape[1], 1))
    basis = np.hstack([one, made]) if centred else made
    weights = np.linalg.lstsq(basis, np.hstack([one, grid.T]), rcond=None)[0]
    missed = np.abs(basis @ weights - np.hstack([one, grid.T])).max(0)
    if (missed <= EXACT * np.array([1.0, *np.ptp(grid, axis=1)])).all():
        rows = np.hstack([np.ones((len(columns), 1)), columns]) if centred else columns
        unit, *values = (rows @ weights).T
        found = np.stack(values) / (1.0 if centred else np.where(unit == 0, np.nan, unit))
        return np.where(empty, np.nan, found)
    if len(grid) > 1:
        return None
    with np.errstate(invalid="ignore", divide="ignore"):
        rows = columns if centred else columns / columns.sum(1, keepdims=True)
    near = rows @ made.T - (made**2).sum(1) / 2
    return np.where(empty, np.nan, grid[:, np.where(np.isfinite(near), near, -np.inf).argmax(1)])
