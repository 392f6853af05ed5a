"""What the summary of a batch of models of several predictors says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torchglm.inference.fitted import Fitted
from torchglm.inference.several import family_of
from torchglm.report import laws, words
from torchglm.report.document import Grid
from torchglm.report.overview import ModelBatch
from torchglm.report.sections import whole
from torchglm.writing import numbers

if TYPE_CHECKING:
    import pandas as pd


class SeveralBatch(ModelBatch):
    """The reading of a Fitted of several predictors with batch dimensions."""

    ordered_by = "log-likelihood per residual degree of freedom"

    def __init__(self, result: Fitted, level: float, worst: int = 10) -> None:
        super().__init__(whole(result), level, worst)
        self.law = family_of(result)
        self.ratio_name = None  # each predictor has its own

    @property
    def title(self) -> str:
        return laws.regression_title(self.law)

    def facts(self) -> list[tuple[str, str]]:
        """The header of the batch, as names and formatted values: likelihoods in place of deviances."""
        kept = [pair for pair in super().facts() if "deviance" not in pair[0] and not pair[0].startswith("D²")]
        named = {"Family": laws.law_title(self.law), "Link": laws.link_facts(self.law)}
        loglik = float(self._values("loglik").nansum())
        null = -float(self._values("null_deviance").nansum()) / 2
        return [
            *((name, named.get(name, value)) for name, value in kept),
            ("Total log-likelihood", numbers.number(loglik)),
            ("Total null log-likelihood", numbers.number(null)),
        ]

    def members(self, most: int = 200) -> Grid:
        """One line per model, in order: status, size, likelihoods; at most `most` lines."""
        shown = range(min(self.n_models, most))
        nobs, loglik, null, steps = (self._values(k).tolist() for k in ("nobs", "loglik", "null_deviance", "n_iter"))
        rows = [
            (
                self.label(i),
                words.status_title(self.statuses[i].name),
                numbers.number(nobs[i]),
                numbers.number(loglik[i]),
                numbers.number(-null[i] / 2),
                f"{steps[i]:.0f}",
            )
            for i in shown
        ]
        title = "" if len(shown) == self.n_models else f"The first {most} of {self.n_models:,} models"
        head = ("model", "status", "observations", "log-likelihood", "null", "iterations")
        return Grid(title, head, rows, left=2)

    def _first(self) -> Grid:
        """The models to look at first."""
        nobs, loglik, steps = (self._values(k) for k in ("nobs", "loglik", "n_iter"))
        ratio = -self.deviance_per_df() / 2
        rows = [
            (
                self.label(i),
                words.status_title(self.statuses[i].name),
                numbers.number(float(nobs[i])),
                numbers.number(float(loglik[i])),
                numbers.short(float(ratio[i])),
                f"{int(steps[i])}",
            )
            for i in self.worst()
        ]
        head = ("model", "status", "observations", "log-likelihood", "per df", "iterations")
        return Grid("Models to look at first", head, rows, left=2)

    def remarks(self) -> list[str]:
        return [*super().remarks(), *laws.explained(self.law)]

    def models_frame(self) -> pd.DataFrame:
        """One row per model, in order, with log-likelihoods in place of deviances."""
        frame = super().models_frame().drop(columns=["deviance", "null_deviance", "dispersion", "d_squared"])
        frame["loglik"] = self._values("loglik").numpy()
        frame["null_loglik"] = -self._values("null_deviance").numpy() / 2
        return frame

    def to_dict(self) -> dict[str, Any]:
        found = super().to_dict()
        for name in ("d_squared", "link"):
            del found[name]
        links = {name: link.name for name, link in self.law.links.items()}
        return found | {"family": laws.law_title(self.law), "links": links}
