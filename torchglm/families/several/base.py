"""The contract of a family whose law has several linear predictors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from torchglm.distributions.around import Tails, tails_around
from torchglm.families.base import Family
from torchglm.links import Identity, Link
from torchglm.links.inheritance import check_name
from torchglm.rows.plan import Plan
from torchglm.rows.responses import Response, size_of
from torchglm.writing.answering import answering_init

START = ("", 0)  # the end of a fit that finds nothing to begin with
ALL_ZERO = "No response is above 0: there is no law of others to fit. Leave such models out."

Pairs: TypeAlias = dict[tuple[int, int], Tensor]  # the entries (k, l), k <= l, of symmetric K x K matrices


class VectorFamily(Family):
    """A law of which K parameters have a linear predictor each: `nll(y, eta)` with `eta` (K, *N).

    A family says the names of its predictors, `nll` and `start`; the score and the observed information are derivatives
    of `nll` by automatic differentiation where the class does not write them, `derivatives`. `expected` is the expected
    information where it has a closed form. `mean` is what `predict` gives; `parameter` what a predictor stands for.
    Every method works elementwise on tensors that broadcast. Source: Yee (2015), Vector Generalized Linear and Additive
    Models, chapter 3.
    """

    has_dispersion = False
    canonical = None
    counts: bool = False  # True where the response is a count, of which 0 has a probability

    def __init_subclass__(cls, **options: Any) -> None:
        nn.Module.__init_subclass__(**options)  # formulas of one predictor, of which a class inherits none
        answering_init(cls)

    def __init__(self) -> None:
        check_name(type(self))
        nn.Module.__init__(self)

    @property
    def always_has_mean(self) -> bool:
        """Whether a law without a finite mean is none, rather than one of times whose tail is heavy."""
        return True

    # what a family says ------------------------------------------------------------------------------------

    @property
    def predictors(self) -> tuple[str, ...]:
        """The names of the predictors; the coefficients of the first have the plain names of their columns."""
        raise NotImplementedError(f"{type(self).__name__} does not say its predictors. Write it in the class.")

    def nll(self, y: Response, eta: Tensor) -> Tensor:
        """The negative log-density, fully normalised, of responses (*N) at predictors (K, *N)."""
        self._unsaid("nll")

    def start(self, averages: Tensor) -> Tensor:
        """(K, *B) constant predictors from which a fit may begin, by weighted averages (S, *B) of `statistics`."""
        self._unsaid("start")

    # what follows from it, or is written where it costs ----------------------------------------------------

    def statistics(self, y: Response) -> Tensor:
        """(S, *N) what `start` has averages of: `y`, `y^2`, and whether `y` is 0."""
        size = size_of(y)
        return torch.stack([size, size.square(), (size == 0).to(size.dtype)])

    def row_start(self, y: Response, eta: Tensor) -> Tensor:
        """(K, *N) predictors of every row from which the first step is taken, `eta` being the constants of `start`."""
        return eta

    def derivatives(self, y: Response, eta: Tensor) -> tuple[Tensor, Pairs]:
        """The score `dl/deta` (K, *N), and the observed information `-d2l/deta2` as its pairs (*N)."""
        with torch.enable_grad():
            at = eta.detach().clone().requires_grad_()
            [slope] = torch.autograd.grad(self.nll(y, at).sum(), at, create_graph=True)
            pairs: Pairs = {}
            for k in range(len(eta)):
                if not slope[k].requires_grad:
                    continue
                [bend] = torch.autograd.grad(slope[k].sum(), at, retain_graph=True, allow_unused=True)
                if bend is not None:
                    pairs |= {(k, j): bend[j] for j in range(k, len(eta))}
        return -slope.detach(), pairs

    def nll_and_score(self, y: Response, eta: Tensor) -> tuple[Tensor, Tensor] | None:
        """`nll` and the score without the information, for predictors between -30 and 30; None where none is written.

        Written anew where a class has a shorter way to both.
        """
        return (self.nll(y, eta), self.derivatives(y, eta)[0]) if self._says("derivatives") else None

    def has_laws(self, eta: Tensor) -> bool:
        """`valid(eta).all()` of predictors between -30 and 30: written anew where these are all or nearly all valid."""
        return bool(self.valid(eta).all())

    def evaluated(self, y: Response, eta: Tensor) -> tuple[Tensor, Tensor, Pairs]:
        """`nll`, and the score and information of `derivatives`: written anew where they share their work."""
        return self.nll(y, eta), *self.derivatives(y, eta)

    def without_curvature(self, y: Response, eta: Tensor) -> tuple[Tensor, Tensor, Pairs]:
        """`evaluated` of which only the diagonal of the information is needed: written anew where the rest costs."""
        return self.evaluated(y, eta)

    def expected(self, eta: Tensor) -> Pairs | None:
        """The expected information where it has a closed form, else None."""
        return None

    def safe(self, y: Response, eta: Tensor, observed: Pairs) -> Pairs:
        """A curvature that is nowhere negative: the expected information, or the observed without its negative part."""
        known = self.expected(eta)
        return absolute(observed, range(len(eta))) if known is None else known

    def valid(self, eta: Tensor) -> Tensor:
        """(*N) True where the predictors have a law."""
        return torch.isfinite(eta).all(0)

    def units(self, eta: Tensor) -> Tensor:
        """(K, *N) over how long a way the information changes as each predictor does: 1 where that is a logarithm."""
        return torch.ones_like(eta)

    def all_valid(self, eta: Tensor) -> bool:
        """True where every predictor has a law, told by few looks where they are in good order."""
        if not self._says("valid"):
            return bool(torch.isfinite(eta.sum())) or bool(self.valid(eta).all())
        return bool(self.valid(eta).all())

    def linked(self, link: Link) -> VectorFamily:
        """The same family with another link of its first predictor. Raises `ValueError` where that is not free."""
        raise ValueError(f"{self.name} has its own link, {self.default_link.name}. Leave link= out.")

    def for_heads(self) -> VectorFamily:
        """The family with the link that a head takes where nobody named one, see `Family.head_link`."""
        return self

    def parts(self) -> dict[str, Family | Link]:
        """The families and links that the class is called with to make one like this, beside `arguments`."""
        return {}

    def parameter(self, name: str, eta: Tensor) -> Tensor:
        """(*N) what the predictor of that name stands for where it is `eta` (*N): a mean, a dispersion, ..."""
        return self.links[name](eta)

    @property
    def links(self) -> dict[str, Link]:
        """Name of a predictor -> its link."""
        return {name: Identity() for name in self.predictors}

    def mean(self, eta: Tensor) -> Tensor:
        """(*N) the expected response."""
        return self.parameter(self.predictors[0], eta[0])

    # a family says one of the three, or of `counts` none: they are sums of the law then

    def law_at(self, eta: Tensor) -> Distribution:
        """The law of responses (*N) as an object with tails, see `torchglm.distributions`."""
        self._unsaid("law_at, tails or cdf")

    def tails(self, y: Response, eta: Tensor) -> tuple[Tails, Tails]:
        """`P(Y < y)` and its complement, then `P(Y <= y)` and its complement, (*N) each, to their last digits.

        Of a censored time the second pair is (1, 0): it is only known to be longer.
        """
        if self._says("law_at"):
            return tails_around(self.law_at(eta), y)
        below, at = self.cdf(y, eta)
        return (below, 1 - below), (at, 1 - at)

    def cdf(self, y: Response, eta: Tensor) -> tuple[Tensor, Tensor]:
        """`P(Y < y)` and `P(Y <= y)`, each (*N): the same number for a continuous law."""
        if self.counts and not self._says("law_at") and not self._says("tails"):
            return summed(self, size_of(y), eta)
        (below, _), (at, _) = self.tails(y, eta)
        return below, at

    def variance_at(self, eta: Tensor) -> Tensor:
        """(*N) the variance of a response."""
        if self._says("law_at"):
            return self.law_at(eta).variance
        if not self.counts:
            self._unsaid("variance_at")
        return summed_variance(self, eta)

    def departure(self, y: Response, eta: Tensor) -> tuple[Tensor, Tensor]:
        """(*N) the response less its mean, and its variance; (C, *N) of the indicators of classes."""
        return size_of(y) - self.mean(eta), self.variance_at(eta)

    def _says(self, formula: str) -> bool:
        """True where the class writes a formula of this contract itself."""
        return getattr(type(self), formula) is not getattr(VectorFamily, formula)

    @property
    def others(self) -> tuple[str, ...]:
        """The predictors that may have columns of their own, `predictors={name: ...}`: an intercept where none are."""
        return self.predictors[1:]

    def plan(self, designs: dict[str, dict[str, int]], ones: tuple[int, ...]) -> tuple[Plan, list[str]]:
        """How the coefficients are made of the columns, and their names.

        `designs` holds of the first predictor (`""`) and of each of `others` the names of its columns, with their
        places in the whole design, which has ones at the places `ones`.
        """
        first, *others = designs.values()
        names = [*first, *(f"{name}:{column}" for name, own in zip(self.others, others, strict=True) for column in own)]
        return Plan.each([list(own.values()) for own in designs.values()], ones), names

    def effects(self, predictor: str) -> dict[str, list[float]]:
        """How random effects in a formula enter the K predictors, each with what its name begins with.

        `predictor` is one of `others`, or empty for the first. One effect of a level may stand for several, of each
        class one.
        """
        k = self.predictors.index(predictor) if predictor else 0
        return {f"{predictor}:" if predictor else "": [float(k == j) for j in range(len(self.predictors))]}

    @property
    def weighted(self) -> str | None:
        """The predictor that prior weights shift, `eta - log w`, the dispersion; None where they repeat a row."""
        return None

    def shifts(self) -> Tensor:
        """(K,) what an offset of a row is multiplied by in each predictor."""
        return torch.eye(len(self.predictors), dtype=torch.float64)[0]

    @property
    def default_link(self) -> Link:
        """The link of the first predictor."""
        return self.links[self.predictors[0]]

    @property
    def ends(self) -> dict[tuple[str, int], str]:
        """A predictor, and whether it runs down (-1) or up (1) without end -> what that means, and what to do.

        `START` stands for a fit that found no point to begin with.
        """
        return {}

    def is_canonical(self, link: Link) -> bool:
        """True where observed and expected information are the same."""
        return False

    @property
    def inner_mean(self) -> float:
        """A response that any row may have."""
        return 1.0


def absolute(information: Pairs, among: Iterable[int]) -> Pairs:
    """The part of symmetric matrices that belongs to the predictors `among`, with its eigenvalues' absolute values.

    A direction in which a likelihood bends the other way keeps the size of its curvature, so that a step is short.
    """
    places = list(among)
    none = torch.zeros_like(next(iter(information.values())))
    own = {(k, j): information.get((k, j), none) for k in places for j in places if k <= j}
    if len(places) == 1:
        return {pair: value.abs() for pair, value in own.items()}
    if len(places) == 2:
        return _absolute_of_two(own, *places)
    matrices = none.new_zeros(*none.shape, len(places), len(places))
    for (k, j), value in own.items():
        matrices[..., places.index(k), places.index(j)] = matrices[..., places.index(j), places.index(k)] = value
    values, vectors = torch.linalg.eigh(torch.nan_to_num(matrices, nan=0.0, posinf=0.0, neginf=0.0))
    kept = (vectors * values.abs().unsqueeze(-2)) @ vectors.mT
    return {(k, j): kept[..., places.index(k), places.index(j)] for k, j in own}


def _absolute_of_two(own: Pairs, first: int, second: int) -> Pairs:
    """The same of 2 x 2 matrices A, in closed form: `|A| = (A A + |det A| I) / sqrt(tr A A + 2 |det A|)`."""
    scale = torch.stack([value.abs() for value in own.values()]).amax(0)
    scale = torch.where(scale > 0, scale, 1.0)
    a, b, d = (own[pair] / scale for pair in ((first, first), (first, second), (second, second)))
    det = (a * d - b.square()).abs()
    root = (a.square() + 2 * b.square() + d.square() + 2 * det).sqrt()
    factor = scale / torch.where(root > 0, root, 1.0)
    return {
        (first, first): (a.square() + b.square() + det) * factor,
        (first, second): b * (a + d) * factor,
        (second, second): (d.square() + b.square() + det) * factor,
    }


MOST = 100_000  # terms of a sum over counts
REST = 1e-14  # of the probability that such a sum may leave out


def summed(family: VectorFamily, y: Tensor, eta: Tensor) -> tuple[Tensor, Tensor]:
    """`P(Y < y)` and `P(Y <= y)` of counts, by sums of the law; NaN where `y` is beyond `MOST`."""
    below, at = torch.zeros_like(eta[0]), torch.zeros_like(eta[0])
    size = torch.broadcast_to(y, at.shape)
    last = int(size[torch.isfinite(size)].amax()) if size.numel() else -1
    for k in range(min(last, MOST) + 1):
        value = torch.full_like(at, float(k))
        share = torch.where(family.supports(value), torch.exp(-family.nll(value, eta)), 0.0)
        below, at = below + torch.where(size > k, share, 0.0), at + torch.where(size >= k, share, 0.0)
    known = (size <= MOST) & (size == size.round())
    return torch.where(known, below, torch.nan).clamp(max=1), torch.where(known, at, torch.nan).clamp(max=1)


def summed_variance(family: VectorFamily, eta: Tensor) -> Tensor:
    """The variance of counts, by sums of the law until no more than `REST` of it is left; NaN beyond `MOST`."""
    total, first, second = (torch.zeros_like(eta[0]) for _ in range(3))
    centre = family.mean(eta)
    done = torch.zeros_like(total, dtype=torch.bool)
    for k in range(MOST):
        value = torch.full_like(total, float(k))
        share = torch.where(family.supports(value), torch.exp(-family.nll(value, eta)), 0.0)
        far = value - centre
        total, first, second = total + share, first + share * far, second + share * far.square()
        done = (value > centre) & (share * far.square() <= REST * second)
        if bool(done.all()):
            break
    return torch.where(done, second - first.square(), torch.nan)


def units_of_mean(link: Link, eta: Tensor) -> Tensor:
    """(K, *N) `units` of a law whose first predictor is that of a mean, and whose others are logarithms."""
    return torch.stack([link.reach(eta[0]), *torch.ones_like(eta[1:])])
