"""The rotation axis is found: on analytic ellipses with noise, where little is to be seen, and on measured scans."""

from __future__ import annotations

import itertools
import math
import os
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401  (registers the filters of the K11 file)
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from streamrecon.errors import GeometryError
from streamrecon.recon.center import BANDS, PAIR_ROWS, Bands, CenterEstimate, CenterFinder, register_opposed

DATA = Path(os.environ.get("STREAMRECON_DATA", Path(__file__).parents[2] / "../shared/data"))
ROWS, COLUMNS = 12, 400
CENTER = (COLUMNS - 1) / 2 + 45.3
ELLIPSES = np.array(
    [  # x, y, half axes (px), tilt (rad), attenuation (1/px)
        [5.0, -8.0, 90.0, 70.0, 0.4, 0.008],
        [-30.0, 20.0, 22.0, 12.0, 1.1, 0.02],
        [40.0, -25.0, 9.0, 15.0, -0.3, 0.03],
    ]
)
SEQUENTIAL = np.linspace(0, math.pi, 180, endpoint=False)
GOLDEN = np.arange(180) * math.pi * (math.sqrt(5) - 1) / 2
CIRCLE = np.linspace(0, 2 * math.pi, 180, endpoint=False)

Scan = tuple[NDArray[np.float32], NDArray[np.float64]]


def line_integrals(theta: NDArray[np.float64], center: float = CENTER, scale: float = 1.0) -> NDArray[np.float64]:
    """(projection, row, column) of the ellipses, which grow by a tenth over the rows; Kak & Slaney, eq. 3.6."""
    u = np.arange(COLUMNS) - center
    rows = scale * np.linspace(0.9, 1.0, ROWS)[:, None]
    result = np.zeros((len(theta), ROWS, COLUMNS))
    for i, angle in enumerate(theta):
        for x, y, a, b, tilt, mu in ELLIPSES:
            a, b = a * rows, b * rows
            squared = (a * math.cos(angle - tilt)) ** 2 + (b * math.sin(angle - tilt)) ** 2
            offset = u - rows * (x * math.cos(angle) + y * math.sin(angle))
            result[i] += 2 * mu * a * b / squared * np.sqrt(np.maximum(squared - offset**2, 0))
    return result


def measured(integrals: NDArray[np.float64], photons: float = 1e4, seed: int = 1) -> NDArray[np.float32]:
    """As a detector sees them that counts `photons` a pixel in air."""
    counts = np.random.default_rng(seed).poisson(photons * np.exp(-integrals))
    return -np.log(np.maximum(counts, 1) / photons).astype(np.float32)


def filled(projections: NDArray[np.float32], theta: NDArray[np.float64]) -> CenterFinder:
    finder = CenterFinder(*projections.shape[1:])
    for index, (angle, projection) in enumerate(zip(theta, projections, strict=True)):
        finder.add(index, float(angle), projection)
    return finder


def best(projections: NDArray[np.float32], theta: NDArray[np.float64]) -> CenterEstimate:
    finder = filled(projections, theta)
    pair = finder.opposed_pair()
    return finder.best((projections[pair[0]], projections[pair[1]], pair[2]) if pair else None)


def check(estimate: CenterEstimate | None, center: float, within: float) -> None:
    assert estimate is not None
    error = abs(estimate.center - center)
    assert error <= within, estimate.note
    assert error <= 4 * estimate.sigma, estimate.note


@pytest.mark.parametrize("photons", [1e6, 1e4, 500])
@pytest.mark.parametrize("rows", [2, ROWS])
def test_opposed_pair_is_registered(photons: float, rows: int) -> None:
    pair = measured(line_integrals(np.array([0.7, 0.7 + math.pi])), photons)[:, :rows]
    estimate = register_opposed(pair[0], pair[1])
    check(estimate, CENTER, 0.1)
    assert estimate.sigma < 0.3
    assert (estimate.method, estimate.projections) == ("opposed-pair", 2)


def test_registration_does_not_mind_a_sloping_background_or_the_order() -> None:
    pair = measured(line_integrals(np.array([0.7, 0.7 + math.pi])))
    pair += np.linspace(0.4, 0.3, COLUMNS, dtype=np.float32)
    check(register_opposed(pair[0], pair[1]), CENTER, 0.1)
    check(register_opposed(pair[1], pair[0]), CENTER, 0.1)


