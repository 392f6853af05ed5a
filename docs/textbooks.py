"""The page of textbook models: `python docs/textbooks.py` fits them and writes docs/textbooks.md.

Data, code and R's numbers lie in tests/textbooks. `tests/test_textbooks.py` holds the same fits against the same
numbers, and this page against what is written here.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from torch import Tensor

import torchglm as tg
from torchglm.report.words import factors

ROOT = Path(__file__).resolve().parent.parent
FOLDER, PAGE = ROOT / "tests" / "textbooks", ROOT / "docs" / "textbooks.md"
FACTS = {
    "deviance": "fit.deviance",
    "df_resid": "fit.df_resid",
    "loglik": "fit.loglik",
    "dispersion": "fit.dispersion",
    "theta": "1 / fit.family.alpha",
}
TITLES = {"df_resid": "residual df", "loglik": "log-likelihood"}
HEAD = """# Models of textbooks

{count} models of books on generalised linear models, each with the code that fits it and R's answer beside ours.
*Estimate* and *error* are torchglm's; *R* is what R 4.2.2 gives for the same model with its tolerances tightened, by
`tests/textbooks/make.R`. No number was copied from a book, so that all digits can be compared.

`tests/test_textbooks.py` runs the code of this page and holds every number: estimates differ from R's by less than two
millionths of a standard error. Code that reads no file goes on with the data of the section before.

```python
import numpy as np
import pandas as pd

import torchglm as tg
```
"""


@dataclass(frozen=True)
class Case:
    """A model: its words and code, what R says, and the fit that the code makes."""

    spec: dict[str, Any]
    chapter: str
    theirs: dict[str, Any]
    scope: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.spec["name"])

    @property
    def fit(self) -> tg.Result:
        return self.scope["fit"]

    @cached_property
    def terms(self) -> list[str]:
        return self.fit.all_names[: len(self.theirs["term"])]  # of smooths and effects of levels the first alone

    @cached_property
    def estimate(self) -> Tensor:
        fit = self.fit
        every = torch.cat([fit.coef, fit.thresholds]) if fit.cuts else fit.coef
        return every[: len(self.terms)]

    @cached_property
    def std_err(self) -> Tensor:
        return self.fit.covariance(self.spec.get("covariance")).diagonal().sqrt()[: len(self.terms)]

    def column(self, name: str) -> Tensor:
        """(k,) R's estimates or errors."""
        return torch.tensor(self.theirs[name], dtype=torch.float64)

    @property
    def gap(self) -> float:
        """The largest difference of an estimate from R's, in standard errors."""
        return float(((self.estimate - self.column("estimate")) / self.column("std_err")).abs().max())

    def facts(self) -> Iterator[tuple[str, float, float]]:
        """Deviance and the like: title, ours, R's."""
        own = self.spec.get("facts", {})
        for name, value in self.theirs["facts"].items():
            ours = float(eval(own.get(name) or FACTS[name], dict(self.scope)))  # noqa: S307  of cases.yaml
            yield TITLES.get(name, name.replace("_", " ")), ours, float(value)

    def markdown(self) -> str:
        """The section of the page."""
        parts = [f"### {self.spec['title']}", self.spec["source"], f"```python\n{self.spec['code'].strip()}\n```"]
        rows = ["| | estimate | R | error | R |", "|:---|---:|---:|---:|---:|"]
        values = zip(self.terms, *(t.tolist() for t in self._columns()), strict=True)
        for name, ours, theirs, error, error_theirs in values:
            digits = max(0, min(9, 3 - math.floor(math.log10(error_theirs))))
            rows.append(_row(short(name, self.fit), *(f"{v:.{digits}f}" for v in (ours, theirs, error, error_theirs))))
        for title, *both in self.facts():
            rows.append(_row(f"*{title}*", *(_number(v) for v in both), "", ""))
        return "\n\n".join([*parts, "\n".join(rows)])

    def _columns(self) -> tuple[Tensor, ...]:
        return self.estimate, self.column("estimate"), self.std_err, self.column("std_err")


def cases() -> Iterator[Case]:
    """Every model, fitted by its code; those of a page share what they define."""
    theirs = json.loads((FOLDER / "theirs.json").read_text())
    scope: dict[str, Any] = {"np": np, "pd": pd, "tg": tg}
    chapter = ""
    for spec in yaml.safe_load((FOLDER / "cases.yaml").read_text(encoding="utf-8")):
        chapter = spec.get("chapter", chapter)
        if "name" in spec:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", tg.FitWarning)
                exec(re.sub(r'"(tests|examples)/', rf'"{ROOT}/\1/', spec["code"]), scope)
            yield Case(spec, chapter, theirs[spec["name"]], dict(scope))


def short(name: str, fit: tg.Result) -> str:
    """`sex: M × ldose` for `sex[T.M]:ldose`; of several predictors the first part stays before a colon."""
    parts = [
        re.sub(r"^(?:C\()?(?:Q\('([\w.]+)'\)|(\w+)).*\[(?:T\.)?(.+)\]$", r"\1\2: \3", one) for one in factors(name)
    ]
    parts = [re.sub(r"Q\('([\w.]+)'\)", r"\1", one) for one in parts]
    before = f"{parts.pop(0)}: " if fit.plan is not None and len(parts) > 1 else ""
    return re.sub(r"([*_|])", r"\\\1", before + " × ".join(parts))


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |".replace(" -", " −")


def _number(value: float) -> str:
    return f"{value:.0f}" if value == round(value) and abs(value) < 1e6 else f"{value:.6g}"


def page(found: list[Case]) -> str:
    """The page of these models."""
    parts = [HEAD.format(count=len(found)).rstrip()]
    chapter = ""
    for case in found:
        if case.chapter != chapter:
            chapter = case.chapter
            parts.append(f"## {chapter}")
        parts.append(case.markdown())
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(list(cases())), encoding="utf-8")
