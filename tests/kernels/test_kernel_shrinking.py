"""Rows made shorter, against a plain product with the matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_arrays import complexes, floats, hold, read_only, rebuilt
from numpy.typing import NDArray
from streamrecon_kernels import Shrinking, reference, shrink_rows, shrinking_vector

SETTINGS = settings(max_examples=60, deadline=None)


def banded(rng: np.random.Generator, samples: int, columns: int, width: int) -> NDArray[np.float32]:
    """A matrix whose samples have some neighbouring columns, or none, and any weight of the edges."""
    matrix = np.zeros((samples, columns), np.float32)
    for line in matrix:
        first = rng.integers(0, columns)
        line[first : first + rng.integers(0, width + 1)] = 1
    matrix *= floats(rng, samples, columns)
    matrix[:, [0, -1]] += floats(rng, samples, 2) * rng.integers(0, 2, (samples, 2))
    return matrix


@SETTINGS
@given(
    st.tuples(st.integers(0, 3), st.integers(1, 20), st.integers(1, 30), st.integers(1, 19)),
    st.sampled_from(["plain", "unaligned", "sliced"]),
    st.integers(0, 2**31),
)
def test_equals_the_reference(shape: tuple[int, int, int, int], laid: str, seed: int) -> None:
    angles, samples, columns, pairs = shape
    rng = np.random.default_rng(seed)
    matrix = banded(rng, samples, columns, 9)
    long = hold(complexes(rng, angles, columns + 7, pairs), "plain" if laid == "sliced" else laid)
    rows = long.array[:, 3 : 3 + columns]
    out = hold(np.full((angles, samples, pairs), np.nan, np.complex64), "unaligned" if laid == "unaligned" else "plain")
    shrink_rows(rows, Shrinking.of(matrix), out.array)
    np.testing.assert_allclose(out.array, reference.shrink_rows(rows, matrix), atol=2e-5)
    out.check()
    long.check_unchanged()


@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_vectors_of_every_length_equal_the_reference(lanes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = rebuilt(shrinking_vector.shrink_rows, sum_columns=shrinking_vector.column_summer(lanes))
    monkeypatch.setattr(shrinking_vector, "shrink_rows", kernel)
    rng = np.random.default_rng(1)
    matrix = banded(rng, 11, 23, 6)
    for pairs in (1, 2, 3, 4, 7, 8, 15, 16, 35):
        rows, out = complexes(rng, 2, 23, pairs), hold(np.zeros((2, 11, pairs), np.complex64), "unaligned")
        shrink_rows(rows, Shrinking.of(matrix), out.array)
        np.testing.assert_allclose(out.array, reference.shrink_rows(rows, matrix), atol=2e-5)
        out.check()
    assert kernel.signatures


def test_no_column_is_looked_at_in_vain_but_the_edges() -> None:
    matrix = np.zeros((3, 9), np.float32)
    matrix[0, 2:5] = matrix[1, 0] = matrix[2, 8] = 1
    np.testing.assert_array_equal(Shrinking.of(matrix).ranges, [[2, 5], [0, 0], [0, 0]])


def right(**changed: Any) -> dict[str, Any]:
    good = {
        "rows": np.ones((2, 9, 4), np.complex64),
        "how": Shrinking.of(np.ones((5, 9), np.float32)),
        "out": np.zeros((2, 5, 4), np.complex64),
    }
    return good | changed


@pytest.mark.parametrize(
    "changed",
    [
        {"rows": np.ones((2, 8, 4), np.complex64)},
        {"rows": np.ones((3, 9, 4), np.complex64)},
        {"rows": np.ones((2, 9, 4), np.complex128)},
        {"rows": np.ones((2, 9, 8), np.complex64)[..., ::2]},
        {"out": np.zeros((2, 5, 3), np.complex64)},
        {"out": np.zeros((2, 6, 4), np.complex64)},
        {"out": np.zeros((2, 10, 4), np.complex64)[:, ::2]},
        {"out": np.zeros((2, 5, 4), np.complex128)},
        {"out": read_only(np.zeros((2, 5, 4), np.complex64))},
    ],
)
def test_what_does_not_fit_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"expected|read-only"):
        shrink_rows(**right(**changed))
    shrink_rows(**right())


@pytest.mark.parametrize("matrix", [np.ones((5, 9)), np.ones(9, np.float32), np.ones((5, 0), np.float32)])
def test_what_is_no_matrix_is_refused(matrix: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match="expected float32"):
        Shrinking.of(matrix)
