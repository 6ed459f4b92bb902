"""The center found during the scan: how near, and that the volume is the one with that center from the start."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import pytest
from engine_scans import D, F, P, Scan, batch, config, difference, read, shuffled, simulated, stream

from streamrecon.scan import Frame

COLUMNS = 256
MIDDLE = (COLUMNS - 1) / 2


def scan_off(offset: float, order: str = "sequential", **options: Any) -> Scan:
    options = {"phantom": "asymmetric", "rows": 8, "projections": 180, "include_end": True} | options
    return simulated(columns=COLUMNS, center=MIDDLE + offset, order=order, **options)


@pytest.mark.parametrize("order", ["sequential", "golden", "interlaced:6"])
@pytest.mark.parametrize(("offset", "within"), [(4.3, 0.1), (-11.7, 0.1), (20.0, 0.2)])
def test_center_off_the_middle_is_found(tmp_path: Path, offset: float, within: float, order: str) -> None:
    scan = scan_off(offset, order)
    options = config(recon={"center": None}, emit={"every": 36})
    streamed = stream(scan, options, tmp_path)
    center = read(tmp_path, "entry/reconstruction/parameters/center")
    assert center == pytest.approx(MIDDLE + offset, abs=within)
    assert difference(streamed.volume, batch(scan, options, center)) < 1e-5
    assert streamed.result is not None
    assert streamed.result.status.center == pytest.approx(center)
    assert read(tmp_path, "entry/reconstruction/parameters/center_sigma") < 1


@pytest.mark.parametrize("order", ["golden", "interlaced:6"])
def test_partial_volumes_of_an_even_order_have_the_center(tmp_path: Path, order: str) -> None:
    """Orders that spread the angles evenly cover the half circle with two projections; that tells no center."""
    scan = scan_off(-11.7, order, rows=2, projections=120)

    def frames(rows: slice) -> Iterator[Frame]:
        for frame in scan.frames(rows):
            if frame.kind == P:
                time.sleep(0.01)
            yield frame

    stream(scan, config(recon={"center": None}, emit={"every": 20}), tmp_path, frames=frames)
    off = {}
    for path in sorted((tmp_path / "partials").glob("v*/slab-000.h5")):
        with h5py.File(path, "r", locking=False) as file:
            count = len(file["entry/reconstruction/theta"])
            off[count] = float(file["entry/reconstruction/parameters/center"][()]) - (MIDDLE - 11.7)
    assert all(abs(value) < 1 for count, value in off.items() if count >= 40), off


@pytest.mark.parametrize("order", ["recorded", "random:1"])
def test_a_provisional_center_is_replaced(tmp_path: Path, order: str) -> None:
    recorded = scan_off(9.4)
    scan = recorded.arranged(recorded.of(D), recorded.of(F), shuffled(recorded.of(P), order))
    options = config(recon={"center": None, "center_wait": 0.0, "center_frames": 1}, emit={"every": 24})
    streamed = stream(scan, options, tmp_path)
    over = streamed.told("start_over")
    assert over, "accumulation began with the first projection, when the center could not be known"
    assert len(over) <= 8, [e["text"] for e in over]
    center = read(tmp_path, "entry/reconstruction/parameters/center")
    assert center == pytest.approx(MIDDLE + 9.4, abs=0.1)
    assert difference(streamed.volume, batch(scan, options, center)) < 1e-5
    given = stream(scan, config(recon={"center": float(center)}), tmp_path / "given")
    assert difference(streamed.volume, given.volume) < 1e-5
    assert all(e["projections"] > 1 for e in streamed.told("version")), "a version of one projection is of no use"
    versions = [e["version"] for e in streamed.told("version")]
    assert versions == list(range(1, len(versions) + 1))


def test_given_center_is_used_as_it_is(tmp_path: Path) -> None:
    scan = scan_off(9.4)
    streamed = stream(scan, config(recon={"center": 120.0}), tmp_path)
    assert read(tmp_path, "entry/reconstruction/parameters/center") == 120.0
    assert read(tmp_path, "entry/reconstruction/parameters/center_method") == "user"
    assert not streamed.told("start_over")
    assert difference(streamed.volume, batch(scan, config(recon={"center": 120.0}))) < 1e-5


def test_center_of_the_scan_is_used(tmp_path: Path) -> None:
    from dataclasses import replace

    scan = scan_off(9.4)
    scan = scan.with_info(geometry=replace(scan.info.geometry, center=121.5))
    stream(scan, config(recon={"center": None}), tmp_path)
    assert read(tmp_path, "entry/reconstruction/parameters/center") == 121.5
    stream(scan, config(recon={"center": 120.0}), tmp_path)
    assert read(tmp_path, "entry/reconstruction/parameters/center") == 120.0


def test_center_with_late_flats_and_darks(tmp_path: Path) -> None:
    recorded = scan_off(-7.2)
    scan = recorded.arranged(recorded.of(P), recorded.of(F), recorded.of(D))
    options = config(recon={"center": None}, emit={"every": 40})
    streamed = stream(scan, options, tmp_path)
    center = read(tmp_path, "entry/reconstruction/parameters/center")
    assert center == pytest.approx(MIDDLE - 7.2, abs=0.15)
    assert difference(streamed.volume, batch(scan, options, center)) < 1e-5


def test_a_worse_estimate_at_the_end_does_not_replace_a_better_one(tmp_path: Path) -> None:
    """A small, coarse scan whose later projections tell nothing more."""
    scan = simulated(rows=6, columns=48, projections=60, center=27.0, seed=1)
    streamed = stream(scan, config(recon={"center": None}), tmp_path)
    sigmas = [e["sigma"] for e in streamed.told("center")]
    assert sigmas == sorted(sigmas, reverse=True), sigmas
    assert streamed.result is not None
    assert streamed.result.final


def test_catching_up_is_batched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a start over, projections are accumulated in micro-batches as before, not one by one."""
    from streamrecon.recon.direct import DirectAccumulator

    sizes: list[int] = []
    add = DirectAccumulator.add

    def counted(self: DirectAccumulator, projections: object, theta: object, weight: object) -> None:
        sizes.append(len(theta))  # type: ignore[arg-type]
        add(self, projections, theta, weight)  # type: ignore[arg-type]

    monkeypatch.setattr(DirectAccumulator, "add", counted)
    scan = simulated(rows=2, projections=200, center=24.3)
    late = scan.arranged(scan.of(F), scan.of(P), scan.of(D))  # late darks: all is accumulated again
    streamed = stream(late, config(emit={"every": 50}), tmp_path)
    assert streamed.told("start_over")
    again = streamed.told("start_over")[0]["projections"]
    tail: list[int] = []
    while sum(tail) < again:
        tail.append(sizes.pop())
    assert len(tail) <= 3 * again / 16, f"{again} projections were accumulated again in {len(tail)} batches"


