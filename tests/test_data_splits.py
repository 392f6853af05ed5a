"""A design does not depend on how its rows are cut: files, row groups, CSV blocks, pieces, processes."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import csv, parquet

from torchglm.design import DesignSpec, Tally, build, learn
from torchglm.tables import Scan

ROOT = Path(__file__).resolve().parent.parent
FACTORS = [
    "a",
    "b",
    "g",
    "h",
    "f",
    "C(k)",
    "log(`my col`)",
    "a ** 2",
    "center(a)",
    "scale(b)",
    "standardize(a)",
    "poly(a, 3)",
    "bs(a, df=4)",
    "bs(b, knots=[0], degree=2, extrapolation='extend')",
    "cr(a, df=4)",
    "cr(b, df=4, constraints='center')",
    "cc(`my col`, df=4)",
    "C(h, contr.sum)",
    "C(k, contr.poly)",
    "C(g, contr.helmert)",
    "C(g, contr.diff)",
    "C(h, Treatment('mid'))",
    "C(g, levels=['r', 'q', 'p'])",
]
TERMS = st.lists(st.lists(st.sampled_from(FACTORS), min_size=1, max_size=2, unique=True), min_size=1, max_size=4)


def frame(n: int, seed: int, gaps: bool) -> pd.DataFrame:
    """Columns of every kind; where there are `gaps`, some values are missing."""
    draw = np.random.default_rng(seed)
    made = pd.DataFrame(
        {
            "y": draw.poisson(2, n).astype(float),
            "a": draw.normal(size=n) * 10.0 ** draw.integers(-3, 4),
            "b": draw.normal(size=n),
            "k": draw.permutation(np.resize(np.arange(5), n)),
            "g": draw.permutation(np.resize(list("pqr"), n)),
            "h": draw.permutation(np.resize(["hi", "lo", "mid"], n)),
            "f": draw.random(n) > 0.5,
            "my col": draw.random(n) + 0.01,
        }
    )
    if gaps:
        made.loc[draw.choice(n, 4, replace=False), "b"] = np.nan
        made.loc[draw.choice(n, 3, replace=False), "g"] = None
    return made


def write(data: pd.DataFrame, folder: Path, cuts: list[int], group: int, ending: str) -> None:
    edges = [0, *sorted(set(cuts)), len(data)]
    for i, (start, stop) in enumerate(zip(edges, edges[1:], strict=False)):
        table = pa.Table.from_pandas(data.iloc[start:stop], preserve_index=False)
        if ending == "csv":
            csv.write_csv(table, folder / f"{i:03}.csv")
        else:
            parquet.write_table(table, folder / f"{i:03}.parquet", row_group_size=group)


def check(formula: str, data: pd.DataFrame, folder: Path, rows: int, **policies: object) -> None:
    """The spec and the design of the files are those of the table, to the last bit, and so are the counts."""
    whole = build(formula, data, **policies)  # type: ignore[arg-type]
    spec = learn(formula, Scan(folder, rows=rows), **policies)  # type: ignore[arg-type]
    found, want = spec.to_dict(), whole.spec.to_dict()
    assert {**found, "types": 0} == {**want, "types": 0}
    spec = DesignSpec.from_dict(json.loads(json.dumps(found, allow_nan=False)))
    tally, designs = Tally(), []
    for design in Scan(folder, spec.columns + ["y"], spec.types, rows=rows).each(
        lambda table, first: spec.design(table, response=True, first=first)
    ):
        designs.append(design)
        tally.add(design)
    assert torch.equal(torch.cat([design.x for design in designs]), whole.x)
    assert whole.y is not None and torch.equal(torch.cat([design.y for design in designs]), whole.y)
    assert tally.to_dict() == Tally.of(whole).to_dict()


def split_law(
    terms: list[list[str]], seed: int, cuts: list[int], group: int, rows: int, ending: str, gaps: bool, rare: int
) -> None:
    formula = "y ~ " + " + ".join(":".join(term) for term in terms)
    data = frame(70, seed, gaps)
    with tempfile.TemporaryDirectory() as folder:
        write(data, Path(folder), cuts, group, ending)
        check(formula, data, Path(folder), rows, missing="drop" if gaps else "error", rare=rare)


ARGUMENTS = {
    "terms": TERMS,
    "seed": st.integers(0, 2**16),
    "cuts": st.lists(st.integers(1, 69), max_size=4),
    "group": st.integers(1, 40),
    "rows": st.integers(1, 80),
    "ending": st.sampled_from(["parquet", "csv"]),
    "gaps": st.booleans(),
    "rare": st.sampled_from([0, 0, 15]),
}


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(**ARGUMENTS)
def test_a_design_is_the_same_however_its_files_are_cut(
    terms: list[list[str]], seed: int, cuts: list[int], group: int, rows: int, ending: str, gaps: bool, rare: int
) -> None:
    split_law(terms, seed, cuts, group, rows, ending, gaps, rare)


@pytest.mark.slow
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(**ARGUMENTS)
def test_a_design_is_the_same_however_its_files_are_cut_many_times(
    terms: list[list[str]], seed: int, cuts: list[int], group: int, rows: int, ending: str, gaps: bool, rare: int
) -> None:
    split_law(terms, seed, cuts, group, rows, ending, gaps, rare)


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_every_transform_is_the_same_from_files(factor: str, ending: str, tmp_path: Path) -> None:
    data = frame(90, 5, True)
    write(data, tmp_path, [20, 57], 11, ending)
    check(f"y ~ {factor} + a:{factor}" if factor != "a" else "y ~ a", data, tmp_path, 7, missing="drop")


def test_a_design_does_not_depend_on_csv_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = frame(90, 6, False)
    write(data, tmp_path, [], 1, "csv")
    for size in (200, 777, 1 << 20):
        monkeypatch.setattr("torchglm.tables.delimited.BLOCK", size)
        check("y ~ bs(a, df=5) + C(k):b + g * h + poly(b, 2)", data, tmp_path, 1000)


def test_a_fit_saved_in_one_process_predicts_the_same_in_another(tmp_path: Path) -> None:
    import torchglm

    data = frame(90, 7, False)
    data["k"] = np.repeat([0, 1, 2, 3], [50, 30, 6, 4])
    write(data, tmp_path, [40], 9, "parquet")
    formula = (
        "y ~ bs(a, df=4) + cr(b, df=4, constraints='center') + poly(`my col`, 2) + scale(a * b):g "
        "+ C(h, contr.sum) + C(k)"
    )
    result = torchglm.fit(formula, data, family="poisson", rare=10, unseen="other")
    assert "C(k)[T.other]" in result.names and bool(result.converged)
    result.save(tmp_path / "fit")
    here = torch.stack(result.predict(data, se=True))
    code = (
        "import sys, torch, torchglm; from torchglm.tables import read_table; folder = sys.argv[1]; "
        "table = read_table(folder + '/*.parquet'); "
        "torch.save(torch.stack(torchglm.load(folder + '/fit').predict(table, se=True)), folder + '/there.pt')"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=ROOT, timeout=120)
    assert torch.equal(torch.load(tmp_path / "there.pt"), here)
