"""The simulated detector gives back the phantom's line integrals, and the same frames for the same seed."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys

import numpy as np
import pytest

from streamrecon.config import Config, SimulatedConfig, SourceConfig
from streamrecon.errors import ConfigError
from streamrecon.scan import Frame, FrameKind
from streamrecon.sources import SimulatedSource, open_source
from streamrecon.sources.phantom import PHANTOMS, density, phantom
from streamrecon.sources.simulated import angles, line_integrals, mu_scale, true_center

SMALL = SimulatedConfig(rows=6, columns=48, projections=8, flats=3, darks=2, flats_after=1)


def _by_kind(frames: list[Frame], kind: FrameKind) -> list[Frame]:
    return [frame for frame in frames if frame.kind is kind]


def test_frames_are_as_announced() -> None:
    source = SimulatedSource(SMALL)
    info, frames = source.info(), list(source.frames())
    assert [frame.kind for frame in frames] == [FrameKind.DARK] * 2 + [FrameKind.FLAT] * 3 + [
        FrameKind.PROJECTION
    ] * 8 + [FrameKind.FLAT]
    assert info.theta is not None
    for kind in FrameKind:
        found = _by_kind(frames, kind)
        assert [frame.index for frame in found] == list(range(len(found)))
        assert info.counts[kind] == len(found)
    for frame in frames:
        assert frame.data.shape == info.frame_shape
        assert frame.data.dtype == info.dtype
        assert frame.data.flags.c_contiguous
        assert frame.theta == (info.theta[frame.index] if frame.kind is FrameKind.PROJECTION else None)
    assert info.geometry.center is None
    assert info.metadata["true_center"] == true_center(SMALL) == 23.5


@pytest.mark.parametrize("photons", [0.0, 500.0])
def test_same_seed_gives_same_frames_in_any_order_and_rows(photons: float) -> None:
    config = SimulatedConfig(rows=6, columns=48, projections=8, flats=3, darks=2, photons=photons)
    whole = {(frame.kind, frame.index): frame.data for frame in SimulatedSource(config).frames()}
    for frame in SimulatedSource(config, "random:5").frames(slice(2, 5)):
        np.testing.assert_array_equal(frame.data, whole[frame.kind, frame.index][2:5])
        assert frame.data.flags.c_contiguous


def test_seed_changes_the_frames() -> None:
    first, second = (SimulatedSource(SimulatedConfig(rows=2, columns=32, seed=seed)) for seed in (1, 2))
    assert any((a.data != b.data).any() for a, b in zip(first.frames(), second.frames(), strict=True))
    assert first.info().uid != second.info().uid


def test_without_noise_the_normalized_frames_are_the_line_integrals() -> None:
    config = SimulatedConfig(rows=6, columns=48, projections=5, flats=1, darks=1, photons=0, bad_columns=0)
    frames = list(SimulatedSource(config).frames())
    dark, flat = (_by_kind(frames, kind)[0].data.astype(float) for kind in (FrameKind.DARK, FrameKind.FLAT))
    for frame in _by_kind(frames, FrameKind.PROJECTION):
        assert frame.theta is not None
        measured = -np.log((frame.data - dark) / (flat - dark))
        np.testing.assert_allclose(measured, line_integrals(config, frame.theta), atol=1e-3)


def test_noise_has_the_size_that_photons_give() -> None:
    config = SimulatedConfig(rows=40, columns=60, projections=1, flats=12, darks=2, photons=1000, dark_level=50)
    flats = np.stack([f.data for f in SimulatedSource(config).frames() if f.kind is FrameKind.FLAT]).astype(float)
    mean, variance = flats.mean(axis=0) - 50, flats.var(axis=0, ddof=1)
    assert variance.mean() == pytest.approx(mean.mean() + 4, rel=0.1)
    assert 0.75 < mean.min() / 1000 < mean.max() / 1000 < 1.25


def test_bad_columns_respond_otherwise_in_projections() -> None:
    config = SimulatedConfig(rows=4, columns=48, projections=1, flats=1, darks=1, photons=0, bad_columns=3)
    dark, flat, projection = (frame.data.astype(float) for frame in SimulatedSource(config).frames())
    response = (projection - dark) / (flat - dark) * np.exp(line_integrals(config, 0.0))
    bad = np.flatnonzero(np.abs(response - 1).min(axis=0) > 5e-3)
    assert len(bad) == 3
    assert np.abs(response - 1).max() < 0.051


@pytest.mark.parametrize("name", sorted(PHANTOMS))
def test_largest_line_integral_is_about_one_and_a_half(name: str) -> None:
    config = SimulatedConfig(phantom=name, rows=16, columns=64, pixel_size=3e-6)
    largest = max(line_integrals(config, theta).max() for theta in np.linspace(0, math.pi, 20))
    assert 1.2 < largest < 1.6


def test_line_integrals_sum_to_the_mass_of_the_slice() -> None:
    config = SimulatedConfig(phantom="asymmetric", rows=3, columns=400, pixel_size=2e-6, center=205.0)
    grid = (np.arange(800) + 0.5) / 400 - 1.0
    x, y = np.meshgrid(grid, grid)
    half = 200 * config.pixel_size
    mass = density(phantom("asymmetric"), x, y, 0.0).sum() * (half / 400) ** 2 * mu_scale(config)
    for theta in (0.0, 1.0, 2.0):
        assert line_integrals(config, theta)[1].sum() * config.pixel_size == pytest.approx(mass, rel=2e-3)


def test_center_is_the_column_about_which_opposite_views_are_mirrored() -> None:
    config = SimulatedConfig(rows=2, columns=41, center=22.0)
    first, second = line_integrals(config, 0.3), line_integrals(config, 0.3 + math.pi)
    np.testing.assert_allclose(first[:, 4:41], second[:, 4:41][:, ::-1], atol=1e-6)


def test_angles_follow_the_order_of_measurement() -> None:
    np.testing.assert_allclose(np.rad2deg(angles(SimulatedConfig(projections=4))), [0, 45, 90, 135])
    end = SimulatedConfig(projections=3, arc=360, include_end=True)
    np.testing.assert_allclose(np.rad2deg(angles(end)), [0, 180, 360])
    interlaced = SimulatedConfig(projections=4, order="interlaced:2")
    np.testing.assert_allclose(np.rad2deg(angles(interlaced)), [0, 90, 45, 135])
    golden = np.rad2deg(angles(SimulatedConfig(projections=3, order="golden")))
    np.testing.assert_allclose(golden, [0, 111.246118, 42.492236], atol=1e-5)


def test_extreme_levels_stay_in_sixteen_bits() -> None:
    for photons, dark in ((1e9, 100.0), (1e5, 60_000.0), (0.0, 60_000.0)):
        config = SimulatedConfig(rows=4, columns=32, projections=1, flats=1, photons=photons, dark_level=dark)
        dark_frame, *_, projection = (frame.data for frame in SimulatedSource(config).frames())
        assert projection.max() < 65_535
        assert projection.astype(int).sum() > dark_frame.astype(int).sum()


def test_open_source_chooses_by_spec() -> None:
    config = Config(simulated=SMALL, source=SourceConfig(order="reversed"))
    source = pickle.loads(pickle.dumps(open_source("simulated:", config)))
    assert source == SimulatedSource(SMALL, "reversed")
    projections = [frame.index for frame in source.frames() if frame.kind is FrameKind.PROJECTION]
    assert projections == list(range(8))[::-1]
    assert source.notes()


@pytest.mark.parametrize("config", [SimulatedConfig(phantom="cat"), SimulatedConfig(order="zigzag")])
def test_unknown_names_are_refused(config: SimulatedConfig) -> None:
    with pytest.raises(ConfigError, match="expected one of"):
        SimulatedSource(config).info()


def test_sources_load_neither_numba_nor_scipy() -> None:
    code = "import sys, streamrecon.sources; assert not {'numba', 'scipy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
