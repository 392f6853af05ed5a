"""The head inside torch: compile, autocast, low precision, functional transforms, meta device, laziness."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from family_cases import ALL, Case
from test_head import DENSE, made, rows
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from torchglm.model.face import GLMHead
from torchglm.model.lazy import LazyGLMHead

each_case = pytest.mark.parametrize("case", ALL, ids=repr)
EVERY = list({case.family.name: case for case in DENSE}.values())
EVERY += [case for case in ALL if repr(case) in ("Tweedie(power=1.5)", "NegativeBinomial(alpha=0.5)")]


class LossOf(nn.Module):
    """The loss as a forward pass, which is what `functional_call` and `compile` take."""

    def __init__(self, head: GLMHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, x: Tensor, y: Tensor, **rest: Tensor) -> Tensor:
        return self.head.loss(x, y, **rest)


def extras(case: Case, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Trials and events where the family takes them."""
    if case.family.name == "binomial":
        return (8 * y).round(), {"trials": torch.full_like(y, 8.0)}
    if case.family.name == "exponential":
        return y, {"event": (torch.arange(len(y)) % 2).to(y)}
    return y, {}


def check_compiled(case: Case, backend: str, learned: bool) -> None:
    torch.compiler.reset()
    if learned:
        case = replace(case, family=copy.deepcopy(case.family).requires_grad_())
    head = made(case, dtype=torch.float32, dispersion="learned" if learned else None)
    x, y = rows(case, dtype=torch.float32)
    y, rest = extras(case, y)
    twin = LossOf(copy.deepcopy(head))
    compiled = torch.compile(twin, fullgraph=True, backend=backend)
    want, got = head.loss(x, y, **rest), compiled(x, y, **rest)
    torch.testing.assert_close(got, want, rtol=2e-6, atol=1e-6)
    want.backward()
    got.backward()
    for ours, theirs in zip(twin.head.parameters(), head.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        if ours.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)
    forward = torch.compile(copy.deepcopy(head), fullgraph=True, backend=backend)
    torch.testing.assert_close(forward(x), head(x))


@pytest.mark.parametrize("case", EVERY, ids=repr)
def test_every_loss_compiles_into_one_graph(case: Case) -> None:
    check_compiled(case, "eager", learned=False)


@pytest.mark.slow
@pytest.mark.parametrize("learned", [False, True], ids=["fixed", "learned"])
@pytest.mark.parametrize("case", EVERY, ids=repr)
def test_every_loss_and_its_gradient_compile_into_one_graph(case: Case, learned: bool) -> None:
    check_compiled(case, "aot_eager", learned)


