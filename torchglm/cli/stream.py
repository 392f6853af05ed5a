"""What a fit says at coefficients that were found by training, by passes over the rows of files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from torchglm.fitting.irls import evaluate
from torchglm.fitting.status import Status
from torchglm.inference.build import build
from torchglm.inputs import FileRows

if TYPE_CHECKING:
    from torchglm.cli.schema import Job
    from torchglm.families import Family
    from torchglm.fitting.penalties import Penalty
    from torchglm.inference.result import Result
    from torchglm.links import Link


def result_at(coef: Tensor, job: Job, rows: FileRows, family: Family, link: Link, status: Status, steps: int,
              penalty: Penalty | None) -> Result:
    """The Result of coefficients (p,) that were found by training."""
    whole = None if penalty is None else penalty.expand(rows.spec.intercept, coef.numel())
    solution = evaluate(rows.source, family, link, coef.to(torch.float64).unsqueeze(0), status, steps, penalty=whole)
    return build(solution, rows.source, family, link, torch.Size(), list(rows.spec.names),
                 constant=rows.spec.intercept, penalty=whole, dispersion=job.dispersion, tol=1e-8,
                 context=rows.context)
