"""A pass over the rows as one kernel on a CUDA device, written for Triton: each number of the design is read once."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def design_tile(x, row, n, columns, row_stride, column_stride, FIRST: tl.constexpr, P: tl.constexpr):
    """(R, P) float64 of the design: rows from `row` (R,) that are below `n`, with a column of ones where `FIRST` is 1.

    What lies outside is 0.
    """
    column = tl.arange(0, P) - FIRST
    known = (row < n)[:, None] & ((column >= 0) & (column < columns - FIRST))[None, :]
    tile = tl.load(x + row[:, None] * row_stride + column[None, :] * column_stride, mask=known, other=0.0)
    tile = tile.to(tl.float64)
    return tl.where((row < n)[:, None] & (column == -1)[None, :], 1.0, tile) if FIRST else tile


@triton.jit
def add_product(gram, tile, weight, SINGLE: tl.constexpr):
    """`gram` with `tile' diag(weight) tile` added: in IEEE float64, or the products of a `SINGLE` one in IEEE float32.

    Tensor cores that round to TF32 are never used.
    """
    if SINGLE:
        narrow = tile.to(tl.float32)
        scaled = narrow * weight.to(tl.float32)[:, None]
        return gram + tl.dot(tl.trans(scaled), narrow, input_precision="ieee").to(tl.float64)
    scaled = tile * weight[:, None]
    return tl.dot(tl.trans(scaled), tile, gram, input_precision="ieee", out_dtype=tl.float64)


@triton.jit
def fused_pass(
    x,
    y,
    weight,
    offset,
    repeats,
    coef,  # (B, p)
    observed,  # (B,) 1 or 0
    shape,  # (B,)
    gram,  # (B, parts, p, p), to be written, as the two below
    score,  # (B, parts, p)
    sums,  # (B, parts, SUMMED): objective, scale, invalid, weight, count and response, in this order
    n,
    columns,  # of the design, a column of ones among them
    x_model,  # strides
    x_row,
    x_column,
    y_model,
    y_row,
    weight_model,
    weight_row,
    offset_model,
    offset_row,
    repeats_model,
    repeats_row,
    lower,  # ends of the means
    upper,
    FORMULAS: tl.constexpr,
    CLOSED: tl.constexpr,
    REPEATED: tl.constexpr,
    FIRST: tl.constexpr,
    CURVED: tl.constexpr,
    SINGLE: tl.constexpr,
    P: tl.constexpr,
    ROWS: tl.constexpr,
    SUMMED: tl.constexpr,
):
    """The sums of one of `parts` of the rows of one model, in float64.

    These are tiles of `ROWS` rows, each `parts` tiles behind the one before.
    """
    model, part, parts = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    column = tl.arange(0, P)
    beta = tl.load(coef + model * columns + column, mask=column < columns, other=0.0)
    seen, form = tl.load(observed + model), tl.load(shape + model)
    total, slope, information = (
        tl.zeros((SUMMED,), tl.float64),
        tl.zeros((P,), tl.float64),
        tl.zeros((P, P), tl.float64),
    )
    which = tl.arange(0, SUMMED)
    for start in range(part * ROWS, n, parts * ROWS):
        row = start + tl.arange(0, ROWS).to(tl.int64)
        inside = row < n
        tile = design_tile(x + model * x_model, row, n, columns, x_row, x_column, FIRST, P)
        response = tl.load(y + model * y_model + row * y_row, mask=inside, other=0.0).to(tl.float64)
        size = tl.load(weight + model * weight_model + row * weight_row, mask=inside, other=0.0).to(tl.float64)
        eta = tl.load(offset + model * offset_model + row * offset_row, mask=inside, other=0.0).to(tl.float64)
        eta += tl.sum(tile * beta[None, :], 1)
        mu, s, w, half = FORMULAS(response, eta, seen, form)
        used = size > 0  # a row without weight counts for nothing, whatever it holds
        s, w, half = tl.where(used, s * size, 0.0), tl.where(used, w * size, 0.0), tl.where(used, half * size, 0.0)
        slope += tl.sum(tile * s[:, None], 0)
        if CURVED:
            information = add_product(information, tile, w, SINGLE)
        fine = ((mu >= lower) & (mu <= upper)) if CLOSED else ((mu > lower) & (mu < upper))
        count = tl.where(used, 1.0, 0.0).to(tl.float64)
        if REPEATED:
            count *= tl.load(repeats + model * repeats_model + row * repeats_row, mask=inside, other=0.0).to(tl.float64)
        scale = tl.where(used, w * eta * eta, 0.0)
        total += tl.where(which == 0, tl.sum(half), 0.0) + tl.where(which == 1, tl.sum(scale), 0.0)
        total += tl.where(which == 2, tl.sum(tl.where(used & ~fine, 1.0, 0.0)), 0.0)
        total += tl.where(which == 3, tl.sum(size), 0.0) + tl.where(which == 4, tl.sum(count), 0.0)
        total += tl.where(which == 5, tl.sum(tl.where(used, size * response, 0.0)), 0.0)
    place = model * parts + part
    tl.store(sums + place * SUMMED + which, total)
    tl.store(score + place * columns + column, slope, mask=column < columns)
    if CURVED:
        both = (column < columns)[:, None] & (column < columns)[None, :]
        target = gram + place * columns * columns + column[:, None] * columns + column[None, :]
        tl.store(target, information, mask=both)
