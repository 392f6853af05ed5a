"""python -m benchmarks [--quick | --full] [--only tall many] [--contenders torchglm glum] [--output DIR]"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import contenders, measure, render
from benchmarks.workloads import FILES, workloads

HERE = Path(__file__).resolve().parent
ROUNDS = {"quick": 1, "bench": 5, "full": 9}
BUDGET = {"quick": 60.0, "bench": 30.0, "full": 300.0}  # seconds per contender and workload


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def machine(versions: dict[str, str]) -> dict[str, Any]:
    from importlib.metadata import version

    return {
        "cpu": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        "versions": {**versions, "torch": version("torch"), "numpy": version("numpy")},
    }


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="torchglm beside its peers.")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", dest="size", action="store_const", const="quick", help="tiny sizes")
    size.add_argument("--full", dest="size", action="store_const", const="full", help="more repeats, wide x")
    parser.add_argument("--only", nargs="+", choices=list(FILES), help="these workloads alone")
    parser.add_argument("--contenders", nargs="+", choices=list(contenders.NAMES), help="these alone")
    parser.add_argument("--output", type=Path, help="where results.json goes; default: here, with README.md")
    parser.add_argument("--cpu", action="store_true", help="time of the processor, where others share the machine")
    parser.add_argument("--rounds", type=int, help="repeats of each contender")
    parser.set_defaults(size="bench")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = arguments(argv)
    versions = contenders.installed()
    chosen = {name: contenders.load(name) for name in versions if not args.contenders or name in args.contenders}
    warm_up = workloads("quick")  # loads every library and compiles what is compiled on first use
    for workload in warm_up:
        measure.compare(workload, chosen, rounds=1, budget=60.0)
    clock = time.process_time if args.cpu else time.perf_counter
    rounds = args.rounds or ROUNDS[args.size]
    results: dict[str, Any] = {"size": args.size, "machine": machine(versions), "workloads": []}
    for workload in workloads(args.size, args.only):
        results["workloads"].append(measure.compare(workload, chosen, rounds, BUDGET[args.size], clock))
        print(render.table(results["workloads"][-1]), end="\n\n", flush=True)
    save(results, args.output)
    own = [r for w in results["workloads"] for r in w["contenders"] if r["contender"] == "torchglm"]
    return int(any(record["failure"] for record in own))


def save(results: dict[str, Any], output: Path | None) -> None:
    folder = output or HERE
    if output is None and results["size"] == "quick":
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if output is None:
        render.write_into(HERE / "README.md", render.render(results))


if __name__ == "__main__":
    sys.exit(main())
