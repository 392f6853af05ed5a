"""Columns on which a GLM's gradient descent is well conditioned, and the exact way back to those given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchglm.inputs import GLMBatch
from torchglm.model.face import GLMHead
from torchglm.rows.products import product
from torchglm.rows.ranks import ALONE, Ranks
from torchglm.rows.responses import Response, event_of, response, size_of
from torchglm.rows.rows import BLOCK
from torchglm.rows.threads import spread
from torchglm.training.batches import take

LOST = 1e-5  # share of a standard deviation that rounding may take where sums of columns are centred after the fact
RANK = 1e-10  # directions of less than this share of the largest variance, in columns of unit variance, go


class Additive(Protocol):
    """What adds over blocks."""

    def __add__(self, other: Any) -> Any: ...


Sum = TypeVar("Sum", bound=Additive)


@dataclass(frozen=True)
class BatchRows:
    """The rows of a batch in float64, on the head's device, as families take them; all but `x` are (n,).

    `x` is a copy, to be worked on in place.
    """

    x: Tensor
    y: Tensor
    weight: Tensor
    offset: Tensor
    event: Tensor | None = None

    @property
    def response(self) -> Response:
        """The response as the formulas of the family take it."""
        return response(self.y, self.event)

    @classmethod
    def of(cls, batch: GLMBatch, head: GLMHead) -> BatchRows:
        """The rows of a batch. Raises `ValueError` for shapes other than x (n, p), y (n,) or (n, 1)."""
        given = {name: value for name, value in batch._asdict().items() if value is not None}
        n = len(given["x"])
        shapes = {name: tuple(value.shape) for name, value in given.items()}
        columns = [shape in ((n,), (n, 1)) for name, shape in shapes.items() if name != "x"]
        if shapes["x"] != (n, head.in_features) or "y" not in given or not all(columns):
            raise ValueError(
                f"A batch to fit needs x (n, {head.in_features}), y (n,) and the others like y; got {shapes}."
            )

        def flat(value: Tensor) -> Tensor:
            return value.detach().to(head.weight.device, torch.float64).reshape(n)

        y, roles = flat(given["y"]), batch.roles.map(lambda name, value: flat(value))
        weight = torch.ones_like(y) if roles.weight is None else roles.weight
        y, roles = roles.readable(y, weight > 0)
        encoded, factor = head.family.encode(y, **roles.of_response)
        offset = torch.zeros_like(y) if roles.offset is None else roles.offset
        x = batch.x.detach().to(y, copy=True)
        return cls(x, size_of(encoded), weight if factor is None else weight * factor, offset, event_of(encoded))


def folded(work: Callable[[BatchRows], Sum], batch: GLMBatch, head: GLMHead) -> list[Sum]:
    """Sums over the rows of a batch, of blocks that fit a core's cache, one sum for each thread."""
    n = batch.x.shape[0]
    size = max(256, BLOCK // max(1, head.in_features)) if batch.x.device.type == "cpu" else max(1, n)

    def part(starts: Sequence[int]) -> Sum:
        total = None
        for start in starts:
            new = work(BatchRows.of(take(batch, slice(start, start + size)), head))
            total = new if total is None else total + new
        assert total is not None
        return total

    return spread(part, list(range(0, n, size))) if n else []


@dataclass(frozen=True)
class Whitening:
    """What one pass learns: `z = matrix' (x - mean)` has mean 0 and unit, uncorrelated columns.

    `mean` `(p,)` (zeros without an intercept), `matrix` `(p, q)`, `q <= p` being the rank. `start` is the
    intercept of about the null model and `unit` a typical effect on `eta`: the parameters are trained in this
    unit, and the loss over `scale`, so that its Hessian at the null model is about the identity. `spread` is how far
    a mean lies from zero in standard deviations of its column, at most; `total` is the sum of the weights.
    """

    mean: Tensor
    matrix: Tensor
    start: float
    unit: float
    scale: float
    spread: float
    intercept: bool
    total: float

    @classmethod
    def learn(cls, head: GLMHead, batches: Iterable[GLMBatch], ranks: Ranks = ALONE) -> Whitening:
        """One pass over the batches, of which the processes `ranks` have some each.

        Raises `ValueError` where no row has a positive weight.
        """
        rest = iter(batches)
        with ranks.together():
            first = next((batch for batch in rest if len(batch.x)), None)
            if first is None:
                raise ValueError("There is no row of positive weight to fit.")
            centre = BatchRows.of(take(first, slice(0, 1 << 12)), head).x.mean(0)
        shift = ranks.sum(centre)[0] / ranks.size  # all centre their sums alike
        sums: _Sums | None = None
        with ranks.together():
            for batch in chain([first], rest):
                for new in folded(lambda rows: _Sums.of(rows, shift, head), batch, head):
                    sums = new if sums is None else sums + new
        assert sums is not None
        sums = sums.over(ranks)
        if not float(sums.weight) > 0:
            raise ValueError("There is no row of positive weight to fit.")
        mean, matrix = sums.whitening(head.bias is not None)
        return cls(
            mean, matrix, *sums.natural_scale(head), sums.spread(mean), head.bias is not None, float(sums.weight)
        )

    def whitened(self, head: GLMHead) -> WhitenedGLM:
        """The null model on the whitened columns: a frozen layer, and a head like `head`."""
        layer = Whitened(
            self.mean, self._with_constant(self.matrix.mT), self.unit if self.intercept else 0.0, head.weight
        )
        inner = GLMHead(
            layer.weight.shape[0],
            head.family,
            head.link,
            bias=self.intercept,
            device=head.weight.device,
            dtype=head.weight.dtype,
            dispersion="learned" if head.dispersion_kind == "learned" else None,
        )
        inner.family = head.family  # what is learned of it is the head's own
        inner.continuation.steep = False, False  # a rate that is too high is to be seen, and said
        if head.dispersion_kind == "learned":
            inner.log_dispersion = head.log_dispersion
        if inner.bias is not None:
            nn.init.constant_(inner.bias, self.start).requires_grad_(False)
        return WhitenedGLM(layer, inner, self.spread * torch.finfo(inner.weight.dtype).eps > LOST)

    def _with_constant(self, rows: Tensor) -> Tensor:
        rows = rows * self.unit
        return torch.cat([rows.new_zeros(1, rows.shape[1]), rows]) if self.intercept else rows


class Whitened(nn.Module):
    """`weight (x - mean) + bias`: columns of variance `unit^2` after a constant one; nothing is trained."""

    mean: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, mean: Tensor, weight: Tensor, constant: float, like: Tensor) -> None:
        super().__init__()
        bias = torch.zeros(weight.shape[0])
        bias[:1] = constant
        for name, value in (("mean", mean), ("weight", weight), ("bias", bias)):
            self.register_buffer(name, value.to(like))

    def forward(self, x: Tensor) -> Tensor:
        """`(n, p)` to `(n, q + 1)`, in float32 or wider."""
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.to(self.mean.dtype) - self.mean, self.weight, self.bias)


