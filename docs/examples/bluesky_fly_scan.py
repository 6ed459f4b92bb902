"""A fly scan by Bluesky's RunEngine, of a simulated tomography beamline, published over ZeroMQ.

Start, in this order and each in a terminal of its own:

    bluesky-0MQ-proxy 5577 5578
    streamrecon recon --listen tcp://127.0.0.1:5600 --out streamrecon-out/fly
    streamrecon attach bluesky+zmq://127.0.0.1:5578 --to tcp://127.0.0.1:5600 --root streamrecon-out \\
        --mapping docs/examples/bluesky_fly_scan.toml
    python docs/examples/bluesky_fly_scan.py

Wait until the second one says "waiting for a sender" before you start the last: after a fresh install it compiles its kernels
once, which takes most of a minute.

Versions of the volume appear in streamrecon-out/fly while the scan goes on. The images go to streamrecon-out/images.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky import Msg, RunEngine
from bluesky.callbacks.zmq import Publisher
from ophyd_async.core import StaticPathProvider, TriggerInfo, UUIDFilenameProvider, init_devices
from tomography_detector import TomographyDetector

from streamrecon.config import SimulatedConfig
from streamrecon.scan import FrameKind


def fly_scan(detector: TomographyDetector, config: SimulatedConfig, seconds: float) -> Iterator[Msg]:
    """Darks, flats and projections as fast as the detector takes them; their documents come in bunches."""

    def take(kind: FrameKind, count: int, stream: str) -> Iterator[Msg]:
        detector.camera.shows(kind)
        exposures = TriggerInfo(number_of_events=count, livetime=seconds / config.projections)
        yield from bps.prepare(detector, exposures, wait=True)
        yield from bps.declare_stream(detector, name=stream)
        yield from bps.kickoff(detector, wait=True)
        yield from bps.complete(detector, wait=False, group=stream)
        done = False
        while not done:
            with contextlib.suppress(TimeoutError):
                yield from bps.wait(group=stream, timeout=0.2)
                done = True
            yield from bps.collect(detector, name=stream)

    @bpp.stage_decorator([detector])
    @bpp.run_decorator(md={"plan_name": "tomo_fly_scan", "num_points": config.projections})
    def run() -> Iterator[Msg]:
        yield from take(FrameKind.DARK, config.darks, "dark")
        yield from take(FrameKind.FLAT, config.flats, "flat")
        yield from take(FrameKind.PROJECTION, config.projections, "primary")

    yield from run()


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--publish", default="127.0.0.1:5577", help="where the proxy takes documents in")
    parser.add_argument("--projections", type=int, default=180)
    parser.add_argument("--seconds", type=float, default=20.0, help="that the projections take")
    parser.add_argument("--folder", type=Path, default=Path("streamrecon-out/images"), help="for the images")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    config = SimulatedConfig(rows=32, columns=128, projections=options.projections, flats=5, darks=5)
    engine, publisher = RunEngine(), Publisher(options.publish)
    engine.subscribe(publisher)
    with init_devices():
        paths = StaticPathProvider(UUIDFilenameProvider(), options.folder.resolve())
        detector = TomographyDetector(paths, config, "detector")
    time.sleep(1.0)  # what is published before the connection is made is lost
    began = time.monotonic()
    engine(fly_scan(detector, config, options.seconds))
    print(f"the scan took {time.monotonic() - began:.1f} s")
    publisher.close()


if __name__ == "__main__":
    main()
