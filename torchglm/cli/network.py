"""`model:` in a config: a network with a head, trained on the rows of files, saved with its run and made again."""

from __future__ import annotations

import inspect
from argparse import ArgumentError
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import jsonargparse
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from torchglm.cli.backbones import class_of
from torchglm.cli.config_errors import one_line
from torchglm.cli.several_batch import varying
from torchglm.design import Design, DesignSpec
from torchglm.families.several import VectorFamily
from torchglm.fitting.bias import Jeffreys
from torchglm.fitting.irls import evaluate, irls
from torchglm.fitting.kernel import fold
from torchglm.fitting.moments import Point
from torchglm.fitting.penalties import Penalty
from torchglm.fitting.status import Status
from torchglm.inference.build import build
from torchglm.inputs import LoaderRows
from torchglm.model.face import GLMHead, Result, VectorHead
from torchglm.model.head_rows import begin_at_null, penalty_on, rows_of_batches
from torchglm.model.network import Features
from torchglm.model.refit import refit_
from torchglm.model.vector_parts import designs_of_head
from torchglm.rows.plan import Plan
from torchglm.rows.ranks import seen
from torchglm.rows.rows import kept_columns, without_columns
from torchglm.writing.files import replaced

if TYPE_CHECKING:
    from torchglm.cli.schema import Job
    from torchglm.inputs import FileRows
    from torchglm.links import Link


class StandardColumns(nn.Module):
    """Columns `(*N, p)` less their mean in training, over their standard deviation; constant ones are only shifted."""

    mean: Tensor
    scale: Tensor

    def __init__(self, width: int, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width, dtype=dtype))
        self.register_buffer("scale", torch.ones(width, dtype=dtype))

    def learn(self, batches: Iterable[Any]) -> None:
        """Take mean and scale from the rows of a loader that have weight, in one pass."""
        count, mean, squares = 0, torch.zeros_like(self.mean).double(), torch.zeros_like(self.mean).double()
        for batch in batches:
            x = batch.x if batch.weights is None else batch.x[batch.weights > 0]
            if not len(x):
                continue
            own = x.double().mean(0)
            shift, total = own - mean, count + len(x)
            squares += (x.double() - own).square().sum(0) + shift.square() * (count * len(x) / total)
            mean, count = mean + shift * (len(x) / total), total
        scale = (squares / max(1, count)).sqrt()
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(scale > 1e-9 * mean.abs(), scale, 1.0))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.scale


@dataclass(frozen=True)
class Network:
    """What comes before the head of a run: the formula's columns, and the features a backbone makes of them."""

    spec: DesignSpec
    body: nn.Module

    @torch.no_grad()
    def features(self, design: Design) -> Tensor:
        """(n, features) of the rows of a design."""
        like = next(self.body.buffers())
        return self.body(kept_columns(design.x, varying(self.spec)).to(like)).double()

    def behind(self, design: Design, names: list[str], several: bool) -> Design:
        """The design of the head: its features in the place of the columns, behind a one where it has constants."""
        z = self.features(design)
        z = torch.cat([torch.ones_like(z[:, :1]), z], 1) if several or design.intercept else z
        return Design(z, names, design.y, design.spec, design.table, None, design.kept, design.dropped, design.unseen)

    def save(self, path: Path) -> None:
        """Write the weights; the config of the run says what they are of."""
        with replaced(path) as draft:
            state = {name: value.cpu() for name, value in self.body.state_dict().items()}
            torch.save({"spec": self.spec.to_dict(), "state": state}, draft)


def load_network(path: Path, backbone: Mapping[str, Any]) -> Network:
    """The network that was saved at `path`, of a backbone as the config names it. Raises ValueError for another one."""
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        spec = DesignSpec.from_dict(saved["spec"])
        body = body_of(backbone, _columns(spec), saved["state"]["0.mean"].dtype)
        body.load_state_dict(saved["state"])
    except (OSError, EOFError, KeyError, RuntimeError, UnpicklingError) as error:
        raise ValueError(f"{path} is not the network that the config of the run names: {error}") from error
    return Network(spec, body.eval())


def body_of(backbone: Mapping[str, Any], columns: list[str], dtype: torch.dtype) -> nn.Sequential:
    """Standard columns, and the backbone that a config names by its `class_path`; `in_features` may be left out.

    Raises ValueError for a class that is not known, is no module, or does not take these arguments.
    """
    kind, given = class_of(backbone), dict(backbone.get("init_args") or {})
    if "in_features" in inspect.signature(kind).parameters:
        given.setdefault("in_features", len(columns))
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(nn.Module, "backbone")
    try:
        made = parser.parse_object({"backbone": {"class_path": backbone["class_path"], "init_args": given}})
        found: nn.Module = parser.instantiate(made).backbone
    except (ArgumentError, jsonargparse.ArgumentError, TypeError, ValueError) as error:
        raise ValueError(f"model.backbone: {one_line(str(error))}") from None
    return nn.Sequential(StandardColumns(len(columns)), found).to(dtype)


def _columns(spec: DesignSpec) -> list[str]:
    return [spec.names[j] for j in varying(spec)]


