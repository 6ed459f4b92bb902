"""From the state of a block to slices: the steps of a snapshot around its transforms; check and dispatch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamrecon_kernels import folding_vector, gridding_cuda, slices_cuda, slices_numba, slices_vector
from streamrecon_kernels.memory import LINE, beside, flat, on_device, require_writable


def fold_grid(
    grid: NDArray[np.complex64],
    period: int,
    first: int,
    factor_v: NDArray[np.complex64],
    factor_u: NDArray[np.complex64],
    out: NDArray[np.complex64],
    reach: float = np.inf,
) -> None:
    """Copy some rows of a grid as an inverse FFT takes them: the zero frequency first, the margins folded in.

    Cells that are a period apart are the same frequency. A preview has fewer frequencies: cells that are its length apart are
    one to it, and cells beyond the factors' span are left out. It may also sum neighbouring pairs. Each cell is multiplied by
    `factor_v[v] factor_u[u]`.

    Parameters
    ----------
    grid
        (v, u, row pair), C-contiguous, odd sides, zero frequency in the middle.
    period
        Cells, even.
    first
        Row of the FFT's input that the first row of `out` is.
    factor_v, factor_u
        (span,), in the order of an FFT; span is even and at most the period.
    out
        (row, length, row pair), C-contiguous; length is even and divides the span. With fewer pairs than the grid has, each is
        the sum of as many neighbours.
    reach
        Cells from the zero frequency; those farther away are known to be 0 and need not be looked at.

    Raises
    ------
    ValueError
        If the shapes do not fit.
    """
    span = len(factor_v)
    if grid.ndim != 3 or out.ndim != 3 or out.shape[1] < 2 or span % out.shape[1] or out.shape[1] % 2:
        raise ValueError(
            f"grid is {grid.shape}, out {out.shape}, {span} factors; expected (v, u, pair), (row, length, pair) with an even "
            "length that divides the number of factors"
        )
    length = out.shape[1]
    if on_device(out):
        if first or len(out) != length:
            raise ValueError(f"{len(out)} rows from {first} are asked for; expected all {length} on a GPU")
        same = (length, grid.shape[2]) == (span, out.shape[2])
        whole = out if same else beside(out, np.empty((span, span, grid.shape[2]), out.dtype))
        gridding_cuda.fold_grid(grid, period, span, factor_v, factor_u, whole)
        if not same:
            parts = whole.reshape(span // length, length, span // length, length, out.shape[2], -1)
            out[:] = parts.sum(axis=(0, 2, 5))
        return
    side = grid.shape[0]
    if grid.shape[1] != side or side % 2 == 0 or period % 2 or span % 2:
        raise ValueError(f"grid is {grid.shape}, period {period}; expected odd equal sides, and an even period")
    for name, array in (("grid", grid), ("out", out)):
        if array.dtype != np.complex64 or not array.flags.c_contiguous:
            raise ValueError(f"{name} is {array.dtype}, strides {array.strides}; expected C-contiguous complex64")
    divides = out.shape[2] > 0 and grid.shape[2] % out.shape[2] == 0
    if not divides or factor_u.shape != (span,) or not 0 <= first <= length - len(out):
        raise ValueError(
            f"out is {out.shape}, factors {factor_v.shape}, {factor_u.shape}, first {first}; expected (rows from {first} to at "
            f"most {length}, {length}, a divisor of {grid.shape[2]})"
        )
    if not span <= period <= side <= 2 * period:
        raise ValueError(f"span {span}, period {period}, side {side}: expected in ascending order")
    require_writable("out", out)
    if not out.size:
        return
    plain = bool((factor_v == 1).all() and (factor_u == 1).all())
    if plain and out.shape[1:] == (span, grid.shape[2]):
        slices_numba.copy_cells(grid, period, first, float(min(reach, 2 * side)), out)
    else:
        factors = (np.ascontiguousarray(factor, np.complex64) for factor in (factor_v, factor_u))
        folding_vector.fold_grid(grid, period, first, *factors, out.view(np.float32))


def lay_columns(rows: NDArray[np.complex64], x: NDArray[np.intp], first: int, out: NDArray[np.complex64]) -> None:
    """Transpose rows of pixels into columns: `out[i, first + v] = rows[v, x[i]]`.

    Parameters
    ----------
    rows
        (v, u, row pair), C-contiguous.
    x
        (width,), indices along u.
    first
        Where the first of the rows goes.
    out
        (width, height, row pair), C-contiguous.

    Raises
    ------
    ValueError
        If the shapes do not fit.
    """
    if on_device(out):
        out[:, first : first + len(rows)] = rows[:, x].transpose(1, 0, 2)
        return
    for name, array in (("rows", rows), ("out", out)):
        if array.ndim != 3 or array.dtype != np.complex64 or not array.flags.c_contiguous:
            raise ValueError(f"{name} is {array.dtype} {array.shape}; expected C-contiguous complex64 with three axes")
    if out.shape[0] != len(x) or out.shape[2] != rows.shape[2] or not 0 <= first <= out.shape[1] - len(rows):
        raise ValueError(
            f"rows are {rows.shape}, out {out.shape}, first {first}, {len(x)} columns; they do not fit together as expected"
        )
    _check_indices(x, rows.shape[1], rows.shape)
    require_writable("out", out)
    cell = rows.shape[2] * 8
    if cell % LINE == 0 and out.ctypes.data % LINE == 0:
        target = out.ctypes.data + first * cell
        at = x % rows.shape[1]
        slices_vector.lay_columns(rows.ctypes.data, rows.strides[0], cell, len(rows), at, target, out.shape[1] * cell)
    else:
        slices_numba.lay_columns(rows, x, first, out)


def take_slices(
    values: NDArray[np.float32],
    y: NDArray[np.intp],
    x: NDArray[np.intp],
    factor_y: NDArray[np.float32],
    factor_x: NDArray[np.float32],
    out: NDArray[np.float32],
    radius: float = np.inf,
    first: int = 0,
) -> None:
    """Pick pixels of a block, multiply them, and lay them out slice by slice.

    `out[r, i, first + j] = values[y[i], x[j], r] factor_y[i] factor_x[j]`, and 0 where that pixel is farther from the middle
    of the slice than `radius`.

    Parameters
    ----------
    values
        (y, x, row), with any strides that are not negative; of complex numbers the real parts are taken.
    y, x
        (height,) and (columns,) indices of the pixels wanted.
    factor_y, factor_x
        (height,) and (columns,).
    out
        (slice, height, width), C-contiguous, with at most as many slices as there are rows.
    radius
        Pixels of `out`.
    first
        Column of `out` that the first one goes to; on a GPU all columns are taken at once.

    Raises
    ------
    ValueError
        If the shapes do not fit.
    """
    if on_device(out):
        if first:
            raise ValueError(f"columns from {first} are asked for; expected all of them on a GPU")
        values = values.real if values.dtype == np.complex64 else values
        values = values if values.strides[2] == 4 else values.copy()
        slices_cuda.take_slices(values, y, x, factor_y, factor_x, out, radius)
        return
    height, width = len(y), len(x)
    shapes_fit = factor_y.shape == (height,) and factor_x.shape == (width,) and out.ndim == 3 and out.shape[1] == height
    shapes_fit = shapes_fit and 0 <= first <= out.shape[2] - width
    if values.ndim != 3 or out.ndim != 3 or not shapes_fit or out.shape[0] > values.shape[2]:
        raise ValueError(
            f"values {values.shape}, y {y.shape}, x {x.shape}, out {out.shape} from column {first} do not fit together"
        )
    # Both parts are loaded where they lie side by side.
    apart = 2 if values.dtype == np.complex64 and values.strides[2] == 8 else 1
    values = values.real if values.dtype == np.complex64 else values
    for name, array in (("values", values), ("out", out)):
        if array.dtype != np.float32:
            raise ValueError(f"{name} is {array.dtype}; expected float32, or values of complex64")
    if not out.flags.c_contiguous or min(values.strides) < 0 or not radius >= 0:
        raise ValueError(
            f"out has strides {out.strides}, values {values.strides}, radius is {radius}; expected C-contiguous, none that is "
            "negative, and 0 or more"
        )
    require_writable("out", out)
    if any(stride % 4 for stride in values.strides):
        values, apart = np.ascontiguousarray(values), 1
    _check_indices(y, values.shape[0], values.shape)
    _check_indices(x, values.shape[1], values.shape)
    if not (out.size and width):
        return
    y, x = y % values.shape[0], x % values.shape[1]
    slices = out.shape[0]
    limit = np.float32(min(radius, 1e9))
    neighbours = bool((x[1:] - x[:-1] == 1).all())
    fitting = [side for side in slices_vector.SIDES if side <= min(slices_vector.LONGEST, slices, width)]
    # The vectors take most rows and columns; what does not fill a square is left for the plain loop.
    lanes = fitting[0] if fitting and neighbours and values.strides[2] == 4 * apart else 0
    rows, columns = (slices // lanes * lanes, width // lanes * lanes) if lanes else (0, 0)
    if lanes:
        slices_vector.take_slices(
            values.ctypes.data, values.strides[0], values.strides[1], y, int(x[0]), factor_y, factor_x,
            out.ctypes.data, (*out.shape, rows, columns), first, limit, lanes, apart,
        )  # fmt: skip
    if (rows, columns) == (slices, width):
        return
    steps = tuple(stride // 4 for stride in values.strides)
    rest = (flat(values), steps, y, x, factor_y, factor_x, out, first, limit)
    if columns < width and rows:
        slices_numba.take_slices(*rest, (0, rows), (columns, width))
    if rows < slices:
        slices_numba.take_slices(*rest, (rows, slices), (0, width))


def bin_voxels(
    volume: NDArray[np.float32], binning: int, rows: int, cut: int, factor: float, out: NDArray[np.float32]
) -> None:
    """Add sums of b x b pixels of n rows.

    `out[i, j, k] += factor sum volume[cut + i b : cut + (i + 1) b, cut + j b : cut + (j + 1) b, k n : (k + 1) n]`; rows that
    are left over are left out.

    Parameters
    ----------
    volume
        (y, x, row), C-contiguous.
    binning
        b, pixels.
    rows
        n.
    cut
        First pixel along both axes.
    factor
        Times which each voxel is taken.
    out
        (height, width, slice), C-contiguous.

    Raises
    ------
    ValueError
        If the shapes do not fit.
    """
    binning, rows, cut = int(binning), int(rows), int(cut)
    if on_device(out):
        height, width, slices = out.shape
        bins = volume[cut : cut + height * binning, cut : cut + width * binning, : slices * rows]
        out += np.float32(factor) * bins.reshape(height, binning, width, binning, slices, rows).sum(axis=(1, 3, 5))
        return
    for name, array in (("volume", volume), ("out", out)):
        if array.ndim != 3 or array.dtype != np.float32 or not array.flags.c_contiguous:
            raise ValueError(f"{name} is {array.dtype} {array.shape}; expected C-contiguous float32 with three axes")
    fits = all(cut >= 0 and cut + binning * out.shape[axis] <= volume.shape[axis] for axis in (0, 1))
    if binning < 1 or rows < 1 or not fits or out.shape[2] * rows > volume.shape[2]:
        raise ValueError(
            f"volume {volume.shape}, binning {binning} from {cut} and {rows} of rows, out {out.shape} do not fit as expected"
        )
    require_writable("out", out)
    slices_numba.bin_voxels(volume, binning, rows, cut, np.float32(factor), out)


def _check_indices(indices: NDArray[np.intp], size: int, shape: tuple[int, ...]) -> None:
    if indices.size and not (indices.min() >= -size and indices.max() < size):
        raise ValueError(f"a pixel outside of {shape} is asked for")
