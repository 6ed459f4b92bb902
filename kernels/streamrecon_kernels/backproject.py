"""Direct backprojection of filtered rows into a block of slices: check and dispatch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamrecon_kernels import backproject_cuda, backproject_numba, backproject_vector
from streamrecon_kernels.memory import beside, on_device, require_writable
from streamrecon_kernels.parallel import threads


def backproject(
    volume: NDArray[np.float32],
    filtered: NDArray[np.float32],
    cos: NDArray[np.float32],
    sin: NDArray[np.float32],
    offset: NDArray[np.float32],
    radius: float = np.inf,
) -> None:
    """Add the backprojection of filtered rows to a block of slices, in place.

    `volume[y, x, :] += sum_a filtered[a](u)`, linearly interpolated at `u = x' cos[a] + y' sin[a] + offset[a]`, with
    `x' = x - (side - 1) / 2` and y' alike. The angles are added one after another in their order, so that splitting
    them over several calls gives the same bits.

    Parameters
    ----------
    volume
        (y, x, row); any strides, but it is fastest where rows lie side by side.
    filtered
        (angle, column, row); likewise; weights are already in it.
    cos, sin
        (angle,), columns of `filtered` per pixel along x and y; in host memory, as `offset`.
    offset
        (angle,), column of `filtered` that the rotation axis is seen in.
    radius
        Pixels whose center is farther from the axis, in pixels, are left alone.

    Raises
    ------
    ValueError
        If the shapes do not fit, or a pixel would be seen outside `filtered`.
    """
    if volume.ndim != 3 or filtered.ndim != 3 or volume.shape[2] != filtered.shape[2]:
        raise ValueError(
            f"volume is {volume.shape} and filtered {filtered.shape}; expected (y, x, row), (angle, column, row)"
        )
    for name, array in (("volume", volume), ("filtered", filtered)):
        if array.dtype != np.float32:
            raise ValueError(f"{name} is {array.dtype}; expected float32")
    if not on_device(volume):
        require_writable("volume", volume)
    if not radius >= 0:
        raise ValueError(f"radius is {radius}; expected 0 or more pixels")
    angles = filtered.shape[0]
    for name, array in (("cos", cos), ("sin", sin), ("offset", offset)):
        if array.shape != (angles,) or array.dtype != np.float32:
            raise ValueError(f"{name} is {array.dtype} {array.shape}; expected float32 ({angles},)")
    if not (angles and volume.size):
        return
    height, width = volume.shape[:2]
    far = np.hypot(height - 1, width - 1) / 2
    with np.errstate(over="ignore", invalid="ignore"):
        step = np.hypot(cos.astype(np.float64), sin)
        # Within a circle no corner is reached.
        reach = np.minimum(step * min(radius, far), abs(cos) * ((width - 1) / 2) + abs(sin) * ((height - 1) / 2))
    # What float32 rounds positions by, and a hundredth of a column.
    reach = reach + 0.01 + 4 * np.spacing(np.abs(offset).max() + np.float32(far)).astype(np.float64)
    low, high = float((offset - reach).min()), float((offset + reach).max())
    if not (low >= 0 and high < filtered.shape[1] - 1):
        raise ValueError(
            f"pixels are seen in columns {low:.2f} to {high:.2f} of filtered, which has {filtered.shape[1]}, expected all "
            "within: give it longer tails"
        )
    if on_device(volume):
        cos, sin, offset = (beside(volume, each) for each in (cos, sin, offset))
        backproject_cuda.backproject(volume, filtered, cos, sin, offset, radius, step=float(step.max()))
        return
    limit = np.float32(min(radius, 1e9))
    cos, sin, offset = (np.ascontiguousarray(each) for each in (cos, sin, offset))
    if volume.strides[2] == filtered.strides[2] == 4 or volume.shape[2] == 1:
        backproject_vector.backproject(
            volume.ctypes.data, volume.strides[:2], volume.shape,
            filtered.ctypes.data, filtered.strides[0], filtered.strides[1],
            cos, sin, offset, limit, threads(),
        )  # fmt: skip
    else:
        backproject_numba.backproject(volume, filtered, cos, sin, offset, limit)
