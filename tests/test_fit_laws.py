"""Laws of a fit: what must not matter does not, and what the data are multiplied by comes out multiplied."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import MODELS, Problem, close, problem, same
from torch import Tensor

import torchglm
from torchglm import FitWarning, Status
from torchglm.rows.rows import Rows

ALL = pytest.mark.parametrize("model", list(MODELS))
SOME = pytest.mark.parametrize(
    "model", ["gaussian identity", "binomial probit", "poisson log", "gamma inverse", "negative binomial log"]
)


def random(*shape: int, seed: int = 7) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# batches --------------------------------------------------------------------------------------------------


@ALL
def test_a_batch_gives_the_fits_of_a_loop(model: str) -> None:
    data = problem(model)
    batch = data.fit()
    assert [status for status in batch.status] == [Status.CONVERGED] * 4
    for i in range(4):
        same(batch[i], data.one(i).fit(), 1e-10)


@ALL
def test_a_shared_design_gives_the_fits_of_a_repeated_one(model: str) -> None:
    data = problem(model)
    design = data.x[0]
    again = data.change(x=design.expand_as(data.x).contiguous()).fit()
    same(data.change(x=design).fit(), again, 1e-10)


@SOME
def test_two_batch_dimensions_are_one_longer_batch(model: str) -> None:
    data = problem(model, models=6)
    grid = data.change(
        data.x.reshape(2, 3, *data.x.shape[1:]),
        data.y.reshape(2, 3, -1),
        **{k: v.reshape(2, 3, -1) for k, v in data.rows.items()},
    )
    deep, flat = grid.fit(), data.fit()
    assert deep.coef.shape == (2, 3, 4) and deep.deviance.shape == (2, 3)
    assert torch.equal(deep.coef.reshape(6, 4), flat.coef)


@ALL
def test_short_models_padded_with_weight_zero_are_the_short_fits(model: str) -> None:
    data = problem(model)
    lengths = torch.tensor([40, 31, 22, 25])
    used = torch.arange(40) < lengths[:, None]
    garbage = data.change(
        torch.where(used[..., None], data.x, 1e3),
        torch.where(used, data.y, data.y[:, :1]),
        weights=torch.where(used, data.rows["weights"], 0.0),
        offset=torch.where(used, data.rows["offset"], 50.0),
    )
    ragged = garbage.fit()
    for i, length in enumerate(lengths.tolist()):
        same(ragged[i], data.one(i).take(slice(length)).fit(), 1e-10)


@SOME
@pytest.mark.parametrize("fault", ["nan in y", "infinity in x", "constant zero or one", "separated"])
def test_one_bad_model_leaves_the_others_bit_identical(model: str, fault: str) -> None:
    data = problem(model, models=5)
    x, y = data.x.clone(), data.y.clone()
    if fault == "nan in y":
        y[2, 3] = torch.nan
    elif fault == "infinity in x":
        x[2, 3, 1] = torch.inf
    elif fault == "separated":
        x[2, :, 0] = (y[2] > y[2].median()).to(x.dtype)
        y[2] = torch.where(x[2, :, 0] > 0, y[2], y[2].amin() if model == "gamma inverse" else 0.0)
    else:
        y[2] = 1e-3 if model == "gamma inverse" else 0.0
    others = [0, 1, 3, 4]
    with pytest.warns(FitWarning) if fault in ("nan in y", "infinity in x") else quiet():
        bad = data.change(x, y).fit()
    clean = data.change(data.x[others], data.y[others], **{k: v[others] for k, v in data.rows.items()}).fit()
    for name in ("coef", "std_err", "deviance", "dispersion", "n_iter", "converged"):
        assert torch.equal(getattr(bad, name)[others], getattr(clean, name)), name


@ALL
def test_beside_a_bad_model_a_single_one_is_what_it_is_alone(model: str) -> None:
    """To a part of the last step: one model goes a shorter road than two."""
    data = problem(model, models=2)
    y = data.y.clone()
    y[1] = 1e-3 if data.family.name in ("gamma", "inverse_gaussian", "exponential") else 0.0
    with quiet():
        pair = data.change(y=y).fit()
    alone = data.one(0).fit()
    close(pair.coef[0], alone.coef, 1e-12, 1.0)
    assert abs(int(pair.n_iter[0]) - int(alone.n_iter)) <= 1


@contextmanager
def quiet() -> Iterator[None]:
    """Where a model may or may not be worth a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        yield


