"""Several ranks: the volume is the one that one rank makes, whatever happens to the slabs on the way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from engine_ranks import Ranks, stream_ranks
from engine_scans import D, F, P, Scan, batch, config, difference, read, read_volume, simulated, stream
from numpy.typing import NDArray

from streamrecon import failpoints
from streamrecon.config import SendConfig
from streamrecon.engine import Engine, slab_files
from streamrecon.engine.journal_beginning import look
from streamrecon.engine.journal_entries import HEAD, MARK
from streamrecon.engine.slab_files import SlabFiles
from streamrecon.errors import DiskFullError, JournalError, PlanError, RankError, ScanAbortedError
from streamrecon.scan import Frame, Gap
from streamrecon.transport import send_scan, subscribe
from streamrecon.wire.messages import Range

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    yield
    failpoints.arm("")


@pytest.fixture(scope="module")
def scan() -> Scan:
    return simulated(center=24.3, rows=14)


def slowly(scan: Scan, seconds: float = 0.01) -> Callable[[slice], Iterator[Frame]]:
    def frames(rows: slice) -> Iterator[Frame]:
        for frame in scan.frames(rows):
            time.sleep(seconds)
            yield frame

    return frames


def versions(out: Path) -> list[list[dict[str, Any]]]:
    """What each slab of each version that is there holds."""
    found = []
    for folder in sorted((out / "partials").glob("v*")):
        slabs = []
        for path in sorted(folder.glob("slab-*.h5")):
            with h5py.File(path, "r", locking=False) as file:
                process = file["entry/reconstruction"]
                slabs.append({name: process[name][()] for name in ("projection_indices", "theta", "coverage")})
                slabs[-1]["center"] = process["parameters/center"][()]
        found.append(slabs)
    return found


CASES: dict[str, dict[str, Any]] = {
    "direct": {},
    "fourier": {"recon": {"method": "fourier"}},
    "center to be found": {"recon": {"center": None}},
    "rings": {"normalize": {"rings": 7}},
    "flats after": {"late": True},
}


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("case", list(CASES))
def test_ranks_make_the_volume_of_one(scan: Scan, tmp_path: Path, case: str, size: int) -> None:
    options = dict(CASES[case])
    if options.pop("late", False):
        scan = scan.arranged(scan.of(D), scan.of(F)[:2], scan.of(P), scan.of(F)[2:])
    settings = config(emit={"every": 20}, **options)
    alone = stream(scan, settings, tmp_path / "alone")
    several = stream_ranks(scan, settings, tmp_path / "several", size)
    assert difference(several.volume, alone.volume) < 1e-5
    for name in ("projection_indices", "theta", "parameters/center", "parameters/rows"):
        one, other = (read(out, f"entry/reconstruction/{name}") for out in (several.out, alone.out))
        np.testing.assert_allclose(one, other, atol=1e-4)
    np.testing.assert_array_equal(read(several.out, "entry/data/z"), read(alone.out, "entry/data/z"))


def test_a_version_holds_the_same_in_every_slab(scan: Scan, tmp_path: Path) -> None:
    """While one rank is slower than the others, the center moves, and the order of the angles is that of nobody."""
    scan = scan.arranged(scan.of(D), scan.of(F), [scan.of(P)[(7 * i) % 60] for i in range(60)])
    settings = config(emit={"every": 8, "keep": 50}, recon={"center": None}, engine={"ring_bytes": 1 << 14})
    streamed = stream_ranks(scan, settings, tmp_path, 3, frames=slowly(scan, 0.03))
    assert streamed.result is not None
    assert streamed.result.final
    found = versions(tmp_path)
    assert len(found) >= 3
    for slabs in found:
        assert len(slabs) == 3
        for slab in slabs[1:]:
            np.testing.assert_array_equal(slab["projection_indices"], slabs[0]["projection_indices"])
            assert slab["center"] == slabs[0]["center"]
    counts = [len(slabs[0]["projection_indices"]) for slabs in found]
    assert counts == sorted(counts)
    assert counts[-1] == 60


@pytest.mark.parametrize(("rows", "size"), [(5, 3), (2, 4), (33, 2)])
def test_rows_that_do_not_share_evenly(tmp_path: Path, rows: int, size: int) -> None:
    """Also more ranks than rows: some have none, and end with the others."""
    scan = simulated(center=24.3, rows=rows, projections=30)
    streamed = stream_ranks(scan, config(emit={"every": 10}), tmp_path, size)
    assert difference(streamed.volume, batch(scan, config())) < 1e-5
    assert len(list((tmp_path / "partials" / "v0001").glob("slab-*.h5"))) == min(rows, size)


def test_some_rows_of_the_detector(scan: Scan, tmp_path: Path) -> None:
    settings = config(recon={"rows": (3, 12)})
    streamed = stream_ranks(scan, settings, tmp_path, 2)
    assert difference(streamed.volume, batch(scan, config())[3:12]) < 1e-5
    assert list(read(tmp_path, "entry/reconstruction/parameters/rows")) == [3, 12]


def test_previews_fit_together(tmp_path: Path) -> None:
    """No bin lies across two slabs, and the axis says where each slice is."""
    scan = simulated(center=24.3, rows=22)
    settings = config(emit={"every": 20, "preview": 4}, engine={"disk_bytes": 750_000})
    streamed = stream_ranks(scan, settings, tmp_path, 3, frames=slowly(scan, 0.005))
    assert streamed.told("version")[0]["binning"] == 4
    with h5py.File(tmp_path / "partials" / "v0001" / "slab-001.h5", "r", locking=False) as file:
        assert file["entry/data/data"].shape == (2, 12, 12)
        np.testing.assert_allclose(file["entry/data/z"][:] / 1e-6, [9.5, 13.5])
    assert read_volume(tmp_path).shape == (22, 48, 48)


def test_projections_that_are_taken_back(scan: Scan, tmp_path: Path) -> None:
    """Also after some slabs have come to a cut that holds them."""
    better = replace(scan.of(P)[10], data=scan.of(P)[11].data)

    def frames(rows: slice) -> Iterator[Frame | Gap]:
        for frame in scan.frames(rows):
            yield frame
            time.sleep(0.005)
            if frame.kind is P and frame.index in (20, 40):
                yield Gap(P, 10, 13, "the stage had slipped")
                for late in (better, *scan.of(P)[11:13]):
                    yield replace(late, data=np.ascontiguousarray(late.data[rows]))

    settings = config(emit={"every": 5, "keep": 50})
    streamed = stream_ranks(scan, settings, tmp_path, 3, frames=frames)  # type: ignore[arg-type]
    left = [better if f.index == 10 else f for f in scan.of(P)]
    expected = batch(scan.arranged(scan.of(D), scan.of(F), left), settings)
    assert difference(streamed.volume, expected) < 1e-4
    for slabs in versions(tmp_path):
        for slab in slabs[1:]:
            np.testing.assert_array_equal(slab["projection_indices"], slabs[0]["projection_indices"])


@pytest.mark.parametrize("who", ["sender", "engine"])
def test_a_scan_that_breaks_off_ends_alike_in_all_slabs(scan: Scan, tmp_path: Path, who: str) -> None:
    """Whatever each slab had got by then, the last version shows what all have."""

    def frames(rows: slice) -> Iterator[Frame]:
        for frame in scan.frames(rows):
            time.sleep(0.01)
            if who == "sender" and frame.kind is P and frame.index == 40:
                raise RuntimeError("the detector is on fire")
            yield frame

    def watch(engine: Engine) -> None:
        deadline = time.monotonic() + 20
        while who == "engine" and engine.status().in_volume < 30 and time.monotonic() < deadline:
            time.sleep(0.01)
        if who == "engine":
            engine.stop("the operator gave up")

    streamed = stream_ranks(scan, config(emit={"every": 1000}), tmp_path, 3, frames=frames, watch=watch)
    assert streamed.result is not None
    assert not streamed.result.final
    (slabs,) = versions(tmp_path)
    for slab in slabs[1:]:
        np.testing.assert_array_equal(slab["projection_indices"], slabs[0]["projection_indices"])
    indices = list(slabs[0]["projection_indices"])
    assert 25 <= len(indices) <= 58
    left = scan.arranged(scan.of(D), scan.of(F), [f for f in scan.of(P) if f.index in indices])
    gain = read(tmp_path, "entry/reconstruction/parameters/gain")
    assert difference(read_volume(tmp_path), gain * batch(left, config())) < 1e-4


def test_viewers_see_slices_of_all_slabs(scan: Scan, tmp_path: Path) -> None:
    settings = config(emit={"every": 20, "publish": f"ipc://{tmp_path / 'publish'}"})
    seen = []

    def watch(engine: Engine) -> None:
        assert engine.publish_endpoint is not None
        seen.extend(subscribe(engine.publish_endpoint))

    streamed = stream_ranks(scan, settings, tmp_path / "out", 3, watch=watch)
    volume, last = streamed.volume, seen[-1]
    assert last.update.final
    assert last.update.shape == volume.shape
    np.testing.assert_array_equal(last.axial, volume[7])
    np.testing.assert_array_equal(last.coronal, volume[:, 24])
    np.testing.assert_array_equal(last.sagittal, volume[:, :, 24])


@pytest.mark.parametrize(("previews", "method"), [(False, "fourier"), (True, "direct"), (True, "fourier")])
def test_slices_across_x_come_with_the_version(
    scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, previews: bool, method: str
) -> None:
    """And are those of its files, which would be read from end to end for each; of previews some are in full resolution."""
    volume, frames = 14 * 48 * 48 * 4, 70 * 14 * 48 * 2
    disk = 3 * (frames + 3 * volume) if previews else None
    settings = config(
        recon={"method": method},
        emit={"every": 5, "publish": f"ipc://{tmp_path / 'publish'}", "preview": 2},
        engine={"disk_bytes": disk},
    )
    monkeypatch.setattr(slab_files, "SMALL", 0)
    for module in "rank", "publishing":
        monkeypatch.setattr(f"streamrecon.engine.{module}.PREVIEW", 16)
    rows, read_, seen = SlabFiles.rows, [], []

    def rows_(files: SlabFiles, slices: Range, rows_: Range) -> NDArray[np.float32]:
        read_.append((files, slices, rows_))
        return rows(files, slices, rows_)

    monkeypatch.setattr(SlabFiles, "rows", rows_)

    def watch(engine: Engine) -> None:
        assert engine.publish_endpoint is not None
        seen.extend(subscribe(engine.publish_endpoint, z=7, x=30))

    stream_ranks(scan, settings, tmp_path / "out", 3, frames=slowly(scan), watch=watch)
    for slices in seen:
        across, along = (48 // image.shape[1] for image in (slices.sagittal, slices.axial))
        if across == along:
            one, other = slices.sagittal[7 // across], slices.axial[:, 30 // along]
            np.testing.assert_allclose(one, other, rtol=0, atol=5e-6 * np.abs(slices.axial).max())
    assert seen[-2].axial.shape == (48, 48)
    assert seen[-2].coronal.shape == seen[-2].sagittal.shape == (14, 48)
    assert [slices.update.binning > 1 for slices in seen[-2:]] == [previews, False]
    last = read_[-1][0]
    assert not any(files is last and slices[1] - slices[0] > 1 and rows_ == (0, 48) for files, slices, rows_ in read_)


def test_one_slow_rank_paces_the_scan(scan: Scan, tmp_path: Path) -> None:
    """Every sixth frame waits a second for one disk; the sender keeps no more than it may, and all slabs end alike."""
    failpoints.arm("journal.write=slow:40:42")
    settings = config(emit={"every": 10}, engine={"ring_bytes": 4 * 5 * 48 * 2})
    streamed = stream_ranks(scan, settings, tmp_path, 3)
    assert difference(streamed.volume, batch(scan, config())) < 1e-5
    assert streamed.report is not None
    assert streamed.report.waited > 0.5


def test_the_disk_of_one_rank_is_full_for_a_while(scan: Scan, tmp_path: Path) -> None:
    failpoints.arm("journal.write=full:50:51")
    alarms: set[str] = set()

    def watch(engine: Engine) -> None:
        deadline = time.monotonic() + 20
        while engine.status().phase != "ended" and time.monotonic() < deadline:
            alarms.add(engine.status().alarm or "")
            time.sleep(0.01)

    streamed = stream_ranks(scan, config(), tmp_path, 3, watch=watch)
    assert difference(streamed.volume, batch(scan, config())) < 1e-5
    assert any("make space" in alarm for alarm in alarms)


def test_a_plan_that_does_not_fit_is_refused_by_all(scan: Scan, tmp_path: Path) -> None:
    streamed = stream_ranks(scan, config(engine={"memory_bytes": 1_000_000}), tmp_path, 2)
    assert isinstance(streamed.engine_error, PlanError | ScanAbortedError | RankError)
    assert isinstance(streamed.sender_error, ScanAbortedError)
    assert "memory" in str(streamed.sender_error)
    assert not (tmp_path / "volume.h5").exists()


def test_a_rank_that_fails_ends_the_job(scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here by the disk of its last slab; the others do not wait for ever."""
    from streamrecon.engine.output import Output

    write = Output.write_slab

    def failing(self: Output, cut: int, *arguments: Any) -> int:
        if self._rank == 1 and cut == 0:
            raise DiskFullError("No space left on device")
        return write(self, cut, *arguments)

    monkeypatch.setattr(Output, "write_slab", failing)
    ranks = Ranks(2, config(engine={"rank_timeout": 5.0}), tmp_path)
    sender = threading.Thread(target=_send, args=(scan, ranks.lead.endpoint), daemon=True)
    sender.start()
    ranks.join()
    assert isinstance(ranks.errors[0], JournalError)
    assert "rank 1" in str(ranks.errors[0])
    assert "--resume" in str(ranks.errors[0])
    assert ranks.results[0] is None


