"""GLMDataModule: files for training, validation and test, split by a hash of the rows.

data = GLMDataModule("claims/*.parquet", ["age", "power"], "claims", exposure="years", key="policy")
trainer.fit(LitGLM(GLMHead(data.in_features, "poisson")), data)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from lightning.pytorch import LightningDataModule

from torchglm.design import DesignSpec
from torchglm.tables.files import PathLike, files, read_files
from torchglm.training.arrow_batches import ArrowBatches
from torchglm.training.batches import TensorBatches
from torchglm.training.hash_split import HashPart
from torchglm.training.table_tensors import TableRows
from torchglm.writing.answering import answering_init

if TYPE_CHECKING:
    import pyarrow as pa
    from typing_extensions import Unpack

    from torchglm.inputs.roles import RoleValues

Batches = ArrowBatches | TensorBatches


@answering_init
class GLMDataModule(LightningDataModule):
    """Batches of the rows of files at `path` (a file, a glob, a folder, a list), in up to three parts.

    Which part a row is in depends on `key` and `seed` alone, not on its place: a hash of the key is below
    `validation` for the validation part, below `validation + test` for the test part, and above for training. So the
    split stays as it is when rows are sorted, added, or written to other files, to Parquet or to CSV; `HashPart` says
    what counts as the same value. Rows with the same key stay together: give the column that says whose they are (a
    policy, a patient). Without a key the columns in use are hashed, so rows alike in all of them stay together, and
    another choice of columns is another split.

    Parquet streams in flat memory (`ArrowBatches`, whose other arguments these are) after one pass over the key;
    CSV is read into memory (`TensorBatches`). The training part is shuffled. `predict` gives all rows in
    their order. Raises `ValueError` for shares out of range, unknown columns, and a part without rows.
    """

    def __init__(
        self,
        path: PathLike | Sequence[PathLike],
        design: Sequence[str] | DesignSpec,
        y: str | None = None,
        *,
        key: str | Sequence[str] | None = None,
        validation: float = 0.2,
        test: float = 0.0,
        batch_size: int = 8192,
        shuffle: bool = True,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        cache: bool | PathLike = False,
        **roles: Unpack[RoleValues],
    ) -> None:
        super().__init__()
        self.y, self.roles = y, roles
        self.rows = TableRows(design, y, dtype=dtype, **roles)
        if min(validation, test) < 0 or not validation + test < 1:
            raise ValueError(
                f"validation and test must be >= 0 and leave rows to train on, got {validation} and "
                f"{test}. They are shares of the rows."
            )
        self.path, self.files, self.design = path, files(path), design
        self.key = self.rows.columns if key is None else [key] if isinstance(key, str) else list(key)
        self.batch_size, self.shuffle, self.seed, self.cache = batch_size, shuffle, seed, cache
        ends = {
            "validation": (0.0, validation),
            "test": (validation, validation + test),
            "train": (validation + test, 1.0),
        }
        self.parts = {
            name: HashPart(self.key, low, high, seed, f"{name} part")
            for name, (low, high) in ends.items()
            if low < high
        }
        self._made: dict[str, Batches] = {}

    @property
    def in_features(self) -> int:
        """The number of columns of `x`."""
        return len(self.rows.names)

    def setup(self, stage: str) -> None:
        """Find the rows of the parts that a stage needs."""
        needed = {"fit": ["train", "validation"], "validate": ["validation"], "test": ["test"], "predict": ["all"]}
        new = [name for name in needed[stage] if name not in self._made and (name == "all" or name in self.parts)]
        if new and not self.files[0].name.lower().endswith((".parquet", ".pq")):
            reading, types = (
                (design.reading, design.types) if isinstance(design := self.design, DesignSpec) else (None, {})
            )
            table = read_files(self.path, list(dict.fromkeys([*self.rows.columns, *self.key])), reading, types)
            self._made |= {name: self._of_table(table, name) for name in new}
        elif new:
            self._made |= {name: self._of_files(name) for name in new}

    def train_dataloader(self) -> Batches:
        """The training part, shuffled."""
        return self._made["train"]

    def val_dataloader(self) -> Batches | list[Batches]:
        """The validation part, or nothing where it has no share."""
        return self._made.get("validation", [])

    def test_dataloader(self) -> Batches:
        """The test part. Raises `ValueError` where it has no share."""
        if "test" not in self.parts:
            raise ValueError("There is no test part. Give it a share: GLMDataModule(..., test=0.1).")
        return self._made["test"]

    def predict_dataloader(self) -> Batches:
        """All rows in their order."""
        return self._made["all"]

    def _of_files(self, name: str) -> ArrowBatches:
        return ArrowBatches(
            self.path,
            self.design,
            self.y,
            batch_size=self.batch_size,
            shuffle=self.shuffle and name == "train",
            seed=self.seed,
            dtype=self.rows.dtype,
            part=self.parts.get(name),
            cache=self.cache,
            **self.roles,
        )

    def _of_table(self, table: pa.Table, name: str) -> TensorBatches:
        part = self.parts.get(name)
        chosen = table if part is None else part.of(table)
        if not len(chosen):
            raise ValueError(f"No row is in the {part}.")
        return TensorBatches(
            self.rows(chosen), self.batch_size, shuffle=self.shuffle and name == "train", seed=self.seed
        )
