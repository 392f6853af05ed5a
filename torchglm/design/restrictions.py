"""Linear hypotheses on named coefficients, read by formulaic."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"


def restrictions(hypothesis: str | Sequence[str] | Mapping[str, float], names: Sequence[str]) -> tuple[np.ndarray, ...]:
    """`L` (q, p) and `r` (q,) of hypotheses in words on coefficients of these `names`: `L b = r`.

    Text holds restrictions parted by commas, `"age = 0, 2*x2 = x3 + 1"`, where no `=` means `= 0`; a list holds several
    texts, a dict the value of each. A name stands as it is, whatever signs it holds, or in backticks. Raises
    `ValueError` for what cannot be read, or is not linear, and for a restriction without a coefficient.
    """
    from formulaic.errors import FormulaSyntaxError
    from formulaic.utils.constraints import LinearConstraints

    texts = [hypothesis] if isinstance(hypothesis, str) else list(hypothesis)
    plain = [_plain(text, names) for text in texts]
    spec = dict(zip(plain, hypothesis.values(), strict=True)) if isinstance(hypothesis, Mapping) else plain
    known = f"Known coefficients: {', '.join(names)}."
    try:
        found = LinearConstraints.from_spec(spec, variable_names=[_sign(j) for j in range(len(names))])
    except KeyError as error:
        raise ValueError(f"no coefficient {error.args[0]!r}, of the hypothesis {hypothesis!r}. {known}") from None
    except (FormulaSyntaxError, RuntimeError, ZeroDivisionError, SyntaxError, TypeError) as error:
        said = re.sub(r"__(\d+)", lambda word: names[int(word[1])], str(error).partition("\n")[0].rstrip("."))
        raise ValueError(f"cannot read the hypothesis {hypothesis!r}: {said}. {known}") from None
    matrix = np.asarray(found.constraint_matrix, np.float64)
    if not len(matrix) or not (matrix != 0).any(-1).all():
        raise ValueError(f"a restriction of {hypothesis!r} holds no coefficient. {known}")
    return matrix, np.asarray(found.constraint_values, np.float64)


def _plain(text: str, names: Sequence[str]) -> str:
    """The text as formulaic reads it: a word for each name, the longest that fits first, differences for equations."""
    places = {name: j for j, name in enumerate(names)}
    longest = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    word = re.compile(rf"`(?P<quoted>{longest})`|(?<![\w.`])(?:(?P<name>{longest})|(?P<number>{NUMBER}))(?![\w.\[:(`])")

    def written(found: re.Match[str]) -> str:
        if found["number"]:
            return np.format_float_positional(float(found["number"]))  # it knows no exponents
        name = found["quoted"] or found["name"]
        if names.count(name) > 1:
            raise ValueError(
                f"{name!r}, of the hypothesis {text!r}, is the name of {names.count(name)} coefficients. Give each "
                "column a name of its own, or the hypothesis as a matrix."
            )
        return _sign(places[name])

    equations = [part.split("=") for part in word.sub(written, text).split(",")]
    if any(len(sides) > 2 for sides in equations):
        raise ValueError(f"a restriction of the hypothesis {text!r} has two signs '='. Part restrictions by commas.")
    return ", ".join(" - ".join(f"({side})" for side in sides) for sides in equations)


def _sign(column: int) -> str:
    """A word that stands for the name of a column."""
    return f"__{column}"
