"""Weights of angles: arcs modulo pi with capped gaps, and what they do to a volume."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from recon_oracle import METHODS, disc, grid, half_turn, phantom_projections, reconstruct, relative

from streamrecon.errors import GeometryError
from streamrecon.recon.weights import GAP_LIMIT, arc_weights, covered_arc
from streamrecon.sources.order import projection_order

Theta = NDArray[np.float64]
GOLDEN = math.pi * (math.sqrt(5) - 1) / 2


def ordered(order: str, angles: int) -> Theta:
    """An even half turn in one of the orders of the sources."""
    return half_turn(angles)[projection_order(order, angles)]


def brute_force(theta: Theta) -> tuple[Theta, float]:
    """Weights and covered arc of distinct angles, angle by angle."""
    folded = np.sort(np.mod(theta, math.pi))
    gaps = np.diff([*folded, folded[0] + math.pi])
    gaps = np.minimum(gaps, 3 * (gaps.min() if len(gaps) == 2 else np.median(gaps)))
    weights = [(gaps[(i := int(np.flatnonzero(folded == np.mod(t, math.pi))[0]))] + gaps[i - 1]) / 2 for t in theta]
    return np.array(weights), float(gaps.sum())


SCANS = {
    "sequential": half_turn(180),
    "shuffled": np.random.default_rng(1).permutation(half_turn(181)),
    "backwards": -half_turn(64) - 0.3,
    "golden": np.arange(300) * GOLDEN,
    "golden, Fibonacci": np.arange(233) * GOLDEN,
    "interlaced": ordered("interlaced:8", 240),
    "jittered": half_turn(200) + np.random.default_rng(2).uniform(-0.2, 0.2, 200) * math.pi / 200,
    "10 % lost": np.delete(half_turn(400), np.random.default_rng(3).choice(400, 40, replace=False)),
    "half": half_turn(400)[:200],
    "three quarters": half_turn(400)[:300],
    "a tenth": half_turn(400)[:40],
    "golden, some": np.arange(37) * GOLDEN,
    "interlaced, some": ordered("interlaced:8", 240)[:100],
}


@pytest.mark.parametrize("name", sorted(SCANS))
def test_weights_are_the_arcs_with_capped_gaps(name: str) -> None:
    theta = SCANS[name]
    weights, covered = brute_force(theta)
    np.testing.assert_allclose(arc_weights(theta), weights, rtol=1e-9)
    assert covered_arc(theta) == pytest.approx(covered)
    assert arc_weights(theta).sum() == pytest.approx(covered)


@pytest.mark.parametrize("name", sorted(set(SCANS) - {"half", "three quarters", "a tenth", "interlaced, some"}))
def test_a_scan_all_around_covers_the_half_turn(name: str) -> None:
    # Of 10 % lost, now and then three lie side by side.
    assert arc_weights(SCANS[name]).sum() == pytest.approx(math.pi, rel=0.01 if name == "10 % lost" else 1e-9)


@given(
    st.lists(st.integers(0, 10_000), min_size=1, max_size=40, unique=True),
)
@example([160, 231, 872, 1050])
@settings(deadline=None)
def test_order_and_whole_turns_do_not_matter(numbers: list[int]) -> None:
    theta = np.array(numbers) * math.pi / 10_001
    weights = arc_weights(theta)
    order = np.random.default_rng(len(numbers)).permutation(len(theta))
    np.testing.assert_allclose(arc_weights(theta[order]), weights[order], rtol=1e-9)
    turned = theta + math.pi * np.random.default_rng(1).integers(-5, 6, len(theta))
    np.testing.assert_allclose(arc_weights(turned), weights, atol=1e-9)


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=40))
@settings(deadline=None, max_examples=200)
def test_weights_are_positive_and_at_most_a_half_turn(angles: list[float]) -> None:
    theta = np.array(angles)
    weights = arc_weights(theta)
    assert (weights > 0).all()
    assert weights.sum() <= math.pi + 1e-9
    assert 0 <= covered_arc(theta) <= math.pi + 1e-9


@pytest.mark.parametrize("received", [2, 3, 5, 8, 10, 20, 25, 40, 49, 50, 51, 80, 150, 500, 999])
def test_the_start_of_a_sequential_scan_covers_what_it_covers(received: int) -> None:
    """However little it is: the gain of the first partial volumes and the coverage shown depend on it."""
    step = math.pi / 1000
    theta = np.arange(received) * step
    expected = min(received - 1 + GAP_LIMIT, 1000) * step
    assert covered_arc(theta) == pytest.approx(expected, rel=1e-6)
    assert arc_weights(theta).sum() == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(arc_weights(theta)[1:-1], step, rtol=1e-6)


@pytest.mark.parametrize("received", [10, 100, 499, 501, 520, 999])
def test_coverage_grows_as_a_full_turn_is_measured(received: int) -> None:
    """The second half turn lies between the angles of the first, or upon them."""
    for theta in (np.arange(1000) * 2 * math.pi / 1000, np.arange(1001) * 2 * math.pi / 1001):
        covered = covered_arc(theta[:received])
        assert covered == pytest.approx(min(math.pi, (received + 2) * theta[1]), abs=2.1 * theta[1])


def test_a_large_gap_counts_three_times_the_median() -> None:
    step = math.pi / 400
    weights = arc_weights(half_turn(400)[:200])
    np.testing.assert_allclose(weights[1:-1], step)
    np.testing.assert_allclose(weights[[0, -1]], 2 * step)
    assert covered_arc(half_turn(400)[:200]) == pytest.approx(202 * step)
    lost_two = np.delete(half_turn(400), [100, 101])
    assert covered_arc(lost_two) == pytest.approx(math.pi)
    lost_three = np.delete(half_turn(400), [100, 101, 102])
    assert covered_arc(lost_three) == pytest.approx(math.pi - step)


@pytest.mark.parametrize("angles", [3, 8, 181, 1001])
def test_the_repeated_end_shares_its_arc(angles: int) -> None:
    step = math.pi / (angles - 1)
    expected = np.full(angles, step)
    expected[[0, -1]] /= 2
    np.testing.assert_allclose(arc_weights(np.linspace(0, math.pi, angles)), expected)
    shifted = np.linspace(0, math.pi, angles) - 1e-9 * np.arange(angles) / angles
    np.testing.assert_allclose(arc_weights(shifted), expected, rtol=1e-4)


@pytest.mark.parametrize("angles", [4, 100, 720])
def test_a_full_turn_counts_every_direction_once(angles: int) -> None:
    weights = arc_weights(np.arange(angles) * 2 * math.pi / angles)
    np.testing.assert_allclose(weights, math.pi / angles, rtol=1e-9)
    closed = arc_weights(np.linspace(0, 2 * math.pi, angles + 1))
    assert closed.sum() == pytest.approx(math.pi)
    np.testing.assert_allclose(closed[1 : angles // 2], math.pi / angles, rtol=1e-9)
    np.testing.assert_allclose(closed[[0, angles // 2, -1]], math.pi / angles * 2 / 3, rtol=1e-9)


@pytest.mark.parametrize("angles", [101, 721])
def test_an_odd_full_turn_interlaces_its_halves(angles: int) -> None:
    np.testing.assert_allclose(arc_weights(np.arange(angles) * 2 * math.pi / angles), math.pi / angles, rtol=1e-9)


@pytest.mark.parametrize("jitter", [1e-6, 1e-4, 1e-3, 1e-2])
def test_jitter_between_two_turns_leaves_the_weights_even(jitter: float) -> None:
    angles = 720
    step = 2 * math.pi / angles
    theta = np.arange(angles) * step + np.random.default_rng(4).uniform(-jitter, jitter, angles) * step
    weights = arc_weights(theta)
    assert weights.sum() == pytest.approx(math.pi)
    np.testing.assert_allclose(weights, math.pi / angles, rtol=2 * jitter + 1e-9)


@pytest.mark.parametrize("jitter", [0.02, 0.05, 0.1, 0.2])
def test_jitter_between_two_turns_leaves_no_gap(jitter: float) -> None:
    step = 2 * math.pi / 720
    even = np.arange(720) * step
    for seed in range(10):
        noise = np.random.default_rng(seed).uniform(-jitter, jitter, 720) * step
        assert arc_weights(even + noise).sum() == pytest.approx(math.pi, rel=2e-2)
    assert arc_weights(even + np.repeat([0, jitter * step], 360)).sum() == pytest.approx(math.pi)


@pytest.mark.parametrize("theta", [0.0, 1.0, math.pi, -7.3])
def test_one_angle_weighs_a_half_turn_and_covers_nothing(theta: float) -> None:
    np.testing.assert_allclose(arc_weights(np.array([theta])), [math.pi])
    assert covered_arc(np.array([theta])) == 0
    np.testing.assert_allclose(arc_weights(np.array([theta, theta + math.pi, theta])), np.full(3, math.pi / 3))
    assert covered_arc(np.array([theta, theta + math.pi])) == 0


def test_two_angles_count_their_smaller_gap() -> None:
    np.testing.assert_allclose(arc_weights(np.array([0.3, 0.3 + math.pi / 2])), np.full(2, math.pi / 2))
    np.testing.assert_allclose(arc_weights(np.array([0.3, 0.4])), np.full(2, 0.2))
    assert covered_arc(np.array([0.3, 0.4])) == pytest.approx(0.4)


def test_no_angles_have_no_weights() -> None:
    assert arc_weights(np.zeros(0)).shape == (0,)
    assert covered_arc(np.zeros(0)) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_angles_that_are_not_finite_are_refused(bad: float) -> None:
    theta = np.array([0.0, 1.0, bad, 2.0])
    for function in (arc_weights, covered_arc):
        with pytest.raises(GeometryError, match="projection 2"):
            function(theta)
        with pytest.raises(GeometryError, match="shape"):
            function(np.zeros((2, 2)))


# What the weights do to a volume.

COLUMNS, ANGLES = 192, 300


@lru_cache
def phantom_scan(name: str) -> NDArray[np.float64]:
    return phantom_projections(name, COLUMNS, half_turn(ANGLES), (COLUMNS - 1) / 2, COLUMNS / 2)


def in_circle(image: NDArray[np.floating]) -> NDArray[np.floating]:
    x, y = grid(COLUMNS)
    return image[np.hypot(x, y) < 0.95 * COLUMNS / 2]


@lru_cache
def complete(name: str) -> NDArray[np.floating]:
    return in_circle(reconstruct("fourier", phantom_scan(name), half_turn(ANGLES))[0])


def error(name: str, keep: NDArray[np.intp], weight: Theta) -> float:
    """Relative error of a volume of some of the angles against the one of all."""
    volume = reconstruct("fourier", phantom_scan(name)[keep], half_turn(ANGLES)[keep], weight=weight)
    return relative(in_circle(volume[0]), complete(name))


@pytest.mark.parametrize("name", ["shepp-logan", "foam"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_lost_frames_are_made_up_for(name: str, seed: int) -> None:
    keep = np.sort(np.random.default_rng(seed).choice(ANGLES, ANGLES * 9 // 10, replace=False))
    theta = half_turn(ANGLES)[keep]
    plain = error(name, keep, np.full(len(keep), math.pi / ANGLES))
    scaled = error(name, keep, np.full(len(keep), math.pi / len(keep)))
    weighted = error(name, keep, arc_weights(theta))
    print(f"{name}, 10 % lost: weighted again {weighted:.4f}, scaled {scaled:.4f}, plain {plain:.4f}")
    assert weighted < plain / 2
    assert weighted < scaled


@pytest.mark.parametrize(("name", "capped_limit", "uncapped_least"), [("shepp-logan", 0.75, 1.3), ("foam", 0.75, 0.8)])
def test_the_cap_on_gaps_tames_half_a_scan(name: str, capped_limit: float, uncapped_least: float) -> None:
    """Uncapped, the end angles weigh a quarter turn each: how bad that is depends on what is seen at them."""
    keep = np.arange(ANGLES // 2)
    theta = half_turn(ANGLES)[keep]
    uncapped = np.full(len(keep), math.pi / ANGLES)
    uncapped[[0, -1]] = math.pi / 4
    assert uncapped.sum() == pytest.approx(math.pi, rel=0.01)
    capped_error, uncapped_error = error(name, keep, arc_weights(theta)), error(name, keep, uncapped)
    print(f"{name}, half a sequential scan: capped {capped_error:.3f}, uncapped {uncapped_error:.3f}")
    assert capped_error < capped_limit
    assert uncapped_error > uncapped_least
    assert uncapped_error > 1.4 * capped_error


PARTIAL = {
    "golden": np.arange(ANGLES) * GOLDEN,
    "golden on a grid": ordered("golden", ANGLES),
    "interlaced": ordered("interlaced:8", ANGLES),
    "random": ordered("random:7", ANGLES),
}


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("order", sorted(PARTIAL))
def test_the_gain_restores_the_amplitude_of_a_scan_all_around(order: str, share: float, method: str) -> None:
    theta = PARTIAL[order]
    received = round(share * ANGLES)
    weight, some = arc_weights(theta)[:received], theta[:received]
    gain = covered_arc(some) / weight.sum()
    projections = disc(COLUMNS, some, (COLUMNS - 1) / 2, 50.0, 10.0, -15.0)
    volume = reconstruct(method, projections, some, weight=weight, gain=gain)
    x, y = grid(COLUMNS)
    mean = volume[0][np.hypot(x - 10, y + 15) < 40].mean()
    print(f"{order}, {share:.0%} measured, {method}: mean {mean:.4f}, gain {gain:.3f}")
    assert mean == pytest.approx(covered_arc(some) / math.pi, abs=0.03)
    if order != "random":  # whose largest gaps exceed the cap
        assert mean == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("share", [0.02, 0.04, 0.2, 0.5, 0.8])
def test_a_sequential_scan_grows_with_its_coverage(share: float) -> None:
    """Each direction of a disc adds the same to its mean: what is covered is what is there."""
    theta = half_turn(ANGLES)
    received = round(share * ANGLES)
    weight, some = arc_weights(theta)[:received], theta[:received]
    gain = covered_arc(some) / weight.sum()
    volume = reconstruct("fourier", disc(COLUMNS, some, (COLUMNS - 1) / 2, 50.0), some, weight=weight, gain=gain)
    x, y = grid(COLUMNS)
    mean = volume[0][np.hypot(x, y) < 40].mean()
    assert mean == pytest.approx((received + 2) / ANGLES, rel=0.03)
