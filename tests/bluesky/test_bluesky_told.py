"""What users are told: by a dry run what the run would be, and at the start what cannot be meant."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
from bluesky_attached import Attached, Engine
from bluesky_scans import COLUMNS, ROWS, STEP, Scan, collected, items, step_scan, write

from streamrecon import cli, cli_attach
from streamrecon.bluesky.describe import describe
from streamrecon.bluesky.mapping import mapping_from_dict
from streamrecon.sources.roots import Roots
from streamrecon.transport import subscriber as subscribing
from streamrecon.transport.subscriber import Subscriber

DET = {"shape": [1, ROWS, COLUMNS], "dtype": "array", "external": "STREAM:"}
KEYED: dict[str, Any] = {
    **STEP,
    "projection": {"key": "det", "select": "image_key", "image_key": "ik"},
    "flat": {"key": "det", "select": "image_key", "image_key": "ik"},
}


def described(scan: Scan, rules: dict[str, Any], folder: Path) -> str:
    (run,) = collected(scan.documents)
    return "\n".join(describe(run, [mapping_from_dict({"name": "m", **rules})], Roots([folder])))


@pytest.mark.parametrize("where", ["events", "file"])
def test_a_dry_run_knows_image_keys(tmp_path: Path, where: str) -> None:
    path = write(tmp_path / "a.h5", 5, key=np.array([1, 0, 0, 0, 0]))
    scan = Scan()
    scan.stream(det=DET, rot={}, ik={"external": "STREAM:", "shape": [1]} if where == "file" else {})
    places = [scan.resource(path)] + ([scan.resource(path, "ik", "/key")] if where == "file" else [])
    for number in range(5):
        for place in places:
            scan.rows(place, (number, number + 1), (number + 1, number + 2))
        scan.event(number + 1, rot=10.0 * number, **({} if where == "file" else {"ik": int(number == 0)}))
    scan.stop(primary=5)
    text = described(scan, KEYED, tmp_path)
    assert "projections 4 so far" in text
    assert "flats       1 so far" in text
    assert "undecided" not in text


def test_a_dry_run_counts_what_was_measured_again_once(tmp_path: Path) -> None:
    scan = Scan()
    scan.stream(det=DET, rot={})
    resource = scan.resource(write(tmp_path / "a.h5", 3))
    for row, number in enumerate([1, 2, 2]):
        scan.rows(resource, (row, row + 1), (number, number + 1))
        scan.event(number, rot=10.0 * number)
    scan.stop(primary=2)
    assert "projections 2 so far" in described(scan, STEP, tmp_path)


@pytest.mark.parametrize("keys", [{"det": {"shape": 5}}, {"det": {"shape": ["a", "b", "c"]}}, {"det": 3}, 7])
def test_a_malformed_descriptor_is_left_out_and_told(tmp_path: Path, keys: Any) -> None:
    scan = step_scan(write(tmp_path / "a.h5", 2), 2)
    scan.documents.insert(1, ("descriptor", {"uid": "x", "run_start": scan.uid, "name": "primary", "data_keys": keys}))
    text = described(scan, STEP, tmp_path)
    assert "state       ended: success" in text
    assert ("left out    a descriptor document" in text) is (keys != {"det": 3})


def test_a_key_that_the_events_do_not_have(tmp_path: Path) -> None:
    scan = step_scan(write(tmp_path / "a.h5", 2), 2)
    rules = {**STEP, "theta": {**STEP["theta"], "key": "rotation"}}
    assert "came without rotation; it has: rot: correct theta.key" in described(scan, rules, tmp_path)


def test_what_is_not_where_the_mapping_says(tmp_path: Path) -> None:
    scan = step_scan(write(tmp_path / "a.h5", 2), 2, num_points="many")
    places = {"center": "start.center", "projections": "start.num_points", "pixel_size": 1e-6}
    rules = {**STEP, "theta": {"from": "attribute", "key": "/nope"}, "scan": places}
    text = described(scan, rules, tmp_path)
    assert "the dataset /nope is not there yet" in text
    assert "scan.center is start.center, and that is 'None' in this run" in text
    assert "scan.projections is start.num_points, and that is 'many' in this run" in text
    assert "pixel_size  1e-06" in text


@pytest.mark.parametrize(("units", "told"), [("rad", True), ("deg", False)])
def test_angles_of_many_turns_are_remarked(
    tmp_path: Path, units: str, told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    scan = step_scan(write(tmp_path / "a.h5", 4), 4)
    rules = {**STEP, "theta": {**STEP["theta"], "units": units}}
    assert ("are these degrees?" in described(scan, rules, tmp_path)) is told
    (run,) = collected(scan.documents)
    with caplog.at_level(logging.INFO):
        items(run, rules, tmp_path)
    assert (caplog.text.count("are these degrees?")) == int(told)


FILE = "file+swmr:///tmp/scan.h5"
LINES = "documents+jsonl:///dev/null"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([LINES, "--mapping", "step-scan", "--to", "foo"], "endpoint 'foo' is not ipc://PATH or tcp://HOST:PORT"),
        ([LINES, "--mapping", "step-scan", "--to", "tcp://h:99999"], "is not ipc://PATH or tcp://HOST:PORT"),
        (
            [LINES, "--mapping", "step-scan", "--dry-run", "--root", "/nowhere/at/all"],
            "the root /nowhere/at/all is no folder",
        ),
        ([FILE, "--dry-run", "--mapping", "step-scan"], "--mapping is about documents"),
        ([FILE, "--dry-run", "--prefix", "x"], "--prefix is about documents"),
        ([FILE, "--dry-run", "--trust-pickle"], "--trust-pickle is about documents"),
        ([FILE, "--dry-run", "--curve-server", "k"], "--curve-server is about documents"),
        ([FILE, "--dry-run", "--tiled", "http://h"], "--tiled is about documents"),
    ],
    ids=lambda each: each[-1] if isinstance(each, list) else "",
)
def test_what_cannot_be_meant_is_refused_at_once(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["attach", *arguments]) != 0
    assert words in capsys.readouterr().err


def test_a_refusal_is_told_once_a_minute_and_as_the_reason(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(subscribing.time, "monotonic", lambda: now[0])
    subscriber = Subscriber("tcp://127.0.0.1:9")
    try:
        monkeypatch.setattr(subscriber._connection, "tend", lambda: None)
        for second in range(100):
            now[0] = float(second)
            subscriber._connection.refusal = "it refuses these CURVE keys"
            assert list(subscriber.messages()) == []
        assert len(caplog.records) == 2
        documents = SimpleNamespace(refusal=subscriber.refusal, malformed=0)
        assert cli_attach._reasons(documents, "no run has begun") == "no run has begun; it refuses these CURVE keys"
    finally:
        subscriber.close()


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    return Engine(monkeypatch)


def test_the_largest_frame_is_that_of_the_configuration(tmp_path: Path, engine: Engine) -> None:
    """So what the error says can be done."""
    for limit, there in ((ROWS * COLUMNS * 2 - 1, False), (ROWS * COLUMNS * 2, True)):
        attached = Attached(tmp_path, engine={"max_frame_bytes": limit})
        scan = step_scan(write(tmp_path / "a.h5", 2), 2)
        attached.say(scan.documents)
        attached.close()
        assert (scan.uid in engine.scans) is there
        assert any("raise engine.max_frame_bytes" in text for text in attached.told("failed")) is not there


def test_a_growing_file_has_that_limit_as_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with h5py.File(tmp_path / "a.h5", "w", libver="latest") as file:
        file["exchange/data"] = np.ones((2, 64, 64), "u2")
        file["exchange/theta"] = np.arange(2.0)
    (tmp_path / "c.toml").write_text("[engine]\nmax_frame_bytes = 1000\n")
    url = f"file+swmr://{tmp_path / 'a.h5'}"
    assert cli.main(["attach", url, "--dry-run", "--config", str(tmp_path / "c.toml")]) != 0
    assert "raise engine.max_frame_bytes" in capsys.readouterr().err
