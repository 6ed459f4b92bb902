"""Executes the CUDA kernels on the CPU: a launcher for NumPy arrays that looks for mistakes while it runs them."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import mmap
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streamrecon_kernels import cuda

HEADER = Path(__file__).parent / "emulation" / "emulate.hpp"
KERNEL = re.compile(r'extern "C" __global__ void (?:__launch_bounds__\([^)]*\) )?(\w+)\(')
ORDERS = {"forward": 0, "reverse": 1, "shuffled": 2}
POISON = 0xFF
PAGE = mmap.PAGESIZE
FENCE = 256 * PAGE
"""Bytes on either side of an array's pages that may not be touched."""


class EmulationError(AssertionError):
    """A kernel did what it may not do on a device."""


@dataclass(frozen=True, slots=True)
class Texture:
    """Stands for a texture of float4."""

    texels: np.ndarray
    """(y, x, 4) float32."""


@dataclass
class EmulatingLauncher:
    """Runs every launch three times, threads and blocks forward, in reverse and shuffled, and wants the same bits.

    Every array lies between pages that may not be touched: close to the upper one when it runs forward, close to the
    lower one in reverse. What is left of its pages is poisoned.
    """

    folder: Path
    """Where compiled kernels are kept; the file name says what of."""
    compiler: Sequence[str] | None = None
    """Command of a C++ compiler; by default the system's, or zig's of the test extra."""
    launched: set[tuple[str, str]] = field(default_factory=set)
    """(file, kernel) that were run."""

    def launch(
        self,
        file: str,
        name: str,
        macros: Mapping[str, str | int],
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        arguments: Sequence[Any],
    ) -> None:
        """See `streamrecon_kernels.cuda.Launcher`."""
        text = cuda.source(file)
        function = getattr(
            _library(text, cuda.options(macros), tuple(self.compiler or compiler()), self.folder), "emulate_" + name
        )
        kinds = (ctypes.c_int * len(arguments))(*map(_kind, arguments))
        self.launched.add((file, name))
        results = {order: _Memory(order, arguments) for order in ORDERS}
        for order, memory in results.items():
            message = ctypes.create_string_buffer(400)
            values = memory.values()
            addresses = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
            sizes = [(ctypes.c_uint * 3)(*size) for size in (grid, block)]
            failed = function(
                *sizes, ORDERS[order], ctypes.c_uint64(7), addresses, kinds, len(values), message, ctypes.c_size_t(400)
            )
            if failed:
                raise EmulationError(f"{file}: {name}, {order}: {message.value.decode()}")
            memory.check(f"{file}: {name}, {order}")
        first = results["forward"]
        for order, memory in results.items():
            if memory.bytes() != first.bytes():
                raise EmulationError(f"{file}: {name}: threads run forward and {order} leave different bits")
        first.copy_back()

    def texture(self, texels: Any) -> Texture:
        """See `streamrecon_kernels.cuda.Launcher`."""
        return Texture(np.array(texels, np.float32, order="C"))


def kernels() -> set[tuple[str, str]]:
    """Return (file, kernel) of all there are."""
    return {(path.name, name) for path in cuda.FOLDER.glob("*.cu") for name in KERNEL.findall(path.read_text())}


@cache
def compiler() -> tuple[str, ...]:
    """Return the command of a C++ compiler, or skip the test."""
    for name in ("c++", "g++", "clang++"):
        if path := shutil.which(name):
            return (path,)
    return zig()


def zig() -> tuple[str, ...]:
    """Return the command of zig's C++ compiler from PyPI, or skip the test."""
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("no C++ compiler: neither c++, g++ nor clang++ is on the path, nor is ziglang installed")
    return (sys.executable, "-m", "ziglang", "c++", "-nostdlib++")


