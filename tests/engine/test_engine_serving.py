"""Scans one after the other: none keeps another from being served, and each one's result is its own."""

from __future__ import annotations

import dataclasses
import gc
import json
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_ranks import Job
from engine_scans import D, F, P, Scan, Sending, batch, config, difference, held, read, read_volume, simulated, stream
from streamrecon_kernels import all_compiled

from streamrecon.config import Config, ReconConfig
from streamrecon.engine import Service, cost
from streamrecon.engine.alignment import Alignment
from streamrecon.engine.journal import Journal
from streamrecon.engine.orders import Studied
from streamrecon.engine.ring import Ring
from streamrecon.errors import JournalError, OutputError, PeerLostError, ScanAbortedError, StreamreconError
from streamrecon.lock import FolderLock
from streamrecon.recon.center import Bands
from streamrecon.scan import Frame, FrameKind
from streamrecon.transport import subscribe
from streamrecon.wire.ranges import Ranges
from streamrecon.wire.receiving import ReceivingEnd

pytestmark = pytest.mark.slow


def until(condition: Callable[[], Any], what: str, seconds: float = 20) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.005)
    raise AssertionError(f"not within {seconds} s: {what}")


class Serving:
    """A service at work, each of its ranks in a thread."""

    def __init__(self, options: Config, out: Path, ranks: int = 1, **more: Any) -> None:
        self.out, self.options = out, options
        self.events: list[dict[str, Any]] = []
        self.errors: list[BaseException] = []
        self.services: list[Service | None] = [None] * ranks
        self._job, ready = Job(ranks), threading.Barrier(ranks + 1)
        self._threads = [
            threading.Thread(target=self._run, args=(world, ready, more), daemon=True) for world in self._job.worlds()
        ]
        for thread in self._threads:
            thread.start()
        ready.wait(20)
        self.service = self.services[0]
        assert self.service is not None, self.errors

    def _run(self, world: Any, ready: threading.Barrier, more: dict[str, Any]) -> None:
        try:
            listener = None if world.rank else self.events.append
            with Service(self.options, self.out, listener, world=world, **more) as service:
                self.services[world.rank] = service
                ready.wait(20)
                service.run()
        except BaseException as error:
            self.errors.append(error)
            self._job.abort()
            if self.services[world.rank] is None:
                ready.wait(20)

    def send(self, scan: Scan, wait: bool = True, **more: Any) -> Sending:
        assert self.service is not None
        sender = Sending(scan, self.service.endpoint, self.options, **more)
        if wait:
            sender.join(30)
            assert not sender.is_alive(), (self.errors, self.events[-3:])
        return sender

    def told(self, event: str) -> list[dict[str, Any]]:
        return [each for each in self.events if each["event"] == event]

    def served(self, count: int) -> dict[str, Any]:
        """What was said of the scan that was served last, of so many."""
        until(lambda: len(self.told("served")) >= count or self.errors, f"{count} scans: {self.events[-3:]}")
        assert not self.errors, self.errors
        return self.told("served")[-1]

    def end(self) -> None:
        assert self.service is not None
        self.service.stop("the test is over")
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive(), "the service does not stop"


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Callable[..., Serving]]:
    started: list[Serving] = []

    def start(options: Config | None = None, **more: Any) -> Serving:
        started.append(Serving(options or config(), tmp_path / "out", **more))
        return started[-1]

    yield start
    for each in started:
        each.end()


def named(uid: str, **options: Any) -> Scan:
    return simulated(**options).with_info(uid=uid)


def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "scan.log.jsonl").read_text().splitlines()]


def slowly(scan: Scan, seconds: float) -> Callable[[slice], Iterator[Frame]]:
    def frames(rows: slice) -> Iterator[Frame]:
        for frame in scan.frames(rows):
            yield frame
            time.sleep(seconds)

    return frames


