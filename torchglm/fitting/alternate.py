"""Coefficients and shape parameters in turn, each by maximum likelihood given the other."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.fitting.irls import irls
from torchglm.fitting.rows import Rows
from torchglm.fitting.search import Solution
from torchglm.fitting.shape import Fitted, alpha_ml, power_ml
from torchglm.fitting.status import Status
from torchglm.links import Link

ROUNDS = 100
SETTLED = 1e-9  # relative change of a shape parameter that ends the alternation


def solve(source: Iterable[Rows], family: Family, link: Link, start: "Tensor | None",
          options: dict[str, Any]) -> tuple[Family, Solution]:
    """The coefficients, and in turn with them the shape parameter the family estimates, if any.

    `options` are those of `irls`. A model whose shape ends on its limit has the status BOUNDARY.
    """
    solution = irls(source, family, link, start=start, **options)
    if not family.estimates_shape:
        return family, solution
    name = next(iter(dict(family.named_parameters())))
    value = torch.ones_like(solution.moments.objective)
    value, phi = (value, None) if name == "log_alpha" else (1.5 * value, value.clone())
    limit, raw = torch.zeros_like(value, dtype=torch.bool), value
    for _ in range(ROUNDS):
        fitted = Fitted(source, link, solution.coef)
        if phi is None:
            new, limit = alpha_ml(fitted, family, value)
            raw = new.log()
        else:
            new, phi, limit = power_ml(fitted, family, value, phi)
            raw = (new - 1).logit()
        moved = ((new - value).abs() / (new + 1e-3 * value + 1e-300)).nan_to_num()
        value, family = new, family.with_parameters({name: raw})
        again = irls(source, family, link, start=solution.coef, **options)
        solution = replace(again, n_iter=solution.n_iter + again.n_iter)
        if bool((moved < SETTLED).all()):
            break
    solution.status[limit & (solution.status == int(Status.CONVERGED))] = int(Status.BOUNDARY)
    return family.with_parameters({name: raw[0]}) if raw.numel() == 1 else family, solution