@each_case
def test_autocast_does_not_reach_the_arithmetic(case: Case) -> None:
    head, (x, y) = made(case, dtype=torch.float32), rows(case, dtype=torch.float32)
    want = head.linear_predictor(x), head(x), head.loss(x, y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = head.linear_predictor(x), head(x), head.loss(x, y)
        from_half = head.loss(x.bfloat16(), y)
    assert all(torch.equal(a, b) and a.dtype == torch.float32 for a, b in zip(got, want, strict=True))
    assert torch.equal(from_half, head.loss(x.bfloat16().float(), y))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@each_case
def test_a_head_in_half_precision_computes_in_float32(case: Case, dtype: torch.dtype) -> None:
    head = GLMHead(3, copy.deepcopy(case.family), dtype=dtype)
    assert head.weight.dtype == dtype and head.log_dispersion.dtype == torch.float32
    x, y = rows(case, dtype=torch.float32)
    wide = copy.deepcopy(head).float()
    for moved in (head, copy.deepcopy(wide).to(dtype)):
        loss = moved.loss(x.to(dtype), y)
        assert moved(x.to(dtype)).dtype == loss.dtype == torch.float32
        torch.testing.assert_close(loss, wide.loss(x.to(dtype).float(), y), rtol=1e-6, atol=1e-6)
        loss.backward()
        assert moved.weight.grad.dtype == dtype and bool(torch.isfinite(moved.weight.grad).all())


@each_case
def test_precisions_agree(case: Case) -> None:
    head, (x, y) = made(case), rows(case)
    single = copy.deepcopy(head).float()
    rtol = 1e-3 if "1.0001" in repr(case) or "1.9999" in repr(case) else 1e-4  # 1 - p, 2 - p have three digits less
    torch.testing.assert_close(single.loss(x.float(), y.float()).double(), head.loss(x, y), rtol=rtol, atol=1e-4)


@pytest.mark.parametrize("case", EVERY, ids=repr)
def test_gradients_per_row_by_vmap_are_those_of_a_loop(case: Case) -> None:
    loss, (x, y) = LossOf(made(case)), rows(case)
    y, rest = extras(case, y)
    state = {k: v.detach() for k, v in loss.named_parameters()}

    def of_row(state: dict[str, Tensor], x: Tensor, y: Tensor, rest: dict[str, Tensor]) -> Tensor:
        rest = {k: v.unsqueeze(0) for k, v in rest.items()}
        return functional_call(loss, state, (x.unsqueeze(0), y.unsqueeze(0)), rest)

    got = vmap(grad(of_row), in_dims=(None, 0, 0, 0))(state, x, y, rest)
    for i in range(len(y)):
        loss.zero_grad()
        loss(x[i : i + 1], y[i : i + 1], **{k: v[i : i + 1] for k, v in rest.items()}).backward()
        torch.testing.assert_close(got["head.weight"][i], loss.head.weight.grad, rtol=1e-9, atol=1e-12)


@each_case
def test_a_head_on_the_meta_device_knows_its_shapes_and_comes_to_life(case: Case) -> None:
    head = GLMHead(3, copy.deepcopy(case.family), out_features=2, device="meta")
    assert all(p.is_meta for p in head.parameters()) and "meta" in repr(head) or "=" not in repr(case)
    x = torch.empty(5, 3, device="meta")
    assert head(x).shape == head.linear_predictor(x).shape == (5, 2)
    assert head.loss(x, torch.empty(5, 2, device="meta")).shape == ()
    alive = head.to_empty(device="cpu")
    alive.load_state_dict(GLMHead(3, copy.deepcopy(case.family), out_features=2).state_dict())
    assert bool(case.family.valid_mean(alive(torch.ones(5, 3))).all())


def test_an_empty_batch_has_no_loss() -> None:
    head = GLMHead(3, "poisson")
    x, y = torch.empty(0, 3), torch.empty(0)
    assert head(x).shape == (0, 1) and head.loss(x, y, reduction="none").shape == (0, 1)
    total = head.loss(x, y, reduction="sum")
    total.backward()
    assert float(total.detach()) == 0 and float(head.weight.grad.abs().sum()) == 0
    assert float(head.loss(x, y).detach()) == 0


@pytest.mark.parametrize("first", ["forward", "loss", "linear_predictor", "distribution"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_lazy_head_takes_its_columns_from_its_first_input(first: str, bias: bool) -> None:
    lazy, x = LazyGLMHead("gamma", out_features=2, bias=bias, dispersion=1.0), torch.rand(6, 4)
    y = torch.rand(6, 2) + 0.1
    assert lazy.has_uninitialized_params()
    (lazy(x) if first == "forward" else getattr(lazy, first)(x, *([y] if first == "loss" else [])))
    plain = GLMHead(4, "gamma", out_features=2, bias=bias, dispersion=1.0)
    assert type(lazy) is GLMHead and repr(lazy) == repr(plain)
    assert torch.equal(lazy.loss(x, y), plain.loss(x, y))
    assert {k: v.shape for k, v in lazy.state_dict().items()} == {k: v.shape for k, v in plain.state_dict().items()}


def test_a_lazy_head_loads_a_state() -> None:
    plain = made(ALL[0], dtype=torch.float32)
    lazy = LazyGLMHead(copy.deepcopy(ALL[0].family))
    lazy.load_state_dict(plain.state_dict())
    x = torch.randn(5, 3)
    assert torch.equal(lazy(x), plain(x)) and lazy.in_features == 3
    again = LazyGLMHead(copy.deepcopy(ALL[0].family))
    again.load_state_dict(LazyGLMHead(copy.deepcopy(ALL[0].family)).state_dict())
    assert again.has_uninitialized_params() and again(x).shape == (5, 1)


@pytest.mark.cuda
@each_case
def test_a_gpu_gives_the_same_loss_and_gradient(case: Case) -> None:
    head, (x, y) = made(case), rows(case)
    there = copy.deepcopy(head).cuda()
    losses = head.loss(x, y), there.loss(x.cuda(), y.cuda())
    [loss.backward() for loss in losses]
    torch.testing.assert_close(losses[1].cpu(), losses[0], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(there.weight.grad.cpu(), head.weight.grad, rtol=1e-8, atol=1e-10)
