"""Two processes score as one: sums of every metric are added over ranks, and functions wait for nobody."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from torchmetrics import MetricCollection

from torchglm import metrics

LIMIT = 120  # seconds for any process, on a busy machine

COMMON = """
import torch
from torchmetrics import MetricCollection
from torchglm import metrics

def collection():
    return MetricCollection({
        "deviance": metrics.Deviance("poisson"), "other": metrics.Deviance("gaussian"), "d2": metrics.D2("poisson"),
        "gini": metrics.Gini("poisson"), "lift": metrics.LiftTable("poisson", bins=3),
        "error": metrics.CalibrationError("poisson"), "nll": metrics.NLL("poisson"), "crps": metrics.CRPS("poisson"),
        "ratio": metrics.ObservedExpected("poisson"), "phi": metrics.PearsonDispersion("poisson")})

def batches():
    rng = torch.Generator().manual_seed(4)
    mu, v, w = 0.5 + torch.rand(3, 300, generator=rng, dtype=torch.float64)
    w[:40] = 0  # the first batch of one rank holds nothing that counts
    return [dict(mu=mu[p], y=(2 * mu * v)[p].floor(), weights=w[p], exposure=v[p])
            for p in (slice(0, 40), slice(40, 41), slice(41, 200), slice(200, 300))]

def plain(found):
    return {name: value.tolist() if torch.is_tensor(value) else {k: v.tolist() for k, v in value.items()}
            for name, value in found.items()}
"""

RANK = (
    COMMON
    + """
import json, sys
import torch.distributed as dist
rank, store = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
made = collection()
for batch in batches()[rank::2]:
    made.update(**batch)
found = plain(made.compute())
if rank == 0:
    found["alone"] = metrics.deviance(family="poisson", **batches()[2]).item()
dist.barrier()
dist.destroy_process_group()
print("FOUND" + json.dumps(found))
"""
)


def test_two_ranks_score_as_one(tmp_path: Path) -> None:
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), str(tmp_path / "store")],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        for rank in (0, 1)
    ]
    try:
        ends = [rank.communicate(timeout=LIMIT) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert all(rank.returncode == 0 for rank in ranks), ends
    first, second = (json.loads(said.partition("FOUND")[2]) for said, _ in ends)
    known: dict = {}
    exec(COMMON, known)
    whole: MetricCollection = known["collection"]()
    for batch in known["batches"]():
        whole.update(**batch)
    third = known["batches"]()[2]
    assert first.pop("alone") == pytest.approx(float(metrics.deviance(family="poisson", **third)), rel=1e-12)
    for name, value in known["plain"](whole.compute()).items():
        for found in (first, second):
            columns = (value, found[name]) if name == "lift" else ({name: value}, {name: found[name]})
            assert columns[1] == {key: pytest.approx(own, rel=1e-10, abs=1e-13) for key, own in columns[0].items()}
