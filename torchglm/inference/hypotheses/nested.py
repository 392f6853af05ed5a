"""Tests between nested models: likelihood ratio of two fits, and the score test that needs only the smaller one."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from torchglm import inputs
from torchglm.families.several import VectorFamily
from torchglm.fitting.linalg import independent_columns
from torchglm.inference.fits import check_fits
from torchglm.inference.fitted import Fitted
from torchglm.inference.hypotheses.linear import DEPENDENT
from torchglm.inference.rowwise import row_values
from torchglm.inference.several import family_of
from torchglm.inference.table import Outcome
from torchglm.inference.vector.columns import slopes
from torchglm.inference.vector.score import added_sums
from torchglm.inputs.specs import groupings_of
from torchglm.rows.planned import expanded
from torchglm.rows.products import project, stack_factors, triangle
from torchglm.rows.rows import Rows, wide
from torchglm.writing.answering import answering

SPAN = 1e-7  # of its length: a column with less of its own lies in the span of the others


@torch.no_grad()
def lr_test(big: Fitted, small: Fitted) -> Outcome:
    """The likelihood ratio test of a smaller fit against this one, see `lrt`."""
    return lrt(small, big)


@answering
def lrt(small: Fitted, big: Fitted) -> Outcome:
    """The likelihood ratio test of a fit against a larger one that contains it, in every model of a batch.

    `LR = (D_small - D_big) / phi` with `phi` that of the larger fit: chi-squared with the difference of the ranks where
    the dispersion is known, `F = LR / df` where it is estimated. Where a shape parameter (NB alpha, Tweedie power) was
    estimated in both, `LR` is twice the difference of the log-likelihoods, each at its own shape. NaN where the ranks
    of a model of a batch are the same. For random effects see `random_lrt`. Raises `ValueError` for fits of other
    families, links, dispersions, rows,
    offsets or batches, penalised or robust fits, and where the smaller design is not in the span of the larger one.
    Source: McCullagh & Nelder (1989), Generalized Linear Models, section 2.3 and chapter 9; Venables & Ripley (2002).
    """
    check_fits("lrt", (small, big))
    if big.flat.modes is not None or small.flat.modes is not None:
        return random_lrt(small, big)
    comparable(small, big)
    df = big.rank - small.rank
    if bool((df < 0).any()) or (not df.dim() and not bool(df > 0)):
        raise ValueError(
            f"the first model has rank {_list(small.rank)} and the second {_list(big.rank)}; pass the "
            "smaller one first: lrt(small, big)."
        )
    _judge_nested(small, big)
    usable = torch.where(df > 0, df, torch.nan)
    title = "Likelihood ratio test"
    if big.estimated_shape:
        return Outcome(title, (2 * (big.loglik - small.loglik)).clamp(min=0) * usable / usable, usable)
    rise = (small.deviance - big.deviance).clamp(min=0) / big.dispersion
    if big.statistic_name == "t":
        return Outcome(title, rise / usable, usable, big.df_resid)
    return Outcome(title, rise * usable / usable, usable)


def random_lrt(small: Fitted, big: Fitted) -> Outcome:
    """The likelihood ratio test of fits one of which, or both, have random effects.

    `LR` is twice the difference of the marginal log-likelihoods, chi-squared with the difference of the parameters. A
    variance that the smaller fit holds at 0 lies on the edge of its range, so that chi-squared is a mixture: with one
    more variance, half of it has a degree of freedom less; with `v` more and no more covariances binomially many have;
    with more variances and covariances no mixture is known, and p is too large. REML compares fits of the same fixed
    effects. Raises `ValueError` for fits of other families, links, methods, rows or batches, and where the effects of
    the smaller fit are not among those of the larger.
    Source: Stram & Lee (1994), Biometrics 50(4), 1171-1177; Self & Liang (1987), JASA 82(398), 605-610.
    """
    for result in (small, big):
        unpenalised(result, "a likelihood ratio test")
    methods = [result.context.get("method") for result in (small, big)]
    if methods[0] is None and methods[1] == "reml":
        raise ValueError(
            "the smaller fit is by maximum likelihood and the larger by REML. Fit the larger with smoothing='ml'."
        )
    if None not in methods and methods[0] != methods[1]:
        raise ValueError(f"the fits are by {methods[0]} and {methods[1]}. Fit both by the same (smoothing=).")
    nodes = [result.context.get("quadrature", 1) for result in (small, big)]
    if nodes[0] != nodes[1] and small.flat.modes is not None:
        raise ValueError(f"the fits are by {nodes[0]} and {nodes[1]} nodes of quadrature. Fit both by the same.")
    if _law(small) != _law(big) or _text(small.link) != _text(big.link) or small.batch_shape != big.batch_shape:
        raise ValueError("the fits differ in family, link or batch. A likelihood ratio compares designs of one model.")
    same_rows(small, big, offsets=False)
    if methods[0] == "reml" and small.names != big.names:
        raise ValueError("REML fits of other fixed effects have no common likelihood. Fit both with smoothing='ml'.")
    own, more = _effects(small), _effects(big)
    if not own <= more:
        raise ValueError("the random effects of the smaller fit are not among those of the larger one.")
    _judge_fixed(small, big)
    variances = len(more) - len(own)
    total = big.n_parameters - small.n_parameters
    if bool((total <= 0).any()):
        raise ValueError("the second fit has no more parameters than the first; pass the smaller one first.")
    covariances = _entries(big) - _entries(small) - variances
    mixture, notes = (1.0,), tuple[str, ...]()
    if variances and (variances == 1 or not covariances):
        mixture = tuple(math.comb(variances, k) / 2**variances for k in range(variances + 1))
        notes = (f"A variance of 0 is the edge of its range: a mixture of chi-squared, df {_dfs(total, variances)}.",)
    elif variances:
        notes = ("Variances of 0 are the edge of their range, and no mixture is known here: p is too large.",)
    rise = (2 * (big.loglik - small.loglik)).clamp(min=0)
    return Outcome("Likelihood ratio test", rise, total, None, notes, mixture)


def _effects(result: Fitted) -> set[tuple[str, str]]:
    """The random effects of a fit, by grouping and name."""
    groups = [] if result.spec is None else groupings_of(result.spec, result.family)
    return {(group.name, name) for group in groups for inside in group.sets for name in inside}


def _entries(result: Fitted) -> int:
    return 0 if result.flat.effect_psi is None else result.flat.effect_psi.shape[-1]


def _dfs(total: Tensor, variances: int) -> str:
    last = int(total.reshape(-1)[0])
    return ", ".join(str(last - k) for k in range(variances + 1)[::-1])


def _judge_fixed(small: Fitted, big: Fitted) -> None:
    extra = ", ".join(name for name in small.names if name not in big.names)
    if extra:
        raise ValueError(f"the larger fit has no {extra}: the models are not nested. Compare them by AIC.")


def comparable(first: Fitted, second: Fitted) -> None:
    """Raise `ValueError` where the likelihoods of two fits do not speak of the same thing."""
    unpenalised(first, "a likelihood ratio test")
    unpenalised(second, "a likelihood ratio test")
    for what, a, b in (
        ("family", _law(first), _law(second)),
        ("link", _text(first.link), _text(second.link)),
        ("dispersion", first.dispersion_kind, second.dispersion_kind),
        ("batch", tuple(first.batch_shape), tuple(second.batch_shape)),
    ):
        if a != b:
            raise ValueError(
                f"the fits differ in {what}: {a} and {b}. A likelihood ratio compares designs of one "
                "model; fit both alike, or compare them by AIC (torchglm.compare)."
            )
    same_rows(first, second)


def unpenalised(result: Fitted, what: str) -> None:
    """Raise `ValueError` for a fit whose deviance is not that of maximum likelihood, or that was made robust."""
    if result.penalty is not None:
        raise ValueError(f"{what} needs maximum likelihood and this fit has a penalty. Fit it without.")
    if result.bias_reduced:
        raise ValueError(
            f"{what} needs maximum likelihood and this fit is bias-reduced. Use wald(), or conf_int(method='profile')."
        )
    if result.covariance_kind not in ("model", "observed"):
        raise ValueError(
            f"{what} cannot use the covariance {result.covariance_kind}. Use wald(), or the fit before robust()."
        )


def same_rows(first: Fitted, second: Fitted, offsets: bool = True) -> None:
    """Raise `ValueError` where two fits are seen not to rest on the same rows, responses, weights (and offsets)."""
    pairs = [("rows", first.nobs, second.nobs)]
    if first.has_rows and second.has_rows:
        pairs += [
            (name, a, b)
            for (name, a), (_, b) in zip(_sums(first), _sums(second), strict=True)
            if offsets or "offset" not in name
        ]
    elif offsets and first.intercept and second.intercept:
        pairs.append(("null deviance", first.null_deviance, second.null_deviance))
    for name, a, b in pairs:
        if a.shape != b.shape or not torch.allclose(a, b, rtol=1e-8, atol=1e-10, equal_nan=True):
            raise ValueError(
                f"the fits do not rest on the same rows: {name} {_list(a)} and {_list(b)}. Fit both on "
                "the same data (a row with a missing value is gone from the model that uses it)."
            )


def _sums(result: Fitted) -> list[tuple[str, Tensor]]:
    """Sums over the rows that tell one set of responses, weights and offsets from another."""
    total: Tensor | None = None
    for chunk in result.source:
        w, y, offset = (value.to(torch.float64) for value in (chunk.weight, chunk.y, chunk.offset))
        if chunk.plan is not None:  # (B, n, K)
            offset = offset @ torch.arange(1.0, offset.shape[-1] + 1).to(offset)
        y, offset = torch.where(w > 0, y, 0.0), torch.where(w > 0, offset, 0.0)
        seen = w if chunk.event is None else w * chunk.event
        part = torch.stack([w, w * y, w * y.square(), w * offset, w * offset.square(), y * offset, seen * y]).sum(-1)
        total = part if total is None else total + part
    assert total is not None
    powers = ("y", "y^2", "the offset", "the offset^2", "y offset", "y of events")
    names = ("sum of weights", *(f"sum of {power}" for power in powers))
    return list(zip(names, total, strict=True))


def _law(result: Fitted) -> str:
    """The family, with its shape where that is fixed."""
    if isinstance(result.family, VectorFamily):  # which slopes are free is a matter of the design
        held = {name: value for name, value in result.family.arguments().items() if name != "free"}
        return f"{_class(result.family)} {held} {[_class(part) for part in result.family.children()]}"
    if result.estimated_shape:
        return f"{_class(result.family)} with estimated shape"
    return _text(result.family)


def _text(part: nn.Module) -> str:
    """A family or link by its class and what it holds."""
    held = [value.tolist() for value in part.state_dict().values()] or ""
    return f"{_class(part)} {part.extra_repr()} {held}".rstrip()


def _class(part: nn.Module) -> str:
    kind = type(part)
    ours = kind.__module__.startswith("torchglm.")
    return str(part.name) if ours else f"{part.name} ({kind.__module__}.{kind.__qualname__})"


def _list(value: Tensor) -> str:
    return str(value.tolist() if value.numel() <= 4 else f"of {value.numel()} models")


def _judge_nested(small: Fitted, big: Fitted) -> None:
    """Raise `ValueError` where the design of the smaller model is not in the span of the larger one's."""
    if not small.has_rows or not big.has_rows or not _aligned(small, big):
        extra = ", ".join(name for name in small.all_names if name not in big.all_names)
        if not extra:
            return
        raise ValueError(
            f"the larger model has no {extra}, and without rows in chunks alike it cannot be seen whether "
            "the models are nested. Fit both on the same rows in memory."
        )
    factor: Tensor | None = None
    width = len(big.all_names) + len(small.all_names)
    for whole, part in zip(big.source, small.source, strict=True):
        for a, b in zip(whole.pieces(width), part.pieces(width), strict=True):
            factor = stack_factors(factor, triangle(_beside(a, b)))
    assert factor is not None
    own = ~independent_columns(factor, SPAN)[:, len(big.all_names) :].any(-1)
    if not bool(own.all()):
        raise ValueError(
            "the models are not nested: a column of the smaller one is no combination of the columns of "
            "the larger one. Compare them by AIC (torchglm.compare), or fit a model that holds both."
        )


