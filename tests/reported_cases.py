"""A fit of every family of several predictors on one small table, for tests of what all of them must do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

import torchglm as tg
from torchglm.families.several import MEMBERS, VectorFamily

ORDER = ["low", "mid", "high"]


def table(n: int = 300, seed: int = 0) -> pd.DataFrame:
    """Columns age, region and kind, and a response for every family."""
    rng = np.random.default_rng(seed)
    age, region = rng.normal(size=n), rng.choice(list("abc"), n)
    mu = np.exp(0.5 + 0.3 * age)
    code = np.digitize(age * 0.8 + (region == "b") + rng.logistic(size=n), [-0.5, 1.0])
    count, cost = rng.poisson(mu * rng.gamma(2, 0.5, n)), rng.gamma(2, mu)
    trials, zero = rng.integers(3, 9, n), rng.random(n) < 0.3
    return pd.DataFrame(
        {
            "age": age,
            "region": region,
            "kind": rng.choice(["u", "v"], n),
            "level": pd.Categorical([ORDER[k] for k in code], categories=ORDER, ordered=True),
            "cost": cost,
            "count": count,
            "many": np.where(zero, 0, count),
            "two": np.where(zero, 0.0, cost),
            "rate": rng.beta(2, 3, n),
            "trials": trials,
            "hits": rng.binomial(trials, rng.beta(2, 3, n)),
            "time": rng.weibull(1.5, n) * mu,
            "seen": rng.random(n) < 0.8,
            "w": rng.uniform(0.5, 2, n),
        }
    )


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "ordinal": ("level ~ age + region", {"family": "ordinal"}),
    "free": ("level ~ age + region", {"family": tg.Ordinal(free=["age"])}),
    "continuation": ("level ~ age + region", {"family": tg.Ordinal("cloglog", "continuation")}),
    "adjacent": ("level ~ age", {"family": tg.Ordinal(kind="adjacent")}),
    "multinomial": ("level ~ age + C(region)", {"family": tg.Multinomial(baseline="mid")}),
    "plain": ("count ~ age", {"family": tg.families.several.Plain(tg.Poisson())}),
    "gaussian": ("cost ~ age", {"family": "gaussian", "predictors": {"dispersion": "~ age"}}),
    "gamma": (
        "cost ~ age + region",
        {"family": "gamma", "link": "log", "predictors": {"dispersion": "~ region"}, "weights": "w"},
    ),
    "negative_binomial": ("count ~ age", {"family": "negative_binomial", "predictors": {"alpha": "~ age"}}),
    "tweedie": ("two ~ age", {"family": "tweedie", "predictors": {"dispersion": "~ age"}}),
    "beta": ("rate ~ age", {"family": "beta", "predictors": {"precision": "~ age"}}),
    "beta_binomial": ("hits ~ age", {"family": "beta_binomial", "trials": "trials"}),
    "zero_inflated": ("many ~ age", {"family": tg.ZeroInflated("poisson"), "predictors": {"zero": "~ age"}}),
    "zero_inflated_nb": ("many ~ age", {"family": tg.ZeroInflated("negative_binomial")}),
    "hurdle": ("many ~ age", {"family": tg.Hurdle("poisson"), "predictors": {"zero": "~ region"}}),
    "two_parts": ("two ~ age", {"family": tg.Hurdle("lognormal"), "predictors": {"zero": "~ age"}}),
    "weibull": ("time ~ age", {"family": "weibull", "event": "seen", "predictors": {"scale": "~ age"}}),
    "lognormal": ("time ~ age", {"family": "lognormal", "event": "seen"}),
    "loglogistic": ("time ~ age", {"family": "loglogistic"}),
}


def fitted(case: str, data: Any, **options: Any) -> tg.Result:
    """The fit of a case."""
    formula, settings = CASES[case]
    return tg.fit(formula, data, **settings, **options)


def missing(results: dict[str, tg.Result]) -> set[type[VectorFamily]]:
    """The families of several predictors of which there is no fit."""
    return set(MEMBERS) - {type(result.family) for result in results.values()}
