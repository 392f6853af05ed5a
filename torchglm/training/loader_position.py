"""How far a loader has come, so that a training that ended within an epoch goes on with its next batch."""

from __future__ import annotations

from collections.abc import Iterator

from torchglm.inputs import GLMBatch


class LoaderPosition:
    """The epoch a loader is in, and the batches it has given of it.

    Lightning saves `state` with a checkpoint, and gives it back by `load` before the first batch of a resumed run.
    """

    def __init__(self) -> None:
        self.epoch, self.given = -1, 0
        self.saved: dict[str, int] | None = None

    def state(self) -> dict[str, int]:
        """Epoch and batches, as plain data."""
        return {"epoch": self.epoch, "given": self.given}

    def load(self, state: dict[str, int]) -> None:
        """Go on there in the next iteration, if it is of that epoch."""
        self.saved = dict(state)

    def follow(self, epoch: int, batches: Iterator[GLMBatch]) -> Iterator[GLMBatch]:
        """The batches of an epoch from where a saved one stood on, each counted."""
        saved, self.saved = self.saved, None
        done = 0 if saved is None or saved["epoch"] != epoch else saved["given"]
        self.epoch = epoch
        for number, batch in enumerate(batches, 1):
            self.given = number
            if number > done:
                yield batch
