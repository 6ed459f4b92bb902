"""The kernels that a scan calls, compiled before a sender is let in."""

from __future__ import annotations

import numpy as np
from streamrecon_kernels import Shrinking, complete, line_integrals, shrink_rows

from streamrecon.config import ReconConfig
from streamrecon.engine.slab import ACCUMULATORS
from streamrecon.engine.world import Watch
from streamrecon.recon.accumulate import Shape, snapshot
from streamrecon.recon.device import Device
from streamrecon.scan import Geometry


def compile_kernels(device: Device, watch: Watch = lambda: None) -> None:
    """Compile the kernels, or load them from their cache.

    Parameters
    ----------
    device
        Where accumulators will be.
    watch
        Called between two of them.
    """
    options = ReconConfig()
    # Of rows that fill vectors and of those that do not.
    for rows, columns in ((2, 8), (16, 24)):
        frame = np.ones((1, rows, columns), np.float32)
        line_integrals(frame.astype(np.uint16), frame[0], frame, 1.0, frame)
        for accumulator in ACCUMULATORS.values():
            tiny = accumulator(Shape.of(Geometry(rows, columns), options, (columns - 1) / 2), options, device)
            watch()
            tiny.add(frame, np.zeros(1), np.ones(1))
            for binning in (1, 2):
                watch()
                snapshot(tiny, 1.0, binning)
    if device.name == "cpu":
        # Short rows have one band.
        row, matrix = np.ones((1, 8, 1), np.complex64), np.ones((2, 8), np.float32)
        shrink_rows(row, Shrinking.of(matrix), row[:, :2].copy())
    complete()
