"""Memory for the kernels: aligned to a cache line, so that no vector lies across two of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

LINE = 64
"""Bytes of a cache line, and of the longest vector."""


def aligned_empty(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """`numpy.empty`, aligned to a cache line."""
    nbytes = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(nbytes + LINE, np.uint8)
    first = -memory.ctypes.data % LINE
    return memory[first : first + nbytes].view(dtype).reshape(shape)


def aligned_zeros(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """`numpy.zeros`, aligned to a cache line; its pages are touched, which would otherwise slow down their first use."""
    array = aligned_empty(shape, dtype)
    array.fill(0)
    return array


def flat(array: NDArray[Any]) -> NDArray[Any]:
    """All elements from the first to the last in memory of an array with positive strides, as one line."""
    last = sum((n - 1) * stride for n, stride in zip(array.shape, array.strides, strict=True)) // array.itemsize
    return np.lib.stride_tricks.as_strided(array, (last + 1 if array.size else 0,), (array.itemsize,))
