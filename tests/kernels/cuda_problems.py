"""Problems for the CUDA kernels: arguments drawn at random, and what the reference makes of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from cuda_target import Target
from hypothesis import strategies as st
from streamrecon_kernels import (
    KaiserBessel,
    backproject_cuda,
    gridding_cuda,
    packing_cuda,
    reference,
    slices_cuda,
)


@dataclass
class Problem:
    """A call and its result."""

    function: Callable[..., None]
    arguments: dict[str, Any]
    out: str
    """Which argument is written."""
    expected: np.ndarray
    atol: float

    def check(self, target: Target) -> np.ndarray:
        """Run it, compare it, and return what was written."""
        target.call(self.function, self.arguments)
        written: np.ndarray = self.arguments[self.out]
        np.testing.assert_allclose(written, self.expected, rtol=1e-5, atol=self.atol)
        return written


# Quarters of pixels, and radii that pass a pixel's center just within or just beyond.
RADII = st.one_of(
    st.just(math.inf),
    st.integers(0, 80).map(lambda quarter: quarter / 4),
    st.tuples(st.integers(0, 300), st.sampled_from([1 - 1e-12, 1 + 1e-12])).map(lambda r: math.sqrt(r[0]) / 2 * r[1]),
)


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Return float32."""
    return rng.normal(size=shape).astype(np.float32)


