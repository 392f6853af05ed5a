"""`torchglm export RUN`: a run as files for others: a rating table, ONNX, a program of torch."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torchglm.cli.loading import load_run
from torchglm.cli.progress import waiting
from torchglm.cli.run_rows import check_formula, configured
from torchglm.model.face import Result
from torchglm.store import runs
from torchglm.store.rating import curves_of, rating_table
from torchglm.store.scorer import export_result
from torchglm.tables.files import read_files
from torchglm.writing.files import replaced

NAMES = {"table": "rating_table.csv", "onnx": "model.onnx", "torch": "model.pt2"}  # in the run folder
MOST_VALUES = 10_000  # at which a table has a curve


def export(arguments: Sequence[str]) -> None:
    """`torchglm export RUN --table --onnx`: write the files that are asked for, and say where."""
    parser = argparse.ArgumentParser(
        prog="torchglm export",
        description="Write a run for others: --table, a CSV whose factors times the base are the predictions; --onnx "
        "and --torch, a model that takes the raw columns of a row.",
    )
    parser.add_argument("run", metavar="RUN", help="run folder of a fit (its output_dir)")
    for kind, said in (
        ("table", "a rating table"),
        ("onnx", "a model for runtimes of ONNX"),
        ("torch", "a program for torch.export.load"),
    ):
        parser.add_argument(
            f"--{kind}",
            metavar="FILE",
            nargs="?",
            const="",
            help=f"write {said} (default: {NAMES[kind]} in the run folder)",
        )
    parser.add_argument("--level", type=float, help="add the interval of a response, such as 0.9: low, high")
    parser.add_argument("--data", metavar="FILE", help="rows whose values curves of the table are written at")
    given = parser.parse_args(arguments)
    folder = runs.open_run(given.run)
    wanted = {kind: getattr(given, kind) for kind in NAMES if getattr(given, kind) is not None}
    if not wanted:
        raise ValueError("say what to write: --table, --onnx or --torch.")
    result = load_run(folder)
    check_formula(result, folder, "head", networks="table" not in wanted)
    for kind, file in wanted.items():
        out = Path(file) if file else folder / NAMES[kind]
        with waiting(f"Writing {out}"):
            if kind == "table":
                _write_table(result, out, folder, given.data)
            else:
                export_result(result, out, level=given.level)
        runs.remember(out)
        print(f"{kind}: {out}")


def _write_table(result: Result, out: Path, folder: Path, data: str | None) -> None:
    columns = curves_of(result.spec)
    values = _values(columns, data or configured(folder), result) if columns else {}
    table = rating_table(result, values)
    with replaced(out) as draft:
        table.to_csv(draft, index=False)


def _values(columns: list[str], path: Any, result: Result) -> dict[str, list[Any]]:
    """The distinct values of columns in files. Raises ValueError where they are too many for a table."""
    spec = result.spec
    rows = read_files(path, columns, spec.reading, {name: kind for name, kind in spec.types.items() if name in columns})
    found = {name: sorted(rows.column(name).unique().drop_null().to_pylist()) for name in columns}
    for name, values in found.items():
        if len(values) > MOST_VALUES:
            raise ValueError(
                f"{name} has {len(values):,} values, and its curve a line of the table for each. Pass --data, rows "
                "with the values that are wanted."
            )
    return found
