"""Collinear columns, wild scales, batches with one bad member, and families with a shape of their own."""

from __future__ import annotations

import numpy as np
from pathology.base import base, case, poisson, problem, rng, table, with_one


@case
def dummy_variable_trap():
    g = rng(13)
    k = np.repeat(np.arange(3), 15)
    D = (k[:, None] == np.arange(3)) * 1.0
    return problem(np.column_stack([np.ones(45), D]), g.poisson(2 + k).astype(float), "poisson", "log")


@case
def zero_column():
    g, X, mu = base()
    return problem(np.column_stack([X, np.zeros(60)]), g.poisson(mu).astype(float), "poisson", "log")


@case
def linear_combination_column():
    g, X, mu = base()
    return problem(
        np.column_stack([X, 2 * X[:, 1] - 3 * X[:, 2] + 1]), (g.uniform(size=60) < 0.5) * 1.0, "binomial", "logit"
    )


@case
def near_collinear_1e6():
    g, X, mu = base()
    return problem(
        np.column_stack([X, X[:, 1] + 1e-6 * g.normal(size=60)]), g.poisson(mu).astype(float), "poisson", "log"
    )


@case
def near_collinear_1e10():
    g, X, mu = base()
    return problem(
        np.column_stack([X, X[:, 1] + 1e-10 * g.normal(size=60)]), g.poisson(mu).astype(float), "poisson", "log"
    )


@case
def nist_longley():
    d = table("nist_longley.csv", names=None)
    return problem(with_one(d[:, 1:]), d[:, 0], "gaussian", "identity")


@case
def nist_filip():
    d = table("nist_filip.csv")
    return problem(np.vander(d["x"], 11, increasing=True), d["y"], "gaussian", "identity")


def wampler(response):
    d = table("nist_wampler.csv")
    powers = np.vander(d["x"], 6, increasing=True)
    return problem(powers, powers.sum(1) if response is None else d[response], "gaussian", "identity")


@case
def nist_wampler1():
    return wampler(None)


@case
def nist_wampler3():
    return wampler("y3")


@case
def nist_wampler4():
    return wampler("y4")


@case
def column_scale_1e12():
    d = poisson()
    d["X"] = d["X"] * np.array([1, 1e12, 1])
    return d


@case
def column_scale_1e_minus_12():
    d = poisson()
    d["X"] = d["X"] * np.array([1, 1e-12, 1])
    return d


@case
def column_scale_mixed():
    d = poisson()
    d["X"] = d["X"] * np.array([1, 1e10, 1e-10])
    return d


@case
def uncentred_year_quadratic():
    g = rng(21)
    t = np.arange(1950.0, 2020)
    return problem(
        np.column_stack([np.ones(70), t, t**2]),
        g.poisson(np.exp(2 + 0.01 * (t - 1985))).astype(float),
        "poisson",
        "log",
    )


@case
def rare_events_1e_minus_5():
    n = 200000
    x = (np.arange(n) % 2).astype(float)
    y = np.zeros(n)
    y[[10, 11, 1001, 50001, 77777, 120003]] = 1
    return problem(with_one(x), y, "binomial", "logit")


@case
def huge_trials_1e12():
    return problem(
        with_one([0.0, 1, 2, 3]), np.array([0.1, 0.2, 0.35, 0.6]), "binomial", "logit", trials=np.full(4, 1e12)
    )


@case
def offset_constant_700_matching():
    g, X, mu = base()
    return problem(X, np.round(mu * 10), "poisson", "log", offset=np.full(60, -700.0))


@case
def gamma_tiny_y():
    g, X, mu = base()
    return problem(X, g.gamma(2, mu / 2) * 1e-300, "gamma", "log")


@case
def gamma_huge_range_y():
    g, X, mu = base()
    return problem(X, 10.0 ** g.uniform(-8, 8, 60), "gamma", "log")


@case
def invgauss_outlier():
    g, X, mu = base()
    y = g.wald(mu, 2)
    y[3] = 1e8
    return problem(X, y, "inverse_gaussian", "log")


@case
def high_leverage_1e8():
    d = poisson()
    d["X"][0, 1] = 1e3
    d["y"][0] = 2
    return d


@case
def gaussian_large_mean_small_sd():
    g, X, mu = base()
    return problem(X, 1e9 + X @ np.array([0, 1.0, 2.0]) + 1e-2 * g.normal(size=60), "gaussian", "identity")


@case
def batch_one_separated():
    g = rng(41)
    X = with_one(np.arange(1.0, 41))
    Y = (g.uniform(size=(40, 5)) < 0.5) * 1.0
    Y[:, 2] = (X[:, 1] > 20) * 1.0
    return problem(X, Y, "binomial", "logit")


@case
def batch_one_all_zero():
    g = rng(42)
    X = with_one(g.normal(size=40))
    Y = g.poisson(3, (40, 5)).astype(float)
    Y[:, 3] = 0
    return problem(X, Y, "poisson", "log")


@case
def batch_one_nan():
    g = rng(43)
    X = with_one(g.normal(size=40))
    Y = g.poisson(3, (40, 5)).astype(float)
    Y[7, 1] = np.nan
    return problem(X, Y, "poisson", "log")


@case
def negbin_underdispersed():
    g = rng(51)
    X = with_one(g.normal(size=100))
    y = np.round(np.exp(1.5 + 0.3 * X[:, 1]))
    return problem(X, y, "negbin", "log", family_args=dict(theta="estimate"))


@case
def negbin_extreme_overdispersion():
    g = rng(52)
    X = with_one(g.normal(size=200))
    y = g.negative_binomial(0.02, 0.02 / (0.02 + np.exp(1 + 0.5 * X[:, 1]))).astype(float)
    return problem(X, y, "negbin", "log", family_args=dict(theta="estimate"))


@case
def tweedie_sqrt_link_nonmonotone():
    g = rng(53)
    x = g.normal(size=80)
    y = np.round(np.exp(2 + 1.5 * x), 2)
    return problem(with_one(x), y, "tweedie", "power", family_args=dict(var_power=1.7, link_power=0.5))


@case
def elastic_net_constant_column():
    g, X, mu = base()
    return problem(
        np.column_stack([X, np.full(60, 7.0)]),
        g.poisson(mu).astype(float),
        "poisson",
        "log",
        family_args=dict(alpha=1.0, lam=0.05, standardize=True),
    )


@case
def ridge_separated():
    x = np.arange(1.0, 11)
    return problem(with_one(x), (x > 5.5) * 1.0, "binomial", "logit", family_args=dict(alpha=0.0, lam=0.1))
