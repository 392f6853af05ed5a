"""What the summary of one model says: facts, coefficient table, notes."""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from typing import TYPE_CHECKING, Any, cast

from torchglm.design import tally
from torchglm.inference.absorbed import absorbed_facts
from torchglm.inference.adequacy.dispersion import spread_sentence
from torchglm.inference.adequacy.sentences import set_apart
from torchglm.inference.dialect import spoken
from torchglm.inference.fitted import Fitted
from torchglm.report import words
from torchglm.report.coefficients import Coefficient, coefficients
from torchglm.report.describe import describe
from torchglm.report.document import Block, Document, Facts, Grid, Notes
from torchglm.report.provisos import effective, levels_apart, penalised, penalty_name
from torchglm.report.random import random_facts, random_remarks, random_table
from torchglm.report.smooths import smooth_facts, smooth_places, smooth_remarks, smooth_table
from torchglm.writing import numbers

if TYPE_CHECKING:
    import pandas as pd

    from torchglm.fitting.status import Status

MANY_DF = 10_000  # degrees of freedom from which on t is the normal law


class SingleModel:
    """The reading of a Fitted without batch dimensions."""

    def __init__(self, result: Fitted, level: float) -> None:
        self.result, self.level = result, level
        self.status = cast("Status", result.status)  # of one model it is no list
        self.family, self.link = result.family, result.link
        self.ratio_name = words.ratio_name(self.family, self.link)
        self.coefficients = coefficients(result, level)

    def document(self, width: int) -> Document:
        """Title, facts, coefficient tables and notes, for lines of `width` characters."""
        blocks: list[Block] = []
        if self.result.formulas:
            blocks.append(Notes([f"Formula: {self.result.formulas}"]))
        blocks += [Facts(self.facts()), *self.tables(width)]
        if self.warnings():
            blocks.append(Notes(self.warnings(), alarm=True))
        blocks.append(Notes(self.remarks()))
        return Document(self.title, blocks)

    @property
    def title(self) -> str:
        """What was fitted: `Poisson regression, log link`."""
        return words.model_title(self.family.name, self.link.name)

    def facts(self) -> list[tuple[str, str]]:
        """The header: what was fitted and how well, as names and formatted values."""
        r = self.result
        deviance, null = _float(r.deviance), _float(r.null_deviance)
        group = [] if r.context.get("group") is None else [("Group", group_label(r, r.context["group"]))]
        return [
            *group,
            *_event(r),
            ("Family", _with_shape(r)),
            ("Link", words.link_title(self.link.name)),
            *roles(r),
            ("Observations", numbers.number(_float(r.nobs))),
            *left_out(r),
            *levels_apart(r),
            *(absorbed_facts(r) or [("Rank", f"{int(_float(r.rank))} of {len(r.names)} columns")]),
            *effective(r),
            ("Residual df", numbers.number(_float(r.df_resid))),
            ("Null df", numbers.number(_float(r.df_null))),
            ("Dispersion", self._dispersion()),
            ("Status", self._status()),
            ("Deviance", numbers.number(deviance)),
            ("Null deviance", numbers.number(null)),
            ("D² (explained)", share(d_squared(deviance, null))),
            ("Pearson χ²", numbers.number(_float(r.pearson_chi2))),
            ("Log-likelihood", numbers.number(_float(r.loglik))),
            ("AIC", numbers.number(_float(r.aic))),
            ("BIC", numbers.number(_float(r.bic))),
            ("Penalty", self._penalty()),
            *random_facts(r),
        ]

    def tables(self, width: int) -> list[Grid]:
        """The coefficient table, with exp(coef) beside it or, past `width` characters, below it."""
        low, high = numbers.limits(self.level)
        name = self.result.statistic_name
        own, more = self.plain, [*smooth_table(self.result), *random_table(self.result)]
        cells = self._coefficient_cells(own)
        head = ("", "estimate", "std. error", f"{name} value", "p-value", low, high)
        if self.ratio_name is None:
            return [Grid("", head, cells), *more]
        ratios = self._ratio_cells(own)
        both = Grid("", (*head, self.ratio_name, low, high), [(*a, *b) for a, b in zip(cells, ratios, strict=True)])
        if both.width() <= width:
            return [both, *more]
        named = [(c.name, *row) for c, row in zip(own, ratios, strict=True)]
        return [Grid("", head, cells), Grid("", ("", self.ratio_name, low, high), named), *more]

    @property
    def plain(self) -> list[Coefficient]:
        """The coefficients that stand for themselves, those of curves left out."""
        inside = smooth_places(self.result)
        return [c for j, c in enumerate(self.coefficients) if j not in inside]

    @property
    def sound(self) -> bool:
        """Whether the fit converged."""
        return bool(self.result.converged)

    @property
    def verdict(self) -> str:
        """The status in two or three words."""
        return words.status_title(self.status.name)

    def warnings(self, covered: Container[str] = ()) -> list[str]:
        """What a reader must know before believing the table, a sentence each; empty for a sound fit.

        Those on topics that are `covered` elsewhere (`fit`, `aliased`, `dispersion`) are left out.
        """
        lines = {"fit": self._ending(), "aliased": self._aliased(), "dispersion": self._spread()}
        return [line for topic, line in lines.items() if line and topic not in covered]

    def remarks(self) -> list[str]:
        """How the numbers were obtained, a sentence each."""
        r = self.result
        law = reference(r)
        lines = [f"Tests and {numbers.percent(self.level)} intervals: Wald, {law}{robust_errors(r)}."]
        if bool(r.flat.unknown is not None and not r.flat.known.any()):
            lines = ["Tests and intervals: none."]
        if self.ratio_name is not None:
            what = "odds" if self.link.multiplies == "odds" else self.family.mean_text
            has = any(c.name == words.INTERCEPT for c in self.coefficients)
            base = f" For {words.INTERCEPT} it is the baseline {what}." if has else ""
            lines[0] += f" {self.ratio_name.capitalize()} = exp(estimate).{base}"
        return lines + smooth_remarks(r) + random_remarks(r) + penalised(r) + policies(r)

    def sentences(self) -> list[str]:
        """One sentence per coefficient on what it says."""
        reading = words.Reading(
            self.family,
            self.link,
            self.result.names,
            references(self.result),
            bool(self.result.context.get("offset")),
            self.level,
        )
        return [reading.sentence(c.name, c.estimate, c.low, c.high) for c in self.plain]

    def to_dict(self) -> dict[str, Any]:
        """Header and coefficients, JSON-able: NaN and infinities are None."""
        r = self.result
        deviance, null = _float(r.deviance), _float(r.null_deviance)
        rows = [
            {
                "name": c.name,
                "estimate": c.estimate,
                "std_err": c.std_err,
                "statistic": c.statistic,
                "p_value": c.p_value,
                "low": c.low,
                "high": c.high,
            }
            for c in self.coefficients
        ]
        if self.ratio_name is not None:
            for row, c in zip(rows, self.coefficients, strict=True):
                row["ratio"], row["ratio_low"], row["ratio_high"] = c.ratio
        return numbers.jsonable(
            {
                **describe(r),
                "family": self.family.name,
                "status": self.status.name.lower(),
                "level": self.level,
                "d_squared": d_squared(deviance, null),
                "tally": r.context.get("tally"),
                "statistic_name": r.statistic_name,
                "ratio_name": self.ratio_name,
                "coefficients": rows,
                "smooths": smooth_facts(r),
                "warnings": self.warnings(),
            }
        )

    def to_frame(self) -> pd.DataFrame:
        """One row per coefficient, indexed by its name; the same columns as in `to_dict`."""
        import pandas as pd

        frame = pd.DataFrame([vars(c) for c in self.coefficients]).set_index("name")
        if self.ratio_name is not None:
            frame[["ratio", "ratio_low", "ratio_high"]] = [c.ratio for c in self.coefficients]
        return frame

    def _coefficient_cells(self, own: list[Coefficient]) -> list[tuple[str, ...]]:
        rows = [(c.estimate, c.std_err, c.low, c.high) for c in own]
        cells = numbers.fixed(rows, [c.std_err for c in own])
        return [
            (c.name, e, s, numbers.statistic(c.statistic), numbers.p_value(c.p_value), low, high)
            for c, (e, s, low, high) in zip(own, cells, strict=True)
        ]

    def _ratio_cells(self, own: list[Coefficient]) -> list[list[str]]:
        rows = [c.ratio for c in own]
        scales = [c.std_err * ratio[0] for c, ratio in zip(own, rows, strict=True)]
        return numbers.fixed(rows, scales)

    def _dispersion(self) -> str:
        how = {
            "fixed": "fixed",
            "pearson": "Pearson χ²/df",
            "deviance": "deviance/df",
            "ml": "maximum likelihood",
            "fletcher": "Pearson χ²/df, Fletcher's correction",
            "reml": "REML",
        }.get(self.result.dispersion_kind, "given")
        phi = _float(self.result.dispersion)
        return numbers.MISSING if math.isnan(phi) else f"{phi:.5g} ({how})"

    def _status(self) -> str:
        iterations = int(_float(self.result.n_iter))
        return f"{words.status_title(self.status.name)}, {iterations} iteration{'s' * (iterations != 1)}"

    def _penalty(self) -> str:
        return penalty_name(self.result) or "none"

    def _ending(self) -> str:
        if self.sound:
            return self._spoken([self.status.explanation, *self._levels()]) if self.status.name != "CONVERGED" else ""
        return f"Not converged ({words.status_title(self.status.name)}): {self._spoken([self.status.explanation])}"

    def _spoken(self, said: list[str]) -> str:
        """Sentences in the words of the one who made the fit."""
        return spoken(self.result, " ".join(said))

    def _levels(self) -> list[str]:
        """Which levels were set apart."""
        r = self.result
        if r.flat.infinite is None or not bool(r.infinite.any()):
            return []
        return [set_apart(r.names, r.flat.infinite, int(r.apart_levels), float(r.apart_rows))]

    def _aliased(self) -> str:
        aliased = [c.name for c in self.coefficients if c.aliased]
        if not aliased or len(aliased) == len(self.coefficients):
            return ""
        empty = [self.result.names[j] for j in self.result.flat.empty[0].nonzero()[:, 0].tolist()]
        aliased = [name for name in aliased if name not in empty]
        if empty:
            said = f"{_listed(empty)} {'has' if len(empty) == 1 else 'have'} no rows (NA): no such level occurs."
            return said if not aliased else f"{said} {self._dependent(aliased)}"
        return self._dependent(aliased)

    def _dependent(self, aliased: list[str]) -> str:
        return (
            f"{_listed(aliased)} {'is' if len(aliased) == 1 else 'are'} aliased (NA): a linear "
            "combination of other columns, so no coefficient of its own can be estimated."
        )

    def _spread(self) -> str:
        """A warning where φ is held at 1, the residuals seem wider, and no robust error allows for it."""
        return spread_sentence(self.result, words.family_title(self.family.name))


