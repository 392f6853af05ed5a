"""Laws of heads: a loss that is finite everywhere, whatever is frozen the same, and of rows that are there alone."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from family_cases import ALL, PAIRS, Case
from test_head import DENSE, made, rows
from test_head_torch import LossOf
from torch import Tensor
from torch.func import functional_call, jvp, stack_module_state, vmap

import torchglm
from torchglm import families
from torchglm.links import Link
from torchglm.model.face import GLMHead

each_pair = pytest.mark.parametrize(("case", "link"), PAIRS, ids=repr)
each_case = pytest.mark.parametrize("case", ALL, ids=repr)
each_dtype = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
KINDS = [None, "learned", "estimated", 2.5]
FAR = [-1e6, -300.0, -89.0, -40.0, -31.0, -3.0, -1e-3, 0.0, 1e-3, 0.5, 3.0, 31.0, 40.0, 89.0, 300.0, 1e6]


def at(case: Case, link: Link, eta: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of a head at each `eta`, and its slope."""
    head = GLMHead(1, copy.deepcopy(case.family), link, bias=False, dtype=eta.dtype)
    with torch.no_grad():
        head.weight.fill_(1.0)
    leaf = eta.clone().unsqueeze(-1).requires_grad_()
    loss = head.loss(leaf, y, reduction="none")[:, 0]
    return loss.detach(), torch.autograd.grad(loss.sum(), leaf)[0][:, 0]


@each_dtype
@each_pair
def test_the_loss_goes_on_wherever_a_network_may_end(case: Case, link: Link, dtype: torch.dtype) -> None:
    y, eta = (v.flatten() for v in torch.meshgrid(case.y.to(dtype), torch.tensor(FAR, dtype=dtype), indexing="ij"))
    loss, slope = at(case, link, eta, y)
    assert bool(torch.isfinite(loss).all()) and bool(torch.isfinite(slope).all())
    head = GLMHead(1, copy.deepcopy(case.family), link)
    below, above = (end[1] if end else None for end in (head.continuation.lower, head.continuation.upper))
    if below is not None:
        assert bool((slope[eta <= below] < 0).all())
    if above is not None:
        assert bool((slope[eta >= above] > 0).all())


