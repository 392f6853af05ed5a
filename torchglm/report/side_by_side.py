"""Fits side by side, as papers print them: a column for each fit, a row for each coefficient, errors below."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torchglm.inference.compare import explained
from torchglm.inference.fits import check_fits
from torchglm.inference.fitted import Fitted
from torchglm.report.document import Document, Grid, Notes
from torchglm.report.latex import escaped, tabular
from torchglm.report.sections import whole
from torchglm.writing.answering import answering
from torchglm.writing.nearest import unknown
from torchglm.writing.notebook import shown
from torchglm.writing.numbers import number, short

if TYPE_CHECKING:
    import pandas as pd

BELOW = {
    "std_err": "standard errors",
    "p_value": "p-values",
    "statistic": "test statistics",
    "interval": "{level} % limits",
}


class SideBySide:
    """Fits in columns, which prints, and turns into Markdown, LaTeX, HTML and a frame; see `side_by_side`."""

    def __init__(self, columns: Sequence[str], rows: Sequence[Sequence[str]], note: str) -> None:
        self.columns, self.rows, self.note = list(columns), [list(row) for row in rows], note

    def _document(self) -> Document:
        return Document("Fits side by side", (Grid("", ["", *self.columns], self.rows), Notes([self.note])))

    def to_text(self, width: int = 100) -> str:
        """Plain text in lines of `width` characters."""
        return self._document().text(width)

    def to_markdown(self) -> str:
        """GitHub-flavoured Markdown."""
        return self._document().markdown()

    def to_html(self) -> str:
        """An HTML fragment without styles, every text escaped."""
        return self._document().html()

    def to_latex(self) -> str:
        """A LaTeX `tabular` with the rules of the package booktabs, the note below it."""
        facts = [i for i, row in enumerate(self.rows) if row[0] == "Family"][-1:]
        return f"{tabular(['', *self.columns], self.rows, facts)}\n{escaped(self.note)}\n"

    def to_frame(self) -> pd.DataFrame:
        """The cells as a pandas frame of text."""
        import pandas as pd

        return pd.DataFrame([row[1:] for row in self.rows], [row[0] for row in self.rows], self.columns)

    def _repr_html_(self) -> str:
        return shown(self.to_html())

    def __str__(self) -> str:
        return self.to_text()

    __repr__ = __str__


@answering
def side_by_side(
    *fits: Fitted,
    names: Sequence[str] | None = None,
    below: str = "std_err",
    level: float = 0.95,
    ratios: bool = False,
    digits: int = 3,
) -> SideBySide:
    """Fits in columns, a row for each coefficient that any of them has, and what they are of below.

    `below` each estimate stands its `"std_err"`, `"p_value"`, `"statistic"` or `"interval"` at `level`; a robust fit
    shows robust ones. With `ratios` the estimates and limits are exponentials. `names` head the columns; numbers have
    `digits` significant digits. The fits may be of other rows, links and families.
    Raises `ValueError` for no fit, a batch, another number of names, and an unknown `below`; `TypeError` for what is no
    fit, such as a list of them.
    """
    check_fits("side_by_side", fits)
    if not fits:
        raise ValueError("side_by_side needs a fit: side_by_side(fit1, fit2).")
    if any(fit.batch_shape for fit in fits):
        raise ValueError("side_by_side shows single models. Pass those of a batch: side_by_side(fit[0], fit[1]).")
    heads = [f"({i + 1})" for i in range(len(fits))] if names is None else list(names)
    if len(heads) != len(fits):
        raise ValueError(f"names has {len(heads)} entries for {len(fits)} fits.")
    if below not in BELOW:
        raise ValueError(unknown("below", below, BELOW))
    told = [_coefficients(fit, below, level, ratios, digits) for fit in fits]
    rows = []
    for name in dict.fromkeys(name for one in told for name in one):
        pairs = [one.get(name, ("", "")) for one in told]
        rows += [[name, *(value for value, _ in pairs)], ["", *(under for _, under in pairs)]]
    facts = [_facts(fit) for fit in fits]
    rows += [[name, *(one[name] for one in facts)] for name in facts[0] if any(one[name] for one in facts)]
    what = "Ratios, exp(estimate)" if ratios else "Estimates"
    under = BELOW[below].format(level=short(100 * level, 2))
    return SideBySide(heads, rows, f"{what}; {under} in brackets.")


def _coefficients(fit: Fitted, below: str, level: float, ratios: bool, digits: int) -> dict[str, tuple[str, str]]:
    """Name -> what stands in its cell and below it; below thresholds no test, for that one is zero says nothing."""
    slopes, fit = len(fit.names), whole(fit)
    values = fit.coef.flatten().exp() if ratios else fit.coef.flatten()
    if below == "interval":
        limits = fit.conf_int(level).reshape(-1, 2)
        ends = (limits.exp() if ratios else limits).tolist()
        under = [f"[{short(low, digits)}, {short(high, digits)}]" for low, high in ends]
    else:
        found = getattr(fit, below).flatten()
        if ratios and below == "std_err":
            found = found * values  # by the delta method
        under = [f"({short(value, digits)})" for value in found.tolist()]
    if below in ("p_value", "statistic"):
        under[slopes:] = [""] * (len(under) - slopes)
    cells = zip(values.tolist(), under, strict=True)
    return {name: (short(value, digits), error) for name, (value, error) in zip(fit.names, cells, strict=True)}


def _facts(fit: Fitted) -> dict[str, str]:
    several = fit.plan is not None
    share = float(explained(fit))
    return {
        "Family": fit.family.name,
        "Link": "" if several else fit.link.name,
        "Errors": fit.covariance_kind,
        "Penalty": "" if fit.penalty is None else str(fit.penalty),
        "Observations": number(float(fit.nobs)),
        "Log-likelihood": number(float(fit.loglik)),
        "AIC": number(float(fit.aic)),
        "BIC": number(float(fit.bic)),
        "D²": number(share) if share == share else "",
    }