def d_squared(deviance: float, null: float) -> float:
    """D² = 1 − deviance / null deviance; NaN where the null deviance is zero or unknown."""
    return 1 - deviance / null if null > 0 else math.nan


def reference(result: Fitted) -> str:
    """The law of the statistics of one model, in words."""
    if result.statistic_name != "t":
        return "normal"
    if result.flat.reference is None:
        return f"Student t with {_float(result.df_resid):.0f} df"
    every = [df for df in sorted(result.reference_df.tolist()) if df == df]
    known = [f"{df:.1f}" if df < MANY_DF else f"over {MANY_DF:,}" for df in every]
    ends = " to ".join(dict.fromkeys([known[0], known[-1]])) if known else "unknown"
    return f"Student t with Satterthwaite's df for each coefficient ({ends})"


def robust_errors(result: Fitted) -> str:
    """`, standard errors HC3` where another covariance than the model's stands behind them; else nothing."""
    return "" if result.covariance_kind == "model" else f", standard errors {result.covariance_kind}"


def roles(result: Fitted) -> list[tuple[str, str]]:
    """The columns that a formula fit took as exposure, offset, weights and so on, as facts."""
    return [(role.capitalize(), str(column)) for role, column in (result.context.get("columns") or {}).items()]


def left_out(result: Fitted) -> list[tuple[str, str]]:
    """The rows left out of a formula fit for missing values, as a fact; empty where there are none."""
    rows = (result.context.get("tally") or {}).get("rows", 0)
    return [("Left out", f"{rows:,} row{'s' * (rows != 1)}")] if rows else []


