"""Counts become line integrals: late flats, dead pixels, and counts of every dtype."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from recon_oracle import METHODS, accumulator, fill, half_turn, relative

from streamrecon.errors import GeometryError
from streamrecon.recon.accumulate import snapshot
from streamrecon.recon.normalize import FlatGroup, Normalization, Normalizer, combine

ROWS, COLUMNS, ANGLES = 5, 40, 30
FLOOR = 4.0
METHOD = pytest.mark.parametrize("method", sorted(METHODS))


def image(value: float, rows: int = 1, columns: int = COLUMNS) -> NDArray[np.float32]:
    return np.full((rows, columns), value, np.float32)


def normalizer(
    dark: NDArray[np.float32], *flats: tuple[float, NDArray[np.float32]], floor: float = FLOOR, interpolate: bool = True
) -> Normalizer:
    groups = tuple(FlatGroup(position, flat) for position, flat in flats)
    return Normalizer(Normalization(dark, groups, 900.0, floor, interpolate))


def integrals(norm: Normalizer, raw: NDArray[np.generic]) -> NDArray[np.float32]:
    return norm.line_integrals(raw, np.arange(len(raw), dtype=np.float64))


def oracle(raw: NDArray[np.generic], dark: float, flat: float, floor: float = FLOOR) -> NDArray[np.float64]:
    return np.log(max(flat - dark, floor)) - np.log(np.maximum(raw.astype(np.float64) - dark, floor))


def measured(seed: int = 0) -> dict[str, NDArray]:
    """Counts with pixels below the dark and at the floor; flats that vary along the row and between groups."""
    rng = np.random.default_rng(seed)
    dark = rng.uniform(80, 120, (ROWS, COLUMNS)).astype(np.float32)
    beam = rng.uniform(500, 1500, (ROWS, COLUMNS))
    raw = rng.poisson(dark + beam * rng.uniform(0.1, 1, (ANGLES, ROWS, COLUMNS))).astype(np.uint16)
    raw[:, 1, 5:9] = 60
    raw[3, 2, 7] = 0
    return {
        "raw": raw,
        "dark": dark,
        "before": (dark + beam).astype(np.float32),
        "after": (dark + 1.3 * beam * rng.uniform(0.9, 1.1, beam.shape)).astype(np.float32),
    }


# Late flats.


@METHOD
@pytest.mark.parametrize(
    "late", ["one flat", "one flat after another", "a second group", "two groups", "mean of groups"]
)
def test_late_flats_are_exact(method: str, late: str) -> None:
    scan = measured()
    dark, before, after = scan["dark"], (0.0, scan["before"]), (float(ANGLES), scan["after"])
    first, then = {
        "one flat": (normalizer(dark), normalizer(dark, before)),
        "one flat after another": (normalizer(dark, before), normalizer(dark, (0.0, scan["after"]))),
        "a second group": (normalizer(dark, before), normalizer(dark, before, after)),
        "two groups": (normalizer(dark), normalizer(dark, before, after)),
        "mean of groups": (normalizer(dark), normalizer(dark, before, after, interpolate=False)),
    }[late]
    theta, positions = half_turn(ANGLES), np.arange(ANGLES, dtype=np.float64)
    assert then.differs_only_in_flats(first)
    acc = fill(accumulator(method, ROWS, COLUMNS), integrals(first, scan["raw"]), theta)
    assert then.flat_difference(first, positions).shape == scan["raw"].shape
    fill(acc, then.flat_difference(first, positions), theta)
    expected = snapshot(fill(accumulator(method, ROWS, COLUMNS), integrals(then, scan["raw"]), theta))
    assert relative(snapshot(acc), expected) < 1e-5
    wrong = snapshot(fill(accumulator(method, ROWS, COLUMNS), integrals(first, scan["raw"]), theta))
    assert relative(wrong, expected) > 0.01


@METHOD
def test_late_flats_leave_dead_pixels_interpolated(method: str) -> None:
    scan = measured()
    dark, first, then = scan["dark"], scan["before"], scan["after"]
    dark[0, 0], dark[2, 3:6] = np.nan, np.nan
    for flat in (first, then):
        flat[1, 20:23], flat[3, -1], flat[4] = dark[1, 20:23], 0, 0
    old, new = normalizer(dark, (0.0, first)), normalizer(dark, (0.0, then))
    assert new.differs_only_in_flats(old)
    assert new.dead.sum() == 1 + 3 + 3 + 1 + COLUMNS
    np.testing.assert_allclose(
        integrals(old, scan["raw"]) + new.flat_difference(old, np.arange(ANGLES, dtype=np.float64)),
        integrals(new, scan["raw"]),
        atol=1e-5,
    )
    theta = half_turn(ANGLES)
    acc = fill(accumulator(method, ROWS, COLUMNS), integrals(old, scan["raw"]), theta)
    fill(acc, new.flat_difference(old, np.arange(ANGLES, dtype=np.float64)), theta)
    expected = snapshot(fill(accumulator(method, ROWS, COLUMNS), integrals(new, scan["raw"]), theta))
    assert relative(snapshot(acc), expected) < 1e-5


def test_a_late_flat_is_no_constant_row_where_a_projection_has_bad_pixels() -> None:
    """A pixel that is NaN in one projection was interpolated there, so it has to be accumulated again."""
    scan = measured()
    raw = scan["raw"].astype(np.float32)
    raw[4, 2, 10:12], raw[9, 0, 0] = np.nan, np.inf
    old, new = normalizer(scan["dark"]), normalizer(scan["dark"], (0.0, scan["before"]))
    assert new.differs_only_in_flats(old)
    integrals(old, raw)
    assert not new.differs_only_in_flats(old)


def test_what_is_not_linear_is_known() -> None:
    scan = measured()
    dark, flat = scan["dark"], scan["before"]
    one = normalizer(dark, (0.0, flat))
    assert one.differs_only_in_flats(one)
    assert normalizer(dark, (5.0, 2 * flat)).differs_only_in_flats(one)
    assert not normalizer(dark + 1, (0.0, flat)).differs_only_in_flats(one)
    assert not normalizer(dark, (0.0, flat), floor=FLOOR + 1).differs_only_in_flats(one)
    broken = flat.copy()
    broken[0, 0] = 0
    assert not normalizer(dark, (0.0, broken)).differs_only_in_flats(one)
    blind = dark.copy()
    blind[0, 0] = np.nan
    assert normalizer(blind).differs_only_in_flats(normalizer(blind))


# Values.


def test_line_integrals_are_the_logarithm_of_the_transmission() -> None:
    raw = np.array([[[1100, 600, 100 + 1, 100, 50]]], np.uint16)
    value = integrals(normalizer(image(100, columns=5), (0.0, image(1100, columns=5))), raw)
    expected = [0, math.log(2), math.log(1000 / FLOOR), math.log(1000 / FLOOR), math.log(1000 / FLOOR)]
    np.testing.assert_allclose(value[0, 0], expected, atol=1e-6)
    assert value.dtype == np.float32


def test_a_provisional_flat_stands_in() -> None:
    raw = np.array([[[1000, 550]]], np.uint16)
    value = integrals(normalizer(image(100, columns=2)), raw)
    np.testing.assert_allclose(value[0, 0], [0, math.log(2)], atol=1e-6)


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", ">u2", "f4", "f8"])
def test_counts_below_the_dark_do_not_wrap_around(dtype: str) -> None:
    raw = np.array([[[0, 9, 29, 30, 31, 40, 90, 120]]], dtype)
    value = integrals(normalizer(image(30, columns=8), (0.0, image(120, columns=8))), raw)
    np.testing.assert_allclose(value, oracle(raw, 30, 120), atol=1e-6)


@pytest.mark.parametrize(("dtype", "top"), [("u2", 65535), ("i2", 32767), ("u4", 2**32 - 1), ("i4", 2**31 - 1)])
def test_the_largest_counts_are_exact_enough(dtype: str, top: int) -> None:
    raw = np.array([[[top, top // 2, top // 1000]]], dtype)
    value = integrals(normalizer(image(10, columns=3), (0.0, image(float(top), columns=3))), raw)
    np.testing.assert_allclose(value, oracle(raw, 10, top), atol=1e-5)


@pytest.mark.parametrize("dtype", ["i1", "i2", "i4"])
def test_negative_counts_are_floored(dtype: str) -> None:
    raw = np.array([[[-100, -1, 100]]], dtype)
    value = integrals(normalizer(image(0, columns=3), (0.0, image(100, columns=3))), raw)
    np.testing.assert_allclose(value, oracle(raw, 0, 100), atol=1e-6)


def test_raw_frames_are_not_changed() -> None:
    raw = np.array([[[np.nan, 5.0, 900.0]]], np.float32)
    before = raw.copy()
    integrals(normalizer(image(30, columns=3), (0.0, image(120, columns=3))), raw)
    np.testing.assert_array_equal(raw, before)


def test_frames_of_another_shape_are_refused() -> None:
    with pytest.raises(GeometryError, match="dark and flats"):
        integrals(normalizer(image(0)), np.zeros((2, 1, COLUMNS + 1), np.uint16))


# Flats over the scan.


def test_flats_are_interpolated_in_their_logarithm() -> None:
    dark = image(50, 2)
    groups = [(2.0, dark + 1000), (6.0, dark + 4000), (10.0, dark + 500)]
    norm = normalizer(dark, *groups)
    positions = np.array([0.0, 2.0, 3.0, 4.0, 6.0, 7.0, 8.0, 10.0, 99.0])
    expected = [1000, 1000, 1000 * 4**0.25, 2000, 4000, 4000 * 0.125**0.25, 4000 * 0.125**0.5, 500, 500]
    np.testing.assert_allclose(np.exp(norm.flat_term(positions)[:, 1, 3]), expected, rtol=1e-5)
    raw = np.full((len(positions), 2, COLUMNS), 550, np.uint16)
    value = norm.line_integrals(raw, positions)
    np.testing.assert_allclose(value[:, 0, 0], np.log(np.array(expected) / 500), atol=1e-5)


def test_the_mean_of_groups_is_taken_of_their_logarithms() -> None:
    dark = image(50)
    norm = normalizer(dark, (0.0, dark + 1000), (9.0, dark + 4000), interpolate=False)
    np.testing.assert_allclose(np.exp(norm.flat_term(np.arange(5.0))), 2000, rtol=1e-5)


def test_one_group_and_groups_at_one_position_are_finite() -> None:
    dark = image(50)
    assert normalizer(dark, (3.0, dark + 100)).flat_term(np.arange(5.0)).shape == (1, 1, COLUMNS)
    both = normalizer(dark, (3.0, dark + 100), (3.0, dark + 200)).flat_term(np.arange(7.0))
    assert np.isfinite(both).all()
    np.testing.assert_allclose(np.exp(both[[0, -1], 0, 0]), [100, 200], rtol=1e-5)


# Dead and bad pixels.


def repaired(row: NDArray[np.float64], bad: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The rule, with np.interp, which is constant beyond its ends."""
    if bad.all():
        return np.zeros(len(row))
    live = np.flatnonzero(~bad)
    return np.where(bad, np.interp(np.arange(len(row)), live, row[live]), row)


