"""The journal: what was said to be durable is there after any crash, and nothing half written is taken for a frame."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgpack
import numpy as np
import pytest

from streamrecon import failpoints
from streamrecon.engine import journal
from streamrecon.engine.journal import Journal
from streamrecon.engine.journal_beginning import look
from streamrecon.engine.journal_entries import HEAD
from streamrecon.errors import DiskFullError, OutputError
from streamrecon.scan import FrameKind, Geometry, ScanInfo
from streamrecon.wire.digest import Digest, frame_hash

P, F, D = FrameKind.PROJECTION, FrameKind.FLAT, FrameKind.DARK
ROWS = (2, 5)


@pytest.fixture(autouse=True)
def no_failpoints() -> Iterator[None]:
    yield
    failpoints.arm("")


def scan(projections: int = 8, theta: bool = True) -> ScanInfo:
    angles = np.linspace(0, np.pi, projections) if theta else None
    counts = {P: projections, F: 2, D: None}
    return ScanInfo(
        "s-1", Geometry(7, 5, 1e-6, 2.5), np.dtype("<u2"), counts, angles, {"title": "Größe", "energy": 20.5}
    )


def pixels(kind: int, index: int) -> np.ndarray:
    return np.random.default_rng(100 * kind + index).integers(0, 1 << 16, (3, 5), np.uint16)


def put(each: Journal, kind: FrameKind, index: int, theta: float | None = None) -> None:
    data = pixels(kind, index)
    each.append(kind, index, theta, data, 0.0, frame_hash(data.data.cast("B")))


def end(each: Journal, projections: Iterable[int]) -> None:
    """The sender has sent these, a flat and a dark."""
    frames, digest = [(D, 0), (F, 0), *((P, index) for index in projections)], Digest()
    for kind, index in frames:
        digest.add(kind, index, frame_hash(pixels(kind, index).data.cast("B")))
    each.end(len(frames), digest.value)


def filled(path: Path, count: int = 6, **options: object) -> Journal:
    each = Journal(path, scan(), ROWS, **options)  # type: ignore[arg-type]
    put(each, D, 0)
    put(each, F, 0)
    for index in range(count):
        put(each, P, index, 0.1 * index)
    return each


def again(path: Path) -> Journal:
    return Journal(path, scan(), ROWS, resume=True)


def whole(each: Journal) -> list[tuple[int, int]]:
    """Identities of the frames that were recovered, each of which has its own pixels."""
    records = list(each.recovered())
    for record in records:
        np.testing.assert_array_equal(each.read([record])[0], pixels(record.kind, record.index))
    return [(record.kind, record.index) for record in records]


def test_what_was_written_is_recovered(tmp_path: Path) -> None:
    path = tmp_path / "journal" / "a.frames"
    filled(path, whole=(1, 6)).close(keep=True)
    found = look(path)
    assert (found.path, found.rows, found.whole, found.can_replay) == (path, ROWS, (1, 6), True)
    info, expected = found.info, scan()
    assert (info.uid, info.geometry, info.dtype, dict(info.counts)) == (
        expected.uid, expected.geometry, expected.dtype, dict(expected.counts),
    )  # fmt: skip
    assert dict(info.metadata) == dict(expected.metadata)
    np.testing.assert_array_equal(info.theta, expected.theta)
    each = again(path)
    assert each.damaged == 0
    assert not each.ended
    assert dict(each.inventory.counts) == {P: 6, F: 1, D: 1}
    assert each.inventory.hash_of(P, 3) == frame_hash(pixels(P, 3).data.cast("B"))
    assert whole(each) == [(D, 0), (F, 0), *((P, i) for i in range(6))]
    assert [record.theta for record in each.projections] == [0.1 * i for i in range(6)]
    assert [record.number for record in each.projections] == [2, 3, 4, 5, 6, 7]
    put(each, P, 6, 0.6)
    np.testing.assert_array_equal(each.read(each.projections[-1:], slice(1, 3))[0], pixels(P, 6)[1:3])
    each.close()
    assert not path.parent.exists()


def test_a_beginning_that_does_not_name_the_rows_of_all_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of before there were several."""
    path, packb = tmp_path / "a.frames", msgpack.packb
    monkeypatch.setattr(msgpack, "packb", lambda fields: packb({k: v for k, v in fields.items() if k != "whole"}))
    filled(path, whole=(1, 6)).close(keep=True)
    assert (look(path).rows, look(path).whole) == (ROWS, ROWS)
    each = again(path)
    assert len(whole(each)) == 8
    each.close()


