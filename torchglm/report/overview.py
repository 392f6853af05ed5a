"""What the summary of a batch of models says: how many, how they ended, where their coefficients lie."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from torchglm.fitting.status import Status
from torchglm.inference.dialect import spoken
from torchglm.inference.fitted import Fitted
from torchglm.report import words
from torchglm.report.document import Block, Document, Facts, Grid, Notes
from torchglm.report.provisos import penalised, penalty_name
from torchglm.report.single import d_squared, group_label, left_out, policies, roles, share
from torchglm.report.smooths import smooth_places, smooth_spread
from torchglm.writing import numbers

if TYPE_CHECKING:
    import pandas as pd


TAKEN = ("status", "nobs", "rank", "df_resid", "deviance", "null_deviance", "dispersion", "n_iter", "d_squared")
_QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
_QUANTILE_NAMES = ("min", "25 %", "median", "75 %", "max")


class ModelBatch:
    """The reading of a Fitted with batch dimensions; models are numbered in row-major order."""

    ordered_by = "deviance per residual degree of freedom"

    def __init__(self, result: Fitted, level: float, worst: int = 10) -> None:
        self.result, self.level, self.worst_shown = result, level, worst
        self.shape = result.coef.shape[:-1]
        self.n_models = math.prod(self.shape)
        self.coef = result.coef.detach().double().cpu().reshape(self.n_models, -1)
        if result.flat.infinite is not None:  # a level set apart has no estimate
            self.coef = self.coef.masked_fill(result.flat.infinite.cpu().reshape(self.coef.shape) != 0, math.nan)
        self.converged = result.converged.detach().cpu().reshape(-1)
        self.statuses = list(_flat(result.status))
        self.ratio_name = words.ratio_name(result.family, result.link)

    def document(self, width: int) -> Document:
        """Title, facts, and three tables: how the fits ended, the coefficients' spread, the worst models."""
        blocks: list[Block] = []
        if self.result.formulas:
            blocks.append(Notes([f"Formula: {self.result.formulas}"]))
        blocks += [Facts(self.facts()), *self.tables(width)]
        if self.warnings():
            blocks.append(Notes(self.warnings(), alarm=True))
        blocks.append(Notes(self.remarks()))
        return Document(f"{self.n_models:,} models: {self.title}", blocks)

    @property
    def title(self) -> str:
        """What was fitted: `Poisson regression, log link`."""
        return words.model_title(self.result.family.name, self.result.link.name)

    def facts(self) -> list[tuple[str, str]]:
        """The header of the batch, as names and formatted values."""
        good = int(self.converged.sum())
        deviance, null = self._values("deviance"), self._values("null_deviance")
        nobs, steps = self._values("nobs"), self._values("n_iter")
        pairs = [
            ("Family", words.family_title(self.result.family.name)),
            ("Link", words.link_title(self.result.link.name)),
            *roles(self.result),
            ("Models", f"{self.n_models:,}"),
            ("Columns", str(len(self.result.names))),
            *([] if (penalty := penalty_name(self.result)) is None else [("Penalty", penalty)]),
            ("Converged", f"{good:,} ({100 * good / max(self.n_models, 1):.1f} %)"),
            ("Observations", _range(nobs)),
            *left_out(self.result),
            ("Iterations", _range(steps)),
            ("Total deviance", numbers.number(_total(deviance))),
            ("Total null deviance", numbers.number(_total(null))),
            ("D² (all models)", share(d_squared(_total(deviance), _total(null)))),
        ]
        if self.result.groups is not None and self.result.group_names:
            pairs.insert(3 + len(roles(self.result)), ("One model per", ", ".join(map(str, self.result.group_names))))
        return pairs

    def tables(self, width: int) -> list[Grid]:
        """Status counts, coefficient quartiles, worst models; none is so wide that `width` would split it."""
        counts = [
            (words.status_title(status.name), f"{n:,}", f"{100 * n / self.n_models:.1f} %")
            for status, n in self.status_counts().items()
        ]
        plain = self.plain()
        rows = list(plain.values())
        cells = numbers.fixed([row[1:] for row in rows], [row[4] - row[2] for row in rows])
        spread = [(name, f"{int(row[0]):,}", *c) for (name, row), c in zip(plain.items(), cells, strict=True)]
        return [
            Grid("How the fits ended", ("status", "models", "share"), counts),
            Grid("Coefficients", ("", "models", *_QUANTILE_NAMES), spread),
            *smooth_spread(self.result),
            self._first(),
        ]

    def members(self, most: int = 200) -> Grid:
        """One line per model, in order: status, size, fit; at most `most` lines."""
        shown = range(min(self.n_models, most))
        names = ("nobs", "deviance", "null_deviance", "dispersion", "n_iter")
        nobs, deviance, null, phi, steps = (self._values(k).tolist() for k in names)
        rows = [
            (
                self.label(i),
                words.status_title(self.statuses[i].name),
                numbers.number(nobs[i]),
                numbers.number(deviance[i]),
                share(d_squared(deviance[i], null[i])),
                numbers.short(phi[i]),
                f"{steps[i]:.0f}",
            )
            for i in shown
        ]
        title = "" if len(shown) == self.n_models else f"The first {most} of {self.n_models:,} models"
        head = ("model", "status", "observations", "deviance", "D²", "dispersion", "iterations")
        return Grid(title, head, rows, left=2)

    def sentences(self) -> list[str]:
        """Nothing: sentences belong to single models."""
        return []

    def remarks(self) -> list[str]:
        """How to read the tables."""
        return [
            "Coefficients: distribution over the converged models that have more observations than columns. Models to "
            f"look at first: those that did not converge, then by {self.ordered_by}.",
            *penalised(self.result),
            *policies(self.result),
        ]

    @property
    def sound(self) -> bool:
        """Whether every model converged."""
        return bool(self.converged.all())

    @property
    def verdict(self) -> str:
        """How many converged."""
        good = int(self.converged.sum())
        return "all converged" if self.sound else f"{good:,} of {self.n_models:,} converged"

    def warnings(self) -> list[str]:
        """One sentence for each way in which models failed."""
        return [
            f"{n:,} {'model' if n == 1 else 'models'} not converged "
            f"({words.status_title(status.name)}): {spoken(self.result, status.explanation)}"
            for status, n in self.status_counts(only_failed=True).items()
        ]

    def status_counts(self, only_failed: bool = False) -> dict[Any, int]:
        """How many models ended in each status, the commonest first."""
        chosen = [
            s for s, good in zip(self.statuses, self.converged.tolist(), strict=True) if not (only_failed and good)
        ]
        return dict(Counter(chosen).most_common())

    def quartiles(self) -> dict[str, tuple[float, ...]]:
        """For each coefficient: how many converged models with rows to spare hold it, then min, quartiles and max."""
        spare = torch.tensor([status != Status.SATURATED for status in self.statuses])
        kept = self.coef[self.converged & spare]
        return {name: _quartiles(kept[:, j]) for j, name in enumerate(self.result.names)}

    def plain(self) -> dict[str, tuple[float, ...]]:
        """`quartiles` of the coefficients that stand for themselves, those of curves left out."""
        inside = smooth_places(self.result)
        return {name: row for j, (name, row) in enumerate(self.quartiles().items()) if j not in inside}

    def worst(self) -> list[int]:
        """Numbers of the models to look at first: not converged, then the largest deviance per df."""
        ratio = torch.nan_to_num(self.deviance_per_df(), nan=math.inf).tolist()
        order = sorted(range(self.n_models), key=lambda i: (bool(self.converged[i]), -ratio[i]))
        return order[: self.worst_shown]

    def deviance_per_df(self, converged: bool = False) -> Tensor:
        """Deviance per residual degree of freedom, (models,), or of the converged models alone."""
        ratio = self._values("deviance") / self._values("df_resid").clamp(min=1)
        return ratio[self.converged] if converged else ratio

    def label(self, index: int) -> str:
        """The group of a model (`state = CA`), or its index."""
        if self.result.groups is not None:
            return group_label(self.result, self.result.groups[index])
        where = torch.unravel_index(torch.tensor(index), self.shape)
        return ", ".join(str(int(i)) for i in where)

    def to_dict(self) -> dict[str, Any]:
        """The overview, JSON-able: counts, spread of each coefficient, worst models; NaN is None."""
        r = self.result
        deviance, null = _total(self._values("deviance")), _total(self._values("null_deviance"))
        spread = [
            {
                "name": name,
                "models": int(row[0]),
                **dict(zip(("min", "q25", "median", "q75", "max"), row[1:], strict=True)),
            }
            for name, row in self.quartiles().items()
        ]
        return numbers.jsonable(
            {
                "family": r.family.name,
                "link": r.link.name,
                "formula": r.formula,
                "models": self.n_models,
                "converged": int(self.converged.sum()),
                "deviance": deviance,
                "null_deviance": null,
                "d_squared": d_squared(deviance, null),
                "status": {s.name.lower(): n for s, n in self.status_counts().items()},
                "coefficients": spread,
                "worst": [
                    {
                        "model": self.label(i),
                        "index": i,
                        "status": self.statuses[i].name.lower(),
                        "deviance": float(self._values("deviance")[i]),
                    }
                    for i in self.worst()
                ],
                "warnings": self.warnings(),
            }
        )

    def to_frame(self) -> pd.DataFrame:
        """One row per model and coefficient, indexed by the group (or number) of the model and the name."""
        import pandas as pd

        r, p = self.result, len(self.result.names)
        interval = r.conf_int(self.level)
        columns = {
            "estimate": r.coef,
            "std_err": r.std_err,
            "statistic": r.statistic,
            "p_value": r.p_value,
            "low": interval[..., 0],
            "high": interval[..., 1],
        }
        frame = pd.DataFrame({k: v.detach().double().cpu().reshape(-1).numpy() for k, v in columns.items()})
        if self.ratio_name is not None:
            for ratio, column in (("ratio", "estimate"), ("ratio_low", "low"), ("ratio_high", "high")):
                frame[ratio] = np.exp(frame[column].clip(upper=709))
        frame["status"] = [s.name.lower() for s in self.statuses for _ in range(p)]
        models = [self.label(i) for i in range(self.n_models)]
        frame.index = pd.MultiIndex.from_product([models, r.names], names=["model", "name"])
        return frame

    def models_frame(self) -> pd.DataFrame:
        """One row per model, in order: the keys of its group (or its number), its size, its fit and how it ended."""
        import pandas as pd

        names = ("nobs", "rank", "df_resid", "deviance", "null_deviance", "dispersion", "n_iter")
        columns = {name: self._values(name).numpy() for name in names}
        keys, groups = self.result.group_names, self.result.groups
        labels = [(i,) for i in range(self.n_models)] if keys is None or groups is None else groups
        heads = ["model"] if keys is None or groups is None else [f"{k}_" if k in TAKEN else k for k in keys]
        frame = pd.DataFrame([tuple(map(_plain, label)) for label in labels], columns=heads)
        frame["status"] = [status.name.lower() for status in self.statuses]
        for name, values in columns.items():
            frame[name] = values.astype(int) if name in ("rank", "n_iter") else values
        null = frame["null_deviance"]
        frame["d_squared"] = 1 - frame["deviance"] / null.where(null > 0)
        return frame

    def _values(self, name: str) -> Tensor:
        """A per-model quantity as float64 `(models,)`; a number shared by all is repeated."""
        value = torch.as_tensor(getattr(self.result, name)).detach().double().cpu()
        return value.expand(self.shape).reshape(-1)

    def _first(self) -> Grid:
        """The models to look at first."""
        nobs, deviance, steps = (self._values(k) for k in ("nobs", "deviance", "n_iter"))
        ratio = self.deviance_per_df()
        rows = [
            (
                self.label(i),
                words.status_title(self.statuses[i].name),
                numbers.number(float(nobs[i])),
                numbers.number(float(deviance[i])),
                numbers.short(float(ratio[i])),
                f"{int(steps[i])}",
            )
            for i in self.worst()
        ]
        head = ("model", "status", "observations", "deviance", "deviance/df", "iterations")
        return Grid("Models to look at first", head, rows, left=2)


def _plain(value: Any) -> Any:
    """A key of a group as a cell of a table."""
    return value if isinstance(value, (str, int, float)) else str(value)


def _flat(status: Any) -> Iterable[Any]:
    """The statuses of a batch in row-major order, however deep their lists are nested."""
    if isinstance(status, Sequence) and not isinstance(status, str):
        for part in status:
            yield from _flat(part)
    else:
        yield status


def _quartiles(values: Tensor) -> tuple[float, ...]:
    """Count, minimum, quartiles and maximum of the numbers among `values`; NaN where there is none."""
    values = values[~values.isnan()].sort().values
    if len(values) == 0:
        return (0.0, *[math.nan] * len(_QUANTILES))
    at = torch.tensor(_QUANTILES, dtype=torch.float64) * (len(values) - 1)
    low, high = values[at.floor().long()], values[at.ceil().long()]
    return (float(len(values)), *torch.lerp(low, high, at - at.floor()).tolist())


def _range(values: Tensor) -> str:
    low, high = float(values.min()), float(values.max())
    return numbers.number(low) if low == high else f"{numbers.number(low)} to {numbers.number(high)}"


def _total(values: Tensor) -> float:
    return float(values.nansum())