@settings(deadline=None, max_examples=80)
@given(
    st.integers(0, 2**31), st.sampled_from([0.05, 0.3, 0.8, 1.0]), st.sampled_from(["flat", "dark", "frame", "both"])
)
def test_dead_pixels_take_the_line_between_their_neighbours(seed: int, share: float, where: str) -> None:
    rng = np.random.default_rng(seed)
    dead = rng.random((4, 12)) < share
    bad = rng.random((3, 4, 12)) < share
    bad, dead = (bad if where in {"frame", "both"} else bad & False), (dead if where != "frame" else dead & False)
    dark, flat = image(100, 4, 12), image(1100, 4, 12)
    raw = rng.uniform(150, 1100, (3, 4, 12)).astype(np.float32)
    expected = oracle(raw, 100, 1100)
    if where == "dark":
        dark[dead] = np.nan
    else:
        flat[dead] = rng.choice([100 + FLOOR, 0.0, np.nan], dead.sum())
    raw[bad] = rng.choice([np.nan, np.inf, -np.inf], bad.sum())
    norm = normalizer(dark, (0.0, flat))
    np.testing.assert_array_equal(norm.dead, dead)
    value = integrals(norm, raw)
    for angle, row in np.ndindex(3, 4):
        wanted = repaired(expected[angle, row], dead[row] | bad[angle, row])
        np.testing.assert_allclose(value[angle, row], wanted, atol=1e-5)


