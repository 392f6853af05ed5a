"""Compile the kernel for a card that is not here, and count what it is made of; `test_fused.py` runs it.

`python compiled_pass.py '[["poisson-log", 64, false, 90, "float32"]]'`: the pair ("every": each of the table), the
columns, whether products are single, the architecture of the card and the dtype of the design.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from torchglm.families.on_card import PAIRS
from torchglm.fitting import fused
from torchglm.fitting.fused_kernel import fused_pass

NUMBERS = {"n": "i32", "columns": "i32", "lower": "fp32", "upper": "fp32"}
WRITTEN = ("coef", "observed", "shape", "gram", "score", "sums")


def assembly(formulas: Any, width: int, single: bool, arch: int, dtype: torch.dtype) -> str:
    """What the compiler makes of the kernel for a pair on so wide a design, for a card of that architecture."""
    constants = {"FORMULAS": formulas, "CLOSED": False, "REPEATED": True, "FIRST": 1, "CURVED": True}
    constants |= {"SINGLE": single, "P": width, "ROWS": fused.TILE // width, "SUMMED": fused.SUMMED}
    data = {"x": "*fp32" if dtype == torch.float32 else "*fp64"} | dict.fromkeys(("y", "weight", "offset"), "*fp64")
    signature = {}
    for name in fused_pass.arg_names:
        known = data | NUMBERS | dict.fromkeys(("repeats", *WRITTEN), "*fp64") | dict.fromkeys(constants, "constexpr")
        signature[name] = known.get(name, "i32")  # strides
    made = compile(ASTSource(fused_pass, signature, constants), target=GPUTarget("cuda", arch, 32))
    return str(made.asm["ptx"])


if __name__ == "__main__":
    for wanted, width, single, arch, dtype in json.loads(sys.argv[1]):
        for (family, link), known in PAIRS.items():
            pair = f"{family.name}-{link.name}"
            if wanted in (pair, "every"):
                text = assembly(known.formulas, width, single, arch, getattr(torch, dtype))
                counts = {name: text.count(name) for name in (".tf32", "fma.rn.f64", "fma.rn.f32", "mma.sync")}
                print(json.dumps([pair, counts]))
