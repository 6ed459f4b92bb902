"""OME-Zarr beside the scan: nothing waits for it but the end, the newest version wins, what goes wrong costs no more than it."""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from engine_ranks import stream_ranks
from engine_scans import Scan, Sending, config, read_volume, simulated, stream

from streamrecon import failpoints
from streamrecon.engine import Engine, zarr_writer
from streamrecon.engine.multiscale import Image, write_image
from streamrecon.engine.output import Output, version_folder
from streamrecon.engine.slab_files import SlabFiles
from streamrecon.engine.story import Story
from streamrecon.engine.zarr_writer import NAME, ZarrWriter
from streamrecon.errors import ConfigError

WAIT = 20.0


@pytest.fixture(scope="module")
def scan() -> Scan:
    return simulated()


def images(out: Path) -> list[str]:
    return sorted(place.parent.name for place in (out / "partials").glob(f"*/{NAME}"))


def hidden(out: Path) -> list[Path]:
    return list((out / "partials").glob(".zarr-*"))


def pixels(out: Path, version: int) -> np.ndarray:
    group = zarr.open_group(version_folder(out, version) / NAME, mode="r", zarr_format=3)
    return np.asarray(group["0"])


class Gate:
    """Holds the writing of images up until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self._open = threading.Event(), threading.Event()

        def write(place: Path, image: Image, go_on: Callable[[], None]) -> None:
            place.mkdir()
            self.reached.set()
            while not self._open.wait(0.01):
                go_on()
            place.rmdir()
            write_image(place, image, go_on)

        monkeypatch.setattr(zarr_writer, "write_image", write)

    def open(self) -> None:
        self._open.set()


# In a scan.


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_final_version_is_there_as_it_is_in_the_hdf5_file(scan: Scan, tmp_path: Path, ranks: int) -> None:
    options = config(emit={"zarr": True, "every": 20}, recon={"rows": (1, 6)})
    streamed = stream(scan, options, tmp_path) if ranks == 1 else stream_ranks(scan, options, tmp_path, ranks)
    volume = streamed.volume
    version = streamed.told("version")[-1]["version"]
    np.testing.assert_array_equal(pixels(tmp_path, version), volume)
    assert streamed.told("zarr")[-1]["version"] == version
    assert [e["event"] for e in streamed.events if e["event"] in ("zarr", "done")][-2:] == ["zarr", "done"]
    told = [e["version"] for e in streamed.told("zarr")] + [v for e in streamed.told("zarr") for v in e["skipped"]]
    assert sorted(told) == list(range(1, version + 1)), "each version is there, or said to be skipped"
    assert images(tmp_path) == [f"v{e['version']:04d}" for e in streamed.told("zarr")]
    assert not hidden(tmp_path)


def test_without_the_option_there_is_none(scan: Scan, tmp_path: Path) -> None:
    streamed = stream(scan, config(), tmp_path)
    assert streamed.volume.any()
    assert not images(tmp_path)
    assert not any("zarr" in e["event"] for e in streamed.events)


@pytest.mark.parametrize("ranks", [1, 2])
def test_neither_frames_nor_versions_wait_for_it(
    scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ranks: int
) -> None:
    gate = Gate(monkeypatch)
    seen: dict[str, Any] = {}

    def watch(engine: Engine) -> None:
        deadline = time.monotonic() + WAIT
        while not any(e["event"] == "zarr_awaited" for e in story_of(engine)) and time.monotonic() < deadline:
            time.sleep(0.01)
        # Everything that was to come has come, and is held against what is heard of ranks while it waits.
        time.sleep(3.5)
        seen["over"] = engine.wait(0) is not None
        seen["volume"], seen["images"] = read_volume(tmp_path), images(tmp_path)
        gate.open()

    options = config(emit={"zarr": True, "every": 20}, engine={"rank_timeout": 2.5, "peer_timeout": 2.5})
    if ranks == 1:
        streamed = stream(scan, options, tmp_path, watch=watch)
    else:
        streamed = stream_ranks(scan, options, tmp_path, ranks, watch=watch)
    assert seen["images"] == []
    assert not seen["over"], "the engine waits for the last one"
    np.testing.assert_array_equal(seen["volume"], streamed.volume)
    events = [e["event"] for e in streamed.events]
    assert events.index("zarr_awaited") < events.index("zarr")
    last = streamed.told("version")[-1]["version"]
    # The one that was being written, and the last one; two ranks may be through before there is another one.
    found = [int(name[1:]) for name in images(tmp_path)]
    assert found[-1] == last
    assert len(found) <= 2
    assert sorted(found + [v for e in streamed.told("zarr") for v in e["skipped"]]) == list(range(1, last + 1))


def story_of(engine: Engine) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (engine.out / "scan.log.jsonl").read_text().splitlines()]


def test_the_sender_hears_of_the_final_volume_before(
    scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, options = Gate(monkeypatch), config(emit={"zarr": True})
    with Engine(options, tmp_path) as engine:
        sender = Sending(scan, engine.endpoint, options)
        sender.join(WAIT)
        assert not sender.is_alive()
        assert sender.error is None
        assert engine.wait(0) is None
        gate.open()
        result = engine.wait(WAIT)
    assert result is not None
    assert result.final


@pytest.mark.parametrize("where", ["before", "within", "after"])
def test_a_full_disk_is_told_and_costs_no_scan(
    scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    rows = SlabFiles.rows

    def full_for_images(self: SlabFiles, *ranges: Any) -> Any:
        # The picture beside the volume is read so, too.
        return full() if threading.current_thread().name == "streamrecon-zarr" else rows(self, *ranges)

    if where == "within":
        monkeypatch.setattr(SlabFiles, "rows", full_for_images)
    if where == "after":
        monkeypatch.setattr(zarr_writer, "sync", full)
    failpoints.arm("zarr.write=full:1:99" if where == "before" else "")
    try:
        streamed = stream(scan, config(emit={"zarr": True}), tmp_path)
    finally:
        failpoints.arm("")
    assert streamed.volume.any()
    (failed,) = streamed.told("zarr_failed")
    assert "version 1 could not be written as OME-Zarr" in failed["text"]
    assert "No space left" in failed["text"]
    assert not images(tmp_path)
    assert not hidden(tmp_path)


def test_a_scan_that_breaks_off_has_one_of_its_last_version(scan: Scan, tmp_path: Path) -> None:
    def frames(rows: slice) -> Any:
        for number, frame in enumerate(scan.frames(rows)):
            if number == 40:
                raise RuntimeError("the detector is gone")
            yield frame

    streamed = stream(scan, config(emit={"zarr": True}), tmp_path, frames=frames)
    assert streamed.result is not None
    assert not streamed.result.final
    np.testing.assert_array_equal(pixels(tmp_path, 1), read_volume(tmp_path))


def test_what_is_missing_is_said_before_anything_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(ConfigError, match=r"pip install 'streamrecon\[zarr\]'"):
        Engine(config(emit={"zarr": True}), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    Engine(config(), tmp_path / "out").close()


def test_images_go_with_their_versions(scan: Scan, tmp_path: Path) -> None:
    streamed = stream(scan, config(emit={"zarr": True, "every": 10, "keep": 1, "keep_seconds": 0.0}), tmp_path)
    last = streamed.told("version")[-1]["version"]
    assert images(tmp_path) == [f"v{last:04d}"]
    assert [place.name for place in (tmp_path / "partials").iterdir()] == [f"v{last:04d}"]


# The thread.


class Versions:
    """Versions of one voxel's value each, without HDF5."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.events: list[dict[str, Any]] = []
        self.story = Story(out / "log", self.events.append)
        self.writer = ZarrWriter(out, self.story)
        self.writer.start()

    def put(self, version: int) -> None:
        folder = version_folder(self.out, version)
        folder.mkdir(parents=True)
        (folder / "slab").write_bytes(np.full((2, 3, 4), version, np.float32).tobytes())
        files = SlabFiles([(folder / "slab", 0, (2, 3, 4))])
        self.writer.put(version, Image(files, (0.0,) * 3, (1.0,) * 3, None, "scan", {}))

    def end(self) -> None:
        self.writer.finish(lambda: None)
        self.writer.close()
        self.story.close()


