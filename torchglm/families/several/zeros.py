"""Laws with a part of their own for zeros: more of them than a count has, or all of them apart."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from torchglm import links
from torchglm.distributions.around import Tails
from torchglm.families.base import Family
from torchglm.families.several.base import ALL_ZERO, START, Pairs, VectorFamily, absolute
from torchglm.families.several.parameters import of_parameters
from torchglm.links import Link
from torchglm.rows.responses import Response

ROUNDS = 30  # of the moments from which a zero-inflated fit begins
MOST_ZEROS = 0.95  # share of the zeros that a start may take for structural, or for those of the count
LOG_HALF = -0.6931471805599453
ZERO = 1  # the place of the predictor of zeros: after that of the mean

Own = TypeVar("Own", bound="_Zeros")


class _Zeros(VectorFamily):
    """What both share: the predictors of a family within, and after its first `zero`, the logit of a probability."""

    none: str  # what it means where the probability of a zero has no end but 0, and 1
    nothing = "The probability of a zero runs to 1: there are hardly other responses. Drop what tells them apart."
    support = constraints.nonnegative
    support_text = "y >= 0"
    mean_text = "expected response"

    def __init__(self, family: str | Family) -> None:
        super().__init__()
        self.family = of_parameters(family)
        self.ratio_text, self.counts = self.family.ratio_text, self.family.counts

    def linked(self: Own, link: Link) -> Own:
        return type(self)(self.family.linked(link))

    def for_heads(self: Own) -> Own:
        inner = self.family.for_heads()
        return self if inner is self.family else type(self)(inner)

    def parts(self) -> dict[str, Family | Link]:
        return {"family": self.family}

    @property
    def always_has_mean(self) -> bool:
        return self.family.always_has_mean

    @property
    def predictors(self) -> tuple[str, ...]:
        first, *others = self.family.predictors
        return (first, "zero", *others)

    @property
    def links(self) -> dict[str, Link]:
        return self.family.links | {"zero": links.Logit()}

    @property
    def weighted(self) -> str | None:
        return self.family.weighted

    def parameter(self, name: str, eta: Tensor) -> Tensor:
        return torch.sigmoid(eta) if name == "zero" else self.family.parameter(name, eta)

    def units(self, eta: Tensor) -> Tensor:
        return _joined(self.family.units(_within(eta)), torch.ones_like(eta[ZERO]))

    def supports(self, y: Response) -> Tensor:
        return (y == 0) | self.family.supports(y)

    def valid(self, eta: Tensor) -> Tensor:
        return torch.isfinite(eta[ZERO]) & self.family.valid(_within(eta))

    def has_laws(self, eta: Tensor) -> bool:
        return self.family.has_laws(_within(eta))

    def _log_zero(self, inner: Tensor) -> Tensor:
        """The log-probability of 0 of the family within, at its predictors."""
        return -self.family.nll(torch.zeros_like(inner[0]), inner)

    def row_start(self, y: Response, eta: Tensor) -> Tensor:
        inner = _within(eta)
        own = self.family.row_start(torch.where(y == 0, 1.0, y), inner)
        return _joined(torch.where(y == 0, inner, own), eta[ZERO])

    @property
    def ends(self) -> dict[tuple[str, int], str]:
        return self.family.ends | {("zero", -1): self.none, ("zero", 1): self.nothing, START: ALL_ZERO}

    @property
    def inner_mean(self) -> float:
        return self.family.inner_mean


class ZeroInflated(_Zeros):
    """Counts with more zeros: 0 with the probability `pi = sigmoid(eta_zero)`, else by a family of counts.

    `family` is Poisson or NegativeBinomial (whose alpha has a predictor as well, unless its value is given), or a
    name. Raises `ValueError` for a family that is none of counts. Source: Lambert (1992), Technometrics 34(1).
    """

    name = "zero_inflated"
    none = (
        "The probability of a structural zero runs to 0: there are no more zeros than the counts have of their own. "
        "Fit the family of counts alone, or Hurdle."
    )

    def __init__(self, family: str | Family) -> None:
        super().__init__(family)
        if not self.family.counts:
            raise ValueError(
                f"ZeroInflated needs a family of counts, which has zeros of its own, got {_title(self.family)}. Use "
                "Poisson or NegativeBinomial, or Hurdle, whose zeros stand apart."
            )

    def mean(self, eta: Tensor) -> Tensor:
        return torch.sigmoid(-eta[ZERO]) * self.family.mean(_within(eta))

    def nll(self, y: Response, eta: Tensor) -> Tensor:
        seen, zero = self.family.nll(y, _within(eta)), eta[ZERO]
        return nn.functional.softplus(zero) - torch.where(y == 0, torch.logaddexp(zero, -seen), -seen)

    def nll_and_score(self, y: Response, eta: Tensor) -> tuple[Tensor, Tensor] | None:
        found = self.family.nll_and_score(y, _within(eta))
        if found is None:
            return None
        (seen, score), zero, none = found, eta[ZERO], y == 0
        log_odds = torch.where(none, zero + seen, -torch.inf)  # that a row is a structural zero
        value = nn.functional.softplus(zero) - torch.where(none, torch.logaddexp(zero, -seen), -seen)
        structural = torch.sigmoid(log_odds)
        return value, _joined((1 - structural) * score, structural - torch.sigmoid(zero))

    def derivatives(self, y: Response, eta: Tensor) -> tuple[Tensor, Pairs]:
        inner, zero = _within(eta), eta[ZERO]
        score, pairs = self.family.derivatives(y, inner)
        structural, other = self._shares(y, eta)
        mixed = torch.where(y == 0, structural * other, 0.0)
        pi = torch.sigmoid(zero)
        out = {
            _pair(k, j): other * pairs.get((k, j), torch.zeros_like(pi)) - mixed * score[k] * score[j]
            for k, j in _all(inner)
        }
        out |= {_with_zero(k): mixed * score[k] for k in range(len(inner))}
        out[ZERO, ZERO] = pi * torch.sigmoid(-zero) - mixed
        return _joined(other * score, structural - pi), out

    def tails(self, y: Response, eta: Tensor) -> tuple[Tails, Tails]:
        below, at = self.family.tails(y, _within(eta))
        return _mixed(below, at, y == 0, eta[ZERO])

    def variance_at(self, eta: Tensor) -> Tensor:
        inner, rest = _within(eta), torch.sigmoid(-eta[ZERO])
        mean = self.family.mean(inner)
        return rest * (self.family.variance_at(inner) + torch.sigmoid(eta[ZERO]) * mean.square())

    def _shares(self, y: Response, eta: Tensor) -> tuple[Tensor, Tensor]:
        """The probability that a row is a structural zero, and that it is one of the counts."""
        odds = eta[ZERO] + self.family.nll(y, _within(eta))
        return torch.where(y == 0, torch.sigmoid(odds), 0.0), torch.where(y == 0, torch.sigmoid(-odds), 1.0)

    def expected(self, eta: Tensor) -> Pairs | None:
        inner, zero = _within(eta), eta[ZERO]
        known = self.family.expected(inner)
        if known is None:
            return None
        none = torch.zeros_like(zero)
        score = self.family.derivatives(none, inner)[0]
        pi, rest = torch.sigmoid(zero), torch.sigmoid(-zero)
        structural, other = self._shares(none, eta)
        mixed = (pi + rest * self._log_zero(inner).exp()) * structural * other
        out = {_pair(k, j): rest * known.get((k, j), none) - mixed * score[k] * score[j] for k, j in _all(inner)}
        out |= {_with_zero(k): mixed * score[k] for k in range(len(inner))}
        return out | {(ZERO, ZERO): pi * rest - mixed}

    def safe(self, y: Response, eta: Tensor, observed: Pairs) -> Pairs:
        """The curvature of the EM algorithm, in which it is known of each zero how far it is structural."""
        inner = _within(eta)
        own = self.family.safe(y, inner, self.family.derivatives(y, inner)[1])
        other = self._shares(y, eta)[1]
        spread = torch.sigmoid(eta[ZERO]) * torch.sigmoid(-eta[ZERO])
        return {_pair(*pair): other * value for pair, value in own.items()} | {(ZERO, ZERO): spread}

    def start(self, averages: Tensor) -> Tensor:
        zeros = averages[2]
        pi = zeros / 2
        for _ in range(ROUNDS):  # the zeros that the count within does not explain are structural
            rest = 1 - pi
            inner = self.family.start(torch.stack([averages[0] / rest, averages[1] / rest, (zeros - pi) / rest]))
            log_zero = self._log_zero(inner)
            new = (zeros - log_zero.exp()) / -torch.expm1(log_zero)
            pi = torch.minimum(torch.maximum(new, (1 - MOST_ZEROS) * zeros), MOST_ZEROS * zeros).clamp(1e-6, 1 - 1e-6)
        return _joined(inner, pi.logit())


class Hurdle(_Zeros):
    """Zeros apart: 0 with the probability `pi = sigmoid(eta_zero)`, else by a family given that it is above 0.

    Over counts (Poisson, NegativeBinomial) that family is truncated at 0; over amounts (Gamma, LogNormal,
    InverseGaussian) it is a model of costs in two parts. Each part is fitted by its own rows.
    Source: Mullahy (1986), J. Econometrics 33, 341-365; Duan et al. (1983), J. Bus. Econ. Stat. 1(2).
    """

    name = "hurdle"
    none = "The probability of a zero runs to 0: no zero was seen. Fit the family within alone."

    def __init__(self, family: str | Family) -> None:
        super().__init__(family)
        if not (self.family.counts or bool((~self.family.supports(torch.zeros(1, device="cpu"))).all())):
            raise ValueError(
                f"Hurdle needs a family of counts, or one of amounts above 0, got {_title(self.family)}, of which 0 is "
                "a value like others. Use Poisson, NegativeBinomial, Gamma, LogNormal or InverseGaussian."
            )

    def mean(self, eta: Tensor) -> Tensor:
        inner = _within(eta)
        own = torch.sigmoid(-eta[ZERO]) * self.family.mean(inner)
        return own / -torch.expm1(self._log_zero(inner)) if self.counts else own

    def nll(self, y: Response, eta: Tensor) -> Tensor:
        none, inner, zero = y == 0, _within(eta), eta[ZERO]
        inner = torch.where(none, inner.detach(), inner)  # no slope reaches those that do not count
        seen = self.family.nll(torch.where(none, self.family.inner_mean, y), inner)
        if self.counts:
            seen = seen + _log_complement(self._log_zero(inner))
        return nn.functional.softplus(torch.where(none, -zero, zero)) + torch.where(none, 0.0, seen)

    def nll_and_score(self, y: Response, eta: Tensor) -> tuple[Tensor, Tensor] | None:
        none, inner, zero = y == 0, _within(eta), eta[ZERO]
        found = self.family.nll_and_score(torch.where(none, self.family.inner_mean, y), inner)
        if found is None:
            return None
        seen, score = found
        if self.counts:
            lost, at_zero = self.family.nll_and_score(y.new_zeros(()), inner) or found  # -log P(0)
            seen, score = seen + torch.log(-torch.expm1(-lost)), score + at_zero / torch.expm1(lost)
        some = (~none).to(seen.dtype)
        value = nn.functional.softplus(torch.where(none, -zero, zero)) + some * seen
        return value, _joined(some * score, 1 - some - torch.sigmoid(zero))

    def derivatives(self, y: Response, eta: Tensor) -> tuple[Tensor, Pairs]:
        none, inner = y == 0, _within(eta)
        score, pairs = self.family.derivatives(torch.where(none, self.family.inner_mean, y), inner)
        if self.counts:
            score, pairs = self._truncated(inner, score, pairs)
        pi = torch.sigmoid(eta[ZERO])
        out = {_pair(*pair): torch.where(none, 0.0, value) for pair, value in pairs.items()}
        out[ZERO, ZERO] = pi * torch.sigmoid(-eta[ZERO])
        return _joined(torch.where(none, 0.0, score), torch.where(none, 1.0, 0.0) - pi), out

    def tails(self, y: Response, eta: Tensor) -> tuple[Tails, Tails]:
        none, inner = y == 0, _within(eta)
        below, at = self.family.tails(torch.where(none, self.family.inner_mean, y), inner)
        if self.counts:
            lost = self._log_zero(inner).exp()
            left = -torch.expm1(self._log_zero(inner))
            below, at = (((lower - lost).clamp(min=0) / left, upper / left) for lower, upper in (below, at))
        at = torch.where(none, 0.0, at[0]), torch.where(none, 1.0, at[1])
        return _mixed(below, at, none, eta[ZERO])

    def variance_at(self, eta: Tensor) -> Tensor:
        inner, rest = _within(eta), torch.sigmoid(-eta[ZERO])
        left = -torch.expm1(self._log_zero(inner)) if self.counts else torch.ones_like(rest)
        square = (self.family.variance_at(inner) + self.family.mean(inner).square()) * rest / left
        return square - self.mean(eta).square()

    def _truncated(self, inner: Tensor, score: Tensor, pairs: Pairs) -> tuple[Tensor, Pairs]:
        """Score and information of the family within given that a response is above 0."""
        none = torch.zeros_like(inner[0])
        at_zero, bends = self.family.derivatives(none, inner)
        odds = _odds(self._log_zero(inner))
        out: Pairs = {}
        for k, j in _all(inner):
            taken = odds * (1 + odds) * at_zero[k] * at_zero[j] - odds * bends.get((k, j), none)
            out[k, j] = pairs.get((k, j), none) - taken
        return score + odds * at_zero, out

    def expected(self, eta: Tensor) -> Pairs | None:
        inner, none = _within(eta), torch.zeros_like(eta[0])
        known = self.family.expected(inner)
        if known is None:
            return None
        pi, rest = torch.sigmoid(eta[ZERO]), torch.sigmoid(-eta[ZERO])
        if self.counts:
            score, odds = self.family.derivatives(none, inner)[0], _odds(self._log_zero(inner))
            known = {
                (k, j): (1 + odds) * (known.get((k, j), none) - odds * score[k] * score[j]) for k, j in _all(inner)
            }
        return {_pair(*pair): rest * value for pair, value in known.items()} | {(ZERO, ZERO): pi * rest}

    def safe(self, y: Response, eta: Tensor, observed: Pairs) -> Pairs:
        inner, none = _within(eta), y == 0
        own = {pair: value for pair, value in observed.items() if ZERO not in pair}
        if self.counts:
            own = absolute(own, [k for k in range(len(eta)) if k != ZERO])
        else:
            taken = {(k - (k > ZERO), j - (j > ZERO)): value for (k, j), value in own.items()}
            found = self.family.safe(torch.where(none, self.family.inner_mean, y), inner, taken)
            own = {_pair(*pair): value for pair, value in found.items()}
        return {pair: torch.where(none, 0.0, value) for pair, value in own.items()} | {
            (ZERO, ZERO): observed[ZERO, ZERO]
        }

    def statistics(self, y: Response) -> Tensor:
        none = y == 0
        inner = self.family.statistics(torch.where(none, self.family.inner_mean, y))
        return torch.cat([torch.where(none, 0.0, inner), none.to(inner.dtype).unsqueeze(0)])

    def start(self, averages: Tensor) -> Tensor:
        zeros = averages[-1].clamp(1e-6, 1 - 1e-6)
        return _joined(self.family.start(averages[:-1] / (1 - zeros)), zeros.logit())


def _mixed(below: Tails, at: Tails, none: Tensor, zero: Tensor) -> tuple[Tails, Tails]:
    """The tails of a law that is 0 with the probability `sigmoid(zero)`, else has these; `none` says where y is 0."""
    pi, rest = torch.sigmoid(zero), torch.sigmoid(-zero)
    first = torch.where(none, 0.0, pi + rest * below[0]), torch.where(none, 1.0, rest * below[1])
    return first, (pi + rest * at[0], rest * at[1])


def _within(eta: Tensor) -> Tensor:
    """The predictors of the family within."""
    return torch.cat([eta[:ZERO], eta[ZERO + 1 :]])


def _joined(inner: Tensor, zero: Tensor) -> Tensor:
    """What belongs to the predictors of the family within, and in its place what belongs to that of zeros."""
    return torch.cat([inner[:ZERO], zero.unsqueeze(0), inner[ZERO:]])


def _pair(k: int, j: int) -> tuple[int, int]:
    """Where two predictors of the family within stand."""
    return k + (k >= ZERO), j + (j >= ZERO)


def _with_zero(k: int) -> tuple[int, int]:
    """Where a predictor of the family within stands beside that of zeros."""
    place = k + (k >= ZERO)
    return min(place, ZERO), max(place, ZERO)


def _all(inner: Tensor) -> list[tuple[int, int]]:
    """All pairs of the predictors of the family within."""
    return [(k, j) for k in range(len(inner)) for j in range(k, len(inner))]


def _title(family: VectorFamily) -> str:
    inner = getattr(family, "family", family)
    return str(inner.name)


def _log_complement(log_p: Tensor) -> Tensor:
    """`log(1 - p)`, both branches safe for derivatives."""
    near = log_p > LOG_HALF
    return torch.where(
        near,
        torch.log(-torch.expm1(torch.where(near, log_p, -1.0))),
        torch.log1p(-torch.exp(torch.where(near, -1.0, log_p))),
    )


def _odds(log_p: Tensor) -> Tensor:
    """`p / (1 - p)`."""
    return log_p.exp() / -torch.expm1(log_p)
