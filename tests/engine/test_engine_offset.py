"""An axis beside the detector's middle, a full turn, an object wider than the detector: recognized, joined, or refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from engine_scans import D, F, P, Scan, batch, config, difference, read, shuffled, simulated, stream

from streamrecon.engine import make_plan
from streamrecon.errors import ConfigError, GeometryError, PlanError
from streamrecon.recon.offset import TURN
from streamrecon.recon.weights import arc_weights, covered_arc

CENTER, COLUMNS, SIDE = 13.2, 64, 101
TOLERANCE = 1e-5


def turned(center: float = CENTER, **options: Any) -> Scan:
    """A full turn; what the phantom's unit is, 32 pixels, is seen by the farther side alone."""
    options = {"rows": 2, "columns": COLUMNS, "projections": 120, "arc": 360.0, "phantom": "disc"} | options
    return simulated(center=center, **({"photons": 0.0, "bad_columns": 0} | options))


def options_for(center: float | None = CENTER, **recon: Any) -> Any:
    return config(recon={"center": center, "method": "fourier"} | recon, emit={"every": 40})


@pytest.fixture(scope="module")
def scan() -> Scan:
    return turned()


@pytest.mark.parametrize("method", ["direct", "fourier"])
@pytest.mark.parametrize(("center", "order"), [(CENTER, "recorded"), (50.1, "random:1")])
def test_a_full_turn_with_the_axis_beside_the_middle(tmp_path: Path, method: str, center: float, order: str) -> None:
    scan = turned(center)
    sent = scan.arranged(scan.of(D), scan.of(F), shuffled(scan.of(P), order))
    options = options_for(center, method=method, circle=True)
    streamed = stream(sent, options, tmp_path)
    volume = streamed.volume
    assert volume.shape[-1] == 2 * math.ceil(max(center, COLUMNS - 1 - center)) + 1
    assert difference(volume, batch(sent, options, method=method, offset=True)) < TOLERANCE
    y, x = np.mgrid[: volume.shape[1], : volume.shape[2]] - (volume.shape[1] - 1) / 2
    mu = scan.info.metadata["mu_scale"]
    for first in (0, 6, 12):  # near the axis both halves see it, from 13 pixels on only one
        ring = (np.hypot(x, y) >= first) & (np.hypot(x, y) < first + 8)
        assert volume[0][ring].mean() == pytest.approx(mu, rel=0.01)
    assert read(tmp_path, "entry/reconstruction/coverage") == pytest.approx(1)
    assert bool(read(tmp_path, "entry/reconstruction/parameters/offset_axis"))
    assert streamed.told("offset_axis")


def test_the_axis_is_found_as_well(tmp_path: Path) -> None:
    """Where what both halves see has features: the opposed pair is registered in the overlap."""
    scan = turned(26.4, columns=128, projections=180, phantom="foam")
    streamed = stream(scan, options_for(None, circle=True), tmp_path)
    center = read(tmp_path, "entry/reconstruction/parameters/center")
    assert center == pytest.approx(26.4, abs=0.1)
    expected = batch(scan, options_for(center, circle=True), method="fourier", offset=True)
    assert difference(streamed.volume, expected) < TOLERANCE
    assert streamed.volume.shape[-1] == 203


@pytest.mark.parametrize("known", ["counts", "neither"])
@pytest.mark.parametrize("option", ["auto", "yes"])
def test_angles_that_are_not_announced(scan: Scan, tmp_path: Path, known: str, option: str) -> None:
    sent = scan.with_info(theta=None) if known == "counts" else scan.unknown()
    options = options_for(offset_axis=option, circle=True)
    streamed = stream(sent, options, tmp_path)
    assert difference(streamed.volume, batch(scan, options, method="fourier", offset=True)) < TOLERANCE


@pytest.mark.parametrize("corrections", [{"rings": 7}, {"air": (0, 9)}, {"rings": 7, "air": (0, 9)}])
def test_with_other_corrections_and_late_flats(tmp_path: Path, corrections: dict[str, Any]) -> None:
    scan = turned(bad_columns=3)
    sent = scan.arranged(scan.of(D), scan.of(P), scan.of(F))
    options = config(recon={"center": CENTER}, emit={"every": 40}, normalize=corrections)
    assert difference(stream(sent, options, tmp_path).volume, batch(sent, options, offset=True)) < 2 * TOLERANCE


def test_lost_frames(scan: Scan, tmp_path: Path) -> None:
    sent = scan.arranged(scan.of(D), scan.of(F), [f for f in scan.of(P) if not 20 <= f.index < 26])
    options = options_for(circle=True)
    volume = stream(sent, options, tmp_path).volume
    assert difference(volume, batch(sent, options, method="fourier", offset=True)) < TOLERANCE
    theta = np.array([f.theta for f in sent.of(P)])
    assert read(tmp_path, "entry/reconstruction/coverage") == pytest.approx(covered_arc(theta, TURN) / TURN)


