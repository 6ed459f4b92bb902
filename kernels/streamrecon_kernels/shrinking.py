"""Rows made shorter: samples that are weighted sums of neighbouring columns; check and dispatch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrecon_kernels import shrinking_vector
from streamrecon_kernels.memory import beside, on_device, require_writable


@dataclass(frozen=True, slots=True, eq=False)
class Shrinking:
    """How rows are shrunk, on the device of the rows."""

    matrix: NDArray[np.float32]
    """(sample, column)."""
    ranges: NDArray[np.intp]
    """(sample, 2), first and one past the last column whose weight is not 0, besides those at the edges."""

    @classmethod
    def of(cls, matrix: NDArray[np.float32], like: Any = None) -> Shrinking:
        """Of a matrix (sample, column) of which few columns are not 0 for a sample; the first and the last one may be for all.

        Parameters
        ----------
        matrix
            In host memory, float32.
        like
            An array of the device that the rows are on; None is the CPU.

        Raises
        ------
        ValueError
            If it is no such matrix.
        """
        if matrix.ndim != 2 or matrix.dtype != np.float32 or not matrix.size:
            raise ValueError(
                f"the matrix is {matrix.dtype} {matrix.shape}; expected float32 (sample, column), not empty"
            )
        inner = np.pad(matrix[:, 1:-1] != 0, ((0, 0), (1, 1)))
        first = np.argmax(inner, axis=1)
        last = inner.shape[1] - np.argmax(inner[:, ::-1], axis=1)
        some = inner.any(axis=1)
        ranges = np.stack([np.where(some, first, 0), np.where(some, last, 0)], axis=1)
        return cls(beside(like, matrix) if on_device(like) else np.ascontiguousarray(matrix), ranges)


def shrink_rows(rows: NDArray[np.complex64], how: Shrinking, out: NDArray[np.complex64]) -> None:
    """Shrink packed rows: `out[a, s] = sum_c matrix[s, c] rows[a, c]`.

    Parameters
    ----------
    rows
        (angle, column, pair), pairs side by side.
    how
        The matrix.
    out
        (angle, sample, pair), C-contiguous.

    Raises
    ------
    ValueError
        If the shapes do not fit.
    """
    samples, columns = how.matrix.shape
    if rows.ndim != 3 or rows.shape[1] != columns or out.shape != (rows.shape[0], samples, rows.shape[2]):
        raise ValueError(
            f"rows are {rows.shape}, matrix {how.matrix.shape}, out {out.shape}; expected (angle, {columns}, pair), and "
            f"(angle, {samples}, pair)"
        )
    for name, array in (("rows", rows), ("out", out)):
        if array.dtype != np.complex64 or (array.size and array.strides[2] != 8):
            raise ValueError(f"{name} is {array.dtype}, strides {array.strides}; expected complex64 pairs side by side")
    if on_device(out):
        out.view(np.float32)[:] = how.matrix @ rows.view(np.float32)
        return
    if not out.flags.c_contiguous:
        raise ValueError(f"out has strides {out.strides}; expected C-contiguous")
    require_writable("out", out)
    shrinking_vector.shrink_rows(rows.ctypes.data, *rows.strides[:2], how.matrix, how.ranges, out.view(np.float32))
