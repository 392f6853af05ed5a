"""The front door: from what a user has at hand to a Result."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from torchglm import families, inputs, links
from torchglm.families import Family
from torchglm.fitting.irls import Solution, design_triangle, irls
from torchglm.fitting.linalg import null_space_free
from torchglm.fitting.moments import linear_predictor
from torchglm.fitting.penalties import Penalty
from torchglm.fitting.rows import Rows, wide
from torchglm.fitting.shape import alpha_ml, power_ml
from torchglm.fitting.status import FitWarning, Status
from torchglm.inference.result import Result, build
from torchglm.links import Link

SINGULAR = ("drop", "minnorm", "error")


@dataclass
class _Data:
    """The rows of a call, flattened to `B` models, and what is needed to speak of them."""

    rows: Rows
    batch: torch.Size
    names: list[str]
    skip: "Tensor | None" = None
    context: dict[str, Any] = field(default_factory=dict)


def fit(x: Any, y: Any = None, *, family: "str | Family", link: "str | Link | None" = None, weights: Any = None,
        freq: Any = None, offset: Any = None, exposure: Any = None, trials: Any = None, event: Any = None,
        intercept: bool = True, penalty: "Penalty | None" = None, dispersion: "str | float | None" = None,
        names: "Sequence[str] | None" = None, start: Any = None, tol: float = 1e-8, max_iter: int = 50,
        singular: str = "drop", device: "str | torch.device | None" = None, dtype: "torch.dtype | None" = None,
        by: "str | Sequence[str] | None" = None, missing: str = "error") -> Result:
    """Fit a generalised linear model, or many at once, by maximum likelihood: `g(E[y]) = x coef + offset`.

    Args:
        x: `(n, p)` numbers (tensor, array, data frame), shared by all models, or `(*B, n, p)`; or a formula
            such as `"claims ~ age + C(region)"`; or a re-iterable loader of batches (`y` is then None).
        y: `(n,)`, or `(*B, n)` for a batch of models; with a formula the data frame or table.
        family, link: objects or names; `link=None` is the family's default.
        weights: prior weights, `phi_i = phi / w_i`; `freq`: repeats of a row. A zero drops the row.
        offset: added to the linear predictor; `exposure`: its logarithm is (log links).
        trials: binomial totals, `y` then being counts; `event`: 1 seen, 0 right-censored (exponential).
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

    With a formula the per-row arguments are column names. Raises `ValueError` or `TypeError` for data that do
    not fit together, are not finite or lie outside the family's support.
    """
    family = families.get(family)
    chosen = family.default_link if link is None else links.get(link)
    if singular not in SINGULAR:
        raise ValueError(f"singular must be one of {', '.join(SINGULAR)}, got {singular!r}.")
    per_row = {"weights": weights, "freq": freq, "offset": offset, "exposure": exposure, "trials": trials,
               "event": event}
    where = _device(device)
    if isinstance(x, str):
        data = _from_formula(x, y, family, chosen, per_row, by, missing, where, dtype)
    elif by is not None:
        raise ValueError("by= needs a formula and a data frame: fit('y ~ a', data, by='group', ...).")
    else:
        data = _from_arrays(x, y, family, chosen, per_row, intercept, names, where, dtype)
    penalty = None if penalty is None else penalty.expand(data.rows.intercept or data.context.get("constant", False),
                                                          data.rows.columns)
    first = None if start is None else _start(start, data)
    rank_tol = 1e-6 if data.rows.x.dtype == torch.float32 else 1e-12
    options = {"penalty": penalty, "tol": tol, "max_iter": max_iter, "rank_tol": rank_tol, "skip": data.skip}
    family, solution = _solve(data.rows, family, chosen, first, options)
    if singular != "drop":
        solution = _resolve_aliases(solution, data, singular)
    _warn(solution, data.names, data.batch, chosen)
    return build(solution, data.rows, family, chosen, data.batch, data.names, penalty=penalty,
                 dispersion=dispersion, tol=tol, context=data.context)


# the data -------------------------------------------------------------------------------------------------


def _device(device: "str | torch.device | None") -> "torch.device | None":
    if device is None:
        return None
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    where = torch.device(device)
    if where.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("device='cuda' was asked for and no CUDA device is here. Use device='cpu' or 'auto'.")
    return where


def _from_arrays(x: Any, y: Any, family: Family, link: Link, per_row: dict[str, Any], intercept: bool,
                 names: "Sequence[str] | None", device: "torch.device | None",
                 dtype: "torch.dtype | None") -> _Data:
    if y is None:
        raise ValueError("y is missing. Pass fit(x, y, ...), or a formula and a data frame.")
    names = inputs.column_names(x) if names is None else list(names)
    design, response = inputs.tensor(x, "x", device), inputs.tensor(y, "y", device)
    response = response.to(design.device)
    inputs.check_shapes(design, response)
    if dtype is not None:
        design = design.to(dtype)
    p = design.shape[-1]
    names = [f"x{j}" for j in range(p)] if names is None else names
    if len(names) != p:
        raise ValueError(f"names has {len(names)} entries for {p} columns of x. Give one name for each column.")
    names = ["(Intercept)", *names] if intercept else names
    return _assemble(design, response, family, link, per_row, names, intercept)


def _assemble(design: Tensor, response: Tensor, family: Family, link: Link, per_row: dict[str, Any],
              names: list[str], intercept: bool) -> _Data:
    """Rows that have been looked at: shapes, finiteness, support, weights."""
    shape, device = response.shape, design.device
    given = {k: inputs.per_row(v, shape, k, device) for k, v in per_row.items() if v is not None}
    batch = shape[:-1]
    encode = {k: given[k] for k in ("trials", "event") if k in given}
    coded, factor = family.encode(response, **encode)
    weight = torch.ones(shape, dtype=torch.float64, device=device)
    for name in ("weights", "freq"):
        if name in given:
            inputs.check_weights(given[name], name)
            weight = weight * given[name]
    weight = weight if factor is None else weight * factor
    offset = _offset(given, shape, device)
    used = weight > 0
    skip = _not_finite(design, coded, used, len(batch) > 0)
    if skip is not None:
        used = used & ~skip.unsqueeze(-1)
    inputs.check_support(coded, family, used)
    inputs.finite(offset, "offset", used, "An exposure of 0 carries no information: drop the row.")
    if not bool(used.all()):
        if skip is None and not bool(torch.isfinite(design).all() & torch.isfinite(coded).all()):
            warnings.warn("rows of weight zero hold NaN or infinite values; they are left out.", FitWarning,
                          stacklevel=4)
        design, coded, offset = _neutral(design, coded, offset, used)
    p = design.shape[-1]
    flat = Rows(design if design.dim() == 2 else design.reshape(-1, shape[-1], p), coded.reshape(-1, shape[-1]),
                torch.where(used, weight, 0.0).reshape(-1, shape[-1]), offset.reshape(-1, shape[-1]),
                given["freq"].reshape(-1, shape[-1]) if "freq" in given else None, intercept)
    context = {"offset": "offset" in given or "exposure" in given, "event": "event" in given,
               "trials": "trials" in given}
    return _Data(flat, batch, names, None if skip is None else skip.reshape(-1), context)


def _offset(given: dict[str, Tensor], shape: torch.Size, device: torch.device) -> Tensor:
    offset = given.get("offset", torch.zeros(shape, dtype=torch.float64, device=device))
    if "exposure" not in given:
        return offset
    exposure = given["exposure"]
    bad = ~(exposure > 0) | torch.isinf(exposure)
    if bool(bad.any()):
        row = int(bad.reshape(-1).nonzero()[0]) % shape[-1]
        raise ValueError(f"exposure must be finite and > 0; row {row} has {float(exposure.reshape(-1)[row]):g}. "
                         "A row without exposure carries no information: drop it.")
    return offset + exposure.log()


def _not_finite(design: Tensor, y: Tensor, used: Tensor, batched: bool) -> "Tensor | None":
    """(*B,) the models of a batch that hold NaN or infinities; with one model they are an error."""
    shared = design.dim() == 2
    rows_used = used.reshape(-1, used.shape[-1]).any(0) if shared else used
    if shared or not batched:
        inputs.finite(design, "x", rows_used.unsqueeze(-1))
    if not batched:
        inputs.finite(y, "y", used)
        return None
    bad = (~torch.isfinite(y) & used).any(-1)
    if not shared:
        bad = bad | (~torch.isfinite(design) & used.unsqueeze(-1)).any(-1).any(-1)
    if bool(bad.all()):
        inputs.finite(y, "y", used)
        inputs.finite(design, "x", used.unsqueeze(-1))
    return bad if bool(bad.any()) else None


def _neutral(design: Tensor, y: Tensor, offset: Tensor, used: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows without weight given harmless values, so that nothing they hold reaches a sum."""
    shared = design.dim() == 2
    rows_used = used.reshape(-1, used.shape[-1]).any(0) if shared else used
    if not bool(rows_used.all()):
        design = torch.where(rows_used.unsqueeze(-1), design, 0.0)
    last = torch.where(used, y, torch.full_like(y, -torch.inf)).amax(-1, keepdim=True)
    safe = torch.where(torch.isfinite(last), last, 1.0)
    return design, torch.where(used, y, safe), torch.where(used, offset, 0.0)


