"""Values that must be refused, weights, and the types and layouts of arrays."""

from __future__ import annotations

import numpy as np
from pathology.base import base, case, poisson, problem, rng


@case
def inf_in_X():
    d = poisson()
    d["X"][3, 1] = np.inf
    return d


@case
def nan_in_y():
    d = poisson()
    d["y"][3] = np.nan
    return d


@case
def inf_in_y():
    d = poisson()
    d["y"][3] = np.inf
    return d


@case
def nan_in_weights():
    w = np.ones(60)
    w[3] = np.nan
    return poisson(weights=w)


@case
def exposure_zero_y_zero():
    d = poisson()
    o = np.zeros(60)
    o[3] = -np.inf
    d["y"][3] = 0
    d["offset"] = o
    return d


@case
def negative_weights():
    w = np.ones(60)
    w[3] = -1
    return poisson(weights=w)


@case
def all_zero_weights():
    return poisson(weights=np.zeros(60))


@case
def negative_counts():
    d = poisson()
    d["y"][3] = -1
    return d


@case
def noninteger_counts():
    d = poisson()
    d["y"] = d["y"] + 0.37
    return d


@case
def gamma_zero_y():
    g, X, mu = base()
    y = g.gamma(2, mu / 2)
    y[3] = 0
    return problem(X, y, "gamma", "log")


@case
def invgauss_zero_y():
    g, X, mu = base()
    y = g.wald(mu, 2)
    y[3] = 0
    return problem(X, y, "inverse_gaussian", "log")


@case
def binomial_y_above_1():
    g, X, mu = base()
    y = (g.uniform(size=60) < 0.5) * 1.0
    y[3] = 1.2
    return problem(X, y, "binomial", "logit")


@case
def binomial_fractional_without_trials():
    g, X, mu = base()
    return problem(X, g.uniform(0.05, 0.95, 60), "binomial", "logit")


@case
def binomial_labels_minus1_plus1():
    g, X, mu = base()
    return problem(X, np.where(g.uniform(size=60) < 0.5, -1.0, 1.0), "binomial", "logit")


@case
def successes_exceed_trials():
    g, X, mu = base()
    t = np.full(60, 5.0)
    s = g.binomial(5, 0.4, 60).astype(float)
    s[3] = 7
    return problem(X, s / t, "binomial", "logit", trials=t)


@case
def zero_trials_row():
    g, X, mu = base()
    t = np.full(60, 5.0)
    t[3] = 0
    s = g.binomial(5, 0.4, 60) * (t > 0)
    return problem(X, np.divide(s, t, out=np.zeros(60), where=t > 0), "binomial", "logit", trials=t)


@case
def length_mismatch():
    d = poisson()
    d["y"] = d["y"][:-1]
    return d


@case
def zero_weights_equal_dropping():
    w = np.tile([1.0, 0.0, 2.0], 20)
    return poisson(weights=w)


@case
def zero_weight_row_with_nan():
    d = poisson()
    w = np.ones(60)
    w[3] = 0
    d["X"][3, 1] = np.nan
    d["weights"] = w
    return d


@case
def weights_range_1e12():
    g, X, mu = base()
    return problem(X, g.poisson(mu).astype(float), "poisson", "log", weights=10.0 ** g.uniform(-6, 6, 60))


@case
def frequency_weights():
    g, X, mu = base()
    return problem(
        np.round(X), g.poisson(mu).astype(float), "poisson", "log", weights=g.integers(1, 5, 60).astype(float)
    )


@case
def y_bool():
    g, X, mu = base()
    return problem(X, g.uniform(size=60) < 0.5, "binomial", "logit")


@case
def y_int8():
    g, X, mu = base()
    return problem(X, g.poisson(mu).astype(np.int8), "poisson", "log")


@case
def X_uint8_overflow():
    g = rng(31)
    x = g.integers(0, 255, (60, 2)).astype(np.uint8)
    return problem(np.column_stack([np.ones(60, np.uint8), x]), g.poisson(3, 60), "poisson", "log")


@case
def X_int64():
    g = rng(32)
    x = g.integers(-3, 4, (60, 2))
    return problem(np.column_stack([np.ones(60, np.int64), x]), g.poisson(3, 60), "poisson", "log")


@case
def float32_ill_conditioned():
    g = rng(33)
    t = np.arange(60.0)
    return problem(
        np.column_stack([np.ones(60), 1000 + t, (1000 + t) ** 2]).astype(np.float32),
        g.poisson(3, 60).astype(np.float32),
        "poisson",
        "log",
    )


@case
def float16_input():
    d = poisson()
    d["X"] = d["X"].astype(np.float16)
    return d


@case
def noncontiguous_X():
    d = poisson()
    d["X"] = np.repeat(np.asfortranarray(d["X"]), 2, axis=0)[::2]
    return d


@case
def X_one_dimensional():
    d = poisson()
    d["X"] = d["X"][:, 1]
    return d


@case
def object_strings():
    d = poisson()
    d["y"] = d["y"].astype(int).astype(str)
    return d
