"""Scans written in every layout come back as written, and bad files are refused with the place and the reason."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from streamrecon.config import Config, SourceConfig
from streamrecon.errors import ConfigError, GeometryError, SourceError, SourceFileError
from streamrecon.scan import FrameKind
from streamrecon.sources import hdf5, open_source
from streamrecon.sources.hdf5 import Hdf5Source

P, F, D = FrameKind.PROJECTION, FrameKind.FLAT, FrameKind.DARK
MIXED = [F, F, D, P, P, P, 3, P, F, P, P, D]
"""Flats before, within and after, darks at both ends, one invalid frame."""


def _frames(count: int, first: int = 0, dtype: Any = np.uint16, shape: tuple[int, int] = (4, 5)) -> NDArray[Any]:
    return (np.arange(count * shape[0] * shape[1]).reshape(count, *shape) + first).astype(dtype)


def _source(path: Path, **options: Any) -> Hdf5Source:
    return Hdf5Source(path, SourceConfig(**options))


def _write_exchange(path: Path, group: str = "exchange", **changes: Any) -> Path:
    """A Data Exchange file; a change of None leaves that dataset out."""
    parts = {
        "data": _frames(6, 100),
        "data_white": _frames(2, 500),
        "data_dark": _frames(3, 1),
        "theta": np.arange(6) * 30.0,
    }
    with h5py.File(path, "w") as file:
        for name, values in (parts | changes).items():
            if values is not None:
                file[f"{group}/{name}"] = values
        if changes.get("theta", parts["theta"]) is not None:
            file[f"{group}/theta"].attrs["units"] = "degrees"
        file["measurement/sample/name"] = "a tooth"
    return path


def _write_nxtomo(path: Path, keys: Any = MIXED, theta: Any = None, units: str | None = "degrees", **how: Any) -> Path:
    """A standard NXtomo file; frame i of the stack holds values from 20 i on."""
    keys = np.asarray(keys)
    with h5py.File(path, "w") as file:
        entry = file.create_group("entry")
        entry["definition"] = "NXtomo"
        entry["title"] = "a title"
        detector = entry.create_group("instrument/detector")
        detector.create_dataset("data", data=_frames(len(keys)), **how)
        detector["image_key"] = keys
        theta = np.arange(len(keys)) * 10.0 if theta is None else np.asarray(theta)
        if theta.size:
            entry["sample/rotation_angle"] = theta
            if units is not None:
                entry["sample/rotation_angle"].attrs["units"] = units
        detector["x_pixel_size"] = 6.5
        detector["x_pixel_size"].attrs["units"] = "um"
        detector["magnification"] = 10.0
    return path


def _write_fxi(path: Path, **changes: Any) -> Path:
    parts = {
        "img_tomo": _frames(4, 100),
        "img_bkg": _frames(2, 500),
        "img_dark": _frames(2, 1),
        "angle": np.array([-5.0, 40.0, 85.0, 130.0]),
        "Pixel Size": "20nm",
    }
    with h5py.File(path, "w") as file:
        for name, values in (parts | changes).items():
            if values is not None:
                file[name] = values
    return path


def test_data_exchange(tmp_path: Path) -> None:
    source = _source(_write_exchange(tmp_path / "scan 1.h5"))
    info, frames = source.info(), list(source.frames())
    assert info.counts == {P: 6, F: 2, D: 3}
    assert info.theta is not None
    np.testing.assert_allclose(info.theta, np.deg2rad(np.arange(6) * 30.0))
    assert info.uid.startswith("scan_1-")
    assert info.metadata == {"raw_file": "scan 1.h5", "sample": "a tooth", "layout": "data-exchange"}
    assert [(frame.kind, frame.index) for frame in frames] == [(D, i) for i in range(3)] + [(F, 0), (F, 1)] + [
        (P, i) for i in range(6)
    ]
    np.testing.assert_array_equal(np.stack([frame.data for frame in frames[5:]]), _frames(6, 100))
    np.testing.assert_array_equal(np.stack([frame.data for frame in frames[3:5]]), _frames(2, 500))
    assert [frame.theta for frame in frames] == [None] * 5 + info.theta.tolist()


def test_data_exchange_without_angles_flats_and_darks_says_so(tmp_path: Path) -> None:
    source = _source(_write_exchange(tmp_path / "a.h5", theta=None, data_white=None, data_dark=_frames(0)))
    info, said = source.info(), " ".join(source.notes())
    assert info.counts == {P: 6, F: 0, D: 0}
    np.testing.assert_allclose(info.theta, np.linspace(0, np.pi, 6, endpoint=False))
    for word in ("exchange/theta", "0 to 180", "no flats", "no darks"):
        assert word in said
    assert len(list(source.frames())) == 6


def test_data_exchange_in_another_entry(tmp_path: Path) -> None:
    path = _write_exchange(tmp_path / "a.h5", group="exchange2")
    with pytest.raises(SourceError, match="exchange2, measurement"):
        _source(path).info()
    assert _source(path, entry="/exchange2").info().counts[P] == 6
    with pytest.raises(SourceError, match=r"exchange7 is not a group.*source\.entry"):
        _source(path, entry="exchange7").info()


def test_data_exchange_pixel_size_is_that_at_the_sample(tmp_path: Path) -> None:
    path = _write_exchange(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        size = file.create_dataset("measurement/instrument/detection_system/objective/resolution", data=[1.3])
        size.attrs["units"] = "furlongs"
    assert _source(path).info().geometry.pixel_size is None
    assert "set source.pixel_size" in " ".join(_source(path).notes())
    with h5py.File(path, "a") as file:
        file["measurement/instrument/detection_system/objective/resolution"].attrs["units"] = "microns"
    assert _source(path).info().geometry.pixel_size == pytest.approx(1.3e-6)
    assert _source(path, pixel_size=5e-7).info().geometry.pixel_size == 5e-7


def test_sinograms_are_refused(tmp_path: Path) -> None:
    path = _write_exchange(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        file["exchange/data"].attrs["axes"] = "y:theta:x"
    with pytest.raises(SourceError, match="expected theta:y:x"):
        _source(path).info()


@pytest.mark.parametrize("dtype", [np.int32, np.float64])
def test_nxtomo_in_the_order_of_the_file(tmp_path: Path, dtype: Any) -> None:
    source = _source(_write_nxtomo(tmp_path / "a.nxs", np.asarray(MIXED, dtype)))
    info, frames = source.info(), list(source.frames())
    valid = [i for i, key in enumerate(MIXED) if key != 3]
    assert [frame.kind for frame in frames] == [MIXED[i] for i in valid]
    np.testing.assert_array_equal(np.stack([frame.data for frame in frames]), _frames(len(MIXED))[valid])
    for kind in FrameKind:
        indices = [frame.index for frame in frames if frame.kind is kind]
        assert indices == list(range(info.counts[kind] or 0))
    where = [i for i, key in enumerate(MIXED) if key == P]
    np.testing.assert_allclose(info.theta, np.deg2rad(np.array(where) * 10.0))
    assert info.geometry.pixel_size == pytest.approx(0.65e-6)
    assert info.metadata["title"] == "a title"
    assert "1 frames" in " ".join(source.notes())


def test_nxtomo_angles_per_projection_radians_and_nan_at_flats(tmp_path: Path) -> None:
    per_projection = _source(_write_nxtomo(tmp_path / "a.nxs", theta=np.arange(6) * 0.1, units="rad"))
    np.testing.assert_allclose(per_projection.info().theta, np.arange(6) * 0.1)
    theta = np.where(np.asarray(MIXED) == P, np.arange(12.0), np.nan)
    without_units = _source(_write_nxtomo(tmp_path / "b.nxs", theta=theta, units=None))
    np.testing.assert_allclose(without_units.info().theta, np.deg2rad([3, 4, 5, 7, 9, 10]))
    assert "degrees" in " ".join(without_units.notes())


def test_nxtomo_nan_angle_of_a_projection_is_refused(tmp_path: Path) -> None:
    theta = np.arange(12.0)
    theta[5] = np.nan
    with pytest.raises(SourceError, match=r"sample/rotation_angle: the angle of projection 2 is nan"):
        _source(_write_nxtomo(tmp_path / "a.nxs", theta=theta)).info()


def test_nxtomo_without_angles_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no angles found.*rotation_angle with 12 \(frames\) or 6"):
        _source(_write_nxtomo(tmp_path / "a.nxs", theta=[])).info()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"theta": np.arange(5.0)}, "has 5 angles; expected one for each of the 6 projections or of the 12 frames"),
        ({"units": "turns"}, "units 'turns'; expected one of"),
        ({"keys": [F, D, D], "theta": np.arange(3.0)}, "no frame as a projection"),
        ({"keys": [0, 0, 7]}, "of frame 2 is 7; expected 0"),
        ({"keys": [0, np.nan, 0]}, "of frame 1 is nan; expected 0"),
    ],
)
def test_nxtomo_that_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, Any], match: str) -> None:
    with pytest.raises(SourceError, match=match):
        _source(_write_nxtomo(tmp_path / "a.nxs", **changes)).info()


def test_nxtomo_with_too_few_frames_is_refused(tmp_path: Path) -> None:
    path = _write_nxtomo(tmp_path / "a.nxs")
    with h5py.File(path, "a") as file:
        del file["entry/instrument/detector/data"]
        file["entry/instrument/detector/data"] = _frames(9)
    with pytest.raises(SourceError, match=r"holds 9 frames, but .*image_key has 12 entries"):
        _source(path).info()


def test_nxtomo_in_several_entries_needs_a_choice(tmp_path: Path) -> None:
    path = _write_nxtomo(tmp_path / "a.nxs")
    with h5py.File(path, "a") as file:
        file.copy("entry", "other")
        file["other/instrument/detector/image_key"][:2] = D
    with pytest.raises(SourceError, match=r"2 scans; choose one with source\.entry: entry, other"):
        _source(path).info()
    counts = {
        name: _source(path, entry=name).info().counts[F] for name in ("entry", "other", "other/instrument/detector")
    }
    assert counts == {"entry": 3, "other": 1, "other/instrument/detector": 1}
    assert _source(path, entry="entry").info().uid != _source(path, entry="other").info().uid


def _write_linked(folder: Path) -> Path:
    """As Diamond's K11 writes: frames and angles in other files, a detector whose file is missing, broken links."""
    (folder / "parts").mkdir()
    with h5py.File(folder / "parts" / "camera.h5", "w") as file:
        file["entry/detector"] = _frames(len(MIXED))
    with h5py.File(folder / "parts" / "panda.h5", "w") as file:
        file["theta"] = np.arange(len(MIXED)) * 10.0
    with h5py.File(folder / "scan.nxs", "w") as file:
        for detector, part in (("aaa", "missing.h5"), ("camera", "camera.h5")):
            file[f"entry/instrument/{detector}/image_key"] = np.asarray(MIXED, np.int32)
            for group in (f"entry/{detector}", f"entry/instrument/{detector}"):
                file[f"{group}/data"] = h5py.ExternalLink(f"parts/{part}", "/entry/detector")
            file[f"entry/{detector}/stage_theta_value"] = h5py.ExternalLink("parts/panda.h5", "/theta")
            file[f"entry/{detector}/stage_theta_value_set"] = h5py.ExternalLink("parts/gone.h5", "/theta")
        file["entry/ring/data"] = h5py.ExternalLink("parts/camera.h5", "/nowhere")
        file["entry/soft"] = h5py.SoftLink("/not/there")
    return folder / "scan.nxs"


