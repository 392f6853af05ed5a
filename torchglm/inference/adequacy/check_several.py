"""Does a model of several predictors hold? Slopes that differ by cut, parameters that move, and thin classes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from torchglm.families.several import Classes, Ordinal
from torchglm.fitting.status import Status
from torchglm.inference.adequacy import sentences
from torchglm.inference.adequacy.findings import Check, Finding
from torchglm.inference.dialect import spoken
from torchglm.inference.fitted import Fitted
from torchglm.inference.hypotheses.adjust import adjust
from torchglm.inference.hypotheses.nested import scaled_score
from torchglm.inference.levels import check_level
from torchglm.inference.several import family_of
from torchglm.inference.table import Outcome
from torchglm.inference.vector.score import added_sums
from torchglm.rows.plan import Plan
from torchglm.rows.rows import whole

THIN = 5.0  # rows of a class for each of its coefficients, below which estimates say little


@torch.no_grad()
def check_several(result: Fitted, level: float = 0.05) -> Check:
    """What speaks against a model of several predictors, by score tests that need no refit; see `check.check`.

    Of an ordinal model every shared slope is tested against slopes that differ by cut (parallel slopes); of another,
    each parameter with an intercept alone against the columns of the first predictor (a constant dispersion, share of
    zeros, scale). They are held at `level` together, by Holm's adjustment. Beside them stand how the fit ended, aliased
    columns, and classes with few rows. Penalised fits have these alone.
    Raises `ValueError` for a level outside (0, 1), and without the rows of the fit.
    """
    check_level(level, 0.05)
    fine = result.flat.converged
    tests: dict[str, Outcome] = {}
    for topic, (columns, contrast) in () if result.penalty is not None else _questions(result):
        statistic, df = scaled_score(*added_sums(result, columns, contrast))
        known = torch.where(fine, statistic, torch.nan)
        tests[topic] = Outcome(f"Score test: {topic}", result.shaped(known), result.shaped(df))
    adjusted: dict[str, Tensor] = {}
    if tests:
        together = adjust(torch.stack([test.p_value for test in tests.values()], -1), "holm")
        adjusted = dict(zip(tests, together.unbind(-1), strict=True))
    findings = [
        [*_ended(result, i), *_thin(result, i), *_tested(result, i, tests, adjusted, level)]
        for i in range(result.flat.deviance.shape[0])
    ]
    findings = [[replace(one, advice=spoken(result, one.advice)) for one in model] for model in findings]
    return Check(f"Check of a fit of {result.family.name}", level, findings, tests, adjusted, result.batch_shape)


def _questions(result: Fitted) -> Iterator[tuple[str, tuple[Tensor, Tensor]]]:
    """The columns that a test adds, and how they enter the predictors (K, r), by topic."""
    family, plan = family_of(result), result.plan
    assert plan is not None
    unit = torch.eye(plan.predictors, dtype=torch.float64, device=result.flat.coef.device)
    design = torch.cat([whole(chunk._replace(plan=None)) for chunk in result.source], -2).to(unit)
    if isinstance(family, Ordinal):
        shared = [block for block in plan.blocks if block.width == 1]
        for name, column in zip(result.names, [c for block in shared for c in block.columns], strict=False):
            if plan.predictors > 1:
                yield f"parallel slopes of {name}", (design[..., [column]], unit[:, 1:])
        return
    if isinstance(family, Classes):
        return
    slopes = [column for column in plan.blocks[0].columns if column not in plan.ones]
    for k, name in enumerate(family.predictors):
        if k and slopes and _constant(plan, k):
            yield f"constant {name}", (design[..., slopes], unit[:, k : k + 1])


def _constant(plan: Plan, predictor: int) -> bool:
    """Whether a predictor has an intercept alone."""
    own = [block for block in plan.blocks if any(k == predictor for entry in block.entries for k, _ in entry)]
    return len(own) == 1 and plan.is_constant(own[0])


def _ended(result: Fitted, i: int) -> Iterator[Finding]:
    status = Status(int(result.flat.status[i]))
    if status != Status.CONVERGED:
        yield Finding("fit", float(status), None, *sentences.ending(status))
    lost = [name for name, kept in zip(result.all_names, result.flat.keep[i].tolist(), strict=True) if not kept]
    if lost:
        yield Finding(
            "aliased",
            float(len(lost)),
            None,
            f"Columns that depend on those before them have no coefficient: {', '.join(lost)}.",
            "Leave them out, or those they depend on.",
        )


def _thin(result: Fitted, i: int) -> Iterator[Finding]:
    """Classes that have few rows for their coefficients."""
    family = family_of(result)
    if not isinstance(family, Classes):
        return
    counts = result.class_counts.reshape(-1, len(family.known))[i].tolist()
    own = float(result.flat.keep[i].sum()) / max(1, len(family.known) - 1)
    few = [(label, count) for label, count in zip(family.known, counts, strict=True) if count < THIN * own]
    if few:
        said = ", ".join(f"{label} ({count:g} rows)" for label, count in few)
        yield Finding(
            "classes",
            min(count for _, count in few),
            None,
            f"Of some classes there are few rows for {own:.3g} coefficients each: {said}.",
            "Merge them with neighbours, or take fewer columns.",
        )


def _tested(
    result: Fitted, i: int, tests: dict[str, Outcome], adjusted: dict[str, Tensor], level: float
) -> Iterator[Finding]:
    for topic, test in tests.items():
        p = float(adjusted[topic].reshape(-1)[i])
        if not p < level:
            continue
        kind, _, name = topic.rpartition(" ")
        if kind.startswith("parallel"):
            words = f"The slope of {name} differs from cut to cut (p {p:.2g})."
            advice = f"Set it free: Ordinal(free=[{name!r}]), or look at a multinomial model."
        else:
            words = f"The {name} is not constant: it moves with the columns of the first predictor (p {p:.2g})."
            advice = f"Give it columns: predictors={{{name!r}: '~ ...'}}."
        yield Finding(topic, float(test.statistic.reshape(-1)[i]), p, words, advice)
