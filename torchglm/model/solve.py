"""`solve`: fitted coefficients as a differentiable function of the data."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchglm import inputs
from torchglm.families import Family, NegativeBinomial
from torchglm.families.several import Classes, VectorFamily
from torchglm.fitting.implicit import Equations, Given, Implicit
from torchglm.fitting.irls import irls
from torchglm.fitting.penalties import ElasticNet, Penalty, Quadratic, Ridge
from torchglm.fitting.state import Solution
from torchglm.fitting.status import FitWarning, Status, converged
from torchglm.inputs import Data, Roles, live_design, live_rows
from torchglm.links import Link
from torchglm.model.options import LIVE, check_options, start_of
from torchglm.model.solved import penalty_of
from torchglm.model.sources import family_and_link
from torchglm.special.tracing import apart_from_graphs, values_are_known
from torchglm.writing.answering import answering
from torchglm.writing.warning import tell

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from torchglm.inputs.roles import RoleValues

FAILED = ("nan", "error")


@answering
@apart_from_graphs
def solve(
    x: Any,
    y: Any,
    *,
    family: str | Family | type[Family],
    link: str | Link | type[Link] | None = None,
    intercept: bool = True,
    penalty: Penalty | None = None,
    strength: float | Tensor | None = None,
    predictors: Mapping[str, Any] | None = None,
    start: Any = None,
    tol: float = 1e-10,
    max_iter: int = 50,
    failed: str = "nan",
    **roles: Unpack[RoleValues],
) -> Tensor:
    """The coefficients `(*B, p)` of `fit` as a tensor that has derivatives by all it was made of.

    `x` `(n, p)` or `(*B, n, p)`, `y` `(*B, n)`, `predictors={"dispersion": z}` and the roles are tensors as for `fit`,
    of one predictor or several, and any of them may require grad, as may the strengths of a `penalty` and the `centre`
    it draws coefficients to (`Ridge`, `ElasticNet`, `Quadratic`); `strength` is short for `penalty=Ridge(strength)`: a
    number, one for each column, or `(*B, 1)`. The backward pass is one solve with the observed information and one
    vector-Jacobian product, whatever way the fit went, and has derivatives itself. Coefficients are in the dtype of `x`
    and in the order of `fit`: the intercept first, thresholds behind.

    `failed` says what becomes of a model that did not end at a regular maximum (separated, not converged, columns that
    depend on others), where no derivative exists: `"nan"` leaves NaN in its coefficients, and in derivatives of a loss
    that they are part of, with a `FitWarning`; `"error"` raises. A row of weight 0 has a derivative by its weight, but
    where it holds no response.

    Raises `ValueError` as `fit` does, for a family that estimates its shape without a predictor for it, for failed
    models with `failed="error"`, and for strengths that are to be estimated.
    Source: Krantz & Parks (2003), The Implicit Function Theorem.
    """
    if not values_are_known(x if isinstance(x, Tensor) else None):
        raise ValueError(
            "solve looks at values, which no torch.func transform and no meta tensor has. It takes many models at "
            "once, x (*B, n, p), and torch.autograd differentiates it."
        )
    if failed not in FAILED:
        raise ValueError(f"failed must be one of {', '.join(map(repr, FAILED))}, got {failed!r}.")
    family, link = family_and_link(family, link, predictors)
    check_options(tol, max_iter, "drop", penalty, None, None)
    beside = Roles.of(roles, "solve")
    beside.check_link(link)
    inputs.check_row_labels({"x": x, "y": y, **beside.given, **(predictors or {})})
    x = x if isinstance(x, Tensor) else inputs.tensor(x, "x")
    _check(x, y, family)
    columns = dict(predictors or {})
    data = (
        inputs.several_from_arrays(x, y, family, beside, intercept, None, None, None, columns)
        if isinstance(family, VectorFamily)
        else inputs.from_arrays(x, y, family, beside, intercept, None, None, None)
    )
    if data.plan is not None and data.family is not None:
        family, link = data.family, data.family.default_link
    known = _penalty(penalty, strength, data)
    found = irls(
        data.source,
        family,
        link,
        penalty=known,
        start=None if start is None else start_of(start, data),
        tol=tol,
        max_iter=max_iter,
        skip=data.skip,
        rank_tol=1e-6 if data.single else 1e-12,
    )
    sound = _sound(found, data, failed)
    parts = Parts(x, y, columns, beside, known, intercept, data, family)
    same = family.is_canonical(link) and (known is None or known.smooth)  # the fit has the observed information
    root = found.root if same else None
    equations = Equations(family, link, parts.given, _known(found, known) & sound.unsqueeze(-1), root)
    coef = Implicit.apply(equations, found.coef, sound, *parts.tensors)
    return coef.reshape(*data.batch, data.columns).to(torch.float32 if data.single else torch.float64)


class Parts:
    """The tensors that a fit was made of, by which it has derivatives, and the way from them to rows and penalty."""

    def __init__(
        self,
        x: Any,
        y: Any,
        predictors: Mapping[str, Any],
        roles: Roles,
        penalty: Penalty | None,
        intercept: bool,
        data: Data,
        family: Family,
    ) -> None:
        [rows] = data.source
        self.penalty, self.intercept, self.data, self.family = penalty, intercept, data, family
        self.codes = rows.y.reshape(*data.batch, -1) if isinstance(family, Classes) else None
        columns = {name: value for name, value in predictors.items() if not isinstance(value, str)}
        held = ({"x": x, "y": y} if self.codes is None else {"x": x}) | {
            f"predictors:{name}": value for name, value in columns.items()
        }
        held |= {f"roles:{name}": value for name, value in roles.given.items()}
        live = {name: _live(value, name, data.device) for name, value in held.items()}
        self.names = [*live, *(f"penalty:{name}" for name in _strengths(penalty))]
        self.tensors = [*live.values(), *_strengths(penalty).values()]

    def given(self, tensors: Sequence[Tensor]) -> Given:
        """Rows and penalty of other tensors in the place of `tensors`."""
        now = dict(zip(self.names, tensors, strict=True))

        def of(kind: str) -> dict[str, Tensor]:
            return {name.partition(":")[2]: value for name, value in now.items() if name.startswith(f"{kind}:")}

        design = live_design(now["x"], of("predictors"), self.family)
        y = now["y"].double().reshape(*self.data.batch, -1) if self.codes is None else self.codes
        rows = live_rows(design, y, Roles(**of("roles")), self.family, self.intercept, self.data.plan)
        return rows, _with_strengths(self.penalty, of("penalty"))


def _live(value: Any, name: str, device: torch.device) -> Tensor:
    """A tensor in its graph."""
    return value.to(device) if isinstance(value, Tensor) else inputs.tensor(value, name, device)


def _strengths(penalty: Penalty | None) -> dict[str, Tensor]:
    """Name -> the tensors of a penalty: its strengths, and what it draws coefficients to."""
    if penalty is None:
        return {}
    found = {name: getattr(penalty, name, None) for name in LIVE}
    return {name: value for name, value in found.items() if isinstance(value, Tensor)}


def _with_strengths(penalty: Penalty | None, strengths: dict[str, Tensor]) -> Penalty | None:
    """The same penalty with others."""
    other = penalty.with_strength(strengths["strength"]) if isinstance(penalty, Quadratic) else copy.copy(penalty)
    for name, value in strengths.items():
        setattr(other, name, value)
    return other


def _penalty(penalty: Penalty | None, strength: float | Tensor | None, data: Data) -> Penalty | None:
    """The penalty on the coefficients. Raises `ValueError` for two, and for strengths that are to be estimated."""
    if strength is not None:
        if penalty is not None:
            raise ValueError("penalty= has its strength, and strength= is that of a Ridge. Give one of them.")
        penalty = Ridge(strength)
    limited = isinstance(penalty, Quadratic) and bool(penalty.nonnegative)
    if penalty is not None and (type(penalty) not in (Ridge, ElasticNet, Quadratic) or limited):
        raise ValueError(
            f"solve has derivatives through Ridge, ElasticNet and Quadratic without limits, got {penalty!r}. Fit it by "
            "torchglm.fit, without derivatives."
        )
    placed = penalty_of(penalty, data)
    if isinstance(placed, Quadratic) and placed.method is not None:
        raise ValueError(f"strength={placed.method!r} is estimated by torchglm.fit alone. Give solve numbers, tensors.")
    assert placed is None or isinstance(placed, Penalty)
    return placed


def _check(x: Any, y: Any, family: Family) -> None:
    """Raise `ValueError` for what `fit` takes and `solve` does not."""
    if y is None:
        raise ValueError("solve takes tensors x and y. The columns of a formula are result.spec.design(table).numbers.")
    if family.estimates_shape and not isinstance(family, VectorFamily):
        name = "alpha" if isinstance(family, NegativeBinomial) else "power"
        raise ValueError(
            f"{family.name} estimates its {name} here. Give it a number, or predictors={{{name!r}: '~ 1'}}, whose "
            "coefficients stand behind the others and have derivatives, too."
        )
    if isinstance(family, Classes):
        if isinstance(y, Tensor) and y.requires_grad:
            raise ValueError("y holds classes, by which nothing has a derivative. Pass y.detach().")
        if inputs.is_counts(x, y):
            raise ValueError("solve takes a class for each row. Give counts of classes as freq= or weights= of rows.")


def _known(found: Solution, penalty: Penalty | None) -> Tensor:
    """(B, P) the coefficients that solve equations: no l1 penalty holds them at zero."""
    return found.keep if penalty is None else found.keep & penalty.free(found.coef, found.moments.weight)


def _sound(found: Solution, data: Data, failed: str) -> Tensor:
    """(B,) the models with a regular maximum; of the others a warning, or an error."""
    regular, whole = converged(found.status), found.keep.all(-1)
    sound = regular & whole
    if bool(sound.all()):
        return sound
    kinds = [Status(int(code)) for code in found.status[~regular].unique()]
    said = [f"{kind}: {kind.explanation}" for kind in kinds]
    if not bool(whole[regular].all()):
        lost = [data.names[j] for j in (~found.keep[regular]).any(0).nonzero()[:, 0].tolist()]
        said.append(
            f"Columns depend on others, or no row tells of them: {', '.join(lost)}. Drop them, or use strength=."
        )
    many = f" of {len(sound):,} models" if len(sound) > 1 else ""
    text = f"{int((~sound).sum()):,}{many or ' model'} without a regular maximum, and so without derivatives. "
    if failed == "error":
        raise ValueError(text + " ".join(said))
    tell(text + "Coefficients are NaN there. " + " ".join(said), FitWarning)
    return sound
