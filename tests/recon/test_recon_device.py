"""Devices: memory that is used again, snapshots into given memory, previews of any rows, and no GPU where there is none."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from recon_oracle import METHODS, accumulator, fill, half_turn, relative

from streamrecon.config import ReconConfig
from streamrecon.engine import device as choosing
from streamrecon.engine.warmup import compile_kernels
from streamrecon.errors import ConfigError
from streamrecon.recon import spreading
from streamrecon.recon.accumulate import Accumulator, Shape, snapshot, snapshot_shape
from streamrecon.recon.device import CPU, Cpu, zeros
from streamrecon.recon.workspace import Desks, Workspace
from streamrecon.scan import Geometry

METHOD = pytest.mark.parametrize("method", sorted(METHODS))


class Counting(Cpu):
    """Notes what is allocated."""

    def __init__(self) -> None:
        self.made: list[int] = []

    def empty(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        array = super().empty(shape, dtype)
        if array.nbytes:
            self.made.append(array.nbytes)
        return array


def place(array: NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])


# Workspaces.


def test_memory_is_used_again() -> None:
    here = Counting()
    space = Workspace(here)
    first = space((5, 7), np.complex64)
    assert (first.shape, first.dtype, first.flags.c_contiguous, first.flags.writeable) == ((5, 7), "c8", True, True)
    first[...] = np.arange(35).reshape(5, 7)
    for shape, dtype in [
        ((5, 7), np.complex64),
        ((70,), np.float32),
        ((2, 3), np.float64),
        ((0, 4), np.int8),
        ((), "u1"),
    ]:
        array = space(shape, dtype)
        assert (array.shape, array.dtype) == (shape, np.dtype(dtype))
        assert not array.size or place(array) == place(first)
    assert here.made == [5 * 7 * 8], "no growth"
    np.testing.assert_array_equal(space((3, 2), np.complex64).ravel(), np.arange(6), "what was left in it")
    space((9, 9), np.complex64)
    assert here.made == [5 * 7 * 8, 9 * 9 * 8]
    space((5, 7), np.complex64)
    assert len(here.made) == 2, "it does not shrink"


def test_vectors_of_a_workspace_are_aligned() -> None:
    space = Workspace(CPU)
    for n in (1, 3, 1000, 17, 100_001):
        assert place(space((n,), np.float32)) % 64 == 0


def test_desks_are_given_to_one_each_and_taken_back() -> None:
    here = Counting()
    desks = Desks(here)
    with desks((4,), np.float32) as a, desks((4,), np.float32) as b:
        assert not np.shares_memory(a, b)
        both = {place(a), place(b)}
    for _ in range(3):
        with desks((4,), np.float32) as a, desks((2,), np.float64) as b:
            assert {place(a), place(b)} == both
    assert here.made == [16, 16]


def test_a_desk_comes_back_after_an_error() -> None:
    here = Counting()
    desks = Desks(here)
    for _ in range(5):
        with pytest.raises(ZeroDivisionError), desks((6,), np.float32) as array:
            array[0] = 1 / 0
    assert here.made == [24]


class Full(Counting):
    """Has no memory for large arrays."""

    def empty(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        if np.prod(shape, dtype=int) > 100:
            raise MemoryError
        return super().empty(shape, dtype)


def test_a_desk_comes_back_where_memory_does_not_suffice() -> None:
    here = Full()
    desks = Desks(here)
    for _ in range(3):
        with pytest.raises(MemoryError), desks((1000,), np.float32):
            pytest.fail("it was given")
        with desks((5,), np.float32) as array:
            array.fill(1)
    assert desks._free.qsize() == 1


def test_desks_of_many_threads() -> None:
    here, wrong = Counting(), list[int]()
    desks, users = Desks(here), 6

    def use(number: int) -> None:
        for turn in range(200):
            with desks((50 + turn % 7,), np.int64) as array:
                array[:] = number
                if not (array == number).all():
                    wrong.append(number)

    several = [threading.Thread(target=use, args=(number,)) for number in range(users)]
    for thread in several:
        thread.start()
    for thread in several:
        thread.join()
    assert not wrong
    assert desks._free.qsize() <= users


@METHOD
@pytest.mark.parametrize("rows", [10, 70])
def test_an_accumulator_makes_no_memory_once_it_is_warm(method: str, rows: int) -> None:
    """But what it hands out, and bins, which are small."""
    here = Counting()
    options = ReconConfig()
    acc = METHODS[method](Shape.of(Geometry(rows, 24), options, 11.2), options, here)
    rng = np.random.default_rng(0)

    def work(angles: int) -> None:
        projections = rng.normal(size=(angles, rows, 24)).astype(np.float32)
        acc.add(projections, half_turn(angles), np.full(angles, 0.1))
        snapshot(acc)

    for _ in range(3):
        work(16)
    before = len(here.made)
    for angles in (16, 3, 16):
        work(angles)
    # As many pieces as there are at once may not have been at once yet.
    assert len(here.made) - before <= 1
    assert acc.nbytes in here.made


class InOrder(Cpu):
    """One piece of work after the other."""

    def each(self, task: Any, items: Any) -> None:
        with self.transforms():
            for item in items:
                task(item)


def test_seconds_of_pieces_that_are_done_at_once_are_shared_among_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A piece takes one second of its core."""
    pieces: list[int] = []
    pack = spreading.pack_rows

    def counted(*arguments: Any) -> None:
        pieces.append(1)
        pack(*arguments)

    monkeypatch.setattr(spreading, "pack_rows", counted)
    monkeypatch.setattr(spreading, "threads", lambda: 4)
    monkeypatch.setattr(spreading, "time", SimpleNamespace(perf_counter=itertools.count().__next__))
    acc = METHODS["fourier"](Shape.of(Geometry(70, 24), ReconConfig(), 11.5), ReconConfig(), InOrder())
    acc.add(np.ones((16, 70, 24), np.float32), half_turn(16), np.ones(16))
    assert len(pieces) > 3
    assert acc.filter_seconds == len(pieces) / 4


