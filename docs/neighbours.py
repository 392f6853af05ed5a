"""For mkdocs: the front page, formulas as MathML, and the files beside the pages that these link to."""

from __future__ import annotations

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


def on_page_markdown(markdown: str, **_: Any) -> str:
    return _mathematics(markdown.replace("](../", "]("))


def on_page_content(html: str, **_: Any) -> str:
    """The page with the bars of code in tables as they are: Markdown escapes them, and this one shows it."""
    return re.sub(r"<td.*?</td>", lambda cell: cell[0].replace("\\|", "|"), html, flags=re.DOTALL)


def _mathematics(page: str) -> str:
    """The page with its formulas as MathML, which browsers draw without a script from elsewhere; code stays."""

    def drawn(found: re.Match[str]) -> str:
        code, block, inline = found.groups()
        if code is not None:
            return code
        written = convert(" ".join((block or inline).split()), display="inline" if block is None else "block")
        return written if block is None else f'<span class="formula">{written}</span>'

    return re.sub(r"(?ms)(^```.*?^```|`[^`\n]+`)|\$\$(.+?)\$\$|\$([^$\n]+)\$", drawn, page)


def _front() -> str:
    """The README, whose links start from the root of the repository."""
    return (ROOT / "README.md").read_text(encoding="utf-8").replace("](docs/", "](")
