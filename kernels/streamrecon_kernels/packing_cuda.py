"""Counts to line integrals, to packed rows, to filtered spectra, on a CUDA device: check, lay out, launch."""

from __future__ import annotations

from typing import Any

import numpy as np

from streamrecon_kernels.cuda import (
    GRID_LIMIT,
    Launcher,
    blocks,
    default_launcher,
    element_strides,
    require,
    require_grid,
)

RAW = {
    "u1": "unsigned char",
    "u2": "unsigned short",
    "u4": "unsigned int",
    "i1": "signed char",
    "i2": "short",
    "i4": "int",
}
RAW |= {"f4": "float", "f8": "double"}
"""The C type of each dtype that counts may have, by the dtype without its byte order."""
PACKED = RAW | {"f2": "Half"}
"""Likewise where rows are packed: they may also be stored in half precision."""
TILE = 32
ANGLES = 8
PER_THREAD = 4


def line_integrals(raw: Any, dark: Any, term: Any, floor: float, out: Any, launcher: Launcher | None = None) -> None:
    """Write `out = term - log(fmax(raw - dark, floor))`, computed in float32.

    Parameters
    ----------
    raw
        (angle, row, column) counts, C-contiguous; unsigned or signed integers of 1, 2 or 4 bytes, float32 or float64.
    dark
        (row, column) float32.
    term
        (1 or angle, row, column) float32, the log of the flat.
    floor
        Counts; a smaller difference, and one that is not a number, is taken to be this.
    out
        (angle, row, column) float32.

    Raises
    ------
    ValueError
        If the arrays do not fit together.
    """
    angles, rows, columns = _counts(raw, dark, term, tuple(RAW))
    require("out", out, np.float32, raw.shape)
    if not raw.size:
        return
    pixels = rows * columns
    grid = (blocks(pixels, 256), blocks(angles, ANGLES), 1)
    require_grid(grid)
    stride = pixels if term.shape[0] > 1 else 0
    (launcher or default_launcher()).launch(
        "normalize.cu", "line_integrals", {"RAW": RAW[raw.dtype.str[1:]]}, grid, (256, 1, 1),
        (raw, dark, term, out, np.int64(pixels), np.int64(stride), np.int32(angles), np.float32(floor)),
    )  # fmt: skip


def pack_rows(rows: Any, weight: Any, out: Any, launcher: Launcher | None = None) -> None:
    """Weight rows, pair them as real and imaginary parts, extend them with their outermost columns, rows innermost.

    Parameters
    ----------
    rows
        (angle, row, column) float32 or float16, columns contiguous, the other strides any.
    weight
        (column,) float32.
    out
        (angle, padded, pair) complex64; the first column comes to (padded - columns) // 2. Rows that are not there are 0.

    Raises
    ------
    ValueError
        If the arrays do not fit together.
    """
    require("rows", rows, (np.float32, np.float16), (None, None, None), 1)
    grid = _packed(rows, weight, out)
    if not grid:
        return
    angle_stride, row_stride, _ = element_strides(rows)
    angles, count, columns = rows.shape
    (launcher or default_launcher()).launch(
        "packing.cu", "pack_rows", {"RAW": PACKED[rows.dtype.str[1:]]}, grid, (32, 8, 1),
        (rows, weight, out, angle_stride, row_stride, *map(np.int32, (angles, count, columns, *out.shape[1:]))),
    )  # fmt: skip


def integrate_and_pack(
    raw: Any, dark: Any, term: Any, floor: float, weight: Any, out: Any, launcher: Launcher | None = None
) -> None:
    """Do `line_integrals` and then `pack_rows`, with nothing in between written to memory.

    `raw` may also be float16, and needs contiguous columns only; the other arguments are those of the two.
    """
    _counts(raw, dark, term, tuple(PACKED), 1)
    grid = _packed(raw, weight, out)
    if not grid:
        return
    angle_stride, row_stride, _ = element_strides(raw)
    angles, count, columns = raw.shape
    stride = np.int64(count * columns if term.shape[0] > 1 else 0)
    (launcher or default_launcher()).launch(
        "packing.cu", "integrate_and_pack", {"RAW": PACKED[raw.dtype.str[1:]]}, grid, (32, 8, 1),
        (
            raw, dark, term, weight, out, angle_stride, row_stride, stride,
            *map(np.int32, (angles, count, columns, *out.shape[1:])), np.float32(floor),
        ),
    )  # fmt: skip


def filter_spectra(spectra: Any, response: Any, out: Any, launcher: Launcher | None = None) -> None:
    """Multiply spectra with a real response, and lay them out at a greater length where `out` is longer.

    Parameters
    ----------
    spectra
        (angle, n, pair) complex64, n even, zero frequency first.
    response
        (angle, n / 2 + 1) float32.
    out
        (angle, length, pair) complex64, length n or a multiple of it; may be `spectra` itself. Where it is longer, the
        Nyquist sample goes half to its positive and half to its negative frequency.

    Raises
    ------
    ValueError
        If the arrays do not fit together.
    """
    require("spectra", spectra, np.complex64, (None, None, None))
    angles, n, pairs = spectra.shape
    require("response", response, np.float32, (angles, n // 2 + 1))
    require("out", out, np.complex64, (angles, None, pairs))
    length = out.shape[1]
    if n < 2 or n % 2 or length < n or length % n or length * pairs >= 2**31:
        raise ValueError(
            f"spectra have {n} samples and out {length}, of {pairs} pairs; expected an even number, a multiple of it, and "
            "less than 2**31 values an angle"
        )
    if not out.size:
        return
    grid = (blocks(length * pairs, 256 * PER_THREAD), angles, 1)
    require_grid(grid)
    (launcher or default_launcher()).launch(
        "packing.cu", "filter_spectra", {"RAW": "float"}, grid, (256, 1, 1),
        (spectra, response, out, *map(np.int32, (n, length, pairs))),
    )  # fmt: skip


def _counts(raw: Any, dark: Any, term: Any, dtypes: tuple[str, ...], innermost: int = -1) -> tuple[int, int, int]:
    require("raw", raw, dtypes, (None, None, None), innermost)
    angles, rows, columns = raw.shape
    require("dark", dark, np.float32, (rows, columns))
    require("term", term, np.float32, (1 if len(term) == 1 else angles, rows, columns))
    return angles, rows, columns


def _packed(rows: Any, weight: Any, out: Any) -> tuple[int, int, int] | None:
    """Check what packs `rows`, and return its grid; None where there is nothing to do."""
    angles, count, columns = rows.shape
    require("weight", weight, np.float32, (columns,))
    require("out", out, np.complex64, (angles, None, None))
    padded, pairs = out.shape[1:]
    if not columns or padded < columns or 2 * pairs < count:
        raise ValueError(
            f"rows are {rows.shape} and out {out.shape}; expected at least one column, as many places as columns and half "
            "as many pairs as rows"
        )
    if not out.size:
        return None
    grid = (blocks(padded, TILE), blocks(pairs, TILE), min(angles, GRID_LIMIT))
    require_grid(grid)
    return grid
