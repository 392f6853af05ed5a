"""`dir` and `help` of modules without what every `nn.Module` has."""

from __future__ import annotations

from abc import ABCMeta

from torch import nn

EVERY = frozenset(dir(nn.Module)) | vars(nn.Module()).keys()


class Short(ABCMeta):
    """The metaclass of modules whose `dir` and `help` show their own names: those they state, or state anew."""

    def __dir__(cls) -> list[str]:
        own = {name for base in cls.__mro__ if not issubclass(nn.Module, base) for name in vars(base)}
        return sorted({name for name in super().__dir__() if name not in EVERY} | own | {"__doc__", "__module__"})
