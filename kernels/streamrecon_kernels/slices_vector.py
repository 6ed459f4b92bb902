"""From rows innermost to slices, on the CPU in vector IR: squares of pixels times rows are transposed in registers."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.extending import intrinsic

from streamrecon_kernels.memory import LINE
from streamrecon_kernels.parallel import kernel
from streamrecon_kernels.vector import F32, I32, I64, by_case, host_lanes, load

SIDES = (16, 8, 4)
"""Of the squares that are turned: a vector's lanes."""

BAND = 4
"""Rows of pixels that a thread turns together: they lie side by side in memory in a block that the Fourier method made."""


def square_turner(longest: int) -> Any:
    """Make the intrinsic that transposes squares of pixels times rows, with vectors of at most `longest` floats."""

    @intrinsic
    def turn_square(typing, lanes, apart, pixels, x_bytes, factors, out, slice_bytes, aligned):  # type: ignore[no-untyped-def]
        """out[r, j] = pixels[j, apart r] factors[j] for `lanes` pixels j and rows r, one of SIDES; addresses.

        `apart` is 1 or 2; of two neighbours both are loaded.
        `aligned` is whether each line of `out` starts where a vector may.
        """
        integer, address = types.intp, types.uintp
        signature = types.void(integer, integer, address, integer, address, address, integer, types.boolean)

        def codegen(context, b, _signature, arguments):  # type: ignore[no-untyped-def]
            lanes, apart, *rest = arguments
            sides = (side for side in SIDES if side <= longest)
            cases = itertools.product(sides, (1, 2))
            by_case(b, (lanes, apart), cases, lambda side, each: _turn(b, side, each, *rest))
            return context.get_dummy_value()

        return signature, codegen

    return turn_square


def _turn(
    b: Any, lanes: int, apart: int, pixels: Any, x_bytes: Any, factors: Any, out: Any, slice_bytes: Any, aligned: Any
) -> None:
    square = [_every(b, b.add(pixels, b.mul(x_bytes, I64(j))), lanes, apart) for j in range(lanes)]
    factor = load(b, factors, 0, lanes)
    zero = ir.Constant(ir.VectorType(F32, lanes), [0.0] * lanes)
    # Not by multiplying: what is outside of the circle may be infinite.
    outside = b.fcmp_ordered("==", factor, zero)
    lines = [b.select(outside, zero, b.fmul(line, factor)) for line in _transposed(b, square)]
    pointer = ir.VectorType(F32, lanes).as_pointer()
    # Past the caches, where the machine can: what is written here is not read again soon.
    streaming = b.module.add_metadata([I32(1)])
    with b.if_else(aligned) as (can, cannot):
        for place, alignment in ((can, 4 * lanes), (cannot, 4)):
            with place:
                for r, line in enumerate(lines):
                    stored = b.store(line, b.inttoptr(b.add(out, b.mul(slice_bytes, I64(r))), pointer))
                    stored.align = alignment
                    if alignment > 4:
                        stored.set_metadata("nontemporal", streaming)


def _every(b: Any, address: Any, lanes: int, apart: int) -> Any:
    """A vector of floats, or of every second one."""
    if apart == 1:
        return load(b, address, 0, lanes)
    evens = ir.Constant(ir.VectorType(I32, lanes), [2 * lane for lane in range(lanes)])
    return b.shuffle_vector(load(b, address, 0, lanes), load(b, address, 1, lanes), evens)


def _transposed(b: Any, square: list[Any]) -> list[Any]:
    """The transpose of a square: its upper and lower half are interleaved, once for every power of two."""
    lanes = len(square)
    half = lanes // 2
    indices = ir.VectorType(I32, lanes)
    low = ir.Constant(indices, [k // 2 + k % 2 * lanes for k in range(lanes)])
    high = ir.Constant(indices, [half + k // 2 + k % 2 * lanes for k in range(lanes)])
    for _ in range(lanes.bit_length() - 1):
        pairs = list(zip(square[:half], square[half:], strict=True))
        square = [b.shuffle_vector(one, other, end) for one, other in pairs for end in (low, high)]
    return square


LONGEST = host_lanes()
turn_square = square_turner(LONGEST)


@intrinsic
def stream_line(typing, target, source):  # type: ignore[no-untyped-def]
    """Copy a cache line past the caches, where the machine can; addresses, of which the target starts a line."""

    def codegen(context, b, _signature, arguments):  # type: ignore[no-untyped-def]
        pointer = ir.VectorType(F32, LINE // 4).as_pointer()
        stored = b.store(load(b, arguments[1], 0, LINE // 4), b.inttoptr(arguments[0], pointer))
        stored.align = LINE
        stored.set_metadata("nontemporal", b.module.add_metadata([I32(1)]))
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp), codegen


@kernel()
def lay_columns(rows, v_bytes, u_bytes, count, x, out, column_bytes):  # type: ignore[no-untyped-def]
    """See `streamrecon_kernels.slices.lay_columns`, for cells that are whole lines: addresses, and strides in bytes."""
    for i in prange(x.size):
        for v in range(count):
            source = rows + v * v_bytes + x[i] * u_bytes
            target = out + i * column_bytes + v * u_bytes
            for at in range(0, u_bytes, LINE):
                stream_line(np.uintp(target + at), np.uintp(source + at))  # type: ignore[call-arg]


@kernel()
def take_slices(  # type: ignore[no-untyped-def]
    values, y_bytes, x_bytes, y, x_first, factor_y, factor_x, out, shape, place, radius, lanes, apart
):
    """Slices of a block whose rows lie side by side; pixels from x_first on; a multiple of `lanes` rows and columns.

    `values` and `out` are addresses, `shape` that of `out` and how many rows and columns are written, from column `place`.
    """
    _, height, width, rows, columns = shape
    aligned = width % lanes == 0 and (out + 4 * place) % (4 * lanes) == 0
    for band in prange((height + BAND - 1) // BAND):
        first, end = band * BAND, min(band * BAND + BAND, height)
        factors = np.empty((BAND, columns), np.float32)
        for i in range(first, end):
            dy = np.float32(i) - np.float32((height - 1) / 2)
            for j in range(columns):
                dx = np.float32(place + j) - np.float32((width - 1) / 2)
                inside = dx * dx + dy * dy <= radius * radius
                factors[i - first, j] = factor_y[i] * factor_x[j] if inside else np.float32(0)
        for i in range(first, end):
            for r in range(0, rows, lanes):
                for j in range(0, columns, lanes):
                    turn_square(
                        lanes, apart, np.uintp(values + y[i] * y_bytes + (x_first + j) * x_bytes + r * 4 * apart), x_bytes,
                        np.uintp(factors.ctypes.data + ((i - first) * columns + j) * 4),
                        np.uintp(out + ((r * height + i) * width + place + j) * 4), height * width * 4, aligned,
                    )  # fmt: skip
