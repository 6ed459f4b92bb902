"""A detector's own sender: any generator of frames, into `streamrecon recon --listen ENDPOINT`.

Run `python docs/examples/detector.py tcp://127.0.0.1:5600`.
"""

import sys

import numpy as np

from streamrecon import Frame, FrameKind, Geometry, ScanInfo, send_scan

ROWS, COLUMNS, PROJECTIONS = 32, 128, 180
THETA = np.arange(PROJECTIONS) * np.pi / PROJECTIONS


def frames(rows: slice):
    """Frames as they are measured; only the detector rows that the engine asks for."""
    rng = np.random.default_rng(0)
    dark = np.full((ROWS, COLUMNS), 100)
    yield Frame(FrameKind.DARK, 0, None, dark[rows].astype(np.uint16))
    yield Frame(FrameKind.FLAT, 0, None, (dark + 10000)[rows].astype(np.uint16))
    for index, theta in enumerate(THETA):
        # A rod of radius 10 pixels, 25 pixels from the axis.
        u = np.arange(COLUMNS) - (COLUMNS - 1) / 2 - 25 * np.cos(theta)
        line_integral = 0.1 * np.sqrt(np.clip(10**2 - u**2, 0, None))
        image = dark + rng.poisson(10000 * np.exp(-line_integral), (ROWS, COLUMNS))
        yield Frame(FrameKind.PROJECTION, index, float(theta), image[rows].astype(np.uint16))


if __name__ == "__main__":
    info = ScanInfo(
        uid="rod-1",
        geometry=Geometry(ROWS, COLUMNS, pixel_size=2e-6),
        dtype=np.dtype(np.uint16),
        counts={FrameKind.PROJECTION: PROJECTIONS, FrameKind.FLAT: 1, FrameKind.DARK: 1},
        theta=THETA,
    )
    print(send_scan(info, frames, sys.argv[1]))
