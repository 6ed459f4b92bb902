"""`python -m bench.reconstruct [--quick]`: whole reconstructions against the bare FFTs, other programs, and the plan.

The bare FFTs: one packed forward FFT of 2 N for each pair of rows and angle, and one inverse FFT of the oversampled grid for
each pair of rows, of the same library in the same run. Ten partial volumes: a full one at half the scan, and nine previews
with a quarter of the columns and rows.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from streamrecon_kernels import aligned_zeros, threads

from bench.machine import machine
from bench.measure import Verdict, by_turns
from streamrecon.config import ReconConfig
from streamrecon.engine.cost import METHODS
from streamrecon.recon.accumulate import Accumulator, Shape, snapshot, snapshot_shape
from streamrecon.recon.direct import DirectAccumulator
from streamrecon.recon.fourier import FourierAccumulator
from streamrecon.recon.weights import arc_weights
from streamrecon.scan import Geometry
from streamrecon.sources.phantom import phantom, project

BATCH = 16
DEFAULT = "fourier width 5, oversampling 1.25"
Figures = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and columns, no other programs")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    figures: Figures = {"machine": machine(), "scans": [], "errors": [], "memory": [], "verdicts": []}
    print(figures["machine"])
    verdicts: list[Verdict] = []
    scans = ((1024, 720, 3), (2048, 1500, 1)) if options.quick else ((1024, 720, 7), (2048, 1500, 3))
    for columns, angles, rounds in scans:
        found, scan = against_ffts(columns, angles, options.rows, rounds)
        _tell(found, scan)
        verdicts += found
        figures["scans"].append(scan)
    # Rows of 768 columns are taken in two bands, shorter ones are padded.
    compared = accuracy(256, 3) if options.quick else accuracy(512, 9)
    for errors in (compared, accuracy(768, 1, compare=False), previews(256)):
        _tell(*errors)
        verdicts += errors[0]
        figures["errors"].append(errors[1])
    for method in METHODS:
        found, peak = peak_memory(method, options.quick)
        _tell(found, peak)
        verdicts += found
        figures["memory"].append(peak)
    if not options.quick:
        figures["others"] = others(512, 360)
        _tell([], figures["others"])
    figures["verdicts"] = [verdict.figures() for verdict in verdicts]
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


def _tell(verdicts: list[Verdict], figures: Figures) -> None:
    for verdict in verdicts:
        print(verdict.line(), flush=True)
    for name, value in figures.items():
        print(
            f"           {name}: {value:.3g}" if isinstance(value, float) else f"           {name}: {value}", flush=True
        )


def against_ffts(columns: int, angles: int, rows: int, rounds: int) -> tuple[list[Verdict], Figures]:
    """The Fourier method from float32 line integrals, final volume alone and with ten partial ones."""
    options = ReconConfig()
    shape = Shape.of(Geometry(rows, columns), options, (columns - 1) / 2)
    accumulator = FourierAccumulator(shape, options)
    rng = np.random.default_rng(0)
    projections = rng.random((BATCH, rows, columns), dtype=np.float32)
    theta = np.arange(angles) * (math.pi / angles)
    weight = arc_weights(theta)
    partial = {round(angles * (k + 0.5) / 10): 4 for k in range(9)} | {angles // 2: 1}

    # Memory is touched once at the start and used again, as an engine does.
    volumes = {b: aligned_zeros(snapshot_shape(shape, b), np.float32) for b in (1, 4)}

    def scan(partials: bool) -> None:
        for first in range(0, angles, BATCH):
            some = slice(first, min(first + BATCH, angles))
            accumulator.add(projections[: some.stop - first], theta[some], weight[some])
            for at, binning in partial.items():
                if partials and some.start < at <= some.stop:
                    snapshot(accumulator, 1.0, binning, volumes[binning])
        snapshot(accumulator, out=volumes[1])

    period, pairs = FourierAccumulator.period(shape, options), rows // 2
    spectra = aligned_zeros((BATCH, pairs, 2 * columns), np.complex64)
    spectra[:] = rng.random(spectra.shape, dtype=np.float32)
    grid = aligned_zeros((threads(), period, period), np.complex64)
    grid[:] = rng.random(grid.shape, dtype=np.float32)

    def forward() -> None:
        for first in range(0, angles, BATCH):
            some = spectra[: min(BATCH, angles - first)]
            fft.fft(some, axis=-1, overwrite_x=True, norm="ortho", workers=threads())

    def inverse() -> None:
        for first in range(0, pairs, threads()):
            some = grid[: min(threads(), pairs - first)]
            fft.ifft2(some, axes=(1, 2), overwrite_x=True, norm="ortho", workers=threads())

    times = by_turns(
        {
            "final volume": lambda: scan(False),
            "forward FFTs": forward,
            "inverse FFTs": inverse,
            "with ten partial volumes": lambda: scan(True),
        },
        rounds,
    )
    bare = ("forward FFTs", "inverse FFTs")
    what = f"Fourier, {columns} x {angles}, {rows} rows, against the bare FFTs"
    verdicts = [
        Verdict(f"{what}: final volume", times.ratio("final volume", *bare), 2.0, False),
        Verdict(f"{what}: with ten partial volumes", times.ratio("with ten partial volumes", *bare), 3.0, False),
    ]
    slices = {f"{name}, ms a slice": times.median(name) / rows * 1e3 for name in times.rounds}
    return verdicts, {"columns": columns, "angles": angles} | slices


def accuracy(columns: int, rounds: int, compare: bool = True) -> tuple[list[Verdict], Figures]:
    """Error against FBP with exact interpolation, and time, of width and oversampling; both methods. Or of the default alone."""
    angles = round(columns * 1.57)
    projections, theta = _phantom(columns, angles)
    center = (columns - 1) / 2
    exact = sinc_fbp(projections, theta, center)
    y, x = np.mgrid[:columns, :columns] - center
    inside = np.hypot(x, y) < 0.95 * columns / 2
    verdicts, figures = [], {"columns": columns, "angles": angles}
    settings: list[tuple[str, ReconConfig]] = [
        (f"fourier width {width}, oversampling {oversampling:g}", ReconConfig(width=width, oversampling=oversampling))
        for width, oversampling in ((3, 1.25), (4, 1.25), (5, 1.25), (6, 1.25), (4, 1.5), (5, 1.5), (5, 2.0), (7, 1.5))
    ] + [(f"direct, rows upsampled {up} x", ReconConfig(upsampling=up)) for up in (1, 2, 4)]
    settings = settings if compare else [setting for setting in settings if setting[0] == DEFAULT]
    many = np.repeat(projections, 32, axis=1)
    runs = {
        name: (lambda n=name, o=o: _whole_rows(n.split()[0].rstrip(","), many, theta, center, o))
        for name, o in settings
    }
    times = by_turns(runs, rounds)
    for name, option in settings:
        error = np.linalg.norm((_whole(name, projections, theta, center, option) - exact)[inside]) / np.linalg.norm(
            exact[inside]
        )
        figures[f"{name}: error %"] = float(error * 100)
        figures[f"{name}: relative time"] = times.ratio(name, DEFAULT)
        if name == DEFAULT:
            what = f"error of the default against the sinc oracle, {columns} columns"
            verdicts.append(Verdict(what, float(error * 100), 0.1, False, "%"))
    return verdicts, figures


def _phantom(columns: int, angles: int) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Shepp-Logan in one row, (angle, row, column) line integrals."""
    ellipsoids = phantom("shepp-logan")
    theta = np.arange(angles) * (math.pi / angles)
    u = (np.arange(columns) - (columns - 1) / 2) / (columns / 2)
    projections = np.stack([project(ellipsoids, t, u, np.array([0.0])) for t in theta]) * (columns / 2)
    return projections.astype(np.float32), theta