@cache
def _library(text: str, options: tuple[str, ...], command: tuple[str, ...], folder: Path) -> ctypes.CDLL:
    wrappers = "".join(
        f'extern "C" int emulate_{name}(const unsigned* grid, const unsigned* block, int order, uint64_t seed, void** values, '
        "const int* kinds, int count, char* message, size_t size) "
        f"{{ return emulation::launch({name}, grid, block, order, seed, values, kinds, count, message, size); }}\n"
        for name in KERNEL.findall(text)
    )
    program = f'#include "{HEADER}"\n{_place_shared(text)}\n{wrappers}'
    flags = [
        *options,
        "-O2",
        "-shared",
        "-fPIC",
        "-w",
        "-ffp-contract=off",
        "-fno-strict-aliasing",
        *_sanitizers(command),
    ]
    key = hashlib.sha256("\0".join([program, HEADER.read_text(), *command, *flags]).encode()).hexdigest()[:20]
    built = folder / f"{key}.so"
    if not built.exists():
        folder.mkdir(parents=True, exist_ok=True)
        text_file, temporary = folder / f"{key}.cpp", folder / f"{key}.tmp.so"
        text_file.write_text(program)
        done = subprocess.run(
            [*command, *flags, str(text_file), "-o", str(temporary)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise EmulationError(f"{command} cannot compile:\n{done.stderr[-3000:]}")
        temporary.replace(built)
    return ctypes.CDLL(str(built))


@cache
def _sanitizers(command: tuple[str, ...]) -> tuple[str, ...]:
    """Misaligned vectors and indices outside of an array's length stop the program; the kinds that need no library."""
    checks = "-fsanitize=alignment,bounds,shift,signed-integer-overflow,integer-divide-by-zero"
    version = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False).stdout
    return (checks, "-fsanitize-trap=all" if "clang" in version else "-fsanitize-undefined-trap-on-error")


def _place_shared(text: str) -> str:
    """Let the declarations of shared arrays take their places in the emulator's memory."""
    number = 0

    def place(match: re.Match[str]) -> str:
        nonlocal number
        placed = []
        for name, lengths in re.findall(r"(\w+)((?:\[[^\]]*\])+)", match[2]):
            number += 1
            array = f"{match[1]}{lengths}"
            placed.append(f"{match[1]} (&{name}){lengths} = emulation::shared<{array}>((const void*){number});")
        return " ".join(placed)

    placed = re.sub(r"__shared__ (\w+) ([^;]*);", place, text)
    assert "__shared__" not in placed, "shared memory is declared in a way that the emulation does not know"
    return placed


def _kind(argument: Any) -> int:
    if isinstance(argument, np.ndarray | Texture):
        return 0
    if isinstance(argument, np.generic):
        return -argument.nbytes if isinstance(argument, np.floating) else argument.nbytes
    raise TypeError(f"an argument is {type(argument)}; expected an array, a texture or a NumPy scalar")


def _base(array: np.ndarray) -> np.ndarray:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


class _Texels(ctypes.Structure):
    _fields_ = [("texels", ctypes.c_void_p), ("width", ctypes.c_int), ("height", ctypes.c_int)]


class _Memory:
    """The arrays of one launch, copied to where every step beside them is noticed."""

    def __init__(self, order: str, arguments: Sequence[Any]) -> None:
        self.arguments = arguments
        self.kept: list[Any] = []
        self.places: dict[int, tuple[np.ndarray, mmap.mmap, np.ndarray, int]] = {}
        for argument in arguments:
            array = argument.texels if isinstance(argument, Texture) else argument
            if isinstance(array, np.ndarray) and id(_base(array)) not in self.places:
                self._place(_base(array), order == "forward")

    def _place(self, base: np.ndarray, at_the_end: bool) -> None:
        assert base.flags.forc, "the memory of an argument must be one piece"
        room = -(-max(base.nbytes, 1) // PAGE) * PAGE
        pages = mmap.mmap(-1, room + 2 * FENCE)
        memory = np.frombuffer(pages, np.uint8)
        memory[FENCE:-FENCE] = POISON
        # 16 bytes is what a vector of a kernel may be aligned to.
        start = FENCE + ((room - base.nbytes) // 16 * 16 if at_the_end else 0)
        memory[start : start + base.nbytes] = np.frombuffer(base.tobytes("A"), np.uint8)
        for fence in (memory.ctypes.data, memory.ctypes.data + FENCE + room):
            _forbid(fence)
        self.places[id(base)] = (base, pages, memory, start)

    def address(self, array: np.ndarray) -> int:
        base, _, memory, start = self.places[id(_base(array))]
        return memory.ctypes.data + start + array.ctypes.data - base.ctypes.data

    def values(self) -> list[Any]:
        values: list[Any] = []
        for argument in self.arguments:
            if isinstance(argument, Texture):
                height, width, _ = argument.texels.shape
                texels = _Texels(self.address(argument.texels), width, height)
                self.kept.append(texels)
                values.append(ctypes.c_void_p(ctypes.addressof(texels)))
            elif isinstance(argument, np.ndarray):
                values.append(ctypes.c_void_p(self.address(argument)))
            else:
                values.append((ctypes.c_char * argument.nbytes).from_buffer_copy(argument.tobytes()))
        return values

    def check(self, what: str) -> None:
        for base, _, memory, start in self.places.values():
            for part in (memory[FENCE:start], memory[start + base.nbytes : -FENCE]):
                if (part != POISON).any():
                    raise EmulationError(f"{what}: memory beside an array was written")

    def bytes(self) -> list[bytes]:
        return [memory[start : start + base.nbytes].tobytes() for base, _, memory, start in self.places.values()]

    def copy_back(self) -> None:
        for argument in self.arguments:
            # Kernels write contiguous arrays only.
            if isinstance(argument, np.ndarray) and argument.flags.writeable and argument.flags.c_contiguous:
                base, _, memory, start = self.places[id(_base(argument))]
                offset = start + argument.ctypes.data - base.ctypes.data
                argument.reshape(-1).view(np.uint8)[:] = memory[offset : offset + argument.nbytes]


_libc = ctypes.CDLL(None, use_errno=True)


def _forbid(address: int) -> None:
    if _libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(FENCE), 0):
        raise OSError(ctypes.get_errno(), "mprotect")