@pytest.mark.parametrize("columns", [[0], [0, 1, 2], [11], [9, 10, 11], [0, 11], [5], [3, 4, 5, 9]])
@pytest.mark.parametrize("dtype", ["u2", "f4"])
def test_dead_pixels_at_the_edges(columns: list[int], dtype: str) -> None:
    dark, flat = image(100, 2, 12), image(1100, 2, 12)
    flat[0, columns] = 100
    raw = np.linspace(200, 1000, 24).reshape(1, 2, 12).astype(dtype)
    value = integrals(normalizer(dark, (0.0, flat)), raw)
    marked = np.isin(np.arange(12), columns)
    np.testing.assert_allclose(value[0, 0], repaired(oracle(raw, 100, 1100)[0, 0], marked), atol=1e-5)
    np.testing.assert_allclose(value[0, 1], oracle(raw, 100, 1100)[0, 1], atol=1e-6)


def test_a_pixel_dead_in_one_group_is_dead_throughout() -> None:
    dark, flat = image(100, 1, 8), image(1100, 1, 8)
    broken = flat.copy()
    broken[0, 3] = 100
    for groups in (((0.0, flat), (9.0, broken)), ((0.0, broken), (9.0, flat))):
        norm = normalizer(dark, *groups)
        assert np.flatnonzero(norm.dead[0]).tolist() == [3]
        raw = np.full((10, 1, 8), 600, np.uint16)
        raw[:, 0, 3] = 40000
        np.testing.assert_allclose(integrals(norm, raw), math.log(2), atol=1e-6)


