"""Every door takes the same roles, by name alone, and each means at every door what it means to `fit`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from torch import Tensor

import torchglm
from torchglm import GLMHead, Renewable, metrics
from torchglm.inputs import ROLES, GLMBatch, Roles, as_batch
from torchglm.training import ArrowBatches, GLMDataModule, LitGLM, LitIRLS, TensorBatches

N = 60
FAMILY = {"trials": "binomial", "event": "exponential"}
Given = dict[str, Tensor]


def rows(*names: str) -> Given:
    """Columns x, y, and roles in the support of their family."""
    draw = torch.Generator().manual_seed(7)
    u, v, w = torch.rand(3, N, generator=draw, dtype=torch.float64)
    x = torch.randn(N, 2, generator=draw, dtype=torch.float64)
    trials = 2 + (5 * u).floor()
    values = {
        "weights": 0.5 + u,
        "freq": 1 + (3 * v).floor(),
        "offset": 0.3 * w,
        "exposure": 0.5 + w,
        "trials": trials,
        "event": (v < 0.7).double(),
    }
    y = (trials * v).floor() if "trials" in names else 0.2 + 2 * w if "event" in names else (4 * v * w).floor()
    return {"x": x, "y": y} | {name: values[name] for name in names}


PLAIN = ROLES[:-1]  # `until` is of families of several predictors, see tests/test_times_intervals.py
CASES = [*((name,) for name in PLAIN), ("weights", "freq"), ("offset", "exposure"), ("weights", "freq", "trials")]
each_case = pytest.mark.parametrize("names", CASES, ids="+".join)


def family_of(names: tuple[str, ...]) -> str:
    return next((FAMILY[name] for name in names if name in FAMILY), "poisson")


def beside(given: Given) -> Given:
    return {name: value for name, value in given.items() if name not in ("x", "y")}


def fitted(given: Given, names: tuple[str, ...]) -> torchglm.Result:
    return torchglm.fit(**given, family=family_of(names))


# doors that learn: each gives the coefficients of the fit --------------------------------------------------------


def by_loader(given: Given, family: str, folder: Any) -> Tensor:
    return torchglm.fit([given], family=family).coef


def by_batches(given: Given, family: str, folder: Any) -> Tensor:
    return torchglm.fit(list(TensorBatches(GLMBatch(**given), 17)), family=family).coef


def by_arrow(given: Given, family: str, folder: Any) -> Tensor:
    path = table_of(given, folder)
    named = {name: name for name in beside(given)}
    return torchglm.fit(
        ArrowBatches(path, ["a", "b"], "y", **named, batch_size=17, dtype=torch.float64), family=family
    ).coef


def by_module(given: Given, family: str, folder: Any) -> Tensor:
    named = {name: name for name in beside(given)}
    data = GLMDataModule(
        table_of(given, folder), ["a", "b"], "y", **named, key=["a"], validation=0.0, dtype=torch.float64
    )
    data.setup("predict")
    return torchglm.fit(data.predict_dataloader(), family=family).coef


def by_files(given: Given, family: str, folder: Any) -> Tensor:
    named = {name: name for name in beside(given)}
    return torchglm.fit("y ~ a + b", table_of(given, folder), family=family, **named).coef


def by_formula(given: Given, family: str, folder: Any) -> Tensor:
    frame = {"y": given["y"], "a": given["x"][:, 0], "b": given["x"][:, 1]}
    return torchglm.fit("y ~ a + b", frame, family=family, **beside(given)).coef


def by_config(given: Given, family: str, folder: Any) -> Tensor:
    from torchglm.cli.schema import DataConfig, Job
    from torchglm.families import get

    data = DataConfig(str(table_of(given, folder)), "y ~ a + b", **{name: name for name in beside(given)})
    job = Job(data, get(family))
    return job.solver.solve(job).coef


def by_head(given: Given, family: str, folder: Any) -> Tensor:
    head = GLMHead(2, family, dtype=torch.float64)
    return head.fit(**given).coef


def by_partial_fit(given: Given, family: str, folder: Any) -> Tensor:
    return GLMHead(2, family, dtype=torch.float64).partial_fit(**given).coef


def by_renewable(given: Given, family: str, folder: Any) -> Tensor:
    return Renewable(family, None, 2).update(**given).coef


def by_irls_module(given: Given, family: str, folder: Any) -> Tensor:
    from lightning.pytorch import Trainer

    if "event" in given:
        pytest.skip("LitIRLS refuses censored times")
    head = GLMHead(2, family, dtype=torch.float64)
    quiet = {name: False for name in ("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing")}
    Trainer(max_epochs=30, accelerator="cpu", **quiet).fit(LitIRLS(head), TensorBatches(GLMBatch(**given), N))
    return torch.cat([head.bias, head.weight[0]]).detach()


def by_rows(given: Given, family: str, folder: Any) -> Tensor:
    """The score is zero at the coefficients of the rows that are attached."""
    result = torchglm.fit(**given, family=family)
    again = result.with_rows(**given)
    torch.testing.assert_close(again.residuals("deviance"), result.residuals("deviance"), rtol=1e-12, atol=1e-12)
    return again.coef


def table_of(given: Given, folder: Any) -> Any:
    columns = {"a": given["x"][:, 0], "b": given["x"][:, 1], **{k: v for k, v in given.items() if k != "x"}}
    path = folder / "rows.parquet"
    parquet.write_table(pa.table({name: value.numpy() for name, value in columns.items()}), path)
    return path


LEARNERS: dict[str, Callable[[Given, str, Any], Tensor]] = {
    name.removeprefix("by_"): door for name, door in list(globals().items()) if name.startswith("by_")
}


OF_TENSORS = [door for door in LEARNERS if door not in ("arrow", "module", "files", "config", "formula")]


@each_case
@pytest.mark.parametrize("door", LEARNERS)
def test_a_role_means_at_every_door_what_it_means_to_fit(door: str, names: tuple[str, ...], tmp_path: Any) -> None:
    given = rows(*names)
    want = fitted(given, names).coef
    assert not torch.allclose(
        want, torchglm.fit(given["x"], given["y"] / given.get("trials", 1), family=family_of(names)).coef
    )
    torch.testing.assert_close(LEARNERS[door](given, family_of(names), tmp_path), want, rtol=1e-6, atol=1e-7)


# doors that score ----------------------------------------------------------------------------------


def mean_half_deviance(result: torchglm.Result, given: Given) -> Tensor:
    """The mean loss of a fit, up to what depends on `y` alone."""
    return result.deviance / 2 / weight_of(given)


def weight_of(given: Given) -> Tensor:
    ones = torch.ones(N, dtype=torch.float64)
    return sum_of(*(given.get(name, ones).reshape(-1) for name in ("weights", "freq", "trials")))


def sum_of(*factors: Tensor) -> Tensor:
    return torch.stack(factors).prod(0).sum()


def losses(result: torchglm.Result, given: Given) -> Iterator[tuple[str, Tensor]]:
    head = result.head
    yield "loss", head.loss(**given)
    yield "sum", head.loss(**given, reduction="sum") / weight_of(given)
    yield "rows", head.loss(**given, reduction="none").sum() / weight_of(given)
    yield "batch", head.loss(**as_batch(given, head.link)._asdict())
    for batch in (given, GLMBatch(**given)):
        yield "LitGLM", LitGLM(head).training_step(batch)
    plain = copy.deepcopy(head)
    hook = plain.register_forward_hook(lambda *_: None)  # the road without the closed form
    yield "autograd", LitGLM(plain).training_step(given)
    hook.remove()


@each_case
def test_every_loss_is_that_of_the_fit(names: tuple[str, ...]) -> None:
    given = rows(*names)
    result = fitted(given, names)
    family, y = result.family, given["y"]
    coded, factor = family.encode(y, trials=given.get("trials"), event=given.get("event"))
    whole = given.get("weights", 1.0) * given.get("freq", 1.0) * (1.0 if factor is None else factor) * torch.ones(N)
    saturated = (whole * family.nll_saturated(coded)).sum() / whole.sum()
    for door, found in losses(result, given):
        torch.testing.assert_close(found - saturated, mean_half_deviance(result, given), rtol=1e-9, atol=1e-9, msg=door)


@each_case
def test_every_metric_sees_the_rows_of_the_fit(names: tuple[str, ...]) -> None:
    given = rows(*names)
    result = fitted(given, names)
    family, link, known = result.family, result.link, beside(given)
    mu, y = result.fitted, given["y"]
    deviance = metrics.deviance(mu, y, family, link=link, **known)
    torch.testing.assert_close(deviance * weight_of(given), result.deviance, rtol=1e-10, atol=0.0)
    pearson = metrics.pearson_dispersion(mu, y, family, link=link, n_coef=3, **known)
    torch.testing.assert_close(pearson, result.pearson_chi2 / result.df_resid, rtol=1e-7, atol=0.0)
    if "offset" not in names or family.name == "poisson":
        explained = metrics.d2(mu, y, family, link=link, **known)
        torch.testing.assert_close(explained, 1 - result.deviance / result.null_deviance, rtol=1e-7, atol=1e-9)
    score = metrics.NLL(family, link=link)
    score.update(mu, y, **known)
    torch.testing.assert_close(score.sums[0], -result.loglik, rtol=1e-10, atol=0.0)


@pytest.mark.parametrize("names", [("weights",), ("freq",), ("weights", "freq")], ids="+".join)
def test_the_nll_of_a_family_with_a_dispersion_is_that_of_the_fit(names: tuple[str, ...]) -> None:
    given = rows(*names)
    given["y"] = given["y"] + 0.5
    result = torchglm.fit(**given, family="gamma", link="log", dispersion=0.4)
    found = metrics.NLL("gamma", 0.4)
    found.update(result.fitted, given["y"], **beside(given))
    torch.testing.assert_close(found.sums, torch.stack([-result.loglik, result.nobs]), rtol=1e-10, atol=0.0)
    head = GLMHead(2, "gamma", "log", dtype=torch.float64, dispersion="learned")
    head.load(result)
    torch.testing.assert_close(head.loss(**given, reduction="sum"), -result.loglik, rtol=1e-10, atol=0.0)


# what is refused ----------------------------------------------------------------------------------


def test_trials_are_never_taken_for_an_exposure() -> None:
    given = rows("trials")
    mu = torch.full((N,), 0.4, dtype=torch.float64)
    with pytest.raises(TypeError, match="positional"):
        metrics.Deviance("binomial").update(mu, given["y"], None, None, given["trials"])  # type: ignore[call-arg]


def calls() -> dict[str, Callable[..., Any]]:
    """Doors as functions of arguments after `x` and `y`."""
    given, mu = rows(), torch.ones(N, dtype=torch.float64)
    x, y = given["x"], given["y"]
    result = torchglm.fit(x, y, family="poisson")
    head = GLMHead(2, "poisson", dtype=torch.float64)
    scores = {name: getattr(metrics, name) for name in metrics.__all__}
    classes = {name: one for name, one in scores.items() if isinstance(one, type) and name != "FamilyMetric"}
    functions = {name: one for name, one in scores.items() if not isinstance(one, type) and name != "coverage"}
    return {
        "fit": lambda *more, **named: torchglm.fit(x, y, *more, family="poisson", **named),
        "head.fit": lambda *more, **named: head.fit(x, y, *more, **named),
        "head.loss": lambda *more, **named: head.loss(x, y, *more, **named),
        "head.weighted_loss": lambda *more, **named: head.weighted_loss(x, y, *more, **named),
        "head.partial_fit": lambda *more, **named: head.partial_fit(x, y, *more, **named),
        "Renewable.update": lambda *more, **named: Renewable("poisson", None, 2).update(x, y, *more, **named),
        "GLMBatch": lambda *more, **named: GLMBatch(x, y, *more, **named),
        "with_rows": lambda *more, **named: result.with_rows(x, y, *more, **named),
        "predict": lambda *more, **named: result.predict(x, *more, **named),
        "predict_interval": lambda *more, **named: result.predict_interval(x, *more, **named),
        "ArrowBatches": lambda *more, **named: ArrowBatches("none", ["a"], "y", *more, **named),
        "GLMDataModule": lambda *more, **named: GLMDataModule("none.csv", ["a"], "y", *more, **named),
        "Coverage": lambda *more, **named: metrics.Coverage().update(mu, mu, y, *more, **named),
        "coverage": lambda *more, **named: metrics.coverage(mu, mu, y, *more, **named),
        **{
            name: lambda *more, one=one, **named: one("poisson").update(mu, y, *more, **named)
            for name, one in classes.items()
            if name not in ("Coverage", "Concordance")
        },
        "Concordance": lambda *more, **named: metrics.Concordance().update(mu, y, *more, **named),
        "concordance": lambda *more, **named: metrics.concordance(mu, y, *more, **named),
        **{
            name: lambda *more, one=one, **named: one(mu, y, "poisson", *more, **named)
            for name, one in functions.items()
            if name != "concordance"
        },
    }


CALLS = calls()
ONES = torch.ones(N, dtype=torch.float64)


@pytest.mark.parametrize("door", CALLS)
def test_roles_are_given_by_name_and_another_name_is_answered_with_the_known_ones(door: str) -> None:
    with pytest.raises(TypeError, match="by place|position"):
        CALLS[door](ONES)
    for wrong in ("weight", "sample_weight", "w"):
        with pytest.raises(TypeError, match=rf"takes no {wrong}=( \(.*\))?\. .*by name: .*(weights|offset)"):
            CALLS[door](**{wrong: ONES})


@pytest.mark.parametrize("batch", [{"x": ONES, "y": ONES, "weight": ONES}, (ONES, ONES, ONES), [ONES] * 7])
def test_a_batch_with_roles_by_position_or_of_another_name_is_refused(batch: Any) -> None:
    for door in (as_batch, Renewable("poisson", None, 1).update, lambda b: torchglm.fit([b], family="poisson")):
        with pytest.raises(ValueError, match="names? .*x, y, weights, freq, offset, exposure, trials, event, until"):
            door(batch)


@pytest.mark.parametrize("bad", [0.0, -1.0, torch.nan, torch.inf])
def test_every_door_refuses_an_exposure_that_is_none_and_names_the_row(bad: float, tmp_path: Any) -> None:
    given = rows("exposure")
    result = torchglm.fit(**given, family="poisson")
    spoiled = {**given, "exposure": given["exposure"].clone()}
    spoiled["exposure"][5] = bad
    doors: dict[str, Callable[[], Any]] = {
        name: lambda door=door: door(spoiled, "poisson", tmp_path) for name, door in LEARNERS.items()
    }
    known = {"y": given["y"], "exposure": spoiled["exposure"]}
    doors |= {
        "with_rows": lambda: result.with_rows(**spoiled),
        "loss": lambda: result.head.loss(**spoiled),
        "as_batch": lambda: as_batch(spoiled),
        "predict": lambda: result.predict(given["x"], exposure=spoiled["exposure"]),
        "predict_interval": lambda: result.predict_interval(given["x"], exposure=spoiled["exposure"]),
        "metric": lambda: metrics.gini(ONES, family="poisson", **known),
    }
    del doors["rows"]
    for name, door in doors.items():
        with pytest.raises(ValueError) as refused:
            door()
        said = str(refused.value)
        assert "exposure" in said and "row" in said and "5" in said, (name, said)


@pytest.mark.parametrize("door", [*LEARNERS, "loss", "with_rows", "metric"])
def test_every_door_refuses_proportions_beside_trials(door: str, tmp_path: Any) -> None:
    """They would be divided by the trials again; counts that are not whole are told of."""
    given = rows("trials")
    result, head = torchglm.fit(**given, family="binomial"), GLMHead(2, "binomial", dtype=torch.float64)
    more: dict[str, Callable[[Given], Any]] = {
        "loss": lambda given: head.loss(**given),
        "with_rows": lambda given: result.with_rows(**given),
        "metric": lambda given: metrics.deviance(0.5 * ONES, family="binomial", **beside(given), y=given["y"]),
    }

    def ask(y: Tensor) -> None:
        spoiled = given | {"y": y}
        more[door](spoiled) if door in more else LEARNERS[door](spoiled, "binomial", tmp_path)

    if door != "rows":
        with pytest.raises(ValueError, match="y is a count where trials= is given; .*weights="):
            ask(given["y"] / given["trials"])
    broken = given["y"].clone()
    broken[int(given["y"].argmax())] -= 0.5
    with pytest.warns(UserWarning, match="counts beside trials= are not whole"):
        ask(broken)


def test_one_trial_may_be_a_share() -> None:
    given = rows("trials") | {"trials": ONES}
    with pytest.warns(UserWarning, match="counts beside trials= are not whole"):
        found = torchglm.fit(given["x"], 0.2 + 0.5 * (given["y"] > 1), family="binomial", trials=ONES)
    torch.testing.assert_close(
        found.coef, torchglm.fit(given["x"], 0.2 + 0.5 * (given["y"] > 1), family="binomial").coef
    )


@pytest.mark.parametrize(
    "door", ["fit", "head.fit", "head.loss", "partial_fit", "update", "with_rows", "predict", "gini"]
)
def test_an_exposure_needs_a_link_with_rates(door: str) -> None:
    given = rows()
    x, y = given["x"], given["y"] + 0.5
    result, head = torchglm.fit(x, y, family="gaussian"), GLMHead(2, "gaussian", dtype=torch.float64)
    called = {
        "fit": lambda: torchglm.fit(x, y, family="gaussian", exposure=ONES),
        "head.fit": lambda: head.fit(x, y, exposure=ONES),
        "head.loss": lambda: head.loss(x, y, exposure=ONES),
        "partial_fit": lambda: head.partial_fit(x, y, exposure=ONES),
        "update": lambda: Renewable("gaussian", None, 2).update(x, y, exposure=ONES),
        "with_rows": lambda: result.with_rows(x, y, exposure=ONES),
        "predict": lambda: result.predict(x, exposure=ONES),
        "gini": lambda: metrics.gini(ONES, y, "gaussian", exposure=ONES),
    }
    with pytest.raises(ValueError, match="exposure needs a link on whose scale rates multiply .* got identity"):
        called[door]()


# shapes ----------------------------------------------------------------------------------


@each_case
@pytest.mark.parametrize("door", OF_TENSORS)
def test_a_column_is_that_column(door: str, names: tuple[str, ...], tmp_path: Any) -> None:
    given = rows(*names)
    want = fitted(given, names).coef
    for kept in ((), ("y",), names):
        columns = {k: v if k == "x" or k in kept else v[:, None] for k, v in given.items()}
        torch.testing.assert_close(LEARNERS[door](columns, family_of(names), tmp_path), want, rtol=1e-6, atol=1e-7)


@each_case
def test_a_column_is_that_column_to_losses_and_metrics(names: tuple[str, ...]) -> None:
    given = rows(*names)
    result = fitted(given, names)
    for kept in ((), ("y",), names):
        columns = {k: v if k == "x" or k in kept else v[:, None] for k, v in given.items()}
        for (door, one), (_, other) in zip(losses(result, given), losses(result, columns), strict=True):
            torch.testing.assert_close(other, one, rtol=1e-12, atol=1e-12, msg=door)
        found = metrics.deviance(result.fitted, columns["y"], result.family, **beside(columns))
        torch.testing.assert_close(found, metrics.deviance(result.fitted, given["y"], result.family, **beside(given)))


def test_several_responses_stand_in_rows_of_fit_and_in_columns_of_batches_and_losses() -> None:
    given = rows("weights", "offset")
    x, ys = given["x"], torch.stack([given["y"], given["y"].flip(0), given["y"] + 1])
    result = torchglm.fit(x, ys, family="poisson", **beside(given))
    columns = {"x": x, "y": ys.mT, **beside(given)}
    torch.testing.assert_close(torchglm.fit([columns], family="poisson").coef, result.coef, rtol=1e-9, atol=1e-10)
    assert float(result.head.loss(**columns).isfinite())
    for door in (lambda: torchglm.fit(x, ys.mT, family="poisson"), lambda: result.head.fit(x, ys.mT)):
        with pytest.raises(ValueError, match=r"here y is \(B, n\).*in batches and in head.loss it is \(n, R\)"):
            door()
    for other in (lambda: torchglm.fit([(x, ys)], family="poisson"), lambda: result.head.loss(x, ys)):
        with pytest.raises(ValueError, match=r"(?i)responses in rows, \(R, n\), are what fit\(x, y\) takes"):
            other()
    square = torchglm.fit(x[:3], ys[:, :3][None], family="gaussian", intercept=False)
    assert square.coef.shape == (1, 3, 2)
    with pytest.raises(ValueError, match=r"may stand in rows or in columns"):
        torchglm.fit(x[:3], ys[:, :3], family="gaussian", intercept=False)


# rows of weight zero ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dropped", ["weights", "freq"])
@each_case
@pytest.mark.parametrize("door", OF_TENSORS)
@pytest.mark.filterwarnings("ignore:rows of weight zero hold NaN")
def test_a_row_of_weight_zero_is_a_dropped_row_whatever_it_holds(
    door: str, names: tuple[str, ...], dropped: str, tmp_path: Any
) -> None:
    given = rows(*{*names, dropped})
    given[dropped][::4] = 0.0
    used = given[dropped] > 0
    want = fitted({name: value[used] for name, value in given.items()}, names).coef
    torch.testing.assert_close(
        LEARNERS[door](spoiled(given, used, dropped), family_of(names), tmp_path), want, rtol=1e-6, atol=1e-7
    )


def spoiled(given: Given, used: Tensor, dropped: str) -> Given:
    """Nonsense in the rows that are not used."""
    bad = {"weights": 3.0, "freq": 2.0, "trials": -1.0, "event": 7.0, "exposure": -2.0}
    return {
        name: value
        if name == dropped
        else torch.where(used[:, None] if name == "x" else used, value, bad.get(name, torch.nan))
        for name, value in given.items()
    }


@pytest.mark.parametrize("dropped", ["weights", "freq"])
@each_case
def test_a_row_of_weight_zero_is_none_to_losses_their_gradients_and_metrics(
    names: tuple[str, ...], dropped: str
) -> None:
    given = rows(*{*names, dropped})
    given[dropped][::4] = 0.0
    used = given[dropped] > 0
    left = {name: value[used] for name, value in given.items()}
    result = fitted(left, names)
    nonsense = spoiled(given, used, dropped)
    head, twin = result.head, result.head
    want, got = head.loss(**left), twin.loss(**nonsense)
    want.backward()
    got.backward()
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(twin.weight.grad, head.weight.grad, rtol=1e-9, atol=1e-12)
    lit = LitGLM(result.head)
    loss = lit.training_step(nonsense)  # the gradient in closed form
    loss.backward()
    torch.testing.assert_close(loss, want, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(lit.head.weight.grad, head.weight.grad, rtol=1e-9, atol=1e-12)
    mu = torch.full((N,), torch.nan, dtype=torch.float64)
    mu[used] = result.fitted
    for score in (metrics.deviance, metrics.nll, metrics.pearson_dispersion, metrics.observed_expected):
        found = score(mu, nonsense["y"], result.family, **beside(nonsense))
        torch.testing.assert_close(
            found, score(mu[used], left["y"], result.family, **beside(left)), rtol=1e-10, atol=1e-12
        )


# predictions ----------------------------------------------------------------------------------


def test_predictions_take_an_exposure_as_fits_do() -> None:
    given = rows("exposure", "offset")
    result = torchglm.fit(**given, family="poisson")
    x, known = given["x"], beside(given)
    torch.testing.assert_close(result.predict(x, **known), result.fitted, rtol=1e-12, atol=0.0)
    unit = result.predict(x, offset=0.0, exposure=1)
    torch.testing.assert_close(unit.log(), result.predict(x, offset=0.0, exposure=1.0, kind="link"))
    torch.testing.assert_close(result.predict(x, offset=0.0, exposure=3), 3 * unit, rtol=1e-12, atol=0.0)
    ends = result.predict_interval(x, offset=0.0, exposure=given["exposure"][:, None])
    one = result.predict_interval(x, offset=0.0, exposure=1.0)
    torch.testing.assert_close(ends, given["exposure"][:, None] * one)
    frame = {"y": given["y"], "a": x[:, 0], "b": x[:, 1], "years": given["exposure"]}
    named = torchglm.fit("y ~ a + b", frame, family="poisson", exposure="years")
    torch.testing.assert_close(named.predict(frame), named.fitted, rtol=1e-12, atol=0.0)
    torch.testing.assert_close(named.predict(frame, exposure="years"), named.fitted, rtol=1e-12, atol=0.0)
    torch.testing.assert_close(named.predict(frame, exposure=1.0) * frame["years"], named.fitted, rtol=1e-12, atol=0.0)
    frame["years"] = frame["years"].clone()
    frame["years"][9] = torch.nan
    with pytest.raises(ValueError, match="row 9"):
        named.predict(frame)


def test_averages_over_rows_take_an_exposure_as_predictions_do() -> None:
    given = rows("exposure")
    frame = {"y": given["y"], "a": given["x"][:, 0], "b": given["x"][:, 1], "years": given["exposure"]}
    result = torchglm.fit("y ~ a + b", frame, family="poisson", exposure="years")
    table = {name: frame[name] for name in ("a", "b")}
    doors: list[Callable[..., Any]] = [
        lambda data, **roles: result.marginal_effects(["a"], data, **roles),
        lambda data, **roles: result.predictions({"a": [0.0, 1.0]}, data, **roles),
    ]
    for door in doors:
        want = door(frame)
        for roles in ({"exposure": given["exposure"]}, {"offset": given["exposure"].log()}):
            torch.testing.assert_close(door(table, **roles).value, want.value, rtol=1e-10, atol=1e-12)
        with pytest.raises(ValueError, match="exposure must be finite and > 0; row 0"):
            door(table, exposure=0.0)
        with pytest.raises(TypeError, match="takes no weights=.*by name: freq, offset, exposure"):
            door(table, weights=ONES)
    plain = torchglm.fit(**given, family="poisson")
    with pytest.raises(ValueError, match="exposure came for the rows of the fit, which have theirs"):
        plain.marginal_effects(exposure=ONES)


def test_the_names_and_their_order_are_said_once() -> None:
    assert ROLES == ("weights", "freq", "offset", "exposure", "trials", "event", "until") == GLMBatch._fields[2:]
    assert tuple(Roles(**dict.fromkeys(reversed(ROLES), 1.0)).given) == ROLES
