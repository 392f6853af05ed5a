"""Heads and losses where training code does with them what it does with other modules, and where it errs."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from several_cases import predictors_of
from test_head_matrix import FIRST, PLAIN, SEVERAL, made
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import torchglm as tg
from torchglm import GLMHead, GLMLoss
from torchglm.families.several import Dispersed, VectorFamily

NAMES = [*PLAIN, *FIRST]
each = pytest.mark.parametrize("name", NAMES)


def family_of(name: str) -> Any:
    return PLAIN[name].family if name in PLAIN else SEVERAL[name]


def rows(n: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 3, generator=generator), torch.poisson(torch.ones(n), generator=generator)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), GLMHead(4, "poisson"))


@pytest.mark.parametrize("reentrant", [False, True])
@each
def test_activation_checkpointing(name: str, reentrant: bool) -> None:
    head, x, y, roles = made(name)
    found = []
    for again in (False, True):
        leaf = x.clone().requires_grad_()
        head.zero_grad()
        loss = (
            checkpoint(lambda at: head.loss(at, y, **roles), leaf, use_reentrant=reentrant)
            if again
            else head.loss(leaf, y, **roles)
        )
        loss.backward()
        found.append([leaf.grad, *(part.grad for part in head.parameters())])
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)


@each
def test_what_is_made_on_the_meta_device_is_there(name: str) -> None:
    """By the context, which large networks are made in, with families that are made in it too."""
    family = family_of(name)
    others = family.others if isinstance(family, VectorFamily) else ()
    with torch.device("meta"):
        heads = [GLMHead(2, family, predictors=others)]
        if name in PLAIN:
            heads += [GLMHead(2, kind) for kind in (family.name, tg.NegativeBinomial(0.5), tg.Tweedie(1.5))]
        losses = [GLMLoss(head.family, predictors=others) for head in heads]
    for module in (*heads, *losses):
        assert all(part.is_meta for part in module.parameters())
    alive = heads[0].to_empty(device="cpu")
    like, x, y, roles = made(name)
    alive.load_state_dict(like.state_dict())
    for key, value in like.named_buffers():
        if key not in like.state_dict():
            alive.get_buffer(key).copy_(value)
    torch.testing.assert_close(alive.loss(x, y, **roles), like.loss(x, y, **roles))


@each
def test_rows_meet_row_by_row_or_not_at_all(name: str) -> None:
    """Nothing is broadcast: a column beside a row would be a matrix of all pairs."""
    head, x, y, roles = made(name)
    n = len(y)
    for wrong in (y[None], y[:1], y[0], torch.stack([y, y], -1), y.reshape(1, n, 1)):
        with pytest.raises(ValueError, match="has shape"):
            head.loss(x, wrong, **roles)
    for role in ("weights", "offset"):
        for value in (torch.ones(1), torch.ones(()), torch.ones(1, n), torch.ones(n, 2)):
            with pytest.raises(ValueError, match="has shape|has no meaning"):
                head.loss(x, y, **roles, **{role: value})
    family = family_of(name)
    loss = GLMLoss(family, predictors=family.others if isinstance(family, VectorFamily) else ())
    eta = predictors_of(family, n).float() if isinstance(family, VectorFamily) else torch.zeros(n)
    for wrong in (y[:, None], y[None], y[:1], y[0]):
        with pytest.raises(ValueError, match="eta has shape"):
            loss(eta, wrong, **roles)


@pytest.mark.parametrize("value", [2.0, [1.0] * 12, "y", {"a": 1}], ids=repr)
@pytest.mark.parametrize("name", ["y", "weights", "offset", "freq"])
def test_what_is_no_tensor_is_told_so(name: str, value: Any) -> None:
    (x, y), head, loss = rows(), GLMHead(3, "poisson"), GLMLoss("poisson")
    given = {"y": y} | {name: value}
    for call in (lambda: head.loss(x, **given), lambda: loss(x[:, 0], **given)):
        with pytest.raises(TypeError, match=f"{name} is a {type(value).__name__}, and heads and losses take tensors"):
            call()
    for call in (lambda: head(x.numpy()), lambda: head.law(x.tolist())):
        with pytest.raises(TypeError, match="x is a (ndarray|list)"):
            call()


@each
def test_an_empty_batch_has_a_law(name: str) -> None:
    head, x, y, roles = made(name)
    if head.dispersion_kind == "estimated":
        head.set_dispersion_(1.0)
    law = head.law(x[:0], trials=roles["trials"][:0] if "trials" in roles else None)
    shape = (0, head.out_features)
    found = [law.mean, law.variance, *law.interval(0.9), law.cdf(y[:0, None]), law.log_prob(y[:0, None]), law.sample()]
    assert all(value.shape == shape for value in found)


@each
def test_a_check_sees_what_is_not_a_number(name: str) -> None:
    _, x, y, roles = made(name)
    family = family_of(name)
    loss = GLMLoss(family, check=True, predictors=family.others if isinstance(family, VectorFamily) else ())
    eta = predictors_of(family, len(y)).float() if isinstance(family, VectorFamily) else torch.zeros(len(y))
    spoiled = torch.where(torch.arange(len(y)) == 2, math.nan, y)
    weights = (torch.arange(len(y)) != 2).float()
    assert bool(loss(eta, spoiled, weights=weights, **roles).isfinite())
    with pytest.raises(ValueError):
        loss(eta, spoiled, **roles)


def test_a_dimension_that_is_not_there() -> None:
    for dim in (2, -3):
        with pytest.raises(ValueError, match="in dimension dim="):
            GLMLoss("weibull", dim=dim)(torch.zeros(2, 5), torch.ones(5))
    middle = GLMLoss("weibull", dim=1, reduction="none")(torch.zeros(4, 2, 5), torch.ones(4, 5))
    assert middle.shape == (4, 5)


def test_an_optimizer_of_a_head_is_copied_with_it() -> None:
    x, y = rows()
    first = tg.optim.FisherHead(GLMHead(3, "poisson"))
    first.step(x, y)
    for other in (copy.deepcopy(first), pickle.loads(pickle.dumps(first))):
        assert other.head is not first.head and other.param_groups[0]["params"][0] is other.head.weight
        other.step(x, y)
    first.step(x, y)
    torch.testing.assert_close(other.head.coef, first.head.coef)


COUNTS = rows()[1]
CALLS: list[tuple[Callable[[], Any], str]] = [
    (lambda: tg.nn.Heads({"a.b": GLMHead(3, "poisson")}), "cannot be the name"),
    (lambda: tg.nn.Heads({"keys": GLMHead(3, "poisson")}), "cannot be the name"),
    (lambda: tg.refit_(network(), [{"x": rows()[0], "y": rows()[1], "weights": torch.zeros(12)}]), "no row of posit"),
    (lambda: tg.Laplace(network(), [{"x": rows()[0], "y": rows()[1], "weights": torch.zeros(12)}]), "no row of posit"),
    (
        lambda: tg.nn.CANN(GLMHead(3, "poisson"), nn.Linear(3, 1)).split(
            [{"x": rows()[0], "y": rows()[1], "weights": torch.zeros(12)}]
        ),
        "no row of positive",
    ),
    (lambda: torch.func.vmap(lambda x: tg.solve(x, COUNTS, family="poisson"))(rows()[0][None]), "torch.func"),
    (lambda: torch.func.grad(lambda x: tg.solve(x, COUNTS, family="poisson").sum())(rows()[0]), "torch.func"),
    (lambda: tg.solve(*(part.to("meta") for part in rows()), family="poisson"), "meta tensor"),
]


@pytest.mark.parametrize(("call", "says"), CALLS, ids=lambda value: value if isinstance(value, str) else "")
def test_what_cannot_be_is_refused_in_words(call: Callable[[], Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()


def test_no_new_rows_have_no_intervals() -> None:
    x, y = rows(40)
    head = GLMHead(3, "poisson")
    tg.refit_(head, [(x, y)])
    low, high = tg.Laplace(head, [(x, y)]).interval(x[:0])
    assert low.shape == high.shape == (0, 1)


@pytest.mark.parametrize("name", ["gamma", "inverse_gaussian"])
def test_heads_take_a_link_without_an_edge_within_other_laws_too(name: str) -> None:
    """Where nobody named one; a link that was named stays, and so does that of a fit."""
    inner = tg.Gamma() if name == "gamma" else tg.InverseGaussian()
    for family in (tg.Hurdle(name), tg.Hurdle(inner), Dispersed(inner), tg.Hurdle(Dispersed(inner))):
        assert GLMHead(3, family).link.name == GLMLoss(family).link.name == "log"
        own = family.linked(inner.default_link)
        assert GLMHead(3, own).link.name == GLMLoss(own).link.name == inner.default_link.name
    x = torch.rand(60, 1, dtype=torch.float64)
    y = torch.where(torch.rand(60) < 0.3, 0.0, 1 + torch.rand(60)).double()
    fit = tg.fit(x, y, family=tg.Hurdle(name))
    torch.testing.assert_close(fit.head(x)[:, 0], fit.predict(x))
    assert fit.head.link.name == fit.family.default_link.name == inner.default_link.name