def test_partial_volumes_have_the_gain_of_the_turn(scan: Scan, tmp_path: Path) -> None:
    order = shuffled(scan.of(P), "golden")
    sent = scan.arranged(scan.of(D), scan.of(F), order)
    options = config(
        recon={"center": CENTER, "circle": True}, emit={"every": 30}, engine={"batch": 30, "batch_seconds": 30.0}
    )
    stream(sent, options, tmp_path)
    planned = arc_weights(scan.info.theta, TURN)
    files = sorted((tmp_path / "partials").glob("v*/slab-000.h5"))
    assert len(files) >= 3
    for path in files:
        with h5py.File(path, "r", locking=False) as file:
            indices, volume = file["entry/reconstruction/projection_indices"][:], file["entry/data/data"][:]
            coverage = file["entry/reconstruction/coverage"][()]
        theta = scan.info.theta[indices]
        assert coverage == pytest.approx(covered_arc(theta, TURN) / TURN)
        gain = covered_arc(theta, TURN) / planned[indices].sum()
        part = scan.arranged(scan.of(D), scan.of(F), [scan.of(P)[i] for i in indices])
        assert difference(volume, batch(part, options, weights=planned[indices], offset=True) * gain) < TOLERANCE


@pytest.mark.parametrize(
    ("why", "center", "arc", "option"),
    [
        ("the object is seen whole", 23.0, 360.0, "auto"),
        ("the axis is near the middle", 25.0, 360.0, "auto"),
        ("half a turn", CENTER, 180.0, "auto"),
        ("so it was said", CENTER, 360.0, "no"),
    ],
)
def test_ordinary_scans_stay_ordinary(tmp_path: Path, why: str, center: float, arc: float, option: str) -> None:
    scan = turned(center, arc=arc)
    options = options_for(center, offset_axis=option)
    streamed = stream(scan, options, tmp_path)
    assert streamed.volume.shape == (2, COLUMNS, COLUMNS), why
    assert difference(streamed.volume, batch(scan, options, method="fourier")) < TOLERANCE
    assert not streamed.told("offset_axis")
    assert not read(tmp_path, "entry/reconstruction/parameters/offset_axis")


@pytest.mark.parametrize(("center", "side"), [(20.5, 87), (21.5, COLUMNS)])
def test_the_order_has_no_say_in_whether_views_are_joined(tmp_path: Path, center: float, side: int) -> None:
    """An ellipse that some projections show cut off and others not: what the first ones say is put right by all."""
    scan = turned(center, phantom="asymmetric")
    sent = scan.arranged(scan.of(D), scan.of(F), shuffled(scan.of(P), "random:2"))
    options = config(recon={"center": center, "circle": True}, engine={"batch": 1})
    a, b = (stream(each, options, tmp_path / name) for name, each in (("a", scan), ("b", sent)))
    assert a.volume.shape[-1] == side
    assert difference(a.volume, b.volume) < TOLERANCE
    assert a.told("start_over") or b.told("start_over")


@pytest.mark.parametrize("arc", [280.0, 340.0])
def test_less_than_a_full_turn_of_a_wide_object_is_refused(tmp_path: Path, arc: float) -> None:
    streamed = stream(turned(arc=arc), options_for(), tmp_path / "auto")
    assert isinstance(streamed.engine_error, GeometryError)
    for word in ("column 13.2 of 64", "degrees of the full turn", "at least 351", 'recon.offset_axis = "no"'):
        assert word in str(streamed.engine_error)
    assert stream(turned(arc=arc), options_for(offset_axis="no"), tmp_path / "no").volume.shape[-1] == COLUMNS


def test_what_cannot_be_joined_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(GeometryError, match=r"recon\.offset_axis.*346 degrees.*at least 351"):
        make_plan(turned(arc=340.0).info, (0, 2), options_for(offset_axis="yes"), tmp_path)
    with pytest.raises(GeometryError, match=r"column 70\.0, beside the detector.*--center"):
        make_plan(turned().info, (0, 2), options_for(70.0, offset_axis="yes"), tmp_path)
    with pytest.raises(ConfigError, match=r"recon\.offset_axis.*auto, yes, no"):
        options_for(offset_axis="maybe")


def test_a_side_that_is_asked_for_wins(scan: Scan, tmp_path: Path) -> None:
    options = options_for(side=40)
    volume = stream(scan, options, tmp_path).volume
    assert volume.shape == (2, 40, 40)
    assert difference(volume, batch(scan, options, method="fourier", offset=True)) < TOLERANCE


def memory(scan: Scan, options: Any, folder: Path) -> int:
    return sum(make_plan(scan.info, (0, scan.info.geometry.rows), options, folder).memory.values())


def test_the_plan_knows_the_wider_side(tmp_path: Path) -> None:
    scan = turned(rows=64)
    narrow = memory(scan, options_for(offset_axis="no"), tmp_path)
    given = memory(scan, options_for(), tmp_path)
    assert given > narrow
    # Found during the scan: only who says yes pays for the worst case beforehand.
    assert memory(scan, options_for(None), tmp_path) <= narrow
    assert memory(scan, options_for(None, offset_axis="yes"), tmp_path) > given
    assert memory(turned(arc=180.0, rows=64), options_for(), tmp_path) == narrow


def test_a_wider_side_that_does_not_fit_is_refused_when_it_is_known(tmp_path: Path) -> None:
    scan = turned(26.4, columns=128, projections=180, phantom="foam", rows=16)
    narrow = memory(scan, options_for(None), tmp_path)
    options = config(recon={"center": None, "method": "fourier"}, engine={"memory_bytes": narrow + 1_000_000})
    streamed = stream(scan, options, tmp_path / "out")
    assert isinstance(streamed.engine_error, PlanError)
    for word in ("side of 203", "recon.side", 'recon.offset_axis = "no"', "engine.memory_bytes"):
        assert word in str(streamed.engine_error)
