"""GLMLoss, WithLoss and Heads: the loss of the heads for what any network puts out, as a call, and of several heads."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from family_cases import CASES, Case
from several_cases import draws, families, predictors_of, title
from torch import Tensor, nn

import torchglm as tg
from torchglm import GLMHead, GLMLoss
from torchglm.families.several import VectorFamily
from torchglm.inputs import Roles

PLAIN = [cases[0] for cases in CASES.values()]
plain = pytest.mark.parametrize("case", PLAIN, ids=repr)
several = pytest.mark.parametrize("family", families(), ids=title)


def weights_of(n: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    freq = torch.randint(1, 4, (n,), generator=generator).double()
    return {"weights": torch.rand(n, generator=generator, dtype=torch.float64) + 0.5, "freq": freq}


@plain
@pytest.mark.parametrize("dispersion", ["learned", "estimated"])
def test_the_loss_of_eta_is_that_of_a_head(case: Case, dispersion: str) -> None:
    """In `(n,)` and `(n, 1)`, with weights, masks that hold anything, and every reduction."""
    chosen = dispersion if case.family.has_dispersion else None
    head = GLMHead(1, case.family, dispersion=chosen, bias=False, dtype=torch.float64)
    loss = GLMLoss(case.family, dispersion=chosen, dtype=torch.float64)
    with torch.no_grad():
        head.weight.fill_(1.0)
        if dispersion == "learned" and case.family.has_dispersion:
            head.log_dispersion.fill_(0.3), loss.log_dispersion.fill_(0.3)
    y = case.y
    eta = torch.linspace(-2, 2, len(y), dtype=torch.float64)
    roles = weights_of(len(y))
    want = head.loss(eta.unsqueeze(-1), y, **roles)
    torch.testing.assert_close(loss(eta, y, **roles), want, rtol=0, atol=0)
    torch.testing.assert_close(loss(eta.unsqueeze(-1), y, **roles), want, rtol=0, atol=0)
    each = GLMLoss(case.family, reduction="none", dispersion=chosen, dtype=torch.float64)
    each.load_state_dict(loss.state_dict())
    rows = head.loss(eta.unsqueeze(-1), y, reduction="none", **roles)[:, 0]
    torch.testing.assert_close(each(eta, y, **roles), rows, rtol=0, atol=0)
    more = torch.cat([eta, eta.new_tensor([math.nan, 1e30])]).requires_grad_()
    spoiled = torch.cat([y, y.new_tensor([math.nan, -7.0])])
    masked = {name: torch.cat([value, value.new_tensor([0.0, 0.0])]) for name, value in roles.items()}
    found = loss(more, spoiled, **masked)
    torch.testing.assert_close(found, want)
    [slope] = torch.autograd.grad(found, more)
    assert bool(torch.isfinite(slope).all()) and float(slope[-2:].abs().max()) == 0


@several
def test_the_loss_of_several_predictors_is_that_of_a_head(family: VectorFamily) -> None:
    """In either place of the predictors."""
    head = GLMHead(1, family, predictors=family.others, dtype=torch.float64)
    loss = GLMLoss(family, reduction="sum", dtype=torch.float64)
    last = GLMLoss(family, reduction="sum", dim=-1, dtype=torch.float64)
    eta, drawn = predictors_of(family, 24), draws(family, (24,))
    roles = drawn.roles | weights_of(24)
    want = head.loss_at(eta.unsqueeze(-1), drawn["y"], Roles(**roles), None, None)[0].sum()
    torch.testing.assert_close(loss(eta, drawn["y"], **roles), want, rtol=0, atol=0)
    torch.testing.assert_close(last(eta.mT, drawn["y"], **roles), want, rtol=0, atol=0)
    shape = (2, 3, 4)
    beside = {name: value.reshape(shape) for name, value in roles.items()}
    folded = last(eta.mT.reshape(*shape, -1), drawn["y"].reshape(shape), **beside)
    torch.testing.assert_close(folded, want)
    trials = {"trials": roles["trials"]} if "trials" in roles else {}
    law = last.law(eta.mT, **trials)
    assert law.batch_shape == (24,)
    again = copy.deepcopy(loss)
    again.load_state_dict(loss.state_dict(), strict=True)
    bad = drawn["y"].clone()
    bad[0] = -3.5
    if not isinstance(family.support, torch.distributions.constraints._Real):
        with pytest.raises(ValueError, match=r"-3\.5|row 0|>= 0|> 0"):
            GLMLoss(family, check=True, dtype=torch.float64)(eta, bad, **roles)


def test_offsets_and_exposures() -> None:
    eta, y = torch.randn(6), torch.poisson(torch.ones(6))
    loss = GLMLoss("poisson")
    torch.testing.assert_close(loss(eta, y, exposure=torch.full((6,), 2.0)), loss(eta + math.log(2), y))
    zeros = GLMLoss(tg.ZeroInflated("poisson"))
    both = torch.stack([eta, torch.zeros(6)])
    moved = torch.stack([eta + 1, torch.zeros(6)])
    torch.testing.assert_close(zeros(both, y, offset=torch.ones(6)), zeros(moved, y))


def test_dispersions_and_shapes_are_learned() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 1, generator=generator, dtype=torch.float64)
    y = torch.poisson(x[:, 0].exp() * torch._standard_gamma(torch.full((500,), 2.0).double(), generator=generator) / 2)
    net, loss = nn.Linear(1, 1, dtype=torch.float64), GLMLoss(tg.NegativeBinomial(), dtype=torch.float64)
    optimizer = torch.optim.LBFGS([*net.parameters(), *loss.parameters()], max_iter=100, line_search_fn="strong_wolfe")

    def step() -> Tensor:
        optimizer.zero_grad()
        value = loss(net(x), y)
        value.backward()
        return value

    optimizer.step(step)
    want = tg.fit(x, y, family=tg.NegativeBinomial())
    torch.testing.assert_close(net.weight[0, 0].detach(), want.coef[1], rtol=0, atol=1e-3)
    torch.testing.assert_close(loss.family.alpha.detach(), want.family.alpha.detach(), rtol=1e-2, atol=0)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: GLMLoss("poisson", reduction="max"), "reduction"),
        (lambda: GLMLoss("ordinal"), "does not know its classes"),
        (lambda: GLMLoss("gamma", predictors=("zero",)), "zero"),
        (lambda: GLMLoss("gamma", predictors=("dispersion",), dispersion=2.0), "Leave dispersion= out"),
        (lambda: GLMLoss("poisson")(torch.zeros(4), torch.zeros(5)), "shape"),
        (lambda: GLMLoss("poisson")(torch.zeros(4), torch.zeros(())), "shape"),
        (lambda: GLMLoss("poisson")(torch.zeros(4, 4), torch.zeros(4)), "shape"),
        (lambda: GLMLoss("poisson")(torch.zeros(4, 1), torch.zeros(4, 4)), "shape"),
        (lambda: GLMLoss(tg.Ordinal(classes=4))(torch.zeros(5, 3), torch.zeros(5)), "3 in dimension dim=0"),
        (lambda: GLMLoss(tg.Ordinal(classes=4))(torch.zeros(3, 5), torch.zeros(4)), "shape"),
        (lambda: GLMLoss("poisson", check=True)(torch.zeros(2), torch.tensor([1.0, -1.0])), "y >= 0"),
        (lambda: GLMLoss("poisson", check=True)(torch.zeros(2), torch.ones(2), weights=-torch.ones(2)), "weights"),
        (lambda: GLMLoss("gaussian")(torch.zeros(2), torch.ones(2), exposure=torch.ones(2)), "exposure"),
        (lambda: GLMLoss("gamma").law(torch.zeros(2)), "not known yet"),
    ],
)
def test_what_it_refuses(call: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()


class Two(nn.Module):
    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), head

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x)))


def networks() -> list[tuple[nn.Module, dict[str, Any]]]:
    torch.manual_seed(0)
    return [
        (GLMHead(3, "poisson"), {}),
        (nn.Sequential(nn.Linear(3, 4), nn.Tanh(), GLMHead(4, tg.ZeroInflated("poisson"))), {}),
        (Two(GLMHead(4, "poisson")), {"head": "last"}),
        (Two(nn.Linear(4, 2)), {"loss": GLMLoss(tg.ZeroInflated("poisson"), dim=-1)}),
    ]


@pytest.mark.parametrize("place", range(4))
def test_a_network_with_its_loss(place: int) -> None:
    """A call is the loss; the parameters are the network's; masked rows reach nothing; functions call it."""
    net, options = networks()[place]
    whole = tg.nn.WithLoss(net, **options)
    x, y = torch.randn(6, 3), torch.tensor([0.0, 1, 2, 0, 3, 1])
    loss = whole(x, y)
    loss.backward()
    want = [p.grad.clone() for p in net.parameters()]
    assert all(bool(g.isfinite().all()) for g in want)
    net.zero_grad()
    bad = torch.cat([x, torch.full((2, 3), math.nan)])
    masked = whole(bad, torch.cat([y, torch.full((2,), math.nan)]), weights=torch.cat([torch.ones(6), torch.zeros(2)]))
    masked.backward()
    torch.testing.assert_close(masked, loss)
    torch.testing.assert_close([p.grad for p in net.parameters()], want)
    zero = {name: torch.zeros_like(value) for name, value in whole.named_parameters()}
    torch.testing.assert_close(
        torch.func.functional_call(whole, zero, (x, y)), torch.func.functional_call(copy.deepcopy(whole), zero, (x, y))
    )
    if not place:
        torch.testing.assert_close(torch.compile(whole, backend="eager", fullgraph=True)(x, y), loss)


