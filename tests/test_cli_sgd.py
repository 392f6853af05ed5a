"""`solver: sgd`: the coefficients and the inference of IRLS, from memory and from a stream of Parquet."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import csv, parquet

import torchglm
from torchglm.cli import config, main
from torchglm.cli.sgd import SGD
from torchglm.inputs import FileRows
from torchglm.store import runs
from torchglm.training import LitGLM

N = 3000


def rows() -> pa.Table:
    """Responses for several families, with a column for each role."""
    random = np.random.default_rng(5)
    a, b = random.normal(10, 3, N), random.choice(["u", "v", "w"], N)
    years, weight, times = random.uniform(0.5, 2, N), random.uniform(0.5, 2, N), random.integers(1, 4, N)
    mean = years * np.exp(0.1 * (a - 10) + 0.4 * (b == "w"))
    time, end = random.exponential(mean), random.uniform(0.5, 4, N)
    trials = random.integers(1, 6, N)
    return pa.table(
        {
            "a": a,
            "b": b,
            "years": years,
            "weight": weight,
            "times": times,
            "trials": trials,
            "count": random.poisson(mean),
            "cost": random.gamma(2, mean),
            "hits": random.binomial(trials, 0.3),
            "time": np.minimum(time, end),
            "seen": (time <= end).astype(int),
            "logyears": np.log(years),
            "moved": random.normal(0, 0.5, N),
        }
    )


CASES = {
    "poisson": ("count", ["--data.exposure", "years"]),
    "binomial": ("hits", ["--data.trials", "trials"]),
    "gamma": ("cost", ["--link", "log", "--data.weights", "weight", "--data.offset", "logyears"]),
    "exponential": ("time", ["--data.event", "seen"]),
    "gaussian": ("cost", ["--data.freq", "times"]),
    "{name: negative_binomial, alpha: 0.5}": (
        "count",
        ["--data.exposure", "years", "--data.offset", "moved", "--data.weights", "weight", "--data.freq", "times"],
    ),
}


@pytest.fixture(params=["memory", "stream", "csv"])
def path(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The rows kept in memory, streamed from several row groups at each pass, and as CSV."""
    monkeypatch.chdir(tmp_path)
    if request.param == "stream":
        monkeypatch.setattr("torchglm.inputs.files.HOLD", 0)
    if request.param == "csv":
        csv.write_csv(rows(), "rows.csv")
        return "rows.csv"
    parquet.write_table(rows(), "rows.parquet", row_group_size=700)
    return "rows.parquet"


def job_of(path: str, family: str, *flags: str) -> config.Job:
    response, roles = CASES[family]
    given = ["--data.path", path, "--data.formula", f"{response} ~ a + C(b)", "--family", family]
    return config.read([*given, *roles, *flags])[0]


@pytest.mark.parametrize("family", CASES)
def test_sgd_says_what_irls_says(path: str, family: str, tmp_path: Path) -> None:
    exact = job_of(path, family).solver.solve(job_of(path, family))
    job = job_of(path, family, "--solver", "{name: sgd, batch_size: 256, trainer: {max_epochs: 2}, polish: 15}")
    found = job.solver.solve(job)
    assert bool(found.converged) and found.names == exact.names
    assert float(((found.coef - exact.coef) / exact.std_err).abs().max()) < 1e-4
    for name in ("std_err", "deviance", "null_deviance", "loglik", "aic", "pearson_chi2", "df_resid"):
        torch.testing.assert_close(getattr(found, name), getattr(exact, name), rtol=1e-5, atol=1e-8, msg=name)
    found.save(tmp_path / "run")
    again = torchglm.load(tmp_path / "run")
    torch.testing.assert_close(again.predict(rows()), exact.predict(rows()), rtol=1e-4, atol=1e-6)


def test_training_that_ends_early_says_so(path: str) -> None:
    job = job_of(path, "poisson", "--solver", "{name: sgd, trainer: {max_steps: 1}}")
    with pytest.warns(torchglm.fitting.status.FitWarning, match="standard errors from the optimum"):
        found = job.solver.solve(job)
    assert not bool(found.converged)


