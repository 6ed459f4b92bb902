"""The kernels on a CUDA device: their sources, how they are compiled, and how they are launched.

What a launch needs from a device is one small protocol, so that the functions of the `*_cuda` modules, which lay out grids
and blocks, run unchanged on a card and on the emulation that the tests execute the sources with.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

FOLDER = Path(__file__).parent
GRID_LIMIT = 65535
"""Blocks that CUDA allows along y and z."""


class Launcher(Protocol):
    """What runs a kernel. Arrays are whatever it takes: cupy's for a card, NumPy's for the emulation."""

    def launch(
        self,
        file: str,
        name: str,
        macros: Mapping[str, str | int],
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        arguments: Sequence[Any],
    ) -> None:
        """Run kernel `name` of `file`, compiled with `macros`, on the current stream.

        `arguments` are arrays, NumPy scalars of exactly the parameter's type, and what `texture` returned.
        """
        ...

    def texture(self, texels: Any) -> Any:
        """Copy (y, x, 4) float32 to a 2-D texture of float4: linear filtering, clamped, coordinates not normalised."""
        ...


def source(file: str) -> str:
    """Return the text of a kernel file with what it includes, each part under its own name and line numbers.

    Not left to the compiler: NVRTC would have to be told of a folder, and cupy's cache would not see an include change.
    """
    path = FOLDER / file
    lines = [f'#line 1 "{path}"']
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        include = re.fullmatch(r'#include "(\w+\.cuh)"', line)
        if include:
            lines += [source(include[1]), f'#line {number + 1} "{path}"']
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


def options(macros: Mapping[str, str | int]) -> tuple[str, ...]:
    """Return the options that every compiler of a kernel file gets."""
    return ("--std=c++17", *(f"-D{name}={value}" for name, value in sorted(macros.items())))


class CupyLauncher:
    """Launches on cupy's current device and stream; modules are compiled once per file, macros and device."""

    def __init__(self) -> None:
        self._modules: dict[tuple[str, tuple[str, ...]], Any] = {}
        self._functions: dict[tuple[str, str, tuple[str, ...]], Any] = {}
        self._texture: Any = None

    def launch(
        self,
        file: str,
        name: str,
        macros: Mapping[str, str | int],
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        arguments: Sequence[Any],
    ) -> None:
        """See `Launcher.launch`."""
        import cupy

        key = (file, name, options(macros))
        function = self._functions.get(key)
        if function is None:
            module = self._modules.get((file, key[2]))
            if module is None:
                module = self._modules[file, key[2]] = cupy.RawModule(code=source(file), options=key[2])
            function = self._functions[key] = module.get_function(name)
        function(grid, block, tuple(arguments))

    def texture(self, texels: Any) -> Any:
        """See `Launcher.texture`."""
        import cupy
        from cupy.cuda import runtime
        from cupy.cuda.texture import (
            ChannelFormatDescriptor,
            CUDAarray,
            ResourceDescriptor,
            TextureDescriptor,
            TextureObject,
        )

        height, width, _ = texels.shape
        channels = ChannelFormatDescriptor(32, 32, 32, 32, runtime.cudaChannelFormatKindFloat)
        memory = CUDAarray(channels, width, height)
        memory.copy_from(cupy.ascontiguousarray(texels).reshape(height, 4 * width))
        # The one before may still be read, and no kernel keeps it alive.
        cupy.cuda.get_current_stream().synchronize()
        self._texture = TextureObject(
            ResourceDescriptor(runtime.cudaResourceTypeArray, cuArr=memory),
            TextureDescriptor(
                (runtime.cudaAddressModeClamp, runtime.cudaAddressModeClamp), filterMode=runtime.cudaFilterModeLinear
            ),
        )
        return self._texture


@cache
def default_launcher() -> Launcher:
    """Return the launcher that is used where none is given."""
    return CupyLauncher()


def require(name: str, array: Any, dtype: Any, shape: Sequence[int | None], innermost: int = -1) -> None:
    """Check an argument of a launch function.

    Parameters
    ----------
    name
        As the message calls it.
    array
        NumPy's, cupy's, or alike.
    dtype
        One dtype, or a tuple of them.
    shape
        None stands for any length.
    innermost
        Axes, counted from the last, that must lie without gaps; all of them by default.

    Raises
    ------
    ValueError
        If the array is another.
    """
    dtypes = [np.dtype(one) for one in (dtype if isinstance(dtype, tuple) else (dtype,))]
    fits = array.ndim == len(shape) and all(
        want in (None, have) for want, have in zip(shape, array.shape, strict=False)
    )
    expected = array.dtype.itemsize
    count = array.ndim if innermost < 0 else innermost
    dense = True
    for size, stride in list(zip(array.shape, array.strides, strict=True))[::-1][:count]:
        dense = dense and (size <= 1 or stride == expected)
        expected *= size
    # Kernels count in elements, and know nothing of an axis that runs backwards.
    whole = all(
        s % array.dtype.itemsize == 0 and (s >= 0 or n <= 1) for n, s in zip(array.shape, array.strides, strict=True)
    )
    if not (fits and array.dtype in dtypes and ((dense and whole) or 0 in array.shape)):
        lengths = ", ".join("any" if length is None else str(length) for length in shape)
        raise ValueError(
            f"{name} is {array.dtype} {array.shape} with strides {array.strides} bytes; expected "
            f"{' or '.join(map(str, dtypes))} ({lengths}), the last {count} axes without gaps"
        )


def element_strides(array: Any) -> list[np.int64]:
    """Return the strides of an array in elements."""
    return [np.int64(stride // array.dtype.itemsize) for stride in array.strides]


def blocks(length: int, size: int) -> int:
    """Return how many blocks of `size` hold `length`."""
    return -(-length // size)


def require_grid(grid: tuple[int, int, int]) -> None:
    """Refuse a grid that CUDA cannot launch; ValueError."""
    if max(grid[1:]) > GRID_LIMIT or grid[0] >= 2**31:
        raise ValueError(f"the grid would be {grid} blocks; expected at most (2**31 - 1, {GRID_LIMIT}, {GRID_LIMIT})")


def quadrupled_square(radius: float) -> np.int64:
    """Return floor(4 radius^2): kernels compare twice the coordinates, which are whole numbers, with it."""
    if not radius >= 0:
        raise ValueError(f"radius is {radius}; expected 0 or more pixels")
    return np.int64(min(4 * radius**2, 2.0**62))
