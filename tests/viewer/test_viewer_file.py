"""A file: a finished volume, one that is replaced by its next version, or one of another program."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from viewer_client import PATIENCE, until

from streamrecon import Config, run_scan
from streamrecon.config import SimulatedConfig
from streamrecon.errors import SourceError, SourceFileError, StreamreconError
from streamrecon.viewer import FileSource, finished
from streamrecon.viewer.source import Place
from streamrecon.viewer.volume_file import VolumeFile

SHAPE = 6, 10, 12
ALL: tuple[Place, ...] = (("z", 1), ("y", 2), ("x", 3))
VOLUME = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finished, "LOOKS", 0.05)


@pytest.fixture
def opened() -> Iterator[Any]:
    sources: list[FileSource] = []

    def open_file(path: Path | str) -> FileSource:
        sources.append(FileSource(path))
        sources[-1].start(lambda: None)
        return sources[-1]

    yield open_file
    for source in sources:
        source.close()


def ours(path: Path, version: int = 1, volume: Any = VOLUME, binning: int = 1, uid: str = "s", **more: Any) -> Path:
    """As streamrecon writes it; put in its place in one step."""
    temporary = path.with_suffix(".tmp")
    pixel = 2e-6
    with h5py.File(temporary, "w") as file:
        file.attrs["default"] = "entry"
        entry = file.create_group("entry")
        entry.attrs["default"] = "data"
        entry["title"] = "a tooth"
        entry["sample/name"] = "of a shark"
        process = {"final": False, "coverage": 0.5, "volume_version": version, "theta": [0.1, 0.2, 3.2]} | more
        for name, value in process.items():
            entry[f"reconstruction/{name}"] = value
        parameters = {"scan_uid": uid, "center": 5.5, "filter": "hann", "pixel_size": pixel}
        for name, value in parameters.items():
            entry[f"reconstruction/parameters/{name}"] = value
        data = entry.create_group("data")
        data["data"] = volume
        data.attrs["signal"] = "data"
        data.attrs["axes"] = ["z", "y", "x"]
        data["x"] = np.arange(volume.shape[2]) * pixel * binning
        data["x"].attrs["units"] = "m"
    temporary.replace(path)
    return path


def has(source: FileSource, version: int, *places: Place) -> bool:
    found = [source.slice(place) for place in places]
    return all(shown is not None and shown.key[2] == version for shown in found)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What streamrecon makes of a small scan."""
    out = tmp_path_factory.mktemp("real") / "out"
    config = Config(simulated=SimulatedConfig(rows=6, columns=32, projections=40, flats=2, darks=2))
    assert run_scan("simulated", out, config).final
    return out


def test_a_volume_of_streamrecon(real: Path, opened: Any) -> None:
    with h5py.File(real / "volume.h5", locking=False) as file:
        volume = file["entry/data/data"][:]
        process = file["entry/reconstruction"]
        center, uid = process["parameters/center"][()], process["parameters/scan_uid"][()].decode()
    source = opened(real)  # the folder
    assert source.link.state == "file"
    assert source.link.text == str(real / "volume.h5")
    source.want("a", ALL)
    until(lambda: has(source, source.update.version, *ALL))
    for axis, index in ALL:
        shown = source.slice((axis, index))
        np.testing.assert_array_equal(shown.pixels, np.take(volume, index, "zyx".index(axis)))
        assert shown.picture.full == shown.pixels.shape
    update = source.update
    assert (update.uid, update.final, update.projections, update.coverage) == (uid, True, 40, 1.0)
    assert (update.full, update.binning, update.center, update.filter) == ((6, 32, 32), 1, center, "ramp")
    assert update.pixel_size == pytest.approx(1e-6)
    assert update.unit is None, "1/m"
    assert sum(update.angles) == 40
    assert source.progress is None


def test_what_a_partial_volume_says(tmp_path: Path, opened: Any) -> None:
    """Binned by 4: indices are voxels of the full volume."""
    source = opened(ours(tmp_path / "volume.h5", 3, binning=4))
    update = source.update
    assert (update.version, update.uid, update.title) == (3, "s", "a tooth, of a shark")
    assert (update.projections, update.coverage, update.final) == (3, 0.5, False)
    assert (update.center, update.filter, update.pixel_size) == (5.5, "hann", 2e-6)
    assert (update.binning, update.shape, update.full) == (4, SHAPE, (24, 40, 48))
    assert [(part, count) for part, count in enumerate(update.angles) if count] == [(1, 1), (2, 1), (36, 1)]
    places: tuple[Place, ...] = (("z", 9), ("x", 47))
    source.want("a", [*places, ("y", 40)])
    until(lambda: has(source, 3, *places))
    np.testing.assert_array_equal(source.slice(("z", 9)).pixels, VOLUME[2])
    np.testing.assert_array_equal(source.slice(("x", 47)).pixels, VOLUME[:, :, 11])
    assert source.slice(("z", 9)).picture.full == (40, 48)
    assert source.slice(("y", 40)) is None