@pytest.mark.parametrize(
    ("case", "link"), [p for p in PAIRS if "2.5" not in repr(p) and "4.5" not in repr(p)], ids=repr
)
def test_the_loss_inside_is_that_of_the_family(case: Case, link: Link) -> None:
    mu = case.mu[case.mu > 0]
    y, mu = (v.flatten() for v in torch.meshgrid(case.y, mu, indexing="ij"))
    eta = link.link(mu)
    y, eta = y[torch.isfinite(eta)], eta[torch.isfinite(eta)]
    near = [
        end[1]
        for end in vars(GLMHead(1, case.family, link).continuation).values()
        if isinstance(end, tuple) and end and isinstance(end[1], float)
    ]
    inside = torch.stack([(eta - end).abs() > 2e-2 for end in near] or [torch.ones_like(eta, dtype=torch.bool)]).all(0)
    inside &= eta.abs() < 30
    loss, _ = at(case, link, eta[inside], y[inside])
    torch.testing.assert_close(loss, case.family.nll(y[inside], eta[inside], link), rtol=2e-12, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@each_case
def test_the_loss_does_not_look_at_what_is_frozen(case: Case, kind: str | float | None) -> None:
    if isinstance(kind, float) and not case.family.has_dispersion:
        return
    x, y = rows(case)
    for estimated in (False, True):
        own = case.family if not estimated else copy.deepcopy(case.family).requires_grad_()
        head = made(Case(own, case.y, case.mu, case.theta, case.cumulant, case.law), dispersion=kind)
        with torch.no_grad():
            head.log_dispersion.fill_(
                math.log(3.0) if case.family.has_dispersion and not isinstance(kind, float) else head.log_dispersion
            )
        leaf = x.clone().requires_grad_()
        loss = head.loss(leaf, y)
        want = loss.detach(), torch.autograd.grad(loss, leaf)[0]
        average = copy.deepcopy(head)
        state = {name: value.detach() for name, value in head.named_parameters()}
        frozen = copy.deepcopy(head).requires_grad_(False)
        thawed = copy.deepcopy(frozen).requires_grad_()
        for other in (average, frozen, thawed):
            loss = other.loss(leaf, y)
            assert torch.equal(loss.detach(), want[0]) or want[0].isnan()
            assert torch.equal(torch.autograd.grad(loss, leaf)[0], want[1]) or want[0].isnan()
        assert {n for n, p in thawed.named_parameters() if p.requires_grad} == set(state)

        named = {f"head.{name}": value for name, value in state.items()}
        check_swapped(LossOf(head), named, x, y, want)


def check_swapped(loss: LossOf, state: dict[str, Tensor], x: Tensor, y: Tensor, want: tuple[Tensor, Tensor]) -> None:
    """Parameters that want no gradient, put in from outside, give the same loss and slope."""
    found, slope = jvp(lambda x: functional_call(loss, state, (x, y)), (x,), (x,))
    torch.testing.assert_close(found, want[0], rtol=1e-13, atol=1e-13, equal_nan=True)
    torch.testing.assert_close(slope, (want[1] * x).sum(), rtol=1e-9, atol=1e-11, equal_nan=True)


def test_an_ensemble_under_vmap_learns_the_shape_that_each_head_learns_alone() -> None:
    torch.manual_seed(0)
    x = torch.randn(400, 2, dtype=torch.float64)
    y = families.NegativeBinomial(1.0).distribution((0.5 + x[:, 0] * 0.4).exp()).sample()
    heads = [GLMHead(2, "negative_binomial", dtype=torch.float64) for _ in range(2)]
    parameters, buffers = stack_module_state(heads)
    base = LossOf(copy.deepcopy(heads[0]))

    def loss_of(parameters: dict, buffers: dict) -> Tensor:
        state = {f"head.{name}": value for name, value in (parameters | buffers).items()}
        return functional_call(base, state, (x, y))

    optimizer = torch.optim.Adam(parameters.values(), lr=0.03)
    for _ in range(500):
        optimizer.zero_grad()
        vmap(loss_of)(parameters, buffers).sum().backward()
        optimizer.step()
    fitted = torchglm.fit(x, y, family="negative_binomial", link="log")
    want = fitted.family.alpha.detach()
    torch.testing.assert_close(parameters["family.log_alpha"].detach().exp(), want.expand(2), rtol=1e-2, atol=1e-3)


@each_dtype
@each_pair
def test_rows_of_weight_zero_may_hold_anything(case: Case, link: Link, dtype: torch.dtype) -> None:
    """What they hold changes no bit, and without them value and gradient are the same."""
    head = made(case, link, dtype=dtype, dispersion="learned" if case in DENSE else None)
    x, y = rows(case, dtype=dtype)
    trainable = [p for p in head.parameters() if p.requires_grad and (case.family.has_dispersion or p.dim())]
    keep = torch.arange(12) % 3 > 0
    roles = {"offset": torch.zeros(12, dtype=dtype)}
    if link.rates:
        roles["exposure"] = torch.ones(12, dtype=dtype)

    def outcome(x: Tensor, y: Tensor, **roles: Tensor) -> list[Tensor]:
        leaf = x.clone().requires_grad_()
        loss = head.loss(leaf, y, **roles)
        return [loss.detach(), *torch.autograd.grad(loss, [*trainable, leaf])]

    want = outcome(x[keep], y[keep], **{name: value[keep] for name, value in roles.items()})
    for name in ("weights", "freq"):
        results = []
        for bad in (math.nan, -1.0, 0.0, math.inf):
            spoiled = {key: torch.where(keep, value, bad) for key, value in roles.items()}
            results.append(
                outcome(
                    torch.where(keep.unsqueeze(-1), x, bad),
                    torch.where(keep, y, bad),
                    **spoiled,
                    **{name: keep.to(dtype)},
                )
            )
        for result in results:
            assert all(torch.equal(one, other) for one, other in zip(result, results[0], strict=True))
            assert float(result[-1][~keep].abs().max()) == 0
        tight = {"rtol": 1e-9, "atol": 1e-11} if dtype == torch.float64 else {"rtol": 1e-3, "atol": 1e-4}
        found = [*results[0][:-1], results[0][-1][keep]]
        for one, other in zip(found, want, strict=True):
            torch.testing.assert_close(one, other, **tight)
    nothing = outcome(x * math.nan, y * math.nan, weights=torch.zeros(12, dtype=dtype))
    assert all(float(value.abs().max()) == 0 for value in nothing)