def complex_normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Return complex64."""
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


def unwritten(dtype: Any, *shape: int) -> np.ndarray:
    """Return an array whose values show when they are left, or read."""
    return np.full(shape, np.nan, dtype)


def apart(array: np.ndarray, gap: int) -> np.ndarray:
    """Return the same values with `gap` unused ones after each line of the last axis, and each plane."""
    wide = np.zeros((*array.shape[:-2], array.shape[-2] + gap, array.shape[-1] + gap), array.dtype)
    view = wide[..., : array.shape[-2], : array.shape[-1]]
    view[...] = array
    return view


def counts(rng: np.random.Generator, dtype: str, *shape: int) -> np.ndarray:
    """Return raw values over what their type can hold, some of them not numbers where it can hold that."""
    if dtype[0] in "iu":
        info = np.iinfo(dtype)
        return rng.integers(max(info.min, -(2**20)), min(info.max, 2**20), shape, endpoint=True).astype(dtype)
    raw = (1000 * rng.random(shape)).astype(dtype)
    raw[rng.random(shape) < 0.1] = np.nan
    return raw


def line_integrals(
    rng: np.random.Generator, dtype: str = "u2", angles: int = 3, rows: int = 5, columns: int = 7, terms: bool = False
) -> Problem:
    raw = counts(rng, dtype, angles, rows, columns)
    arguments: dict[str, Any] = {
        "raw": raw, "dark": 10 * normal(rng, rows, columns), "term": normal(rng, angles if terms else 1, rows, columns),
        "floor": 0.5, "out": unwritten("f4", *raw.shape),
    }  # fmt: skip
    expected = reference.line_integrals(raw, arguments["dark"], arguments["term"], 0.5)
    # A count just above its dark is the difference of two rounded numbers.
    return Problem(packing_cuda.line_integrals, arguments, "out", expected, 2e-5)


def pack_rows(
    rng: np.random.Generator, angles: int = 3, rows: int = 5, columns: int = 7, padding: int = 6, missing: int = 1,
    gap: int = 0, half: bool = False,
) -> Problem:  # fmt: skip
    values = apart(normal(rng, angles, rows, columns).astype("f2" if half else "f4"), gap)
    weight, padded, pairs = normal(rng, columns), columns + padding, (rows + 1) // 2 + missing
    arguments = {"rows": values, "weight": weight, "out": unwritten("c8", angles, padded, pairs)}
    expected = reference.pack_rows(values.astype(np.float64), weight, padded, pairs)
    return Problem(packing_cuda.pack_rows, arguments, "out", expected, 1e-6)


def integrate_and_pack(
    rng: np.random.Generator, dtype: str = "u2", angles: int = 3, rows: int = 5, columns: int = 7, padding: int = 6,
    missing: int = 1, gap: int = 0, terms: bool = False,
) -> Problem:  # fmt: skip
    simple = line_integrals(rng, dtype, angles, rows, columns, terms)
    weight, padded, pairs = normal(rng, columns), columns + padding, (rows + 1) // 2 + missing
    arguments = simple.arguments | {
        "raw": apart(simple.arguments["raw"], gap), "weight": weight, "out": unwritten("c8", angles, padded, pairs)
    }  # fmt: skip
    expected = reference.pack_rows(simple.expected, weight, padded, pairs)
    return Problem(packing_cuda.integrate_and_pack, arguments, "out", expected, 5e-5)


def filter_spectra(
    rng: np.random.Generator, angles: int = 3, n: int = 8, pairs: int = 3, times: int = 2, in_place: bool = False
) -> Problem:
    spectra, response = complex_normal(rng, angles, n, pairs), normal(rng, angles, n // 2 + 1)
    expected = reference.filter_spectra(spectra, response, times * n)
    out = spectra if in_place and times == 1 else unwritten("c8", angles, times * n, pairs)
    return Problem(
        packing_cuda.filter_spectra, {"spectra": spectra, "response": response, "out": out}, "out", expected, 1e-5
    )


def backproject(
    rng: np.random.Generator, height: int = 9, width: int = 7, rows: int = 5, angles: int = 4, step: float = 1.0,
    radius: float = math.inf, exact: bool = False, half: bool = False, scale: float = 1.0, texture: bool = False,
) -> Problem:  # fmt: skip
    theta = rng.integers(-8, 8, angles) * math.pi / 4 if exact else rng.uniform(-10, 10, angles)
    cos, sin = (np.float32(step * f(theta)) for f in (np.cos, np.sin))
    # The pixels just fit: what is read beside what they see is not there.
    far = step * min(radius, math.hypot(height - 1, width - 1) / 2) + 0.02
    offset = np.float32(far + rng.uniform(0, 3, angles))
    filtered = normal(rng, angles, math.ceil(2 * far + 3) + 2, rows)
    volume = normal(rng, height, width, rows)
    geometry = {"volume": volume, "filtered": filtered, "cos": cos, "sin": sin, "offset": offset, "radius": radius}
    if texture:
        # Fractions of 8 bits: up to 1 / 512 of the difference of two neighbours at every angle.
        return Problem(
            backproject_cuda.backproject_texture, geometry, "volume", reference.backproject(**geometry), 0.015 * angles
        )
    seen = (filtered * np.float32(scale)).astype(np.float16).astype(np.float32) / scale if half else filtered
    expected = reference.backproject(**(geometry | {"filtered": seen}))
    arguments = geometry | ({"half": True, "scale": scale} if half else {})
    # Positions are float32, also in columns a great way off.
    return Problem(backproject_cuda.backproject, arguments, "volume", expected, 1e-4 * max(1, step))


def _spokes(rng: np.random.Generator, angles: int, n: int, step: float, exact: bool) -> tuple[np.ndarray, np.ndarray]:
    theta = rng.integers(-8, 8, angles) * math.pi / 4 if exact else rng.uniform(-10, 10, angles)
    return step * np.cos(theta), step * np.sin(theta)


def reference_taps(step: np.ndarray, count: int, middle: int, kernel: KaiserBessel) -> tuple[np.ndarray, np.ndarray]:
    """Write down what `spoke_taps` is to give, cell by cell."""
    first = np.zeros((len(step), count), np.int32)
    weights = np.zeros((len(step), count, kernel.width), np.float32)
    for a, k in np.ndindex(first.shape):
        position = (k - count // 2) * step[a]
        first[a, k] = math.ceil(position - kernel.width / 2) + middle
        t = np.abs(first[a, k] - middle + np.arange(kernel.width) - position)
        inside = np.sqrt(np.clip(1 - (2 * t / kernel.width) ** 2, 0, None))
        weights[a, k] = np.where(t < kernel.reach, np.i0(kernel.beta * inside) / np.i0(kernel.beta), 0)
    return first, weights


def spoke_taps(
    rng: np.random.Generator, width: int = 5, angles: int = 3, n: int = 20, step: float = 0.63, exact: bool = False,
    of_weights: bool = True,
) -> Problem:  # fmt: skip
    kernel, middle = KaiserBessel(width, 1.25), math.ceil(n * step / 2 + width / 2) + 1
    cos, _ = _spokes(rng, angles, n, step, exact)
    first, weights = reference_taps(cos, n + 1, middle, kernel)
    arguments = {
        "step": cos, "table": kernel.table(), "width": width, "middle": middle,
        "first": np.full_like(first, -999), "weights": unwritten("f4", *weights.shape),
    }  # fmt: skip
    name, expected = ("weights", weights) if of_weights else ("first", first)
    return Problem(gridding_cuda.spoke_taps, arguments, name, expected, 3e-6 if of_weights else 0)


def grid_spokes(
    rng: np.random.Generator, width: int = 5, angles: int = 3, n: int = 20, pairs: int = 3, step: float = 0.63,
    exact: bool = False, extra: int = 0,
) -> Problem:  # fmt: skip
    kernel, middle = KaiserBessel(width, 1.25), math.ceil(n * step / 2 + width / 2) + extra
    cos, sin = _spokes(rng, angles, n, step, exact)
    grid = complex_normal(rng, 2 * middle + 1, 2 * middle + 1, pairs)
    spectra, factor = complex_normal(rng, angles, n, pairs), complex_normal(rng, angles, n + 1)
    (first_u, weights_u), (first_v, weights_v) = (reference_taps(step, n + 1, middle, kernel) for step in (cos, sin))
    expected = reference.grid_spokes(grid, spectra, factor, cos, sin, kernel)
    arguments = {
        "grid": grid, "spectra": spectra, "factor": factor, "cos": cos, "sin": sin,
        "first_u": first_u, "first_v": first_v, "weights_u": weights_u, "weights_v": weights_v,
    }  # fmt: skip
    return Problem(gridding_cuda.grid_spokes, arguments, "grid", expected, 2e-5 * max(angles, 5))


def fold_grid(
    rng: np.random.Generator, middle: int = 8, period: int = 12, length: int = 12, pairs: int = 3, gap: int = 0
) -> Problem:
    grid = apart(complex_normal(rng, 2 * middle + 1, 2 * middle + 1, pairs), gap)[:, : 2 * middle + 1]
    factors = [complex_normal(rng, length) for _ in range(2)]
    expected = reference.fold_grid(grid, period, length, *factors)
    arguments = {
        "grid": grid, "period": period, "length": length, "factor_v": factors[0], "factor_u": factors[1],
        "out": unwritten("c8", length, length, pairs),
    }  # fmt: skip
    return Problem(gridding_cuda.fold_grid, arguments, "out", expected, 1e-4)


def take_slices(
    rng: np.random.Generator, size: tuple[int, int] = (6, 8), height: int = 5, width: int = 7, rows: int = 4,
    slices: int = 3, radius: float = math.inf, gap: int = 0,
) -> Problem:  # fmt: skip
    values = apart(normal(rng, *size, rows), gap)
    y, x = (rng.integers(-length, length, count) for length, count in zip(size, (height, width), strict=True))
    factors = normal(rng, height), normal(rng, width)
    expected = reference.take_slices(values, y, x, *factors, slices, radius)
    arguments = {
        "values": values, "y": y, "x": x, "factor_y": factors[0], "factor_x": factors[1],
        "out": unwritten("f4", slices, height, width), "radius": radius,
    }  # fmt: skip
    return Problem(slices_cuda.take_slices, arguments, "out", expected, 1e-5)


EXAMPLES: dict[str, Callable[[np.random.Generator], Problem]] = {
    "line_integrals": line_integrals,
    "pack_rows": pack_rows,
    "integrate_and_pack": integrate_and_pack,
    "filter_spectra": filter_spectra,
    "backproject": backproject,
    "backproject_half": lambda rng: backproject(rng, half=True),
    "backproject_texture": lambda rng: backproject(rng, rows=8, texture=True),
    "spoke_taps": spoke_taps,
    "grid_spokes": grid_spokes,
    "fold_grid": fold_grid,
    "take_slices": take_slices,
}
"""A small problem for every launch function."""
