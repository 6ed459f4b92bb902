"""Taps, gridding and folding in CUDA against the reference, and their bits."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import cuda_problems
import numpy as np
import pytest
from cuda_target import EmulatedTarget, Target
from hypothesis import given, settings
from hypothesis import strategies as st

SETTINGS = settings(max_examples=30, deadline=None)
SEEDS = st.integers(0, 2**31).map(np.random.default_rng)
SPOKES = {
    "rng": SEEDS,
    "width": st.integers(2, 8),
    "angles": st.integers(0, 5),
    "n": st.sampled_from([2, 4, 20, 38, 90]),
    "step": st.sampled_from([0.3, 0.63, 1.0]),
    "exact": st.booleans(),
}


@SETTINGS
@given(**SPOKES, of_weights=st.booleans())
def test_spoke_taps(target: Target, rng: np.random.Generator, **size: Any) -> None:
    cuda_problems.spoke_taps(rng, **size).check(target)


@SETTINGS
@given(**SPOKES)
def test_the_first_cells_are_those_of_the_same_arithmetic(
    target: Target, rng: np.random.Generator, **size: Any
) -> None:
    cuda_problems.spoke_taps(rng, **size, of_weights=False).check(target)


@SETTINGS
@given(**SPOKES, pairs=st.sampled_from([1, 2, 15, 16, 17, 33]), extra=st.sampled_from([0, 1, 9]))
def test_grid_spokes(target: Target, rng: np.random.Generator, **size: Any) -> None:
    cuda_problems.grid_spokes(rng, **size).check(target)


@pytest.mark.parametrize("width", [9, 12])
def test_a_wide_window_takes_several_classes_a_thread(target: Target, width: int) -> None:
    cuda_problems.grid_spokes(np.random.default_rng(width), width=width).check(target)


def test_more_angles_than_lanes(target: Target) -> None:
    cuda_problems.grid_spokes(np.random.default_rng(0), angles=70, n=60, pairs=2).check(target)


@SETTINGS
@given(**SPOKES, pairs=st.sampled_from([1, 17]), cuts=st.lists(st.integers(0, 5), max_size=3))
def test_bits_do_not_depend_on_how_the_angles_are_split(
    target: Target, rng: np.random.Generator, cuts: list[int], **size: Any
) -> None:
    problem = cuda_problems.grid_spokes(rng, **size)
    split = problem.arguments["grid"].copy()
    ends = [0, *sorted(min(cut, size["angles"]) for cut in cuts), size["angles"]]
    for start, end in pairwise(ends):
        some = {key: array[start:end] for key, array in problem.arguments.items() if key != "grid"}
        target.call(problem.function, problem.arguments | some | {"grid": split})
    np.testing.assert_array_equal(problem.check(target), split)


def test_cells_that_no_window_covers_keep_their_bits(target: Target) -> None:
    problem = cuda_problems.grid_spokes(np.random.default_rng(0), angles=1, exact=True, n=60, extra=20)
    before = problem.arguments["grid"].copy()
    problem.arguments |= {"cos": np.array([0.5]), "sin": np.zeros(1)}
    seen = cuda_problems.reference_taps(
        np.array([0.5]), 61, (before.shape[0] - 1) // 2, cuda_problems.KaiserBessel(5, 1.25)
    )
    still = cuda_problems.reference_taps(
        np.zeros(1), 61, (before.shape[0] - 1) // 2, cuda_problems.KaiserBessel(5, 1.25)
    )
    names = {"first_u": seen[0], "weights_u": seen[1], "first_v": still[0], "weights_v": still[1]}
    target.call(problem.function, problem.arguments | names)
    changed = np.flatnonzero((problem.arguments["grid"] != before).any(axis=(1, 2)))
    assert list(changed) == [before.shape[0] // 2 + row for row in (-2, -1, 0, 1, 2)]


@SETTINGS
@given(
    rng=SEEDS, middle=st.integers(0, 20), period=st.integers(1, 45), length=st.integers(0, 40),
    pairs=st.sampled_from([0, 1, 2, 31, 33]), gap=st.sampled_from([0, 1, 4]),
)  # fmt: skip
def test_fold_grid(target: Target, rng: np.random.Generator, **size: Any) -> None:
    cuda_problems.fold_grid(rng, **size).check(target)


def test_a_grid_of_many_lines_is_walked(emulated: EmulatedTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamrecon_kernels.gridding_cuda.GRID_LIMIT", 3)
    cuda_problems.fold_grid(np.random.default_rng(0)).check(emulated)


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("spoke_taps", {"step": np.zeros(3, np.float32)}),
        ("spoke_taps", {"table": np.zeros(100, np.float32)}),
        ("spoke_taps", {"first": np.zeros((3, 20), np.int32), "weights": np.zeros((3, 20, 5), np.float32)}),
        ("spoke_taps", {"width": 13, "weights": np.zeros((3, 21, 13), np.float32)}),
        ("grid_spokes", {"grid": np.zeros((20, 20, 3), np.complex64)}),
        ("grid_spokes", {"grid": np.zeros((21, 23, 3), np.complex64)}),
        ("grid_spokes", {"spectra": np.zeros((3, 20, 2), np.complex64)}),
        ("grid_spokes", {"spectra": np.zeros((3, 21, 3), np.complex64)}),
        ("grid_spokes", {"factor": np.zeros((3, 20), np.complex64)}),
        ("grid_spokes", {"cos": np.zeros(3, np.float32)}),
        ("grid_spokes", {"first_v": np.zeros((3, 21))}),
        ("grid_spokes", {"weights_v": np.zeros((3, 21, 4), np.float32)}),
        ("fold_grid", {"period": 0}),
        ("fold_grid", {"length": 11}),
        ("fold_grid", {"grid": np.zeros((17, 17, 6), np.complex64)[..., ::2]}),
        ("fold_grid", {"factor_u": np.zeros(12)}),
    ],
)
def test_what_does_not_fit_is_refused(emulated: EmulatedTarget, name: str, changed: dict[str, Any]) -> None:
    problem = cuda_problems.EXAMPLES[name](np.random.default_rng(0))
    with pytest.raises(ValueError, match="expected"):
        emulated.call(problem.function, problem.arguments | changed)
