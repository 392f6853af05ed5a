"""Every family of several predictors comes back from JSON and from a saved fit, with the families and links within."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from several_cases import draws, families, title
from torch import Tensor

import torchglm as tg
from torchglm import links
from torchglm.families import several
from torchglm.families.several import VectorFamily
from torchglm.model import codec

every = pytest.mark.parametrize("family", families(), ids=title)


def design(n: int) -> Tensor:
    return 2 * torch.rand(n, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64) - 1


def alike(one: object, other: object) -> None:
    assert type(one) is type(other) and repr(one) == repr(other)
    if isinstance(one, VectorFamily) and isinstance(other, VectorFamily):
        assert one.predictors == other.predictors and one.arguments() == other.arguments()
        for mine, theirs in zip(one.parts().values(), other.parts().values(), strict=True):
            alike(mine, theirs)


@every
def test_a_family_comes_back_from_json(family: VectorFamily) -> None:
    assert codec.ours(family)
    facts, tensors = codec.encode(family, links.Log())
    found, _ = codec.decode(json.loads(json.dumps(facts)), tensors, "file")
    alike(found, family)


@every
def test_a_fit_comes_back_and_predicts(family: VectorFamily, tmp_path: Path) -> None:
    x, drawn = design(120), draws(family, (120,))
    others = {name: x[..., :1] for name in family.others}
    result = tg.fit(x, drawn["y"], family=family, predictors=others, **drawn.roles)
    result.save(tmp_path)
    loaded = tg.load(tmp_path)
    alike(loaded.family, result.family)
    assert torch.equal(loaded.predict(x, predictors=others), result.predict(x, predictors=others))
    torch.testing.assert_close(loaded.covariance(), result.covariance(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("family", families(), ids=title)
def test_what_has_a_part_of_ones_own_is_not_taken_for_torchglms(family: VectorFamily) -> None:
    class Doubled(links.Log):
        name = "doubled"

        def inverse(self, eta: Tensor) -> Tensor:
            return torch.exp(2 * eta)

        def link(self, mu: Tensor) -> Tensor:
            return mu.log() / 2

    if not family.parts():
        return
    own = family.linked(Doubled()) if family.default_link.name != "identity" else None
    assert own is None or not codec.ours(own)


def test_names_make_families() -> None:
    for name, kind in several.BY_NAME.items():
        inner = {"family": "poisson"} if name in ("zero_inflated", "hurdle") else {}
        assert type(tg.families.get(name, **inner)) is kind
    with pytest.raises(ValueError, match="unknown family 'weibul' .did you mean 'weibull'.*Known: .*weibull"):
        tg.families.get("weibul")
    with pytest.raises(ValueError, match="no family 'poison' can stand within another. Known: .*poisson"):
        tg.ZeroInflated("poison")
    with pytest.raises(ValueError, match="needs a family of counts.* got gamma"):
        tg.ZeroInflated("gamma")
    with pytest.raises(ValueError, match="or one of amounts above 0, got gaussian"):
        tg.Hurdle("gaussian")
