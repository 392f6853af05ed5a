"""Maxima at infinity, on an edge, hard to reach, or of a response with nothing to explain."""

from __future__ import annotations

import numpy as np
from pathology.base import base, case, problem, rng, table, with_one


@case
def complete_separation_logit():
    x = np.arange(1.0, 11)
    return problem(with_one(x), (x > 5.5) * 1.0, "binomial", "logit")


@case
def complete_separation_probit():
    x = np.arange(1.0, 11)
    return problem(with_one(x), (x > 5.5) * 1.0, "binomial", "probit")


@case
def complete_separation_cloglog():
    x = np.arange(1.0, 11)
    return problem(with_one(x), (x > 5.5) * 1.0, "binomial", "cloglog")


@case
def quasi_separation_logit():
    x = np.array([1.0, 2, 3, 4, 5, 5, 6, 7, 8, 9])
    y = np.array([0.0, 0, 0, 0, 0, 1, 1, 1, 1, 1])
    return problem(with_one(x), y, "binomial", "logit")


@case
def poisson_all_zero_cell():
    g = rng(4)
    grp = np.repeat(np.arange(3), 20)
    y = g.poisson(3.0, 60).astype(float)
    y[grp == 2] = 0
    return problem(np.column_stack([np.ones(60), grp == 1, grp == 2]).astype(float), y, "poisson", "log")


@case
def hauck_donner_large_effect():
    return problem(with_one([0.0, 1.0]), np.array([0.25, 0.99]), "binomial", "logit", trials=np.array([100.0, 100.0]))


@case
def glm2_null_logit_start_181():
    return problem(np.ones((4, 1)), np.array([1.0, 1, 1, 0]), "binomial", "logit", start=np.array([-1.81]))


@case
def glm2_null_logit_start_5():
    return problem(np.ones((4, 1)), np.array([1.0, 1, 1, 0]), "binomial", "logit", start=np.array([-5.0]))


def crabs(rep=None):
    c = table("glm2_crabs.csv")
    i = np.arange(173) if rep is None else c[rep].astype(int) - 1
    w = c["Width"] - c["Width"].min()
    return problem(
        np.column_stack([np.ones(173), w[i], c["Dark"][i], c["GoodSpine"][i]]),
        c["Satellites"][i],
        "poisson",
        "identity",
        start=np.ones(4),
    )


@case
def glm2_crabs_identity_boundary():
    return crabs()


@case
def glm2_crabs_identity_rep2_aperiodic():
    return crabs("Rep2")


@case
def glm2_heart_logbinomial_periodic():
    h = table("glm2_heart.csv")
    D = [np.ones(74)] + [(h[k] == level) * 1.0 for k in ("AgeGroup", "Severity", "Delay", "Region") for level in (2, 3)]
    return problem(
        np.column_stack(D),
        h["Deaths"] / h["Patients"],
        "binomial",
        "log",
        trials=h["Patients"],
        start=np.r_[np.log(h["Deaths"].sum() / h["Patients"].sum()), np.zeros(8)],
    )


@case
def logbinomial_default_start_fails():
    g = rng(8)
    x = g.uniform(0, 2, 200)
    y = (g.uniform(size=200) < np.exp(-1.6 + 0.7 * x)) * 1.0
    return problem(with_one(x), y, "binomial", "log")


@case
def logbinomial_boundary_mle():
    x = np.array([0.0, 1, 2, 3, 4, 5, 6, 7, 8, 9] * 3)
    y = np.array(
        [0, 0, 0, 0, 1, 0, 1, 1, 1, 1] + [0, 0, 1, 0, 0, 1, 0, 1, 1, 1] + [0, 0, 0, 1, 0, 1, 1, 0, 1, 1], float
    )
    return problem(with_one(x), y, "binomial", "log")


@case
def gamma_inverse_negative_eta():
    g = rng(9)
    x = np.linspace(0.1, 5, 50)
    y = g.gamma(2.0, np.exp(1.2 * x) / 2.0)
    return problem(with_one(x), y, "gamma", "inverse")


@case
def cauchit_bernoulli_outlier():
    x = np.r_[np.linspace(-3, 3, 60), 40.0]
    y = (x > 0.2) * 1.0
    y[[20, 28, 33, 35, 41]] = 1 - y[[20, 28, 33, 35, 41]]
    y[-1] = 0
    return problem(with_one(x), y, "binomial", "cauchit")


@case
def probit_false_convergence_bad_start():
    g = rng(11)
    x = g.normal(size=100)
    y = (g.normal(size=100) < 0.5 + x) * 1.0
    return problem(with_one(x), y, "binomial", "probit", start=np.array([-30.0, -30.0]))


@case
def poisson_log_explosive_first_step():
    x = np.r_[np.zeros(20), 1.0]
    y = np.r_[np.zeros(19), 1, 1e7]
    return problem(with_one(x), y, "poisson", "log", start=np.array([0.0, 0.0]))


@case
def all_zero_counts_negbin():
    return problem(base()[1], np.zeros(60), "negbin", "log", family_args=dict(theta=1.0))


@case
def all_zero_tweedie():
    return problem(base()[1], np.zeros(60), "tweedie", "log", family_args=dict(var_power=1.5))


@case
def constant_response_gaussian():
    return problem(base()[1], np.full(60, 3.0), "gaussian", "identity")


@case
def constant_response_gamma():
    return problem(base()[1], np.full(60, 3.0), "gamma", "log")


@case
def single_class_all_ones():
    return problem(base()[1], np.ones(60), "binomial", "logit")


@case
def single_class_all_zeros():
    return problem(base()[1], np.zeros(60), "binomial", "logit")


@case
def saturated_poisson():
    y = np.array([3.0, 7, 1, 12])
    X = np.eye(4)
    X[:, 0] = 1
    return problem(X, y, "poisson", "log")


@case
def perfect_fit_gaussian():
    X = base()[1]
    return problem(X, X @ np.array([1.0, 2.0, -3.0]), "gaussian", "identity")


@case
def no_columns_offset_only():
    return problem(
        np.zeros((6, 0)), np.array([0.0, 2, 1, 4, 3, 2]), "poisson", "log", offset=np.log([1.0, 2, 1, 3, 2, 2])
    )


@case
def n_equals_1_gaussian():
    return problem(np.ones((1, 1)), np.array([4.0]), "gaussian", "identity")


@case
def empty_input():
    return problem(np.zeros((0, 2)), np.zeros(0), "poisson", "log")


@case
def p_greater_than_n():
    g = rng(12)
    return problem(
        np.column_stack([np.ones(10), g.normal(size=(10, 20))]), g.poisson(3, 10).astype(float), "poisson", "log"
    )
