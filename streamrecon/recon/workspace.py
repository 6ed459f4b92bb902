"""Memory that is kept from one use to the next: touching new pages takes longer than what is done in them."""

from __future__ import annotations

import contextlib
import math
import queue
from collections.abc import Iterator

import numpy as np
from numpy.typing import DTypeLike
from streamrecon_kernels import threads

from streamrecon.recon.device import Array, Device


class Workspace:
    """One array that is used again and again, for one purpose, in shapes that may differ.

    Parameters
    ----------
    device
        Where it is.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._memory = device.empty((0,), np.uint8)

    def __call__(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """An array of this shape, whose content is whatever was left in it; it replaces the one given before."""
        nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        if nbytes > self._memory.nbytes:
            self._memory = self._device.empty((0,), np.uint8)  # the old one is free before the new one is made
            self._memory = self._device.empty((nbytes,), np.uint8)
        return self._memory[:nbytes].view(dtype).reshape(shape)


def desks(pieces: int, at_once: int | None) -> int:
    """Pieces of work that are done at once: one for each core, or on a GPU, whose `Device` has no most at once, one."""
    return min(pieces, threads()) if at_once else 1


class Desks:
    """As many workspaces as pieces of work are done at once.

    Parameters
    ----------
    device
        Where they are.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._free: queue.SimpleQueue[Workspace] = queue.SimpleQueue()

    @contextlib.contextmanager
    def __call__(self, shape: tuple[int, ...], dtype: DTypeLike) -> Iterator[Array]:
        """An array that nobody else has until it is given back."""
        try:
            desk = self._free.get_nowait()
        except queue.Empty:
            desk = Workspace(self._device)
        try:
            yield desk(shape, dtype)
        finally:
            self._free.put(desk)
