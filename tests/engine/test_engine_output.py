"""The output folder of several ranks: slabs nobody sees before all are there, and one engine of each rank."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from streamrecon.engine import output
from streamrecon.engine.nxtomoproc import Provenance
from streamrecon.engine.orders import LAST, Aside, Part
from streamrecon.engine.output import Output, finished, most_kept, slab_name
from streamrecon.errors import OutputError
from streamrecon.lock import FolderLock
from streamrecon.scan import FrameKind, Geometry, ScanInfo, VolumeUpdate
from streamrecon.wire.messages import Range

SIDE = 6
INFO = ScanInfo("scan", Geometry(12, SIDE), np.dtype("<u2"), dict.fromkeys(FrameKind), None)
SLABS: list[Range] = [(1, 5), (5, 8), (8, 10)]


def values(rows: Range, cut: int = 1) -> NDArray[np.float32]:
    """(slice, y, x), different in every slice and version."""
    z = np.arange(*rows, dtype=np.float32)[:, None, None]
    return z + 100 * cut + np.arange(SIDE * SIDE, dtype=np.float32).reshape(SIDE, SIDE) / 64


def slab(rank: int, cut: int = 1, final: bool = False) -> tuple[VolumeUpdate, Provenance, Part]:
    rows = SLABS[rank]
    theta = np.array([0.0, 0.5])
    update = VolumeUpdate(cut, theta, 0.5, final, 1, values(rows, cut))
    provenance = Provenance(INFO, rows, {"center": 2.5}, np.array([0, 3]))
    return update, provenance, Part(cut, rank, rows, (0,), update.volume.shape, 0, Aside())


def outputs(folder: Path, keep: int = 10, keep_seconds: float = 0.0, resume: bool = False) -> list[Output]:
    return [Output(folder, "scan", keep, keep_seconds, resume=resume, rank=rank) for rank in range(len(SLABS))]


def write(each: list[Output], cut: int, final: bool = False) -> VolumeUpdate:
    """All slabs of a version, shown."""
    parts = []
    for rank in reversed(range(len(SLABS))):
        update, provenance, part = slab(rank, cut, final)
        parts.insert(0, replace(part, offset=each[rank].write_slab(cut, update, provenance)))
    update, provenance, _ = slab(0, cut, final)
    return each[0].publish(cut, update, provenance, parts)


def shown(folder: Path) -> list[str]:
    return sorted(place.name for place in (folder / "partials").glob("[!.]*"))


def hidden(folder: Path) -> list[str]:
    return sorted(place.name for place in (folder / "partials").glob(".cut-*"))


def volume(folder: Path) -> NDArray[np.float32]:
    with h5py.File(folder / "volume.h5", "r", locking=False) as file:
        return np.asarray(file["entry/data/data"])


def test_slabs_are_seen_together_and_as_one_volume(tmp_path: Path) -> None:
    each = outputs(tmp_path)
    parts: dict[int, Part] = {}
    for rank in (2, 0, 1):
        update, provenance, part = slab(rank)
        parts[rank] = replace(part, offset=each[rank].write_slab(1, update, provenance))
        assert shown(tmp_path) == []
        assert not (tmp_path / "volume.h5").exists()
    update, provenance, _ = slab(0)
    found = each[0].publish(1, update, provenance, [parts[rank] for rank in range(3)])
    assert (found.version, each[0].newest) == (1, 1)
    assert (shown(tmp_path), hidden(tmp_path)) == (["v0001"], [])
    np.testing.assert_array_equal(volume(tmp_path), values((1, 10)))
    with h5py.File(tmp_path / "volume.h5", "r", locking=False) as file:
        np.testing.assert_array_equal(file["entry/data/z"], np.arange(1.0, 10.0))
    names = sorted(place.name for place in (tmp_path / "partials/v0001").iterdir())
    assert names == [*map(slab_name, range(3)), "volume.png"]
    for rank, rows in enumerate(SLABS):
        with h5py.File(tmp_path / "partials/v0001" / slab_name(rank), "r", locking=False) as file:
            np.testing.assert_array_equal(file["entry/data/data"], values(rows))
            np.testing.assert_array_equal(file["entry/data/z"], np.arange(*map(float, rows)))


def test_versions_are_numbered_as_they_are_shown_whatever_their_cuts(tmp_path: Path) -> None:
    each = outputs(tmp_path)
    assert [write(each, cut).version for cut in (2, 5, 6)] == [1, 2, 3]
    assert write(each, LAST, final=True).version == 4
    assert shown(tmp_path) == ["v0001", "v0002", "v0003", "v0004"]
    np.testing.assert_array_equal(volume(tmp_path), values((1, 10), LAST))
    assert finished(tmp_path, "scan")
    assert not finished(tmp_path, "another")


def test_what_is_forgotten_is_this_cut_and_those_before_it_but_not_the_last_version(tmp_path: Path) -> None:
    each = outputs(tmp_path)
    for cut in (1, 2, 3, LAST):
        for rank in (0, 1):
            each[rank].write_slab(cut, *slab(rank, cut)[:2])
    assert hidden(tmp_path) == [".cut-0000", ".cut-0001", ".cut-0002", ".cut-0003"]
    each[0].forget(2)
    assert hidden(tmp_path) == [".cut-0000", ".cut-0003"]
    each[0].forget(LAST)
    assert hidden(tmp_path) == []
    each[0].forget(9)


def test_what_was_not_shown_is_forgotten_when_a_later_version_is(tmp_path: Path) -> None:
    each = outputs(tmp_path)
    for cut in (1, 3):
        each[1].write_slab(cut, *slab(1, cut)[:2])
    write(each, 2)
    assert hidden(tmp_path) == [".cut-0003"]
    write(each, LAST)
    assert hidden(tmp_path) == []


def test_a_version_that_cannot_be_shown_leaves_the_one_before(tmp_path: Path) -> None:
    each = outputs(tmp_path)
    write(each, 1)
    (tmp_path / "partials/v0002").mkdir()
    (tmp_path / "partials/v0002/mine").touch()
    with pytest.raises(OutputError, match="version 2"):
        write(each, 2)
    assert each[0].newest == 1
    np.testing.assert_array_equal(volume(tmp_path), values((1, 10), 1))
    assert hidden(tmp_path) == []


def test_a_slab_that_cannot_be_written_leaves_nothing_of_it(tmp_path: Path) -> None:
    each = outputs(tmp_path)
    place = tmp_path / "partials/.cut-0001" / slab_name(1)
    place.mkdir(parents=True)
    with pytest.raises(OutputError, match="cannot write"):
        each[1].write_slab(1, *slab(1)[:2])
    assert list(place.parent.iterdir()) == [place]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_disk_that_fills_up_between_pixels_leaves_nothing_of_a_slab(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    each, before = outputs(tmp_path), Path.open
    update, provenance, _ = slab(0)
    update = replace(update, volume=np.ones((4, 64, 64), np.float32))

    def full(path: Path, mode: str = "r") -> Any:
        return before(Path("/dev/full") if mode == "r+b" else path, mode)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OutputError, match="No space left"):
        each[0].write_slab(1, update, provenance)
    monkeypatch.undo()
    assert not [*tmp_path.rglob("slab-*")]
    assert write(each, 1).version == 1


def test_pixels_are_written_piece_by_piece_each_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others hear of a large one as it goes on; of what lies in memory in another order, too."""
    monkeypatch.setattr(output, "PIECE", 2 * 4 * SIDE * SIDE)
    each, told = outputs(tmp_path), list[None]()
    update, provenance, part = slab(0)
    turned = np.asfortranarray(update.volume)
    offset = each[0].write_slab(1, replace(update, volume=turned), provenance, lambda: told.append(None))
    assert len(told) == 2
    place = tmp_path / "partials" / ".cut-0001" / slab_name(0)
    with h5py.File(place, "r", locking=False) as file:
        np.testing.assert_array_equal(file["entry/data/data"], update.volume)
    found = np.fromfile(place, np.float32, turned.size, offset=offset).reshape(part.slices)
    np.testing.assert_array_equal(found, update.volume)


