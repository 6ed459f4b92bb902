"""NVIDIA's runtime compiler through ctypes: kernels are compiled for real architectures where there is no device."""

from __future__ import annotations

import ctypes
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from streamrecon_kernels import cuda


@dataclass(frozen=True, slots=True)
class Resources:
    """What ptxas says that a kernel takes."""

    registers: int
    spilled: int
    """Bytes of spill stores and loads."""
    stack: int
    """Bytes of local memory."""
    shared: int
    """Bytes, static."""


@cache
def library() -> ctypes.CDLL:
    """Return NVRTC from the package of PyPI, or skip the test."""
    spec = importlib.util.find_spec("nvidia") and importlib.util.find_spec("nvidia.cuda_nvrtc")
    folders = spec.submodule_search_locations if spec else None
    found = [path for folder in folders or [] for path in Path(folder).glob("lib/libnvrtc.so.*")]
    if not found:
        pytest.skip("nvidia-cuda-nvrtc-cu12 is not installed")
    return ctypes.CDLL(str(found[0]))


def compile_kernels(file: str, macros: Mapping[str, str | int], architecture: int) -> dict[str, Resources]:
    """Compile a kernel file to machine code; return what each of its kernels takes, or fail with the compiler's log."""
    nvrtc = library()
    program = ctypes.c_void_p()
    text = cuda.source(file).encode()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), text, file.encode(), 0, None, None) == 0
    arguments = (*cuda.options(macros), f"--gpu-architecture=sm_{architecture}", "--ptxas-options=-v")
    encoded = (ctypes.c_char_p * len(arguments))(*(argument.encode() for argument in arguments))
    status = nvrtc.nvrtcCompileProgram(program, len(arguments), encoded)
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, buffer)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    log = buffer.value.decode()
    assert status == 0, f"{file} {dict(macros)} sm_{architecture}:\n{log}"
    # That sm_70 will go one day is no fault of the kernels.
    assert not re.search(r"warning(?!: Architectures prior)", log), log
    return _resources(log)


def _resources(log: str) -> dict[str, Resources]:
    found = {}
    for part in log.split("Compiling entry function '")[1:]:
        numbers = {
            key: int(match[1]) if (match := re.search(pattern, part)) else 0
            for key, pattern in {
                "registers": r"Used (\d+) registers",
                "stack": r"(\d+) bytes stack frame",
                "stores": r"(\d+) bytes spill stores",
                "loads": r"(\d+) bytes spill loads",
                "shared": r"(\d+) bytes smem",
            }.items()
        }
        found[part.split("'")[0]] = Resources(
            numbers["registers"], numbers["stores"] + numbers["loads"], numbers["stack"], numbers["shared"]
        )
    return found