def test_processes_that_the_trainer_would_start_are_refused(path: str) -> None:
    """They would share out the batches of training alone, and the passes before and after would not know."""
    job = job_of(path, "poisson", "--solver", "{name: sgd, trainer: {max_epochs: 1, devices: 2, accelerator: cpu}}")
    with pytest.raises(ValueError, match=r"ask for 2 processes, and there are 1"):
        job.solver.solve(job)


def test_penalised_training_is_penalised_irls(path: str) -> None:
    ridge = ["--penalty", "{name: ridge, l2: 0.5}"]
    exact = job_of(path, "poisson", *ridge)
    job = job_of(path, "poisson", *ridge, "--solver", "{name: sgd, trainer: {max_epochs: 2}, polish: 5}")
    want, got = exact.solver.solve(exact), job.solver.solve(job)
    torch.testing.assert_close(got.coef, want.coef, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got.std_err, want.std_err, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--data.by", "b"], "solver sgd fits one model"),
        (["--family", "gamma", "--link", "log"], "the gamma family needs y > 0; row"),
        (["--data.exposure", "shift"], "exposure must be finite and > 0; row"),
        (["--family", "gaussian", "--data.exposure", "years"], "exposure needs a link on whose scale rates multiply"),
    ],
)
def test_rows_are_looked_at_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    parquet.write_table(rows().append_column("shift", pa.array([1.0] * 2999 + [0.0])), "r.parquet", row_group_size=700)
    job = job_of("r.parquet", "poisson", "--solver", "{name: sgd, trainer: {max_steps: 1}}", *flags)
    with pytest.raises(ValueError, match=said):
        job.solver.solve(job)


def test_a_streamed_run_has_its_report_and_a_streamed_csv_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torchglm.inputs.files.HOLD", 0)
    parquet.write_table(rows(), "rows.parquet", row_group_size=700)
    csv.write_csv(rows(), "rows.csv")
    flags = [
        "--data.formula",
        "count ~ a",
        "--data.exposure",
        "years",
        "--family",
        "poisson",
        "--solver",
        "{name: sgd, polish: 3, trainer: {max_epochs: 1}}",
        "--output_dir",
        "run",
    ]
    assert main(["fit", "--data.path", "rows.parquet", *flags]) == 0
    assert "diagnostics on 3,000 rows" in Path("run/report.html").read_text()
    assert main(["fit", "--data.path", "rows.csv", *flags]) == 2
    assert "rows.csv is CSV, and solver sgd streams and shares out Parquet alone" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "rows.csv",
            "rows.csv is CSV, and solver sgd streams and shares out Parquet alone. Write the rows as Parquet, or",
        ),
        (
            "rows.parquet",
            "solver sgd cannot share out 5 row groups to 6 processes. Write the files with smaller row "
            "groups, start fewer processes, or use solver: irls.",
        ),
    ],
)
def test_what_cannot_be_shared_out_is_said_in_words_of_the_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    parquet.write_table(rows(), "rows.parquet", row_group_size=700)
    csv.write_csv(rows(), "rows.csv")
    job = job_of(name, "poisson", "--solver", "sgd")
    assert isinstance(job.solver, SGD)
    shared = FileRows(job.data.formula, name, job.family, job.data.roles)
    monkeypatch.setattr(shared, "ranks", SimpleNamespace(size=6))
    with pytest.raises(ValueError, match=re.escape(said)):
        job.solver._batches(job, shared)


def test_lbfgs_takes_all_rows_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    parquet.write_table(rows(), "rows.parquet", row_group_size=700)
    solver = "{name: sgd, batch_size: 64, optimizer: {class_path: torch.optim.LBFGS, init_args: {max_iter: 100}}}"
    job = job_of("rows.parquet", "poisson", "--solver", solver)
    exact = job_of("rows.parquet", "poisson").solver.solve(job)
    found = job.solver.solve(job)
    assert bool(found.converged) and float(((found.coef - exact.coef) / exact.std_err).abs().max()) < 1e-2
    monkeypatch.setattr("torchglm.inputs.files.HOLD", 0)
    with pytest.raises(ValueError, match="lbfgs needs all rows in memory"):
        job.solver.solve(job)


