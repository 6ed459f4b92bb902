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


def on_device(array: Any) -> bool:
    """Whether an array is a GPU's: the kernels run where their arrays are."""
    return hasattr(array, "__cuda_array_interface__")


def beside(array: Any, host: NDArray[Any]) -> Any:
    """A small host array on the device of another."""
    there = type(array)
    if issubclass(there, np.ndarray):  # what executes the CUDA sources on the CPU
        return np.ascontiguousarray(host).view(there)
    import cupy

    return cupy.asarray(host)


def require_writable(name: str, array: NDArray[Any]) -> None:
    """Refuse a read-only array; ValueError. The compiled loops only see its address."""
    if not array.flags.writeable:
        raise ValueError(f"{name} is read-only; expected an array that can be written to")


def flat(array: NDArray[Any]) -> NDArray[Any]:
    """All elements from the first to the last in memory, as one line, of an array whose strides are whole positive elements."""
    last = sum((n - 1) * stride for n, stride in zip(array.shape, array.strides, strict=True)) // array.itemsize
    return np.lib.stride_tricks.as_strided(array, (last + 1 if array.size else 0,), (array.itemsize,))
