"""Batches from tensors in memory: rows are gathered by index, never collated one by one.

    batches = TensorBatches(GLMBatch(x, y, weights=w), batch_size=8192, shuffle=True)
    trainer.fit(LitGLM(head), batches)

The loaders are plain iterables of whole batches, so they go to a Trainer (or a loop) directly, without a
DataLoader. Every iteration is an epoch: another order where rows are shuffled, the same one again for the
same seed and epoch, on every rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.inputs import GLMBatch, named
from torchglm.training.loader_position import LoaderPosition
from torchglm.training.row_checks import check_masses, check_rows
from torchglm.writing.answering import answering_init


def rank_and_world() -> tuple[int, int]:
    """This process among those that train together; (0, 1) where it trains alone."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def shared(weight: Tensor | float, device: torch.device | str = "cpu") -> Tensor | float:
    """This rank's share of the weight of a step: the mean over ranks, for DDP takes the mean of gradients."""
    world = rank_and_world()[1]
    if world > 1:
        weight = torch.as_tensor(weight, device=device).detach().clone()
        torch.distributed.all_reduce(weight)
        weight = weight / world
    return weight.clamp(min=torch.finfo(weight.dtype).tiny) if isinstance(weight, Tensor) else max(weight, 1.0)


@answering_init
class TensorBatches:
    """Batches of `batch_size` rows of tensors that lie in memory, on the CPU or on the device itself.

    `data` is a `GLMBatch`, or a mapping of its names, of tensors with one length `(n, ...)`. `shuffle` puts the rows
    in a new random order at each iteration; `"blocks"` takes runs of `batch_size` rows that lie together, in random
    order and from a random row on: views, which cost nothing, for rows that are in no order themselves (on several
    ranks it is `True`).

    Each rank of a distributed run takes every world-th row of the same order; where rows run short it repeats some
    with weight 0, so that all ranks have equal batches and sums stay exact. `drop_last` leaves out a last batch
    that is not full. Raises `ValueError` for no rows, other lengths, `batch_size < 1`, another `shuffle`, weights below
    zero and exposures that are not positive; under a `LitGLM`, when it begins, for responses outside the support.
    """

    def __init__(
        self,
        data: GLMBatch | Mapping[str, Tensor],
        batch_size: int = 8192,
        *,
        shuffle: bool | Literal["blocks"] = False,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        self.data = named(data)
        lengths = {name: value.shape[0] for name, value in self.data._asdict().items() if value is not None}
        if len(set(lengths.values())) != 1 or lengths["x"] == 0:
            raise ValueError(f"The tensors of a data set need one length of at least 1, got {lengths}.")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        if shuffle not in (True, False, "blocks"):
            raise ValueError(f"shuffle must be True, False or 'blocks', got {shuffle!r}.")
        check_masses(self.data)
        self.rows = lengths["x"]
        self.batch_size, self.shuffle, self.seed, self.drop_last = batch_size, shuffle, seed, drop_last
        self.epoch, self.place = 0, LoaderPosition()
        self._suits: Family | None = None  # which the rows were looked at for

    @property
    def sampler(self) -> TensorBatches:
        """Itself: Lightning sets the epoch of a loader's sampler, so a resumed run goes on in its order."""
        return self

    batch_sampler: None = None  # Lightning asks for it wherever there is a sampler

    def suit(self, family: Family) -> None:
        """Raise `ValueError` for rows that a head of this family cannot be trained on; they are looked at once."""
        if self._suits is not family:
            check_rows(self.data, family)
            self._suits = family

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration."""
        self.epoch = epoch

    def state_dict(self) -> dict[str, int]:
        """How far the iteration has come, which Lightning keeps in checkpoints."""
        return self.place.state()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on with the next batch after those of a `state_dict`, in the same epoch."""
        self.place.load(state)

    def __len__(self) -> int:
        share = -(-self.rows // rank_and_world()[1])
        return share // self.batch_size if self.drop_last else -(-share // self.batch_size)

    def __iter__(self) -> Iterator[GLMBatch]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        yield from self.place.follow(epoch, self._batches(epoch))

    def _batches(self, epoch: int) -> Iterator[GLMBatch]:
        rank, world = rank_and_world()
        if self.shuffle is not True and world == 1:
            yield from self._views(epoch)
            return
        order = self._order(epoch)
        short = -self.rows % world
        order = torch.cat([order, order[:1].expand(short)])[rank::world]
        real = len(order) - (rank >= world - short)  # a last row that is a repeat does not count
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            batch = take(self.data, order[start : start + self.batch_size])
            yield weighted(batch, real - start) if short else batch

    def _views(self, epoch: int) -> Iterator[GLMBatch]:
        """Batches of rows that lie together; of random blocks one may go round the end."""
        first, blocks = 0, list(range(len(self)))
        if self.shuffle:
            generator, whole = generator_of(self.seed, epoch), self.rows // self.batch_size
            first = int(torch.randint(self.rows, (), generator=generator))
            blocks[:whole] = torch.randperm(whole, generator=generator).tolist()
        for block in blocks:
            size = min(self.batch_size, self.rows - block * self.batch_size)
            start = (first + block * self.batch_size) % self.rows
            stop = start + size
            if stop <= self.rows:
                yield take(self.data, slice(start, stop))
            else:
                yield join([take(self.data, slice(start, self.rows)), take(self.data, slice(0, stop - self.rows))])

    def _order(self, epoch: int) -> Tensor:
        device = self.data.x.device
        if not self.shuffle:
            return torch.arange(self.rows, device=device)
        generator = generator_of(self.seed, epoch, device=device)
        return torch.randperm(self.rows, generator=generator, device=device)


def generator_of(seed: int, *numbers: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator for a seed and an epoch (and a rank). On the CPU only 32 bits of a seed count: mix them."""
    for number in numbers:
        seed = (seed * 1_000_003 + number) % (1 << 32)
    return torch.Generator(device).manual_seed(seed)


def take(batch: GLMBatch, rows: Tensor | slice) -> GLMBatch:
    """Some rows of a batch of tensors: a slice is a view, an index gathers."""
    if isinstance(rows, slice):
        return GLMBatch._make([None if value is None else value[rows] for value in batch])
    return GLMBatch(*(None if value is None else value.index_select(0, rows) for value in batch))


def join(parts: list[GLMBatch]) -> GLMBatch:
    """The rows of all parts, in their order."""
    return GLMBatch(*(None if part[0] is None else torch.cat(part) for part in zip(*parts, strict=True)))


def weighted(batch: GLMBatch, real: int) -> GLMBatch:
    """The batch with a weight per row that is 0 from row `real` on: those rows only fill it up."""
    n = batch.x.shape[0]
    kept = (torch.arange(n, device=batch.x.device) < real).to(batch.x.dtype)
    if batch.weights is None:
        return batch._replace(weights=kept)
    return batch._replace(weights=batch.weights * kept.view(-1, *[1] * (batch.weights.dim() - 1)))
