"""A step scan by Bluesky's RunEngine, of a simulated tomography beamline, published over ZeroMQ.

Start, in this order and each in a terminal of its own:

    bluesky-0MQ-proxy 5577 5578
    streamrecon recon --listen tcp://127.0.0.1:5600 --out streamrecon-out/step
    streamrecon attach bluesky+zmq://127.0.0.1:5578 --to tcp://127.0.0.1:5600 --root streamrecon-out \\
        --mapping step-scan
    python docs/examples/bluesky_step_scan.py

Wait until the second one says "waiting for a sender" before you start the last: after a fresh install it compiles its kernels
once, which takes most of a minute.

Versions of the volume appear in streamrecon-out/step while the scan goes on. The images go to streamrecon-out/images.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import numpy as np
from bluesky import Msg, RunEngine
from bluesky.callbacks.zmq import Publisher
from ophyd_async.core import StaticPathProvider, UUIDFilenameProvider, init_devices
from ophyd_async.sim import SimMotor
from tomography_detector import TomographyDetector

from streamrecon.config import SimulatedConfig
from streamrecon.scan import FrameKind
from streamrecon.sources import SimulatedSource


def step_scan(detector: TomographyDetector, rotation: SimMotor, config: SimulatedConfig) -> Iterator[Msg]:
    """Darks and flats, then projections over half a turn; each kind is a stream of its own."""

    @bpp.stage_decorator([detector])
    @bpp.run_decorator(md={"plan_name": "tomo_step_scan", "num_points": config.projections})
    def run() -> Iterator[Msg]:
        for kind, count in ((FrameKind.DARK, config.darks), (FrameKind.FLAT, config.flats)):
            detector.camera.shows(kind)
            for _ in range(count):
                yield from bps.trigger_and_read([detector], name=kind.name.lower())
        detector.camera.shows(FrameKind.PROJECTION)
        for degrees in np.rad2deg(SimulatedSource(config).info().theta):
            yield from bps.mv(rotation, float(degrees))
            yield from bps.trigger_and_read([detector, rotation], name="primary")

    yield from run()


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--publish", default="127.0.0.1:5577", help="where the proxy takes documents in")
    parser.add_argument("--projections", type=int, default=180)
    parser.add_argument("--folder", type=Path, default=Path("streamrecon-out/images"), help="for the images")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    config = SimulatedConfig(rows=32, columns=128, projections=options.projections, flats=5, darks=5)
    engine, publisher = RunEngine(), Publisher(options.publish)
    engine.subscribe(publisher)
    with init_devices():
        paths = StaticPathProvider(UUIDFilenameProvider(), options.folder.resolve())
        detector, rotation = TomographyDetector(paths, config, "detector"), SimMotor("rotation")
    time.sleep(1.0)  # what is published before the connection is made is lost
    began = time.monotonic()
    engine(step_scan(detector, rotation, config))
    print(f"the scan took {time.monotonic() - began:.1f} s")
    publisher.close()


if __name__ == "__main__":
    main()