def test_attributes_of_a_fixed_length(tmp_path: Path, opened: Any) -> None:
    """As C programs write them."""
    path = tmp_path / "other.h5"
    with h5py.File(path, "w") as file:
        file.attrs["default"] = np.bytes_("entry")
        entry = file.create_group("entry")
        entry.attrs["default"] = np.array([b"result"])
        entry["flats"] = np.zeros(SHAPE)
        data = entry.create_group("result")
        data["volume"] = VOLUME
        data.attrs["signal"] = np.bytes_("volume")
        data.attrs["axes"] = np.array([b"z", b"y", b"horizontal"])
        for name, side in zip(("z", "y", "horizontal"), SHAPE, strict=True):
            data[name] = np.arange(side) * 1.5
            data[name].attrs["units"] = np.bytes_("um")
    source = opened(path)
    assert source.update.pixel_size == pytest.approx(1.5e-6)
    source.want("a", ALL)
    until(lambda: has(source, 1, *ALL))
    np.testing.assert_array_equal(source.slice(("z", 1)).pixels, VOLUME[1])


@pytest.mark.parametrize("size", [1, 3, 5, 12, 100])
@pytest.mark.parametrize("shape", [SHAPE, (1, 1, 7), (9, 2, 3)])
def test_the_preview(tmp_path: Path, opened: Any, size: int, shape: tuple[int, int, int]) -> None:
    """A plane of the volume is the same plane of the preview, and it is no larger than was asked for."""
    z, y, x = np.meshgrid(*(np.arange(side, dtype=np.float32) for side in shape), indexing="ij")
    source = opened(ours(tmp_path / "volume.h5", volume=z + 10 * y + 100 * x))
    source.want("a", (), preview=size)
    until(lambda: source.other("preview") is not None)
    preview = source.other("preview").pixels
    step = max(1, -(-max(shape) // size))
    assert preview.shape == tuple(max(1, side // step) for side in shape)
    assert max(preview.shape) <= size
    bins = [np.arange(side) * step + (min(step, full) - 1) / 2 for side, full in zip(preview.shape, shape, strict=True)]
    expected = bins[0][:, None, None] + 10 * bins[1][:, None] + 100 * bins[2]
    # Whole slices and rows are read, those in the middle of a bin: half a voxel off where there is none.
    assert np.abs(preview - expected).max() <= 0.5 * (1 + 10) + 1e-3
    until(lambda: source.update.mean is not None)
    # Of whole rows: means over x would deviate less.
    rows = (z + 10 * y + 100 * x)[(min(step, shape[0]) - 1) // 2 :: step, (min(step, shape[1]) - 1) // 2 :: step]
    rows = rows[: preview.shape[0], : preview.shape[1]]
    assert source.update.minimum == rows.min()
    assert source.update.deviation == pytest.approx(rows.std(), rel=1e-4, abs=1e-4)


def of_its_update(source: FileSource) -> bool:
    """Whether all slices are those of the newest file."""
    found = [source.slice(place) for place in ALL]
    return all(shown is not None and shown.key == source.update.key for shown in found)


def test_a_volume_that_is_replaced(tmp_path: Path, opened: Any) -> None:
    path = ours(tmp_path / "volume.h5", 1)
    source = opened(path)
    source.want("a", ALL, preview=4)
    until(lambda: has(source, 1, *ALL) and source.other("preview"))
    ours(path, 2, 2 * VOLUME, final=True)
    until(lambda: has(source, 2, *ALL))
    assert (source.update.version, source.update.final) == (2, True)
    np.testing.assert_array_equal(source.slice(("z", 1)).pixels, 2 * VOLUME[1])
    until(lambda: source.other("preview") is not None and source.other("preview").key[2] == 2)
    # The same version anew is another one, and another scan is none of this.
    before = source.update.key
    ours(path, 2, 3 * VOLUME)
    until(lambda: source.update.key != before and of_its_update(source))
    assert source.update.version == 2
    np.testing.assert_array_equal(source.slice(("z", 1)).pixels, 3 * VOLUME[1])
    ours(path, 1, 4 * VOLUME, uid="another")
    until(lambda: source.update.uid == "another" and has(source, 1, *ALL))
    np.testing.assert_array_equal(source.slice(("z", 1)).pixels, 4 * VOLUME[1])
    ours(path, 1, VOLUME[:1], uid="smaller")
    until(lambda: source.update.uid == "smaller" and has(source, 1, ("y", 2)))
    assert source.slice(("z", 1)) is None


def test_a_file_that_vanishes_and_comes_back(tmp_path: Path, opened: Any) -> None:
    path = ours(tmp_path / "volume.h5", 1)
    source = opened(path)
    source.want("a", ALL)
    until(lambda: has(source, 1, *ALL))
    path.unlink()
    until(lambda: source.link.state == "missing")
    assert "there is no volume.h5" in source.link.text or "there is no file" in source.link.text
    path.write_bytes(b"something else")
    until(lambda: "HDF5" in source.link.text)
    ours(path, 5)
    until(lambda: source.link.state == "file" and has(source, 5, *ALL))


def test_a_file_that_was_away_is_the_same(tmp_path: Path, opened: Any) -> None:
    path = ours(tmp_path / "volume.h5", 4)
    source = opened(path)
    source.want("a", ALL)
    until(lambda: has(source, 4, *ALL))
    key = source.update.key
    path.rename(tmp_path / "away.h5")
    until(lambda: source.link.state == "missing")
    (tmp_path / "away.h5").rename(path)
    until(lambda: source.link.state == "file")
    assert source.update.key == key


def test_no_two_files_are_taken_for_one(tmp_path: Path, opened: Any) -> None:
    """Nor is what one of them said before."""
    path = ours(tmp_path / "volume.h5", 7)
    source = opened(path)
    source.want("a", ALL)
    keys = [source.update.key]
    for factor, (uid, version) in enumerate((("b", 7), ("s", 7), ("s", 9), ("s", 7), ("b", 7), ("s", 9)), 2):
        ours(path, version, factor * VOLUME, uid=uid)
        until(lambda: source.update.key != keys[-1] and of_its_update(source))
        keys.append(source.update.key)
        np.testing.assert_array_equal(source.slice(("z", 1)).pixels, factor * VOLUME[1])
    assert len(set(keys)) == len(keys)


def test_a_file_that_is_written_anew_in_its_place(tmp_path: Path, opened: Any) -> None:
    """Other than one that is replaced it is the same file to HDF5, as long as that has it open."""
    path = ours(tmp_path / "volume.h5", 1)
    source = opened(path)
    source.want("a", ALL)
    until(lambda: has(source, 1, *ALL))
    for version, volume in ((2, 3 * VOLUME), (3, np.tile(5 * VOLUME, (1, 40, 40)))):
        shutil.copyfile(ours(tmp_path / f"{version}.h5", version, volume), path)
        until(lambda version=version: has(source, version, *ALL))
        np.testing.assert_array_equal(source.slice(("z", 1)).pixels, volume[1])


def test_a_part_that_is_damaged(tmp_path: Path, opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """All else is shown, and what cannot be is named and tried again."""
    path = tmp_path / "volume.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset("volume", data=VOLUME, chunks=(1, *VOLUME.shape[1:]), compression="gzip")
        chunk = data.id.get_chunk_info(1)
    with path.open("r+b") as file:
        file.seek(chunk.byte_offset)
        kept = file.read(chunk.size)
        file.seek(chunk.byte_offset)
        file.write(bytes(chunk.size))
    source = opened(path)
    monkeypatch.setattr(finished, "AGAIN", 0.1)
    source.want("a", [("z", 1), ("z", 0)])
    until(lambda: source.slice(("z", 0)) is not None and "damaged" in source.link.text)
    assert source.link.state == "file"
    assert source.link.text.endswith("slice z = 1")
    assert source.slice(("z", 1)) is None
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(chunk.byte_offset)
        file.write(kept)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # it could not be read for a while, and is the same
    until(lambda: source.slice(("z", 1)) is not None)
    until(lambda: source.link.text == str(path))


def test_a_virtual_dataset_whose_parts_are_missing(real: Path, tmp_path: Path) -> None:
    """HDF5 would give NaN, and no word."""
    shutil.copy(real / "volume.h5", tmp_path / "volume.h5")
    with pytest.raises(SourceFileError, match=r"partials/.*slab-000.h5, which is not there"):
        FileSource(tmp_path / "volume.h5")


def test_nothing_can_be_changed(tmp_path: Path, opened: Any) -> None:
    result, pictures = opened(ours(tmp_path / "volume.h5")).control("center", (3.0,)).result(PATIENCE)
    assert not result.done
    assert "reconstruct the scan again" in result.text
    assert pictures == []


@pytest.mark.parametrize(
    ("names", "of"),
    [
        (["volume"], ""),
        (["exchange/data", "exchange/data_white", "process/other"], ""),
        (["deep/in/it", "a/flat"], ":/deep/in/it"),
        (["entry/data/data", "other"], ""),
    ],
)
def test_other_files(tmp_path: Path, opened: Any, names: list[str], of: str) -> None:
    path = tmp_path / "other.h5"
    with h5py.File(path, "w") as file:
        file[names[0]] = (1000 * VOLUME).astype(np.int16)
        for name in names[1:]:
            file[name] = np.zeros((2, 3, 4))
        file["more/table"] = np.zeros((3, 3))
        file["more/text"] = "x"
    source = opened(f"{path}{of}")
    source.want("a", ALL)
    until(lambda: has(source, 1, *ALL))
    np.testing.assert_array_equal(source.slice(("z", 1)).pixels, (1000 * VOLUME[1]).astype(np.int16))
    assert (source.update.title, source.update.final, source.update.pixel_size) == ("other.h5", True, None)


@pytest.mark.parametrize(
    ("steps", "size"), [((3.0, 3.0, 3.0), 3e-6), ((15.0, 3.0, 3.0), None), ((None, 3.0, 3.0), None)]
)
@pytest.mark.parametrize("unit", ["counts", None])
def test_the_units_of_other_files(
    tmp_path: Path, opened: Any, steps: Any, size: float | None, unit: str | None
) -> None:
    """Where voxels are no cubes there is no size of them; values have the units that the file says, or none."""
    path = tmp_path / "other.h5"
    with h5py.File(path, "w") as file:
        file.attrs["default"] = "scan/result"
        group = file.create_group("scan/result")
        group["mu"] = VOLUME
        group.attrs["signal"] = "mu"
        group.attrs["axes"] = ["a", "b", "c"]
        if unit is not None:
            group["mu"].attrs["units"] = unit
        for name, step, side in zip("abc", steps, SHAPE, strict=True):
            if step is not None:
                group[name] = step * np.arange(side)
                group[name].attrs["units"] = "um"
        file["elsewhere"] = np.zeros((2, 2, 2))
    source = opened(path)
    assert source.update.full == SHAPE
    assert source.update.pixel_size == (None if size is None else pytest.approx(size))
    assert source.update.unit == (unit or "")


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (lambda path: None, SourceFileError, "there is no file"),
        (lambda path: path.mkdir(), SourceFileError, "no volume.h5 in the folder"),
        (lambda path: path.write_text("text"), SourceFileError, "HDF5"),
        (lambda path: path.write_bytes(b""), SourceFileError, "HDF5"),
        (lambda path: h5py.File(path, "w").close(), SourceError, "there is no volume in"),
    ],
)
def test_files_that_are_none(tmp_path: Path, make: Any, kind: type[StreamreconError], words: str) -> None:
    path = tmp_path / "bad.h5"
    make(path)
    with pytest.raises(kind, match=words) as raised:
        FileSource(path)
    assert str(path) in str(raised.value)


def test_several_volumes_and_a_name_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "several.h5"
    with h5py.File(path, "w") as file:
        file["a"], file["b/c"], file["flat"] = VOLUME, VOLUME, VOLUME[0]
    with pytest.raises(SourceError, match=r"2 datasets with three axes; name one, such as .*several.h5:/a"):
        FileSource(path)
    with pytest.raises(SourceError, match="no volume 'flat'"):
        FileSource(f"{path}:/flat")
    with VolumeFile(f"{path}:/b/c") as volume:
        assert volume.shape == SHAPE


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_truncated_file(tmp_path: Path, share: float) -> None:
    path = ours(tmp_path / "volume.h5")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(SourceFileError, match=r"volume.h5"):
        FileSource(path)


def test_facts_that_are_not_what_they_should_be(tmp_path: Path, opened: Any) -> None:
    """Of a file that somebody has edited: what makes no sense counts as unknown."""
    path = ours(tmp_path / "volume.h5", final=True, coverage=float("nan"), theta=np.empty(0))
    with h5py.File(path, "r+") as file:
        parameters = file["entry/reconstruction/parameters"]
        for name in ("center", "filter", "pixel_size"):
            del parameters[name]
        parameters["center"], parameters["filter"], parameters["pixel_size"] = "middle", 3, [1.0, 2.0]
        del file["entry/title"]
    update = opened(path).update
    assert (update.center, update.filter, update.coverage, update.title) == (None, "", 1.0, "volume.h5, of a shark")
    assert (update.binning, update.angles, update.pixel_size) == (1, (), pytest.approx(2e-6))
