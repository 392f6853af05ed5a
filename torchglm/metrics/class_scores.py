"""Sums of rows from which the scores of predicted classes follow: they add over any parts of the rows."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from torchglm.metrics.class_sums import ScoredClasses, brier_sums, confusion_sums, ranked_probability_sums


@dataclass(frozen=True)
class ClassSums:
    """The weight `confusion` (C, C) of the rows of each class (first) that are predicted as each, and sums of scores.

    `log` is `-sum w log p_y`, `brier` `sum w sum_c (p_c - 1{y = c})^2`, `ranked` `sum w sum_k (P(Y <= k) - 1{y <=
    k})^2`, which has a meaning where classes have an order. The prediction of a row is its most probable class.
    Source: Gneiting & Raftery (2007), Strictly Proper Scoring Rules, J. Am. Stat. Assoc. 102.
    """

    confusion: Tensor
    log: Tensor
    brier: Tensor
    ranked: Tensor

    @staticmethod
    def of(codes: Tensor, log_probabilities: Tensor, weight: Tensor) -> ClassSums:
        """The sums of rows of codes (*N), log-probabilities (C, *N) and weights (*N); those of weight 0 say nothing."""
        logs = log_probabilities.reshape(len(log_probabilities), -1).double()
        w, y = weight.double().expand(codes.shape).reshape(-1), codes.reshape(-1).long()
        used = w > 0
        logs, w, y = logs[:, used], w[used], y[used]
        rows = ScoredClasses(logs.exp().T, y, w)
        log = -(w * logs.gather(0, y.unsqueeze(0))[0]).sum()
        parts = (confusion_sums(rows), log, brier_sums(rows)[0], ranked_probability_sums(rows)[0])
        return ClassSums(*(part.cpu() for part in parts))

    def __add__(self, other: ClassSums) -> ClassSums:
        return ClassSums(
            self.confusion + other.confusion, self.log + other.log, self.brier + other.brier, self.ranked + other.ranked
        )

    @property
    def weight(self) -> float:
        """The weight of all rows."""
        return float(self.confusion.sum())

    def scores(self) -> dict[str, float]:
        """`log_score`, `brier`, `ranked_probability` and `accuracy`, the means over the rows; NaN without rows."""
        total = self.confusion.sum()
        sums = {
            "log_score": self.log,
            "brier": self.brier,
            "ranked_probability": self.ranked,
            "accuracy": self.confusion.diagonal().sum(),
        }
        return {name: float(value / total) for name, value in sums.items()}

    def recall(self) -> Tensor:
        """(C,) the share of the rows of each class that are predicted as it."""
        return self.confusion.diagonal() / self.confusion.sum(-1)

    def precision(self) -> Tensor:
        """(C,) the share of the rows predicted as each class that are of it."""
        return self.confusion.diagonal() / self.confusion.sum(0)