def policies(result: Fitted) -> list[str]:
    """What the policies on missing values, rare and unseen levels did to the rows of a formula fit, in sentences."""

    if result.spec is None or not result.context.get("tally"):
        return []
    counts, unseen = result.context["tally"], result.spec.unseen
    found = {
        "Left out": tally.left_out(counts),
        "Rare levels pooled into 'other'": tally.pooled(result.spec),
        "Taken in": tally.recoded(counts, unseen),
    }
    return [f"{what}: {said}." for what, said in found.items() if said]


def _event(result: Fitted) -> list[tuple[str, str]]:
    """Which of the two levels of a categorical response is the event; empty for a numeric one."""
    response = None if result.spec is None else result.spec.response
    if response is None or response.levels is None:
        return []
    failure, success = response.levels
    return [("Response", f"{response.expression.text} = {success} (1), {failure} (0)")]


def references(result: Fitted) -> dict[str, str]:
    """The reference level of each factor under treatment coding, by the factor's text in the formula."""
    factors = {} if result.spec is None else result.spec.factors
    return {
        text: str(factor.levels[factor.reference])
        for text, factor in factors.items()
        if factor.kind == "categorical" and factor.codings is None
    }


def group_label(result: Fitted, group: Any) -> str:
    """A group of a `by=` fit as `state = CA, year = 2001`."""
    values = group if isinstance(group, tuple | list) else (group,)
    names = result.group_names or [""] * len(values)
    return ", ".join(f"{n} = {v}" if n else str(v) for n, v in zip(names, values, strict=True))


def share(value: float) -> str:
    """A share such as D² to four decimals."""
    return numbers.MISSING if math.isnan(value) else f"{value:.4f}"


def _float(value: Any) -> float:
    return math.nan if value is None else float(value)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:6])
    return shown if len(names) <= 6 else f"{shown} and {len(names) - 6} more"


def _with_shape(result: Fitted) -> str:
    """The family's name with its shape parameter and its error: `negative binomial (alpha 0.62, std err 0.05)`."""
    family, error = result.family, float(result.shape_std_err)
    parts = [
        f"{key} {numbers.short(float(getattr(family, key)))}"
        for key in ("alpha", "power")
        if getattr(family, key, None) is not None
    ]
    if not math.isnan(error):
        parts.append(f"std err {numbers.short(error)}")
    name = words.family_title(family.name)
    return f"{name} ({', '.join(parts)})" if parts else name
