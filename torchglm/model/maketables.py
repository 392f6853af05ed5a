"""What the package maketables reads of a fit by its names for plug-ins: `maketables.ETable([fit1, fit2])`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torchglm.inference.absorbed import absorbed
from torchglm.inference.compare import explained
from torchglm.inference.fitted import Fitted

if TYPE_CHECKING:
    import pandas as pd

STATS = {
    "N": lambda fit: int(fit.nobs),
    "ll": lambda fit: float(fit.loglik),
    "aic": lambda fit: float(fit.aic),
    "bic": lambda fit: float(fit.bic),
    "deviance": lambda fit: float(fit.deviance),
    "null_deviance": lambda fit: float(fit.null_deviance),
    "df_resid": lambda fit: float(fit.df_resid),
    "pseudo_r2": lambda fit: float(explained(fit)),
    "se_type": lambda fit: fit.covariance_kind,
}


class MakeTables(Fitted):
    """A fit of one model as a plug-in of maketables; a batch is an `AttributeError`, as of what is no plug-in."""

    @property
    def __maketables_coef_table__(self) -> pd.DataFrame:
        """A row for each coefficient: `b`, `se`, `t`, `p` and 90 and 95 % limits."""
        import pandas as pd

        if self.batch_shape:
            raise AttributeError("a batch has no table of coefficients. Take one model of it: fit[0].")
        columns = {"b": self.coef, "se": self.std_err, "t": self.statistic, "p": self.p_value}
        for level in (90, 95):
            low, high = self.conf_int(level / 100).unbind(-1)
            columns |= {f"ci{level}l": low, f"ci{level}u": high}
        return pd.DataFrame(
            {name: value.tolist() for name, value in columns.items()}, index=pd.Index(self.names, name="Coefficient")
        )

    def __maketables_stat__(self, key: str) -> Any:
        """A number of the fit by the name that maketables has for it, or None."""
        found = STATS[key](self) if key in STATS else None
        return None if found != found else found

    @property
    def __maketables_depvar__(self) -> str:
        return self.formula.partition("~")[0].strip() if self.formula else "y"

    @property
    def __maketables_fixef_string__(self) -> str | None:
        return "+".join(absorbed(self).factors) if "absorbed" in self.context else None

    @property
    def __maketables_vcov_info__(self) -> dict[str, Any]:
        return {"vcov_type": self.covariance_kind, "clustervar": None}

    @property
    def __maketables_default_stat_keys__(self) -> list[str]:
        return ["N", "pseudo_r2", "ll", "aic"]
