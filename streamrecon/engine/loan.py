"""Memory of a version that viewers may read until another version is put there."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Loan:
    """An array of somebody who never waits for those who read it; any thread.

    Parameters
    ----------
    array
        That is lent.
    """

    def __init__(self, array: NDArray[np.float32]) -> None:
        self._array: NDArray[np.float32] | None = array
        self._superseded = -math.inf
        """When, monotonic, it ended as a newer version was put there."""

    @property
    def runs(self) -> bool:
        """Whether it could be read just now."""
        return self._array is not None

    def superseded(self, seconds: float) -> bool:
        """Whether it has ended so lately, as a newer version was put there: what is lent now will be shown soon."""
        return time.monotonic() - self._superseded < seconds

    def end(self, superseded: bool = False) -> None:
        """Called before a newer version is written there, and when the memory is to be free."""
        self._superseded = time.monotonic() if superseded else -math.inf
        self._array = None

    def read(self, place: Any) -> NDArray[np.float32] | None:
        """A copy of a part of it; None once the loan has ended, be it meanwhile."""
        array = self._array
        if array is None:
            return None
        copy = array[place].copy()
        # What was written there by now, if anything, came after the end.
        return copy if self._array is array else None
