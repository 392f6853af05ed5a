"""Renewable estimation: one minibatch is IRLS, many come near the fit of all rows, and nothing but a summary stays."""

from __future__ import annotations

import math
import pickle
import sys
from collections.abc import Callable

import pandas as pd
import pytest
import torch
from torch import Tensor

import torchglm
from tests.thinned import thinned
from torchglm import families, links
from torchglm.fitting.irls import evaluate
from torchglm.fitting.moments import Moments
from torchglm.fitting.status import Status
from torchglm.inference.online_summary import StreamSummary
from torchglm.inputs import GLMBatch, Roles, minibatch
from torchglm.model.face import GLMHead
from torchglm.model.lazy import LazyGLMHead
from torchglm.model.renewable import Renewable
from torchglm.rows.rows import Rows

TWEEDIE = families.Tweedie(1.5)
PAIRS = [
    ("poisson", "log"),
    ("bernoulli", "logit"),
    ("gamma", "log"),
    ("bernoulli", "probit"),
    ("inverse_gaussian", "log"),
    ("gaussian", "identity"),
    ("poisson", "sqrt"),
    ("gamma", "inverse"),
]


def sums(model: Renewable, rows: Rows, coef: Tensor) -> Moments:
    """The sums of a pass at coefficients (p,)."""
    return evaluate(rows, model.family, model.link, coef.unsqueeze(0), Status.CONVERGED, 0).moments


