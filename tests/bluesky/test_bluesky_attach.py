"""Attached: run after run is sent, whatever else comes, and a restart goes on with what was kept."""

from __future__ import annotations

import errno
import threading
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from bluesky_attached import Attached, Engine, until
from bluesky_scans import COLUMNS, ROWS, STEP, Scan, image, projections, shown, step_scan, write

from streamrecon.bluesky import attach as module
from streamrecon.bluesky import keeping as keeping_module
from streamrecon.bluesky.collect import ORPHANS, Collector, image_bytes
from streamrecon.bluesky.documents import DocumentQueue
from streamrecon.bluesky.keeping import Keeping
from streamrecon.config import Config
from streamrecon.errors import OutputError, ScanAbortedError
from streamrecon.scan import Frame, FrameKind

DET = {"shape": [1, ROWS, COLUMNS], "dtype": "array", "external": "STREAM:"}


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    return Engine(monkeypatch)


def test_run_after_run(tmp_path: Path, engine: Engine) -> None:
    attached = Attached(tmp_path)
    scans = [step_scan(write(tmp_path / f"{n}.h5", 3), 3) for n in range(3)]
    other = Scan(plan_name="count")
    other.stop()
    for scan in (scans[0], other, *scans[1:]):
        attached.say(scan.documents)
    attached.close()
    assert list(engine.scans) == [scan.uid for scan in scans]
    for found in engine.scans.values():
        assert shown(found) == [(FrameKind.PROJECTION, i, i, 10.0 * i) for i in range(3)]
    assert attached.attachment.scans == 3
    assert any("plan_name is 'count'; expected 'scan'" in text for text in attached.told("other"))


def test_frames_are_sent_while_the_run_goes_on(tmp_path: Path, engine: Engine) -> None:
    attached = Attached(tmp_path)
    scan = step_scan(write(tmp_path / "a.h5", 3), 3)
    attached.say(scan.documents[:5])
    until(lambda: engine.scans.get(scan.uid), "the first frame")
    attached.say(scan.documents[5:])
    attached.close()
    assert len(engine.scans[scan.uid]) == 3


def test_interleaved_runs_are_sent_one_after_the_other(tmp_path: Path, engine: Engine) -> None:
    attached = Attached(tmp_path)
    one, two = (step_scan(write(tmp_path / f"{n}.h5", 4), 4) for n in range(2))
    for a, b in zip(one.documents, two.documents, strict=True):
        attached.say([a, b])
    attached.close()
    assert list(engine.scans) == [one.uid, two.uid]
    assert all(len(found) == 4 for found in engine.scans.values())


def test_too_many_that_wait_are_left_out(tmp_path: Path, engine: Engine) -> None:
    engine.hold.clear()
    attached = Attached(tmp_path, attach={"waiting": 1})
    scans = [step_scan(write(tmp_path / f"{n}.h5", 2), 2) for n in range(3)]
    for scan in scans:
        attached.say(scan.documents)
    until(lambda: attached.told("skipped"), "one is left out")
    engine.hold.set()
    attached.close()
    assert list(engine.scans) == [scans[0].uid, scans[1].uid]
    assert scans[2].uid in attached.told("skipped")[0]
    assert "attach.waiting" in attached.told("skipped")[0]


def test_only_one(tmp_path: Path, engine: Engine) -> None:
    attached = Attached(tmp_path, once=True)
    for n in range(2):
        attached.say(step_scan(write(tmp_path / f"{n}.h5", 2), 2).documents)
    attached.thread.join(20)
    assert not attached.thread.is_alive()
    assert len(engine.scans) == 1


def test_a_scan_that_fails_is_told_and_the_next_one_comes(tmp_path: Path, engine: Engine) -> None:
    attached = Attached(tmp_path)
    bad = step_scan(write(tmp_path / "bad.h5", 2), 2, stop=False)
    bad.stop("abort", "beam lost")
    attached.say(bad.documents)
    attached.say(step_scan(write(tmp_path / "good.h5", 2), 2).documents)
    attached.close()
    assert isinstance(engine.errors[bad.uid], ScanAbortedError)
    assert "beam lost" in attached.told("failed")[0]
    assert (attached.attachment.scans, attached.attachment.partial) == (1, 1)


