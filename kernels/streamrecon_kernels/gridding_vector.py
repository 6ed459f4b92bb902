"""Gridding on the CPU in vector IR: a tap is one contiguous vector of row pairs, a window of taps one piece of code."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numba import prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from streamrecon_kernels.memory import LINE
from streamrecon_kernels.parallel import kernel
from streamrecon_kernels.vector import (
    EVEN_GROUPS,
    FLAGS,
    I64,
    by_case,
    host_lanes,
    load,
    load_scalar,
    multiply_add,
    multiply_complex,
    prefetch,
    splat,
    store,
)

UNROLLED = (5, 6)
"""Columns of a window that the default kernel has, of one sample and of two; these are unrolled."""

AHEAD = 8
"""Groups of samples between a cell's being asked for and its being added to: about what memory takes to answer."""


def window_adder(longest: int) -> Any:
    """Make the intrinsic that adds one or two samples to a window of cells, with vectors of at most `longest` floats."""

    @intrinsic
    def add_window(  # type: ignore[no-untyped-def]
        typing,
        floats,
        samples,
        cells,
        row_bytes,
        cell_bytes,
        rows,
        taps,
        first,
        factor,
        second,
        other,
        wu,
        wv,
        next_weights,
    ):
        """cells[i, j, :floats] += wu[j] (wv[i] factor first[:floats]), for `rows` times `taps` cells.

        Where `samples` is 2, then also += wu'[j] (wv'[i] other second[:floats]); its weights lie `next_weights` bytes
        further. `floats` is one of EVEN_GROUPS; `cells`, `first`, `second`, `wu`, `wv` are addresses, the factors complex64.
        """
        address, integer, factors = types.uintp, types.intp, types.complex64
        signature = types.void(
            integer, integer, address, *(integer,) * 4, address, factors, address, factors, address, address, integer
        )

        def codegen(context, b, _signature, arguments):  # type: ignore[no-untyped-def]
            floats, samples, *rest = arguments

            def emit(group: int, count: int) -> None:
                _add(b, group, count, min(longest, group), *rest)

            by_case(b, (floats, samples), itertools.product(EVEN_GROUPS, (1, 2)), emit)
            return context.get_dummy_value()

        return signature, codegen

    return add_window


