"""The gradient of a linear head's loss in closed form: two products with the rows, and no autograd.

closed = ClosedForm.of(head)
if closed is not None and closed.takes(batch):
    closed.write(closed(batch))  # into .grad
    optimizer.step()
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Optimizer

from torchglm.families import MEMBERS, Family
from torchglm.inputs import GLMBatch, Roles
from torchglm.links import Link
from torchglm.model.eta_loss import without
from torchglm.model.face import GLMHead
from torchglm.rows.responses import Response, filled
from torchglm.training.batches import shared

STEEP = 1e8  # a mean gradient that only rows have in which exp(eta) is above 1e12


class Line(Protocol):
    """A model whose linear predictor is linear in what is trained."""

    @property
    def head(self) -> GLMHead:
        """The head that holds family and link."""

    def parts(self) -> list[nn.Parameter]:
        """What is trained, in the order of `pull`."""

    def line(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Weight `(r, p)` and bias `(r,)` of `eta = (x - centre) weight' + bias`, and the centre `(p,)` or None."""

    def pull(self, by_x: Tensor, by_one: Tensor) -> list[Tensor]:
        """The gradient for each part from that for weight `(r, p)` and bias `(r,)`."""


class HeadLine:
    """A head as it is."""

    def __init__(self, head: GLMHead) -> None:
        self.head = head
        bias = head.bias
        self.trained = [head.weight] if bias is None or not bias.requires_grad else [head.weight, bias]

    def parts(self) -> list[nn.Parameter]:
        """Weight and bias, or the weight where the bias is fixed."""
        return self.trained

    def line(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Weight and bias, wherever they lie now: callbacks may put other tensors into `.data`."""
        bias = self.head.bias
        return self.head.weight.detach(), None if bias is None else bias.detach(), None

    def pull(self, by_x: Tensor, by_one: Tensor) -> list[Tensor]:
        """The gradients themselves."""
        return [by_x, by_one] if len(self.trained) == 2 else [by_x]


class Sums(NamedTuple):
    """Of a batch: the sum `w nll` (None where not asked for), the sum of `w`, and the gradient of the mean loss."""

    total: Tensor | None
    weight: Tensor | float
    gradient: list[Tensor]


class ClosedForm:
    """Loss and gradient of a head of which weight and bias alone are trained; made by `of`.

    `d(sum w nll / sum w) / d(weight) = -(w s)' x / sum w` with the score `s = dl/deta` of `Family.score_and_weight`,
    which is a multiple of `y - mu` for a canonical link. Over ranks, `sum w` is theirs together.
    Source: McCullagh & Nelder (1989), Generalized Linear Models, section 2.5.
    """

    def __init__(self, model: Line, scale: float = 1.0) -> None:
        self.model, self.scale = model, scale
        self.head, self.parts = model.head, model.parts()
        self.family, self.link = model.head.family, model.head.link
        self.constant = not isinstance(model, HeadLine) or len(self.parts) == 2  # something is added to every row
        self.single, self.device = self.head.out_features == 1, self.head.weight.device
        self.ends = self.head.continuation
        self.steep = any(self.ends.steep)
        self.ratio = _ratio(self.family, self.link, self.head.weight.device)

    @classmethod
    def of(cls, model: Any, scale: float = 1.0) -> ClosedForm | None:
        """The closed form of a head, or of a model with a `line`, where it holds; None where autograd is needed.

        It is not for heads of which something else is trained (a shape, the dispersion) or the weight is not, for
        subclasses of heads and of families, families of one's own, heads with hooks, and half precision.
        """
        line = HeadLine(model) if isinstance(model, GLMHead) else model
        head = getattr(model, "head", None) if line is model else model
        if type(head) is not GLMHead or not hasattr(line, "line"):
            return None
        hooked = any(
            (module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks)
            for module in (model, *head.modules())
        )
        several = head.out_features > 1 and bool(head.family.shapes)  # whose shapes stand in columns
        other = several or head.continuation.pole or head.log_dispersion.requires_grad or not head.loss_is_plain
        own = type(head.family) not in MEMBERS  # whose score is not known to be the slope of its nll
        whole = all(part.requires_grad and not part._backward_hooks for part in line.parts())
        precise = head.weight.dtype in (torch.float32, torch.float64)
        return cls(line, scale) if whole and precise and not (hooked or other or own) else None

    def takes(self, rows: GLMBatch) -> bool:
        """Whether the rows have a response and a matrix on the device of the head."""
        x = rows.x
        return (
            isinstance(x, Tensor)
            and x.dim() == 2
            and x.is_floating_point()
            and rows.y is not None
            and x.device == self.device
            and not x.requires_grad
        )

    def __call__(self, rows: GLMBatch, loss: bool = True) -> Sums:
        """The sums of a batch; raises `ValueError` as `GLMHead.loss` does."""
        with _wide(rows.x):
            weight, bias, centre = self.model.line()
            x = rows.x if rows.x.dtype == weight.dtype else rows.x.to(weight.dtype)
            if x.shape[1] != weight.shape[1]:
                raise ValueError(
                    f"x has shape {tuple(x.shape)}, this head in_features={weight.shape[1]}. "
                    f"Pass x of shape (..., {weight.shape[1]})."
                )
            x = x if centre is None else x - centre
            eta = (
                F.linear(x, weight, bias)
                if not self.single
                else (torch.mv(x, weight[0]) if bias is None or not len(x) else torch.addmv(bias, x, weight[0]))
            )
            if rows.offset is not None:
                eta = eta + self._like(eta, rows.offset, "offset")
            y, w = self._response(rows.y, rows.roles, eta)
            mu = self.link.inverse(eta)
            mass = eta.numel() if w is None else w.sum()
            share = shared(mass, x.device) * self.scale
            if self.ends.edged:
                return self._continued(x, y, eta, w, mass, share)
            score = self.family.score_and_weight(y, eta, mu, self.link, False)[0] if self.ratio is None else y - mu
            factor = -(self.ratio or 1.0) / share
            slope = score * factor if w is None else torch.where(w > 0, w * score, 0.0) * factor
            by_x, by_one = self._products(x, slope, w)
            if self.steep and (x.is_cuda or not abs(float(by_one if by_one.numel() == 1 else by_one.sum())) < STEEP):
                return self._continued(x, y, eta, w, mass, share)
            total = None
            if loss:
                nll, _ = self.family.cheap(y, eta, mu, self.link, relative=True)
                total = nll.sum() if w is None else torch.where(w > 0, w * nll, 0.0).sum()
            return Sums(total, mass, self.model.pull(by_x, by_one))

    def _continued(self, x: Tensor, y: Response, eta: Tensor, w: Tensor | None, mass: Any, share: Any) -> Sums:
        """The sums where the loss may go on beyond the range of the link, whose slope autograd knows."""
        with torch.enable_grad():
            leaf = eta.detach().requires_grad_()
            nll = self.ends.nll(self.family, self.link, y, leaf)
            [slope] = torch.autograd.grad(nll.sum(), leaf)
        nll = nll.detach()
        if w is not None:
            slope, nll = torch.where(w > 0, w * slope, 0.0), torch.where(w > 0, w * nll, 0.0)
        by_x, by_one = self._products(x, slope / share, w)
        return Sums(nll.sum(), mass, self.model.pull(by_x, by_one))

    def _products(self, x: Tensor, slope: Tensor, w: Tensor | None) -> tuple[Tensor, Tensor]:
        """`slope' x` and `sum slope`, of the rows of positive weight: the others may hold NaN."""
        if w is not None and x.is_cuda:  # to look at values would wait for the device
            x = without(x, w <= 0)
        if self.single:
            by_x = torch.mv(x.mT, slope).unsqueeze(0)
            by_one = slope.sum().unsqueeze(0) if self.constant else by_x
        else:
            by_x, by_one = slope.mT @ x, slope.sum(0)
        if w is not None and not x.is_cuda and not math.isfinite(float(by_x.sum())):
            return self._products(without(x, w <= 0), slope, None)
        return by_x, by_one

    def write(self, found: Sums) -> None:
        """Put the gradient where an optimizer looks for it."""
        for part, gradient in zip(self.parts, found.gradient, strict=True):
            part.grad = gradient

    def loss(self, found: Sums) -> Tensor:
        """The mean loss, whose backward pass hands over the gradient; 0 where the sum was not asked for."""
        first = found.gradient[0]
        mean = (
            first.new_zeros(())
            if found.total is None
            else found.total / (shared(found.weight, first.device) * self.scale)
        )
        return _Known.apply(mean, found.gradient, *self.parts)

    def _like(self, eta: Tensor, value: Tensor, name: str) -> Tensor:
        """A value for each row in the shape and dtype of `eta`."""
        if value.shape == eta.shape and value.dtype == eta.dtype:
            return value
        return self.head.per_response(value, eta.view(-1, self.head.out_features), name).view(eta.shape)

    def _response(self, y: Any, roles: Roles, eta: Tensor) -> tuple[Response, Tensor | None]:
        """The encoded response and the weight (None: all ones), both like `eta`; what is dropped may hold anything."""
        y, w = self._like(eta, y, "y"), roles.weight
        w = w if w is None else self._like(eta, w, "weights" if roles.freq is None else "freq")
        if any(value is not None for value in roles.of_response.values()):
            roles = roles.without("offset").map(lambda name, value: self._like(eta, value, name))
            if w is not None:
                y, roles = roles.readable(y, w > 0)
        y, factor = self.family.encode(y, **roles.of_response)
        w = factor if w is None else w if factor is None else w * factor
        return (y if w is None else filled(y, w > 0, 1.0)), w


def stepper(optimizer: Optimizer) -> Callable[[], Any]:
    """The step of an optimizer; plain SGD is `part -= lr grad`, which takes less than all that `step` asks about."""
    plain = type(optimizer) is SGD and not any(
        group[name]
        for group in optimizer.param_groups
        for name in ("momentum", "weight_decay", "dampening", "nesterov", "maximize", "differentiable", "fused")
    )
    if not plain:
        return optimizer.step
    groups = [(group, [(part, part.detach()) for part in group["params"]]) for group in optimizer.param_groups]

    def step() -> None:
        for group, parts in groups:
            rate = float(group["lr"])
            for part, values in parts:
                if part.grad is not None:
                    values.add_(part.grad, alpha=-rate)

    return step


def _ratio(family: Family, link: Link, device: torch.device) -> float | None:
    """`(dmu/deta) / V(mu)` where it is the same at every mean, for a canonical link; None elsewhere."""
    if family.durations or not family.is_canonical(link):
        return None
    mean = torch.tensor(family.inner_mean, dtype=torch.float64, device=device)
    return float(family.slope_over_variance(link.inverse_deriv(link.link(mean)), mean).detach())


class _Known(torch.autograd.Function):
    """A loss whose gradient is known."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradient: list[Tensor], *parts: nn.Parameter) -> Tensor:
        ctx.gradient = gradient
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        return (None, None, *(upstream[0].to(gradient.dtype) * gradient for gradient in ctx.gradient))


def _wide(x: Tensor) -> AbstractContextManager[Any]:
    """Autocast off where it is on."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()
