"""Every script in examples/ runs to its end in its quick mode and says what it promises (flights: test_nycflights)."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import matplotlib
import pytest

ROOT = Path(__file__).resolve().parent.parent
SAYS = {
    "glm_is_a_layer.py": "largest distance from IRLS",
    "cann.py": "picture: runs/cann/cann.png",
    "heads.py": "picture: runs/heads/heads.png",
    "adapters.py": "Trainer-style model:   loss",
    "deep_head.py": "head solved again by IRLS",
    "ten_thousand.py": "the truth lies inside",
    "streaming.py": "largest distance from IRLS",
    "classes.py": "report: runs/classes/report.html",
    "costs.py": "report: runs/costs/report.html",
    "path.py": "pictures of the path: runs/path",
    "panel.py": "largest distance of absorbed from written out",
    "smooths.py": "report: runs/smooths/report.html",
    "persons.py": "pictures of the effects: runs/persons",
    "digits.py": "picture: runs/digits/digits.png",
    "survival.py": "picture: runs/survival/survival.png",
    "sequences.py": "picture: runs/sequences/sequences.png",
    "tariff.py": "picture of the bands: runs/tariff",
}


@pytest.mark.parametrize("name", sorted({path.name for path in (ROOT / "examples").glob("*.py")} - {"nycflights.py"}))
def test_example_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name, "--quick"])
    with matplotlib.rc_context({"backend": "Agg"}):
        runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
    said = capsys.readouterr().out
    assert SAYS[name] in said
    for picture in re.findall(r"runs/\S+\.png", said):
        assert (tmp_path / picture).stat().st_size > 10_000