def test_linked_files_with_broken_decoys(tmp_path: Path) -> None:
    source = _source(_write_linked(tmp_path))
    assert source.info().counts == {P: 6, F: 3, D: 2}
    assert "entry/camera/stage_theta_value" in " ".join(source.notes())
    np.testing.assert_array_equal(next(source.frames(slice(1, 3))).data, _frames(1)[0, 1:3])


def test_a_missing_linked_file_is_named(tmp_path: Path) -> None:
    path = _write_linked(tmp_path)
    (tmp_path / "parts" / "camera.h5").unlink()
    with pytest.raises(SourceError, match=r"links to the file .*parts/missing\.h5, which is missing"):
        _source(path).info()
    with pytest.raises(SourceError, match=r"links to the file .*parts/camera\.h5, which is missing"):
        _source(path, entry="entry/instrument/camera").info()
    exchange = tmp_path / "dx.h5"
    with h5py.File(exchange, "w") as file:
        file["exchange/data"] = h5py.ExternalLink("gone.h5", "/data")
    with pytest.raises(SourceError, match=r"exchange/data links to the file .*gone\.h5"):
        _source(exchange).info()


def test_a_missing_part_of_a_virtual_dataset_is_named(tmp_path: Path) -> None:
    path = _write_exchange(tmp_path / "a.h5", data=None)
    with h5py.File(path, "a") as file:
        layout = h5py.VirtualLayout((6, 4, 5), np.uint16)
        layout[:] = h5py.VirtualSource("gone.h5", "data", (6, 4, 5))
        file.create_virtual_dataset("exchange/data", layout)
    with pytest.raises(SourceError, match=r"exchange/data takes frames from the file .*gone\.h5, which is missing"):
        _source(path).info()


