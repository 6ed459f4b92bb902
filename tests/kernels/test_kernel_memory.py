"""Memory on cache lines, arrays as one line, and the length of the host's vectors."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_arrays import hold
from numpy.typing import DTypeLike
from streamrecon_kernels import aligned_empty, aligned_zeros, memory, vector

SETTINGS = settings(max_examples=60, deadline=None)
SHAPES = st.lists(st.integers(0, 7), max_size=4).map(tuple)


@SETTINGS
@given(SHAPES, st.sampled_from(["u1", "i2", "f4", "c8", "f8", "c16", ">f4", bool]))
def test_aligned_arrays_start_on_a_cache_line(shape: tuple[int, ...], dtype: DTypeLike) -> None:
    for make in (aligned_empty, aligned_zeros):
        array = make(shape, dtype)
        assert array.shape == shape
        assert array.dtype == np.dtype(dtype)
        assert array.flags.c_contiguous
        assert array.flags.writeable
        assert array.flags.aligned
        assert array.ctypes.data % memory.LINE == 0 or not array.size
    assert not array.any()


def test_aligned_arrays_own_all_that_they_show() -> None:
    arrays = [aligned_zeros((n,), np.uint8) for n in range(200)]
    for i, array in enumerate(arrays):
        array.fill(i)
    for i, array in enumerate(arrays):
        assert (array == i).all()


@SETTINGS
@given(
    st.lists(st.integers(1, 5), min_size=3, max_size=3),
    st.sampled_from(["plain", "unaligned", "odd_bytes", "sliced", "skipping", "swapped", "every_second", "fortran"]),
)
def test_a_flat_array_reaches_from_the_first_to_the_last_element(shape: list[int], laid: str) -> None:
    array = hold(np.arange(1, 1 + math.prod(shape), dtype=np.float32).reshape(shape), laid).array
    line = memory.flat(array)
    assert line.ndim == 1
    assert line[0] == array[0, 0, 0]
    assert line[-1] == array[-1, -1, -1]
    steps = [stride // 4 for stride in array.strides]
    for index in np.ndindex(*shape):
        assert line[np.dot(index, steps)] == array[index]
    assert np.shares_memory(line, array)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0, 2)])
def test_nothing_is_flat_too(shape: tuple[int, ...]) -> None:
    assert memory.flat(np.empty(shape, np.float32)).shape == (0,)


def test_repeated_elements_are_flat_once() -> None:
    np.testing.assert_array_equal(memory.flat(np.broadcast_to(np.float32([1, 2]), (5, 3, 2))), [1, 2])


@pytest.mark.parametrize(
    ("features", "lanes"),
    [
        ({}, 4),
        ({"sse2": True, "sse4.2": True, "avx": False, "avx512f": False}, 4),
        ({"neon": True, "sve": True}, 4),
        ({"avx": True, "avx2": False}, 8),
        ({"avx": True, "avx2": True, "fma": True, "avx512f": False}, 8),
        ({"avx": True, "avx2": True, "avx512f": True}, 16),
        ({"avx512bw": False, "avx512f": True, "avx": True}, 16),
    ],
)
def test_vectors_are_as_long_as_the_host_says(
    features: dict[str, bool], lanes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vector.config, "CPU_FEATURES", None)
    monkeypatch.setattr(vector.llvmlite.binding, "get_host_cpu_features", lambda: features)
    assert vector.host_lanes() == lanes


@pytest.mark.parametrize(
    ("given_", "lanes"),
    [
        ("", 4),
        ("+sse2,+sse4.2", 4),
        ("+sse2,-avx,-avx2,-avx512f", 4),
        ("+avx", 8),
        ("+sse2,+avx,+avx2,-avx512f", 8),
        ("-avx512bw,+avx512f,+avx", 16),
    ],
)
def test_numba_may_be_told_another_processor(given_: str, lanes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector.config, "CPU_FEATURES", given_)
    host = {"avx": True, "avx512f": True}
    monkeypatch.setattr(vector.llvmlite.binding, "get_host_cpu_features", lambda: host)
    assert vector.host_lanes() == lanes


def test_groups_make_up_any_number_of_rows() -> None:
    assert vector.GROUPS[-1] == 1
    assert list(vector.GROUPS) == sorted(vector.GROUPS, reverse=True)
    assert all(group & (group - 1) == 0 for group in vector.GROUPS)
