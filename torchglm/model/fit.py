"""The front door: from what a user has at hand to a Result."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchglm import families, inputs, links
from torchglm.design import is_source
from torchglm.families import Family
from torchglm.fitting.alternate import solve
from torchglm.fitting.kernel import design_triangle
from torchglm.fitting.linalg import null_space_free
from torchglm.fitting.penalties import Penalty
from torchglm.fitting.progress import Observer, Progress
from torchglm.fitting.state import Solution
from torchglm.fitting.status import FitWarning, Status
from torchglm.inference.build import build
from torchglm.inputs import Data, Roles
from torchglm.links import Link
from torchglm.model.result import Result

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from torchglm.inputs.roles import RoleValues

SINGULAR = ("drop", "minnorm", "error")


def fit(
    x: Any,
    y: Any = None,
    *,
    family: str | Family,
    link: str | Link | None = None,
    intercept: bool = True,
    penalty: Penalty | None = None,
    dispersion: str | float | None = None,
    names: Sequence[str] | None = None,
    start: Any = None,
    tol: float = 1e-8,
    max_iter: int = 50,
    singular: str = "drop",
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    by: str | Sequence[str] | None = None,
    missing: str = "error",
    unseen: str = "error",
    rare: int = 0,
    observe: Observer | None = None,
    resume: Progress | None = None,
    **roles: Unpack[RoleValues],
) -> Result:
    """Fit a generalised linear model, or many at once, by maximum likelihood: `g(E[y]) = x coef + offset`.

    Args:
        x: `(n, p)` numbers (tensor, array, data frame), shared by all models, or `(*B, n, p)`; or a formula
            such as `"claims ~ age + C(region)"`; or a re-iterable loader of batches (`y` is then None).
        y: `(n,)` or a column `(n, 1)`, or `(*B, n)` for a batch of models, each row the response of one (batches and
            `head.loss` have responses in columns); with a formula the data frame or table, or the path of CSV or
            Parquet files (a glob, a folder, a list), or chunks: a list of tables, an Arrow dataset, or a function that
            returns an iterator of tables. Both are read again at each step where they are too large to hold.
        family, link: objects or names; `link=None` is the family's default.
        intercept: put a column of ones in front (a formula decides for itself).
        penalty: `Ridge` or `ElasticNet`; the default is none.
        dispersion: None or `"pearson"`, `"deviance"`, `"ml"`, or a number; for families without one, a value
            other than None asks for quasi-likelihood.
        names: of the columns of `x`.
        start: first coefficients, `(*B, p)` with the intercept.
        tol, max_iter: of the solver, see `irls`.
        singular: what aliased columns become: `"drop"` (NaN, with a warning), `"minnorm"` or `"error"`.
        device, dtype: where the data are held and in which precision; sums are float64 everywhere.
        by: columns whose groups get a model each, fitted in one call (formula only).
        missing: `"error"` or `"drop"` for rows with missing values (formula only).
        unseen: what a level never seen counts as when predicting: `"error"`, `"reference"` or `"other"` (formula only).
        rare: levels with fewer rows are pooled into one level `"other"`; `unseen="other"` needs it (formula only).
        observe: called after every accepted step with a `Progress`, from which a later fit can go on as `resume`.
        weights: prior weights, `phi_i = phi / w_i`; `freq`: repeats of a row. A zero drops the row.
        offset: added to the linear predictor; `exposure`: its logarithm is (links with rates).
        trials: binomial totals, `y` then being counts; `event`: 1 seen, 0 right-censored (exponential).

    The last six are the roles, `(n,)` or like `y`; with a formula they may be names of columns. Where
    `torch.distributed` is initialised, the rows of files are shared out to its processes, which all call `fit` and get
    the same result. Raises `ValueError` or `TypeError` for data that do not fit together, are not finite or lie outside
    the family's support.
    """
    family = families.get(family)
    chosen = family.default_link if link is None else links.get(link)
    _check_options(tol, max_iter, singular, penalty, names, dtype)
    beside = Roles.of(roles, "fit")
    beside.check_link(chosen)
    where = _device(device)
    policies = {"missing": missing, "unseen": unseen, "rare": rare}
    if isinstance(x, str) and (names is not None or not intercept):
        raise ValueError(
            "a formula names its columns and decides on its intercept ('y ~ a - 1' has none). Leave out "
            "names= and intercept=."
        )
    if isinstance(x, str) and _piecewise(y):
        if by is not None:
            raise ValueError("by= sorts rows in memory: pass a table, torchglm.tables.read_table(path).")
        data = inputs.from_files(x, y, family, beside, policies, where, dtype)
    elif isinstance(x, str):
        data = inputs.from_formula(x, y, family, beside, by, policies, where, dtype)
    elif by is not None:
        raise ValueError("by= needs a formula and a data frame: fit('y ~ a', data, by='group', ...).")
    elif y is None and inputs.is_loader(x):
        data = inputs.from_loader(x, family, chosen, beside, intercept, names, where, dtype)
    else:
        data = inputs.from_arrays(x, y, family, beside, intercept, names, where, dtype)
    penalty = None if penalty is None else penalty.expand(data.constant, data.columns)
    first = None if start is None else _start(start, data)
    _check_resume(resume, start, data)
    options = {
        "penalty": penalty,
        "tol": tol,
        "max_iter": max_iter,
        "rank_tol": 1e-6 if data.single else 1e-12,
        "skip": data.skip,
    }
    family, solution = solve(data.source, family, chosen, first, options, observe, resume)
    if singular != "drop":
        solution = _resolve_aliases(solution, data, singular)
    _warn(solution, data.names, data.batch, chosen)
    fitted = build(
        solution,
        data.source,
        family,
        chosen,
        data.batch,
        data.names,
        constant=data.constant,
        penalty=penalty,
        dispersion=dispersion,
        tol=tol,
        context=data.context,
    )
    return Result.of(fitted)


def _piecewise(data: Any) -> bool:
    """Whether the rows of a formula are to be read piece by piece."""
    return is_source(data)


def attach(result: Result, x: Any, y: Any, roles: Roles) -> Result:
    """The fit with rows to look at; see `Result.with_rows`."""
    roles.check_link(result.link)
    device = result.coef.device
    named = Roles(**{**(result.context.get("columns") or {}), **roles.given})
    keys = result.group_names or []
    if result.spec is not None and y is None and _piecewise(x):
        if keys:
            raise ValueError(
                f"the models are those of {', '.join(keys)}, whose rows are sorted in memory. Pass a "
                "table, torchglm.tables.read_table(path)."
            )
        return result.on(inputs.rows_by_spec(x, result.spec, result.family, named, device))
    if result.spec is not None and y is None:
        design = result.spec.design(x, response=True, also=[*named.columns.values(), *keys])
        data = inputs.from_design(design, result.family, named, keys, device, None)
        if data.context.get("groups") != result.groups:
            raise ValueError("the groups of these rows are not those of the fit. Pass the rows it was fitted on.")
    else:
        first = result.names[:1] == ["(Intercept)"]
        data = inputs.from_arrays(x, y, result.family, roles, first, result.names[int(first) :], device, None)
    if data.batch != result.batch_shape or data.columns != len(result.names):
        raise ValueError(
            f"the rows have batch {tuple(data.batch)} and {data.columns} columns, the fit "
            f"{tuple(result.batch_shape)} and {len(result.names)}. Pass the rows it was fitted on."
        )
    return result.on(data.source)


def _check_options(
    tol: float, max_iter: int, singular: str, penalty: Any, names: Any, dtype: torch.dtype | None
) -> None:
    """Raise `ValueError` or `TypeError` for options that cannot be meant."""
    if not 0 < tol < 1:
        raise ValueError(f"tol must lie between 0 and 1, got {tol}. The default is 1e-8.")
    if isinstance(max_iter, bool) or not isinstance(max_iter, int) or max_iter < 1:
        raise ValueError(f"max_iter must be a whole number >= 1, got {max_iter}. The default is 50.")
    if singular not in SINGULAR:
        raise ValueError(f"singular must be one of {', '.join(SINGULAR)}, got {singular!r}.")
    if penalty is not None and not isinstance(penalty, Penalty):
        raise TypeError(f"penalty must be a penalty such as torchglm.Ridge(0.1), got {penalty!r}.")
    if isinstance(names, str):
        raise TypeError(f"names must be a list, one name for each column, got the text {names!r}.")
    if dtype not in (None, torch.float32, torch.float64):
        raise ValueError(f"dtype must be torch.float32 or torch.float64, got {dtype}. Sums are float64 with both.")


def _device(device: str | torch.device | None) -> torch.device | None:
    if device is None:
        return None
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        where = torch.device(device)
    except RuntimeError:
        raise ValueError(f"unknown device {device!r}. Use 'cpu', 'cuda', 'cuda:0' or 'auto'.") from None
    if where.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("device='cuda' was asked for and no CUDA device is here. Use device='cpu' or 'auto'.")
    return where


def _start(start: Any, data: Data) -> Tensor:
    first = inputs.tensor(start, "start", data.device).to(torch.float64)
    want = (*data.batch, data.columns)
    if first.shape != want and first.shape != want[-1:]:
        raise ValueError(
            f"start has shape {tuple(first.shape)}; pass one value for each coefficient, {want}, "
            "with the intercept first where there is one."
        )
    inputs.finite(first, "start")
    return first.expand(want).reshape(-1, data.columns).clone()


def _check_resume(resume: Progress | None, start: Any, data: Data) -> None:
    """Raise `ValueError` for a state that is not of these models, or beside other first coefficients."""
    if resume is None:
        return
    if start is not None:
        raise ValueError("start= and resume= both say where to begin. Pass one of them.")
    want = (data.batch.numel(), data.columns)
    if tuple(resume.coef.shape) != want:
        raise ValueError(
            f"resume holds (models, coefficients) = {tuple(resume.coef.shape)}, these data give {want}: "
            "they are not those the fit began with. Begin anew, without resume."
        )


def _resolve_aliases(solution: Solution, data: Data, singular: str) -> Solution:
    aliased = (~solution.keep).any(-1)
    if data.skip is not None:
        aliased = aliased & ~data.skip
    if not bool(aliased.any()):
        return solution
    index = aliased.nonzero()[:, 0]
    if singular == "error":
        dropped = [data.names[j] for j in (~solution.keep[index]).any(0).nonzero()[:, 0].tolist()]
        raise ValueError(
            f"the columns {', '.join(dropped)} depend on those before them. Drop them, or pass "
            "singular='drop' or 'minnorm', or a penalty."
        )
    triangle = design_triangle(data.source, index)
    coef = solution.coef.clone()
    coef[index] = null_space_free(coef[index], triangle, 1e-10)
    return replace(solution, coef=coef, minnorm=True)


def _warn(solution: Solution, names: list[str], batch: torch.Size, link: Link) -> None:
    """One warning for columns that were dropped and one for models that did not end at a regular maximum."""
    fitted = solution.status != int(Status.NOT_FINITE)
    lost = (~solution.keep & fitted.unsqueeze(-1)).any(0)
    if bool(lost.any()):
        dropped = ", ".join(names[j] for j in lost.nonzero()[:, 0].tolist())
        instead = (
            "The solution of least length stands for all others" if solution.minnorm else ("Their coefficients are NaN")
        )
        warnings.warn(
            f"aliased columns (they depend on those before them): {dropped}. {instead}; df use the rank.",
            FitWarning,
            stacklevel=3,
        )
    failed = solution.status != int(Status.CONVERGED)
    if math.isfinite(link.lower) and bool((solution.cut & ~failed).any()):
        warnings.warn(
            f"steps were shortened to keep eta > {link.lower:g}, where the link {link.name} is one to one; "
            "the maximum found is the one inside. A log link has no such edge.",
            FitWarning,
            stacklevel=3,
        )
    if not bool(failed.any()):
        return
    kinds = [Status(int(code)) for code in solution.status[failed].unique()]
    many = "" if not batch else f"{int(failed.sum())} of {failed.numel()} models: "
    warnings.warn(many + " ".join(f"{kind}: {kind.explanation}" for kind in kinds), FitWarning, stacklevel=3)
