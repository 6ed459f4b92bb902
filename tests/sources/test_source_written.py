"""Rows that were never written are told from those that were, and cost no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from streamrecon.errors import SourceBusyError, SourceError
from streamrecon.sources import written as written_module
from streamrecon.sources.growing import GrowingStack
from streamrecon.sources.roots import Roots
from streamrecon.sources.storage import Limits, Storage

ROWS, COLUMNS, COUNT = 3, 4, 30
DROPPED = (5, 10, 15, 20)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def _image(number: int) -> np.ndarray:
    return np.full((ROWS, COLUMNS), number + 1, np.uint16)


def _stack(path: Path, clock: Clock, **options: Any) -> GrowingStack:
    return GrowingStack(path, "data", Roots([path.parent]), clock=clock, **options)


def _left_open(folder: Path, dropped: tuple[int, ...], **how: Any) -> Path:
    """A copy of a file as its writer has it: readers cannot tell."""
    with h5py.File(folder / "w.h5", "w", libver="latest") as file:
        data = file.create_dataset("data", (COUNT, ROWS, COLUMNS), "u2", maxshape=(None, ROWS, COLUMNS), **how)
        file.swmr_mode = True
        for number in range(COUNT):
            if number not in dropped:
                data[number] = _image(number)
        data.flush()
        (folder / "a.h5").write_bytes((folder / "w.h5").read_bytes())
    return folder / "a.h5"


@pytest.mark.parametrize("chunk", [1, 4])
def test_rows_are_had_by_name_though_others_before_them_were_dropped(tmp_path: Path, chunk: int) -> None:
    clock = Clock()
    stack = _stack(_left_open(tmp_path, DROPPED, chunks=(chunk, ROWS, COLUMNS)), clock)
    for _ in range(4):
        there = [number for number in range(COUNT) if stack.has(number)]
        clock.now += 0.2
    assert there == [number for number in range(COUNT) if number not in DROPPED]
    assert stack.poll() == 5
    assert stack.until(16) == 20
    assert stack.read(16, 20)[:, 0, 0].tolist() == [17, 18, 19, 20]
    with pytest.raises(SourceError, match="5 can be read"):
        stack.read(19, 21)


@pytest.mark.parametrize("chunk", [1, 4])
def test_all_rows_that_were_passed_over_have_one_deadline(tmp_path: Path, chunk: int) -> None:
    clock = Clock()
    stack = _stack(_left_open(tmp_path, DROPPED, chunks=(chunk, ROWS, COLUMNS)), clock, patience=5.0)
    begun = clock.now
    while stack.poll() < COUNT:
        clock.now += 0.2
        assert clock.now < begun + 7
    assert clock.now >= begun + 5
    if chunk > 1:
        with pytest.raises(SourceBusyError, match="still holds the fill value"):
            stack.read(0, COUNT)
    assert stack.holes == [(number, number + 1) for number in DROPPED]


def test_many_rows_of_nothing_hold_up_none_after_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the rows that are asked for some are looked at, in turn, and those that were nothing less and less often."""
    monkeypatch.setattr(written_module, "_SCAN_BYTES", 3 * ROWS * COLUMNS * 2)
    read, looks = Storage.read, [0]

    def counted(storage: Storage, dataset: Any, first: int, end: int) -> Any:
        looks[0] += end - first
        return read(storage, dataset, first, end)

    monkeypatch.setattr(Storage, "read", counted)
    clock = Clock()
    stack = _stack(_left_open(tmp_path, tuple(range(20)), chunks=(4, ROWS, COLUMNS)), clock)
    begun, there = clock.now, set[int]()
    while len(there) < 10:
        there |= {number for number in range(COUNT) if number not in there and stack.has(number)}
        clock.now += 0.1
        assert clock.now - begun < 5
    assert there == set(range(20, 30))
    looks[0], many = 0, 200
    for _ in range(many):
        assert not any(stack.has(number) for number in range(20))
        clock.now += 0.1
    assert looks[0] < 2 * many
    with h5py.File(tmp_path / "w.h5", "r+", libver="latest") as file:
        file.swmr_mode = True
        file["data"][:20] = np.stack([_image(number) for number in range(20)])
        file.flush()
        content = (tmp_path / "w.h5").read_bytes()
    (tmp_path / "a.h5").write_bytes(content)
    for _ in range(150):
        there |= {number for number in range(COUNT) if number not in there and stack.has(number)}
        clock.now += 0.1
    assert there == set(range(30))


