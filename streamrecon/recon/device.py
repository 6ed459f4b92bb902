"""Where an accumulator lives: the device follows the array, and the maths is one text for both.

An accumulator makes its arrays through its device; the kernels and transforms it calls look at what they are given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy import fft
from streamrecon_kernels import aligned_empty, each, threads

Array = Any
"""NumPy's on the CPU, cupy's on a GPU."""

Item = TypeVar("Item")


class Device(Protocol):
    """Makes arrays, and brings them there and back."""

    name: str
    """cpu or gpu."""
    rows_at_once: int | None
    """Rows or columns of an image that are best transformed at once; None: all."""
    angles_at_once: int | None
    """Most projections that are transformed at once; None: all."""

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """An array whose content is arbitrary."""

    def put(self, host: NDArray[Any]) -> Array:
        """The array there; it need not be a copy."""

    def upload(self, projections: NDArray[np.float32]) -> Array:
        """The projections there, until the next ones are uploaded; it need not be a copy."""

    def target(self, host: NDArray[Any]) -> Array:
        """Where to write what shall come to be in `host`; see `fetch`."""

    def fetch(self, target: Array, host: NDArray[Any]) -> None:
        """Bring what was written into `target(host)` to `host`."""

    def transforms(self) -> AbstractContextManager[Any]:
        """Within it `scipy.fft` transforms arrays of this device."""

    def each(self, task: Callable[[Item], object], items: Sequence[Item]) -> None:
        """Call a task for each item: in order, or at once where that is faster; within `transforms`."""


class Cpu:
    """This process's memory; `scipy.fft` with as many workers as the kernels have threads."""

    name = "cpu"
    rows_at_once: int | None = 32
    angles_at_once: int | None = 8

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """See `Device.empty`."""
        return aligned_empty(shape, dtype)

    def put(self, host: NDArray[Any]) -> Array:
        """See `Device.put`."""
        return host

    def upload(self, projections: NDArray[np.float32]) -> Array:
        """See `Device.upload`."""
        return projections

    def target(self, host: NDArray[Any]) -> Array:
        """See `Device.target`."""
        return host

    def fetch(self, target: Array, host: NDArray[Any]) -> None:
        """See `Device.fetch`."""

    def transforms(self) -> AbstractContextManager[Any]:
        """See `Device.transforms`."""
        workers: AbstractContextManager[Any] = fft.set_workers(threads())
        return workers

    def each(self, task: Callable[[Item], object], items: Sequence[Item]) -> None:
        """See `Device.each`: a core each, unless cores would be idle for more than a fifth of the time."""
        rounds = -(-len(items) // threads())
        if len(items) >= 0.8 * rounds * threads():
            each(self._alone(task), items)
            return
        with self.transforms():
            for item in items:
                task(item)

    def _alone(self, task: Callable[[Item], object]) -> Callable[[Item], object]:
        def alone(item: Item) -> None:
            with self.transforms():
                task(item)

        return alone


class Gpu:
    """A CUDA device through cupy. Not measured on a GPU yet.

    Parameters
    ----------
    index
        Of the device.
    largest
        Bytes of the largest array that `upload` will be given, for its pinned buffers.
    """

    name = "gpu"
    rows_at_once: int | None = None
    angles_at_once: int | None = None

    def __init__(self, index: int = 0, largest: int = 1 << 20) -> None:
        import cupy
        import cupyx.scipy.fft
        from streamrecon_kernels.upload import Uploader

        cupy.cuda.Device(index).use()
        self._cupy, self._backend = cupy, cupyx.scipy.fft
        self._uploader = Uploader(largest, cupy)

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """See `Device.empty`."""
        return self._cupy.empty(shape, dtype)

    def put(self, host: NDArray[Any]) -> Array:
        """See `Device.put`."""
        return self._cupy.asarray(host)

    def upload(self, projections: NDArray[np.float32]) -> Array:
        """See `Device.upload`: through pinned buffers, beside the kernels that work on the projections before."""
        return self._uploader.upload(projections)

    def target(self, host: NDArray[Any]) -> Array:
        """See `Device.target`."""
        return self._cupy.empty(host.shape, host.dtype)

    def fetch(self, target: Array, host: NDArray[Any]) -> None:
        """See `Device.fetch`."""
        target.get(out=host)

    def transforms(self) -> AbstractContextManager[Any]:
        """See `Device.transforms`."""
        backend: AbstractContextManager[Any] = fft.set_backend(self._backend, only=True)
        return backend

    def each(self, task: Callable[[Item], object], items: Sequence[Item]) -> None:
        """See `Device.each`: in order, on one stream."""
        with self.transforms():
            for item in items:
                task(item)


CPU = Cpu()


def zeros(device: Device, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """An array of zeros, whose memory is touched: new pages would slow down their first use."""
    array = device.empty(shape, dtype)
    array.fill(np.dtype(dtype).type(0))
    return array