@pytest.mark.parametrize("center", [70.0, 199.5, 331.25])
def test_registration_searches_the_whole_detector(center: float) -> None:
    pair = measured(line_integrals(np.array([0.2, 0.2 + math.pi]), center))
    check(register_opposed(pair[0], pair[1]), center, 0.1)


def test_a_mismatch_of_the_angles_makes_the_registration_less_sure() -> None:
    miss = math.radians(1)
    pair = measured(line_integrals(np.array([0.7, 0.7 + math.pi + miss])))
    estimate = register_opposed(pair[0], pair[1], miss)
    check(estimate, CENTER, 1.0)
    assert estimate.sigma > 5 * register_opposed(pair[0], pair[1]).sigma
    assert "1.00 degrees" in estimate.note


@pytest.mark.parametrize("theta", [SEQUENTIAL, GOLDEN, CIRCLE], ids=["sequential", "golden", "circle"])
def test_center_of_mass_and_best(theta: NDArray[np.float64]) -> None:
    projections = measured(line_integrals(theta))
    check(filled(projections, theta).center_of_mass(), CENTER, 0.1)
    check(best(projections, theta), CENTER, 0.1)


def test_center_of_mass_grows_surer_with_the_angles_covered() -> None:
    projections = measured(line_integrals(SEQUENTIAL))
    assert filled(projections[:11], SEQUENTIAL[:11]).center_of_mass() is None
    estimates = [filled(projections[:n], SEQUENTIAL[:n]).center_of_mass() for n in (45, 90, 180)]
    for estimate, within in zip(estimates, (1.0, 0.1, 0.1), strict=True):
        check(estimate, CENTER, within)
    assert estimates[0] is not None
    assert estimates[2] is not None
    assert estimates[0].sigma > 3 * estimates[2].sigma


def test_center_of_mass_shrugs_off_background_drift_and_a_lost_beam() -> None:
    projections = measured(line_integrals(SEQUENTIAL))
    projections += 0.37 + np.linspace(0, 0.05, len(SEQUENTIAL), dtype=np.float32)[:, None, None]
    projections[100] = 9.0
    check(filled(projections, SEQUENTIAL).center_of_mass(), CENTER, 0.1)


def test_center_of_mass_does_without_rows_that_are_truncated_or_not_finite() -> None:
    projections = measured(line_integrals(SEQUENTIAL))
    projections[:, :4] = measured(line_integrals(SEQUENTIAL, scale=3.5) / 3.5)[:, :4]
    projections[:, 5, 30] = np.nan
    projections[50, 7, 30] = np.inf
    check(filled(projections, SEQUENTIAL).center_of_mass(), CENTER, 0.1)


@pytest.mark.parametrize("scale", [2.0, 2.2, 2.5])
def test_center_of_mass_is_unsure_of_an_object_at_the_detectors_edge(scale: float) -> None:
    projections = measured(line_integrals(SEQUENTIAL, CENTER - 33, scale) / scale)
    check(filled(projections, SEQUENTIAL).center_of_mass(), CENTER - 33, 3.0)


def test_repeated_angles_say_nothing() -> None:
    theta = np.zeros(20)
    finder = filled(measured(line_integrals(theta)), theta)
    assert finder.center_of_mass() is None
    assert finder.opposed_pair() is None
    assert finder.best().method == "middle"


def test_truncated_object_has_no_center_of_mass_but_an_opposed_pair() -> None:
    theta = np.linspace(0, math.pi, 61)
    center = (COLUMNS - 1) / 2 + 12.4
    projections = measured(line_integrals(theta, center, scale=3.5) / 3.5)
    assert filled(projections, theta).center_of_mass() is None
    estimate = best(projections, theta)
    assert estimate.method == "opposed-pair"
    check(estimate, center, 0.1)


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_featureless_projections_leave_the_middle(value: float) -> None:
    theta = np.linspace(0, math.pi, 31)
    estimate = best(np.full((31, ROWS, COLUMNS), value, np.float32), theta)
    assert (estimate.method, estimate.center, estimate.sigma) == ("middle", (COLUMNS - 1) / 2, COLUMNS / 4)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("shape", [(2, 640), (22, 26), (40, 300)])
