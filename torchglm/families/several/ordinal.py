"""Ordinal models, for classes that have an order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from torchglm import links
from torchglm.families.several.base import Pairs
from torchglm.families.several.categorical import Classes
from torchglm.links import Link
from torchglm.rows.plan import Plan, PlanBlock
from torchglm.rows.responses import Response
from torchglm.writing.nearest import unknown

KINDS = ("cumulative", "adjacent", "continuation")
LINKS = ("logit", "probit", "cloglog", "loglog", "cauchit")


class Ordinal(Classes):
    """Classes in an order: `eta_k = threshold_k - x beta`, so that a positive slope leads to higher classes.

    `kind` says what `eta_k` is the link of: `"cumulative"` of `P(Y <= k)`, `"continuation"` of `P(Y = k | Y >= k)`;
    with `"adjacent"` it is `log(P(Y = k) / P(Y = k + 1))`. `link` is the logit, probit, cloglog, loglog or cauchit.
    Slopes are the same at every cut but for the columns `free` (True: all), whose slopes differ by cut.
    Raises `ValueError` for another kind or link. Source: McCullagh (1980), J. R. Stat. Soc. B 42(2); Agresti (2010),
    Analysis of Ordinal Categorical Data, chapters 3 and 4.
    """

    name = "ordinal"
    ratio_text = "cumulative odds ratio"

    def __init__(
        self,
        link: str | Link = "logit",
        kind: str = "cumulative",
        free: Sequence[str] | bool = (),
        classes: Sequence[Any] | int | None = None,
    ) -> None:
        super().__init__(classes)
        if kind not in KINDS:
            raise ValueError(unknown("kind", kind, KINDS))
        self.link = links.get(link)
        if self.link.name not in LINKS or kind == "adjacent" and self.link.name != "logit":
            known = "logit" if kind == "adjacent" else ", ".join(LINKS)
            raise ValueError(f"an ordinal model of kind {kind!r} has no link {self.link.name!r}. Known: {known}.")
        self.kind = kind
        self.free: bool | list[str] = (
            free if isinstance(free, bool) else [free] if isinstance(free, str) else list(free)
        )

    def of_classes(self, classes: Sequence[Any]) -> Ordinal:
        return Ordinal(self.link, self.kind, self.free, classes)

    def arguments(self) -> dict[str, Any]:
        return {"link": self.link.name, "kind": self.kind, "free": self.free} | super().arguments()

    @property
    def predictors(self) -> tuple[str, ...]:
        return tuple(f"{low}|{high}" for low, high in zip(self.known, self.known[1:], strict=False))

    @property
    def links(self) -> dict[str, Link]:
        return dict.fromkeys(self.predictors, self.link)

    def log_probabilities(self, eta: Tensor) -> Tensor:
        if self.kind == "cumulative":
            lower, upper = _padded(eta)[:-1], _padded(eta)[1:]
            return self._log_between(lower, upper)
        if self.kind == "adjacent":
            return torch.log_softmax(_from_each_on(eta), 0)
        beyond = self.link.log_complement(eta).cumsum(0)  # log P(Y > k)
        before = torch.cat([torch.zeros_like(beyond[:1]), beyond[:-1]])
        return torch.cat([self.link.log_inverse(eta) + before, beyond[-1:]])

    def nll(self, y: Response, eta: Tensor) -> Tensor:
        if self.kind != "cumulative":
            return super().nll(y, eta)
        return -self._log_between(*self._ends(y, eta))

    def _ends(self, y: Tensor, eta: Tensor) -> tuple[Tensor, Tensor]:
        """(*N) the predictors at the two ends of the class of a row."""
        padded, code = _padded(eta), y.long().expand(eta.shape[1:]).unsqueeze(0)
        return padded.gather(0, code).squeeze(0), padded.gather(0, code + 1).squeeze(0)

    def _log_between(self, lower: Tensor, upper: Tensor) -> Tensor:
        """`log(F(upper) - F(lower))`, by the tail in which both lie."""
        begins, ends = torch.isfinite(lower), torch.isfinite(upper)
        # at an infinite end a finite predictor goes through the formulas in its place, whose slopes there are NaN
        start, stop = torch.where(begins, lower, 0.0), torch.where(ends, upper, 0.0)
        high = torch.where(ends, self.link.log_inverse(stop), 0.0)
        above = torch.where(begins, self.link.log_complement(start), 0.0)
        if self.link.name == "logit":  # F(b) - F(a) = F(b) (1 - F(a)) (1 - e^(a - b))
            gap = torch.where(
                begins & ends, torch.log(-torch.expm1(torch.where(begins & ends, start - stop, -1.0))), 0.0
            )
            return high + above + gap
        low = torch.where(begins, self.link.log_inverse(start), -torch.inf)
        below = torch.where(ends, self.link.log_complement(stop), -torch.inf)
        right = begins & ((low > above) | ~ends)  # more of the law lies below than above
        larger, smaller = torch.where(right, above, high), torch.where(right, below, low)
        return larger + torch.log(-torch.expm1(smaller - larger))

    def derivatives(self, y: Response, eta: Tensor) -> tuple[Tensor, Pairs]:
        return {
            "cumulative": self._of_cumulative,
            "adjacent": self._of_adjacent,
            "continuation": self._of_continuation,
        }[self.kind](y, eta)

    def evaluated(self, y: Response, eta: Tensor) -> tuple[Tensor, Tensor, Pairs]:
        if self.kind != "cumulative":
            return super().evaluated(y, eta)
        return self._evaluated(y, eta)

    def nll_and_score(self, y: Response, eta: Tensor) -> tuple[Tensor, Tensor]:
        if self.kind != "cumulative":
            return self.nll(y, eta), self.derivatives(y, eta)[0]
        lower, upper = self._ends(y, eta)
        if self.link.name == "logit":  # p = F(b) (1 - F(a)) (1 - e^(a - b)), at infinite ends as well
            gap = lower - upper
            loss = _softplus(-upper) + _softplus(lower) - torch.log(-torch.expm1(gap))
            odds = 1 / torch.expm1(-gap)
            return loss, self._score(y, eta, torch.sigmoid(lower) + odds, torch.sigmoid(-upper) + odds)
        log_p = self._log_between(lower, upper)
        return -log_p, self._score(y, eta, self._slope_ratio(lower, log_p), self._slope_ratio(upper, log_p))

    @staticmethod
    def _score(y: Tensor, eta: Tensor, down: Tensor, up: Tensor) -> Tensor:
        """(K, *N) the score from `f / p` at the two ends of the class of a row."""
        code = y.long().expand(eta.shape[1:]).unsqueeze(0)
        padded = eta.new_zeros(len(eta) + 2, *eta.shape[1:])  # the ends at infinity have places of their own
        return padded.scatter_(0, code, -down.unsqueeze(0)).scatter_(0, code + 1, up.unsqueeze(0))[1:-1]

    def _of_cumulative(self, y: Tensor, eta: Tensor) -> tuple[Tensor, Pairs]:
        return self._evaluated(y, eta)[1:]

    def _evaluated(self, y: Tensor, eta: Tensor) -> tuple[Tensor, Tensor, Pairs]:
        lower, upper = self._ends(y, eta)
        log_p = self._log_between(lower, upper)
        down, up = (self._slope_ratio(end, log_p) for end in (lower, upper))  # f / p at both ends
        down_bend, up_bend = (self._bend(end, ratio) for end, ratio in ((lower, down), (upper, up)))
        score = torch.zeros_like(eta)
        pairs: Pairs = {}
        for k in range(len(eta)):
            ends, begins = (y == k).to(eta.dtype), (y == k + 1).to(eta.dtype)
            score[k] = ends * up - begins * down
            pairs[k, k] = ends * (up.square() - up_bend) + begins * (down.square() + down_bend)
            if k:
                pairs[k - 1, k] = -ends * up * down
        return -log_p, score, pairs

    def _slope_ratio(self, eta: Tensor, log_p: Tensor) -> Tensor:
        finite = torch.isfinite(eta)
        logs = self.link.log_inverse_deriv(torch.where(finite, eta, 0.0)) - log_p
        return torch.where(finite, logs.exp(), 0.0)

    def _bend(self, eta: Tensor, ratio: Tensor) -> Tensor:
        """`f' / p`."""
        finite = torch.isfinite(eta)
        return torch.where(finite, self.link.inverse_curvature(torch.where(finite, eta, 0.0)) * ratio, 0.0)

    def _of_adjacent(self, y: Tensor, eta: Tensor) -> tuple[Tensor, Pairs]:
        below = self.probabilities(eta).cumsum(0)[:-1]  # P(Y <= k)
        above = self.probabilities(eta).flip(0).cumsum(0).flip(0)[1:]  # P(Y > k)
        seen = torch.stack([(y <= k).to(eta.dtype).expand(eta.shape[1:]) for k in range(len(eta))])
        pairs = {(k, j): below[k] * above[j] for k in range(len(eta)) for j in range(k, len(eta))}
        return seen - below, pairs

    def _of_continuation(self, y: Tensor, eta: Tensor) -> tuple[Tensor, Pairs]:
        ends = torch.stack([(y == k).expand(eta.shape[1:]) for k in range(len(eta))])
        goes = torch.stack([(y > k).expand(eta.shape[1:]) for k in range(len(eta))])
        own, hazard = self.link.relative_slope(eta), self.link.complement_slope(eta)
        bend = self.link.inverse_curvature(eta)
        none = torch.zeros_like(eta)
        score = torch.where(ends, own, torch.where(goes, -hazard, none))
        weight = torch.where(ends, own * (own - bend), torch.where(goes, hazard * (hazard + bend), none))
        return score, {(k, k): weight[k] for k in range(len(eta))}

    def expected(self, eta: Tensor) -> Pairs:
        size = len(eta)
        if self.kind == "adjacent":
            return self._of_adjacent(torch.zeros_like(eta[0]), eta)[1]
        if self.kind == "continuation":
            beyond = torch.cat([torch.zeros_like(eta[:1]), self.link.log_complement(eta).cumsum(0)[:-1]]).exp()
            weight = beyond * self.link.inverse_deriv(eta) * self.link.relative_slope(eta).clamp(min=0)
            weight = weight / self.link.log_complement(eta).exp()
            return {(k, k): weight[k] for k in range(size)}
        log_p, slope = self.log_probabilities(eta), self.link.log_inverse_deriv(eta)
        pairs: Pairs = {}
        for k in range(size):
            pairs[k, k] = (2 * slope[k] - log_p[k]).exp() + (2 * slope[k] - log_p[k + 1]).exp()
            if k:
                pairs[k - 1, k] = -(slope[k - 1] + slope[k] - log_p[k]).exp()
        return pairs

    def is_canonical(self, link: Link) -> bool:
        return self.kind == "adjacent"

    def valid(self, eta: Tensor) -> Tensor:
        inside = super().valid(eta)
        return inside & (eta[1:] > eta[:-1]).all(0) if self.kind == "cumulative" else inside

    def has_laws(self, eta: Tensor) -> bool:
        return self.kind != "cumulative" or bool((eta[1:] > eta[:-1]).all())

    def units(self, eta: Tensor) -> Tensor:
        """No more than the way to the next threshold."""
        if self.kind != "cumulative" or len(eta) == 1:
            return super().units(eta)
        gap = eta.diff(dim=0).abs().clamp(max=1.0)
        return torch.minimum(torch.cat([gap[:1], gap]), torch.cat([gap, gap[-1:]]))

    def start(self, averages: Tensor) -> Tensor:
        shares = averages / averages.sum(0)
        if self.kind == "adjacent":
            return shares[:-1].log() - shares[1:].log()
        if self.kind == "cumulative":
            return self.link.link(shares.cumsum(0)[:-1])
        return self.link.link(shares[:-1] / shares.flip(0).cumsum(0).flip(0)[:-1])

    def effects(self, predictor: str) -> dict[str, list[float]]:
        """As slopes: an effect above 0 leads to higher classes, at every cut."""
        return {"": [-1.0] * len(self.predictors)}

    def shifts(self) -> Tensor:
        return -torch.ones(len(self.predictors), dtype=torch.float64)

    def plan(self, designs: dict[str, dict[str, int]], ones: tuple[int, ...]) -> tuple[Plan, list[str]]:
        constant = [place for place in designs[""].values() if place in ones] or list(ones[:1])
        if not constant:
            raise ValueError("an ordinal model has thresholds in place of an intercept. Leave intercept=False out.")
        columns = {name: place for name, place in designs[""].items() if place not in ones}
        free = list(columns) if self.free is True else self.free or []
        strange = [name for name in free if name not in columns]
        if strange:
            raise ValueError(f"free={strange} are no columns of the design. Known: {', '.join(columns)}.")
        shared = [name for name in columns if name not in free]
        own = [name for name in columns if name in free]
        unit = torch.eye(len(self.predictors), dtype=torch.float64)
        blocks = [
            PlanBlock(tuple(columns[name] for name in shared), -unit.sum(-1, keepdim=True)),
            PlanBlock(tuple(columns[name] for name in own), -unit),
            PlanBlock(tuple(constant), unit),
        ]
        names = [*shared, *(f"{cut}:{name}" for cut in self.predictors for name in own), *self.predictors]
        return Plan(len(self.predictors), tuple(block for block in blocks if block.columns), ones), names


def _softplus(eta: Tensor) -> Tensor:
    return nn.functional.softplus(eta, threshold=40)


def _padded(eta: Tensor) -> Tensor:
    """(C + 1, *N) the predictors between minus and plus infinity."""
    end = torch.full_like(eta[:1], torch.inf)
    return torch.cat([-end, eta, end])


def _from_each_on(eta: Tensor) -> Tensor:
    """(C, *N) the sums of the predictors from each on, 0 at the end."""
    return torch.cat([eta.flip(0).cumsum(0).flip(0), torch.zeros_like(eta[:1])])