class WhitenedGLM(nn.Module):
    """A GLM on whitened columns, and its coefficients on the columns given.

    `far` says that rounding asks for the mean to be taken off each row, not off the sums.
    """

    matrix: Tensor  # (q, p + 1), from trained weights to weight and bias on the columns given

    def __init__(self, backbone: Whitened, head: GLMHead, far: bool = True) -> None:
        super().__init__()
        self.backbone, self.head, self.far = backbone, head, far
        constant = (
            backbone.bias.double()
            if far
            else (backbone.bias.double() - backbone.weight.double() @ backbone.mean.double())
        )
        matrix = torch.cat([backbone.weight, constant.to(backbone.weight).unsqueeze(1)], 1)
        self.register_buffer("matrix", matrix, persistent=False)

    def parts(self) -> list[nn.Parameter]:
        """What is trained."""
        return [self.head.weight]

    def line(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Weight `(1, p)`, bias `(1,)` and centre of `eta = (x - centre) weight' + bias`."""
        both = self.head.weight.detach() @ self.matrix
        bias = both[:, -1] if self.head.bias is None else both[:, -1] + self.head.bias.detach()
        return both[:, :-1], bias.view(1), self.backbone.mean if self.far else None

    def pull(self, by_x: Tensor, by_one: Tensor) -> list[Tensor]:
        """The gradient of the trained weights from that of weight and bias."""
        return [torch.cat([by_x, by_one.view(1, 1)], 1) @ self.matrix.mT]

    @property
    def trained(self) -> Tensor:
        """The trained weights `(q,)` in float64."""
        return self.head.weight[0].double()

    @property
    def start(self) -> Tensor:
        """The part of `eta` that is fixed, `()` in float64."""
        return self.trained.new_zeros(()) if self.head.bias is None else self.head.bias[0].double()

    def coefficients(self) -> tuple[Tensor, Tensor]:
        """The weight `(p,)` on the columns given, and the bias `()`, in float64; differentiable."""
        layer = self.backbone
        weight = self.trained @ layer.weight.double()
        bias = self.start + self.trained @ layer.bias.double() - weight @ layer.mean.double()
        return weight, bias

    @torch.no_grad()
    def write(self, head: GLMHead) -> None:
        """Put what was trained into a head on the columns given."""
        weight, bias = self.coefficients()
        head.set_coef_(weight if head.bias is None else torch.cat([bias.reshape(1), weight]))


@dataclass(frozen=True)
class _Sums:
    """Weighted sums of columns (about a shift) and responses; they add over batches."""

    shift: Tensor
    weight: Tensor
    x: Tensor  # (p,)
    gram: Tensor  # (p, p)
    y: Tensor  # (4,): weight of responses, sum of y, of y squared, of exp(offset)
    offset: Tensor

    @classmethod
    def of(cls, rows: BatchRows, shift: Tensor, head: GLMHead) -> _Sums:
        x, w = rows.x.sub_(shift), rows.weight
        used, gone = w > 0, bool((w == 0).any())
        if gone:
            x, w = torch.where(used.unsqueeze(-1), x, 0.0), torch.where(used, w, 0.0)
        size = rows.y
        seen = w if rows.event is None else w * rows.event
        y = torch.stack(
            [seen.sum(), *((torch.where(used, w * v, 0.0)).sum() for v in (size, size.square(), rows.offset.exp()))]
        )
        mean = w @ x
        half = x.mul_(w.sqrt().unsqueeze(-1))
        return cls(shift, w.sum(), mean, product(half.mT, half), y, (w * rows.offset).sum())

    def __add__(self, other: _Sums) -> _Sums:
        return _Sums(
            self.shift,
            self.weight + other.weight,
            self.x + other.x,
            self.gram + other.gram,
            self.y + other.y,
            self.offset + other.offset,
        )

    def over(self, ranks: Ranks) -> _Sums:
        """The sums over the rows of all processes."""
        return _Sums(self.shift, *ranks.sum(self.weight, self.x, self.gram, self.y, self.offset))

    def whitening(self, centred: bool) -> tuple[Tensor, Tensor]:
        """The mean `(p,)` to take off and the matrix `(p, q)` whose columns make unit, uncorrelated ones."""
        away = self.x / self.weight
        mean = self.shift + away if centred else torch.zeros_like(self.shift)
        second = self.gram / self.weight - torch.outer(away, away)
        if not centred:
            second = second + torch.outer(self.shift + away, self.shift + away)
        variance = second.diagonal()
        real = variance > 1e-13 * (away + self.shift).square()  # else the column varies by rounding alone
        sd = torch.where(real, variance, 1.0).sqrt()
        values, vectors = torch.linalg.eigh(second / torch.outer(sd, sd) * torch.outer(real, real))
        kept = values > RANK * values[-1].clamp(min=1e-300)
        return mean, vectors[:, kept] / values[kept].sqrt() / sd.unsqueeze(-1)

    def spread(self, mean: Tensor) -> float:
        """The largest mean in standard deviations of its column; columns that do not vary count as one."""
        away = self.x / self.weight
        sd = (self.gram.diagonal() / self.weight - away.square()).clamp(min=0).sqrt()
        real = sd > 3e-7 * mean.abs()
        return float(torch.where(real, mean.abs() / torch.where(real, sd, 1.0), 0.0).max()) if len(mean) else 0.0

    def natural_scale(self, head: GLMHead) -> tuple[float, float, float]:
        """The intercept of about the null model, the unit of effects on `eta`, the loss's curvature in it."""
        family, link = head.family, head.link
        seen, size, square, exposure = self.y
        total = self.weight
        mean = size / seen.clamp(min=1e-300)
        if not bool(family.valid_mean(mean)):
            mean = family.initial_mean(size / total, total)
        variance = (square / total - (size / total).square()).clamp(min=0)
        spread = variance.sqrt()
        if family.mean_upper == 1:
            spread = spread.clamp(max=float(mean * (1 - mean)))
        elif family.mean_lower == 0:
            spread = spread.clamp(max=float(mean))
        spread = torch.where(spread > 0, spread, family.variance(mean).sqrt()).detach()
        eta = link.link(mean)
        slope = link.inverse_deriv(eta).abs()
        moved = torch.log(exposure / total) if link.multiplies == "mean" else self.offset / total
        curvature = (spread.square() / family.variance(mean)).detach()
        return float(eta - moved), float(spread / slope), float(curvature)
