"""Memory that is kept from one use to the next: touching new pages takes longer than what is done in them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from streamrecon_kernels import aligned_empty


class Workspace:
    """One array that is used again and again, for one purpose, in shapes that may differ."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self._memory.nbytes

    def __call__(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """An array of this shape, whose content is whatever was left in it; it replaces the one given before."""
        nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        if nbytes > self._memory.nbytes:
            self._memory = np.empty(0, np.uint8)  # the old one is free before the new one is made
            self._memory = aligned_empty((nbytes,), np.uint8)
        return self._memory[:nbytes].view(dtype).reshape(shape)
