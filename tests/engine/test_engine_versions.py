"""Versions of the volume on disk: complete whenever they can be seen, what they say of themselves, and how many are kept."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from engine_scans import (
    SECONDS,
    D,
    F,
    P,
    Scan,
    batch,
    config,
    difference,
    held,
    read,
    read_volume,
    simulated,
    story,
    stream,
)
from PIL import Image

import streamrecon.engine.output as output_module
from streamrecon.engine import Engine
from streamrecon.engine.output import Output
from streamrecon.recon.weights import arc_weights, covered_arc
from streamrecon.scan import Frame


@pytest.fixture(scope="module")
def scan() -> Scan:
    return simulated(center=24.3)


def slowly(scan: Scan, seconds: float, step: int = 1) -> Any:
    """Frames as a detector gives them, so that there is a during."""

    def frames(rows: slice) -> Iterator[Frame]:
        for frame in scan.frames(rows):
            if frame.kind == P and frame.index % step == 0:
                time.sleep(seconds * step)
            yield frame

    return frames


def text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def slabs(out: Path) -> list[Path]:
    return sorted((out / "partials").glob("v*/slab-000.h5"))


def test_a_reader_never_sees_an_error_or_a_mixture(scan: Scan, tmp_path: Path) -> None:
    out, looks, errors = tmp_path / "out", [], []
    done = threading.Event()

    def look() -> None:
        existed = False
        while not done.is_set():
            try:
                with h5py.File(out / "volume.h5", "r", locking=False) as file:
                    existed = True
                    group = file["entry/reconstruction"]
                    data = file["entry/data/data"]
                    source = data.virtual_sources()[0].file_name
                    volume = data[:]
                    seen = {
                        "version": int(group["volume_version"][()]),
                        "final": bool(group["final"][()]),
                        "coverage": float(group["coverage"][()]),
                        "theta": group["theta"][:],
                        "indices": group["projection_indices"][:],
                        "volume": volume,
                        "source": source,
                    }
                with h5py.File(out / source, "r", locking=False) as slab:
                    assert np.array_equal(slab["entry/data/data"][:], volume)
                    assert np.array_equal(slab["entry/reconstruction/theta"][:], seen["theta"])
                looks.append(seen)
            except (FileNotFoundError, BlockingIOError) as error:
                if existed:
                    errors.append(error)
            except Exception as error:
                errors.append(error)
            time.sleep(0.003)

    readers = [threading.Thread(target=look) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        streamed = stream(scan, config(emit={"every": 6}), out, frames=slowly(scan, 0.025))
    finally:
        time.sleep(0.05)
        done.set()
        for reader in readers:
            reader.join()
    assert not errors, errors[:3]
    by_version: dict[int, dict[str, Any]] = {}
    for seen in looks:
        first = by_version.setdefault(seen["version"], seen)
        assert np.array_equal(first["volume"], seen["volume"]), "a version has changed after it was published"
        assert np.isfinite(seen["volume"]).all(), "a version was seen incomplete"
        assert len(seen["theta"]) == len(seen["indices"])
        assert np.allclose(seen["theta"], scan.info.theta[seen["indices"]])
        assert seen["coverage"] == pytest.approx(covered_arc(seen["theta"]) / np.pi)
    versions = sorted(by_version)
    assert len(versions) >= 5, versions
    assert [by_version[v]["final"] for v in versions] == [False] * (len(versions) - 1) + [True]
    coverage = [by_version[v]["coverage"] for v in versions]
    assert coverage == sorted(coverage)
    assert coverage[-1] == pytest.approx(1.0)
    assert difference(streamed.volume, batch(scan, config())) < 1e-5


def test_each_partial_volume_is_the_batch_of_its_angles(scan: Scan, tmp_path: Path) -> None:
    """With the weights of the final list of angles, and the gain that makes up for what is not covered yet."""
    streamed = stream(
        scan, config(emit={"every": 20, "keep": 50}, engine={"batch": 20}), tmp_path, frames=slowly(scan, 0.01, 10)
    )
    assert streamed.result is not None
    files = slabs(tmp_path)
    assert len(files) == streamed.result.status.version
    assert len(files) >= 3
    planned = arc_weights(scan.info.theta)
    for path in files[:-1]:
        with h5py.File(path, "r", locking=False) as file:
            indices, volume = file["entry/reconstruction/projection_indices"][:], file["entry/data/data"][:]
        part = scan.arranged(scan.of(D), scan.of(F), [scan.of(P)[i] for i in indices])
        gain = covered_arc(scan.info.theta[indices]) / planned[indices].sum()
        assert difference(volume, batch(part, config(), weights=planned[indices]) * gain) < 1e-5


def test_the_newest_versions_are_kept(scan: Scan, tmp_path: Path) -> None:
    streamed = stream(
        scan, config(emit={"every": 5, "keep": 3, "keep_seconds": 0.0}), tmp_path, frames=slowly(scan, 0.01)
    )
    assert streamed.result is not None
    last = streamed.result.status.version
    assert last >= 8
    assert sorted(p.name for p in (tmp_path / "partials").iterdir()) == [f"v{n:04d}" for n in range(last - 2, last + 1)]
    assert np.isfinite(read_volume(tmp_path)).all()


def test_young_versions_are_kept_up_to_twice_as_many(scan: Scan, tmp_path: Path) -> None:
    streamed = stream(scan, config(emit={"every": 5, "keep": 3}), tmp_path, frames=slowly(scan, 0.01))
    assert streamed.result is not None
    last = streamed.result.status.version
    assert last >= 8
    assert [p.parent.name for p in slabs(tmp_path)] == [f"v{n:04d}" for n in range(last - 5, last + 1)]


def test_only_the_newest_is_kept(scan: Scan, tmp_path: Path) -> None:
    stream(scan, config(emit={"every": 10, "keep": 1, "keep_seconds": 0.0}), tmp_path, frames=slowly(scan, 0.01))
    assert len(slabs(tmp_path)) == 1
    assert difference(read_volume(tmp_path), batch(scan, config())) < 1e-5


@pytest.mark.parametrize("method", ["direct", "fourier"])
@pytest.mark.parametrize(("rows", "preview"), [(6, 4), (3, 4), (5, 2), (7, 8)])
def test_previews_where_full_versions_do_not_fit(tmp_path: Path, method: str, rows: int, preview: int) -> None:
    scan = simulated(rows=rows, center=24.3)
    volume, journal = rows * 48 * 48 * 4, 70 * rows * 48 * 2
    options = config(
        recon={"method": method},
        emit={"every": 10, "preview": preview},
        engine={"disk_bytes": journal + int(3.5 * volume)},
    )
    streamed = stream(scan, options, tmp_path, frames=slowly(scan, 0.01))
    assert difference(streamed.volume, batch(scan, options, method=method)) < 1e-5
    previews = slabs(tmp_path)[:-1]
    assert len(previews) >= 3
    final = streamed.volume
    with h5py.File(previews[-1], "r", locking=False) as file:
        small = file["entry/data/data"][:]
        assert not file["entry/reconstruction/final"][()]
        assert small.shape == (max(1, rows // preview), 48 // preview, 48 // preview)
        step = np.diff(file["entry/data/x"][:])
        assert np.allclose(step, preview * 1e-6)
        for name, length in zip("zyx", small.shape, strict=True):
            assert len(file[f"entry/data/{name}"]) == length
        assert file["entry/data/x"][:].mean() == pytest.approx(0, abs=1e-12)
        z = file["entry/data/z"][:]
        assert z[0] == pytest.approx((min(rows, preview) - 1) / 2 * 1e-6), "a bin lies at the middle of its rows"
    # binned as the full one would be
    side, n = small.shape[1] * preview, max(1, rows // preview)
    depth = min(rows, preview)
    b = final[: n * depth, :side, :side].reshape(n, depth, small.shape[1], preview, small.shape[2], preview)
    assert np.corrcoef(b.mean(axis=(1, 3, 5)).ravel(), small.ravel())[0, 1] > 0.9


@pytest.mark.parametrize("method", ["direct", "fourier"])
def test_previews_of_a_slice_smaller_than_a_bin(tmp_path: Path, method: str) -> None:
    scan = simulated(center=24.3)
    options = config(
        recon={"method": method, "side": 3},
        emit={"every": 10, "preview": 16},
        engine={"disk_bytes": 70 * 6 * 48 * 2 + 6 * 9 * 4 * 3},
    )
    streamed = stream(scan, options, tmp_path)
    assert difference(streamed.volume, batch(scan, options, method=method)) < 1e-5


def test_nxtomoproc(scan: Scan, tmp_path: Path) -> None:
    stream(scan, config(), tmp_path)
    with h5py.File(tmp_path / "volume.h5", "r", locking=False) as file:
        assert file.attrs["default"] == "entry"
        classes = {
            "entry": "NXentry",
            "entry/instrument": "NXinstrument",
            "entry/instrument/source": "NXsource",
            "entry/sample": "NXsample",
            "entry/reconstruction": "NXprocess",
            "entry/reconstruction/parameters": "NXparameters",
            "entry/data": "NXdata",
        }
        assert {path: text(file[path].attrs["NX_class"]) for path in classes} == classes
        assert text(file["entry/definition"][()]) == "NXtomoproc"
        assert text(file["entry/title"][()]) == "simulated foam"
        process = file["entry/reconstruction"]
        assert text(process["program"][()]) == "streamrecon"
        for name in ("version", "date"):
            assert text(process[name][()])
        assert process["theta"].attrs["units"] == "rad"
        assert bool(process["final"][()]) is True
        parameters = process["parameters"]
        assert text(parameters["raw_file"][()])
        assert text(parameters["scan_uid"][()]) == scan.info.uid
        assert parameters["center"][()] == pytest.approx(24.3)
        for name in ("method", "filter", "cutoff", "upsampling", "circle", "flat", "dark", "floor", "gain"):
            assert name in parameters, name
        assert parameters["gain"][()] == pytest.approx(1.0)
        data = file["entry/data"]
        assert text(data.attrs["signal"]) == "data"
        assert [text(a) for a in data.attrs["axes"]] == ["z", "y", "x"]
        assert data["data"].dtype == np.float32
        assert data["data"].shape == (6, 48, 48)
        assert data["data"].attrs["units"] == "1/m"
        for i, name in enumerate("zyx"):
            assert data[name].attrs["units"] == "m"
            assert data.attrs[f"{name}_indices"] == i
            assert len(data[name]) == data["data"].shape[i]
        assert np.allclose(data["x"], (np.arange(48) - 23.5) * 1e-6)
        assert np.allclose(data["z"], np.arange(6) * 1e-6)
    picture = Image.open(tmp_path / "volume.png")
    picture.load()
    assert min(picture.size) > 48


def test_units_follow_the_pixel_size(scan: Scan, tmp_path: Path) -> None:
    from dataclasses import replace

    per_pixel = scan.with_info(geometry=replace(scan.info.geometry, pixel_size=None))
    in_metres = stream(scan, config(), tmp_path / "m").volume
    in_pixels = stream(per_pixel, config(), tmp_path / "p").volume
    assert difference(in_pixels * 1e6, in_metres) < 1e-5
    with h5py.File(tmp_path / "p" / "volume.h5", "r", locking=False) as file:
        assert file["entry/data/data"].attrs["units"] == "1/pixel"
        assert file["entry/data/x"].attrs["units"] == "pixel"


def test_a_reader_elsewhere_gets_this_volume(scan: Scan, tmp_path: Path) -> None:
    """The virtual dataset's relative path is meant from volume.h5, not from the reader's working directory."""
    other = simulated(center=24.3, seed=99, phantom="foam", photons=300.0)
    a, b = stream(scan, config(), tmp_path / "a").volume, stream(other, config(), tmp_path / "b").volume
    assert difference(a, b) > 0.01
    (tmp_path / "link").symlink_to(tmp_path / "a", target_is_directory=True)
    code = (
        "import h5py, sys, numpy as np; f = h5py.File(sys.argv[1], 'r', locking=False);"
        "np.save(sys.argv[2], f['entry/data/data'][:])"
    )
    for name, path in (("1", tmp_path / "a"), ("2", tmp_path / "link")):
        file = tmp_path / f"{name}.npy"
        subprocess.run(
            [sys.executable, "-c", code, str(path / "volume.h5"), str(file)], cwd=tmp_path / "b", check=True, timeout=60
        )
        assert np.array_equal(np.load(file), a)
    (tmp_path / "a").rename(tmp_path / "moved")
    assert np.array_equal(read_volume(tmp_path / "moved"), a)


def test_request_version(scan: Scan, tmp_path: Path) -> None:
    requested, go = threading.Event(), threading.Event()

    def watch(engine: Engine) -> None:
        while engine.status().in_volume < 10:
            time.sleep(0.005)
        engine.request_version()
        deadline = time.monotonic() + SECONDS
        while engine.status().version < 1 and time.monotonic() < deadline:
            time.sleep(0.005)
        if engine.status().version == 1 and engine.status().in_volume < 60:
            requested.set()
        go.set()

    streamed = stream(scan, config(), tmp_path, frames=held(scan, 30, go), watch=watch)
    assert requested.is_set(), "no version came on request while the scan was running"
    assert [e["final"] for e in streamed.told("version")] == [False, True]


def test_request_before_the_scan_is_no_error(tmp_path: Path) -> None:
    with Engine(config(), tmp_path) as engine:
        engine.request_version()
        assert engine.status().version == 0


def test_interval(scan: Scan, tmp_path: Path) -> None:
    streamed = stream(scan, config(emit={"interval": 0.2}), tmp_path, frames=slowly(scan, 0.02))
    versions = streamed.told("version")
    seconds = versions[-1]["seconds"] - versions[0]["seconds"]
    assert 4 <= len(versions) <= seconds / 0.2 + 3, [v["projections"] for v in versions]


def test_every(scan: Scan, tmp_path: Path) -> None:
    streamed = stream(scan, config(emit={"every": 7}), tmp_path, frames=slowly(scan, 0.01))
    counts = [v["projections"] for v in streamed.told("version")]
    assert counts == [*range(7, 60, 7), 60]


def test_default_is_a_tenth_of_the_scan(scan: Scan, tmp_path: Path) -> None:
    streamed = stream(scan, config(emit={"every": None}), tmp_path, frames=slowly(scan, 0.01))
    assert [v["projections"] for v in streamed.told("version")][:9] == list(range(6, 60, 6))


def test_ingestion_goes_on_while_a_slow_disk_writes(
    scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames leave the ring while the writer works, and the compute thread does not spin meanwhile."""
    write = Output.write_slab
    began: list[float] = []

    def slow(self: Output, *arguments: Any) -> None:
        if not began:
            began.append(time.monotonic())
            time.sleep(1.0)
        return write(self, *arguments)

    monkeypatch.setattr(Output, "write_slab", slow)
    streamed = stream(scan, config(emit={"every": 10}), tmp_path)
    received = [e["seconds"] for e in streamed.told("end")]
    first = streamed.told("version")[0]["seconds"]
    assert received[0] < first, "the last frame came only after the slow version was written"
    assert streamed.result is not None
    assert streamed.result.final