@pytest.mark.parametrize("who", [0, 1])
def test_a_slab_of_one_version_that_cannot_be_written(
    scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, who: int
) -> None:
    """There is no such version; the next one, and the last, are as if nothing had happened."""
    from streamrecon.engine.output import Output

    write = Output.write_slab

    def failing(self: Output, cut: int, *arguments: Any) -> int:
        if self._rank == who and cut == 2:
            raise DiskFullError("No space left on device")
        return write(self, cut, *arguments)

    monkeypatch.setattr(Output, "write_slab", failing)
    streamed = stream_ranks(scan, config(emit={"every": 8}), tmp_path, 2, frames=slowly(scan, 0.02))
    assert difference(streamed.volume, batch(scan, config())) < 1e-5
    assert [event["cut"] for event in streamed.told("spoilt")][:1] == [2]
    assert len(streamed.told("version")) >= 2
    assert not list((tmp_path / "partials").glob(".*"))


def test_a_scan_that_breaks_off_before_all_slabs_have_the_same(scan: Scan, tmp_path: Path) -> None:
    """The disk of one rank is full from its first projection on, and the operator gives up: nothing is in all slabs."""
    failpoints.arm("journal.write=full:30:1000000")

    def watch(engine: Engine) -> None:
        deadline = time.monotonic() + 20
        while not engine.status().alarm and time.monotonic() < deadline:
            time.sleep(0.01)
        engine.stop("the operator gave up")

    streamed = stream_ranks(scan, config(), tmp_path, 2, watch=watch)
    assert streamed.result is not None
    assert not streamed.result.final
    assert streamed.result.reason == "the operator gave up"


