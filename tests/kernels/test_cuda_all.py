"""Every CUDA kernel once: each is run by some problem, right, and compiles for the architectures that are in use."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import cuda_problems
import numpy as np
import nvrtc
import pytest
from cuda_emulator import EmulatingLauncher, kernels, zig
from cuda_target import EmulatedTarget, Target
from streamrecon_kernels import cuda
from streamrecon_kernels.packing_cuda import PACKED, RAW

ARCHITECTURES = (70, 80, 90, 100)
BUILDS: list[tuple[str, dict[str, str | int]]] = [
    *(("normalize.cu", {"RAW": kind}) for kind in RAW.values()),
    *(("packing.cu", {"RAW": kind}) for kind in PACKED.values()),
    *(("backproject.cu", {"COLUMNS": columns, "HALF": 0}) for columns in (64, 96)),
    *(("backproject.cu", {"COLUMNS": columns, "HALF": 1}) for columns in (32, 64)),
    *(("gridding.cu", {"WIDTH": width}) for width in range(2, 13)),
    ("folding.cu", {}),
    ("slices.cu", {}),
]


@pytest.mark.parametrize("name", cuda_problems.EXAMPLES)
def test_equals_the_reference(target: Target, name: str) -> None:
    cuda_problems.EXAMPLES[name](np.random.default_rng(1)).check(target)


def test_every_kernel_is_run(emulated: EmulatedTarget) -> None:
    for example in cuda_problems.EXAMPLES.values():
        example(np.random.default_rng(2)).check(emulated)
    assert emulated.launcher.launched == kernels()


def test_every_file_is_compiled() -> None:
    assert {file for file, _ in BUILDS} == {path.name for path in cuda.FOLDER.glob("*.cu")}


def test_another_compiler_gives_the_same(tmp_path: Path) -> None:
    launcher = EmulatingLauncher(tmp_path, zig())
    for name in ("backproject_half", "grid_spokes"):
        cuda_problems.EXAMPLES[name](np.random.default_rng(3)).check(EmulatedTarget(launcher))


@pytest.mark.parametrize(
    ("file", "macros"), BUILDS, ids=lambda part: part if isinstance(part, str) else json.dumps(part)
)
def test_compiles_to_machine_code(file: str, macros: Mapping[str, str | int]) -> None:
    expected = {name for where, name in kernels() if where == file}
    # Types of counts differ in one conversion: one architecture is enough for most.
    plain = macros.get("RAW", "Half") in ("Half", "unsigned short")
    for architecture in ARCHITECTURES if plain else ARCHITECTURES[2:3]:
        compiled = nvrtc.compile_kernels(file, macros, architecture)
        assert set(compiled) == expected
        for name, taken in compiled.items():
            # Of backproject's 128 registers, sums take 64; for Blackwell a few bytes do not fit.
            allowed = 24 if (architecture, name) == (100, "backproject") else 0
            assert taken.spilled <= allowed, f"{name} for sm_{architecture}: {taken}"
            assert taken.shared <= 48 * 1024
            # Two blocks of backproject share a multiprocessor, whose file has 65536 registers.
            assert taken.registers <= (128 if name.startswith("backproject") else 80)
