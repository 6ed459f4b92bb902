"""Previews' spectra on the CPU in vector IR: frequencies of a grid that are one to a smaller image are summed."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from streamrecon_kernels.parallel import kernel
from streamrecon_kernels.vector import EVEN_GROUPS, FLAGS, I64, by_case, host_lanes, load, multiply_complex, store


def cell_folder(longest: int) -> Any:
    """Make the intrinsic that adds cells to cells, with vectors of at most `longest` floats."""

    @intrinsic
    def fold_cells(typing, floats, sums, cells, cell_bytes, factors, count):  # type: ignore[no-untyped-def]
        """sums[c, :floats] += factors[c] cells[c, :floats], c < count; addresses; `floats` is one of EVEN_GROUPS."""
        integer, address = types.intp, types.uintp
        signature = types.void(integer, address, address, integer, address, integer)

        def codegen(context, b, _signature, arguments):  # type: ignore[no-untyped-def]
            floats, *rest = arguments
            cases = ((group,) for group in EVEN_GROUPS)
            by_case(b, (floats,), cases, lambda group: _fold(b, group, min(longest, group), *rest))
            return context.get_dummy_value()

        return signature, codegen

    return fold_cells


def _fold(b: Any, floats: int, lanes: int, sums: Any, cells: Any, cell_bytes: Any, factors: Any, count: Any) -> None:
    pair = ir.LiteralStructType([ir.FloatType()] * 2).as_pointer()
    with cgutils.for_range(b, count) as loop:
        factor = b.load(b.inttoptr(b.add(factors, b.mul(loop.index, I64(8))), pair))
        offset = b.mul(loop.index, cell_bytes)
        target = b.add(sums, offset)
        for k, product in enumerate(multiply_complex(b, b.add(cells, offset), factor, floats, lanes)):
            store(b, b.fadd(load(b, target, k, lanes), product, flags=FLAGS), target, k, lanes)


fold_cells = cell_folder(host_lanes())


@kernel(fastmath=set(FLAGS))
def fold_grid(grid, period, first, factor_v, factor_u, out):  # type: ignore[no-untyped-def]
    """See `streamrecon_kernels.slices.fold_grid`; `out` (row, length, float) real."""
    side, pairs, span = grid.shape[0], grid.shape[2], factor_v.size
    count, length, bins = out.shape
    bins //= 2
    each, cell_bytes = pairs // bins, pairs * 8
    half, middle = span // 2, (side - 1) // 2
    # Frequencies whose factor is 0 are not looked at.
    wide = 0
    for at in range(span):
        if factor_u[at] != 0:
            wide = max(wide, at + 1 if at < half else span - at)
    for i in prange(count):
        sums = np.zeros((length, 2 * pairs), np.float32)
        factors = np.empty(span, np.complex64)
        for index in range(first + i, span, length):
            if factor_v[index] == 0:
                continue
            v = index - span if index >= half else index
            for at in range(span):
                factors[at] = factor_v[index] * factor_u[at]
            for turn_v in range(-1, 2):
                row = v + turn_v * period + middle
                if row < 0 or row >= side:
                    continue
                for turn_u in range(-1, 2):
                    # Frequencies u, in runs that are neighbours in the sums: from a multiple of their length to the next.
                    u = max(-half, -wide, -middle - turn_u * period)
                    last = min(half, wide, middle + 1 - turn_u * period)
                    while u < last:
                        at = u + span if u < 0 else u
                        run = min(last - u, length - at % length)
                        sum_, cell = at % length * 2 * pairs, (row * side + u + turn_u * period + middle) * 2 * pairs
                        done = 0
                        for group in EVEN_GROUPS:
                            while 2 * pairs - done >= group:
                                fold_cells(
                                    group, np.uintp(sums.ctypes.data + (sum_ + done) * 4),
                                    np.uintp(grid.ctypes.data + (cell + done) * 4), cell_bytes,
                                    np.uintp(factors.ctypes.data + at * 8), run,
                                )  # fmt: skip
                                done += group
                        u += run
        target = out[i]
        for at in range(length):
            for bin_ in range(bins):
                real, imag = np.float32(0), np.float32(0)
                for p in range(bin_ * each, (bin_ + 1) * each):
                    real += sums[at, 2 * p]
                    imag += sums[at, 2 * p + 1]
                target[at, 2 * bin_], target[at, 2 * bin_ + 1] = real, imag
