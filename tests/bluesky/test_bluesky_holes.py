"""What was never written, never heard or is another's is told from what was measured: it is a named gap, and costs no more."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from bluesky_scans import (
    COLUMNS,
    ROWS,
    STEP,
    Document,
    Scan,
    collected,
    image,
    images,
    items,
    projections,
    shown,
    source_of,
    step_scan,
    write,
)

from streamrecon.bluesky.angles import EPICS
from streamrecon.bluesky.collect import Collector
from streamrecon.bluesky.describe import describe
from streamrecon.bluesky.mapping import ThetaRule, mapping_from_dict
from streamrecon.bluesky.run import Run
from streamrecon.bluesky.source import RunSource
from streamrecon.bluesky.watched import Watched
from streamrecon.errors import ScanAbortedError, SourceError, StreamreconError
from streamrecon.scan import Frame, FrameKind, Gap
from streamrecon.sources.roots import Roots

P, F, D = FrameKind.PROJECTION, FrameKind.FLAT, FrameKind.DARK
DET = {"shape": [1, ROWS, COLUMNS], "dtype": "array", "external": "STREAM:"}
NUMBERS = {"external": "STREAM:", "shape": [1], "dtype": "array"}
COUNT = 10
WATCHED: dict[str, Any] = {
    "run": {"match": {"plan_name": "fly_scan"}},
    "projection": {"key": "det"},
    "theta": {"from": "monitor", "key": "rot", "units": "deg", "times": ["/t"], "clock": "epics"},
}


def gaps(found: Sequence[Frame | Gap]) -> list[tuple[int, int, str]]:
    return [(each.first, each.end, each.reason) for each in found if isinstance(each, Gap)]


def fly_scan(folder: Path, missing: Sequence[int] = (), position: Callable[[float], float] = lambda t: 10 * t) -> Scan:
    """Frames at 0, 1, 2, ... s; the motor is seen a quarter before each, from -1 s on: 13 events, but for those missing."""
    path = write(folder / "fly.h5", COUNT, t=np.arange(COUNT) + 1e9 - EPICS)
    scan = Scan(plan_name="fly_scan")
    scan.stream(det=DET)
    scan.stream("rot_monitor", rot={"units": "deg"})
    scan.rows(scan.resource(path), (0, COUNT), (1, COUNT + 1))
    for number in range(1, 14):
        if number not in missing:
            at = number - 2.25
            scan.event(number, "rot_monitor", {"rot": 1e9 + at}, rot=position(at))
    scan.stop(primary=COUNT, rot_monitor=13)
    return scan


@pytest.mark.parametrize(
    ("missing", "lost"),
    [
        ((), ()),
        (range(7, 14), range(4, 10)),
        ((5, 6, 7), (2, 3, 4, 5)),
        ((1, 2), (0,)),
        ((13,), ()),
        (range(2, 14), range(10)),
        ((4, 8), (1, 2, 5, 6)),
    ],
    ids=["none", "tail", "hole", "head", "after all frames", "all but one", "two"],
)
def test_angles_are_not_made_up_where_positions_were_missed(
    tmp_path: Path, missing: Sequence[int], lost: Sequence[int]
) -> None:
    (run,) = collected(fly_scan(tmp_path, missing).documents)
    if len(lost) == COUNT:
        with pytest.raises(SourceError, match="positions of rot around its time were missed"):
            items(run, WATCHED, tmp_path)
        return
    found = items(run, WATCHED, tmp_path)
    assert projections(found) == {i: (i, pytest.approx(10.0 * i)) for i in range(COUNT) if i not in lost}
    assert all("positions of rot around its time were missed" in why for _, _, why in gaps(found))
    assert {i for first, end, _ in gaps(found) for i in range(first, end)} == set(lost)


def test_without_a_hole_the_motor_stood_before_and_after(tmp_path: Path) -> None:
    scan = fly_scan(tmp_path, range(7, 14))
    scan.documents[-1][1]["num_events"]["rot_monitor"] = 6
    (run,) = collected(scan.documents)
    assert projections(items(run, WATCHED, tmp_path))[COUNT - 1] == (COUNT - 1, 37.5)


@pytest.mark.parametrize("how", ["the stop was lost", "it does not count", "it does not count that stream"])
def test_without_a_count_nobody_knows_where_the_motor_was_after_the_last_event(tmp_path: Path, how: str) -> None:
    scan = fly_scan(tmp_path, range(7, 14))
    stop = scan.documents[-1][1]
    if how == "it does not count":
        del stop["num_events"]
    else:
        del stop["num_events"]["rot_monitor"]
    (run,) = collected(scan.documents[:-1] if how == "the stop was lost" else scan.documents)
    found = list[Frame | Gap]()
    with contextlib.nullcontext() if run.over else pytest.raises(ScanAbortedError, match="it was lost"):
        run.give_up("it was lost")
        for each in source_of(run, WATCHED, tmp_path).frames():
            found.append(each)
    assert projections(found) == {i: (i, pytest.approx(10.0 * i)) for i in range(4)}
    assert [(first, end) for first, end, _ in gaps(found)] == [(4, 10)]
    assert "positions of rot around its time were missed" in gaps(found)[0][2]


def test_when_the_motor_began_is_not_told_over_a_hole(tmp_path: Path) -> None:
    rules = {**WATCHED, "theta": {**WATCHED["theta"], "align": "first_motion"}}
    (run,) = collected(fly_scan(tmp_path, [2]).documents)
    with pytest.raises(SourceError, match="it is not known when rot began to move"):
        items(run, rules, tmp_path)


@pytest.mark.parametrize("motion", [0.02, 0.1])
def test_a_motor_that_trembles_has_not_begun_to_move(
    tmp_path: Path, motion: float, caplog: pytest.LogCaptureFixture
) -> None:
    """Once beyond what the mapping takes for noise is not enough, nor is now to one side and now to the other."""
    noise = [0.0, 0.05, -0.05, 0.05, 0.0, 0.06, 0.0]
    path = write(tmp_path / "fly.h5", COUNT, t=np.arange(COUNT) + 1e9 - EPICS)
    scan = Scan(plan_name="fly_scan")
    scan.stream(det=DET)
    scan.stream("rot_monitor", rot={"units": "deg"})
    scan.rows(scan.resource(path), (0, COUNT), (1, COUNT + 1))
    positions = [*noise, *(10.0 * n for n in range(1, 12))]
    for number, each in enumerate(positions):
        scan.event(number + 1, "rot_monitor", {"rot": 1e9 + number - 6.0}, rot=each)
    scan.stop(primary=COUNT, rot_monitor=len(positions))
    (run,) = collected(scan.documents)
    rules = {**WATCHED, "theta": {**WATCHED["theta"], "align": "first_motion", "motion": motion}}
    with caplog.at_level(logging.INFO):
        found = projections(items(run, rules, tmp_path))
    assert found == {i: (i, pytest.approx(10.0 * i)) for i in range(COUNT)}
    assert f"rot began to move, by more than {motion:g} degrees, at 1000000000.000 s" in caplog.text


@pytest.mark.parametrize("speed", [0.01, 0.3, 30.0, -30.0], ids="{} degrees a position".format)
@pytest.mark.parametrize("seed", range(5))
def test_noise_is_no_motion(seed: int, speed: float) -> None:
    """Of 0.015 degrees (rms), and with the threshold that there is by default."""
    still, watched = ThetaRule().motion, Watched()
    noise = np.random.default_rng(seed).normal(0, 0.015, 1000)
    noise[0] = 0
    for number in range(700):
        position = noise[number] + speed * max(0, number - 500)
        watched.add(number + 1, 1000.0 + number, position)
        begun = watched.begun(still, False)
        assert begun is None or number > 500
    assert begun == pytest.approx(1500.0, abs=1 + 1.6 * still / abs(speed))
    assert watched.begun(still, True) == begun


def test_a_motor_that_jumps_has_begun_once_nothing_more_comes() -> None:
    watched = Watched()
    for number, position in enumerate([0.0, 0.0, 90.0, 180.0, 180.0]):
        watched.add(number + 1, float(number), position)
    assert watched.begun(0.05, False) is None
    assert watched.begun(0.05, True) == 1.0


def paced(source: RunSource, run: Run, documents: Sequence[Document], every: int) -> None:
    """A document comes with every so many looks."""
    sleep, left, looks = source.sleep, list(documents), [0]

    def slept(seconds: float) -> None:
        sleep(seconds)
        looks[0] += 1
        if looks[0] % every == 0 and left:
            run.add(*left.pop(0))

    source.sleep = slept


@pytest.mark.parametrize("align", ["absolute", "first_motion"])
def test_positions_in_another_order_change_no_angle(tmp_path: Path, align: str) -> None:
    scan = fly_scan(tmp_path, position=lambda t: max(0.0, t + 0.25) ** 2)
    rules = {**WATCHED, "theta": {**WATCHED["theta"], "align": align}}
    before, events = scan.documents[:5], scan.documents[5:-1]
    found = []
    for order in (range(13), [1, 0, 2, 3, 6, 4, 5, 7, 8, 12, 9, 10, 11]):
        (run,) = collected(before)
        source = source_of(run, rules, tmp_path)
        paced(source, run, [*(events[n] for n in order), scan.documents[-1]], 4)
        found.append(projections(list(source.frames())))
    assert len(found[0]) == COUNT
    assert found[0] == found[1]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_position_without_a_time_is_left_out_and_told(
    tmp_path: Path, bad: float, caplog: pytest.LogCaptureFixture
) -> None:
    scan = fly_scan(tmp_path)
    scan.documents[9][1]["timestamps"]["rot"] = bad
    (run,) = collected(scan.documents)
    with caplog.at_level(logging.INFO):
        found = items(run, WATCHED, tmp_path)
    assert projections(found) == {i: (i, pytest.approx(10.0 * i)) for i in range(COUNT) if i not in (2, 3)}
    assert f"event 5 of rot_monitor is left out: its time is {bad}" in caplog.text


# What was never written.


def half_written(path: Path, how: str, rows: Sequence[int], count: int = 6) -> Path:
    options = {"chunks": (4, ROWS, COLUMNS)} if how == "chunks" else {}
    with h5py.File(path, "w", libver="latest") as file:
        data = file.create_dataset(
            "raw" if how == "virtual" else "entry/data/data", (count, ROWS, COLUMNS), "u2", **options
        )
        for row in rows:
            data[row] = image(row)
        if how == "virtual":
            layout = h5py.VirtualLayout((count, ROWS, COLUMNS), "u2")
            layout[:] = h5py.VirtualSource(data)
            file.create_virtual_dataset("entry/data/data", layout)
    return path


@pytest.mark.parametrize("how", ["contiguous", "chunks", "virtual"])
def test_rows_that_still_hold_the_fill_value_are_gaps(tmp_path: Path, how: str) -> None:
    (run,) = collected(step_scan(half_written(tmp_path / "a.h5", how, (0, 1, 3)), 6).documents)
    found = items(run, STEP, tmp_path)
    assert projections(found) == {i: (i, 10.0 * i) for i in (0, 1, 3)}
    assert [(first, end) for first, end, _ in gaps(found)] == [(2, 3), (4, 6)]
    assert "row 2: " in gaps(found)[0][2]
    assert "rows 4 to 5: " in gaps(found)[1][2]
    assert "it still holds the fill value" in gaps(found)[0][2]
    assert ("it was never written" if how == "chunks" else "it still holds the fill value") in gaps(found)[1][2]


@pytest.mark.parametrize("how", ["contiguous", "chunks", "virtual"])
def test_darks_of_zeros_in_a_closed_file_are_images(tmp_path: Path, how: str) -> None:
    path = half_written(tmp_path / "a.h5", how, (2, 3, 5))
    if how == "chunks":
        with h5py.File(path, "r+") as file:
            file["entry/data/data"][4] = 0
    rules = {**STEP, "projection": {"key": "det", "range": "2:"}, "dark": {"key": "det", "range": ":2"}}
    (run,) = collected(step_scan(path, 6).documents)
    found = items(run, rules, tmp_path)
    darks = [each.data for each in found if isinstance(each, Frame) and each.kind is D]
    assert len(darks) == 2
    assert not any(map(np.any, darks))
    assert [(first, end) for first, end, _ in gaps(found)] == [(2, 3)], "a projection of zeros is none"


def test_they_are_waited_for(tmp_path: Path) -> None:
    path = half_written(tmp_path / "a.h5", "contiguous", (0, 1, 3))
    (run,) = collected(step_scan(path, 6).documents)
    source = source_of(run, STEP, tmp_path)
    sleep, begun = source.sleep, source.clock()

    def slept(seconds: float) -> None:
        sleep(seconds)
        if source.clock() - begun > source.patience / 2:
            half_written(path, "contiguous", range(6))

    source.sleep = slept
    found = list(source.frames())
    assert projections(found) == {i: (i, 10.0 * i) for i in range(6)}
    assert not gaps(found)


@pytest.mark.parametrize(
    ("chunk", "written", "lost"),
    [(1, (0, 1, 2, 5), (3, 4)), (64, (0, 1, 2, 3), (4, 5)), (64, (1, 2, 3), (4, 5)), (64, (0, 1, 2, 4, 5), ())],
    ids=["own", "shared", "the first is 0", "a single one"],
)
def test_angles_that_were_never_written(
    tmp_path: Path, chunk: int, written: Sequence[int], lost: Sequence[int]
) -> None:
    """Where places in the file do not tell, several that are the fill value are none, but for the first; a single one counts."""
    with h5py.File(tmp_path / "a.h5", "w", libver="latest") as file:
        file.create_dataset("entry/data/data", data=images(range(6)), chunks=(1, ROWS, COLUMNS))
        angles = file.create_dataset("theta", (6,), "f8", maxshape=(None,), chunks=(chunk,))
        angles.attrs["units"] = "deg"
        for row in written:
            angles[row] = 10.0 * row + 5
    scan = Scan()
    scan.stream(det=DET, th=NUMBERS)
    for key, place in (("det", "/entry/data/data"), ("th", "/theta")):
        scan.rows(scan.resource(tmp_path / "a.h5", key, place), (0, 6), (1, 7))
    scan.stop(primary=6)
    (run,) = collected(scan.documents)
    found = items(run, {**STEP, "theta": {"from": "dataset", "key": "th"}}, tmp_path)
    expected = {i: (i, 10.0 * i + 5 if i in written else 0.0) for i in range(6) if i not in lost}
    assert projections(found) == expected
    assert [(first, end) for first, end, _ in gaps(found)] == ([(min(lost), max(lost) + 1)] if lost else [])
    words = "was never written" if chunk == 1 else "still holds the fill value"
    assert all(words in why for _, _, why in gaps(found))


def with_keys(folder: Path, keys: Sequence[int], rows: int = 5, chunk: int = 1, skip: int | None = None) -> Scan:
    write(folder / "a.h5", rows)
    with h5py.File(folder / "a.h5", "r+") as file:
        data = file.create_dataset("key", (len(keys),), "i4", chunks=(chunk,))
        for row, each in enumerate(keys):
            if row != skip:
                data[row] = each
    scan = Scan()
    scan.stream(det=DET, rot={"units": "deg"}, ik=NUMBERS)
    places = scan.resource(folder / "a.h5"), scan.resource(folder / "a.h5", "ik", "/key")
    for number in range(rows):
        for place in places:
            scan.rows(place, (number, number + 1), (number + 1, number + 2))
        scan.event(number + 1, rot=10.0 * number)
    scan.stop(primary=rows)
    return scan


KEYED: dict[str, Any] = {
    **STEP,
    "projection": {"key": "det", "select": "image_key", "image_key": "ik"},
    "flat": {"key": "det", "select": "image_key", "image_key": "ik"},
}


@pytest.mark.parametrize(
    ("keys", "skip", "there"),
    [([1, 0, 0, 0], None, [1, 2, 3]), ([1, 0, 0, 0, 0], 2, [1, 3, 4])],
    ids=["one short", "one never written"],
)
def test_an_image_key_too_few_costs_that_image(
    tmp_path: Path, keys: list[int], skip: int | None, there: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    (run,) = collected(with_keys(tmp_path, keys, skip=skip).documents)
    found = shown(items(run, KEYED, tmp_path))
    assert found == [(F, 0, 0, None), *((P, index, row, 10.0 * row) for index, row in enumerate(there))]
    assert "it is not known what 1 frames are" in caplog.text or "it is not known what 3 frames are" in caplog.text


@pytest.mark.parametrize("over", [True, False], ids=["its writer died", "live"])
def test_image_keys_in_chunks_that_rows_share(tmp_path: Path, over: bool) -> None:
    """That of a projection is the fill value: it counts once it has stayed so while the file grew."""
    keys = [1, 1, 0, 0, 0, 0]
    with h5py.File(tmp_path / "w.h5", "w", libver="latest") as file:
        shape = (None, ROWS, COLUMNS)
        file.create_dataset("entry/data/data", data=images(range(6)), chunks=(1, ROWS, COLUMNS), maxshape=shape)
        file.create_dataset("key", data=np.array(keys), chunks=(16,), maxshape=(None,))
        file.swmr_mode = True
        file.flush()
        (tmp_path / "a.h5").write_bytes((tmp_path / "w.h5").read_bytes())
    scan = Scan()
    scan.stream(det=DET, rot={"units": "deg"}, ik=NUMBERS)
    for place in scan.resource(tmp_path / "a.h5"), scan.resource(tmp_path / "a.h5", "ik", "/key"):
        scan.rows(place, (0, 6), (1, 7))
    for number in range(6):
        scan.event(number + 1, rot=10.0 * number)
    scan.stop(primary=6)
    (run,) = collected(scan.documents if over else scan.documents[:-1])
    source = source_of(run, KEYED, tmp_path)
    sleep, begun = source.sleep, source.clock()

    def slept(seconds: float) -> None:
        sleep(10 * seconds)
        assert source.clock() - begun < 30, "settled in both passes"
        if source.clock() - begun > 25 and not over:
            run.add(*scan.documents[-1])

    source.sleep = slept
    found = list(source.frames(info=source.info()))
    assert projections(found) == {i: (i + 2, 10.0 * (i + 2)) for i in range(4)}


# What is another's, and what comes late.


@pytest.mark.parametrize("angles", ["event", "attribute"])
def test_the_file_of_a_scan_before_is_taken_back(tmp_path: Path, angles: str) -> None:
    path = write(tmp_path / "same.h5", 4, angles=np.zeros(4) + 77.0)
    rules = dict(STEP)
    if angles == "attribute":
        rules["theta"] = {"from": "attribute", "key": "/angles", "units": "deg"}
    (run,) = collected(step_scan(path, 4).documents)
    source = source_of(run, rules, tmp_path)
    frames = source.frames()
    found: list[Any] = [next(frames) for _ in range(3)]
    path.unlink()
    with h5py.File(path, "w", libver="latest") as file:
        file.create_dataset("entry/data/data", data=images(range(100, 104)), chunks=(1, ROWS, COLUMNS))
        file["angles"] = np.arange(4.0) * 10
    source.clock.now += 1  # type: ignore[attr-defined]
    found += list(frames)
    assert "its file was replaced" in {why for _, _, why in gaps(found)}
    assert projections(found) == {i: (100 + i, 10.0 * i) for i in range(4)}


@pytest.mark.parametrize("given", [0, 1])
@pytest.mark.parametrize("odd", ["shape", "type"])
def test_the_file_of_a_scan_before_with_other_images_ends_the_run(tmp_path: Path, odd: str, given: int) -> None:
    """What is announced holds for the scan: the error says what is there instead, and why."""
    path = write(tmp_path / "same.h5", 4)
    (run,) = collected(step_scan(path, 4).documents)
    source = source_of(run, STEP, tmp_path)
    frames = source.frames(info=source.info())
    found = [next(frames) for _ in range(given)]
    path.unlink()
    new = images(range(100, 104))
    with h5py.File(path, "w", libver="latest") as file:
        file["entry/data/data"] = new[:, :, :4] if odd == "shape" else new.astype("f4") + 0.5
    source.clock.now += 1  # type: ignore[attr-defined]
    there = f"{ROWS} x 4 uint16" if odd == "shape" else f"{ROWS} x {COLUMNS} float32"
    words = (
        f"same.h5: .* has images of {there}; expected {ROWS} x {COLUMNS} uint16.*the file of an earlier run was at this"
    )
    with pytest.raises(SourceError, match=words):
        found.extend(frames)
    assert not projections(found), "what was given of it is taken back"


def test_a_file_that_was_there_before_in_another_shape_is_no_replacement(tmp_path: Path) -> None:
    path = tmp_path / "same.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file.create_dataset("entry/data/data", (0, 7, 9), "u1", chunks=(1, 7, 9), maxshape=(None, 7, 9))
    (run,) = collected(step_scan(path, 4).documents)
    source = source_of(run, STEP, tmp_path)
    sleep, looks = source.sleep, [0]

    def slept(seconds: float) -> None:
        sleep(seconds)
        looks[0] += 1
        if looks[0] == 20:
            write(path, 4)

    source.sleep = slept
    found = list(source.frames())
    assert projections(found) == {i: (i, 10.0 * i) for i in range(4)}
    assert not gaps(found)


def test_rows_that_a_writer_adds_after_the_stop_are_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "re.h5"
    with h5py.File(path, "w", libver="latest") as file:
        shape = (None, ROWS, COLUMNS)
        file.create_dataset("entry/data/data", data=images(range(2)), chunks=(1, ROWS, COLUMNS), maxshape=shape)
    (run,) = collected(step_scan(path, 4).documents)
    source = source_of(run, STEP, tmp_path)
    sleep, looks = source.sleep, [0]

    def slept(seconds: float) -> None:
        sleep(seconds)
        looks[0] += 1
        if looks[0] == 100:
            with h5py.File(path, "r+", libver="latest") as file:
                file["entry/data/data"].resize(4, 0)
                file["entry/data/data"][2:] = images(range(2, 4))

    source.sleep = slept
    assert projections(list(source.frames())) == {i: (i, 10.0 * i) for i in range(4)}


@pytest.mark.parametrize("over", [True, False])
def test_dropped_rows_hold_nothing_up_and_have_one_deadline(tmp_path: Path, over: bool) -> None:
    dropped = (5, 10, 15, 20)
    with h5py.File(tmp_path / "w.h5", "w", libver="latest") as file:
        data = file.create_dataset("entry/data/data", (30, ROWS, COLUMNS), "u2", chunks=(1, ROWS, COLUMNS))
        file.swmr_mode = True
        for row in set(range(30)) - set(dropped):
            data[row] = image(row)
        data.flush()
        (tmp_path / "a.h5").write_bytes((tmp_path / "w.h5").read_bytes())
    documents = step_scan(tmp_path / "a.h5", 30).documents
    (run,) = collected(documents if over else documents[:-1])
    source = source_of(run, STEP, tmp_path, patience=5.0)
    begun, when = source.clock(), dict[int, float]()
    frames = source.frames()
    for item in frames:
        if isinstance(item, Frame):
            when[item.index] = source.clock() - begun
            if len(when) == 26 and not over:
                run.add(*documents[-1])
        else:
            assert (item.first, item.end) in {(row, row + 1) for row in dropped}
            assert "it was passed over by its writer" in item.reason
    assert set(when) == set(range(30)) - set(dropped)
    assert max(when.values()) < 1
    assert source.clock() - begun < 7


@pytest.mark.parametrize("late", [0.3, 1.5])
def test_a_stop_that_overtakes_an_event(tmp_path: Path, late: float) -> None:
    """It tells how many there were."""
    documents = step_scan(write(tmp_path / "a.h5", 4), 4).documents
    runs: list[Run] = []
    collector = Collector(runs.append)
    for name, doc in [*documents[:-2], documents[-1]]:
        collector.hear(name, doc)
    source = source_of(runs[0], STEP, tmp_path)
    sleep, begun = source.sleep, source.clock()

    def slept(seconds: float) -> None:
        sleep(seconds)
        if source.clock() - begun > late:
            collector.hear(*documents[-2])

    source.sleep = slept
    found = list(source.frames())
    assert projections(found) == {i: (i, 10.0 * i) for i in range(4)}
    assert not gaps(found)


def test_images_in_the_last_events_that_never_came_are_named(tmp_path: Path) -> None:
    scan = Scan()
    scan.stream(det={"shape": [ROWS, COLUMNS], "dtype": "array"}, rot={})
    for number in range(3):
        scan.event(number + 1, det=image(number), rot=10.0 * number)
    scan.stop(primary=5)
    (run,) = collected(scan.documents)
    assert gaps(items(run, STEP, tmp_path)) == [(3, 5, "no document told where it is")]


# Frames of an event, and types.


@pytest.mark.parametrize("key", ["parameters", "shape", "events"])
def test_frames_of_an_event_are_counted_in_one_way(tmp_path: Path, key: str) -> None:
    """By the resource, by the data key, and for images, angles and image keys alike."""
    scan = Scan(num_points=4)
    shape = [2, ROWS, COLUMNS] if key == "shape" else [ROWS, COLUMNS]
    scan.stream(det={**DET, "shape": shape}, th={**NUMBERS, "shape": [2]}, ik={**NUMBERS, "shape": [2]})
    path = write(tmp_path / "a.h5", 8, th=10.0 * np.arange(8) + 1, ik=np.array([1, 0, 0, 0, 0, 0, 0, 0]))
    if key == "events":
        for number in range(4):
            scan.event(number + 1, det=images([2 * number, 2 * number + 1]))
        resources = []
    else:
        resources = [scan.resource(path, **({"multiplier": 2} if key == "parameters" else {}))]
    resources += [scan.resource(path, name, name) for name in ("th", "ik")]
    for number in range(4):
        for each in resources:
            scan.rows(each, (number, number + 1), (number + 1, number + 2))
    scan.stop(primary=4)
    (run,) = collected(scan.documents)
    rules = {
        **KEYED,
        "theta": {"from": "dataset", "key": "th", "units": "deg"},
        "scan": {"projections": "start.num_points"},
    }
    source = source_of(run, rules, tmp_path)
    expected = [(F, 0, 0, None), *((P, row - 1, row, 10.0 * row + 1) for row in range(1, 8))]
    assert sorted(shown(list(source.frames()))) == sorted(expected)
    info = source.info()
    assert info.counts[P] is None
    assert info.metadata["expected"] == 8


def test_more_projections_than_were_told_are_no_error(tmp_path: Path) -> None:
    (run,) = collected(step_scan(write(tmp_path / "a.h5", 6), 6, num_points=3).documents)
    source = source_of(run, {**STEP, "scan": {"projections": "start.num_points"}}, tmp_path)
    assert source.info().counts[P] is None
    assert len(projections(list(source.frames()))) == 6


@pytest.mark.parametrize(
    ("name", "value"),
    [("pixel_size", 0.0), ("pixel_size", -1.0), ("center", 5000.0), ("projections", -5), ("center", None)],
)
def test_facts_that_cannot_be_are_unknown_and_told(
    tmp_path: Path, name: str, value: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    start = {} if value is None else {"fact": value}
    (run,) = collected(step_scan(write(tmp_path / "a.h5", 2), 2, **start).documents)
    source = source_of(run, {**STEP, "scan": {name: "start.fact"}}, tmp_path)
    info = source.info()
    assert (info.geometry.pixel_size, info.geometry.center, info.counts[P]) == (None, None, None)
    assert f"scan.{name} is" in caplog.text
    assert "it is taken as unknown" in caplog.text


@pytest.mark.parametrize(
    ("dtype", "kept"), [("u1", True), ("u4", True), ("f4", True), ("half", False), ("large", False)]
)
def test_the_type_is_that_of_the_projections(
    tmp_path: Path, dtype: str, kept: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Darks are converted where that loses nothing."""
    dark = np.arange(ROWS * COLUMNS).reshape(1, ROWS, COLUMNS)
    with h5py.File(tmp_path / "dark.h5", "w", libver="latest") as file:
        odd = {"half": dark + np.float32(0.5), "large": dark.astype(np.int32) + 70000}
        data = odd[dtype] if dtype in odd else dark.astype(dtype)
        file.create_dataset("entry/data/data", data=data, chunks=(1, ROWS, COLUMNS))
    scan = step_scan(write(tmp_path / "a.h5", 3), 3)
    scan.stream("dark", det=DET)
    scan.rows(scan.resource(tmp_path / "dark.h5"), (0, 1), (1, 2), "dark")
    documents = [scan.documents[0], *scan.documents[-3:], *scan.documents[1:-3]]
    (run,) = collected(documents)
    source = source_of(run, {**STEP, "dark": {"stream": "dark", "key": "det"}}, tmp_path)
    assert source.info().dtype == np.uint16
    found = list(source.frames())
    assert len(projections(found)) == 3
    darks = [each.data for each in found if isinstance(each, Frame) and each.kind is D]
    assert [each.tolist() for each in darks] == ([dark[0].tolist()] if kept else [])
    assert ("dark 0 cannot be had" in caplog.text) is not kept


