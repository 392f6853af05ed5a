"""The table of a path of strengths, as text."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from torchglm.writing import numbers

SHOWN = 12  # strengths in a table, from the first to the last


def path_table(path: Any) -> str:
    """Strengths, columns that are not zero, explained deviance and cross-validated deviance of a path, in lines.

    Of a batch of paths its shape and what the least certified point is.
    """
    length = path.kkt.shape[-1]
    kind = f"l1_ratio {path.l1_ratio:g}" if path.shape is None else str(path.shape)
    what = f"{path.family.name} family, {path.link.name} link, {kind}"
    worst = f"KKT at most {float(path.kkt.max()):.1e}"
    if path.kkt.dim() > 1:
        return f"Path of {length} strengths for {tuple(path.kkt.shape[:-1])} models: {what}; {worst}"
    best, one = (path.best, path.one_se) if path.cv_mean is not None else (-1, -1)
    every = {round(i * (length - 1) / max(SHOWN - 1, 1)) for i in range(SHOWN)} | {best, one} - {-1}
    head = ["", "strength", "df", "explained"] + (["cv deviance", "se", ""] if path.cv_mean is not None else [])
    lines = [head] + [_line(path, i, best, one) for i in sorted(i for i in every if i < length)]
    widths = [max(len(line[j]) for line in lines) for j in range(len(head))]
    text = [_row(line, head, widths) for line in lines]
    return "\n".join([f"Path of {length} strengths: {what}", *text, worst])


def _row(line: list[str], head: list[str], widths: list[int]) -> str:
    numeric = (cell in head or cell[-1:].isdigit() for cell in line)
    pairs = zip(line, numeric, widths, strict=True)
    return "  ".join(cell.rjust(width) if right else cell.ljust(width) for cell, right, width in pairs).rstrip()


def _line(path: Any, i: int, best: int, one: int) -> list[str]:
    cells = [str(i), numbers.short(float(path.strength[i])), str(int(path.df[i])), f"{float(path.dev_ratio[i]):.4f}"]
    if path.cv_mean is not None:
        cells += [_short(path.cv_mean[i]), _short(path.cv_se[i])]
        marks = [word for word, at in (("best", best), ("one_se", one)) if at == i]
        cells.append(" ".join(marks))
    return cells


def _short(value: Tensor) -> str:
    return numbers.short(float(value), 5)
