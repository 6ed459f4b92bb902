"""Runs become frames: whatever the order of documents, each image once, with its angle."""

from __future__ import annotations

import contextlib
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from bluesky_scans import (
    COLUMNS,
    ROWS,
    STEP,
    Scan,
    collected,
    image,
    images,
    items,
    number_of,
    projections,
    shown,
    shuffled,
    source_of,
    step_scan,
    write,
)

from streamrecon.bluesky.mapping import load_mapping
from streamrecon.bluesky.passes import WINDOW
from streamrecon.errors import ScanAbortedError, SourceError
from streamrecon.scan import Frame, FrameKind, Gap

P, F, D = FrameKind.PROJECTION, FrameKind.FLAT, FrameKind.DARK
DET = {"shape": [1, ROWS, COLUMNS], "dtype": "array", "external": "STREAM:"}
LINEAR = {"from": "linear", "start": 0.0, "step": 10.0, "units": "deg"}


def test_a_step_scan(tmp_path: Path) -> None:
    (run,) = collected(step_scan(write(tmp_path / "a.h5", 4)).documents)
    source = source_of(run, STEP, tmp_path)
    info = source.info()
    assert (info.uid, info.frame_shape, info.dtype) == (run.uid, (ROWS, COLUMNS), np.dtype(np.uint16))
    assert info.counts[P] is None
    assert info.metadata["scan_id"] == 7
    assert shown(list(source.frames())) == [(P, i, i, 10.0 * i) for i in range(4)]
    assert shown(list(source.frames())) == [(P, i, i, 10.0 * i) for i in range(4)], "it can be read again"
    part = list(source.frames(slice(1, 2)))
    assert all(isinstance(each, Frame) and each.data.shape == (1, COLUMNS) for each in part)
    assert np.array_equal(part[2].data, image(2)[1:2])  # type: ignore[union-attr]


@pytest.mark.parametrize("seed", range(25))
def test_documents_in_any_order_some_twice(tmp_path: Path, seed: int) -> None:
    (run,) = collected(list(shuffled(step_scan(write(tmp_path / "a.h5", 6), 6).documents, seed)))
    assert projections(items(run, STEP, tmp_path)) == {i: (i, 10.0 * i) for i in range(6)}


@pytest.mark.parametrize("at_once", [True, False])
def test_a_rewind_after_a_pause_replaces_what_was_measured_again(tmp_path: Path, at_once: bool) -> None:
    """It repeats a seq_num; the rows of the file go on."""
    scan = Scan()
    scan.stream(det=DET, rot={})
    resource = scan.resource(write(tmp_path / "a.h5", 5))
    for row, number in enumerate([1, 2, 3, 2, 3]):
        scan.rows(resource, (row, row + 1), (number, number + 1))
        scan.event(number, rot=10.0 * number + (0.5 if row > 2 else 0.0))
    scan.stop(primary=3)
    (run,) = collected(scan.documents[:9])
    source = source_of(run, STEP, tmp_path)
    found: list[Any] = []
    if at_once:
        for name, doc in scan.documents[9:]:
            run.add(name, doc)
        found = list(source.frames())
    else:
        frames = source.frames()
        found = [next(frames) for _ in range(3)]
        for name, doc in scan.documents[9:]:
            run.add(name, doc)
        found += list(frames)
    # Also where this pass has not given what is taken out: one before a restart may have.
    assert [each.first for each in found if isinstance(each, Gap)] == [1, 2]
    assert projections(found) == {0: (0, 10.0), 1: (3, 20.5), 2: (4, 30.5)}


def test_several_frames_an_event(tmp_path: Path) -> None:
    scan = Scan()
    scan.stream(det={**DET, "shape": [3, ROWS, COLUMNS]}, rot={"shape": [3], "dtype": "array"})
    resource = scan.resource(write(tmp_path / "a.h5", 6))
    scan.rows(resource, (0, 2), (1, 3))
    scan.event(1, rot=[0.0, 1.0, 2.0])
    scan.event(2, rot=[3.0, 4.0, 5.0])
    scan.stop()
    (run,) = collected(scan.documents)
    assert shown(items(run, STEP, tmp_path)) == [(P, i, i, float(i)) for i in range(6)]


@pytest.mark.parametrize("form", ["array", "list", "int64", "stack"])
def test_images_in_events(tmp_path: Path, form: str) -> None:
    scan = Scan()
    shape = [1, ROWS, COLUMNS] if form == "stack" else [ROWS, COLUMNS]
    scan.stream(det={"shape": shape, "dtype": "array", "dtype_numpy": "<u2"}, rot={})
    for number in range(3):
        data: Any = image(number)
        data = {"list": data.tolist(), "int64": data.astype(np.int64), "stack": data[None]}.get(form, data)
        scan.event(number + 1, det=data, rot=10.0 * number)
    scan.stop()
    (run,) = collected(scan.documents)
    source = source_of(run, STEP, tmp_path)
    assert source.info().dtype == (np.float64 if form == "int64" else np.uint16)
    assert shown(list(source.frames())) == [(P, i, i, 10.0 * i) for i in range(3)]


