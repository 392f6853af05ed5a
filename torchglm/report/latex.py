"""Tables in LaTeX, with the rules of the package booktabs."""

from __future__ import annotations

from collections.abc import Collection, Sequence

SIGNS = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "²": "$^2$", "χ": r"$\chi$"}
SIGNS |= {"<": r"\textless{}", ">": r"\textgreater{}", "−": "$-$", "α": r"$\alpha$", "φ": r"$\varphi$"}
SIGNS |= {letter: f"\\{letter}" for letter in "&%$#_{}"}


def escaped(text: str) -> str:
    """The text as LaTeX shows it."""
    return "".join(SIGNS.get(letter, letter) for letter in text)


def tabular(columns: Sequence[str], rows: Sequence[Sequence[str]], rules: Collection[int] = ()) -> str:
    """A `tabular`, names left and numbers right, with a rule before each of the rows `rules`."""
    lines = [" & ".join(map(escaped, row)) + r" \\" for row in [columns, *rows]]
    body = [line for i, own in enumerate(lines[1:]) for line in ([r"\midrule", own] if i in rules else [own])]
    head = rf"\begin{{tabular}}{{l{'r' * (len(columns) - 1)}}}"
    return "\n".join([head, r"\toprule", lines[0], r"\midrule", *body, r"\bottomrule", r"\end{tabular}", ""])