def problem(family: str, link: str, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """`x` (n, 3) that keeps every mean in range, and `y` (n,)."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, generator=rng, dtype=torch.float64)
    x = x.abs() if link in ("inverse", "sqrt") else x
    member = families.get(family)
    mu = links.get(link)(x @ x.new_tensor([0.2, 0.1, 0.3]) + 1.0 - 0.7 * (family == "bernoulli"))
    torch.manual_seed(seed)
    return x, member.distribution(mu, 0.5 if member.has_dispersion else 1.0).sample()


def streamed(x: Tensor, y: Tensor, family: str, link: str, size: int, **options: float) -> Renewable:
    model = Renewable(family, link, x.shape[1], **options)  # type: ignore[arg-type]
    for rows, response in zip(x.split(size), y.split(size), strict=True):
        model.update(rows, response)
    return model


@pytest.mark.parametrize(("family", "link"), PAIRS)
def test_one_minibatch_is_irls(family: str, link: str) -> None:
    x, y = problem(family, link, 500)
    full, model = torchglm.fit(x, y, family=family, link=link), streamed(x, y, family, link, 500)
    torch.testing.assert_close(model.coef, full.coef, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(model.covariance, full.covariance(), rtol=1e-8, atol=1e-12)
    assert float(model.dispersion) == pytest.approx(float(full.dispersion), rel=1e-8)
    assert model.nobs == 500 and float(model.df_resid) == pytest.approx(496)


@pytest.mark.parametrize(("family", "link"), thinned(PAIRS, 3))
def test_many_minibatches_come_within_a_third_of_a_standard_error(family: str, link: str) -> None:
    x, y = problem(family, link, 8000)
    full, model = torchglm.fit(x, y, family=family, link=link), streamed(x, y, family, link, 100)
    assert float(((model.coef - full.coef) / full.std_err).abs().max()) < 1 / 3
    torch.testing.assert_close(model.std_err, full.std_err, rtol=0.01, atol=0.0)
    assert model.nobs == 8000


def dispersed(family: str | families.Family, link: str, seed: int, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """`x` (n, 2), `y` (n,) and the coefficients (3,) they are drawn by; the dispersion is 1/2 where there is one."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 2, generator=rng, dtype=torch.float64)
    x = x if link == "inverse" else 3.5 * (x - 0.5)
    truth = x.new_tensor([1.0, 2.0, 0.0] if link == "inverse" else [0.2, 0.3, -0.2])
    member = families.get(family)
    torch.manual_seed(seed)
    mu = links.get(link)(truth[0] + x @ truth[1:])
    return x, member.distribution(mu, 0.5 if member.has_dispersion else 1.0).sample(), truth


@pytest.mark.parametrize("seed", thinned(range(2), 2))
@pytest.mark.parametrize(
    ("family", "link"), [("gamma", "inverse"), ("gamma", "log"), ("inverse_gaussian", "log"), (TWEEDIE, "log")]
)
def test_standard_errors_of_dispersed_streams_are_those_of_all_rows(family: str, link: str, seed: int) -> None:
    x, y, _ = dispersed(family, link, seed, 4000)
    full, model = torchglm.fit(x, y, family=family, link=link), streamed(x, y, family, link, 50)
    torch.testing.assert_close(model.std_err, full.std_err, rtol=0.01, atol=0.0)
    torch.testing.assert_close(model.dispersion, full.dispersion, rtol=0.02, atol=0.0)


@pytest.mark.slow
def test_small_minibatches_whose_first_coefficients_are_far_off_lose_little_of_the_errors() -> None:
    rng = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    x = torch.rand(3000, 2, generator=rng, dtype=torch.float64)
    y = families.get("gamma").distribution(1 / (0.3 + 2 * x[:, 0] + 0.2 * x[:, 1]), 1.0).sample()
    model, full = streamed(x, y, "gamma", "inverse", 10), torchglm.fit(x, y, family="gamma")
    torch.testing.assert_close(model.std_err, full.std_err, rtol=0.015, atol=0.0)  # unmoved: 5 % off


SMOOTH = [
    (family, link)
    for family in ("gaussian", "gamma", "inverse_gaussian", TWEEDIE)
    for link in ("identity", "log", "inverse", "inverse_squared", "sqrt", "softplus")
]


def at_one_point(
    family: str | families.Family, link: str, observed: bool = False, **per_row: Tensor
) -> tuple[Renewable, Rows, StreamSummary]:
    """A stream of one minibatch of 2000 rows that has been learned, and those rows."""
    rng = torch.Generator().manual_seed(1)
    x, member = torch.rand(2000, 2, generator=rng, dtype=torch.float64), families.get(family)
    torch.manual_seed(1)
    y = member.distribution(links.get(link)(x @ x.new_tensor([0.7, 0.4]) + 1), 0.2).sample()
    model = Renewable(family, link, 2).update(x, y, **per_row)
    return model, minibatch(x, y, model.family, model.link, True, Roles(**per_row)), model.summary


@pytest.mark.parametrize(("family", "link"), SMOOTH)
def test_the_kept_slopes_are_those_of_pearsons_sum_and_of_the_information(family: str, link: str) -> None:
    weight = torch.rand(2000, generator=torch.Generator().manual_seed(2)).double() + 0.5
    model, rows, known = at_one_point(family, link, weights=weight)
    here = known.coef
    for j, unit in enumerate(torch.eye(3, dtype=torch.float64)):
        low, middle, high = (sums(model, rows, here + h * unit) for h in (-1e-4, 0, 1e-4))
        slope, bow = (high.pearson - low.pearson) / 2e-4, (high.pearson - 2 * middle.pearson + low.pearson) / 1e-8
        torch.testing.assert_close(known.pearson_slope[j], slope[0], rtol=1e-5, atol=1e-3)
        torch.testing.assert_close(known.pearson_curvature[j, j], bow[0], rtol=1e-4, atol=1e-3)
        change = (high.gram.written_out()[0] - low.gram.written_out()[0]) / 2e-4
        torch.testing.assert_close(known.bend[j], change, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(known.bend, known.bend.permute(2, 0, 1), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("forgetting", [1.0, 0.97])
@pytest.mark.parametrize(("family", "link"), [("gamma", "inverse"), ("poisson", "log"), ("inverse_gaussian", "log")])
def test_the_sums_are_those_of_the_faded_rows_at_the_coefficients_of_today(
    family: str, link: str, forgetting: float
) -> None:
    x, y, _ = dispersed(family, link, 1, 6000)
    model, size = streamed(x, y, family, link, 100, forgetting=forgetting), 100
    share = forgetting ** torch.arange(59, -1, -1, dtype=torch.float64).repeat_interleave(size)
    now = [
        sums(model, minibatch(x, y, model.family, model.link, True, Roles(weights=share**power)), model.coef)
        for power in (1, 2)
    ]
    torch.testing.assert_close(model.summary.information, now[0].gram.written_out()[0], rtol=0.006, atol=0.0)
    torch.testing.assert_close(model.summary.spread, now[1].gram.written_out()[0], rtol=0.006, atol=0.0)
    assert not families.get(family).has_dispersion or (
        float(model.summary.pearson) == pytest.approx(float(now[0].pearson), rel=0.006)
    )


def test_beyond_so_many_columns_the_information_stays_as_it_was_and_takes_no_room() -> None:
    rng = torch.Generator().manual_seed(6)
    x = torch.randn(4000, 70, generator=rng, dtype=torch.float64) / 10
    y = torch.poisson((0.5 + x[:, 0]).exp(), generator=rng)
    model, full = streamed(x, y, "poisson", "log", 1000), torchglm.fit(x, y, family="poisson")
    assert model.state_dict()["bend"].numel() == 0
    torch.testing.assert_close(model.std_err, full.std_err, rtol=0.05, atol=0.0)


def test_least_squares_is_exact_however_the_stream_is_cut() -> None:
    x, y = problem("gaussian", "identity", 1000)
    full = torchglm.fit(x, y, family="gaussian")
    for size in (5, 64, 999):
        model = streamed(x, y, "gaussian", "identity", size)
        torch.testing.assert_close(model.coef, full.coef, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(model.std_err, full.std_err, rtol=1e-10, atol=0.0)
        assert float(model.dispersion) == pytest.approx(float(full.dispersion), rel=1e-10)


@pytest.mark.slow
def test_the_difference_vanishes_against_the_standard_error_as_minibatches_grow() -> None:
    x, y = problem("bernoulli", "logit", 16000)
    full = torchglm.fit(x, y, family="bernoulli")
    gaps = [
        float(((streamed(x, y, "bernoulli", "logit", size).coef - full.coef) / full.std_err).abs().max())
        for size in (50, 500, 4000)
    ]
    assert gaps[0] > gaps[1] > gaps[2] and gaps[2] < 0.02


def test_the_order_of_minibatches_matters_little() -> None:
    x, y = problem("poisson", "log", 8000)
    forth = streamed(x, y, "poisson", "log", 200)
    back = streamed(x.flip(0), y.flip(0), "poisson", "log", 200)
    assert float(((forth.coef - back.coef) / forth.std_err).abs().max()) < 0.2
    torch.testing.assert_close(forth.std_err, back.std_err, rtol=0.01, atol=0.0)


def test_weights_offsets_and_trials_are_those_of_a_fit() -> None:
    x, y = problem("poisson", "log", 400)
    rng = torch.Generator().manual_seed(3)
    weight, offset = torch.rand(400, generator=rng) + 0.5, torch.rand(400, generator=rng)
    weight[::7] = 0.0
    model = Renewable("poisson", "log", 3).update(x, y, weights=weight, offset=offset)
    full = torchglm.fit(x, y, family="poisson", weights=weight, offset=offset)
    torch.testing.assert_close(model.coef, full.coef, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(model.std_err, full.std_err, rtol=1e-8, atol=0.0)
    assert model.nobs == int((weight > 0).sum())
    trials = torch.full((400,), 30.0)
    counts = y.clamp(max=30)
    share = Renewable("binomial", None, 3).update(x, counts, trials=trials)
    full = torchglm.fit(x, counts, family="binomial", trials=trials)
    torch.testing.assert_close(share.std_err, full.std_err, rtol=1e-8, atol=0.0)


@pytest.mark.parametrize("link", ["log", "inverse"])
def test_censored_times_are_those_of_a_fit_in_coefficients_and_errors(link: str) -> None:
    rng = torch.Generator().manual_seed(7)
    x = torch.rand(600, 2, generator=rng, dtype=torch.float64)
    t = -links.get(link)(1 + x[:, 0]) * torch.rand(600, generator=rng, dtype=torch.float64).log()
    limit = -2 * t.mean() * torch.rand(600, generator=rng, dtype=torch.float64).log()
    time, event = torch.minimum(t, limit), (t <= limit).double()
    full = torchglm.fit(x, time, family="exponential", link=link, event=event)
    one = Renewable("exponential", link, 2).update(x, time, event=event)
    torch.testing.assert_close(one.coef, full.coef, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(one.std_err, full.std_err, rtol=1e-7, atol=0.0)
    many = Renewable("exponential", link, 2)
    for rows in torch.arange(600).split(100):
        many.update(x[rows], time[rows], event=event[rows])
    assert float(((many.coef - full.coef) / full.std_err).abs().max()) < 0.3
    torch.testing.assert_close(many.std_err, full.std_err, rtol=0.05, atol=0.0)
    plain = torchglm.fit(x, t, family="exponential", link=link)  # without event: the expected information
    torch.testing.assert_close(Renewable("exponential", link, 2).update(x, t).std_err, plain.std_err, rtol=1e-7, atol=0)


def test_exposures_and_repeats_are_those_of_a_fit() -> None:
    x, y = problem("poisson", "log", 400)
    rng = torch.Generator().manual_seed(3)
    exposure, freq = torch.rand(400, generator=rng).double() + 0.5, torch.randint(0, 4, (400,), generator=rng)
    model = Renewable("poisson", "log", 3).update(x, y, exposure=exposure, freq=freq)
    full = torchglm.fit(x, y, family="poisson", exposure=exposure, freq=freq)
    torch.testing.assert_close(model.coef, full.coef, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(model.std_err, full.std_err, rtol=1e-8, atol=0.0)
    assert model.nobs == int(freq.sum())
    amounts = y + 0.5
    repeated = Renewable("gamma", "log", 3).update(x, amounts, freq=freq)
    full = torchglm.fit(x, amounts, family="gamma", link="log", freq=freq)
    torch.testing.assert_close(repeated.std_err, full.std_err, rtol=1e-8, atol=0.0)
    with pytest.raises(ValueError, match="rates multiply"):
        Renewable("gaussian", None, 3).update(x, y, exposure=exposure)
    with pytest.raises(ValueError, match="row 0 has 0"):
        Renewable("poisson", None, 3).update(x, y, exposure=torch.zeros(400))


def test_a_minibatch_may_come_as_one_argument() -> None:
    x, y = problem("poisson", "log", 400)
    rng = torch.Generator().manual_seed(3)
    weight, exposure = torch.rand(400, generator=rng) + 0.5, torch.rand(400, generator=rng) + 0.5
    apart = Renewable("poisson", "log", 3).update(x, y, weights=weight, exposure=exposure)
    for together in (
        GLMBatch(x, y, weights=weight, offset=exposure.log()),
        {"x": x, "y": y, "weights": weight, "exposure": exposure},
        {"x": x.numpy(), "y": y.numpy(), "weights": weight.numpy(), "exposure": exposure.numpy()},
    ):
        for learner in (
            Renewable("poisson", "log", 3).update,
            GLMHead(3, "poisson").partial_fit,
            LazyGLMHead("poisson").partial_fit,
        ):
            torch.testing.assert_close(learner(together).covariance, apart.covariance, rtol=1e-6, atol=1e-12)
    repeated = {"x": x, "y": y, "freq": torch.full((400,), 2)}
    assert Renewable("poisson", "log", 3).update(repeated).nobs == 800
    assert Renewable("poisson", "log", 3).update((x, y), freq=torch.full((400,), 2)).nobs == 800


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (lambda x, y: ({"x": x, "y": y, "sample_weight": y},), "sample_weight"),
        (lambda x, y: ({"y": y},), "always x"),
        (lambda x, y: ((x,),), "y is missing"),
        (lambda x, y: (x,), "y is missing"),
        (lambda x, y: (None,), "x is missing"),
        (lambda x, y: ({"x": x, "y": y}, y), "y came in the batch and beside it"),
        (lambda x, y: ((x,) * 9,), "A batch is"),
    ],
)
def test_what_is_no_minibatch_is_refused_with_what_one_is(given: Callable[..., tuple[object, ...]], match: str) -> None:
    x, y = problem("poisson", "log", 50)
    for learner in (
        Renewable("poisson", "log", 3).update,
        GLMHead(3, "poisson").partial_fit,
        LazyGLMHead("poisson").partial_fit,
    ):
        with pytest.raises(ValueError, match=match):
            learner(*given(x, y))


def test_a_lazy_head_takes_frames_and_keeps_its_shape_open_until_a_minibatch_fits() -> None:
    x, y = problem("poisson", "log", 400)
    frame, series = pd.DataFrame(x.numpy(), columns=["a", "b", "c"]), pd.Series(y.numpy())
    lazy, head = LazyGLMHead("poisson"), GLMHead(3, "poisson")
    with pytest.raises(ValueError, match="a minibatch needs"):
        lazy.partial_fit(x[:, 0], y)
    assert lazy.partial_fit(frame, series).nobs == head.partial_fit(frame, series).nobs == 400
    torch.testing.assert_close(lazy.weight, head.weight, rtol=0.0, atol=0.0)
    assert lazy.in_features == 3


@pytest.mark.parametrize("make", [lambda: GLMHead(3, "gamma", "log"), lambda: LazyGLMHead("gamma", "log")])
def test_a_first_minibatch_without_weight_is_none(make: Callable[[], GLMHead]) -> None:
    x, y = problem("gamma", "log", 300)
    head, plain = make(), GLMHead(3, "gamma", "log")
    for name in ("weights", "freq"):
        known = head.partial_fit(x, y, **{name: torch.zeros(300)})
        assert known.nobs == 0 and known.state_dict() == {} and not head.weight.any()
    torch.testing.assert_close(head.partial_fit(x, y).coef, plain.partial_fit(x, y).coef, rtol=0.0, atol=0.0)


def test_rows_of_weight_zero_are_no_rows() -> None:
    x, y = problem("gamma", "log", 600)
    plain, padded = streamed(x, y, "gamma", "log", 200), Renewable("gamma", "log", 3)
    for rows, response in zip(x.split(200), y.split(200), strict=True):
        weight = torch.ones(250)
        weight[200:] = 0.0
        padded.update(torch.cat([rows, 9 * rows[:50]]), torch.cat([response, 7 * response[:50]]), weights=weight)
        padded.update(rows, response, weights=torch.zeros(200))
    torch.testing.assert_close(padded.coef, plain.coef, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(padded.covariance, plain.covariance, rtol=1e-10, atol=1e-14)


def test_forgetting_follows_a_drift_that_a_long_memory_averages() -> None:
    rng = torch.Generator().manual_seed(4)
    long, short = Renewable("poisson", "log", 1), Renewable("poisson", "log", 1, forgetting=0.9)
    for step in range(120):
        x = torch.randn(200, 1, generator=rng, dtype=torch.float64)
        y = torch.poisson((0.5 + (0.8 if step >= 60 else -0.8) * x[:, 0]).exp(), generator=rng)
        long.update(x, y)
        short.update(x, y)
    assert abs(float(short.coef[1]) - 0.8) < 4 * float(short.std_err[1])
    assert abs(float(long.coef[1]) - 0.8) > 20 * float(long.std_err[1])
    assert float(short.std_err[1]) > 2 * float(long.std_err[1])


@pytest.mark.slow
def test_standard_errors_with_forgetting_are_the_spread_over_streams() -> None:
    ends, errors, phis = [], [], []
    for seed in range(60):
        rng = torch.Generator().manual_seed(seed)
        model = Renewable("gaussian", "identity", 1, forgetting=0.7)
        for _ in range(9):
            x = torch.randn(40, 1, generator=rng, dtype=torch.float64)
            model.update(x, 1 + x[:, 0] + 2 * torch.randn(40, generator=rng, dtype=torch.float64))
        ends.append(model.coef)
        errors.append(model.std_err)
        phis.append(model.dispersion)
    ratio = torch.stack(errors).mean(0) / torch.stack(ends).std(0)
    assert bool(((ratio - 1).abs() < 0.25).all())  # three Monte-Carlo errors; without the spread it is 1.3
    assert float(torch.stack(phis).mean()) == pytest.approx(4.0, rel=0.05)


def test_a_saved_state_goes_on_as_if_nothing_had_happened() -> None:
    x, y = problem("gamma", "log", 900)
    whole, first = streamed(x, y, "gamma", "log", 100), streamed(x[:500], y[:500], "gamma", "log", 100)
    second = Renewable("gamma", "log", 3)
    second.load_state_dict(pickle.loads(pickle.dumps(first.state_dict())))
    for rows, response in zip(x[500:].split(100), y[500:].split(100), strict=True):
        second.update(rows, response)
    torch.testing.assert_close(second.coef, whole.coef, rtol=0.0, atol=0.0)
    torch.testing.assert_close(second.covariance, whole.covariance, rtol=0.0, atol=0.0)
    assert second.nobs == whole.nobs
    with pytest.raises(ValueError, match="same columns"):
        Renewable("gamma", "log", 2).load_state_dict(first.state_dict())
    for state, match in (({"coef": 1}, "'coef': int"), (None, "got NoneType"), (3, "got int")):
        with pytest.raises(TypeError, match=match):
            second.load_state_dict(state)  # type: ignore[arg-type]
    second.load_state_dict(Renewable("gamma", "log", 3).state_dict())
    with pytest.raises(ValueError, match="No minibatch"):
        _ = second.coef


def test_what_is_kept_does_not_grow_with_the_rows() -> None:
    x, y = problem("poisson", "log", 4000)
    few, many = (streamed(x[:n], y[:n], "poisson", "log", 100) for n in (200, 4000))
    assert len(pickle.dumps(many.state_dict())) == len(pickle.dumps(few.state_dict()))
    assert sys.getsizeof(many.__dict__) == sys.getsizeof(few.__dict__) and set(many.__dict__) == set(few.__dict__)


def test_a_minibatch_that_cannot_be_learned_changes_nothing() -> None:
    x, y = problem("bernoulli", "logit", 400)
    model = Renewable("bernoulli", "logit", 3)
    with pytest.raises(ValueError, match="first minibatch.*Join it"):
        model.update(x[:3], y[:3])
    with pytest.raises(ValueError, match="separation.*Join it"):
        model.update(x, (x[:, 0] > 0).to(y))
    model.update(x, y)
    before = model.state_dict()
    for bad, match in [
        ((x, y + 1), "needs"),
        ((x[:, :2], y), "columns"),
        ((x, y[:7]), "rows"),
        ((x * torch.nan, y), "NaN"),
        ((x, y.expand(2, 400)), "a minibatch needs"),
        (({"x": x, "y": y, "weights": -torch.ones(400)},), ">= 0"),
    ]:
        with pytest.raises(ValueError, match=match):
            model.update(*bad)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0.0, atol=0.0)


def test_a_minibatch_out_of_reach_of_the_old_means_is_learned_all_the_same() -> None:
    x, y = problem("gamma", "inverse", 400)
    model = Renewable("gamma", "inverse", 3).update(x, y)
    far = torch.cat([x[:50], x.new_tensor([[-9.0, -9.0, -9.0]])])  # here eta < 0 at the old coefficients
    model.update(far, torch.cat([y[:50], y.new_tensor([2.0])]))
    assert bool((model.coef[0] + far @ model.coef[1:] > 0).all())


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"forgetting": 0.0}, "forgetting"),
        ({"forgetting": 1.5}, "forgetting"),
        ({"columns": 0, "intercept": False}, "columns"),
        ({"family": "nope"}, "nope"),
    ],
)
def test_options_out_of_range_are_errors(options: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Renewable(**{"family": "poisson", "link": None, "columns": 3, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"columns": 2.5}, "columns must be a whole number, got 2.5"),
        ({"columns": "a"}, "columns.*'a'"),
        ({"columns": True}, "columns"),
        ({"forgetting": "a"}, "forgetting must be a number.*'a'"),
        ({"forgetting": None}, "forgetting.*None"),
        ({"forgetting": True}, "forgetting"),
    ],
)
def test_options_that_are_no_numbers_are_errors_in_words(options: dict[str, object], match: str) -> None:
    with pytest.raises(TypeError, match=match):
        torchglm.Renewable(**{"family": "poisson", "link": None, "columns": 3, **options})  # type: ignore[arg-type]


