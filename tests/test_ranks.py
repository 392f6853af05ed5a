"""Two processes that share the rows of a fit: the results of one, and an end in bounded time where one fails."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import torchglm
from torchglm.cli import main
from torchglm.fitting.sample import STRIDE, sample
from torchglm.store import checkpoints, runs
from torchglm.tables import Scan
from torchglm.tables.shares import row_groups

LIMIT = 120  # seconds for any process, on a busy machine
FITS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "offset and weights": (
        "y ~ a + C(g) + a:b",
        "rows.parquet",
        {"family": "poisson", "exposure": "years", "weights": "w"},
    ),
    "an empty share": ("y ~ a + C(g)", "one_group.parquet", {"family": "poisson"}),
    "csv": ("y ~ scale(a) + C(g)", "rows.csv", {"family": "poisson"}),
    "alpha": ("nb ~ a + bs(b, df=4)", "rows.parquet", {"family": "negative_binomial", "exposure": "years"}),
    "dispersion": ("t ~ a + b", "rows.parquet", {"family": "gamma", "link": "log", "dispersion": "ml"}),
    "edge": ("t ~ a", "rows.parquet", {"family": "gamma", "link": "identity"}),
    "aliased": ("y ~ a + twice", "rows.parquet", {"family": "poisson"}),
    "left out": ("y ~ gaps", "rows.parquet", {"family": "poisson", "missing": "drop"}),
    "ordered classes": ("g ~ a + b", "rows.parquet", {"family": "ordinal", "weights": "w"}),
    "classes": ("g ~ a", "rows.csv", {"family": "multinomial", "freq": "times"}),
    "two predictors": (
        "t ~ a",
        "rows.parquet",
        {"family": "gamma", "link": "log", "predictors": {"dispersion": "~ b + C(g)"}, "weights": "w"},
    ),
    "effects of groups": ("y ~ a + (1 + a | level)", "rows.parquet", {"family": "poisson", "exposure": "years"}),
    "effects of groups that cross": ("y ~ a + (1 | level) + (1 + a | g)", "rows.parquet", {"family": "poisson"}),
    "effects and a smooth": ("t ~ s(b, k=5) + (1 | level)", "rows.parquet", {"family": "gaussian"}),
    "effects of groups on classes": ("g ~ a + (1 | level)", "rows.csv", {"family": "ordinal"}),
    "quadrature": ("y ~ a + (1 | level)", "rows.parquet", {"family": "poisson", "quadrature": 5}),
    "streamed": ("y ~ a + C(g)", "rows.parquet", {"family": "poisson", "exposure": "years", "freq": "times"}),
}

DRIVER = """
import os, signal, sys, time
from torchglm.cli import main
from torchglm.tables.scan import Scan
from torchglm.inputs import files
from torchglm.report import page

how, rank, at = os.environ.get("FAIL", "never 9 0").split()
count, pieces = 0, Scan.pieces

def counted(self):
    global count
    for piece in pieces(self):
        count += 1
        if os.environ["RANK"] == rank and count == int(at):
            if how == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(600)
        yield piece

Scan.pieces, files.HOLD = counted, 0
page.write_page = lambda _, path, **__: path.write_text("a page")
sys.exit(main(sys.argv[1:]))
"""

FITTER = """
import json, os, sys, warnings
import torch.distributed as dist
import torchglm
from torchglm.fitting import sample
from torchglm.fitting.mixed import order
from torchglm.inputs import files

warnings.simplefilter("ignore")
dist.init_process_group("gloo")
rank, found = dist.get_rank(), {}
for name, (formula, path, options) in json.loads(sys.argv[1]).items():
    if name == "streamed":  # read again at each pass, and begun on a part
        files.HOLD, sample.LARGE, sample.FEWEST = 0, 0, 1
    order.MANY = 2 if "cross" in name else 128  # of its levels only the pairs that meet are kept
    fit = torchglm.fit(formula, path, **options)
    found[name] = {k: getattr(fit, k).tolist() for k in
                   ("coef", "std_err", "deviance", "null_deviance", "loglik", "pearson_chi2", "nobs", "dispersion")}
    found[name]["status"] = str(fit.status)
    if fit.flat.modes is not None:
        found[name]["criterion"] = float(fit.criterion)
        found[name]["modes"], found[name]["sd"] = (getattr(fit.random["level"], k).tolist() for k in ("modes", "sd"))
    elif fit.plan is None:
        found[name]["HC3"], found[name]["R"] = fit.covariance("HC3").tolist(), fit.like("R").loglik.tolist()
    else:
        found[name]["expected"] = fit.covariance("model").tolist()
    found[name]["tally"] = fit.context["tally"]
    if name == "alpha":
        found[name]["alpha"] = float(fit.family.alpha)