def test_a_run_whose_stop_was_lost_ends_once_another_has_begun(tmp_path: Path, engine: Engine) -> None:
    attached = Attached(tmp_path, patience=0.3)
    lost, following = step_scan(write(tmp_path / "a.h5", 2), 2, stop=False), step_scan(write(tmp_path / "b.h5", 2), 2)
    attached.say(lost.documents)
    attached.say(following.documents)
    until(lambda: following.uid in engine.scans, "the next run")
    attached.close()
    assert "stop document did not come" in str(engine.errors[lost.uid])
    assert len(engine.scans[lost.uid]) == 2, "what it had is sent"


def test_a_run_that_goes_on_after_another_has_measured_is_reconstructed_anew(tmp_path: Path, engine: Engine) -> None:
    """A nested run, or a pause of one RunEngine while another measures."""
    attached = Attached(tmp_path, patience=0.6, keep=tmp_path / "keep")
    outer, inner = step_scan(write(tmp_path / "a.h5", 3), 3), step_scan(write(tmp_path / "b.h5", 8), 8)
    attached.say(outer.documents[:5])
    for each in inner.documents:
        attached.say([each])
        time.sleep(0.15)  # in all four times the patience
    assert len(engine.scans[inner.uid]) >= 3, "while it measured"
    until(lambda: attached.attachment.scans, "the inner one")
    assert "stop document did not come" in str(engine.errors.pop(outer.uid))
    until(
        lambda: [path.name for path in (tmp_path / "keep").glob("*.*s*")] == [f"{outer.uid}.aside"],
        "the inner one's documents are not needed any more",
    )
    attached.say(outer.documents[5:6])
    until(lambda: attached.told("again"), "the outer one goes on")
    until(lambda: list((tmp_path / "keep").glob(f"{outer.uid}.documents")), "it is kept, too")
    attached.say(outer.documents[6:])
    attached.close()
    assert not engine.errors
    assert len(engine.scans[outer.uid]) == 3
    assert len(engine.scans[inner.uid]) == 8
    assert (attached.attachment.scans, attached.attachment.partial) == (2, 1)
    assert not list((tmp_path / "keep").glob("*.*s*"))


def test_documents_of_silent_runs_are_kept_of_a_few_only(tmp_path: Path, engine: Engine) -> None:
    attached = Attached(tmp_path, patience=0.2, attach={"waiting": 1})
    lost = [step_scan(write(tmp_path / f"{n}.h5", 2), 2, stop=False) for n in range(4)]
    for scan in lost:
        attached.say(scan.documents)
        until(lambda: list(attached.attachment._scans) == [scan.uid], "the one before is given up")  # noqa: B023
    assert list(attached.attachment._aside) == [lost[2].uid]
    lost[0].stop()
    attached.say(lost[0].documents[-1:])
    until(lambda: attached.told("late"), "that it is not reconstructed")
    attached.close()


def test_a_lost_stop_is_seen_while_documents_flow_and_who_comes_back_begins_anew(
    tmp_path: Path, engine: Engine
) -> None:
    attached = Attached(tmp_path, patience=0.4)
    lost, following = step_scan(write(tmp_path / "a.h5", 4), 4, stop=False), step_scan(write(tmp_path / "b.h5", 2), 2)
    attached.say(lost.documents[:-2])
    attached.say(following.documents)
    stopped = threading.Event()

    def others() -> None:
        while not stopped.wait(0.01):
            other = Scan(plan_name="count")
            other.stop()
            attached.say(other.documents)

    flow = threading.Thread(target=others)
    flow.start()
    until(lambda: following.uid in engine.scans, "the next run")
    until(lambda: attached.attachment.scans, "its end")
    stopped.set()
    flow.join()
    assert "stop document did not come" in str(engine.errors[lost.uid])
    attached.say(lost.documents[-2:])
    attached.close()
    (told,) = attached.told("again")
    assert lost.uid in told
    assert len(engine.scans[lost.uid]) == 4


