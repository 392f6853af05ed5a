"""The head as a layer and as a loss: shaped like `nn.Linear`, and as right as the density it stands for."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from family_cases import ALL, PAIRS, Case, wide
from torch import Tensor, nn

import torchglm
from torchglm import families
from torchglm.links import Link
from torchglm.model.face import GLMHead
from torchglm.model.lazy import LazyGLMHead

each_case = pytest.mark.parametrize("case", ALL, ids=repr)
each_pair = pytest.mark.parametrize(("case", "link"), PAIRS, ids=repr)
DENSE = [case for case in ALL if "power=2.5" not in repr(case) and "power=4.5" not in repr(case)]


def made(case: Case, link: Link | None = None, dtype: torch.dtype = torch.float64, **options) -> GLMHead:
    """A head a little off its start, so that every mean is in range and no gradient vanishes."""
    torch.manual_seed(1)
    head = GLMHead(3, copy.deepcopy(case.family), link, dtype=dtype, **options)
    with torch.no_grad():
        head.weight.copy_(0.03 * torch.randn(head.weight.shape))
    return head


def rows(case: Case, n: int = 12, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    torch.manual_seed(2)
    return torch.randn(n, 3).to(dtype), case.y[torch.arange(n) % len(case.y)].to(dtype)


@pytest.mark.parametrize("shape", [(3,), (7, 3), (2, 5, 3), (0, 3)], ids=str)
@pytest.mark.parametrize("out", [1, 4])
@pytest.mark.parametrize("bias", [True, False])
def test_a_head_has_the_shapes_and_the_arithmetic_of_a_linear_layer(shape: tuple, out: int, bias: bool) -> None:
    head, linear = GLMHead(3, "poisson", out_features=out, bias=bias), nn.Linear(3, out, bias=bias)
    assert {k: v.shape for k, v in head.state_dict().items() if k in ("weight", "bias")} == {
        k: v.shape for k, v in linear.state_dict().items()
    }
    head.load_state_dict(linear.state_dict(), strict=False)
    x = torch.randn(shape)
    assert torch.equal(head.linear_predictor(x), linear(x)) and torch.equal(head(x), linear(x).exp())
    offset = torch.randn(*shape[:-1], out)
    assert torch.equal(head(x, offset), (linear(x) + offset).exp())
    law = head.distribution(x, offset)
    assert law.batch_shape == (*shape[:-1], out) and torch.equal(law.mean, head(x, offset))
    assert repr(head).startswith("GLMHead(\n  in_features=3, out_features=")


@each_pair
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_a_fresh_head_is_a_valid_null_model(case: Case, link: Link, bias: bool) -> None:
    head = GLMHead(3, copy.deepcopy(case.family), link, bias=bias, dtype=torch.float64)
    one_hot = torch.eye(3, dtype=torch.float64)
    eta, mu = head.linear_predictor(one_hot), head(one_hot)
    assert bool(link.inside(eta).all()) and bool(case.family.valid_mean(mu).all()) and bool((mu == mu[0]).all())
    loss = head.loss(one_hot.repeat(len(case.y), 1), case.y.repeat_interleave(3))
    loss.backward()
    assert bool(torch.isfinite(loss)) and bool(torch.isfinite(head.weight.grad).all())
    with torch.no_grad():
        head.weight.fill_(7.0)
    head.reset_parameters()
    assert torch.equal(head(one_hot), mu)


@each_pair
def test_the_gradient_of_the_loss_is_that_of_the_density(case: Case, link: Link) -> None:
    head = made(case, link)
    x, y = rows(case)
    weight = torch.rand(12, dtype=torch.float64) + 0.1
    trainable = [head.weight, head.bias]
    got = torch.autograd.grad(head.loss(x, y, weights=weight, reduction="sum"), trainable)
    half = (weight.unsqueeze(-1) * case.family.unit_deviance(y.unsqueeze(-1), head(x)) / 2).sum()
    for ours, theirs in zip(got, torch.autograd.grad(half, trainable), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("case", DENSE, ids=repr)
def test_with_a_dispersion_to_learn_the_loss_is_the_whole_density(case: Case) -> None:
    head = made(case, dispersion="learned")
    with torch.no_grad():
        head.log_dispersion.fill_(math.log(0.8))
    x, y = rows(case)
    weight = torch.rand(12, dtype=torch.float64) + 0.5
    if case.family.mean_upper == 1:
        weight = torch.ones_like(weight)  # trials, whose coefficient the loss leaves out
    want = -case.family.log_prob(y.unsqueeze(-1), head(x), head.dispersion, weight.unsqueeze(-1))
    torch.testing.assert_close(head.loss(x, y, weights=weight, reduction="none"), want, rtol=1e-9, atol=1e-9)
    head.loss(x, y, weights=weight).backward()
    assert (head.log_dispersion.grad is not None) == case.family.has_dispersion


def test_reductions_weights_and_trials() -> None:
    head, x = made(ALL[0]), torch.randn(5, 3, dtype=torch.float64)
    y, w = torch.randn(5, dtype=torch.float64), torch.rand(5, dtype=torch.float64)
    each = head.loss(x, y, reduction="none")
    assert each.shape == (5, 1) and torch.equal(head.loss(x, y, reduction="sum"), each.sum())
    torch.testing.assert_close(head.loss(x, y, weights=w), (w * each[:, 0]).sum() / w.sum())
    binomial = GLMHead(3, "binomial", dtype=torch.float64)
    successes, trials = wide(0, 3, 2, 5, 1), wide(4, 3, 6, 9, 2)
    long_x = x.repeat_interleave(trials.long(), 0)
    long_y = torch.cat(
        [torch.cat([torch.ones(int(s)), torch.zeros(int(t - s))]) for s, t in zip(successes, trials, strict=True)]
    ).double()
    torch.testing.assert_close(
        binomial.loss(x, successes, trials=trials), GLMHead(3, "bernoulli", dtype=torch.float64).loss(long_x, long_y)
    )
    twice = binomial.loss(x, successes, trials=trials, weights=torch.full_like(trials, 2.0), reduction="sum")
    torch.testing.assert_close(twice, 2 * binomial.loss(x, successes, trials=trials, reduction="sum"))


def test_censored_times_enter_by_their_event() -> None:
    head, (x, _) = GLMHead(3, "exponential", dtype=torch.float64), rows(ALL[0])
    t, event = torch.rand(12, dtype=torch.float64) + 0.1, (torch.arange(12) % 3 > 0).double()
    want = event.unsqueeze(-1) * head(x).log() + t.unsqueeze(-1) / head(x)
    torch.testing.assert_close(head.loss(x, t, event=event, reduction="none"), want)


@each_case
def test_a_row_of_weight_zero_is_a_dropped_row(case: Case) -> None:
    dense = "power=2.5" not in repr(case) and "power=4.5" not in repr(case)
    head = made(case, dispersion="learned" if dense else None)
    x, y = rows(case)
    trainable = [p for p in head.parameters() if p.requires_grad and (case.family.has_dispersion or p.dim())]
    want = torch.autograd.grad(head.loss(x[:8], y[:8]), trainable)
    for bad in (math.nan, 0.0, -1.0):
        weight, spoiled = (torch.arange(12) < 8).double(), y.clone()
        spoiled[8:] = bad
        got = torch.autograd.grad(head.loss(x, spoiled, weights=weight), trainable)
        for ours, theirs in zip(got, want, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_several_responses_are_as_many_heads() -> None:
    case = next(c for c in ALL if c.family.name == "poisson")
    head, (x, y) = made(case, out_features=3), rows(case)
    ys = torch.stack([y, y.roll(1), y.roll(2)], -1)
    whole = head.loss(x, ys, weights=torch.ones(12, dtype=torch.float64), reduction="none")
    for k in range(3):
        one = GLMHead(3, "poisson", dtype=torch.float64)
        with torch.no_grad():
            one.weight.copy_(head.weight[k : k + 1])
            one.bias.copy_(head.bias[k : k + 1])
        torch.testing.assert_close(one.loss(x, ys[:, k], reduction="none")[:, 0], whole[:, k])


@pytest.mark.parametrize(("family", "name"), [("negative_binomial", "alpha"), ("tweedie", "power")])
@pytest.mark.parametrize("shape", [(3,), (6, 3), (3, 3), (2, 3, 3)], ids=str)
def test_each_response_may_have_a_dispersion_and_a_shape_of_its_own(family: str, name: str, shape: tuple) -> None:
    values = (1.2, 1.5, 1.8)
    alone = [families.get(family, **{name: value}) for value in values]
    parameter, _ = next(alone[0].named_parameters())
    together = alone[0].with_parameters({parameter: torch.stack([getattr(f, parameter) for f in alone])})
    head = GLMHead(3, together.requires_grad_(), out_features=3, dtype=torch.float64)
    with torch.no_grad():
        head.weight.copy_(torch.randn(3, 3))
        head.log_dispersion.copy_(wide(-0.3, 0.2, 0.5) * head.family.has_dispersion)
    x, y = torch.randn(shape, dtype=torch.float64), torch.randint(0, 5, (*shape[:-1], 3)).double()
    losses, law = head.loss(x, y, reduction="none"), head.distribution(x)
    for k, one in enumerate(alone):
        want = one.log_prob(y[..., k], head(x)[..., k], head.dispersion[k])
        torch.testing.assert_close(-losses[..., k], want, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(law.log_prob(y)[..., k], want, rtol=1e-9, atol=1e-9)
    losses.sum().backward()
    assert getattr(head.family, parameter).grad.shape == (3,)


def test_fit_takes_a_shape_for_each_response() -> None:
    torch.manual_seed(8)
    x = torch.randn(150, 1, dtype=torch.float64)
    mu = (1 + 0.4 * x[:, 0]).exp()
    ys = torch.stack([families.NegativeBinomial(alpha).distribution(mu).sample() for alpha in (0.5, 2.0)])
    head = GLMHead(1, "negative_binomial", out_features=2, dtype=torch.float64)
    head.fit(x, ys)
    loss = head.loss(x, ys.mT)
    loss.backward()
    assert head.family.log_alpha.shape == (2,) and head.distribution(x).variance.shape == (150, 2)
    assert all(float(p.grad.abs().max()) < 1e-6 for p in (head.weight, head.bias, head.family.log_alpha))


def learn(head: GLMHead, x: Tensor, y: Tensor) -> None:
    optimizer = torch.optim.LBFGS(
        [p for p in head.parameters() if p.requires_grad],
        max_iter=200,
        tolerance_grad=1e-10,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = head.loss(x, y)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert all(float(p.grad.abs().max()) < 1e-5 for p in head.parameters() if p.requires_grad)


@pytest.mark.parametrize(("family", "truth"), [("negative_binomial", 0.7), ("tweedie", 1.6)])
def test_a_shape_is_learned_with_the_coefficients_and_ends_at_its_likelihood_maximum(family: str, truth: float) -> None:
    torch.manual_seed(5)
    x = torch.randn(400, 2, dtype=torch.float64)
    mu = (0.8 + x @ wide(0.4, -0.3)).exp()
    law = families.get(family, **{"alpha" if family[0] == "n" else "power": truth})
    y = law.distribution(mu, 0.9).sample()
    head = GLMHead(2, family, dtype=torch.float64)
    learn(head, x, y)
    found = float((head.family.alpha if family[0] == "n" else head.family.power).detach())
    assert found == pytest.approx(truth, rel=0.3)
    best = float(head.loss(x, y).detach())
    for parameter in (p for p in head.parameters() if p.requires_grad):
        for step in (-0.02, 0.02):
            with torch.no_grad():
                parameter += step
                assert float(head.loss(x, y)) > best
                parameter -= step


def test_a_learned_alpha_is_that_of_irls() -> None:
    torch.manual_seed(5)
    x = torch.randn(300, 1, dtype=torch.float64)
    y = families.NegativeBinomial(0.7).distribution((0.8 + 0.4 * x[:, 0]).exp()).sample()
    head = GLMHead(1, "negative_binomial", dtype=torch.float64)
    learn(head, x, y)
    fitted = torchglm.fit(x, y, family="negative_binomial", link="log")
    torch.testing.assert_close(head.weight[0].detach(), fitted.coef[1:], rtol=1e-4, atol=1e-5)
    assert float(head.family.alpha.detach()) == pytest.approx(float(fitted.head.family.alpha.detach()), rel=1e-4)


def test_a_learned_dispersion_is_the_mean_square_of_the_residuals() -> None:
    torch.manual_seed(6)
    x, noise = torch.randn(200, 3, dtype=torch.float64), torch.randn(200, dtype=torch.float64)
    head = GLMHead(3, "gaussian", dtype=torch.float64, dispersion="learned")
    learn(head, x, x.sum(-1) + 3 * noise)
    residual = x.sum(-1) + 3 * noise - head(x)[:, 0]
    assert float(head.dispersion.detach()) == pytest.approx(float(residual.square().mean().detach()), rel=1e-6)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("responses", [1, 3])
def test_coefficients_are_bias_and_weight_in_one_row(bias: bool, responses: int) -> None:
    head = GLMHead(2, "poisson", out_features=responses, bias=bias)
    wanted = torch.arange(responses * (2 + bias), dtype=torch.float64).reshape(responses, -1)
    head.set_coef_(wanted)
    assert head.coef.dtype == torch.float64 and not head.coef.requires_grad
    torch.testing.assert_close(head.coef, wanted)
    torch.testing.assert_close(head.weight.detach().double(), wanted[:, int(bias) :])
    assert (head.bias is None) or head.bias.tolist() == wanted[:, 0].tolist()
    assert head.coef.data_ptr() != head.weight.data_ptr()
    if responses == 1:
        head.set_coef_(wanted[0])
    for wrong in (wanted[:, 1:], wanted.unsqueeze(0), wanted.flatten()[:-1]):
        with pytest.raises(ValueError, match="this head takes"):
            head.set_coef_(wrong)


def test_fit_writes_the_coefficients_into_the_head() -> None:
    case = next(c for c in ALL if c.family.name == "poisson")
    head, (x, y) = GLMHead(3, "poisson", dtype=torch.float64), rows(case, 40)
    weight = head.weight
    result = head.fit(x, y)
    assert head.weight is weight  # an optimiser that holds it still does
    torch.testing.assert_close(head.coef[0], result.coef)
    head.loss(x, y).backward()
    assert float(head.weight.grad.abs().max()) < 1e-7
    with pytest.raises(ValueError, match=r"shape \(1, 4\), this head takes \(1, 3\)"):
        GLMHead(2, "poisson").load(result)
    for columns in (3, 4):  # the intercept would be lost, or be the slope of a column
        with pytest.raises(ValueError, match="the fit has an intercept, this head bias=False"):
            GLMHead(columns, "poisson", bias=False).load(result)
    without = torchglm.fit(x, y, family="poisson", intercept=False)
    for columns in (2, 3):
        with pytest.raises(ValueError, match="the fit has no intercept, this head bias=True"):
            GLMHead(columns, "poisson").load(without)
    lazy = LazyGLMHead("poisson", dtype=torch.float64)
    lazy.fit(x, y)
    assert type(lazy) is GLMHead and lazy.in_features == 3
    torch.testing.assert_close(lazy.weight, head.weight)


def test_wrong_shapes_and_words_are_answered_in_full() -> None:
    head, x = GLMHead(3, "poisson", out_features=2), torch.randn(5, 3)
    with pytest.raises(ValueError, match=r"x has shape \(5, 4\), this head in_features=3. Pass x of shape \(..., 3\)"):
        head(torch.randn(5, 4))
    with pytest.raises(ValueError, match=r"y has shape \(5,\), the linear predictor \(5, 2\). Pass y of shape"):
        head.loss(x, torch.ones(5))
    with pytest.raises(ValueError, match=r"weights has shape \(4, 2\)"):
        head.loss(x, torch.ones(5, 2), weights=torch.ones(4, 2))
    with pytest.raises(ValueError, match=r"offset has shape \(1,\)"):
        head(x, torch.ones(1))
    with pytest.raises(ValueError, match="reduction must be 'mean', 'sum' or 'none', got 'avg'"):
        head.loss(x, torch.ones(5, 2), reduction="avg")
    with pytest.raises(ValueError, match="trials= is for Binomial"):
        head.loss(x, torch.ones(5, 2), trials=torch.ones(5, 2))
    with pytest.raises(ValueError, match="unknown family"):
        GLMHead(3, "poison")
    with pytest.raises(ValueError, match="unknown link"):
        GLMHead(3, "poisson", "logg")


@each_case
def test_a_head_survives_copies_pickles_and_state_dicts(case: Case) -> None:
    head, (x, y) = made(case), rows(case)
    want = head.loss(x, y)
    fresh = GLMHead(3, copy.deepcopy(case.family), dtype=torch.float64)
    assert fresh.load_state_dict(head.state_dict()).missing_keys == []
    for twin in (copy.deepcopy(head), pickle.loads(pickle.dumps(head)), fresh):
        assert torch.equal(twin.loss(x, y), want) and repr(twin) == repr(head)
    with torch.no_grad():
        copy.deepcopy(head).weight.fill_(9.0)
    assert torch.equal(head.loss(x, y), want)


@each_case
def test_nothing_that_is_passed_in_is_changed(case: Case) -> None:
    head, (x, y) = made(case), rows(case)
    extra = {"weights": torch.rand(12, dtype=torch.float64), "offset": 0.01 * torch.rand(12, dtype=torch.float64)}
    if case.family.name == "binomial":
        extra["trials"], y = torch.full_like(y, 10.0), y * 10
    if case.family.name == "exponential":
        extra["event"] = (torch.arange(12) % 2).double()
    given = {"x": x, "y": y, **extra}
    before = {k: v.clone() for k, v in given.items()}
    head.loss(**given).backward()
    head(x, extra["offset"])
    assert all(torch.equal(given[k], before[k]) and given[k].grad is None for k in given)
