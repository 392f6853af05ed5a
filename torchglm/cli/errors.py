"""The covariance that a config asks for: robust, clustered, or of rows that depend in time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torchglm.model.face import Result
from torchglm.model.fold_labels import column_of_rows
from torchglm.tables.text_format import TextFormat

Kind = Literal["observed", "HC0", "HC1", "HC2", "HC3", "cluster", "HAC", "driscoll_kraay"]


@dataclass
class Covariance:
    """What errors, tests and intervals of the fit stand on.

    Args:
        kind: observed, HC0 to HC3, cluster, HAC or driscoll_kraay
        clusters: column or columns of labels, of cluster; of HAC the units of a panel
        type: of cluster, HC0, HC1, CR2 or CR3
        lags: bandwidth of HAC and driscoll_kraay
        order: column of time, of HAC and driscoll_kraay
    """

    kind: Kind
    clusters: str | list[str] | None = None
    type: Literal["HC0", "HC1", "CR2", "CR3"] | None = None
    lags: int | None = None
    order: str | None = None

    @property
    def columns(self) -> list[str]:
        """The columns that it reads."""
        clusters = [self.clusters] if isinstance(self.clusters, str) else list(self.clusters or [])
        return clusters + ([] if self.order is None else [self.order])


def with_covariance(
    result: Result, asked: str | Covariance | None, files: str | list[str], reading: TextFormat
) -> Result:
    """A fit with the covariance of its config. Raises `ValueError` for columns that are not there or lack values."""
    if asked is None:
        return result
    if asked == "satterthwaite":
        return result.satterthwaite()
    if isinstance(asked, str):
        return result.robust(asked)
    if asked.columns and result.groups is not None:
        raise ValueError("covariance: columns of labels or times do not go with data.by. Fit the groups one by one.")
    columns = [column_of_rows(name, files, result.context["places"], reading) for name in asked.columns]
    order = None if asked.order is None else columns.pop()
    clusters = None if not columns else columns[0] if len(columns) == 1 else tuple(columns)
    return result.robust(asked.kind, clusters, asked.type, asked.lags, order)