def test_why_nothing_happens_tells_of_a_missed_start(tmp_path: Path, engine: Engine) -> None:
    attached = Attached(tmp_path)
    scan = step_scan(write(tmp_path / "a.h5", 2), 2)
    attached.say(scan.documents[1:])
    attached.say([("start", {"uid": "../x"})])
    count = len(scan.documents) - 1
    expected = f"{count} documents are of a run whose start was missed: it cannot be reconstructed"
    until(lambda: expected in attached.attachment.why_nothing_happens(), "why")
    until(lambda: "a start document is not as it should be" in attached.attachment.why_nothing_happens(), "the refusal")
    attached.close()


def test_a_pipe_that_closes_ends_the_run_in_work(tmp_path: Path, engine: Engine) -> None:
    attached = Attached(tmp_path)
    scan = step_scan(write(tmp_path / "a.h5", 2), 2, stop=False)
    attached.say(scan.documents)
    attached.close()
    assert "without the run's stop" in str(engine.errors[scan.uid])


def test_stopped_in_the_middle(tmp_path: Path, engine: Engine) -> None:
    attached = Attached(tmp_path)
    attached.say(step_scan(write(tmp_path / "a.h5", 2), 2, stop=False).documents)
    until(lambda: engine.scans, "the scan")
    attached.attachment.stop()
    attached.thread.join(20)
    assert not attached.thread.is_alive()
    assert isinstance(next(iter(engine.errors.values())), ScanAbortedError)


def test_the_flats_of_a_run_before(tmp_path: Path, engine: Engine) -> None:
    rules = {**STEP, "flat": {"select": "run", "match": {"plan_name": "flats"}, "key": "det"}}
    attached = Attached(tmp_path, rules)
    for n, count in enumerate((3, 2)):
        flats = Scan(plan_name="flats")
        flats.stream(det=DET)
        flats.rows(flats.resource(write(tmp_path / f"flats{n}.h5", count)), (0, count), (1, count + 1))
        flats.stop()
        attached.say(flats.documents)
    scans = [step_scan(write(tmp_path / f"{n}.h5", 1), 1) for n in range(2)]
    for scan in scans:
        attached.say(scan.documents)
    attached.close()
    for scan in scans:
        kinds = [item.kind for item in engine.scans[scan.uid]]
        assert kinds == [FrameKind.FLAT, FrameKind.FLAT, FrameKind.PROJECTION], "the newest ones, of every scan"


@pytest.mark.parametrize("stopped", [True, False])
def test_flats_whose_stop_was_lost_count_when_the_next_run_begins(
    tmp_path: Path, engine: Engine, stopped: bool
) -> None:
    rules = {**STEP, "flat": {"select": "run", "match": {"plan_name": "flats"}, "key": "det"}}
    attached = Attached(tmp_path, rules)
    runs = []
    for number in range(2):
        flats = Scan(plan_name="flats")
        flats.stream(det=DET)
        path = write(tmp_path / f"flats{number}.h5", 2 + number)
        flats.rows(flats.resource(path), (0, 2 + number), (1, 3 + number))
        flats.stop()
        runs.append(flats)
    empty = Scan(plan_name="flats")
    scan = step_scan(write(tmp_path / "a.h5", 1), 1)
    attached.say(runs[0].documents)
    attached.say(runs[1].documents if stopped else runs[1].documents[:-1])
    attached.say(empty.documents)
    attached.say(scan.documents)
    attached.close()
    assert [item.kind for item in engine.scans[scan.uid]] == [FrameKind.FLAT] * 3 + [FrameKind.PROJECTION]
    (told,) = [text for text in attached.told("fields") if runs[1].uid in text]
    assert ("has no stop document, and another run has begun" in told) is not stopped
    assert "has the flats of the scans that follow" in told


