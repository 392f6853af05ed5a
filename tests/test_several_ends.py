"""Fits of several predictors that have no maximum inside: never CONVERGED, and what to do is said."""

from __future__ import annotations

import re
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

import torchglm as tg
from torchglm.inference.limits import profile

N = 200
X = torch.randn(N, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
FIRST = torch.arange(N) < 20
GROUP = FIRST.double()[:, None]
TEN, ONE = torch.full((N,), 10.0, dtype=torch.float64), torch.ones(N, dtype=torch.float64)


def poisson(mean: float) -> Tensor:
    return torch.poisson(TEN / 10 * mean, generator=torch.Generator().manual_seed(4))


def coin() -> Tensor:
    return torch.bernoulli(TEN / 20, generator=torch.Generator().manual_seed(5))


def amounts() -> Tensor:
    return torch.randn(N, generator=torch.Generator().manual_seed(6), dtype=torch.float64).exp()


NO_MORE_ZEROS, EXACT = "no more zeros than the counts have", "fits some rows without error"
ENDS: dict[str, tuple[Tensor, Any, dict[str, Any], str]] = {
    "no zero to inflate": (poisson(5) + 1, tg.ZeroInflated("poisson"), {}, NO_MORE_ZEROS),
    "no zero, by columns": (poisson(5) + 1, tg.ZeroInflated("poisson"), {"predictors": {"zero": X}}, NO_MORE_ZEROS),
    "no zero, alpha": (poisson(5) + 1, tg.ZeroInflated("negative_binomial"), {}, NO_MORE_ZEROS),
    "few zeros": (poisson(2).where(poisson(2) > 0, coin()), tg.ZeroInflated("poisson"), {}, NO_MORE_ZEROS),
    "no hurdle": (poisson(3) + 1, tg.Hurdle("poisson"), {}, "no zero was seen. Fit the family within alone"),
    "no hurdle of costs": (amounts(), tg.Hurdle("lognormal"), {}, "no zero was seen"),
    "ones beyond a hurdle": (coin(), tg.Hurdle("poisson"), {}, "SEPARATED"),
    "nothing beyond a hurdle": (0 * ONE, tg.Hurdle("poisson"), {}, "No response is above 0"),
    "nothing but zeros": (0 * ONE, tg.ZeroInflated("poisson"), {}, "No response is above 0"),
    "no counts": (0 * ONE, tg.NegativeBinomial(), {"predictors": {"alpha": "~ 1"}}, "No response is above 0"),
    "no amounts": (0 * ONE, tg.Tweedie(), {"predictors": {"dispersion": "~ 1"}}, "No response is above 0"),
    "counts too even": (coin() + 2, tg.NegativeBinomial(), {"predictors": {"alpha": X}}, "Fit Poisson there"),
    "an exact mean": (1 + 2 * X[:, 0], tg.Gaussian(), {"predictors": {"dispersion": "~ 1"}}, "runs to 0"),
    "an exact Gamma mean": (X[:, 0].exp(), tg.Gamma(), {"predictors": {"dispersion": "~ 1"}, "link": "log"}, EXACT),
    "an exact group": (amounts().where(~FIRST, 2.0), tg.Gaussian(), {"predictors": {"dispersion": GROUP}}, "BOUNDARY"),
    "exact rates": (torch.sigmoid(X[:, 0]), tg.Beta(), {}, "fits the rates without error"),
    "even counts of trials": (TEN / 2, tg.BetaBinomial(), {"trials": TEN}, "Fit Binomial there"),
    "single trials": (coin(), tg.BetaBinomial(), {"trials": ONE}, "Fit Bernoulli"),
    "exact times": (X[:, 0].exp(), tg.Weibull(), {}, "fits the times without error"),
    "no event": (amounts(), tg.Weibull(), {"event": 0 * ONE}, "SEPARATED"),
    "no event, normal": (amounts(), tg.LogNormal(), {"event": 0 * ONE}, "SEPARATED"),
    "no event, logistic": (amounts(), tg.LogLogistic(), {"event": 0 * ONE}, "SEPARATED"),
    "a Gamma law": (amounts(), tg.Tweedie(), {"predictors": {"dispersion": "~ 1"}}, "power runs to 2"),
    "counts for amounts": (poisson(2), tg.Tweedie(), {"predictors": {"dispersion": "~ 1"}}, "power runs to 1"),
    "separated zeros": (
        (poisson(4) + 1).where(X[:, 0] <= 0, 0.0),
        tg.Hurdle("poisson"),
        {"predictors": {"zero": X[:, :1]}},
        "SEPARATED",
    ),
}


@pytest.mark.parametrize("case", ENDS)
def test_a_fit_without_a_maximum_says_what_to_do(case: str) -> None:
    y, family, options, said = ENDS[case]
    x = GROUP if "group" in case else X
    with pytest.warns(tg.FitWarning, match=re.escape(said)):
        result = tg.fit(x, y, family=family, **options)
    assert not bool(result.converged), result.status


@pytest.mark.parametrize("case", ["no zero to inflate", "counts too even", "nothing but zeros", "exact times"])
def test_in_a_batch_the_others_are_fitted(case: str) -> None:
    y, family, options, said = ENDS[case]
    other = amounts() if family.durations else 3 * poisson(2) * coin()
    both = torch.stack([y, other, y])
    with pytest.warns(tg.FitWarning, match=re.escape(said)):
        result = tg.fit(X, both, family=family, **options)
    assert result.converged.tolist() == [False, True, False]
    alone = tg.fit(X, other, family=family, **options)
    torch.testing.assert_close(result[1].coef, alone.coef, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("y", "family", "options", "said"),
    [
        (amounts().where(~FIRST, 0.0) / 100, tg.Beta(), {}, "0 < y < 1; row 0 has y = 0. .*Hurdle\\(Beta\\(\\)\\)"),
        (ONE, tg.Beta(), {}, "0 < y < 1; row 0 has y = 1. .*trials="),
        (coin(), tg.BetaBinomial(), {}, "needs trials="),
        (TEN + 1, tg.BetaBinomial(), {"trials": TEN}, "more successes than trials"),
        (amounts(), tg.Weibull(), {"event": TEN}, "event must be 1 .* or 0"),
        (amounts(), tg.Weibull(), {"trials": TEN}, "trials= is for Binomial and BetaBinomial, got it with weibull"),
        (amounts(), tg.Weibull(), {"link": "log"}, "weibull has its own link"),
        (coin(), tg.Weibull(), {}, "y > 0; row . has y = 0.*event=0"),
        (-amounts(), tg.ZeroInflated("poisson"), {}, "y >= 0"),
        (coin(), tg.Poisson(), {"predictors": {"alpha": "~ 1"}}, "poisson has no parameter beside its mean"),
        (coin(), tg.NegativeBinomial(), {"predictors": {"dispersion": "~ 1"}}, "beside the first are: alpha"),
        (coin(), tg.ZeroInflated("poisson"), {"predictors": {"alpha": "~ 1"}}, "beside the first are: zero"),
        (amounts(), tg.Tweedie(2.5), {"predictors": {"dispersion": "~ 1"}}, "needs a power in \\(1, 2\\), got 2.5"),
    ],
)
def test_what_does_not_fit_a_family_is_refused(y: Tensor, family: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        tg.fit(X, y, family=family, **options)


def test_weak_zero_inflation_is_found_all_the_same() -> None:
    """Far from the maximum the information of such models is often not positive: steps lead down even so."""
    generator = torch.Generator().manual_seed(1)
    models, n = 100, 300
    x = torch.randn(models, n, 2, generator=generator, dtype=torch.float64)
    mean = (0.8 + 0.4 * x[..., 0] - 0.3 * x[..., 1]).exp()
    gamma = torch._standard_gamma(torch.full((models, n), 2.0, dtype=torch.float64), generator=generator) / 2
    structural = torch.rand(models, n, generator=generator, dtype=torch.float64) < 0.3
    y = torch.where(structural, 0.0, torch.poisson(mean * gamma, generator=generator))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tg.FitWarning)
        result = tg.fit(x, y, family=tg.ZeroInflated("negative_binomial"))
    assert int(result.converged.sum()) >= 97 and int(result.n_iter.max()) < 40
    assert float(result.n_iter.double().median()) <= 9


def test_profiles_that_run_along_an_edge_come_to_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts as even as Poisson's: an alpha of 0 is within its limits, and no search for them creeps there for ever."""
    turns: list[int] = []
    search = profile._Profile.root

    def counted(self: Any, lanes: Tensor, distance: Tensor) -> Tensor:
        turns.append(len(lanes))
        return search(self, lanes, distance)

    monkeypatch.setattr(profile._Profile, "root", counted)
    g = torch.Generator().manual_seed(0)
    x = torch.randn(40, 1, generator=g, dtype=torch.float64)
    y = torch.poisson((1 + 0.4 * x[:, 0]).exp().expand(4, 40), generator=g)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tg.FitWarning)
        r = tg.fit(x, y, family="negative_binomial", predictors={"alpha": "~ 1"})
        limits = r.conf_int(method="profile")
    known = r.flat.status != int(tg.Status.BOUNDARY)
    assert bool(known.any()) and len(turns) < 90
    assert bool((limits[known][:, 2, 0] == -torch.inf).all() and torch.isfinite(limits[known][:, :2]).all())
