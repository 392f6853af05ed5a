"""What `fit` is told beside its data, checked; and what it says of how it ended."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from torchglm import inputs
from torchglm.design.factors import shown
from torchglm.fitting.apart import Apart
from torchglm.fitting.bias import Jeffreys
from torchglm.fitting.kernel import design_triangle
from torchglm.fitting.linalg import null_space_free
from torchglm.fitting.penalties import Penalty
from torchglm.fitting.penalties.base import is_number
from torchglm.fitting.progress import Progress
from torchglm.fitting.state import Solution
from torchglm.fitting.status import FitWarning, Status
from torchglm.inference.adequacy.sentences import set_apart
from torchglm.inputs import Data
from torchglm.links import Link
from torchglm.model.ends import ends
from torchglm.model.scales import check_scales
from torchglm.rows.grams import Unmade
from torchglm.rows.inverses import unmade
from torchglm.writing.warning import tell

MOST_STEPS = 10**9
NAMED = 3  # models of a kind that a warning names
SINGULAR = ("drop", "minnorm", "error")
ESTIMATED = ("pearson", "deviance", "ml", "fletcher")
SMALLEST, LARGEST = 1e-100, 1e100  # dispersions beside which sums are still numbers
LIVE = ("l1", "l2", "strength", "centre")  # of a penalty, what may require grad


def check_dispersion(dispersion: Any) -> None:
    """Raise `ValueError` for what is no dispersion, nor a way to estimate one."""
    if dispersion is None or isinstance(dispersion, str) and dispersion in ESTIMATED:
        return
    one = isinstance(dispersion, Tensor) and dispersion.numel() == 1 and dispersion.dtype != torch.bool
    if not (one or is_number(dispersion)) or not SMALLEST <= float(dispersion) <= LARGEST:
        raise ValueError(
            f"dispersion must be {', '.join(map(repr, ESTIMATED))} or a number above 0 ({SMALLEST:g} to {LARGEST:g}), "
            f"got {dispersion!r}."
        )


def check_options(
    tol: Any,
    max_iter: int,
    singular: str,
    penalty: Any,
    names: Any,
    dtype: torch.dtype | None,
    dispersion: Any = None,
) -> None:
    """Raise `ValueError` or `TypeError` for options that cannot be meant."""
    if not isinstance(tol, Real):
        raise TypeError(f"tol must be a number between 0 and 1, got {tol!r}. The default is 1e-8.")
    if not 0 < float(tol) < 1:
        raise ValueError(f"tol must lie between 0 and 1, got {tol}. The default is 1e-8.")
    if isinstance(max_iter, bool) or not isinstance(max_iter, int) or not 1 <= max_iter <= MOST_STEPS:
        raise ValueError(f"max_iter must be a whole number from 1 to {MOST_STEPS}, got {max_iter}. The default is 50.")
    if singular not in SINGULAR:
        raise ValueError(f"singular must be one of {', '.join(SINGULAR)}, got {singular!r}.")
    if penalty is not None and not isinstance(penalty, (Penalty, Jeffreys)):
        raise TypeError(f"penalty must be a penalty such as torchglm.Ridge(0.1), got {penalty!r}.")
    if isinstance(names, str):
        raise TypeError(f"names must be a list, one name for each column, got the text {names!r}.")
    if names is not None and not all(isinstance(name, str) for name in names):
        raise TypeError(f"names must be text, one for each column, got {list(names)!r}.")
    if dtype not in (None, torch.float32, torch.float64):
        raise ValueError(f"dtype must be torch.float32 or torch.float64, got {dtype}. Sums are float64 with both.")
    check_dispersion(dispersion)


def tell_of_graph(values: Mapping[str, Any], penalty: Any) -> None:
    """Warn of what requires grad: a fit has none."""
    if not torch.is_grad_enabled():
        return
    if penalty is None and not any(isinstance(value, (Tensor, Mapping)) for value in values.values()):
        return
    parts = {name: list(value.values()) if isinstance(value, Mapping) else [value] for name, value in values.items()}
    parts["penalty"] = [getattr(penalty, name, None) for name in LIVE]
    names = [name for name, own in parts.items() if any(isinstance(v, Tensor) and v.requires_grad for v in own)]
    if names:
        tell(
            f"{' and '.join(names)} require{'s' * (len(names) == 1)} grad, and a fit gives no gradient. "
            "torchglm.solve gives coefficients that have one; .detach() says that none is wanted.",
            FitWarning,
        )


def device_of(device: str | torch.device | None) -> torch.device | None:
    """The device that was asked for. Raises `ValueError` for one that is not here."""
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


def start_of(start: Any, data: Data) -> Tensor:
    """The first coefficients (B, p). Raises `ValueError` for another shape."""
    first = inputs.tensor(start, "start", data.device).to(torch.float64)
    want = (*data.batch, data.columns)
    if first.shape != want and first.shape != want[-1:]:
        raise ValueError(
            f"start has shape {tuple(first.shape)}; pass one value for each coefficient, {want}, "
            "with the intercept first where there is one."
        )
    inputs.finite(first, "start")
    return first.expand(want).reshape(-1, data.columns).clone()


def check_resume(resume: Progress | None, start: Any, data: Data) -> None:
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


def without_aliases(solution: Solution, data: Data, singular: str) -> Solution:
    """The solution of least length where columns are aliased. Raises `ValueError` where that was called an error."""
    aliased = (~solution.keep).any(-1)
    if data.skip is not None:
        aliased = aliased & ~data.skip
    if not bool(aliased.any()):
        return solution
    index = aliased.nonzero()[:, 0]
    if singular == "error":
        dropped = [data.names[j] for j in (~solution.keep[index]).any(0).nonzero()[:, 0].tolist()]
        raise ValueError(
            f"the columns {', '.join(dropped)} depend on {_before(data)}. Drop them, or pass "
            "singular='drop' or 'minnorm', or a penalty."
        )
    triangle = design_triangle(data.source, index)
    coef = solution.coef.clone()
    coef[index] = null_space_free(coef[index], triangle, 1e-10)
    return replace(solution, coef=coef, minnorm=True)


def _regular(solution: Solution) -> bool:
    """Whether there is nothing to say of one model: no column was dropped, no step shortened, and it converged."""
    if solution.status.numel() > 1 or isinstance(solution.moments.gram, Unmade):
        return False
    return int(solution.status) == int(Status.CONVERGED) and not bool(solution.cut) and bool(solution.keep.all())


def _saturated(solution: Solution) -> Solution:
    """The solution of a batch, models without a degree of freedom left marked."""
    full = solution.moments.count <= solution.keep.sum(-1)
    # what is left of a deviance of nothing is rounding, along which a search may stall
    regular = (solution.status == int(Status.CONVERGED)) | (solution.status == int(Status.STALLED))
    return replace(solution, status=torch.where(regular & full, int(Status.SATURATED), solution.status))


def warned(
    solution: Solution,
    data: Data,
    link: Link,
    penalty: Penalty | None,
    apart: Apart | None = None,
    singular: str = "drop",
) -> Solution:
    """One warning for columns that were dropped and one for models that did not end at a regular maximum.

    Of a batch they say how many models, and the first by name. Returns the solution, in which models of a batch without
    a degree of freedom left are marked (a penalty leaves some), and dropped columns are what `singular` says.
    """
    if not data.batch and _regular(solution):
        return solution
    check_scales(solution, data)
    if singular != "drop":
        solution = without_aliases(solution, data, singular)
    solution = _saturated(solution) if data.batch and penalty is None else solution
    fitted = solution.status != int(Status.NOT_FINITE)
    lost = ~solution.keep & fitted.unsqueeze(-1)
    if bool(lost.any()):
        each = lost.any(0)
        none = (solution.moments.gram.diagonal() == 0) | solution.keep | ~fitted.unsqueeze(-1)
        empty = each & none.all(0) & (not _absorbed(data))
        parts = {
            f"aliased columns (they depend on {_before(data)})": each & ~empty,
            "aliased columns without rows (levels that do not occur, or nothing but zeros)": empty,
        }
        aliased = [
            f"{what}{f' in {_counted(lost[:, which].any(-1), data)}' if data.batch else ''}: "
            + ", ".join(data.names[j] for j in which.nonzero()[:, 0].tolist())
            for what, which in parts.items()
            if bool(which.any())
        ]
        instead = (
            "The solution of least length stands for all others" if solution.minnorm else ("Their coefficients are NaN")
        )
        tell(f"{'; '.join(aliased)}. {instead}; df use the rank.", FitWarning)
    if isinstance(solution.moments.gram, Unmade):
        tell(f"no standard errors: {unmade(solution.coef.shape[-1])}", FitWarning)
    irregular = solution.status != int(Status.CONVERGED)
    if math.isfinite(link.lower) and bool((solution.cut & ~irregular).any()):
        tell(
            f"steps were shortened to keep eta > {link.lower:g}, where the link {link.name} is one to one; "
            "the maximum found is the one inside. A log link has no such edge.",
            FitWarning,
        )
    kinds = [Status(code) for code in sorted(set(solution.status[irregular].cpu().tolist()))]
    said = [
        f"{f'{_counted(solution.status == int(kind), data)}: ' if data.batch else ''}{kind}: {kind.explanation}"
        for kind in kinds
    ]
    if apart is not None and Status.SEPARATED_LEVELS in kinds:
        levels, rows = int(apart.levels.sum()), float(apart.rows.sum())
        said[kinds.index(Status.SEPARATED_LEVELS)] += f" {set_apart(data.names, apart.infinite, levels, rows)}"
    said += ends(solution, data)
    if said:
        tell(("\n" if data.batch else " ").join(said), FitWarning)
    return solution


def _absorbed(data: Data) -> list[str]:
    """The names of the factors that were absorbed."""
    spec = data.context.get("spec")
    return [] if spec is None else list(spec.absorbed_levels)


def _before(data: Data) -> str:
    """What aliased columns depend on."""
    names = _absorbed(data)
    return f"the absorbed factors {', '.join(names)}, or on columns before them" if names else "those before them"


def _counted(models: Tensor, data: Data) -> str:
    """How many of a batch, and the names of the first."""
    found = models.nonzero()[:, 0]
    names = [_name(i, data) for i in found[:NAMED].tolist()]
    return f"{len(found):,} of {len(models):,} models ({', '.join(names)}{', …' if len(found) > NAMED else ''})"


def _name(model: int, data: Data) -> str:
    """A group by its keys, or the place of a model in its batch."""
    groups, keys = data.context.get("groups"), data.context.get("group_names")
    if groups is None or keys is None:
        return f"[{', '.join(str(int(i)) for i in torch.unravel_index(torch.tensor(model), data.batch))}]"
    return " ".join(f"{key}={shown(value)}" for key, value in zip(keys, groups[model], strict=True))
