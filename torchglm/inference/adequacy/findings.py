"""What a check found: findings in plain sentences, and the tests behind them."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

import torch
from torch import Tensor

from torchglm.inference.table import Outcome, Table


@dataclass(frozen=True)
class Finding:
    """One thing found: what (`topic`), its number, its adjusted p-value where it is a test, a sentence, and a try."""

    topic: str
    value: float
    p_value: float | None
    sentence: str
    advice: str

    def __str__(self) -> str:
        return f"{self.sentence} {self.advice}"


@dataclass(frozen=True)
class Check:
    """What `Result.check` found: `findings` of each model (flat), the tests behind them, and their level.

    `check[i]` is that of one model of a batch; `tests` maps topics to outcomes `(*B)` and `adjusted` to p-values
    corrected for the number of tests. `smooths` has the k-check and the concurvity of each smooth term, or is None.
    Prints as sentences.
    """

    title: str
    level: float
    findings: list[list[Finding]]
    tests: dict[str, Outcome]
    adjusted: dict[str, Tensor]
    batch: torch.Size
    smooths: Table | None = None

    @property
    def silent(self) -> Tensor:
        """(*B) True where nothing was found."""
        return torch.tensor([not one for one in self.findings]).reshape(self.batch)

    def found(self, topic: str) -> Tensor:
        """(*B) True where something was found on a topic."""
        return torch.tensor([any(f.topic == topic for f in one) for one in self.findings]).reshape(self.batch)

    def __getitem__(self, model: int) -> Check:
        if not self.batch:
            raise TypeError("this check is of one model, not of a batch.")
        index = torch.arange(self.batch.numel()).reshape(self.batch)[model]
        return Check(
            self.title,
            self.level,
            [self.findings[i] for i in index.reshape(-1).tolist()],
            {topic: test[model] for topic, test in self.tests.items()},
            {topic: p[model] for topic, p in self.adjusted.items()},
            index.shape,
            None if self.smooths is None else self.smooths[model],
        )

    def table(self) -> Table:
        """The tests with their statistics, p-values and adjusted p-values."""
        tests = list(self.tests.values())
        columns = {
            "statistic": [t.statistic for t in tests],
            "p": [t.p_value for t in tests],
            "p adjusted": list(self.adjusted.values()),
        }
        return Table("Checks", list(self.tests), {k: torch.stack(v, -1) for k, v in columns.items() if v})

    def to_dict(self) -> dict[str, Any]:
        """Plain data: title, level, tests, smooth terms and findings (a list of these for each model of a batch)."""
        found = [[vars(finding) for finding in one] for one in self.findings]
        smooths = {} if self.smooths is None else {"smooths": self.smooths.to_dict()}
        return {
            "title": self.title,
            "level": self.level,
            "findings": found if self.batch else found[0],
            "tests": {
                topic: test.to_dict() | {"p_adjusted": self.adjusted[topic].tolist()}
                for topic, test in self.tests.items()
            },
        } | smooths

    def __str__(self) -> str:
        tests = f"{len(self.tests)} test{'s' * (len(self.tests) != 1)} ({', '.join(self.tests)})"
        asked = f"by {tests} at {self.level:.3g} together" if self.tests else "(a penalised fit is not tested)"
        if self.smooths is not None:
            asked = f"by the k-check of {', '.join(self.smooths.rows)} at {self.level:.3g} together, and by concurvity"
        if not self.batch:
            found = self.findings[0]
            if not found:
                return f"{self.title}: nothing found {asked}."
            lines = [f"{i}. {finding.sentence}\n   {finding.advice}" for i, finding in enumerate(found, 1)]
            return "\n".join([f"{self.title}: {len(found)} finding{'s' * (len(found) != 1)}.", *lines])
        models = len(self.findings)
        topics = list(dict.fromkeys(f.topic for one in self.findings for f in one))
        lines = [f"  {topic}: {int(self.found(topic).sum())} of {models}" for topic in topics]
        quiet = f"{int(self.silent.sum())} of {models} models without a finding {asked}"
        return "\n".join([f"{self.title}: {quiet}{' for each' * bool(self.tests)}.", *lines])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        first, *lines = str(self).split("\n")
        if self.batch or not self.findings[0]:
            return "".join(f"<p>{escape(line)}</p>" for line in (first, *lines))
        found = "".join(f"<li>{escape(f.sentence)}<br>{escape(f.advice)}</li>" for f in self.findings[0])
        return f"<p>{escape(first)}</p><ol>{found}</ol>"
