"""Passes on a CUDA device as one kernel: which passes it takes, how it is launched, and how far it is trusted.

Triton compiles the kernel when it is first used. Then, for each kind of it, its sums of a few thousand of the rows at
hand are held to those of the plain road; where they differ, or the kernel cannot be made, a warning says so and that
kind is not used again in the process. What the kernel does not take (the pass that judges the end among them) goes the
plain road, as everything does where there is no Triton.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.fitting.moments import Moments, Point
from torchglm.links import Link
from torchglm.rows.grams import Dense
from torchglm.rows.rows import Rows
from torchglm.writing.warning import tell

WIDEST = 64  # columns whose information a program keeps in its registers
LEAST = 1 << 20  # numbers of the designs from which on a pass is worth a kernel that may have to be compiled first
TILE = 2048  # numbers of the design that a program takes at a time: with its warps nothing leaves the registers
SUMMED = 8  # the kernel's sums, and two more for a power of two
PROGRAMS = 4  # for each multiprocessor
TRIED = (16, 1 << 12)  # models, and rows of each, on which a kernel is held to the plain road
CLOSE, CLOSE_SINGLE = 1e-9, 1e-4  # share of their sizes by which the sums may differ there

Plain = Callable[[Rows, Point, Family, Link], Moments]

_trusted: dict[tuple[object, ...], bool] = {}  # kinds of kernels, and whether they held


def fused(rows: Rows, point: Point, family: Family, link: Link, plain: Plain) -> Moments | None:
    """The moments of rows by the kernel; None where it does not take them, or does not agree with the `plain` road."""
    if not ready(rows) or not serves(rows, point, family, link):
        return None
    single = point.single and point.curved
    model = (rows.y.device, type(family), type(link))
    kind = (
        *model,
        rows.x.dtype,
        _padded(rows),
        rows.intercept,
        rows.shared,
        rows.repeats is None,
        point.curved,
        single,
    )
    if kind not in _trusted:
        held = _held(rows, point, family, link, plain)
        if held is None:
            return None
        _trusted[kind] = held
    return launch(rows, point, family, link) if _trusted[kind] else None


def ready(rows: Rows) -> bool:
    """Whether there is a kernel for a device like that of the rows, and enough work for one."""
    return rows.y.is_cuda and rows.y.numel() * rows.columns >= LEAST and _has_triton()


@cache
def _has_triton() -> bool:
    """Whether Triton is here and can be imported; one that cannot be is told of."""
    if find_spec("triton") is None:
        return False
    try:
        import triton  # noqa: F401
    except Exception as error:  # of a driver or a compiler that it misses
        _warn(f"needs Triton, which cannot be imported ({type(error).__name__}: {error})")
        return False
    return True


def serves(rows: Rows, point: Point, family: Family, link: Link) -> bool:
    """Whether the kernel knows what is asked: the sums of a step of a family and link that are in its table."""
    from torchglm.families.on_card import pair_of

    if point.coef is None or point.before is not None or not point.likelihood:
        return False
    if point.factor or point.relative or point.shapes or (torch.is_grad_enabled() and point.coef.requires_grad):
        return False
    plain = rows.plan is None and rows.indexed is None and rows.second is None
    return plain and 0 < rows.columns <= WIDEST and pair_of(family, link) is not None


def launch(rows: Rows, point: Point, family: Family, link: Link, programs: int | None = None) -> Moments:
    """The moments of rows by the kernel; `programs` is about how many run side by side."""
    from torchglm.families.on_card import pair_of
    from torchglm.fitting.fused_kernel import fused_pass

    known, coef, device = pair_of(family, link), point.coef, rows.y.device
    assert known is not None and coef is not None
    (models, n), p, width = rows.y.shape, rows.columns, _padded(rows)
    tile = TILE // width
    parts = max(1, min(-(-(programs or _programs(device)) // models), -(-n // tile)))
    curved, first = point.curved, int(rows.intercept)
    gram = torch.empty(models, parts, p if curved else 0, p if curved else 0, dtype=torch.float64, device=device)
    score = torch.empty(models, parts, p, dtype=torch.float64, device=device)
    sums = torch.empty(models, parts, SUMMED, dtype=torch.float64, device=device)
    repeats = rows.weight if rows.repeats is None else rows.repeats
    shape = 0.0 if known.shape is None else getattr(family, known.shape).detach()
    strides = (0 if rows.shared else rows.x.stride(0), *rows.x.stride()[-2:])
    beside = [step for values in (rows.y, rows.weight, rows.offset, repeats) for step in values.stride()]
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        fused_pass[(models, parts)](
            *(rows.x, rows.y, rows.weight, rows.offset, repeats),
            *(coef.to(torch.float64).contiguous(), _each(point.observed, coef), _each(shape, coef)),
            *(gram, score, sums, n, p, *strides, *beside),
            *(family.mean_lower, family.mean_upper),
            FORMULAS=known.formulas,
            CLOSED=bool(family.valid_mean(torch.tensor(family.mean_upper))),
            REPEATED=rows.repeats is not None,
            FIRST=first,
            CURVED=curved,
            SINGLE=point.single,
            P=width,
            ROWS=tile,
            SUMMED=SUMMED,
            num_warps=4 if width == 16 else 8,
        )
    return _moments(gram, score, sums, point)


def _padded(rows: Rows) -> int:
    """The columns that a program keeps: a power of two, as Triton's products take them."""
    return max(16, 1 << (rows.columns - 1).bit_length())


