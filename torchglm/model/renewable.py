"""Renewable estimation: a GLM learned from a stream, one minibatch at a time, with no row kept.

model = Renewable("poisson", "log", columns=3)
for x, y in stream:
    model.update(x, y)
model.coef, model.std_err
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchglm import families, links
from torchglm.families import Family
from torchglm.fitting.irls import irls, pull
from torchglm.fitting.kernel import fold
from torchglm.fitting.moments import Point
from torchglm.fitting.penalties import Around
from torchglm.fitting.problem import Problem
from torchglm.fitting.search import Search
from torchglm.fitting.state import Solution
from torchglm.fitting.status import Status
from torchglm.inference.online_summary import StreamSummary, information_bend, inverted, pearson_slopes
from torchglm.inputs import Roles, minibatch, own_names, unpacked
from torchglm.links import Link
from torchglm.rows.rows import Rows
from torchglm.special.tracing import apart_from_graphs
from torchglm.writing.answering import answering_init, answering_methods

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from torchglm.inputs.roles import RoleValues

MAX_STEPS = 50
TOL = 1e-12  # of the Newton decrement, as a share of the minibatch's deviance; the last step is taken
PIVOT = 1e-12  # of the scaled information of the first minibatch: below it columns depend on each other


@answering_methods
@answering_init
class Renewable:
    """Maximum likelihood for a stream: each minibatch renews the coefficients from a summary of all before it.

    The coefficients `b` after a minibatch with log-likelihood `l` maximise
    `l(b) - (b - b0)' J (b - b0) / 2`, with `b0` and `J` the coefficients and the information so far; then `J`
    gains the minibatch's information at `b`. One minibatch is IRLS; for least squares any number of them is, too;
    else the difference from the fit of all rows vanishes against its standard error as rows come in.

    `columns` counts those of `x`; `intercept` adds one of ones in front. `forgetting` in (0, 1] is what an update
    leaves of all before it (1: nothing is forgotten), so that about the last `1 / (1 - forgetting)` minibatches
    speak. The covariance is `phi A^-1 S A^-1`, `A` the expected information (the observed one of a minibatch with
    `event`) and `S` its sum with squared shares: with no forgetting `phi A^-1`. `phi` is Pearson's, over
    `count - tr(A^-1 S)`; it is 1 for families without dispersion. What old minibatches left of these is moved to the
    coefficients of today: Pearson's sum by its quadratic model, `A` and `S` by their linear models where there are at
    most 64 coefficients (beyond that they stay as they were, which costs a share of order `1 / sqrt(rows)`).
    Shape parameters (an `alpha`, a power) stay as they are.

    Raises `ValueError` for an unknown family or link, one whose shape is to be estimated, or numbers out of range,
    `TypeError` for what is no number.
    Source: Luo & Song (2020), J. R. Statist. Soc. B 82, 69-97.
    """

    def __init__(
        self,
        family: str | Family,
        link: str | Link | None,
        columns: int,
        intercept: bool = True,
        forgetting: float = 1.0,
    ) -> None:
        self.family = families.get(family)
        self.link = self.family.default_link if link is None else links.get(link)
        if isinstance(columns, bool) or not isinstance(columns, int):
            raise TypeError(f"columns must be a whole number, got {columns!r}. It is the number of columns of x.")
        if columns < 0 or columns + intercept < 1:
            raise ValueError(f"columns must be at least {1 - intercept}, got {columns}.")
        if self.family.estimates_shape:
            raise ValueError(
                f"the shape of the {self.family.name} family is to be estimated, and a stream cannot be "
                "read again for that. Give its value."
            )
        self.columns, self.intercept = columns, intercept
        self.forgetting = forgetting
        self._summary: StreamSummary | None = None
        self._names: list[str] | None = None  # of the columns, from the first minibatch that has them

    @property
    def forgetting(self) -> float:
        """The share of what is known that an update keeps."""
        return self._forgetting

    @forgetting.setter
    def forgetting(self, value: float) -> None:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"forgetting must be a number in (0, 1], got {value!r}. 1 forgets nothing.")
        if not 0 < value <= 1:
            raise ValueError(f"forgetting must lie in (0, 1], got {value}. 1 forgets nothing.")
        self._forgetting = float(value)

    @property
    def summary(self) -> StreamSummary:
        """What is kept of the rows. Raises `ValueError` before the first minibatch."""
        if self._summary is None:
            raise ValueError("No minibatch has come yet. Call update(x, y) first.")
        return self._summary

    @property
    def coef(self) -> Tensor:
        """The coefficients `(p,)`, the intercept first."""
        return self.summary.coef

    @property
    def nobs(self) -> int:
        """The rows of positive weight seen so far (their repeats), 0 before the first minibatch."""
        return 0 if self._summary is None else int(self._summary.nobs)

    @property
    def df_resid(self) -> Tensor:
        """The degrees of freedom of the dispersion: rows less coefficients where nothing is forgotten."""
        return self.summary.df_resid()

    @property
    def dispersion(self) -> Tensor:
        """Pearson's estimate of `phi`, 1 for a family without one; NaN while no degree of freedom is left."""
        if not self.family.has_dispersion:
            return torch.ones_like(self.summary.pearson)
        return self.summary.dispersion()

    @property
    def covariance(self) -> Tensor:
        """The covariance `(p, p)` of the coefficients."""
        inverse = self.summary.inverse()
        return self.dispersion * inverse @ self.summary.spread @ inverse

    @property
    def std_err(self) -> Tensor:
        """The standard errors `(p,)` of the coefficients."""
        return self.covariance.diagonal().sqrt()

    @apart_from_graphs
    @torch.no_grad()
    def update(self, x: Any, y: Any = None, **roles: Unpack[RoleValues]) -> Renewable:
        """Learn from one more minibatch: `x` (n, columns), `y` and the roles `(n,)`, as in `torchglm.fit`.

        A `GLMBatch` or a dict of its names may come as the one argument. Returns itself. Rows of weight zero are no
        rows, and a minibatch of them alone is none. Raises `ValueError` or `TypeError` for data that do not fit, are
        not finite or lie outside the support, and for a first minibatch with no regular maximum (too few rows,
        dependent columns, separation); nothing has changed then, and the rows can be offered again together with later
        ones.
        """
        x, y, beside = unpacked(x, y, Roles.of(roles, "update"))
        rows = minibatch(x, y, self.family, self.link, self.intercept, beside, self._names)
        if rows.x.shape[-1] != self.columns:
            raise ValueError(
                f"x has {rows.x.shape[-1]} columns, this stream {self.columns}. Pass the same columns in "
                "every minibatch."
            )
        used = rows.weight[0] > 0
        if not bool(used.any()):
            return self
        rows = rows if bool(used.all()) else rows.at(used)
        old = None if self._summary is None else self._summary.faded(self.forgetting)
        found = self._first(rows) if old is None else self._renewed(rows, old)
        self._summary = self._gained(rows, old, found, beside.event is not None)
        self._names = self._names or own_names(x)
        return self

    def state_dict(self) -> dict[str, Tensor]:
        """The summary as tensors by name, to save; empty before the first minibatch.

        Where the columns have names, `names` holds them: the bytes of a JSON list.
        """
        if self._summary is None:
            return {}
        names = {} if self._names is None else {"names": torch.tensor([*json.dumps(self._names).encode()]).byte()}
        return {f.name: getattr(self._summary, f.name).clone() for f in fields(StreamSummary)} | names

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a saved summary. Raises `ValueError` where it is not one of these columns, `TypeError` for another
        kind of thing."""
        if not isinstance(state, Mapping):
            raise TypeError(f"the state must be a dict as state_dict() returns it, got {type(state).__name__}.")
        strange = [f"{k!r}: {type(value).__name__}" for k, value in state.items() if not isinstance(value, Tensor)]
        if strange:
            raise TypeError(f"the state must hold tensors, got {', '.join(strange)}. Pass what state_dict() returned.")
        p = self.columns + self.intercept
        shapes = StreamSummary.shapes(p)
        state = dict(state)
        names = _read_names(state.pop("names", None), self.columns)
        given = {name: tuple(value.shape) for name, value in state.items()}
        if given and given != shapes:
            raise ValueError(
                f"the state holds {given}, a stream of {p} coefficients {shapes}. Load it into a "
                "Renewable of the same columns and intercept."
            )
        self._summary = (
            StreamSummary(**{name: value.to(torch.float64, copy=True) for name, value in state.items()})
            if given
            else None
        )
        self._names = names if given else None

    def __repr__(self) -> str:
        return f"Renewable({self.family.name}, {self.link.name}, columns={self.columns}, nobs={self.nobs})"

    # one minibatch ---------------------------------------------------------------------------------------

    def _first(self, rows: Rows) -> Solution:
        """The fit of the first minibatch."""
        found = irls(rows, self.family, self.link)
        status = Status(int(found.status[0]))
        if status != Status.CONVERGED or not bool(found.keep.all()):
            why = str(status.explanation) if status != Status.CONVERGED else "Columns depend on each other in it."
            raise ValueError(
                f"the first minibatch ({rows.y.shape[-1]} rows for {rows.columns} coefficients) has no "
                f"regular maximum. {why} Join it with later ones."
            )
        return found

    def _renewed(self, rows: Rows, old: StreamSummary) -> Solution:
        """The maximum of the minibatch's likelihood and the quadratic model of all before it."""
        known = Around(old.coef, old.curvature)
        problem = Problem.of([rows], rows, self.family, self.link, known, TOL, MAX_STEPS)
        search = Search(problem, known=old.coef.unsqueeze(0))
        pull(search, [rows])
        status = Status(int(search.solution.status[0]))
        if status != Status.CONVERGED:
            raise ValueError(_REFUSALS[status].format(family=self.family.name))
        return search.solution

    def _observed(self, rows: Rows, coef: Tensor) -> Tensor:
        """(p, p) the observed information of a minibatch."""
        return fold([rows], Point(coef, True), self.family, self.link).gram.written_out()[0]

    def _gained(self, rows: Rows, old: StreamSummary | None, found: Solution, censored: bool) -> StreamSummary:
        """The summary with a minibatch added at its maximum, the observed information throughout if `censored`."""
        coef, last = found.coef[0], found.moments
        expected, count = last.gram.written_out()[0], last.count[0]
        observed = expected if self.family.is_canonical(self.link) else self._observed(rows, found.coef)
        if old is None:
            self._check_rank(expected)
        old = StreamSummary.of_nothing(coef) if old is None else old.moved(coef)
        if not bool(inverted(old.curvature + observed).positive.all()):
            observed = expected
        censored = censored and bool(inverted(old.information + observed).positive.all())
        gain = observed if censored else expected
        new = replace(
            old,
            curvature=old.curvature + observed,
            information=old.information + gain,
            spread=old.spread + gain,
            count=old.count + count,
            nobs=old.nobs + count,
        )
        if self.family.has_dispersion:
            new = replace(new, pearson=old.pearson + last.pearson[0])
            slope, bow = pearson_slopes(rows, new, self.family, self.link)
            new = replace(new, pearson_slope=old.pearson_slope + slope, pearson_curvature=old.pearson_curvature + bow)
        bend = information_bend(rows, new, self.family, self.link, censored)
        return replace(new, bend=old.bend + bend, spread_bend=old.spread_bend + bend)

    @staticmethod
    def _check_rank(information: Tensor) -> None:
        if not bool(inverted(information).pivot > PIVOT):
            raise ValueError("columns of the first minibatch depend on each other nearly. Join it with later ones.")


