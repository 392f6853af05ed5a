"""Labels of rows: pandas objects side by side have an index, which must say what their places say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def check_row_labels(beside: Mapping[str, Any]) -> None:
    """Raise `ValueError` where two of the frames and series, name -> value, label their rows differently.

    Indexes of one length agree where they are equal, and where one of them merely counts the rows from 0 on and the
    other holds labels that are no such counts, so that nothing but places can be meant.
    """
    labelled = [(name, value.index) for name, value in beside.items() if _is_labelled(value)]
    for name, other in labelled[1:]:
        first, one = labelled[0]
        if len(one) != len(other) or one.equals(other) or _counts_beside(one, other) or _counts_beside(other, one):
            continue
        row = next((i for i, (here, there) in enumerate(zip(one, other, strict=True)) if here != there), None)
        if row is not None:
            raise ValueError(
                f"{first} and {name} label their rows differently: row {row} is {one[row]} in the index of {first} and "
                f"{other[row]} in that of {name}. Bring them into one order, {name}.loc[{first}.index], or, where rows "
                f"belong together by their place, pass {name}.to_numpy()."
            )


def _is_labelled(value: Any) -> bool:
    """Whether a value is a pandas frame or series."""
    return hasattr(value, "iloc") and hasattr(value, "index") and not callable(value.index)


def _counts_beside(index: Any, labels: Any) -> bool:
    """Whether an index only counts the rows from 0 on, beside one that holds further labels."""
    import pandas as pd

    return index.equals(pd.RangeIndex(len(index))) and not bool(labels.isin(index).all())
