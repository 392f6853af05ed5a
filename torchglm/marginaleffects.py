"""Fits for the package marginaleffects: `avg_slopes(Model(fit))`, `comparisons`, `predictions`, `hypotheses`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from marginaleffects.classes import ModelAbstract, ModelVault

from torchglm.families.several import Classes
from torchglm.inference.margins import levels_of
from torchglm.model.face import Result
from torchglm.tables import as_table
from torchglm.writing.answering import answering_init

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Model"]


@answering_init
class Model(ModelAbstract):
    """A fit of one model by a formula as a model of marginaleffects, which keeps no registry but takes its base class.

    `data` are the rows that are averaged over, by default those of the fit; `kind` is what is predicted, as in
    `fit.predict`: the mean, or the probability of each class where it is None. Standard errors are those of the fit:
    `Model(fit.robust("HC3"))` has robust ones, and `vcov="HC3"` asks for them by name. Random effects are 0.
    Raises `ValueError` for a batch, a fit without a formula or a table, and for absorbed factors, whose effects have no
    errors.
    """

    def __init__(self, fit: Result, data: Any = None, kind: str | None = None) -> None:
        import polars as pl

        if fit.batch_shape:
            raise ValueError("this is a batch of models. Take one of it: Model(fit[0]).")
        if fit.spec is None or fit.flat.absorbed is not None:
            raise ValueError("marginaleffects asks for a fit by a formula, and without absorbed factors.")
        data = fit.context.get("table") if data is None else data
        if data is None:
            raise ValueError("this fit holds no table. Pass data=, the rows to average over.")
        self.fit, self.kept = fit, fit.flat.keep[0]
        self.labels = [str(one) for one in fit.classes] if isinstance(fit.family, Classes) else []
        self.options: dict[str, Any] = {"kind": kind or ("probability" if self.labels else "mean")}
        self.options |= {"random": False} if fit.flat.modes is not None else {}
        response = (fit.formula or "").partition("~")[0].strip().strip("`")
        variables = [name for name in fit.spec.columns if name != response]
        table = pl.DataFrame(as_table(data))
        coded = [name for name in variables if levels_of(fit, name) is not None]
        self.types = {name: kind for name, kind in table.schema.items() if name in coded or kind == pl.String}
        vault = ModelVault(
            coef=self._own(fit.flat.coef[0]),
            coefnames=np.array(fit.all_names)[self.kept.numpy()],
            formula=_plain(response if response in table.columns else "", variables, coded),
            modeldata=table.with_columns(pl.col(list(self.types)).cast(pl.String).cast(pl.Categorical)),
            variable_names=[response, *variables],
            package="torchglm",
        )
        super().__init__(fit, vault)

    def _own(self, value: torch.Tensor) -> np.ndarray:
        """The entries of the coefficients that are not aliased."""
        return value[self.kept].cpu().numpy()

    def get_vcov(self, vcov: Any = True) -> np.ndarray | None:
        """The covariance of the fit, or the robust one of that name; None where none is asked for."""
        if vcov is None or vcov is False:
            return None
        fit = self.fit.robust(vcov) if isinstance(vcov, str) else self.fit
        value = fit.covariance().cpu().numpy()
        return value[np.ix_(self.kept.numpy(), self.kept.numpy())]

    def get_exog(self, newdata: pl.DataFrame) -> pl.DataFrame:
        """The rows as they are, of which `get_predict` makes the design."""
        return newdata

    def get_predict(self, params: np.ndarray, newdata: pl.DataFrame) -> pl.DataFrame:
        """A row for each of those predicted, and for each class where there are classes, at other coefficients."""
        import polars as pl

        coef = self.fit.flat.coef.clone()
        coef[0, self.kept] = torch.as_tensor(np.asarray(params, dtype=np.float64)).to(coef)
        moved = replace(self.fit, flat=replace(self.fit.flat, coef=coef))
        asked = newdata.with_columns(pl.col(name).cast(pl.String).cast(kind) for name, kind in self.types.items())
        value = np.asarray(moved.predict(asked, **self.options))
        rows = np.arange(len(value), dtype=np.int32)
        if value.ndim == 1:
            return pl.DataFrame({"rowid": rows, "estimate": value})
        groups = np.repeat(self.labels, len(value))
        return pl.DataFrame({"rowid": np.tile(rows, value.shape[1]), "group": groups, "estimate": value.T.reshape(-1)})

    def get_df(self) -> float:
        """The degrees of freedom of t tests, infinite where the dispersion is known."""
        return float(self.fit.df_resid) if self.fit.statistic_name == "t" else float("inf")


def _plain(response: str, variables: list[str], coded: list[str]) -> str:
    """The variables as a formula that formulaic reads, categories within C()."""
    terms = [f"C({name})" if name in coded else f"`{name}`" for name in variables]
    return f"{f'`{response}`' if response else ''} ~ {' + '.join(terms) or '1'}"
