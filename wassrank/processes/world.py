"""Who shares a batch: one process that has all of it, or several that have some of its rows each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from torch import Tensor

Found = TypeVar("Found", bound=tuple[Tensor, ...])


class World(Protocol):
    first: int  # the batch's query that this process's first row is
    asks: bool  # the device is asked which form targets have, as those must who are to do the same

    def checked(self, run: Callable[[], Found]) -> Found:
        """run(), tensors; the ValueError of one process is an error on all."""
        ...

    def sum(self, local: Tensor) -> Tensor:
        """Over all processes; of a tensor that is not used again."""
        ...

    def rows(self, local: Tensor) -> Tensor:
        """Everybody's rows, one below the other, [Q, …] of [q, …]."""
        ...

    def any(self, local: Tensor) -> Tensor:
        """Of a bool []."""
        ...


class Alone:
    first = 0

    def __init__(self, asks: bool = False) -> None:
        self.asks = asks

    def checked(self, run: Callable[[], Found]) -> Found:
        return run()

    def sum(self, local: Tensor) -> Tensor:
        return local

    def rows(self, local: Tensor) -> Tensor:
        return local

    def any(self, local: Tensor) -> Tensor:
        return local
