"""One file per workload; each offers `workloads(size)` with size quick, bench or full."""

from __future__ import annotations

from benchmarks.problem import Workload
from benchmarks.workloads import factors, inference, many, shared, tall

FILES = {"tall": tall, "many": many, "shared": shared, "factors": factors, "inference": inference}


def workloads(size: str, only: list[str] | None = None) -> list[Workload]:
    return [w for name, file in FILES.items() if not only or name in only for w in file.workloads(size)]
