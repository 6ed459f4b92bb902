"""Direct backprojection on a CUDA device: check, lay out, launch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from streamrecon_kernels.cuda import (
    Launcher,
    blocks,
    default_launcher,
    element_strides,
    quadrupled_square,
    require,
    require_grid,
)

TEXTURE_LIMIT = (131072, 65000)
"""Texels along x and y that every device since compute capability 5 has."""

MOST_COLUMNS = 192
"""Columns of which two buffers, of 128 bytes a column, fit into the shared memory that needs no asking for."""


def backproject(
    volume: Any,
    filtered: Any,
    cos: Any,
    sin: Any,
    offset: Any,
    radius: float = math.inf,
    *,
    step: float | None = None,
    half: bool = False,
    scale: float = 1.0,
    launcher: Launcher | None = None,
) -> None:
    """Add the backprojection of filtered rows to a block of slices; see `streamrecon_kernels.backproject`.

    Parameters
    ----------
    volume
        (y, x, row) float32, C-contiguous.
    filtered
        (angle, column, row) float32, C-contiguous but for the angles, so that a range of columns may be given. A column
        outside of it counts as 0.
    cos, sin, offset
        (angle,) float32: columns per pixel along x and y, and the column that the axis is seen in.
    radius
        Pixels whose center is farther from the axis, in pixels, are left alone.
    step
        At least the largest hypot(cos, sin); without it, the device is waited for to find out.
    half
        Whether the rows are rounded to float16 in shared memory, which halves what the kernel is bound by. The sums are
        float32 all the same.
    scale
        With `half`, a power of two that brings the rows well into float16's range, 6e-5 to 65504.

    Raises
    ------
    ValueError
        If the arrays do not fit together.
    """
    height, width, rows, angles = _shapes(volume, filtered, cos, sin, offset)
    if not math.isfinite(scale) or scale <= 0 or math.frexp(scale)[0] != 0.5:
        raise ValueError(f"scale is {scale}; expected a power of two")
    limit = quadrupled_square(radius)
    if not angles or not volume.size:
        return
    if step is None:
        step = math.sqrt(float((cos * cos + sin * sin).max()))
    if not 0 <= step < math.inf:
        raise ValueError(f"step is {step} columns per pixel; expected a finite number")
    tile_x, tile_y, tile_rows = (16, 16, 64) if half else (32, 16, 32)
    # The two float32 factors may together be a little more than their exact step.
    seen = 1.0001 * step * math.hypot(tile_x - 1, tile_y - 1) + 4
    columns = 32 * blocks(math.ceil(seen), 32)
    if columns > MOST_COLUMNS:
        most = (MOST_COLUMNS - 4) / math.hypot(tile_x - 1, tile_y - 1)
        raise ValueError(f"step is {step:.3f} columns per pixel; expected at most {most:.2f}")
    grid = (blocks(width, tile_x), blocks(height, tile_y), blocks(rows, tile_rows))
    require_grid(grid)
    (launcher or default_launcher()).launch(
        "backproject.cu", "backproject", {"COLUMNS": columns, "HALF": int(half)}, grid, (256, 1, 1),
        (
            volume, filtered, cos, sin, offset, *map(np.int32, (height, width, rows, filtered.shape[1], angles)),
            element_strides(filtered)[0], limit, np.float32(scale if half else 1),
        ),
    )  # fmt: skip


def backproject_texture(
    volume: Any,
    filtered: Any,
    cos: Any,
    sin: Any,
    offset: Any,
    radius: float = math.inf,
    *,
    launcher: Launcher | None = None,
) -> None:
    """Do what `backproject` does with the interpolation of the texture unit, whose fractions have 8 bits; to compare.

    The number of rows must be a multiple of 4, and angles times rows / 4 at most 65000.
    """
    height, width, rows, angles = _shapes(volume, filtered, cos, sin, offset)
    limit = quadrupled_square(radius)
    groups = rows // 4
    if rows % 4 or angles * groups > TEXTURE_LIMIT[1] or filtered.shape[1] > TEXTURE_LIMIT[0]:
        raise ValueError(
            f"filtered is {filtered.shape}; expected a multiple of 4 rows, at most {TEXTURE_LIMIT[0]} columns, and at most "
            f"{TEXTURE_LIMIT[1]} angles times rows / 4"
        )
    if not angles or not volume.size:
        return
    run = launcher or default_launcher()
    columns = filtered.shape[1]
    texels = filtered.reshape(angles, columns, groups, 4).transpose(0, 2, 1, 3).reshape(angles * groups, columns, 4)
    grid = (blocks(width, 8), blocks(height, 4), blocks(groups, 8))
    require_grid(grid)
    run.launch(
        "backproject.cu", "backproject_texture", {"COLUMNS": 64, "HALF": 0}, grid, (8, 8, 4),
        (volume, run.texture(texels), cos, sin, offset, *map(np.int32, (height, width, groups, angles)), limit),
    )  # fmt: skip


def _shapes(volume: Any, filtered: Any, cos: Any, sin: Any, offset: Any) -> tuple[int, int, int, int]:
    require("volume", volume, np.float32, (None, None, None))
    require("filtered", filtered, np.float32, (None, None, volume.shape[2]), 2)
    angles = filtered.shape[0]
    for name, array in (("cos", cos), ("sin", sin), ("offset", offset)):
        require(name, array, np.float32, (angles,))
    if max(volume.shape[:2]) >= 2**30:
        raise ValueError(f"volume is {volume.shape}; expected sides below 2**30")
    return (*volume.shape, angles)