def test_zeros_are_zeros_where_something_else_was() -> None:
    space = Workspace(CPU)

    class Again(Cpu):
        def empty(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
            array = space(shape, dtype)
            array.view(np.uint8).fill(255)
            return array

    for dtype in (np.float32, np.complex64, np.int64):
        assert not zeros(Again(), (3, 5), dtype).any()


# Snapshots.


def some(method: str, rows: int, columns: int = 20, side: int | None = None) -> Accumulator:
    rng = np.random.default_rng(0)
    acc = accumulator(method, rows, columns, columns / 2.2, 2.0, ReconConfig(side=side))
    return fill(acc, rng.normal(size=(12, rows, columns)), half_turn(12))


@METHOD
@pytest.mark.parametrize("rows", [1, 6, 40, 67])
@pytest.mark.parametrize("binning", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("side", [None, 1, 9, 34])
def test_a_snapshot_into_given_memory(method: str, rows: int, binning: int, side: int | None) -> None:
    acc = some(method, rows, side=side)
    out = np.full(snapshot_shape(acc.shape, binning), np.nan, np.float32)
    state = snapshot(acc)
    got, expected = snapshot(acc, 1.5, binning, out), snapshot(acc, 1.5, binning)
    assert np.isfinite(out).all(), "all of it is written"
    np.testing.assert_array_equal(got, expected)
    if binning == acc.shape.row_binning(binning):
        assert np.shares_memory(got, out)
        np.testing.assert_array_equal(got, out)
    else:
        assert not np.shares_memory(got, expected)
    np.testing.assert_array_equal(snapshot(acc), state, "looking changes nothing")


@METHOD
def test_two_snapshots_are_two(method: str) -> None:
    acc = some(method, 35)
    first = snapshot(acc)
    kept = first.copy()
    fill(acc, np.ones((12, 35, 20)), half_turn(12))
    second = snapshot(acc, out=np.empty_like(first))
    np.testing.assert_array_equal(first, kept)
    assert np.abs(second - first).max() > 0.001


def bins(volume: NDArray[np.floating], binning: int) -> NDArray[np.float64]:
    """Means of b x b x b voxels: rows from the first, at least one; pixels around the axis, whose rest must be even."""
    per_row = min(binning, volume.shape[0])
    rows, side = volume.shape[0] // per_row, volume.shape[1] // binning
    cut, odd = divmod(volume.shape[1] - side * binning, 2)
    assert not odd
    volume = volume[: rows * per_row, cut : cut + side * binning, cut : cut + side * binning]
    return volume.reshape(rows, per_row, side, binning, side, binning).mean((1, 3, 5), dtype=np.float64)


def blob(theta: NDArray[np.float64], rows: int, columns: int, center: float, width: float) -> NDArray[np.float64]:
    """(angle, row, column) of Gaussians; each row has another height, so that rows cannot be mistaken."""
    height = 1 + np.sin(np.arange(rows) * 1.7) / 2
    u = np.arange(columns) - center - (5 * np.cos(theta) - 3 * np.sin(theta))[:, None]
    return height[:, None] * width * np.exp(-(u**2) / (2 * width**2))[:, None]


@METHOD
@pytest.mark.parametrize("rows", range(1, 41))
def test_previews_of_any_number_of_rows(method: str, rows: int) -> None:
    columns, center, theta = 128, 62.6, half_turn(20)
    for side in (128, 140) if rows % 8 == 3 else (128,):
        acc = accumulator(method, rows, columns, center, options=ReconConfig(side=side))
        fill(acc, blob(theta, rows, columns, center, 14.0), theta)
        full = snapshot(acc)
        assert full.shape == (rows, side, side)
        for binning in (2, 4, 8, 16):
            if (side - side // binning * binning) % 2:
                continue
            preview = snapshot(acc, binning=binning)
            assert preview.shape == (max(1, rows // binning), side // binning, side // binning)
            assert preview.dtype == np.float32
            error = relative(preview, bins(full, binning))
            assert error < (1e-5 if method == "direct" else 0.04 * (binning / 16) ** 2), (side, binning, error)


@pytest.mark.parametrize(
    ("method", "rows"),
    [
        *((method, rows) for method in sorted(METHODS) for rows in (1, 15, 17, 33, 47, 65, 70)),
        *(("fourier", rows) for rows in (73, 97, 99, 131)),
        *(("direct", rows) for rows in (73, 97, 99, 131)),
    ],
)
def test_previews_across_blocks(method: str, rows: int) -> None:
    """Blocks of 2 to 32 rows: bins of 16 lie across some, and the last block may not fill one."""
    columns, center, theta = 48, 23.5, half_turn(12)
    acc = accumulator(method, rows, columns, center, options=ReconConfig(side=32))
    fill(acc, blob(theta, rows, columns, center, 9.0), theta)
    full = snapshot(acc)
    for binning in (2, 4, 8, 16):
        preview, expected = snapshot(acc, binning=binning), bins(full, binning)
        assert preview.shape == expected.shape
        means, wanted = (volume.reshape(len(volume), -1).mean(axis=1) for volume in (preview, expected))
        np.testing.assert_allclose(means, wanted, rtol=1e-5 if method == "direct" else 0.15)
        # The heights of the rows, whatever the method's error in a slice.
        np.testing.assert_allclose(means / means[0], wanted / wanted[0], rtol=1e-4)


# Which device.


@pytest.fixture
def _no_cupy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "cupy", None)  # an import of it fails
    choosing._gpu.cache_clear()
    yield
    choosing._gpu.cache_clear()


@pytest.mark.usefixtures("_no_cupy")
def test_a_gpu_is_asked_for_and_there_is_no_cupy() -> None:
    for choose in (choosing.uses_gpu, lambda asked: choosing.choose(asked, 1000)):
        with pytest.raises(ConfigError) as refused:
            choose("gpu")
        for words in ("engine.device", '"gpu"', "install streamrecon[cuda12] or streamrecon[cuda13]", '"cpu"'):
            assert words in str(refused.value)
    assert choosing.choose("auto", 1000) is CPU
    assert choosing.choose("cpu", 1000) is CPU


FAKE = """
class cuda:
    class runtime:
        class CUDARuntimeError(RuntimeError): pass
        @staticmethod
        def getDeviceCount():
            {answer}
"""


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("return 0", "there is no CUDA device"),
        ("raise cuda.runtime.CUDARuntimeError('the driver is too old')", "CUDA says: the driver is too old"),
    ],
)
def test_a_gpu_is_asked_for_and_cupy_finds_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: str, words: str
) -> None:
    (tmp_path / "cupy.py").write_text(FAKE.format(answer=answer))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    choosing._gpu.cache_clear()
    try:
        with pytest.raises(ConfigError, match=words):
            choosing.uses_gpu("gpu")
        assert not choosing.uses_gpu("auto")
    finally:
        choosing._gpu.cache_clear()
        sys.modules.pop("cupy", None)


def test_the_processor_alone_never_imports_cupy(tmp_path: Path) -> None:
    """There is one to import here, which says so."""
    compile_kernels(CPU)  # in the cache, for the run below, which else would compile for most of a minute
    (tmp_path / "cupy.py").write_text("raise SystemExit('cupy was imported')\n")
    (tmp_path / "cupyx.py").write_text("raise SystemExit('cupyx was imported')\n")
    (tmp_path / "c.toml").write_text(
        '[engine]\ndevice = "cpu"\n[simulated]\nrows = 3\ncolumns = 24\nprojections = 20\n'
    )
    code = """
        import sys
        from streamrecon.cli import main
        assert main(["plan", "simulated", "--config", "c.toml"]) == 0
        assert main(["run", "simulated", "--config", "c.toml", "--out", "out", "--quiet"]) == 0
        print([name for name in sys.modules if name.split(".")[0] in ("cupy", "cupyx")])
    """
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=200,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.splitlines()[-1] == "[]"


# Memory, as planned.


@pytest.mark.parametrize(
    "cores",
    ["2", "10"],
)
def test_a_snapshot_takes_no_more_than_is_planned(cores: str) -> None:
    """On any number of cores: each has an image's part of its own."""
    code = """
        import time
        import numpy as np
        from streamrecon.config import ReconConfig
        from streamrecon.recon.accumulate import Shape, snapshot
        from streamrecon.recon.device import CPU, Cpu
        from streamrecon.recon.fourier import FourierAccumulator
        from streamrecon.scan import Geometry

        made = []
        class Counting(Cpu):
            def empty(self, shape, dtype):
                array = super().empty(shape, dtype)
                made.append(array.nbytes)
                time.sleep(0.2 if array.nbytes else 0)  # until all have begun
                return array

        options = ReconConfig()
        shape = Shape.of(Geometry(2, 500), options, 249.5)
        acc = FourierAccumulator(shape, options, Counting())
        made.clear()
        for _ in range(3):
            snapshot(acc)
        print(sum(made), FourierAccumulator.snapshot_bytes(shape, options, CPU.rows_at_once))
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=200,
        env=os.environ | {"NUMBA_NUM_THREADS": cores},
        check=True,
    )
    taken, planned = map(int, ran.stdout.split())
    assert taken <= planned * 1.1
