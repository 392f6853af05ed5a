"""The solver `sgd`: minibatches from files of any size. Lightning is imported when a config names it."""

from __future__ import annotations

import copy
import warnings
from argparse import ArgumentError
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import jsonargparse
import torch
from lightning.pytorch import Trainer
from torch.optim import Optimizer

from torchglm.cli import short_names
from torchglm.cli.config_errors import one_line
from torchglm.cli.elastic_net import ChosenNet
from torchglm.cli.network import adam, check_network, fit_network
from torchglm.cli.schema import Job, SolverOptions
from torchglm.cli.several_batch import batch_of_several, varying
from torchglm.cli.streamed_fit import optimum_from, result_at
from torchglm.families.several import VectorFamily, of_predictors
from torchglm.fitting.bias import Jeffreys
from torchglm.fitting.status import FitWarning, Status
from torchglm.inputs import FileRows, Roles
from torchglm.inputs.files import HOLD
from torchglm.links import Link
from torchglm.model.face import GLMHead, VectorHead
from torchglm.model.vector_parts import of_design
from torchglm.rows.rows import is_all, whole
from torchglm.store.runs import TRAINING
from torchglm.tables.files import files, kind_of
from torchglm.training import ArrowBatches, GLMBatch, TensorBatches, fit_sgd
from torchglm.training.trainers import train_network
from torchglm.writing.warning import tell

if TYPE_CHECKING:
    from torchglm.model.face import Result
    from torchglm.store.checkpoints import Checkpoint


