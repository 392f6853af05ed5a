"""What the commands print: for a terminal, for a pipe, for a program."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from torchglm.report import Summary
from torchglm.writing.numbers import jsonable

if TYPE_CHECKING:
    from torchglm.model.face import Result
    from torchglm.report.document import Document


def print_json(found: Any) -> None:
    """Plain data for a program; NaN and the infinities as null."""
    print(json.dumps(jsonable(found), indent=1, ensure_ascii=False))


def print_summary(result: Result, level: float = 0.95, form: str = "text") -> None:
    """The summary: tables on a terminal, plain text in a pipe."""
    found = Summary(result, level)
    if form == "markdown":
        print(found.to_markdown())
    elif form == "json":
        print_json(found.to_dict())
    elif sys.stdout.isatty():
        from rich.console import Console

        Console().print(found)
    else:
        print(found.to_text())


def print_document(document: Document) -> None:
    """A document: tables on a terminal, plain text in a pipe."""
    if sys.stdout.isatty():
        from rich.console import Console

        console = Console()
        console.print(document.rich(console.width))
    else:
        print(document.text())
