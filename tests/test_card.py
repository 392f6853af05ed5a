"""On a device a search waits for one copy a pass, and no tensor of it meets one of the CPU.

Seen on one that is not there: see `card.py`. The tests marked `cuda` say it on one that is.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from card import Card, card
from torch import Tensor

import torchglm
from torchglm import families, links
from torchglm.families import Family
from torchglm.fitting import irls as door
from torchglm.fitting.irls import irls
from torchglm.fitting.state import Solution
from torchglm.rows.rows import Rows

DRAWN = {
    "poisson": lambda eta: torch.poisson(eta.exp()),
    "negative_binomial": lambda eta: torch.poisson(eta.exp() * (0.5 + torch.rand_like(eta))),
    "bernoulli": lambda eta: torch.bernoulli(eta.sigmoid()),
    "gaussian": lambda eta: eta + torch.randn_like(eta),
    "gamma": lambda eta: eta.exp() * (0.5 + torch.rand_like(eta)),
}
OPEN = [("poisson", "log"), ("bernoulli", "logit"), ("bernoulli", "probit"), ("gaussian", "identity")]
OPEN += [("gamma", "log"), ("negative_binomial", "log")]


def of(name: str) -> Family:
    return torchglm.NegativeBinomial(alpha=0.5) if name == "negative_binomial" else families.get(name)


def rows_of(name: str, models: int = 1, n: int = 300, p: int = 4, own: bool = True, weights: bool = False) -> Rows:
    torch.manual_seed(5)
    x = torch.randn(*([models] if own and models > 1 else []), n, p, dtype=torch.float64)
    y = DRAWN[name]((0.3 * x[..., 0] + 0.2).expand(models, n))
    one = torch.ones(1, 1, dtype=torch.float64).expand(models, n)
    weight = torch.rand(models, n, dtype=torch.float64) * (torch.arange(n) % 5 > 0) if weights else one
    return Rows(x, y, weight, 0 * one, None, True)


def there(rows: Rows, family: Family, link: str, **options: Any) -> tuple[Solution, Counter[str], int]:
    """The fit on the device, what it waited for, and its passes."""
    passes: list[object] = []

    def counted(*given: Any) -> Any:
        passes.append(None)
        return fold(*given)

    fold = door.fold
    with card() as (seen, put), pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr("torchglm.fitting.irls.fold", counted)
        patch.setattr("torchglm.fitting.fused.ready", lambda rows: False)  # there is nothing to compile a kernel for
        moved = rows._replace(x=put(rows.x), y=put(rows.y), weight=put(rows.weight), offset=put(rows.offset))
        member = family.with_parameters({})
        for key, value in list(member.named_parameters()):
            delattr(member, key)
            setattr(member, key, put(value.detach()))
        given = {k: put(v) if isinstance(v, Tensor) else v for k, v in options.items()}
        found = irls(moved, member, links.get(link), **given)
    return found, Counter(seen.waits), len(passes)


def same(found: Solution, right: Solution) -> None:
    for name in ("coef", "status", "keep"):
        value = getattr(found, name)
        assert isinstance(value, Card), name
        torch.testing.assert_close(value.held, getattr(right, name), rtol=1e-12, atol=1e-13)
    for name in ("objective", "pearson", "weight", "count"):
        torch.testing.assert_close(getattr(found.moments, name).held, getattr(right.moments, name))


@pytest.mark.parametrize("given", [{}, {"models": 3, "weights": True}, {"models": 4, "own": False}])
@pytest.mark.parametrize(("name", "link"), OPEN)
def test_a_pass_waits_for_one_copy(name: str, link: str, given: dict[str, Any]) -> None:
    rows, family = rows_of(name, **given), of(name)
    found, waits, passes = there(rows, family, link)
    same(found, irls(rows, family, links.get(link)))
    assert waits["copy"] == passes
    assert sum(waits.values()) <= passes + 1  # whether any of several models is asked for the observed information


def test_a_large_fit_waits_no_more() -> None:
    rows, family = rows_of("poisson", n=50_000, p=30), of("poisson")
    found, waits, passes = there(rows, family, "log")
    same(found, irls(rows, family, links.get("log")))
    assert waits == {"copy": passes}


def test_what_a_search_is_given_goes_where_it_computes() -> None:
    rows, family = rows_of("poisson", models=3), of("poisson")
    for options in ({"start": torch.zeros(3, 5, dtype=torch.float64)}, {"skip": torch.tensor([False, True, False])}):
        found, waits, passes = there(rows, family, "log", **options)
        right = irls(rows, family, links.get("log"), **options)
        torch.testing.assert_close(found.coef.held, right.coef, rtol=1e-12, atol=1e-13)
        assert waits["copy"] <= passes + 1


@pytest.mark.parametrize("given", [{}, {"models": 3, "weights": True}])
def test_searches_beside_an_edge_stay_with_the_rows(given: dict[str, Any]) -> None:
    rows, family = rows_of("gamma", **given), of("gamma")
    found, waits, _ = there(rows, family, "inverse")
    same(found, irls(rows, family, links.get("inverse")))
    assert waits["copy"] == 0


def test_a_whole_fit_waits_little() -> None:
    torch.manual_seed(5)
    x = torch.randn(300, 4, dtype=torch.float64)
    y = torch.poisson((0.3 * x[:, 0]).exp())
    right = torchglm.fit(x, y, family="poisson")
    with card() as (seen, put):
        found = torchglm.fit(put(x), put(y), family="poisson")
        errors = found.std_err
        coef = found.coef
        assert len(seen.waits) <= 16  # the looks at the data among them
    assert isinstance(coef, Card) and isinstance(errors, Card)
    torch.testing.assert_close(coef.held, right.coef, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(errors.held, right.std_err, rtol=1e-8, atol=0.0)


def test_the_device_that_is_not_there_keeps_to_itself() -> None:
    one = torch.ones(3)
    with card() as (seen, put):
        far = put(one)
        assert far.is_cuda and far.device.type == "meta" and isinstance(torch.zeros(2, device=far.device), Card)
        with pytest.raises(RuntimeError, match="on the card and on the CPU"):
            far + one
        assert float((2 * far).sum()) == 6.0 and (far.to("cpu") == one).all()
    assert seen.waits == ["_local_scalar_dense", "copy"]