def _from_formula(formula: str, frame: Any, family: Family, link: Link, per_row: dict[str, Any],
                  by: "str | Sequence[str] | None", missing: str, device: "torch.device | None",
                  dtype: "torch.dtype | None") -> _Data:
    from torchglm import data as tables

    if frame is None:
        raise ValueError("a formula needs data: fit('y ~ a + b', data, ...) with a data frame, a table or a dict.")
    keys = [] if by is None else [by] if isinstance(by, str) else list(by)
    columns = {name: value for name, value in per_row.items() if isinstance(value, str)}
    design = tables.build(formula, frame, also=[*columns.values(), *keys], missing=missing)
    if design.y is None:
        raise ValueError(f"the formula {formula!r} has no response. Write it as 'y ~ ...'.")
    values = dict(per_row)
    for name, column in columns.items():
        values[name] = tables.numbers(design.table, column)
    for name, value in values.items():
        if value is not None and name not in columns and design.kept is not None:
            kept = torch.as_tensor(design.kept)
            values[name] = inputs.tensor(value, name)[kept]
    x, response = design.x.to(device), torch.as_tensor(design.y).to(torch.float64).to(device)
    if dtype is not None:
        x = x.to(dtype)
    if not keys:
        values = {k: None if v is None else inputs.tensor(v, k, device) for k, v in values.items()}
        data = _assemble(x, response, family, link, values, list(design.names), False)
    else:
        data = _grouped(x, response, family, link, values, design, keys, tables)
    data.context |= {"formula": formula, "spec": design.spec, "constant": design.intercept,
                     "terms": design.terms, "columns": columns, "group_names": keys or None}
    return data


