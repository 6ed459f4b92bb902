"""Viewers read the snapshots that are in memory as long as nothing else is written there, and nobody waits for them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_scans import config, simulated, stream

from streamrecon.engine import exhibit as exhibits
from streamrecon.engine import publishing, slab_files
from streamrecon.engine.bins import bins_of, joined
from streamrecon.engine.exhibit import Exhibit
from streamrecon.engine.gallery import Gallery
from streamrecon.engine.loan import Loan
from streamrecon.engine.slab_files import AXES, SlabFiles
from streamrecon.scan import Axis, Frame
from streamrecon.transport import private_ipc
from streamrecon.wire.messages import Plane, Update, Want

LITTLE_DISK = {"disk_bytes": 1_500_000}
"""For previews, and the last version."""


class _Other:
    """Stands for an array in which another version is written while it is read."""

    def __init__(self) -> None:
        self.array, self.loan = np.zeros((2, 3), np.float32), Loan(self)  # type: ignore[arg-type]

    def __getitem__(self, place: Any) -> np.ndarray:
        self.loan.end()
        self.array[:] = 1
        return self.array[place]


def test_what_is_read_stays_as_it_was() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    loan = Loan(array)
    found = loan.read((slice(None), 1))
    assert loan.runs
    loan.end()
    array[:] = 7
    assert found is not None
    np.testing.assert_array_equal(found, [1, 4])
    assert not loan.runs
    assert loan.read((slice(None), 1)) is None


def test_what_may_have_changed_meanwhile_is_not_given() -> None:
    assert _Other().loan.read(0) is None


@pytest.mark.parametrize("binning", [1, 4])
def test_versions_are_lent_until_their_memory_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, binning: int
) -> None:
    """All of a scan: what is lent is what is in the files, of two versions at most, and of none when the scan is over."""
    for module in publishing, exhibits:  # else so small a version is its own preview
        monkeypatch.setattr(module, "PREVIEW", 8)
    monkeypatch.setattr(slab_files, "SMALL", 0)
    lent: list[Loan] = []
    running: list[int] = []
    read: list[bool] = []

    def show(gallery: Gallery, exhibit: Exhibit) -> None:
        files = exhibit.files
        assert isinstance(files._loan, Loan)
        lent.append(files._loan)
        running.append(sum(loan.runs for loan in lent))
        for axis, number in AXES.items():
            at = files.shape[number] // 3
            from_disk = SlabFiles(files._files).slice(axis, at)
            pixels = files._loan.read((slice(None),) * number + (at,))
            if pixels is not None:  # the next but one may be on its way
                read.append(np.array_equal(pixels, from_disk))
            read.append(np.array_equal(files.slice(axis, at), from_disk))

    monkeypatch.setattr(Gallery, "show", show)
    scan = simulated(rows=24, columns=48)
    options = config(emit={"every": 5, "publish": private_ipc()}, engine=LITTLE_DISK if binning > 1 else {})

    def slowly(rows: slice) -> Iterator[Frame]:
        for frame in scan.frames(rows):
            time.sleep(0.02)  # else the next version but one is there before the first one is shown
            yield frame

    done = stream(scan, options, tmp_path, frames=slowly)
    assert done.result is not None
    versions = done.told("version")
    assert len(lent) == len(versions) > 5
    assert {version["binning"] for version in versions} == {1, binning}
    assert max(running) <= 2
    assert all(read)
    assert len(read) > 3 * len(lent), "nothing was lent"
    assert not any(loan.runs for loan in lent)


def test_what_is_lent_is_not_read_from_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slab_files, "SMALL", 0)
    volume = np.random.default_rng(1).standard_normal((3, 4, 5)).astype(np.float32)
    path = tmp_path / "slab"
    files, loan = SlabFiles([(path, 0, (3, 4, 5))]), Loan(volume)
    files.borrow(loan)
    files.across([1], [2])
    for axis, number in AXES.items():
        np.testing.assert_array_equal(files.slice(axis, 1), volume.take(1, number))
    loan.end()
    written = volume.copy()
    path.write_bytes(written.tobytes())
    volume[:] = 7  # another version
    for axis, number in AXES.items():
        np.testing.assert_array_equal(files.slice(axis, 2), written.take(2, number))


@pytest.mark.parametrize("shape", [(5, 7, 7), (20, 3, 3), (9, 20, 20)])
@pytest.mark.parametrize("ends", ["scan", "waited"])
def test_slices_that_cost_much_are_those_of_the_preview_until_the_newer_version_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int, int], ends: str
) -> None:
    monkeypatch.setattr(slab_files, "SMALL", 0)
    monkeypatch.setattr(exhibits, "PREVIEW", 6)
    volume = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
    path = tmp_path / "slab"
    path.write_bytes(volume.tobytes())
    width, side = -(-max(shape) // 6), shape[2]
    preview = joined([bins_of(volume, 0, width)[0]])
    # The slice at 1 was looked at before, and came with the version.
    files, loan = SlabFiles([(path, 0, shape)], [[(1, volume[:, :, 1:2])]]), Loan(volume)
    files.borrow(loan)
    update = Update(version=1, uid="s", projections=1, coverage=0.5, final=False, binning=1, shape=shape, full=shape)
    exhibit = Exhibit(update, files, preview, None, (1, 1), {}, {})
    gallery = Gallery(private_ipc())

    def seen(axis: Axis, place: int) -> np.ndarray:
        ((picture, pixels),) = gallery._shots_of(exhibit, Want(after=0, planes=(Plane(axis=axis, index=place),)))
        others = tuple(size for i, size in enumerate(shape) if i != AXES[axis])
        assert (picture.shape, picture.full, picture.axis, picture.index) == (pixels.shape, others, axis, place)
        return pixels

    def all_are_of_the_volume() -> None:
        gallery._shots.clear()
        for axis, number in AXES.items():
            for place in range(shape[number]):
                np.testing.assert_array_equal(seen(axis, place), volume.take(place, number))

    all_are_of_the_volume()
    loan.end(superseded=True)
    gallery._shots.clear()
    for axis in ("z", "y"):
        np.testing.assert_array_equal(seen(axis, 0), volume.take(0, AXES[axis]))
    for place in range(side):
        expected = volume[:, :, 1] if place == 1 else preview[:, :, min(place // width, preview.shape[2] - 1)]
        np.testing.assert_array_equal(seen("x", place), expected)
    assert replace(exhibit, update=replace(update, binning=2)).coarse(2, 0) is None, "a binned one is as it is"
    if ends == "scan":
        loan.end()
    else:  # such as where the newer one cannot be written
        monkeypatch.setattr(slab_files, "SOON", 0.0)
    for place in range(side):
        np.testing.assert_array_equal(seen("x", place), volume[:, :, place])
    all_are_of_the_volume()
    gallery.stop()


def test_a_loan_that_ends_as_slices_are_taken_costs_one_look_at_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slab_files, "SMALL", 0)
    monkeypatch.setattr(slab_files, "BANDS_BYTES", 4 * 3 * 4 * 16)
    volume = np.random.default_rng(3).standard_normal((3, 4, 90)).astype(np.float32)
    path = tmp_path / "slab"
    path.write_bytes(volume.tobytes())
    files, loan = SlabFiles([(path, 0, volume.shape)]), Loan(volume)
    files.borrow(loan)
    reads: list[Any] = []
    rows = SlabFiles.rows
    monkeypatch.setattr(SlabFiles, "rows", lambda self, *what: reads.append(what) or rows(self, *what))
    places = [5, 40, 80]
    files.across(places, [60])
    loan.end()
    for place in places:
        np.testing.assert_array_equal(files.slice("x", place), volume[:, :, place])
    assert len(reads) == 1