class SGD(SolverOptions):
    """Minibatch gradients on whitened columns, streamed from Parquet; an exact pass then says how near.

    Args:
        batch_size: rows of a minibatch
        optimizer: a class of torch.optim, such as {name: adam, lr: 0.03}; the default is {name: sgd, lr: 0.3}; lbfgs
            takes all rows as one batch
        trainer: arguments of lightning.Trainer, such as {max_epochs: 20}
        decay: bring the learning rate to zero over the run, along half a cosine (not for lbfgs)
        polish: Newton steps after the training, one pass each; irls makes as many as it takes to the optimum, as solver
            irls does
    """

    shares = True

    def __init__(
        self,
        batch_size: int = 8192,
        optimizer: Callable[[Iterable], Optimizer] | None = None,
        trainer: dict[str, Any] | None = None,
        decay: bool = True,
        polish: int | Literal["irls"] = 0,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"solver.batch_size must be at least 1, got {batch_size}. The default is 8192.")
        if polish != "irls" and polish < 0:
            raise ValueError(f"solver.polish must be at least 0, or irls, got {polish}. The default is 0.")
        self.batch_size, self.optimizer, self.decay, self.polish = batch_size, optimizer, decay, polish
        self.trainer = _checked(trainer or {})

    def solve(self, job: Job, checkpoint: Checkpoint | None = None) -> Result:
        """The trained fit, with what it says at its coefficients. Raises ValueError for groups."""
        if job.data.groups:
            raise ValueError("solver sgd fits one model, and data.by asks for one per group. Use irls.")
        if isinstance(job.penalty, ChosenNet) and job.penalty.path is not None:
            raise ValueError(
                "penalty.path is fitted by solver irls; sgd takes the strengths l1 and l2. Leave out path."
            )
        if isinstance(job.penalty, Jeffreys):
            raise ValueError("penalty jeffreys adjusts the score of all rows at once, not of minibatches. Use irls.")
        for key, given in (("smoothing", job.smoothing is not None), ("quadrature", job.quadrature != 1)):
            if given:
                raise ValueError(
                    f"{key} is for s(x) and (1 | group), which solver irls fits. Use solver: irls, or leave it out."
                )
        if (method := getattr(job.penalty, "method", None)) is not None:
            raise ValueError(
                f"the strength of penalty, {method}, is estimated by solver irls alone. Use solver: irls, or a number."
            )
        for key in job.restraints:
            raise ValueError(f"{key} is a constraint, which solver irls keeps and minibatches do not. Use irls.")
        if job.model is not None:
            return self._network(job, checkpoint)
        rows, link = self._rows(job)
        head = self._head(job, rows, link)
        trained = fit_sgd(
            head,
            self._batches(job, rows),
            optimizer=self.optimizer,
            trainer=self.trainer,
            batch_size=self.batch_size,
            penalty=None if job.penalty is None else job.penalty.named(rows.names),
            decay=self.decay,
            polish=0 if self.polish == "irls" else self.polish,
            seed=job.seed,
            kept=None if checkpoint is None else checkpoint.begin(TRAINING),
        )
        [coef] = head.coef
        if self.polish == "irls":
            return optimum_from(coef, job, rows, head.family, link, trained.epochs)
        if trained.status == Status.ITERATION_LIMIT:
            tell(
                f"training ended {trained.distance:.2g} standard errors from the optimum. Raise "
                "solver.trainer.max_epochs, or set solver.polish to irls.",
                FitWarning,
            )
        elif trained.status == Status.SHAPE_LIMIT:
            tell(f"{trained.status}: {trained.status.explanation}", FitWarning)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FitWarning)
            return result_at(coef, job, rows, head.family, link, trained.status, trained.epochs, job.penalty)

    def _network(self, job: Job, checkpoint: Checkpoint | None) -> Result:
        """The fit of the head of a network that is trained before it."""
        check_network(job, self.polish)
        if self._whole:
            raise ValueError("solver.optimizer lbfgs does not train networks here. Use adam, or another.")
        rows, link = self._rows(job)
        if rows.ranks.size > 1:
            raise ValueError("model: a network is trained by one process here. Start it without torchrun.")
        mixed, plain = (self._loader(job, rows, shuffle) for shuffle in (True, False))
        kept = None if checkpoint is None else checkpoint.begin(TRAINING)

        def train(network: torch.nn.Module) -> int:
            return train_network(network, mixed, self.optimizer or adam, self.trainer, self.decay, kept)

        return fit_network(job, rows, link, plain, train)

    def _loader(self, job: Job, rows: FileRows, shuffle: bool) -> TensorBatches | ArrowBatches:
        """Batches of the rows, in random order or as they come."""
        found = self._batches(job, rows, shuffle)
        if isinstance(found, ArrowBatches):
            return found
        return TensorBatches(found, self.batch_size, shuffle=shuffle, seed=job.seed)

    def _rows(self, job: Job) -> tuple[FileRows, Link]:
        """The rows, with the family of the fit, and its link."""
        data, further = job.data, job.data.predictors or job.model is not None and job.model.predictors
        several = isinstance(job.family, VectorFamily) or bool(further)
        family = of_predictors(job.family, job.link) if several else copy.deepcopy(job.family)
        rows = FileRows(
            data.formula,
            data.path,
            family,
            data.roles,
            data.policies,
            job.where,
            job.precision,
            predictors=data.predictors,
        )
        rows.spec.check_fixed("training by minibatches")
        link = rows.family.default_link if several else job.link or family.default_link
        Roles(**data.roles).check_link(link)
        return rows, link

    def _head(self, job: Job, rows: FileRows, link: Link) -> GLMHead:
        """The head that is trained on the rows."""
        if rows.plan is not None:
            return VectorHead(
                len(varying(rows.spec)), rows.family, device=job.where, dtype=job.precision, plan=of_design(rows.plan)
            )
        intercept = rows.spec.intercept
        width = len(rows.spec.names) - int(intercept)
        return GLMHead(width, rows.family, link, bias=intercept, device=job.where, dtype=job.precision)

    def _batches(self, job: Job, rows: FileRows, shuffle: bool = True) -> GLMBatch | ArrowBatches:
        """The rows where all are in memory, else shuffled minibatches from the Parquet files."""
        held = rows.source
        if isinstance(held, list):
            [part] = held
            if part.plan is not None:
                return batch_of_several(part, rows.family, varying(rows.spec))
            x = whole(part)[:, int(rows.spec.intercept) :]
            weight = None if is_all(part.weight, 1.0) else part.weight[0].to(x.dtype)
            offset = None if is_all(part.offset, 0.0) else part.offset[0].to(x.dtype)
            event = None if part.event is None else part.event[0].to(x.dtype)
            return GLMBatch(x, part.y[0].to(x.dtype), weights=weight, offset=offset, event=event)
        if self._whole:
            raise ValueError(
                "solver.optimizer lbfgs needs all rows in memory as one batch, in one process and at most "
                f"{HOLD >> 20:,} MiB of them. Use the default optimizer with polish: 2, or irls."
            )
        first = files(job.data.path)[0]
        if kind_of(first) == "csv":
            raise ValueError(
                f"{first} is CSV, and solver sgd streams and shares out Parquet alone. Write the rows as "
                "Parquet, or use solver: irls."
            )
        roles: dict[str, Any] = dict(job.data.roles)
        made = ArrowBatches(
            job.data.path,
            rows.spec,
            batch_size=self.batch_size,
            shuffle=shuffle,
            seed=job.seed,
            dtype=job.precision,
            **roles,
        )
        if len(made.groups) < rows.ranks.size:
            few = f"{len(made.groups)} row group{'s' * (len(made.groups) > 1)}"
            raise ValueError(
                f"solver sgd cannot share out {few} to {rows.ranks.size} processes. Write the files with "
                "smaller row groups, start fewer processes, or use solver: irls."
            )
        made.suit(rows.family)
        return made

    @property
    def _whole(self) -> bool:
        """Whether the optimizer wants all rows in one batch."""
        return self.optimizer is not None and isinstance(
            self.optimizer([torch.nn.Parameter(torch.zeros(1))]), torch.optim.LBFGS
        )


def _checked(given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a Trainer, each of the type it must have. Raises ValueError for others."""
    short_names.check_keys("trainer", given, short_names.parameters("lightning.pytorch.Trainer"))
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Trainer)
    try:
        made = parser.instantiate(parser.parse_object(dict(given)))
    except (ArgumentError, TypeError, ValueError) as error:
        raise ValueError(f"solver.trainer.{one_line(str(error))}") from None
    return {key: made[key] for key in given}
