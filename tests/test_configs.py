"""Every config in configs/ is read and fitted; a new one needs no entry here."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

import torchglm
from torchglm.cli import config, main

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def run(path: Path, folder: Path, *flags: str) -> torchglm.Result:
    """The fit of a config, in this process."""
    assert main(["fit", str(path), "--output_dir", str(folder / path.stem), *flags]) == 0
    assert (folder / path.stem / "report.html").stat().st_size > 10_000
    return torchglm.load(folder / path.stem)


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_config_is_valid_and_says_where_it_writes(path: Path) -> None:
    text = path.read_text()
    job, resolved = config.read([str(path)])
    assert text.startswith("# ") and job.output_dir.startswith("runs/")
    assert Path(job.data.path).exists() and job.data.columns()
    assert set(yaml.safe_load(text)) <= set(yaml.safe_load(resolved))


@pytest.mark.parametrize("path", [p for p in CONFIGS if p.stem != "cuda"], ids=lambda path: path.name)
def test_every_config_fits(path: Path, tmp_path: Path) -> None:
    result = run(path, tmp_path)
    chosen = path.stem in ("elastic_net", "bands")  # what a lasso leaves has no errors
    assert bool(result.converged.all()) and bool(torch.isfinite(result.coef if chosen else result.std_err).all())


def test_the_issue_schema_is_the_one_we_read(tmp_path: Path) -> None:
    """The main job, with every key of the schema written out."""
    job, _ = config.read([str(ROOT / "configs" / "poisson.yaml")])
    assert job.output_dir == "runs/randhie" and job.data.exposure == "eligible"
    assert set(yaml.safe_load((ROOT / "configs" / "poisson.yaml").read_text())) == {
        "seed",
        "device",
        "dtype",
        "data",
        "family",
        "link",
        "penalty",
        "solver",
        "output_dir",
    }


@pytest.mark.cuda
def test_a_gpu_gives_the_same_fit(tmp_path: Path) -> None:
    there = run(ROOT / "configs" / "cuda.yaml", tmp_path)
    here = run(ROOT / "configs" / "poisson.yaml", tmp_path, "--device", "cpu")
    torch.testing.assert_close(there.coef.cpu(), here.coef, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(there.std_err.cpu(), here.std_err, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("seed", [0, 1])
def test_sgd_ends_where_irls_does(seed: int) -> None:
    trained, exact = (
        job.solver.solve(job)
        for job, _ in (
            config.read([str(ROOT / "configs" / f"{name}.yaml"), "--seed", str(seed)]) for name in ("sgd", "poisson")
        )
    )
    assert trained.names == exact.names
    assert float(((trained.coef - exact.coef) / exact.std_err).abs().max()) < 1e-4
    torch.testing.assert_close(trained.std_err, exact.std_err, rtol=1e-5, atol=0)
    torch.testing.assert_close(trained.aic, exact.aic, rtol=1e-9, atol=0)