def _whole(
    name: str, projections: NDArray[np.float32], theta: NDArray[np.float64], center: float, options: ReconConfig
) -> NDArray[np.float32]:
    shape = Shape.of(Geometry(1, projections.shape[2]), options, center)
    accumulator: Accumulator = (DirectAccumulator if name.startswith("direct") else FourierAccumulator)(shape, options)
    accumulator.add(projections, theta, arc_weights(theta))
    return snapshot(accumulator)[0]


def sinc_fbp(projections: NDArray[np.float32], theta: NDArray[np.float64], center: float) -> NDArray[np.float64]:
    """FBP of one row whose filtered rows are interpolated exactly, by their Fourier series; one pixel's side a column's."""
    columns = projections.shape[2]
    n = 4 * columns
    first = (n - columns) // 2
    rows = np.pad(projections[:, 0].astype(np.float64), ((0, 0), (first, n - columns - first)), mode="edge")
    k = np.fft.fftfreq(n, 1 / n)
    kernel = np.where(k % 2 == 1, -1 / (np.pi * np.where(k == 0, 1, k)) ** 2, 0.0)
    kernel[0] = 0.25
    spectra = np.fft.rfft(rows) * np.fft.rfft(kernel).real
    # Sixteen times as fine, linearly interpolated: the error is far below what is measured.
    fine = 16
    spectra[:, -1] /= 2
    filtered = np.fft.irfft(spectra, fine * n) * fine
    y, x = np.mgrid[:columns, :columns] - (columns - 1) / 2
    total = np.zeros((columns, columns))
    at = np.arange(fine * n) / fine
    for row, t in zip(filtered, theta, strict=True):
        total += np.interp(x * math.cos(t) + y * math.sin(t) + center + first, at, row)
    return total * math.pi / len(theta)


