"""What the commands print: for a terminal, for a pipe, for a program."""

from __future__ import annotations

import json
import math
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchglm.model.result import Result
    from torchglm.report.document import Document


def plain(value: Any) -> Any:
    """Numbers as JSON knows them: NaN and the infinities as null."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_summary(result: Result, level: float = 0.95, form: str = "text") -> None:
    """The summary: tables on a terminal, plain text in a pipe."""
    from torchglm.report import Summary

    found = Summary(result, level)
    if form == "markdown":
        print(found.to_markdown())
    elif form == "json":
        print(json.dumps(found.to_dict(), indent=1, ensure_ascii=False))
    elif sys.stdout.isatty():
        from rich.console import Console

        Console().print(found)
    else:
        print(found.to_text())


def print_document(document: Document) -> None:
    """A document: tables on a terminal, plain text in a pipe."""
    if sys.stdout.isatty():
        from rich.console import Console

        Console().print(document.rich())
    else:
        print(document.text())
