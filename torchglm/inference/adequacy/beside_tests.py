"""What the checks of one predictor and of several share: tests held together, and the facts beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from torchglm.inference.adequacy import sentences
from torchglm.inference.adequacy.collinearity import vif_of_variables
from torchglm.inference.adequacy.findings import Finding
from torchglm.inference.dialect import spoken
from torchglm.inference.fitted import Fitted
from torchglm.inference.hypotheses.adjust import adjust
from torchglm.inference.table import Outcome

INFLATED = 10.0  # a variance inflation worth a sentence
MOVING = 1.0  # a Cook's distance worth a sentence


class LargestCook:
    """The largest Cook's distance of each model, where it is, and the leverage there: (B,) each."""

    def __init__(self, result: Fitted) -> None:
        self.largest = torch.zeros_like(result.flat.deviance)
        self.row = torch.zeros_like(self.largest, dtype=torch.int64)
        self.leverage, self.seen = self.largest.clone(), 0

    def take(self, cook: Tensor, leverage: Tensor) -> None:
        """Look at the next rows (B, n); one that is fitted exactly has no distance, NaN."""
        top, place = cook.nan_to_num(0.0, 0.0, 0.0).max(-1)
        better = top > self.largest
        self.largest = torch.where(better, top, self.largest)
        self.row = torch.where(better, place + self.seen, self.row)
        self.leverage = torch.where(better, leverage.gather(-1, place.unsqueeze(-1))[:, 0], self.leverage)
        self.seen += cook.shape[-1]

    def findings(self, result: Fitted, i: int) -> Sequence[Finding]:
        """That a row moves the coefficients of a model that converged by itself."""
        largest = float(self.largest[i])
        if not bool(result.flat.converged[i]) or largest <= MOVING:
            return []
        return [Finding("influence", largest, None, *sentences.influence(result, self, i))]


class Inflation:
    """How far each variable depends on the others, in each model."""

    def __init__(self, result: Fitted) -> None:
        self.of_variables = {name: value.reshape(-1) for name, value in vif_of_variables(result).items()}

    def findings(self, i: int) -> Sequence[Finding]:
        """That variables of a model nearly depend on one another."""
        high = {name: float(value[i]) for name, value in self.of_variables.items() if float(value[i]) > INFLATED}
        return [Finding("collinearity", max(high.values()), None, *sentences.collinearity(high))] if high else []


def held_together(tests: Mapping[str, Outcome]) -> dict[str, Tensor]:
    """The p-values of the tests by topic, adjusted by Holm's rule."""
    if not tests:
        return {}
    adjusted = adjust(torch.stack([test.p_value for test in tests.values()], -1), "holm")
    return dict(zip(tests, adjusted.unbind(-1), strict=True))


def in_words_of(result: Fitted, findings: Sequence[Sequence[Finding]]) -> list[list[Finding]]:
    """The findings of each model, their advice in the words of the door that the fit came by."""
    return [[replace(one, advice=spoken(result, one.advice)) for one in model] for model in findings]
