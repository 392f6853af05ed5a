"""Odd text: columns that a formula takes for categories, and that were meant as numbers or as row labels."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

from torchglm.fitting.status import FitWarning
from torchglm.writing.warning import tell

NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")
COMMA = re.compile(r"\s*[+-]?\d+,\d+([eE][+-]?\d+)?\s*")  # 1,5
GROUPED = re.compile(r"\s*[+-]?\d{1,3}([,.'’\u00a0\u202f ]\d{3})+([.,]\d+)?\s*")  # 1,234.5 and 1.234,5
AMOUNT = r"(\d+([.,]\d+)?|\.\d+|\d{1,3}([,.'’\u00a0\u202f ]\d{3})+([.,]\d+)?)"
SIGN = "[+\u2212-]?"
MARKED = re.compile(  # $1.50, 5 %, (3.20) below 0, and a minus sign that is no hyphen
    rf"\s*(\([$€£¥]?{AMOUNT}\)|{SIGN}[$€£¥]\s*{SIGN}{AMOUNT}|{SIGN}{AMOUNT}\s*[%‰$€£¥]|\u2212{AMOUNT})\s*"
)
OTHERWISE = (COMMA, GROUPED, MARKED)  # than 1234.5
INDEX = re.compile(r"|Unnamed: 0|__index_level_\d+__|index_level_\d+")


def without_index(names: Sequence[str], formula: str) -> list[str]:
    """The columns that `.` stands for: all but those that only number the rows, of which a warning tells."""
    index = [name for name in names if INDEX.fullmatch(name)]
    if index and re.search(r"(^|[\s~+*:(-])\.($|[\s+*:)^-])", formula):
        listed = ", ".join(map(repr, index))
        tell(f"'.' leaves out {listed}, which only numbers the rows. If it is meant, add Q({index[0]!r}).", FitWarning)
    return [name for name in names if name not in index]


def check_text(name: str, levels: Mapping[str, int]) -> None:
    """Look at the levels of a text column, each with its rows, that stands in a formula as it is.

    Raises ValueError where all are numbers in another notation; warns where some few are no numbers.
    """
    first = list(islice(levels, 100))
    if len(first) < 2 or not any(form.fullmatch(level) for level in first for form in (NUMBER, *OTHERWISE)):
        return
    strange = [level for level in levels if any(form.fullmatch(level) for form in OTHERWISE)]
    strange = [level for level in strange if not NUMBER.fullmatch(level)]
    plain = [level for level in levels if NUMBER.fullmatch(level)]
    if strange and len(strange) + len(plain) == len(levels):
        raise ValueError(
            f"Column {name!r} holds text such as {strange[0]!r}: numbers that are not written as 1234.5. "
            "Files with a decimal comma are read with decimal=',' (and delimiter=';', say); separators of thousands, "
            f"and signs of money or per cent have to go. If these are categories, write {_code(name)}."
        )
    if len(plain) == len(levels):
        _tell_of_numbers(name, levels)
        return
    held = set(plain)
    others = [level for level in levels if level not in held]
    rows = sum(levels[level] for level in plain)
    total = sum(levels.values())
    worded = not any(sign.isdigit() for level in others for sign in level)
    most = (len(plain) >= 8 and rows >= 0.9 * total) or (len(plain) >= 3 and worded and rows >= 0.5 * total)
    if others and most:
        shown = ", ".join(map(repr, others[:4])) + (", …" if len(others) > 4 else "")
        tell(
            f"column {name!r} holds text: {total - rows:,} of {total:,} rows are no numbers ({shown}), so it is a "
            f"factor of {len(levels)} levels. If {others[0]!r} means missing, pass na=[{others[0]!r}]; "
            f"if these are categories, write {_code(name)}.",
            FitWarning,
        )


def _tell_of_numbers(name: str, levels: Mapping[str, int]) -> None:
    """Warn of a text column of plain numbers that measure: they have decimals, or hardly one comes twice."""
    measured = any(not level.strip().isdigit() for level in levels)
    if measured or len(levels) >= max(8, sum(levels.values()) / 4):
        tell(
            f"column {name!r} holds numbers as text, such as {next(iter(levels))!r}, so it is a factor of "
            f"{len(levels)} levels. Convert it, types={{{name!r}: 'number'}}; if these are categories, write "
            f"{_code(name)}.",
            FitWarning,
        )


def check_response(name: str, levels: Iterable[object]) -> None:
    """Raise ValueError for a response that is a category of numbers other than 0 and 1."""
    levels = list(levels)
    if all(isinstance(level, (int, float)) for level in levels) and not set(levels) <= {0, 1}:
        shown = ", ".join(map(str, levels[:6])) + (", …" if len(levels) > 6 else "")
        raise ValueError(
            f"The response {name!r} is a category of numbers: {shown}. For these numbers convert the column, "
            f"astype(float) say; for 0 and 1 in the order of two categories write {_code(name)} on the left."
        )


def _code(name: str) -> str:
    return f"C({name})" if name.isidentifier() else f"C(`{name}`)"
