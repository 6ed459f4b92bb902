"""Arrays as unfriendly callers lay them out, in memory that a kernel must neither write nor read beyond them."""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from streamrecon_kernels import aligned_empty

ROWS_TOGETHER = ("plain", "unaligned", "sliced", "skipping", "swapped", "reversed")
"""Layouts whose last axis is contiguous."""

ROWS_APART = ("every_second", "fortran", "reversed_rows")
"""Layouts whose last axis is not."""


@dataclass(frozen=True)
class Held:
    """An array with bytes around it that are all 1: not a number, whichever float one reads there."""

    array: NDArray[Any]
    memory: NDArray[Any]
    before: NDArray[Any]
    pick: Callable[[NDArray[Any]], NDArray[Any]]

    def check(self) -> None:
        """Fail if anything but the array itself was written."""
        after = self.before.copy()
        self.pick(after)[...] = self.array
        assert after.tobytes() == self.memory.tobytes(), "written beyond the array"

    def check_unchanged(self) -> None:
        """Fail if the array was written, or anything around it."""
        assert self.before.tobytes() == self.memory.tobytes(), "written"


def hold(array: NDArray[Any], how: str = "plain") -> Held:
    """Lay a copy of an array out in guarded memory."""
    shape, dtype, ndim = array.shape, array.dtype, array.ndim
    inner = tuple(slice(1, 1 + n) for n in shape)
    kind: Any = dtype
    if how in ("plain", "unaligned", "odd_bytes"):
        start = 256 + {"plain": 0, "unaligned": 4 * 7, "odd_bytes": 1}[how]
        size, kind = (array.nbytes + 512,), np.uint8

        def pick(memory: NDArray[Any]) -> NDArray[Any]:
            return memory[start : start + array.nbytes].view(dtype).reshape(shape)

    elif how == "sliced":
        size = tuple(n + 3 for n in shape)

        def pick(memory: NDArray[Any]) -> NDArray[Any]:
            return memory[inner]

    elif how == "skipping":
        size = (*(2 * n + 2 for n in shape[:-1]), shape[-1] + 3)

        def pick(memory: NDArray[Any]) -> NDArray[Any]:
            return memory[(*(slice(1, 1 + 2 * n, 2) for n in shape[:-1]), inner[-1])]

    elif how == "swapped":
        size = (*(n + 2 for n in shape[-2::-1]), shape[-1] + 2)

        def pick(memory: NDArray[Any]) -> NDArray[Any]:
            return memory.transpose(*range(ndim - 2, -1, -1), ndim - 1)[inner]

    elif how == "reversed":
        size = tuple(n + 2 for n in shape)

        def pick(memory: NDArray[Any]) -> NDArray[Any]:
            return memory[inner][(*(slice(None, None, -1),) * (ndim - 1), slice(None))]

    elif how == "reversed_rows":
        size = tuple(n + 2 for n in shape)

        def pick(memory: NDArray[Any]) -> NDArray[Any]:
            return memory[inner][..., ::-1]

    elif how == "every_second":
        size = (*shape[:-1], 2 * shape[-1] + 2)

        def pick(memory: NDArray[Any]) -> NDArray[Any]:
            return memory[..., 1 : 1 + 2 * shape[-1] : 2]

    elif how == "fortran":
        size = tuple(n + 2 for n in shape[::-1])

        def pick(memory: NDArray[Any]) -> NDArray[Any]:
            return memory.T[inner]

    elif how == "odd_strides":
        # As in a stream of frames that each have a header of three bytes.
        size, kind = shape[:1], np.dtype([("header", "u1", 3), ("frame", dtype, shape[1:])])

        def pick(memory: NDArray[Any]) -> NDArray[Any]:
            return np.asarray(memory["frame"])

    else:
        raise AssertionError(how)
    memory = aligned_empty(size, kind)
    memory.reshape(-1).view(np.uint8).fill(255)
    view = pick(memory)
    view[...] = array
    assert view.shape == shape
    return Held(view, memory, memory.copy(), pick)


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    """The same memory, not to be written."""
    view = array.view()
    view.flags.writeable = False
    return view


def rebuilt(function: Any, **replaced: Any) -> Any:
    """A compiled function anew, with other globals, in one thread: an intrinsic for another length of vector."""
    # Not through the cache, which knows nothing of globals: it would give the usual one, or keep this one in its place.
    options = {key: value for key, value in function.targetoptions.items() if key != "cache"}
    code = function.py_func.__code__
    plain = types.FunctionType(code, {**function.py_func.__globals__, **replaced}, function.py_func.__name__)
    return njit(**options)(plain)


def complexes(rng: np.random.Generator, *shape: int) -> NDArray[np.complex64]:
    """Normal complex numbers."""
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


def floats(rng: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    """Normal real numbers."""
    return rng.normal(size=shape).astype(np.float32)
