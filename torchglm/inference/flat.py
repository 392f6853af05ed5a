"""Flat: the tensors that a fit leaves, over its models in one row."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from torchglm.fitting.status import Status, converged
from torchglm.rows.grams import Gram, Layout
from torchglm.rows.inverses import Root

MATRICES = ("root", "gram")
# how many dimensions of p columns stand behind that of the models
DIMENSIONS = {
    "coef": 1,
    "keep": 1,
    "observed": 2,
    "covariance": 2,
    "edf": 1,
    "unknown": 1,
    "infinite": 1,
    "reference": 1,
    "effect_df": 1,
}
EFFECTS = ("modes", "effect_cov", "effect_spread", "effect_psi", "effect_psi_cov", "effect_units", "effect_shares")
FREE = {"counts", "strength", "multiplier", "absorbed", "joined", *EFFECTS}  # of any number for each model
COUNTS = ("apart_rows", "apart_levels")  # whole numbers or not
# the others are float64
KINDS = {"keep": torch.bool, "unknown": torch.bool, "status": torch.int64, "n_iter": torch.int64, "joined": torch.int64}


@dataclass(frozen=True, eq=False)
class Flat:
    """The tensors of a fit over its flat models `(B)`, all batch dimensions in one.

    Dropped columns are zero in `coef` (B, p) and False in `keep` (B, p); `root root'` is the inverse of the information
    plus the penalty's quadratic part, `gram` the information alone, `observed` (B, p, p) the inverse of the observed
    information where times are censored, and `covariance` (B, p, p) the one that stands in place of the model's.
    `null_deviance`, `loglik` and `counts` (B, C), the rows of each class, are None until they are asked for. Of a
    penalised fit `edf` (B, p) are the effective degrees of freedom; `unknown` (B, p) marks coefficients that have no
    standard error. Where separated levels were set apart, `infinite` (B, p) is the direction in which coefficients run
    to infinity: it moves `apart_rows` (B) rows of `apart_levels` (B) levels and no others. Of a
    `Quadratic` penalty `strength` (B, J) is that of its blocks, and where it is estimated `criterion` (B) is the least
    negative log marginal likelihood. `shape_error` (B) is the standard error of the raw shape that was estimated. With
    random effects `modes` (B, R) are theirs, `effect_cov` (B, C) the entries of
    the covariances of groupings, `effect_spread` (B, S) those of the modes of each level given the data; `effect_psi`
    (B, E) are the parameters of the roots of the covariances over the dispersion, in `effect_units` (B, U) of the
    effects, and `effect_psi_cov` (B, E E) their covariance; `effect_shares` (B, 3) are the variance of the fixed
    part of the linear predictor over the rows, the mean variance of the random part, and the mean response; `effect_df`
    (B, p) are the degrees of freedom of the fixed effects of a Gaussian fit.
    """

    coef: Tensor
    keep: Tensor
    root: Root
    gram: Gram
    deviance: Tensor
    pearson: Tensor
    dispersion: Tensor
    nobs: Tensor
    rank: Tensor
    status: Tensor
    n_iter: Tensor
    observed: Tensor | None = None
    covariance: Tensor | None = None
    reference: Tensor | None = None  # (B, p) the df of the coefficients where `covariance` brings them
    null_deviance: Tensor | None = None
    loglik: Tensor | None = None
    counts: Tensor | None = None
    edf: Tensor | None = None
    unknown: Tensor | None = None
    infinite: Tensor | None = None
    apart_rows: Tensor | None = None
    apart_levels: Tensor | None = None
    strength: Tensor | None = None
    criterion: Tensor | None = None
    shape_error: Tensor | None = None
    absorbed: Tensor | None = None  # (B, L) the effects of absorbed factors, those of one after the other
    joined: Tensor | None = None  # (B, F L) the connected component of each with the largest factor, see `Crossed`
    modes: Tensor | None = None
    effect_cov: Tensor | None = None
    effect_spread: Tensor | None = None
    effect_psi: Tensor | None = None
    effect_psi_cov: Tensor | None = None
    effect_units: Tensor | None = None
    effect_shares: Tensor | None = None
    effect_df: Tensor | None = None  # (B, p)
    kkt: Tensor | None = None  # (B,) the certificate of a penalty with kinks, see `certified`
    multiplier: Tensor | None = None  # (B, c) those of constraints, 0 for one that does not bind

    def take(self, models: Tensor) -> Flat:
        """Some of the models."""
        return Flat(**{name: value[models] for name, value in self._known().items()})

    def _known(self) -> dict[str, Any]:
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in found.items() if value is not None}

    def tensors(self) -> dict[str, Tensor]:
        """The tensors there are by name, those of `root` and `gram` as `root.matrix` and the like."""
        kept = {f"{name}.{part}": tensor for name in MATRICES for part, tensor in getattr(self, name).parts.items()}
        return {name: value for name, value in self._known().items() if name not in MATRICES} | kept

    @staticmethod
    def of_tensors(tensors: dict[str, Tensor], layout: Layout) -> Flat:
        """From tensors by name and the layout of the Gram. Raises `TypeError` for other names, shapes or dtypes."""
        models, p = tensors["status"].shape[0], layout.columns
        blank: dict[str, Gram | Root] = {"gram": layout.gram(models), "root": layout.root(models)}
        want: dict[str, tuple[int, ...]] = {f.name: (models,) for f in fields(Flat) if f.name not in MATRICES}
        want |= {name: (models, *([p] * dims)) for name, dims in DIMENSIONS.items()}
        want |= {f"{name}.{part}": value.shape for name in MATRICES for part, value in blank[name].parts.items()}
        for name in FREE & tensors.keys():  # of however many classes, blocks
            want[name] = (models, *tensors[name].shape[1:2])
        optional = {f.name for f in fields(Flat) if f.default is None}
        missing = [name for name in want if name not in tensors and name not in optional]
        unknown = [name for name in tensors if name not in want]
        if missing or unknown:
            raise TypeError(f"{(missing + unknown)[0]} is {'missing' if missing else 'no tensor of a fit'}")
        for name, value in tensors.items():
            dtype = KINDS.get(name, torch.float64)
            counts = name in COUNTS and value.dtype == torch.int64
            if value.shape != want[name] or (value.dtype != dtype and not counts):
                raise TypeError(f"{name} is {value.dtype} {tuple(value.shape)}, expected {dtype} {tuple(want[name])}")
        numbers = torch.stack([tensors["nobs"], tensors["rank"], tensors["n_iter"].double()]).nan_to_num(posinf=-1)
        if not bool(((numbers >= 0) & (numbers < 2**53)).all()):
            raise TypeError("a count is below 0 or has no end")
        if not set(tensors["status"].tolist()) <= set(map(int, Status)):
            raise TypeError("status holds a number that is none")
        held: dict[str, Any] = {name: value for name, value in tensors.items() if "." not in name}
        for name, kind in blank.items():
            held[name] = kind.of({part: tensors[f"{name}.{part}"] for part in kind.parts})
        return Flat(**held)

    @property
    def failed(self) -> Tensor:
        """(B) True where the numbers became infinite or NaN and nothing was fitted."""
        return self.status == int(Status.NOT_FINITE)

    @property
    def converged(self) -> Tensor:
        """(B) True where the maximum was found, see `Status.converged`."""
        found = converged(self.status)
        return found if self.modes is None else found | (self.status == int(Status.BOUNDARY))

    @property
    def empty(self) -> Tensor:
        """(B, p) True for the dropped columns that are zero in every row, such as those of levels without rows."""
        return ~self.keep & (self.gram.diagonal() == 0)

    @property
    def known(self) -> Tensor:
        """(B, p) True for the coefficients that have a standard error."""
        return self.keep if self.unknown is None else self.keep & ~self.unknown

    @property
    def determined(self) -> Tensor:
        """(B, p) True for the known coefficients and those that constraints fix beside them: with no variance."""
        if self.multiplier is None:
            return self.known
        return self.known | self.keep & self.known.any(-1, keepdim=True)

    @property
    def df(self) -> Tensor:
        """(B) the rank, or of a penalised fit the effective degrees of freedom."""
        return self.rank if self.edf is None else self.edf.sum(-1)

    @property
    def df_resid(self) -> Tensor:
        """(B) `nobs - df`, without the rows that are told apart and the parameters that fit them."""
        if self.apart_rows is None or self.apart_levels is None:
            return self.nobs - self.df
        return self.nobs - self.df - self.apart_rows + self.apart_levels
