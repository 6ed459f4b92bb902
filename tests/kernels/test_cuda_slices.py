"""Slices in CUDA against the reference."""

from __future__ import annotations

import math
from typing import Any

import cuda_problems
import numpy as np
import pytest
from cuda_target import EmulatedTarget, Target
from hypothesis import given, settings
from hypothesis import strategies as st

SIDES = st.sampled_from([1, 2, 7, 32, 33])


@settings(max_examples=60, deadline=None)
@given(
    rng=st.integers(0, 2**31).map(np.random.default_rng), size=st.tuples(SIDES, SIDES), height=st.integers(0, 5), width=SIDES,
    rows=st.sampled_from([1, 3, 32, 33, 65]), slices=st.integers(0, 65), gap=st.sampled_from([0, 1, 5]),
    radius=cuda_problems.RADII,
)  # fmt: skip
def test_take_slices(target: Target, rng: np.random.Generator, rows: int, slices: int, **size: Any) -> None:
    cuda_problems.take_slices(rng, rows=rows, slices=min(slices, rows), **size).check(target)


def test_many_lines_are_walked(emulated: EmulatedTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamrecon_kernels.slices_cuda.GRID_LIMIT", 2)
    cuda_problems.take_slices(np.random.default_rng(0)).check(emulated)


@pytest.mark.parametrize(
    "changed",
    [
        {"values": np.zeros((6, 8, 4))},
        {"values": np.zeros((6, 8, 8), np.float32)[..., ::2]},
        {"values": np.zeros((6, 8, 2), np.float32)},
        {"y": np.zeros(5, np.int32)},
        {"x": np.zeros(6, np.int64)},
        {"factor_y": np.zeros(6, np.float32)},
        {"factor_x": np.zeros(7)},
        {"out": np.zeros((3, 5), np.float32)},
        {"radius": math.nan},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_what_does_not_fit_is_refused(emulated: EmulatedTarget, changed: dict[str, Any]) -> None:
    problem = cuda_problems.take_slices(np.random.default_rng(0))
    with pytest.raises(ValueError, match="expected"):
        emulated.call(problem.function, problem.arguments | changed)