def _add(
    b: Any, floats: int, samples: int, lanes: int, cells: Any, row_bytes: Any, cell_bytes: Any, rows: Any, taps: Any,
    first: Any, factor: Any, second: Any, other: Any, wu: Any, wv: Any, next_weights: Any,
) -> None:  # fmt: skip
    values = [multiply_complex(b, first, factor, floats, lanes)]
    tables = [(wu, wv)]
    if samples == 2:
        values.append(multiply_complex(b, second, other, floats, lanes))
        tables.append((b.add(wu, next_weights), b.add(wv, next_weights)))

    def weigh(row: Any) -> tuple[Any, list[list[Any]]]:
        line = b.add(cells, b.mul(row, row_bytes))
        weights = [splat(b, load_scalar(b, column, row), lanes) for _, column in tables]
        return line, [[b.fmul(w, v, flags=FLAGS) for v in value] for w, value in zip(weights, values, strict=True)]

    def column_weights(j: Any) -> list[Any]:
        return [splat(b, load_scalar(b, line, j), lanes) for line, _ in tables]

    def add_tap(line: Any, weighted: list[list[Any]], weights: list[Any], j: Any) -> None:
        cell = b.add(line, b.mul(j, cell_bytes))
        for k in range(floats // lanes):
            total = load(b, cell, k, lanes)
            for weight, value in zip(weights, weighted, strict=True):
                total = multiply_add(b, weight, value[k], total)
            store(b, total, cell, k, lanes)

    def unrolled(left: tuple[int, ...]) -> None:
        if not left:
            with cgutils.for_range(b, rows) as loop:
                line, weighted = weigh(loop.index)
                with cgutils.for_range(b, taps) as inner:
                    add_tap(line, weighted, column_weights(inner.index), inner.index)
            return
        with b.if_else(b.icmp_signed("==", taps, I64(left[0]))) as (usual, otherwise):
            with usual:
                weights = [column_weights(I64(j)) for j in range(left[0])]
                with cgutils.for_range(b, rows) as loop:
                    line, weighted = weigh(loop.index)
                    for j, each in enumerate(weights):
                        add_tap(line, weighted, each, I64(j))
            with otherwise:
                unrolled(left[1:])

    unrolled(UNROLLED)


add_window = window_adder(host_lanes())


@kernel(fastmath=set(FLAGS))
def grid_spokes(  # type: ignore[no-untyped-def]
    grid, row_bytes, cell_bytes, spectra, angle_bytes, k_bytes, n, factor, first_u, first_v, end_u, end_v, weight_u,
    weight_v, tiles, ranges, parts,
):  # fmt: skip
    """See `streamrecon_kernels.gridding.grid_spokes`; addresses, and strides in bytes; the tiles of each part."""
    angles, groups, together, window = weight_u.shape
    floats = cell_bytes // 4
    for part in prange(parts.size - 1):
        for t in range(parts[part], parts[part + 1]):
            top, bottom, left, right = tiles[t, 0], tiles[t, 1], tiles[t, 2], tiles[t, 3]
            for a in range(angles):
                stop = (ranges[t, a, 1] + together - 1) // together
                rightwards = first_u[a, groups - 1] >= first_u[a, 0]
                downwards = first_v[a, groups - 1] >= first_v[a, 0]
                for g in range(ranges[t, a, 0] // together, stop):
                    if g + AHEAD < stop:
                        # The row and the column of cells that the window moves on to. Others it has had before.
                        v, last_v = first_v[a, g + AHEAD], end_v[a, g + AHEAD]
                        u, last_u = first_u[a, g + AHEAD], end_u[a, g + AHEAD]
                        row = grid + (last_v - 1 if downwards else v) * row_bytes
                        for at in range(u * cell_bytes, last_u * cell_bytes, LINE):
                            prefetch(np.uintp(row + at))  # type: ignore[call-arg]
                        column = grid + (last_u - 1 if rightwards else u) * cell_bytes
                        for cell in range(v, last_v):
                            for at in range(0, cell_bytes, LINE):
                                prefetch(np.uintp(column + cell * row_bytes + at))  # type: ignore[call-arg]
                    v, u = first_v[a, g], first_u[a, g]
                    low, high = max(v, top), min(end_v[a, g], bottom)
                    begin, end = max(u, left), min(end_u[a, g], right)
                    if low >= high or begin >= end:
                        continue
                    # Sample k is frequency k - n / 2, which the FFT has left at that index modulo n. The last group may
                    # lack its second sample: its weights are 0.
                    k = g * together
                    after = min(k + 1, n)
                    here = k - n // 2 if k >= n // 2 else k + n - n // 2
                    there = after - n // 2 if after >= n // 2 else after + n - n // 2
                    cells = grid + low * row_bytes + begin * cell_bytes
                    spectrum = spectra + a * angle_bytes
                    at = (a * groups + g) * together * window
                    wu = weight_u.ctypes.data + (at + begin - u) * 4
                    wv = weight_v.ctypes.data + (at + low - v) * 4
                    done = 0
                    for group in EVEN_GROUPS:
                        while floats - done >= group:
                            add_window(
                                group, together, np.uintp(cells + done * 4), row_bytes, cell_bytes, high - low, end - begin,
                                np.uintp(spectrum + here * k_bytes + done * 4), factor[a, k],
                                np.uintp(spectrum + there * k_bytes + done * 4), factor[a, after],
                                np.uintp(wu), np.uintp(wv), window * 4,
                            )  # fmt: skip
                            done += group
