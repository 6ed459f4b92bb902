"""Direct backprojection on the CPU in vector IR: the sums of two pixels, some rows each, stay in registers over all angles."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from streamrecon_kernels.parallel import kernel
from streamrecon_kernels.vector import (
    F32,
    FLAGS,
    GROUPS,
    I32,
    I64,
    by_case,
    host_lanes,
    load,
    load_scalar,
    multiply_add,
    splat,
    store,
)

TILE = 32
"""Side of a tile, pixels: what its pixels see of a batch of rows stays in the second-level cache."""


def pixel_adder(longest: int) -> Any:
    """Make the intrinsic that adds all angles to one or two pixels, with vectors of at most `longest` floats."""

    @intrinsic
    def add_pixels(typing, rows, pixels, volume, x_bytes, filtered, angles, angle_bytes, column_bytes, cos, base, x):  # type: ignore[no-untyped-def]
        """volume[:rows] += sum_a of filtered[a] at x cos[a] + base[a], for x and, if pixels is 2, x + 1.

        `rows` is one of GROUPS; `volume`, `filtered`, `cos`, `base` are addresses.
        """
        integers = (types.intp,) * 2 + (types.uintp, types.intp, types.uintp, types.intp, types.intp, types.intp)
        signature = types.void(*integers, types.uintp, types.uintp, types.float32)

        def codegen(_context, b, _signature, arguments):  # type: ignore[no-untyped-def]
            rows, pixels, *rest = arguments

            def emit(group: int, count: int) -> None:
                _add(b, group, count, min(longest, group), *rest)

            by_case(b, (rows, pixels), itertools.product(GROUPS, (1, 2)), emit)
            return _context.get_dummy_value()

        return signature, codegen

    return add_pixels


def _add(
    b: Any, rows: int, pixels: int, lanes: int, volume: Any, x_bytes: Any, filtered: Any, angles: Any, angle_bytes: Any,
    column_bytes: Any, cos: Any, base: Any, x: Any,
) -> None:  # fmt: skip
    vectors = rows // lanes
    places = [b.add(volume, b.mul(x_bytes, I64(p))) for p in range(pixels)]
    xs = [b.fadd(x, F32(p), flags=FLAGS) for p in range(pixels)]
    sums = [[cgutils.alloca_once(b, ir.VectorType(F32, lanes)) for _ in range(vectors)] for _ in range(pixels)]
    for place, registers in zip(places, sums, strict=True):
        for k, register in enumerate(registers):
            b.store(load(b, place, k, lanes), register)
    with cgutils.for_range(b, angles) as loop:
        step, start = load_scalar(b, cos, loop.index), load_scalar(b, base, loop.index)
        row = b.add(filtered, b.mul(loop.index, angle_bytes))
        for pixel, registers in zip(xs, sums, strict=True):
            u = multiply_add(b, pixel, step, start)
            column = b.fptosi(u, I32)
            right = b.fsub(u, b.sitofp(column, F32), flags=FLAGS)
            left = b.fsub(F32(1.0), right, flags=FLAGS)
            here = b.add(row, b.mul(b.sext(column, I64), column_bytes))
            there = b.add(here, column_bytes)
            left, right = splat(b, left, lanes), splat(b, right, lanes)
            for k, register in enumerate(registers):
                total = multiply_add(b, left, load(b, here, k, lanes), b.load(register))
                b.store(multiply_add(b, right, load(b, there, k, lanes), total), register)
    for place, registers in zip(places, sums, strict=True):
        for k, register in enumerate(registers):
            store(b, b.load(register), place, k, lanes)


add_pixels = pixel_adder(host_lanes())


@kernel(fastmath=set(FLAGS))
def backproject(  # type: ignore[no-untyped-def]
    volume, strides, shape, filtered, angle_bytes, column_bytes, cos, sin, offset, radius, parts
):
    """See `streamrecon_kernels.backproject.backproject`; addresses and strides in bytes, (y, x) of the volume."""
    height, width, rows = shape
    y_bytes, x_bytes = strides
    angles = cos.size
    middle_x, middle_y = np.float32((width - 1) / 2), np.float32((height - 1) / 2)
    across = (width + TILE - 1) // TILE
    tiles = across * ((height + TILE - 1) // TILE)
    for part in prange(parts):
        base = np.empty(angles, np.float32)
        # Every part takes tiles from the whole slice: those at its rim hold less of the circle.
        for tile in range(part, tiles, parts):
            top, left = tile // across * TILE, tile % across * TILE
            for y in range(top, min(top + TILE, height)):
                dy = np.float32(y) - middle_y
                if abs(dy) > radius:
                    continue
                chord = np.sqrt(max(radius * radius - dy * dy, np.float32(0)))
                first = max(left, int(np.ceil(middle_x - chord)))
                end = min(left + TILE, width, int(np.floor(middle_x + chord)) + 1)
                for a in range(angles):
                    base[a] = dy * sin[a] + offset[a]
                row = 0
                for group in GROUPS:
                    while rows - row >= group:
                        for x in range(first, end, 2):
                            add_pixels(
                                group, min(2, end - x),
                                np.uintp(volume + y * y_bytes + x * x_bytes + row * 4), x_bytes,
                                np.uintp(filtered + row * 4), angles, angle_bytes, column_bytes,
                                np.uintp(cos.ctypes.data), np.uintp(base.ctypes.data), np.float32(x) - middle_x,
                            )  # fmt: skip
                        row += group