@pytest.mark.parametrize("select", ["run", "events"])
def test_flats_that_the_mapping_names_and_are_not_there_are_told(tmp_path: Path, engine: Engine, select: str) -> None:
    flat = {"key": "det", "stream": "flat", "select": select}
    attached = Attached(tmp_path, {**STEP, "flat": flat | ({"match": {"plan_name": "x"}} if select == "run" else {})})
    scan = step_scan(write(tmp_path / "a.h5", 1), 1)
    attached.say(scan.documents)
    attached.close()
    words = (
        "no run with flats has come before it" if select == "run" else "it has no flats, though the mapping has [flat]"
    )
    (note,) = attached.told("note")
    assert words in note


def test_notes_are_told_and_each_once(tmp_path: Path, engine: Engine) -> None:
    rules = {**STEP, "theta": {"from": "event", "key": "rot"}}
    attached = Attached(tmp_path, rules)
    scan = Scan()
    scan.stream(det=DET, rot={})
    scan.rows(scan.resource(write(tmp_path / "a.h5", 3)), (0, 3), (1, 4))
    for number in range(3):
        scan.event(number + 1, rot=10.0 * number)
    scan.stop(primary=3)
    attached.say(scan.documents)
    attached.close()
    assert attached.told("note") == [f"run {scan.uid}: rot has no units: its angles are taken as degrees"]


def test_images_in_documents_are_bounded(tmp_path: Path, engine: Engine) -> None:
    attached = Attached(tmp_path, attach={"document_bytes": 100})
    scan = Scan()
    scan.stream(det={"shape": [ROWS, COLUMNS], "dtype": "array"}, rot={})
    for number in range(5):
        scan.event(number + 1, det=image(number), rot=float(number))
    scan.stop()
    attached.say(scan.documents)
    attached.close()
    assert "attach.document_bytes" in str(engine.errors[scan.uid])


@pytest.mark.parametrize("missed", [0, 1, 2])
def test_killed_and_attached_again(tmp_path: Path, engine: Engine, missed: int) -> None:
    """What documents and files still hold is not lost; an angle that was in a missed event is named as a gap."""
    keep = tmp_path / "keep"
    scan = step_scan(write(tmp_path / "a.h5", 6), 6)
    engine.hold.clear()
    first = Attached(tmp_path, keep=keep)
    first.say(scan.documents[:7])  # two images
    until(lambda: len(list(keep.glob("*.documents"))) == 1 and first.queue.received == 7, "documents are kept")
    time.sleep(0.2)
    # As if it was killed: nothing is tidied, and a last entry is torn.
    (path,) = keep.glob("*.documents")
    kept = path.read_bytes()
    engine.hold.set()
    first.attachment.stop()
    first.thread.join(20)
    engine.scans.clear()
    path.write_bytes(kept + b"\x10\x00\x00")
    second = Attached(tmp_path, keep=keep)
    second.say(scan.documents[7 + 2 * missed :])
    second.close()
    found = engine.scans[scan.uid]
    assert projections(found) == {i: (i, 10.0 * i) for i in range(6) if not 2 <= i < 2 + missed}
    gaps = [item for item in found if not isinstance(item, Frame)]
    assert sum(gap.end - gap.first for gap in gaps) == missed
    assert not list(keep.glob("*.documents")), "done with"


def test_what_is_kept_comes_back_as_it_was(tmp_path: Path) -> None:
    keeping = Keeping(tmp_path)
    doc = {
        "uid": "r-1", "data": {"a": np.arange(6, dtype=">u2").reshape(2, 3), "b": np.float32(1.5), "c": [1, None, "é"]},
        "nested": {"x": {"y": (1, 2)}}, "big": 1 << 60, "flag": True,
    }  # fmt: skip
    keeping.add("r-1", "start", doc)
    keeping.add("r-1", "event", {"uid": "e", "n": float("nan")})
    keeping.close()
    with closing(Keeping(tmp_path)) as again:
        ((name, found), (_, event)) = again.left()
    assert name == "start"
    np.testing.assert_array_equal(found["data"].pop("a"), doc["data"]["a"])  # type: ignore[index]
    assert found["data"] == {"b": 1.5, "c": [1, None, "é"]}
    assert (found["nested"], found["big"], found["flag"]) == ({"x": {"y": [1, 2]}}, 1 << 60, True)
    assert np.isnan(event["n"])


