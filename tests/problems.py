"""Simulated problems away from easy points: y is not mu, weights are not 1, offsets are not 0."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

import torchglm
from torchglm import Family, Result

MODELS: dict[str, tuple[str, str, dict[str, float]]] = {
    "gaussian identity": ("gaussian", "identity", {}),
    "gaussian log": ("gaussian", "log", {}),
    "bernoulli logit": ("bernoulli", "logit", {}),
    "bernoulli cauchit": ("bernoulli", "cauchit", {}),
    "binomial probit": ("binomial", "probit", {}),
    "binomial cloglog": ("binomial", "cloglog", {}),
    "poisson log": ("poisson", "log", {}),
    "poisson sqrt": ("poisson", "sqrt", {}),
    "gamma inverse": ("gamma", "inverse", {}),
    "gamma log": ("gamma", "log", {}),
    "exponential log": ("exponential", "log", {}),
    "inverse gaussian log": ("inverse_gaussian", "log", {}),
    "inverse gaussian inverse squared": ("inverse_gaussian", "inverse_squared", {}),
    "negative binomial log": ("negative_binomial", "log", {"alpha": 0.7}),
    "tweedie log": ("tweedie", "log", {"power": 1.5}),
}
TRIALS = 8.0


@dataclass(frozen=True)
class Problem:
    """`B` models of `n` rows: x (B, n, p), the others (B, n)."""

    family: Family
    link: str
    x: Tensor
    y: Tensor
    rows: dict[str, Tensor] = field(default_factory=dict)

    def one(self, model: int) -> Problem:
        """A model of the batch by itself."""
        return replace(self, x=self.x[model], y=self.y[model], rows={k: v[model] for k, v in self.rows.items()})

    def take(self, rows: Any) -> Problem:
        """Some of the rows."""
        return replace(
            self, x=self.x[..., rows, :], y=self.y[..., rows], rows={k: v[..., rows] for k, v in self.rows.items()}
        )

    def change(self, x: Tensor | None = None, y: Tensor | None = None, **rows: Tensor) -> Problem:
        return replace(self, x=self.x if x is None else x, y=self.y if y is None else y, rows=self.rows | rows)

    def fit(self, **options: Any) -> Result:
        return torchglm.fit(
            self.x,
            self.y,
            **{"family": self.family, "link": self.link, "tol": 1e-12, "max_iter": 100} | self.rows | options,
        )


def problem(model: str, models: int = 4, n: int = 40, p: int = 3, seed: int = 0) -> Problem:
    """Data drawn from a model whose linear predictors lie in (0.3, 2.1), where every link is defined."""
    name, link, arguments = MODELS[model]
    family = torchglm.families.get(name, **arguments)
    g = torch.Generator().manual_seed(1000 + seed)
    x = torch.rand(models, n, p, generator=g, dtype=torch.float64) * 2 - 1
    slopes = torch.tensor([0.4, -0.2, 0.1], dtype=torch.float64)[:p]
    offset = torch.rand(models, n, generator=g, dtype=torch.float64) * 0.4 - 0.2
    mu = torchglm.links.get(link)(1.2 + x @ slopes + offset)
    if name in ("bernoulli", "binomial"):
        mu = 0.5 * mu  # away from all ones
    rows = {"offset": offset, "weights": torch.rand(models, n, generator=g, dtype=torch.float64) * 1.5 + 0.5}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name == "binomial":
            rows["trials"] = torch.full_like(mu, TRIALS)
            y = torch.distributions.Binomial(TRIALS, mu).sample()
        else:
            y = family.distribution(mu, torch.tensor(0.3, dtype=torch.float64)).sample()
    if name in ("gamma", "inverse_gaussian", "exponential"):
        y = y.clamp(min=1e-3)
    return Problem(family, link, x, y.to(torch.float64), rows)


def close(got: Tensor, want: Tensor, rtol: float = 1e-10, scale: Tensor | float = 0.0) -> None:
    """Equal to `rtol` of the larger of the size and `scale`; NaN in the same places."""
    assert got.shape == want.shape
    assert torch.equal(torch.isnan(got), torch.isnan(want))
    size = torch.maximum(want.abs(), torch.as_tensor(scale, dtype=want.dtype))
    error = ((got - want).abs() / size.clamp(min=1e-300)).nan_to_num()
    assert float(error.max() if error.numel() else 0.0) <= rtol, f"relative error {float(error.max()):.1e}"


def same(got: Result, want: Result, rtol: float = 1e-9) -> None:
    """Two fits that must say the same of the same data."""
    close(got.coef, want.coef, rtol, want.std_err.nan_to_num(1.0))
    close(got.std_err, want.std_err, rtol)
    for name in ("deviance", "dispersion", "pearson_chi2", "null_deviance", "loglik", "df_resid", "nobs", "rank"):
        close(getattr(got, name), getattr(want, name), rtol, 1e-8)
    assert got.status == want.status