def test_with_loss_refuses() -> None:
    with pytest.raises(ValueError, match="needs a GLMHead"):
        tg.nn.WithLoss(nn.Linear(3, 1))
    with pytest.raises(ValueError, match="one of them"):
        tg.nn.WithLoss(nn.Linear(3, 1), GLMLoss("poisson"), head="x")


def test_heads_of_mixed_families_on_one_network() -> None:
    torch.manual_seed(0)
    heads = tg.nn.Heads(
        {"count": GLMHead(3, "poisson"), "cost": GLMHead(3, "gamma"), "grade": GLMHead(3, tg.Ordinal(classes=3))}
    )
    x, count = torch.randn(8, 3), torch.tensor([0.0, 1, 2, 0, 3, 1, 0, 2])
    cost, seen = torch.where(count > 0, count + 0.5, math.nan), (count > 0).float()
    grade = torch.arange(8) % 3
    y = {"count": count, "cost": cost, "grade": grade}
    loss = heads.loss(x, y, weights={"cost": seen})
    parts = heads.losses(x, y, weights={"cost": seen})
    keep = count > 0
    torch.testing.assert_close(parts["cost"], heads["cost"].loss(x[keep], cost[keep]))
    torch.testing.assert_close(loss, sum(parts.values()))
    loss.backward()
    assert all(bool(p.grad.isfinite().all()) for p in heads.parameters())
    torch.testing.assert_close(heads.loss(x, {"count": count}), heads["count"].loss(x, count))
    assert set(heads(x)) == set(heads) == set(y) and len(heads) == 3 and heads(x)["grade"].shape == (8, 1, 3)
    torch.testing.assert_close(tg.nn.WithLoss(nn.Identity(), heads)(x, y, weights={"cost": seen}), loss)
    nobody = heads.loss(x, {"cost": cost}, weights={"cost": torch.zeros(8)})
    assert float(nobody.detach()) == 0
    for call, says in (
        (lambda: heads.loss(x, {"other": count}), "none of the heads"),
        (lambda: heads.loss(x, {}), "no head"),
        (lambda: tg.nn.Heads({}), "at least one"),
        (lambda: tg.nn.Heads({"a": nn.Linear(2, 1)}), "no GLMHead"),
    ):
        with pytest.raises(ValueError, match=says):
            call()