def _grouped(x: Tensor, y: Tensor, family: Family, link: Link, values: dict[str, Any], design: Any,
             keys: list[str], tables: Any) -> _Data:
    """One model for each group: rows sorted into a `(B, n, p)` batch, short groups padded with weight zero."""
    codes, labels = tables.groups(design.table, keys)
    codes = torch.as_tensor(codes).to(torch.int64)
    order = torch.argsort(codes, stable=True)
    counts = torch.bincount(codes, minlength=len(labels))
    within = torch.arange(len(order)) - torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    longest = int(counts.max())
    place = codes[order] * longest + within

    def pad(value: Tensor, fill: float) -> Tensor:
        out = value.new_full((len(labels) * longest, *value.shape[1:]), fill)
        out[place.to(value.device)] = value[order.to(value.device)]
        return out.reshape(len(labels), longest, *value.shape[1:])

    ones = torch.ones(len(codes), dtype=torch.float64, device=x.device)
    tensors = {k: inputs.tensor(v, k, x.device) for k, v in values.items() if v is not None}
    for name, value in tensors.items():
        if value.shape != codes.shape:
            raise ValueError(f"{name} has shape {tuple(value.shape)}, the data have {len(codes)} rows.")
        if name in ("weights", "freq"):
            inputs.check_weights(value, name)
    padded = {k: pad(v, 0.0 if k == "offset" else 1.0) for k, v in tensors.items()}
    padded["weights"] = pad(tensors.get("weights", ones), 0.0)
    data = _assemble(pad(x, 0.0), pad(y, 1.0 if y.numel() == 0 else float(y[0])), family, link, padded,
                     list(design.names), False)
    data.context["groups"] = labels
    return data


