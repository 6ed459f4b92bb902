"""What goes wrong: clear errors, no hang, and what had arrived is kept."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from engine_scans import D, F, P, Scan, batch, config, difference, read, read_volume, simulated, stream

from streamrecon.engine import Engine
from streamrecon.engine.output import Output
from streamrecon.engine.story import Story
from streamrecon.errors import (
    OutputError,
    PeerLostError,
    PlanError,
    ScanAbortedError,
    SourceError,
    StreamreconError,
)
from streamrecon.scan import Frame
from streamrecon.transport import send_scan


@pytest.fixture(scope="module")
def scan() -> Scan:
    return simulated(center=24.3)


def full_disk(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def breaking(scan: Scan, after: int, error: Exception, seconds: float = 0.0) -> Any:
    def frames(rows: slice) -> Iterator[Frame]:
        for n, frame in enumerate(scan.frames(rows)):
            if n == after:
                time.sleep(0.3)
                raise error
            time.sleep(seconds)
            yield frame

    return frames


@pytest.mark.parametrize("error", [SourceError("frame 41 is damaged"), RuntimeError("the detector burns")])
def test_a_source_that_breaks_leaves_a_partial_volume(scan: Scan, tmp_path: Path, error: Exception) -> None:
    streamed = stream(scan, config(), tmp_path, frames=breaking(scan, 50, error))
    assert streamed.sender_error is error
    assert streamed.engine_error is None
    result = streamed.result
    assert result is not None
    assert not result.final
    assert result.reason is not None
    assert str(error) in result.reason
    assert not read(tmp_path, "entry/reconstruction/final")
    assert str(error) in read(tmp_path, "entry/reconstruction/missing")
    indices = read(tmp_path, "entry/reconstruction/projection_indices")
    assert list(indices) == list(range(40))
    part = scan.arranged(scan.of(D), scan.of(F), scan.of(P)[:40])
    assert difference(read_volume(tmp_path), batch(part, config())) < 1e-5


def test_a_source_that_breaks_before_the_first_projection(scan: Scan, tmp_path: Path) -> None:
    streamed = stream(scan, config(recon={"center": None}), tmp_path, frames=breaking(scan, 3, OSError("gone")))
    assert isinstance(streamed.sender_error, OSError)
    assert streamed.result is not None
    assert streamed.result.volume is None
    assert not streamed.result.final
    assert not (tmp_path / "volume.h5").exists()


def test_a_source_that_breaks_while_the_center_is_looked_for(tmp_path: Path) -> None:
    scan = simulated(center=27.0)
    streamed = stream(
        scan, config(recon={"center": None, "center_wait": 1.0}), tmp_path, frames=breaking(scan, 40, OSError("gone"))
    )
    assert streamed.result is not None
    assert streamed.result.volume is not None
    assert len(read(tmp_path, "entry/reconstruction/theta")) == 30


def test_an_engine_that_is_stopped_keeps_what_it_has(scan: Scan, tmp_path: Path) -> None:
    def watch(engine: Engine) -> None:
        while engine.status().in_volume < 20:
            time.sleep(0.005)
        engine.stop("the operator had lunch")

    def slowly(rows: slice) -> Iterator[Frame]:
        for frame in scan.frames(rows):
            time.sleep(0.02)
            yield frame

    streamed = stream(scan, config(), tmp_path, frames=slowly, watch=watch)
    assert isinstance(streamed.sender_error, ScanAbortedError)
    assert "lunch" in str(streamed.sender_error)
    assert streamed.result is not None
    assert not streamed.result.final
    assert streamed.result.reason == "the operator had lunch"
    assert 20 <= len(read(tmp_path, "entry/reconstruction/theta")) < 60
    assert np.isfinite(read_volume(tmp_path)).all()


def test_stopping_after_the_last_frame_has_come(scan: Scan, tmp_path: Path) -> None:
    """Both sides must agree: either the volume is final and the sender content, or neither."""

    def watch(engine: Engine) -> None:
        while engine.status().projections < 60:
            time.sleep(0.005)
        time.sleep(0.3)
        engine.stop("too late?")

    streamed = stream(scan, config(engine={"delay": 0.03, "batch": 8}), tmp_path, watch=watch)
    assert streamed.result is not None
    assert streamed.result.final == (streamed.sender_error is None), (streamed.result, streamed.sender_error)


def test_stopping_does_not_take_longer_than_a_batch(scan: Scan, tmp_path: Path) -> None:
    """What lies in the ring may be left out; an interrupted engine does not work on for a whole ring of frames."""
    stopped: list[float] = []

    def watch(engine: Engine) -> None:
        while engine.status().in_volume < 4:
            time.sleep(0.005)
        stopped.append(time.monotonic())
        engine.stop("now")

    stream(scan, config(engine={"delay": 0.1, "batch": 4}), tmp_path, watch=watch)
    assert time.monotonic() - stopped[0] < 3.0, "a ring of 56 frames was still worked on, 0.1 s each"


def test_no_sender_ever_comes(tmp_path: Path) -> None:
    engine = Engine(config(), tmp_path)
    with engine:
        assert engine.wait(0.2) is None
    with pytest.raises(ScanAbortedError):
        engine.wait(5)


def test_closing_twice_and_before_the_start(tmp_path: Path) -> None:
    engine = Engine(config(), tmp_path)
    endpoint = engine.endpoint
    engine.close()
    engine.close()
    path = Path(endpoint.removeprefix("ipc://"))
    assert not path.exists(), "an engine that was closed without being started still listens"


@pytest.mark.parametrize("when", ["output", "later output"])
def test_a_full_disk_is_a_clear_error(scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    fsync, syncs = os.fsync, iter(range(1000))
    first = 2 if when == "output" else 8

    def sync(descriptor: int) -> None:
        return full_disk() if next(syncs) >= first else fsync(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    streamed = stream(scan, config(emit={"every": 10}, send={"return_timeout": 0.5}), tmp_path)
    assert isinstance(streamed.engine_error, OutputError), streamed.engine_error
    assert "No space left" in str(streamed.engine_error)
    # A scan that was taken is waited with for an engine that goes on.
    assert isinstance(streamed.sender_error, ScanAbortedError if when == "output" else PeerLostError)
    if when == "output":
        assert "No space left" in str(streamed.sender_error)
    else:
        assert np.isfinite(read_volume(tmp_path)).all()
        assert not read(tmp_path, "entry/reconstruction/final")


def test_a_full_disk_is_told_when_it_happens(scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only when the scan, which may take hours, has ended; and one that has room again gets its volume."""
    write, count = Output.write_slab, iter(range(100))
    monkeypatch.setattr(Output, "write_slab", lambda *a: full_disk() if next(count) < 2 else write(*a))

    def slowly(rows: slice) -> Iterator[Frame]:
        for frame in scan.frames(rows):
            time.sleep(0.03)
            yield frame

    streamed = stream(scan, config(emit={"every": 10}), tmp_path, frames=slowly)
    seconds = {e["event"]: e["seconds"] for e in reversed(streamed.events)}
    assert seconds["not_written"] < seconds["end"] - 0.5
    assert "No space left" in streamed.told("not_written")[0]["text"]
    assert difference(streamed.volume, batch(scan, config())) < 1e-5
    with h5py.File(tmp_path / "volume.h5", "r", locking=False) as file:
        assert file["entry/reconstruction/volume_version"][()] == streamed.told("version")[-1]["version"]