def test_the_scale_of_a_head_is_its_mean_deviance() -> None:
    """What `uncertainty` learns: the dispersion by the extended quasi-likelihood, whatever the unit of a response."""
    torch.manual_seed(0)
    x = torch.randn(60, 2, dtype=torch.float64)
    one = 100 * (x[:, 0] + torch.randn(60, dtype=torch.float64))
    y = {"far": one, "count": torch.poisson(x[:, 1].exp()), "own": one / 100}
    made = {
        "far": GLMHead(2, "gaussian"),
        "count": GLMHead(2, "poisson"),
        "own": GLMHead(2, "gaussian", dispersion="learned"),
    }
    heads = tg.nn.Heads(made, uncertainty=True).double()
    assert set(heads.log_scale) == {"far", "count"}
    for name in heads:
        heads[name].init_from(y[name])
    optimizer = torch.optim.LBFGS(heads.parameters(), max_iter=300, line_search_fn="strong_wolfe", tolerance_grad=1e-9)

    def step() -> Tensor:
        optimizer.zero_grad()
        value = heads.loss(x, y)
        value.backward()
        return value

    for _ in range(3):
        optimizer.step(step)
    for name in ("far", "count"):
        fit = tg.fit(x, y[name], family=made[name].family, link=made[name].link)
        torch.testing.assert_close(heads.log_scale[name].exp().detach(), fit.deviance / 60, rtol=1e-3, atol=0)
        torch.testing.assert_close(heads[name].coef[0], fit.coef, rtol=1e-3, atol=1e-3)


