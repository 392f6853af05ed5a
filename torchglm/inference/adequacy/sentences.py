"""The words of `check`: for each topic a sentence with its number, and what to try."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from torchglm.families import Poisson
from torchglm.fitting.status import Status
from torchglm.inference.adequacy.screening import POWERS, PowerLink
from torchglm.inference.fitted import Fitted
from torchglm.writing.numbers import stated

Words = tuple[str, str]
SHOWN = 8  # levels that are named


def link(result: Fitted, screen: Any, power: PowerLink, i: int, p: float) -> Words:
    """On a link that does not bend as the data do."""
    said = (
        f"The link {result.link.name} does not bend as the data do: the square of the linear predictor adds to the "
        f"fit (adjusted p {stated(p)}), and the coefficients are biased where that matters."
    )
    advice = "Try another link, or curved terms and interactions of the strongest columns."
    if result.link.exponent is not None:
        step, error = (float(value[i]) for value in power.estimate())
        near = [
            name for name, value in POWERS.items() if abs(value - step) <= 2 * error and value != result.link.exponent
        ]
        if math.isfinite(step):
            said += (
                f" A power link of about {step:.2g} (std err {error:.1g}) would fit better than "
                f"{result.link.exponent:g}."
            )
        if near:
            best = min(near, key=lambda name: abs(POWERS[name] - step))
            advice = f"Try link={best!r}, or curved terms and interactions of the strongest columns."
    return said, advice


def dispersion(result: Fitted, sums: Any, i: int, p: float) -> Words:
    """On counts that vary more or less than the family says, by the test that no small mean misleads."""
    ratio = float(sums.counted.ratio()[i])
    pearson = float(result.flat.pearson[i] / (result.flat.nobs[i] - result.flat.rank[i]))
    more = float(sums.counted.score()[i]) > 0
    said = (
        f"The counts vary {'more' if more else 'less'} than the {_family(result)} family says: their squared distances "
        f"from the means are {ratio:.3g} times those expected (adjusted p {stated(p)})"
    )
    if (ratio > 1) == more and ratio > 0:
        said += (
            f", so standard errors are too {'small' if more else 'large'}, by a factor of about "
            f"{max(ratio, 1 / ratio) ** 0.5:.3g}"
        )
    if pearson > 1.5 * max(ratio, 0.0) or (pearson > 1) != (ratio > 1) and abs(pearson - ratio) > 0.1:
        said += f". Pearson's chi-squared is {pearson:.3g} for each degree of freedom: {_made(result, sums, i)}"
        return f"{said}.", "Look at those rows; robust('HC3') allows for the spread, Pearson's dispersion is theirs."
    other = "NegativeBinomial(), " if type(result.family) is Poisson and more else ""
    return f"{said}.", f"Try {other}dispersion='pearson', or robust('HC3'); look for a column that is missing."


def wide(result: Fitted, i: int) -> Words:
    """On a response whose Pearson's statistic and deviance are both too wide, where the test has no power."""
    df = result.flat.nobs[i] - result.flat.rank[i]
    pearson, deviance = float(result.flat.pearson[i] / df), float(result.flat.deviance[i] / df)
    other = "NegativeBinomial(), " if type(result.family) is Poisson else ""
    return (
        f"The response spreads more than the {_family(result)} family says: Pearson's chi-squared is {pearson:.3g} "
        f"and the deviance {deviance:.3g} for each degree of freedom, so standard errors are too small.",
        f"Try {other}dispersion='pearson', or robust('HC3'); look for a column that is missing.",
    )


def heavy(result: Fitted, sums: Any, i: int) -> Words:
    """On a Pearson's statistic that a few rows of small mean make."""
    df = float(result.flat.nobs[i] - result.flat.rank[i])
    pearson, deviance = float(result.flat.pearson[i]) / df, float(result.flat.deviance[i]) / df
    ratio = (
        "" if sums.counted is None else f", the squared distances {float(sums.counted.ratio()[i]):.3g} times expected"
    )
    held = result.dispersion_kind == "fixed"
    use = "so it says little of the spread" if held else "and the standard errors with it"
    return (
        f"Pearson's chi-squared is {pearson:.3g} for each degree of freedom, the deviance {deviance:.3g}{ratio}: "
        f"{_made(result, sums, i)}, {use}.",
        "Look at those rows; do not take the dispersion from Pearson's statistic. robust('HC3') allows for any spread.",
    )