def test_no_version_can_be_written(scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Output, "write_slab", full_disk)
    streamed = stream(scan, config(emit={"every": 10}, send={"return_timeout": 0.5}), tmp_path)
    assert isinstance(streamed.engine_error, OSError)
    assert "No space left" in str(streamed.engine_error)
    assert isinstance(streamed.sender_error, PeerLostError)


def test_an_error_that_h5py_raises_otherwise(scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk h5py may raise RuntimeError from flush or close."""

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("Unable to flush file's cached information")

    monkeypatch.setattr(h5py.Group, "create_dataset", broken)
    streamed = stream(scan, config(send={"return_timeout": 0.5}), tmp_path)
    assert isinstance(streamed.engine_error, StreamreconError), type(streamed.engine_error)


def test_a_scan_of_no_projections(scan: Scan, tmp_path: Path) -> None:
    empty = scan.arranged(scan.of(D), scan.of(F)).unknown()
    streamed = stream(empty, config(recon={"center": None}), tmp_path)
    assert streamed.result is not None
    assert not streamed.result.final
    assert streamed.result.volume is None
    assert streamed.result.reason, "why there is no volume"
    assert "projection" in streamed.result.reason


def test_a_scan_of_nothing(scan: Scan, tmp_path: Path) -> None:
    streamed = stream(scan.arranged().unknown(), config(), tmp_path)
    assert streamed.result is not None
    assert not streamed.result.final
    assert streamed.result.reason


def test_all_announced_projections_are_missing(scan: Scan, tmp_path: Path) -> None:
    streamed = stream(scan.arranged(scan.of(D), scan.of(F)), config(), tmp_path)
    assert streamed.result is not None
    assert not streamed.result.final
    assert streamed.result.missing == 60


def test_frames_that_do_not_fit_the_scan(scan: Scan, tmp_path: Path) -> None:
    wrong = [replace(f, data=f.data[:, :40].copy()) if f.kind == P and f.index == 30 else f for f in scan.items]
    streamed = stream(Scan(scan.info, wrong), config(), tmp_path)
    assert isinstance(streamed.sender_error, SourceError)
    assert "projection 30" in str(streamed.sender_error)
    assert streamed.result is not None
    assert not streamed.result.final


def test_more_projections_than_announced(scan: Scan, tmp_path: Path) -> None:
    streamed = stream(scan.with_info(counts={P: 40, F: 5, D: 5}, theta=scan.info.theta[:40]), config(), tmp_path)
    assert streamed.sender_error is not None
    assert "40 were announced" in str(streamed.sender_error)
    assert streamed.result is not None
    assert not streamed.result.final


def test_a_sender_without_the_rows_is_turned_away(scan: Scan, tmp_path: Path) -> None:
    """It is told why; an engine that listens goes on waiting for the right one."""
    with Engine(config(recon={"rows": (4, 9)}), tmp_path) as engine:
        with pytest.raises(ScanAbortedError, match="--rows"):
            send_scan(scan.info, scan.frames, engine.endpoint, connect_timeout=5)
        tall = simulated(rows=12, center=24.3)
        sent = send_scan(tall.info, tall.frames, engine.endpoint, connect_timeout=5)
        result = engine.wait(20)
    assert sent.frames == 70
    assert result is not None
    assert result.final
    assert difference(read_volume(tmp_path), batch(tall, config())[4:9]) < 1e-5


@pytest.mark.parametrize("where", ["file", "/dev/null/out", "/proc/streamrecon-out"])
def test_an_output_folder_that_cannot_be_one(tmp_path: Path, where: str) -> None:
    out = tmp_path / "file" if where == "file" else Path(where)
    if where == "file":
        out.write_text("a file")
    with pytest.raises(OutputError) as raised:
        Engine(config(), out)
    assert str(out) in str(raised.value)


def test_a_journal_folder_that_is_a_file(scan: Scan, tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("not a folder")
    streamed = stream(scan, config(), tmp_path)
    assert isinstance(streamed.engine_error, OutputError), type(streamed.engine_error)
    assert streamed.sender_error is not None


def test_a_damaged_volume_is_not_replaced_unasked(scan: Scan, tmp_path: Path) -> None:
    (tmp_path / "volume.h5").write_bytes(b"something of someone")
    streamed = stream(scan, config(), tmp_path)
    assert streamed.engine_error is not None
    assert (tmp_path / "volume.h5").read_bytes() == b"something of someone"


def test_a_listener_that_raises_does_not_hang(scan: Scan, tmp_path: Path) -> None:
    """Such as a terminal that was closed: `streamrecon run ... | head -1`."""

    def listener(entry: dict[str, Any]) -> None:
        if entry["event"] in ("version", "center"):
            raise BrokenPipeError("the terminal is gone")

    ended: list[Any] = []
    with Engine(config(engine={"peer_timeout": 60.0}), tmp_path, listener) as engine:

        def send() -> None:
            try:
                ended.append(send_scan(scan.info, scan.frames, engine.endpoint, peer_timeout=60.0))
            except StreamreconError as error:
                ended.append(error)

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        with contextlib.suppress(BrokenPipeError):  # carrying on without the listener is as good
            assert engine.wait(20) is not None
        sender.join(20)
        assert not sender.is_alive(), "the sender has to wait for its timeout"


def test_a_bad_endpoint_leaves_nothing_open(tmp_path: Path) -> None:
    import gc

    with pytest.raises(StreamreconError):
        Engine(config(engine={"listen": "tcp://0.0.0.0:5555"}), tmp_path)
    gc.collect()  # an open file would warn here, which is an error in these tests


def test_threads_end(scan: Scan, tmp_path: Path) -> None:
    before = {t.name for t in threading.enumerate() if t.name.startswith("streamrecon")}
    files = len(list(Path("/proc/self/fd").iterdir()))
    for n in range(3):
        stream(scan, config(), tmp_path / str(n))
    time.sleep(0.3)
    after = {t.name for t in threading.enumerate() if t.name.startswith("streamrecon")}
    assert after <= before
    assert len(list(Path("/proc/self/fd").iterdir())) <= files + 6


@pytest.mark.parametrize("last", ["the volume is final", "the scan was refused"])
def test_the_last_word_reaches_a_sender_that_is_slow_to_listen(scan: Scan, tmp_path: Path, last: str) -> None:
    """With ZMQ_IMMEDIATE a DEALER loses what it has not yet read when the connection closes: the engine closes later."""
    from streamrecon.wire.session import State

    refused = last == "the scan was refused"
    options = config(engine={"listen": "tcp://127.0.0.1:*"} | ({"memory_bytes": 1000} if refused else {}))
    ended: list[Any] = []

    def sleepy(end: Any) -> None:
        if end.session.state in (State.ENDING, State.OPENING):
            time.sleep(0.4)

    with Engine(options, tmp_path) as engine:

        def send() -> None:
            try:
                ended.append(send_scan(scan.info, scan.frames, engine.endpoint, peer_timeout=3.0, progress=sleepy))
            except StreamreconError as error:
                ended.append(error)

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        with contextlib.suppress(StreamreconError):
            engine.wait(20)
    sender.join(20)
    if refused:
        assert "engine.memory_bytes" in str(ended[0]), ended
    else:
        assert not isinstance(ended[0], Exception), ended


def test_two_engines_do_not_share_an_output_folder(scan: Scan, tmp_path: Path) -> None:
    """The second is refused and told why; the first is not disturbed; afterwards the folder is free again."""

    def second(engine: Engine) -> None:
        with pytest.raises(OutputError, match="another engine"):
            Engine(config(), tmp_path)

    first = stream(scan, config(), tmp_path, watch=second)
    assert first.result is not None
    assert first.result.final
    assert difference(first.volume, batch(scan, config())) < 1e-5
    again = stream(scan, config(), tmp_path)
    assert again.result is not None
    assert again.result.final


@pytest.mark.parametrize("event", ["plan", "center", "version", "end"])
@pytest.mark.parametrize("error", [RuntimeError, SystemExit, BrokenPipeError])
def test_a_listener_that_raises_does_not_end_a_scan(
    scan: Scan, tmp_path: Path, event: str, error: type[BaseException]
) -> None:
    """A terminal that was closed, for one: it may raise in any of the engine's threads."""

    def listener(entry: dict[str, Any]) -> None:
        if entry["event"] == event:
            raise error("the terminal is gone")

    with Engine(config(), tmp_path, listener) as engine:
        send_scan(scan.info, scan.frames, engine.endpoint, connect_timeout=5)
        result = engine.wait(20)
    assert result is not None
    assert result.final


def test_a_frame_larger_than_allowed_is_refused_when_announced(scan: Scan, tmp_path: Path) -> None:
    streamed = stream(scan, config(engine={"max_frame_bytes": 100}), tmp_path)
    assert isinstance(streamed.engine_error, PlanError)
    assert isinstance(streamed.sender_error, ScanAbortedError)
    assert "engine.max_frame_bytes" in str(streamed.sender_error)


def test_folders_that_are_not_ours_are_left_alone(scan: Scan, tmp_path: Path) -> None:
    for name in ("v0000-mine", "v0002-good", "vacation"):
        (tmp_path / "partials" / name).mkdir(parents=True)
    streamed = stream(scan, config(emit={"every": 5, "keep": 1, "keep_seconds": 0.0}), tmp_path)
    assert streamed.result is not None
    assert streamed.result.final
    assert {p.name for p in (tmp_path / "partials").iterdir()} >= {"v0000-mine", "v0002-good", "vacation"}


def test_a_story_whose_last_words_do_not_fit_the_disk(tmp_path: Path) -> None:
    """What could not be written is tried once more as the file is closed; that is no reason to fail, either."""
    story = Story(tmp_path / "log.jsonl")
    story._file.close()
    story._file = Path("/dev/full").open("a", buffering=1)  # noqa: SIM115, closed by the story
    story.tell("done", "the disk is full")
    story.close()
