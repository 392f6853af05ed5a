"""Effects, averages and intervals of fits of several predictors: against differences by hand and their own laws."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from several_cases import families, numerical, title
from test_several import every
from test_several_inference import N, hard, of_hard, rows_of
from torch import Tensor

import torchglm as tg
from torchglm.families.several import BetaBinomial, Classes, LogTimes, Multinomial, VectorFamily
from torchglm.inference.vector.quantities import quantity
from torchglm.rows.planned import expanded
from torchglm.rows.responses import Counts

G = np.random.default_rng(4)
DATA = pd.DataFrame({"age": G.normal(size=300), "region": G.choice(list("abc"), 300), "years": G.uniform(0.5, 2, 300)})
SCORE = 0.8 * DATA.age + (DATA.region == "b") + G.logistic(size=300)
DATA["grade"] = np.select([SCORE < -0.5, SCORE < 1], ["1 low", "2 mid"], "3 top")
DATA["days"] = G.poisson(np.exp(0.5 + 0.3 * DATA.age)) * (G.random(300) < 0.7)
DATA["cost"] = G.gamma(2, np.exp(0.4 * DATA.age) * DATA.years, 300)
DATA["time"] = np.exp(1 + 0.4 * DATA.age + 0.6 * np.log(G.exponential(size=300)))
DATA["seen"] = (G.random(300) < 0.7).astype(int)


def kinds_of(family: VectorFamily) -> list[str]:
    return ["probability", "link"] if isinstance(family, Classes) else ["mean", "link", *family.predictors]


def averaged(result: tg.Result, kind: str, coef: Tensor, column: int, step: float) -> Tensor:
    """(C,) the average of a quantity over the rows with a column of their first design moved."""
    family: Any = result.family
    rows, weight, times = rows_of(result)
    moved = rows.x.clone()
    moved[..., column] += step
    offset = rows.offset[0].mT.clone()
    if family.weighted is not None:
        offset[family.predictors.index(family.weighted)] = 0
    value = quantity(family, kind).stacked(expanded(rows._replace(x=moved)) @ coef + offset)
    share = torch.where(weight > 0, times, 0.0)
    return (torch.where(weight > 0, value, 0.0) * share).sum(-1) / share.sum()


@every
def test_effects_are_differences_and_their_errors_those_of_their_slopes(family: VectorFamily) -> None:
    result = of_hard(family)
    for kind in kinds_of(family):
        found = result.marginal_effects(["x0"], kind=kind)
        coef, h = result.flat.coef[0].clone().requires_grad_(), 1e-4
        difference = (averaged(result, kind, coef, 0, h) - averaged(result, kind, coef, 0, -h)) / (2 * h)
        slope = torch.stack([torch.autograd.grad(one, coef, retain_graph=True)[0] for one in difference])
        error = torch.einsum("cp,pq,cq->c", slope, result.covariance(), slope).sqrt()
        torch.testing.assert_close(found.value, difference.detach(), rtol=1e-5, atol=1e-8)
        torch.testing.assert_close(found.std_err, error, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("family", families()[::2], ids=title)
def test_averages_at_one_row_are_its_prediction_and_interval(family: VectorFamily) -> None:
    x, drawn, _ = hard(family)
    z = x.new_tensor([[0.3]])
    result = tg.fit(x, drawn["y"], family=family, predictors=dict.fromkeys(family.others, x[:, 1:]), **drawn.roles)
    at = {"x0": 0.2, "x1": 0.3}
    at |= {f"{name}:z0": 0.3 for name in family.others}
    point = x.new_tensor([[0.2, 0.3]])
    for kind in kinds_of(family):
        found = result.predictions(at, kind=kind)
        given: Any = {"predictors": dict.fromkeys(family.others, z)}
        value, error = result.predict(point, kind=kind, se=True, **given)
        limits = result.predict_interval(point, kind=kind, **given)
        torch.testing.assert_close(found.value, value.reshape(-1))
        torch.testing.assert_close(found.std_err, error.reshape(-1), rtol=1e-7, atol=1e-12)
        torch.testing.assert_close(torch.stack([found.low, found.high], -1), limits.reshape(-1, 2))
        assert bool((limits[..., 0] < value).all() and (value < limits[..., 1]).all())


def test_effects_on_probabilities_are_those_of_statsmodels() -> None:
    sm = pytest.importorskip("statsmodels.api")
    x = pd.DataFrame({"age": DATA.age, "years": DATA.years})
    judge = sm.MNLogit(DATA.grade, sm.add_constant(x)).fit(disp=0, tol=1e-12, method="newton").get_margeff()
    found = tg.fit(x, DATA.grade, family="multinomial").marginal_effects()
    assert found.names[:2] == ["1 low:age", "1 low:years"]
    np.testing.assert_allclose(found.value.reshape(3, 2).T, judge.margeff, rtol=1e-6)
    np.testing.assert_allclose(found.std_err.reshape(3, 2).T, judge.margeff_se, rtol=1e-6)


def test_a_variable_acts_through_every_predictor_that_has_it() -> None:
    """Of frames by its name, of a formula by its terms: the same numbers."""
    frame = DATA[["age", "years"]]
    plain = tg.fit(frame, DATA.days, family=tg.ZeroInflated("poisson"), predictors={"zero": DATA[["age"]]})
    named = tg.fit("days ~ age + years", DATA, family=tg.ZeroInflated("poisson"), predictors={"zero": "~ age"})
    one, other = plain.marginal_effects(), named.marginal_effects(data=DATA)
    assert one.names == other.names == ["age", "years"]
    torch.testing.assert_close(one.value, other.value, rtol=1e-6, atol=0)
    torch.testing.assert_close(one.std_err, other.std_err, rtol=1e-6, atol=0)
    torch.testing.assert_close(
        plain.predictions({"age": [0.0, 1.0]}, kind="zero").std_err,
        named.predictions({"age": [0.0, 1.0]}, DATA, kind="zero").std_err,
        rtol=1e-7,
        atol=0,
    )
    whole = named.predict(DATA.assign(age=1.0)).mean()
    torch.testing.assert_close(plain.predictions({"age": 1.0}).value[0], whole)
    with pytest.raises(ValueError, match="no column 'zero:age'"):
        plain.marginal_effects(["zero:age"])


def test_the_effect_of_a_level_is_the_mean_difference_of_probabilities() -> None:
    r = tg.fit("grade ~ age + C(region)", DATA, family="ordinal")
    found = r.marginal_effects(["region"], DATA)
    assert found.names[0] == "1 low:region: b - a" and len(found.names) == 6
    moved = [r.predict(DATA.assign(region=level)).mean(0) for level in "abc"]
    want = torch.stack([moved[1] - moved[0], moved[2] - moved[0]], -1)
    torch.testing.assert_close(found.value.reshape(3, 2), want)


def test_offsets_and_exposure_are_part_of_the_averages() -> None:
    options: dict[str, Any] = {"family": "gamma", "link": "log", "predictors": {"dispersion": "~ age"}}
    r = tg.fit("cost ~ age", DATA, exposure="years", **options)
    plain = tg.fit(
        DATA[["age"]], DATA.cost, exposure=DATA.years, **options | {"predictors": {"dispersion": DATA[["age"]]}}
    )
    for found in (r.marginal_effects(data=DATA), plain.marginal_effects()):
        torch.testing.assert_close(found.value, (r.coef[1] * r.predict(DATA)).mean().reshape(1), rtol=1e-6, atol=0)
    with pytest.raises(ValueError, match="none is given for the new rows"):
        tg.fit("cost ~ age", DATA, exposure=DATA.years, **options).marginal_effects(data=DATA)


def test_contrasts_are_those_of_each_predictor_that_has_the_factor() -> None:
    r = tg.fit("cost ~ age + C(region)", DATA, family="gamma", link="log", predictors={"dispersion": "~ C(region)"})
    found = r.contrasts("region")
    pairs = ["b - a", "c - a", "c - b"]
    assert found.names == [*pairs, *(f"dispersion:{pair}" for pair in pairs)]
    coef = dict(zip(r.names, r.coef.tolist(), strict=True))
    own = coef["dispersion:C(region)[T.c]"] - coef["dispersion:C(region)[T.b]"]
    assert float(found.value[5]) == pytest.approx(own)
    wald = r.wald("dispersion:C(region)[T.c] = dispersion:C(region)[T.b]")
    assert float(found.p_value[5]) == pytest.approx(float(wald.p_value))
    top = tg.fit("grade ~ C(region)", DATA, family="multinomial").contrasts("region").names
    assert top == [*(f"2 mid:{pair}" for pair in pairs), *(f"3 top:{pair}" for pair in pairs)]
    slopes = tg.fit("grade ~ C(region)", DATA, family="ordinal")
    torch.testing.assert_close(slopes.contrasts("region").value[:2], slopes.coef)
    with pytest.raises(ValueError, match="no factor 'age'"):
        r.contrasts("age")


@pytest.mark.parametrize("family", list(numerical())[1::2], ids=title)
def test_limits_of_a_response_are_quantiles_of_the_law_and_of_what_the_fit_leaves_open(family: VectorFamily) -> None:
    result = of_hard(family)
    x, roles = hard(family)[0][:6], {} if not result.context["offset"] else {"offset": 0.0}
    given: Any = {"predictors": dict.fromkeys(family.others, x[:, :1])}
    if isinstance(family, BetaBinomial):
        roles["trials"] = 9.0
    sure = replace(result, flat=replace(result.flat, covariance=torch.zeros_like(result.flat_covariance)))
    own: Any = result.family
    coef = result.flat.coef[0]
    rows = rows_of(result.with_rows(x, hard(family)[1]["y"][:6], **given, **of_six(family, roles)))[0]
    z = expanded(rows)

    def tails(limits: Tensor, coef: Tensor, just: bool) -> tuple[Tensor, Tensor]:
        y: Any = Counts(limits, torch.full_like(limits, 9.0)) if isinstance(family, BetaBinomial) else limits
        (below, above), (at, over) = own.tails(y, z @ coef)
        return (below, above) if just else (at, over)

    limits = sure.predict_interval(x, kind="response", level=0.8, **given, **roles)
    low, high = limits.unbind(-1)
    exact = not (family.counts or bool((limits == 0).any()))
    atol = 1e-8 if exact else 1.0
    torch.testing.assert_close(tails(low, coef, False)[0], torch.full_like(low, 0.1), rtol=0, atol=atol)
    torch.testing.assert_close(tails(high, coef, False)[1], torch.full_like(high, 0.1), rtol=0, atol=atol)
    assert bool((tails(low, coef, False)[0] >= 0.1 - 1e-8).all() and (tails(low, coef, True)[0] <= 0.1 + 1e-8).all())
    assert bool((tails(high, coef, False)[1] <= 0.1 + 1e-8).all() and (tails(high, coef, True)[1] >= 0.1 - 1e-8).all())
    wide = result.predict_interval(x, kind="response", level=0.8, **given, **roles)
    g = torch.Generator().manual_seed(0)
    root = torch.linalg.cholesky(result.covariance())
    draws = coef + (root @ torch.randn(len(coef), 60, generator=g, dtype=torch.float64)).mT
    share = torch.stack([tails(wide[..., 1], one, False)[1] for one in draws if bool(own.valid(z @ one).all())]).mean(0)
    assert bool((share <= 0.15).all()) and (not exact or bool((share >= 0.07).all()))


def of_six(family: VectorFamily, roles: dict[str, Any]) -> dict[str, Any]:
    drawn = hard(family)[1]
    return {name: value[:6] for name, value in drawn.roles.items()} | {
        name: torch.full((6,), value, dtype=torch.float64) for name, value in roles.items()
    }


TIMES = [family for family in numerical() if isinstance(family, LogTimes)]


@pytest.mark.parametrize("family", TIMES, ids=title)
def test_survival_and_quantiles_of_times_are_those_of_the_law(family: LogTimes) -> None:
    r = tg.fit("time ~ age", DATA, family=family, event="seen")
    median, error = r.predict(DATA, kind="quantile", at=0.5, se=True)
    left = torch.stack([r.predict(DATA[k : k + 1], kind="survival", at=float(t))[0] for k, t in enumerate(median[:5])])
    torch.testing.assert_close(left, torch.full_like(left, 0.5))
    several = r.predict(DATA, kind="quantile", at=[0.1, 0.5])
    assert several.shape == (300, 2)
    torch.testing.assert_close(several[:, 1], median)
    spread = r.predict_interval(DATA, kind="quantile", at=0.5)
    want = (error / median * r.quantile(0.95)).exp()
    torch.testing.assert_close(spread, torch.stack([median / want, median * want], -1))
    curve = r.predict_interval(DATA[:3], kind="survival", at=[0.5, 1, 40])
    assert curve.shape == (3, 3, 2) and bool((curve >= 0).all() and (curve <= 1).all())
    tails: Any = r.family
    eta = torch.stack([r.predict(DATA, kind="location"), r.predict(DATA, kind="scale").log()])
    survival = r.predict(DATA, kind="survival", at=2.0)
    torch.testing.assert_close(survival, tails.tails(torch.tensor(2.0, dtype=torch.float64), eta)[0][1])
    for kind, at in (("survival", None), ("quantile", 1.0), ("survival", [0.0, 1.0])):
        with pytest.raises(ValueError, match="at="):
            r.predict(DATA, kind=kind, at=at)


def test_exponential_times_have_survival_and_quantiles_too() -> None:
    r = tg.fit("time ~ age", DATA, family="exponential", event="seen")
    weibull = tg.fit("time ~ age", DATA, family="weibull", event="seen")
    fixed = replace(weibull.flat, coef=torch.cat([r.flat.coef, torch.zeros(1, 1, dtype=torch.float64)], -1))
    cov = torch.zeros(1, 3, 3, dtype=torch.float64)
    cov[0, :2, :2] = r.covariance()
    same = replace(weibull, flat=replace(fixed, covariance=cov))
    for kind, at in (("survival", [0.5, 2.0]), ("survival", 1.0), ("quantile", [0.1, 0.5])):
        for one, other in zip(
            r.predict(DATA, kind=kind, at=at, se=True), same.predict(DATA, kind=kind, at=at, se=True), strict=True
        ):
            torch.testing.assert_close(one, other)
        torch.testing.assert_close(
            r.predict_interval(DATA, kind=kind, at=at), same.predict_interval(DATA, kind=kind, at=at)
        )
    with pytest.raises(ValueError, match="unknown kind 'survival'"):
        tg.fit("days ~ age", DATA, family="poisson").predict(DATA, kind="survival", at=1.0)


def test_batches_and_streams_say_what_their_parts_say() -> None:
    for family in (Multinomial(), tg.ZeroInflated("poisson")):
        x, drawn, _ = hard(family, 3) if not isinstance(family, Multinomial) else hard(Multinomial(classes=4), 3)
        r = tg.fit(x, drawn["y"], family=family)
        for ask in (lambda r: r.marginal_effects(), lambda r: r.predictions({"x0": [0.0, 1.0]})):
            whole = ask(r)
            for name in ("value", "std_err", "low", "high", "p_value"):
                alone = torch.stack([getattr(ask(r[k]), name) for k in range(3)])
                torch.testing.assert_close(getattr(whole, name), alone)
            rows = r.rows
            assert rows is not None
            streamed = ask(r.on([rows.between(0, 50), rows.between(50, N)]))
            torch.testing.assert_close(streamed.std_err, whole.std_err)
        limits = r.predict_interval(x[:4])
        torch.testing.assert_close(limits[1], r[1].predict_interval(x[:4]))


def test_kinds_that_nobody_knows_are_refused() -> None:
    r = tg.fit("grade ~ age", DATA, family="multinomial")
    with pytest.raises(ValueError, match="unknown kind 'scale'. Known: mean, link, probability"):
        r.marginal_effects(data=DATA, kind="scale")
    with pytest.raises(ValueError, match="a class has no interval"):
        r.predict_interval(DATA, kind="response")
    with pytest.raises(ValueError, match="unknown kind 'dispersion'. Known: mean, link"):
        tg.fit("days ~ age", DATA, family="poisson").marginal_effects(data=DATA, kind="dispersion")
    with pytest.raises(TypeError, match="takes no weights="):
        tg.fit("days ~ age", DATA, family=tg.ZeroInflated("poisson")).predict_interval(DATA, kind="response", weights=2)


def test_effects_on_the_linear_predictor_are_coefficients() -> None:
    r = tg.fit("days ~ age + years", DATA, family="poisson")
    found = r.marginal_effects(data=DATA, kind="link")
    torch.testing.assert_close(found.value, r.coef[1:], rtol=1e-7, atol=0)
    torch.testing.assert_close(found.std_err, r.std_err[1:], rtol=1e-7, atol=0)
    plain = tg.fit(DATA[["age", "years"]], DATA.days, family="poisson")
    torch.testing.assert_close(plain.marginal_effects(kind="link").std_err, plain.std_err[1:])
    at = plain.predictions({"age": 1.0, "years": 1.0}, kind="link")
    torch.testing.assert_close(at.value[0], plain.coef.sum())