@pytest.mark.parametrize(
    ("which", "value"), [("dark", np.nan), ("dark", np.inf), ("flat", np.nan), ("flat", np.inf), ("flat", -np.inf)]
)
def test_pixels_that_are_not_finite_in_dark_or_flat_are_dead(which: str, value: float) -> None:
    dark, flat = image(100, 1, 8), image(1100, 1, 8)
    (dark if which == "dark" else flat)[0, 3] = value
    norm = normalizer(dark, (0.0, flat))
    assert np.flatnonzero(norm.dead[0]).tolist() == [3]
    np.testing.assert_allclose(integrals(norm, np.full((2, 1, 8), 600, np.uint16)), math.log(2), atol=1e-6)
    np.testing.assert_allclose(integrals(norm, np.full((2, 1, 8), 600, np.float32)), math.log(2), atol=1e-6)


@METHOD
def test_a_volume_of_dead_rows_is_zero_there(method: str) -> None:
    scan = measured()
    scan["before"][2] = 0
    raw = integrals(normalizer(scan["dark"], (0.0, scan["before"])), scan["raw"])
    volume = snapshot(fill(accumulator(method, ROWS, COLUMNS), raw, half_turn(ANGLES)))
    assert np.isfinite(volume).all()
    assert np.abs(volume[2]).max() < 1e-5 * np.abs(volume).max()


# Combining frames.


@pytest.mark.parametrize("dtype", ["u1", "u2", "i4", "f4"])
def test_frames_are_combined(dtype: str) -> None:
    frames = np.random.default_rng(0).integers(0, 127, (5, 2, 3)).astype(dtype)
    frames[0, 0, 0] = 127
    mean, median = combine(frames, "mean"), combine(frames, "median")
    assert mean.dtype == median.dtype == np.float32
    np.testing.assert_allclose(mean, frames.astype(np.float64).mean(axis=0), rtol=1e-6)
    np.testing.assert_array_equal(median, np.sort(frames, axis=0)[2])


def test_means_of_many_bright_frames_do_not_overflow() -> None:
    frames = np.full((300, 1, 2), 65535, np.uint16)
    np.testing.assert_array_equal(combine(frames, "mean"), image(65535, 1, 2))
    np.testing.assert_array_equal(combine(frames[:2], "median"), image(65535, 1, 2))
    np.testing.assert_array_equal(combine(frames[:1], "mean"), combine(frames[:1], "median"))


def test_one_hot_frame_does_not_move_the_median() -> None:
    frames = np.full((5, 1, 2), 100, np.uint16)
    frames[3, 0, 1] = 60000
    np.testing.assert_array_equal(combine(frames, "median"), image(100, 1, 2))
    assert combine(frames, "mean")[0, 1] == pytest.approx(12080)


# Air: each frame's beam by its own border.


def with_air(dark: NDArray[np.float32], air: tuple[int, int], *flats: tuple[float, NDArray[np.float32]]) -> Normalizer:
    groups = tuple(FlatGroup(position, flat) for position, flat in flats)
    return Normalizer(Normalization(dark, groups, 900.0, FLOOR, air=air))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31), st.integers(0, 7), st.integers(0, 7))
def test_the_mean_over_the_air_is_zero_in_each_frame(seed: int, left: int, right: int) -> None:
    rng = np.random.default_rng(seed)
    dark, flat = image(100, 3), image(1100, 3)
    raw = (100 + rng.uniform(100, 1000, (4, 3, COLUMNS))).astype(np.float32)
    value = integrals(with_air(dark, (left, right), (0.0, flat)), raw)
    plain = oracle(raw, 100, 1100)
    border = np.r_[0:left, COLUMNS - right : COLUMNS]
    mean = plain[:, :, border].mean(axis=(1, 2), keepdims=True) if border.size else 0
    np.testing.assert_allclose(value, plain - mean, atol=1e-5)


