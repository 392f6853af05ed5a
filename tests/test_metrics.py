"""Metrics against scikit-learn and closed forms; merges, weights, offsets and shapes for every one."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from sklearn import metrics as sk
from torch import Tensor

import torchglm.metrics as ours
from torchglm import families, links
from torchglm.metrics import CRPS, D2, NLL, CalibrationError, Coverage, Deviance, Gini, LiftTable, ObservedExpected
from torchglm.metrics import PearsonDispersion as Pearson
from torchglm.metrics.base import FamilyMetric
from torchglm.metrics.classes import Accuracy, ClassMetric, Concordance

FAMILIES = [
    "gaussian",
    "bernoulli",
    "binomial",
    "poisson",
    "gamma",
    "exponential",
    "inverse_gaussian",
    "negative_binomial",
    "tweedie",
]
METRICS = [Deviance, D2, NLL, Pearson, ObservedExpected, Gini, LiftTable, CalibrationError]


def rows(name: str, n: int = 400, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """A mean, a response and a weight (n,) each, inside the family's support."""
    rng = torch.Generator().manual_seed(3)
    u, v = torch.rand(n, generator=rng, dtype=dtype), torch.rand(n, generator=rng, dtype=dtype)
    weight = 0.5 + torch.rand(n, generator=rng, dtype=dtype)
    if name in ("bernoulli", "binomial"):
        return 0.1 + 0.8 * u, (v < u).to(dtype), weight
    if name == "gaussian":
        return 1000 + u, 1000 + u + v, weight
    mu = 0.5 + 3 * u
    if name in ("poisson", "negative_binomial", "tweedie"):
        return mu, (4 * mu * v * v).floor(), weight
    return mu, mu * (0.2 + 2 * v), weight


def value(metric: FamilyMetric) -> Tensor:
    found = metric.compute()
    return found if isinstance(found, Tensor) else torch.stack(list(found.values()))


def test_every_metric_is_tested() -> None:
    assert {getattr(ours, name) for name in ours.__all__ if name[0].isupper()} == {
        FamilyMetric,
        *METRICS,
        CRPS,
        Coverage,  # these two in test_metrics_predictive
        Concordance,
        *ClassMetric.__subclasses__(),
        Accuracy,
    }  # in test_metrics_classes


POWERS = {"gaussian": 0, "poisson": 1, "gamma": 2, "inverse_gaussian": 3}


@pytest.mark.parametrize(("name", "power"), POWERS.items())
def test_deviance_and_d2_are_scikit_learns(name: str, power: float) -> None:
    mu, y, weight = rows(name)
    y = y + (0 if name == "poisson" else 0.01)
    deviance, d2 = Deviance(name), D2(name)
    deviance.update(mu, y, weights=weight)
    d2.update(mu, y, weights=weight)
    known = dict(sample_weight=weight.numpy(), power=power)
    expected = sk.mean_tweedie_deviance(y.numpy(), mu.numpy(), **known)
    assert float(deviance.compute()) == pytest.approx(expected)
    assert float(d2.compute()) == pytest.approx(sk.d2_tweedie_score(y.numpy(), mu.numpy(), **known))


def test_bernoulli_is_the_log_loss() -> None:
    mu, y, weight = rows("bernoulli")
    loss = sk.log_loss(y.numpy(), mu.numpy(), sample_weight=weight.numpy())
    assert float(ours.nll(mu, y, "bernoulli", weights=weight)) == pytest.approx(loss)
    assert float(ours.deviance(mu, y, "bernoulli", weights=weight)) == pytest.approx(2 * loss)
    explained = sk.d2_log_loss_score(y.numpy(), mu.numpy(), sample_weight=weight.numpy())
    assert float(ours.d2(mu, y, "bernoulli", weights=weight)) == pytest.approx(explained)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.__name__)
def test_parts_make_the_whole(metric: type[FamilyMetric], name: str) -> None:
    mu, y, weight = rows(name)
    whole, stepwise, first, second = (metric(name) for _ in range(4))
    whole.update(mu, y, weights=weight)
    cuts = [0, 1, 40, 40, 300, 400]  # a single row and no row at all among them
    for start, stop in zip(cuts, cuts[1:], strict=False):
        stepwise(mu[start:stop], y[start:stop], weights=weight[start:stop])  # update, and the value of the step
    first.update(mu[:90], y[:90], weights=weight[:90])
    second.update(mu[90:], y[90:], weights=weight[90:])
    first.merge_state(second)
    assert torch.isfinite(value(whole)).any()  # empty bins of a table hold NaN
    close = dict(rtol=1e-9, atol=1e-12, equal_nan=True)
    torch.testing.assert_close(value(stepwise), value(whole), **close)
    torch.testing.assert_close(value(first), value(whole), **close)


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.__name__)
def test_weight_zero_is_a_dropped_row(metric: type[FamilyMetric]) -> None:
    mu, y, weight = rows("gamma")
    weight[::3] = 0.0
    kept, dropped, empty = weight > 0, metric("gamma"), metric("gamma")
    y_bad, mu_bad = torch.where(kept, y, -1.0), torch.where(kept, mu, torch.nan)
    dropped.update(mu_bad, y_bad, weights=weight)
    dropped.update(mu_bad[:4], y_bad[:4], weights=torch.zeros(4, dtype=y.dtype))
    empty.update(mu[kept], y[kept], weights=weight[kept])
    torch.testing.assert_close(value(dropped), value(empty), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["poisson", "exponential", "gaussian", "bernoulli"])
