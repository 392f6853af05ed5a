"""Small models take a short road where they can: it ends where the search does, and hands over what needs care."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import torchglm
from torchglm.fitting import irls as driver
from torchglm.fitting import small_models
from torchglm.fitting.moments import Moments
from torchglm.fitting.small_passes import PlainPasses

FAMILIES = ["poisson", "gamma", "bernoulli", "gaussian", "negative_binomial", "tweedie", "inverse_gaussian"]
LINKS = {"bernoulli": "logit", "gaussian": "identity"}


def family_of(name: str) -> str | torchglm.families.Family:
    return {"negative_binomial": torchglm.NegativeBinomial(0.5), "tweedie": torchglm.Tweedie(1.5)}.get(name, name)


def problems(name: str, own: bool, seed: int = 0, models: int = 40, n: int = 60, p: int = 4) -> dict[str, Tensor]:
    """Models with designs of every condition, a rare level, weights over six decades, and an offset."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    x = normal(models, n, p) if own else normal(n, p)
    if own:  # the last column leaves the first by ever less: conditions of 1 to 1e12
        gap = 10.0 ** -torch.linspace(0, 12, models, dtype=torch.float64)[:, None]
        x[..., -1] = x[..., 0] + gap * x[..., -1]
        x[::3, :, 1] = 0.0
        x[::3, :2, 1] = 1.0
    offset = 0.2 * normal(models, n)
    eta = 0.3 * x[..., 0] + offset + 0.5
    mu = eta if name == "gaussian" else torch.sigmoid(eta) if name == "bernoulli" else eta.exp()
    noise = normal(models, n).square() + 0.1
    y = {
        "poisson": lambda: torch.poisson(mu.clone(), generator=draw),
        "gaussian": lambda: mu + normal(models, n),
        "bernoulli": lambda: torch.bernoulli(mu, generator=draw),
        "gamma": lambda: mu * noise,
        "inverse_gaussian": lambda: mu * noise,
        "tweedie": lambda: torch.poisson(mu * noise, generator=draw),
        "negative_binomial": lambda: torch.poisson(mu * noise, generator=draw),
    }[name]()
    weights = 10.0 ** (6 * torch.rand(models, n, generator=draw, dtype=torch.float64) - 3)
    return {"x": x, "y": y, "offset": offset, "weights": weights}


def both(monkeypatch: pytest.MonkeyPatch, name: str, **rows: Tensor) -> tuple[torchglm.Result, torchglm.Result]:
    """The fits by the search alone, and as they go."""
    options = {"family": family_of(name), "link": LINKS.get(name, "log")}
    with monkeypatch.context() as plain:
        plain.setattr(driver, "fit_small_models", lambda problem, source, lane, out: lane)
        want = torchglm.fit(**rows, **options)
    return want, torchglm.fit(**rows, **options)


def same(got: torchglm.Result, want: torchglm.Result, sound: Tensor, rounding: int = 40) -> None:
    found = [told_as(*pair) for pair in zip(got.status[rounding:], want.status[rounding:], strict=True)]
    assert got.status[:rounding] + found == want.status
    gap = ((got.coef - want.coef) / want.std_err)[sound]
    assert float(gap.nan_to_num().abs().max()) < 1e-4
    for name in ("std_err", "deviance", "pearson_chi2", "nobs", "dispersion"):
        torch.testing.assert_close(
            getattr(got, name)[sound], getattr(want, name)[sound], rtol=1e-4, atol=1e-9, equal_nan=True
        )


@pytest.mark.filterwarnings("ignore::torchglm.FitWarning")
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_short_road_ends_where_the_search_does(monkeypatch: pytest.MonkeyPatch, name: str, own: bool) -> None:
    for seed in range(2):
        want, got = both(monkeypatch, name, **problems(name, own, seed))
        # whether what runs to infinity is a level is rounding beyond a condition of 1e11
        same(got, want, want.converged, rounding=37 if own else 40)


def told_as(got: torchglm.Status, want: torchglm.Status) -> torchglm.Status:
    """`want` where both say that a model is separated, else `got`."""
    separated = {torchglm.Status.SEPARATED, torchglm.Status.SEPARATED_LEVELS}
    return want if {got, want} <= separated else got


