"""Losses by slopes in closed form are those of the formulas, in value, gradient and whatever differentiates again."""

from __future__ import annotations

import copy

import pytest
import torch
from family_cases import ALL, PAIRS, Case
from several_cases import draws, families, predictors_of, title
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, grad_and_value, jvp

from torchglm import GLMHead, GLMLoss, NegativeBinomial, Tweedie, links, special
from torchglm.families import Family
from torchglm.families.several import VectorFamily
from torchglm.links import Link
from torchglm.model import closed_form, continuation, vector_beyond
from torchglm.model.continuation import Continuation

N = 60
KNOWN = [(case, case.family.head_link) for case in ALL]
OWN = [(case, link) for case, link in KNOWN if repr(case) != "Tweedie(power=0)"]  # whose link of heads is the log
every = pytest.mark.parametrize("family", families(), ids=title)


def slope_of(formula, eta: Tensor) -> Tensor:
    leaf = eta.clone().requires_grad_()
    return torch.autograd.grad(formula(leaf).sum(), leaf)[0]


@pytest.mark.parametrize(("case", "link"), PAIRS, ids=repr)
def test_the_closed_form_of_a_family(case: Case, link: Link) -> None:
    eta = torch.linspace(-29, 29, 41, dtype=torch.float64).unsqueeze(-1)
    found = case.family.nll_and_slope(case.y, eta, link)
    if found is None:
        return
    torch.testing.assert_close(found[0], case.family.nll(case.y, eta, link).expand_as(found[0]), rtol=2e-12, atol=1e-13)
    want = slope_of(lambda at: case.family.nll(case.y, at, link), eta.expand(-1, len(case.y)))
    torch.testing.assert_close(found[1], want, rtol=1e-12, atol=1e-12)


