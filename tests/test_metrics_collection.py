"""In a MetricCollection each metric says what it says alone, whatever the first batch holds."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchmetrics import MetricCollection

from torchglm import families, links
from torchglm.metrics import CRPS, D2, NLL, CalibrationError, Deviance, Gini, LiftTable, PearsonDispersion
from torchglm.metrics.base import FamilyMetric

PAIRS: dict[str, Callable[[], tuple[FamilyMetric, ...]]] = {
    "family": lambda: (Deviance("poisson"), Deviance("gaussian")),
    "alpha": lambda: tuple(Deviance(families.get("negative_binomial", alpha=a)) for a in (0.5, 2.0)),
    "power": lambda: tuple(Deviance(families.get("tweedie", power=p)) for p in (1.2, 1.5)),
    "fixed power": lambda: tuple(Deviance(families.get("tweedie", power=p)) for p in (1.0, 0.0)),
    "dispersion": lambda: (NLL("gaussian", dispersion=1.0), NLL("gaussian", dispersion=4.0)),
    "tensor dispersion": lambda: tuple(CRPS("gaussian", dispersion=torch.tensor(v)) for v in (1.0, 4.0)),
    "null": lambda: (D2("gaussian"), D2("gaussian", null=0.5)),
    "link of offsets": lambda: (D2("gaussian"), D2("gaussian", "log")),
    "link of rates": lambda: (Gini("poisson", "log"), Gini("poisson", "identity")),
    "link power": lambda: tuple(D2("gaussian", links.Power(p), null=3.0) for p in (2.0, 3.0)),
}


def rows(n: int = 200) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(2)
    mu, v = 0.5 + 2 * torch.rand(2, n, generator=rng, dtype=torch.float64)
    return {"mu": mu, "y": (mu * v).floor(), "offset": v.log()}


def first_batches() -> dict[str, dict[str, Tensor]]:
    """Batches after which sums of different formulas may hold the same numbers."""
    some = rows(8)
    return {
        "weight 0": some | {"weights": torch.zeros(8)},
        "empty": {name: value[:0] for name, value in some.items()},
        "exact": some | {"y": some["mu"]},
    }


@pytest.mark.parametrize("first", first_batches())
@pytest.mark.parametrize("pair", PAIRS)
def test_metrics_of_another_model_never_share_their_sums(pair: str, first: str) -> None:
    alone = PAIRS[pair]()
    together = MetricCollection(dict(zip("ab", copy.deepcopy(alone), strict=True)))
    for batch in (first_batches()[first], rows()):
        together.update(**batch)
        for metric in alone:
            metric.update(**batch)
    values = [metric.compute() for metric in alone]
    assert values[0] != values[1]
    assert together.compute() == dict(zip("ab", values, strict=True))
    assert len(together.compute_groups) == 2


def test_metrics_of_the_same_sums_are_updated_once() -> None:
    together = MetricCollection(
        {
            "gini": Gini("poisson"),
            "lift": LiftTable("poisson", bins=5),
            "error": CalibrationError("poisson"),
            "deviance": Deviance("poisson"),
            "phi": PearsonDispersion("poisson"),
            "phi_3": PearsonDispersion("poisson", n_coef=3),
        }
    )
    for batch in (rows(50), rows()):
        together.update(**batch)
    groups = sorted(sorted(names) for names in together.compute_groups.values())
    assert groups == [["deviance"], ["error", "gini", "lift"], ["phi", "phi_3"]]
    found = together.compute()
    assert found["phi"] / found["phi_3"] == pytest.approx((250 - 3) / 250)


def test_metrics_of_another_model_do_not_merge() -> None:
    with pytest.raises(ValueError, match="Expected state variable deviance_poisson_log_"):
        Deviance("poisson").merge_state(Deviance("gaussian"))


def test_saved_sums_go_to_a_metric_of_the_same_model() -> None:
    first, second, other = Deviance("poisson"), Deviance("poisson"), Deviance("gaussian")
    first.update(**rows())
    first.persistent(True)
    second.load_state_dict(pickle.loads(pickle.dumps(first.state_dict())))
    assert second.sums.equal(first.sums)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        other.load_state_dict(first.state_dict())


def test_names_of_sums_are_the_same_in_every_process() -> None:
    make = (
        "import torch; from torchglm import families, metrics; "
        "m = metrics.NLL(families.get('tweedie', power=1.5), torch.tensor(2.0)); "
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1"}
    found = subprocess.run(
        [sys.executable, "-c", make + "print(*m.metric_state)"],
        env=environment,
        text=True,
        capture_output=True,
        timeout=120,
        check=True,
    )
    own = NLL(families.get("tweedie", power=1.5), torch.tensor(2.0))
    assert found.stdout.split() == list(own.metric_state)
