"""The schema of a config: every field of `Job` is a key in YAML and a flag, checked by its type."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

import torch

from torchglm.cli.elastic_net import ChosenNet
from torchglm.cli.errors import Covariance
from torchglm.design.sources import columns_read
from torchglm.families import Family
from torchglm.fitting.bias import Jeffreys
from torchglm.fitting.penalties import Penalty
from torchglm.inputs import ROLES
from torchglm.links import Link
from torchglm.model.face import fit
from torchglm.model.options import MOST_STEPS, check_dispersion
from torchglm.model.path_fit import path
from torchglm.tables.files import read_files
from torchglm.tables.text_format import TextFormat

if TYPE_CHECKING:
    from torchglm.model.face import Result
    from torchglm.store.checkpoints import Checkpoint


def _refuse_null(config: Any, above: str = "") -> None:
    """Raise ValueError for a key whose value is null and may not be."""
    for one in fields(config):
        if getattr(config, one.name) is None and "None" not in str(one.type):
            raise ValueError(f"{above}{one.name} is null. Give it a value, or leave the key out for its default.")


@dataclass
class DataConfig:
    """Where the rows are and what their columns mean.

    Args:
        path: .csv or .parquet file, a glob, a folder, or a list of these
        formula: response ~ terms, such as "y ~ age + C(region)"
        predictors: right sides of the other parameters of the law, such as {dispersion: ~ region}
        weights: column of prior weights; the variance is divided by them
        freq: column that counts how often a row occurred
        offset: column added to the linear predictor
        exposure: column of exposures; its logarithm is added to the linear predictor
        trials: column of binomial trials; the response counts successes
        event: column, 1 where the event was seen, 0 where the time is censored
        until: column, the end of the interval that begins with the response and holds the time; infinity for none
        by: column or columns; one model per group, all fitted in one batched call
        missing: rows with missing values are an error, or drop leaves them out
        unseen: a level never seen is an error when predicting, or counts as the reference level or as "other"
        rare: levels with fewer rows are pooled into one level "other"; 0 pools none, and unseen other needs it
        delimiter: sign between the fields of CSV files, such as ";" or tab
        decimal: sign before the decimals in CSV files, "." or ","
        encoding: of CSV files, such as latin-1 or utf-16
        types: column and what it holds: number, integer, text, date, or an Arrow type
        na: what means missing beside empty fields, instead of NA, NaN and null
    """

    path: str | list[str]
    formula: str
    predictors: dict[str, str] | None = None
    weights: str | None = None
    freq: str | None = None
    offset: str | None = None
    exposure: str | None = None
    trials: str | None = None
    event: str | None = None
    until: str | None = None
    by: str | list[str] | None = None
    missing: Literal["error", "drop"] = "error"
    unseen: Literal["error", "reference", "other"] = "error"
    rare: int = 0
    delimiter: str = ","
    decimal: str = "."
    encoding: str = "utf8"
    types: dict[str, str] | None = None
    na: str | float | list[str | float] | None = None

    def __post_init__(self) -> None:
        _refuse_null(self, "data.")
        self.reading  # noqa: B018  refuses what cannot be meant
        if self.rare < 0:
            raise ValueError(f"data.rare must be at least 0, got {self.rare}. 0 pools no levels.")

    @property
    def roles(self) -> dict[str, str]:
        """Role -> column, for the roles that are filled."""
        return {role: column for role in ROLES if (column := getattr(self, role)) is not None}

    @property
    def policies(self) -> dict[str, Any]:
        """What becomes of missing values, unseen and rare levels, and how text is read."""
        return {"missing": self.missing, "unseen": self.unseen, "rare": self.rare, "reading": self.reading}

    @property
    def reading(self) -> TextFormat:
        """How text becomes columns. Raises ValueError for what cannot be meant."""
        return TextFormat.of(self.delimiter, self.decimal, self.encoding, self.types, self.na)

    @property
    def options(self) -> dict[str, Any]:
        """`policies` as `fit` and `path` take them, each by its own name."""
        names = ("missing", "unseen", "rare", "delimiter", "decimal", "encoding", "types", "na")
        return {name: getattr(self, name) for name in names}

    @property
    def groups(self) -> list[str]:
        """The columns whose combinations are the groups; none where one model is fitted."""
        return [self.by] if isinstance(self.by, str) else list(self.by or [])

    def columns(self) -> list[str]:
        """Every column the fit reads. Raises ValueError for an unreadable formula, file or column."""

        also = [*self.roles.values(), *self.groups]
        return columns_read(self.formula, self.path, also, "data.formula", self.reading, self.predictors)


class SolverOptions:
    """How the coefficients are found; `shares` says that processes of torchrun can share the rows."""

    shares = False

    def solve(self, job: Job, checkpoint: Checkpoint | None = None) -> Result:
        """The fit of a job, from and into a checkpoint. Raises ValueError for data that do not suit the model."""
        raise NotImplementedError


class IRLS(SolverOptions):
    """Newton's method and iteratively reweighted least squares; files larger than a gigabyte are read at each step.

    Args:
        tol: relative tolerance of the deviance and the score
        max_iter: most steps
        singular: what a column gets that others add up to: none, the least-norm, or an error
    """

    shares = True

    def __init__(
        self, tol: float = 1e-8, max_iter: int = 50, singular: Literal["drop", "minnorm", "error"] = "drop"
    ) -> None:
        if not tol > 0:
            raise ValueError(f"solver.tol must be > 0, got {tol}. The default is 1e-8.")
        if not 1 <= max_iter <= MOST_STEPS:
            raise ValueError(
                f"solver.max_iter must lie between 1 and {MOST_STEPS:,}, got {max_iter}. The default is 50."
            )
        self.tol, self.max_iter, self.singular = tol, max_iter, singular

    def solve(self, job: Job, checkpoint: Checkpoint | None = None) -> Result:
        """The maximum likelihood fit, one model or one for each group."""
        data = job.data
        if isinstance(job.penalty, ChosenNet) and job.penalty.path is not None:
            return _chosen(job, job.penalty)
        columns = data.columns()
        rows = read_files(data.path, columns, data.reading) if data.groups else data.path
        roles: dict[str, Any] = data.roles
        return fit(
            data.formula,
            rows,
            family=job.family,
            link=job.link,
            penalty=job.penalty,
            **job.restraints,
            smoothing=job.smoothing,
            quadrature=job.quadrature,
            dispersion=job.dispersion,
            by=data.groups or None,
            **data.options,
            predictors=data.predictors,
            tol=self.tol,
            max_iter=self.max_iter,
            singular=self.singular,
            device=job.where,
            dtype=job.precision,
            observe=checkpoint,
            resume=None if checkpoint is None else checkpoint.state,
            **roles,
        )


def _chosen(job: Job, penalty: ChosenNet) -> Result:
    """The fit at the strength that a path chooses; its context holds the path. Raises `ValueError` as `path` does."""
    data = job.data
    for key, given in (
        ("data.by", data.groups),
        ("data.predictors", data.predictors),
        ("dispersion", job.dispersion is not None),
        ("smoothing", job.smoothing is not None),
        ("quadrature", job.quadrature != 1),
        *((key, True) for key in job.restraints),
    ):
        if given:
            raise ValueError(f"{key} does not go with penalty.path. Leave out one of them.")
    data.columns()
    roles: dict[str, Any] = data.roles
    found = path(
        data.formula,
        data.path,
        family=job.family,
        link=job.link,
        seed=job.seed,
        device=job.where,
        dtype=job.precision,
        **data.options,
        **penalty.options,
        **roles,
    )
    return found.select(penalty.select)


@dataclass
class ModelConfig:
    """A network whose last layer is the GLM; its law is `family` and `link`, which may stand in model.head, too.

    Args:
        backbone: a class of torch.nn.Module, by its full path and arguments as configs/network.yaml has it, that makes
            features (rows, features) of the formula's columns (rows, columns); in_features may be left out
        predictors: further parameters of the law that have the features, such as [dispersion]; others are constants
    """

    backbone: dict[str, Any]
    predictors: list[str] = field(default_factory=list)


@dataclass
class Job:
    """One fit, from files to a run folder.

    Args:
        data: where the rows are and what their columns mean
        family: distribution of the response: a name, or {name: ..., and its arguments}
        link: link function: a name, or {name: power, power: 0.5}; null is the family's default
        penalty: null, jeffreys, {name: ridge, l2: 0.1}, {name: elastic_net, l1: 0.1, l2: 0.1}, or
            {name: elastic_net, path: 100, folds: 10}, which fits a path of strengths and chooses one; also
            {name: quadratic, blocks: [{columns: [a, b]}], strength: reml},
            {name: group_lasso, strength: 0.1}, {name: fused, strength: 0.1, levels: band}, mcp and scad
        lower: limit from below of all columns, or by name, such as {age: 0}
        upper: limit from above
        constraints: equations and inequalities, such as "a + b = 1", or a list of them
        monotone: factors whose levels rise or fall in their order, such as {band: increasing}
        smoothing: null, reml or ml: how strengths of s(x) and variances of (1 | group) are found; or {s(x): 2.5}, or a
            number for all strengths
        quadrature: nodes of adaptive quadrature over the effects of (1 | group); 1 is Laplace's approximation
        dispersion: null (the family's own way), pearson, deviance, ml, or a number
        covariance: null (the model's), observed, HC0 to HC3, or {kind: cluster, clusters: firm, type: CR2}, {kind: HAC,
            clusters: firm, order: year, lags: 2}, {kind: driscoll_kraay, order: year}; satterthwaite is the model's
            with degrees of freedom beside random effects
        model: null, or a network before the GLM, for solver sgd
        finish: null, or refit: fit the last layer of a network exactly, by IRLS on its features
        solver: irls (exact) or sgd (by minibatch), with its arguments
        seed: of every random choice
        device: auto, cpu, cuda or cuda:0; auto takes a GPU where there is one
        dtype: float64 or float32, of the data; sums are float64 everywhere
        output_dir: run folder for the results; an earlier run in it is replaced
        timeout: seconds that a process of torchrun waits for the others before it gives up
    """

    data: DataConfig
    family: Family
    link: Link | None = None
    penalty: Penalty | Jeffreys | None = None
    lower: float | dict[str, float] | None = None
    upper: float | dict[str, float] | None = None
    constraints: str | list[str] | None = None
    monotone: dict[str, Literal["increasing", "decreasing"]] | None = None
    smoothing: Literal["reml", "ml"] | float | dict[str, float] | None = None
    quadrature: int = 1
    dispersion: float | Literal["pearson", "deviance", "ml"] | None = None
    covariance: Literal["observed", "HC0", "HC1", "HC2", "HC3", "satterthwaite"] | Covariance | None = None
    model: ModelConfig | None = None
    finish: Literal["refit"] | None = None
    solver: SolverOptions = field(default_factory=IRLS)
    seed: int = 0
    device: str = "auto"
    dtype: Literal["float64", "float32"] = "float64"
    output_dir: str = "runs/fit"
    timeout: float = 600.0

    def __post_init__(self) -> None:
        _refuse_null(self)
        check_dispersion(self.dispersion)
        if not self.output_dir.strip():
            raise ValueError("output_dir is empty. Name a folder, such as runs/fit.")
        if self.model is not None and isinstance(self.solver, IRLS):
            raise ValueError("model: a network is trained by minibatch. Write solver: sgd.")
        if self.model is None and self.finish is not None:
            raise ValueError(f"finish: {self.finish} is for a network, and the config has no model. Leave it out.")
        if not 1e-3 <= self.timeout <= 1e9:
            raise ValueError(
                f"timeout must lie between 0.001 and 1e9 seconds, got {self.timeout:g}. The default is 600."
            )

    @property
    def restraints(self) -> dict[str, Any]:
        """The constraints that are given, by key."""
        given = {key: getattr(self, key) for key in ("lower", "upper", "constraints", "monotone")}
        return {key: value for key, value in given.items() if value is not None}

    @property
    def precision(self) -> torch.dtype:
        """The dtype by its torch object."""
        return {"float64": torch.float64, "float32": torch.float32}[self.dtype]

    @property
    def where(self) -> torch.device:
        """The device to fit on. Raises ValueError for one that is unknown or absent."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            device = torch.device(self.device)
        except RuntimeError:
            device = torch.device("meta")
        if device.type not in ("cpu", "cuda"):
            raise ValueError(f"device: got {self.device!r}. Known: auto, cpu, cuda, cuda:0.")
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise ValueError(
                f"device: {self.device} is not here ({torch.cuda.device_count()} CUDA devices "
                "found). Use device: auto or cpu."
            )
        return device