def test_every_family_has_one_at_its_link_of_heads() -> None:
    without = [repr(case) for case, link in OWN if case.family.nll_and_slope(case.y, case.y / 100, link) is None]
    assert without == ["NegativeBinomial(alpha=0)", "NegativeBinomial(alpha=1e-09)"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@every
def test_the_closed_form_of_several_predictors(family: VectorFamily, dtype: torch.dtype) -> None:
    eta, drawn, family = predictors_of(family, N).to(dtype), draws(family, (N,)), copy.deepcopy(family).to(dtype)
    drawn["y"] = drawn["y"].to(dtype)
    y = drawn.response(family)
    good = family.valid(eta) & (eta.abs() < 30).all(0) & (family.nll(y, eta) < 1e4)
    digits = 1e-10 if dtype == torch.float64 else 2e-4
    value, score = family.nll_and_score(y, eta)
    torch.testing.assert_close(value[good], family.nll(y, eta)[good], rtol=digits, atol=digits)
    if dtype == torch.float64:
        want = -slope_of(lambda at: family.nll(y, at), eta)
        torch.testing.assert_close(score[:, good], want[:, good], rtol=1e-7, atol=1e-8)
    assert family.has_laws(eta[:, good]) or not bool(good.any())


@pytest.mark.parametrize("alpha", [0.02, 0.3, 1.0, 7.0, 50.0])
def test_a_density_whose_shape_is_learned(alpha: float) -> None:
    """Beside autograd, in both dtypes; of what are no counts there is no table."""
    family, link = NegativeBinomial(), links.Log()
    with torch.no_grad():
        family.log_alpha.fill_(alpha).log_()
    y = torch.arange(40, dtype=torch.float64).remainder(17)
    eta = torch.linspace(-20, 20, 40, dtype=torch.float64)

    def density(at: Tensor) -> Tensor:
        return family.nll(y, at, link) - family.log_constant(y)

    value, slope, by_alpha = family.density_and_slopes(y, eta, link)
    torch.testing.assert_close(value, density(eta).detach(), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(slope, slope_of(density, eta), rtol=1e-11, atol=1e-12)
    [want] = torch.autograd.grad(density(eta).sum(), family.log_alpha)
    torch.testing.assert_close(by_alpha.sum(), want, rtol=1e-9, atol=1e-9)
    small = family.density_and_slopes(y.float(), eta.float(), link)
    torch.testing.assert_close(small[0].double(), value, rtol=2e-5, atol=2e-5)
    for other in (y + 0.5, 1000 * y, y - 1, y[:0]):
        assert special.log_rising_table(family.alpha, other) is None


def both_ways(work, monkeypatch: pytest.MonkeyPatch) -> tuple[object, object]:
    """What comes of `work` by closed forms, and by the formulas alone."""
    ours = work()
    for module in (continuation, vector_beyond):
        monkeypatch.setattr(module, "has_closed_form", lambda *parts: False)
    return ours, work()


def made(family: Family) -> tuple[GLMHead, Tensor]:
    torch.manual_seed(0)
    head = GLMHead(3, family, dtype=torch.float64)
    with torch.no_grad():
        head.weight.copy_(0.2 * torch.randn(head.weight.shape))
    return head, torch.randn(N, 3, dtype=torch.float64)


@pytest.mark.parametrize("known", [*(case.family for case in ALL), *families()], ids=repr)
def test_a_gradient_and_its_own_gradient(known: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    head, x = made(known)
    if isinstance(known, VectorFamily):
        drawn = draws(known, (N,))
        y, roles = drawn["y"].double(), {name: value.double() for name, value in drawn.roles.items()}
    else:
        case = next(case for case in ALL if case.family is known)
        y, roles = case.y.repeat(N)[:N], {}
    learned = [part for part in head.parameters() if part.requires_grad]

    def work() -> list[Tensor]:
        loss = head.loss(x, y, **roles)
        first = torch.autograd.grad(loss, learned, create_graph=True, allow_unused=True)
        square = sum(part.square().sum() for part in first if part is not None)
        again = torch.autograd.grad(square, learned, allow_unused=True)
        plain = torch.autograd.grad(head.loss(x, y, **roles), learned, allow_unused=True)
        return [part for part in (loss, *plain, *again) if part is not None]

    ours, theirs = both_ways(work, monkeypatch)
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


def test_what_else_differentiates_takes_the_formulas() -> None:
    """Forward mode, functional transforms, and a response that has a gradient itself."""
    eta, y, loss = torch.linspace(-2, 2, 9), torch.arange(1.0, 10), GLMLoss("poisson", reduction="sum")
    along = torch.ones(9)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(loss(forward_ad.make_dual(eta, along), y)).tangent
    torch.testing.assert_close(tangent, (eta.exp() - y).sum())
    assert torch.equal(jvp(lambda at: loss(at, y), (eta,), (along,))[1], tangent)
    torch.testing.assert_close(grad(lambda at: loss(at, y))(eta), eta.exp() - y)
    seen = y.clone().requires_grad_()
    loss(eta, seen).backward()
    torch.testing.assert_close(seen.grad, -eta)
    assert not closed_form.has_closed_form(seen, eta) and closed_form.has_closed_form(y, eta)


def test_no_number_depends_on_whether_a_gradient_is_asked_for() -> None:
    for case, link in KNOWN:
        eta = torch.linspace(-3, 3, len(case.y), dtype=torch.float64)
        nll = Continuation(case.family, link).nll
        frozen = nll(case.family, link, case.y, eta)
        assert torch.equal(nll(case.family, link, case.y, eta.clone().requires_grad_()).detach(), frozen.detach())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("family", ["gaussian", "gamma", "inverse_gaussian", "tweedie", Tweedie(1.3)], ids=str)
def test_a_density_whose_dispersion_is_learned(family: str | Family, dtype: torch.dtype) -> None:
    """The closed form, where there is one for the dtype, beside the formulas in float64: `grad` follows those."""
    head, rows = GLMHead(2, family, dispersion="learned", dtype=dtype), 3000
    torch.manual_seed(0)
    with torch.no_grad():
        head.weight.normal_(std=0.3)
        head.log_dispersion.fill_(0.7)
    x, y = torch.randn(rows, 2, dtype=dtype), torch.distributions.Gamma(1.5, 1.0).sample((rows,)).to(dtype)
    wide = copy.deepcopy(head).double()
    loss = head.loss(x, y)
    found = torch.autograd.grad(loss, list(head.parameters()))

    def formula(values: dict[str, Tensor]) -> Tensor:
        return functional_call(Mean(wide), values, (x.double(), y.double()))

    own = {f"head.{name}": value.detach() for name, value in wide.named_parameters()}
    want, value = grad_and_value(formula)(own)
    digits = 1e-9 if dtype == torch.float64 else 3e-6
    torch.testing.assert_close(loss.detach().double(), value, rtol=digits, atol=digits)
    for (name, _), part in zip(head.named_parameters(), found, strict=True):
        torch.testing.assert_close(part.double(), want[f"head.{name}"], rtol=digits, atol=digits)


class Mean(nn.Module):
    """The mean loss of a head as a call."""

    def __init__(self, head: GLMHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.head.loss(x, y)


@pytest.mark.parametrize("family", ["gaussian", "bernoulli", "poisson", "weibull"])
def test_a_sum_is_that_of_its_rows_and_so_are_its_gradients(family: str) -> None:
    """Also where a graph is kept and used twice, where gradients come in batches, and where a part is frozen."""
    head = GLMHead(3, family, dtype=torch.float64)
    x, y = torch.randn(N, 3, dtype=torch.float64), torch.ones(N, dtype=torch.float64)
    moved = [head.weight, head.bias]
    for reduction, by in (("sum", 1), ("mean", N)):
        whole = head.loss(x, y, reduction=reduction)
        want = torch.autograd.grad(head.loss(x, y, reduction="none").sum() / by, moved)
        torch.testing.assert_close(whole, head.loss(x, y, reduction="none").sum() / by)
        for _ in range(2):
            torch.testing.assert_close(torch.autograd.grad(whole, moved, retain_graph=True), want)
        several = torch.autograd.grad(whole, moved, torch.tensor([1.0, 2.0]).double(), is_grads_batched=True)
        torch.testing.assert_close([part[1] for part in several], [2 * part for part in want])
        head.weight.requires_grad_(False)
        torch.testing.assert_close(torch.autograd.grad(head.loss(x, y, reduction=reduction), head.bias), want[1:])
        head.weight.requires_grad_(True)