@pytest.mark.parametrize("order", ["recorded", "golden", "random:2"])
def test_the_final_volume_depends_on_neither_order_nor_pace(tmp_path: Path, order: str) -> None:
    """Estimates come and go during the scan; the last one is from all projections."""
    scan = simulated(rows=4, columns=64, projections=90, center=33.9, phantom="foam", photons=3000.0)
    plain = stream(scan, config(recon={"center": None}), tmp_path / "plain")
    other = Scan(scan.info, [*scan.of(D), *scan.of(F), *shuffled(scan.of(P), order)])
    options = config(recon={"center": None}, emit={"every": 7}, engine={"batch": 5, "delay": 0.003})
    changed = stream(other, options, tmp_path / "changed")
    assert plain.told("center")[-1]["center"] == pytest.approx(changed.told("center")[-1]["center"], abs=1e-6)
    assert difference(plain.volume, changed.volume) < 1e-5


def test_a_number_that_is_not_promised_serves_as_one_until_more_come(tmp_path: Path) -> None:
    """It decides how often versions come and how long the center is waited for, and ends nothing."""
    scan = simulated(projections=60)
    told = scan.unknown()
    told = told.with_info(metadata={**scan.info.metadata, "expected": 40})
    streamed = stream(told, config(recon={"center": None}, emit={"every": None}), tmp_path)
    assert streamed.result is not None
    assert streamed.result.status.expected == 40
    assert streamed.result.status.in_volume == 60
    counts = [event["projections"] for event in streamed.told("version")]
    assert {b - a for a, b in itertools.pairwise(counts)} <= {0, 4}, "a tenth of what was told"
    assert streamed.result.missing == 0
    expected = stream(scan.unknown(), config(recon={"center": None}), tmp_path / "plain")
    assert difference(streamed.volume, expected.volume) < 1e-5
