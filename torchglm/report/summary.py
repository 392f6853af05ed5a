"""`Summary`: a fit, or a batch of fits, as text, rich, HTML, Markdown, dict and frame."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torchglm.inference.fitted import Fitted
from torchglm.report.document import Document, Grid
from torchglm.report.latex import tabular
from torchglm.report.single import SingleModel
from torchglm.report.views import View, view_of
from torchglm.writing.answering import answering_init, answering_methods
from torchglm.writing.nearest import absent
from torchglm.writing.notebook import shown

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console, ConsoleOptions, Group


ELSEWHERE = {  # names in other libraries
    "as_text": "to_text()",
    "as_html": "to_html()",
    "as_latex": "to_latex()",
    "as_csv": "to_frame().to_csv(path)",
    "tables": "to_frame(), and to_dict()",
    "tidy": "to_frame()",
    "coefficients": "to_frame()",
}
_WIDE = 10_000  # characters; formats that scroll keep exp(coef) beside its coefficient


@answering_methods
@answering_init
class Summary:
    """What a fit says, for people: the coefficient table of one model, or the overview of a batch.

    `level` is the level of the intervals. `print(summary)` is plain text; notebooks show HTML;
    `rich.print(summary)` shows tables. `summary[i]` is the summary of one member of a batch.
    """

    def __init__(self, result: Fitted, level: float = 0.95) -> None:
        if not 0 < level < 1:
            raise ValueError(f"An interval needs 0 < level < 1; got level = {level}. Use 0.95 for 95 %.")
        self.result, self.level = result, level
        self._view: View = view_of(result, level)

    def __getitem__(self, index: Any) -> Summary:
        """The summary of the member `index` of a batch."""
        return Summary(self.result.member(index), self.level)

    def document(self, width: int = 100) -> Document:
        """The title and blocks that every format renders; tables wider than `width` characters are split."""
        return self._view.document(width)

    def warnings(self) -> list[str]:
        """Sentences on what a reader must know before believing the numbers; empty for a sound fit."""
        return self._view.warnings()

    def sentences(self) -> list[str]:
        """What each coefficient says, a sentence each; empty for a batch, whose members have them."""
        return self._view.sentences()

    def to_text(self, width: int = 100) -> str:
        """Plain text in lines of `width` characters."""
        return self.document(width).text(width)

    def to_markdown(self) -> str:
        """GitHub-flavoured Markdown."""
        return self.document(_WIDE).markdown()

    def to_html(self) -> str:
        """An HTML fragment without styles, every text escaped."""
        return self.document(_WIDE).html()

    def to_latex(self) -> str:
        """The tables of coefficients as LaTeX `tabular`s, with the rules of the package booktabs."""
        grids = [block for block in self.document(_WIDE).blocks if isinstance(block, Grid)]
        return "\n".join(tabular(grid.columns, grid.rows) for grid in grids)

    def to_rich(self, width: int = 100) -> Group:
        """A renderable for `rich.print`."""
        return self.document(width).rich(width)

    def to_dict(self) -> dict[str, Any]:
        """Everything the summary shows as JSON-able values; NaN and infinities are None."""
        return self._view.to_dict()

    def to_frame(self) -> pd.DataFrame:
        """The coefficient table as a pandas frame; one row per model and coefficient for a batch."""
        return self._view.to_frame()

    def models_frame(self) -> pd.DataFrame:
        """One row per model of a batch: its keys, size, deviance, dispersion and status, see `ModelBatch.models_frame`.

        Raises `TypeError` for one model.
        """
        if isinstance(self._view, SingleModel):
            raise TypeError("this is one model, not a batch. See summary.to_dict().")
        return self._view.models_frame()

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            raise AttributeError(absent("'Summary' object", name, ELSEWHERE, dir(type(self))))

    def __str__(self) -> str:
        return self.to_text()

    __repr__ = __str__

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Group]:
        yield self.to_rich(options.max_width)

    def _repr_html_(self) -> str:
        return shown(self.to_html())
