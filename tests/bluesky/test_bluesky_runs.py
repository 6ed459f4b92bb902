"""Runs that wait, runs of flats and darks, and an attachment that is stopped: nothing that is there is lost."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from bluesky_attached import Attached, Engine, until
from bluesky_scans import COLUMNS, ROWS, STEP, Scan, projections, step_scan, write

from streamrecon import Config, Service
from streamrecon.bluesky.attach import Attachment
from streamrecon.bluesky.documents import DocumentQueue, JsonlDocuments
from streamrecon.bluesky.mapping import mapping_from_dict
from streamrecon.config import EngineConfig, ReconConfig, SimulatedConfig, SourceConfig
from streamrecon.engine.warmup import compile_kernels
from streamrecon.errors import SenderLeftError
from streamrecon.recon.device import CPU
from streamrecon.scan import FrameKind
from streamrecon.sources import SimulatedSource

P, F, D = FrameKind.PROJECTION, FrameKind.FLAT, FrameKind.DARK
DET = {"shape": [1, ROWS, COLUMNS], "dtype": "array", "external": "STREAM:"}
BEFORE: dict[str, Any] = {
    **STEP,
    "flat": {"select": "run", "stream": "flat", "key": "det", "match": {"plan_name": "refs"}},
    "dark": {"select": "run", "stream": "dark", "key": "det", "match": {"plan_name": "refs"}},
}


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    return Engine(monkeypatch)


def references(path: Path, status: str = "success", count: int = 2) -> Scan:
    """Flats and darks in one run."""
    scan = Scan(plan_name="refs")
    for name in ("flat", "dark"):
        scan.stream(name, det=DET)
    resource = scan.resource(write(path, 2 * count) if count else path)
    if count:
        scan.rows(resource, (0, count), (1, count + 1), "flat")
        scan.rows(resource, (count, 2 * count), (1, count + 1), "dark")
    scan.stop(status, flat=count, dark=count)
    return scan


def test_one_run_may_have_flats_and_darks(tmp_path: Path, engine: Engine) -> None:
    attached = Attached(tmp_path, BEFORE)
    attached.say(references(tmp_path / "refs.h5").documents)
    scan = step_scan(write(tmp_path / "a.h5", 1), 1)
    attached.say(scan.documents)
    attached.close()
    assert [item.kind for item in engine.scans[scan.uid]] == [F, F, D, D, P]
    assert "has the flats and darks of the scans that follow" in attached.told("fields")[0]


@pytest.mark.parametrize(("status", "count"), [("fail", 0), ("abort", 2), ("success", 0)])
def test_a_run_of_flats_that_did_not_end_well_displaces_none(
    tmp_path: Path, engine: Engine, status: str, count: int
) -> None:
    attached = Attached(tmp_path, BEFORE, keep=tmp_path / "keep")
    attached.say(references(tmp_path / "refs.h5", count=3).documents)
    bad = references(tmp_path / "bad.h5", status, count)
    attached.say(bad.documents)
    scan = step_scan(write(tmp_path / "a.h5", 1), 1)
    attached.say(scan.documents)
    attached.close()
    assert [item.kind for item in engine.scans[scan.uid]] == [F, F, F, D, D, D, P]
    assert "stay those of the scans that follow" in attached.told("fields")[1]
    assert len(list((tmp_path / "keep").glob("*.documents"))) == 1, "those of the good one"


def test_a_run_of_flats_that_has_no_image_yet_counts_once_it_has_ended(tmp_path: Path, engine: Engine) -> None:
    attached = Attached(tmp_path, BEFORE)
    attached.say(references(tmp_path / "refs.h5", count=3).documents)
    newer = references(tmp_path / "newer.h5", count=1)
    attached.say(newer.documents[:4])
    scans = [step_scan(write(tmp_path / f"{n}.h5", 1), 1) for n in range(2)]
    attached.say(scans[0].documents)
    attached.say(newer.documents[4:])
    attached.say(scans[1].documents)
    attached.close()
    assert [len(engine.scans[scan.uid]) for scan in scans] == [7, 3]


@pytest.mark.parametrize("overtaken", [False, True])
def test_a_recording_waits_while_enough_runs_do(tmp_path: Path, engine: Engine, overtaken: bool) -> None:
    scans = [step_scan(write(tmp_path / f"{n}.h5", 2), 2) for n in range(12)]
    if overtaken:  # what the run in work still needs is read
        documents = scans[0].documents
        documents[-2:] = documents[:-3:-1]
    path = tmp_path / "recording.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for scan in scans for each in scan.documents))
    with_lines = JsonlDocuments(path)
    engine.hold.clear()
    attached = Attached(tmp_path, documents=with_lines, attach={"waiting": 2})
    until(lambda: len(attached.attachment._scans) == 3, "the queue is full")
    assert with_lines.received <= 3 * len(scans[0].documents)
    engine.hold.set()
    attached.thread.join(60)
    assert not attached.thread.is_alive()
    with_lines.close()
    assert not attached.told("skipped")
    assert list(engine.scans) == [scan.uid for scan in scans]
    assert all(len(projections(found)) == 2 for found in engine.scans.values())


def test_a_scan_that_is_left_stays_kept(tmp_path: Path, engine: Engine) -> None:
    keep = tmp_path / "keep"
    scan = step_scan(write(tmp_path / "a.h5", 4), 4)
    attached = Attached(tmp_path, keep=keep)
    attached.say(scan.documents[:7])
    until(lambda: len(engine.scans.get(scan.uid, [])) == 2, "two images")
    attached.attachment.stop()
    attached.thread.join(20)
    assert isinstance(engine.errors[scan.uid], SenderLeftError)
    assert (attached.attachment.scans, attached.attachment.partial) == (0, 0)
    assert "a restart with this --keep goes on" in attached.told("left")[0]
    assert "the engine waits 90 s (engine.peer_timeout and engine.return_timeout)" in attached.told("left")[0]
    assert [path.stem for path in keep.glob("*.documents")] == [scan.uid]


def test_the_engine_waits_for_who_left(tmp_path: Path) -> None:
    """Stopped in the middle and started again, the scan is one: no ABORT was sent."""
    compile_kernels(CPU)
    simulated = SimulatedConfig(phantom="disc", rows=2, columns=32, projections=24, flats=0, darks=0, photons=0)
    frames = [frame for frame in SimulatedSource(simulated).frames() if frame.kind is P]
    with h5py.File(tmp_path / "a.h5", "w", libver="latest") as file:
        data = np.stack([frame.data for frame in frames])
        file.create_dataset("entry/data/data", data=data, chunks=(1, *data.shape[1:]))
    scan = Scan()
    scan.stream(det={"shape": [1, *data.shape[1:]], "dtype": "array", "external": "STREAM:"}, rot={})
    resource = scan.resource(tmp_path / "a.h5")
    for number, frame in enumerate(frames):
        scan.rows(resource, (number, number + 1), (number + 1, number + 2))
        scan.event(number + 1, rot=float(np.rad2deg(frame.theta or 0.0)))
    scan.stop(primary=len(frames))
    config = Config(
        source=SourceConfig(roots=(str(tmp_path),)),
        recon=ReconConfig(center=15.5, method="direct"),
        engine=EngineConfig(heartbeat=0.1, return_timeout=60.0),
    )
    half, out = len(scan.documents) // 2, tmp_path / "out"
    with Service(config, out) as service:
        serving = threading.Thread(target=service.run, daemon=True)
        serving.start()
        told: list[str] = []
        rules = [mapping_from_dict({"name": "m", **STEP})]
        for part in (scan.documents[:half], scan.documents[half:]):
            documents = DocumentQueue()
            attachment = Attachment(
                documents, service.endpoint, rules, config, keep=tmp_path / "keep", listener=lambda e, _: told.append(e)
            )
            attached = threading.Thread(target=attachment.run, daemon=True)
            attached.start()
            for name, doc in part:
                documents(name, doc)
            if part[-1][0] != "stop":
                until(lambda: attachment._sending is not None and attachment._sending.credit.sent_frames > 4, "frames")  # noqa: B023
                attachment.stop()
            else:
                documents.close()
            attached.join(60)
            assert not attached.is_alive()
        service.stop()
        serving.join(30)
    assert told[-1] == "done"
    with h5py.File(out / scan.uid / "volume.h5", "r", locking=False) as file:
        assert file["entry/reconstruction/final"][()]
        assert list(file["entry/reconstruction/projection_indices"]) == list(range(len(frames)))


def flats(folder: Path, number: int, count: int) -> Scan:
    scan = Scan(plan_name="flats")
    scan.stream(det=DET)
    scan.rows(scan.resource(write(folder / f"flats{number}.h5", count)), (0, count), (1, count + 1))
    scan.stop()
    return scan


def stopped(attached: Attached) -> None:
    attached.attachment.stop()
    attached.thread.join(20)
    assert not attached.thread.is_alive()


@pytest.mark.parametrize("again", ["before", "after"])
def test_a_run_that_was_set_aside_has_its_own_flats_after_a_restart(tmp_path: Path, engine: Engine, again: str) -> None:
    """Whether it goes on before it or after it, and though newer flats have come."""
    rules: dict[str, Any] = {**STEP, "flat": {"select": "run", "match": {"plan_name": "flats"}, "key": "det"}}
    # Their start documents say when each began.
    before, silent = flats(tmp_path, 0, 2), step_scan(write(tmp_path / "a.h5", 4), 4)
    after, other = flats(tmp_path, 1, 3), step_scan(write(tmp_path / "b.h5", 2), 2)
    first = Attached(tmp_path, rules, patience=0.3, keep=tmp_path / "keep")
    first.say(before.documents)
    first.say(silent.documents[:6])
    first.say(after.documents)
    first.say(other.documents)
    until(lambda: first.attachment.scans, "the other one")
    said = 6
    if again == "before":
        said = 7
        first.say(silent.documents[6:7])
        until(lambda: first.told("again"), "it goes on")
    stopped(first)
    second = Attached(tmp_path, rules, keep=tmp_path / "keep")
    second.say(silent.documents[said:])
    second.close()
    kinds = [item.kind for item in engine.scans[silent.uid]]
    assert (kinds.count(F), kinds.count(P)) == (2, 4)
    assert not list((tmp_path / "keep").glob(f"{silent.uid}.*"))


def test_what_comes_of_a_run_as_it_is_given_up_is_kept(tmp_path: Path, engine: Engine) -> None:
    """The engine is busy, so its end takes a while."""
    engine.hold.clear()
    first = Attached(tmp_path, patience=0.3, keep=tmp_path / "keep")
    silent, other = step_scan(write(tmp_path / "a.h5", 4), 4), step_scan(write(tmp_path / "b.h5", 2), 2)
    first.say(silent.documents[:6])
    first.say(other.documents[:3])
    until(lambda: first.attachment._aside, "it is given up")
    first.say(silent.documents[6:8])
    until(lambda: len(first.attachment._aside[silent.uid].run) == 8, "it goes on")
    first.attachment.stop()
    engine.hold.set()
    stopped(first)
    engine.errors.clear()
    second = Attached(tmp_path, keep=tmp_path / "keep")
    second.say(silent.documents[8:])
    second.say(other.documents[3:])
    second.close()
    assert projections(engine.scans[silent.uid]) == {i: (i, 10.0 * i) for i in range(4)}


def test_a_restart_leaves_out_no_run_that_waited(tmp_path: Path, engine: Engine) -> None:
    """Though there may be fewer now."""
    engine.hold.clear()
    scans = [step_scan(write(tmp_path / f"{n}.h5", 2), 2) for n in range(3)]
    first = Attached(tmp_path, keep=tmp_path / "keep")
    for scan in scans:
        first.say(scan.documents)
    until(lambda: len(first.attachment._scans) == 3, "all wait")
    first.attachment.stop()
    engine.hold.set()
    stopped(first)
    engine.scans.clear()
    second = Attached(tmp_path, keep=tmp_path / "keep", attach={"waiting": 1})
    second.close()
    assert not second.told("skipped")
    assert list(engine.scans) == [scan.uid for scan in scans]
