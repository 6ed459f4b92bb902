"""`python -m bench.kernels [--quick]`: each kernel against a reference of the same run.

The references: the prototypes in `bench/leads`, a copy of as many bytes, the padded forward FFT, NumPy, and NumPy's sgemm.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from streamrecon_kernels import (
    KaiserBessel,
    aligned_zeros,
    backproject,
    backproject_numba,
    fold_grid,
    grid_spokes,
    lay_columns,
    line_integrals,
    pack_rows,
    spokes,
    take_slices,
    threads,
)

from bench.leads import vector_backprojection, vector_gridding
from bench.machine import machine
from bench.measure import Times, Verdict, by_turns

ROWS, ANGLES = 32, 16
Figures = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and sizes")
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    rounds = 5 if options.quick else 15
    figures: Figures = {"machine": machine(), "kernels": [], "verdicts": []}
    print(figures["machine"])
    for measure, sizes in (
        (direct, (1024, 2048) if options.quick else (256, 512, 1024, 2048)),
        (gridding, (1024, 2048) if options.quick else (256, 512, 1024, 2048)),
        (counts, (1024, 2048)),
        (snapshot, (1024,) if options.quick else (512, 1024, 2048)),
        (ceilings, (0,)),
    ):
        for size in sizes:
            verdicts, kernels = measure(size, rounds)
            for verdict in verdicts:
                print(verdict.line(), flush=True)
                figures["verdicts"].append(verdict.figures())
            for kernel in kernels:
                print("           " + ", ".join(f"{key} {_short(value)}" for key, value in kernel.items()), flush=True)
            figures["kernels"] += kernels
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def direct(columns: int, rounds: int) -> tuple[list[Verdict], list[Figures]]:
    """Updates per second: as the lead has them (few columns, no circle), upsampled twice, and the plain loop."""
    verdicts, kernels = [], []
    rng = np.random.default_rng(0)
    updates = columns * columns * ANGLES * ROWS
    theta = np.linspace(0, np.pi, ANGLES, endpoint=False)
    runs: dict[str, Callable[[], object]] = {}
    for step, name in ((1 / 1.5, "ours"), (1.0, "ours, rows as measured"), (2.0, "ours, rows upsampled twice")):
        width = columns + 2 if step < 1 else int(1.5 * step * columns) + 8
        cos, sin = (np.float32(step * f(theta)) for f in (np.cos, np.sin))
        filtered = aligned_zeros((ANGLES, width, ROWS), np.float32)
        filtered[:] = rng.random(filtered.shape, dtype=np.float32)
        volume = aligned_zeros((columns, columns, ROWS), np.float32)
        offset = np.full(ANGLES, (columns - 1) / 2 if step < 1 else width / 2, np.float32)
        runs[name] = lambda v=volume, q=filtered, c=cos, s=sin, o=offset: backproject(v, q, c, s, o)  # type: ignore[misc]
        if step < 1:
            # Aligned as ours: vectors that lie across two lines would be held against it.
            plain_filtered, plain_volume = (aligned_zeros(array.shape, np.float32) for array in (filtered, volume))
            plain_filtered[:] = filtered
            middle = np.float32((columns - 1) / 2)
            runs["lead"] = lambda v=plain_volume, q=plain_filtered, c=cos, s=sin, m=middle: (  # type: ignore[misc]
                vector_backprojection.backproject(v, q, c, s, m, 32)
            )
            runs["plain numba"] = lambda v=plain_volume, q=plain_filtered, c=cos, s=sin, o=offset: (  # type: ignore[misc]
                backproject_numba.backproject(v, q, c, s, o, np.float32(1e9))
            )
    times = by_turns(runs, rounds)
    if columns >= 1024:
        verdicts.append(
            Verdict(f"direct, {columns} columns, updates/s against the lead", times.ratio("lead", "ours"), 0.9, True)
        )
    for name in runs:
        kernels.append(
            _kernel(f"direct: {name}", columns, updates / times.best(name), 4 * updates, times.best(name), 0)
        )
    # What a volume's pixel costs in memory: read and written once a batch.
    for kernel in kernels:
        kernel["bytes"] = 2 * columns * columns * ROWS * 4
    return verdicts, kernels


def gridding(columns: int, rounds: int) -> tuple[list[Verdict], list[Figures]]:
    """Milliseconds a slice for pi / 2 angles a column: the padded spectrum against the lead's one sample a column."""
    kernel, n = KaiserBessel(5, 1.25), 2 * columns
    scan = int(columns * 0.703125 + 0.5)
    period = int(columns * 1.25)
    side = period + 7
    theta = 0.4 + np.arange(ANGLES) * (np.pi / scan)
    steps = [f(theta) * (period / n) for f in (np.cos, np.sin)]
    where = spokes(*steps, n + 1, side, kernel)
    spectra = aligned_zeros((ANGLES, n, ROWS // 2), np.complex64)
    spectra[:] = 1
    factor = np.ones((ANGLES, n + 1), np.complex64)
    grid = aligned_zeros((side, side, ROWS // 2), np.complex64)
    samples = aligned_zeros((1, ANGLES, columns, ROWS), np.float32)
    samples[:] = 1
    lead_grid = aligned_zeros((1, side, side, ROWS), np.float32)
    u, v = (np.ascontiguousarray(each[:, :columns]).astype(np.int64) for each in (where.first_u, where.first_v))
    wu, wv = (np.ascontiguousarray(each[:, :columns, 0, :5]) for each in (where.weight_u, where.weight_v))
    times = by_turns(
        {
            "ours": lambda: grid_spokes(grid, spectra, factor, where),
            "cells and weights": lambda: spokes(*steps, n + 1, side, kernel),
            "lead, half as many samples": lambda: vector_gridding.grid_spokes(lead_grid, samples, u, v, wu, wv),
        },
        rounds,
    )
    updates = ANGLES * (n + 1) * 25 * ROWS
    ratio = times.ratio("lead, half as many samples", "ours") * 2
    slices = times.best("ours") / ANGLES / ROWS * scan * 1e3
    note = _kernel("gridding: ours", columns, updates / times.best("ours"), 2 * updates, times.best("ours"), 0)
    # Every angle brings its samples, and touches its part of the grid once.
    note["bytes"] = spectra.nbytes + 2 * grid.nbytes * ANGLES // scan
    note |= {"ms a slice": slices, "samples/s against the lead": ratio}
    note["ms for cells and weights of a batch"] = times.best("cells and weights") * 1e3
    return [], [note]


def counts(columns: int, rounds: int) -> tuple[list[Verdict], list[Figures]]:
    """From counts to line integrals, against the transform of the same rows."""
    rng = np.random.default_rng(0)
    raw = rng.integers(90, 60000, (ANGLES, ROWS, columns)).astype(np.uint16)
    dark = np.full((ROWS, columns), 100, np.float32)
    term = np.full((1, ROWS, columns), np.log(30000), np.float32)
    out = aligned_zeros(raw.shape, np.float32)
    spectra = aligned_zeros((ANGLES, 2 * columns, ROWS // 2), np.complex64)
    contiguous = aligned_zeros((ANGLES, ROWS // 2, 2 * columns), np.complex64)
    contiguous[:] = rng.random(contiguous.shape)
    weight = np.ones(columns, np.float32)

    def numpy() -> NDArray[np.float32]:
        signal = np.fmax(np.subtract(raw, dark, dtype=np.float32), np.float32(0.5))
        return np.asarray(term - np.log(signal))

    times = by_turns(
        {
            "normalize + log": lambda: line_integrals(raw, dark, term, 0.5, out),
            "padded FFT": lambda: fft.fft(contiguous, axis=-1, overwrite_x=True, norm="ortho", workers=threads()),
            "pack": lambda: pack_rows(out, weight, spectra),
            "NumPy": numpy,
        },
        3 * rounds,
    )
    ratio = times.ratio("normalize + log", "padded FFT")
    verdict = Verdict(f"normalize + log of uint16, {columns} columns, against the padded FFT", ratio, 1.0, False)
    figures = {name: times.best(name) * 1e3 for name in times.rounds}
    return [verdict], [{"kernel": "counts, ms a batch", "columns": columns} | figures]


def snapshot(columns: int, rounds: int) -> tuple[list[Verdict], list[Figures]]:
    """The passes of a snapshot over memory, against a copy."""
    period = int(columns * 1.25)
    side = period + 7
    grid = aligned_zeros((side, side, ROWS // 2), np.complex64)
    one = np.ones(period, np.complex64)
    rows = aligned_zeros((32, period, ROWS // 2), np.complex64)
    block = aligned_zeros((columns, period, ROWS // 2), np.complex64)
    out = aligned_zeros((ROWS, columns, columns), np.float32)
    pixel, ones = np.arange(columns) - columns // 2, np.ones(columns, np.float32)
    values = block.view(np.float32).transpose(1, 0, 2)

    def fold() -> None:
        for first in range(0, period, 32):
            fold_grid(grid, period, first, one, one, rows[: min(32, period - first)])

    def lay() -> None:
        for first in range(0, period, 32):
            lay_columns(rows[: min(32, period - first)], pixel, first, block)

    times = by_turns(
        {
            "copy": lambda: np.copyto(out, block.view(np.float32).reshape(-1)[: out.size].reshape(out.shape)),
            "fold": fold,
            "columns": lay,
            "slices": lambda: take_slices(values, pixel, np.arange(columns), ones, ones, out),
        },
        rounds,
    )
    moved = {"copy": 2 * out.nbytes, "fold": grid.nbytes, "columns": block.nbytes, "slices": 2 * out.nbytes}
    figures = {f"{name}, GB/s": moved[name] / times.best(name) / 1e9 for name in times.rounds}
    return [], [{"kernel": "snapshot", "columns": columns} | figures]


def ceilings(_size: int, rounds: int) -> tuple[list[Verdict], list[Figures]]:
    """What the machine can do: a product of matrices, a copy."""
    a = np.random.default_rng(0).random((2, 2048, 2048), dtype=np.float32)
    b, c = aligned_zeros((1 << 26,), np.float32), aligned_zeros((1 << 26,), np.float32)
    times: Times = by_turns({"sgemm": lambda: a[0] @ a[1], "copy": lambda: np.copyto(c, b)}, rounds)
    return [], [
        {
            "kernel": "ceilings",
            "GFlop/s of sgemm": 2 * 2048**3 / times.best("sgemm") / 1e9,
            "GB/s of a copy": 2 * b.nbytes / times.best("copy") / 1e9,
        }
    ]


def _kernel(name: str, columns: int, updates: float, flops: float, seconds: float, nbytes: int) -> Figures:
    return {
        "kernel": name,
        "columns": columns,
        "updates/s": updates,
        "GFlop/s": flops / seconds / 1e9,
        "flops": flops,
        "bytes": nbytes,
    }


if __name__ == "__main__":
    main()