def test_resource_and_datum_of_the_area_detector(tmp_path: Path) -> None:
    scan = Scan()
    scan.stream(det={"shape": [ROWS, COLUMNS], "dtype": "array", "external": "FILESTORE:"}, rot={})
    write(tmp_path / "a.h5", 6)
    resource = {
        "uid": "r-1", "spec": "AD_HDF5", "root": str(tmp_path), "resource_path": "a.h5", "path_semantics": "posix",
        "resource_kwargs": {"frame_per_point": 2}, "run_start": scan.uid,
    }  # fmt: skip
    scan.documents.append(("resource", resource))
    for point in range(3):
        datum = {"datum_id": f"r-1/{point}", "resource": "r-1", "datum_kwargs": {"point_number": point}}
        early, late = ("datum", datum), len(scan.documents)
        scan.event(point + 1, det=f"r-1/{point}", rot=[10.0 * point, 10.0 * point + 1])
        scan.documents.insert(late + (point == 1), early)
    scan.stop()
    (run,) = collected(scan.documents)
    expected = [(P, i, i, 10.0 * (i // 2) + i % 2) for i in range(6)]
    assert shown(items(run, STEP, tmp_path)) == expected


def test_a_stream_resource_of_before_there_were_uris(tmp_path: Path) -> None:
    scan = Scan()
    scan.stream(det={**DET, "shape": [ROWS, COLUMNS]}, rot={})
    write(tmp_path / "a.h5", 4, "data")
    doc = {
        "uid": "s-1", "spec": "AD_HDF5_SWMR_STREAM", "root": str(tmp_path), "resource_path": "a.h5", "data_key": "det",
        "resource_kwargs": {"path": "/data", "multiplier": 2}, "path_semantics": "posix", "run_start": scan.uid,
    }  # fmt: skip
    scan.documents.append(("stream_resource", doc))
    scan.rows("s-1", (0, 2), (1, 3))
    for number in (1, 2):
        scan.event(number, rot=[float(number), number + 0.5])
    scan.stop()
    (run,) = collected(scan.documents)
    assert shown(items(run, STEP, tmp_path)) == [(P, 0, 0, 1.0), (P, 1, 1, 1.5), (P, 2, 2, 2.0), (P, 3, 3, 2.5)]


def test_kinds_by_ranges_of_events_and_frames(tmp_path: Path) -> None:
    (run,) = collected(step_scan(write(tmp_path / "a.h5", 6), 6).documents)
    rules = {
        **STEP,
        "projection": {"range": "2:-1"},
        "dark": {"range": "0"},
        "flat": {"select": "frames", "range": "-1"},
    }
    found = shown(items(run, rules, tmp_path))
    assert sorted(found, key=lambda each: (each[0], each[1])) == [
        (P, 0, 2, 20.0), (P, 1, 3, 30.0), (P, 2, 4, 40.0), (F, 0, 5, None), (D, 0, 0, None),
    ]  # fmt: skip


def test_what_may_be_the_last_waits_for_the_next(tmp_path: Path) -> None:
    scan = step_scan(write(tmp_path / "a.h5", 3), 3)
    (run,) = collected(scan.documents[:-3])  # two of three events
    rules = {**STEP, "projection": {"range": ":-1"}, "flat": {"range": "-1"}}
    frames = source_of(run, rules, tmp_path).frames()
    assert shown([next(frames)]) == [(P, 0, 0, 0.0)]
    for name, doc in scan.documents[-3:]:
        run.add(name, doc)
    assert shown(list(frames)) == [(P, 1, 1, 10.0), (F, 0, 2, None)]


@pytest.mark.parametrize("where", ["event", "dataset"])
def test_kinds_by_an_image_key(tmp_path: Path, where: str) -> None:
    keys = [2, 1, 0, 0, 3, 1, 0]
    scan = Scan()
    external = {"external": "STREAM:"} if where == "dataset" else {}
    scan.stream(det=DET, rot={}, key=external)
    path = write(tmp_path / "a.h5", 7, keys=np.array(keys))
    resource = scan.resource(path)
    if where == "dataset":
        scan.rows(scan.resource(path, "key", "/keys"), (0, 7), (1, 8))
    for row in range(7):
        scan.rows(resource, (row, row + 1), (row + 1, row + 2))
        scan.event(row + 1, rot=float(row), **({"key": keys[row]} if where == "event" else {}))
    scan.stop()
    (run,) = collected(scan.documents)
    by_key = {"select": "image_key", "image_key": "key", "key": "det"}
    found = items(run, {**STEP, "projection": by_key, "flat": by_key, "dark": by_key}, tmp_path)
    assert sorted(shown(found), key=lambda each: (each[0], each[1])) == [
        (P, 0, 2, 2.0), (P, 1, 3, 3.0), (P, 2, 6, 6.0), (F, 0, 1, None), (F, 1, 5, None), (D, 0, 0, None),
    ]  # fmt: skip


def test_streams_of_flats_and_darks(tmp_path: Path) -> None:
    """FXI's third generation: the flats come last."""
    scan = step_scan(write(tmp_path / "a.h5", 3), 3, stop=False)
    for stream, count in (("dark", 1), ("flat", 2)):
        scan.stream(stream, det=DET)
        scan.rows(scan.resource(write(tmp_path / f"{stream}.h5", count)), (0, count), (1, count + 1), stream)
    scan.stop()
    (run,) = collected(scan.documents)
    rules = {**STEP, "flat": {"stream": "flat"}, "dark": {"stream": "dark"}}
    found = shown(items(run, rules, tmp_path))
    assert found == [*((P, i, i, 10.0 * i) for i in range(3)), (D, 0, 0, None), (F, 0, 0, None), (F, 1, 1, None)]


def test_flats_and_darks_of_other_runs(tmp_path: Path) -> None:
    """FXI's second generation."""
    others = []
    for kind, count in ((D, 1), (F, 2), (F, 1)):
        before = Scan(plan_name="calibrate")
        before.stream(det=DET)
        name = f"{kind.name}-{len(others)}.h5"
        before.rows(before.resource(write(tmp_path / name, count)), (0, count), (1, count + 1))
        before.stop()
        others.append((kind, collected(before.documents)[0]))
    (run,) = collected(step_scan(write(tmp_path / "a.h5", 2), 2).documents)
    own = {"select": "run", "match": {"plan_name": "calibrate"}, "key": "det"}
    found = shown(items(run, {**STEP, "flat": own, "dark": own}, tmp_path, others=others))
    assert found == [
        (D, 0, 0, None),
        (F, 0, 0, None),
        (F, 1, 1, None),
        (F, 2, 0, None),
        (P, 0, 0, 0.0),
        (P, 1, 1, 10.0),
    ]


# Angles.


def fly_scan(tmp_path: Path, count: int, **start: Any) -> Scan:
    scan = Scan(**start)
    scan.stream(det=DET, pos={"external": "STREAM:", "units": "deg"})
    scan.rows(scan.resource(tmp_path / "a.h5"), (0, count), (1, count + 1))
    return scan


@pytest.mark.parametrize(
    ("at", "expected"), [("middle", [0, 2, 4, 8]), ("start", [1, 3, 6, 10]), ("end", [-1, 1, 3, 6])]
)
def test_positions_captured_in_a_dataset(tmp_path: Path, at: str, expected: list[float]) -> None:
    write(tmp_path / "a.h5", 4, positions=np.array([0.0, 2.0, 4.0, 8.0]))
    scan = fly_scan(tmp_path, 4)
    scan.rows(scan.resource(tmp_path / "a.h5", "pos", "/positions"), (0, 4), (1, 5))
    scan.stop()
    (run,) = collected(scan.documents)
    rules = {"projection": {"key": "det"}, "theta": {"from": "dataset", "key": "pos", "at": at}}
    assert projections(items(run, rules, tmp_path)) == {i: (i, float(e)) for i, e in enumerate(expected)}


def test_angles_in_an_attribute_of_the_file(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", 3, entry__instrument__angle=np.array([0.0, 0.5, 1.0]))
    scan = fly_scan(tmp_path, 3)
    scan.stop()
    (run,) = collected(scan.documents)
    theta = {"from": "attribute", "key": "/entry/instrument/angle", "units": "rad", "scale": 2.0, "offset": 1.0}
    found = items(run, {"projection": {"key": "det"}, "theta": theta}, tmp_path)
    assert [round(each.theta, 9) for each in found if isinstance(each, Frame) and each.theta] == [1.0, 2.0, 3.0]


def test_even_steps_from_the_start_document(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", 3)
    scan = fly_scan(tmp_path, 3, plan_args={"from": -30, "step": "1.5"})
    scan.stop()
    (run,) = collected(scan.documents)
    theta = {"from": "linear", "start": "start.plan_args.from", "step": "start.plan_args.step", "units": "deg"}
    assert projections(items(run, {"projection": {"key": "det"}, "theta": theta}, tmp_path)) == {
        0: (0, -30.0), 1: (1, -28.5), 2: (2, -27.0),
    }  # fmt: skip


EPICS = 631152000.0


@pytest.mark.parametrize("align", ["absolute", "first_motion"])
@pytest.mark.parametrize("clock", ["unix", "epics"])
def test_a_motor_that_is_watched(tmp_path: Path, align: str, clock: str) -> None:
    """Times of frames in the file, of the motor in a stream of its own, whose clock may be another one."""
    off = 17.0 if align == "first_motion" else 0.0
    times = 1000.0 + np.arange(5) - (EPICS if clock == "epics" else 0.0) + off
    seconds = np.floor(times)
    write(tmp_path / "a.h5", 5, sec=seconds, nsec=(times - seconds) * 1e9)
    scan = fly_scan(tmp_path, 5)
    scan.stream("motor_monitor", motor={"units": "deg"})
    for number, (at, position) in enumerate([(990.0, 3.0), (1000.0, 3.0), (1002.0, 23.0), (1004.0, 43.0)]):
        scan.event(number + 1, "motor_monitor", {"motor": at}, motor=position)
    scan.stop()
    (run,) = collected(scan.documents)
    theta = {"from": "monitor", "key": "motor", "times": ["/sec", "/nsec"], "clock": clock, "align": align}
    found = projections(items(run, {"projection": {"key": "det"}, "theta": theta}, tmp_path))
    assert {i: (n, round(t, 3)) for i, (n, t) in found.items()} == {i: (i, 3.0 + 10.0 * i) for i in range(5)}


def test_units_are_those_given_then_those_of_the_descriptor(tmp_path: Path) -> None:
    (run,) = collected(step_scan(write(tmp_path / "a.h5", 2), 2).documents)  # it says mm
    rules = {**STEP, "theta": {"from": "event", "key": "rot"}}
    with pytest.raises(SourceError, match="rot has units"):
        items(run, rules, tmp_path)


# What does not come.


def test_an_angle_that_never_comes_is_a_gap(tmp_path: Path) -> None:
    scan = step_scan(write(tmp_path / "a.h5", 4), 4)
    lost = [each for each in scan.documents if not (each[0] == "event" and each[1]["seq_num"] == 3)]
    (run,) = collected(lost)
    found = items(run, STEP, tmp_path)
    assert sorted(shown(found), key=lambda e: e[1]) == [(P, 0, 0, 0.0), (P, 1, 1, 10.0), (P, 2, 3), (P, 3, 3, 30.0)]
    assert "angle" in next(each for each in found if isinstance(each, Gap)).reason


@pytest.mark.parametrize("lost", [[1], [0], [2, 3], [3], [0, 1, 2]])
def test_a_document_that_was_missed_is_made_up_for_by_a_later_one(tmp_path: Path, lost: list[int]) -> None:
    """Of an image; its angle is in the file."""
    write(tmp_path / "a.h5", 4)
    scan = Scan()
    scan.stream(det=DET)
    resource = scan.resource(tmp_path / "a.h5")
    for number in range(4):
        scan.rows(resource, (number, number + 1), (number + 1, number + 2))
    scan.stop(primary=4)
    kept = [doc for i, doc in enumerate(scan.documents) if i - 3 not in lost]
    (run,) = collected(kept)
    found = items(run, {"projection": {"key": "det"}, "theta": LINEAR}, tmp_path)
    assert projections(found) == {i: (i, 10.0 * i) for i in range(4)}


def test_rows_that_the_file_never_gets_are_gaps(tmp_path: Path) -> None:
    (run,) = collected(step_scan(write(tmp_path / "a.h5", 2), 4).documents)
    found = items(run, STEP, tmp_path)
    assert shown(found) == [(P, 0, 0, 0.0), (P, 1, 1, 10.0), (P, 2, 4)]
    assert "ends after 2 frames" in found[-1].reason  # type: ignore[union-attr]


def test_a_file_that_comes_late(tmp_path: Path) -> None:
    (run,) = collected(step_scan(tmp_path / "a.h5", 2).documents)
    source = source_of(run, STEP, tmp_path)
    clock: Any = source.clock

    def sleep(seconds: float) -> None:
        clock.now += seconds
        if clock.now > 1003 and not (tmp_path / "a.h5").exists():
            write(tmp_path / "a.h5", 2)

    source.sleep = sleep
    assert shown(list(source.frames())) == [(P, 0, 0, 0.0), (P, 1, 1, 10.0)]


def test_flats_whose_images_are_there_first_keep_their_place(tmp_path: Path) -> None:
    scan = step_scan(write(tmp_path / "a.h5", 3), 3, stop=False)
    scan.stream("flat", det=DET)
    scan.rows(scan.resource(write(tmp_path / "flat.h5", 2)), (0, 2), (1, 3), "flat")
    scan.stop()
    (run,) = collected(scan.documents)
    source = source_of(run, {**STEP, "flat": {"stream": "flat"}}, tmp_path)
    info = source.info()
    (tmp_path / "a.h5").unlink()
    clock: Any = source.clock

    def sleep(seconds: float) -> None:
        clock.now += seconds
        if clock.now > 1003 and not (tmp_path / "a.h5").exists():
            write(tmp_path / "a.h5", 3)

    source.sleep = sleep
    found = [each for each in source.frames(info=info) if isinstance(each, Frame)]
    assert [(each.kind, each.index, each.position) for each in found] == [
        (F, 0, 3), (F, 1, 3), (P, 0, None), (P, 1, None), (P, 2, None),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("status", "word"), [("abort", "aborted: a button"), ("fail", "failed: a button"), ("odd", "ended with 'odd'")]
)
def test_a_run_that_was_not_completed(tmp_path: Path, status: str, word: str) -> None:
    scan = step_scan(write(tmp_path / "a.h5", 2), 2, stop=False)
    scan.stop(status, "a button")
    (run,) = collected(scan.documents)
    frames = source_of(run, STEP, tmp_path).frames()
    assert shown([next(frames), next(frames)]) == [(P, 0, 0, 0.0), (P, 1, 1, 10.0)], "what it has comes first"
    with pytest.raises(ScanAbortedError, match=word):
        next(frames)


def test_a_run_whose_documents_break_off(tmp_path: Path) -> None:
    (run,) = collected(step_scan(write(tmp_path / "a.h5", 2), 2, stop=False).documents)
    run.give_up("the pipe was closed")
    with pytest.raises(ScanAbortedError, match="the pipe was closed"):
        items(run, STEP, tmp_path)


def test_a_run_without_images(tmp_path: Path) -> None:
    scan = Scan()
    scan.stop()
    (run,) = collected(scan.documents)
    with pytest.raises(SourceError, match="without an image"):
        items(run, STEP, tmp_path)


# Hostile and broken ones.


def hostile(scan: Scan, change: str) -> None:
    """Change the third image's documents, or what is before all."""
    for name, doc in scan.documents:
        if name == "stream_resource":
            if change == "a path outside":
                doc["uri"] = "file://localhost/etc/passwd"
            elif change == "traversal":
                doc["uri"] = doc["uri"].replace("/a.h5", "/../../../etc/passwd")
            elif change == "a mimetype":
                doc["mimetype"] = "application/x-evil"
            elif change == "no dataset":
                doc["parameters"] = {"dataset": 7}
            elif change == "a dataset that is none":
                doc["parameters"] = {"dataset": "/entry"}
            elif change == "no parameters":
                doc["parameters"] = None
        if name == "stream_datum" and doc["indices"]["start"] == 2:
            if change == "huge indices":
                doc["indices"] = {"start": 2, "stop": 1 << 60}
            elif change == "texts as indices":
                doc["indices"] = {"start": "2", "stop": "3"}
            elif change == "no ranges":
                del doc["indices"]
            elif change == "ranges that do not fit":
                doc["seq_nums"] = {"start": 3, "stop": 9}
        if name == "event" and doc["seq_num"] == 3:
            if change == "an angle that is none":
                doc["data"]["rot"] = float("nan")
            elif change == "an angle that is a text":
                doc["data"]["rot"] = "east"
            elif change == "no data":
                doc["data"] = None
            elif change == "a number that is none":
                doc["seq_num"] = 2.5


@pytest.mark.parametrize(
    "change", ["a path outside", "traversal", "a mimetype", "no dataset", "a dataset that is none", "no parameters"]
)
def test_what_may_not_be_read_is_refused(tmp_path: Path, change: str) -> None:
    scan = step_scan(write(tmp_path / "a.h5", 4), 4)
    hostile(scan, change)
    (run,) = collected(scan.documents)
    with pytest.raises(SourceError, match="without an image"):
        source_of(run, STEP, tmp_path).info()


@pytest.mark.parametrize("change", ["huge indices", "texts as indices", "no ranges", "ranges that do not fit"])
def test_a_document_that_cannot_be_costs_nothing_else(tmp_path: Path, change: str) -> None:
    """Here not even its own image, of which the next one tells."""
    scan = step_scan(write(tmp_path / "a.h5", 4), 4)
    hostile(scan, change)
    (run,) = collected(scan.documents)
    assert projections(items(run, STEP, tmp_path)) == {i: (i, 10.0 * i) for i in range(4)}


@pytest.mark.parametrize(
    "change", ["an angle that is none", "an angle that is a text", "no data", "a number that is none"]
)
def test_an_event_that_cannot_be_costs_its_image(tmp_path: Path, change: str) -> None:
    scan = step_scan(write(tmp_path / "a.h5", 4), 4)
    hostile(scan, change)
    (run,) = collected(scan.documents)
    assert projections(items(run, STEP, tmp_path)) == {i: (i, 10.0 * i) for i in (0, 1, 3)}


def test_images_of_another_shape_or_type_are_left_out(tmp_path: Path) -> None:
    scan = Scan()
    scan.stream(det={"shape": [ROWS, COLUMNS], "dtype": "array"}, rot={})
    for number, data in enumerate([image(0), image(1)[:2], image(2).astype(np.float64), image(3)]):
        scan.event(number + 1, det=data, rot=10.0 * number)
    scan.stop()
    (run,) = collected(scan.documents)
    found = items(run, STEP, tmp_path)
    assert projections(found) == {0: (0, 0.0), 3: (3, 30.0)}
    assert next(each.reason for each in found if isinstance(each, Gap)).startswith("the image is uint16 (2, 5)")


def test_a_file_with_another_shape_than_the_document_says(tmp_path: Path) -> None:
    """A document is a hint."""
    scan = Scan()
    scan.stream(det={**DET, "shape": [COLUMNS, ROWS, 1]}, rot={})
    scan.descriptors["primary"].descriptor_doc["data_keys"]["det"]["shape"] = [1, 700, 2]
    resource = scan.resource(write(tmp_path / "a.h5", 1))
    scan.rows(resource, (0, 1), (1, 2))
    scan.event(1, rot=[0.0])
    scan.stop()
    (run,) = collected(scan.documents)
    assert source_of(run, STEP, tmp_path).info().frame_shape == (ROWS, COLUMNS)


@pytest.mark.parametrize("name", ["fxi-first-last", "fxi-streams"])
def test_fxi_profiles(tmp_path: Path, name: str) -> None:
    """All documents at the end, resource and datum, angles from the watched motor."""
    scan = Scan(plan_name="fly_scan", XEng=8.9)
    attributes = "entry/instrument/NDAttributes"
    parts = [("dark", 2), ("primary", 6), ("flat", 3)]
    times = 1000.0 + np.arange(6) - EPICS
    if name == "fxi-first-last":
        streams = {"primary": [("primary", 2), ("primary", 2), ("primary", 2)]}
    else:
        streams = {each: [(each, count)] for each, count in parts}
    for stream, events in streams.items():
        per = events[0][1]
        scan.stream(stream, Andor_image={"shape": [per, ROWS, COLUMNS], "dtype": "array", "external": "FILESTORE:"})
        path = tmp_path / f"{stream}.h5"
        with h5py.File(path, "w") as file:
            count = per * len(events)
            file["entry/data/data"] = images(range(count))
            at = times if count == 6 else times[:count]
            file[f"{attributes}/NDArrayEpicsTSSec"] = np.floor(at)
            file[f"{attributes}/NDArrayEpicsTSnSec"] = np.zeros(count)
        scan.documents.append(("resource", {
            "uid": f"r-{stream}", "spec": "AD_HDF5", "root": "/", "resource_path": str(path).lstrip("/"), "run_start": scan.uid,
            "path_semantics": "posix", "resource_kwargs": {"frame_per_point": per},
        }))  # fmt: skip
        for point in range(len(events)):
            datum = {
                "datum_id": f"r-{stream}/{point}",
                "resource": f"r-{stream}",
                "datum_kwargs": {"point_number": point},
            }
            scan.documents.append(("datum", datum))
            scan.event(point + 1, stream, Andor_image=f"r-{stream}/{point}")
    scan.stream("zps_pi_r_monitor", zps_pi_r={"units": "deg"})
    first = 2 if name == "fxi-first-last" else 0
    for number in range(8):
        at = 1000.0 + number
        scan.event(number + 1, "zps_pi_r_monitor", {"zps_pi_r": at}, zps_pi_r=max(0.0, 10.0 * (number - first)))
    scan.stop()
    (run,) = collected(scan.documents)
    source = source_of(run, load_mapping(name), tmp_path)
    assert source.info().metadata["energy"] == 8.9
    found = list(source.frames())
    kinds = [each.kind for each in found if isinstance(each, Frame)]
    if name == "fxi-first-last":
        assert (kinds.count(P), kinds.count(F), kinds.count(D)) == (2, 2, 2)
        assert projections(found) == {0: (2, 0.0), 1: (3, 10.0)}
    else:
        assert (kinds.count(P), kinds.count(F), kinds.count(D)) == (6, 3, 2)
        assert projections(found) == {i: (i, 10.0 * i) for i in range(6)}


def test_rows_that_were_never_written_are_gaps(tmp_path: Path) -> None:
    """A detector that dropped frames leaves holes in its file, which HDF5 reads as zeros."""
    with h5py.File(tmp_path / "a.h5", "w", libver="latest") as file:
        data = file.create_dataset("entry/data/data", (5, ROWS, COLUMNS), "u2", chunks=(1, ROWS, COLUMNS))
        for row in (0, 1, 3):
            data[row] = image(row)
    (run,) = collected(step_scan(tmp_path / "a.h5", 5).documents)
    found = items(run, STEP, tmp_path)
    assert projections(found) == {i: (i, 10.0 * i) for i in (0, 1, 3)}
    assert all("never written" in each.reason for each in found if isinstance(each, Gap))


@pytest.mark.parametrize("first", ["image", "angle"])
def test_what_is_measured_again_has_its_own_angle(tmp_path: Path, first: str) -> None:
    """The image may come before its angle: the angle of the first time does not count for it."""
    scan = Scan()
    scan.stream(det=DET, rot={})
    resource = scan.resource(write(tmp_path / "a.h5", 3))
    for row, (number, angle) in enumerate([(1, 0.0), (2, 20.0), (2, 27.5)]):
        scan.rows(resource, (row, row + 1), (number, number + 1))
        scan.event(number, rot=angle)
        if first == "angle":
            scan.documents[-2:] = scan.documents[:-3:-1]
    scan.stop(primary=2)
    (run,) = collected(scan.documents[:7])
    frames = source_of(run, STEP, tmp_path).frames()
    found: list[Any] = [next(frames) for _ in range(2)]
    if first == "image":
        run.add(*scan.documents[7])
    for name, doc in scan.documents[len(run) :]:
        run.add(name, doc)
    found += frames
    assert projections(found) == {0: (0, 0.0), 1: (2, 27.5)}
    assert [each.reason for each in found if isinstance(each, Gap)] == ["it was measured again"]


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("newer", ["never written", "of another size"])
def test_what_cannot_be_measured_again_stays_as_it_was(tmp_path: Path, at_once: bool, newer: str) -> None:
    scan = Scan()
    scan.stream(det=DET, rot={})
    resource = scan.resource(write(tmp_path / "a.h5", 3))
    for row in range(3):
        scan.rows(resource, (row, row + 1), (row + 1, row + 2))
        scan.event(row + 1, rot=10.0 * row)
    count = len(scan.documents)
    if newer == "never written":
        scan.rows(resource, (3, 4), (2, 3))
        scan.event(2, rot=17.0)
    else:
        scan.event(2, rot=17.0, det=np.zeros((1, 1), np.uint16))
    scan.stop("abort", primary=3)
    (run,) = collected(scan.documents[:count])
    frames = source_of(run, STEP, tmp_path).frames()
    found: list[Any] = [] if at_once else [next(frames) for _ in range(3)]
    for name, doc in scan.documents[count:]:
        run.add(name, doc)
    with pytest.raises(ScanAbortedError):
        found.extend(iter(lambda: next(frames), None))
    assert projections(found) == {0: (0, 0.0), 1: (1, 10.0), 2: (2, 20.0)}
    assert not any(isinstance(each, Gap) for each in found)


@pytest.mark.parametrize("odd", ["size", "type", "key", "aborted"])
def test_a_run_of_flats_that_does_not_fit_costs_the_flats(tmp_path: Path, odd: str) -> None:
    before = Scan(plan_name="flats")
    before.stream(**{"camera" if odd == "key" else "det": DET})
    with h5py.File(tmp_path / "flats.h5", "w") as file:
        data = images([0, 1]) + np.float32(0.5) if odd == "type" else images([0, 1])
        file["entry/data/data"] = data[:, :, :-1] if odd == "size" else data
    resource = before.resource(tmp_path / "flats.h5", "camera" if odd == "key" else "det")
    before.rows(resource, (0, 2), (1, 3))
    before.stop("abort" if odd == "aborted" else "success")
    (flats,) = collected(before.documents)
    (run,) = collected(step_scan(write(tmp_path / "a.h5", 2), 2).documents)
    rules = {**STEP, "flat": {"select": "run", "match": {"plan_name": "flats"}, "key": "det"}}
    source = source_of(run, rules, tmp_path, others=[(F, flats)])
    assert source.info().frame_shape == (ROWS, COLUMNS)
    found = list(source.frames())
    assert projections(found) == {0: (0, 0.0), 1: (1, 10.0)}
    assert sum(item.kind is F for item in found) == (2 if odd == "aborted" else 0)


def test_a_pause_gives_nothing_up(tmp_path: Path) -> None:
    """However long it takes: the file, which has no SWMR, is closed after it."""
    scan = step_scan(tmp_path / "a.h5", 3, stop=False)
    (run,) = collected(scan.documents)
    source = source_of(run, STEP, tmp_path)
    clock: Any = source.clock
    scan.stop(primary=3)

    def sleep(seconds: float) -> None:
        clock.now += 500
        if clock.now > 5000 and not (tmp_path / "a.h5").exists():
            write(tmp_path / "a.h5", 3)
        if clock.now > 6000 and run.stop is None:
            run.add(*scan.documents[-1])

    source.sleep = sleep
    assert projections(list(source.frames())) == {i: (i, 10.0 * i) for i in range(3)}


BROKEN: list[tuple[str, str, Any]] = [
    ("descriptor", "configuration", ["oops"]),
    ("descriptor", "hints", 5),
    ("event", "seq_num", "three"),
    ("event", "timestamps", 3),
    ("stream_datum", "seq_nums", 7),
    ("stream_datum", "descriptor", []),
    ("stop", "num_events", [3]),
    ("stop", "reason", {"a": 1}),
]


@pytest.mark.parametrize(("name", "key", "value"), BROKEN, ids=lambda each: str(each))
def test_a_document_that_is_not_as_it_should_be_costs_itself(tmp_path: Path, name: str, key: str, value: Any) -> None:
    scan = step_scan(write(tmp_path / "a.h5", 3), 3)
    (run,) = collected(scan.documents)
    odd = [each for each in scan.documents if each[0] == name][-1][1]
    for place, document in enumerate(run._documents):
        if document.doc == odd:
            run._documents[place] = document._replace(doc={**document.doc, key: value})
    found = projections(items(run, STEP, tmp_path))
    assert {0, 1} <= set(found)


@pytest.mark.parametrize("shape", [5, ["a", "b", "c"], [1, "x", 3], None])
def test_shapes_that_are_none(tmp_path: Path, shape: Any) -> None:
    scan = step_scan(write(tmp_path / "a.h5", 2), 2)
    scan.documents[1][1]["data_keys"]["det"]["shape"] = shape
    (run,) = collected(scan.documents)
    with contextlib.suppress(SourceError):
        items(run, STEP, tmp_path)


@pytest.mark.parametrize("change", ["indices", "per point", "dtype"])
def test_a_document_takes_neither_time_nor_memory_beyond_its_size(tmp_path: Path, change: str) -> None:
    scan = Scan()
    stream = {"shape": [2, 2], "dtype": "array", "dtype_numpy": "<U400000000"} if change == "dtype" else DET
    scan.stream(det=stream, rot={})
    if change == "indices":
        scan.rows(scan.resource(write(tmp_path / "a.h5", 2)), (0, 3_000_000), (1, 3_000_001))
    elif change == "per point":
        scan.documents.append(("resource", {
            "uid": "r", "spec": "AD_HDF5", "root": str(tmp_path), "resource_path": "a.h5", "run_start": scan.uid,
            "resource_kwargs": {"frame_per_point": 1 << 24},
        }))  # fmt: skip
        scan.documents.append(("datum", {"datum_id": "r/0", "resource": "r", "datum_kwargs": {"point_number": 0}}))
        scan.event(1, det="r/0", rot=0.0)
    else:
        scan.event(1, det=[[1, 2], [3, 4]], rot=0.0)
    scan.stop()
    (run,) = collected(scan.documents)
    tracemalloc.start()
    source = source_of(run, STEP, tmp_path)
    if change == "dtype":
        assert source.info().frame_shape == (2, 2)
    else:
        with pytest.raises(SourceError):
            source.info()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 << 20


def test_what_was_missed_does_not_hold_up_what_comes(tmp_path: Path) -> None:
    """Thousands of images whose angles never came wait for the end; those that come now are given now."""
    count = WINDOW + 100
    scan = Scan()
    scan.stream(det={"shape": [ROWS, COLUMNS], "dtype": "array"}, rot={})
    for number in range(count):
        scan.event(number + 1, det=image(number % 1000), **({"rot": 0.01 * number} if number >= count - 5 else {}))
    (run,) = collected(scan.documents)
    frames = source_of(run, STEP, tmp_path).frames()
    assert [next(frames).index for _ in range(5)] == list(range(count - 5, count))  # type: ignore[union-attr]


def test_angles_that_are_otherwise_to_be_had(tmp_path: Path) -> None:
    """An event that was missed had its angle in the detector's file as well."""
    write(tmp_path / "a.h5", 4, angles=np.array([0.0, 11.0, 22.0, 33.0]))
    scan = step_scan(tmp_path / "a.h5", 4)
    kept = [each for each in scan.documents if not (each[0] == "event" and each[1]["seq_num"] == 3)]
    (run,) = collected(kept)
    rules = {**STEP, "theta": {**STEP["theta"], "otherwise": {"from": "attribute", "key": "/angles", "units": "deg"}}}
    assert projections(items(run, rules, tmp_path)) == {0: (0, 0.0), 1: (1, 10.0), 2: (2, 22.0), 3: (3, 30.0)}


@pytest.mark.parametrize("select", ["events", "image_key"])
def test_flats_that_are_measured_again_are_the_same_in_every_pass(tmp_path: Path, select: str) -> None:
    """What an engine has of flats stays with it: the first image of each counts."""
    scan = Scan()
    scan.stream(det=DET, rot={}, kind={})
    resource = scan.resource(write(tmp_path / "a.h5", 7))
    for row, number in enumerate([1, 2, 3, 2, 3, 4, 5]):
        scan.rows(resource, (row, row + 1), (number, number + 1))
        scan.event(number, rot=10.0 * number, kind=1 if number > 1 else 0)
    scan.stop(primary=5)
    if select == "events":
        kinds: Any = {"projection": {"range": "0:1"}, "flat": {"range": "1:"}}
    else:
        kinds = {each: {"select": "image_key", "image_key": "kind"} for each in ("projection", "flat")}
    rules = {**STEP, **{name: {"key": "det", **rule} for name, rule in kinds.items()}}
    (run,) = collected(scan.documents[:2])
    source = source_of(run, rules, tmp_path)
    frames = source.frames()
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.extend(frames))
    thread.start()
    for name, doc in scan.documents[2:]:
        run.add(name, doc)
        time.sleep(0.01)
    thread.join(20)
    again = list(source_of(collected(scan.documents)[0], rules, tmp_path).frames())
    for each in (found, again):
        assert [(item.index, number_of(item)) for item in each if item.kind is FrameKind.FLAT] == [
            (0, 1), (1, 2), (2, 5), (3, 6),
        ]  # fmt: skip


@pytest.mark.parametrize("at_once", [True, False])
def test_measured_three_times_the_newest_that_is_there_counts(tmp_path: Path, at_once: bool) -> None:
    scan = Scan()
    scan.stream(det=DET, rot={})
    resource = scan.resource(write(tmp_path / "a.h5", 3))
    for row, number in enumerate([1, 2, 2, 2]):  # the fourth is not there
        scan.rows(resource, (row, row + 1), (number, number + 1))
        scan.event(number, rot=10.0 * row)
    scan.stop(primary=2)
    (run,) = collected(scan.documents if at_once else scan.documents[:7])
    frames = source_of(run, STEP, tmp_path).frames()
    found: list[Any] = [] if at_once else [next(frames) for _ in range(2)]
    for name, doc in scan.documents[len(run) :]:
        run.add(name, doc)
    found += frames
    assert projections(found) == {0: (0, 0.0), 1: (2, 20.0)}