def test_fxi(tmp_path: Path) -> None:
    source = _source(_write_fxi(tmp_path / "fly_scan.h5"))
    info, frames = source.info(), list(source.frames())
    assert info.metadata["layout"] == "fxi"
    assert info.geometry.pixel_size == pytest.approx(20e-9)
    np.testing.assert_allclose(info.theta, np.deg2rad([-5.0, 40.0, 85.0, 130.0]))
    assert [frame.kind for frame in frames] == [D, D, F, F, P, P, P, P]
    np.testing.assert_array_equal(np.stack([frame.data for frame in frames[4:]]), _frames(4, 100))


def test_fxi_with_averaged_flats_and_no_angles(tmp_path: Path) -> None:
    changes = {"img_bkg": _frames(1, 7, np.float32)[0], "img_dark": _frames(1), "angle": None, "Pixel Size": 31.5}
    source = _source(_write_fxi(tmp_path / "a.h5", **changes))
    info, frames = source.info(), list(source.frames(slice(1, 3)))
    assert info.counts == {P: 4, F: 1, D: 1}
    assert info.dtype == np.float32
    assert info.geometry.pixel_size == pytest.approx(31.5e-9)
    np.testing.assert_array_equal(frames[1].data, _frames(1, 7, np.float32)[0, 1:3])
    assert all(frame.data.dtype == np.float32 for frame in frames)
    said = " ".join(source.notes())
    assert "converted to float32" in said
    assert "0 to 180" in said


