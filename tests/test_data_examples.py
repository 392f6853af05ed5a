"""The shipped data: small, sourced, reproducible, and of the kind the examples and configs rely on."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pytest
import torch
from torch.distributions import constraints

from torchglm.design import build
from torchglm.tables import read_table

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "examples" / "data"
FILES = sorted(DATA.glob("*.parquet"))


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_data", DATA / "make_data.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_file_is_small_sourced_and_reproducible(path: Path, maker: ModuleType) -> None:
    assert path.stat().st_size < 500_000
    assert path.name in (ROOT / "NOTICE").read_text(encoding="utf-8")
    if path.stem == "support":
        pytest.importorskip("SurvSet", reason="the package that these rows come from")
    made = pa.Table.from_pandas(maker.FILES[path.stem](), preserve_index=False)
    assert read_table(path).equals(made.cast(read_table(path).schema))


def test_every_data_set_of_the_script_is_there(maker: ModuleType) -> None:
    assert sorted(maker.FILES) == [path.stem for path in FILES]


@pytest.mark.parametrize(
    ("name", "formula", "support"),
    [
        ("randhie", "visits ~ log_coinsurance + C(health) + income", constraints.nonnegative),
        ("randhie", "spending ~ log_coinsurance + C(health)", constraints.nonnegative),
        ("anes96", "vote ~ party + age + C(education)", constraints.boolean),
        ("statecrime", "murder ~ urban + poverty + hs_grad + single", constraints.real),
        ("longley", "totemp ~ gnpdefl + gnp + unemp + armed + pop + year", constraints.real),
        ("grunfeld", "invest ~ value + capital", constraints.positive),
        ("strikes", "duration ~ production", constraints.positive),
        ("digits", "digit ~ r3c3 + r4c4", constraints.nonnegative),
        ("support", "days ~ age + female + C(disease)", constraints.positive),
        ("followup_simulated", "time ~ treated + age + C(stage)", constraints.positive),
    ],
)
def test_each_data_set_gives_a_design(name: str, formula: str, support: constraints.Constraint) -> None:
    design = build(formula, read_table(DATA / f"{name}.parquet"))
    assert design.y is not None and bool(support.check(design.y).all())
    assert torch.linalg.matrix_rank(design.x / design.x.norm(dim=0)) == design.x.shape[1]


def test_health_starts_at_excellent() -> None:
    design = build("visits ~ C(health)", read_table(DATA / "randhie.parquet"))
    assert design.names == ["(Intercept)", *(f"C(health)[T.{level}]" for level in ("good", "fair", "poor"))]