def test_a_shape_to_be_estimated_is_refused() -> None:
    family = families.get("negative_binomial").requires_grad_(True)
    with pytest.raises(ValueError, match="Give its value"):
        Renewable(family, None, 3)


@pytest.mark.parametrize(
    "make",
    [
        lambda: GLMHead(3, "gamma", "log", dtype=torch.float64),
        lambda: LazyGLMHead("gamma", "log", dtype=torch.float64),
        lambda: GLMHead(3, "gamma", "log", bias=False, dtype=torch.float64),
    ],
)
def test_a_head_learns_a_stream_into_its_own_parameters(make: type[GLMHead]) -> None:
    x, y = problem("gamma", "log", 900)
    head = make()
    for rows, response in zip(x.split(300), y.split(300), strict=True):
        known = head.partial_fit(rows, response)
    first = int(head.bias is not None)
    twin = streamed(x, y, "gamma", "log", 300, intercept=head.bias is not None)
    torch.testing.assert_close(head.weight[0].detach(), twin.coef[first:], rtol=0.0, atol=0.0)
    torch.testing.assert_close(known.std_err, twin.std_err, rtol=0.0, atol=0.0)
    assert head.online is known and known.nobs == 900 and "online" not in "".join(head.state_dict())
    assert float(head.dispersion) == pytest.approx(float(known.dispersion))
    with pytest.raises(ValueError, match="one response"):
        GLMHead(3, "gamma", out_features=2).partial_fit(x, y)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "link"),
    [
        ("bernoulli", "logit"),
        ("poisson", "log"),
        ("gamma", "log"),
        ("gamma", "inverse"),
        ("inverse_gaussian", "log"),
        (TWEEDIE, "log"),
    ],
)
def test_a_stream_of_a_thousand_minibatches_covers_as_the_whole_fit_does(family: str, link: str) -> None:
    """Luo & Song (2020), section 6: against the fit of all rows a small share of a standard error is lost, no more."""
    inside, gaps, errors, phis = [], [], [], []
    for seed in range(4):
        x, y, truth = dispersed(family, link, seed, 50_000)
        model, full = streamed(x, y, family, link, 50), torchglm.fit(x, y, family=family, link=link)
        inside.append(((model.coef - truth).abs() < 1.96 * model.std_err).double())
        gaps.append(((model.coef - full.coef) / full.std_err).abs().max())
        errors.append((model.std_err / full.std_err - 1).abs().max())
        phis.append((model.dispersion / full.dispersion - 1).abs())
    assert float(torch.stack(inside).mean()) > 0.95 - 3 * (0.95 * 0.05 / 12) ** 0.5
    assert float(torch.stack(gaps).max()) < 0.25
    assert float(torch.stack(errors).max()) < 0.002
    assert float(torch.stack(phis).max()) < 0.006


@pytest.mark.slow
def test_over_a_thousand_minibatches_forgetting_follows_a_slow_drift() -> None:
    rng, squares = torch.Generator().manual_seed(5), {0.95: 0.0, 1.0: 0.0}
    models = {forgetting: Renewable("poisson", "log", 1, forgetting=forgetting) for forgetting in squares}
    lag = 0.5 * 2 * math.pi / 1000 / (1 - 0.95)  # the memory is 20 minibatches long; so far the slope moves in them
    for step in range(1000):
        slope = 0.5 * math.sin(2 * math.pi * step / 1000)
        x = torch.randn(50, 1, generator=rng, dtype=torch.float64)
        y = torch.poisson((0.5 + slope * x[:, 0]).exp(), generator=rng)
        for forgetting, model in models.items():
            model.update(x, y)
            squares[forgetting] += float((model.coef[1] - slope).square()) if step >= 50 else 0.0
        follower = models[0.95]
        assert step < 50 or abs(float(follower.coef[1]) - slope) < lag + 4.5 * float(follower.std_err[1])
    assert squares[0.95] < 0.04 * squares[1.0]
