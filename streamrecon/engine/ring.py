"""The ring: room for received frames, allocated and touched once."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrecon.wire.codec import Buffer
from streamrecon.wire.digest import copy_and_hash, frame_hash


class Ring:
    """Slots of one frame each. One thread fills and takes them, another reads and hands them back.

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

    def fill(self, payload: Buffer) -> int:
        """Copy a frame into the slot that `take` gives next; its XXH3.

        Until `take` the slot is free, and the next frame goes there, too: this one may yet be refused. So may one that comes
        beyond the credit; where no slot is free, it is only hashed.
        """
        if not self._free:
            return frame_hash(payload)
        return copy_and_hash(payload, self._memory[self._free[0]].reshape(-1).view(np.uint8).data)

    def take(self) -> int:
        """The slot of the frame that was filled in last. Credit makes sure that there is one."""
        return self._free.popleft()

    def __getitem__(self, slot: int) -> NDArray[Any]:
        """The frame in a slot, (row, column)."""
        frame: NDArray[Any] = self._memory[slot]
        return frame

    def release(self, slot: int) -> None:
        """The frame in this slot is no longer needed."""
        self._free.append(slot)
