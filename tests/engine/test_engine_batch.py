"""Incremental equals batch: whatever comes when, the final volume is that of everything known beforehand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from engine_scans import (
    D,
    F,
    P,
    Scan,
    batch,
    config,
    difference,
    read,
    shuffled,
    simulated,
    stream,
)

from streamrecon.scan import Frame, FrameKind, Geometry, ScanInfo

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def scan() -> Scan:
    return simulated(center=24.3)


@pytest.mark.parametrize("method", ["direct", "fourier"])
@pytest.mark.parametrize(
    ("size", "every", "order"),
    [(1, 1000, "recorded"), (7, 25, "random:4"), (16, 1000, "golden"), (64, 20, "interlaced:4"), (16, 60, "reversed")],
)
def test_any_order_batch_size_and_policy_gives_the_batch_volume(
    scan: Scan, tmp_path: Path, method: str, size: int, every: int, order: str
) -> None:
    options = config(recon={"method": method}, emit={"every": every}, engine={"batch": size})
    sent = scan.arranged(scan.of(D), scan.of(F), shuffled(scan.of(P), order))
    streamed = stream(sent, options, tmp_path)
    assert difference(streamed.volume, batch(scan, options, method=method)) < TOLERANCE
    assert list(read(tmp_path, "entry/reconstruction/projection_indices")) == list(range(60))
    assert streamed.result is not None
    assert streamed.result.missing == 0


def test_same_order_is_bitwise_equal(scan: Scan, tmp_path: Path) -> None:
    # batches are closed by time as well: the same order and the same batches need one large batch
    options = config(engine={"batch": 8, "batch_seconds": 30.0})
    a, b = (stream(scan, options, tmp_path / name).volume for name in "ab")
    assert np.array_equal(a, b)


@pytest.mark.parametrize("order", ["recorded", "random:1"])
@pytest.mark.parametrize("known", ["neither", "counts", "theta"])
def test_unknown_angles_and_counts(scan: Scan, tmp_path: Path, order: str, known: str) -> None:
    options = config(emit={"every": 25})
    sent = scan.arranged(scan.of(D), scan.of(F), shuffled(scan.of(P), order))
    if known != "theta":
        sent = sent.with_info(theta=None)
    if known == "neither":
        sent = sent.unknown()
    if known == "theta":
        sent = sent.with_info(counts={P: 60, F: None, D: None})
    assert difference(stream(sent, options, tmp_path).volume, batch(scan, options)) < TOLERANCE


def test_unknown_angles_that_are_unevenly_spread(tmp_path: Path) -> None:
    scan = simulated(projections=80, center=24.3)
    kept = np.flatnonzero(np.random.default_rng(0).random(80) < 0.5)
    projections = [replace(scan.of(P)[k], index=i) for i, k in enumerate(kept)]
    info = replace(scan.info, theta=None, counts=dict.fromkeys(FrameKind))
    uneven = Scan(info, [*scan.of(D), *scan.of(F), *projections])
    options = config()
    streamed = stream(uneven, options, tmp_path)
    assert difference(streamed.volume, batch(uneven, options)) < TOLERANCE
    assert streamed.result is not None
    assert streamed.result.missing == 0


@pytest.mark.parametrize("theta_known", [True, False])
@pytest.mark.parametrize("order", ["recorded", "random:2", "golden"])
def test_missing_projections_are_weighted_anew(scan: Scan, tmp_path: Path, order: str, theta_known: bool) -> None:
    lost = set(np.random.default_rng(5).choice(60, 6, replace=False).tolist())
    sent = scan.arranged(scan.of(D), scan.of(F), [f for f in shuffled(scan.of(P), order) if f.index not in lost])
    if not theta_known:
        sent = sent.with_info(theta=None)
    options = config(emit={"every": 30})
    streamed = stream(sent, options, tmp_path)
    assert difference(streamed.volume, batch(sent, options)) < TOLERANCE
    assert streamed.result is not None
    assert streamed.result.missing == len(lost)
    assert streamed.report is not None
    assert {i for a, b in streamed.report.missing for i in range(a, b)} == lost
    assert "never came" in read(tmp_path, "entry/reconstruction/missing")


def test_half_of_the_projections_never_comes(scan: Scan, tmp_path: Path) -> None:
    sent = scan.arranged(scan.of(D), scan.of(F), scan.of(P)[:30])
    options = config()
    streamed = stream(sent, options, tmp_path)
    assert difference(streamed.volume, batch(sent, options)) < TOLERANCE
    assert 0.4 < read(tmp_path, "entry/reconstruction/coverage") < 0.6


@pytest.mark.parametrize("arrangement", ["flats last", "darks last", "fxi", "fxi darks first", "between"])
@pytest.mark.parametrize("unknown", [False, True])
def test_flats_and_darks_may_come_late(scan: Scan, tmp_path: Path, arrangement: str, unknown: bool) -> None:
    p, f, d = scan.of(P), scan.of(F), scan.of(D)
    sent = {
        "flats last": scan.arranged(d, p, f),
        "darks last": scan.arranged(f, p, d),
        "fxi": scan.arranged(p, f, d),
        "fxi darks first": scan.arranged(p, d, f),
        "between": scan.arranged(d[:2], p[:20], d[2:], p[20:40], f, p[40:]),
    }[arrangement]
    options = config(emit={"every": 35})
    streamed = stream(sent.unknown() if unknown else sent, options, tmp_path)
    assert difference(streamed.volume, batch(sent, options)) < TOLERANCE
    assert read(tmp_path, "entry/reconstruction/parameters/flats") == 5
    assert read(tmp_path, "entry/reconstruction/parameters/darks") == 5


@pytest.mark.parametrize("order", ["recorded", "random:3"])
@pytest.mark.parametrize("interpolate", [True, False])
def test_flats_before_within_and_after_are_interpolated(tmp_path: Path, order: str, interpolate: bool) -> None:
    scan = simulated(flats=4, flats_after=5, center=24.3)
    # The beam loses a third over the scan, so that the interpolation is seen.
    drift = lambda n: 1 - n / 180  # noqa: E731
    p = [replace(f, data=(f.data * drift(f.index)).astype(np.uint16)) for f in scan.of(P)]
    first, last = scan.of(F)[:4], scan.of(F)[4:]
    within = [replace(f, data=(f.data * drift(30)).astype(np.uint16)) for f in last[:2]]
    after = [replace(f, data=(f.data * drift(60)).astype(np.uint16)) for f in last[2:]]
    p = shuffled(p, order)
    sent = Scan(scan.info, [*scan.of(D), *first, *p[:30], *within, *p[30:], *after])
    options = config(emit={"every": 25}, normalize={"interpolate_flats": interpolate})
    assert difference(stream(sent, options, tmp_path).volume, batch(sent, options)) < TOLERANCE


def test_flats_after_the_projections_when_some_were_lost(tmp_path: Path) -> None:
    """Flats measured after projection 59 stay there in the scan, also where 10 % of the projections are lost."""
    scan = simulated(flats=4, flats_after=4, center=24.3)
    first, last = scan.of(F)[:4], scan.of(F)[4:]
    after = [replace(f, data=(f.data * 0.6).astype(np.uint16)) for f in last]
    complete = Scan(scan.info, [*scan.of(D), *first, *scan.of(P), *after])
    lost = set(range(10, 22))
    sent = complete.arranged([f for f in complete.items if f.kind != P or f.index not in lost])
    options = config()
    from streamrecon.recon.accumulate import Shape, snapshot
    from streamrecon.recon.direct import DirectAccumulator
    from streamrecon.recon.normalize import FlatGroup, Normalization, Normalizer, combine
    from streamrecon.recon.weights import arc_weights

    dark = combine(np.stack([f.data for f in scan.of(D)]), "median")
    groups = [(0.0, first), (60.0, after)]
    flats = tuple(FlatGroup(n, combine(np.stack([f.data for f in g]), "median")) for n, g in groups)
    kept = [f for f in scan.of(P) if f.index not in lost]
    integrals = Normalizer(Normalization(dark, flats, 1.0, 0.5)).line_integrals(
        np.stack([f.data for f in kept]), np.array([f.index for f in kept], float)
    )
    theta = np.array([f.theta for f in kept], float)
    accumulator = DirectAccumulator(Shape.of(scan.info.geometry, options.recon, 24.3), options.recon)
    accumulator.add(integrals, theta, arc_weights(theta))
    assert difference(stream(sent, options, tmp_path).volume, snapshot(accumulator)) < TOLERANCE


@pytest.mark.parametrize("every", [15, 1000])
def test_dead_pixels_that_only_late_flats_show(scan: Scan, tmp_path: Path, every: int) -> None:
    def dead(frame: Frame) -> Frame:
        data = frame.data.copy()
        data[2, 20:23] = 0
        data[4] = 0
        return replace(frame, data=data)

    sent = scan.arranged(scan.of(D), scan.of(P), [dead(f) for f in scan.of(F)])
    options = config(emit={"every": every})
    streamed = stream(sent, options, tmp_path)
    assert difference(streamed.volume, batch(sent, options)) < TOLERANCE
    assert read(tmp_path, "entry/reconstruction/parameters/dead_pixels") == 3 + 48


def test_dead_pixels_in_flats_after_when_flats_before_look_well(tmp_path: Path) -> None:
    scan = simulated(flats=3, flats_after=3, center=24.3)
    after = []
    for frame in scan.of(F)[3:]:
        data = frame.data.copy()
        data[1, 30] = 0
        after.append(replace(frame, data=data))
    sent = scan.arranged(scan.of(D), scan.of(F)[:3], scan.of(P), after)
    options = config(emit={"every": 25})
    assert difference(stream(sent, options, tmp_path).volume, batch(sent, options)) < TOLERANCE


@pytest.mark.parametrize("which", ["none", "flats only", "darks only"])
def test_without_flats_or_darks(scan: Scan, tmp_path: Path, which: str) -> None:
    sent = scan.arranged(
        scan.of(F) if which == "flats only" else [], scan.of(D) if which == "darks only" else [], scan.of(P)
    ).unknown()
    streamed = stream(sent, config(), tmp_path)
    assert np.isfinite(streamed.volume).all()
    if which == "flats only":
        assert difference(streamed.volume, batch(sent, config())) < TOLERANCE


@pytest.mark.parametrize("flats", [True, False])
def test_float_frames_give_the_same_volume_in_any_order(tmp_path: Path, flats: bool) -> None:
    """Also where an opaque part of the object leaves no counts: the floor may not depend on which projection comes first."""
    scan = simulated(center=24.3)
    dark, flat = np.full((6, 48), 10, np.float32), np.full((6, 48), 1000, np.float32)
    items = [Frame(D, 0, None, dark)]
    items += [Frame(F, 0, None, flat)] if flats else []
    rng = np.random.default_rng(1)
    for f in scan.of(P):
        data = (10 + 990 * np.exp(-rng.random((6, 48))) * (0.5 + f.index / 60)).astype(np.float32)
        data[:, 22:26] = 9  # opaque: fewer counts than the dark
        items.append(replace(f, data=data))
    info = replace(scan.info, dtype=np.dtype(np.float32), counts={P: 60, F: int(flats), D: 1})
    sent = Scan(info, items)
    turned = sent.arranged(sent.of(D), sent.of(F), sent.of(P)[::-1])
    a = stream(sent, config(), tmp_path / "a").volume
    b = stream(turned, config(), tmp_path / "b").volume
    assert difference(a, b) < TOLERANCE


@pytest.mark.parametrize("dtype", ["<u1", "<i2", "<f4", "<f8", "<u4", "<i4", "<i1"])
def test_every_dtype(tmp_path: Path, dtype: str) -> None:
    scan = simulated(center=24.3, projections=20)
    scale = 100 / 30000 if dtype[1:] in ("u1", "i1") else 0.9
    items = [replace(f, data=(f.data * scale).astype(dtype)) for f in scan.items]
    sent = Scan(replace(scan.info, dtype=np.dtype(dtype)), items)
    options = config(normalize={"floor": 0.5})
    assert difference(stream(sent, options, tmp_path).volume, batch(sent, options)) < TOLERANCE


def test_only_some_rows(scan: Scan, tmp_path: Path) -> None:
    streamed = stream(scan, config(recon={"rows": (2, 5)}), tmp_path)
    assert difference(streamed.volume, batch(scan, config())[2:5]) < TOLERANCE
    z = read(tmp_path, "entry/data/z")
    assert np.allclose(z, np.array([2, 3, 4]) * 1e-6)


def test_a_full_turn_and_a_repeated_end_angle(tmp_path: Path) -> None:
    for arc, end in ((360.0, False), (360.0, True), (180.0, True)):
        scan = simulated(center=24.3, arc=arc, include_end=end)
        out = tmp_path / f"{arc}{end}"
        assert difference(stream(scan, config(), out).volume, batch(scan, config())) < TOLERANCE
        assert read(out, "entry/reconstruction/coverage") == pytest.approx(1.0)


def test_one_projection_only(scan: Scan, tmp_path: Path) -> None:
    for name, center in (("given", 24.3), ("found", None)):
        sent = scan.arranged(scan.of(D), scan.of(F), scan.of(P)[:1])
        sent = sent.with_info(counts={P: 1, F: 5, D: 5}, theta=scan.info.theta[:1])
        streamed = stream(sent, config(recon={"center": center}), tmp_path / name)
        assert np.isfinite(streamed.volume).all()
        assert list(read(tmp_path / name, "entry/reconstruction/projection_indices")) == [0]


@pytest.mark.parametrize("method", ["direct", "fourier"])
@pytest.mark.parametrize("columns", [1, 2, 4, 5, 9])
def test_one_row_of_few_columns(tmp_path: Path, columns: int, method: str) -> None:
    rng = np.random.default_rng(0)
    theta = np.linspace(0, np.pi, 12, endpoint=False)
    items = [Frame(F, 0, None, np.full((1, columns), 900, np.uint16))]
    items += [
        Frame(P, i, float(t), rng.integers(200, 800, (1, columns)).astype(np.uint16)) for i, t in enumerate(theta)
    ]
    info = ScanInfo("narrow", Geometry(1, columns), np.dtype("<u2"), {P: 12, F: 1, D: 0}, theta)
    options = config(recon={"center": None, "method": method})
    streamed = stream(Scan(info, items), options, tmp_path)
    assert streamed.volume.shape == (1, columns, columns)
    center = read(tmp_path, "entry/reconstruction/parameters/center")
    expected = batch(Scan(info, items), options, center, method)
    assert difference(streamed.volume, expected) < TOLERANCE


def test_a_frame_sent_twice_counts_once(scan: Scan, tmp_path: Path) -> None:
    twice = scan.arranged(scan.of(D), scan.of(F), scan.of(P)[:30], scan.of(P)[29:30], scan.of(P)[30:])
    streamed = stream(twice, config(), tmp_path)
    # Either the sender is told that it is wrong, or the frame is dropped; it may never be in the volume twice.
    if streamed.sender_error is None and streamed.result is not None and streamed.result.final:
        assert difference(streamed.volume, batch(scan, config())) < TOLERANCE
