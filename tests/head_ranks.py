"""Two processes of gloo that wrap a head of every family by DDP and FSDP: gradients are those of both halves together.

python tests/head_ranks.py ddp|fsdp: prints the names of the families whose gradients are others, then OK.
"""

from __future__ import annotations

import copy
import os
import socket
import sys

import torch
from test_head_matrix import PLAIN, SEVERAL, WithRoles, made
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

HALF = slice(0, 3), slice(3, 6)


def gradients(whole: WithRoles, part: slice, x: Tensor, y: Tensor, roles: dict[str, Tensor]) -> dict[str, Tensor]:
    own = copy.deepcopy(whole)
    own(x[part], y[part], {name: value[part] for name, value in roles.items()}).backward()
    return {name: value.grad for name, value in own.named_parameters() if value.grad is not None}


def wrapped(whole: WithRoles, kind: str) -> nn.Module:
    if kind == "ddp":
        return DistributedDataParallel(whole, find_unused_parameters=True)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    return fully_shard(whole, mesh=init_device_mesh("cpu", (2,)))


def work(rank: int, kind: str, port: int) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    apart = []
    for name in [*PLAIN, *SEVERAL]:
        head, x, y, roles = made(name, torch.float64)
        whole = WithRoles(head)
        both = [gradients(whole, part, x, y, roles) for part in HALF]
        module, mine = wrapped(copy.deepcopy(whole), kind), HALF[rank]
        module(x[mine], y[mine], {key: value[mine] for key, value in roles.items()}).backward()
        for key, value in module.named_parameters():
            key = key.removeprefix("module.")
            if value.grad is None or key not in both[0]:
                continue
            found = value.grad.full_tensor() if hasattr(value.grad, "full_tensor") else value.grad
            want = (both[0][key] + both[1][key]) / 2
            if not torch.allclose(found, want, rtol=1e-9, atol=1e-11):
                apart.append(name)
    dist.barrier()
    dist.destroy_process_group()
    if rank == 0:
        print("\n".join([*apart, "OK"]))


if __name__ == "__main__":
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port = place.getsockname()[1]
    torch.multiprocessing.spawn(work, (sys.argv[1], port), 2)
