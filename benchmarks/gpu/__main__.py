"""python -m benchmarks.gpu [--quick] [--only tall many] [--budget 200] [--out FOLDER]: torchglm on a CUDA device."""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.clock import Clock, Line
from benchmarks.gpu.sections import FULL, QUICK, SECTIONS
from benchmarks.render import significant

HEADER = "| section | case | seconds | least | runs | figures | note |"
UNITS = {"GB/s": "{:,.0f} GB/s", "of a copy": "{:.0%} of a copy", "fits/s": "{:,.0f} fits/s"}


def card(device: torch.device) -> str:
    """The device and the versions that a figure needs beside it."""
    name = "the CPU"
    if device.type == "cuda":
        about = torch.cuda.get_device_properties(device)
        name = f"{about.name}, {about.total_memory / 2**30:.0f} GiB, {about.multi_processor_count} multiprocessors"
    python = ".".join(map(str, sys.version_info[:3]))
    return f"{name}; torch {torch.__version__}, CUDA {torch.version.cuda}, Python {python}"


def row(line: Line) -> str:
    """A line of the table."""
    figures = ", ".join(UNITS.get(name, "{:.3g} " + name).format(value) for name, value in line.figures.items())
    times = f"{significant(line.seconds)} | {significant(line.least)} | {line.runs}"
    return f"| {line.section} | {line.case} | {times} | {figures} | {line.note} |"


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=str(__doc__).split(": ")[-1])
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), help="these sections alone")
    parser.add_argument("--budget", type=float, default=200.0, help="seconds after which no section begins")
    parser.add_argument("--out", type=Path, help="a folder for gpu.json and gpu.md")
    parser.add_argument("--device", default="cuda", help=argparse.SUPPRESS)  # the tests have none but the CPU
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = arguments(argv)
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("No CUDA device is here: there is nothing to measure.")
        return 0
    about = card(device)
    print(f"{about}\n\n{HEADER}\n{'|---' * 7}|", flush=True)
    lines, failed = measured(args, device)
    if args.out is not None:
        save(args.out, about, lines, failed)
    for name in failed:
        print(f"The section {name} failed; see its traceback above.", file=sys.stderr)
    return int(bool(failed))


def measured(args: argparse.Namespace, device: torch.device) -> tuple[list[Line], list[str]]:
    """The lines of all sections, printed as they come, and the names of the sections that broke."""
    begin = time.perf_counter()
    lines: list[Line] = []
    failed: list[str] = []
    names = [name for name in SECTIONS if not args.only or name in args.only]
    for place, name in enumerate(names):
        left = args.budget - (time.perf_counter() - begin)
        if left <= 0:
            print(f"| {name} | left out: the {args.budget:g} seconds are over | | | | | |", flush=True)
            continue
        share = left * (0.4 if name == "tall" else 1 / max(1, len(names) - place))
        try:
            for line in SECTIONS[name](Clock(device, time.perf_counter() + share), QUICK if args.quick else FULL):
                lines.append(line)
                print(row(line), flush=True)
        except Exception:  # a section that breaks is a result, and must not end the others
            traceback.print_exc()
            failed.append(name)
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return lines, failed


def save(folder: Path, about: str, lines: list[Line], failed: list[str]) -> None:
    """Write `gpu.json` and `gpu.md`."""
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"card": about, "failed": failed, "lines": [asdict(line) for line in lines]}
    (folder / "gpu.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    table = "\n".join([HEADER, "|---" * 7 + "|", *map(row, lines)])
    (folder / "gpu.md").write_text(f"{about}\n\n{table}\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