def _send(scan: Scan, endpoint: str, live: bool = False, errors: list[Exception] | None = None) -> None:
    try:
        send_scan(
            scan.info, slowly(scan, 0.02), endpoint, can_replay=not live, connect_timeout=20.0, heartbeat=0.2,
            peer_timeout=1.5, options=SendConfig(return_timeout=30.0),
        )  # fmt: skip
    except Exception as error:
        if errors is not None:
            errors.append(error)


def killed(ranks: Ranks) -> None:
    """As a job that is killed: no word to anybody, the journals stay as they are."""
    engines = [engine for engine in ranks.engines if engine is not None]
    for engine in engines:
        engine._ingest._end.abandon()
        engine._ingest._stopped = True
        engine._ingest._wakeup.set()
    for engine in engines:
        assert engine._ingest._over.wait(5)
        engine._hangs = True  # gives nothing back
        engine._error = RankError("killed")
        engine._done.set()
        if engine._rank is not None:
            engine._rank._council = Stopped()  # type: ignore[assignment]
            engine._rank.stop("killed")
    ranks.join(10)
    for engine in engines:
        engine._compute.join(10)
        assert not engine._compute.is_alive()
        journal = engine._preparation.journal
        if journal is not None:
            journal.close(keep=True)
        engine._story.close()
        engine._lock.release()


