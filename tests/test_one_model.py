"""The short road of one model stands on the maximum of the search, and leaves to it what takes care."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

import torchglm
from torchglm import families, links
from torchglm.fitting import irls as plain
from torchglm.fitting.kernel import block_moments
from torchglm.fitting.linalg import newton_step
from torchglm.fitting.moments import Moments, Point
from torchglm.fitting.one_model import fit_one_model
from torchglm.fitting.state import Solution
from torchglm.fitting.status import Status
from torchglm.rows.rows import Rows

MODELS = [
    ("gaussian", "identity"),
    ("gaussian", "log"),
    ("poisson", "log"),
    ("gamma", "log"),
    ("bernoulli", "logit"),
    ("bernoulli", "probit"),
    ("bernoulli", "cauchit"),
    ("binomial", "cloglog"),
    ("inverse_gaussian", "log"),
    ("negative_binomial", "log"),
]
KINDS = ["plain", "scales", "dependent", "rare", "weights", "offset", "large", "wide", "alike"]


def response(family: str, eta: Tensor, made: torch.Generator) -> Tensor:
    """A response of about these predictors, whatever the link is."""
    u = torch.rand(eta.shape, generator=made, dtype=torch.float64)
    if family == "gaussian":
        return eta.exp() + 0.3 * torch.randn(eta.shape, generator=made, dtype=torch.float64)
    if family == "bernoulli":
        return (u < torch.sigmoid(eta)).double()
    if family == "binomial":
        return ((u < torch.sigmoid(eta)).double() + (u < 0.5).double()) / 2
    if family in ("poisson", "negative_binomial"):
        return torch.poisson(eta.exp() * (0.5 + u), generator=made)
    return eta.exp() * (0.3 + 1.4 * u)


def problem(family: str, kind: str, seed: int) -> tuple[Rows, families.Family]:
    """Rows of a random problem of this kind."""
    made = torch.Generator().manual_seed(seed)
    n, p = {"large": (30_000, 6), "wide": (1_500, 70), "alike": (1_200, 50)}.get(
        kind, (60 + 40 * (seed % 7), 2 + seed % 5)
    )
    x = torch.randn(n, p, generator=made, dtype=torch.float64)
    if kind == "alike":  # columns whose correlations are 0.99 and less, one of them more and more dependent
        x = x @ (0.9 ** (torch.arange(p)[:, None] - torch.arange(p)).abs().double()) / 3
        x[:, -1] = x[:, 0] + 10.0 ** -(seed % 7) * x[:, -1]
    eta = 0.4 * x @ torch.randn(p, generator=made, dtype=torch.float64) / p**0.5 - 0.2
    weight, offset = torch.ones((), dtype=torch.float64).expand(1, n), torch.zeros(1, n, dtype=torch.float64)
    if kind == "scales":
        x = x * torch.logspace(-6, 6, p, dtype=torch.float64)
    if kind == "dependent":  # from clearly apart to not to be told apart
        x[:, -1] = x[:, 0] + 10.0 ** -(seed % 13) * x[:, -1]
    if kind == "rare":
        x = torch.cat([x, (torch.arange(n) < 2 + seed % 3).double()[:, None]], -1)
    if kind == "weights":
        weight = 10.0 ** (8 * torch.rand(1, n, generator=made, dtype=torch.float64) - 4)
        weight = torch.where(torch.arange(n) < (seed % 2) * 5, 0.0, weight)
    if kind == "offset":
        offset = torch.randn(1, n, generator=made, dtype=torch.float64) / 2
    member = families.get(family, alpha=0.4) if family == "negative_binomial" else families.get(family)
    rows = Rows(x, response(family, eta, made)[None], weight, offset, intercept=kind != "plain" or seed % 2 == 0)
    return rows, member


def both(rows: Rows, family: families.Family, link: links.Link) -> tuple[Solution | None, Solution]:
    """By the short road, and by the search."""
    with torch.no_grad(), warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        chunks, asked = plain.problem_of(rows, family, link, {})
        short = fit_one_model(asked, chunks)
        patch.setattr(plain, "fit_one_model", lambda *_: None)
        return short, plain.irls(rows, family, link)


def truth(rows: Rows, family: families.Family, link: links.Link, coef: Tensor) -> tuple[Tensor, Tensor, Moments]:
    """The maximum near by, to the last digit, with the standard errors (up to the dispersion) and the sums there."""
    for _ in range(3):
        coef = coef + newton_step(block_moments(rows, Point(coef, observed=True), family, link))[0]
    sums = block_moments(rows, Point(coef, before=coef), family, link)
    inverse = sums.gram.invert(torch.ones_like(coef, dtype=torch.bool))
    return coef, inverse.root.inverse_diagonal().sqrt(), sums


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("family", "link"), MODELS)
def test_it_finds_the_maximum_that_the_search_finds(family: str, link: str, kind: str) -> None:
    taken, tried = 0, 1 if kind == "large" else 2 if kind == "wide" else 4
    for seed in range(tried):
        rows, member = problem(family, kind, 2 * seed + 1)
        short, long = both(rows, member, links.get(link))
        if short is None:
            continue
        taken += 1
        coef, error, sums = truth(rows, member, links.get(link), short.coef)
        size = torch.maximum(coef.abs(), error)
        assert int(long.status) == Status.CONVERGED
        assert float(((long.coef - coef).abs() / size).max()) <= 1e-9  # it stands on the same maximum
        assert float(((short.coef - coef).abs() / size).max()) <= 1e-12
        rounding = 1e-8 if kind == "dependent" else 1e-9
        assert float((short.root.inverse_diagonal().sqrt() / error - 1).abs().max()) <= rounding
        for name in ("objective", "pearson", "weight", "count", "response"):
            got, want = getattr(short.moments, name), getattr(sums, name)
            assert float((got - want).abs()) <= 1e-11 * float(want.abs()), name
    assert taken or family in ("gaussian", "inverse_gaussian") and link == "log" or kind in ("weights", "dependent")


def left(rows: Rows, family: str, link: str) -> bool:
    return both(rows, families.get(family), links.get(link))[0] is None


def test_it_leaves_what_takes_care() -> None:
    made = torch.Generator().manual_seed(1)
    x = torch.randn(200, 3, generator=made, dtype=torch.float64)
    ones, none = torch.ones((), dtype=torch.float64).expand(1, 200), torch.zeros(1, 200, dtype=torch.float64)
    y = (x[:, 0] > 0).double()[None]
    assert left(Rows(x, y, ones, none, intercept=True), "bernoulli", "logit")  # separated
    assert left(Rows(torch.cat([x, x[:, :1]], -1), y, ones, none), "bernoulli", "logit")  # aliased
    assert left(Rows(x, x.abs()[None, :, 0] + 1, ones, none, intercept=True), "poisson", "identity")  # an edge
    assert left(Rows(x, y, ones, torch.full_like(none, 800.0)), "poisson", "log")  # means that overflow


@pytest.mark.parametrize("options", [{"max_iter": 1}, {"tol": 1e-4}, {"tol": 1e-12}])
def test_what_is_asked_of_a_search_is_asked_of_it(options: dict[str, Any]) -> None:
    rows, member = problem("poisson", "offset", 3)
    x, y = rows.x, rows.y[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = torchglm.fit(x, y, family=member, offset=rows.offset[0], **options)
    limited = "max_iter" in options
    assert bool(result.converged) is not limited and int(result.n_iter) <= (1 if limited else 14)