# Hostile ones.


def test_a_document_with_very_many_rows_that_are_not_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It takes a time that a person would wait, and is told in a line."""
    scan = step_scan(write(tmp_path / "a.h5", 4), 4, stop=False)
    (resource,) = scan.resources
    scan.rows(resource, (4, 100_000), (5, 100_001))
    scan.stop(primary=4)
    (run,) = collected(scan.documents)
    rules = {**STEP, "theta": {"from": "linear", "start": 0.0, "step": 0.1, "units": "deg"}}
    begun = time.monotonic()
    found = items(run, rules, tmp_path, patience=1.0)
    assert time.monotonic() - begun < 100
    assert sum(isinstance(each, Frame) for each in found) == 4
    assert len(found) < 400
    assert len(caplog.records) < 400


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_path_that_turns_into_a_link_out_of_the_roots(tmp_path: Path, what: str) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    for folder in (inside / "sub", outside):
        folder.mkdir(parents=True)
    write(outside / "x.h5", 4)
    scan = Scan()
    scan.stream(det=DET, rot={})
    first, other = scan.resource(write(inside / "a.h5", 1)), scan.resource(inside / "sub" / "x.h5")
    scan.rows(first, (0, 1), (1, 2))
    scan.rows(other, (0, 3), (2, 5))
    for number in range(4):
        scan.event(number + 1, rot=10.0 * number)
    scan.stop(primary=4)
    (run,) = collected(scan.documents)
    source = source_of(run, STEP, inside)
    sleep, looks = source.sleep, [0]

    def slept(seconds: float) -> None:
        sleep(seconds)
        looks[0] += 1
        if looks[0] == 5 and what == "file":
            os.symlink(outside / "x.h5", inside / "sub" / "x.h5")  # noqa: PTH211
        elif looks[0] == 5:
            (inside / "sub").rmdir()
            (inside / "sub").symlink_to(outside)

    source.sleep = slept
    found = list(source.frames())
    assert projections(found) == {0: (0, 0.0)}
    assert "/out/x.h5" in gaps(found)[0][2]


@pytest.mark.parametrize("key", ["title", "sample_name", "sample", "scan_id", "plan_name"])
def test_arrays_where_texts_should_be(tmp_path: Path, key: str) -> None:
    scan = step_scan(write(tmp_path / "a.h5", 2), 2)
    (run,) = collected(scan.documents)
    run.start[key] = np.arange(3.0)  # type: ignore[index]
    info = source_of(run, STEP, tmp_path).info()
    assert all(isinstance(value, str | int | float) for value in info.metadata.values())


def test_an_array_as_the_status_of_the_end(tmp_path: Path) -> None:
    scan = step_scan(write(tmp_path / "a.h5", 2), 2)
    scan.documents[-1][1]["exit_status"] = np.arange(3)
    (run,) = collected(scan.documents)
    with pytest.raises(ScanAbortedError, match="ended with"):
        items(run, STEP, tmp_path)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("start", ("scan_id",)),
        ("descriptor", ("data_keys", "det", "shape")),
        ("stream_resource", ("parameters", "dataset")),
        ("stream_resource", ("parameters", "multiplier")),
        ("stream_resource", ("mimetype",)),
        ("stop", ("reason",)),
        ("stop", ("exit_status",)),
        ("stop", ("num_events",)),
    ],
    ids=str,
)
def test_arrays_anywhere_are_no_bug(tmp_path: Path, name: str, path: tuple[str, ...]) -> None:
    """Neither for a scan, nor for its description, nor for telling whether it is one."""
    scan = step_scan(write(tmp_path / "a.h5", 2), 2)
    place = next(doc for kind, doc in scan.documents if kind == name)
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = np.arange(3)
    (run,) = collected(scan.documents)
    rules = {**STEP, "run": {"match": {"scan_id": 7}}}
    mapping = mapping_from_dict({"name": "m", **rules})
    assert describe(run, [mapping], Roots([tmp_path]))
    with contextlib.suppress(StreamreconError):
        items(run, rules, tmp_path)
