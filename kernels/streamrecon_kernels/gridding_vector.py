"""Gridding on the CPU in vector IR: a tap is one contiguous vector of row pairs, a window of taps one piece of code."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from streamrecon_kernels.vector import (
    F32,
    FLAGS,
    GROUPS,
    I32,
    I64,
    host_lanes,
    load,
    load_scalar,
    multiply_add,
    splat,
    store,
)

UNROLLED = 5
"""Width of the default kernel, whose windows are unrolled."""

EVEN_GROUPS = tuple(group for group in GROUPS if group > 1)
"""Floats that are handled together: whole row pairs."""


def window_adder(longest: int) -> Any:
    """Make the intrinsic that adds one sample to a window of cells, with vectors of at most `longest` floats."""

    @intrinsic
    def add_window(typing, floats, cells, row_bytes, cell_bytes, rows, taps, sample, real, imag, wu, wv):  # type: ignore[no-untyped-def]
        """cells[i, j, :floats] += wv[i] wu[j] (real + i imag) sample[:floats], for `rows` times `taps` cells.

        `floats` is one of EVEN_GROUPS; `cells`, `sample`, `wu` and `wv` are addresses.
        """
        signature = types.void(
            types.intp,
            types.uintp,
            *(types.intp,) * 4,
            types.uintp,
            types.float32,
            types.float32,
            types.uintp,
            types.uintp,
        )

        def codegen(context, b, _signature, arguments):  # type: ignore[no-untyped-def]
            floats, *rest = arguments
            for group in EVEN_GROUPS:
                with b.if_then(b.icmp_signed("==", floats, I64(group))):
                    _add(b, group, min(longest, group), *rest)
            return context.get_dummy_value()

        return signature, codegen

    return add_window


def _add(
    b: Any, floats: int, lanes: int, cells: Any, row_bytes: Any, cell_bytes: Any, rows: Any, taps: Any, sample: Any,
    real: Any, imag: Any, wu: Any, wv: Any,
) -> None:  # fmt: skip
    vectors = floats // lanes
    vector = ir.VectorType(F32, lanes)
    swapped = ir.Constant(ir.VectorType(I32, lanes), [lane ^ 1 for lane in range(lanes)])
    signs = ir.Constant(vector, [-1.0, 1.0] * (lanes // 2))
    real = splat(b, real, lanes)
    imag = b.fmul(splat(b, imag, lanes), signs, flags=FLAGS)
    values = []
    for k in range(vectors):
        value = load(b, sample, k, lanes)
        other = b.shuffle_vector(value, ir.Constant(vector, ir.Undefined), swapped)
        values.append(multiply_add(b, value, real, b.fmul(other, imag, flags=FLAGS)))

    def add_tap(line: Any, j: Any, row_weight: Any) -> None:
        weight = splat(b, b.fmul(row_weight, load_scalar(b, wu, j), flags=FLAGS), lanes)
        cell = b.add(line, b.mul(j, cell_bytes))
        for k, value in enumerate(values):
            store(b, multiply_add(b, weight, value, load(b, cell, k, lanes)), cell, k, lanes)

    with cgutils.for_range(b, rows) as loop:
        line = b.add(cells, b.mul(loop.index, row_bytes))
        row_weight = load_scalar(b, wv, loop.index)
        with b.if_else(b.icmp_signed("==", taps, I64(UNROLLED))) as (usual, other_widths):
            with usual:
                for j in range(UNROLLED):
                    add_tap(line, I64(j), row_weight)
            with other_widths, cgutils.for_range(b, taps) as inner:
                add_tap(line, inner.index, row_weight)


add_window = window_adder(host_lanes())


@njit(parallel=True, fastmath=set(FLAGS), nogil=True, error_model="numpy", cache=True)
def grid_spokes(  # type: ignore[no-untyped-def]
    grid, row_bytes, cell_bytes, spectra, angle_bytes, k_bytes, n, factor, first_u, first_v, weight_u, weight_v, tiles,
    ranges, parts,
):  # fmt: skip
    """See `streamrecon_kernels.gridding.grid_spokes`; addresses, and strides in bytes; the tiles of each part."""
    angles, count, width = weight_u.shape
    floats = cell_bytes // 4
    for part in prange(parts.size - 1):
        for t in range(parts[part], parts[part + 1]):
            top, bottom, left, right = tiles[t, 0], tiles[t, 1], tiles[t, 2], tiles[t, 3]
            for a in range(angles):
                for k in range(ranges[t, a, 0], ranges[t, a, 1]):
                    v, u = first_v[a, k], first_u[a, k]
                    low, high = max(v, top), min(v + width, bottom)
                    begin, end = max(u, left), min(u + width, right)
                    if low >= high or begin >= end:
                        continue
                    # Sample k is frequency k - n / 2, which the FFT has left at that index modulo n.
                    source = k - n // 2 if k >= n // 2 else k + n - n // 2
                    cells = grid + low * row_bytes + begin * cell_bytes
                    sample = spectra + a * angle_bytes + source * k_bytes
                    wu = weight_u.ctypes.data + ((a * count + k) * width + begin - u) * 4
                    wv = weight_v.ctypes.data + ((a * count + k) * width + low - v) * 4
                    times = factor[a, k]
                    done = 0
                    for group in EVEN_GROUPS:
                        while floats - done >= group:
                            add_window(
                                group, np.uintp(cells + done * 4), row_bytes, cell_bytes, high - low, end - begin,
                                np.uintp(sample + done * 4), times.real, times.imag, np.uintp(wu), np.uintp(wv),
                            )  # fmt: skip
                            done += group