@pytest.mark.parametrize("dtype", [">u2", ">i4", ">f4", ">f8", "u1", "i2", "u4"])
def test_types_are_kept_in_native_byte_order(tmp_path: Path, dtype: str) -> None:
    parts = {name: _frames(6, 3, dtype) for name in ("data", "data_white", "data_dark")}
    source = _source(_write_exchange(tmp_path / "a.h5", **parts))
    assert source.info().dtype == np.dtype(dtype).newbyteorder("=")
    for frame in source.frames():
        assert frame.data.dtype.isnative
        np.testing.assert_array_equal(frame.data, _frames(6, 3, dtype)[frame.index])


def test_narrower_flats_are_widened_without_a_note(tmp_path: Path) -> None:
    source = _source(_write_exchange(tmp_path / "a.h5", data_white=_frames(2, 9, np.uint8)))
    assert source.info().dtype == np.uint16
    assert not any("converted" in note for note in source.notes())


@pytest.mark.parametrize("dtype", [np.float16, np.int64, np.complex64])
def test_other_types_are_refused(tmp_path: Path, dtype: Any) -> None:
    with pytest.raises(SourceError, match=f"exchange/data_white has dtype {np.dtype(dtype)}; expected"):
        _source(_write_exchange(tmp_path / "a.h5", data_white=_frames(2, 9, dtype))).info()


def test_frames_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = _write_exchange(tmp_path / "a.h5", data_white=_frames(2, shape=(4, 6)))
    with pytest.raises(
        SourceError, match=r"data_white has flats of \(4, 6\).*exchange/data has projections of \(4, 5\)"
    ):
        _source(path).info()
    with pytest.raises(SourceError, match="expected frames as"):
        _source(_write_exchange(tmp_path / "b.h5", data=np.zeros(7))).info()
    with pytest.raises(SourceError, match="holds no projections"):
        _source(_write_exchange(tmp_path / "c.h5", data=_frames(0), theta=np.zeros(0))).info()
    with pytest.raises(SourceError, match="has 5 angles; expected one for each of the 6 projections"):
        _source(_write_exchange(tmp_path / "d.h5", theta=np.arange(5.0))).info()


@pytest.mark.parametrize("order", ["recorded", "reversed", "golden", "interlaced:3", "random:2"])
@pytest.mark.parametrize("chunk", [None, (1, 4, 5), (4, 2, 5), (12, 1, 5)])
@pytest.mark.parametrize("block_bytes", [1, 100, 1 << 20])
def test_any_order_chunks_and_blocks_give_the_same_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str, chunk: Any, block_bytes: int
) -> None:
    path = _write_nxtomo(tmp_path / "a.nxs", chunks=chunk, compression="gzip" if chunk else None)
    monkeypatch.setattr(hdf5, "BLOCK_BYTES", block_bytes)
    stored = _frames(len(MIXED))
    source = _source(path, order=order)
    theta = source.info().theta
    assert theta is not None
    frames = list(source.frames(slice(1, 4)))
    assert [frame.kind for frame in frames] == [key for key in MIXED if key != 3]
    places = {kind: [i for i, key in enumerate(MIXED) if key == kind] for kind in FrameKind}
    for frame in frames:
        np.testing.assert_array_equal(frame.data, stored[places[frame.kind][frame.index], 1:4])
        assert frame.data.flags.c_contiguous
        assert frame.data.flags.owndata
        assert frame.theta == (theta[frame.index] if frame.kind is P else None)
    assert sorted(frame.index for frame in frames if frame.kind is P) == list(range(6))


