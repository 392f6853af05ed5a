"""Build sdist and wheel, install the wheel into an empty environment, and use it there: `python -m tests.installed`.

The environment holds the wheel and the packages that it asks for, and theirs, linked from the environment of this
interpreter so that nothing is downloaded twice; whatever else is installed here is not to be seen there.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import venv
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
CONFIG = """
data: {path: rows.csv, formula: visits ~ age + C(sex), exposure: years}
family: poisson
output_dir: run
"""
USE = """
import csv, random
import torchglm

random.seed(0)
rows = [[random.uniform(20, 70), random.choice("fm"), random.uniform(0.2, 1), random.randrange(5)] for _ in range(300)]
with open("rows.csv", "w", newline="") as file:
    csv.writer(file).writerows([["age", "sex", "years", "visits"], *rows])
fit = torchglm.fit("visits ~ age + C(sex)", "rows.csv", family="poisson", exposure="years")
assert fit.status.converged and torchglm.__file__.startswith(PREFIX), torchglm.__file__
assert fit.report("page.html").read_text("utf-8").count("<img") > 3
fit.save("saved")
assert torchglm.load("saved").predict({"age": 30, "sex": "f", "years": 1.0}).shape == (1,)
head = torchglm.GLMHead(2, "poisson")
"""
TYPED = """
import torchglm

fit = torchglm.fit("y ~ x", {"x": [1.0], "y": [1.0]}, family="poisson")
reveal_type(fit)
reveal_type(torchglm.GLMHead(2, "poisson"))
fit.predict(knd="mean")
"""


def built(folder: Path) -> Path:
    """The wheel, made from the sdist, which was made from the tree."""
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)], ROOT)
    [wheel], [_] = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel


def asked_for(requirements: list[str]) -> set[str]:
    """The names of the distributions that these requirements need, theirs included."""
    found, left = set[str](), [Requirement(line) for line in requirements]
    while left:
        one = left.pop()
        name = re.sub("[-_.]+", "-", one.name).lower()
        extras = one.extras or {""}
        if name in found or one.marker and not one.marker.evaluate({"extra": ""}):
            continue
        version = metadata.version(name)
        if not one.specifier.contains(version, prereleases=True):
            raise SystemExit(f"{name} {version} is installed, and {one} is asked for.")
        found.add(name)
        further = [Requirement(line) for line in metadata.requires(name) or ()]
        left += [r for r in further if any(not r.marker or r.marker.evaluate({"extra": e}) for e in {*extras, ""})]
    return found


def environment(folder: Path, wheel: Path) -> Path:
    """The interpreter of a new environment with the wheel in it and what it asks for."""
    venv.create(folder)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python)]
    run([*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)], folder)
    place = next((folder / "lib").glob("python*/site-packages"))
    info = next(place.glob("torchglm-*.dist-info/METADATA")).read_text("utf-8")
    asked = [line for line in re.findall(r"^Requires-Dist: (.*)$", info, re.MULTILINE) if "extra ==" not in line]
    for name in asked_for(asked):
        own = metadata.distribution(name)
        tops = {path.parts[0] for path in own.files or () if not path.parts[0].startswith((".", "__pycache__"))}
        for top in tops:
            link = place / top
            if not link.exists():
                link.symlink_to(Path(str(own.locate_file(top))).resolve())
    return python


def check_types(python: Path, folder: Path) -> None:
    """Whether mypy reads the types of the installed wheel, and finds a call that is wrong."""
    (folder / "typed.py").write_text(TYPED)
    others = "".join(f"[mypy-{name}.*]\nfollow_imports = skip\n" for name in ("torch", "numpy", "pandas", "matplotlib"))
    (folder / "mypy.ini").write_text(f"[mypy]\npython_executable = {python}\nfollow_imports = silent\n{others}")
    call = [sys.executable, "-m", "mypy", "--cache-dir", str(folder / "types"), "typed.py"]
    said = subprocess.run(call, cwd=folder, capture_output=True, text=True).stdout
    for part in ('"torchglm.model.face.Result"', '"torchglm.model.face.GLMHead"', '"knd"'):
        if part not in said:
            raise SystemExit(f"mypy does not read {part} from the installed wheel:\n{said}")


def run(call: list[str], folder: Path) -> str:
    """The output of a command. Raises `SystemExit` with it where it fails."""
    done = subprocess.run(call, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(call)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        wheel = built(folder / "dist")
        python = environment(folder / "env", wheel)
        work = folder / "work"
        work.mkdir()
        run([str(python), "-c", f"PREFIX = {str(folder)!r}\n{USE}"], work)
        (work / "job.yaml").write_text(CONFIG)
        command = str(python.parent / "torchglm")
        assert "fit" in run([command, "--help"], work)
        assert "rate ratio" in run([command, "fit", "job.yaml"], work)
        run([command, "predict", "run", "rows.csv", "--out", "means.csv"], work)
        assert (work / "means.csv").exists() and (work / "run" / "report.html").exists()
        check_types(python, work)
        print(f"{wheel.name}: builds, installs, fits, reports, and has its types")


if __name__ == "__main__":
    main()
