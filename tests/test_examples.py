"""Every script in examples/ runs to its end in its quick mode and says what it promises (flights: test_nycflights)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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
    "tariff.py": "picture of the bands: runs/tariff",
}


@pytest.mark.parametrize("name", sorted({path.name for path in (ROOT / "examples").glob("*.py")} - {"nycflights.py"}))
def test_example_runs(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name), "--quick"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert SAYS[name] in done.stdout
