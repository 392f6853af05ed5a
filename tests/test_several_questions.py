"""Tests of links, spread, zeros and fit asked of laws of several predictors: laws they obey, and what they find."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Beta, Binomial, Gamma

import torchglm as tg
from torchglm.families.several import Plain

G = torch.Generator().manual_seed(7)
X = 2 * torch.rand(300, 2, generator=G, dtype=torch.float64) - 1
MU = (0.5 + 0.6 * X[:, 0] - 0.4 * X[:, 1]).exp()
COUNTS = torch.poisson(MU, generator=G)
close = torch.testing.assert_close


def test_one_predictor_in_the_form_of_several_answers_as_it_does_alone() -> None:
    options: dict[str, Any] = {"offset": 0.1 * X[:, 1].square(), "tol": 1e-12}
    plain = tg.fit(X, COUNTS, family="poisson", **options)
    wrapped = tg.fit(X, COUNTS, family=Plain(tg.Poisson()), **options)
    for ask in ("link_test", "power_link_test", "zero_test"):
        one, other = getattr(plain, ask)(), getattr(wrapped, ask)()
        close(other.statistic, one.statistic, rtol=1e-8, atol=1e-10, msg=ask)
        close(other.df, one.df)
    close(wrapped.dffits()[:, 0], plain.dffits(), rtol=1e-8, atol=1e-10)
    close(wrapped.standardized().value, plain.standardized().value, rtol=1e-8, atol=1e-12)
    close(wrapped.standardized().std_err, plain.standardized().std_err, rtol=1e-8, atol=1e-12)
    close(wrapped.like("R").aic, plain.like("R").aic)
    close(wrapped.like("R").bic, plain.like("R").bic)
    assert set(wrapped.check().tests) >= {"link", "zeros"}


@pytest.mark.parametrize("family", [tg.Multinomial(), tg.Ordinal(), tg.Ordinal(kind="adjacent")])
def test_two_classes_are_a_bernoulli(family: Any) -> None:
    x = X[:60].round(decimals=0).repeat_interleave(5, 0)
    y = (torch.rand(300, generator=G, dtype=torch.float64) < (0.3 + x[:, 0]).sigmoid()).long()
    plain = tg.fit(x, y.double(), family="bernoulli", tol=1e-12)
    two = tg.fit(x, y, family=family, tol=1e-12)
    ours, theirs = two.hosmer_lemeshow(4), plain.hosmer_lemeshow(4)
    close(ours.statistic, theirs.statistic, rtol=1e-7, atol=0)
    close(ours.df, theirs.df)
    close(two.link_test().statistic, plain.link_test().statistic, rtol=1e-6, atol=1e-9)
    patterns, place = torch.unique(x, dim=0, return_inverse=True)
    trials = torch.bincount(place).double()
    hits = torch.zeros_like(trials).index_add(0, place, y.double())
    binomial = tg.fit(patterns, hits, family="binomial", trials=trials, tol=1e-12)
    for kind in ("deviance", "pearson"):
        ours, theirs = two.goodness_of_fit(kind), binomial.goodness_of_fit(kind)
        close(ours.statistic, theirs.statistic, rtol=1e-7, atol=1e-9)
        close(ours.df, theirs.df)


def test_link_and_variance_tests_are_score_tests_of_their_columns() -> None:
    y = MU.sqrt() * torch.randn(300, generator=G, dtype=torch.float64) + 3 * MU
    r = tg.fit(X, y, family="gaussian", predictors={"dispersion": X[:, :1]})
    eta = r.predict(X, predictors={"dispersion": X[:, :1]}, kind="link")
    log_phi = r.predict(X, predictors={"dispersion": X[:, :1]}, kind="dispersion").log()
    for name, column in (("mean", eta), ("dispersion", log_phi)):
        far = (column - column.mean()).square()
        close(r.link_test(name).statistic, r.score_test(far, predictor=name).statistic)
    close(r.variance_test().statistic, r.score_test(eta, predictor="dispersion").statistic)
    assert float(r.link_test().df) == 2
    with pytest.raises(ValueError, match="Known: mean, dispersion"):
        r.link_test("scale")
    with pytest.raises(ValueError, match="this fit has one"):
        tg.fit(X, COUNTS, family="poisson").link_test("mean")


@pytest.mark.parametrize("kind", [tg.ZeroInflated, tg.Hurdle])
def test_the_test_of_counts_within_is_the_slope_of_the_likelihood_by_alpha(kind: Any) -> None:
    generator = torch.Generator().manual_seed(3)
    n = 1500
    x = 2 * torch.rand(n, 1, generator=generator, dtype=torch.float64) - 1
    y = torch.poisson((1 + 0.5 * x[:, 0]).exp(), generator=generator)
    y = torch.where(torch.rand(n, generator=generator, dtype=torch.float64) < 0.3, 0.0, y)
    r = tg.fit(x, y, family=kind("poisson"))
    wider, step = kind("negative_binomial"), 1e-5
    eta = torch.stack([r.coef[0] + r.coef[1] * x[:, 0], r.coef[2].expand(n)])
    alpha = torch.full((1, n), step, dtype=torch.float64).log()
    slope = (r.family.nll(y, eta).sum() - wider.nll(y, torch.cat([eta, alpha])).sum()) / step
    found = r.dispersion_test()
    assert ("more" if float(slope) > 0 else "less") in found.notes[0]
    # the likelihood ratio of a small step along alpha says the same of its size
    with_alpha = tg.fit(x, torch.where(y > 0, y + (y > 3), y), family=kind("poisson"))
    assert float(with_alpha.dispersion_test().p_value) < 0.01 < float(found.p_value)


def test_alpha_as_a_constant_predictor_is_the_shape_of_the_plain_family() -> None:
    y = torch.poisson(MU * Gamma(torch.full((300,), 2.0).double(), 2.0).sample())
    plain = tg.fit(X, y, family="negative_binomial", tol=1e-12).shape_parameters()
    several = tg.fit(X, y, family="negative_binomial", predictors={"alpha": "~ 1"}, tol=1e-12).shape_parameters()
    assert list(several.rows) == list(plain.rows) == ["alpha", "theta"]
    for column in ("estimate", "lower", "upper", "std_err"):
        close(several[column], plain[column], rtol=1e-4, atol=0)
    with pytest.raises(ValueError, match="one number for all rows"):
        tg.fit(X, y, family="negative_binomial", predictors={"alpha": X}).shape_parameters()


def test_standardized_ordinal_coefficients_are_in_units_of_the_latent_response() -> None:
    latent = 2 * X[:, 0] + torch.randn(300, generator=G, dtype=torch.float64)
    r = tg.fit(X, (latent > -1).long() + (latent > 1), family=tg.Ordinal("probit"))
    spread = ((X @ r.coef).var() + 1).sqrt()
    close(r.standardized(response=True).value, r.coef * X.std(0) / spread)
    close(r.standardized().value, r.coef * X.std(0))
    with pytest.raises(ValueError, match="first predictor"):
        tg.fit(X, COUNTS, family=tg.ZeroInflated("poisson")).standardized(response=True)


def draws(name: str, models: int) -> tuple[Tensor, dict[str, Any]]:
    """(B, n) responses drawn from a law, and how it is fitted."""
    shape, uniform = (models, len(X)), torch.rand(models, len(X), generator=G, dtype=torch.float64)
    z = X[:, 1:]
    if name == "multinomial":
        eta = torch.stack([torch.zeros(300), 0.2 + 0.8 * X[:, 0], 0.5 * X[:, 1] - 0.3], -1)
        below = eta.softmax(-1).cumsum(-1)[:, :2]
        return (uniform.unsqueeze(-1) > below).sum(-1), {"family": tg.Multinomial(classes=3)}
    if name == "ordinal":
        below = (torch.tensor([-1.0, 0.0, 1.2]) - 0.8 * X[:, :1]).sigmoid()
        return (uniform.unsqueeze(-1) > below).sum(-1), {"family": tg.Ordinal(classes=4)}
    if name == "zero_inflated":
        y = torch.poisson(2 * MU.expand(shape), generator=G)
        y = torch.where(uniform < (z[:, 0] - 1).sigmoid(), 0.0, y)
        return y, {"family": tg.ZeroInflated("poisson"), "predictors": {"zero": z}}
    if name == "alpha":
        r = (0.7 - 0.5 * z[:, 0]).exp()
        y = torch.poisson(2 * MU * Gamma(r, r).sample((models,)))
        return y, {"family": "negative_binomial", "predictors": {"alpha": z}}
    if name == "beta_binomial":
        p = (0.5 * X[:, 0]).sigmoid()
        y = Binomial(10, Beta(6 * p, 6 * (1 - p)).sample((models,))).sample()
        return y, {"family": "beta_binomial", "trials": torch.full((300,), 10.0)}
    a = (0.7 - 0.4 * z[:, 0]).exp()
    return Gamma(a, a / MU).sample((models,)), {"family": "gamma", "link": "log", "predictors": {"dispersion": z}}


LAWS = ("multinomial", "ordinal", "zero_inflated", "alpha", "beta_binomial", "gamma")
ASKED = ("link_test", "goodness_of_fit", "hosmer_lemeshow", "zero_test", "dispersion_test", "variance_test")


def answers(r: tg.Result) -> dict[str, Tensor]:
    """The p-values of what has an answer."""
    found = {topic: test.p_value for topic, test in r.check().tests.items()}
    for name in ASKED:
        try:
            if not (name == "goodness_of_fit" and r.family.name == "dispersed"):  # by quantiles of every row
                found[name] = getattr(r, name)().p_value
        except ValueError:
            continue
    if isinstance(r.family, tg.Multinomial | tg.Ordinal):  # of patterns of one row each
        del found["goodness_of_fit"]
    return found


def test_cells_of_amounts_hold_their_size_and_find_another_law() -> None:
    noise = torch.randn(40, 300, generator=G, dtype=torch.float64)
    options = {"family": "gaussian", "predictors": {"dispersion": X[:, 1:]}}
    right = tg.fit(X, X[:, 0] + noise * (0.3 * X[:, 1]).exp(), **options).goodness_of_fit()
    assert float((right.p_value < 0.05).double().mean()) <= 0.2 and bool((right.df == 9).all())
    skew = tg.fit(X, X[:, 0] + noise[:5].exp(), **options).goodness_of_fit()
    assert float(skew.p_value.max()) < 1e-4


@pytest.mark.parametrize("name", LAWS)
def test_a_right_law_is_seldom_doubted(name: str) -> None:
    y, options = draws(name, 40)
    r = tg.fit(X, y, **options)
    for topic, p in answers(r).items():
        p = p[~p.isnan()]
        assert len(p) > 20 and float((p < 0.05).double().mean()) <= 0.2, topic  # 9 of 40 at 5 %: p < 0.001
        assert float(p.mean()) == pytest.approx(0.5, abs=0.2), topic
    assert float(r.check().silent.double().mean()) > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("name", LAWS)
def test_tests_hold_their_size(name: str) -> None:
    y, options = draws(name, 1000)
    for topic, p in answers(tg.fit(X, y, **options)).items():
        p = p[~p.isnan()]
        assert 0.025 <= float((p < 0.05).double().mean()) <= 0.08, topic


def test_what_is_wrong_is_found() -> None:
    bent = torch.poisson((0.5 + X[:, 0] + X[:, 0].square()).exp().repeat(4), generator=G)
    x = X.repeat(4, 1)
    one = tg.fit(x, bent, family=tg.ZeroInflated("poisson"), max_iter=200)
    assert float(one.link_test().p_value) < 1e-4 and one.check().found("link")
    heavy = torch.poisson(2 * MU.repeat(4) * Gamma(torch.tensor(1.0).double(), 1.0).sample((1200,)))
    inside = tg.fit(x, heavy, family=tg.Hurdle("poisson"))
    assert float(inside.dispersion_test().p_value) < 1e-6 and float(inside.goodness_of_fit().p_value) < 1e-6
    assert "Hurdle('negative_binomial')" in str(inside.check())
    more = torch.where(torch.rand(1200, generator=G) < 0.4, 0.0, torch.poisson(4 * MU.repeat(4), generator=G))
    plain = tg.fit(x, more, family="negative_binomial", predictors={"alpha": "~ 1"})
    assert float(plain.zero_test().p_value) < 1e-3 and "more zeros" in str(plain.check())
    cubic = (0.8 * X[:, 0] + X[:, 0].square() * 2).repeat(4) + torch.randn(1200, generator=G, dtype=torch.float64)
    for family in (tg.Multinomial(), tg.Ordinal()):
        classes = tg.fit(x, (cubic > 0).long() + (cubic > 1), family=family)
        assert float(classes.link_test().p_value) < 1e-4 and float(classes.hosmer_lemeshow().p_value) < 1e-4


@pytest.mark.parametrize(
    ("family", "named"),
    [
        (tg.Multinomial(classes=["low", "mid", "high"]), ["high:", "to +infinity"]),
        (tg.Ordinal(classes=["low", "mid", "high"]), ["dose to +infinity"]),
        (tg.Ordinal(kind="continuation", classes=["low", "mid", "high"]), ["dose to +infinity"]),
        (tg.Ordinal(kind="adjacent", classes=["low", "mid", "high"]), ["dose to +infinity"]),
    ],
)
def test_a_separated_model_names_its_class_and_its_column(family: Any, named: list[str]) -> None:
    y = (X[:, 0] > -0.3).long() + (X[:, 0] > 0.4)
    with pytest.warns(tg.FitWarning):
        r = tg.fit(X, y, family=family, names=["dose", "age"])
    found = r.separation()
    assert bool(found.found) and float(found.rows) > 100 and found.names == r.all_names
    assert all(part in str(r.check()) for part in named), str(r.check())
    quiet = tg.fit(X, (torch.rand(300, generator=G) * 3).long(), family=type(family)(classes=3)).separation()
    assert not bool(quiet.found) and float(quiet.rows) == 0


def test_zeros_that_nothing_makes_are_a_separation_of_their_predictor() -> None:
    y = torch.where(X[:, 1] > 0, 0.0, 1 + COUNTS)
    with pytest.warns(tg.FitWarning):
        r = tg.fit(X, y, family=tg.Hurdle("poisson"), predictors={"zero": X[:, 1:]})
    found = r.separation()
    assert bool(found.found) and found.columns()[0].startswith("zero:")


def test_a_copy_of_a_family_knows_on_which_side_its_responses_lie() -> None:
    y = MU + torch.randn(300, generator=G, dtype=torch.float64)
    r = tg.fit(X, y, family="gaussian", predictors={"dispersion": "~ 1"})
    again = copy.deepcopy(r.family)
    assert again.support is tg.Gaussian.support
    limits = r.predict_interval(X, kind="response", level=0.9)
    assert 0.85 < float(((y > limits[:, 0]) & (y < limits[:, 1])).double().mean()) < 0.95


def test_other_rows_and_what_has_no_answer_are_refused_in_words() -> None:
    r = tg.fit(X, COUNTS, family=tg.ZeroInflated("poisson"), max_iter=200)
    with pytest.raises(ValueError, match="not the rows of the fit"):
        r.with_rows(X, COUNTS.flip(0)).check()
    times = tg.fit(X, COUNTS + 0.5, family="weibull", event=(X[:, 0] > 0).double())
    for ask, words in (
        ("goodness_of_fit", "censored"),
        ("zero_test", "does not"),
        ("dispersion_test", "Use variance_test"),
        ("hosmer_lemeshow", "Use goodness_of_fit"),
        ("power_link_test", "Use link_test"),
    ):
        with pytest.raises(ValueError, match=words):
            getattr(times, ask)()
    with pytest.raises(ValueError, match="predictor of their own"):
        tg.fit(X, COUNTS, family=tg.Hurdle("poisson")).zero_test()
    with pytest.raises(ValueError, match="none is left"):
        r.variance_test()
    with pytest.raises(ValueError, match="Known: cells"):
        r.goodness_of_fit("pearson")