LOSSES = {
    "poisson": lambda: GLMLoss("poisson"),
    "ordinal": lambda: GLMLoss(tg.Ordinal(classes=3)),
    "multinomial": lambda: GLMLoss(tg.Multinomial(classes=3)),
    "dispersed": lambda: GLMLoss("gamma", predictors=("dispersion",)),
    "zero_inflated": lambda: GLMLoss(tg.ZeroInflated("poisson")),
    "weibull": lambda: GLMLoss("weibull"),
}


def case_of(name: str) -> tuple[GLMLoss, Tensor, Tensor]:
    loss = LOSSES[name]()
    size = len(loss.family.predictors) if isinstance(loss.family, VectorFamily) else 1
    torch.manual_seed(0)
    eta = torch.randn(size, 5).sort(0).values if size > 1 else torch.randn(5)
    return loss, eta, torch.tensor([0.0, 1, 2, 1, 0]) + (0.5 if name in ("dispersed", "weibull") else 0)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_differentiated_by_functions(name: str) -> None:
    """vmap, jvp, gradients of functions, autocast: the same numbers."""
    loss, eta, y = case_of(name)
    want = loss(eta, y)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(loss(eta, y), want)
    stacked = torch.stack([eta, eta + 0.1])
    each = torch.func.vmap(loss, (0, None))(stacked, y)
    torch.testing.assert_close(each, torch.stack([loss(one, y) for one in stacked]))
    leaf = eta.clone().requires_grad_()
    [grad] = torch.autograd.grad(loss(leaf, y), leaf)
    torch.testing.assert_close(torch.func.grad(loss)(eta, y), grad)
    _, slope = torch.func.jvp(lambda at: loss(at, y), (eta,), (torch.ones_like(eta),))
    torch.testing.assert_close(slope, grad.sum())


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_compiled(name: str) -> None:
    loss, eta, y = case_of(name)
    torch.testing.assert_close(torch.compile(loss, backend="eager", fullgraph=True)(eta, y), loss(eta, y))


def _rank(rank: int, place: str, out: str) -> None:
    """One of two processes that train on half of the rows each."""
    torch.distributed.init_process_group("gloo", f"file://{place}", rank=rank, world_size=2)
    x, y = rows()
    whole = nn.parallel.DistributedDataParallel(tg.nn.WithLoss(network()))
    steps(whole, x[rank::2], y[rank::2])
    torch.save(whole.module.model.state_dict(), f"{out}{rank}")
    torch.distributed.destroy_process_group()


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), GLMHead(4, "negative_binomial"))


def rows() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(40, 3, generator=generator), torch.poisson(torch.ones(40), generator=generator)


def steps(whole: nn.Module, x: Tensor, y: Tensor) -> None:
    optimizer = torch.optim.SGD(whole.parameters(), lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        whole(x, y).backward()
        optimizer.step()


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path: Path) -> None:
    """Under DDP, which adds gradients of calls alone: the same parameters on both, to rounding those of one process."""
    torch.multiprocessing.spawn(_rank, (str(tmp_path / "meet"), str(tmp_path / "out")), nprocs=2)
    one, other = (torch.load(tmp_path / f"out{rank}", weights_only=True) for rank in (0, 1))
    alone = tg.nn.WithLoss(network())
    steps(alone, *rows())
    for name, value in alone.model.state_dict().items():
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=0)
        torch.testing.assert_close(one[name], value, rtol=1e-5, atol=1e-6)
