"""To and from spectra: two real rows make a complex one; check and dispatch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamrecon_kernels import packing_cuda, packing_numba, packing_vector
from streamrecon_kernels.memory import flat, on_device, require_writable
from streamrecon_kernels.slices_vector import LONGEST, SIDES


def pack_rows(rows: NDArray[np.float32], weight: NDArray[np.float32], out: NDArray[np.complex64]) -> None:
    """Lay rows out for the transform: in pairs, innermost, extended on both sides by their edge pixels.

    Extending by zeros costs 4.6 % where the object is truncated, and is no better elsewhere.

    Row 2 j is the real and row 2 j + 1 the imaginary part of pair j; rows that are not there are 0. Column 0 comes to lie
    at `(padded - columns) // 2`.

    Parameters
    ----------
    rows
        (angle, row, column), with any strides.
    weight
        (column,), times which each row is taken.
    out
        (angle, padded, pair), C-contiguous.

    Raises
    ------
    ValueError
        If the shapes do not fit.
    """
    if on_device(out):
        packing_cuda.pack_rows(rows, weight, out)
        return
    if rows.ndim != 3 or out.ndim != 3 or rows.dtype != np.float32 or weight.dtype != np.float32:
        raise ValueError(
            f"rows are {rows.dtype} {rows.shape}, weight {weight.dtype}; expected float32 (angle, row, column)"
        )
    angles, count, columns = rows.shape
    if out.dtype != np.complex64 or not out.flags.c_contiguous or out.shape[0] != angles or out.shape[1] < columns:
        raise ValueError(
            f"out is {out.dtype} {out.shape}, strides {out.strides}; expected C-contiguous complex64 ({angles}, at least "
            f"{columns}, pair)"
        )
    if weight.shape != (columns,) or count > 2 * out.shape[2] or columns == 0:
        raise ValueError(
            f"rows are {rows.shape}, weight {weight.shape}, out {out.shape}; expected ({columns},) weights, at least one "
            f"column and at most {2 * out.shape[2]} rows"
        )
    require_writable("out", out)
    if not rows.size:
        out[:] = 0
        return
    if min(rows.strides) < 0 or any(stride % 4 for stride in rows.strides) or rows.strides[2] != 4:
        rows = np.ascontiguousarray(rows)
    by_angle, by_row = rows.strides[0] // 4, rows.strides[1] // 4
    fitting = [side for side in SIDES if side <= LONGEST and count % side == 0]
    if fitting and bool((weight == 1).all()):
        packing_vector.pack_rows(rows.ctypes.data, by_angle, by_row, rows.shape, out.view(np.float32), fitting[0])
        return
    weight = np.ascontiguousarray(weight)
    packing_numba.pack_rows(flat(rows), by_angle, by_row, rows.shape, weight, out.view(np.float32))


def filter_spectra(spectra: NDArray[np.complex64], response: NDArray[np.float32], out: NDArray[np.complex64]) -> None:
    """Multiply spectra by a real response, and insert zeros where the rows are to be upsampled.

    Parameters
    ----------
    spectra
        (angle, n, row pair), n even, as an FFT along n leaves them; C-contiguous.
    response
        (angle, n / 2 + 1), at the frequencies 0 to the Nyquist frequency.
    out
        (angle, length, row pair), C-contiguous, length even and at least n; may be `spectra` where they are equal. Half of
        the Nyquist sample goes to the positive and half to the negative frequency.

    Raises
    ------
    ValueError
        If the shapes do not fit.
    """
    if on_device(out):
        packing_cuda.filter_spectra(spectra, response, out)
        return
    for name, array in (("spectra", spectra), ("out", out)):
        if array.ndim != 3 or array.dtype != np.complex64 or not array.flags.c_contiguous or array.shape[1] % 2:
            raise ValueError(
                f"{name} is {array.dtype} {array.shape}; expected C-contiguous complex64 (angle, n, pair) with an even n"
            )
    angles, n, pairs = spectra.shape
    if out.shape[0] != angles or out.shape[1] < n or out.shape[2] != pairs:
        raise ValueError(f"out is {out.shape}; expected ({angles}, at least {n}, {pairs})")
    if response.dtype != np.float32 or response.shape != (angles, n // 2 + 1):
        raise ValueError(f"response is {response.dtype} {response.shape}; expected float32 ({angles}, {n // 2 + 1})")
    require_writable("out", out)
    if not spectra.size:
        out[:] = 0
        return
    packing_numba.filter_spectra(spectra.view(np.float32), np.ascontiguousarray(response), out.view(np.float32))
