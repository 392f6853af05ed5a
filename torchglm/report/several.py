"""What the summary of one model of several predictors says: facts, a table for each predictor, notes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torchglm import special
from torchglm.families.several import Classes, VectorFamily
from torchglm.inference.fitted import Fitted
from torchglm.inference.several import family_of
from torchglm.inference.vector.columns import PART
from torchglm.report import laws, words
from torchglm.report.coefficients import Coefficient
from torchglm.report.document import Grid
from torchglm.report.provisos import effective, levels_apart, penalised
from torchglm.report.random import random_facts, random_remarks, random_table
from torchglm.report.sections import Section, sections, whole
from torchglm.report.single import (
    SingleModel,
    group_label,
    left_out,
    policies,
    reference,
    references,
    roles,
    share,
)
from torchglm.report.smooths import smooth_places, smooth_remarks, smooth_table
from torchglm.writing import numbers

if TYPE_CHECKING:
    import pandas as pd

_LISTED = 12  # classes whose rows are counted in the facts


class SeveralModel(SingleModel):
    """The reading of a Fitted of several predictors without batch dimensions."""

    def __init__(self, result: Fitted, level: float) -> None:
        super().__init__(whole(result), level)
        self.sections = sections(result)
        self.law: VectorFamily = family_of(result)
        self.ratio_name = None  # each predictor has its own
        self.inside = smooth_places(result)

    @property
    def title(self) -> str:
        return laws.regression_title(self.law)

    def facts(self) -> list[tuple[str, str]]:
        """The header: what was fitted and how well, as names and formatted values."""
        r = self.result
        if PART in r.context:
            return [
                ("Part", f"the predictor {r.context[PART]}"),
                ("Family", laws.law_title(self.law)),
                ("Observations", numbers.number(float(r.nobs))),
                ("Status", self._status()),
            ]
        loglik, null = float(r.loglik), -float(r.null_deviance) / 2
        group = [] if r.context.get("group") is None else [("Group", group_label(r, r.context["group"]))]
        kept = None if r.spec is None else r.spec.response
        response = [] if kept is None or kept.levels is None else [("Response", str(kept.expression.text))]
        return [
            *group,
            *response,
            *self._classes(),
            ("Family", laws.law_title(self.law)),
            ("Link", laws.link_facts(self.law)),
            *roles(r),
            ("Observations", numbers.number(float(r.nobs))),
            *left_out(r),
            *levels_apart(r),
            ("Rank", f"{int(r.rank)} of {len(r.names)} coefficients"),
            *effective(r),
            ("Residual df", numbers.number(float(r.df_resid))),
            ("Status", self._status()),
            ("Log-likelihood", numbers.number(loglik)),
            ("Null log-likelihood", numbers.number(null)),
            *self._against_null(loglik, null),
            ("AIC", numbers.number(float(r.aic))),
            ("BIC", numbers.number(float(r.bic))),
            ("Penalty", self._penalty()),
            *random_facts(r),
        ]

    def tables(self, width: int) -> list[Grid]:
        """The coefficients of each predictor, with exp(coef) beside them or, past `width` characters, below."""
        low, high = numbers.limits(self.level)
        pairs = [self._grids(section, (low, high)) for section in self.sections if self.of(section)]
        beside = [both for _, _, both in pairs if both is not None]
        more = [*smooth_table(self.result), *random_table(self.result)]
        if all(both.width() <= width for both in beside):
            return [*(plain if both is None else both for plain, _, both in pairs), *more]
        return [*(grid for plain, ratios, _ in pairs for grid in (plain, ratios) if grid is not None), *more]

    def _grids(self, section: Section, ends: tuple[str, str]) -> tuple[Grid, Grid | None, Grid | None]:
        """The estimates, the ratios, and both side by side, of one predictor."""
        own = self.of(section)
        title, ratio = section.quantity.title, section.quantity.ratio
        cells = self._coefficient_cells(own)
        if section.thresholds:  # that a threshold is zero says nothing
            return Grid(title, ("", "estimate", "std. error", *ends), [(*c[:3], *c[5:]) for c in cells]), None, None
        head = ("", "estimate", "std. error", f"{self.result.statistic_name} value", "p-value", *ends)
        if ratio is None:
            return Grid(title, head, cells), None, None
        ratios = self._ratio_cells(own)
        named = [(c.name, *row) for c, row in zip(own, ratios, strict=True)]
        both = Grid(title, (*head, ratio, *ends), [(*a, *b) for a, b in zip(cells, ratios, strict=True)])
        return Grid(title, head, cells), Grid("", ("", ratio, *ends), named), both

    def of(self, section: Section) -> list[Coefficient]:
        """The coefficients of a predictor by the names of its own columns, those of curves left out."""
        places = zip(section.places, section.names, strict=True)
        return [replace(self.coefficients[j], name=name) for j, name in places if j not in self.inside]

    def remarks(self) -> list[str]:
        """How the numbers were obtained, a sentence each."""
        r = self.result
        kind = {
            "observed": "from the observed information",
            "model": "from the expected information",
        }.get(r.covariance_kind, f"of kind {r.covariance_kind}")
        lines = [f"Tests and {numbers.percent(self.level)} intervals: Wald, {reference(r)}; standard errors {kind}."]
        if bool(r.flat.unknown is not None and not r.flat.known.any()):
            lines = ["Tests and intervals: none."]
        named = dict.fromkeys(s.quantity.ratio for s in self.sections if s.quantity.ratio)
        if named:
            *before, last = map(str, named)
            said = f"{', '.join(before)} and {last}" if before else last
            lines[0] += f" {said[:1].upper()}{said[1:]} = exp(estimate)."
        return lines + laws.explained(self.law) + smooth_remarks(r) + random_remarks(r) + penalised(r) + policies(r)

    def sentences(self) -> list[str]:
        """One sentence per coefficient on what it says, predictor by predictor; none on thresholds."""
        known, offset = references(self.result), bool(self.result.context.get("offset"))
        found = list[str]()
        for number, section in enumerate(self.sections):
            if section.thresholds:
                continue
            quantity = section.quantity
            reading = words.Reading(
                self.family,
                quantity.link,
                section.names,
                known,
                offset and number == 0 and not isinstance(self.law, Classes),
                self.level,
                quantity.what,
            )
            found += [reading.sentence(c.name, c.estimate, c.low, c.high) for c in self.of(section)]
        return found

    def to_dict(self) -> dict[str, Any]:
        """Header and coefficients, JSON-able: NaN and infinities are None; a coefficient names its predictor."""
        found = super().to_dict()
        for name in ("dispersion", "dispersion_kind", "pearson_chi2", "d_squared", "ratio_name", "link"):
            del found[name]
        parts = self._by_place()
        for j, row in enumerate(found["coefficients"]):
            section, name = parts[j]
            row |= {"predictor": _named(section), "term": name, "ratio_name": section.quantity.ratio}
            if section.quantity.ratio:
                ratio = self.coefficients[j].ratio
                row |= dict(zip(("ratio", "ratio_low", "ratio_high"), map(numbers.jsonable, ratio), strict=True))
        counted = self._counts()
        links = {name: link.name for name, link in self.law.links.items()}
        facts = {
            "family": laws.law_title(self.law),
            "links": links,
            "predictors": self.result.context.get("predictors", {}),
        }
        return found | facts | ({} if counted is None else {"classes": counted})

    def to_frame(self) -> pd.DataFrame:
        """One row per coefficient, indexed by its name; `predictor` and `term` say which column of which it is."""
        import pandas as pd

        parts = self._by_place()
        rows = []
        for j, c in enumerate(self.coefficients):
            section, name = parts[j]
            own = {"predictor": _named(section), "term": name, **vars(c)}
            ratio = c.ratio if section.quantity.ratio else (math.nan,) * 3
            rows.append(own | dict(zip(("ratio", "ratio_low", "ratio_high"), ratio, strict=True)))
        return pd.DataFrame(rows).set_index("name")

    def _by_place(self) -> dict[int, tuple[Section, str]]:
        """The predictor of every coefficient, and its name there."""
        return {
            j: (section, name)
            for section in self.sections
            for j, name in zip(section.places, section.names, strict=True)
        }

    def _against_null(self, loglik: float, null: float) -> list[tuple[str, str]]:
        """The likelihood ratio test against constants alone, and the share explained where responses are discrete."""
        r = self.result
        assert r.plan is not None
        df = int(r.rank) - r.plan.constants().columns
        if not (math.isfinite(loglik) and math.isfinite(null)) or df < 1 or r.penalty is not None:
            return []
        if r.flat.modes is not None:  # whose likelihood the null model, which has no effects of groups, does not share
            return []
        ratio = max(2 * (loglik - null), 0.0)
        p = float(special.chi2_sf(r.loglik.new_tensor(ratio), r.loglik.new_tensor(float(df))))
        test = f"χ² = {numbers.statistic(ratio)} on {df} df, p {numbers.stated(p)}"
        shared = [("McFadden R²", share(1 - loglik / null))] if laws.discrete(self.law) and null < 0 else []
        return [("LR against null", test), *shared]

    def _counts(self) -> dict[str, float] | None:
        """The rows of each class; None without classes, or where neither the fit nor its rows know them."""
        r = self.result
        if not isinstance(self.law, Classes) or r.flat.counts is None and not r.has_rows:
            return None
        return dict(zip(map(str, self.law.known), r.class_counts.tolist(), strict=True))

    def _classes(self) -> list[tuple[str, str]]:
        counted = self._counts()
        if counted is None:
            return []
        shown = [f"{name}: {numbers.number(n, 0)}" for name, n in counted.items()]
        more = f", … ({len(shown)} classes)" if len(shown) > _LISTED else ""
        return [("Classes", ", ".join(shown[:_LISTED]) + more)]

    def _spread(self) -> str:
        """Nothing: the spread has a predictor, or classes have none."""
        return ""


def _named(section: Section) -> str:
    """A predictor as the table of all coefficients names it."""
    return section.predictor or ("thresholds" if section.thresholds else "slopes")
