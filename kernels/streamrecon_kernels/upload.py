"""Host arrays to a CUDA device while the kernels of earlier ones run."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(slots=True)
class _Slot:
    pinned: NDArray[np.uint8]
    device: Any
    copied: Any
    """Recorded after a copy from `pinned` to `device`."""
    read: Any
    """Recorded after what reads `device`."""


class Uploader:
    """Two pinned buffers and two device buffers, copied between on a stream of their own.

    While the kernels that read one array run, the next is copied, and the host fills no buffer that is still read: a copy
    waits on the device for the kernels that read its buffer before, the consumer's stream waits on the device for the copy,
    and the host waits only to fill a pinned buffer whose last copy has not been made yet.

    Parameters
    ----------
    nbytes
        Of the largest array that will be uploaded; the buffers are made once, on cupy's current device.
    cupy
        The module; imported if it is not given.
    """

    def __init__(self, nbytes: int, cupy: Any = None) -> None:
        if nbytes < 1:
            raise ValueError(f"nbytes is {nbytes}; expected the size of the largest array, 1 or more")
        self._cupy = cupy or importlib.import_module("cupy")
        self._stream = self._cupy.cuda.Stream(non_blocking=True)
        self._slots = [self._slot(nbytes) for _ in range(2)]
        self._count = 0

    def _slot(self, nbytes: int) -> _Slot:
        cuda = self._cupy.cuda
        pinned = np.frombuffer(cuda.alloc_pinned_memory(nbytes), np.uint8, nbytes)
        device = self._cupy.empty(nbytes, np.uint8)
        return _Slot(pinned, device, cuda.Event(disable_timing=True), cuda.Event(disable_timing=True))

    def upload(self, host: NDArray[Any]) -> Any:
        """Return the array on the device, for the current stream.

        What reads it must be launched on that stream before the next call of `upload`: the call after the next overwrites
        it. `host` may be changed as soon as this returns.

        Parameters
        ----------
        host
            Any shape, strides and dtype; C-contiguous on the device.

        Raises
        ------
        ValueError
            If it is larger than the buffers.
        """
        capacity = self._slots[0].pinned.nbytes
        if host.nbytes > capacity:
            raise ValueError(f"the array has {host.nbytes} bytes; expected at most the {capacity} of the buffers")
        consumer = self._cupy.cuda.get_current_stream()
        slot, other = self._slots[self._count % 2], self._slots[(self._count + 1) % 2]
        self._count += 1
        # Everything that reads the array before this one has been launched by now, and nothing that reads this one.
        other.read.record(consumer)
        slot.copied.synchronize()
        part = slot.pinned[: host.nbytes]
        np.copyto(part.view(host.dtype).reshape(host.shape), host)
        self._stream.wait_event(slot.read)
        device = slot.device[: host.nbytes]
        device.set(part, stream=self._stream)
        slot.copied.record(self._stream)
        consumer.wait_event(slot.copied)
        return device.view(host.dtype).reshape(host.shape)
