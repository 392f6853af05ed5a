"""No training of a head ends in numbers that are none, whatever the data and the learning rate."""

from __future__ import annotations

import pytest
import torch
from family_cases import CASES
from several_cases import draws, families, title
from torch import Tensor

import torchglm as tg
from torchglm import GLMHead
from torchglm.families.several import Dispersed, VectorFamily

SEEDS, ROWS, TAIL = 20, 64, 1.1
LEARNED = (tg.NegativeBinomial(), tg.Tweedie(), tg.Tweedie(1.5))
PLAIN = {repr(case): case.family for cases in CASES.values() for case in cases[:1]}
PLAIN |= {repr(family): family for family in LEARNED}
# of which nobody named the link
USUAL = (tg.Hurdle("gamma"), tg.Hurdle("inverse_gaussian"), Dispersed(tg.Gamma()), Dispersed(tg.InverseGaussian()))
SEVERAL = {title(family): family for family in families()}
SEVERAL |= {f"{title(family)} by default": family for family in USUAL}
QUICK = ("Poisson()", "Gamma()", "InverseGaussian()", "Tweedie(power=estimated)", "zero_inflated poisson log")
QUICK += tuple(f"{title(family)} by default" for family in USUAL)


def pareto(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator) ** (-1 / TAIL)


def rows(name: str, generator: torch.Generator) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """x with heavy tails, and a response of heavy tails for each seed, in the support of the family."""
    x = pareto((ROWS, 3), generator) * torch.randn(ROWS, 3, generator=generator).sign()
    heavy = pareto((ROWS, SEEDS), generator)
    if name in PLAIN:
        family = PLAIN[name]
        if family.mean_upper == 1:
            return x, (heavy > 2).float(), {}
        if family.mean_lower < 0:
            return x, heavy * torch.randn(ROWS, SEEDS, generator=generator).sign(), {}
        return x, heavy.floor() if "oisson" in name or "inomial" in name else heavy, {}
    family = SEVERAL[name]
    drawn = draws(family, (ROWS, SEEDS), int(torch.randint(100, (), generator=generator)))
    y, roles = drawn["y"].float(), {key: value.float() for key, value in drawn.roles.items()}
    bounded = name.startswith(("multinomial", "ordinal")) or "beta" in name
    if not bounded:
        y = torch.where(y > 0, heavy.floor() if family.counts else heavy, y)
    return x, y, roles


def survives(name: str, rate: float, clip: bool, steps: int) -> bool:
    """Whether loss and parameters are finite after every step of Adam, for 20 responses at once."""
    generator = torch.Generator().manual_seed(0)
    x, y, roles = rows(name, generator)
    family = PLAIN[name] if name in PLAIN else SEVERAL[name]
    others = family.others if isinstance(family, VectorFamily) else ()
    head = GLMHead(3, family, out_features=SEEDS, predictors=others)
    optimizer = torch.optim.Adam(head.parameters(), lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = head.loss(x, y, reduction="none", **roles).mean(0).sum()
        loss.backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
        finite = bool(loss.isfinite()) and all(bool(part.isfinite().all()) for part in head.parameters())
        if not finite:
            return False
    return True


@pytest.mark.parametrize("name", QUICK)
def test_no_training_dies_quickly(name: str) -> None:
    assert survives(name, 1.0, False, 40)


@pytest.mark.slow
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("rate", [1e-3, 1e-2, 1e-1, 1.0])
@pytest.mark.parametrize("name", [*PLAIN, *SEVERAL])
def test_no_training_dies(name: str, rate: float, clip: bool) -> None:
    assert survives(name, rate, clip, 150)
