"""Columns on which a GLM's gradient descent is well conditioned, and the exact way back to those given."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchglm.head import GLMHead
from torchglm.inputs import GLMBatch

RANK = 1e-10  # directions of less than this share of the largest variance, in columns of unit variance, go


@dataclass(frozen=True)
class Rows:
    """The rows of a batch in float64, on the head's device, as families take them; all but `x` are (n,)."""

    x: Tensor
    y: Tensor
    weight: Tensor
    offset: Tensor

    @classmethod
    def of(cls, batch: GLMBatch, head: GLMHead) -> Rows:
        """The rows of a batch. Raises `ValueError` for shapes other than x (n, p), y (n,) or (n, 1)."""
        given = {name: value for name, value in batch._asdict().items() if value is not None}
        n = len(given["x"])
        shapes = {name: tuple(value.shape) for name, value in given.items()}
        columns = [shape in ((n,), (n, 1)) for name, shape in shapes.items() if name != "x"]
        if shapes["x"] != (n, head.in_features) or "y" not in given or not all(columns):
            raise ValueError(f"A batch to fit needs x (n, {head.in_features}), y (n,) and the others like y; "
                             f"got {shapes}.")
        flat = {name: value.detach().to(head.weight.device, torch.float64).reshape(n)
                for name, value in given.items() if name != "x"}
        y, factor = head.family.encode(flat["y"], trials=flat.get("trials"), event=flat.get("event"))
        weight, offset = flat.get("weight", torch.ones_like(y)), flat.get("offset", torch.zeros_like(y))
        x = batch.x.detach().to(y)
        return cls(x, y, weight if factor is None else weight * factor, offset)


@dataclass(frozen=True)
class Columns:
    """What one pass learns: `z = matrix' (x - mean)` has mean 0 and unit, uncorrelated columns.

    `mean` `(p,)` (zeros without an intercept), `matrix` `(p, q)`, `q <= p` being the rank. `start` is the
    intercept of about the null model and `unit` a typical effect on `eta`: the parameters are trained in this
    unit, and the loss over `scale`, so that its Hessian at the null model is about the identity.
    """

    mean: Tensor
    matrix: Tensor
    start: float
    unit: float
    scale: float
    intercept: bool

    @classmethod
    def learn(cls, head: GLMHead, batches: Iterable[GLMBatch]) -> Columns:
        """One pass over the batches. Raises `ValueError` where no row has a positive weight."""
        sums = None
        for batch in batches:
            rows = Rows.of(batch, head)
            shift = rows.x.mean(0) if sums is None else sums.shift
            part = _Sums.of(rows, shift, head)
            sums = part if sums is None else sums + part
        if sums is None or not float(sums.weight) > 0:
            raise ValueError("There is no row of positive weight to fit.")
        mean, matrix = sums.whitening(head.bias is not None)
        return cls(mean, matrix, *sums.natural_scale(head), head.bias is not None)

    def whitened(self, head: GLMHead) -> WhitenedGLM:
        """The null model on the whitened columns: a frozen layer, and a head like `head`."""
        layer = Whitened(self.mean, self._with_constant(self.matrix.mT), self.unit if self.intercept else 0.0,
                         head.weight)
        inner = GLMHead(layer.weight.shape[0], head.family, head.link, bias=self.intercept,
                        device=head.weight.device, dtype=head.weight.dtype)
        inner.log_dispersion = head.log_dispersion
        if inner.bias is not None:
            nn.init.constant_(inner.bias, self.start).requires_grad_(False)
        return WhitenedGLM(layer, inner)

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
    """A GLM on whitened columns, and its coefficients on the columns given."""

    def __init__(self, backbone: Whitened, head: GLMHead) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

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
        head.weight.copy_(weight.unsqueeze(0))
        if head.bias is not None:
            head.bias.copy_(bias)


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
    def of(cls, rows: Rows, shift: Tensor, head: GLMHead) -> _Sums:
        used = rows.weight > 0
        x, w = torch.where(used.unsqueeze(-1), rows.x - shift, 0.0), torch.where(used, rows.weight, 0.0)
        size = rows.y.abs() if head.family.signed else rows.y
        seen = w * (rows.y > 0) if head.family.signed else w
        y = torch.stack([seen.sum(), *((torch.where(used, w * v, 0.0)).sum() for v in
                                       (size, size.square(), rows.offset.exp()))])
        return cls(shift, w.sum(), w @ x, (x * w.unsqueeze(-1)).mT @ x, y, (w * rows.offset).sum())

    def __add__(self, other: _Sums) -> _Sums:
        return _Sums(self.shift, self.weight + other.weight, self.x + other.x, self.gram + other.gram,
                     self.y + other.y, self.offset + other.offset)

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
        moved = torch.log(exposure / total) if link.name == "log" else self.offset / total
        curvature = (spread.square() / family.variance(mean)).detach()
        return float(eta - moved), float(spread / slope), float(curvature)
