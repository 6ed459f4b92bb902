"""The ring: room for received frames, allocated and touched once."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrecon.wire.codec import Buffer


class Ring:
    """Slots of one frame each. One thread stores, another reads and hands slots back.

    Parameters
    ----------
    slots
        Frames that fit.
    shape
        (row, column) of a frame.
    dtype
        Of its pixels.
    """

    def __init__(self, slots: int, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
        self._memory = np.empty((slots, *shape), dtype)
        self._memory.fill(0)  # touches every page now rather than during the scan
        self._free = deque(range(slots))
        self.slots = slots

    @property
    def nbytes(self) -> int:
        """Of the whole ring."""
        return self._memory.nbytes

    @property
    def used(self) -> int:
        """Slots in use."""
        return self.slots - len(self._free)

    def store(self, payload: Buffer) -> int:
        """Copy a frame in; its slot. Credit makes sure that there is one."""
        slot = self._free.popleft()
        self._memory[slot].reshape(-1).view(np.uint8)[:] = np.frombuffer(payload, np.uint8)
        return slot

    def __getitem__(self, slot: int) -> NDArray[Any]:
        """The frame in a slot, (row, column)."""
        frame: NDArray[Any] = self._memory[slot]
        return frame

    def release(self, slot: int) -> None:
        """The frame in this slot is no longer needed."""
        self._free.append(slot)