def test_noise_is_not_taken_for_a_center(shape: tuple[int, int], seed: int) -> None:
    theta = np.linspace(0, math.pi, 31)
    estimate = best(np.random.default_rng(seed).normal(size=(31, *shape)).astype(np.float32), theta)
    assert estimate.sigma > shape[1] / 16
    assert 0 <= estimate.center <= shape[1] - 1


def test_opposed_pair_is_the_closest_to_pi_whatever_the_turn() -> None:
    finder = CenterFinder(1, 8)
    image = np.zeros((1, 8), np.float32)
    for index, degrees in ((7, 10.0), (8, 100.0), (9, 191.2), (10, -171.0), (11, 550.5)):
        finder.add(index, math.radians(degrees), image)
        if index == 8:
            assert finder.opposed_pair() is None
        if index == 9:
            assert finder.opposed_pair() == (7, 9, pytest.approx(math.radians(1.2)))
    # 10 and 550.5 degrees are half a degree off, -171 and 10 a whole one.
    assert finder.opposed_pair() == (7, 11, pytest.approx(math.radians(0.5)))


def test_wrong_input_is_refused() -> None:
    image = np.zeros((4, 16), np.float32)
    finder = CenterFinder(4, 16)
    with pytest.raises(GeometryError, match="shape"):
        finder.add(0, 0.0, image[:2])
    with pytest.raises(GeometryError, match="finite"):
        finder.add(0, math.nan, image)
    with pytest.raises(GeometryError, match="shapes"):
        register_opposed(image, image[:2])


def test_estimates_that_disagree_are_told() -> None:
    projections = measured(line_integrals(SEQUENTIAL))
    finder = filled(projections, SEQUENTIAL)
    elsewhere = measured(line_integrals(np.array([0.0, math.pi]), CENTER - 60))
    assert "disagrees" in finder.best((elsewhere[0], elsewhere[1], 0.0)).note


def normalized(data: NDArray[np.float64], flat: NDArray[np.float64], dark: NDArray[np.float64]) -> NDArray[np.float32]:
    beam = flat - dark
    nearest = distance_transform_edt(beam <= 0.5, return_distances=False, return_indices=True)
    ratio = (data - dark) / np.maximum(beam, 0.5)
    return -np.log(np.maximum(ratio, 1e-3)).astype(np.float32)[:, nearest[0], nearest[1]]


def tooth() -> Scan:
    with h5py.File(present("tooth.h5"), "r", locking=False) as file:
        exchange = file["exchange"]
        data, flat, dark = (exchange[name][()].astype(float) for name in ("data", "data_white", "data_dark"))
        return normalized(data, flat.mean(axis=0), dark.mean(axis=0)), np.deg2rad(exchange["theta"][()])


def by_key(name: str, data: str, key: str, angle: str) -> Scan:
    with h5py.File(present(name), "r", locking=False) as file:
        images, kind, theta = file[data][()].astype(float), file[key][()], np.deg2rad(file[angle][()])
    return normalized(images[kind == 0], images[kind == 1].mean(axis=0), images[kind == 2].mean(axis=0)), theta[
        kind == 0
    ]


def i13() -> Scan:
    group = "entry1/tomo_entry/data/"
    return by_key("i13_24737_nxtomo.nxs", group + "data", group + "image_key", group + "rotation_angle")


def k11() -> Scan:
    group = "entry/imaging/"
    key = "entry/instrument/imaging/image_key"
    return by_key("k11-18014.nxs", group + "data", key, group + "gts_theta_value")


def present(name: str) -> Path:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{path} is missing; set STREAMRECON_DATA")
    return path


def test_tooth() -> None:
    projections, theta = tooth()
    check(best(projections, theta), 295.9, 0.3)
    check(filled(projections, theta).center_of_mass(), 295.9, 0.3)
    for half in (90, 91):
        check(filled(projections[:half], theta[:half]).center_of_mass(), 295.9, 0.3)