def test_withdrawals_and_the_end_are_recovered(tmp_path: Path) -> None:
    path = tmp_path / "a.frames"
    each = filled(path)
    each.withdraw(3, 1)
    end(each, projections=[0, 1, 2, 4, 5])
    each.close(keep=True)
    each = again(path)
    assert each.ended
    assert each.inventory.hash_of(P, 3) is None
    list(each.recovered())
    assert [record.index for record in each.projections] == [0, 1, 2, 4, 5]
    each.close(keep=True)


def test_an_end_counts_as_long_as_all_that_it_ended_is_there(tmp_path: Path) -> None:
    """What was damaged is asked for, and then the end counts again, however often the scan is gone on with."""
    path = tmp_path / "a.frames"
    each = filled(path)
    end(each, range(6))
    each.close(keep=True)
    data = bytearray(path.read_bytes())
    stride = 128  # a head and 30 bytes of pixels
    data[len(data) - 3 * stride + HEAD.size] ^= 1
    path.write_bytes(data)
    each = again(path)
    assert (each.ended, each.damaged) == (False, 1)
    list(each.recovered())
    assert [record.index for record in each.projections] == [0, 1, 2, 3, 5]
    put(each, P, 4, 0.4)
    end(each, range(6))
    each.close(keep=True)
    each = again(path)
    assert (each.ended, each.damaged) == (True, 1)
    each.close(keep=True)


def test_a_projection_that_came_again_after_its_withdrawal(tmp_path: Path) -> None:
    path = tmp_path / "a.frames"
    each = filled(path)
    each.withdraw(3, 1)
    put(each, P, 3, 0.3)
    each.close(keep=True)
    each = again(path)
    list(each.recovered())
    assert [(record.index, record.number) for record in each.projections][-2:] == [(5, 7), (3, 9)]
    each.close()


def test_positions_are_recovered(tmp_path: Path) -> None:
    path = tmp_path / "a.frames"
    each = filled(path, 2)
    data = pixels(F, 1)
    record = each.append(F, 1, None, data, 0.0, frame_hash(data.data.cast("B")), 100_000_007)
    assert record.position == 100_000_007
    each.close(keep=True)
    each = again(path)
    list(each.recovered())
    assert [(record.position, record.theta) for record in each.flats] == [(0, 0.0), (100_000_007, 0.0)]
    assert [(record.position, record.theta) for record in each.projections] == [(0, 0.0), (0, 0.1)]
    each.close()


STRIDE = HEAD.size + 64


def spoil(path: Path, *entries: tuple[int, int]) -> None:
    """Bytes at these offsets in these entries cannot be trusted any more."""
    data = bytearray(path.read_bytes())
    for entry, offset in entries:
        data[4096 + entry * STRIDE + offset] ^= 1
    path.write_bytes(data)


def test_a_withdrawal_that_is_lost_is_asked_for_again(tmp_path: Path) -> None:
    """No later GAP counts as followed, so the sender says all of them again."""
    path = tmp_path / "a.frames"
    each = filled(path)
    for index, number in ((1, 1), (3, 2), (None, 3), (4, 4)):
        each.withdraw(index, number)
    each.close(keep=True)
    spoil(path, (9, 20))
    each = again(path)
    assert each.damaged == 1
    assert (each.inventory.followed, each.gap) == (1, (0, 1))
    list(each.recovered())
    assert [record.index for record in each.projections] == [0, 2, 3, 5]
    each.withdraw(3, 4)
    each.close(keep=True)
    each = again(path)
    list(each.recovered())
    assert (each.inventory.followed, [record.index for record in each.projections]) == (1, [0, 2, 5])
    each.close()


