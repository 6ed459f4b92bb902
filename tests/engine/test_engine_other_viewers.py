"""What viewers that know nothing of streamrecon find in a volume: silx by its own rules, H5Web by those of NeXus."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from silx.io import nxdata

from streamrecon.engine.nxtomoproc import Provenance
from streamrecon.engine.orders import Aside, Part
from streamrecon.engine.output import Output
from streamrecon.scan import FrameKind, Geometry, ScanInfo, VolumeUpdate
from streamrecon.wire.messages import Range

ROWS: list[Range] = [(4, 8), (8, 14)]
SIDE = 5
BINNING = 2
PIXEL = 2e-6


def volume(slices: int) -> np.ndarray:
    return np.random.default_rng(slices).normal(size=(slices, SIDE, SIDE)).astype(np.float32)


@pytest.fixture(params=[PIXEL, None], ids=["m", "pixel"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A version of two slabs, binned."""
    metadata = {"title": "tooth"}
    info = ScanInfo("scan", Geometry(20, 10, request.param), np.dtype("<u2"), dict.fromkeys(FrameKind), None, metadata)
    parts, kept = [], []
    for rank, rows in enumerate(ROWS):
        output = Output(tmp_path, "scan", 10, 0.0, rank=rank)
        slab = volume((rows[1] - rows[0]) // BINNING)
        update = VolumeUpdate(1, np.array([0.0, 0.5]), 0.5, False, BINNING, slab)
        provenance = Provenance(info, rows, {"center": 2.5}, np.array([0, 3]))
        offset = output.write_slab(1, update, provenance)
        parts.append(Part(1, rank, rows, (0,), slab.shape, offset, Aside()))
        kept.append((output, update, provenance))
    output, update, provenance = kept[0]
    output.publish(1, update, provenance, parts)
    return tmp_path


FILES = pytest.mark.parametrize(
    ("name", "first", "slices"),
    [("volume.h5", 4.5, 5), ("partials/v0001/slab-000.h5", 4.5, 2), ("partials/v0001/slab-001.h5", 8.5, 3)],
)


@FILES
def test_silx_shows_it_as_a_stack_of_images(out: Path, name: str, first: float, slices: int) -> None:
    with h5py.File(out / name, "r", locking=False) as file:
        found = nxdata.get_default(file)
        assert found is not None, "nothing is shown on opening the file"
        assert found.is_valid, found.issues
        assert found.group.name == "/entry/data"
        # What silx.gui asks for before it shows images, those of the last two axes.
        assert found.signal_ndim == 3
        assert found.interpretation in (None, "image")
        unit = found.axes[0].attrs["units"]
        step = {"m": PIXEL, "pixel": 1.0}[unit]
        assert found.axes_dataset_names == ["z", "y", "x"]
        assert found.axes_names == [f"{axis} ({unit})" for axis in "zyx"]
        assert found.signal_name == f"linear attenuation (1/{unit})"
        assert found.title == "tooth"
        np.testing.assert_allclose(found.axes[0], step * (first + BINNING * np.arange(slices)))
        for axis in found.axes[1:]:
            np.testing.assert_allclose(axis, step * BINNING * np.arange(-2.0, 3.0))
        expected = [volume((rows[1] - rows[0]) // BINNING) for rows in ROWS]
        of_slab = {"slab-000.h5": expected[0], "slab-001.h5": expected[1]}
        np.testing.assert_array_equal(found.signal, of_slab.get(Path(name).name, np.concatenate(expected)))


def by_h5web(file: h5py.File) -> tuple[Any, dict[str, int]]:
    """The signal that H5Web opens a file with, and the dimension of each axis."""
    group: Any = file
    while "default" in group.attrs:
        group = group[group.attrs["default"]]
        assert isinstance(group.attrs["NX_class"], str), "H5Web takes only scalar strings"
    assert group.attrs["NX_class"] == "NXdata"
    axes = list(group.attrs["axes"])
    return group[group.attrs["signal"]], {axis: int(group.attrs[f"{axis}_indices"]) for axis in axes}


@FILES
def test_h5web_finds_signal_and_axes(out: Path, name: str, first: float, slices: int) -> None:
    with h5py.File(out / name, "r", locking=False) as file:
        assert file.attrs["NX_class"] == "NXroot"
        assert file["entry"].attrs["NX_class"] == "NXentry"
        signal, axes = by_h5web(file)
        assert signal.shape == (slices, SIDE, SIDE)
        assert axes == {"z": 0, "y": 1, "x": 2}
        for axis, dimension in axes.items():
            values = signal.parent[axis]
            assert values.shape == signal.shape[dimension : dimension + 1]
            assert isinstance(values.attrs["units"], str)
        # A long name takes the place of name and units on the color bar.
        assert signal.attrs["long_name"].endswith(f"({signal.attrs['units']})")
