"""Smooth terms of a fit: curves with errors and bands, their slopes, and how much freedom each has used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchglm.design.kinds import PENALISED, Penalised
from torchglm.design.smooths.effects import LevelEffects
from torchglm.design.smooths.factor import Smooth, SmoothPart
from torchglm.design.smooths.shaped import ShapedSpline
from torchglm.families.several import VectorFamily
from torchglm.fitting.penalties import Quadratic
from torchglm.inference.fitted import Fitted
from torchglm.inference.levels import check_level
from torchglm.inference.smooth_tests import NONE, Smoothed, TermTest, curve_test_of, variance_test_of
from torchglm.inference.strengths import strength
from torchglm.writing.nearest import ByName

GRID = 100  # values of a curve where none are given
SURFACE = 1600  # and of a surface
MANY = 500  # coefficients of a term that is tested unasked
DRAWS = 10_000  # of the largest deviation of a curve, for a simultaneous band


@dataclass(frozen=True, eq=False)
class SmoothTerm:
    """One smooth of a fit, such as `s(age)` or `s(time):dose`, on the scale of the linear predictor.

    `places` are those of its coefficients in `result.coef`, `blocks` those of its strengths in `result.strength`.
    """

    result: Fitted
    factor: Penalised
    part: SmoothPart
    places: list[int]
    blocks: list[int]

    @property
    def label(self) -> str:
        """The name of the term."""
        return self.part.label

    @cached_property
    def coef(self) -> Tensor:
        """(*B, q) its coefficients."""
        return self.result.coef[..., self.places]

    @cached_property
    def covariance(self) -> Tensor:
        """(*B, q, q) their covariance given the data, the penalty being a normal prior."""
        return self.result.covariance()[..., self.places, :][..., self.places]

    @property
    def edf(self) -> Tensor:
        """(*B) the effective degrees of freedom of the term."""
        return self.result.edf[..., self.places].sum(-1)

    @property
    def strength(self) -> Tensor:
        """(*B, J) the strengths of its penalties, infinite where the term is the null space of one."""
        return strength(self.result)[..., self.blocks]

    @property
    def shape(self) -> str | None:
        """What the curve is held to, such as `"increasing"`, or None."""
        return self.factor.call.shape

    @property
    def at_limit(self) -> Tensor:
        """(*B) how many of its coefficients stand at 0 for the sake of its shape."""
        basis = self.factor.basis if isinstance(self.factor, Smooth) else None
        signed = basis.signed if isinstance(basis, ShapedSpline) else []
        return (self.coef[..., signed] == 0).sum(-1)

    @property
    def tested(self) -> bool:
        """Whether there is a test of the term at hand: it has no shape, and no great many coefficients."""
        return self.shape is None and len(self.places) <= MANY

    @cached_property
    def drawn(self) -> bool:
        """Whether all coefficients are drawn from a normal law: the penalties of the term leave none of them free."""
        return not isinstance(self.factor, Smooth) or self.factor.free == 0

    def tests(self) -> list[TermTest]:
        """For each model whether the term is zero everywhere, see `smooth_tests`.

        Of a term whose coefficients are all drawn from a normal law (effects of levels, `select=True`, `bs="ts"`) it is
        a test that their variance is zero. Raises `ValueError` for a curve of a shape, whose law at zero is another.
        """
        if self.shape is not None:
            raise ValueError(
                f"{self.label} is held {self.shape}: at zero its coefficients stand at their limits, and the law of "
                "this test is not theirs. Fit it without shape= to test it."
            )
        flat, own = self.result.flat, torch.tensor(self.places)
        gram, inverse, penalty = _sums(self.result)
        given = flat.gram.written_out().cpu()
        covariance = self.result.flat_covariance[:, own][:, :, own].cpu()
        resid = flat.df_resid.cpu() if self.result.statistic_name == "t" else None
        effects = [term.places for term in smooths(self.result).values() if isinstance(term.factor, LevelEffects)]
        others = torch.tensor([at for places in effects if places != self.places for at in places], dtype=torch.int64)
        found = list[TermTest]()
        for i, coef in enumerate(flat.coef.cpu()):
            freedom = None if resid is None else float(resid[i])
            one = Smoothed(coef, gram[i], inverse[i], penalty[i], given[i], freedom)
            if not bool(torch.isfinite(covariance[i]).all()):
                found.append(NONE)
            elif self.drawn:
                found.append(variance_test_of(one, own, others, float(flat.dispersion[i])))
            else:
                found.append(curve_test_of(one, own, covariance[i]))
        return found

    def test(self) -> TermTest:
        """Whether the term of one model is zero everywhere. Raises `TypeError` for a batch, which has `tests()`."""
        if self.result.batch_shape:
            raise TypeError("this is a batch of models: tests() has one for each.")
        return self.tests()[0]

    @property
    def columns(self) -> list[str]:
        """The columns of the data that a value of the term is made of, `by` left out."""
        return list(dict.fromkeys(name for one in self.factor.call.variables for name in one.columns))

    def curve(self, values: Any = None) -> tuple[Tensor, Tensor]:
        """(*B, m) the term at values of its variables, without the intercept and with `by` 1, and its standard error.

        `values` are `(m,)` numbers of one variable, `(m, d)` of several, or a dict or frame of columns; None is a grid
        over the data (`grid`), or all levels. Raises `ValueError` for other columns, and for levels never seen.
        """
        return self._along(self._design(values))

    def slope(self, values: Any = None, axis: int = 0) -> tuple[Tensor, Tensor]:
        """(*B, m) the derivative of the term by one of its variables, and its standard error.

        Raises `ValueError` for levels, which have none.
        """
        if not isinstance(self.factor, Smooth):
            raise ValueError(f"{self.label} has effects of levels, which have no slope.")
        rows = self._values(self.factor, values)
        return self._along(self._tensor(self.factor.slopes(rows, axis)))

    def band(self, values: Any = None, level: float = 0.95, simultaneous: bool = False, seed: int = 0) -> Tensor:
        """(*B, m, 2) limits of the term: at each value alone, or with `simultaneous` of the whole curve at once.

        Those cover the curve at all the values given with probability `level`: the quantile of the largest
        standardised deviation of draws of the coefficients takes the place of the normal one.
        Source: Ruppert, Wand & Carroll (2003), Semiparametric Regression, section 6.5.
        """
        check_level(level)
        design = self._design(values)
        value, error = self._along(design)
        width = self._largest(design, error, level, seed) if simultaneous else self.result.quantile(level)
        half = width.unsqueeze(-1) * error
        return torch.stack([value - half, value + half], -1)

    @property
    def grid(self) -> np.ndarray:
        """(m, d) evenly spaced values over the range of each variable in the data."""
        if not isinstance(self.factor, Smooth):
            raise ValueError(f"{self.label} has effects of levels, not a curve over numbers.")
        d = len(self.factor.ranges)
        many = GRID if d == 1 else max(5, round(SURFACE ** (1 / d)))
        sides = [np.linspace(low, high, many) for low, high in self.factor.ranges]
        return np.stack([side.reshape(-1) for side in np.meshgrid(*sides, indexing="ij")], -1)

    @property
    def levels(self) -> list[Any]:
        """The levels of effects, in the order of the coefficients. Raises `ValueError` for a curve."""
        if not isinstance(self.factor, LevelEffects):
            raise ValueError(f"{self.label} is a curve over numbers. Ask curve() for values.")
        return [one[0] if len(one) == 1 else one for one in self.factor.levels]

    def _along(self, design: Tensor) -> tuple[Tensor, Tensor]:
        value = (self.coef.unsqueeze(-2) @ design.mT).squeeze(-2)
        variance = ((design @ self.covariance) * design).sum(-1)
        return value, variance.clamp(min=0).sqrt()

    def _largest(self, design: Tensor, error: Tensor, level: float, seed: int) -> Tensor:
        """(*B) the quantile of the largest standardised deviation of the curve, of draws that are always the same."""
        values, vectors = torch.linalg.eigh(self.covariance)
        root = vectors * values.clamp(min=0).sqrt().unsqueeze(-2)
        scaled = (design @ root) / torch.where(error > 0, error, torch.inf).unsqueeze(-1)  # (*B, m, q)
        generator = torch.Generator().manual_seed(seed)
        draws = torch.randn(scaled.shape[-1], DRAWS, generator=generator, dtype=scaled.dtype).to(scaled)
        most = (scaled @ draws).abs().amax(-2)
        if self.result.statistic_name == "t":
            half = self.result.df_resid.clamp(min=1.0).unsqueeze(-1).expand(*most.shape).cpu() / 2
            most = most * (half / torch._standard_gamma(half, generator)).sqrt().to(most)
        return torch.quantile(most, level, dim=-1)

    def _design(self, values: Any) -> Tensor:
        """(m, q) the columns of the term at values."""
        if isinstance(self.factor, LevelEffects):
            return self._of_levels(self.factor, values)
        return self._tensor(self.factor.columns(self._values(self.factor, values)))

    def _of_levels(self, factor: LevelEffects, values: Any) -> Tensor:
        known = [tuple(map(str, one)) for one in factor.levels]
        asked = known if values is None else [tuple(map(str, np.atleast_1d(one))) for one in _listed(values)]
        strange = [one for one in asked if one not in known]
        if strange:
            raise ValueError(f"{self.label} has no level {strange[0]!r}. Known: {', '.join(map(str, known[:8]))}.")
        places = torch.tensor([known.index(one) for one in asked], device=self.coef.device)
        return torch.eye(len(known), dtype=torch.float64, device=self.coef.device)[places]

    def _values(self, factor: Smooth, values: Any) -> np.ndarray:
        """(d, m) the variables at what was given."""
        if values is None:
            return self.grid.T
        columns = self.columns
        if isinstance(values, Mapping) or hasattr(values, "columns"):
            lacking = [name for name in columns if name not in values]
            if lacking:
                raise ValueError(f"{self.label} needs the columns {', '.join(columns)}; {lacking[0]!r} is not given.")
            given = [self._numbers(values[name]) for name in columns]
        else:
            table = self._numbers(values.cpu() if isinstance(values, Tensor) else values)
            table = table[:, None] if table.ndim == 1 else np.atleast_2d(table)
            if table.ndim != 2 or table.shape[1] != len(columns):
                raise ValueError(
                    f"{self.label} has the columns {', '.join(columns)}: give (m, {len(columns)}) values, "
                    f"got {table.shape}."
                )
            given = list(table.T)
        rows = _Given(dict(zip(columns, given, strict=True)))
        found = np.stack([np.asarray(one.evaluate(rows, {}), np.float64) for one in factor.call.variables])
        if not np.isfinite(found).all():
            raise ValueError(f"{self.label} is asked for at values that are not finite.")
        return found

    def _numbers(self, values: Any) -> np.ndarray:
        try:
            return np.asarray(values, np.float64)
        except (TypeError, ValueError):
            raise ValueError(f"{self.label} is asked for at values that are no numbers, {values!r}.") from None

    def _tensor(self, columns: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(columns.T)).to(self.coef.device)

    def __repr__(self) -> str:
        return f"SmoothTerm({self.label!r}, {len(self.places)} coefficients)"


def _sums(result: Fitted) -> tuple[Tensor, Tensor, Tensor]:
    """(B, p, p) what the rows tell of the coefficients, the inverse of its sum with the penalty, and that penalty.

    Beside random effects the first is what is left where these are integrated over.
    """
    flat, penalty = result.flat, result.penalty
    assert isinstance(penalty, Quadratic)
    inverse, whole = flat.root.inverse(), penalty.ridge(flat.coef, flat.nobs)
    if flat.modes is None:
        return flat.gram.written_out().cpu(), inverse.cpu(), whole.cpu()
    aliased = torch.diag_embed((~flat.keep).to(inverse.dtype))
    return (torch.linalg.pinv(inverse + aliased, hermitian=True) - aliased - whole).cpu(), inverse.cpu(), whole.cpu()


@dataclass(frozen=True)
class _Given:
    """Columns by name, as an expression reads them."""

    columns: dict[str, np.ndarray]

    def values(self, name: str) -> np.ndarray:
        return self.columns[name]


def smooths(result: Fitted) -> dict[str, SmoothTerm]:
    """The smooth terms of a fit by their labels, `s(x)` or `s(x):dose`, in the order of the formula.

    Those of a further predictor begin with its name, and so do those that each class has one of, `1:s(x)`. Empty where
    there are none.
    """
    spec, found, start, block = result.spec, ByName[SmoothTerm]("smooth term"), 0, 0
    if spec is None:
        return found
    for factors, prefix, count in spec.pieces:
        for factor in factors:
            if not isinstance(factor, PENALISED):
                continue
            for part in factor.parts:
                columns = list(range(start + part.places.start, start + part.places.stop))
                many = len(factor.penalties) // len(factor.parts)
                blocks = list(range(block, block + many))
                for predictor, places in _of_predictors(result, columns).items():
                    own = SmoothPart(predictor + prefix + part.label, part.places, part.level)
                    found[own.label] = SmoothTerm(result, factor, own, places, blocks)
                block += many
        start += count
    return found


def _of_predictors(result: Fitted, columns: list[int]) -> dict[str, list[int]]:
    """The coefficients of columns of the design, by the predictor where several have some of their own."""
    plan, family = result.plan, result.family
    if plan is None or not isinstance(family, VectorFamily):
        return {"": columns}
    found = dict[str, list[int]]()
    for block, place in zip(plan.blocks, plan.slices, strict=True):
        if not set(columns) <= set(block.columns):
            continue
        m, own = len(block.columns), [block.columns.index(column) for column in columns]
        for t, entries in enumerate(block.entries):
            found[f"{family.predictors[entries[0][0]]}:"] = [place.start + t * m + j for j in own]
    return found if len(found) > 1 else {"": next(iter(found.values()))}


def _listed(values: Any) -> list[Any]:
    return list(values.tolist() if isinstance(values, Tensor) else values)
