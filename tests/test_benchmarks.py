"""Every benchmark runs at a tiny size and every contender gives the right answer; no test asserts a time."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from benchmarks import contenders, levels, limit, measure, problem, render, scaling, stream, sweep, sweep_peers
from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu.sections import SECTIONS
from benchmarks.workloads import tall, workloads
from tests.thinned import thinned

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("workload", thinned(workloads("quick"), 2), ids=lambda w: w.name)
@pytest.mark.parametrize("name", contenders.NAMES)
def test_contender_gives_the_right_answer(name: str, workload: problem.Workload) -> None:
    if find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    contender = contenders.load(name)
    found = measure.compare(workload, {name: contender}, rounds=1, budget=60.0)["contenders"]
    if contender.able(workload.make()) is None:
        assert found == []
        return
    (record,) = found
    assert record["failure"] is None
    assert record["coef_error"] <= measure.ACCURACY
    assert len(record["seconds"]) == 1


def test_a_wrong_answer_gets_no_time() -> None:
    workload = workloads("quick", ["many"])[0]

    def wrong(p: problem.Problem) -> problem.Fit:
        return problem.Fit(problem.reference(p).coef * 1.001)

    def broken(p: problem.Problem) -> problem.Fit:
        raise RuntimeError("no such luck")

    chosen = {"wrong": contenders.Contender(wrong), "broken": contenders.Contender(broken)}
    outcome = measure.compare(workload, chosen, rounds=2, budget=60.0)
    text = render.table(outcome)
    assert "| wrong | failed: coefficients off by" in text
    assert "| broken | failed: RuntimeError: no such luck |" in text


def test_wrong_inference_gets_no_time() -> None:
    workload = workloads("quick", ["inference"])[0]

    def cook_off(p: problem.Problem) -> problem.Fit:
        right = problem.reference(p)
        assert right.cook is not None
        return replace(right, cook=right.cook * 1.01)

    def without(p: problem.Problem) -> problem.Fit:
        return replace(problem.reference(p), hc3=None)

    chosen = {"off": contenders.Contender(cook_off, cook_off), "without": contenders.Contender(without, without)}
    text = render.table(measure.compare(workload, chosen, rounds=1, budget=60.0))
    assert "| off | failed: HC3, leverage or Cook's distance off by 1.0e-02" in text
    assert "| without | failed: HC3, leverage or Cook's distance off by inf" in text


def test_command_writes_json(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "--quick", "--only", "many", "--contenders", "torchglm"]
    done = subprocess.run([*command, "--output", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "20 Poisson models" in done.stdout
    saved = json.loads((tmp_path / "results.json").read_text())
    assert [w["name"] for w in saved["workloads"]] == ["many-20"]


def test_sweep_counts_the_fastest_that_is_right(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def wrong(given: problem.Problem, tol: float) -> problem.Array:
        return given.x[0]

    roads = {name: sweep_peers.ROADS[name] for name in ("torchglm", "sklearn", "sklearn L-BFGS")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "installed", lambda family: roads | {"quick but wrong": wrong})
        patch.setattr(sweep, "LEAST", 0.0)
        sweep.main(["--quick"])
    out = capsys.readouterr().out
    assert "| logistic | 1,000 | 2 |" in out and "wrong" not in out
    found = {
        "poisson 100 2": {"torchglm": 3e-3, "sklearn": 2e-3, "sklearn L-BFGS": 1e-3},
        "bernoulli 100000 20": {"torchglm": 0.1, "glum": 0.2},
    }
    made = sweep.cells(found)
    assert [(c.peer, c.ratio) for c in made] == [("sklearn", pytest.approx(3.0)), ("glum", 0.5)]
    assert "Of 2 sizes others win 1:" in sweep.wins(made) and "sklearn 1 ms, torchglm 3 ms" in sweep.wins(made)
    sweep.draw(made, tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").stat().st_size > 10_000


def test_scaling_runs_and_names_its_exponents(capsys: pytest.CaptureFixture[str]) -> None:
    scaling.main(["--quick"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["rows", "columns", "models", "levels"]
    assert scaling.exponent([1, 2, 4, 8], [5.0, 6.0, 24.0, 96.0]) == pytest.approx(2.0)


def test_a_factor_of_many_levels_is_fitted_and_measured(capsys: pytest.CaptureFixture[str]) -> None:
    levels.main(["--rows", "6000", "--levels", "300"])
    said = capsys.readouterr().out
    assert "303 coefficients: CONVERGED" in said and "303 standard errors" in said


def test_a_fit_from_a_file_counts_its_scans(capsys: pytest.CaptureFixture[str]) -> None:
    stream.main(["--rows", "20000"])
    said = capsys.readouterr().out
    assert "20,000 rows x 20 columns" in said and "CONVERGED" in said
    scans = int(said.split("errors included: ")[1].split(" scans")[0])
    assert 4 <= scans <= 10


def test_the_lower_bound_counts_the_passes_of_one_model() -> None:
    found = limit.of(tall.make(3_000, 6, "poisson"), contenders.load("torchglm"))
    assert found["grams"] >= 1 and found["reads"] + found["grams"] < 20 and found["seconds"] > 0


def test_results_go_between_the_markers(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(f"above\n{render.BEGIN}\nold\n{render.END}\nbelow\n")
    render.write_into(page, "new")
    assert page.read_text() == f"above\n{render.BEGIN}\n\nnew\n\n{render.END}\nbelow\n"
    page.write_text("no markers")
    with pytest.raises(ValueError, match="markers"):
        render.write_into(page, "new")


@pytest.mark.slow
def test_training_by_minibatch_reaches_the_optimum_on_every_road() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.sgd", "--quick"], cwd=ROOT, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert len(lines) == 11 and "| bare loop of torch |" in done.stdout and "| fit_sgd, its training |" in done.stdout


def test_every_section_for_a_gpu_runs_and_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--quick", "--device", "cpu", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert {line["section"] for line in found["lines"]} == set(SECTIONS) and found["failed"] == []
    assert all(line["seconds"] >= line["least"] > 0 for line in found["lines"])
    said = capsys.readouterr().out
    assert found["card"] in said and (tmp_path / "gpu.md").read_text().splitlines()[-1] in said
    assert "GB/s" in said and "fits/s" in said and " steps |" in said


def test_a_section_that_breaks_is_told_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> list[object]:
        raise RuntimeError("no such luck")

    monkeypatch.setitem(SECTIONS, "many", broken)
    assert gpu.main(["--quick", "--device", "cpu", "--only", "many", "step"]) == 1
    said = capsys.readouterr()
    assert "no such luck" in said.err and "GLMHead" in said.out
    assert gpu.main(["--quick", "--device", "cpu", "--only", "step", "--budget", "0"]) == 0
    assert "left out" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_without_a_gpu_there_is_nothing_to_measure(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([]) == 0
    assert "No CUDA device" in capsys.readouterr().out
    done = subprocess.run(
        ["make", "gpu", f"PYTHON={sys.executable}"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and "No CUDA device" in done.stdout