def test_rank_0_cleans_up_and_others_touch_nothing(tmp_path: Path) -> None:
    each = outputs(tmp_path)
    write(each, 1)
    each[1].write_slab(2, *slab(1, 2)[:2])
    Output(tmp_path, "scan", 10, 0.0, rank=1)
    Output(tmp_path, "another", 10, 0.0, rank=1)
    assert (shown(tmp_path), hidden(tmp_path)) == (["v0001"], [".cut-0002"])
    again = Output(tmp_path, "scan", 10, 0.0, resume=True)
    assert (shown(tmp_path), hidden(tmp_path), again.newest) == (["v0001"], [], 1)
    with pytest.raises(OutputError, match="choose another"):
        Output(tmp_path, "another", 10, 0.0)
    assert Output(tmp_path, "scan", 10, 0.0).newest == 0
    assert (shown(tmp_path), (tmp_path / "volume.h5").exists()) == ([], False)


@pytest.mark.parametrize(("seconds", "kept"), [(0.0, 2), (1e6, most_kept(2))])
def test_old_versions_go_with_all_their_slabs(tmp_path: Path, seconds: float, kept: int) -> None:
    each = outputs(tmp_path, keep=2, keep_seconds=seconds)
    for cut in range(1, 8):
        write(each, cut)
    assert shown(tmp_path) == [f"v{number:04d}" for number in range(8 - kept, 8)]
    np.testing.assert_array_equal(volume(tmp_path), values((1, 10), 7))


# Locks.


def test_each_rank_has_a_lock_of_its_own_that_one_process_holds(tmp_path: Path) -> None:
    locks = [FolderLock(tmp_path / "out", "engine", "--out", rank) for rank in range(3)]
    for rank in range(3):
        with pytest.raises(OutputError, match="another engine"):
            FolderLock(tmp_path / "out", "engine", "--out", rank)
    locks[1].release()
    with pytest.raises(OutputError, match="another engine"):
        FolderLock(tmp_path / "out", "engine", "--out", 2)
    again = FolderLock(tmp_path / "out", "engine", "--out", 1)
    for lock in (locks[0], locks[2], again):
        lock.release()
    FolderLock(tmp_path / "out", "engine", "--out").release()