def two_dispersions(result: Fitted, sums: Any, i: int) -> Words:
    """On a dispersion that Pearson's statistic and the likelihood see apart."""
    df = float(result.flat.nobs[i] - result.flat.rank[i])
    pearson, likely = float(result.flat.pearson[i]) / df, float(sums.likelihood[i])
    why = "rows far out" if pearson > likely else "responses near the end of their range, such as rounded or tiny ones"
    made = f": {_made(result, sums, i)}" if pearson > likely else ""
    return (
        f"The dispersion is {pearson:.3g} by Pearson's statistic and {likely:.3g} by the likelihood{made}. The "
        f"{_family(result)} family has one, so its law does not hold ({why}), and standard errors by the one are "
        f"{(max(pearson, likely) / min(pearson, likely)) ** 0.5:.2g} times those by the other.",
        "Look at those rows, try another family, or robust('HC3'), which takes neither.",
    )


def _made(result: Fitted, sums: Any, i: int) -> str:
    """Which rows make Pearson's statistic, and how much of it."""
    parts, total = sums.pearson.parts[i].tolist(), float(sums.pearson.total[i])
    named = []
    for k, part in enumerate(parts):
        if k and part < 0.1 * parts[0]:
            break
        place = result.place(int(sums.pearson.row[i, k]), i)
        y, mu = float(sums.pearson.y[i, k]), float(sums.pearson.mu[i, k])
        named.append(f"{place} (response {y:.3g}, mean {mu:.2g})")
    share = sum(parts[: len(named)]) / total if total > 0 else 0.0
    many = ", ".join(named)
    return f"{many} make{'s' * (len(named) == 1)} {share:.0%} of it"


def zeros(result: Fitted, screen: Any, power: PowerLink, i: int, p: float) -> Words:
    """On more or fewer zeros than expected."""
    seen, expected = float(screen.observed[i]), float(screen.expected[i])
    said = (
        f"There are {'more' if seen > expected else 'fewer'} zeros than the model expects: {seen:.0f} seen, "
        f"{expected:.1f} expected (adjusted p {stated(p)})."
    )
    if seen > expected:
        other = "Try NegativeBinomial(), or model" if type(result.family) is Poisson else "Model"
        return said, (
            f"{other} whether the response is zero apart from how large it is "
            "(Bernoulli for all rows, then a fit of the positive ones)."
        )
    return said, "See whether rows with zeros are missing from the data; else compare with another family."


def variance(result: Fitted, screen: Any, power: PowerLink, i: int, p: float) -> Words:
    """On a variance that grows otherwise than the family says."""
    slope = float(screen.power()[i])
    said = (
        f"The variance grows {'faster' if slope > 0 else 'slower'} with the mean than the {_family(result)} "
        f"family says (slope of the squared residuals {slope:+.2g}, adjusted p {stated(p)}), so standard "
        "errors are off."
    )
    others = [name for name, power, low in _BY_POWER if float(screen.least[i]) > low and _beyond(result, power, slope)]
    tweedie = float(screen.least[i]) >= 0 and result.family.mean_lower == 0
    tries = [
        *(
            [f"a family with a {'steeper' if slope > 0 else 'flatter'} variance ({', '.join(others)})"]
            if others
            else []
        ),
        *(["Tweedie with another power"] if tweedie else ["a transform of the response"]),
        "robust('HC3')",
    ]
    return said, f"Try {', '.join(tries[:-1])}, or {tries[-1]}."


# families by the power of the mean in their variance, and what their responses lie above
_BY_POWER = (
    ("Gaussian", 0.0, -math.inf),
    ("Poisson", 1.0, -1e-300),
    ("Gamma", 2.0, 0.0),
    ("inverse Gaussian", 3.0, 0.0),
)


def _beyond(result: Fitted, power: float, slope: float) -> bool:
    """Whether a power of the variance lies on the side of that of the fit to which a slope points."""
    mu = torch.tensor(1.3, dtype=torch.float64)
    own = float((mu * result.family.variance_log_deriv(mu)).reshape(-1)[0])
    return power > own + 0.01 if slope > 0 else power < own - 0.01


def _family(result: Fitted) -> str:
    return type(result.family).__name__


def influence(result: Fitted, screen: Any, i: int) -> Words:
    """On a row that moves the coefficients by itself."""
    place = str(result.place(int(screen.row[i]), i))
    return (
        f"{place[0].upper()}{place[1:]} moves the coefficients by itself: its Cook's distance is "
        f"{float(screen.largest[i]):.3g}, its leverage {float(screen.leverage[i]):.3g}.",
        "Look at that row; fit once without it (weight 0) and say what changes.",
    )


def collinearity(high: dict[str, float]) -> Words:
    """On columns that the data hardly tell apart."""
    worst = ", ".join(f"{name} ({value:.3g})" for name, value in sorted(high.items(), key=lambda pair: -pair[1])[:3])
    return (
        f"Some terms are nearly combinations of others: variance inflation {worst}; their own coefficients are "
        "uncertain, predictions are not.",
        "Drop or combine them, or use a penalty such as Ridge.",
    )


