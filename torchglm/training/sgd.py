"""The SGD solver: a plain GLM trained by minibatch, in coordinates that make its loss well conditioned."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Optimizer

from torchglm.fitting.penalties import GroupLasso, Penalty, RowWise
from torchglm.fitting.status import Status
from torchglm.inputs import GLMBatch, as_batch, named
from torchglm.model.face import GLMHead, VectorHead
from torchglm.model.head_rows import penalty_on
from torchglm.rows.ranks import Ranks
from torchglm.training.batches import TensorBatches, generator_of, rank_and_world, take
from torchglm.training.checkpointing import train
from torchglm.training.closed_form import ClosedForm
from torchglm.training.lit_glm import LitGLM
from torchglm.training.polish import Polished, polished, solved
from torchglm.training.preconditioned import polished_head, preconditioned
from torchglm.training.row_checks import check_rows, checked, suit
from torchglm.training.sgd_loop import descend
from torchglm.training.trainers import EPOCHS, cosine_schedule, hushed, trainer_on
from torchglm.training.whitening import WhitenedGLM, Whitening
from torchglm.writing.answering import answering

PIECE = 1 << 14  # rows whitened at once


@dataclass(frozen=True)
class Trained:
    """How the training of a head went.

    `loss` is the (penalised) mean loss over all rows; `distance` says how far the optimum is: the longest
    scoring step of a coefficient in units of its standard error (NaN with an l1 penalty), or how far a shape that
    the family estimates is from the best one, in its own. `epochs` and `steps` were made. `status` is `CONVERGED`
    within a tenth of a standard error, and what IRLS says after `polish="irls"`.
    """

    loss: float
    distance: float
    epochs: int
    steps: int
    status: Status


@answering
def fit_sgd(
    head: GLMHead,
    data: Iterable[Any] | GLMBatch | Mapping[str, Tensor],
    *,
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] | None = None,
    trainer: Trainer | Mapping[str, Any] | None = None,
    batch_size: int | None = 8192,
    penalty: Penalty | None = None,
    decay: bool = True,
    polish: int | Literal["irls"] = 0,
    seed: int = 0,
    kept: Path | None = None,
) -> Trained:
    """Train a head by minibatch gradients, in place, and say how near the optimum it came.

    A first pass centres, decorrelates and scales the columns, so that the Hessian of the loss is about the
    identity and one learning rate suits every data set; weight and bias are mapped back exactly. A last pass
    measures the distance from the optimum, and the dispersion where the head is to estimate it. Of tensors a copy is
    made, on such columns and in random order; batches of a loader are taken as they come. Of several predictors two
    passes find the null model and the information there, and its coordinates take the place of such columns.

    Args:
        head: what to train, with one response; it starts from the null model.
        data: tensors (a `GLMBatch` or a mapping of its names), or a re-iterable of batches such as
            `TensorBatches` and `ArrowBatches`.
        optimizer: called with the parameters; the default is SGD at 0.3 (the Hessian being about 1).
            `torch.optim.LBFGS` takes all rows as one batch, and comes as near as its tolerances allow.
        trainer: a Lightning Trainer, or its arguments (`{"max_epochs": 50, "enable_progress_bar": True}`); by
            default 20 epochs on the head's device, with no logger, checkpoint, progress bar or message. A number of
            epochs or steps alone needs no Trainer: a plain loop makes the same steps.
        batch_size: rows of a batch, where `data` are tensors; None takes all.
        penalty: that of `fit`, `Ridge`, `ElasticNet` (`l1` leaves small coefficients where IRLS leaves zeros) or
            `Quadratic`, whose columns are numbered as in `head.coef`, and whose strengths are numbers.
        decay: bring the learning rate to zero along half a cosine, step by step (not for LBFGS); without that
            the coefficients go on wandering about the optimum.
        polish: Newton steps after training, one pass each, kept while they bring the optimum nearer; a shape that the
            family estimates is fitted beside each. `"irls"` makes as many as it takes to the optimum.
        seed: of the order of the rows.
        kept: a file that holds the state of the training after each epoch, and from which it goes on where it is there.

    Raises `ValueError` for LBFGS on several batches, several responses, no rows, and coefficients that are
    not finite in the end (the head is then left as it was).
    """
    if polish != "irls" and (not isinstance(polish, int) or polish < 0):
        raise ValueError(f"polish must be a number of Newton steps, or 'irls', got {polish!r}.")
    if head.out_features != 1:
        raise ValueError(f"fit_sgd trains one response, this head has {head.out_features}. Use LitGLM.")
    if isinstance(penalty, (RowWise, GroupLasso)):
        raise ValueError(
            f"{type(penalty).__name__} holds coefficients together, which gradients on whitened columns do not keep. "
            "Use torchglm.fit, or LitIRLS(head, penalty)."
        )
    lbfgs = optimizer is not None and isinstance(optimizer([nn.Parameter(torch.zeros(1))]), LBFGS)
    held = named(data) if isinstance(data, (GLMBatch, Mapping)) else None
    if held is not None:
        check_rows(held, head.family)
        held = as_batch(held, head.link)
    if held is None and lbfgs and (not isinstance(data, Sized) or len(data) != 1):
        raise ValueError("LBFGS needs all rows in one batch. Pass the tensors, or batches of that size.")
    suit(data, head.family)
    size = None if lbfgs else batch_size
    if isinstance(head, VectorHead):
        course = _several(head, data, held, penalty, size, seed)
    else:
        course = _one(head, data, held, penalty, size, seed)
    lit = LitGLM(
        course.model,
        optimizer or _sgd,
        metrics={},
        scale=course.scale,
        scheduler_interval="step",
        penalty=course.penalty,
    )
    lit.watched = isinstance(trainer, Trainer) or not set(trainer or {}) <= {"max_epochs", "max_steps", "max_time"}
    made = None if kept or penalty or lbfgs else _plainly(lit, course.batches, trainer, decay)
    if made is None:
        with hushed(not isinstance(trainer, Trainer)):
            chosen = (
                trainer
                if isinstance(trainer, Trainer)
                else trainer_on(head.weight.device, dict(trainer or {}), _ranks(held))
            )
            lit.scheduler = cosine_schedule(chosen) if decay and not lbfgs else None
            train(chosen, lit, course.batches, kept)
        made = chosen.current_epoch, chosen.global_step
    course.model.to(head.weight.device)
    if not bool(torch.isfinite(course.trained()).all()):
        raise ValueError(
            "training ended in coefficients that are not finite. Lower the learning rate, or "
            "for LBFGS pass line_search_fn='strong_wolfe'."
        )
    end = course.end(polish)
    if head.dispersion_kind == "estimated" and end.dispersion > 0:
        head.set_dispersion_(end.dispersion)
    return Trained(end.loss, end.distance, *made, end.status)


@dataclass(frozen=True)
class _Course:
    """What is trained in the place of a head, on which batches, and how it ends."""

    model: nn.Module
    batches: Any
    scale: float
    penalty: Callable[[nn.Module], Tensor] | None
    trained: Callable[[], Tensor]
    end: Callable[[int | Literal["irls"]], Polished]  # which writes it into the head


def _one(
    head: GLMHead, data: Any, held: GLMBatch | None, penalty: Penalty | None, size: int | None, seed: int
) -> _Course:
    """Of one predictor: on whitened columns."""
    ranks, passes = _ranks(held), data if held is None else [held]
    columns = Whitening.learn(head, _each(checked(passes, head.family), head), ranks)
    inner = columns.whitened(head)
    model, batches = (inner, data) if held is None else (inner.head, _whitened(held, inner, size, seed))

    def end(polish: int | Literal["irls"]) -> Polished:
        if polish == "irls":
            return solved(inner, head, passes, penalty, ranks)
        done = polished(inner, head, passes, penalty, polish, ranks)
        inner.write(head)
        return done

    whole = penalty_on(head, penalty)
    known = None if whole is None else _penalty_of(whole, inner, columns.total)
    return _Course(model, batches, columns.scale, known, lambda: inner.trained, end)


def _several(
    head: VectorHead, data: Any, held: GLMBatch | None, penalty: Penalty | None, size: int | None, seed: int
) -> _Course:
    """Of several predictors: in coordinates in which the information of the null model is the identity."""
    ranks, passes, whole = _ranks(held), data if held is None else [held], penalty_on(head, penalty)
    inner = preconditioned(head, passes, ranks)
    batches = data if held is None else _mixed(held, size, seed)

    def value(model: nn.Module) -> Tensor:
        assert whole is not None
        coef = inner.coefficients.unsqueeze(0)
        return whole.value(coef, coef.new_full((1,), inner.total))[0] / inner.total

    return _Course(
        inner,
        batches,
        1.0,
        None if whole is None else value,
        lambda: inner.theta,
        lambda polish: polished_head(inner, head, passes, penalty, polish, ranks),
    )


def _mixed(rows: GLMBatch, batch_size: int | None, seed: int) -> TensorBatches:
    """Batches of a copy of the rows in random order, so that a batch is a run of rows."""
    n, device = rows.x.shape[0], rows.x.device
    size = n if batch_size is None else min(batch_size, n)
    order = torch.randperm(n, generator=generator_of(seed, device=device), device=device)
    return TensorBatches(take(rows, order), size, shuffle="blocks" if size < n else False, seed=seed)


def _plainly(lit: LitGLM, batches: Any, trainer: Any, decay: bool) -> tuple[int, int] | None:
    """Train without a Trainer, where none of what it offers is asked for; None where one is needed."""
    given = {} if trainer is None else trainer
    simple = isinstance(given, Mapping) and set(given) <= {"max_epochs", "max_steps"} and isinstance(batches, Sized)
    if not simple or int(os.environ.get("WORLD_SIZE", 1)) > 1 or rank_and_world()[1] > 1:
        return None
    closed, most = ClosedForm.of(lit.model, lit.scale), given.get("max_steps", -1)
    epochs = given.get("max_epochs", EPOCHS if most < 0 else -(-most // max(1, len(batches))))
    optimizer = lit.configure_optimizers()
    if closed is None or not isinstance(epochs, int) or epochs < 0:
        return None
    return descend(closed, optimizer, batches, epochs, most, decay)


def _each(batches: Iterable[Any], head: GLMHead) -> Iterator[GLMBatch]:
    """Batches as the head takes them."""
    return (as_batch(batch, head.link) for batch in batches)


def _whitened(rows: GLMBatch, inner: WhitenedGLM, batch_size: int | None, seed: int) -> TensorBatches:
    """Batches of a copy of the rows on whitened columns, in random order, so that a batch is a run of rows."""
    n, layer, device = rows.x.shape[0], inner.backbone, rows.x.device
    size = n if batch_size is None else min(batch_size, n)
    order = torch.randperm(n, generator=generator_of(seed, device=device), device=device)
    mean, weight, bias = (value.to(device) for value in (layer.mean, layer.weight, layer.bias))
    z = torch.empty(n, len(weight), dtype=weight.dtype, device=device)
    for part, into in zip(order.split(PIECE), z.split(PIECE), strict=True):
        centred = rows.x.index_select(0, part).to(mean.dtype).sub_(mean)
        torch.addmm(bias, centred, weight.mT, out=into)
    mixed = take(rows._replace(x=order), order)._replace(x=z)
    return TensorBatches(mixed, size, shuffle="blocks" if size < n else False, seed=seed)


def _sgd(parameters: Iterable[nn.Parameter]) -> Optimizer:
    return SGD(parameters, lr=0.3)


def _penalty_of(penalty: Penalty, inner: WhitenedGLM, total: float) -> Callable[[nn.Module], Tensor]:
    """The penalty on the coefficients, over the weight `total` of all rows, as a function of the whitened model."""

    def value(model: nn.Module) -> Tensor:
        weight, bias = inner.coefficients()
        coef = (weight if inner.head.bias is None else torch.cat([bias.reshape(1), weight])).unsqueeze(0)
        return penalty.value(coef, coef.new_full((1,), total))[0] / total

    return value


def _ranks(held: GLMBatch | None) -> Ranks:
    """The processes of torch.distributed, which have some of the batches of a loader each; tensors are whole."""
    return Ranks.here() if held is None else Ranks()
