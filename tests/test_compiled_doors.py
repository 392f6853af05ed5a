"""What ends by the values it finds, called where `torch.compile` is at work: the numbers and the derivatives stay."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_cann import rows
from torch import Tensor, nn

import torchglm as tg


def net(family: Any) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), tg.GLMHead(4, family)).double()


def compiled(function: Callable[..., Any], backend: str = "eager") -> Callable[..., Any]:
    torch.compiler.reset()
    made: Callable[..., Any] = torch.compile(function, backend=backend)
    return made


def pulled(function: Callable[..., Tensor], parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The value, and its derivatives by all parts."""
    held = [part.clone().requires_grad_() for part in parts]
    value = function(*held)
    return value.detach(), *torch.autograd.grad(value, held)


OTHERS = [pytest.param(family, marks=pytest.mark.slow) for family in (tg.Gamma(), tg.ZeroInflated("poisson"))]


@pytest.mark.parametrize("family", [tg.Poisson(), *OTHERS], ids=lambda family: family.name)
def test_derivatives_of_a_fit_between_graphs(family: Any) -> None:
    """Layers before a fit and a loss behind it are compiled, the fit between them is not."""
    x, y = rows(family)
    weights, own = 0.5 + torch.rand_like(y), 3 if family.name == "gamma" else None

    def loss(x: Tensor, weights: Tensor) -> Tensor:
        coef = tg.solve(torch.tanh(x), y, family=family, link="log" if own else None, weights=weights.exp())
        return (coef.square() + coef.sin()).sum()

    want, found = pulled(loss, (x, weights)), pulled(compiled(loss, "aot_eager"), (x, weights))
    torch.testing.assert_close(found, want, rtol=1e-9, atol=1e-10)


def test_a_graph_that_may_not_break_is_told_why() -> None:
    x, y = rows(tg.Poisson())
    torch.compiler.reset()
    whole = torch.compile(lambda x: tg.solve(x, y, family="poisson"), backend="eager", fullgraph=True)
    with pytest.raises(Exception, match=r"solve looks at values.* without fullgraph=True"):
        whole(x)


def test_doors_beyond_the_limit_of_recompilation_are_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a fit calls is not compiled, however often its callers were."""
    x, y = rows(tg.Poisson())
    module = importlib.import_module("torchglm.model.solve")
    seen, irls = [], module.irls

    def watched(*args: Any, **options: Any) -> Any:
        seen.append(torch._C._dynamo.eval_frame.get_eval_frame_callback())
        return irls(*args, **options)

    monkeypatch.setattr(module, "irls", watched)
    fit = compiled(lambda n: tg.solve(x[:n], y[:n], family="poisson").sum())
    with torch._dynamo.config.patch(recompile_limit=1):
        for n in range(60, 63):
            torch.testing.assert_close(fit(n), tg.solve(x[:n], y[:n], family="poisson").sum())
    assert len(seen) == 6 and set(seen) == {None}


def refit(x: Tensor, y: Tensor) -> Callable[[], list[Tensor]]:
    model = net("poisson")
    return lambda: [tg.refit_(model, [(x, y)]).after, *(part.detach() for part in model.parameters())]


def laplace(x: Tensor, y: Tensor) -> Callable[[], list[Tensor]]:
    model = net("gaussian")

    def asked() -> list[Tensor]:
        found = tg.Laplace(model, [(x, y)], strength=1.0)
        return [found.predict(x), *found.interval(x, 0.9)]

    return asked


def online(x: Tensor, y: Tensor) -> Callable[[], list[Tensor]]:
    head, sums = tg.GLMHead(3, "gaussian").double(), tg.Renewable("gaussian", None, 3)

    def learned() -> list[Tensor]:
        head.init_from(y)
        phi = head.estimate_dispersion_(x, y).clone()
        head.partial_fit(x, y)
        return [phi, head.coef, sums.update(x, y).coef]

    return learned


def fits(x: Tensor, y: Tensor) -> Callable[[], list[Tensor]]:
    return lambda: [tg.fit(x, y, family="poisson").coef, tg.path(x, y, family="poisson", n=5).coef]


@pytest.mark.slow
@pytest.mark.parametrize("door", [refit, laplace, online, fits])
def test_doors_in_compiled_functions(door: Callable[..., Callable[[], list[Tensor]]]) -> None:
    x, y = rows(tg.Poisson())
    torch.testing.assert_close(compiled(door(x, y))(), door(x, y)(), rtol=1e-9, atol=1e-10)


@pytest.mark.slow
def test_newton_steps_of_a_head_in_a_compiled_step() -> None:
    """SGD for the body and `FisherHead` for the head in one compiled step."""
    x, y = rows(tg.Poisson())

    def trained(change: Callable[..., Any]) -> list[Tensor]:
        model = net("poisson")
        body, head = torch.optim.SGD(model[:-1].parameters(), lr=0.01), tg.optim.FisherHead(model[-1], damping=0.1)

        def step(x: Tensor, y: Tensor) -> Tensor:
            body.zero_grad()
            features = model[:-1](x)
            loss = model[-1].loss(features, y)
            loss.backward()
            body.step()
            head.step(features, y)
            return loss.detach()

        stepped = change(step)
        return [*(stepped(x, y) for _ in range(3)), *(part.detach() for part in model.parameters())]

    torch.testing.assert_close(trained(compiled), trained(lambda step: step), rtol=1e-8, atol=1e-9)
