"""A fit for people: summary tables, plots and one HTML page."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from torchglm.inference.fitted import Fitted
from torchglm.report.summary import Summary
from torchglm.writing.answering import answering

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Summary", "plot", "plots", "write_page"]


@answering
def plot(result: Fitted, kind: str = "coefficients", of: str | None = None, *, level: float = 0.95) -> Figure:
    """A picture of a fit, as a matplotlib figure, which notebooks show and `.savefig(path)` writes.

    `kind` says what is drawn, and `of` which of its pictures; without `of` it is the first of those named here.

    - `"coefficients"`: the slopes with their intervals, as ratios where `exp(coef)` is one. Of several predictors all
      on one axis, or one by its name (`"dispersion"`, `"slopes"` and `"thresholds"` of an ordinal model). Of a batch
      `"across"` (range, quartiles and median of each coefficient over the models), `"distribution"` or `"fit"`. Of a
      fit without slopes it is its curve, or its random effects.
    - `"effect"`: the mean, or the probability of each class, averaged over the rows, with the variable `of` set to
      values over its range. Of one model.
    - `"smooth"` and `"random"`: a smooth term by its label, the effects of a grouping by its name.
    - `"residuals"`: `"fitted"`, `"normal"` (Q–Q), `"spread"`, and `"rootogram"` of counts or else `"histogram"`. Of a
      batch all rows of all converged models.
    - `"calibration"`: `"deciles"`, `"lift"`, `"lorenz"`; `"classes"`; of times `"survival"` and `"thirds"`.
    - `"influence"`: `"leverage"`, `"cook"`.
    - `"path"`: `"coefficients"` and `"validation"` of a fit that was chosen from a path.

    Residuals, calibration and influence are of the rows behind the fit (`result.with_rows(...)` sets others). Raises
    `ValueError` for an unknown kind or name, with those that are known, and where the fit has no such picture;
    `ImportError` without matplotlib.
    """
    return _drawn_by("torchglm.report.pictures").picture(result, kind, of, level)


def __getattr__(name: str) -> Any:
    """`write_page` and `plots` bring in jinja2 and matplotlib when they are first asked for."""
    if name == "write_page":
        return _drawn_by("torchglm.report.page").write_page
    if name == "plots":
        return _drawn_by("torchglm.report.plots")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _drawn_by(module: str) -> Any:
    """A module that draws. Raises `ImportError` that says how to install matplotlib where it is not."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "matplotlib":
            raise
        raise ImportError(
            "pictures are drawn by matplotlib, which is not installed: pip install matplotlib."
        ) from error