def _start(start: Any, data: _Data) -> Tensor:
    first = inputs.tensor(start, "start", data.rows.y.device).to(torch.float64)
    want = (*data.batch, data.rows.columns)
    if first.shape != want and first.shape != want[-1:]:
        raise ValueError(f"start has shape {tuple(first.shape)}; pass one value for each coefficient, {want}"
                         + (" with the intercept first." if data.rows.intercept else "."))
    inputs.finite(first, "start")
    return first.expand(want).reshape(-1, data.rows.columns).clone()


# the fit --------------------------------------------------------------------------------------------------


def _solve(rows: Rows, family: Family, link: Link, start: "Tensor | None",
           options: dict[str, Any]) -> tuple[Family, Solution]:
    """The coefficients, and in turn with them the shape parameters that are estimated."""
    solution = irls(rows, family, link, start=start, **options)
    if not family.estimates_shape:
        return family, solution
    whole = wide(rows)
    name = next(iter(dict(family.named_parameters())))
    value = torch.ones(rows.y.shape[0], dtype=torch.float64, device=rows.y.device)
    value, phi = (value, None) if name == "log_alpha" else (1.5 * value, value.clone())
    limit = torch.zeros_like(value, dtype=torch.bool)
    for _ in range(100):
        mu = link(linear_predictor(whole, solution.coef))
        if phi is None:
            new, limit = alpha_ml(whole, mu, family, value)
            raw = new.log()
        else:
            new, phi = power_ml(whole, mu, family, value, phi)
            raw = (new - 1).logit()
        moved = ((new - value).abs() / (new + 1e-3 * value + 1e-300)).nan_to_num()
        value = new
        family = family.with_parameters({name: raw})
        again = irls(rows, family, link, start=solution.coef, **options)
        solution = replace(again, n_iter=solution.n_iter + again.n_iter)
        if bool((moved < 1e-9).all()):
            break
    at_limit = limit & (solution.status == int(Status.CONVERGED))
    solution.status[at_limit] = int(Status.BOUNDARY)
    if raw.numel() == 1:
        family = family.with_parameters({name: raw[0]})
    return family, solution


def _resolve_aliases(solution: Solution, data: _Data, singular: str) -> Solution:
    aliased = (~solution.keep).any(-1)
    if data.skip is not None:
        aliased = aliased & ~data.skip
    if not bool(aliased.any()):
        return solution
    index = aliased.nonzero()[:, 0]
    if singular == "error":
        dropped = [data.names[j] for j in (~solution.keep[index]).any(0).nonzero()[:, 0].tolist()]
        raise ValueError(f"the columns {', '.join(dropped)} depend on those before them. Drop them, or pass "
                         "singular='drop' or 'minnorm', or a penalty.")
    triangle = design_triangle([data.rows], index, data.rows.columns)
    coef = solution.coef.clone()
    coef[index] = null_space_free(coef[index], triangle, 1e-10)
    return replace(solution, coef=coef, minnorm=True)


def _warn(solution: Solution, names: list[str], batch: torch.Size, link: Link) -> None:
    """One warning for columns that were dropped and one for models that did not end at a regular maximum."""
    fitted = solution.status != int(Status.NOT_FINITE)
    lost = (~solution.keep & fitted.unsqueeze(-1)).any(0)
    if bool(lost.any()):
        dropped = ", ".join(names[j] for j in lost.nonzero()[:, 0].tolist())
        warnings.warn(f"aliased columns (they depend on those before them): {dropped}. Their coefficients are "
                      "NaN unless singular= says otherwise; df use the rank.", FitWarning, stacklevel=3)
    failed = solution.status != int(Status.CONVERGED)
    if math.isfinite(link.lower) and bool((solution.cut & ~failed).any()):
        warnings.warn(f"steps were shortened to keep eta > {link.lower:g}, where the link {link.name} is one to one; "
                      "the maximum found is the one inside. A log link has no such edge.", FitWarning, stacklevel=3)
    if not bool(failed.any()):
        return
    kinds = [Status(int(code)) for code in solution.status[failed].unique()]
    many = "" if not batch else f"{int(failed.sum())} of {failed.numel()} models: "
    warnings.warn(many + " ".join(f"{kind}: {kind.explanation}" for kind in kinds), FitWarning, stacklevel=3)