def _aligned(small: Fitted, big: Fitted) -> bool:
    sizes = [[rows.y.shape[-1] for rows in result.scored] for result in (small, big)]
    return sizes[0] == sizes[1]


def _beside(a: Rows, b: Rows) -> Tensor:
    """(B or 1, n, p + q) both designs on the rows of positive weight."""
    used = (a.weight > 0).to(torch.float64).unsqueeze(-1)
    if a.plan is not None:
        used = used.repeat(1, a.plan.predictors, 1)
    return torch.cat(_batched(_written_out(a), _written_out(b)), -1) * used


def _written_out(rows: Rows) -> Tensor:
    """(n, p) or (B, n, p) the whole design; of several predictors that of one after the other."""
    if rows.plan is None:
        return wide(rows).x
    design = expanded(rows)
    return design.flatten(0, 1) if rows.shared else design.movedim(0, 1).flatten(1, 2)


def _batched(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both as (B, n, columns)."""
    models = max(a.shape[0] if a.dim() == 3 else 1, b.shape[0] if b.dim() == 3 else 1)
    return a.expand(models, *a.shape[-2:]), b.expand(models, *b.shape[-2:])


@torch.no_grad()
def score_test(result: Fitted, added: Any, predictor: str | None = None) -> Outcome:
    """Rao's score test of columns added to a fit, which is not refitted.

    `S = U' (Z'WZ - Z'WX (X'WX)^-1 X'WZ)^-1 U / phi`, `U = Z' (dl/deta)` at the fit, `W` the expected information:
    chi-squared with as many degrees of freedom as the columns bring beyond the fit's own (NaN where none), the
    dispersion being that of the fit. `added` is (n, q), (n,), or (*B, n, q), in the order of the rows. With several
    predictors the columns enter as the others do (a slope for each class, one for all cuts, the mean), or with
    `predictor` that one alone; `W` is the observed information where the expected one has no closed form. Raises
    `ValueError` for another number of rows, values that are not finite, and penalised or robust fits.
    Source: Rao (1948); Smyth (2003), Pearson's goodness of fit statistic as a score test statistic (statmod's
    glm.scoretest).
    """
    unpenalised(result, "a score test")
    columns, title = _added(result, added), "Score test of added columns"
    if result.plan is not None:
        statistic, df = scaled_score(*added_sums(result, columns, slopes(family_of(result), predictor)))
        return Outcome(title, result.shaped(statistic), result.shaped(df))
    if predictor is not None:
        raise ValueError("predictor= names one of several, and this fit has one. Leave it out.")
    flat = result.flat
    coef, root = flat.coef, flat.root
    models, p, q = coef.shape[0], coef.shape[1], columns.shape[-1]
    score, own = coef.new_zeros(models, q), coef.new_zeros(models, q, q)
    cross, start = coef.new_zeros(models, p, q), 0
    for values in row_values(result.source, result.family, result.link, coef):
        n = values.mu.shape[-1]
        z = columns[..., start : start + n, :]
        if z.shape[-2] != n:
            raise ValueError(f"added has {columns.shape[-2]} rows, fewer than the fit. Give one for each row.")
        weighted = z * values.information.unsqueeze(-1)
        score = score + (values.score.unsqueeze(-2) @ z).squeeze(-2)
        own = own + z.mT @ weighted
        cross = cross + torch.stack([project(values.rows, column) for column in weighted.unbind(-1)], -1)
        start += n
    if start != columns.shape[-2]:
        raise ValueError(f"added has {columns.shape[-2]} rows, the fit {start}. Give one for each row.")
    statistic, df = scaled_score(score, own, own - root.within(cross))
    return Outcome(title, result.shaped(statistic / flat.dispersion), result.shaped(df))


def scaled_score(score: Tensor, own: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
    """The score statistic on the directions that the added columns bring, and their number (NaN for none)."""
    size = own.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
    scale = torch.where(size > 0, size, 1.0)
    scaled = left / scale.unsqueeze(-1) / scale.unsqueeze(-2)
    values, vectors = torch.linalg.eigh(torch.nan_to_num(scaled, nan=0.0, posinf=0.0, neginf=0.0))
    new = values > DEPENDENT
    along = (vectors.mT @ (score / scale).unsqueeze(-1)).squeeze(-1)
    df = new.sum(-1).to(score.dtype)
    df = torch.where(df > 0, df, torch.nan)
    return (along.square() / torch.where(new, values, torch.inf)).sum(-1) * df / df, df


def _added(result: Fitted, added: Any) -> Tensor:
    """(n, q) or (B, n, q) the added columns as numbers."""
    columns = inputs.tensor(added, "added", result.coef.device).to(torch.float64)
    columns = columns.unsqueeze(-1) if columns.dim() == 1 else columns
    batch = result.batch_shape
    if columns.dim() != 2 and columns.shape[:-2] != batch:
        raise ValueError(f"added has shape {tuple(columns.shape)}; give (n, q) columns, or {(*batch, 'n', 'q')}.")
    if not columns.shape[-1]:
        raise ValueError("added has no column. Give at least one.")
    inputs.finite(columns, "added")
    return columns if columns.dim() == 2 else columns.reshape(-1, *columns.shape[-2:])
