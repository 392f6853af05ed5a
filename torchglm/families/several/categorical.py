"""Families for classes: what they share, and the multinomial, whose classes have no order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from torchglm.distributions.around import Tails
from torchglm.families.several.base import Pairs, VectorFamily
from torchglm.links import Link
from torchglm.rows.plan import Plan
from torchglm.rows.responses import Response


class Classes(VectorFamily):
    """A class out of C, of which C - 1 predictors make the probabilities; `y` holds codes 0, 1, ..., C - 1.

    `classes` are the labels in their order, known after a fit or given.
    """

    support = constraints.nonnegative
    support_text = "y in 0, 1, ..., C - 1"
    mean_text = "probability"

    def __init__(self, classes: Sequence[Any] | int | None = None) -> None:
        super().__init__()
        self.classes: list[Any] | None = list(range(classes)) if isinstance(classes, int) else None
        if classes is not None and not isinstance(classes, int):
            self.classes = list(classes)
        if self.classes is not None and len(self.classes) < 2:
            raise ValueError(f"a class out of {len(self.classes)} is no choice. Give at least two classes.")

    @property
    def known(self) -> list[Any]:
        """The classes. Raises `ValueError` where they are not known yet."""
        if self.classes is None:
            raise ValueError(
                f"{type(self).__name__} does not know its classes yet. Fit it, or give them: "
                f"{type(self).__name__}(classes=3) or classes=['low', 'medium', 'high']."
            )
        return self.classes

    def linked(self, link: Link) -> Classes:
        raise ValueError(f"{self.name} has its link itself, as in Ordinal(link='probit'). Leave link= out.")

    def of_classes(self, classes: Sequence[Any]) -> Classes:
        """The same family of these classes."""
        raise NotImplementedError

    def arguments(self) -> dict[str, Any]:
        return {"classes": self.classes}

    def statistics(self, y: Response) -> Tensor:
        return torch.stack([(y == k).to(torch.float64) for k in range(len(self.known))])

    def log_probabilities(self, eta: Tensor) -> Tensor:
        """(C, *N) the logarithms of the probabilities."""
        raise NotImplementedError

    def probabilities(self, eta: Tensor) -> Tensor:
        """(C, *N) the probabilities of the classes, each to its last digits."""
        return self.log_probabilities(eta).exp()

    @property
    def others(self) -> tuple[str, ...]:
        return ()

    def nll(self, y: Response, eta: Tensor) -> Tensor:
        return self._nll(y, self.log_probabilities(eta))

    def _nll(self, y: Tensor, logs: Tensor) -> Tensor:
        return -logs.gather(0, y.long().expand(logs.shape[1:]).unsqueeze(0)).squeeze(0)

    def mean(self, eta: Tensor) -> Tensor:
        """(C, *N) the probabilities."""
        return self.probabilities(eta)

    def tails(self, y: Response, eta: Tensor) -> tuple[Tails, Tails]:
        """By the classes in their order, those of a multinomial model too; each sum from its own end."""
        p = self.probabilities(eta)
        nothing = torch.zeros_like(p[:1])
        up = torch.cat([nothing, p.cumsum(0)])
        down = torch.cat([p.flip(0).cumsum(0).flip(0), nothing])
        code = y.long().expand(p.shape[1:]).unsqueeze(0)
        pairs = [[part.gather(0, place).squeeze(0) for part in (up, down)] for place in (code, code + 1)]
        return (pairs[0][0], pairs[0][1]), (pairs[1][0], pairs[1][1])

    def departure(self, y: Response, eta: Tensor) -> tuple[Tensor, Tensor]:
        p = self.probabilities(eta)
        return torch.stack([(y == k).to(p.dtype) for k in range(len(p))]) - p, p * (1 - p)

    def supports(self, y: Response) -> Tensor:
        inside = (y >= 0) & (y == y.round())
        return inside if self.classes is None else inside & (y < len(self.classes))

    @property
    def inner_mean(self) -> float:
        return 0.0


class Multinomial(Classes):
    """Classes without an order: `log(P(y = c) / P(y = baseline)) = eta_c`, every class with all columns.

    `baseline` is the number of a class, or its label where that is no whole number. With `baseline=None` every class
    has a predictor, `P(y = c)` in proportion to `exp(eta_c)`: for `path`, where a penalty makes the slopes unique.
    Source: Agresti (2013), Categorical Data Analysis, section 8.1.
    """

    name = "multinomial"
    ratio_text = "relative risk ratio"

    def __init__(self, baseline: Any = 0, classes: Sequence[Any] | int | None = None) -> None:
        super().__init__(classes)
        self.baseline = baseline
        if self.classes is not None:
            assert self.base is None or self.base >= 0  # a baseline that is none of the classes is told now

    @property
    def base(self) -> int | None:
        """The number of the baseline, None without one. Raises `ValueError` where it is none of the classes."""
        known, number = self.known, self.baseline
        if number is None:
            return None
        if isinstance(number, int) and not isinstance(number, bool) and -len(known) <= number < len(known):
            return number % len(known)
        if number in known and not isinstance(number, int):
            return known.index(number)
        raise ValueError(f"baseline={number!r} is none of the classes {known}. Name one, or give its number from 0.")

    def of_classes(self, classes: Sequence[Any]) -> Multinomial:
        return Multinomial(self.baseline, classes)

    def arguments(self) -> dict[str, Any]:
        return {"baseline": self.baseline} | super().arguments()

    @property
    def predictors(self) -> tuple[str, ...]:
        return tuple(str(label) for k, label in enumerate(self.known) if k != self.base)

    @property
    def _others(self) -> list[int]:
        """The classes that have a predictor."""
        return [k for k in range(len(self.known)) if k != self.base]

    def _whole(self, eta: Tensor) -> Tensor:
        base = self.base
        return eta if base is None else torch.cat([eta[:base], torch.zeros_like(eta[:1]), eta[base:]])

    def log_probabilities(self, eta: Tensor) -> Tensor:
        return torch.log_softmax(self._whole(eta), 0)

    def shifts(self) -> Tensor:
        raise ValueError("an offset has no meaning for classes without an order. Leave offset= and exposure= out.")

    def effects(self, predictor: str) -> dict[str, list[float]]:
        """Each class has its own, correlated ones: which is the baseline does then not matter."""
        names = self.predictors
        return {f"{name}:": [float(k == j) for j in range(len(names))] for k, name in enumerate(names)}

    def start(self, averages: Tensor) -> Tensor:
        logs = averages.log()
        base = self.base
        return logs[self._others] - (logs.mean(0) if base is None else logs[base])

    def derivatives(self, y: Response, eta: Tensor) -> tuple[Tensor, Pairs]:
        return self.evaluated(y, eta)[1:]

    def has_laws(self, eta: Tensor) -> bool:
        return True

    def nll_and_score(self, y: Response, eta: Tensor) -> tuple[Tensor, Tensor]:
        return self.values(y, eta)[:2]

    def evaluated(self, y: Response, eta: Tensor) -> tuple[Tensor, Tensor, Pairs]:
        nll, score, p = self.values(y, eta)
        beside = {(k, j): -p[k] * p[j] for k in range(len(p)) for j in range(k + 1, len(p))}
        return nll, score, {(k, k): p[k] * (1 - p[k]) for k in range(len(p))} | beside

    def without_curvature(self, y: Response, eta: Tensor) -> tuple[Tensor, Tensor, Pairs]:
        nll, score, p = self.values(y, eta)
        return nll, score, {(k, k): p[k] * (1 - p[k]) for k in range(len(p))}

    def values(self, y: Tensor, eta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The negative log-density, the score, and the probabilities of the classes that have a predictor."""
        p, top, total = self._shares(eta)
        codes = torch.tensor(self._others, dtype=y.dtype, device=y.device).view(-1, *[1] * (eta.dim() - 1))
        seen = y == codes  # (K, *N)
        nll = top.sub_((eta * seen).sum(0)).add_(total.log_())
        return nll, (-p).add_(seen), p

    def shares(self, eta: Tensor) -> Tensor:
        """(K, *N) the probabilities of the classes that have a predictor."""
        return self._shares(eta)[0]

    def _shares(self, eta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same, with the largest predictor (*N) and the sum (*N) of all `e^(eta - top)`."""
        top = eta.amax(0) if self.base is None else eta.amax(0).clamp(min=0)
        shares = (eta - top).exp_()
        total = shares.sum(0)
        if self.base is not None:
            total += (-top).exp_()
        return shares.div_(total), top, total

    def expected(self, eta: Tensor) -> Pairs:
        return self.derivatives(torch.zeros_like(eta[0]), eta)[1]

    def is_canonical(self, link: Link) -> bool:
        return True

    def plan(self, designs: dict[str, dict[str, int]], ones: tuple[int, ...]) -> tuple[Plan, list[str]]:
        columns = designs[""]
        names = [f"{name}:{column}" for name in self.predictors for column in columns]
        return Plan.all(list(columns.values()), len(self.predictors), ones), names
