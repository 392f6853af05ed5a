"""python -m benchmarks.heads [--only NAME] [--rounds N] [--solve]: what a head costs beside a loss by hand.

Ours and the loss that an engineer writes by hand take turns in one process, on one thread, and the seconds are of the
processor; a ratio is the median over rounds of pairs that stand beside each other. Without `--only` the table goes into
`benchmarks/README.md` and `docs/heads.md`. The losses by hand are in `benchmarks/handwritten.py`: the same density,
without looks at responses, without ends where the loss goes on.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

import torchglm as tg
from benchmarks.handwritten import CASES, Case
from benchmarks.render import write_into

HERE = Path(__file__).resolve().parent
PAGES = (HERE / "README.md", HERE.parent / "docs" / "heads.md")
MARKERS = ("<!-- heads: written by python -m benchmarks.heads -->", "<!-- end of heads -->")

WIDTH, COLUMNS = 128, 32
STEP_ROWS, BARE_ROWS = 4096, 65_536


class ByHand(nn.Module):
    """A linear layer, what the loss learns beside it, and the loss."""

    def __init__(self, columns: int, case: Case) -> None:
        super().__init__()
        self.linear = nn.Linear(columns, case.predictors)
        self.own = nn.Parameter(torch.zeros(())) if case.learns else None
        self.density = case.by_hand

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        eta = self.linear(x)
        return self.density(eta, y) if self.own is None else self.density(eta, y, self.own)


def body() -> nn.Sequential:
    return nn.Sequential(nn.Linear(COLUMNS, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU())


def step_of(body: nn.Module, loss: Callable[[Tensor], Tensor], parameters: list[nn.Parameter], x: Tensor) -> Callable:
    """A step of training, parameters being held where they are, so that every step does the same work."""
    optimizer = torch.optim.Adam(parameters, lr=0.0)

    def step() -> None:
        optimizer.zero_grad()
        loss(body(x)).backward()
        optimizer.step()

    return step


def seconds(work: Callable[[], object], times: int) -> float:
    begin = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - begin) / times


def ratio(ours: Callable[[], object], theirs: Callable[[], object], rounds: int, times: int) -> tuple[float, float]:
    """The median of the ratios of pairs, and of the seconds of ours."""
    for work in (ours, theirs):
        seconds(work, 3)
    pairs = []
    for turn in range(rounds):
        both = [(ours, 0), (theirs, 1)][:: -1 if turn % 2 else 1]
        found = [0.0, 0.0]
        for work, place in both:
            found[place] = seconds(work, times)
        pairs.append(found)
    return statistics.median(a / b for a, b in pairs), statistics.median(a for a, _ in pairs)


def in_a_network(case: Case, rounds: int) -> tuple[float, float]:
    """A step of an MLP of 128 x 128 at 4,096 rows."""
    torch.manual_seed(0)
    x, y = torch.randn(STEP_ROWS, COLUMNS), case.responses(STEP_ROWS)
    head, hand, before = case.head(WIDTH), ByHand(WIDTH, case), body()
    for last in (head.weight, hand.linear.weight):
        nn.init.normal_(last, std=0.01)
    ours = step_of(before, lambda z: head.loss(z, y), [*before.parameters(), *head.parameters()], x)
    theirs = step_of(before, lambda z: hand(z, y), [*before.parameters(), *hand.parameters()], x)
    return ratio(ours, theirs, rounds, 5)


def bare(case: Case, rounds: int) -> tuple[float, float]:
    """Loss and gradient of a head of 16 columns at 65,536 rows."""
    torch.manual_seed(0)
    x, y = torch.randn(BARE_ROWS, 16), case.responses(BARE_ROWS)
    head, hand = case.head(16), ByHand(16, case)
    for last in (head.weight, hand.linear.weight):
        nn.init.normal_(last, std=0.05)
    return ratio(lambda: head.loss(x, y).backward(), lambda: hand(x, y).backward(), rounds, 5)


def of_solve(rounds: int) -> Iterator[tuple[str, float, float]]:
    """`solve` and its gradient by x and strength, over `fit` of the same: 10,000 models of 100 rows and 4 columns."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(10_000, 100, 4, generator=generator, dtype=torch.float64)
    eta = 0.3 * x.sum(-1)
    for family, y in {
        "poisson": torch.poisson(eta.exp(), generator=generator),
        "bernoulli": torch.bernoulli(eta.sigmoid(), generator=generator),
        "gaussian": eta + torch.randn(eta.shape, generator=generator, dtype=torch.float64),
    }.items():
        live = x.clone().requires_grad_()
        strength = torch.tensor(1e-3, dtype=torch.float64, requires_grad=True)

        def ours(live: Tensor = live, y: Tensor = y, family: str = family, strength: Tensor = strength) -> None:
            tg.solve(live, y, family=family, strength=strength).sum().backward()

        def fits(y: Tensor = y, family: str = family) -> None:
            tg.fit(x, y, family=family, penalty=tg.Ridge(1e-3))

        yield family, *ratio(ours, fits, rounds, 1)


def told_steps(cases: Sequence[Case], rounds: int) -> str:
    """The table of both ratios, told as it is made."""
    lines = ["| loss | a step of the network | a bare head |", "|---|---:|---:|"]
    print("\n".join(lines))
    for case in cases:
        lines.append(f"| {case.title} | {in_a_network(case, rounds)[0]:.2f} | {bare(case, rounds)[0]:.2f} |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.heads", description=str(__doc__))
    parser.add_argument("--only", help="cases whose title holds this")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--solve", action="store_true", help="gradients of fits alone")
    asked = parser.parse_args(argv)
    torch.set_num_threads(1)
    if asked.solve:
        print("| 10,000 fits and their gradient | over the fits |\n|---|---:|")
        for family, found, _ in of_solve(asked.rounds):
            print(f"| {family} | {found:.2f} |", flush=True)
        return
    table = told_steps([case for case in CASES if asked.only is None or asked.only in case.title], asked.rounds)
    if asked.only is None:
        for page in PAGES:
            write_into(page, table, *MARKERS)


if __name__ == "__main__":
    main()
