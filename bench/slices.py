"""`python -m bench.slices [--size N] [--rounds N]`: single slices in full resolution, against what goes with them.

The references, by turns in one run: a preview binned 4, which they are made beside; a snapshot without binning, which has the
same values; and one pass over the state, than which a slice of the Fourier method across y or x cannot take less.
"""

from __future__ import annotations

import argparse
import math

import numpy as np
from streamrecon_kernels import aligned_zeros, each

from bench.machine import machine
from bench.measure import by_turns
from streamrecon.config import ReconConfig
from streamrecon.engine.planes import Place, cut
from streamrecon.recon.accumulate import Shape, snapshot, snapshot_shape
from streamrecon.recon.direct import DirectAccumulator
from streamrecon.recon.fourier import FourierAccumulator
from streamrecon.scan import Geometry

ANGLES = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=512, help="rows and columns")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    print(machine())
    print(f"{options.size} x {options.size} x {options.size}, ms, and as a share of a preview binned 4:")
    for method in (DirectAccumulator, FourierAccumulator):
        measure(method, options.size, options.rounds)


def measure(method: type[DirectAccumulator] | type[FourierAccumulator], size: int, rounds: int) -> None:
    """Print the figures of one method."""
    shape = Shape.of(Geometry(size, size), ReconConfig(), (size - 1) / 2)
    accumulator = method(shape, ReconConfig())
    projections = np.random.default_rng(0).random((ANGLES, size, size), dtype=np.float32)
    accumulator.add(projections, np.arange(ANGLES) * (math.pi / ANGLES), np.full(ANGLES, math.pi / ANGLES))
    volumes = {binning: aligned_zeros(snapshot_shape(shape, binning), np.float32) for binning in (1, 4)}
    state = aligned_zeros((shape.blocks, accumulator.nbytes // shape.blocks // 4), np.float32)
    middle = size // 2
    three: list[Place] = [("z", middle), ("y", middle), ("x", middle)]
    nine: list[Place] = [(axis, place + n) for n in range(3) for axis, place in three]
    times = by_turns(
        {
            "preview, binned 4": lambda: snapshot(accumulator, 1.0, 4, volumes[4]),
            "snapshot without binning": lambda: snapshot(accumulator, 1.0, 1, volumes[1]),
            "one pass over as much memory as the state": lambda: each(
                lambda block: state[block].sum(), range(shape.blocks)
            ),
            **{
                f"slice across {axis}": (lambda one=[(axis, place)]: cut(accumulator, one, 1.0, 0))
                for axis, place in three
            },
            "three, one of each": lambda: cut(accumulator, three, 1.0, 0),
            "nine, three of each": lambda: cut(accumulator, nine, 1.0, 0),
        },
        rounds,
    )
    print(method.__name__)
    for name in times.rounds:
        print(f"    {name:45} {1e3 * times.median(name):8.2f}   {times.ratio(name, 'preview, binned 4'):6.3f} x")


if __name__ == "__main__":
    main()