said = found["said"] = {}
for name, call in {"rows": lambda: torchglm.fit("t ~ a", "bad.parquet", family="gamma", link="log"),
                   "text": lambda: torchglm.fit("y ~ a", "mixed", family="poisson"),
                   "csv text": lambda: torchglm.fit("y ~ a", "mixed_csv", family="poisson"),
                   "residuals": lambda: fit.residuals()}.items():
    try:
        call()
    except Exception as error:
        said[name] = [type(error).__name__, str(error)]
scored = torchglm.metrics.Deviance("poisson")
for part in range(rank, 5, 2):  # three parts here, two there
    values = torchglm.tensor_of(part)
    scored.update(*values)
found["metric"] = float(scored.compute())
sample.LARGE = sample.FEWEST = 1
files.HOLD = 1 << 30
part = sample.sample(torchglm.fit("y ~ a", "rows.parquet", family="poisson").source, 2)
found["part"] = sum(part.ranks.gather([rows.y[0].tolist() for rows in part.own]), [])
dist.destroy_process_group()
threads = [open(f"/proc/self/task/{task}/comm").read().strip() for task in os.listdir("/proc/self/task")]
found["left"] = [name for name in threads if "gloo" in name or "tcpstore" in name]
print("FOUND" + json.dumps(found))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files with uneven row groups, one of a single group, CSV, and ones with something wrong in the last group."""
    folder = tmp_path_factory.mktemp("ranks")
    draw = np.random.default_rng(3)
    n = 700
    a, b, years = draw.normal(size=n), draw.normal(size=n), draw.uniform(0.3, 2, n)
    g = draw.choice(["u", "v", "w"], n)
    g[-1] = "last"  # a level of which one process alone has rows
    mean = years * np.exp(0.3 + 0.2 * a + 0.4 * (g == "v") - 0.2 * a * b)
    frame = pd.DataFrame(
        {
            "y": draw.poisson(mean),
            "nb": draw.negative_binomial(2, 1 / (1 + mean / 2)),
            "a": a,
            "b": b,
            "g": g,
            "years": years,
            "w": draw.uniform(0.5, 2, n),
            "times": draw.integers(1, 4, n),
            "level": [f"l{k}" for k in np.arange(n) % 15],
            "twice": 2 * a,
            "t": draw.gamma(2, 1 + 0.5 * np.maximum(a + 2.2, 0)),
            "gaps": np.where(np.arange(n) % 50 == 7, np.nan, b),
        }
    )
    frame.to_parquet(folder / "rows.parquet", row_group_size=150)
    frame.iloc[:400].to_parquet(folder / "one_group.parquet")
    frame.to_csv(folder / "rows.csv", index=False)
    frame.assign(t=frame["t"].where(np.arange(n) != 650, -1.0)).to_parquet(folder / "bad.parquet", row_group_size=150)
    for kind, write in (("", "to_parquet"), ("_csv", "to_csv")):
        (folder / f"mixed{kind}").mkdir()
        for i, part in enumerate((frame.iloc[:350], frame.iloc[350:].assign(a=frame["g"]))):
            getattr(part, write)(folder / f"mixed{kind}" / f"{i}.{write.removeprefix('to_')}", index=False)
    (folder / "config.yaml").write_text(
        "data: {path: rows.parquet, formula: y ~ a + C(g), exposure: years}\nfamily: poisson\noutput_dir: run\n"
    )
    return folder


def environment(rank: int, port: int, **more: str) -> dict[str, str]:
    return os.environ | {
        "RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        **more,
    }


def free_port() -> int:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return int(made.getsockname()[1])


def launch(place: Path, arguments: list[str], wait: tuple[int, ...] = (0, 1), **more: str) -> list[Any]:
    """Two processes as torchrun starts them; the ends of those of `wait`, the others being killed then."""
    port = free_port()
    started = [
        subprocess.Popen(
            [sys.executable, *arguments],
            cwd=place,
            env=environment(rank, port, **more),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    ended: list[Any] = [None, None]
    try:
        for rank in wait:
            out, err = started[rank].communicate(timeout=LIMIT)
            ended[rank] = subprocess.CompletedProcess(arguments, started[rank].returncode, out, err)
    finally:
        for process in started:
            process.kill()
            process.communicate()
    return ended


@pytest.fixture(scope="module")
def found(place: Path) -> list[dict[str, Any]]:
    """What each of two processes found, all fits in one launch."""
    values = "lambda part: __import__('json').load(open(f'scores{part}.json'))"
    draw = np.random.default_rng(8)
    for part in range(5):
        mu = draw.uniform(0.5, 3, 20)
        (place / f"scores{part}.json").write_text(json.dumps([mu.tolist(), draw.poisson(mu).tolist()]))
    script = FITTER.replace("torchglm.tensor_of(part)", f"map(torch.tensor, ({values})(part))")
    (place / "fitter.py").write_text("import torch\n" + script)
    ended = launch(place, ["fitter.py", json.dumps(FITS)])
    made = []
    for end in ended:
        assert end.returncode == 0, end.stderr[-3000:]
        [line] = [line for line in end.stdout.splitlines() if line.startswith("FOUND")]
        made.append(json.loads(line.removeprefix("FOUND")))
    return made


def test_a_group_that_is_destroyed_ends_though_its_fits_live(found: list[dict[str, Any]]) -> None:
    """A thread of gloo that outlives its group may let go of a tensor while Python stops, which aborts the process."""
    assert [here["left"] for here in found] == [[], []]


@pytest.mark.parametrize("name", FITS)
@pytest.mark.filterwarnings("ignore::torchglm.fitting.status.FitWarning")
def test_two_processes_find_what_one_finds(
    place: Path, found: list[dict[str, Any]], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    formula, path, options = FITS[name]
    alone = torchglm.fit(formula, path, **options)
    ours, theirs = found[0][name], found[1][name]
    assert json.dumps(ours) == json.dumps(theirs)  # bit for bit, or they would part one day
    assert ours["status"] == str(alone.status) and ours["tally"] == alone.context["tally"]
    rtol, atol = (1e-10, 1e-13) if alone.flat.modes is None else (1e-5, 1e-7)  # rounding parts two searches a little
    for key in ("coef", "std_err", "deviance", "null_deviance", "loglik", "pearson_chi2", "nobs", "dispersion"):
        # of a search these have fewer digits than of one model in memory
        own = max(rtol, 1e-8) if key in ("std_err", "pearson_chi2", "dispersion") else rtol
        np.testing.assert_allclose(ours[key], getattr(alone, key), rtol=own, atol=atol, err_msg=key)
    if alone.flat.modes is not None:
        assert ours["criterion"] == pytest.approx(float(alone.criterion), rel=1e-10)
        for key in ("modes", "sd"):
            np.testing.assert_allclose(ours[key], getattr(alone.random["level"], key), rtol=1e-5, atol=1e-7)
    elif alone.plan is None:
        np.testing.assert_allclose(ours["HC3"], alone.covariance("HC3"), rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(ours["R"], alone.like("R").loglik, rtol=1e-10)
    else:
        np.testing.assert_allclose(ours["expected"], alone.covariance("model"), rtol=1e-9, atol=1e-14)
    if name == "alpha":
        assert ours["alpha"] == pytest.approx(float(alone.family.alpha), rel=1e-10)


def test_what_is_wrong_on_one_process_is_said_on_both(found: list[dict[str, Any]]) -> None:
    first, second = (one["said"] for one in found)
    where = "bad.parquet, row group 4"
    assert second["rows"][0] == "ValueError" and where in second["rows"][1] and "gamma" in second["rows"][1]
    assert first["rows"][0] == "RankError" and "process 1 of 2 failed" in first["rows"][1] and where in first["rows"][1]
    for said in (first, second):
        for words in (said["text"][1], said["csv text"][1]):
            assert re.search(
                r"mixed\w*/1\.\w+ holds column 'a' as (large_)?string, and mixed\w*/0\.\w+ double\. "
                "Give it one type in all files.",
                words,
            ), words


def test_what_needs_all_rows_in_one_process_says_so(found: list[dict[str, Any]]) -> None:
    for one in found:
        kind, text = one["said"]["residuals"]
        assert kind == "ValueError" and "not computed over the rows of 2 processes" in text


def test_a_metric_of_two_processes_is_that_of_all_rows(place: Path, found: list[dict[str, Any]]) -> None:
    whole = torchglm.metrics.Deviance("poisson")
    for part in range(5):
        whole.update(*map(torch.tensor, json.loads((place / f"scores{part}.json").read_text())))
    for one in found:
        assert one["metric"] == pytest.approx(float(whole.compute()), rel=1e-12)


def test_a_fit_begins_on_the_same_rows_however_many_processes_hold_them(
    place: Path, found: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    alone = torchglm.fit("y ~ a", "rows.parquet", family="poisson").source
    for name in ("LARGE", "FEWEST"):
        monkeypatch.setattr(f"torchglm.fitting.sample.{name}", 1)
    [part] = sample(alone, 2) or []
    assert len(part.y[0]) == 700 // STRIDE
    for one in found:
        assert sum(one["part"], []) == part.y[0].tolist()


@pytest.mark.parametrize("failure", ["dies", pytest.param("hangs", marks=pytest.mark.slow)])
def test_a_process_that_is_gone_ends_the_other(place: Path, failure: str) -> None:
    (place / "driver.py").write_text(DRIVER)
    # of its three row groups in each pass: levels, a look at all rows, two passes to begin, and one step; then
    first, _ = launch(
        place,
        ["driver.py", "fit", "config.yaml", "--timeout", "5", "--output_dir", failure],
        (0,),
        FAIL=f"{failure} 1 17",
    )
    assert first.returncode == 1, first.stderr
    said = first.stderr.strip().splitlines()[-1]
    assert "process 0 of 2 stopped: another died or did not answer in time" in said
    assert said.endswith(f"go on with: torchglm fit config.yaml --timeout 5 --resume {failure}")
    assert checkpoints.read(place / failure).state is not None


def test_an_end_before_the_first_step_promises_no_checkpoint(place: Path) -> None:
    (place / "driver.py").write_text(DRIVER)
    first, _ = launch(place, ["driver.py", "fit", "config.yaml", "--output_dir", "early"], (0,), FAIL="dies 1 2")
    assert first.returncode == 1, first.stderr
    assert "another died or did not answer" in first.stderr and "--resume" not in first.stderr
    assert not (place / "early").exists()


def test_rows_that_one_process_refuses_are_refused_by_both_in_the_same_words(place: Path) -> None:
    ended = launch(
        place,
        [
            "-m",
            "torchglm",
            "fit",
            "config.yaml",
            "--data.path",
            "bad.parquet",
            "--data.formula",
            "t ~ a",
            "--family",
            "gamma",
            "--link",
            "log",
            "--output_dir",
            "refused",
        ],
    )
    for end in ended:
        assert end.returncode == 2 and end.stdout == "", end.stderr
        assert end.stderr.startswith("torchglm: error: bad.parquet, row group 4: "), end.stderr
        assert "--resume" not in end.stderr and "process" not in end.stderr
    assert ended[0].stderr == ended[1].stderr
    assert not (place / "refused").exists()


@pytest.mark.slow
def test_a_killed_fit_of_two_processes_goes_on(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "driver.py").write_text(DRIVER)
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        "2",
        "--master_port",
        str(free_port()),
        "driver.py",
        "fit",
        "config.yaml",
    ]
    died = subprocess.run(
        torchrun, cwd=place, env=os.environ | {"FAIL": "dies 0 12"}, capture_output=True, text=True, timeout=LIMIT
    )
    assert died.returncode != 0 and f"exitcode  : -{int(signal.SIGKILL)}" in died.stderr, died.stderr
    assert [file.name for file in (place / "run").iterdir()] == [runs.CHECKPOINT]
    first, second = launch(place, ["driver.py", "fit", "config.yaml", "--resume", "run"])
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert "Report: run/report.html" in first.stdout and second.stdout == ""
    monkeypatch.chdir(place)
    assert "2 processes" in Path("run/log.txt").read_text() and "goes on after" in Path("run/log.txt").read_text()
    want = torchglm.fit("y ~ a + C(g)", "rows.parquet", family="poisson", exposure="years")
    got = torchglm.load("run")
    for key in ("coef", "std_err", "deviance", "null_deviance", "loglik"):
        torch.testing.assert_close(getattr(got, key), getattr(want, key), rtol=1e-10, atol=1e-13)
    assert {file.name for file in Path("run").iterdir()} == set(runs.FILES)


def test_groups_are_not_shared_out(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    for name, held in environment(0, 1).items():
        monkeypatch.setenv(name, held)
    assert main(["fit", "config.yaml", "--data.by", "g"]) == 2
    assert "data.by holds all rows in one process" in capsys.readouterr().err


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_shares_of_row_groups_are_the_whole_in_order(place: Path, size: int) -> None:
    files = [place / "rows.parquet", place / "one_group.parquet"]
    shares = [row_groups(files, rank, size) for rank in range(size)]
    groups = [(file, group) for share in shares for file in share for group in sorted(share[file])]
    assert groups == [(files[0], i) for i in range(5)] + [(files[1], 0)]
    whole = [piece.table.column("y").to_pylist() for piece in Scan(files, ["y"]).pieces()]
    parts = [
        piece.table.column("y").to_pylist()
        for rank in range(size)
        for piece in Scan(files, ["y"], share=(rank, size)).pieces()
    ]
    assert parts == whole
