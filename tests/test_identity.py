"""A link or family is what its class is: a name, taken or inherited, changes no number at any door."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import torchglm
from torchglm import GLMHead, families, links, metrics
from torchglm.families import Family
from torchglm.links import Link

STRETCH = math.log(2)
LINKS = {
    **{link.name: (link(), "poisson") for link in (links.Log, links.Sqrt, links.Softplus)},
    **{
        link.name: (link(), "bernoulli")
        for link in (links.Logit, links.Probit, links.CLogLog, links.LogLog, links.Cauchit)
    },
    "identity": (links.Identity(), "gaussian"),
    "inverse": (links.Inverse(), "gamma"),
    "inverse_squared": (links.InverseSquared(), "inverse_gaussian"),
    "power": (links.Power(0.4), "gamma"),
}
EVERY_LINK = pytest.mark.parametrize("name", LINKS)


def copied(known: Link, name: str, stretch: float = 1.0) -> Link:
    """A link of one's own, written from `inverse` and `link` alone: `mu = known(stretch eta)`."""

    class Copy(Link):
        lower = known.lower

        def inverse(self, eta: Tensor) -> Tensor:
            return known.inverse(stretch * eta)

        def link(self, mu: Tensor) -> Tensor:
            return known.link(mu) / stretch

    Copy.name = name
    return Copy()


def child(link: Link, name: str, stretch: float | None = None) -> Link:
    """A subclass of the link's class; with `stretch` its inverse is another, `mu = link(stretch eta)`."""
    kind: Any = type(link)
    formulas: dict[str, Any] = {"name": name}
    if stretch is not None:
        formulas |= {
            "lower": link.lower,
            "inverse": lambda self, eta: link.inverse(stretch * eta),
            "link": lambda self, mu: link.link(mu) / stretch,
        }
    made = type("Child", (kind,), formulas)
    return made(link.power) if isinstance(link, links.Power) else made()


# each gives the same model as the link itself; the factor is that of its coefficients
DISGUISES: dict[str, tuple[Callable[[Link], Link], float]] = {
    "subclass, own name": (lambda link: child(link, "mine"), 1.0),
    "subclass, parent's name": (lambda link: child(link, link.name), 1.0),
    "own class, own name": (lambda link: copied(link, "mine"), 1.0),
    "own class, taken name": (lambda link: copied(link, link.name), 1.0),
    "own class, another's name": (lambda link: copied(link, "logit" if link.name == "log" else "log"), 1.0),
    "stretched subclass, own name": (lambda link: child(link, "mine", STRETCH), STRETCH),
    "stretched subclass, parent's name": (lambda link: child(link, link.name, STRETCH), STRETCH),
    "stretched own class, taken name": (lambda link: copied(link, link.name, STRETCH), STRETCH),
}
EVERY_DISGUISE = pytest.mark.parametrize("disguise", DISGUISES)


def rows(link: Link, family: str, n: int = 200, p: int = 3) -> tuple[Tensor, Tensor]:
    """Columns near each other, so that every link reaches its means, and responses of the family."""
    generator = torch.Generator().manual_seed(7)
    x = torch.rand(n, p, generator=generator, dtype=torch.float64)
    inside = torch.tensor([0.5, 0.6] if FAMILIES[family]().mean_upper == 1 else [2.0, 2.6], dtype=torch.float64)
    low, high = link.link(inside)
    coef = (high - low) * torch.tensor([1.0, 0.5, -0.5], dtype=torch.float64)
    mu = link(low + x @ coef)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        phi = torch.tensor(1.0 if family == "binomial" else 0.2, dtype=torch.float64)
        return x, FAMILIES[family]().distribution(mu, phi).sample()


def test_every_link_has_its_case() -> None:
    assert {type(link) for link, _ in LINKS.values()} == {*links.MEMBERS, links.Power}