@pytest.mark.parametrize("metric", [*METRICS, CRPS], ids=lambda m: m.__name__)
def test_one_nan_or_a_weight_below_zero_makes_the_value_nan(metric: type[FamilyMetric], name: str) -> None:
    mu, y, weight = rows(name)
    for bad, number in [(0, torch.nan), (1, torch.nan), (2, torch.nan), (2, -1.0)]:
        given = [mu.clone(), y.clone(), weight.clone()]
        given[bad][7] = number
        found, sound = metric(name), metric(name)
        found.update(given[0], given[1], weights=given[2])
        sound.update(mu, y, weights=weight)
        if isinstance(found, LiftTable):
            assert bool(found.compute()["observed"].isnan().all())
        else:
            assert bool(found.compute().isnan()) and bool(sound.compute().isfinite()), (bad, number)


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.__name__)
def test_float32_sums_are_float64_and_copies_work(metric: type[FamilyMetric]) -> None:
    mu, y, weight = rows("poisson")
    first, second = metric("poisson"), metric("poisson")
    first.update(mu.float(), y.float(), weights=weight.float())
    second.update(mu.float().double(), y, weights=weight.float().double())
    copied = pickle.loads(pickle.dumps(copy.deepcopy(first)))
    assert first.sums.dtype == torch.float64 and not list(first.parameters()) and not first.state_dict()
    assert torch.equal(value(first), value(second)) and torch.equal(value(copied), value(first))
    copied.update(mu, y)
    copied.reset()
    assert bool((copied.sums == 0).all())


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.__name__)
def test_shapes_are_never_broadcast(metric: type[FamilyMetric]) -> None:
    mu, y, weight = rows("poisson")
    with pytest.raises(ValueError, match=r"one shape, got \(400, 2\) and \(400,\)"):
        metric("poisson").update(mu.unsqueeze(-1).expand(-1, 2), y)
    with pytest.raises(ValueError, match=r"weights must have the shape of y"):
        metric("poisson").update(mu, y, weights=weight[:5])
    with pytest.raises(ValueError, match=r"weights must have the shape of y"):
        metric("poisson").update(mu, y, weights=weight.unsqueeze(-1).expand(-1, 2))


def test_several_responses_share_row_weights() -> None:
    mu, y, weight = rows("poisson")
    both = ours.deviance(torch.stack([mu, mu + 1], -1), torch.stack([y, y], -1), "poisson", weights=weight)
    each = [ours.deviance(m, y, "poisson", weights=weight) for m in (mu, mu + 1)]
    torch.testing.assert_close(both, (each[0] + each[1]) / 2)


def null_deviance(name: str, link: str, y: Tensor, weight: Tensor, offset: Tensor) -> Tensor:
    """The smallest weighted deviance over intercepts, by golden section."""
    family, known = families.get(name), links.get(link)

    def at(b: float) -> Tensor:
        return (weight * family.unit_deviance(y, known(b + offset))).sum()

    low, high, ratio = -3.0, 8.0, (5**0.5 - 1) / 2
    for _ in range(100):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, right) if at(left) < at(right) else (left, high)
    return at(low)


@pytest.mark.parametrize("name", [*POWERS, "exponential", "tweedie"])
def test_d2_refits_the_null_model_with_the_offset(name: str) -> None:
    mu, y, weight = rows(name)
    y = y - 998 if name == "gaussian" else y
    offset = torch.linspace(-0.7, 0.9, len(y), dtype=torch.float64)
    metric = D2(name, "log")
    for part in (slice(0, 130), slice(130, 400)):
        metric.update(mu[part], y[part], weights=weight[part], offset=offset[part])
    null = null_deviance(name, "log", y, weight, offset).detach()
    expected = 1 - ours.deviance(mu, y, name, weights=weight) * weight.sum() / null
    assert float(metric.compute()) == pytest.approx(float(expected), abs=1e-9)
    by_exposure = ours.d2(mu, y, name, weights=weight, link="log", exposure=offset.exp())
    torch.testing.assert_close(metric.compute(), by_exposure)


def test_d2_with_the_identity_link_and_an_offset() -> None:
    mu, y, weight = rows("gaussian")
    offset = torch.linspace(-30, 900, len(y), dtype=torch.float64)
    centred = y - offset
    mean = (weight * centred).sum() / weight.sum()
    expected = 1 - (weight * (y - mu) ** 2).sum() / (weight * (centred - mean) ** 2).sum()
    torch.testing.assert_close(ours.d2(mu, y, "gaussian", weights=weight, offset=offset), expected)


