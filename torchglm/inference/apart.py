"""Questions to many models at once whose rows are of unlike number, asked of those of like size together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

from torchglm.fitting.kernel import take_family
from torchglm.fitting.penalties import Penalty
from torchglm.inference.fitted import Fitted
from torchglm.rows.ragged import Ragged
from torchglm.rows.ranks import weightless
from torchglm.rows.rows import Rows

P = ParamSpec("P")
Out = TypeVar("Out")
Values = Callable[Concatenate[Fitted, P], Tensor]
SPARE = 1 << 25  # numbers side by side that are given however few rows stand behind them: 256 MiB


def parts_of(fitted: Fitted) -> Iterator[tuple[Tensor, Fitted]]:
    """The models (b,) of like size with the fit of them alone; all of them where the rows are in even number."""
    chunks = fitted.chunks
    if not isinstance(chunks, Ragged):
        yield torch.arange(len(fitted.flat.coef), device=fitted.flat.coef.device), fitted
        return
    places = fitted.context.get("places")
    for models, rows in chunks.parts:
        part = replace(
            fitted,
            flat=fitted.flat.take(models),
            family=take_family(fitted.family, models),
            penalty=fitted.penalty.take(models) if isinstance(fitted.penalty, Penalty) else fitted.penalty,
            batch_shape=models.shape,
            context=fitted.context | {"groups": None, "places": places and places.member(models)},
            chunks=[rows],
        )
        yield models, part


def part_by_part(fitted: Fitted, value: Callable[[Fitted], Tensor]) -> Tensor:
    """(B, ...) what `value` gives of a fit, each model's being its own."""
    if not isinstance(fitted.chunks, Ragged):
        return value(fitted)
    out: Tensor | None = None
    for models, part in parts_of(fitted):
        found = value(part)
        out = found.new_empty(fitted.chunks.models, *found.shape[1:]) if out is None else out
        out[models] = found
    assert out is not None  # a source has rows
    return out


def each_apart(values: Values[P]) -> Values[P]:
    """Decorator of values (*B, ...) of the models: see `part_by_part`."""

    @wraps(values)
    def of_all(result: Fitted, /, *args: P.args, **kwargs: P.kwargs) -> Tensor:
        return part_by_part(result, lambda part: values(part, *args, **kwargs))

    return of_all


def of_like_size(question: Callable[Concatenate[Fitted, P], Out]) -> Callable[Concatenate[Fitted, P], Out]:
    """Decorator of a question whose answer says something of each model: asked of those of like size together."""

    @wraps(question)
    def of_all(result: Fitted, /, *args: P.args, **kwargs: P.kwargs) -> Out:
        chunks = result.chunks
        if not isinstance(chunks, Ragged):
            return question(result, *args, **kwargs)
        return joined([question(part, *args, **kwargs) for _, part in parts_of(result)], chunks.order)

    return of_all


def joined(answers: Sequence[Any], order: Tensor) -> Any:
    """One answer of several, each of some models: tensors (b, ...) and lists of the models in the `order` (B,).

    Names, and all that is not of the models, are those of the first; notes are put together.
    """
    first = answers[0]
    if isinstance(first, Tensor):
        return torch.cat(list(answers))[order]
    if isinstance(first, list) and not all(isinstance(one, str) for one in first):
        every = [one for answer in answers for one in answer]
        return [every[i] for i in order.tolist()]
    if isinstance(first, dict):
        return {key: joined([answer[key] for answer in answers], order) for key in first}
    if is_dataclass(first) and not isinstance(first, type):
        parts: dict[str, Any] = {f.name: [getattr(answer, f.name) for answer in answers] for f in fields(first)}
        return replace(first, **{name: joined(values, order) for name, values in parts.items()})
    if isinstance(first, torch.Size):  # of the batch
        return order.shape
    if isinstance(first, tuple) and any(answer != first for answer in answers):  # notes
        return tuple(dict.fromkeys(one for answer in answers for one in answer))
    return first


def side_by_side(asked: str) -> Callable[[Values[P]], Values[P]]:
    """Decorator of values (*B, n, ...) of rows, `asked` of a result: those of models of like size are found together.

    Behind the last row of a model stands what a row without weight has. Raises `ValueError` where the values of few
    rows would fill a far larger table, since one of the models has most of them.
    """

    def decorated(values: Values[P]) -> Values[P]:
        @wraps(values)
        def of_all(result: Fitted, /, *args: P.args, **kwargs: P.kwargs) -> Tensor:
            chunks, out = result.chunks, None
            if not isinstance(chunks, Ragged):
                return values(result, *args, **kwargs)
            for (models, part), (_, rows) in zip(parts_of(result), chunks.parts, strict=True):
                n, longest = rows.y.shape[-1], int(chunks.sizes.max())
                none = values(replace(part, chunks=[weightless(rows)]), *args, **kwargs)  # (b, 1, ...)
                if out is None:
                    check_room(chunks, none[:1].numel(), asked)
                    out = none.new_empty(chunks.models, longest, *none.shape[2:])
                out[models, :n] = values(part, *args, **kwargs)
                out[models, n:] = none
            assert out is not None  # a source has rows
            return out

        return of_all

    return decorated


def check_room(chunks: Iterable[Rows] | None, numbers: int, asked: str) -> None:
    """Raise `ValueError` where so many numbers of each row, side by side, are mostly of no row and very many."""
    if not isinstance(chunks, Ragged):
        return
    rows, longest = int(chunks.sizes.sum()), int(chunks.sizes.max())
    total = chunks.models * longest * numbers
    if total > max(SPARE, 4 * rows * numbers):
        raise ValueError(
            f"{asked} of {chunks.models:,} models side by side takes {total * 8 / 1e9:.1f} GB for {rows:,} rows, for "
            f"one model has {longest:,} of them. Ask one model at a time: result[i].{asked}."
        )