def test_i13() -> None:
    projections, theta = i13()
    check(best(projections, theta), 85.8, 0.1)
    check(filled(projections, theta).center_of_mass(), 85.8, 0.3)
    for half in (45, 46):
        check(filled(projections[:half], theta[:half]).center_of_mass(), 85.8, 0.3)


def test_k11_where_no_object_shows() -> None:
    projections, theta = k11()
    estimate = best(projections, theta)
    assert 0 <= estimate.center <= 25
    assert estimate.sigma > 2


@pytest.mark.parametrize("center", [131.8, 136.3, 138.3, 140.3, 142.3])
def test_an_object_that_comes_to_the_edge_of_the_detector(center: float) -> None:
    """The columns taken as air then show the object at some angles; it is still whole in every projection."""
    from streamrecon.config import SimulatedConfig
    from streamrecon.sources.simulated import angles, line_integrals

    config = SimulatedConfig(projections=181, center=center, rows=4, columns=256)
    finder = CenterFinder(4, 256)
    for index, theta in enumerate(angles(config)):
        finder.add(index, theta, line_integrals(config, theta).astype(np.float32))
    found = finder.center_of_mass()
    assert found is not None
    assert abs(found.center - center) < 0.15


# Slabs of rows.


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(8, 60), st.lists(st.integers(0, 300), max_size=5), st.integers(0, 9))
def test_parts_of_slabs_add_up_to_the_whole(rows: int, columns: int, edges: list[int], seed: int) -> None:
    """Whatever the edges, also of empty slabs; whole numbers add up without rounding."""
    projection = np.random.default_rng(seed).integers(0, 100, (rows, columns)).astype(np.float32)
    ends = [0, *sorted(min(edge, rows) for edge in edges), rows]
    slabs = [(first, end) for first, end in itertools.pairwise(ends) if first < end]
    whole = Bands(rows, columns)
    sums = sum(Bands(rows, columns, first).sums(projection[first:end]) for first, end in slabs)
    np.testing.assert_array_equal(sums, whole.sums(projection))
    for bands in (1, 7, PAIR_ROWS):
        reduced = sum(Bands(rows, columns, first).reduced(projection[first:end], bands) for first, end in slabs)
        np.testing.assert_array_equal(reduced, whole.reduced(projection, bands))


@settings(deadline=None)
@given(st.integers(1, 300), st.sampled_from([1, 7, PAIR_ROWS]))
def test_bands_are_even_and_their_sums_over_sizes_are_means(rows: int, bands: int) -> None:
    projection = np.arange(rows * 8, dtype=np.float32).reshape(rows, 8)
    each = Bands(rows, 8)
    sizes = each.sizes(bands)
    assert len(sizes) == min(rows, bands)
    assert sizes.sum() == rows
    assert sizes.max() - sizes.min() <= 1
    parts = np.split(projection, np.cumsum(sizes)[:-1])
    means = np.stack([part.mean(axis=0, dtype=np.float64) for part in parts])
    np.testing.assert_allclose(each.reduced(projection, bands) / sizes[:, None], means, rtol=1e-6)


def test_a_bands_sums_are_mass_moment_and_air_at_both_sides() -> None:
    projection = np.random.default_rng(1).integers(0, 9, (3 * BANDS, 48)).astype(np.float32)
    band = projection.reshape(BANDS, 3, 48).sum(axis=1)
    moment = band @ (np.arange(48) - 23.5)
    expected = np.stack([band.sum(axis=1), moment, band[:, :4].mean(axis=1), band[:, -4:].mean(axis=1)], axis=1)
    np.testing.assert_array_equal(Bands(3 * BANDS, 48).sums(projection), expected)


def test_a_pixel_that_is_not_finite_leaves_its_band_without_mass_in_whichever_slab() -> None:
    projection = np.ones((4, 48), np.float32)
    projection[1, 20], projection[2, 20] = np.nan, np.inf
    for first in (0, 1, 2):
        sums = Bands(4, 48, first).sums(projection[first:])
        assert np.isfinite(sums).all()
        np.testing.assert_array_equal(sums[:, 0] > 0, [first == 0, False, False, True])
