"""Is a fit that says CONVERGED at an optimum, and is what it says of itself true? Textbook formulas, in long double."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import mpmath
import numpy as np

Array = np.ndarray
Wide = np.longdouble
PI = Wide("3.14159265358979323846264338327950288")

FLAT = 1e-5  # share of the deviance that a Newton step from an optimum may still gain
ROUNDING = 1e-9  # share of the terms of a score that they may leave in their sum
ALIASED = 1e-7  # share of a column's length that the other columns must leave of it before it counts as their own


class Means(NamedTuple):
    """The mean, and the slope d mean / d eta; of proportions the logarithms of mean, distance from one and slope."""

    mu: Array
    slope: Array
    log_mu: Array
    log_other: Array
    log_slope: Array


def _plain(mean: Array, slope: Array) -> Means:
    return Means(mean, slope, np.log(mean), np.log1p(-mean), np.log(np.abs(slope)))


def _share(log_mu: Array, log_other: Array, log_slope: Array) -> Means:
    """Of two logarithms the larger one is made of the smaller, which has the digits."""
    low = log_mu < log_other
    log_mu, log_other = np.where(low, log_mu, _rest(log_other)), np.where(low, _rest(log_mu), log_other)
    return Means(np.exp(log_mu), np.exp(log_slope), log_mu, log_other, log_slope)


def _rest(log: Array) -> Array:
    """log(1 - exp(log)); only of values below log(1/2) are its digits asked for."""
    return np.log1p(-np.exp(np.minimum(log, Wide(-0.6))))


def _logit(e: Array) -> Means:
    log_mu, log_other = -np.logaddexp(Wide(0), -e), -np.logaddexp(Wide(0), e)
    return _share(log_mu, log_other, log_mu + log_other)


def _probit(e: Array) -> Means:
    tail = np.array([_log_ndtr(-abs(v)) for v in e], Wide)
    return _share(np.where(e < 0, tail, 0), np.where(e < 0, 0, tail), -e * e / 2 - np.log(2 * PI) / 2)


def _log_ndtr(value: Wide) -> Wide:
    with mpmath.workdps(25):
        return Wide(mpmath.nstr(mpmath.log(mpmath.ncdf(mpmath.mpf(repr(value).split("'")[1]))), 22))


def _cloglog(e: Array) -> Means:
    """log(1 - mean) is -exp(eta), and has the digits of the mean as well where that is small."""
    log_mu = np.log(-np.expm1(-np.exp(e)))
    return Means(np.exp(log_mu), np.exp(e - np.exp(e)), log_mu, -np.exp(e), e - np.exp(e))


def _loglog(e: Array) -> Means:
    mirrored = _cloglog(-e)
    return mirrored._replace(mu=np.exp(-np.exp(-e)), log_mu=mirrored.log_other, log_other=mirrored.log_mu)


def _cauchit(e: Array) -> Means:
    mean, other = np.arctan2(Wide(1), -e) / PI, np.arctan2(Wide(1), e) / PI
    return _share(np.log(mean), np.log(other), -np.log(PI * (1 + e * e)))


LINKS: dict[str, Callable[[Array], Means]] = {
    "identity": lambda e: _plain(e, np.ones_like(e)),
    "log": lambda e: _plain(np.exp(e), np.exp(e)),
    "logit": _logit,
    "probit": _probit,
    "cloglog": _cloglog,
    "loglog": _loglog,
    "cauchit": _cauchit,
    "inverse": lambda e: _plain(1 / e, -1 / (e * e)),
    "inverse_squared": lambda e: _plain(e**-0.5, -0.5 * e**-1.5),
    "sqrt": lambda e: _plain(e * e, 2 * e),
    "softplus": lambda e: _plain(np.logaddexp(e, Wide(0)), 1 / (1 + np.exp(-e))),
}


def variance(name: str, mu: Array, shape: float) -> Array:
    """The variance function of a family with its alpha or power."""
    table = {
        "gaussian": lambda: np.ones_like(mu),
        "poisson": lambda: mu,
        "gamma": lambda: mu**2,
        "exponential": lambda: mu**2,
        "inverse_gaussian": lambda: mu**3,
        "negative_binomial": lambda: mu + shape * mu**2,
        "tweedie": lambda: mu**shape,
    }
    return table[name]()


def unit_deviance(name: str, y: Array, means: Means, shape: float) -> tuple[Array, Array]:
    """The unit deviance, and the size of the terms that it is the difference of."""
    mu = means.mu
    logs = np.where(y > 0, y * np.log(np.where(y > 0, y, 1) / mu), 0)
    if name == "gaussian":
        return (y - mu) ** 2, y**2 + mu**2
    if name in ("bernoulli", "binomial"):
        logs = np.where(y > 0, y * (np.log(np.where(y > 0, y, 1)) - means.log_mu), 0)
        rest = np.where(y < 1, (1 - y) * (np.log(np.where(y < 1, 1 - y, 1)) - means.log_other), 0)
        return 2 * (logs + rest), 2 * (np.abs(logs) + np.abs(rest) + 1)
    if name == "poisson":
        return 2 * (logs - (y - mu)), 2 * (np.abs(logs) + y + mu)
    if name in ("gamma", "exponential"):
        return 2 * ((y - mu) / mu - np.log(y / mu)), 2 * ((y + mu) / mu + np.abs(np.log(y / mu)))
    if name == "inverse_gaussian":
        return (y - mu) ** 2 / (y * mu**2), (y**2 + mu**2) / (y * mu**2)
    if name == "negative_binomial":
        excess = shape * (y - mu) / (1 + shape * mu)
        ratio = np.where(excess > -0.5, np.log1p(excess), np.log((1 + shape * y) / (1 + shape * mu)))
        rest = (y + 1 / Wide(shape)) * ratio
        return 2 * (logs - rest), 2 * (np.abs(logs) + np.abs(rest) + 2 * y + 1 / Wide(shape))
    p = Wide(shape)
    parts = np.where(y > 0, np.where(y > 0, y, 1) ** (2 - p), 0) / ((1 - p) * (2 - p)), y * mu ** (1 - p) / (1 - p)
    last = mu ** (2 - p) / (2 - p)
    return 2 * (parts[0] - parts[1] + last), 2 * (np.abs(parts[0]) + np.abs(parts[1]) + last)


@dataclass
class Drawn:
    """A model: design (n, p) with its intercept, response, whole weights, offset; what penalises each column."""

    family: str
    link: str
    design: Array
    y: Array
    weight: Array
    offset: Array
    shape: float = 1.0
    event: Array | None = None
    l1: Array | float = 0.0
    l2: Array | float = 0.0

    def means(self, coef: Array) -> Means:
        """What the link makes of its linear predictor, all (n,)."""
        return LINKS[self.link](self.design @ coef + self.offset)

    def moments(self, coef: Array) -> tuple[Array, Array, Array, Array, Array]:
        """Score (p,), the size of its terms (p,), expected information (p, p), the means (n,).

        Last what rounding of the terms `x_j coef_j` in double precision may do to the deviance.
        """
        means = self.means(coef)
        mu, slope = means.mu, means.slope
        if self.event is not None:
            relative, ratio = slope / mu, self.y / mu
            own, weight = (ratio - self.event) * relative, relative**2 * np.where(self.event > 0, 1, ratio)
            size = (ratio + self.event) * np.abs(relative)
        elif self.family in ("bernoulli", "binomial"):
            up, down = (np.exp(means.log_slope - log) for log in (means.log_mu, means.log_other))
            own, size = self.y * up - (1 - self.y) * down, self.y * up + (1 - self.y) * down
            weight = up * np.exp(means.log_slope - means.log_other)
        else:
            h = np.where(slope == 0, 0, slope / variance(self.family, mu, self.shape))
            own, weight, size = (self.y - mu) * h, slope * h, (np.abs(self.y) + np.abs(mu)) * np.abs(h)
        score, size = (self.weight * own) @ self.design, (self.weight * size) @ np.abs(self.design)
        noise = 1e-15 * (np.abs(self.design) @ np.abs(coef) + np.abs(self.offset))
        blur = (self.weight * (2 * np.abs(own) * noise + weight * noise**2)).sum()
        return score, size, (self.design * (self.weight * weight)[:, None]).T @ self.design, mu, blur


def complaints(drawn: Drawn, coef: Array, said: float) -> list[str]:
    """What is wrong with a fit that says CONVERGED with these coefficients (NaN: aliased) and this deviance."""
    used = drawn.weight > 0
    drawn = Drawn(
        drawn.family,
        drawn.link,
        *(part[used].astype(Wide) for part in (drawn.design, drawn.y, drawn.weight, drawn.offset)),
        drawn.shape,
        None if drawn.event is None else drawn.event[used].astype(Wide),
        drawn.l1,
        drawn.l2,
    )
    found = [
        f"column {j} is called aliased, {share:.1e} of it is its own" for j, share in _wrongly_dropped(drawn, coef)
    ]
    kept = ~np.isnan(coef)
    beta = np.where(kept, coef, 0).astype(Wide)
    with np.errstate(all="ignore"):
        score, size, information, mu, blur = drawn.moments(beta)
        deviance, terms = (
            (
                (drawn.weight * part).sum()
                for part in unit_deviance(drawn.family, drawn.y, drawn.means(beta), drawn.shape)
            )
            if drawn.event is None
            else (None, None)
        )
    if not np.isfinite(mu).all():
        return [*found, "a mean is not finite"]
    if deviance is not None and not abs(said - deviance) <= 1e-8 * abs(deviance) + 1e-13 * terms + blur:
        found.append(f"deviance {said:.9g}, that of its means is {float(deviance):.9g}")
    total = drawn.weight.sum()
    l1, l2 = (np.broadcast_to(np.asarray(v, float), beta.shape) * total for v in (drawn.l1, drawn.l2))
    at_zero = kept & (beta == 0) & (l1 > 0)
    slope = score - l2 * beta - l1 * np.sign(beta)
    penalty = float((2 * l1 * np.abs(beta) + l2 * beta**2).sum())
    base = abs(said) + penalty + (1e-10) ** 2 * float((np.diag(information) * beta**2).sum())
    excess, bend = np.abs(score) - l1, np.diag(information) + l2
    beyond = at_zero & (excess > ROUNDING * (size + l1)) & (excess**2 > FLAT * base * bend)
    if beyond.any():
        j = int(np.argmax(beyond))
        found.append(f"column {j} is held at zero with slope {float(abs(score[j])):.6g} against l1 {float(l1[j]):.6g}")
    free = kept & ~at_zero
    if free.any() and not (np.abs(slope) <= ROUNDING * (size + l1 + l2 * np.abs(beta)))[free].all():
        scale = np.sqrt(np.diag(information)[free] + l2[free]).astype(float)
        scale[scale == 0] = 1
        matrix = (information[np.ix_(free, free)] + np.diag(l2[free])).astype(float) / np.outer(scale, scale)
        if not (np.isfinite(matrix).all() and np.isfinite(slope[free]).all()):
            return [*found, "the information is not finite"]
        step = np.linalg.lstsq(matrix, slope[free].astype(float) / scale, rcond=1e-13)[0]
        gain = float(step @ (slope[free].astype(float) / scale))
        if not gain <= FLAT * base:
            found.append(f"a Newton step would gain {gain:.3g} of the deviance {said:.6g}")
    return found


def _wrongly_dropped(drawn: Drawn, coef: Array) -> list[tuple[int, float]]:
    """Columns with NaN of which a good share is independent of the kept ones: `(column, share)`."""
    length = np.sqrt((drawn.design.astype(float) ** 2).sum(0))
    scaled = drawn.design.astype(float) / np.where(length > 0, length, 1)
    kept, out = ~np.isnan(coef), []
    for j in np.flatnonzero(~kept):
        before = scaled[:, kept]
        rest = (
            scaled[:, j] - before @ np.linalg.lstsq(before, scaled[:, j], rcond=None)[0] if kept.any() else scaled[:, j]
        )
        share = float(np.sqrt((rest**2).sum()))
        if share > ALIASED:
            out.append((int(j), share))
    return out