@pytest.mark.parametrize("where", ["head", "middle"])
def test_damage_in_what_is_kept_costs_what_follows(tmp_path: Path, where: str) -> None:
    keeping = Keeping(tmp_path)
    for number in range(3):
        keeping.add("r-1", "event", {"uid": f"e{number}"})
    keeping.close()
    path = tmp_path / "r-1.documents"
    data = bytearray(path.read_bytes())
    data[len(data) // 3 + (2 if where == "head" else 15)] ^= 1
    path.write_bytes(data)
    with closing(Keeping(tmp_path)) as again:
        assert [doc["uid"] for _, doc in again.left()] == ["e0"]


def test_an_entry_that_cannot_be_read_costs_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(code: int, data: bytes) -> None:
        raise ZeroDivisionError("nobody thought of this")

    with closing(Keeping(tmp_path)) as keeping:
        for number, data in enumerate([{}, {"a": np.arange(3)}, {}]):
            keeping.add("r-1", "event", {"uid": f"e{number}", "data": data})
    monkeypatch.setattr(keeping_module, "_extension", fail)
    with closing(Keeping(tmp_path)) as again:
        assert [doc["uid"] for _, doc in again.left()] == ["e0", "e2"]


@pytest.mark.parametrize("kept", [np.empty((0, 3)), np.array([], "U1"), np.array(["", ""]), np.array(5.0)], ids=repr)
def test_arrays_of_nothing_are_kept(tmp_path: Path, kept: Any) -> None:
    with closing(Keeping(tmp_path)) as keeping:
        keeping.add("r-1", "event", {"data": kept})
    with closing(Keeping(tmp_path)) as again:
        ((_, doc),) = again.left()
    np.testing.assert_array_equal(doc["data"], kept)


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file"):
        Keeping(tmp_path / "file")


def test_a_bug_costs_the_run_and_its_documents_stay(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = (step_scan(write(tmp_path / f"{n}.h5", 2), 2) for n in range(2))
    right = module.RunSource.info

    def info(self: Any) -> Any:
        if self.run.uid == bad.uid:
            raise ZeroDivisionError("nobody thought of this")
        return right(self)

    monkeypatch.setattr(module.RunSource, "info", info)
    keep = tmp_path / "keep"
    attached = Attached(tmp_path, keep=keep)
    attached.say([*bad.documents, *good.documents])
    attached.close()
    assert list(engine.scans) == [good.uid]
    assert "a bug in streamrecon: ZeroDivisionError: nobody thought of this" in attached.told("failed")[0]
    assert [path.name for path in keep.glob("*.[df]*")] == [f"{bad.uid}.failed"]
    assert f"{bad.uid}.failed" in attached.told("aside")[0]
    again = Attached(tmp_path, keep=keep)
    again.close()
    assert not again.told("run"), "not tried again"


def test_one_attachment_to_a_folder(tmp_path: Path) -> None:
    keeping = Keeping(tmp_path)
    keeping.add("r-1", "start", {"uid": "r-1"})
    with pytest.raises(OutputError, match=r"another attachment is writing to .*: choose another --keep"):
        Keeping(tmp_path)
    keeping.close()
    with closing(Keeping(tmp_path)) as again:
        assert len(list(again.left())) == 1


class Disk:
    """Has room for so many bytes."""

    def __init__(self, file: Any) -> None:
        self.file, self.room = file, 10_000

    def write(self, data: Any) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = self.file.write(data[: self.room])
        self.room -= written
        return int(written)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


@pytest.mark.parametrize("room", [0, 1, 12, 20])
def test_a_disk_that_is_full_for_a_while(tmp_path: Path, room: int) -> None:
    keeping = Keeping(tmp_path)
    keeping.add("r-1", "start", {"uid": "r-1"})
    disk = Disk(keeping._runs["r-1"].file)
    keeping._runs["r-1"].file = disk  # type: ignore[assignment]
    keeping.add("r-1", "event", {"uid": "e0"})
    disk.room = room
    for number in (1, 2):
        keeping.add("r-1", "event", {"uid": f"e{number}"})
    assert "No space left" in str(keeping.error)
    disk.room = 10_000
    keeping.add("r-1", "event", {"uid": "e3"})
    assert keeping.error is None
    assert keeping._runs["r-1"].missing == 2
    keeping.close()
    with closing(Keeping(tmp_path)) as again:
        assert [doc["uid"] for _, doc in again.left()] == ["r-1", "e0", "e3"]


def test_what_was_kept_of_runs_that_are_no_scans_any_more_goes(tmp_path: Path, engine: Engine) -> None:
    scan = step_scan(write(tmp_path / "a.h5", 2), 2)
    keeping = Keeping(tmp_path / "keep")
    for name, doc in scan.documents:
        keeping.add(scan.uid, name, doc)
    keeping.close()
    other = {**STEP, "run": {"match": {"plan_name": "tomo"}}}
    attached = Attached(tmp_path, other, keep=tmp_path / "keep")
    attached.close()
    assert not engine.scans
    assert not list((tmp_path / "keep").glob("*.documents"))
    assert scan.uid in attached.told("forgotten")[0]


# Documents, as they come.


def test_joined_late_without_a_start(tmp_path: Path) -> None:
    runs: list[Any] = []
    collector = Collector(runs.append)
    scan = step_scan(tmp_path / "a.h5", 3)
    for name, doc in scan.documents[2:]:
        collector.hear(name, doc)
    assert not runs
    assert collector.waiting == len(scan.documents) - 2
    collector.hear(*scan.documents[1])
    collector.hear(*scan.documents[0])
    assert collector.waiting == 0
    assert [name for name, _ in runs[0].since(0)] == [
        "start", "descriptor", "stream_resource", *(["stream_datum", "event"] * 3), "stop",
    ] or len(runs[0]) == len(scan.documents)  # fmt: skip


def test_orphans_are_bounded() -> None:
    collector = Collector(lambda run: None)
    for number in range(ORPHANS + 10):
        collector.hear("event", {"uid": f"e{number}", "descriptor": f"d{number // 5}", "data": {}})
    assert collector.waiting <= ORPHANS
    assert collector.given_up >= 10
    big = np.zeros(1 << 20, np.uint8)
    for number in range(400):
        collector.hear("event", {"uid": f"b{number}", "descriptor": f"b{number}", "data": {"image": big}})
    assert collector.waiting < 300


def test_orphans_are_bounded_whatever_their_images_are() -> None:
    collector = Collector(lambda run: None)
    for number, each in enumerate([bytes(1 << 20), "x" * (1 << 20), [[1.0] * 1000] * 33] * 150):
        collector.hear("event", {"uid": f"b{number}", "descriptor": f"b{number}", "data": {"image": each}})
    assert collector.waiting < 300


@pytest.mark.parametrize("each", [np.zeros(1 << 20, np.uint8), bytes(1 << 20), [[1.0] * 1000] * 33])
def test_what_images_take_is_counted(each: Any) -> None:
    assert 1 << 20 <= image_bytes({"data": {"image": each, "rot": 1.0}}) < 2 << 20


def test_a_run_that_is_not_wanted_keeps_nothing_and_leaves_none_waiting(tmp_path: Path) -> None:
    runs, ignored = list[Any](), list[str]()

    def opened(run: Any) -> bool:
        runs.append(run)
        return False

    collector = Collector(opened, ignored=lambda uid, name: ignored.append(name))
    scan = step_scan(tmp_path / "a.h5", 3)
    late = [scan.documents[4], scan.documents[1], scan.documents[0]]
    for each in [*late, *scan.documents]:
        collector.hear(*each)
    assert len(runs) == 1
    assert len(runs[0]) == 1, "only the start"
    assert collector.waiting == 0
    assert "stop" in ignored
    assert not collector._owners
    assert not collector._unwanted


def test_of_a_run_that_is_no_scan_nothing_is_kept(tmp_path: Path, engine: Engine) -> None:
    attached = Attached(tmp_path)
    other = step_scan(tmp_path / "a.h5", 3, stop=False, plan_name="count")
    attached.say(other.documents)
    until(lambda: attached.told("other"), "it is told")
    attached.close()
    assert not attached.attachment._collector._runs
    assert attached.attachment._collector.waiting == 0


def test_events_that_nothing_is_mapped_to_are_not_kept(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though a run is not silent while they come."""
    now = time.monotonic()
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now))
    attached = Attached(tmp_path, keep=tmp_path / "keep", patience=0.5)
    scan = step_scan(write(tmp_path / "a.h5", 4), 4, stop=False)
    scan.stream("beam_monitor", current={})
    attached.say(scan.documents)
    until(lambda: len(engine.scans.get(scan.uid, [])) == 4, "its images")
    run = attached.attachment._scans[scan.uid].run
    had, size = len(run), sum(path.stat().st_size for path in (tmp_path / "keep").glob("*.documents"))
    attached.say(step_scan(write(tmp_path / "b.h5", 1), 1).documents)
    count = len(scan.documents)
    for number in range(60):
        scan.event(number + 1, "beam_monitor", current=400.0)
        now += 0.02
        attached.say(scan.documents[-1:])
        until(lambda: attached.attachment._scans[scan.uid].heard == now, "it is heard")  # noqa: B023
    assert len(run) == had
    assert len(attached.attachment._collector._seen[scan.uid]) <= had
    kept = sorted((tmp_path / "keep").glob("*.documents"), key=lambda path: scan.uid not in path.name)
    assert kept[0].stat().st_size == size
    assert not engine.errors
    scan.stop()
    attached.say(scan.documents[count + 60 :])
    attached.close()
    assert not engine.errors
    assert attached.attachment.scans == 2


def test_a_bug_costs_the_document() -> None:
    seen: list[str] = []

    def opened(run: Any) -> None:
        seen.append(run.uid)
        if run.uid == "bad":
            raise RecursionError("too deep")

    collector = Collector(opened)
    for uid in ("bad", "good"):
        collector.hear("start", {"uid": uid})
    assert seen == ["bad", "good"]
    assert "RecursionError: too deep" in str(collector.last_refusal)


def test_what_still_comes_of_a_run_that_is_done_does_not_wait(tmp_path: Path) -> None:
    runs: list[Any] = []
    collector = Collector(runs.append)
    scan = step_scan(tmp_path / "a.h5", 3)
    for each in scan.documents[:5]:
        collector.hear(*each)
    collector.forget(runs[0])
    for each in scan.documents[5:]:
        collector.hear(*each)
    assert collector.waiting == 0
    assert len(runs[0]) == 5


def test_the_queue_is_bounded_in_bytes() -> None:
    documents = DocumentQueue(limit_bytes=1 << 20)
    lists = [[1.0] * 100] * 100
    for number in range(20):
        documents("event", {"uid": f"e{number}", "data": {"image": lists}})
    assert 0 < documents.dropped < 20
    assert documents.nbytes <= 1 << 20
    documents("stop", {"run_start": "r"})
    taken = 0
    while documents.take(0) is not None:
        taken += 1
    assert taken == 20 - documents.dropped + 1
    assert documents.nbytes == 0


def test_pages_are_taken_apart(tmp_path: Path) -> None:
    from event_model import pack_event_page

    runs: list[Any] = []
    collector = Collector(runs.append)
    scan = step_scan(tmp_path / "a.h5", 3)
    events = [doc for name, doc in scan.documents if name == "event"]
    for name, doc in scan.documents:
        if name != "event":
            collector.hear(name, doc)
    collector.hear("event_page", pack_event_page(*events))
    assert [doc["data"] for name, doc in runs[0].since(0) if name == "event"] == [each["data"] for each in events]


HOSTILE: list[tuple[str, Any]] = [
    ("start", {}),
    ("start", {"uid": "../../etc/passwd"}),
    ("start", {"uid": 7}),
    ("start", {"uid": "x" * 65}),
    ("descriptor", {"uid": "d", "run_start": None}),
    ("descriptor", {"uid": ["d"], "run_start": "r"}),
    ("event", {"uid": "e"}),
    ("event_page", {"descriptor": "d", "uid": 7}),
    (
        "event_page",
        {"descriptor": "d", "uid": ["a"], "data": {"x": []}, "timestamps": {}, "seq_num": [1], "time": [1.0]},
    ),
    ("datum_page", {"resource": "r", "datum_id": None}),
    ("stream_datum", {"stream_resource": {}, "descriptor": "d"}),
    ("stop", {"run_start": 5}),
    ("bulk_events", {"x": 1}),
    ("__class__", {"uid": "x"}),
    ("__init__", {}),
    ("emit", {"uid": "x"}),
    ("hear", {"uid": "x"}),
    ("forget", {"uid": "x"}),
]


@pytest.mark.parametrize(("name", "doc"), HOSTILE, ids=lambda each: str(each)[:40])
@pytest.mark.filterwarnings("ignore:The document type 'bulk:UserWarning")
def test_a_hostile_document_is_refused_with_the_run_alive(
    tmp_path: Path, engine: Engine, name: str, doc: dict[str, Any]
) -> None:
    runs: list[Any] = []
    collector = Collector(runs.append)
    scan = step_scan(tmp_path / "a.h5", 2)
    for each in scan.documents[:4]:
        collector.hear(*each)
    collector.hear(name, doc)
    assert collector.refused == 1 or collector.waiting == 1
    for each in scan.documents[4:]:
        collector.hear(*each)
    assert len(runs) == 1
    assert len(runs[0]) == len(scan.documents)


def test_defaults_of_the_configuration() -> None:
    assert Config().attach.waiting == 8


def test_a_run_that_was_set_aside_goes_on_after_a_restart(tmp_path: Path, engine: Engine) -> None:
    first = Attached(tmp_path, patience=0.3, keep=tmp_path / "keep")
    silent, other = step_scan(write(tmp_path / "a.h5", 4), 4), step_scan(write(tmp_path / "b.h5", 2), 2)
    first.say(silent.documents[:6])
    first.say(other.documents)
    until(lambda: first.attachment.scans, "the other one")
    first.attachment.stop()
    first.thread.join(20)
    engine.errors.clear()
    second = Attached(tmp_path, keep=tmp_path / "keep")
    second.say(step_scan(write(tmp_path / "c.h5", 1), 1).documents)
    until(lambda: second.attachment.scans, "another one, which did not wait for it")
    assert not second.told("again")
    second.say(silent.documents[6:])
    second.close()
    assert second.told("again")
    assert not engine.errors
    assert projections(engine.scans[silent.uid]) == {i: (i, 10.0 * i) for i in range(4)}
    assert not list((tmp_path / "keep").glob("*.*s*"))


def test_runs_go_on_in_the_order_in_which_they_began_to_wait(tmp_path: Path) -> None:
    keeping = Keeping(tmp_path)
    for uid, name in (("b", "start"), ("a", "start"), ("c", "start"), ("b", "event"), ("a", "stop")):
        keeping.add(uid, name, {"uid": uid})
    assert keeping.runs() == ["b", "a", "c"]
    keeping.put_aside("b")
    assert (keeping.runs(), keeping.asides()) == (["a", "c"], ["b"])
    keeping.take_up("b")
    keeping.add("b", "event", {"uid": "b"})
    keeping.close()
    again = Keeping(tmp_path)
    assert (again.runs(), again.asides()) == (["a", "c", "b"], [])
    assert [doc["uid"] for _, doc in again.left()] == ["a", "a", "c", "b", "b", "b"]
    again.put_aside("c")
    again.forget("c")
    assert again.asides() == []
    again.close()
