"""Whichever way rows reach a fit, it ends at one maximum with one status, on an edge of the means too."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from scipy import optimize
from torch import Tensor

import torchglm
from tests.thinned import thinned
from torchglm import GLMHead, families, links
from torchglm.fitting import judge
from torchglm.fitting.kernel import moments
from torchglm.fitting.problem import Problem
from torchglm.fitting.search import Search
from torchglm.fitting.status import Status
from torchglm.inputs import GLMBatch, Roles, minibatch
from torchglm.training import IRLSHead, LitGLM, LitIRLS, TensorBatches, fit_sgd

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning")


class OwnIdentity(links.Identity):
    name = "own identity"


class OwnSqrt(links.Sqrt):
    name = "own sqrt"


class OwnLog(links.Log):
    name = "own log"


Case = tuple[families.Family, links.Link]
EDGES: list[Case] = [
    (families.Poisson(), links.Identity()),
    (families.Poisson(), links.Sqrt()),
    (families.NegativeBinomial(0.5), links.Identity()),
    (families.Tweedie(1.5), links.Identity()),
    (families.Bernoulli(), links.Identity()),
    (families.Bernoulli(), links.Log()),
    (families.Poisson(), OwnIdentity()),
    (families.Poisson(), OwnSqrt()),
    (families.Bernoulli(), OwnLog()),
]
INSIDE: list[Case] = [
    (families.Gamma(), links.Inverse()),
    (families.Gamma(), links.Identity()),
    (families.InverseGaussian(), links.InverseSquared()),
    (families.Exponential(), links.Identity()),
]
Found = tuple[Tensor, float, Status]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(level)


def words(case: Case) -> str:
    return f"{case[0].name} {case[1].name}"


def problem(case: Case, seed: int, n: int = 12) -> tuple[Tensor, Tensor]:
    """A column and a response: where it starts near an edge of the means, straight through that edge."""
    draw = np.random.default_rng(seed)
    x = np.sort(draw.uniform(0, 9, n))
    family, _ = case
    if family.mean_upper == 1:
        y = (draw.uniform(size=n) < np.clip((x - 2) / 5, 0, 1)).astype(float)
    elif isinstance(family, families.Poisson | families.NegativeBinomial | families.Tweedie):
        y = draw.poisson(np.clip(2 * (x - 3), 0, None)).astype(float)
    else:
        y = draw.gamma(2.0, (1 + 0.3 * x) / 2)
    return torch.from_numpy(x).unsqueeze(1), torch.from_numpy(y)


def deviance(case: Case, x: Tensor, y: Tensor, coef: Tensor) -> float:
    family, link = case
    return float(2 * family.half_deviance(y, eta := coef[0] + x @ coef[1:], link(eta), link).sum())


def judged(case: Case, x: Tensor, y: Tensor) -> float:
    """The least deviance inside the range of the means, by sequential quadratic programming."""
    family, link = case
    problem = Problem.of([], minibatch(x, y, family, link, True, Roles()), family, link)
    lower, upper = problem.ends or (-np.inf, np.inf)
    design = np.column_stack([np.ones(len(x)), x.numpy()])
    least = 1e-9  # from the edge itself the deviance has no slope
    bounds = [
        {"type": "ineq", "fun": lambda b, e=end, s=sign: s * (design @ b - e) - least}
        for sign, end in ((1, lower), (-1, upper))
        if np.isfinite(end)
    ]

    def loss(b: np.ndarray) -> float:
        value = deviance(case, x, y, torch.from_numpy(b))
        return value if np.isfinite(value) else 1e8

    middle = (lower + upper) / 2 if np.isfinite(lower + upper) else lower + 2 if np.isfinite(lower) else upper - 0.7
    starts = [np.array([middle, 0.0]), *([] if np.isfinite(upper) else [np.array([lower + 0.1, 1.0])])]
    ends = [
        optimize.minimize(loss, b, method="SLSQP", constraints=bounds, options={"maxiter": 500, "ftol": 1e-13})
        for b in starts
    ]
    return min(end.fun for end in ends)


def in_memory(case: Case, x: Tensor, y: Tensor) -> Found:
    result = torchglm.fit(x, y, family=case[0], link=case[1])
    return result.coef, float(result.deviance), result.status


def streamed(case: Case, x: Tensor, y: Tensor) -> Found:
    chunks = list(zip(x.split(4), y.split(4), strict=True))
    result = torchglm.fit(lambda: iter(chunks), family=case[0], link=case[1])
    return result.coef, float(result.deviance), result.status


def pushed(case: Case, x: Tensor, y: Tensor) -> Found:
    """The search fed by hand, batch by batch, as those do that do not own the loop."""
    parts = [minibatch(a, b, *case, True, Roles()) for a, b in zip(x.split(5), y.split(5), strict=True)]
    search = Search(Problem.of([], parts[0], *case), reports=True)
    while not search.done:
        total = moments(parts[0], search.point, *case)
        for part in parts[1:]:
            total = total + moments(part, search.point, *case)
        search.take(total)
    found = search.solution
    return found.coef[0], float(2 * found.moments.objective[0]), Status(int(found.status[0]))


def trainer(**options: Any) -> Trainer:
    plain = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return Trainer(accelerator="cpu", **plain, **options)


def by_lightning(size: int) -> Callable[[Case, Tensor, Tensor], Found]:
    def door(case: Case, x: Tensor, y: Tensor) -> Found:
        lit = LitIRLS(GLMHead(1, *case, dtype=torch.float64))
        run = trainer(max_epochs=400)
        run.fit(lit, TensorBatches(GLMBatch(x, y), size))
        assert torch.equal(lit.head.coef[0], lit.coef)
        return lit.coef, float(run.callback_metrics["train_deviance"]) * len(y), lit.status

    return door


def by_callback(case: Case, x: Tensor, y: Tensor) -> Found:
    head, callback = GLMHead(1, *case, dtype=torch.float64), IRLSHead()
    head.set_coef_(torch.stack([case[1].link(y.mean()), 0 * y[0]]))
    lit = LitGLM(head, lambda some: torch.optim.SGD(some, lr=0.0))
    trainer(max_epochs=1, callbacks=[callback]).fit(lit, TensorBatches(GLMBatch(x, y), 5))
    return head.coef[0], float(2 * len(y) * callback.last.after), callback.last.status[0]


def by_polish(case: Case, x: Tensor, y: Tensor) -> Found:
    head = GLMHead(1, *case, dtype=torch.float64)
    still: dict[str, Any] = {"optimizer": lambda some: torch.optim.SGD(some, 0.0), "trainer": {"max_epochs": 1}}
    end = fit_sgd(head, GLMBatch(x, y), **still, polish="irls")
    return head.coef[0], deviance(case, x, y, head.coef[0]), end.status


QUICK = {"stream": streamed, "pushed": pushed}
SLOW = {"LitIRLS": by_lightning(100), "LitIRLS, batches": by_lightning(5), "IRLSHead": by_callback, "polish": by_polish}


def same(name: str, got: Found, want: Found) -> None:
    """To the tolerance of a fit, which on an edge is that of the barrier."""
    assert got[2] == want[2], (name, got, want)
    torch.testing.assert_close(got[0], want[0], rtol=3e-4, atol=3e-5, msg=lambda text: f"{name}: {text}")
    assert got[1] == pytest.approx(want[1], rel=1e-6), name


def agree(case: Case, x: Tensor, y: Tensor, doors: dict[str, Callable[[Case, Tensor, Tensor], Found]]) -> Found:
    want = in_memory(case, x, y)
    for name, door in doors.items():
        same(name, door(case, x, y), want)
    return want


@pytest.mark.parametrize("case", thinned([(case,) for case in EDGES + INSIDE], 3), ids=words)
def test_every_door_ends_at_the_maximum_inside_the_range_of_the_means(case: Case) -> None:
    sets = [problem(case, seed) for seed in range(2)]
    found = [agree(case, *sets[0], QUICK), *(in_memory(case, *rows) for rows in sets[1:])]
    x, y = (torch.stack(parts) for parts in zip(*sets, strict=True))
    batch = torchglm.fit(x, y, family=case[0], link=case[1])
    for i, (rows, one) in enumerate(zip(sets, found, strict=True)):
        same("batch", (batch.coef[i], float(batch.deviance[i]), batch.status[i]), one)
        least = judged(case, *rows)
        assert one[1] <= least * (1 + 1e-6) + 1e-6, (i, one, least)
        assert one[1] == pytest.approx(deviance(case, *rows, one[0]), rel=1e-7)
    ends = {one[2] for one in found}
    assert Status.BOUNDARY in ends if case in EDGES else ends == {Status.CONVERGED}


@pytest.mark.parametrize("case", [EDGES[7], EDGES[8], INSIDE[0]], ids=words)
def test_so_do_those_that_a_trainer_drives(case: Case) -> None:
    agree(case, *problem(case, 1), SLOW)


def test_the_end_of_counts_on_a_line_through_the_origin_is_known() -> None:
    x = torch.arange(10, dtype=torch.float64).unsqueeze(1)
    y = torch.tensor([0, 0, 0, 0, 1, 1, 3, 5, 9, 12], dtype=torch.float64)
    coef, value, status = agree(EDGES[0], x, y, QUICK | SLOW)
    torch.testing.assert_close(coef, coef.new_tensor([0.0, 31 / 45]), rtol=1e-6, atol=1e-6)
    assert value == pytest.approx(18.6153, abs=1e-4) and status == Status.BOUNDARY


def test_a_stream_refuses_a_maximum_on_an_edge_and_keeps_what_it_knew() -> None:
    x, y = problem(EDGES[0], 1)
    stream = torchglm.Renewable("poisson", "identity", 1)
    with pytest.raises(ValueError, match="edge of the parameter space.*Join it"):
        stream.update(x, y)
    rng = torch.Generator().manual_seed(0)
    first = torch.rand(200, 1, generator=rng, dtype=torch.float64)
    stream.update(first, torch.poisson(1 + 2 * first[:, 0], generator=rng))
    before = stream.coef.clone()
    with pytest.raises(ValueError, match="lies on an edge of the means of the poisson family"):
        stream.update(-0.55 * torch.ones(400, 1, dtype=torch.float64), torch.zeros(400))
    assert torch.equal(stream.coef, before)


def test_the_first_line_that_holds_says_how_a_search_ends() -> None:
    names = {"refused", *(f.name for f in dataclasses.fields(judge.Judged))}
    assert all(set(said.split()) <= names for _, said in judge.ENDS)
    combinations = torch.cartesian_prod(*[torch.tensor([False, True])] * (len(names) - 1))
    told = judge.Judged(*combinations.unbind(1))
    known = {f.name: getattr(told, f.name) for f in dataclasses.fields(told)} | {"refused": ~told.accepted}
    want = torch.full((len(combinations),), judge.GOING)
    for status, said in reversed(judge.ENDS):
        holds = torch.stack([known[name] for name in said.split()]).all(0)
        want = torch.where(holds, int(status), want)
    assert torch.equal(judge.verdicts(told), want)
    assert set(want.tolist()) == {judge.GOING, *(int(status) for status, _ in judge.ENDS)}