class Stopped:
    """A council that ends a rank where it is."""

    def report(self, report: Any) -> None:
        raise RankError("killed")

    def orders(self, patience: float = 0.0) -> list[Any]:
        raise RankError("killed")


@pytest.mark.parametrize(("size", "live"), [(1, False), (2, False), (2, True)])
def test_a_journal_that_is_damaged_after_its_end_was_written(scan: Scan, tmp_path: Path, size: int, live: bool) -> None:
    """The sender had said that this was all; what is damaged is asked for again all the same, by one slab only."""
    endpoint = f"ipc://{tmp_path / 'engine'}"
    engine = {"listen": endpoint, "sync_seconds": 0.0, "return_timeout": 30.0, "heartbeat": 0.05, "delay": 0.06}
    settings, out = config(engine=engine), tmp_path / "out"
    errors: list[Exception] = []
    sender = threading.Thread(target=_send, args=(scan, endpoint, live, errors), daemon=True)
    ranks = Ranks(2, settings, out)
    sender.start()
    deadline = time.monotonic() + 20
    while not any(event["event"] == "end" for event in ranks.events) and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(0.1)  # the other rank has it, too, and all is synced
    killed(ranks)
    path = sorted((out / "journal").glob("*/*.frames"))[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    settings = replace(settings, engine=replace(settings.engine, delay=0.0))
    ranks = Ranks(size, settings, out, resume=True)
    ranks.join()
    sender.join(10)
    assert not errors
    assert ranks.results[0].final
    indices = list(read(out, "entry/reconstruction/projection_indices"))
    if (
        live
    ):  # a detector's sender does not have it any more, and the other slab takes nothing more: it is final without
        (gone,) = set(range(60)) - set(indices)
        named = f"projections {gone} to {gone} never came; 1 lost by the engine, and not kept by the sender"
        assert read(out, "entry/reconstruction/missing") == named
    else:
        assert indices == list(range(60))
    left = [frame for frame in scan.of(P) if frame.index in indices]
    assert difference(read_volume(out), batch(scan.arranged(scan.of(D), scan.of(F), left), config())) < 1e-5


@pytest.mark.parametrize("number", [0, 1])
def test_a_flat_that_one_journal_has_lost_is_named_and_ends_nothing(scan: Scan, tmp_path: Path, number: int) -> None:
    """A detector's sender does not have it any more; the other slab has it still."""
    endpoint = f"ipc://{tmp_path / 'engine'}"
    engine = {"listen": endpoint, "sync_seconds": 0.0, "return_timeout": 30.0, "heartbeat": 0.05}
    settings, out = config(emit={"every": 10}, engine=engine), tmp_path / "out"
    errors: list[Exception] = []
    sender = threading.Thread(target=_send, args=(scan, endpoint, True, errors), daemon=True)
    ranks = Ranks(2, settings, out)
    sender.start()
    deadline = time.monotonic() + 20
    while ranks.lead.status().in_volume < 15 and time.monotonic() < deadline:
        time.sleep(0.002)
    killed(ranks)
    path = sorted((out / "journal").glob("*/*.frames"))[number]
    data = bytearray(path.read_bytes())
    rows = slice(*look(path).rows)
    nbytes = (rows.stop - rows.start) * 48 * 2
    start, stride = data.index(MARK), HEAD.size * (1 + -(-nbytes // HEAD.size))
    data[start + 6 * stride + HEAD.size + 100] ^= 1
    path.write_bytes(data)
    ranks = Ranks(2, settings, out, resume=True)
    ranks.join()
    sender.join(10)
    assert not errors
    assert ranks.results[0].final
    assert sum(event["event"] == "version" for event in ranks.events) > 1, "slabs do not show versions together"
    assert (
        read(out, "entry/reconstruction/missing") == "1 flat never came: lost by the engine, and not kept by the sender"
    )
    left = [frame for frame in scan.of(F) if frame.index != 1]
    slabs = [batch(scan, config()), batch(scan.arranged(scan.of(D), left, scan.of(P)), config())]
    slabs[0][rows] = slabs[1][rows]
    assert difference(read_volume(out), slabs[0]) < 1e-5


@pytest.mark.parametrize("sizes", [(3, 3), (3, 2), (1, 3), (2, 5, 1)], ids=str)
@pytest.mark.parametrize("live", [True, False], ids=["live", "file"])
def test_restart_on_another_rank_count(scan: Scan, tmp_path: Path, sizes: tuple[int, ...], live: bool) -> None:
    endpoint = f"ipc://{tmp_path / 'engine'}"
    engine = {"listen": endpoint, "sync_seconds": 0.0, "return_timeout": 30.0, "heartbeat": 0.05}
    settings, out = config(emit={"every": 10}, engine=engine), tmp_path / "out"
    errors: list[Exception] = []
    sender = threading.Thread(target=_send, args=(scan, endpoint, live, errors), daemon=True)
    ranks = Ranks(sizes[0], settings, out)
    sender.start()
    for number, size in enumerate(sizes[1:], 1):
        deadline = time.monotonic() + 20
        while ranks.lead.status().in_volume < 15 * number and time.monotonic() < deadline:
            time.sleep(0.002)
        killed(ranks)
        ranks = Ranks(size, settings, out, resume=True)
    ranks.join()
    sender.join(10)
    assert not errors
    assert ranks.errors[0] is None
    assert ranks.results[0].final
    assert any(event["event"] == "resume" for event in ranks.events) or size > 1
    assert difference(read_volume(out), batch(scan, config())) < 1e-5
    assert list(read(out, "entry/reconstruction/projection_indices")) == list(range(60))
    assert not (out / "journal").exists()


def test_a_silent_rank_is_found(scan: Scan, tmp_path: Path) -> None:
    ranks = Ranks(3, config(engine={"rank_timeout": 3.0}), tmp_path)
    silenced = ranks.engines[2]
    assert silenced is not None
    silenced._ingest._talk.turn = lambda hear: None  # type: ignore[method-assign]
    ranks.join(60)
    assert isinstance(ranks.errors[0], RankError)
    assert "rank 2 has not been heard" in str(ranks.errors[0])


@pytest.mark.parametrize("size", [1, 2])
def test_a_hanging_rank_is_found(scan: Scan, tmp_path: Path, size: int) -> None:
    """Its sockets are served and its heart beats, but its work does not go on."""
    failpoints.arm("journal.write=slow:30:1000")
    ranks = Ranks(size, config(engine={"work_timeout": 0.5, "rank_timeout": 2.0}), tmp_path)
    sender = threading.Thread(target=_send, args=(scan, ranks.lead.endpoint), daemon=True)
    sender.start()
    ranks.join(30)
    assert isinstance(ranks.errors[0], RankError)
    assert "work" in str(ranks.errors[0]) or "heard" in str(ranks.errors[0])
    failpoints.arm("")
