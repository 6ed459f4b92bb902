"""From counts to line integrals: check and dispatch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamrecon_kernels import normalize_numba, packing_cuda
from streamrecon_kernels.memory import on_device, require_writable


def line_integrals(
    raw: NDArray[np.generic],
    dark: NDArray[np.float32],
    term: NDArray[np.float32],
    floor: float,
    out: NDArray[np.float32],
) -> None:
    """Write `term - log(max(raw - dark, floor))`; what is not a number counts as the floor.

    Parameters
    ----------
    raw
        (angle, row, column) counts, any real dtype.
    dark
        (row, column) counts.
    term
        (angle, row, column), or (1, row, column) where it is the same at every angle: logarithm of flat minus dark.
    floor
        Counts, at least the smallest normal float32.
    out
        (angle, row, column), C-contiguous.

    Raises
    ------
    ValueError
        If the shapes do not fit.
    """
    if on_device(out):
        packing_cuda.line_integrals(raw, dark, term, floor, out)
        return
    angles, *image = raw.shape
    if raw.ndim != 3 or list(dark.shape) != image or list(term.shape[1:]) != image or term.shape[0] not in (1, angles):
        raise ValueError(
            f"raw is {raw.shape}, dark {dark.shape}, term {term.shape}; expected (angle, row, column), (row, column) and (1 "
            "or angle, row, column)"
        )
    if raw.dtype.kind not in "uif":
        raise ValueError(f"raw is {raw.dtype}; expected a real dtype")
    for name, array in (("dark", dark), ("term", term), ("out", out)):
        if array.dtype != np.float32:
            raise ValueError(f"{name} is {array.dtype}; expected float32")
    if out.shape != raw.shape or not out.flags.c_contiguous:
        raise ValueError(f"out is {out.shape}, strides {out.strides}; expected C-contiguous {raw.shape}")
    require_writable("out", out)
    if not floor >= np.finfo(np.float32).tiny:
        raise ValueError(f"floor is {floor}; expected a number from {np.finfo(np.float32).tiny:.3g}")
    if not raw.size:
        return
    if raw.dtype.itemsize > 2 and raw.dtype != np.float32:
        # Wider counts than float32 holds: the difference is what matters.
        with np.errstate(over="ignore", invalid="ignore"):
            raw = np.subtract(raw, dark, dtype=np.float64).astype(np.float32)
        dark = np.zeros_like(dark)
    elif not raw.dtype.isnative or raw.dtype == np.float16:
        raw = raw.astype(np.float32)
    pixels = int(np.prod(image))
    normalize_numba.line_integrals(
        np.ascontiguousarray(raw).reshape(angles, pixels),
        np.ascontiguousarray(dark).reshape(pixels),
        np.ascontiguousarray(term).reshape(term.shape[0], pixels),
        np.float32(floor),
        out.reshape(angles, pixels),
    )