def test_d2_takes_a_null_intercept_where_sums_do_not_suffice() -> None:
    mu, y, weight = rows("bernoulli")
    offset = torch.linspace(-1, 1, len(y), dtype=torch.float64)
    with pytest.raises(ValueError, match="null=intercept"):
        D2("bernoulli").update(mu, y, weights=weight, offset=offset)
    metric = D2("bernoulli", null=0.3)
    metric.update(mu[:100], y[:100], weights=weight[:100], offset=offset[:100])
    metric.update(mu[100:], y[100:], weights=weight[100:], offset=offset[100:])
    null = ours.deviance(torch.sigmoid(offset + 0.3), y, "bernoulli", weights=weight)
    torch.testing.assert_close(metric.compute(), 1 - ours.deviance(mu, y, "bernoulli", weights=weight) / null)


def test_d2_of_a_gaussian_far_from_zero_keeps_its_digits() -> None:
    y = 1e8 + torch.arange(10.0, dtype=torch.float64)
    metric = D2("gaussian")
    for one in y.split(1):
        metric.update(one - 1, one)
    assert float(metric.compute()) == pytest.approx(1 - 10 / 82.5, rel=1e-12)


def test_batches_of_one_outcome_only() -> None:
    alike = {"poisson": [0.0, 0.0, 3.0], "bernoulli": [0.0, 1.0, 1.0], "tweedie": [0.0, 0.0, 2.5]}
    for name, y in alike.items():
        response, mu = torch.tensor(y, dtype=torch.float64), torch.full((3,), 0.4, dtype=torch.float64)
        metric = D2(name)
        for i in range(3):
            metric.update(mu[i : i + 1], response[i : i + 1])
        null = ours.deviance(response.mean().expand(3), response, name)
        expected = 1 - ours.deviance(mu, response, name) / null
        assert float(metric.compute()) == pytest.approx(float(expected), abs=1e-9), name


def test_censored_times() -> None:
    mu, y, weight = rows("exponential")
    event = (torch.arange(400) % 3 > 0).double()
    event[:50] = 0.0  # the first batch holds no event
    metric, ratio = D2("exponential"), ObservedExpected("exponential")
    for part in (slice(0, 50), slice(50, 400)):
        metric.update(mu[part], y[part], weights=weight[part], event=event[part])
        ratio.update(mu[part], y[part], weights=weight[part], event=event[part])
    mean = (weight * y).sum() / (weight * event).sum()
    null = ours.deviance(mean.expand_as(y), y, "exponential", weights=weight, event=event)
    expected = 1 - ours.deviance(mu, y, "exponential", weights=weight, event=event) / null
    torch.testing.assert_close(metric.compute(), expected)
    torch.testing.assert_close(ratio.compute(), (weight * event).sum() / (weight * y / mu).sum())


def test_trials() -> None:
    mu, _, weight = rows("binomial")
    trials = 1 + torch.arange(400, dtype=torch.float64) % 7
    y = (trials * mu).round()
    assert torch.equal(
        ours.deviance(mu, y, "binomial", weights=weight, trials=trials),
        ours.deviance(mu, y / trials, "binomial", weights=weight * trials),
    )
    exact = torch.distributions.Binomial(trials, mu).log_prob(y)
    repeated = -(weight * exact).sum() / weight.sum()
    torch.testing.assert_close(ours.nll(mu, y, "binomial", freq=weight, trials=trials), repeated)
    torch.testing.assert_close(ours.nll(mu, y / trials, "binomial", weights=trials), -exact.mean())


def test_nll_is_the_density() -> None:
    mu, y, weight = rows("gamma")
    exact = torch.distributions.Gamma(1 / 0.4, 1 / 0.4 / mu).log_prob(y)
    metric = NLL("gamma", dispersion=0.4)
    metric.update(mu, y, freq=weight)
    torch.testing.assert_close(metric.compute(), -(weight * exact).sum() / weight.sum())
    shape = weight / 0.4  # prior weights divide the dispersion
    exact = torch.distributions.Gamma(shape, shape / mu).log_prob(y)
    torch.testing.assert_close(ours.nll(mu, y, "gamma", weights=weight, dispersion=0.4), -exact.mean())


def test_pearson_dispersion_and_observed_over_expected() -> None:
    mu, y, weight = rows("poisson")
    chi2 = (weight * (y - mu) ** 2 / mu).sum()
    torch.testing.assert_close(ours.pearson_dispersion(mu, y, "poisson", weights=weight, n_coef=5), chi2 / 395)
    torch.testing.assert_close(
        ours.observed_expected(mu, y, "poisson", weights=weight), (weight * y).sum() / (weight * mu).sum()
    )


def test_plots() -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    mu, y, weight = rows("poisson")
    for metric in (Deviance("poisson"), Gini("poisson"), LiftTable("poisson")):
        metric.update(mu, y, weights=weight)
        figure, _ = metric.plot()
        plt.close(figure)