def brighter(scan: Scan, factor: float, darker: float = 0.0) -> Scan:
    """With other flats and darks than those that fit its projections."""
    items = []
    for frame in scan.items:
        data = frame.data
        if frame.kind == F:
            data = (data * factor).astype(data.dtype)
        if frame.kind == D:
            data = (data + darker).astype(data.dtype)
        items.append(dataclasses.replace(frame, data=data))
    return Scan(scan.info, items)


def flats_last(scan: Scan, darks_last: bool = True) -> Scan:
    """As of a beamline that measures them when the scan is over."""
    calibration = scan.of(F) + scan.of(D) if darks_last else scan.of(F)
    return scan.arranged([] if darks_last else scan.of(D), scan.of(P), calibration)


# One after the other.


def test_scans_of_different_sizes_through_one_endpoint(serving: Callable[..., Serving]) -> None:
    job = serving()
    scans = [named("first"), named("second", rows=3, columns=64, projections=40), named("third", columns=32)]
    for count, scan in enumerate(scans, 1):
        sender = job.send(scan)
        assert sender.error is None
        assert job.served(count)["final"]
        assert difference(read_volume(job.out / scan.info.uid), batch(scan, job.options)) < 2e-6
    listening = {each["endpoint"] for each in job.told("listen")}
    assert listening == {job.told("serving")[0]["endpoint"]}, "the endpoint is the same for all, also a private one"
    assert sorted(path.name for path in job.out.iterdir()) == [".lock", "first", "scan.log.jsonl", "second", "third"]
    between = {each["event"] for each in events(job.out)}
    assert between == {"serving", "listen", "served"}
    for scan in scans:
        log = events(job.out / scan.info.uid)
        assert {"plan", "scan", "done"} <= {each["event"] for each in log}
        assert sum(each["event"] == "scan" for each in log) == 1
        assert log[0]["seconds"] < 20, "the seconds of a scan's log are those of the scan"
        assert not (job.out / scan.info.uid / "journal").exists()


def test_what_a_scan_took_is_given_back(serving: Callable[..., Serving]) -> None:
    before = [weakref.ref(each) for each in gc.get_objects() if type(each) is Ring]
    job = serving()
    for count in (1, 2, 3):
        job.send(named(f"s{count}"))
        job.served(count)
    until(lambda: len(job.told("listen")) == 4, "an engine for the fourth")
    gc.collect()
    others = {id(each()) for each in before}
    assert not [each for each in gc.get_objects() if type(each) is Ring and id(each) not in others]


def test_two_ranks_serve_together(serving: Callable[..., Serving]) -> None:
    job = serving(config(recon={"center": None}), ranks=2)
    for count, scan in enumerate([named("first"), named("second", rows=8, columns=40), named("third")], 1):
        assert job.send(scan).error is None
        assert job.served(count)["final"]
        found = read(job.out / scan.info.uid, "entry/reconstruction/parameters/center")
        assert difference(read_volume(job.out / scan.info.uid), batch(scan, job.options, center=found)) < 2e-6
    assert (job.out / "second" / "scan.log.rank-001.jsonl").exists()


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_scan_that_breaks_off_does_not_end_the_service(serving: Callable[..., Serving], ranks: int) -> None:
    job = serving(ranks=ranks)
    broken = named("broken")

    def frames(rows: slice) -> Iterator[Frame]:
        for number, frame in enumerate(broken.frames(rows)):
            if number == 40:
                raise ScanAbortedError("the beam was lost")
            yield frame

    job.send(broken, frames=frames)
    told = job.served(1)
    assert not told["final"]
    assert "the beam was lost" in told["text"]
    assert not read(job.out / "broken", "entry/reconstruction/final")
    after = named("after")
    assert job.send(after).error is None
    assert job.served(2)["final"]
    assert difference(read_volume(job.out / "after"), batch(after, job.options)) < 2e-6


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_scan_that_does_not_fit_does_not_end_the_service(serving: Callable[..., Serving], ranks: int) -> None:
    room = cost.PROGRAM_BYTES + (0 if all_compiled() else cost.COMPILING_BYTES) + 50_000_000
    job = serving(config(engine={"memory_bytes": room}), ranks=ranks)
    refused = job.send(named("large", rows=60, columns=600, projections=2))
    assert isinstance(refused.error, ScanAbortedError)
    assert "engine.memory_bytes" in str(refused.error)
    assert "engine.memory_bytes" in job.served(1)["text"]
    assert job.send(named("small")).error is None
    assert job.served(2)["final"]


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_geometry_that_is_found_wrong_in_the_scan_does_not_end_the_service(
    serving: Callable[..., Serving], ranks: int
) -> None:
    """All ranks have accepted the scan when rank 0 refuses it: they go on to the next one together."""
    job = serving(config(recon={"center": 8.0}), ranks=ranks)
    wide = named("wide", arc=300.0, phantom="disc", center=8.0)
    refused = job.send(wide)
    assert isinstance(refused.error, StreamreconError)
    assert "full turn" in job.served(1)["text"]
    assert job.send(named("fine")).error is None
    assert job.served(2)["final"]


