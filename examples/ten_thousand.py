"""Ten thousand Poisson regressions in one call, each with its own data, status and standard errors.

python examples/ten_thousand.py [--quick]
"""

from __future__ import annotations

import argparse
import time
from collections import Counter

import torch

import torchglm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(0)
    models, n, p = (200 if args.quick else 10_000), 200, 7

    coef = 0.3 * torch.randn(models, p + 1, dtype=torch.float64)  # (B, p + 1), intercept first
    x = torch.randn(models, n, p, dtype=torch.float64)
    y = torch.poisson(torch.exp(coef[:, :1] + (x @ coef[:, 1:, None])[..., 0]))  # (B, n)
    y[0] = 0.0  # one sick model: its maximum likelihood is at minus infinity

    start = time.perf_counter()
    result = torchglm.fit(x, y, family="poisson")
    seconds = time.perf_counter() - start

    print(f"{models:,} models of {n} rows and {p + 1} coefficients: {seconds:.2f} s")
    for status, count in Counter(result.status).most_common():
        print(f"  {count:6,} {status.name.lower()}")
    print(f"model 0 is {result.status[0].name.lower()}: {result.status[0].explanation}")

    interval = result.conf_int(0.95)  # (B, p + 1, 2)
    inside = (interval[..., 0] <= coef) & (coef <= interval[..., 1])
    share = inside[result.converged].double().mean()
    print(f"the truth lies inside {share:.1%} of the 95 % intervals")

    # The first healthy model again, alone: the batch does not change it.
    alone = torchglm.fit(x[1], y[1], family="poisson")
    print(f"model 1 in the batch and alone differ by {(alone.coef - result.coef[1]).abs().max():.1e}")


if __name__ == "__main__":
    main()
