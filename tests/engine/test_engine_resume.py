"""Scans that were interrupted, or of which frames were taken back: the volume is the one that the frames in the end make."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_scans import D, F, P, Scan, batch, config, difference, held, read, read_volume, simulated, stream

from streamrecon import failpoints
from streamrecon.config import Config, SendConfig
from streamrecon.engine import Engine, Result
from streamrecon.engine.journal import Journal
from streamrecon.engine.journal_entries import HEAD, MARK
from streamrecon.errors import JournalError, OutputError, StreamreconError
from streamrecon.scan import Frame, Gap
from streamrecon.transport import send_scan

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def no_failpoints() -> Iterator[None]:
    yield
    failpoints.arm("")


@pytest.fixture(scope="module")
def scan() -> Scan:
    return simulated(center=24.3)


class Sender(threading.Thread):
    """A detector: it gives each frame once, and goes on whatever happens to the engine."""

    def __init__(
        self,
        scan: Scan,
        endpoint: str,
        options: Config,
        seconds: float = 0.0,
        live: bool = True,
        go: threading.Event | None = None,
    ) -> None:
        super().__init__(daemon=True)
        self.error: Exception | None = None
        self._arguments = scan, endpoint, options, seconds, live, go
        self.start()

    def run(self) -> None:
        scan, endpoint, options, seconds, live, go = self._arguments
        given = scan.frames if go is None else held(scan, 50, go)

        def frames(rows: slice) -> Iterator[Frame]:
            for frame in given(rows):
                time.sleep(seconds)
                yield frame

        try:
            send_scan(
                scan.info, frames, endpoint, can_replay=not live, connect_timeout=20.0,
                options=SendConfig(return_timeout=20.0), heartbeat=options.engine.heartbeat, peer_timeout=5.0,
            )  # fmt: skip
        except Exception as error:
            self.error = error


def interrupted(
    scan: Scan,
    options: Config,
    out: Path,
    until: Callable[[Engine], bool],
    live: bool = True,
    go: threading.Event | None = None,
) -> tuple[Sender, str]:
    """An engine that dies when something has come about; its sender, which goes on waiting, and where.

    The sender's last frames come once it has died, or when `go` is set.
    """
    endpoint = f"ipc://{out.parent / 'engine'}"
    options = replace(options, engine=replace(options.engine, listen=endpoint, sync_seconds=0.0))
    engine = Engine(options, out)
    engine.start()
    dead = threading.Event()
    sender = Sender(scan, endpoint, options, 0.005, live, go or dead)
    deadline = time.monotonic() + 20
    while not until(engine) and time.monotonic() < deadline:
        time.sleep(0.002)
    # As a killed process would: no word to the sender, the journal stays as it is.
    engine._ingest._end.abandon()
    engine._ingest._stopped = True
    engine._ingest._wakeup.set()
    assert engine._ingest._over.wait(60)
    assert engine._rank is not None
    engine._rank.stop("killed")
    engine.wait(10)
    assert engine._preparation.journal is not None
    engine._preparation.journal.close(keep=True)
    engine._preparation.journal = None
    engine._story.close()
    engine._lock.release()
    dead.set()
    return sender, endpoint


def resumed(options: Config, out: Path, endpoint: str) -> tuple[Result, list[dict[str, Any]]]:
    events: list[dict[str, Any]] = []
    options = replace(options, engine=replace(options.engine, listen=endpoint, return_timeout=20.0))
    with Engine(options, out, events.append, resume=True) as engine:
        result = engine.wait(40)
    assert result is not None, "the engine hangs"
    return result, events


def test_it_is_the_same_reconstruction_and_one_begun_anew_is_another(scan: Scan, tmp_path: Path) -> None:
    found = set[int]()

    def enough(engine: Engine) -> bool:
        found.add(engine._counters.reconstruction)
        return engine.status().frames >= 33

    settings = config(emit={"every": 10})
    sender, endpoint = interrupted(scan, settings, tmp_path, enough)
    options = replace(settings, engine=replace(settings.engine, listen=endpoint, return_timeout=20.0))
    with Engine(options, tmp_path, resume=True) as engine:
        assert engine.wait(40) is not None
    sender.join(10)
    found.discard(0)
    assert found == {engine._counters.reconstruction}
    assert 0 < engine._counters.reconstruction < 1 << 53, "a page reads it as a float"
    anew: list[Engine] = []
    stream(scan, settings, tmp_path / "anew", watch=anew.append)
    found.add(anew[0]._counters.reconstruction)
    assert len(found) == 2


CASES = {
    "projections": {},
    "flats after them": {"late": True},
    "center to be found": {"recon": {"center": None}},
    "center not found yet": {"recon": {"center": None, "center_wait": 1.0}, "after": 10},
    "rings": {"normalize": {"rings": 7}},
    "fourier": {"recon": {"method": "fourier"}},
    "file": {"live": False},
    "only flats": {"after": 0},
}


@pytest.mark.parametrize("case", list(CASES))
def test_a_scan_goes_on_after_its_engine_has_died(scan: Scan, tmp_path: Path, case: str) -> None:
    options: dict[str, Any] = dict(CASES[case])
    late, live, after = options.pop("late", False), options.pop("live", True), options.pop("after", 25)
    if late:
        scan = scan.arranged(scan.of(D), scan.of(F)[:2], scan.of(P), scan.of(F)[2:])
    settings = config(emit={"every": 10}, **options)
    out = tmp_path / "out"

    def enough(engine: Engine) -> bool:
        return engine.status().frames >= 8 + after

    sender, endpoint = interrupted(scan, settings, out, enough, live)
    result, events = resumed(settings, out, endpoint)
    sender.join(10)
    assert sender.error is None
    assert result.final, result
    told = [event for event in events if event["event"] == "resume"]
    assert told
    assert told[0]["frames"] >= 5
    undisturbed = stream(scan, settings, tmp_path / "undisturbed")
    assert difference(read_volume(out), undisturbed.volume) < 1e-5
    assert list(read(out, "entry/reconstruction/projection_indices")) == list(range(60))
    assert read(out, "entry/reconstruction/parameters/center") == pytest.approx(
        read(tmp_path / "undisturbed", "entry/reconstruction/parameters/center"), abs=1e-9
    )
    assert not (out / "journal").exists()


def test_versions_go_on_after_those_that_were_there(scan: Scan, tmp_path: Path) -> None:
    settings, out = config(emit={"every": 10}), tmp_path / "out"
    sender, endpoint = interrupted(scan, settings, out, lambda engine: engine.status().version >= 3)
    before = {path.name for path in (out / "partials").glob("v*")}
    had = len(read(out, "entry/reconstruction/theta"))
    _, events = resumed(settings, out, endpoint)
    sender.join(10)
    assert before <= {path.name for path in (out / "partials").glob("v*")}
    versions = [event for event in events if event["event"] == "version"]
    assert versions[0]["version"] == len(before) + 1
    assert versions[0]["projections"] >= had, "a version showed less than the one before it"


def test_an_end_that_was_heard_need_not_be_heard_again(scan: Scan, tmp_path: Path) -> None:
    """The engine dies between the end and the final volume; its sender is gone, too."""
    settings, out = config(engine={"delay": 0.02}), tmp_path / "out"
    go = threading.Event()
    go.set()
    sender, endpoint = interrupted(
        scan, settings, out, lambda engine: engine._rank is not None and bool(engine._rank._intake.end), go=go
    )
    del sender  # it would wait for the engine; here none comes
    settings = replace(settings, engine=replace(settings.engine, listen=endpoint + "2", return_timeout=0.2, delay=0.0))
    with Engine(settings, out, resume=True) as engine:
        result = engine.wait(30)
    assert result is not None
    assert result.final
    assert difference(read_volume(out), batch(scan, config())) < 1e-5


def test_resume_where_nothing_was_left(scan: Scan, tmp_path: Path) -> None:
    with Engine(config(), tmp_path, resume=True) as engine:
        sender = Sender(scan, engine.endpoint, config())
        result = engine.wait(30)
    sender.join(5)
    assert result is not None
    assert result.final


def test_what_cannot_be_sent_again_is_not_given_up_by_accident(scan: Scan, tmp_path: Path) -> None:
    out = tmp_path / "out"
    interrupted(scan, config(), out, lambda engine: engine.status().in_volume > 5)
    with pytest.raises(OutputError, match="--resume"):
        Engine(config(), out)
    with Engine(config(), out, overwrite=True) as engine:
        sender = Sender(scan, engine.endpoint, config())
        result = engine.wait(30)
    sender.join(5)
    assert result is not None
    assert result.final
    assert difference(read_volume(out), batch(scan, config())) < 1e-5


def test_another_scan_has_to_wait_for_the_one_that_is_gone_on_with(scan: Scan, tmp_path: Path) -> None:
    out = tmp_path / "out"
    go = threading.Event()
    sender, endpoint = interrupted(scan, config(), out, lambda engine: engine.status().in_volume > 5, go=go)
    other = scan.with_info(uid="another")
    settings = config(engine={"listen": endpoint, "return_timeout": 20.0})
    with Engine(settings, out, resume=True) as engine:
        with pytest.raises(StreamreconError, match="in work"):
            send_scan(other.info, other.frames, endpoint, connect_timeout=3.0, heartbeat=0.1)
        go.set()
        result = engine.wait(30)
    sender.join(10)
    assert result is not None
    assert result.final


def test_a_journal_whose_beginning_is_damaged(scan: Scan, tmp_path: Path) -> None:
    out = tmp_path / "out"
    interrupted(scan, config(), out, lambda engine: engine.status().in_volume > 5)
    (path,) = (out / "journal").glob("*/*.frames")
    data = bytearray(path.read_bytes())
    data[30] ^= 1
    path.write_bytes(data)
    for resume in (True, False):
        with pytest.raises(OutputError, match="damaged"):
            Engine(config(), out, resume=resume)


def first_entry(path: Path, scan: Scan) -> tuple[int, int]:
    """Where the entries of a journal begin, and the bytes of each: a head of 64, and pixels, padded to a multiple of that."""
    nbytes = int(np.prod(scan.info.frame_shape)) * scan.info.dtype.itemsize
    return path.read_bytes().index(MARK), HEAD.size * (1 + -(-nbytes // HEAD.size))


def torn(data: bytearray, start: int, stride: int) -> int:
    """Cut within the last entry, as when the power went; the entries that are lost."""
    entries = (len(data) - start) // stride
    del data[start + (entries - 1) * stride + stride // 2 :]
    return 1


def corrupt(data: bytearray, start: int, stride: int) -> int:
    """A bit of the pixels of an earlier projection, and one of the head of another."""
    data[start + 15 * stride + HEAD.size + 100] ^= 1
    data[start + 17 * stride + 9] ^= 1
    return 2


@pytest.mark.parametrize("live", [False, True], ids=["file", "live"])
@pytest.mark.parametrize("damage", [torn, corrupt])
def test_journal_damaged(scan: Scan, tmp_path: Path, damage: Callable[[bytearray, int, int], int], live: bool) -> None:
    """What is not sound is asked for again: a file gives it again, a detector what it still keeps; the rest is named."""
    settings, out = config(emit={"every": 10}), tmp_path / "out"
    sender, endpoint = interrupted(scan, settings, out, lambda engine: engine.status().frames >= 35, live)
    (path,) = (out / "journal").glob("*/*.frames")
    start, stride = first_entry(path, scan)
    data = bytearray(path.read_bytes())
    entries = (len(data) - start) // stride
    assert entries >= 20
    lost = damage(data, start, stride)
    path.write_bytes(data)
    result, events = resumed(settings, out, endpoint)
    sender.join(10)
    assert sender.error is None
    assert result.final
    (told,) = (event for event in events if event["event"] == "resume")
    assert told["damaged"] == lost
    assert told["frames"] == entries - lost
    indices = list(read(out, "entry/reconstruction/projection_indices"))
    gone = 60 - len(indices)
    assert gone <= (lost if live else 0)
    if gone:
        assert f"{gone} lost by the engine" in read(out, "entry/reconstruction/missing")
    left = [frame for frame in scan.of(P) if frame.index in indices]
    assert difference(read_volume(out), batch(scan.arranged(scan.of(D), scan.of(F), left), settings)) < 1e-5


@pytest.mark.parametrize("normalize", [{}, {"rings": 7}], ids=["", "rings"])
@pytest.mark.parametrize("method", ["direct", "fourier"])
@pytest.mark.parametrize("late", [False, True])
def test_a_flat_that_was_damaged_comes_again_to_its_place(
    scan: Scan, tmp_path: Path, late: bool, method: str, normalize: dict[str, Any]
) -> None:
    """It arrives after projections that were measured after it."""
    f = [replace(each, data=(each.data * 0.7).astype(np.uint16)) if each.index > 2 else each for each in scan.of(F)]
    scan = scan.arranged(scan.of(D), f[:3], scan.of(P)[:30], f[3:], scan.of(P)[30:])
    settings = config(recon={"method": method, "circle": True}, emit={"every": 10}, normalize=normalize)
    out = tmp_path / "out"
    # What is accumulated is in the journal.
    sender, endpoint = interrupted(scan, settings, out, lambda engine: engine.status().in_volume >= 32, live=False)
    (path,) = (out / "journal").glob("*/*.frames")
    start, stride = first_entry(path, scan)
    data = bytearray(path.read_bytes())
    data[start + (38 if late else 6) * stride + HEAD.size + 100] ^= 1
    path.write_bytes(data)
    result, events = resumed(settings, out, endpoint)
    sender.join(10)
    assert sender.error is None
    assert result.final
    assert [event["damaged"] for event in events if event["event"] == "resume"] == [1]
    assert difference(read_volume(out), batch(scan, settings, method=method)) < 2e-5
    groups = {event["position"]: event["flats"] for event in events if event["event"] == "flats"}
    assert groups == {0: 3, 30: 2}


def test_a_flat_that_a_detectors_sender_has_not_any_more_is_named(scan: Scan, tmp_path: Path) -> None:
    settings, out = config(emit={"every": 10}), tmp_path / "out"
    sender, endpoint = interrupted(scan, settings, out, lambda engine: engine.status().frames >= 40)
    (path,) = (out / "journal").glob("*/*.frames")
    start, stride = first_entry(path, scan)
    data = bytearray(path.read_bytes())
    data[start + 6 * stride + HEAD.size + 100] ^= 1
    path.write_bytes(data)
    result, _ = resumed(settings, out, endpoint)
    sender.join(10)
    assert sender.error is None
    assert result.final
    assert (
        read(out, "entry/reconstruction/missing") == "1 flat never came: lost by the engine, and not kept by the sender"
    )
    left = [frame for frame in scan.of(F) if frame.index != 1]
    assert difference(read_volume(out), batch(scan.arranged(scan.of(D), left, scan.of(P)), settings)) < 1e-5


@pytest.mark.parametrize("method", ["direct", "fourier"])
@pytest.mark.parametrize("rings", [None, 7])
@pytest.mark.parametrize("again", [True, False])
def test_projections_that_are_taken_back(
    scan: Scan, tmp_path: Path, method: str, rings: int | None, again: bool
) -> None:
    projections = scan.of(P)
    better = replace(projections[10], data=projections[11].data)

    def frames(rows: slice) -> Iterator[Frame | Gap]:
        for frame in scan.frames(rows):
            yield frame
            if frame.kind is P and frame.index == 40:
                time.sleep(0.3)  # what came before is in the volume by now
                yield Gap(P, 10, 13, "the stage had slipped")
                for late in (better, projections[11], projections[12]) if again else ():
                    yield replace(late, data=np.ascontiguousarray(late.data[rows]))

    options = config(recon={"method": method}, normalize={"rings": rings}, emit={"every": 20})
    streamed = stream(scan, options, tmp_path, frames=frames)  # type: ignore[arg-type]
    left = [better if f.index == 10 else f for f in projections if again or f.index not in (10, 11, 12)]
    expected = batch(scan.arranged(scan.of(D), scan.of(F), left), options, method=method)
    assert difference(streamed.volume, expected) < 1e-4
    assert len(streamed.told("withdrawn")) == 3
    indices = list(read(tmp_path, "entry/reconstruction/projection_indices"))
    assert indices == [f.index for f in left]
    if not again:
        assert "10 to 12" in read(tmp_path, "entry/reconstruction/missing")
        assert "the stage had slipped" in read(tmp_path, "entry/reconstruction/missing")


def test_a_disk_that_is_full_for_a_while(scan: Scan, tmp_path: Path) -> None:
    failpoints.arm("journal.write=full:40:42")
    alarms: set[str | None] = set()

    def watch(engine: Engine) -> None:
        until = time.monotonic() + 10
        while engine.status().in_volume < 60 and time.monotonic() < until:
            alarms.add(engine.status().alarm)
            time.sleep(0.01)
        assert engine.status().alarm is None, "the alarm is still there when all goes on"

    streamed = stream(scan, config(), tmp_path, watch=watch)
    assert difference(streamed.volume, batch(scan, config())) < 1e-5
    (told,) = streamed.told("disk_full")
    assert "make space" in told["text"]
    assert any(alarm and "full" in alarm for alarm in alarms)


def test_a_scan_can_be_stopped_while_the_disk_is_full(scan: Scan, tmp_path: Path) -> None:
    failpoints.arm("journal.write=full:40:1000000")

    def watch(engine: Engine) -> None:
        until = time.monotonic() + 10
        while engine.status().alarm is None and time.monotonic() < until:
            time.sleep(0.01)
        engine.stop("the operator gave up")

    streamed = stream(scan, config(), tmp_path, watch=watch)
    assert streamed.result is not None
    assert not streamed.result.final
    assert streamed.result.reason == "the operator gave up"


def test_a_disk_that_fails_ends_the_engine(scan: Scan, tmp_path: Path) -> None:
    failpoints.arm("journal.sync=error:1:99")
    options = config(engine={"sync_seconds": 0.0}, send={"return_timeout": 0.5})

    def slowly(rows: slice) -> Iterator[Frame]:
        for frame in scan.frames(rows):
            time.sleep(0.01)
            yield frame

    streamed = stream(scan, options, tmp_path, frames=slowly)
    assert isinstance(streamed.engine_error, OutputError)
    assert "synced" in str(streamed.engine_error)


@pytest.mark.parametrize("center", [24.3, None])
def test_credit_window_smaller_than_a_batch_and_than_the_centers_buffer(
    scan: Scan, tmp_path: Path, center: float | None
) -> None:
    """Two frames of credit, batches of 64, and a center that waits for half the scan: no deadlock."""
    frame = 6 * 48 * 2
    options = config(recon={"center": center}, engine={"ring_bytes": 2 * frame, "batch": 64, "batch_seconds": 0.05})
    streamed = stream(scan, options, tmp_path, seconds=30)
    found = read(tmp_path, "entry/reconstruction/parameters/center")
    assert difference(streamed.volume, batch(scan, config(), center=found)) < 1e-5


def test_a_disk_that_fails_while_a_journal_is_read_is_tried_again(scan: Scan, tmp_path: Path) -> None:
    """Whoever supervises it starts it again: the error is none of usage."""
    path = tmp_path / "journal" / "0001" / "rows-00000-00006.frames"
    journal = Journal(path, scan.info, (0, 6))
    journal.close(keep=True)
    failpoints.arm("journal.recover=error:1")
    with path.open("ab") as file:
        file.write(bytes(8192))
    with pytest.raises(JournalError, match="cannot read the journal"):
        Journal(path, scan.info, (0, 6), resume=True)


def test_a_disk_that_is_slow_does_not_hang(scan: Scan, tmp_path: Path) -> None:
    """Each frame takes less than `work_timeout`, many of them more."""
    failpoints.arm("journal.write=slow:20:26")
    options = config(engine={"work_timeout": 2.5, "batch": 64})
    assert difference(stream(scan, options, tmp_path).volume, batch(scan, config())) < 1e-5
