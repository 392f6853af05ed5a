"""Laws of heads of several predictors: the fit's answer and density, a loss that is finite, one response as many."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from several_cases import CLASSES, Drawn, draws, families, predictors_of, title
from torch import Tensor

import torchglm as tg
from torchglm.families.several import Classes, Multinomial, Ordinal, VectorFamily, ZeroInflated
from torchglm.model.face import GLMHead, VectorHead
from torchglm.model.vector_beyond import continued_nll, harmless

every = pytest.mark.parametrize("family", families(), ids=title)
TIGHT = {"tol": 1e-12, "max_iter": 100}
FAR = [-1e4, -40.0, 0.0, 3.0, 89.0, 1e4]
BETWEEN = [-29.0, -25.0, -19.0, -12.0, -7.5, -3.7, 1.0, 4.45, 8.0, 12.0, 20.0, 29.0]  # of no size, yet not all common


def design(n: int, p: int = 2, seed: int = 2) -> Tensor:
    return 2 * torch.rand(n, p, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 1


def made(family: VectorFamily, out: int = 1, **options: object) -> VectorHead:
    head = GLMHead(2, family, None, out, dtype=torch.float64, predictors=family.others, **options)
    assert isinstance(head, VectorHead)
    return head


def slopes(head: VectorHead, loss: Tensor) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(head.parameters()))])


@every
def test_the_answer_of_a_fit(family: VectorFamily) -> None:
    """There the gradient is 0, the loss is minus the log-likelihood, and the head of the result says the same."""
    x, drawn = design(200), draws(family, (200,))
    head = made(family)
    result = head.fit(x, drawn["y"], **drawn.roles, **TIGHT)
    assert bool(result.converged)
    loss = head.loss(x, drawn["y"], reduction="sum", **drawn.roles)
    torch.testing.assert_close(loss.detach(), -result.loglik, rtol=1e-11, atol=1e-9)
    assert float(slopes(head, head.loss(x, drawn["y"], **drawn.roles)).abs().max()) < 1e-6
    torch.testing.assert_close(head.coef[0], result.flat.coef.reshape(-1), rtol=0, atol=1e-12)
    whole = torch.cat([x] * (1 + len(family.others)), -1)
    other = result.head
    assert type(other) is VectorHead
    torch.testing.assert_close(other.predictors(whole), head.predictors(x), rtol=0, atol=1e-11)
    mean = head(x).detach()
    fitted = result.fitted if isinstance(family, Classes) else result.fitted.unsqueeze(-1)
    torch.testing.assert_close(mean.squeeze(1) if isinstance(family, Classes) else mean, fitted, rtol=1e-10, atol=1e-12)


@every
def test_several_responses_are_one_by_one(family: VectorFamily) -> None:
    x, drawn = design(60), draws(family, (60, 3))
    head = made(family, 3)
    torch.manual_seed(0)
    coef = 0.3 * torch.randn(3, head.plan_columns, dtype=torch.float64)
    head.set_coef_(coef)
    coef = head.coef  # thresholds in order
    losses, mean, eta = head.loss(x, drawn["y"], reduction="none", **drawn.roles), head(x), head.predictors(x)
    assert eta.shape == (len(family.predictors), 60, 3)
    for r in range(3):
        one = made(family)
        one.set_coef_(coef[r])
        single = drawn.each(lambda value, r=r: value[:, r])
        torch.testing.assert_close(one.loss(x, single["y"], reduction="none", **single.roles)[:, 0], losses[:, r])
        torch.testing.assert_close(one(x)[:, 0], mean[:, r])
        torch.testing.assert_close(one.predictors(x)[..., 0], eta[..., r])
    shape = (4, 15)
    folded = head.loss(
        x.reshape(*shape, 2), drawn["y"].reshape(*shape, 3), **{k: v.reshape(*shape, 3) for k, v in drawn.roles.items()}
    )
    torch.testing.assert_close(folded, head.loss(x, drawn["y"], **drawn.roles))


def outcome(head: VectorHead, x: Tensor, drawn: Drawn, **roles: Tensor) -> list[Tensor]:
    leaf = x.clone().requires_grad_()
    loss = head.loss(leaf, drawn["y"], **drawn.roles, **roles)
    return [loss.detach(), *torch.autograd.grad(loss, [head.weight, head.bias, leaf])]


@every
def test_rows_of_weight_zero_may_hold_anything(family: VectorFamily) -> None:
    x, drawn = design(12), draws(family, (12,))
    head, keep = made(family), torch.arange(12) % 3 > 0
    head.init_from(draws(family, (200,))["y"], **draws(family, (200,)).roles)
    want = outcome(head, x[keep], drawn.each(lambda value: value[keep]))
    for name in ("weights", "freq"):
        for bad in (math.nan, -1.0, math.inf, 1e30):
            spoiled = drawn.each(lambda value, bad=bad: torch.where(keep, value, bad))
            found = outcome(head, torch.where(keep.unsqueeze(-1), x, bad), spoiled, **{name: keep.double()})
            assert float(found[-1][~keep].abs().max()) == 0
            for one, other in zip([*found[:-1], found[-1][keep]], want, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    nothing = outcome(head, x * math.nan, drawn.each(lambda value: value * math.nan), weights=torch.zeros(12).double())
    assert all(float(value.abs().max()) == 0 for value in nothing)


@every
def test_weights_and_repeats_are_those_of_the_fit(family: VectorFamily) -> None:
    x, drawn = design(150), draws(family, (150,))
    generator = torch.Generator().manual_seed(5)
    weights = 0.5 + torch.rand(150, generator=generator, dtype=torch.float64)
    freq = torch.randint(0, 4, (150,), generator=generator).double()
    head = made(family)
    result = head.fit(x, drawn["y"], weights=weights, freq=freq, **drawn.roles, **TIGHT)
    loss = head.loss(x, drawn["y"], weights=weights, freq=freq, reduction="sum", **drawn.roles)
    torch.testing.assert_close(loss.detach(), -result.loglik, rtol=1e-10, atol=1e-8)
    assert float(slopes(head, loss).abs().max()) < 1e-6 * 150


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@every
def test_the_loss_goes_on_wherever_a_network_may_end(family: VectorFamily, dtype: torch.dtype) -> None:
    """Finite, with a finite slope, and rising from where it goes on."""
    rows = draws(family, (6,)).response(family)
    each = rows if isinstance(rows, tuple) else (rows,)
    size = len(family.predictors)
    wide, between = (torch.tensor(values, dtype=dtype) for values in (FAR, BETWEEN[:: max(1, size - 1)]))
    grids = [torch.cartesian_prod(*[grid] * min(size, 3)).reshape(-1, min(size, 3)) for grid in (wide, between)]
    eta = torch.cat(grids).mT
    parts = [value.to(dtype) if value.is_floating_point() else value for value in each]
    parts = [value.unsqueeze(-1).expand(6, eta.shape[1]) for value in parts]
    y = type(rows)(*parts) if isinstance(rows, tuple) else parts[0]
    leaf = eta.unsqueeze(1).expand(size, 6, eta.shape[1]).clone().requires_grad_()
    family = copy.deepcopy(family).to(dtype)
    loss = continued_nll(family, y, leaf)
    [slope] = torch.autograd.grad(loss.sum(), leaf)
    assert bool(torch.isfinite(loss).all()) and bool(torch.isfinite(slope).all())
    start = harmless(family, y, leaf.detach())
    assert bool(family.valid(start).all()) and bool(torch.isfinite(family.nll(y, start)).all())


@every
def test_the_loss_inside_is_that_of_the_family(family: VectorFamily) -> None:
    eta, y = predictors_of(family, 200), draws(family, (200,)).response(family)
    inside = family.valid(eta) & (family.nll(y, eta) < 1e12)
    torch.testing.assert_close(
        continued_nll(family, y, eta)[inside], family.nll(y, eta)[inside], rtol=1e-13, atol=1e-13
    )


@every
def test_a_head_is_copied_saved_and_begins_anywhere(family: VectorFamily) -> None:
    x, drawn = design(120), draws(family, (120,))
    head = made(family)
    fresh = head.loss(x, drawn["y"], **drawn.roles)
    assert bool(torch.isfinite(fresh))
    head.init_from(drawn["y"], **drawn.roles)
    null = tg.fit(x[:, :0], drawn["y"], family=family, **drawn.roles, **TIGHT)
    loss = head.loss(x, drawn["y"], reduction="sum", **drawn.roles)
    torch.testing.assert_close(loss.detach(), -null.loglik, rtol=1e-6, atol=1e-6)
    other = made(family)
    other.load_state_dict(head.state_dict())
    for same in (other, copy.deepcopy(head)):
        torch.testing.assert_close(same.loss(x, drawn["y"], reduction="sum", **drawn.roles), loss)


def test_thresholds_are_in_order_whatever_is_trained() -> None:
    head = GLMHead(2, Ordinal(classes=5), out_features=3)
    with torch.no_grad():
        head.bias.normal_(0, 20)
    assert bool((head.thresholds.diff(dim=-1) >= 0).all())
    p = head(torch.randn(7, 2))
    assert p.shape == (7, 3, 5)
    torch.testing.assert_close(p.sum(-1), torch.ones(7, 3))
    with pytest.raises(ValueError, match="ordinal"):
        _ = GLMHead(2, Multinomial(classes=3)).thresholds


def test_a_head_learns_its_classes_from_responses() -> None:
    head = GLMHead(2, "ordinal")
    for call in (lambda: head(design(3)), lambda: head.loss(design(3), torch.zeros(3)), lambda: head.coef):
        with pytest.raises(ValueError, match="does not know its classes"):
            call()
    head.init_from(torch.randint(0, CLASSES, (50,)))
    assert head(design(3)).shape == (3, 1, CLASSES)
    with pytest.raises(ValueError, match="no code of the classes"):
        head.loss(design(3), torch.tensor([0.0, 1.0, CLASSES]))
    named = GLMHead(2, "multinomial")
    labels = ["low", "high", "medium"] * 20
    named.fit(design(60), labels)
    assert named.family.known == ["high", "low", "medium"]


def test_a_formula_and_its_columns() -> None:
    pandas = pytest.importorskip("pandas")
    x = design(200)
    table = pandas.DataFrame({"a": x[:, 0], "b": x[:, 1], "y": x[:, 0].exp() + 0.1 * x[:, 1].square() + 0.05})
    head = GLMHead(2, "gamma", predictors="dispersion", dtype=torch.float64)
    result = head.fit("y ~ a + b", table)
    want = result.predict(table, kind="dispersion")
    torch.testing.assert_close(head.parameter("dispersion", x)[:, 0].detach(), want)
    columns = result.spec.design(table).numbers
    torch.testing.assert_close(result.head(columns)[:, 0].detach(), result.predict(table))


def test_the_law_of_a_head() -> None:
    x = design(4)
    for head, y in (
        (GLMHead(2, Multinomial(classes=3), dtype=torch.float64), torch.tensor([0.0, 1.0, 2.0, 2.0])),
        (GLMHead(2, "gamma", predictors=("dispersion",), dtype=torch.float64), torch.tensor([0.5, 1.0, 2.0, 3.0])),
    ):
        want = -head.loss(x, y, reduction="none")
        torch.testing.assert_close(head.distribution(x).log_prob(y.unsqueeze(-1).double()), want)
    with pytest.raises(ValueError, match="no distribution"):
        GLMHead(2, ZeroInflated("poisson")).distribution(x)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: GLMHead(2, "poisson", predictors=("dispersion",)), "no parameter beside its mean"),
        (lambda: GLMHead(2, "gamma", predictors=("zero",)), "zero"),
        (lambda: GLMHead(2, "gamma", predictors=("dispersion",), dispersion=2.0), "Leave dispersion= out"),
        (lambda: tg.LazyGLMHead("ordinal"), "several"),
        (lambda: GLMHead(2, Multinomial(classes=3)).partial_fit(design(3), torch.zeros(3)), "one linear predictor"),
        (lambda: GLMHead(2, Multinomial(classes=3)).loss(design(3), torch.zeros(3), offset=torch.ones(3)), "offset"),
        (lambda: GLMHead(2, Multinomial(classes=3))(design(3, 3)), "in_features=2"),
        (lambda: GLMHead(2, Ordinal(classes=3)).fit(design(9), [0, 1] * 4 + [0]), "no row"),
        (lambda: GLMHead(2, Ordinal(classes=3)).load(tg.fit(design(9), torch.ones(9), family="poisson")), "poisson"),
        (lambda: GLMHead(2, Ordinal(classes=3)).parameter("0|1", design(3)), "no parameter"),
    ],
)
def test_what_it_refuses(call: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()


def test_a_head_is_exported() -> None:
    for family in (Ordinal(classes=4), Multinomial(classes=3), ZeroInflated("poisson")):
        head, x = GLMHead(2, family), torch.randn(5, 2)
        program = torch.export.export(head, (x,))
        torch.testing.assert_close(program.module()(x), head(x))


@every
def test_a_row_beyond_the_range_has_the_loss_it_has_alone(family: VectorFamily) -> None:
    """Whatever the rows beside it are: the way back into a law is searched for in the rows beyond it."""
    drawn = draws(family, (4, 2))
    generator = torch.Generator().manual_seed(0)
    eta = torch.randn(len(family.predictors), 4, 2, generator=generator, dtype=torch.float64)
    eta[:, ::3, 0] *= 1e3
    loss = tg.GLMLoss(family, reduction="none", dtype=torch.float64)

    def told(rows: slice) -> tuple[Tensor, Tensor]:
        at = eta[:, rows].clone().requires_grad_()
        value = loss(at, drawn["y"][rows], **{name: part[rows] for name, part in drawn.roles.items()})
        return value.detach(), torch.autograd.grad(value.sum(), at)[0]

    values, slopes = told(slice(None))
    alone = [told(slice(k, k + 1)) for k in range(4)]
    assert bool(values.isfinite().all() and slopes.isfinite().all())
    torch.testing.assert_close(values, torch.cat([value for value, _ in alone]), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(slopes, torch.cat([slope for _, slope in alone], 1), rtol=1e-10, atol=1e-12)
