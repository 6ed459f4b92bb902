"""The emulation finds what it is there to find, in kernels that are wrong on purpose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cuda_emulator
import numpy as np
import pytest
from cuda_emulator import EmulatingLauncher, EmulationError
from cuda_target import EmulatedTarget

Run = Callable[..., np.ndarray]

REVERSED = """
extern "C" __global__ void __launch_bounds__(64) wanted(const float* in, float* out) {
    __shared__ float values[64];
    values[threadIdx.x] = in[threadIdx.x];
    BARRIER
    out[threadIdx.x] = values[63 - threadIdx.x];
}
"""


@pytest.fixture(params=["system", "zig"])
def run(request: pytest.FixtureRequest, emulated: EmulatedTarget, tmp_path: Path) -> Run:
    """Run the kernel `wanted` of a text on one block, and return what it leaves in its last array."""
    command = cuda_emulator.compiler() if request.param == "system" else cuda_emulator.zig()
    launcher = EmulatingLauncher(emulated.launcher.folder, command)

    def run(
        text: str, *arguments: Any, threads: Sequence[int] = (64, 1, 1), macros: dict[str, Any] | None = None
    ) -> Any:
        (tmp_path / "text.cu").write_text(text)
        launcher.launch(str(tmp_path / "text.cu"), "wanted", macros or {}, (1, 1, 1), tuple(threads), arguments)
        return arguments[-1]

    return run


def floats(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.float32)


def kernel(body: str, parameters: str = "float* out") -> str:
    return f'extern "C" __global__ void wanted({parameters}) {{\n    const int i = threadIdx.x;\n{body}\n}}\n'


def test_a_barrier_orders_what_threads_do(run: Run) -> None:
    out = run(REVERSED, floats(64), np.zeros(64, np.float32), macros={"BARRIER": "__syncthreads();"})
    np.testing.assert_array_equal(out, floats(64)[::-1])


def test_a_missing_barrier_is_a_race(run: Run) -> None:
    with pytest.raises(EmulationError, match="different bits"):
        run(REVERSED, floats(64), np.zeros(64, np.float32), macros={"BARRIER": ""})


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("if (i == 3) return; __syncthreads();", "not all of its threads reach"),
        ("if (i < 32) { __syncthreads(); }", "not all of its threads reach"),
        ("if (i < 32) { __syncthreads();\n } else { __syncthreads();\n }", "different barriers"),
        ("if (i != 40) out[i] = __ballot_sync(0xffffffffu, true);", "not all of its threads reach"),
        ("if (i < 32) __ballot_sync(i < 16 ? 0xffff0000u : 0x0000ffffu, true);", "not in its own mask"),
        ("__trap();", "trap"),
        ("__shared__ float a[64]; *(&a[0] + 64 + i) = 1;", "outside of its arrays"),
        ("__shared__ float a[64]; a[i + 1] = 1; out[i] = a[i + 1];", "undefined behaviour"),
        ("__shared__ float a[64 * 193]; a[i] = 1;", "48 KiB"),
        ("out[i + 1] = 1;", "memory beside|was touched"),
        ("out[i - 1] = 1;", "memory beside|was touched"),
        ("out[0] = out[i + 5000];", "was touched"),
        ("*(float4*)(out + i % 2) = make_float4(1, 2, 3, 4);", "misaligned|alignment"),
        ("out[0] = i;", "different bits"),
        ("out[0] += 1.0f / (i + 1);", "different bits"),
    ],
)
def test_what_is_wrong_is_named(run: Run, body: str, message: str) -> None:
    with pytest.raises(EmulationError, match=message):
        run(kernel(body), floats(64))


def test_shared_memory_starts_as_no_number(run: Run) -> None:
    assert np.isnan(run(kernel("__shared__ float a[64]; out[i] = a[i];"), floats(64))).all()


def test_what_lies_beside_an_array_is_no_number(run: Run) -> None:
    out = run(kernel("out[i] = in[i];", "const float* in, float* out"), floats(61), floats(64))
    np.testing.assert_array_equal(out, [*range(61), np.nan, np.nan, np.nan])


def test_warps_exchange(run: Run) -> None:
    text = kernel(
        """    const unsigned odd = __ballot_sync(0xffffffffu, i & 1);
    const int left = __shfl_sync(0xffffffffu, i, (i + 31) % 32), again = __shfl_sync(0xffffffffu, left, (i + 31) % 32);
    out[i] = odd == 0xaaaaaaaau && __ffs(odd) == 2 ? again : -1;"""
    )
    np.testing.assert_array_equal(
        run(text, floats(64)), [warp + (lane - 2) % 32 for warp in (0, 32) for lane in range(32)]
    )


def test_halves_round_as_numpy_rounds_them(run: Run) -> None:
    every = np.arange(2**16, dtype=np.uint16)
    between = every.view(np.float16)[: 2**15 - 1024].astype(np.float32)
    numbers = np.concatenate(
        [between, (between[1:] + between[:-1]) / 2, np.nextafter(between, np.float32(0)), -between]
    )
    numbers = np.concatenate([numbers, np.float32([65519.9, 65520, 1e9, 1e-8, 2**-25, 2**-24, np.inf, -0.0])])
    text = '#include "half.cuh"\n' + kernel(
        "    for (int k = i; k < count; k += 64) { out[k] = float_to_half(in[k]); wide[k] = half_to_float(out[k]); }",
        "const float* in, int count, float* wide, unsigned short* out",
    )
    wide = np.zeros(len(numbers), np.float32)
    out = run(text, numbers, np.int32(len(numbers)), wide, np.zeros(len(numbers), np.uint16))
    with np.errstate(over="ignore"):
        expected = numbers.astype(np.float16)
    np.testing.assert_array_equal(out, expected.view(np.uint16))
    np.testing.assert_array_equal(wide, expected.astype(np.float32))


@pytest.mark.parametrize(
    "arguments",
    [(np.int64(1), floats(64)), (np.float32(1), floats(64)), (floats(64),), (floats(64), floats(64))],
)
def test_arguments_of_another_type_are_refused(run: Run, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(EmulationError, match="arguments for 2 parameters"):
        run(kernel("out[i] = count;", "int count, float* out"), *arguments)


def test_python_numbers_are_refused(run: Run) -> None:
    with pytest.raises(TypeError, match="expected an array"):
        run(kernel("out[i] = count;", "int count, float* out"), 3, floats(64))


def test_a_text_that_does_not_compile_says_so(run: Run) -> None:
    with pytest.raises(EmulationError, match=r"text\.cu:3"):
        run(kernel("nothing of the kind;"), floats(64))
