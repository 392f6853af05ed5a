"""The elastic net of a config: at given strengths, or at one that a path of them chooses."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from torchglm.fitting.penalties import ElasticNet


class ChosenNet(ElasticNet):
    """An elastic net in glmnet's form; with `path` its strength is chosen, and l1 and l2 are not given.

    Args:
        l1: strength of the absolute values, one for all columns or one each
        l2: strength of the squares
        path: how many strengths to fit, or a falling list of them
        folds: of cross-validation, how many, or the column that holds a label of one for each row
        select: how the strength is chosen, by folds (one_se, best) or a criterion; the default is one_se with folds
        l1_ratio: share of the absolute values along a path, 1 for the lasso, 0 for ridge
        standardize: penalise columns in units of their spread
        smallest: the last strength of a path as a share of the first
    """

    def __init__(
        self,
        l1: float | Tensor = 0.0,
        l2: float | Tensor = 0.0,
        path: int | list[float] | None = None,
        folds: int | str | None = None,
        select: Literal["one_se", "best", "aic", "bic", "ebic"] | None = None,
        l1_ratio: float = 1.0,
        standardize: bool = True,
        smallest: float | None = None,
    ) -> None:
        super().__init__(l1, l2)
        _check(path, l1_ratio, standardize, smallest)
        self.path, self.folds, self.smallest = path, folds, smallest
        self.l1_ratio, self.standardize = l1_ratio, standardize
        along = {"folds": folds, "select": select, "smallest": smallest}
        if path is None and (given := [name for name, value in along.items() if value is not None]):
            raise ValueError(f"penalty.{given[0]} goes with a path of strengths. Give path: 100, say.")
        if path is not None and (bool((self.l1 != 0).any()) or bool((self.l2 != 0).any())):
            raise ValueError("penalty.path chooses the strength, and l1 and l2 give it. Leave out one of them.")
        if folds is None and select in ("one_se", "best"):
            raise ValueError(f"penalty.select {select} needs folds. Give folds: 10, or select aic, bic or ebic.")
        if path is not None and folds is None and select is None:
            raise ValueError("penalty.path needs a way to choose: folds: 10, or select: aic, bic or ebic.")
        self.select = select or "one_se"

    @property
    def options(self) -> dict[str, Any]:
        """Those of `torchglm.path`."""
        among = {"n": self.path} if isinstance(self.path, int) else {"strength": self.path}
        own = ("folds", "l1_ratio", "standardize", "smallest")
        return among | {name: getattr(self, name) for name in own}


def _check(path: int | list[float] | None, l1_ratio: object, standardize: object, smallest: float | None) -> None:
    """Raise `ValueError` for what is out of range, of a penalty that may choose its strength."""
    if not isinstance(l1_ratio, float) or not 0 <= l1_ratio <= 1:
        raise ValueError(f"penalty.l1_ratio must lie between 0 (ridge) and 1 (the lasso), got {l1_ratio!r}.")
    if not isinstance(standardize, bool):
        raise ValueError(f"penalty.standardize must be true or false, got {standardize!r}.")
    if isinstance(path, int) and path < 1:
        raise ValueError(
            f"penalty.path must be a number of strengths, 1 or more, or a falling list of them, got {path}."
        )
    if isinstance(path, list) and not path:
        raise ValueError("penalty.path is an empty list. Give falling strengths, or how many: path: 100.")
    if smallest is not None and not 0 < smallest < 1:
        raise ValueError(f"penalty.smallest must lie between 0 and 1, a share of the first strength, got {smallest!r}.")