@pytest.mark.parametrize("damaged", [False, True], ids=["sound", "its pixels are lost"])
def test_another_frame_under_a_name_tells_that_the_first_was_withdrawn(tmp_path: Path, damaged: bool) -> None:
    path = tmp_path / "a.frames"
    each = filled(path)
    each.withdraw(3, 1)
    data = pixels(P, 99)
    each.append(P, 3, 0.3, data, 0.0, frame_hash(data.data.cast("B")))
    put(each, P, 7, 0.7)
    each.close(keep=True)
    spoil(path, (8, 20), *([(9, HEAD.size)] if damaged else []))
    each = again(path)
    assert each.inventory.hash_of(P, 3) == (None if damaged else frame_hash(data.data.cast("B")))
    list(each.recovered())
    numbers = {record.index: record.number for record in each.projections}
    assert numbers.get(3) == (None if damaged else 9)
    assert len(each.inventory) == 8 + (not damaged)
    each.close()


@pytest.mark.parametrize("cut", range(1, 2 * (HEAD.size + 64), 13))
def test_a_torn_tail_is_cut(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "a.frames"
    filled(path).close(keep=True)
    size = path.stat().st_size
    os.truncate(path, size - cut)
    each = again(path)
    identities = whole(each)
    gone = 1 if cut <= HEAD.size + 64 else 2  # 30 bytes of pixels, and what makes them up to 64
    assert identities == [(D, 0), (F, 0), *((P, i) for i in range(6 - gone))]
    put(each, P, 7, 0.7)
    each.close(keep=True)
    each = again(path)
    assert each.damaged == 0, "what was cut off shows up again"
    assert whole(each) == [*identities, (P, 7)]
    each.close()


@pytest.mark.parametrize("seed", range(40))
def test_damage_anywhere_costs_the_entry_it_is_in_and_no_other(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    path = tmp_path / "a.frames"
    filled(path).close(keep=True)
    data = bytearray(path.read_bytes())
    stride = HEAD.size + 64
    hit = rng.randrange(8)
    inside = rng.randrange(HEAD.size) if rng.random() < 0.7 else HEAD.size + rng.randrange(30)
    at = 4096 + hit * stride + inside
    data[at] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    each = again(path)
    padding = inside in (5, 6, 7, *range(56, 64))
    expected = [(D, 0), (F, 0), *((P, i) for i in range(6))]
    if not padding:
        del expected[hit]
    assert whole(each) == expected
    assert each.damaged == (0 if padding else 1)
    assert len(each.inventory) == len(expected)
    each.close()


def test_entries_of_another_file_are_not_taken_for_its_own(tmp_path: Path) -> None:
    """A disk that gives an old block back where a new one was never written."""
    path, other = tmp_path / "a.frames", tmp_path / "b.frames"
    filled(path, 2).close(keep=True)
    filled(other, 6).close(keep=True)
    stride = HEAD.size + 64
    old = other.read_bytes()[4096 + 4 * stride :]
    with path.open("r+b") as file:
        file.seek(4096 + 4 * stride)
        file.write(old)
    each = again(path)
    assert whole(each) == [(D, 0), (F, 0), (P, 0), (P, 1)]
    each.close()


def test_a_hole_that_reads_as_zeros(tmp_path: Path) -> None:
    path = tmp_path / "a.frames"
    filled(path).close(keep=True)
    os.truncate(path, path.stat().st_size + 100_000)
    each = again(path)
    assert len(whole(each)) == 8
    each.close()


@pytest.mark.parametrize(
    "bad", [b"", b"x", b"SRJOURN1", b"SRJOURN1" + b"\xff" * 16, b"SRJOURN1" + bytes(16), b"\0" * 5000], ids=range(6)
)
def test_a_beginning_that_cannot_be_read(tmp_path: Path, bad: bytes) -> None:
    path = tmp_path / "journal" / "rows-00000-00003.frames"
    path.parent.mkdir()
    path.write_bytes(bad)
    with pytest.raises(OutputError, match="overwrite"):
        look(path)
    with pytest.raises(OutputError, match="beginning"):
        again(path)


@pytest.mark.parametrize("at", range(0, 240, 7))
def test_a_damaged_beginning_is_an_error_and_nothing_else(tmp_path: Path, at: int) -> None:
    path = tmp_path / "a.frames"
    filled(path).close(keep=True)
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)
    with pytest.raises(OutputError):
        look(path)


def test_entries_become_durable_in_time(tmp_path: Path) -> None:
    marks: list[int] = []
    each = filled(tmp_path / "a.frames", sync_seconds=0.1, durable=marks.append)
    deadline = time.monotonic() + 60
    while (not marks or marks[-1] < 8) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert marks[-1] == 8
    assert marks == sorted(set(marks))
    each.withdraw(0, 1)
    each.close()
    assert marks[-1] == 9


def test_many_bytes_become_durable_before_their_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "SYNC_BYTES", 300)
    marks: list[int] = []
    each = filled(tmp_path / "a.frames", sync_seconds=3600.0, durable=marks.append)
    deadline = time.monotonic() + 60
    while not marks and time.monotonic() < deadline:
        time.sleep(0.01)
    assert marks
    each.close()


