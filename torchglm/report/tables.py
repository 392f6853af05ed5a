"""The tables of the page beside the summary's: deciles, influential rows, the tests behind the checks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from torchglm.families.several import Classes
from torchglm.inference.fitted import Fitted
from torchglm.report.document import Grid
from torchglm.report.overview import ModelBatch
from torchglm.writing import numbers

if TYPE_CHECKING:
    from torchglm.inference.adequacy.findings import Check
    from torchglm.report.binned import Calibration
    from torchglm.report.influence import Influence

_EXAMPLES = 3
_SIGNS = {"chi2": "χ²", "F": "F"}


def deciles(sums: Calibration, weighted: bool) -> Grid:
    """Each bin of prediction, lowest first: rows, exposure or weight, predicted, observed and their ratio."""
    full = sums.weight > 0
    observed, predicted, error = (t.tolist() for t in sums.rates())
    count, weight = sums.count[full].tolist(), sums.weight[full].tolist()
    cells = numbers.fixed(
        [(a, b) for a, b in zip(predicted, observed, strict=True)], [e if e == e else math.nan for e in error]
    )
    head = [
        "decile",
        "rows",
        *(["exposure"] if sums.exposed else ["weight"] if weighted else []),
        "predicted",
        "observed",
        "ratio ± 2 se",
    ]
    rows = []
    for i, (n, w, pair, o, m, e) in enumerate(zip(count, weight, cells, observed, predicted, error, strict=True), 1):
        extra = [numbers.short(w, 5)] if sums.exposed or weighted else []
        ratio = f"{o / m:.3f}" if m > 0 else numbers.MISSING
        spread = f" ± {2 * e / m:.3f}" if m > 0 and 2 * e < 100 * m else ""
        rows.append([str(i), f"{n:,.0f}", *extra, *pair, ratio + spread])
    return Grid(f"{'Rates' if sums.exposed else 'Means'} by decile of prediction", head, rows)


def influential(found: Influence) -> Grid:
    """The rows of largest Cook's distance, each with the coefficient that it moves most."""
    result, cases = found.result, found.largest
    batch = ModelBatch(result, 0.95) if result.batch_shape else None
    rows: list[list[str]] = []
    files = False
    for i in range(len(cases)):
        shift = cases.shift[i].nan_to_num()
        top = int(shift.abs().argmax())
        name = [batch.label(int(cases.model[i]))] if batch else []
        place = result.place(int(cases.row[i]), int(cases.model[i]))
        files |= place.file is not None
        y, mu, residual, h, cook = (
            float(column[i]) for column in (cases.y, cases.mu, cases.residual, cases.leverage, cases.cook)
        )
        rows.append(
            [
                *name,
                str(place.row),
                place.file or "",
                _label(result, y) or _response(y, bool(cases.censored[i])),
                numbers.short(mu),
                f"{residual:.2f}",
                numbers.short(h, 3),
                numbers.short(cook, 3),
                f"{float(shift[top]):+.2f} se of {result.all_names[top]}",
            ]
        )
    fitted = "its probability" if isinstance(result.family, Classes) else "fitted"
    residual_ = "std. residual" if result.plan is None else "quantile residual"
    head = ["row", "file", "response", fitted, residual_, "leverage", "Cook's distance", "moves most"]
    head, at = ["model", *head] if batch else head, 2 if batch else 1
    if not files:
        head, rows = head[:at] + head[at + 1 :], [row[:at] + row[at + 1 :] for row in rows]
    return Grid("Rows that move the fit most", head, rows)


def _label(result: Fitted, value: float) -> str:
    """The class of a response; empty for a family without."""
    return str(result.family.known[int(value)]) if isinstance(result.family, Classes) else ""


def _response(value: float, censored: bool) -> str:
    """A response; a censored time as `12.5+`."""
    text = f"{value:.0f}" if value.is_integer() and abs(value) < 1e7 else numbers.short(value)
    return f"{text}+" if censored else text


def influence_note(found: Influence) -> str:
    """How many rows stand out, in a sentence."""
    share = 100 * found.high / max(found.count, 1)
    return (
        f"{found.high:,} of {found.count:,} rows ({share:.1f} %) have a Cook's distance above 4 / n. Rows are "
        "numbered from 0 as they stand in the data, left out ones counted. A row above 1 deserves a look; the last "
        "column says by how many of its standard errors a coefficient moves when the row is taken in."
    )


def tests(check: Check) -> Grid:
    """The tests behind the checks of one model, or how many models of a batch each speaks against."""
    names = {
        "link": "link (curvature)",
        "dispersion": "dispersion of counts",
        "zeros": "number of zeros",
        "variance": "variance function",
    }
    if not check.batch:
        rows = [
            (
                names.get(topic, topic),
                f"{_SIGNS[test.statistic_name]} = {numbers.statistic(float(test.statistic))}",
                numbers.p_value(float(test.p_value)),
                numbers.p_value(float(check.adjusted[topic])),
            )
            for topic, test in check.tests.items()
            if not bool(test.p_value.isnan())
        ]
        return Grid("Tests of the model", ("test", "statistic", "p-value", "adjusted (Holm)"), rows)
    rows = []
    for topic, test in check.tests.items():
        known = int((~test.p_value.isnan()).sum())
        rows.append(
            (
                names.get(topic, topic),
                f"{known:,}",
                f"{int((test.p_value < check.level).sum()):,}",
                f"{int((check.adjusted[topic] < check.level).sum()):,}",
            )
        )
    level = f"{check.level:g}"
    return Grid("Tests of the models", ("test", "models", f"p < {level}", f"adjusted p < {level}"), rows)


def curves(check: Check) -> list[Grid]:
    """The k-check and the concurvity of each smooth term of one model, or the worst of a batch."""
    if check.smooths is None:
        return []
    many = max(check.batch.numel(), 1) if check.batch else 1
    own = {name: value.reshape(many, -1) for name, value in check.smooths.columns.items()}
    rows = []
    for j, name in enumerate(check.smooths.rows):
        found = {key: value[:, j].nan_to_num(1.0 if key in ("k-index", "p") else 0.0) for key, value in own.items()}
        worst = {key: float(v.min() if key in ("k-index", "p") else v.max()) for key, v in found.items()}
        tested = not bool(own["p"][:, j].isnan().all())
        rows.append(
            (
                name,
                f"{worst['edf']:.2f}",
                format(worst["k'"], ".0f"),
                f"{worst['k-index']:.3f}" if tested else "",
                numbers.p_value(worst["p"]) if tested else "",
                *(f"{worst[key]:.3f}" for key in ("worst", "observed", "estimate")),
            )
        )
    title = "Smooth terms: columns enough, and concurvity" + (" (the worst of all models)" if check.batch else "")
    head = ("term", "edf", "k'", "k-index", "p-value", "worst", "observed", "estimate")
    return [Grid(title, head, rows)]


def findings(result: Fitted, check: Check) -> Grid:
    """What was found in a batch by topic, with the first models that show it."""
    view = ModelBatch(result, 0.95)
    topics = list(dict.fromkeys(f.topic for one in check.findings for f in one))
    rows = []
    for topic in topics:
        where = torch.nonzero(check.found(topic).reshape(-1))[:, 0].tolist()
        named = "; ".join(view.label(i) for i in where[:_EXAMPLES]) + (" …" if len(where) > _EXAMPLES else "")
        rows.append((topic, named, f"{len(where):,}", f"{100 * len(where) / view.n_models:.1f} %"))
    return Grid("Findings", ("on", "for instance", "models", "share"), rows, left=2)