@settings(deadline=None)  # it writes files
@given(keys=st.lists(st.sampled_from([0, 0, 0, 1, 2, 3]), min_size=1, max_size=20).filter(lambda keys: 0 in keys))
def test_any_sequence_of_kinds_is_replayed(tmp_path_factory: pytest.TempPathFactory, keys: list[int]) -> None:
    source = _source(_write_nxtomo(tmp_path_factory.mktemp("nx") / "a.nxs", keys))
    firsts = [int(frame.data[0, 0]) for frame in source.frames()]
    assert firsts == [20 * i for i, key in enumerate(keys) if key != 3]


def test_chunks_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _write_nxtomo(tmp_path / "a.nxs", chunks=(5, 4, 5))
    reads: list[int] = []
    original = hdf5._Stack._read

    def counted(self: Any, first: int, position: int) -> NDArray[Any]:
        reads.append(first)
        return original(self, first, position)

    monkeypatch.setattr(hdf5._Stack, "_read", counted)
    monkeypatch.setattr(hdf5, "BLOCK_BYTES", 7 * 40)
    list(_source(path).frames())
    assert reads == [0, 5, 10]


def test_sources_are_small_and_start_again(tmp_path: Path) -> None:
    path = _write_exchange(tmp_path / "a.h5")
    source = pickle.loads(pickle.dumps(open_source(str(path), Config())))
    assert source == Hdf5Source(path)
    first = source.frames()
    assert next(first).index == next(source.frames()).index == 0
    first.close()
    assert source.info().uid == Hdf5Source(path).info().uid


@pytest.mark.parametrize("rows", [slice(2, 2), slice(None, None, 2), slice(9, None), slice(None, None, -1)])
def test_rows_must_be_a_contiguous_range(tmp_path: Path, rows: slice) -> None:
    with pytest.raises(GeometryError, match="contiguous"):
        next(_source(_write_exchange(tmp_path / "a.h5")).frames(rows))


def test_unknown_order_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected one of"):
        next(_source(_write_exchange(tmp_path / "a.h5"), order="shuffled").frames())


def test_compressed_with_a_plugin(tmp_path: Path) -> None:
    import hdf5plugin

    source = _source(_write_nxtomo(tmp_path / "a.nxs", chunks=(1, 4, 5), compression=hdf5plugin.Bitshuffle()))
    np.testing.assert_array_equal(next(source.frames()).data, _frames(1)[0])


def _broken_files(folder: Path) -> Iterator[tuple[Path, str]]:
    yield folder / "none.h5", "does not exist"
    yield folder, "is not a file"
    (folder / "text.h5").write_text("not a scan\n" * 100)
    yield folder / "text.h5", "is not an HDF5 file"
    (folder / "empty.h5").touch()
    yield folder / "empty.h5", "is not an HDF5 file"
    whole = _write_exchange(folder / "whole.h5").read_bytes()
    (folder / "cut.h5").write_bytes(whole[: len(whole) * 2 // 3])
    yield folder / "cut.h5", "is truncated"


def test_broken_files_are_refused(tmp_path: Path) -> None:
    for path, match in _broken_files(tmp_path):
        for action in (
            lambda source: source.info(),
            lambda source: next(source.frames()),
            lambda source: source.notes(),
        ):
            with pytest.raises(SourceFileError, match=match) as caught:
                action(_source(path))
            assert str(path) in str(caught.value)
            assert isinstance(caught.value, OSError)


def test_a_damaged_chunk_is_named_by_frame(tmp_path: Path) -> None:
    path = _write_nxtomo(tmp_path / "a.nxs", chunks=(1, 4, 5), compression="gzip")
    with h5py.File(path) as file:
        chunk = file["entry/instrument/detector/data"].id.get_chunk_info(4)
    damaged = bytearray(path.read_bytes())
    damaged[chunk.byte_offset : chunk.byte_offset + chunk.size] = b"\xff" * chunk.size
    path.write_bytes(damaged)
    with pytest.raises(SourceFileError, match=r"entry/instrument/detector/data: frame 4 cannot be read"):
        list(_source(path, order="random:1").frames())
    with pytest.raises(SourceFileError, match=r"entry/instrument/detector/data: frames? .*cannot be read"):
        list(_source(path).frames())


def test_unrecognised_files_are_refused_with_what_was_looked_for(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["images"] = _frames(2)
    with pytest.raises(SourceError, match=r"data-exchange: .*fxi: .*nxtomo: .*in its root: images.*source\.layout"):
        _source(tmp_path / "a.h5").info()
    with pytest.raises(SourceError, match=r"Looked for: fxi: img_tomo"):
        _source(_write_exchange(tmp_path / "b.h5"), layout="fxi").info()
