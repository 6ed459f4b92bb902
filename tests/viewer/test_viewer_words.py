"""The sentence that says what is happening, or why nothing is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from streamrecon.viewer.source import Link
from streamrecon.viewer.words import line
from streamrecon.wire.messages import Progress, Update

LIVE = Link("live", "listening to ipc:///x")
PROGRESS = Progress(
    uid="s", title="t", phase="accumulating", frames=110, projections=100, expected=400, in_volume=100, coverage=0.25,
    version=2, center=31.5, filter="ramp", rows=4, columns=64, side=None,
    credit_frames=60, ring_frames=64, rate=25.0, quiet=0.1, nbytes=10**6, latency=0.2, dropped=0,
    alarm=None, ranks=1, angles=(), paused=False, advice=None, every=20, interval=None, viewers=1,
)  # fmt: skip
UPDATE = Update(
    version=2, uid="s", projections=100, coverage=0.25, final=False, binning=1, shape=(4, 8, 8), full=(4, 8, 8)
)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "Accumulating: 100 of 400 projections; the next version at 120"),
        ({"uid": "", "phase": "waiting for a sender", "frames": 0}, "Waiting for a sender"),
        ({"phase": "waiting for flats", "in_volume": 0, "version": 0}, "Waiting for flats"),
        ({"phase": "finding the center", "in_volume": 0, "version": 0}, "Finding the center"),
        ({"paused": True}, "Accumulating; new versions are paused, and made only when asked for"),
        ({"in_volume": 60}, "Accumulating; the volume is 40 projections behind"),
        ({"in_volume": 95}, "Accumulating: 95 of 400 projections; the next version at 120"),
        ({"every": None, "expected": None}, "Accumulating: 100 projections"),
        ({"every": 1000}, "Accumulating: 100 of 400 projections"),
        ({"version": 0}, "Accumulating; the first version is not yet made"),
        ({"phase": "receiving", "frames": 0, "projections": 0, "in_volume": 0}, "Receiving; no frame has come yet"),
        ({"quiet": 12.4}, "Accumulating: 100 of 400 projections; no frame has come for 12 s"),
        (
            {"phase": "receiving", "projections": 0, "in_volume": 0, "frames": 8},
            "Receiving: 8 flats and darks, no projection yet",
        ),
        ({"quiet": None, "in_volume": 95}, "Accumulating: 95 of 400 projections; the next version at 120"),
        ({"phase": "ended", "quiet": 12.4}, "Ended: 100 of 400 projections are in the volume"),
        ({"phase": "accumulating; the sender is silent"}, "Accumulating; the sender is silent"),
        ({"alarm": "a disk is full", "paused": True}, "Alarm: a disk is full"),
        (
            {"advice": "the sample moved"},
            "Accumulating: 100 of 400 projections; the next version at 120; a viewer advises to stop the scan: the sample moved",
        ),
        (
            {"alarm": "a disk is full", "advice": "no room"},
            "Alarm: a disk is full; a viewer advises to stop the scan: no room",
        ),
    ],
)
def test_what_is_said(changes: dict[str, Any], words: str) -> None:
    assert line(LIVE, replace(PROGRESS, **changes), UPDATE) == words


def test_the_end_of_a_scan_and_the_beginning_of_the_next() -> None:
    final = replace(UPDATE, final=True)
    assert line(LIVE, PROGRESS, final) == "Finished: 100 projections are in the volume"
    assert line(LIVE, replace(PROGRESS, uid="another"), final) == "Accumulating: 100 of 400 projections"


def test_without_an_engine() -> None:
    """What it said last is no news where it is gone."""
    assert line(Link("waiting", "waiting for an engine at ipc:///x"), None, None) == "Waiting for an engine at ipc:///x"
    assert line(Link("gone", "the engine is gone"), PROGRESS, UPDATE) == "The engine is gone"
    assert line(Link("file", "a.h5"), None, replace(UPDATE, final=True)) == "Finished volume: a.h5"
    assert line(Link("file", "a.h5"), None, replace(UPDATE, final=True, projections=0)) == "Volume: a.h5"
    assert line(Link("file", "a.h5"), None, UPDATE) == "Partial volume of 100 projections: a.h5"


def test_a_final_version_of_the_reconstruction_before_is_not_of_this_one() -> None:
    last = replace(UPDATE, final=True, projections=400)
    assert line(LIVE, PROGRESS, last) == "Finished: 400 projections are in the volume"
    anew = replace(PROGRESS, reconstruction=7, in_volume=0, projections=0, version=0, frames=8, phase="receiving")
    assert line(LIVE, anew, last) == "Receiving: 8 flats and darks, no projection yet"