def test_an_error_of_the_disk_ends_the_service(
    serving: Callable[..., Serving], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = serving(config(send={"return_timeout": 0.5}))

    def broken(self: Journal) -> None:
        raise JournalError("the disk failed")

    monkeypatch.setattr(Journal, "check", broken)
    sender = job.send(named("s"), wait=False, peer_timeout=3.0)
    until(lambda: job.errors, "the end")
    assert isinstance(job.errors[0], JournalError)
    sender.join(20)


def test_a_bug_in_the_thread_of_the_sockets_ends_the_service(
    serving: Callable[..., Serving], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in a scan, which ends as one that broke off."""
    job = serving(config(emit={"every": 5}, send={"return_timeout": 0.5}))
    scan = named("s")
    sender = job.send(scan, wait=False, peer_timeout=3.0, frames=slowly(scan, 0.02))
    until(lambda: job.told("version"), "a version")

    monkeypatch.setattr(ReceivingEnd, "tick", lambda self, now: 1 / 0)
    until(lambda: job.errors, "the end")
    assert isinstance(job.errors[0], ZeroDivisionError)
    sender.join(20)


def test_the_same_scan_sent_again_replaces_its_volume(serving: Callable[..., Serving]) -> None:
    job = serving()
    scan = named("twice")
    for count in (1, 2):
        assert job.send(scan).error is None
        assert job.served(count)["final"]
    assert len([each for each in events(job.out / "twice") if each["event"] == "scan"]) == 2


def test_a_sender_that_does_not_have_all_of_a_finished_scan_does_not_replace_its_volume(
    serving: Callable[..., Serving],
) -> None:
    """Such as a detector's that was away when the volume became final."""
    job = serving()
    job.send(named("once"))
    before = (job.served(1), read_volume(job.out / "once"))[1]
    late = job.send(named("once"), can_replay=False)
    assert isinstance(late.error, ScanAbortedError)
    assert "is finished" in str(late.error)
    job.served(2)
    np.testing.assert_array_equal(read_volume(job.out / "once"), before)
    assert read(job.out / "once", "entry/reconstruction/final")


# Waiting, stopping.


def test_a_second_sender_waits_and_gets_through(serving: Callable[..., Serving]) -> None:
    job = serving()
    first, second = named("first", projections=30), named("second")
    busy: set[str] = set()
    go = threading.Event()
    sending = job.send(first, wait=False, frames=held(first, 10, go))
    until(lambda: job.told("scan"), "the first scan")
    waiting = job.send(
        second, wait=False, progress=lambda end: busy.add(end.busy.reason) if end.busy else None, connect_timeout=20.0
    )
    impatient = job.send(named("third"), connect_timeout=3.0)
    go.set()
    assert isinstance(impatient.error, PeerLostError)
    assert "scan first is in work" in str(impatient.error)
    for sender in (sending, waiting):
        sender.join(30)
        assert sender.error is None
    assert "scan first is in work" in busy
    job.served(2)
    for scan in (first, second):
        assert difference(read_volume(job.out / scan.info.uid), batch(scan, job.options)) < 2e-6


@pytest.mark.parametrize("ranks", [1, 2])
def test_an_idle_service_stops_at_once(serving: Callable[..., Serving], ranks: int) -> None:
    job = serving(ranks=ranks)
    job.send(named("one"))
    job.served(1)
    until(lambda: len(job.told("listen")) == 2, "an engine for the next one")
    began = time.monotonic()
    job.end()
    assert time.monotonic() - began < 20
    assert not job.errors
    assert "1 scans were done" in job.told("stopped")[0]["text"]
    assert job.service is not None
    assert not job.service.cut_short


def test_a_service_that_is_stopped_in_a_scan_keeps_what_it_has(serving: Callable[..., Serving]) -> None:
    job = serving(config(emit={"every": 5}), ranks=2)
    scan = named("s")
    sender = job.send(scan, wait=False, frames=slowly(scan, 0.02))
    until(lambda: job.told("version"), "a version")
    job.end()
    sender.join(20)
    assert isinstance(sender.error, ScanAbortedError)
    assert not job.errors
    assert job.service is not None
    assert job.service.cut_short
    assert not read(job.out / "s", "entry/reconstruction/final")


def test_a_folder_serves_one_service(serving: Callable[..., Serving]) -> None:
    job = serving()
    with pytest.raises(OutputError, match="another engine"):
        Service(config(), job.out)


def test_a_viewer_sees_the_next_scan_from_its_first_version(serving: Callable[..., Serving]) -> None:
    """It has a later version of a scan that broke off: that is none of the next one's."""
    job = serving(config(emit={"publish": "tcp://127.0.0.1:*", "every": 5}))
    assert job.service is not None
    assert job.service.publish_endpoint is not None
    seen: list[tuple[str, bool]] = []

    def look() -> None:
        for slices in subscribe(str(job.service.publish_endpoint), timeout=60):
            seen.append((slices.update.uid, slices.update.final))

    viewer = threading.Thread(target=look, daemon=True)
    viewer.start()
    broken = named("broken")
    go = threading.Event()
    sender = job.send(broken, wait=False, frames=held(broken, 40, go))
    until(lambda: len(job.told("version")) >= 4, "versions")
    assert job.service.engine is not None
    job.service.engine.stop("the user has seen enough")
    go.set()
    sender.join(20)
    job.served(1)
    whole = named("whole", projections=6)
    job.send(whole, frames=slowly(whole, 0.01))
    viewer.join(60)
    assert not viewer.is_alive()
    assert seen[0][0] == "broken"
    assert seen[-1] == ("whole", True)


# What is not finished.


def unfinished(options: Config, out: Path, uid: str, frames: int = 30) -> Scan:
    """What an engine leaves that was stopped in a scan that cannot be sent again: its journal."""
    scan = named(uid)
    cut = Scan(scan.info, scan.items[:frames])

    def engine_stops(engine: Any) -> None:
        until(lambda: engine.status().frames >= frames, "frames")
        engine.stop("stopped")

    def forever(rows: slice) -> Iterator[Frame]:
        yield from cut.frames(rows)
        time.sleep(5)

    stream(scan, options, out / uid, frames=forever, watch=engine_stops, can_replay=False)
    assert list((out / uid / "journal").glob("*/*.frames"))
    return scan


def forget_the_end(folder: Path) -> None:
    """As if the engine had been killed before it could write a last version."""
    (folder / "volume.h5").unlink()


def test_a_scan_that_was_in_work_is_gone_on_with_first(serving: Callable[..., Serving], tmp_path: Path) -> None:
    options = config(engine={"return_timeout": 20.0})
    older = unfinished(config(), tmp_path / "out", "older")
    scan = unfinished(config(), tmp_path / "out", "newer")
    unfinished(config(), tmp_path / "out", "broken")  # it had its time
    for uid in ("older", "newer"):
        forget_the_end(tmp_path / "out" / uid)
    job = serving(options, resume=True)
    until(lambda: job.told("resume"), "the scan that was left")
    other = job.send(named("other"), wait=False, connect_timeout=20.0)
    rest = job.send(scan, can_replay=False)
    assert rest.error is None
    other.join(20)
    assert other.error is None
    job.served(2)
    assert [each["uid"] for each in job.told("served")] == ["newer", "other"]
    assert difference(read_volume(job.out / "newer"), batch(scan, options)) < 2e-6
    assert {Path(each["folder"]).name for each in job.told("unfinished")} == {"older", "broken"}
    assert all("--once --resume" in each["text"] for each in job.told("unfinished"))
    refused = job.send(older, can_replay=False)
    assert isinstance(refused.error, ScanAbortedError)
    assert "--once --resume" in str(refused.error)
    job.served(3)
    assert list((job.out / "older" / "journal").glob("*/*.frames")), "what cannot be had again stays"


def test_without_resume_what_is_unfinished_is_left_alone(serving: Callable[..., Serving], tmp_path: Path) -> None:
    scan = unfinished(config(), tmp_path / "out", "left")
    shutil.copytree(tmp_path / "out" / "left" / "journal", tmp_path / "out" / "journal")  # as --once leaves it
    (journal,) = (tmp_path / "out" / "left" / "journal").glob("*/*.frames")
    before = journal.read_bytes()
    job = serving()
    until(lambda: len(job.told("unfinished")) == 2, "warnings")
    assert {Path(each["folder"]).name for each in job.told("unfinished")} == {"out", "left"}
    assert isinstance(job.send(scan).error, ScanAbortedError)
    assert job.send(named("other")).error is None
    job.served(2)
    assert journal.read_bytes() == before


def test_a_scan_that_cannot_be_gone_on_with_keeps_none_from_being_served(
    serving: Callable[..., Serving], tmp_path: Path
) -> None:
    unfinished(config(), tmp_path / "out", "left")
    forget_the_end(tmp_path / "out" / "left")
    job = serving(config(engine={"memory_bytes": 10_000}), resume=True)
    until(lambda: len(job.told("listen")) == 2, "an engine for new scans")
    assert "left" in job.told("served")[0]["text"]
    assert isinstance(job.send(named("new")).error, ScanAbortedError), "it does not fit, either, and is told"


def test_a_scan_that_another_engine_goes_on_with_is_left_to_it(serving: Callable[..., Serving], tmp_path: Path) -> None:
    unfinished(config(), tmp_path / "out", "left")
    forget_the_end(tmp_path / "out" / "left")
    lock = FolderLock(tmp_path / "out" / "left", "engine", "--out")
    try:
        job = serving(resume=True)
        assert job.send(named("new")).error is None
        assert job.served(1)["final"]
        assert "another engine" in job.told("unfinished")[0]["text"]
    finally:
        lock.release()


# What a scan teaches the next one.


FOUND = config(recon={"center": None})


def test_a_scan_starts_with_the_center_of_the_one_before(serving: Callable[..., Serving], tmp_path: Path) -> None:
    job = serving(dataclasses.replace(FOUND, emit=dataclasses.replace(FOUND.emit, every=5)))
    options: dict[str, Any] = {"projections": 90, "photons": 0.0, "bad_columns": 0}
    job.send(named("first", center=25.0, **options))
    second = named("second", center=20.0, **options)
    job.send(second, frames=slowly(second, 0.002))
    job.served(2)
    centers = [(each["method"], each["center"]) for each in events(job.out / "second") if each["event"] == "center"]
    first = read(job.out / "first", "entry/reconstruction/parameters/center")
    assert centers[0] == ("previous", pytest.approx(first, abs=1e-6))
    assert centers[-1][0] in ("opposed-pair", "center-of-mass")
    assert any(each["event"] == "start_over" for each in events(job.out / "second"))
    alone = stream(second, FOUND, tmp_path / "alone")
    assert read(job.out / "second", "entry/reconstruction/parameters/center") == pytest.approx(
        read(alone.out, "entry/reconstruction/parameters/center"), abs=1e-9
    )
    assert difference(read_volume(job.out / "second"), alone.volume) < 1e-5


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("darks_last", [False, True])
def test_flats_and_darks_of_the_scan_before_stand_in(
    serving: Callable[..., Serving], ranks: int, darks_last: bool
) -> None:
    job = serving(ranks=ranks)
    job.send(brighter(named("first"), 1.05, 3))
    second = flats_last(named("second"), darks_last)

    def frames(rows: slice) -> Iterator[Frame]:
        shown = False
        for frame in second.frames(rows):
            if frame.kind == F and not shown:
                until(lambda: len(job.told("normalize")) == 2, "the first projections in the volume")
                shown = True
            yield frame

    job.send(second, frames=frames)
    assert job.served(2)["final"]
    (told,) = [each["text"] for each in events(job.out / "second") if each["event"] == "normalize"]
    assert "that of scan first stands in" in told
    assert difference(read_volume(job.out / "second"), batch(second, job.options)) < 1e-5
    parameters = "entry/reconstruction/parameters"
    assert "flats_from" not in read_group(job.out / "second", parameters)
    assert "darks_from" not in read_group(job.out / "second", parameters)
    if not darks_last:
        assert not [each for each in events(job.out / "second") if each["event"] == "start_over"], "flats are linear"


def read_group(out: Path, path: str) -> set[str]:
    import h5py

    with h5py.File(out / "volume.h5", "r", locking=False) as file:
        return set(file[path])


def test_a_scan_without_flats_and_darks_has_those_of_the_one_before(serving: Callable[..., Serving]) -> None:
    """And so has the one after that, which is the same for all of them: whose they are is said."""
    job = serving()
    first = named("first")
    job.send(first)
    for count, uid in enumerate(("second", "third"), 2):
        scan = named(uid, seed=count)
        counts = {FrameKind.PROJECTION: 60, FrameKind.FLAT: 0, FrameKind.DARK: 0}
        bare = scan.with_info(counts=counts).arranged(scan.of(P))
        job.send(bare)
        assert job.served(count)["final"]
        expected = batch(bare.arranged(first.of(F), first.of(D), bare.of(P)), job.options)
        assert difference(read_volume(job.out / uid), expected) < 1e-5
        for name in ("flats_from", "darks_from"):
            assert read(job.out / uid, f"entry/reconstruction/parameters/{name}") == "first"
        borrowed = [each for each in events(job.out / uid) if each["event"] == "borrowed"]
        assert {each["kind"] for each in borrowed} == {"flats", "darks"}


def test_other_detectors_and_other_beams_teach_nothing(serving: Callable[..., Serving], tmp_path: Path) -> None:
    job = serving(FOUND)
    job.send(named("first"))
    counts = {FrameKind.PROJECTION: 60, FrameKind.FLAT: 0, FrameKind.DARK: 0}

    def bare(scan: Scan) -> Scan:
        return scan.with_info(counts=counts).arranged(scan.of(P))

    faint = bare(named("faint", photons=150.0, dark_level=0.0))
    narrow = bare(named("narrow", columns=40))
    for count, scan in enumerate((faint, narrow), 2):
        job.send(scan)
        assert job.served(count)["final"]
        assert "flats_from" not in read_group(job.out / scan.info.uid, "entry/reconstruction/parameters")
    methods = [each["method"] for each in events(job.out / "narrow") if each["event"] == "center"]
    assert "previous" not in methods


def test_it_can_be_turned_off(serving: Callable[..., Serving]) -> None:
    job = serving(config(recon={"center": None, "previous": False}))
    job.send(named("first"))
    second = flats_last(named("second"))
    job.send(second)
    job.served(2)
    log = events(job.out / "second")
    assert "previous" not in [each.get("method") for each in log if each["event"] == "center"]
    (told,) = [each["text"] for each in log if each["event"] == "normalize"]
    assert "brightest percent stands in" in told


# The guess at the axis, without a scan.


def alignment(theta: np.ndarray, guess: float, announced: bool = True, **options: Any) -> Alignment:
    return Alignment(
        ReconConfig(**options), 4, 64, len(theta), theta if announced else None, None, {0}, lambda i, b: None, guess
    )


HALF, TURN = np.linspace(0, np.pi, 90, endpoint=False), np.linspace(0, 2 * np.pi, 180, endpoint=False)


@pytest.mark.parametrize(
    ("theta", "guess", "announced", "options", "used"),
    [
        pytest.param(HALF, 30.0, True, {}, True, id="half a turn"),
        pytest.param(HALF, 10.0, True, {}, True, id="half a turn, beside the middle"),
        pytest.param(TURN, 31.0, True, {}, True, id="a full turn around the middle"),
        pytest.param(TURN, 10.0, True, {}, False, id="a full turn that might be joined"),
        pytest.param(TURN, 10.0, False, {}, True, id="angles unknown"),
        pytest.param(TURN, 10.0, True, {"offset_axis": "no"}, True, id="not to be joined"),
        pytest.param(TURN, 10.0, True, {"offset_axis": "yes"}, False, id="to be joined"),
    ],
)
def test_the_center_of_the_scan_before_is_used_at_once(
    theta: np.ndarray, guess: float, announced: bool, options: dict[str, Any], used: bool
) -> None:
    each = alignment(theta, guess, announced, **options)
    sums = Bands(4, 64).sums(np.ones((4, 64), np.float32))[None]
    assert each.better() is None, "nothing has come"
    each.take(0, Studied((0,), (0,), theta[:1], sums))
    align = each.better()
    assert (align is not None) == used
    if align is not None:
        assert (align.estimate.center, align.estimate.method, align.offset_axis) == (guess, "previous", False)
        assert each.better() is None, "once"


def bump(theta: float, axis: float = 30.0) -> np.ndarray:
    """(row, column) of a small object that goes around the axis."""
    column = np.arange(64)
    return np.exp(-(((column - axis - 12 * np.cos(theta)) / 3) ** 2)).astype(np.float32)[None].repeat(4, axis=0)


def feed(each: Alignment, picture: Callable[[float], np.ndarray]) -> list[tuple[int, str]]:
    """All projections one by one; after how many which axis was used, by what it came from."""
    used = []
    for index, theta in enumerate(HALF):
        sums = Bands(4, 64).sums(picture(theta))[None]
        each.take(0, Studied((0,), (index,), np.array([theta]), sums))
        align = each.better()
        if align is not None:
            used.append((index + 1, align.estimate.method))
    return used


def test_a_guess_is_replaced_when_the_wait_would_have_ended_without_it() -> None:
    options = ReconConfig()
    alone = Alignment(options, 4, 64, len(HALF), HALF, None, {0}, lambda indices, bands: None)
    expected = feed(alone, bump)
    assert expected[0][0] > 16
    assert feed(alignment(HALF, 25.0), bump) == [(1, "previous"), *expected]
    assert feed(alignment(HALF, 30.01), bump) == [(1, "previous")], "one that is right is not replaced before the end"


def test_a_guess_is_better_than_nothing() -> None:
    each = alignment(HALF, 25.0)
    assert feed(each, lambda theta: np.zeros((4, 64), np.float32)) == [(1, "previous")]
    align = each.last(Ranges(((0, len(HALF)),)))
    assert align is not None
    assert (align.estimate.center, align.estimate.method) == (25.0, "previous")
