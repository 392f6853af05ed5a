"""Does a model of several predictors hold? The tests that apply, and what stands beside them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from torchglm.families.several import Classes
from torchglm.fitting.status import Status
from torchglm.inference.adequacy import sentences, several_words
from torchglm.inference.adequacy.beside_tests import Inflation, LargestCook, held_together, in_words_of
from torchglm.inference.adequacy.cells import Below, zero_sums
from torchglm.inference.adequacy.findings import Check, Finding
from torchglm.inference.adequacy.separation import Separation, separation
from torchglm.inference.adequacy.several_questions import questions
from torchglm.inference.adequacy.several_tests import (
    dispersion_test_several,
    with_zeros,
    within_is_poisson,
    zeros_of,
)
from torchglm.inference.fitted import Fitted
from torchglm.inference.hypotheses.nested import scaled_score
from torchglm.inference.levels import check_level
from torchglm.inference.several import family_of
from torchglm.inference.table import Outcome
from torchglm.inference.vector.deletion import cook_of, reaches
from torchglm.inference.vector.score import pieces, score_sums_of
from torchglm.rows.planned import predictors

THIN = 5.0  # rows of a class for each of its coefficients, below which estimates say little


@torch.no_grad()
def check_several(result: Fitted, level: float = 0.05) -> Check:
    """What speaks against a model of several predictors, by tests that need no refit; see `check.check`.

    The link of every predictor that has columns, by its square; of an ordinal model every shared slope against slopes
    that differ by cut; of another each parameter with an intercept alone against the columns of the first predictor,
    and one that has columns against the mean; zeros, and the spread of Poisson counts within. They are held at `level`
    together, by Holm's adjustment. Beside them stand how the fit ended, the direction of a separation with its classes
    and columns, aliased and nearly dependent columns, classes with few rows, and a row that moves the coefficients by
    itself. Penalised fits have these alone. Raises `ValueError` for a level outside (0, 1), without the rows of the
    fit, and with others.
    """
    check_level(level, 0.05)
    _judge_rows(result)
    fine = result.flat.converged
    separated = separation(result) if bool((result.flat.status == int(Status.SEPARATED)).any()) else None
    tests, zeros = _tests(result)
    known = result.shaped(fine)
    tests = {
        topic: replace(one, statistic=torch.where(known, one.statistic, torch.nan)) for topic, one in tests.items()
    }
    adjusted, inflation, moving = held_together(tests), Inflation(result), LargestCook(result)
    for reach in reaches(result):
        cook = cook_of(reach, result.flat.df)
        moving.take(torch.where(reach.values.used, cook, 0.0), reach.leverage)
    findings = [
        [
            *_ended(result, i, separated),
            *_thin(result, i),
            *inflation.findings(i),
            *_tested(result, i, tests, adjusted, level, zeros),
            *moving.findings(result, i),
        ]
        for i in range(result.flat.deviance.shape[0])
    ]
    title = f"Check of a fit of {result.family.said}"
    return Check(title, level, in_words_of(result, findings), tests, adjusted, result.batch_shape)


def _judge_rows(result: Fitted) -> None:
    """Raise `ValueError` where a model that converged has another likelihood on these rows."""
    total, rounding = torch.zeros_like(result.flat.deviance), torch.zeros_like(result.flat.deviance)
    family = family_of(result)
    for rows in pieces(result):
        used, own = rows.weight > 0, 2 * family.nll(rows.response, predictors(rows, result.flat.coef))
        total += torch.where(used, own * rows.weight, 0.0).sum(-1)
        rounding += torch.where(used, own.abs() * rows.weight, 0.0).sum(-1)
    other = result.flat.converged & ~((total - result.flat.deviance).abs() <= 1e-6 * rounding + 1e-6)
    if bool(other.any()):
        i = int(other.nonzero()[0, 0])
        raise ValueError(
            "these are not the rows of the fit: minus twice its log-likelihood is "
            f"{float(result.flat.deviance[i]):.6g}, on these rows {float(total[i]):.6g}. Pass the rows of the fit."
        )


def _tests(result: Fitted) -> tuple[dict[str, Outcome], Below | None]:
    """The tests that apply, by topic, and the sums of zeros; none where a penalty pulls at the coefficients."""
    family, tests = family_of(result), dict[str, Outcome]()
    if result.penalty is not None or result.bias_reduced:
        return tests, None
    asked = questions(result)
    for topic, sums in score_sums_of(result, asked).items() if asked else ():
        statistic, df = scaled_score(*sums)
        tests[topic] = Outcome(f"Score test: {topic}", result.shaped(statistic), result.shaped(df))
    plain = replace(result, covariance_kind="model")
    if within_is_poisson(family):
        tests["dispersion"] = replace(dispersion_test_several(plain), notes=())
    zeros = zero_sums(result) if with_zeros(family) else None
    if zeros is not None:
        tests["zeros"] = replace(zeros_of(result, zeros), notes=())
    return tests, zeros


def _ended(result: Fitted, i: int, separated: Separation | None) -> Iterator[Finding]:
    status = Status(int(result.flat.status[i]))
    if separated is not None and bool(separated.found.reshape(-1)[i]):
        rows = float(separated.rows.reshape(-1)[i])
        yield Finding("separation", rows, None, *several_words.separation(result, separated, i))
    elif status != Status.CONVERGED:
        yield Finding("fit", float(status), None, *sentences.ending(status))
    lost = [name for name, kept in zip(result.all_names, result.flat.keep[i].tolist(), strict=True) if not kept]
    if lost:
        yield Finding("aliased", float(len(lost)), None, *several_words.aliased(lost))


def _thin(result: Fitted, i: int) -> Iterator[Finding]:
    """Classes that have few rows for their coefficients."""
    family = family_of(result)
    if not isinstance(family, Classes):
        return
    counts = result.class_counts.reshape(-1, len(family.known))[i].tolist()
    own = float(result.flat.keep[i].sum()) / max(1, len(family.known) - 1)
    few = [(label, count) for label, count in zip(family.known, counts, strict=True) if count < THIN * own]
    if few:
        yield Finding("classes", min(count for _, count in few), None, *several_words.thin(few, own))


def _tested(
    result: Fitted, i: int, tests: dict[str, Outcome], adjusted: dict[str, Tensor], level: float, zeros: Below | None
) -> Iterator[Finding]:
    for topic, test in tests.items():
        p = float(adjusted[topic].reshape(-1)[i])
        if p < level:
            words = several_words.tested(result, topic, p, zeros, i)
            yield Finding(topic, float(test.statistic.reshape(-1)[i]), p, *words)
