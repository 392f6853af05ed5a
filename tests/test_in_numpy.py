"""The formulas in numpy say what those of the family and the link say in torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from torchglm.families.base import Family
from torchglm.families.in_numpy import PAIRS, OfFamily, formulas_of
from torchglm.links import Link

EXACT = {"rtol": 1e-13, "atol": 1e-13}


def responses(family: Family) -> Tensor:
    made = torch.Generator().manual_seed(3)
    u = torch.rand(1, 400, generator=made, dtype=torch.float64)
    known = {
        "poisson": (8 * u).floor(),
        "gamma": 1e-3 + 5 * u,
        "gaussian": 4 * u - 2,
    }
    return known.get(family.name, (u < 0.5).double())


@pytest.mark.parametrize("pair", PAIRS)
def test_they_are_those_of_the_family(pair: tuple[type[Family], type[Link]]) -> None:
    family, link = pair[0](), pair[1]()
    y = responses(family)
    eta = torch.linspace(-30, 30, 400, dtype=torch.float64)[torch.randperm(400)]
    mu, own, asked = link(eta[None]), formulas_of(y, family, link), OfFamily(y, family, link)
    assert not isinstance(own, OfFamily)
    for weight in (None, np.linspace(0.5, 3, 400)):
        for offset in (None, np.linspace(-300, 4, 400)):
            np.testing.assert_allclose(own.start(weight, offset), asked.start(weight, offset), **EXACT)
    np.testing.assert_allclose(own.saturated(), asked.saturated(), **EXACT)
    for observed in (False, True):
        got, want = own.values(eta.numpy(), observed), asked.values(eta.numpy(), observed)
        np.testing.assert_allclose(got.score, want.score, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(got.loss, want.loss, rtol=1e-12, atol=1e-13)
        known = np.ones(400) if got.information is None else got.information
        np.testing.assert_allclose(known, want.information, rtol=1e-12, atol=1e-13)
    ends = own.ends(eta.numpy())
    if ends is None:
        return
    half, size = family.cheap(y, eta[None], mu, link)
    square = (y - mu).square() / family.variance(mu)
    apart = (square[0] < 1e13).numpy() & (eta.abs() < 15).numpy()  # where 1 - mu is known
    np.testing.assert_allclose(ends.half, half[0], rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(ends.square[apart], square[0][apart], rtol=1e-9)
    assert (ends.size is None) == (size is None)
    if size is not None:
        np.testing.assert_allclose(ends.size, size[0], **EXACT)
    information = family.score_and_weight(y, eta[None], mu, link, False)[1][0]
    np.testing.assert_allclose(np.ones(400) if ends.information is None else ends.information, information, rtol=1e-12)


def test_shares_go_by_the_formulas_of_the_family() -> None:
    pairs = [pair for pair in PAIRS if pair[1].name == "logit"]
    assert pairs
    for family, link in pairs:
        assert isinstance(formulas_of(torch.tensor([[0.0, 0.25, 1.0]]).double(), family(), link()), OfFamily)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("far", [-800.0, 800.0])
def test_a_mean_out_of_range_is_no_number(pair: tuple[type[Family], type[Link]], far: float) -> None:
    family, link = pair[0](), pair[1]()
    y = responses(family)
    eta = np.full(400, far)
    with np.errstate(all="ignore"):
        ends = formulas_of(y, family, link).ends(eta)
    if ends is not None and not bool(family.valid_mean(link(torch.from_numpy(eta))).all()):
        assert not np.isfinite(ends.half.sum() + ends.square.sum())