def test_nothing_is_durable_before_it_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, marks = threading.Event(), []
    fdatasync = os.fdatasync

    def slow(file: int) -> None:
        go_on.wait(10)
        fdatasync(file)

    monkeypatch.setattr(os, "fdatasync", slow)
    each = filled(tmp_path / "a.frames", sync_seconds=0.0, durable=marks.append)
    time.sleep(0.2)
    assert marks == []
    go_on.set()
    each.close()
    assert marks[-1] == 8


def test_a_disk_that_cannot_sync_ends_the_journal(tmp_path: Path) -> None:
    """Whether the pages are still to be written is not known after such an error."""
    marks: list[int] = []
    failpoints.arm("journal.sync=error:1:99")
    each = filled(tmp_path / "a.frames", sync_seconds=0.2, durable=marks.append)
    deadline = time.monotonic() + 60
    while each._sync.error is None and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(OutputError, match="synced"):
        put(each, P, 7, 0.7)
    assert marks == []
    each.close()


@pytest.mark.parametrize("call", [1, 2, 3])
def test_a_full_disk_leaves_the_journal_as_it_was(tmp_path: Path, call: int) -> None:
    path = tmp_path / "a.frames"
    each = filled(path, 2)
    failpoints.arm(f"journal.write=full:{call}")
    frame = 2
    for _ in range(2):
        with contextlib.suppress(DiskFullError):
            put(each, P, frame, 0.0)
            frame += 1
            continue
        put(each, P, frame, 0.0)
        frame += 1
    each.close(keep=True)
    each = again(path)
    assert whole(each) == [(D, 0), (F, 0), *((P, i) for i in range(frame))]
    each.close()


CHILD = """
import sys, time
sys.path[:0] = [{tests!r}]
from pathlib import Path
from test_engine_journal import ROWS, Journal, P, put, scan
marks = [0]
def durable(n):
    print(n, flush=True)
    marks.append(n)
each = Journal(Path({path!r}), scan(500), ROWS, sync_seconds=0.0, durable=durable)
for index in range(500):
    put(each, P, index, 0.0)
    # Several syncs, however few frames a slow disk would take them for.
    while index % 100 == 99 and marks[-1] <= index:
        time.sleep(0.001)
"""


@pytest.mark.parametrize("where", ["write", "between", "written", "sync", "synced"])
@pytest.mark.parametrize("call", [1, 37])
def test_killed_anywhere_what_was_durable_is_there(tmp_path: Path, where: str, call: int) -> None:
    path = tmp_path / "a.frames"
    text = CHILD.format(tests=str(Path(__file__).parent), path=str(path))
    failing = f"journal.{where}=kill:{call if 'sync' not in where else min(call, 3)}"
    child = subprocess.run(
        [sys.executable, "-c", text],
        env={**os.environ, failpoints.VARIABLE: failing},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    said = max(map(int, child.stdout.split()), default=0)
    each = again(path)
    identities = whole(each)
    assert identities == [(P, i) for i in range(len(identities))]
    assert len(identities) >= said
    assert each.damaged <= 1
    each.close()
