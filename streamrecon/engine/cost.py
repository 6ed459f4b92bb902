"""The cost model: bytes and seconds of a scan by stage, for each method, before anything is allocated."""

from __future__ import annotations

import math
from dataclasses import dataclass

from streamrecon_kernels import all_compiled

from streamrecon.config import ReconConfig
from streamrecon.engine.gallery import CACHED
from streamrecon.engine.planes import room
from streamrecon.engine.slab_files import BANDS_BYTES
from streamrecon.recon.accumulate import Shape
from streamrecon.recon.bands import band_lengths
from streamrecon.recon.device import CPU
from streamrecon.recon.direct import DirectAccumulator
from streamrecon.recon.fourier import FourierAccumulator

METHODS = ("direct", "fourier")

PROGRAM_BYTES = 225 << 20
"""The interpreter, the libraries and the compiled kernels."""

COMPILING_BYTES = 250 << 20
"""What the compiler leaves where a kernel was not compiled before: in the first run after an install."""


@dataclass(frozen=True, slots=True)
class Rates:
    """What a machine does in a second: round figures of what `python -m bench.kernels` measures, exact enough to tell the
    methods apart."""

    normalize: float = 0.6e9
    """Pixels from counts to line integrals, a core."""
    transform: float = 20e9
    """Floating point operations of an FFT, taken as 5 n log2 n, a core."""
    grid: float = 15e9
    """Cells times rows to which a sample is added, a core."""
    backproject: float = 20e9
    """Pixels times rows to which a filtered row is added, a core."""
    copy: float = 20e9
    """Bytes read or written, all cores together."""


GPU = Rates(normalize=0.6e9, transform=2e12, grid=3e11, backproject=2e12, copy=2e12)
"""Of a large GPU, by calculation from its memory and shared memory: not measured on a GPU yet. Counts are still normalized by
the processor."""


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be done."""

    shape: Shape
    options: ReconConfig
    angles: int
    """Projections of the scan, or of the time between two versions where their number is unknown."""
    versions: int
    """Partial volumes."""
    binning: int
    """Of partial volumes."""
    passes: int
    """How often each projection is accumulated: again where the center becomes known only during the scan."""
    cores: int
    gpu: bool
    """Whether the accumulator lives on a GPU."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What one method takes."""

    memory: dict[str, int]
    """Bytes by purpose."""
    gpu_memory: dict[str, int]
    """Bytes on the GPU by purpose; none where the accumulator is not there."""
    seconds: dict[str, float]
    """By stage."""

    @property
    def total_memory(self) -> int:
        """Bytes."""
        return sum(self.memory.values())

    @property
    def total_seconds(self) -> float:
        """For the whole scan, if frames come as fast as they are taken."""
        return sum(self.seconds.values())


def seconds(method: str, work: Work) -> dict[str, float]:
    """Time of each stage.

    Parameters
    ----------
    method
        One of `METHODS`.
    work
        What is to be done.
    """
    rates, cores = (GPU, 1) if work.gpu else (Rates(), work.cores)
    shape, options = work.shape, work.options
    rows = shape.blocks * shape.block_rows
    angles = work.angles * work.passes
    if method == "direct":
        transforms = _transform(shape.padded) + _transform(shape.padded * options.upsampling)
        pixels = min(float(shape.side**2), math.pi * shape.radius**2)
        accumulate = pixels * rows * angles / rates.backproject
    else:
        lengths = band_lengths(shape, FourierAccumulator.period(shape, options))
        transforms = sum(map(_transform, lengths))
        accumulate = sum(lengths) * options.width**2 * rows * angles / rates.grid
    return {
        "normalize": shape.rows * shape.columns * angles / rates.normalize / work.cores,
        "filter": transforms * rows / 2 * angles / rates.transform / cores,
        "accumulate": accumulate / cores,
        "partial volumes": work.versions * _snapshot(method, work, rates, cores, work.binning),
        "final volume": _snapshot(method, work, rates, cores, 1),
    }


def _transform(n: int) -> float:
    return 5 * n * math.log2(n)


def _snapshot(method: str, work: Work, rates: Rates, cores: int, binning: int) -> float:
    shape = work.shape
    rows = shape.blocks * shape.block_rows
    written = shape.rows * shape.side**2 * 4 / binning**3
    if method == "direct":
        return (shape.side**2 * rows * 4 + 2 * written) / rates.copy
    period = FourierAccumulator.period(shape, work.options) // binning
    side, images = shape.side // binning, rows / 2 if binning == 1 else rows / shape.row_binning(binning)
    # The cells, once; rows of pixels into columns and columns in place, each read and written; slices.
    moved = period**2 * rows * 4 + 4 * period * side * images * 8 + 2 * written
    return moved / rates.copy + _transform(period) * (period + side) * images / rates.transform / cores


def memory(
    method: str,
    work: Work,
    batch: int,
    itemsize: int,
    ring: int,
    rings: bool,
    combined: int = 0,
    viewers: bool = False,
) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes for each purpose, of the machine and of the GPU.

    Parameters
    ----------
    method
        One of `METHODS`.
    work
        What is to be done.
    batch
        Projections in a micro-batch.
    itemsize
        Bytes of a frame's pixel.
    ring
        Bytes of the ring.
    rings
        Whether ring correction is on.
    combined
        Bytes that combining flats takes.
    viewers
        Whether there may be any.
    """
    shape, options = work.shape, work.options
    accumulator = DirectAccumulator if method == "direct" else FourierAccumulator
    frame = shape.rows * shape.columns
    volume = shape.rows * shape.side**2 * 4
    # Images of 4 bytes a pixel; the stripes are a sum, its mean and the median of 8, and two rows.
    fields = 8 + (8 if rings else 0)
    # One version is made while the one before is being written.
    versions = volume + min(work.versions, 1) * volume // work.binning**3
    # Slices of the version that is shown and of the next one, and as they were sent.
    seen = 2 * min(volume, BANDS_BYTES) + min(3 * volume, CACHED)
    if work.binning > 1:
        slices = room((shape.rows, shape.side, shape.side)) * 4 * shape.side * max(shape.rows, shape.side)
        seen += 2 * slices
    # A processor works by parts that fit its cache, a GPU on all of a block.
    rows, angles = (None, None) if work.gpu else (CPU.rows_at_once, CPU.angles_at_once)
    there = {
        "state": accumulator.state_bytes(shape, options),
        "batch": accumulator.batch_bytes(shape, options, batch, angles),
        "snapshot": accumulator.snapshot_bytes(shape, options, rows),
    }
    if viewers and work.binning > 1:
        there["snapshot"] += accumulator.cut_bytes(shape, options)
    here = {
        "program": PROGRAM_BYTES + (0 if all_compiled() else COMPILING_BYTES),
        "ring": ring,
        "frames of a batch": batch * frame * (itemsize + 4),
        "flats and dark": fields * frame * 4 + combined,
        "versions": versions,
        # One slice of it at a time, a byte a pixel.
        "picture": shape.side * max(shape.side, shape.rows),
    } | ({"viewers": seen} if viewers else {})
    if not work.gpu:
        return here | there, {}
    # What is uploaded, twice, and the slices of one block before they are brought here.
    uploaded = 2 * batch * frame * 4 + volume // shape.blocks
    return here | {"uploads": 2 * batch * frame * 4}, there | {"uploads": uploaded}
