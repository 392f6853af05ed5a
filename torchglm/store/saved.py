"""What was saved, by its path, whatever it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from torchglm.families import Family
from torchglm.links import Link
from torchglm.model import path_storage, storage
from torchglm.model.face import Result
from torchglm.model.path import Path as SavedPath
from torchglm.writing.answering import answering


@answering
def load(path: Any, model: nn.Module | None = None, *, family: Family | None = None, link: Link | None = None) -> Any:
    """What was saved at `path`: a `Result` or a `Path` in its folder (`save`), a `LitGLM` in a checkpoint of Lightning.

    Loading runs no code of the file and needs no row of data. The checkpoint of a head alone says what the head is;
    that of a network needs `model`, a module of the same shape, which gets its weights. A family or link of one's own
    class is given as an object, `load(path, link=Log2())`: its code is yours, and it is known again by its name and
    values. Tensors come to the CPU.
    Raises `ValueError` where nothing whole of either kind is there, or one of another family or link.
    """
    place = Path(path)
    if place.suffix != ".ckpt":
        if model is not None:
            raise ValueError(f"model= goes with a checkpoint of Lightning (.ckpt); {place} has none.")
        if path_storage.holds(place):
            return SavedPath(**path_storage.load(place, family, link))
        return Result.of(storage.load(place, family, link))
    from torchglm.training.checkpointing import load_checkpoint

    return load_checkpoint(place, model, family, link)