def test_an_interrupted_training_goes_on_to_the_same_coefficients(
    path: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torchglm.report.page.write_page", lambda _, path, **__: path.write_text("a page"))
    Path("config.yaml").write_text(
        f"data: {{path: {path}, formula: count ~ a + C(b)}}\nfamily: poisson\noutput_dir: run\n"
        "solver: {name: sgd, batch_size: 500, trainer: {max_epochs: 4}}\n"
    )
    assert main(["fit", "config.yaml", "--output_dir", "whole"]) == 0
    epochs: list[int] = []

    def epoch(self: LitGLM) -> None:
        epochs.append(self.current_epoch)
        if epochs == [0, 1, 2]:
            raise KeyboardInterrupt

    handler = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(LitGLM, "on_train_epoch_start", epoch, raising=False)
    assert main(["fit", "config.yaml"]) == 130
    assert "--resume run" in capsys.readouterr().err and signal.getsignal(signal.SIGINT) == handler
    assert {file.name for file in Path("run").iterdir()} == {runs.CHECKPOINT, runs.TRAINING}
    assert main(["fit", "config.yaml", "--resume", "run"]) == 0
    assert epochs == [0, 1, 2, 2, 3]
    got, want = torchglm.load("run"), torchglm.load("whole")
    torch.testing.assert_close(got.coef, want.coef, rtol=1e-12, atol=0.0)
    assert got.n_iter == want.n_iter == 4
    assert {file.name for file in Path("run").iterdir()} == set(runs.FILES)


def test_a_factor_of_many_levels_is_trained(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    level = draw.integers(0, 30, N)
    table = pa.table(
        {
            "y": draw.poisson(np.exp(1 + 0.1 * np.sin(level))),
            "g": np.char.add("l", level.astype(str)),
            "a": draw.normal(size=N),
        }
    )
    parquet.write_table(table, tmp_path / "rows.parquet")
    job = config.read(
        [
            "--data.path",
            str(tmp_path / "rows.parquet"),
            "--data.formula",
            "y ~ a + g",
            "--family",
            "poisson",
            "--solver",
            "{name: sgd, trainer: {max_epochs: 2}, polish: 3}",
        ]
    )[0]
    got, want = job.solver.solve(job), torchglm.fit("y ~ a + g", table, family="poisson")
    assert got.names == want.names
    assert float(((got.coef - want.coef) / want.std_err).abs().max()) < 1e-6


@pytest.mark.parametrize("family", ["poisson", "exponential", "gaussian"])
def test_polish_irls_is_irls(path: str, family: str) -> None:
    exact = job_of(path, family).solver.solve(job_of(path, family))
    job = job_of(path, family, "--solver", "{name: sgd, trainer: {max_steps: 3}, polish: irls}")
    found = job.solver.solve(job)
    assert bool(found.converged)
    assert float(((found.coef - exact.coef) / exact.std_err).abs().max()) < 1e-7
    torch.testing.assert_close(found.std_err, exact.std_err, rtol=1e-7, atol=0)


def test_a_shape_that_is_estimated_is_polished_with_the_coefficients(path: str) -> None:
    flags = ["--data.path", path, "--data.formula", "count ~ a + C(b)", "--family", "negative_binomial"]

    def fit(*more: str) -> torchglm.Result:
        job = config.read([*flags, *more])[0]
        return job.solver.solve(job)

    exact = fit()
    for polish, near in (("3", 1e-4), ("irls", 1e-8)):
        found = fit("--solver", f"{{name: sgd, trainer: {{max_epochs: 2}}, polish: {polish}}}")
        assert bool(found.converged)
        assert float(((found.coef - exact.coef) / exact.std_err).abs().max()) < near
        assert float(found.family.alpha.detach()) == pytest.approx(float(exact.family.alpha.detach()), rel=near)
    with pytest.warns(torchglm.fitting.status.FitWarning, match=r"standard errors from the optimum.*polish to irls"):
        assert not bool(fit("--solver", "{name: sgd, trainer: {max_epochs: 1}}").converged)
