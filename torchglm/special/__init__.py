"""Functions that torch lacks: exact densities at their limits, tails and quantiles, on any device."""

from __future__ import annotations

from torchglm.special.counts import (
    binomial_log_prob,
    log_rising,
    log_rising_of_inverse,
    log_rising_slopes,
    log_rising_table,
    negative_binomial_half_deviance,
    negative_binomial_log_prob,
    negative_binomial_slopes,
    of_counts,
    poisson_log_prob,
)
from torchglm.special.crps import (
    binomial_crps,
    exponential_crps,
    gamma_crps,
    negative_binomial_crps,
    normal_crps,
    poisson_crps,
)
from torchglm.special.elementary import (
    kl_div,
    log1pmx,
    log_factorial_remainder,
    log_minus_digamma,
    log_one_plus_minus_over,
    stirling_remainder,
    trigamma,
)
from torchglm.special.incomplete import log_betainc, log_gammainc
from torchglm.special.inverse_gaussian import (
    inverse_gaussian_log_prob,
    inverse_gaussian_log_tails,
    inverse_gaussian_quantile,
)
from torchglm.special.quantiles import beta_quantile, gamma_quantile
from torchglm.special.tails import (
    betainc,
    chi2_icdf,
    chi2_sf,
    f_icdf,
    f_sf,
    gammainc,
    gammaincc,
    normal_icdf,
    normal_sf,
    student_t_icdf,
    student_t_sf,
)
from torchglm.special.tweedie import tweedie_log_prob, tweedie_unit_deviance
from torchglm.special.tweedie_nodes import tweedie_with_slopes
from torchglm.special.tweedie_slopes import tweedie_slopes
from torchglm.special.tweedie_tails import tweedie_compound, tweedie_log_tails, tweedie_quantile

__all__ = [
    "beta_quantile",
    "betainc",
    "binomial_log_prob",
    "binomial_crps",
    "chi2_icdf",
    "chi2_sf",
    "exponential_crps",
    "f_icdf",
    "f_sf",
    "gamma_crps",
    "gamma_quantile",
    "gammainc",
    "gammaincc",
    "inverse_gaussian_log_prob",
    "inverse_gaussian_log_tails",
    "inverse_gaussian_quantile",
    "kl_div",
    "log1pmx",
    "log_one_plus_minus_over",
    "log_betainc",
    "log_factorial_remainder",
    "log_minus_digamma",
    "log_rising",
    "log_rising_of_inverse",
    "log_rising_slopes",
    "log_rising_table",
    "log_gammainc",
    "negative_binomial_crps",
    "negative_binomial_half_deviance",
    "negative_binomial_log_prob",
    "negative_binomial_slopes",
    "of_counts",
    "normal_crps",
    "normal_icdf",
    "normal_sf",
    "poisson_crps",
    "poisson_log_prob",
    "stirling_remainder",
    "student_t_icdf",
    "student_t_sf",
    "trigamma",
    "tweedie_compound",
    "tweedie_log_prob",
    "tweedie_log_tails",
    "tweedie_quantile",
    "tweedie_slopes",
    "tweedie_with_slopes",
    "tweedie_unit_deviance",
]
