"""Contrasts: how `C(x, contrasts, levels=…)` is read, and formulaic's coding of the levels."""

from __future__ import annotations

import ast
from typing import Any

import numpy as np

CONTRASTS = ("treatment", "sum", "helmert", "poly", "diff", "SAS")
CONTRAST_NAMES = ("Treatment", "Sum", "Helmert", "Poly", "Diff")


def category_arguments(node: ast.Call, text: str) -> tuple[ast.expr | None, list[Any] | None]:
    """The contrasts (as a node) and the levels of a `C(x, contrasts, levels=[…])`."""
    named = {str(keyword.arg): keyword.value for keyword in node.keywords}
    if not node.args or len(node.args) > 2 or set(named) - {"contrasts", "levels"}:
        raise ValueError(f"Cannot read {text!r}. Write C(column), with contrasts or levels=[…] if need be.")
    contrasts = node.args[1] if len(node.args) == 2 else named.get("contrasts")
    if contrasts is not None and not _is_contrast(contrasts):
        raise ValueError(
            f"Cannot read the contrasts in {text!r}. Known: "
            f"{', '.join('contr.' + name for name in CONTRASTS)}, {', '.join(CONTRAST_NAMES)}, "
            "or a list or dict of numbers."
        )
    try:
        levels = None if "levels" not in named else list(ast.literal_eval(named["levels"]))
    except (ValueError, TypeError):
        raise ValueError(f"levels= in {text!r} must be a list of constants.") from None
    return contrasts, levels


def _is_contrast(node: ast.expr) -> bool:
    call = node if isinstance(node, ast.Call) else None
    target = call.func if call else node
    if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name):
        known = target.value.id == "contr" and target.attr in CONTRASTS
    elif isinstance(target, ast.Name):
        known = target.id in CONTRAST_NAMES
    else:
        return _is_literal(node)
    arguments = [*call.args, *(keyword.value for keyword in call.keywords)] if call else []
    return known and all(map(_is_literal, arguments))


def _is_literal(node: ast.AST) -> bool:
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError):
        return False
    return True


def contrasts_of(node: ast.expr | None) -> Any:
    """formulaic's contrasts for what stands in `C(x, …)`: `contr.sum`, `Treatment('b')`, a list, a dict."""
    if node is None:
        return None
    from formulaic.transforms import TRANSFORMS

    call = node if isinstance(node, ast.Call) else None
    target = call.func if call else node
    if isinstance(target, ast.Attribute):
        made = getattr(TRANSFORMS["contr"], target.attr)
    elif isinstance(target, ast.Name):
        made = TRANSFORMS[target.id]
    else:
        return ast.literal_eval(node)
    arguments = [ast.literal_eval(argument) for argument in call.args] if call else []
    named = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords} if call else {}
    return made(*arguments, **named)


def coding_of(made: Any, levels: list[Any], name: str) -> tuple[Any, ...]:
    """Names (full, reduced), reference and coding matrices of formulaic's contrasts over the levels."""
    from formulaic.transforms.contrasts import Contrasts, CustomContrasts, TreatmentContrasts

    contrasts = made() if isinstance(made, type) else made
    contrasts = contrasts if isinstance(contrasts, Contrasts) else CustomContrasts(contrasts)
    names = []
    for reduced in (False, True):
        form = contrasts.get_factor_format(levels, reduced_rank=reduced)
        columns = contrasts.get_coding_column_names(levels, reduced_rank=reduced)
        names.append([form.format(name=name, field=column) for column in columns])
    if isinstance(contrasts, TreatmentContrasts):
        return *names, contrasts._find_base_index(levels)
    codings = tuple(
        np.asarray(contrasts.get_coding_matrix(levels, reduced_rank=reduced), dtype=np.float64)
        for reduced in (False, True)
    )
    return *names, 0, codings
