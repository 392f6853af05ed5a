"""Does the model hold? The tests that apply, in one pass, and what they found in plain sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from torchglm.fitting.shape import dispersion_ml
from torchglm.fitting.status import Status
from torchglm.inference.adequacy import sentences
from torchglm.inference.adequacy.basis_check import BasisSample, k_check_of
from torchglm.inference.adequacy.beside_tests import Inflation, LargestCook, held_together, in_words_of
from torchglm.inference.adequacy.check_several import check_several
from torchglm.inference.adequacy.concurvity import PARAMETRIC, PlainGram, concurvity_of, nearest_term
from torchglm.inference.adequacy.diagnostics import has_zeros
from torchglm.inference.adequacy.dispersion import Spread, apart, spread_of
from torchglm.inference.adequacy.findings import Check, Finding
from torchglm.inference.adequacy.screening import LinkTest, PowerLink, Screen, run
from torchglm.inference.adequacy.separation import Separation, separation
from torchglm.inference.adequacy.spread import Overdispersion, PearsonRows, VarianceTrend, ZeroCount
from torchglm.inference.apart import of_like_size
from torchglm.inference.by_plan import answered_by
from torchglm.inference.fitted import Fitted
from torchglm.inference.hypotheses.adjust import adjust
from torchglm.inference.influence import deletion
from torchglm.inference.levels import check_level
from torchglm.inference.rowwise import RowValues
from torchglm.inference.smooths import smooths
from torchglm.inference.table import Outcome, Table

CONCURVED = 0.8  # share of a term that the others can make worth a sentence
NEAR = 0.75  # share of the freedom of a term beyond which more columns may help


class Moving:
    """What each row does to the coefficients."""

    def __init__(self, result: Fitted) -> None:
        self.result, self.cook = result, LargestCook(result)

    def add(self, values: RowValues) -> None:
        found = deletion(self.result, values)
        self.cook.take(found.cook, found.leverage)


class _Deviance:
    """The deviance of the rows, by which they are known to be those of the fit."""

    def __init__(self, result: Fitted) -> None:
        self.result = result
        self.total = torch.zeros_like(result.flat.deviance)
        self.rounding = self.total.clone()  # what an error of 1e-9 in every mean adds to it

    def add(self, values: RowValues) -> None:
        family, weight = self.result.family, values.rows.weight
        half = family.half_deviance(values.rows.response, values.eta, values.mu, self.result.link)
        self.total += torch.where(values.used, 2 * half * weight, 0.0).sum(-1)
        off = (1e-9 * values.mu).square() / family.variance(values.mu)
        self.rounding += torch.where(values.used, off * weight, 0.0).nan_to_num(0.0).sum(-1)

    def judge(self) -> None:
        """Raise `ValueError` where a model that converged has another deviance on these rows."""
        fitted = self.result.flat.deviance
        fine = self.result.flat.converged
        other = fine & ~((self.total - fitted).abs() <= 1e-4 * fitted + 1e-6 + self.rounding)
        if bool(other.any()):
            i = int(other.nonzero()[0, 0])
            raise ValueError(
                f"these are not the rows of the fit: its deviance is {float(fitted[i]):.6g}, on these "
                f"rows {float(self.total[i]):.6g}. Pass the rows it was fitted on."
            )


def screens_of(result: Fitted) -> dict[str, Any]:
    """The tests that apply to a fit, by topic; none where a penalty pulls its coefficients from the maximum."""
    if result.penalty is not None:
        return {}
    made: dict[str, Any] = {"link": LinkTest(result)}
    if type(result.family) in Overdispersion.FAMILIES and result.dispersion_kind == "fixed":
        made["dispersion"] = Overdispersion(result)
    if has_zeros(result):
        made["zeros"] = ZeroCount(result)
    if result.family.has_dispersion:
        made["variance"] = VarianceTrend(result)
    return made


@of_like_size
@answered_by(check_several)
@torch.no_grad()
def check(result: Fitted, level: float = 0.05) -> Check:
    """Ask whether the model holds, and say what speaks against it; see `Check`.

    The tests that apply (link; dispersion and zeros of counts; variance against the mean where the dispersion is
    estimated) are held at `level` together, by Holm's adjustment: on a right model with enough rows nothing is found
    in about `1 - level` of cases or more. Beside them stand facts about the fit that need no test: how it ended, the
    direction of a separation, aliased and nearly dependent columns (the terms of one variable, and interactions beside
    their parts, depend by their make and are not told), two estimates of the dispersion that are far apart, a row
    that moves the coefficients by itself. Rows are named as they stand in the table or file.
    Penalised fits have these alone, and of smooth terms the k-check (held at `level` together) and the concurvity, in
    `Check.smooths`. Over-dispersed counts widen the link test, so that one fault is not told as two.
    Of a separated model the part that has a maximum is tested; others that did not converge are not. One pass over
    the rows, three more where a model is separated, and a few where the family has a dispersion.
    Raises `ValueError` for a level outside (0, 1), and without the rows of the fit.
    """
    check_level(level, 0.05)
    screens = screens_of(result)
    power, moving, pearson = PowerLink(result), Moving(result), PearsonRows(result)
    counted = Overdispersion(result) if type(result.family) in Overdispersion.FAMILIES else None
    if "dispersion" in screens:
        counted = screens["dispersion"]
    deviance = _Deviance(result)
    extra: list[Any] = [] if counted is None or "dispersion" in screens else [counted]
    extra += [power] if result.link.exponent is not None else []
    curves = _Curves(result) if smooths(result) else None
    run(result, [*screens.values(), moving, pearson, deviance, *extra, *([] if curves is None else curves.screens)])
    deviance.judge()
    separated = None
    if bool((result.flat.status == int(Status.SEPARATED)).any()):
        separated = separation(result)
    fine = result.flat.converged
    # the rows that a separation tells apart fit exactly and add nothing: what is left is tested
    fine = result.shaped(fine if separated is None else fine | separated.found.reshape(-1))
    outcomes = {topic: screen.outcome() for topic, screen in screens.items()}
    if "link" in screens:
        outcomes["link"] = screens["link"].outcome(_inflation(result))
    tests = {topic: _where(outcome, fine) for topic, outcome in outcomes.items()}
    p_values, inflation = held_together(tests), Inflation(result)
    sums = _Sums(pearson, counted, spread_of(result), _likelihood(result, pearson))
    findings = [
        [
            *_ending(result, i, separated),
            *_columns(result, i),
            *inflation.findings(i),
            *_tested(result, i, screens, power, tests, p_values, level, sums),
            *_dispersion(result, i, sums, p_values, level),
            *moving.cook.findings(result, i),
            *([] if curves is None else curves.findings(i, level)),
        ]
        for i in range(result.flat.deviance.shape[0])
    ]
    title = f"Check of {result.family}, link {result.link.name}"
    table = None if curves is None else curves.table
    return Check(title, level, in_words_of(result, findings), tests, p_values, result.batch_shape, table)


class _Curves:
    """What the rows say of smooth terms: columns enough, and not made of one another."""

    def __init__(self, result: Fitted) -> None:
        self.result, self.sample, self.sums = result, BasisSample(result), PlainGram(result)
        self.screens: list[Screen] = [self.sample, self.sums]

    @cached_property
    def table(self) -> Table:
        """The k-check and the concurvity of each term."""
        basis, shared = k_check_of(self.result, self.sample), concurvity_of(self.result, self.sums)
        first = int(PARAMETRIC in shared.rows)
        rest = {name: value[..., first:].to(basis["edf"]) for name, value in shared.columns.items()}
        return Table("Smooth terms", basis.rows, basis.columns | rest)

    def findings(self, i: int, level: float) -> Sequence[Finding]:
        if not bool(self.result.flat.converged[i]):
            return []
        own = {name: value.reshape(-1, value.shape[-1])[i] for name, value in self.table.columns.items()}
        adjusted, found = adjust(own["p"], "holm"), []
        for j, name in enumerate(self.table.rows):
            edf, most, index, p = (float(own[key][j]) for key in ("edf", "k'", "k-index", "p"))
            if float(adjusted[j]) < level and index < 1:
                words = sentences.few_columns(name, edf, most, index, p, edf > NEAR * most)
                found.append(Finding("basis", index, float(adjusted[j]), *words))
        for j, name in enumerate(self.table.rows):
            share = max(float(own["observed"][j]), float(own["estimate"][j]))
            if share > CONCURVED:
                other = nearest_term(self.result, self.sums, name, i)
                found.append(Finding("concurvity", share, None, *sentences.concurvity(name, other, share)))
        return found


def _inflation(result: Fitted) -> Tensor | float:
    """(B) by how much counts vary more than their family says, so that this is not taken for a wrong link."""
    if type(result.family) not in Overdispersion.FAMILIES or result.dispersion_kind != "fixed":
        return 1.0
    ratio = result.flat.pearson / (result.flat.nobs - result.flat.rank)
    return torch.where(ratio > 1, ratio, 1.0)


def _where(outcome: Outcome, fine: Tensor) -> Outcome:
    """The outcome where the fit converged, NaN elsewhere; without the notes of single tests."""
    return Outcome(outcome.title, torch.where(fine, outcome.statistic, torch.nan), outcome.df, outcome.df_resid)


def _ending(result: Fitted, i: int, separated: Separation | None) -> Sequence[Finding]:
    status = Status(int(result.flat.status[i]))
    if status == Status.CONVERGED:
        return []
    if status == Status.SEPARATED_LEVELS:
        return [Finding("separation", float(result.flat.apart_rows[i]), None, *sentences.levels(result, i))]  # type: ignore
    if separated is not None and bool(separated.found.reshape(-1)[i]):
        rows = float(separated.rows.reshape(-1)[i])
        return [Finding("separation", rows, None, *sentences.separation(result, separated, i))]
    return [Finding("fit", float(status), None, *sentences.ending(status))]


def _tested(
    result: Fitted,
    i: int,
    screens: dict[str, Any],
    power: PowerLink,
    tests: dict[str, Outcome],
    p_values: dict[str, Tensor],
    level: float,
    sums: _Sums,
) -> Sequence[Finding]:
    found = []
    for topic, adjusted in p_values.items():
        p = float(adjusted.reshape(-1)[i])
        if p < level:
            if topic == "dispersion":
                words = sentences.dispersion(result, sums, i, p)
            else:
                words = getattr(sentences, topic)(result, screens[topic], power, i, p)
            found.append(Finding(topic, float(tests[topic].statistic.reshape(-1)[i]), p, *words))
    return found


@dataclass(frozen=True)
class _Sums:
    """What the sums of the rows say of the dispersion: of each model, `spread` and `likelihood` (B)."""

    pearson: PearsonRows
    counted: Overdispersion | None
    spread: Tensor
    likelihood: Tensor


def _likelihood(result: Fitted, pearson: PearsonRows) -> Tensor:
    """(B) the dispersion by maximum likelihood, corrected for the coefficients; NaN for a family that has none."""
    flat = result.flat
    if not result.family.has_dispersion or result.dispersion_kind == "number":
        return torch.full_like(flat.deviance, torch.nan)
    start = flat.deviance / flat.nobs
    return dispersion_ml(result.source, result.family, result.link, flat.coef, start) * flat.nobs / _df(result)


def _df(result: Fitted) -> Tensor:
    return (result.flat.nobs - result.flat.rank).clamp(min=1)


def _dispersion(result: Fitted, i: int, sums: _Sums, p_values: dict[str, Tensor], level: float) -> Sequence[Finding]:
    """Where two estimates of the dispersion are far apart, and no test has said so."""
    tested = "dispersion" in p_values and float(p_values["dispersion"].reshape(-1)[i]) < level
    if tested or not bool(result.flat.converged[i]):
        return []
    code = int(sums.spread[i])
    if code == Spread.WIDE:
        return [Finding("dispersion", _per_df(result, i), None, *sentences.wide(result, i))]
    heavy = float(sums.pearson.parts[i].sum() / sums.pearson.total[i]) > 0.5
    ratio = math.nan if sums.counted is None else float(sums.counted.ratio()[i])
    quasi = result.dispersion_kind in ("pearson", "deviance") and _per_df(result, i) > 1.5 * ratio
    if code == Spread.UNSURE or quasi and heavy:
        return [Finding("dispersion", _per_df(result, i), None, *sentences.heavy(result, sums, i))]
    by_pearson = result.flat.pearson / _df(result)
    if bool(apart(by_pearson, sums.likelihood, sums.pearson.error())[i]):
        return [Finding("dispersion", _per_df(result, i), None, *sentences.two_dispersions(result, sums, i))]
    return []


def _per_df(result: Fitted, i: int) -> float:
    return float(result.flat.pearson[i] / _df(result)[i])


def _columns(result: Fitted, i: int) -> Sequence[Finding]:
    found = []
    if int(result.flat.status[i]) != int(Status.NOT_FINITE):
        empty = result.flat.empty[i]
        for which, words in ((empty, sentences.empty), (~result.flat.keep[i] & ~empty, sentences.aliased)):
            names = [result.names[j] for j in which.nonzero()[:, 0].tolist()]
            if names:
                found.append(Finding("aliased", float(len(names)), None, *words(names)))
    return found