@pytest.mark.parametrize("how", ["contiguous", "chunks", "virtual"])
def test_rows_of_a_closed_file_that_are_the_fill_value_are_no_images(tmp_path: Path, how: str) -> None:
    blank = (2, 5)
    with h5py.File(tmp_path / "a.h5", "w", libver="latest") as file:
        options = {"chunks": (4, ROWS, COLUMNS)} if how == "chunks" else {}
        data = file.create_dataset("raw" if how == "virtual" else "data", (6, ROWS, COLUMNS), "u2", **options)
        for number in range(6):
            if number not in blank:
                data[number] = _image(number)
        data[3, 0] = 0  # a part of it may well be
        if how == "virtual":
            layout = h5py.VirtualLayout((6, ROWS, COLUMNS), "u2")
            layout[:] = h5py.VirtualSource(data)
            file.create_virtual_dataset("data", layout)
    clock = Clock()
    stack = _stack(tmp_path / "a.h5", clock)
    stack.finish()
    assert stack.poll() == 6
    with pytest.raises(SourceBusyError, match="frame 2 still holds the fill value"):
        stack.read(0, 6, slice(0, 1))
    assert stack.holes == [(2, 3), (5, 6)]
    assert [number for number in range(6) if stack.has(number)] == [0, 1, 3, 4]
    assert not stack.has(5)
    assert stack.why is not None
    assert "it still holds the fill value" in stack.why
    # Its writer comes back.
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["raw" if how == "virtual" else "data"][5] = _image(5)
    clock.now += 0.2
    assert stack.has(5)
    assert stack.read(5, 6).max() == 6


def test_a_hole_in_a_closed_file_may_be_filled(tmp_path: Path) -> None:
    """Its writer opens it once more, and closes it between two looks."""
    with h5py.File(tmp_path / "a.h5", "w", libver="latest") as file:
        shape = (None, ROWS, COLUMNS)
        data = file.create_dataset("data", (4, ROWS, COLUMNS), "u2", chunks=(1, ROWS, COLUMNS), maxshape=shape)
        data[0], data[3] = _image(0), _image(3)
    clock = Clock()
    stack = _stack(tmp_path / "a.h5", clock)
    stack.finish()
    assert [stack.has(number) for number in range(5)] == [True, False, False, True, False]
    stack.read(0, 1)
    with h5py.File(tmp_path / "a.h5", "r+", libver="latest") as file:
        file["data"].resize(6, 0)
        file["data"][2], file["data"][5] = _image(2), _image(5)
    for _ in range(2):
        clock.now += 0.2
        there = [stack.has(number) for number in range(6)]
    assert there == [True, False, True, True, False, True]
    assert stack.read(2, 4)[:, 0, 0].tolist() == [3, 4]


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_path_that_leads_out_of_the_roots_only_later(tmp_path: Path, what: str) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    for folder in (inside / "sub", outside):
        folder.mkdir(parents=True)
    with h5py.File(outside / "a.h5", "w", libver="latest") as file:
        file["data"] = np.ones((2, ROWS, COLUMNS), "u2")
    clock = Clock()
    path = Roots([inside]).locate(str(inside / "sub/a.h5"))
    stack = GrowingStack(path, "data", Roots([inside]), clock=clock)
    assert stack.poll() == 0
    if what == "file":
        path.symlink_to(outside / "a.h5")
    else:
        (inside / "sub").rmdir()
        (inside / "sub").symlink_to(outside)
    for _ in range(3):
        clock.now += 10
        with pytest.raises(SourceError, match="beneath none of the folders"):
            stack.poll()


def test_more_rows_than_anybody_could_have_written(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w", libver="latest") as file:
        file.create_dataset("data", (1 << 40, ROWS, COLUMNS), "u2", chunks=(1, ROWS, COLUMNS))
    stack = _stack(tmp_path / "a.h5", Clock(), limits=Limits(rows=1 << 20))
    stack.finish()
    with pytest.raises(SourceError, match="expected at most 1048576 rows"):
        stack.poll()