def test_waiting_for_the_disk_takes_no_processor(scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the last frame has come, too: a spinning thread starves the writer of the interpreter."""
    write = Output.write_slab

    def slow(self: Output, *arguments: Any) -> None:
        time.sleep(0.3)
        return write(self, *arguments)

    monkeypatch.setattr(Output, "write_slab", slow)
    began, cpu = time.monotonic(), time.process_time()
    stream(scan, config(emit={"every": 10}), tmp_path)
    seconds, cpu = time.monotonic() - began, time.process_time() - cpu
    assert cpu < 0.6 * seconds + 0.5, f"{cpu:.1f} s of processor in {seconds:.1f} s of waiting"


def test_versions_are_synced_before_they_are_named(scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    sync = output_module.sync
    monkeypatch.setattr(output_module, "sync", lambda path: (order.append(path.name), sync(path)))
    replaced = Path.replace

    def replace_(self: Path, target: Any) -> Path:
        order.append(f"-> {Path(target).name}")
        return replaced(self, target)

    monkeypatch.setattr(Path, "replace", replace_)
    stream(scan, config(), tmp_path)
    assert order.index("slab-000.tmp") < order.index("-> volume.h5")
    assert order.index(".volume.h5.tmp") < order.index("-> volume.h5")


def test_what_is_left_in_the_folder(scan: Scan, tmp_path: Path) -> None:
    stream(scan, config(emit={"every": 20}), tmp_path)
    names = {p.name for p in tmp_path.iterdir()}
    assert {"volume.h5", "volume.png", "partials", "scan.log.jsonl"} <= names
    assert not list(tmp_path.rglob("*.tmp"))
    assert not list(tmp_path.rglob("*.raw")), "the raw frames of a completed scan stay on the disk"
    assert not list((tmp_path / "partials").glob(".*"))
    events = [e["event"] for e in story(tmp_path)]
    for event in ("listen", "plan", "scan", "flats", "normalize", "center", "end", "version", "done"):
        assert event in events, event
    assert all({"time", "seconds", "event", "text"} <= set(e) for e in story(tmp_path))


def test_a_second_scan_in_the_same_folder(scan: Scan, tmp_path: Path) -> None:
    other = simulated(center=24.3, seed=8)
    stream(scan, config(emit={"every": 20}), tmp_path)
    before = read_volume(tmp_path)
    refused = stream(other, config(), tmp_path)
    assert refused.engine_error is not None
    assert "--overwrite" in str(refused.engine_error)
    assert refused.sender_error is not None
    assert "--overwrite" in str(refused.sender_error)
    assert np.array_equal(read_volume(tmp_path), before)
    assert len(slabs(tmp_path)) == 3
    again = stream(scan, config(), tmp_path)  # the same scan once more is no other scan
    assert again.result is not None
    assert again.result.final
    assert len(slabs(tmp_path)) == 1
    replaced = stream(other, config(), tmp_path, overwrite=True)
    assert difference(replaced.volume, batch(other, config())) < 1e-5


def test_status_can_be_asked_by_many_threads(scan: Scan, tmp_path: Path) -> None:
    """The page's threads and the terminal ask at the same time."""
    errors: list[Exception] = []
    done = threading.Event()

    def watch(engine: Engine) -> None:
        def ask() -> None:
            while not done.is_set():
                try:
                    engine.status()
                except Exception as error:
                    errors.append(error)
                    return

        for _ in range(6):
            threading.Thread(target=ask, daemon=True).start()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        stream(scan, config(), tmp_path, frames=slowly(scan, 0.03), watch=watch)
    finally:
        done.set()
        sys.setswitchinterval(interval)
    assert not errors, errors[0]


def test_the_journal_is_private(scan: Scan, tmp_path: Path) -> None:
    modes: list[int] = []

    def watch(engine: Engine) -> None:
        while not (paths := list((tmp_path / "journal").glob("*/*.frames"))):
            time.sleep(0.005)
        modes.append(paths[0].stat().st_mode & 0o777)

    stream(scan, config(), tmp_path, frames=slowly(scan, 0.01), watch=watch)
    assert modes == [0o600]
    assert read(tmp_path, "entry/reconstruction/volume_version") == 1
