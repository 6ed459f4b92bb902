"""Gridding of spokes and folding of the grid on a CUDA device: check, lay out, launch."""

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
from streamrecon_kernels.gridding_numba import EDGE, PER_CELL

TILE = 16
PAIRS = 16
WIDEST = 12


def spoke_taps(
    step: Any, table: Any, width: int, middle: int, first: Any, weights: Any, launcher: Launcher | None = None
) -> None:
    """Write where the samples of spokes fall along one axis of the grid.

    Parameters
    ----------
    step
        (angle,) float64, cells per sample along this axis.
    table
        `KaiserBessel.table()`, (PER_CELL + 2, width) float32.
    width
        Cells of the kernel's window.
    middle
        Cell of the zero frequency.
    first
        (angle, count) int32, count odd: receives the first cell of each window.
    weights
        (angle, count, width) float32: receives the kernel's value at each cell of it.

    Raises
    ------
    ValueError
        If the arrays do not fit together.
    """
    require("step", step, np.float64, (None,))
    require("table", table, np.float32, (PER_CELL + 2, width))
    angles = len(step)
    require("first", first, np.int32, (angles, None))
    count = first.shape[1]
    require("weights", weights, np.float32, (angles, count, width))
    _require_width(width)
    if count % 2 == 0:
        raise ValueError(f"there are {count} samples; expected an odd number")
    if not angles:
        return
    grid = (blocks(count, 256), angles, 1)
    require_grid(grid)
    (launcher or default_launcher()).launch(
        "gridding.cu", "spoke_taps", {"WIDTH": width}, grid, (256, 1, 1),
        (step, table, first, weights, *map(np.int32, (count, middle, PER_CELL)), np.float64(EDGE)),
    )  # fmt: skip


def grid_spokes(
    grid: Any,
    spectra: Any,
    factor: Any,
    cos: Any,
    sin: Any,
    first_u: Any,
    first_v: Any,
    weights_u: Any,
    weights_v: Any,
    launcher: Launcher | None = None,
) -> None:
    """Add spokes to the spectrum of a block of slices; the bits depend on the order of the angles and nothing else.

    Parameters
    ----------
    grid
        (v, u, pair) complex64, C-contiguous, its side odd, the zero frequency in the middle.
    spectra
        (angle, n, pair) complex64, n even, zero frequency first; C-contiguous but for the angles, or (1, n, pair) for
        the same at every angle.
    factor
        (angle, n + 1) complex64 of the frequencies -n / 2 to n / 2.
    cos, sin
        (angle,) float64, cells per sample along u and v, that the taps were made of.
    first_u, first_v, weights_u, weights_v
        What `spoke_taps` wrote for cos and sin; every window must lie in the grid.

    Raises
    ------
    ValueError
        If the arrays do not fit together.
    """
    require("grid", grid, np.complex64, (None, None, None))
    side, _, pairs = grid.shape
    require("spectra", spectra, np.complex64, (None, None, pairs), 2)
    angles, n = len(cos), spectra.shape[1]
    if spectra.shape[0] not in (1, angles):
        raise ValueError(f"spectra is {spectra.shape}; expected one for each of {angles} angles, or one for all")
    if grid.shape[1] != side or side % 2 == 0 or n < 2 or n % 2:
        raise ValueError(f"grid is {grid.shape}, spectra {spectra.shape}; expected an odd square and an even length")
    require("factor", factor, np.complex64, (angles, n + 1))
    width = weights_u.shape[-1]
    _require_width(width)
    for name, axis, first, weights in (("u", cos, first_u, weights_u), ("v", sin, first_v, weights_v)):
        require("cos" if name == "u" else "sin", axis, np.float64, (angles,))
        require(f"first_{name}", first, np.int32, (angles, n + 1))
        require(f"weights_{name}", weights, np.float32, (angles, n + 1, width))
    if not angles or not pairs:
        return
    # Two pairs a thread, and whole warps; the kernel reckons alike.
    threads = min(32 * blocks(width * width * PAIRS // 2, 32), 1024)
    tiles = (blocks(side, TILE), blocks(side, TILE), blocks(pairs, PAIRS))
    require_grid(tiles)
    (launcher or default_launcher()).launch(
        "gridding.cu", "grid_spokes", {"WIDTH": width}, tiles, (threads, 1, 1),
        (
            grid, spectra, factor, cos, sin, first_u, first_v, weights_u, weights_v,
            *map(np.int32, (side, angles, n, pairs)), element_strides(spectra)[0] * np.int64(spectra.shape[0] > 1),
        ),
    )  # fmt: skip


def fold_grid(
    grid: Any, period: int, length: int, factor_v: Any, factor_u: Any, out: Any, launcher: Launcher | None = None
) -> None:
    """Add the cells of a grid that lie whole periods apart, multiply them, and put the zero frequency first.

    Parameters
    ----------
    grid
        (v, u, pair) complex64, its side odd, pairs contiguous, the other strides any: a range of pairs may be given.
    period
        Cells.
    length
        Frequencies wanted along each axis; with fewer than a period, the central ones.
    factor_v, factor_u
        (length,) complex64.
    out
        (length, length, pair) complex64.

    Raises
    ------
    ValueError
        If the arrays do not fit together.
    """
    require("grid", grid, np.complex64, (None, None, None), 1)
    side, _, pairs = grid.shape
    if grid.shape[1] != side or side % 2 == 0 or period < 1 or length < 0:
        raise ValueError(
            f"grid is {grid.shape}, period {period}, length {length}; expected an odd square, 1 or more, 0 or more"
        )
    require("factor_v", factor_v, np.complex64, (length,))
    require("factor_u", factor_u, np.complex64, (length,))
    require("out", out, np.complex64, (length, length, pairs))
    if not out.size:
        return
    stride_v, stride_u, _ = element_strides(grid)
    tiles = (blocks(length, 8), blocks(pairs, 32), min(length, GRID_LIMIT))
    require_grid(tiles)
    (launcher or default_launcher()).launch(
        "folding.cu", "fold_grid", {}, tiles, (32, 8, 1),
        (grid, factor_v, factor_u, out, stride_v, stride_u, *map(np.int32, (side, period, length, pairs))),
    )  # fmt: skip


def _require_width(width: int) -> None:
    if not 2 <= width <= WIDEST:
        raise ValueError(f"the kernel is {width} cells wide; expected 2 to {WIDEST}")
