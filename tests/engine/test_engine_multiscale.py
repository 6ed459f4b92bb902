"""A version as OME-Zarr 0.5: pixels and places are those of the HDF5 file, and the metadata is what others take for right."""

from __future__ import annotations

import itertools
import math
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from ome_zarr_models.v05.image import Image as Model

from streamrecon.engine import multiscale
from streamrecon.engine.multiscale import Image, Level, image_bytes, image_of, levels, need_zarr, write_image
from streamrecon.engine.nxtomoproc import Provenance
from streamrecon.engine.orders import Aside, Part
from streamrecon.engine.output import Output, slab_files, version_folder
from streamrecon.engine.slab_files import SlabFiles
from streamrecon.errors import ConfigError
from streamrecon.scan import FrameKind, Geometry, ScanInfo, VolumeUpdate
from streamrecon.wire.messages import Range

SHAPES = st.tuples(*[st.integers(1, 3000)] * 3)


def noise(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(shape).normal(size=shape).astype(np.float32)


def means(volume: NDArray[np.float32], level: Level) -> NDArray[np.float64]:
    """A level straight from the version."""
    some = volume[tuple(slice(n * f) for n, f in zip(level.shape, level.factors, strict=True))]
    parts = [n for pair in zip(level.shape, level.factors, strict=True) for n in pair]
    return np.asarray(some.reshape(parts).mean((1, 3, 5), dtype=np.float64))


def stored(folder: Path, volume: NDArray[np.float32], cuts: list[int]) -> SlabFiles:
    """A volume in several files, some bytes after their beginnings."""
    files = []
    for number, part in enumerate(np.split(volume, cuts)):
        path = folder / f"{number}.slab"
        path.write_bytes(b"header" * number + part.tobytes())
        files.append((path, 6 * number, part.shape))
    return SlabFiles(files)


def image(files: SlabFiles, pixel_size: float | None = 2e-6, **changes: Any) -> Image:
    known: dict[str, Any] = {"origin": (4.5, -10.0, -20.0), "steps": (2.0, 2.0, 2.0), "title": "tooth", "facts": {}}
    return Image(files, pixel_size=pixel_size, **(known | changes))


@given(SHAPES)
def test_each_level_is_half_of_the_one_before_until_it_is_small(shape: tuple[int, int, int]) -> None:
    found = levels(shape)
    assert found[0] == Level(shape, (1, 1, 1))
    assert max(found[-1].shape) <= 128
    assert all(max(level.shape) > 128 for level in found[:-1])
    for before, level in itertools.pairwise(found):
        assert level.shape == tuple(max(1, n // 2) for n in before.shape)
    for level in found:  # no voxel of it is made of what is not there, and less than one of its voxels is left out
        for n, factor, whole in zip(level.shape, level.factors, shape, strict=True):
            assert whole - factor < n * factor <= whole


def test_levels_take_a_seventh_more_and_little_is_filled_up() -> None:
    for n in (512, 1000, 2048, 2560):
        assert 4 * n**3 * 8 / 7 * 0.99 < image_bytes((n, n, n)) < 4 * n**3 * 8 / 7 * 1.08


@pytest.mark.parametrize("shape", [(3, 150, 261), (131, 66, 40), (1, 200, 5), (70, 7, 7)])
def test_pixels_are_read_back(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    volume = noise(*shape)
    files = stored(tmp_path, volume, [shape[0] // 3, shape[0] // 2] if shape[0] > 1 else [])
    write_image(tmp_path / "image", image(files))
    group = zarr.open_group(tmp_path / "image", mode="r", zarr_format=3)
    found = levels(shape)
    assert sorted(group.array_keys()) == [str(number) for number in range(len(found))]
    np.testing.assert_array_equal(group["0"], volume)
    for number, level in enumerate(found):
        array = group[str(number)]
        assert isinstance(array, zarr.Array)
        np.testing.assert_allclose(array, means(volume, level), atol=1e-6)
        assert max(array.chunks) <= 64
    pixels = sum(path.stat().st_size for path in (tmp_path / "image").rglob("c/**/*") if path.is_file())
    indices = 16 * sum(math.prod(-(-n // 3) for n in level.shape) for level in found) + 4096
    assert image_bytes(shape) <= pixels < image_bytes(shape) + indices, "the plan knows what it takes"


def test_no_more_than_a_strip_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Range, Range]] = []
    rows = SlabFiles.rows
    monkeypatch.setattr(SlabFiles, "rows", lambda self, *what: asked.append(what) or rows(self, *what))
    write_image(tmp_path / "image", image(stored(tmp_path, noise(130, 130, 8), [50])))
    assert all(b - a <= 64 and d - c <= 64 for (a, b), (c, d) in asked)
    assert sum((b - a) * (d - c) for (a, b), (c, d) in asked) == 130 * 130, "each voxel is read once"


def test_the_metadata_is_valid_and_a_level_lies_where_its_voxels_are(tmp_path: Path) -> None:
    shape = (9, 300, 259)
    write_image(tmp_path / "image", image(stored(tmp_path, noise(*shape), [4])))
    model = Model.from_zarr(zarr.open_group(tmp_path / "image", mode="r"))
    (multi,) = model.ome_attributes.multiscales
    assert model.ome_attributes.version == "0.5"
    assert (multi.name, multi.type) == ("tooth", "mean")
    assert [(axis.name, axis.type, axis.unit) for axis in multi.axes] == [(n, "space", "micrometer") for n in "zyx"]
    of_version = [4.0 * np.arange(n) + 2 * first for n, first in zip(shape, (4.5, -10.0, -20.0), strict=True)]
    for dataset, level in zip(multi.datasets, levels(shape), strict=True):
        scale, translation = (list(each.model_dump().values())[-1] for each in dataset.coordinateTransformations)
        for axis in range(3):
            n, factor = level.shape[axis], level.factors[axis]
            middles = of_version[axis][: n * factor].reshape(n, factor).mean(1)
            np.testing.assert_allclose(translation[axis] + scale[axis] * np.arange(n), middles)


def test_the_window_is_that_of_most_voxels(tmp_path: Path) -> None:
    volume = np.linspace(0, 1, 20 * 20 * 20, dtype=np.float32).reshape(20, 20, 20)
    volume[3, 3, 3], volume[4, 4, 4] = 1000.0, np.nan
    write_image(tmp_path / "image", image(stored(tmp_path, volume, [])))
    ome: Any = zarr.open_group(tmp_path / "image", mode="r").attrs["ome"]
    (channel,) = ome["omero"]["channels"]
    window = channel["window"]
    assert (window["min"], window["max"]) == (0.0, 1000.0)
    assert window["start"] == pytest.approx(0.005, abs=1e-3)
    assert window["end"] == pytest.approx(0.995, abs=1e-3)
    Model.from_zarr(zarr.open_group(tmp_path / "image", mode="r"))


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_volume_without_anything_to_see_has_no_window(tmp_path: Path, value: float) -> None:
    volume = np.full((4, 5, 6), value, np.float32)
    write_image(tmp_path / "image", image(stored(tmp_path, volume, [])))
    group = zarr.open_group(tmp_path / "image", mode="r")
    ome: Any = group.attrs["ome"]
    assert "omero" not in ome
    np.testing.assert_array_equal(group["0"], volume)


@pytest.mark.parametrize("pixel_size", [3e-6, None])
@pytest.mark.parametrize(
    ("slabs", "binning"),
    [
        ([(4, 10), (10, 13)], 1),
        ([(4, 12), (12, 16)], 2),
        ([(4, 7)], 4),
        ([(4, 6), (6, 8), (8, 10)], 4),  # rows are shared one by one where there are fewer units than ranks
    ],
)
def test_it_lies_where_the_hdf5_file_says(
    tmp_path: Path, slabs: list[Range], binning: int, pixel_size: float | None
) -> None:
    info = ScanInfo("scan", Geometry(20, 12, pixel_size), np.dtype("<u2"), dict.fromkeys(FrameKind), None)
    outputs = [Output(tmp_path, "scan", 10, 0.0, rank=rank) for rank in range(len(slabs))]
    parts = []
    for rank, rows in reversed(list(enumerate(slabs))):
        slab = noise(max(1, (rows[1] - rows[0]) // binning), 12 // binning, 12 // binning)
        update = VolumeUpdate(1, np.array([0.5]), 0.5, True, binning, slab)
        provenance = Provenance(info, rows, {}, np.array([0]))
        offset = outputs[rank].write_slab(1, update, provenance)
        parts.insert(0, Part(1, rank, rows, (0,), slab.shape, offset, Aside()))
    update = outputs[0].publish(1, update, provenance, parts)
    place = version_folder(tmp_path, 1) / "image"
    write_image(place, image_of(update, provenance, parts, slab_files(place.parent, parts)))
    group = zarr.open_group(place, mode="r")
    (multi,) = Model.from_zarr(group).ome_attributes.multiscales
    scale, translation = (list(e.model_dump().values())[-1] for e in multi.datasets[0].coordinateTransformations)
    with h5py.File(tmp_path / "volume.h5", "r", locking=False) as file:
        data = file["entry/data"]
        np.testing.assert_array_equal(group["0"], data["data"])
        for axis, name in enumerate("zyx"):
            known = data[name].attrs["units"]
            assert (known, multi.axes[axis].unit) in {("m", "micrometer"), ("pixel", None)}
            expected = data[name][:] * (1e6 if known == "m" else 1.0)
            np.testing.assert_allclose(translation[axis] + scale[axis] * np.arange(len(expected)), expected)
            if len(expected) == 1:  # a voxel is as high as the rows that it is the mean of
                assert scale[axis] == pytest.approx(3 * (3.0 if known == "m" else 1.0))
        facts: Any = group.attrs["streamrecon"]
        assert facts["units"] == data["data"].attrs["units"]
    assert (facts["scan"], facts["version"], facts["final"], facts["binning"]) == ("scan", 1, True, binning)


def test_slabs_that_were_cut_off_are_an_error(tmp_path: Path) -> None:
    files = stored(tmp_path, noise(6, 5, 4), [3])
    path = tmp_path / "1.slab"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(OSError, match=r"shorter.*1\.slab"):
        write_image(tmp_path / "image", image(files))


@pytest.mark.parametrize("installed", [None, "2.18.4"])
def test_without_zarr_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch, installed: str | None) -> None:
    need_zarr()
    if installed is None:
        monkeypatch.setitem(sys.modules, "zarr", None)
    else:
        monkeypatch.setattr(zarr, "__version__", installed)
    with pytest.raises(ConfigError, match=r"pip install 'streamrecon\[zarr\]'"):
        multiscale.need_zarr()