def previews(columns: int) -> tuple[list[Verdict], Figures]:
    """Previews against the full volume's bins."""
    angles = round(columns * 1.57)
    one, theta = _phantom(columns, angles)
    projections = np.repeat(one, 8, axis=1)
    options = ReconConfig()
    shape = Shape.of(Geometry(8, columns), options, (columns - 1) / 2)
    accumulator = FourierAccumulator(shape, options)
    accumulator.add(projections, theta, arc_weights(theta))
    full = snapshot(accumulator)
    verdicts, figures = [], {}
    for binning in (2, 4, 8):
        side = columns // binning
        bins = full.reshape(8 // binning, binning, side, binning, side, binning).mean(axis=(1, 3, 5))
        error = float(np.linalg.norm(snapshot(accumulator, 1.0, binning) - bins) / np.linalg.norm(bins)) * 100
        figures[f"preview binned {binning}: error %"] = error
        verdicts.append(Verdict(f"preview binned {binning} against the binned volume", error, 6.0, False, "%"))
    return verdicts, figures


PEAK = """
import re, sys
from pathlib import Path
import streamrecon
from streamrecon.config import Config, EngineConfig, EmitConfig, ReconConfig, SimulatedConfig
from streamrecon.engine import make_plan
from streamrecon.run import run_scan
from streamrecon.sources import SimulatedSource
method, rows, columns, angles, out = sys.argv[1], *map(int, sys.argv[2:5]), Path(sys.argv[5])
simulated = SimulatedConfig(rows=rows, columns=columns, projections=angles, photons=0.0, phantom="disc")
config = Config(simulated=simulated, recon=ReconConfig(method=method), engine=EngineConfig())
plan = make_plan(SimulatedSource(simulated).info(), (0, rows), config, out)
run_scan("simulated", out, config)
# Not getrusage's: that begins with what the parent had.
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
print(peak, sum(plan.memory.values()))
"""


def peak_memory(method: str, quick: bool) -> tuple[list[Verdict], Figures]:
    """Peak resident memory of an engine against what was planned, in a process of its own."""
    rows, columns, angles = (64, 768, 60) if quick else (128, 1024, 100)
    with tempfile.TemporaryDirectory() as folder:
        arguments = [method, str(rows), str(columns), str(angles), folder]
        done = subprocess.run([sys.executable, "-c", PEAK, *arguments], capture_output=True, text=True, check=True)
    peak, planned = map(int, done.stdout.split())
    off = abs(peak / planned - 1) * 100
    what = f"peak memory, {method}, {rows} x {columns} x {angles}, off the plan"
    return [Verdict(what, off, 15.0, False, "%")], {"method": method, "GB": peak / 1e9, "GB planned": planned / 1e9}


def others(columns: int, angles: int) -> Figures:
    """Milliseconds a slice of scikit-image's iradon and ASTRA's FBP on the CPU, against ours, in one run."""
    projections, theta = _phantom(columns, angles)
    rows = 32
    many = np.repeat(projections, rows, axis=1)
    center, options = (columns - 1) / 2, ReconConfig()
    runs = {
        f"streamrecon {method}": (lambda m=method: _whole_rows(m, many, theta, center, options)) for method in METHODS
    }
    try:
        from skimage.transform import iradon

        sinogram = projections[:, 0].T
        runs["scikit-image iradon"] = lambda: iradon(sinogram, np.rad2deg(theta), circle=True)
    except ImportError:
        print("           scikit-image is not installed")
    try:
        import astra

        geometry = astra.create_proj_geom("parallel", 1.0, columns, theta)
        projector = astra.create_projector("linear", geometry, astra.create_vol_geom(columns, columns))
        data = astra.data2d.create("-sino", geometry, projections[:, 0])
        volume = astra.data2d.create("-vol", astra.create_vol_geom(columns, columns))
        description = astra.astra_dict("FBP") | {
            "ProjectorId": projector, "ProjectionDataId": data, "ReconstructionDataId": volume,
        }  # fmt: skip
        algorithm = astra.algorithm.create(description)
        runs["ASTRA FBP, CPU"] = lambda: astra.algorithm.run(algorithm)
    except ImportError:
        print("           astra-toolbox is not installed")
    times = by_turns(runs, 2)
    return {"columns": columns, "angles": angles} | {
        f"{name}, ms a slice": times.median(name) / (rows if name.startswith("streamrecon") else 1) * 1e3
        for name in runs
    }


def _whole_rows(
    method: str, projections: NDArray[np.float32], theta: NDArray[np.float64], center: float, options: ReconConfig
) -> None:
    shape = Shape.of(Geometry(projections.shape[1], projections.shape[2]), options, center)
    accumulator: Accumulator = (DirectAccumulator if method == "direct" else FourierAccumulator)(shape, options)
    weight = arc_weights(theta)
    for first in range(0, len(theta), BATCH):
        some = slice(first, first + BATCH)
        accumulator.add(projections[some], theta[some], weight[some])
    snapshot(accumulator)


if __name__ == "__main__":
    main()
