"""What a fit says at coefficients that were found by training, by passes over the rows of files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from torchglm.fitting.bias import Jeffreys
from torchglm.fitting.irls import evaluate
from torchglm.fitting.solve import solve
from torchglm.fitting.status import FitWarning, Status
from torchglm.inference.build import build
from torchglm.inputs import FileRows
from torchglm.model.face import Result
from torchglm.writing.warning import tell

if TYPE_CHECKING:
    from torchglm.cli.schema import Job
    from torchglm.families import Family
    from torchglm.fitting.penalties import Penalty
    from torchglm.fitting.state import Solution
    from torchglm.links import Link


def result_at(
    coef: Tensor,
    job: Job,
    rows: FileRows,
    family: Family,
    link: Link,
    status: Status,
    steps: int,
    penalty: Penalty | None,
) -> Result:
    """The Result of coefficients (p,) that were found by training."""
    whole = _whole(penalty, rows)
    solution = evaluate(rows.source, family, link, coef.to(torch.float64).unsqueeze(0), status, steps, penalty=whole)
    return _result(solution, job, rows, family, link, whole)


def optimum_from(coef: Tensor, job: Job, rows: FileRows, family: Family, link: Link, steps: int) -> Result:
    """The Result of IRLS from coefficients (p,) that were found by training; warns where it ends at no optimum."""
    assert not isinstance(job.penalty, Jeffreys)  # which training refuses
    whole = _whole(job.penalty, rows)
    options = {
        "penalty": whole,
        "tol": 1e-8,
        "max_iter": 50,
        "skip": None,
        "rank_tol": 1e-6 if job.precision == torch.float32 else 1e-12,
    }
    family, solution = solve(rows.source, family, link, coef.to(torch.float64).unsqueeze(0), options)
    status = Status(int(solution.status[0]))
    if status != Status.CONVERGED:
        tell(f"{status}: {status.explanation}", FitWarning)
    solution.n_iter.add_(steps)
    return _result(solution, job, rows, family, link, whole)


def _whole(penalty: Penalty | None, rows: FileRows) -> Penalty | None:
    """A penalty with a strength for each coefficient."""
    constants = rows.plan.free if rows.plan is not None else rows.spec.ones
    return None if penalty is None else penalty.named(rows.names).expand(constants, len(rows.names))


def _result(
    solution: Solution, job: Job, rows: FileRows, family: Family, link: Link, penalty: Penalty | None
) -> Result:
    fitted = build(
        solution,
        rows.source,
        family,
        link,
        torch.Size(),
        rows.names,
        constant=rows.spec.intercept,
        penalty=penalty,
        dispersion=job.dispersion,
        tol=1e-8,
        context=rows.context,
        plan=rows.plan,
    )
    return Result.of(fitted)