@EVERY_DISGUISE
@EVERY_LINK
def test_a_fit_has_the_numbers_of_the_formula(name: str, disguise: str) -> None:
    link, family = LINKS[name]
    make, factor = DISGUISES[disguise]
    x, y = rows(link, family)
    truth = torchglm.fit(x, y, family=family, link=link, tol=1e-12)
    found = torchglm.fit(x, y, family=family, link=make(link), tol=1e-12)
    assert bool(truth.converged) and bool(found.converged)
    torch.testing.assert_close(found.coef * factor, truth.coef, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(found.std_err * factor, truth.std_err, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(found.deviance, truth.deviance, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.loglik, truth.loglik, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.like("R").loglik, truth.like("R").loglik, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.covariance("HC3") * factor**2, truth.covariance("HC3"), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(
        found.covariance("observed") * factor**2, truth.covariance("observed"), rtol=1e-6, atol=1e-9
    )


@pytest.mark.parametrize("disguise", ["own class, taken name", "stretched subclass, parent's name"])
@EVERY_LINK
def test_a_batch_has_the_numbers_of_the_formula(name: str, disguise: str) -> None:
    link, family = LINKS[name]
    make, factor = DISGUISES[disguise]
    x, y = rows(link, family)
    both = torch.stack([y, y.flip(0)])
    truth = torchglm.fit(x, both, family=family, link=link, tol=1e-12)
    found = torchglm.fit(x, both, family=family, link=make(link), tol=1e-12)
    torch.testing.assert_close(found.coef * factor, truth.coef, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(found.std_err * factor, truth.std_err, rtol=1e-7, atol=1e-9)


@EVERY_DISGUISE
@EVERY_LINK
def test_a_head_has_the_loss_and_gradient_of_the_formula(name: str, disguise: str) -> None:
    from torchglm.inputs import GLMBatch
    from torchglm.training.closed_form import ClosedForm

    link, family = LINKS[name]
    make, factor = DISGUISES[disguise]
    x, y = rows(link, family)
    coef = torchglm.fit(x, y, family=family, link=link).coef * 1.01
    truth, found = (GLMHead(3, family, one, dtype=torch.float64) for one in (link, make(link)))
    with torch.no_grad():
        for head, scale in ((truth, 1.0), (found, factor)):
            head.weight.copy_(coef[1:] / scale)
            assert head.bias is not None
            head.bias.copy_(coef[:1] / scale)
    losses = [head.loss(x, y) for head in (truth, found)]
    torch.testing.assert_close(*losses, rtol=1e-10, atol=1e-12)
    slopes = [torch.autograd.grad(loss, [head.weight])[0] for loss, head in zip(losses, (truth, found), strict=True)]
    torch.testing.assert_close(slopes[1] / factor, slopes[0], rtol=1e-7, atol=1e-9)
    closed = ClosedForm.of(found)
    assert closed is not None
    torch.testing.assert_close(closed(GLMBatch(x, y)).gradient[0], slopes[1], rtol=1e-7, atol=1e-9)


TRAINED = pytest.mark.parametrize("name", ["log", "logit", "identity", "inverse"])  # those with fast roads
TAKEN = pytest.mark.parametrize("disguise", ["own class, taken name", "stretched subclass, parent's name"])


@TAKEN
@TRAINED
def test_a_training_ends_at_the_optimum_of_the_formula(name: str, disguise: str, tmp_path: Path) -> None:
    from lightning.pytorch import Trainer

    from torchglm.training import GLMBatch, LitIRLS, TensorBatches, fit_sgd

    link, family = LINKS[name]
    make, factor = DISGUISES[disguise]
    x, y = rows(link, family)
    batch = GLMBatch(x, y)
    truth = torchglm.fit(x, y, family=family, link=link).coef / factor
    plain: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    stepped = GLMHead(3, family, make(link), dtype=torch.float64)
    Trainer(max_epochs=60, logger=False, enable_checkpointing=False, default_root_dir=tmp_path, **plain).fit(
        LitIRLS(stepped), TensorBatches(batch, 100)
    )
    torch.testing.assert_close(stepped.coef.detach()[0], truth, rtol=1e-6, atol=1e-8)
    polished = GLMHead(3, family, make(link), dtype=torch.float64)
    fit_sgd(polished, batch, trainer={"max_epochs": 2}, batch_size=100, polish="irls")
    torch.testing.assert_close(polished.coef.detach()[0], truth, rtol=1e-6, atol=1e-8)


@TAKEN
@TRAINED
def test_a_stream_learns_the_numbers_of_the_formula(name: str, disguise: str) -> None:
    link, family = LINKS[name]
    make, factor = DISGUISES[disguise]
    x, y = rows(link, family)
    truth, found = (torchglm.Renewable(family, one, 3) for one in (link, make(link)))
    for start in range(0, 200, 100):
        for stream in (truth, found):
            stream.update(x[start : start + 100], y[start : start + 100])
    torch.testing.assert_close(found.coef * factor, truth.coef, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(found.std_err * factor, truth.std_err, rtol=1e-6, atol=1e-8)


@EVERY_DISGUISE
def test_metrics_have_the_numbers_of_the_formula(disguise: str) -> None:
    link, family = LINKS["log"]
    make, factor = DISGUISES[disguise]
    x, y = rows(link, family)
    mu, offset = torchglm.fit(x, y, family=family, link=link).fitted, 2 * x[:, 0]
    mine = make(link)
    d2 = metrics.D2(family, mine, null=0.3 / factor)
    truth = metrics.D2(family, link, null=0.3)
    d2.update(mu, y, offset=offset / factor)
    truth.update(mu, y, offset=offset)
    torch.testing.assert_close(d2.compute(), truth.compute())
    gini, plain = metrics.Gini(family, mine), metrics.Gini(family, link)
    gini.update(mu, y, offset=offset / factor)
    plain.update(mu, y, **({"offset": offset} if mine.multiplies else {}))
    torch.testing.assert_close(gini.compute(), plain.compute())


def test_a_null_model_is_refitted_from_sums_only_where_the_link_multiplies() -> None:
    mu = torch.tensor([1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="cannot refit the null model of poisson, log link"):
        metrics.D2("poisson", copied(links.Log(), "log", STRETCH)).update(mu, mu, offset=mu)
    metrics.D2("poisson", child(links.Log(), "mine")).update(mu, mu, offset=mu)


@EVERY_LINK
def test_a_subclass_names_itself(name: str) -> None:
    link, _ = LINKS[name]
    kind: Any = type(link)
    nameless = type("Nameless", (kind,), {})
    with pytest.raises(TypeError, match=f"Nameless goes by the name '{name}' of {kind.__name__}.*nameless"):
        nameless(0.5) if kind is links.Power else nameless()


def test_a_link_without_a_name_is_refused_where_it_is_used() -> None:
    class Nameless(Link):
        pass

    with pytest.raises(TypeError, match="link Nameless has no name"):
        torchglm.fit(torch.ones(4, 1), torch.ones(4), family="poisson", link=Nameless())


def test_forward_is_not_to_be_overridden() -> None:
    with pytest.raises(TypeError, match="Write inverse"):
        type("Forward", (links.Log,), {"name": "forward", "forward": lambda self, eta: eta})


def test_a_stretched_logarithm_shifts_no_rates_and_multiplies_nothing() -> None:
    mine = child(links.Log(), "log", STRETCH)
    x, y = rows(links.Log(), "poisson")
    with pytest.raises(ValueError, match="exposure needs a link on whose scale rates multiply"):
        torchglm.fit(x, y, family="poisson", link=mine, exposure=y + 1)
    fit = torchglm.fit(x, y, family="poisson", link=mine)
    with pytest.raises(ValueError, match="exp\\(coef\\) is not a ratio"):
        fit.ratios()
    assert "Rate ratio" not in fit.summary().to_text()
    assert mine.exponent is None and not mine.multiplies and not mine.rates


def test_fits_of_two_classes_of_one_name_are_not_nested() -> None:
    x, y = rows(links.Log(), "poisson")
    big = torchglm.fit(x, y, family="poisson")
    small = torchglm.fit(x[:, :1], y, family="poisson", link=copied(links.Log(), "log"))
    with pytest.raises(ValueError, match="differ in link: log .*Copy"):
        big.lr_test(small)


# families -----------------------------------------------------------------------------------------------------

FAMILIES: dict[str, Callable[[], Family]] = {
    **{kind.name: kind for kind in families.MEMBERS if kind not in (families.NegativeBinomial, families.Tweedie)},
    "negative_binomial": lambda: families.NegativeBinomial(0.5),
    "tweedie": lambda: families.Tweedie(1.6),
}
EVERY_FAMILY = pytest.mark.parametrize("name", FAMILIES)
LAW = ("variance", "unit_deviance", "nll", "nll_saturated", "log_base", "initial_mean", "valid_mean", "distribution")


def turned(parent: type[Family], law: Family, name: str) -> Family:
    """A subclass of `parent` with every formula of another law, and a name that may be taken."""

    def formula(of: str) -> Callable[..., Any]:
        return lambda self, *given, **named: getattr(law, of)(*given, **named)

    facts = ("has_dispersion", "support", "support_text", "mean_lower", "mean_upper", "durations")
    own = {"name": name, **{of: formula(of) for of in LAW}, **{fact: getattr(law, fact) for fact in facts}}
    if law.durations:
        own |= {of: formula(of) for of in ("score_and_weight", "encode", "supports", "crps")}
    made: Any = type("Turned", (parent,), own)
    shaped = {families.NegativeBinomial: 0.3, families.Tweedie: 1.2}
    return made(shaped[parent]) if parent in shaped else made()


def same_family(family: Family) -> Family:
    """A subclass without formulas of its own."""
    kind: Any = type(family)
    made = type("Same", (kind,), {"name": "mine"})
    if isinstance(family, families.NegativeBinomial):
        return made(float(family.alpha.detach()))
    return made(1.6) if isinstance(family, families.Tweedie) else made()


def agree(found: torchglm.Result, truth: torchglm.Result) -> None:
    assert bool(found.converged) and bool(truth.converged)
    for what in ("coef", "std_err", "deviance", "pearson_chi2", "loglik", "dispersion", "null_deviance"):
        torch.testing.assert_close(getattr(found, what), getattr(truth, what), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("parent", families.MEMBERS)
@EVERY_FAMILY
def test_a_family_is_its_formulas_whatever_its_parent_and_name(name: str, parent: type[Family]) -> None:
    law = FAMILIES[name]()
    link = links.Logit() if law.mean_upper == 1 else links.Log()
    x, y = rows(link, name)
    truth = torchglm.fit(x, y, family=law, link=link, tol=1e-12)
    disguised = turned(parent, law, parent.name)
    found = torchglm.fit(x, y, family=disguised, link=link, tol=1e-12)
    agree(found, truth)
    assert bool(found.like("R").loglik.isnan())
    head = GLMHead(3, disguised, link, dtype=torch.float64)
    plain = GLMHead(3, law, link, dtype=torch.float64)
    torch.testing.assert_close(head.loss(x, y), plain.loss(x, y))
    for metric in (metrics.Deviance, metrics.NLL):
        values = [metric(one, link=link) for one in (disguised, law)]
        for value in values:
            value.update(found.fitted, y)
        torch.testing.assert_close(values[0].compute(), values[1].compute())


@EVERY_FAMILY
def test_a_subclass_without_formulas_is_its_parent(name: str) -> None:
    law = FAMILIES[name]()
    link = links.Logit() if law.mean_upper == 1 else links.Log()
    x, y = rows(link, name)
    agree(
        torchglm.fit(x, y, family=same_family(law), link=link, tol=1e-12),
        torchglm.fit(x, y, family=law, link=link, tol=1e-12),
    )


@EVERY_FAMILY
def test_a_family_with_another_variance_says_what_it_lacks(name: str) -> None:
    kind: Any = type(FAMILIES[name]())
    made = type("Quasi", (kind,), {"name": "quasi", "variance": lambda self, mu: mu**1.3})()
    assert made.canonical is None and not made.least_squares
    x, y = rows(links.Log(), "poisson")
    with pytest.raises(NotImplementedError, match="Quasi does not say its (unit_deviance|nll|score_and_weight)"):
        torchglm.fit(x, (y > 0).double() if made.mean_upper == 1 else y + 1, family=made, link="log")


@EVERY_FAMILY
def test_a_subclass_of_a_family_names_itself(name: str) -> None:
    kind: Any = type(FAMILIES[name]())
    with pytest.raises(TypeError, match=f"Nameless goes by the name '{name}' of {kind.__name__}"):
        type("Nameless", (kind,), {})()


def test_the_gradient_of_a_family_of_ones_own_is_that_of_its_nll() -> None:
    from torchglm.training.closed_form import ClosedForm

    class Doubled(families.Poisson):
        name = "poisson"

        def nll(self, y: Tensor, eta: Tensor, link: Link) -> Tensor:
            return 2 * super().nll(y, eta, link)

    assert ClosedForm.of(GLMHead(3, Doubled())) is None
    assert ClosedForm.of(GLMHead(3, "poisson")) is not None


def test_a_family_without_a_canonical_link_asks_for_one() -> None:
    quasi = type("Quasi", (families.Poisson,), {"name": "quasi", "variance": lambda self, mu: mu**1.3})()
    with pytest.raises(ValueError, match="the family quasi names no canonical link. Pass link="):
        torchglm.fit(torch.ones(4, 1), torch.ones(4), family=quasi)


def test_a_shape_that_no_fit_can_estimate_is_refused_in_words() -> None:
    class Shaped(families.Poisson):
        name = "shaped"

        def __init__(self) -> None:
            super().__init__()
            self.extra = torch.nn.Parameter(torch.zeros(()))

    x, y = rows(links.Log(), "poisson")
    with pytest.raises(ValueError, match="not that of Shaped. Give its value"):
        torchglm.fit(x, y, family=Shaped(), link="log")


@pytest.mark.parametrize("name", ["negative_binomial", pytest.param("tweedie", marks=pytest.mark.slow)])
def test_a_subclass_estimates_the_shape_of_its_parent(name: str) -> None:
    kind: Any = families.BY_NAME[name]
    x, y = rows(links.Log(), name)
    truth = torchglm.fit(x, y, family=kind(), link="log")
    found = torchglm.fit(x, y, family=type("Mine", (kind,), {"name": "mine"})(), link="log")
    torch.testing.assert_close(found.coef, truth.coef, rtol=1e-7, atol=1e-9)
    mine, theirs = (fit.shape_parameters()["estimate"] for fit in (found, truth))
    torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-8)