def _width(body: nn.Module, columns: list[str], like: Tensor) -> int:
    """The number of features. Raises ValueError where the backbone does not make rows of them."""
    said = f"the formula makes {len(columns)} columns ({', '.join(columns[:8])}{', …' if len(columns) > 8 else ''})"
    try:
        with torch.no_grad():
            z = body.eval()(like.new_zeros(2, len(columns)))
    except (RuntimeError, TypeError, IndexError, ValueError) as error:
        raise ValueError(f"model.backbone does not take these rows: {one_line(str(error))}; {said}.") from None
    if not isinstance(z, Tensor) or z.ndim != 2 or len(z) != 2 or not z.is_floating_point():
        got = tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__
        raise ValueError(
            f"model.backbone must make (rows, features) of (rows, {len(columns)}), and of 2 rows made {got}."
        )
    return z.shape[1]


def check_network(job: Job, polish: Any) -> None:
    """Raise ValueError for what a config says beside `model:` that a network does not take."""
    for key, given, instead in (
        (
            "data.predictors",
            bool(job.data.predictors),
            "Write head: {predictors: [...]}, which have the features.",
        ),
        ("solver.polish", polish != 0, "Write finish: refit."),
        ("covariance", job.covariance is not None, "Errors take the features as known. Leave it out."),
        ("penalty", job.penalty is not None and job.finish is None, "It is that of the refit: write finish: refit."),
    ):
        if given:
            raise ValueError(f"{key} does not go with model. {instead}")


def fit_network(
    job: Job,
    rows: FileRows,
    link: Link,
    plain: Any,
    train: Callable[[nn.Module], int],
) -> Result:
    """Train a network with a head, and fit its head exactly where the job says so: the Result of the head.

    `plain` is a loader of the rows; `train` trains a network in place and counts epochs.
    Its columns are the features; its context holds the `Network`. Raises ValueError for a backbone that does not suit.
    """
    assert job.model is not None and not isinstance(job.penalty, Jeffreys)
    columns = _columns(rows.spec)
    body = body_of(job.model.backbone, columns, job.precision).to(job.where)
    width = _width(body, columns, next(body.buffers()))
    head = _head(width, job, rows, link)
    standard = body[0]
    assert isinstance(standard, StandardColumns)
    standard.learn(plain)
    source = rows_of_batches(head, Features(plain, head, body))
    _begin(head, source)
    network = nn.Sequential(body, head)
    network.train()
    epochs = train(network)
    network.to(job.where).eval()
    if not all(bool(parameter.isfinite().all()) for parameter in network.parameters()):
        raise ValueError("training ended in a network that is not finite. Lower the learning rate of solver.optimizer.")
    status = Status.ITERATION_LIMIT
    if job.finish == "refit":
        [status] = refit_(network, plain, penalty=job.penalty).status
    return _result(job, rows, head, source, status, epochs, job.penalty, Network(rows.spec, body))


def _head(width: int, job: Job, rows: FileRows, link: Link) -> GLMHead:
    """The head of a job on so many features, which the first predictor has and those that `model.predictors` names."""
    where: dict[str, Any] = {"bias": rows.spec.intercept, "device": job.where, "dtype": job.precision}
    if isinstance(rows.family, VectorFamily):
        assert job.model is not None
        return GLMHead(width, rows.family, predictors=job.model.predictors, **where)
    return GLMHead(width, rows.family, link, **where)


@torch.no_grad()
def _begin(head: GLMHead, source: LoaderRows) -> None:
    """Set the constants to those of the null model, from which a learning rate suits whatever unit responses have."""
    if head.bias is None:
        return
    if isinstance(head, VectorHead):
        begin_at_null(head, fold(source, Point(None), head.family, head.link))
        return
    null = irls(seen(source, lambda one: without_columns(one, True)), head.family, head.link)
    if bool(null.coef.isfinite().all()):
        head.bias.copy_(null.coef[:, 0].to(head.bias))


def _result(
    job: Job,
    rows: FileRows,
    head: GLMHead,
    source: LoaderRows,
    status: Status,
    epochs: int,
    penalty: Penalty | None,
    network: Network,
) -> Result:
    """What the head says of the rows, its columns being the features."""
    family, link, [coef] = head.family, head.link, head.coef
    whole = penalty_on(head, penalty)
    solution = evaluate(source, family, link, coef.double().unsqueeze(0), status, epochs, penalty=whole)
    plan, names, designs = _coefficients(head, rows.spec.intercept)
    context = {key: value for key, value in rows.context.items() if key not in ("spec", "terms", "places")} | designs
    fitted = build(
        solution,
        source,
        family,
        link,
        torch.Size(),
        names,
        constant=rows.spec.intercept,
        penalty=whole,
        dispersion=job.dispersion,
        tol=1e-8,
        context=context | {"network": network},
        plan=plan,
    )
    return Result.of(fitted)


def _coefficients(head: GLMHead, intercept: bool) -> tuple[Plan | None, list[str], dict[str, Any]]:
    """The plan of a head, the names of its coefficients, and what a fit of arrays keeps of its columns."""
    features = [f"feature {k + 1}" for k in range(head.in_features)]
    if not isinstance(head, VectorHead):
        return None, ["(Intercept)"] * intercept + features, {}
    designs = designs_of_head(head.family, features, intercept, head.named)
    plan, names = head.family.plan(designs, (0,))
    return (
        plan,
        names,
        {"added": True, "beside": {}, "designs": {name: list(own.items()) for name, own in designs.items()}},
    )


def adam(parameters: Iterable[nn.Parameter]) -> Optimizer:
    """The optimizer of a network where a config names none."""
    return torch.optim.Adam(parameters, lr=3e-3)
