"""Sums over rows of predicted probabilities of classes, and pairs of times in their order."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from torchglm.inputs import Roles
from torchglm.metrics.rows import Column, wide
from torchglm.metrics.sums import total


class ScoredClasses(NamedTuple):
    """Probabilities `(n, C)`, codes `(n,)` (0 where a row has no class) and weights `(n,)`, in float64.

    A row that counts and holds NaN, or no code of a class, has NaN for its weight.
    """

    p: Tensor
    code: Tensor
    weight: Tensor

    @property
    def hit(self) -> Tensor:
        """(n, C) 1 for the class of a row, else 0."""
        return torch.nn.functional.one_hot(self.code, self.p.shape[1]).double()


def scored_classes(p: Column, y: Column, roles: Roles, classes: int) -> ScoredClasses:
    """Rows of probabilities `(*N, C)`, or `(*N, 1, C)` as a head gives them, and codes `(*N,)`, flattened.

    Raises `ValueError` where shapes differ.
    """
    p = wide("p", p)
    y = wide("y", y, p.device)
    if p.dim() == y.dim() + 2 and p.shape[-2] == 1:
        p = p.squeeze(-2)
    if p.shape != (*y.shape, classes):
        raise ValueError(
            f"p must have the shape of y and {classes} classes last, {(*y.shape, classes)}, got {tuple(p.shape)}. "
            "Nothing is broadcast."
        )
    w = torch.ones_like(y)
    for name, value in roles.given.items():
        own = wide(name, value, p.device)
        if own.shape not in (y.shape, (*y.shape, 1)):
            raise ValueError(f"{name} must have the shape of y, {tuple(y.shape)}, got {tuple(own.shape)}.")
        w = w * own.reshape(y.shape)
    p, y, w = p.reshape(-1, classes), y.reshape(-1), w.reshape(-1)
    known = (y >= 0) & (y < classes) & (y == y.round()) & ~p.isnan().any(-1) & (w >= 0)
    return ScoredClasses(p, torch.where(known, y, 0.0).long(), torch.where(known | (w == 0), w, torch.nan))


def log_sums(rows: ScoredClasses) -> Tensor:
    """`(-sum w log p_y, sum w)`."""
    own = rows.p.gather(1, rows.code.unsqueeze(1))[:, 0]
    return torch.stack([total(rows.weight, -own.log()), rows.weight.sum()])


def brier_sums(rows: ScoredClasses) -> Tensor:
    """`(sum w sum_c (p_c - 1{y = c})^2, sum w)`."""
    return torch.stack([total(rows.weight, (rows.p - rows.hit).square().sum(1)), rows.weight.sum()])


def ranked_probability_sums(rows: ScoredClasses) -> Tensor:
    """`(sum w sum_k (P(Y <= k) - 1{y <= k})^2, sum w)`."""
    apart = (rows.p - rows.hit).cumsum(1)[:, :-1]
    return torch.stack([total(rows.weight, apart.square().sum(1)), rows.weight.sum()])


def confusion_sums(rows: ScoredClasses) -> Tensor:
    """(C, C) the weight of each class observed (rows) that is predicted as each (columns): the most probable, first."""
    size = rows.p.shape[1]
    place = rows.code * size + rows.p.nan_to_num().argmax(1)
    sums = torch.zeros(size * size, dtype=torch.float64, device=rows.p.device)
    return sums.index_add_(0, place, rows.weight).reshape(size, size)


def concordance_value(mu: Tensor, time: Tensor, event: Tensor, weight: Tensor) -> Tensor:
    """Harrell's C of `(n,)` predicted times: of all pairs whose order is known, the share that is predicted so.

    A pair is known where the shorter time is an event; at one time the censored one is the longer. Equal predictions
    count one half. `O(n (log n)^2)`. Source: Harrell, Lee & Mark (1996), Stat. Med. 15(4).
    """
    bad = mu.isnan() | time.isnan() | ~(weight >= 0)
    if bool((bad & (weight != 0)).any()):
        return time.new_full((), torch.nan)
    mu, time, event, weight = (value[weight > 0] for value in (mu, time, event, weight))
    order = torch.argsort(event.double(), stable=True)  # of one time censored first, then
    order = order[torch.argsort(time[order], descending=True, stable=True)]
    mu, time, event, weight = mu[order], time[order], event[order], weight[order]
    _, rank = torch.unique(mu, return_inverse=True)
    ends = torch.ones_like(event)
    ends[1:] = (time[1:] != time[:-1]) | (event[1:] != event[:-1])
    first = torch.where(ends, torch.arange(len(time), device=time.device), 0).cummax(0).values  # longer ones: before it
    above, equal, all_ = _weights_before(rank, weight, first)
    own = torch.where(event, weight, 0.0)
    return (own * (above + equal / 2)).sum() / (own * all_).sum()


def _weights_before(rank: Tensor, weight: Tensor, first: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each row the weights of the first `first` rows of higher rank, of the same rank, and of all of them.

    The rows before are a sum of blocks, one for each bit of their number, in which ranks are sorted.
    """
    n = len(rank)
    above, equal, whole = (torch.zeros_like(weight) for _ in range(3))
    high = int(rank.max()) + 1 if n else 1
    place = torch.arange(n, device=rank.device)
    for bit in range(n.bit_length()):
        key, order = torch.sort((place >> bit) * high + rank)
        sums = torch.cat([weight.new_zeros(1), weight[order].cumsum(0)])
        asks = ((first >> bit) & 1).bool()
        block = (first >> bit) - 1  # the last whole one, of an odd number of them
        low, up = block * high + rank, (block + 1) * high
        begin, at = sums[torch.searchsorted(key, block * high)], torch.searchsorted(key, low)
        end, after = sums[torch.searchsorted(key, up)], sums[torch.searchsorted(key, low, right=True)]
        above = above + torch.where(asks, end - after, 0.0)
        equal = equal + torch.where(asks, after - sums[at], 0.0)
        whole = whole + torch.where(asks, end - begin, 0.0)
    return above, equal, whole