@pytest.fixture
def versions(tmp_path: Path) -> Versions:
    return Versions(tmp_path)


def test_the_newest_version_wins(versions: Versions, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    versions.put(1)
    assert gate.reached.wait(WAIT)
    for number in (2, 3, 4):
        versions.put(number)
    assert images(versions.out) == [], "it is hidden until it is complete"
    assert [place.name for place in hidden(versions.out)] == [".zarr-0001"]
    gate.open()
    versions.end()
    assert images(versions.out) == ["v0001", "v0004"]
    assert np.all(pixels(versions.out, 4) == 4)
    assert [(e["version"], e["skipped"]) for e in versions.events if e["event"] == "zarr"] == [(1, []), (4, [2, 3])]


def test_a_version_that_is_deleted_meanwhile_stays_deleted(versions: Versions, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    versions.put(1)
    assert gate.reached.wait(WAIT)
    versions.put(2)
    shutil.rmtree(version_folder(versions.out, 1))
    gate.open()
    versions.end()
    assert images(versions.out) == ["v0002"]
    assert [place.name for place in (versions.out / "partials").iterdir()] == ["v0002"]
    assert [e["skipped"] for e in versions.events if e["event"] == "zarr"] == [[1]]
    assert not [e for e in versions.events if e["event"] == "zarr_failed"]


def test_one_that_fails_does_not_end_it(versions: Versions, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError("too large")

    with monkeypatch.context() as patch:
        patch.setattr(zarr_writer, "write_image", fail)
        versions.put(1)
        versions.writer.finish(lambda: None)
    versions.put(2)
    versions.end()
    assert images(versions.out) == ["v0002"]
    assert ["too large" in e["text"] for e in versions.events if e["event"] == "zarr_failed"] == [True]


def test_closing_does_not_wait_for_what_is_not_complete(versions: Versions, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    versions.put(1)
    assert gate.reached.wait(WAIT)
    versions.writer.close()
    versions.story.close()
    assert not versions.writer.is_alive()
    assert not images(versions.out)
    assert not hidden(versions.out)


def test_who_waits_hears_that_it_is_in_vain(versions: Versions, monkeypatch: pytest.MonkeyPatch) -> None:
    def watch() -> None:
        raise RuntimeError("in vain")

    Gate(monkeypatch)
    versions.put(1)
    with pytest.raises(RuntimeError, match="in vain"):
        versions.writer.finish(watch)
    versions.writer.close()
    versions.story.close()


def test_what_a_process_that_died_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / "partials/.zarr-0003/0"
    left.mkdir(parents=True)
    Output(tmp_path, "scan", 10, 0.0, rank=1)
    assert left.exists(), "rank 0 cleans up"
    Output(tmp_path, "scan", 10, 0.0, resume=True)
    assert not hidden(tmp_path)
