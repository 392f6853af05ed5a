"""For mkdocs: the front page, formulas as MathML, and the files beside the pages that these link to."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
SHOWN = ("examples/*.py", "configs/*.yaml", "benchmarks/*.md", "NOTICE")


def on_files(files: Files, config: Any) -> Files:
    for file in [path for pattern in SHOWN for path in sorted(ROOT.glob(pattern))]:
        files.append(File.generated(config, str(file.relative_to(ROOT)), abs_src_path=str(file)))
    files.append(File.generated(config, "index.md", content=_front()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    return _mathematics(_relinked(markdown, page.file.src_uri))


def on_page_content(html: str, **_: Any) -> str:
    """The page with the bars of code in tables as they are: Markdown escapes them, and this one shows it."""
    return re.sub(r"<td.*?</td>", lambda cell: cell[0].replace("\\|", "|"), html, flags=re.DOTALL)


def _relinked(markdown: str, place: str) -> str:
    """The page at that place of the site, its links through the repository turned into links through the site."""
    beside = place == "index.md" or place.startswith("benchmarks/")  # the others stand in docs/
    folder = posixpath.dirname(place if beside else f"docs/{place}")

    def led(link: re.Match[str]) -> str:
        target, _, anchor = link[1].partition("#")
        there = posixpath.normpath(posixpath.join(folder, target)).removeprefix("docs/")
        return f"]({posixpath.relpath(there, posixpath.dirname(place) or '.')}{'#' * bool(anchor)}{anchor})"

    return re.sub(r"\]\((?!\w+:|#)([\w./#-]+)\)", led, markdown)


def _mathematics(page: str) -> str:
    """The page with its formulas as MathML, which browsers draw without a script from elsewhere; code stays."""

    def drawn(found: re.Match[str]) -> str:
        code, block, inline = found.groups()
        if code is not None:
            return code
        written = convert(" ".join((block or inline).split()), display="inline" if block is None else "block")
        shape = "inline" if block is None else "formula"  # bare <math> at the start of a line would end a paragraph
        return f'<span class="{shape}">{written}</span>'

    return re.sub(r"(?ms)(^```.*?^```|`[^`\n]+`)|\$\$(.+?)\$\$|\$([^$\n]+)\$", drawn, page)


def _front() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")
