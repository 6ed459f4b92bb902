"""Calls launch functions with NumPy arrays, wherever the kernels run: what is written comes back into the arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from cuda_emulator import EmulatingLauncher
from streamrecon_kernels import cuda


class Target(Protocol):
    """The emulation, or a card."""

    def call(self, function: Callable[..., None], arguments: Mapping[str, Any]) -> None:
        """Call a launch function; `arguments` by name."""
        ...


class EmulatedTarget:
    """Runs on the CPU."""

    def __init__(self, launcher: EmulatingLauncher) -> None:
        self.launcher = launcher

    def call(self, function: Callable[..., None], arguments: Mapping[str, Any]) -> None:
        """See `Target.call`."""
        function(**arguments, launcher=self.launcher)


class CupyTarget:
    """Runs on cupy's current device. Arrays of one memory, and views of it, are so there too."""

    def __init__(self, cupy: Any) -> None:
        self.cupy = cupy
        self.launcher = cuda.CupyLauncher()

    def call(self, function: Callable[..., None], arguments: Mapping[str, Any]) -> None:
        """See `Target.call`."""
        memories: dict[int, tuple[np.ndarray, Any]] = {}

        def sent(array: np.ndarray) -> Any:
            base = array
            while isinstance(base.base, np.ndarray):
                base = base.base
            if id(base) not in memories:
                memories[id(base)] = base, self.cupy.asarray(np.frombuffer(base.tobytes("A"), np.uint8))
            memory = memories[id(base)][1].data + (array.ctypes.data - base.ctypes.data)
            return self.cupy.ndarray(array.shape, array.dtype, memory, array.strides)

        on_card = {name: sent(value) if isinstance(value, np.ndarray) else value for name, value in arguments.items()}
        function(**on_card, launcher=self.launcher)
        for name, value in arguments.items():
            if isinstance(value, np.ndarray) and value.flags.writeable:
                value[...] = on_card[name].get()