def test_a_beam_that_flickers_leaves_no_trace_where_there_is_air() -> None:
    dark, flat = image(0, ROWS), image(1000, ROWS)
    steady = np.full((ANGLES, ROWS, COLUMNS), 1000.0, np.float32)
    steady[:, :, 10:30] *= np.random.default_rng(0).uniform(0.2, 1, (ANGLES, ROWS, 20)).astype(np.float32)
    flicker = steady * np.random.default_rng(1).uniform(0.5, 2, (ANGLES, 1, 1)).astype(np.float32)
    norm = with_air(dark, (8, 0), (0.0, flat))
    np.testing.assert_allclose(integrals(norm, flicker), integrals(norm, steady), atol=1e-5)
    off = integrals(normalizer(dark, (0.0, flat)), flicker) - integrals(normalizer(dark, (0.0, flat)), steady)
    assert np.abs(off).max() > 0.1


@METHOD
@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_late_flats_are_exact_with_air_and_a_mask(method: str, marked: bool, groups: int) -> None:
    scan = measured()
    bad = np.random.default_rng(2).random((ROWS, COLUMNS)) < 0.1 if marked else None
    dark, positions = scan["dark"], np.arange(ANGLES, dtype=np.float64)
    flats = (FlatGroup(0.0, scan["before"]), FlatGroup(float(ANGLES), scan["after"]))[:groups]
    old = Normalizer(Normalization(dark, (), 900.0, FLOOR, air=(5, 3), bad=bad))
    new = Normalizer(Normalization(dark, flats, 900.0, FLOOR, air=(5, 3), bad=bad))
    assert new.differs_only_in_flats(old)
    assert (old.steady, new.steady) == (True, groups == 1)
    theta = half_turn(ANGLES)
    acc = fill(accumulator(method, ROWS, COLUMNS), integrals(old, scan["raw"]), theta)
    fill(acc, new.flat_difference(old, positions), theta)
    expected = snapshot(fill(accumulator(method, ROWS, COLUMNS), integrals(new, scan["raw"]), theta))
    assert relative(snapshot(acc), expected) < 1e-5
    without = Normalizer(Normalization(dark, flats, 900.0, FLOOR, bad=bad))
    assert relative(integrals(without, scan["raw"]), integrals(new, scan["raw"])) > 0.01


def test_dead_pixels_are_no_air() -> None:
    dark, flat = image(0, 2, 12), image(1000, 2, 12)
    flat[0, 0] = flat[1] = 0  # row 1 is dead
    raw = np.full((1, 2, 12), 500, np.uint16)
    raw[0, 0, :2] = 60000, 800
    value = integrals(with_air(dark, (2, 0), (0.0, flat)), raw)
    np.testing.assert_allclose(value[0, 0, 2:], math.log(800 / 500), atol=1e-6)
    np.testing.assert_allclose(value[0, 0, :2], 0, atol=1e-6)
    assert not value[0, 1].any()


def test_a_border_of_dead_pixels_changes_nothing() -> None:
    dark, flat = image(0, 1, 12), image(1000, 1, 12)
    flat[0, :3] = 0
    norm = with_air(dark, (3, 0), (0.0, flat))
    assert not norm.air[0].size
    np.testing.assert_allclose(integrals(norm, np.full((2, 1, 12), 500, np.uint16)), math.log(2), atol=1e-6)


# A mask of bad pixels.


def test_a_mask_alone_says_which_pixels_are_bad() -> None:
    dark, flat = image(100, 1, 12), image(1100, 1, 12)
    flat[0, 2:5] = 100, np.nan, np.inf
    dark[0, 8] = np.nan
    bad = np.zeros((1, 12), bool)
    bad[0, 6] = True
    raw = np.full((1, 1, 12), 600, np.uint16)
    raw[0, 0, 6] = 60000
    norm = Normalizer(Normalization(dark, (FlatGroup(0.0, flat),), 900.0, FLOOR, bad=bad))
    assert np.flatnonzero(norm.dead[0]).tolist() == [6, 8]
    value = integrals(norm, raw)[0, 0]
    np.testing.assert_allclose(value[2:5], math.log(FLOOR / 500), atol=1e-6)  # F - D is the floor
    np.testing.assert_allclose(np.delete(value, [2, 3, 4]), math.log(2), atol=1e-6)
    another = Normalizer(Normalization(dark, (FlatGroup(0.0, image(0, 1, 12)),), 900.0, FLOOR, bad=bad))
    assert another.differs_only_in_flats(norm)


def test_an_empty_mask_is_a_mask() -> None:
    flat = image(1100, 1, 12)
    flat[0, 4] = 0
    dark, none = image(100, 1, 12), np.zeros((1, 12), bool)
    assert not Normalizer(Normalization(dark, (FlatGroup(0.0, flat),), 900.0, FLOOR, bad=none)).dead.any()
    assert Normalizer(Normalization(dark, (FlatGroup(0.0, flat),), 900.0, FLOOR)).dead.any()