def empty(names: list[str]) -> Words:
    """On columns that are zero in every row."""
    return (
        f"{len(names)} column(s) hold no rows, such as a level that does not occur, and have no coefficient: "
        f"{', '.join(names[:5])}.",
        "Drop those levels, or fit the groups that have them.",
    )


def aliased(names: list[str]) -> Words:
    """On columns that were dropped."""
    return (
        f"{len(names)} column(s) depend on those before them and have no coefficient: {', '.join(names[:5])}.",
        "Drop them, or say what they add in another coding.",
    )


def set_apart(names: list[str], infinite: Tensor, levels: int, rows: float) -> str:
    """On separated levels that were set apart; `infinite` (B, p) are the directions of what runs to infinity."""
    found = dict[str, None]()
    for signs in infinite.sign().unique(dim=0).tolist():
        found |= dict.fromkeys(_infinities(names, signs))
    shown, more = list(found)[:SHOWN], len(found) - SHOWN
    return (
        f"{levels:,} level{'s' * (levels != 1)} ({rows:,.0f} row{'s' * (rows != 1)}) set apart: {', '.join(shown)}"
        f"{f' and {more} more' if more > 0 else ''}."
    )


def _infinities(names: list[str], signs: list[float]) -> list[str]:
    """The levels of one model that run to infinity; of a reference level all others run the other way."""
    moved = [(name, sign) for name, sign in zip(names, signs, strict=True) if sign]
    if signs and names[0] == "(Intercept)" and signs[0]:
        factors = dict.fromkeys(name.partition("[")[0] for name, sign in moved[1:] if sign * signs[0] < 0)
        own = [(name, sign) for name, sign in moved[1:] if sign * signs[0] > 0]
        moved = [(f"the reference level of {factor}", signs[0]) for factor in factors] + own
    return [f"{name} to {'+' if sign > 0 else '-'}infinity" for name, sign in moved]


def separation(result: Fitted, found: Any, i: int) -> Words:
    """On a likelihood without a maximum."""
    columns = found.columns(i if result.batch_shape and len(result.batch_shape) == 1 else None)
    rows, nobs = (float(value.reshape(-1)[i]) for value in (found.rows, found.nobs))
    whole = "all rows are" if rows == nobs else f"{rows:.0f} of {nobs:.0f} rows are"
    return (
        f"The likelihood has no maximum: along {', '.join(columns[:4])} {whole} told apart without error; those "
        "coefficients and their standard errors mean nothing.",
        "Merge levels, drop the column, or use a penalty such as Ridge, or penalty=Jeffreys(), whose estimates and "
        "limits are finite.",
    )


def levels(result: Fitted, i: int) -> Words:
    """On separated levels that were set apart."""
    flat = result.flat
    assert flat.infinite is not None and flat.apart_rows is not None and flat.apart_levels is not None
    said = set_apart(result.names, flat.infinite[i : i + 1], int(flat.apart_levels[i]), float(flat.apart_rows[i]))
    return (
        f"{said} All their responses lie at one end: these coefficients have no maximum and no standard error; all "
        "others are estimated from the other rows.",
        "Merge or drop those levels, take another reference level, or use a penalty such as Ridge, or "
        "penalty=Jeffreys(), whose estimates and limits are finite.",
    )


def ending(status: Status) -> Words:
    """On a fit that did not end at a maximum."""
    told, _, tried = status.explanation.partition(". ")
    return f"The fit ended as {status.name.lower().replace('_', ' ')}: {told[:1].lower()}{told[1:]}.", tried


def few_columns(name: str, edf: float, most: float, index: float, p: float, full: bool) -> Words:
    """On a smooth term along which the residuals of neighbours resemble each other."""
    said = (
        f"Along {name} the residuals of neighbours still resemble each other: the k-index is {index:.3g} "
        f"(p {stated(p)}), and the curve has used {edf:.3g} of at most {most:.0f} degrees of freedom."
    )
    if full:
        return said, f"Give {name} a larger k, about {2 * int(most) + 2}, and see whether edf and curve change."
    return said, (
        f"More columns will hardly help, as it leaves some unused: look for a term that is missing, an interaction, or "
        f"rows that depend on their neighbours along {name}. A larger k, about {2 * int(most) + 2}, tells them apart."
    )


def concurvity(name: str, other: str, share: float) -> Words:
    """On a smooth term that the others can make."""
    return (
        f"{share:.3g} of {name} could be made of the other terms, most of all of {other}: the data hardly tell these "
        "curves apart, and each by itself is uncertain though their sum is not.",
        f"Leave {name} or {other} out, join them in one term, te() or s(x, z), or read their sum alone.",
    )
