"""Where the rows of a fit came from, and what it remembers of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torchglm.rows.places import Place
from torchglm.rows.rows import Rows

REFUSED = (
    "this asks for rows with the effects of the absorbed factors {names} in them (refits of parts of the model, or "
    "averages over the data, whose errors need those of the effects), which are not held. There are coefficients with "
    "HC0 to HC3 and clustered errors, profile limits, Wald and likelihood ratio tests, residuals, leverages and "
    "predictions; for the rest write the factors as terms, C({first}), where they are small."
)


class Origin:
    """Of a fit: `chunks` are the rows behind it, or None; `context` what it remembers; `names` are its columns."""

    chunks: Iterable[Rows] | None
    context: dict[str, Any]
    names: list[str]

    @property
    def has_rows(self) -> bool:
        """Whether rows stand behind the fit: held, or read again at each pass.

        A loaded one has none, and beside absorbed factors they are not those of the data.
        """
        return self.chunks is not None and "absorbed" not in self.context

    @property
    def source(self) -> Iterable[Rows]:
        """The rows the model was fitted on, as `scored`.

        Raises `ValueError` also where factors were absorbed: the columns are then free of them, and a refit is none.
        """
        refuse_beside(self)
        return self.scored

    @property
    def scored(self) -> Iterable[Rows]:
        """The rows with the scores of the fit; raises `ValueError` where they are not held (a loaded result)."""
        if self.chunks is None:
            raise ValueError("this result holds no rows (it was loaded). Attach them: result.with_rows(x, y, ...).")
        return self.chunks

    @property
    def rows(self) -> Rows | None:
        """The rows in memory, or None for a loaded or streamed fit."""
        return self.chunks[0] if isinstance(self.chunks, list) and len(self.chunks) == 1 else None

    def place(self, row: int, model: int = 0) -> Place:
        """Where a row of the fit, or of a flat model of a batch, stands in the data it came from."""
        places = getattr(self.chunks, "places", None) or self.context.get("places")
        return Place(row) if places is None else places.of(row, model)

    @property
    def formula(self) -> str | None:
        """The formula of the fit, or None."""
        return self.context.get("formula")

    @property
    def formulas(self) -> str:
        """The formula with the right sides of further predictors, `cost ~ age; dispersion ~ region`; else nothing."""
        beside = (f"{name} {right}" for name, right in self.context.get("predictors", {}).items())
        return "; ".join([self.formula, *beside]) if self.formula else ""

    @property
    def spec(self) -> Any:
        """The design's specification (a `DesignSpec`), or None for a fit on arrays."""
        return self.context.get("spec")

    @property
    def added_intercept(self) -> bool:
        """Whether the first column is an intercept that `x` does not bring: that of a formula, or one put in front."""
        if self.spec is not None:
            return bool(self.spec.intercept)
        return bool(self.context.get("added", self.names[:1] == ["(Intercept)"]))

    @property
    def groups(self) -> Sequence[Any] | None:
        """The labels of the models of a `by=` fit, or None."""
        return self.context.get("groups")

    @property
    def group_names(self) -> list[str] | None:
        """The columns of a `by=` fit, or None."""
        return self.context.get("group_names")


def refuse_beside(fit: Origin) -> None:
    """Raise `ValueError` for a question that needs more of the absorbed factors of a fit than their effects."""
    if "absorbed" in fit.context and fit.spec is not None:
        names = list(fit.spec.absorbed_levels)
        raise ValueError(REFUSED.format(names=", ".join(names), first=names[0]))
