"""What a sender keeps until it is durable, where, what it does when that is full; and several lanes of one scan."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transport_engine import Call, Source, TestEngine, limit, scan, wait_for

from streamrecon import failpoints
from streamrecon.config import SendConfig
from streamrecon.errors import RemoteProtocolError
from streamrecon.scan import Frame, FrameKind, Gap
from streamrecon.transport import send_scan
from streamrecon.transport.retention import Retention
from streamrecon.wire.messages import Lane

FAST: dict[str, Any] = {"heartbeat": 0.1, "peer_timeout": 5.0}
FRAME = 4 * 8 * 2
"""Bytes."""


@pytest.fixture(autouse=True)
def no_failpoints() -> Iterator[None]:
    yield
    failpoints.arm("")


def live(source: Source, engine: TestEngine, **options: Any) -> Call:
    return Call(
        send_scan, source.info, source, engine.endpoint, **FAST, can_replay=False, options=SendConfig(**options),
        progress=limit(),
    )  # fmt: skip


def indices(engine: TestEngine) -> list[int]:
    return [header.index for header, _ in engine.arrived]


def test_what_is_not_durable_is_kept_and_the_source_waits(ipc: str) -> None:
    source = Source(scan(40))
    with TestEngine(ipc, slots=30, durable=False) as engine:
        call = live(source, engine, retain_bytes=5 * FRAME)
        wait_for(lambda: len(engine.arrived) == 5)
        time.sleep(0.3)
        assert indices(engine) == list(range(5)), "more was sent than could be kept, though there was credit"
        engine.durable.set()
        report = call.result()
    assert report.frames == 40
    assert indices(engine) == list(range(40))


def test_a_spool_lets_the_source_run_on(ipc: str, tmp_path: Path) -> None:
    source = Source(scan(40))
    with TestEngine(ipc, slots=2) as engine:
        engine.hold.set()
        call = live(source, engine, retain_bytes=3 * FRAME, when_full="spool", spool=str(tmp_path))
        wait_for(lambda: source.read == 40)
        wait_for(lambda: len(engine.arrived) == 2)
        assert list(tmp_path.iterdir()) == [], "the spool has no name, so nothing of it can be left behind"
        engine.hold.clear()
        call.result()
    assert indices(engine) == list(range(40))
    for header, payload in engine.arrived:
        assert payload == source.pixels(header.index).tobytes()


def test_a_source_runs_on_while_the_engine_is_restarted(ipc: str, tmp_path: Path) -> None:
    source = Source(scan(60), delay=0.002)
    engine = TestEngine(ipc, slots=2)
    call = live(source, engine, retain_bytes=3 * FRAME, when_full="spool", spool=str(tmp_path))
    wait_for(lambda: len(engine.arrived) > 3)
    engine.close()
    wait_for(lambda: source.read == 60)
    with TestEngine(ipc) as fresh:
        report = call.result()
        # What the first one had taken for good is not kept any more.
        assert indices(fresh) == list(range(indices(fresh)[0], 60))
    assert report.sessions == 2
    assert indices(fresh)[0] <= len(engine.arrived)


def test_a_spool_is_bounded(ipc: str, tmp_path: Path) -> None:
    source = Source(scan(40))
    with TestEngine(ipc, slots=2) as engine:
        engine.hold.set()
        options = {"when_full": "spool", "spool": str(tmp_path), "spool_bytes": 10 * FRAME}
        call = live(source, engine, retain_bytes=3 * FRAME, **options)
        wait_for(lambda: source.read >= 13)
        time.sleep(0.3)
        assert source.read <= 13 + 6  # what the reading thread holds in its hands
        engine.hold.clear()
        call.result()
    assert indices(engine) == list(range(40))


def test_spool_disk_full(ipc: str, tmp_path: Path) -> None:
    failpoints.arm("spool.write=full:4:60")
    source = Source(scan(40))
    with TestEngine(ipc, slots=2, delay=0.01) as engine:
        call = live(source, engine, retain_bytes=3 * FRAME, when_full="spool", spool=str(tmp_path))
        report = call.result()
    assert report.dropped == 0
    assert indices(engine) == list(range(40))


def test_dropped_frames_are_counted_and_named(ipc: str) -> None:
    source = Source(scan(40))
    with TestEngine(ipc, slots=2) as engine:
        engine.hold.set()
        call = live(source, engine, retain_bytes=6 * FRAME, when_full="drop")
        wait_for(lambda: source.read == 40)
        time.sleep(0.3)  # the last ones are read ahead, and dropped a little later
        engine.hold.clear()
        report = call.result()
        assert report.dropped == 34
        assert indices(engine) == list(range(6))
        (ended,) = engine.ended
    assert ended.missing == ((6, 40),)
    assert ended.gaps == ((FrameKind.PROJECTION, "dropped by the sender, which had no room to keep them", 34),)
    assert report.missing == ((6, 40),)


def test_a_source_that_takes_a_frame_back(ipc: str) -> None:
    source = Source(scan(6))

    def frames(rows: slice) -> Iterator[Frame | Gap]:
        for frame in source(rows):
            yield frame
            if frame.index == 3:
                yield Gap(FrameKind.PROJECTION, 1, 3, "the stage had slipped")
                yield replace(frame, index=1, theta=float(source.info.theta[1]), data=frame.data + np.uint16(90))  # type: ignore[index]

    with TestEngine(ipc) as engine:
        report = send_scan(source.info, frames, engine.endpoint, **FAST, progress=limit())
        assert engine.ended[0].missing == ((2, 3),)
    assert indices(engine) == [0, 1, 2, 3, 1, 4, 5]
    assert report.frames == 5
    assert report.missing == ((2, 3),)


def test_a_pause_takes_nothing_from_the_source_and_is_told(ipc: str) -> None:
    source, pause = Source(scan(200), delay=0.005), threading.Event()
    with TestEngine(ipc) as engine:
        call = Call(send_scan, source.info, source, ipc, heartbeat=0.1, peer_timeout=1.5, pause=pause, progress=limit())
        wait_for(lambda: len(engine.arrived) > 5)
        pause.set()
        wait_for(lambda: engine.end.paused)
        time.sleep(0.2)
        came = len(engine.arrived)
        time.sleep(2.0)
        assert len(engine.arrived) == came
        assert engine.end.peer is not None, "a paused sender was taken for a silent one"
        pause.clear()
        call.result()
    assert indices(engine) == list(range(200))


def lanes(first: str, second: str, slots: int = 4, **options: Any) -> tuple[TestEngine, TestEngine]:
    other = TestEngine(second, slots, rows=(1, 4), **options)
    main = TestEngine(first, slots, rows=(0, 1), others=(Lane(rows=(1, 4), endpoint=other.endpoint),), **options)
    return main, other


def whole(source: Source, *engines: TestEngine) -> None:
    for engine, rows in zip(engines, (slice(0, 1), slice(1, 4)), strict=True):
        assert sorted(indices(engine)) == list(range(len(source.info.theta)))  # type: ignore[arg-type]
        for header, payload in engine.arrived:
            assert payload == source.pixels(header.index)[rows].tobytes()


def test_each_lane_gets_its_rows(ipc: str) -> None:
    source = Source(scan(40))
    main, other = lanes(ipc, "tcp://127.0.0.1:*")
    with main, other:
        report = send_scan(source.info, source, main.endpoint, **FAST, progress=limit())
        whole(source, main, other)
    assert source.passes == 1, "the source is read once for all lanes"
    assert report.frames == 40
    assert report.nbytes == 40 * FRAME


def test_the_slowest_lane_sets_the_pace(ipc: str) -> None:
    source = Source(scan(60))
    main, other = lanes(ipc, "tcp://127.0.0.1:*", slots=3)
    other.delay = 0.02
    with main, other:
        worst = 0

        def watch(_: object) -> None:
            nonlocal worst
            worst = max(worst, len(main.arrived) - len(other.arrived))

        send_scan(
            source.info, source, main.endpoint, **FAST, progress=watch, can_replay=False,
            options=SendConfig(retain_bytes=8 * FRAME),
        )  # fmt: skip
        whole(source, main, other)
    assert 3 <= worst <= 12, "one lane may be ahead of the other by what is kept, and no more"


def test_a_lane_that_is_restarted_gets_what_it_had_lost(ipc: str) -> None:
    source = Source(scan(80), delay=0.005)
    main, other = lanes(ipc, "tcp://127.0.0.1:*", durable=False)
    call = live(source, main)
    wait_for(lambda: len(other.arrived) > 8)
    other.close()
    with main, TestEngine(other.endpoint, rows=(1, 4)) as fresh:
        main.durable.set()
        report = call.result()
        whole(source, main, fresh)
    assert report.sessions == 2


def test_a_welcome_without_an_endpoint(ipc: str) -> None:
    source = Source(scan(5))
    with (
        TestEngine(ipc, rows=(0, 1), others=(Lane(rows=(1, 4)),)),
        pytest.raises(RemoteProtocolError, match="endpoint"),
    ):
        send_scan(source.info, source, ipc, **FAST, progress=limit())


def test_one_frame_always_has_room() -> None:
    retention = Retention(SendConfig(retain_bytes=1))
    frame = Frame(FrameKind.FLAT, 0, None, np.ones((4, 8), "<u2"))
    kept = retention.keep(frame)
    assert kept is not None
    assert retention.keep(frame) is None
    retention.free(kept)
    assert retention.keep(frame) is not None
    retention.close()


def test_a_spool_gives_back_what_it_took(tmp_path: Path) -> None:
    retention = Retention(SendConfig(retain_bytes=1, when_full="spool", spool=str(tmp_path), spool_bytes=3 * FRAME))
    rng = np.random.default_rng(1)
    frames = [Frame(FrameKind.PROJECTION, n, 0.1 * n, rng.integers(0, 99, (4, 8), np.uint16)) for n in range(20)]
    kept: list[Any] = []
    for frame in frames:
        place = retention.keep(frame)
        if place is None:
            retention.free(kept.pop(int(rng.integers(1, len(kept))))[1])
            place = retention.keep(frame)
        kept.append((frame, place))
        for each, where in kept:
            got = retention.rows(where, 1, 3)
            assert (got.kind, got.index, got.theta) == (each.kind, each.index, each.theta)
            np.testing.assert_array_equal(got.data, each.data[1:3])
        assert retention.spool_bytes <= 3 * FRAME
        assert retention.nbytes == len(kept) * FRAME
    retention.close()