@cache
def _programs(device: torch.device) -> int:
    return PROGRAMS * torch.cuda.get_device_properties(device).multi_processor_count


def _each(value: Tensor | float | bool, coef: Tensor) -> Tensor:
    """(B,) float64 a number for each model."""
    number = torch.as_tensor(value, dtype=torch.float64, device=coef.device)
    return number.expand(coef.shape[0]).contiguous()


def _moments(gram: Tensor, score: Tensor, sums: Tensor, point: Point) -> Moments:
    """The moments of what the programs left, `(B, parts, ...)` each; the order in which they are summed is fixed."""
    half, scale, invalid, *counted, _, _ = sums.sum(1).unbind(-1)
    found = Moments.of_step(Dense(gram.sum(1)), score.sum(1), half, scale, invalid)
    if not point.census:
        return found
    weight, count, response = counted
    return replace(found, weight=weight, count=count, response=response)


def _held(rows: Rows, point: Point, family: Family, link: Link, plain: Plain) -> bool | None:
    """Whether the kernel agrees with the plain road on some of the rows; None where that has no finite sums there."""
    models, count = TRIED
    few = rows.take(slice(0, models)).between(0, count)
    at, member = _first(point, family, few.y.shape[0])
    whole = plain(few, replace(at, curved=True, single=False), member, link)
    if not bool(whole.valid.all()):
        return None
    try:
        own = launch(few, at, member, link)
    except Exception as error:  # of Triton, its compiler or the driver: whatever it is, the plain road is at hand
        _warn(f"could not be made ({type(error).__name__}: {error})")
        return False
    off = _difference(own, whole, at)
    if off <= (CLOSE_SINGLE if point.single else CLOSE):
        return True
    _warn(f"disagrees with torch by {off:.1e} on {few.y.shape[-1]} rows")
    return False


def _first(point: Point, family: Family, models: int) -> tuple[Point, Family]:
    """The point and the family of the first models."""
    assert point.coef is not None
    observed = point.observed if isinstance(point.observed, bool) else point.observed[:models]
    shapes = {name: value[:models] for name, value in family.shapes.items() if value.dim()}
    return replace(point, coef=point.coef[:models], observed=observed), family.with_parameters(shapes)


def _difference(own: Moments, whole: Moments, point: Point) -> float:
    """The largest difference of two sums of the same rows, as a share of their sizes."""
    gram = whole.gram.written_out()
    length = gram.diagonal(dim1=-2, dim2=-1).abs().sqrt().clamp(min=1e-150)
    size = (whole.objective.abs() + whole.scale.abs()).clamp(min=1e-300)
    off = [
        (own.score - whole.score).abs() / (length * size.sqrt().unsqueeze(-1)),
        (own.objective - whole.objective).abs() / size,
        (own.scale - whole.scale).abs() / size,
        (own.invalid > 0).to(torch.float64) - (whole.invalid > 0).to(torch.float64),
    ]
    if point.curved:
        across = length.unsqueeze(-1) * length.unsqueeze(-2)
        off.append((own.gram.written_out() - gram).abs() / across)
    if point.census:
        off += [
            (getattr(own, name) - getattr(whole, name)).abs() / (1 + getattr(whole, name).abs())
            for name in ("weight", "count", "response")
        ]
    worst = torch.stack([part.nan_to_num(nan=torch.inf).amax() for part in off]).amax()
    return float(worst)


def _warn(what: str) -> None:
    tell(
        f"The kernel for this pass {what}. Plain torch takes its place, more slowly; the answer is the same.",
        RuntimeWarning,
    )
