"""From rows innermost to slices: the last step of a snapshot."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamrecon_kernels import slices_numba
from streamrecon_kernels.parallel import LOCK


def take_slices(
    values: NDArray[np.float32],
    y: NDArray[np.intp],
    x: NDArray[np.intp],
    factor_y: NDArray[np.float32],
    factor_x: NDArray[np.float32],
    out: NDArray[np.float32],
    radius: float = np.inf,
) -> None:
    """Pick pixels of a block, multiply them, and lay them out slice by slice.

    `out[r, i, j] = values[y[i], x[j], r] factor_y[i] factor_x[j]`, and 0 where the pixel (i, j) is farther from the middle
    of the slice than `radius`.

    Parameters
    ----------
    values
        (y, x, row), C-contiguous.
    y, x
        (height,) and (width,) indices of the pixels wanted.
    factor_y, factor_x
        (height,) and (width,).
    out
        (slice, height, width), C-contiguous, with at most as many slices as there are rows.
    radius
        Pixels of `out`.

    Raises
    ------
    ValueError
        If the shapes do not fit.
    """
    height, width = len(y), len(x)
    shapes_fit = out.shape[1:] == (height, width) and factor_y.shape == (height,) and factor_x.shape == (width,)
    if values.ndim != 3 or out.ndim != 3 or not shapes_fit or out.shape[0] > values.shape[2]:
        raise ValueError(f"values {values.shape}, y {y.shape}, x {x.shape}, out {out.shape} do not fit together")
    for name, array in (("values", values), ("out", out)):
        if array.dtype != np.float32 or not array.flags.c_contiguous:
            raise ValueError(f"{name} is {array.dtype}, strides {array.strides}; expected C-contiguous float32")
    for indices, size in ((y, values.shape[0]), (x, values.shape[1])):
        if indices.size and not (indices.min() >= -size and indices.max() < size):
            raise ValueError(f"a pixel outside of {values.shape} is asked for")
    with LOCK:
        slices_numba.take_slices(values, y, x, factor_y, factor_x, out, np.float32(min(radius, 1e9)))
