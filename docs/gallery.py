"""The pictures of the gallery: `python docs/gallery.py [FOLDER]` runs docs/gallery.md and keeps what it draws."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import warnings
from pathlib import Path
from shutil import move
from typing import Any

import matplotlib

ROOT = Path(__file__).resolve().parent.parent
PAGE, PICTURES = ROOT / "docs" / "gallery.md", ROOT / "docs" / "gallery"


def draw(target: Path) -> None:
    """Run the code of the page where it finds its data, and move its pictures to a folder."""
    code = "\n".join(re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL))
    os.environ["SOURCE_DATE_EPOCH"] = "0"
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "torchglm"})
    target.mkdir(exist_ok=True)
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("examples", "tests"):
            Path(folder, name).symlink_to(ROOT / name)
        os.chdir(folder)
        try:
            scope: dict[str, Any] = {"__name__": "gallery"}
            exec(compile(code, str(PAGE), "exec"), scope)
        finally:
            os.chdir(here)
        for picture in sorted(Path(folder).glob("*.svg")):
            move(picture, target / picture.name)


if __name__ == "__main__":
    draw(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else PICTURES)
