"""Draw docs/architecture.png: the rooms of torchglm by floor, and who imports whom, read from the files themselves.

    python docs/architecture.py [FILE]

A room stands one floor above the highest room it imports, wherever the import stands (inside functions and for types,
too); an arrow that others imply is left out. Needs matplotlib. Raises `ValueError` where rooms import in a circle.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "torchglm"
LEFT_OUT = {"__init__", "__main__", "version"}  # the names of the package, its command, a number
WIDTH, HEIGHT = 2.0, 0.56  # of a box, in floors
LANES = {  # where a room is drawn, and its colour: formulas, the ground both share, data, and what is made of them
    -1.0: ("#dce9f5", {"special", "links", "distributions", "families", "fitting"}),
    0.0: ("#ececec", {"rows"}),
    1.0: ("#f7ecd6", {"tables", "design", "inputs"}),
    1.9: ("#f7ecd6", {"writing"}),
}
LANE, ABOVE = 2.6, "#e3f1e3"  # how far lanes stand apart; the colour of rooms in none


def room_of(path: Path) -> str:
    inside = path.relative_to(PACKAGE)
    return inside.parts[0].removesuffix(".py")


def imports() -> dict[str, set[str]]:
    """Room -> the rooms it imports."""
    found: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        own = found.setdefault(room_of(path), set())
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "torchglm":
                parts = str(node.module).split(".")
                own |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
    kept = {room: names for room, names in found.items() if room not in LEFT_OUT}
    return {room: {name for name in names if name in kept and name != room} for room, names in kept.items()}


def below(graph: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Room -> all rooms it rests on. Raises `ValueError` for a circle."""

    @cache
    def under(room: str, path: tuple[str, ...] = ()) -> frozenset[str]:
        if room in path:
            raise ValueError(f"rooms import in a circle: {' -> '.join([*path, room])}.")
        return frozenset(graph[room]).union(*(under(name, (*path, room)) for name in graph[room]))

    return {room: set(under(room)) for room in graph}


def floors(graph: Mapping[str, set[str]]) -> dict[str, int]:
    """Room -> its floor, the ground being 0."""
    rests_on = below(graph)

    @cache
    def floor(room: str) -> int:
        return max((floor(name) + 1 for name in graph[room]), default=0)

    return {room: floor(room) for room in rests_on}


def direct(graph: Mapping[str, set[str]]) -> list[tuple[str, str]]:
    """The arrows that no others imply."""
    rests_on = below(graph)
    return [
        (room, name)
        for room, names in graph.items()
        for name in sorted(names)
        if not any(name in rests_on[other] for other in names if other != name)
    ]


def places(graph: Mapping[str, set[str]]) -> dict[str, tuple[float, float]]:
    """Room -> the middle of its box: its lane, or the middle, spread where a floor has several there."""
    together: dict[tuple[int, float], list[str]] = {}
    for room, floor in floors(graph).items():
        lane = next((lane for lane, (_, rooms) in LANES.items() if room in rooms), 0.0)
        together.setdefault((floor, lane), []).append(room)
    return {
        room: (LANE * lane + (k - (len(rooms) - 1) / 2) * (WIDTH + 0.25), float(floor))
        for (floor, lane), rooms in together.items()
        for k, room in enumerate(sorted(rooms, reverse=True))
    }


def draw() -> Figure:
    """The picture."""
    graph = imports()
    at = places(graph)
    colour = {room: tint for tint, rooms in LANES.values() for room in rooms}
    figure = Figure(figsize=(8.0, 7.0), layout="constrained")
    axes = figure.add_subplot()
    for upper, lower in direct(graph):
        axes.add_patch(_arrow(at[upper], at[lower]))
    for room, (x, y) in at.items():
        corner = (x - WIDTH / 2, y - HEIGHT / 2)
        box = FancyBboxPatch(corner, WIDTH, HEIGHT, boxstyle="round,pad=0,rounding_size=0.12")
        box.set(facecolor=colour.get(room, ABOVE), edgecolor="0.35", linewidth=0.9, zorder=3)
        axes.add_patch(box)
        axes.text(x, y - 0.02, room, ha="center", va="center", fontsize=11, fontweight="bold", zorder=4)
    axes.set(xlim=(-4.9, 6.1), ylim=(-0.6, max(y for _, y in at.values()) + 0.6))
    axes.set_axis_off()
    return figure


def _arrow(upper: tuple[float, float], lower: tuple[float, float]) -> FancyArrowPatch:
    """From the foot of a box to the head of a lower one; a long way past other boxes goes by the side."""
    (x, y), (u, v) = upper, lower
    if y - v < 1.5:
        start, style = (x, y - HEIGHT / 2), "arc3"
    elif abs(u - x) > WIDTH:  # out at the side, and straight down onto the other
        start, style = (x + (WIDTH if u > x else -WIDTH) / 2, y), "angle3,angleA=0,angleB=90"
    else:
        start, style = (
            (x + (WIDTH / 2 if u > x else -WIDTH / 2 if u < x else 0), y),
            f"arc3,rad={0.18 if u < x else -0.18}",
        )
    arrow = FancyArrowPatch(start, (u, v + HEIGHT / 2), connectionstyle=style, shrinkA=0, shrinkB=0)
    arrow.set(arrowstyle="-|>", mutation_scale=12, color="0.4", linewidth=1.1, zorder=2)
    return arrow


def main(arguments: list[str]) -> None:
    draw().savefig(arguments[0] if arguments else ROOT / "docs" / "architecture.png", dpi=130)


if __name__ == "__main__":
    main(sys.argv[1:])