_REFUSALS = {
    Status.ITERATION_LIMIT: f"{MAX_STEPS} Newton steps did not reach the maximum of this minibatch. Scale the columns, "
    "or check that link and family suit the response.",
    Status.SEPARATED: "the likelihood of this minibatch keeps rising as coefficients go to infinity, whatever was "
    "learned before. Join it with later ones.",
    Status.BOUNDARY: "the maximum of this minibatch, given what was learned before, lies on an edge of the means of "
    "the {family} family. Join it with later ones; a log link has no such edge.",
    Status.STALLED: "no step raises the likelihood of this minibatch given what was learned before. Look for rows of "
    "another kind in it, or scale the columns.",
    Status.INVALID_START: "no coefficients near those learned before give every row of this minibatch a mean in the "
    "range of the {family} family. A log link has no such edge.",
}


def _read_names(held: Tensor | None, columns: int) -> list[str] | None:
    """The names of columns out of a saved state. Raises `ValueError` for what is none."""
    if held is None:
        return None
    try:
        names = json.loads(bytes(held.tolist()))
    except (ValueError, TypeError):
        names = None
    if not isinstance(names, list) or len(names) != columns or not all(isinstance(name, str) for name in names):
        raise ValueError(f"the state's names are not those of {columns} columns. Pass what state_dict() returned.")
    return names
