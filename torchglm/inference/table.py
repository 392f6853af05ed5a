"""The outcome of a test and tables of them: tensors with names, which print."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import torch
from torch import Tensor

from torchglm import special
from torchglm.tables.frames import frame
from torchglm.writing.notebook import shown
from torchglm.writing.numbers import cell, p_value, stated


@dataclass(frozen=True)
class Outcome:
    """A test of one hypothesis in each model of a batch `(*B)`.

    `statistic` (*B) is F with `df` and `df_resid` degrees of freedom where the dispersion is estimated, else
    chi-squared with `df` (`df_resid` is then None). NaN where the test has no value. `notes` are for the reader.
    Where the hypothesis lies on the edge of the parameters chi-squared is a `mixture`: weights of `df`, `df - 1`, ...
    """

    title: str
    statistic: Tensor
    df: Tensor
    df_resid: Tensor | None = None
    notes: tuple[str, ...] = ()
    mixture: tuple[float, ...] = (1.0,)

    @property
    def statistic_name(self) -> str:
        """`"F"` or `"chi2"`."""
        return "chi2" if self.df_resid is None else "F"

    @property
    def p_value(self) -> Tensor:
        """(*B) the upper tail of the reference distribution."""
        if self.mixture == (1.0,):
            return upper_tail(self.statistic, self.df, self.df_resid)
        tails = [upper_tail(self.statistic, self.df - k, None) for k in range(len(self.mixture))]
        nothing = torch.where(self.statistic > 0, 0.0, 1.0).to(self.statistic)  # no degree of freedom: always 0
        parts = [
            weight * torch.where(self.df - k > 0, tail, nothing)
            for k, (weight, tail) in enumerate(zip(self.mixture, tails, strict=True))
        ]
        return torch.stack(parts).sum(0)

    def __getitem__(self, model: Any) -> Outcome:
        """The outcome in some of the models."""
        resid = None if self.df_resid is None else self.df_resid[model]
        return Outcome(self.title, self.statistic[model], self.df[model], resid, self.notes, self.mixture)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists; NaN stays NaN."""
        resid = None if self.df_resid is None else self.df_resid.tolist()
        return {
            "title": self.title,
            "statistic_name": self.statistic_name,
            "statistic": self.statistic.tolist(),
            "df": self.df.tolist(),
            "df_resid": resid,
            "p_value": self.p_value.tolist(),
        }

    def __str__(self) -> str:
        if self.statistic.dim():
            small = int((self.p_value < 0.05).sum())
            known = int((~torch.isnan(self.p_value)).sum())
            return "\n".join([f"{self.title}: p < 0.05 in {small} of {known} models", *self.notes])
        df = f"{float(self.df):g}" + ("" if self.df_resid is None else f", {float(self.df_resid):g}")
        line = f"{self.statistic_name}({df}) = {cell(float(self.statistic))}, p {stated(float(self.p_value))}"
        return "\n".join([f"{self.title}: {line}", *self.notes])

    __repr__ = __str__


def upper_tail(statistic: Tensor, df: Tensor, df_resid: Tensor | None) -> Tensor:
    """The p-value of a chi-squared or F statistic; NaN where there are no degrees of freedom."""
    if df_resid is None:
        return special.chi2_sf(statistic, torch.where(df > 0, df, torch.nan))
    resid = torch.where(df_resid > 0, df_resid, torch.nan).expand_as(statistic)
    return special.f_sf(statistic, torch.where(df > 0, df, torch.nan), resid)


@dataclass(frozen=True)
class Table:
    """Named columns over named rows, each column `(*B, rows)`; it prints where it is of one model."""

    title: str
    rows: Sequence[str]
    columns: dict[str, Tensor]
    notes: tuple[str, ...] = ()

    @property
    def batch_shape(self) -> torch.Size:
        """The batch dimensions `(*B)`; empty for one model."""
        return next(iter(self.columns.values())).shape[:-1]

    def __getitem__(self, key: Any) -> Any:
        """A column by its name `(*B, rows)`, else the table of some of the models."""
        if isinstance(key, str):
            return self.columns[key]
        if not self.batch_shape:
            raise TypeError("this table is of one model; give the name of a column.")
        return Table(self.title, self.rows, {name: value[key] for name, value in self.columns.items()}, self.notes)

    def row(self, name: str) -> dict[str, Tensor]:
        """The values `(*B)` of one row. Raises `KeyError` for an unknown name."""
        if name not in self.rows:
            raise KeyError(f"no row {name!r}. Known: {', '.join(self.rows)}.")
        place = list(self.rows).index(name)
        return {key: value[..., place] for key, value in self.columns.items()}

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """`{column: {row: value}}`, as pandas takes it; values are numbers, for a batch (nested) lists."""
        return {
            name: {row: value[..., i].tolist() for i, row in enumerate(self.rows)}
            for name, value in self.columns.items()
        }

    def to_frame(self) -> Any:
        """A pandas frame, a row for each row; for a batch one for each model and row."""
        return frame(self.rows, self.columns, self.batch_shape)

    def __str__(self) -> str:
        if self.batch_shape:
            return "\n".join(
                [
                    f"{self.title}: {self.batch_shape.numel()} models; table[i] is one of them, "
                    "table['p'] a column of all",
                    *self.notes,
                ]
            )
        cells = self._cells()
        widths = [max(len(line[j]) for line in cells) for j in range(len(cells[0]))]
        lines = [
            line[0].ljust(widths[0])
            + "".join("  " + text.rjust(w) for text, w in zip(line[1:], widths[1:], strict=True))
            for line in cells
        ]
        return "\n".join([self.title, *(line.rstrip() for line in lines), *self.notes])

    __repr__ = __str__

    def _cells(self) -> list[list[str]]:
        """The texts of one model's table, the names of the columns first."""
        cells = [["", *self.columns]]
        for i, name in enumerate(self.rows):
            cells.append([name, *(_text(key, float(value[i])) for key, value in self.columns.items())])
        return cells

    def _repr_html_(self) -> str:
        if self.batch_shape:
            return shown(f"<pre>{escape(str(self))}</pre>")
        head, *lines = self._cells()
        heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
        body = "".join(
            f'<tr><th scope="row">{escape(line[0])}</th>{"".join(f"<td>{escape(text)}</td>" for text in line[1:])}</tr>'
            for line in lines
        )
        notes = "".join(f"<p>{escape(note)}</p>" for note in self.notes)
        caption = f"<caption>{escape(self.title)}</caption>"
        return shown(f"<table>{caption}<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>{notes}")


def _text(column: str, value: float) -> str:
    """The cell of a column, of p-values where its name begins with p; a blank for NaN."""
    return p_value(value) if column.startswith("p") and value == value else cell(value)
