"""Line integrals on the CPU: one pass, with a logarithm that LLVM can vectorise."""

from __future__ import annotations

import math

import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.extending import intrinsic

from streamrecon_kernels.parallel import kernel

CHUNK = 1 << 13
"""Pixels that a thread takes at once."""

LARGEST = np.float32(3.4028235e38)


@intrinsic
def log(typing, x):  # type: ignore[no-untyped-def]
    """Natural logarithm of a finite normal float32 > 0, to 2 units in the last place; without branches or calls.

    x = 2^e m with m in [sqrt(1/2), sqrt(2)); log(m) = 2 atanh(s), s = (m - 1) / (m + 1), |s| < 0.172, by its series to s^9.
    """

    def codegen(_context, b, _signature, arguments):  # type: ignore[no-untyped-def]
        f32, i32 = ir.FloatType(), ir.IntType(32)
        least = i32(int(np.float32(math.sqrt(0.5)).view(np.int32)))
        bits = b.sub(b.bitcast(arguments[0], i32), least)
        exponent = b.sitofp(b.ashr(bits, i32(23)), f32)
        m = b.bitcast(b.add(b.and_(bits, i32(0x7FFFFF)), least), f32)
        s = b.fdiv(b.fsub(m, f32(1)), b.fadd(m, f32(1)))
        z = b.fmul(s, s)
        series = f32(2 / 9)
        for term in (2 / 7, 2 / 5, 2 / 3, 2):
            series = b.fadd(b.fmul(series, z, flags=("contract",)), f32(term), flags=("contract",))
        scaled = b.fmul(exponent, f32(math.log(2)))
        return b.fadd(b.fmul(series, s, flags=("contract",)), scaled, flags=("contract",))

    return types.float32(types.float32), codegen


@kernel()
def line_integrals(raw, dark, term, floor, out):  # type: ignore[no-untyped-def]
    """See `streamrecon_kernels.normalize.line_integrals`; images as one line."""
    angles, pixels = raw.shape
    chunks = (pixels + CHUNK - 1) // CHUNK
    for i in prange(angles * chunks):
        a, first = i // chunks, i % chunks * CHUNK
        end = min(first + CHUNK, pixels)
        t = a if term.shape[0] > 1 else 0
        # As arrays of their own, of one length: LLVM can then vectorise the loop.
        counts, darks, terms, target = raw[a, first:end], dark[first:end], term[t, first:end], out[a, first:end]
        for p in range(end - first):
            signal = np.float32(counts[p]) - darks[p]
            signal = signal if signal > floor else floor
            value = log(signal)  # type: ignore[call-arg,var-annotated]
            target[p] = terms[p] - (value if signal <= LARGEST else np.float32(np.inf))
