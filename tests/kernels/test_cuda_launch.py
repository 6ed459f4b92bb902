"""The launcher for cupy, without cupy: what it is given, and how often it compiles."""

from __future__ import annotations

import re
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from streamrecon_kernels import cuda


class FakeModule:
    """cupy.RawModule."""

    made: list[FakeModule]

    def __init__(self, code: str, options: tuple[str, ...]) -> None:
        self.code, self.options, self.launches = code, options, list[Any]()
        self.made.append(self)

    def get_function(self, name: str) -> Any:
        return lambda grid, block, arguments: self.launches.append((name, grid, block, arguments))


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> list[FakeModule]:
    monkeypatch.setattr(FakeModule, "made", [], raising=False)
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(RawModule=FakeModule))
    return FakeModule.made


def test_a_file_is_compiled_once_for_its_macros(modules: list[FakeModule]) -> None:
    launcher = cuda.CupyLauncher()
    for macros in ({"RAW": "unsigned short"}, {"RAW": "float"}, {"RAW": "unsigned short"}):
        launcher.launch("normalize.cu", "line_integrals", macros, (1, 2, 3), (4, 5, 6), [np.int32(7)])
    assert [module.options for module in modules] == [
        ("--std=c++17", "-DRAW=unsigned short"),
        ("--std=c++17", "-DRAW=float"),
    ]
    assert modules[0].launches == 2 * [("line_integrals", (1, 2, 3), (4, 5, 6), (np.int32(7),))]


def test_messages_point_at_the_files() -> None:
    text = cuda.source("packing.cu")
    lines = (cuda.FOLDER / "packing.cu").read_text().splitlines()
    assert text.startswith(f'#line 1 "{cuda.FOLDER / "packing.cu"}"\n')
    where, number, seen = "", 0, {}
    for line in text.splitlines():
        if moved := re.fullmatch(r'#line (\d+) "(.*)"', line):
            number, where = int(moved[1]), moved[2]
        else:
            seen[where, number] = line
            number += 1
    assert seen[str(cuda.FOLDER / "half.cuh"), 1].startswith("// Half precision")
    for number, line in enumerate(lines, start=1):
        if not line.startswith("#include"):
            assert seen[str(cuda.FOLDER / "packing.cu"), number] == line


def test_there_is_one_launcher_by_default(modules: list[FakeModule]) -> None:
    assert isinstance(cuda.default_launcher(), cuda.CupyLauncher)
    assert cuda.default_launcher() is cuda.default_launcher()
    assert not modules


@pytest.mark.parametrize("grid", [(2**31, 1, 1), (1, 65536, 1), (1, 1, 65536)])
def test_a_grid_that_is_too_large_is_refused(grid: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="expected at most"):
        cuda.require_grid(grid)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 3), np.float64),
        np.zeros((3, 2), np.float32),
        np.zeros((2, 3, 1), np.float32),
        np.zeros((2, 6), np.float32)[:, ::2],
        np.zeros((2, 3), np.float32, order="F"),
        np.zeros((2, 3), np.float32)[::-1],
        np.zeros((2, 3), ">f4"),
    ],
)
def test_an_array_that_does_not_fit_is_refused(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"it is .*; expected float32 \(2, any\), the last \d axes without gaps"):
        cuda.require("it", array, np.float32, (2, None))


@pytest.mark.parametrize("shape", [(2, 3), (0, 3), (2, 0), (1, 3)])
def test_an_array_that_fits_is_taken(shape: tuple[int, int]) -> None:
    cuda.require("it", np.zeros(shape, np.float32), (np.float32, np.int32), (None, None))
    cuda.require("it", np.zeros((9, 9), np.float32)[:6:3, : shape[1]], np.float32, (2, None), 1)
