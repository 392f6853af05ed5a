"""Batches from Parquet files of any size: row groups are read ahead, turned into tensors whole, and shuffled.

rows = ArrowBatches("claims/*.parquet", ["age", "power"], "claims", exposure="years", shuffle=True)
trainer.fit(LitGLM(GLMHead(rows.in_features, "poisson")), rows)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from torchglm.design import DesignSpec
from torchglm.families import Family
from torchglm.inputs import GLMBatch, in_class_order
from torchglm.tables.columns import check_columns
from torchglm.tables.files import PathLike, files
from torchglm.tables.readahead import read_ahead
from torchglm.training.batches import generator_of, rank_and_world, take, weighted
from torchglm.training.hash_split import HashPart
from torchglm.training.loader_position import LoaderPosition
from torchglm.training.pouring import BATCHES, places_in_runs, poured
from torchglm.training.row_cache import RowCache
from torchglm.training.row_checks import check_masses, check_rows
from torchglm.training.table_tensors import TableRows
from torchglm.writing.answering import answering_init

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from torchglm.inputs.roles import RoleValues

PIECE = 1 << 16  # rows read at once
POOL = 1 << 18  # rows mixed
RUN, RUNS = 64, 32  # rows of a cache that stay neighbours at most, and how many such runs a batch has at least


class Group(NamedTuple):
    """One row group of one file."""

    file: Path
    number: int
    rows: int


@answering_init
class ArrowBatches(IterableDataset[GLMBatch]):
    """Batches of the rows of Parquet files at `path` (a file, a glob, a folder, a list), in flat memory.

    `design` is a list of numeric columns, or a `DesignSpec`, whose response is then `y`, classes as codes, and whose
    constants are left to the model's bias. `y` and the roles (`weights`, `freq`, `offset`, `exposure`, `trials`,
    `event`, `until`) are names of columns. `shuffle` takes row groups in random order and mixes rows within a pool of
    `buffer` rows; the order depends on `seed` and the epoch. `part` takes some of the rows by their hash.

    With `cache` rows are decoded once, into a file of plain numbers from which later epochs gather them, several times
    as fast: 4 bytes (of `dtype`) for each number. `True` puts it where temporary files go, and it goes with the loader;
    in a folder it stays when an epoch was whole, for whoever asks for the same columns of the same files again. Rows
    that are shuffled are written in random order, piece by piece, and mixed from then on in runs of up to 64.

    Row groups are dealt to ranks and DataLoader workers (`DataLoader(batches, batch_size=None)`; usually none
    is fastest, for a thread reads ahead). All ranks get equal batches: where rows run short, or where a spec
    of `missing="drop"` leaves rows out, some are repeated with weight 0. `len` is that without workers.
    Raises `ValueError` for unknown columns, fewer row groups than ranks times workers, and while iterating
    for a missing value, an unreadable row group, a weight below zero and (once a `LitGLM` or `fit_sgd` trains
    on them) a response outside the support, naming file and row group.
    """

    def __init__(
        self,
        path: PathLike | Sequence[PathLike],
        design: Sequence[str] | DesignSpec,
        y: str | None = None,
        *,
        batch_size: int = 8192,
        shuffle: bool = False,
        buffer: int = POOL,
        seed: int = 0,
        drop_last: bool = False,
        dtype: torch.dtype = torch.float32,
        part: HashPart | None = None,
        cache: bool | PathLike = False,
        **roles: Unpack[RoleValues],
    ) -> None:
        if batch_size < 1 or buffer < 1:
            raise ValueError(f"batch_size and buffer must be at least 1, got {batch_size} and {buffer}.")
        self.rows = TableRows(design, y, dtype=dtype, **roles)
        self.part = part
        self.batch_size, self.shuffle, self.buffer, self.seed = batch_size, shuffle, buffer, seed
        self.drop_last = drop_last
        self.columns = list(dict.fromkeys([*self.rows.columns, *(part.key if part else [])]))
        self.groups = [group for file in files(path) for group in _groups(file, self.columns, part)]
        if not self.groups:
            raise ValueError("The Parquet files hold no rows." if part is None else f"No row is in the {part}.")
        self.epoch, self.place = 0, LoaderPosition()
        self.family: Family | None = None  # of the head that they train
        self.cache = None if cache is False else self._cache(None if cache is True else Path(cache))
        self._looked: set[Group] = set()  # of the cache, at which a look was taken for this family

    @property
    def names(self) -> list[str]:
        """The columns of `x`."""
        return self.rows.names

    @property
    def in_features(self) -> int:
        """The number of columns of `x`."""
        return len(self.names)

    @property
    def sampler(self) -> ArrowBatches:
        """Itself: Lightning sets the epoch of a loader's sampler, so a resumed run goes on in its order."""
        return self

    batch_sampler: None = None  # Lightning asks for it wherever there is a sampler

    def suit(self, family: Family) -> None:
        """Look at the rows for a head of this family as they are read; its classes say what codes mean."""
        if self.family is not family:
            self.family, self._looked = family, set()

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
        rows = self._share(rank_and_world()[0], 0, 1)[1]
        return rows // self.batch_size if self.drop_last else -(-rows // self.batch_size)

    def __iter__(self) -> Iterator[GLMBatch]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        yield from self.place.follow(epoch, self._of_epoch(epoch))

    def _of_epoch(self, epoch: int) -> Iterator[GLMBatch]:
        rank, world = rank_and_world()
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        groups, rows = self._share(rank, worker, workers)
        if world > 1 and not groups:
            raise ValueError(
                f"{len(self.groups)} row groups do not suffice for {world} ranks of {workers} "
                "workers. Write the files with smaller row groups, or use fewer."
            )
        generator = None
        if self.shuffle:
            # torch gives each worker another seed in each epoch; its copy of this loader does not count them
            generator = generator_of(self.seed if info is None else info.seed, epoch, rank)
            groups = [groups[i] for i in torch.randperm(len(groups), generator=generator).tolist()]
        size, buffer = self.batch_size, self.buffer
        if self.cache is None:
            batches = poured(read_ahead(self._pieces(groups)), size, buffer, generator, BATCHES)
        else:
            places = poured(
                read_ahead(self._places(groups, self.cache)), size, buffer, generator, places_in_runs(self._run)
            )
            batches = (self._in_class_order(self.cache.rows(place, not self.shuffle)) for place in places)
        yield from self._full(batches, rows)

    def _share(self, rank: int, worker: int, workers: int) -> tuple[list[Group], int]:
        """The row groups of a worker of a rank, and the rows it gives: as many as that worker of any rank."""
        world = rank_and_world()[1]
        shares: list[list[Group]] = [[] for _ in range(world * workers)]
        counts = [0] * len(shares)
        for group in sorted(self.groups, key=lambda group: -group.rows):
            least = counts.index(min(counts))
            shares[least].append(group)
            counts[least] += group.rows
        own = sorted(shares[rank * workers + worker])
        return own, max(counts[worker::workers])

    def _pieces(self, groups: list[Group]) -> Iterator[GLMBatch]:
        for group in groups:
            with _told(group):
                for rows in self._decoded(group):
                    yield self._suitable(rows)

    def _decoded(self, group: Group) -> Iterator[GLMBatch]:
        import pyarrow as pa
        from pyarrow import parquet

        with parquet.ParquetFile(group.file, memory_map=False) as source:
            for batch in source.iter_batches(PIECE, [group.number], self.columns):
                table = pa.Table.from_batches([batch])
                yield self.rows(table if self.part is None else self.part.of(table))

    def _suitable(self, rows: GLMBatch) -> GLMBatch:
        rows = self._in_class_order(rows)
        if self.family is None:
            check_masses(rows)
        else:
            check_rows(rows, self.family)
        return rows

    def _in_class_order(self, rows: GLMBatch) -> GLMBatch:
        if self.family is None or self.rows.spec is None or rows.y is None:
            return rows
        return rows._replace(y=in_class_order(rows.y, self.family, self.rows.spec))

    @property
    def _run(self) -> int:
        """Rows of a cache that stay neighbours when it is shuffled: a batch has 32 runs of them or more."""
        return max(1, min(RUN, self.batch_size // RUNS))

    def _mixed(self, number: int, pieces: Iterator[GLMBatch]) -> Iterator[GLMBatch]:
        """Where rows are to be shuffled, each piece in random order, so that a run of neighbours is random itself."""
        generator = generator_of(self.seed, number)
        for piece in pieces:
            n = piece.x.shape[0]
            yield take(piece, torch.randperm(n, generator=generator)) if self.shuffle else piece

    def _cache(self, folder: Path | None) -> RowCache:
        """Where the rows are kept once they are decoded."""
        rows = self.rows
        stated = [(group.file.resolve(), group.file.stat(), group) for group in self.groups]
        key = {
            "files": [(str(path), stat.st_size, stat.st_mtime_ns, group.number) for path, stat, group in stated],
            "columns": [self.columns, rows.names, rows.extras, str(rows.dtype)],
            "spec": None if rows.spec is None else rows.spec.to_dict(),
            "part": None if self.part is None else vars(self.part),
            "mixed": self.seed if self.shuffle else None,
        }
        counts = [group.rows for group in self.groups]
        return RowCache(folder, key, counts, len(rows.names), rows.fields, rows.dtype)

    def _places(self, groups: list[Group], cache: RowCache) -> Iterator[Tensor]:
        """Where rows stand in the cache, those of groups that are not there decoded first."""
        numbers = {group: number for number, group in enumerate(self.groups)}
        for group in groups:
            number = numbers[group]
            with _told(group):
                if cache.held(number) < 0:
                    cache.write(number, self._mixed(number, self._decoded(group)))
                for places in cache.positions(number).split(PIECE):
                    if group not in self._looked and len(places):
                        self._suitable(cache.rows(places, True))
                    yield places
                self._looked.add(group)

    def _full(self, batches: Iterator[GLMBatch], rows: int) -> Iterator[GLMBatch]:
        """Batches of exactly `rows` rows in all."""
        given, last = 0, None
        for batch in batches:
            last = batch
            if batch.x.shape[0] == self.batch_size:
                given += self.batch_size
                yield batch
        if last is None:
            raise ValueError("No row is complete in these row groups. Fill in the missing values.")
        short, size = rows - given, last.x.shape[0]
        real = size if size < self.batch_size else 0
        for start in range(0, short - short % self.batch_size if self.drop_last else short, self.batch_size):
            index = torch.arange(start, min(start + self.batch_size, short))
            batch = take(last, index % size)
            yield batch if len(index) <= real - start else weighted(batch, real - start)


def _groups(file: Path, columns: list[str], part: HashPart | None) -> list[Group]:
    import pyarrow as pa
    from pyarrow import parquet

    if file.suffix == ".csv" or file.name.endswith(".gz"):
        raise ValueError(
            f"{file} is not Parquet, whose row groups ArrowBatches deals out. Convert it, or "
            "read it whole for TensorBatches."
        )
    try:
        with parquet.ParquetFile(file, memory_map=False) as source:
            check_columns(columns, source.schema_arrow.names, str(file))
            numbered = range(source.num_row_groups)
            sizes = (
                [source.metadata.row_group(i).num_rows for i in numbered]
                if part is None
                else [
                    sum(
                        int(part.mask(pa.Table.from_batches([piece])).sum())
                        for piece in source.iter_batches(PIECE, [i], part.key)
                    )
                    for i in numbered
                ]
            )
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file} is not a Parquet file that can be read: {error}") from None
    return [Group(file, i, size) for i, size in enumerate(sizes) if size]


@contextmanager
def _told(group: Group) -> Iterator[None]:
    """Say of which row group an error is."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ValueError(f"{group.file}, row group {group.number}: {error}") from None