# rows -----------------------------------------------------------------------------------------------------


def rows_of(data: Problem) -> Rows:
    y, factor = data.family.encode(data.y, **{k: v for k, v in data.rows.items() if k == "trials"})
    weight = data.rows["weights"] * (1.0 if factor is None else factor)
    return Rows(data.x, y, weight, data.rows["offset"], None, True)


@ALL
@pytest.mark.parametrize("cuts", [[40], [1, 39], [13, 13, 14], [39, 1], [4] * 10], ids=str)
def test_chunks_of_any_size_are_the_whole(model: str, cuts: list[int]) -> None:
    data = problem(model)
    whole, link = rows_of(data), torchglm.links.get(data.link)
    edges = torch.tensor([0, *cuts]).cumsum(0).tolist()
    chunks = [
        Rows(whole.x[:, a:b], whole.y[:, a:b], whole.weight[:, a:b], whole.offset[:, a:b], None, True)
        for a, b in zip(edges[:-1], edges[1:], strict=True)
    ]
    one, many = (torchglm.irls(source, data.family, link, tol=1e-12) for source in (whole, chunks))
    close(many.coef, one.coef, 1e-11, one.root.inverse_diagonal().sqrt())
    close(2 * many.moments.objective, 2 * one.moments.objective, 1e-12)
    assert torch.equal(many.status, one.status) and bool((many.status == int(Status.CONVERGED)).all())


@ALL
def test_the_order_of_rows_does_not_matter(model: str) -> None:
    data = problem(model)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(3))
    same(data.take(order).fit(), data.fit(), 1e-10)


@ALL
def test_frequencies_are_repeated_rows(model: str) -> None:
    data = problem(model).one(1)
    freq = torch.arange(40) % 4  # zero among them
    long = data.take(torch.repeat_interleave(torch.arange(40), freq)).fit()
    short = data.fit(freq=freq)
    same(short, long, 1e-10)
    for name in ("aic", "bic", "df_null", "p_value"):
        close(getattr(short, name), getattr(long, name), 1e-8)


@ALL
def test_a_row_of_weight_zero_is_a_dropped_row(model: str) -> None:
    data = problem(model).one(2)
    keep = torch.arange(40) % 5 != 1
    weights = torch.where(keep, data.rows["weights"], 0.0)
    dropped = data.take(keep).fit()
    same(data.change(weights=weights).fit(), dropped, 1e-12)
    spoiled = data.change(
        torch.where(keep[:, None], data.x, torch.nan), torch.where(keep, data.y, torch.nan), weights=weights
    )
    with pytest.warns(FitWarning, match="weight zero"):
        result = spoiled.fit()
    same(result, dropped, 1e-12)


@ALL
def test_a_factor_on_all_prior_weights_scales_the_dispersion_alone(model: str) -> None:
    data = problem(model).one(0)
    once, thrice = data.fit(), data.change(weights=3 * data.rows["weights"]).fit()
    close(thrice.coef, once.coef, 1e-9, once.std_err)
    close(thrice.deviance, 3 * once.deviance, 1e-10)
    if data.family.has_dispersion:
        close(thrice.dispersion, 3 * once.dispersion, 1e-9)
        close(thrice.std_err, once.std_err, 1e-9)
        close(thrice.loglik, once.loglik, 1e-8, 1.0)
    else:
        close(thrice.std_err * 3**0.5, once.std_err, 1e-9)


# columns --------------------------------------------------------------------------------------------------


