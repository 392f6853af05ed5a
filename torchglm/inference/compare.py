"""Fits side by side."""

from __future__ import annotations

import torch
from torch import Tensor

from torchglm.families.several import BetaBinomial, Classes, VectorFamily
from torchglm.inference.fits import check_fits
from torchglm.inference.fitted import Fitted
from torchglm.inference.hypotheses.nested import lrt, same_rows
from torchglm.inference.table import Table
from torchglm.writing.answering import answering


@answering
def compare(*fits: Fitted, names: list[str] | None = None) -> Table:
    """Fits of the same rows side by side, a row for each; batches are compared model by model.

    Columns: `df` (every estimated parameter), `deviance`, `aic`, `bic`, `D2` (share of the null deviance explained; of
    several predictors McFadden's, NaN for densities, of which the deviance may be negative), and against the fit before
    it `LR_df`, `LR` and `p` of the likelihood ratio test, NaN where the two are not nested.
    Likelihoods are fully normalised, so that AIC compares families too, save with a quasi fit, which has none.
    Raises `ValueError` for fewer than two fits, other rows, or batches of other shapes.
    """
    check_fits("compare", fits)
    if len(fits) < 2:
        raise ValueError(f"compare needs at least two fits, got {len(fits)}: compare(fit1, fit2).")
    labels = [fit.formula or f"fit {i + 1}" for i, fit in enumerate(fits)] if names is None else list(names)
    if len(labels) != len(fits):
        raise ValueError(f"names has {len(labels)} entries for {len(fits)} fits.")
    for other in fits[1:]:
        if other.batch_shape != fits[0].batch_shape:
            raise ValueError(
                f"the fits have batches {tuple(fits[0].batch_shape)} and {tuple(other.batch_shape)}; "
                "compare batches of the same models."
            )
        same_rows(fits[0], other, offsets=False)
    columns = {
        "df": [fit.n_parameters for fit in fits],
        "deviance": [fit.deviance for fit in fits],
        "aic": [fit.aic for fit in fits],
        "bic": [fit.bic for fit in fits],
        "D2": [explained(fit) for fit in fits],
    }
    nothing = torch.full_like(fits[0].deviance, torch.nan)
    tests = [(nothing, nothing, nothing)] + [_ratio(a, b, nothing) for a, b in zip(fits[:-1], fits[1:], strict=True)]
    columns |= {name: [test[i] for test in tests] for i, name in enumerate(("LR_df", "LR", "p"))}
    note = (
        "LR against the fit before: F where the dispersion is estimated, else chi-squared; blank where the two are "
        "not nested."
    )
    table = {name: torch.stack(values, -1) for name, values in columns.items()}
    return Table("Comparison of fits", labels, table, (note,))


def explained(fit: Fitted) -> Tensor:
    """(*B) the share of the null deviance explained, D²; NaN for densities of several predictors, and of none."""
    if isinstance(fit.family, VectorFamily) and not isinstance(fit.family, Classes | BetaBinomial):
        if not fit.family.counts:
            return torch.full_like(fit.deviance, torch.nan)
    return torch.where(fit.null_deviance > 0, 1 - fit.deviance / fit.null_deviance, torch.nan)


def _ratio(first: Fitted, second: Fitted, nothing: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """df, statistic and p of the test between two fits, whichever is larger; NaN where there is none."""
    swapped = bool((first.rank > second.rank).any())
    try:
        test = lrt(second, first) if swapped else lrt(first, second)
    except ValueError:
        return nothing, nothing, nothing
    return test.df, test.statistic, test.p_value