def taken(monkeypatch: pytest.MonkeyPatch, **rows: Tensor) -> Tensor:
    """The models the short road leaves to the search."""
    left: list[Tensor] = []

    def watched(*args: object) -> Tensor:
        left.append(small_models.fit_small_models(*args))
        return left[-1]

    monkeypatch.setattr(driver, "fit_small_models", watched)
    torchglm.fit(**rows, family="poisson")
    return left[0]


def test_models_in_good_order_never_reach_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = problems("poisson", False)
    assert taken(monkeypatch, x=rows["x"], y=rows["y"]).numel() == 0


@pytest.mark.filterwarnings("ignore::torchglm.FitWarning")
def test_a_model_that_needs_care_goes_to_the_search_and_leaves_the_others_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = problems("poisson", False)
    x, y = rows["x"].expand(40, 60, 4).contiguous(), rows["y"]
    alone = torchglm.fit(x, y, family="poisson")
    x[3, :, 2] = x[3, :, 1]
    x[7, :, 3] = 0.0
    x[7, 0, 3], y[7, 0] = 1.0, 0.0  # separated: a level without events
    y[11] = torch.exp(0.5 + 0.3 * x[11, :, 0])  # no deviance at all
    assert taken(monkeypatch, x=x, y=y).tolist() == [3, 7, 11]
    mixed = torchglm.fit(x, y, family="poisson")
    others = [i for i in range(40) if i not in (3, 7, 11)]
    for name in ("coef", "std_err", "deviance", "pearson_chi2"):
        assert torch.equal(getattr(mixed, name)[others], getattr(alone, name)[others])


@pytest.mark.parametrize("own", [True, False])
def test_the_last_step_goes_by_the_gram_before_it_to_all_digits(own: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three passes after the first have a Gram, the fourth has none, and is followed by the last alone."""
    grams, step = list[bool](), PlainPasses.step

    def seen(self: PlainPasses, coef: Tensor, turn: int, curved: bool = True) -> Moments:
        grams.append(curved)
        return step(self, coef, turn, curved)

    monkeypatch.setattr(PlainPasses, "step", seen)
    draw = torch.Generator().manual_seed(4)
    x = torch.randn(*([40] if own else []), 200, 6, generator=draw, dtype=torch.float64)
    x[..., 0] = 1.0
    coef = 0.3 * torch.randn(40, 6, 1, generator=draw, dtype=torch.float64)
    y = torch.poisson((x @ coef).squeeze(-1).exp() + 0.5, generator=draw)
    fit = torchglm.fit(x, y, family="poisson", intercept=False)
    assert grams == [True, True, True, False]
    mu = (x @ fit.coef.unsqueeze(-1)).squeeze(-1).exp()
    score, gram = (x.mT @ (y - mu).unsqueeze(-1)), (x * mu.unsqueeze(-1)).mT @ x
    assert float((score.mT @ torch.linalg.solve(gram, score)).sqrt().max()) < 1e-11  # standard errors left
    deviations = torch.linalg.inv(gram).diagonal(dim1=-2, dim2=-1).sqrt()
    torch.testing.assert_close(fit.std_err, deviations, rtol=1e-8, atol=0)


def test_groups_and_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = problems("poisson", False)
    x = rows["x"].expand(40, 60, 4).contiguous()
    whole = torchglm.fit(x, rows["y"], family="poisson")
    monkeypatch.setattr(small_models, "MEMBERS", 16)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    parts = torchglm.fit(x, rows["y"], family="poisson")
    torch.set_num_threads(before)
    assert torch.equal(parts.coef, whole.coef) and torch.equal(parts.std_err, whole.std_err)
    assert torch.equal(parts.n_iter, whole.n_iter)


def test_float32_designs_are_summed_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = problems("poisson", False)
    x = rows["x"].expand(40, 60, 4).contiguous()
    x[..., -1] = 2000 + 30 * x[..., -1]  # a year
    want, got = both(monkeypatch, "poisson", x=x.float(), y=rows["y"].float())
    same(got, want, want.converged)
    assert bool(got.converged.all())


def test_shape_parameters_go_with_their_models(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = problems("negative_binomial", False)
    alpha = torch.linspace(0.1, 2, 40, dtype=torch.float64)
    batch = torchglm.fit(rows["x"], rows["y"], family=torchglm.NegativeBinomial(alpha))
    one = torchglm.fit(rows["x"], rows["y"][5], family=torchglm.NegativeBinomial(float(alpha[5])))
    torch.testing.assert_close(batch.coef[5], one.coef, rtol=1e-8, atol=1e-10)
