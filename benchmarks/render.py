"""Results as text: one table for the terminal and for benchmarks/README.md, between its two markers."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

BEGIN, END = "<!-- results: written by python -m benchmarks -->", "<!-- end of results -->"
HEADER = "| contender | median s | min–max | runs | × torchglm | peak MB above data | coef error | SE |"


def significant(value: float) -> str:
    """Three significant digits without an exponent: 0.0123, 1.23, 1230."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def row(record: dict[str, Any], yardstick: float | None) -> str:
    name = record["contender"]
    if record["failure"]:
        return f"| {name} | failed: {record['failure']} | | | | | | |"
    seconds = record["seconds"]
    middle = median(seconds)
    ratio = significant(middle / yardstick) if yardstick else ""
    peak = record["peak_mb"]
    cells = [
        name,
        significant(middle),
        f"{significant(min(seconds))}–{significant(max(seconds))}",
        str(len(seconds)),
        ratio,
        "" if peak is None or peak != peak else f"{peak:,.0f}",
        f"{record['coef_error']:.0e}",
        "no" if record["std_err_error"] is None else "yes",
    ]
    return "| " + " | ".join(cells) + " |"


def table(workload: dict[str, Any]) -> str:
    records = workload["contenders"]
    own = next((r for r in records if r["contender"] == "torchglm" and not r["failure"]), None)
    yardstick = median(own["seconds"]) if own else None
    records = sorted(records, key=lambda r: median(r["seconds"] or [float("inf")]))
    made = significant(workload["generation_seconds"])
    baseline = f"Data: {workload['data_mb']:,.0f} MB, made in {made} s (not counted)."
    if workload.get("processor_time"):
        baseline += " Seconds of the processor."
    if workload["limit"] is not None:
        baseline += " " + distance(workload["limit"], yardstick)
    lines = [f"### {workload['title']}", "", baseline, "", HEADER, "|---|" + "---:|" * 6 + "---|"]
    return "\n".join([*lines, *(row(record, yardstick) for record in records)])


def distance(limit: dict[str, float], yardstick: float | None) -> str:
    """The lower bound of torchglm's passes, and how far it is from it."""
    one = f"a Gram {significant(limit['gram_seconds'])} s, a read {significant(limit['read_seconds'])} s"
    passes = f"{significant(limit['grams'])} Grams and {significant(limit['reads'])} reads of x"
    text = f"Lower bound of torchglm's {passes} ({one}): {significant(limit['seconds'])} s"
    if yardstick is None:
        return f"{text}."
    return f"{text}; it takes {significant(yardstick / limit['seconds'])} times that."


def render(results: dict[str, Any]) -> str:
    machine = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    hardware = f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}"
    head = f"{hardware}; {versions}. Size: {results['size']}."
    return "\n\n".join([head, *(table(workload) for workload in results["workloads"])])


def write_into(readme: Path, text: str, begin: str = BEGIN, end: str = END) -> None:
    """Replace what stands between two markers of `readme`."""
    page = readme.read_text(encoding="utf-8")
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{readme} lacks the markers {begin} and {end}: put them where the tables belong.")
    readme.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")
