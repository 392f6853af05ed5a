"""Wald tests of linear hypotheses, given by a matrix or in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from torchglm import inputs
from torchglm.design.restrictions import restrictions
from torchglm.inference.beside import metric_of
from torchglm.inference.by_plan import whole
from torchglm.inference.clusters import joint_df
from torchglm.inference.covariance import cluster_codes
from torchglm.inference.fitted import Fitted
from torchglm.inference.table import Outcome

DEPENDENT = 1e-10  # of its own length: a restriction with no more than this of its own says what others say


def wald(result: Fitted, hypothesis: Any, value: Any = None) -> Outcome:
    """The Wald test of `L b = r` in every model, `W = (L b - r)' (L V L')^-1 (L b - r)`.

    `hypothesis` is text on coefficient names, restrictions parted by commas, such as `"age = 0, 2*x2 = x3 + 1"`
    (no `=` means `= 0`; names may stand in backticks), a list of such texts, a dict of their values, or a matrix `L`
    (q, p), or one row (p,), with `value` `r` (q,) or a number (default 0); of an ordinal model the thresholds, by name
    or as the last columns, are coefficients too. `V` is the covariance behind `std_err`, so that a robust result is
    tested robustly. Chi-squared with q degrees of freedom, or `F = W / q` with `df_resid` where
    the dispersion is estimated.
    NaN where a coefficient of the hypothesis is aliased or `L V L'` is singular (fewer clusters than restrictions).
    Raises `ValueError` for unknown names and for restrictions that depend on one another.
    Source: Wald (1943); Fox & Weisberg, An R Companion to Applied Regression, 5.3 (linearHypothesis).
    """
    result = whole(result)
    matrix, right = _restrictions(result, hypothesis, value)
    covariance, coef = result.covariance(), result.coef
    unknown = (torch.isnan(coef) & (matrix != 0).any(0)).any(-1)
    known = torch.isfinite(covariance)
    left = matrix @ torch.where(known, covariance, 0.0) @ matrix.mT
    gap = (matrix @ torch.nan_to_num(coef, nan=0.0).unsqueeze(-1)).squeeze(-1) - right
    needed = (matrix != 0).any(0)
    broken = (~known & needed & needed.unsqueeze(-1)).any(-1).any(-1)
    statistic = torch.where(unknown | broken, torch.nan, quadratic(gap, left))
    q = torch.full_like(statistic, float(matrix.shape[0]))
    title = f"Wald test ({result.covariance_kind} covariance)"
    notes = (f"  {hypothesis}",) if in_words(hypothesis) else ()
    if result.flat.reference is not None:
        eta = _wishart_df(result, matrix)
        left = torch.where(eta > q - 1, eta - q + 1, torch.nan)
        return Outcome(title, statistic * left / (eta * q), q, left, notes)
    if result.statistic_name == "t":
        return Outcome(title, statistic / q, q, result.df_resid, notes)
    return Outcome(title, statistic, q, None, notes)


def _wishart_df(result: Fitted, matrix: Tensor) -> Tensor:
    """(*B) the df of a covariance that is corrected for the leverage of clusters, along the rows of a hypothesis.

    Raises `ValueError` for a joint hypothesis where they cannot be found: of several labels, and of a loaded fit.
    """
    used = (matrix != 0).any(0)
    if matrix.shape[0] == 1 and int(used.sum()) == 1:
        return result.reference_df[..., int(used.nonzero()[0, 0])]
    clusters, type = result.context.get("corrected", (None, ""))
    columns = [] if clusters is None else cluster_codes(clusters, result.batch_shape, matrix.device)
    if len(columns) != 1:
        raise ValueError(
            f"the covariance {result.covariance_kind} has degrees of freedom for each coefficient, and for a "
            "hypothesis on several with one label of clusters alone, before the fit is saved. Test them one by one, or "
            "with robust('cluster', clusters, type='HC0'), or those of satterthwaite() by the fit before it."
        )
    metric = metric_of(result, columns[0], type)
    wide = torch.nn.functional.pad(matrix, (0, metric.coef.shape[-1] - matrix.shape[-1]))
    eta = joint_df(metric.source, result.family, result.link, metric.coef, metric.root, columns[0], type, wide)
    return result.shaped(eta)


def quadratic(gap: Tensor, matrix: Tensor) -> Tensor:
    """(*B) `g' M^-1 g` for vectors (*B, q) and matrices (*B, q, q); NaN where `M` is singular to rounding."""
    size = matrix.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
    scale = torch.where(size > 0, size, 1.0)
    scaled = matrix / scale.unsqueeze(-1) / scale.unsqueeze(-2)
    lower, info = torch.linalg.cholesky_ex(scaled)
    regular = (info == 0) & (lower.diagonal(dim1=-2, dim2=-1).square() > DEPENDENT).all(-1)
    lower = torch.where(
        regular[..., None, None], lower, torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device)
    )
    white = torch.linalg.solve_triangular(lower, (gap / scale).unsqueeze(-1), upper=False).squeeze(-1)
    return torch.where(regular, white.square().sum(-1), torch.nan)


def in_words(hypothesis: Any) -> bool:
    """Whether a hypothesis is text, a list of texts or a dict of their values, not numbers."""
    if isinstance(hypothesis, (str, Mapping)):
        return True
    return isinstance(hypothesis, Sequence) and len(hypothesis) > 0 and all(isinstance(h, str) for h in hypothesis)


def _restrictions(result: Fitted, hypothesis: Any, value: Any) -> tuple[Tensor, Tensor]:
    """The matrix (q, p) and the right side (q,) of a hypothesis."""
    p, device = len(result.names), result.coef.device
    if in_words(hypothesis):
        if value is not None:
            raise ValueError("a hypothesis in words has its values in it ('age = 1'); leave value= away.")
        matrix, right = (torch.from_numpy(part) for part in restrictions(hypothesis, result.names))
    else:
        matrix = torch.atleast_2d(inputs.tensor(hypothesis, "the hypothesis").to(torch.float64))
        right = torch.atleast_1d(inputs.tensor(0.0 if value is None else value, "value").to(torch.float64))
        if matrix.dim() == 2 and right.shape not in ((1,), matrix.shape[:1]):
            raise ValueError(
                f"value has shape {tuple(right.shape)} and the hypothesis {tuple(matrix.shape)}. Give one value for "
                "each of its rows, or one for all."
            )
        right = right.expand(matrix.shape[:1])
    if matrix.dim() != 2 or matrix.shape[-1] != p or not bool(torch.isfinite(matrix).all()):
        raise ValueError(
            f"the hypothesis has shape {tuple(matrix.shape)}; give finite numbers (q, {p}), a column for "
            f"each coefficient: {', '.join(result.names)}."
        )
    length = matrix.square().sum(-1, keepdim=True).sqrt()
    rank = int(torch.linalg.matrix_rank(matrix / torch.where(length > 0, length, 1.0), rtol=DEPENDENT))
    if rank < matrix.shape[0]:
        raise ValueError(
            f"the hypothesis has {matrix.shape[0]} restrictions, but only {rank} are independent. "
            "Leave out those that follow from (or contradict) the others."
        )
    return matrix.to(device), right.to(device)
