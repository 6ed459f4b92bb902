"""From rows innermost to slices on a CUDA device: check, lay out, launch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from streamrecon_kernels.cuda import (
    GRID_LIMIT,
    Launcher,
    blocks,
    default_launcher,
    element_strides,
    quadrupled_square,
    require,
    require_grid,
)

TILE = 32


def take_slices(
    values: Any,
    y: Any,
    x: Any,
    factor_y: Any,
    factor_x: Any,
    out: Any,
    radius: float = math.inf,
    launcher: Launcher | None = None,
) -> None:
    """Pick pixels of a block, multiply them, and lay them out slice by slice; see `streamrecon_kernels.take_slices`.

    Parameters
    ----------
    values
        (y, x, row) float32, rows contiguous, the other strides any.
    y, x
        (height,) and (width,) int64 indices; negative ones count from the end. What they hold is not checked: that would
        wait for the device.
    factor_y, factor_x
        (height,) and (width,) float32.
    out
        (slice, height, width) float32, C-contiguous, with at most as many slices as there are rows.
    radius
        Pixels of `out`; 0 beyond.

    Raises
    ------
    ValueError
        If the arrays do not fit together.
    """
    require("values", values, np.float32, (None, None, None), 1)
    require("out", out, np.float32, (None, None, None))
    slices, height, width = out.shape
    for name, index, factor, length in (("y", y, factor_y, height), ("x", x, factor_x, width)):
        require(name, index, np.int64, (length,))
        require(f"factor_{name}", factor, np.float32, (length,))
    if slices > values.shape[2]:
        raise ValueError(f"out has {slices} slices; expected at most the {values.shape[2]} rows of values")
    limit = quadrupled_square(radius)
    if not out.size:
        return
    stride_y, stride_x, _ = element_strides(values)
    grid = (blocks(width, TILE), blocks(slices, TILE), min(height, GRID_LIMIT))
    require_grid(grid)
    (launcher or default_launcher()).launch(
        "slices.cu", "take_slices", {}, grid, (32, 8, 1),
        (
            values, y, x, factor_y, factor_x, out, stride_y, stride_x,
            *map(np.int32, (*values.shape[:2], slices, height, width)), limit,
        ),
    )  # fmt: skip
