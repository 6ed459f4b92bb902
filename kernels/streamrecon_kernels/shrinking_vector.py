"""Rows made shorter, on the CPU in vector IR: a sample's sums, of some rows each, stay in registers over all columns."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from streamrecon_kernels.parallel import kernel
from streamrecon_kernels.vector import (
    EVEN_GROUPS,
    F32,
    FLAGS,
    by_case,
    host_lanes,
    load,
    load_scalar,
    multiply_add,
    splat,
    store,
)


def column_summer(longest: int) -> Any:
    """Make the intrinsic that sums columns, with vectors of at most `longest` floats."""

    @intrinsic
    def sum_columns(typing, floats, out, columns, column_bytes, weights, count):  # type: ignore[no-untyped-def]
        """out[:floats] += sum of weights[c] columns[c, :floats], c < count; addresses; `floats` is one of EVEN_GROUPS."""
        integer, address = types.intp, types.uintp
        signature = types.void(integer, address, address, integer, address, integer)

        def codegen(context, b, _signature, arguments):  # type: ignore[no-untyped-def]
            floats, *rest = arguments
            cases = ((group,) for group in EVEN_GROUPS)
            by_case(b, (floats,), cases, lambda group: _sum(b, group, min(longest, group), *rest))
            return context.get_dummy_value()

        return signature, codegen

    return sum_columns


def _sum(b: Any, floats: int, lanes: int, out: Any, columns: Any, column_bytes: Any, weights: Any, count: Any) -> None:
    vectors = range(floats // lanes)
    sums = [cgutils.alloca_once(b, ir.VectorType(F32, lanes)) for _ in vectors]
    for k in vectors:
        b.store(load(b, out, k, lanes), sums[k])
    with cgutils.for_range(b, count) as loop:
        weight = splat(b, load_scalar(b, weights, loop.index), lanes)
        column = b.add(columns, b.mul(loop.index, column_bytes))
        for k in vectors:
            b.store(multiply_add(b, weight, load(b, column, k, lanes), b.load(sums[k])), sums[k])
    for k in vectors:
        store(b, b.load(sums[k]), out, k, lanes)


sum_columns = column_summer(host_lanes())


@kernel(fastmath=set(FLAGS))
def shrink_rows(rows, angle_bytes, column_bytes, matrix, ranges, out):  # type: ignore[no-untyped-def]
    """See `streamrecon_kernels.shrinking.shrink_rows`; `rows` is an address, `out` (angle, sample, row) real."""
    angles, samples, floats = out.shape
    columns = matrix.shape[1]
    for a in prange(angles):
        source = rows + a * angle_bytes
        for s in range(samples):
            out[a, s] = 0
            weights = matrix.ctypes.data + s * columns * 4
            # The edges, which rows are extended by, and the columns between.
            for first, end in ((0, 1), (max(1, columns - 1), columns), (ranges[s, 0], ranges[s, 1])):
                done = 0
                for group in EVEN_GROUPS:
                    while floats - done >= group:
                        sum_columns(
                            group, np.uintp(out.ctypes.data + ((a * samples + s) * floats + done) * 4),
                            np.uintp(source + first * column_bytes + done * 4), column_bytes,
                            np.uintp(weights + first * 4), end - first,
                        )  # fmt: skip
                        done += group
