"""IRLS under a Lightning Trainer: LitIRLS makes one Newton step an epoch, without autograd.

lit = LitIRLS(GLMHead(10, "poisson"))
Trainer(max_epochs=50).fit(lit, TensorBatches(GLMBatch(x, y)))
lit.head, lit.std_err, lit.status
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim import Optimizer

from torchglm.families.several import VectorFamily
from torchglm.fitting.kernel import moments
from torchglm.fitting.moments import Moments
from torchglm.fitting.penalties import Penalty
from torchglm.fitting.problem import Problem
from torchglm.fitting.search import Search
from torchglm.fitting.status import FitWarning, Status
from torchglm.inputs import as_batch
from torchglm.model.face import GLMHead
from torchglm.model.head_rows import check_penalty, plan_of_head, problem_of, rows_of_batch
from torchglm.training.batches import rank_and_world
from torchglm.training.logged_metrics import Scores
from torchglm.training.model_head import mean_metrics, metric_of, predicted, squeezed
from torchglm.writing.answering import answering_init
from torchglm.writing.warning import tell


@answering_init
class LitIRLS(LightningModule):
    """Fits a head of one response by IRLS: an epoch is a pass over the rows and one Newton step, or half of one.

    The sums are float64, and so are the coefficients between epochs; after the last batch of an epoch the accepted
    ones are written into the head, so that validation and checkpoints see them. Training stops by itself at the
    maximum. Every epoch must bring the same rows, in any order: a loader that leaves some out (`drop_last` of a
    shuffled one) or changes them has no maximum to find. Ranks add their sums; the loader must not give a row to
    two of them (`TensorBatches` and `ArrowBatches` do not). A checkpoint goes on from its coefficients.

    Args:
        head: what to fit; a weight and bias to begin from are taken with `warm`, else the rows tell.
        penalty: `Ridge` or `ElasticNet` on the weight.
        tol: of the Newton decrement, as in `torchglm.fit`.
        warm: begin at the head's own coefficients.

    Logged by epoch: `train_deviance`, the mean deviance at the last coefficients tried (of several predictors twice the
    mean negative log-likelihood), `val_deviance` and `test_deviance` (of several predictors the metrics of `LitGLM`),
    those of several loaders apart.
    Raises `ValueError` for several responses, classes that are not known,
    a family whose shape is to be estimated, and rows that do not fit.
    """

    def __init__(self, head: GLMHead, penalty: Penalty | None = None, tol: float = 1e-8, *, warm: bool = False) -> None:
        super().__init__()
        if not isinstance(head, GLMHead):
            raise TypeError(
                f"LitIRLS fits a GLMHead alone, got {type(head).__name__}. For a network use LitGLM, with "
                "the callback IRLSHead where its head is to be exact."
            )
        if head.out_features != 1:
            raise ValueError(f"LitIRLS fits one response, this head has {head.out_features}. Use torchglm.fit.")
        if head.family.estimates_shape:
            raise ValueError(
                f"the shape of the {head.family.name} family is to be estimated. Give its value, or use torchglm.fit."
            )
        plan_of_head(head)  # classes that are not known are told now
        check_penalty(penalty)
        self.automatic_optimization = False
        self.head, self.penalty, self.tol, self.warm = head, penalty, tol, warm
        self.metrics = Scores(lambda: {name: metric_of(head, kind) for name, kind in mean_metrics(head).items()})
        self.search: Search | None = None
        self._sums: Moments | None = None
        self._deviance = torch.tensor(torch.nan, dtype=torch.float64)
        self._resumed: Tensor | None = None

    def forward(self, x: Tensor, offset: Tensor | None = None) -> Tensor:
        """The means `(n, 1)`."""
        return self.head(x, offset)

    @property
    def status(self) -> Status:
        """How the search ended; `ITERATION_LIMIT` where the Trainer ended before it."""
        if self.search is None or not self.search.done:
            return Status.ITERATION_LIMIT
        return Status(int(self.search.solution.status[0]))

    @property
    def coef(self) -> Tensor:
        """The coefficients `(p,)` in float64, the intercept first."""
        if self.search is None and self._resumed is not None:
            return self._resumed[0]
        return self._found().coef[0]

    @property
    def dispersion(self) -> Tensor:
        """Pearson's estimate of the dispersion `()`, 1 for a family without one."""
        moments, keep, _ = self._found().here()
        if not self.head.family.has_dispersion:
            return torch.ones_like(moments.objective[0])
        return moments.pearson[0] / (moments.count[0] - keep[0].sum())

    @property
    def covariance(self) -> Tensor:
        """The covariance `(p, p)` of the coefficients; aliased columns are NaN.

        By the expected information, and of several predictors by the observed one.
        """
        moments, keep, root = self._found().here()
        half = root.inverse()[0]
        inverse = half if self.penalty is None else half @ moments.gram.written_out()[0] @ half
        return torch.where(keep[0].unsqueeze(-1) & keep[0], self.dispersion * inverse, torch.nan)

    @property
    def std_err(self) -> Tensor:
        """The standard errors `(p,)` of the coefficients."""
        return self.covariance.diagonal().sqrt()

    def on_fit_start(self) -> None:
        """Begin the search, where a checkpoint ended or anew."""
        start = self._resumed
        if start is None and self.warm:
            start = self.head.coef
        self.search, self._sums = Search(self._problem(), start=start, reports=True), None

    def _problem(self) -> Problem:
        return problem_of(self.head, self.penalty, self.device, self.tol, sys.maxsize)  # the Trainer counts the steps

    @torch.no_grad()
    def training_step(self, batch: Any, batch_idx: int = 0) -> None:
        """Add the sums of one batch, and after the last one step."""
        assert self.search is not None
        given = as_batch(batch, self.head.link)
        if given.event is not None and not isinstance(self.head.family, VectorFamily):
            raise ValueError("event= needs the observed information, which LitIRLS does not carry. Use torchglm.fit.")
        try:
            rows = rows_of_batch(self.head, given.x, given.y, given.roles)
        except (ValueError, TypeError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"batch {batch_idx}: {error}") from None
        part = moments(rows, self.search.point, self.head.family, self.head.link)
        self._sums = part if self._sums is None else self._sums + part
        if self.trainer.is_last_batch:
            optimizer = self.optimizers()
            assert not isinstance(optimizer, list)
            optimizer.step()

    def _step(self) -> None:
        """Judge the pass, and write the accepted coefficients into the head."""
        search, point = self.search, self.search.point if self.search else None
        assert search is not None and point is not None and self._sums is not None
        total, self._sums = over_ranks(self._sums), None
        counted = not search.problem.several or total.statistics is not None  # not the pass at the first constants
        if point.likelihood and counted:
            if not bool(total.weight > 0):
                raise ValueError("There is no row of positive weight to fit.")
            self._deviance = 2 * total.objective[0] / total.weight[0]
        search.take(total)
        self.log("train_deviance", self._deviance, prog_bar=True)
        if search.reached:
            self.head.set_coef_(search.coef)
        self.trainer.should_stop = search.done
        self._settle()
        if search.done and self.status != Status.CONVERGED:
            tell(f"LitIRLS: {self.status}: {self.status.explanation}", FitWarning)

    def _settle(self) -> None:
        """Put Pearson's dispersion, at the coefficients reached, into a head that is to have it estimated."""
        if self.head.dispersion_kind != "estimated" or self.search is None or not self.search.reached:
            return
        phi = self.dispersion
        if bool(torch.isfinite(phi) & (phi > 0)):
            self.head.set_dispersion_(phi)

    def validation_step(self, batch: Any, batch_idx: int = 0, dataloader_idx: int = 0) -> None:
        """Sums of one batch."""
        self._score("val", batch, dataloader_idx)

    def test_step(self, batch: Any, batch_idx: int = 0, dataloader_idx: int = 0) -> None:
        """Sums of one batch."""
        self._score("test", batch, dataloader_idx)

    def _score(self, stage: str, batch: Any, loader: int) -> None:
        rows = as_batch(batch, self.head.link)
        mu, y, given = predicted(self.head, rows.x, rows)
        for name, metric in self.metrics.of(self, stage, loader).items():
            metric.update(mu, y, **metric._filter_kwargs(**given))
            self.log(f"{stage}_{name}", metric, on_step=False, on_epoch=True, batch_size=y.shape[0])

    def predict_step(self, batch: Any, batch_idx: int = 0, dataloader_idx: int = 0) -> Tensor:
        """The means of one batch `(n,)`, of classes their probabilities `(n, C)`."""
        rows = as_batch(batch, self.head.link)
        return squeezed(self.head, self.head(rows.x, rows.offset))

    def configure_optimizers(self) -> Optimizer:
        """The Newton step as an optimizer, so that the Trainer counts steps and saves checkpoints."""
        return NewtonStep(self.head, self._step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the coefficients in float64."""
        if self.search is not None and self.search.reached:
            checkpoint["irls_coef"] = self.search.coef.cpu()

    def __getstate__(self) -> dict[str, Any]:
        """A copy made on the way begins where this one has come."""
        state = super().__getstate__()
        if self.search is not None and not self.search.done:
            resumed = self.search.coef if self.search.reached else self._resumed
            state |= {"search": None, "_sums": None, "_resumed": resumed}
        return state

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on from the coefficients of a checkpoint."""
        self._resumed = checkpoint.get("irls_coef")

    def _found(self) -> Search:
        if self.search is None or not self.search.reached:
            raise ValueError("No coefficients yet. Call Trainer.fit with three epochs or more.")
        return self.search


class NewtonStep(Optimizer):
    """An optimizer whose step is one function for all parameters of a head."""

    def __init__(self, head: GLMHead, move: Callable[[], None]) -> None:
        super().__init__(head.parameters(), {})
        self.move = move

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move the parameters; a closure is not called."""
        self.move()


def over_ranks(own: Moments) -> Moments:
    """The moments of the rows of all ranks, the same on each to the last bit."""
    if rank_and_world()[1] == 1:
        return own
    device = own.score.device
    parts: list[Any] = [None] * rank_and_world()[1]
    torch.distributed.all_gather_object(parts, _moved(own, "cpu"))
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return _moved(total, device)


def _moved(own: Moments, device: torch.device | str) -> Moments:
    moved: dict[str, Any] = {f.name: getattr(own, f.name) for f in fields(Moments)}
    moved = {name: None if value is None else value.to(device) for name, value in moved.items()}
    return Moments(**moved)
