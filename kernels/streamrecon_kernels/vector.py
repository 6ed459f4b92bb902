"""The CPU's vectors: their length, and the pieces of vector IR that the kernels are written with.

LLVM does not vectorise these kernels by itself: their inner loop is over rows, whose number it does not know, and it
cannot tell that a pixel's sum may stay in registers. So the inner loop is given to it as vector IR.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import config, types
from numba.extending import intrinsic

FLAGS = ("nnan", "ninf", "nsz", "contract", "arcp")
"""Fast arithmetic, without reassoc: sums keep their order, so that bits depend neither on batches nor on threads."""

GROUPS = (32, 16, 8, 4, 2, 1)
"""Rows that are handled together; any number of rows is made up of these."""

EVEN_GROUPS = tuple(group for group in GROUPS if group > 1)
"""Floats that are handled together: whole row pairs."""


def host_lanes() -> int:
    """float32 in a vector register: 16 with AVX-512, 8 with AVX, else 4 (SSE, NEON)."""
    given = getattr(config, "CPU_FEATURES", None)
    if given is None:
        features = {name for name, there in llvmlite.binding.get_host_cpu_features().items() if there}
    else:
        features = {name[1:] for name in given.split(",") if name.startswith("+")}
    return 16 if "avx512f" in features else 8 if "avx" in features else 4


def by_case(b: Any, values: Sequence[Any], cases: Iterable[tuple[int, ...]], emit: Callable[..., None]) -> None:
    """Emit code for each case, `emit(*case)`, that runs where the values (i64) are those of the case."""
    for case in cases:
        matches = [b.icmp_signed("==", value, I64(wanted)) for value, wanted in zip(values, case, strict=True)]
        with b.if_then(functools.reduce(b.and_, matches)):
            emit(*case)


F32, I8, I32, I64 = ir.FloatType(), ir.IntType(8), ir.IntType(32), ir.IntType(64)


@intrinsic
def prefetch(typing, address):  # type: ignore[no-untyped-def]
    """Have a cache line brought that will soon be written to."""

    def codegen(context, b, _signature, arguments):  # type: ignore[no-untyped-def]
        pointer = I8.as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [pointer, I32, I32, I32])
        fetch = b.module.declare_intrinsic("llvm.prefetch", [pointer], kind)
        b.call(fetch, [b.inttoptr(arguments[0], pointer), I32(1), I32(2), I32(1)])
        return context.get_dummy_value()

    return types.void(types.uintp), codegen


@intrinsic
def float_at(typing, address):  # type: ignore[no-untyped-def]
    """The float at an address."""

    def codegen(context, b, _signature, arguments):  # type: ignore[no-untyped-def]
        return load_scalar(b, arguments[0], I64(0))

    return types.float32(types.uintp), codegen


def splat(b: Any, scalar: Any, lanes: int) -> Any:
    """A vector whose lanes all hold the scalar."""
    vector = ir.VectorType(F32, lanes)
    one = b.insert_element(ir.Constant(vector, ir.Undefined), scalar, I32(0))
    return b.shuffle_vector(one, ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(I32, lanes), [0] * lanes))


def load(b: Any, address: Any, index: int, lanes: int) -> Any:
    """The vector with this index from an address (i64), which need only be aligned to a float."""
    pointer = b.inttoptr(address, ir.VectorType(F32, lanes).as_pointer())
    value = b.load(b.gep(pointer, [I64(index)]))
    value.align = 4
    return value


def store(b: Any, value: Any, address: Any, index: int, lanes: int) -> None:
    """The counterpart of `load`."""
    pointer = b.inttoptr(address, ir.VectorType(F32, lanes).as_pointer())
    b.store(value, b.gep(pointer, [I64(index)])).align = 4


def load_scalar(b: Any, address: Any, index: Any) -> Any:
    """The float with this index (i64) from an address."""
    return b.load(b.gep(b.inttoptr(address, F32.as_pointer()), [index]))


def multiply_add(b: Any, x: Any, y: Any, total: Any) -> Any:
    """x y + total, one instruction where the CPU has it."""
    return b.fadd(b.fmul(x, y, flags=FLAGS), total, flags=FLAGS)


def multiply_complex(b: Any, pairs: Any, factor: Any, floats: int, lanes: int) -> list[Any]:
    """The vectors of row pairs from an address (i64), times a complex64 factor."""
    vector = ir.VectorType(F32, lanes)
    swapped = ir.Constant(ir.VectorType(I32, lanes), [lane ^ 1 for lane in range(lanes)])
    signs = ir.Constant(vector, [-1.0, 1.0] * (lanes // 2))
    real = splat(b, b.extract_value(factor, 0), lanes)
    imag = b.fmul(splat(b, b.extract_value(factor, 1), lanes), signs, flags=FLAGS)
    products = []
    for k in range(floats // lanes):
        value = load(b, pairs, k, lanes)
        turned = b.shuffle_vector(value, ir.Constant(vector, ir.Undefined), swapped)
        products.append(multiply_add(b, value, real, b.fmul(turned, imag, flags=FLAGS)))
    return products