@ALL
def test_scaled_and_shifted_columns_give_the_same_fit_in_other_units(model: str) -> None:
    data = problem(model).one(3)
    scale, shift = torch.tensor([1e6, 1e-5, -2.0]).double(), torch.tensor([3e6, 0.0, 7.0]).double()
    plain, other = data.fit(), data.change(x=data.x * scale + shift).fit()
    close(other.coef[1:] * scale, plain.coef[1:], 1e-8, plain.std_err[1:])
    close(other.coef[0] + (other.coef[1:] * shift).sum(), plain.coef[0], 1e-8, plain.std_err[0])
    close(other.std_err[1:] * scale.abs(), plain.std_err[1:], 1e-8)
    close(other.statistic[1:] * torch.sign(scale), plain.statistic[1:], 1e-8, 1.0)
    close(other.deviance, plain.deviance, 1e-10)


@ALL
def test_a_rotated_design_has_rotated_coefficients(model: str) -> None:
    data = problem(model).one(0)
    turn = torch.linalg.qr(random(3, 3)).Q
    plain, turned = data.fit(), data.change(x=data.x @ turn).fit()
    close(turn @ turned.coef[1:], plain.coef[1:], 1e-9, plain.std_err[1:])
    largest = plain.std_err.max() ** 2
    close(turn @ turned.covariance()[1:, 1:] @ turn.T, plain.covariance()[1:, 1:], 1e-8, largest)
    close(turned.deviance, plain.deviance, 1e-11)


@ALL
def test_an_offset_along_the_columns_is_absorbed_by_the_coefficients(model: str) -> None:
    data = problem(model).one(1)
    move = torch.tensor([0.3, -0.1, 0.2, 0.05]).double()
    moved = data.change(offset=data.rows["offset"] + move[0] + data.x @ move[1:]).fit()
    plain = data.fit()
    close(moved.coef + move, plain.coef, 1e-9, plain.std_err)
    close(moved.deviance, plain.deviance, 1e-11)
    close(moved.std_err, plain.std_err, 1e-8)


@ALL
def test_dependent_columns_are_nan_and_change_nothing_else(model: str) -> None:
    data = problem(model).one(2)
    copy = 2 * data.x[:, :1] - 3 * data.x[:, 1:2] + 1
    with pytest.warns(FitWarning, match="aliased columns.*x3"):
        result = data.change(x=torch.cat([data.x, copy], -1)).fit()
    plain = data.fit()
    assert torch.isnan(result.coef[4]) and torch.isnan(result.std_err[4])
    close(result.coef[:4], plain.coef, 1e-9, plain.std_err)
    close(result.std_err[:4], plain.std_err, 1e-9)
    close(result.deviance, plain.deviance, 1e-11)
    close(result.df_resid, plain.df_resid)


@SOME
def test_the_solution_of_least_length_has_the_same_fitted_values(model: str) -> None:
    data = problem(model).one(2)
    wide = data.change(x=torch.cat([data.x, data.x[:, :1] + data.x[:, 1:2]], -1))
    with pytest.warns(FitWarning):
        short, dropped = wide.fit(singular="minnorm"), wide.fit()
    close(short.fitted, dropped.fitted, 1e-9)
    null = torch.tensor([0.0, 1.0, 1.0, 0.0, -1.0]).double()
    assert abs(float(short.coef @ null)) < 1e-9
    with pytest.raises(ValueError, match="x3 depend on those before"):
        wide.fit(singular="error")


@settings(derandomize=True, max_examples=25, deadline=None)
@given(st.sampled_from(list(MODELS)), st.integers(0, 10**6), st.integers(1, 3), st.integers(8, 30))
def test_a_fit_is_a_function_of_the_sufficient_rows(model: str, seed: int, p: int, n: int) -> None:
    """Splitting each row into two of half the prior weight leaves coefficients and deviance as they are."""
    data = problem(model, models=1, n=n, p=p, seed=seed).one(0)
    with quiet():
        once = data.fit()
        twice = data.take(torch.arange(2 * n) % n)
        twice = twice.change(weights=twice.rows["weights"] / 2).fit()
    close(twice.deviance, once.deviance, 1e-8, 1e-8)
    if bool(once.converged):
        close(twice.coef, once.coef, 1e-7, once.std_err.nan_to_num(1.0).clamp(min=1e-6))
