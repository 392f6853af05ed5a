"""What torch does to modules, done to a head of every family: the values and gradients stay."""

from __future__ import annotations

import copy
import io
import subprocess
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from family_cases import CASES
from several_cases import draws, families, title
from torch import Tensor
from torch.func import functional_call, grad, jvp, stack_module_state, vmap

from tests.thinned import thinned
from torchglm import GLMHead

N = 7
PLAIN = {repr(case): case for cases in CASES.values() for case in cases[:1]}
SEVERAL = {title(family): family for family in families()}
FIRST = {type(family): name for name, family in reversed(SEVERAL.items())}.values()
NAMES = [*PLAIN, *(pytest.param(name, marks=[] if name in FIRST else pytest.mark.slow) for name in SEVERAL)]
every = pytest.mark.parametrize("name", NAMES)


def made(name: str, dtype: torch.dtype = torch.float32) -> tuple[GLMHead, Tensor, Tensor, dict[str, Any]]:
    """A head that is not at its start, rows, responses and their roles."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, 2, generator=generator).to(dtype)
    if name in PLAIN:
        head = GLMHead(2, PLAIN[name].family, dtype=dtype)
        y, roles = PLAIN[name].y.repeat(N)[:N].to(dtype), {}
    else:
        family = SEVERAL[name]
        head, drawn = GLMHead(2, family, predictors=family.others, dtype=dtype), draws(family, (N,))
        y, roles = drawn["y"].to(dtype), {key: value.to(dtype) for key, value in drawn.roles.items()}
    with torch.no_grad():
        head.weight.copy_(0.2 * torch.randn(head.weight.shape, generator=generator))
    return head, x, y, roles


def outcome(
    head: GLMHead, x: Tensor, y: Tensor, roles: dict[str, Any], context: AbstractContextManager[Any] | None = None
) -> list[Tensor]:
    """The loss, the means, and the gradients of the loss."""
    head.zero_grad()
    with context or nullcontext():
        loss, mean = head.loss(x, y, **roles), head(x).detach()
    loss.backward()
    return [loss.detach(), mean, *(part.grad.clone() for part in head.parameters() if part.grad is not None)]


@every
def test_copies_and_states(name: str) -> None:
    """deepcopy, pickle, a strict state_dict, float64 and back, autocast: the same outcome."""
    head, x, y, roles = made(name)
    want = outcome(head, x, y, roles)
    kept = io.BytesIO()
    torch.save(head, kept)
    kept.seek(0)
    loaded = made(name)[0]
    loaded.load_state_dict(head.state_dict(), strict=True)
    for other in (copy.deepcopy(head), torch.load(kept, weights_only=False), loaded):
        for one, two in zip(outcome(other, x, y, roles), want, strict=True):
            torch.testing.assert_close(one, two, rtol=0, atol=0)
    for half in (torch.bfloat16, torch.float16):
        torch.testing.assert_close(outcome(head, x, y, roles, torch.autocast("cpu", half)), want)
    wide = copy.deepcopy(head).double()
    beside = {key: value.double() for key, value in roles.items()}
    for one, two in zip(outcome(wide, x.double(), y.double(), beside), want, strict=True):
        torch.testing.assert_close(one.float(), two, rtol=1e-3, atol=1e-4)


@every
def test_functions_of_parameters(name: str) -> None:
    """functional_call, grad, gradients of each row, jvp, and heads that are stacked and mapped over."""
    head, x, y, roles = made(name, torch.float64)
    want = outcome(head, x, y, roles)
    whole = WithRoles(head)
    parameters = {key: value.detach() for key, value in whole.named_parameters()}

    def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor, roles: dict[str, Tensor]) -> Tensor:
        return functional_call(whole, parameters, (x, y, roles))

    torch.testing.assert_close(loss(parameters, x, y, roles), want[0])
    gradients = grad(loss)(parameters, x, y, roles)
    by_name = {key: value.grad for key, value in whole.named_parameters()}
    for key, value in gradients.items():
        torch.testing.assert_close(value, torch.zeros_like(value) if by_name[key] is None else by_name[key])
    beside = {key: value[:, None] for key, value in roles.items()}
    rows = vmap(grad(loss), (None, 0, 0, 0))(parameters, x[:, None], y[:, None], beside)
    for key, value in rows.items():
        torch.testing.assert_close(value.mean(0), gradients[key], rtol=1e-7, atol=1e-9)
    ones = {key: torch.ones_like(value) for key, value in parameters.items()}
    _, slope = jvp(lambda at: loss(at, x, y, roles), (parameters,), (ones,))
    torch.testing.assert_close(slope, sum(value.sum() for value in gradients.values()), rtol=1e-6, atol=1e-8)
    other = copy.deepcopy(whole)
    with torch.no_grad():
        other.head.weight.mul_(0.5)
    stacked, held = stack_module_state([whole, other])
    mapped = vmap(lambda own, beside: functional_call(whole, (own, beside), (x, y, roles)))(stacked, held)
    torch.testing.assert_close(mapped, torch.stack([whole(x, y, roles), other(x, y, roles)]))


class WithRoles(torch.nn.Module):
    """The loss of a head as a call whose roles come by position."""

    def __init__(self, head: GLMHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, x: Tensor, y: Tensor, roles: dict[str, Tensor]) -> Tensor:
        return self.head.loss(x, y, **roles)


@pytest.mark.parametrize("name", thinned([*PLAIN, *SEVERAL], 5))
def test_the_meta_device(name: str) -> None:
    """Shapes without numbers, and a head that comes to life with a state of another."""
    head, x, y, roles = made(name)
    there = copy.deepcopy(head).to("meta")
    beside = {key: value.to("meta") for key, value in roles.items()}
    assert there(x.to("meta")).shape == head(x).shape and there.loss(x.to("meta"), y.to("meta"), **beside).shape == ()
    alive = there.to_empty(device="cpu")
    alive.load_state_dict(head.state_dict(), strict=True)
    for key, value in head.named_buffers():
        if key not in head.state_dict():
            alive.get_buffer(key).copy_(value)
    torch.testing.assert_close(outcome(alive, x, y, roles), outcome(head, x, y, roles), rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*PLAIN, *SEVERAL])
def test_compile(name: str) -> None:
    """The loss, its gradients and the means of a compiled head."""
    torch.compiler.reset()
    head, x, y, roles = made(name)
    want = outcome(head, x, y, roles)
    twin = WithRoles(copy.deepcopy(head))
    loss = torch.compile(twin, backend="aot_eager")(x, y, roles)
    loss.backward()
    found = [part.grad for part in twin.parameters() if part.grad is not None]
    means = torch.compile(copy.deepcopy(head), backend="aot_eager", fullgraph=True)(x).detach()
    for one, two in zip([loss.detach(), means, *found], want, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes(kind: str) -> None:
    """DistributedDataParallel and fully_shard around a loss: the gradients of all rows."""
    script = Path(__file__).parent / "head_ranks.py"
    done = subprocess.run([sys.executable, str(script), kind], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["OK"], done.stdout
