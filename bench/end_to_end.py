"""`python -m bench.end_to_end`: a whole scan from a file through the wire into a volume, against the maths alone.

The reference of the same run is the same accumulator fed with as many projections from memory: no file, no wire, no
journal, no partial volumes, the center known.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from streamrecon.config import Config, EmitConfig, ReconConfig, SimulatedConfig, SourceConfig
from streamrecon.engine.slab import ACCUMULATORS
from streamrecon.recon.accumulate import Shape, snapshot
from streamrecon.recon.device import CPU
from streamrecon.recon.weights import arc_weights
from streamrecon.run import run_scan
from streamrecon.scan import FrameKind, Geometry
from streamrecon.sources import SimulatedSource

STAGES = {
    "transport (I/O thread)": ("transport",),
    "normalize + filter": ("normalize", "filter", "flats"),
    "accumulate": ("accumulate",),
    "snapshot": ("snapshot",),
    "center": ("center",),
    "journal": ("journal",),
    "waiting for frames": ("wait",),
    "write (writer thread)": ("write",),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--columns", type=int, default=512)
    parser.add_argument("--projections", type=int, default=720)
    parser.add_argument("--versions", type=int, default=10, help="versions of the volume during the scan")
    parser.add_argument("--methods", nargs="+", default=["direct", "fourier"])
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    simulated = SimulatedConfig(rows=options.rows, columns=options.columns, projections=options.projections)
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        scan = Path(folder) / "scan.h5"
        record(simulated, scan)
        for method in options.methods:
            fast = measure(scan, Path(folder) / method, method, simulated, options.versions)
            fast["reference_seconds"] = reference(method, simulated)
            # Half of what the engine can take: the latency is then its own, not that of frames queued in its ring.
            fps = fast["frames_per_second"] / 2
            paced = measure(scan, Path(folder) / f"{method}-paced", method, simulated, options.versions, fps)
            figures += [fast, paced]
            show(fast, paced)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


def record(simulated: SimulatedConfig, path: Path) -> None:
    """Write a simulated scan in the Data Exchange layout."""
    source = SimulatedSource(simulated)
    info = source.info()
    names = {FrameKind.PROJECTION: "data", FrameKind.FLAT: "data_white", FrameKind.DARK: "data_dark"}
    with h5py.File(path, "w") as file:
        sets = {
            kind: file.create_dataset(f"exchange/{name}", (info.counts[kind], *info.frame_shape), info.dtype)
            for kind, name in names.items()
        }
        for frame in source.frames():
            sets[frame.kind][frame.index] = frame.data
        assert info.theta is not None
        file["exchange/theta"] = np.rad2deg(info.theta)


def measure(
    scan: Path, out: Path, method: str, simulated: SimulatedConfig, versions: int, fps: float | None = None
) -> dict[str, Any]:
    """One streamed scan."""
    config = Config(
        source=SourceConfig(fps=fps),
        recon=ReconConfig(method=method),  # type: ignore[arg-type]
        emit=EmitConfig(every=max(1, simulated.projections // versions)),
    )
    result = run_scan(scan, out, config)
    status = result.status
    # The compute thread's seconds from the first frame on; it had waited for the sender before.
    seconds = result.seconds
    stages = {name: sum(result.stages.get(part, 0.0) for part in parts) for name, parts in STAGES.items()}
    return {
        "method": method,
        "scan": dataclasses.asdict(simulated),
        "frames": status.frames,
        "seconds": seconds,
        "frames_per_second": status.frames / seconds,
        "gigabytes_per_second": status.nbytes / seconds / 1e9,
        "latency_p50": status.latency[0] if status.latency else None,
        "latency_p99": status.latency[1] if status.latency else None,
        "versions": status.version,
        "stages": stages,
        "fps": fps,
    }


def reference(method: str, simulated: SimulatedConfig) -> float:
    """Seconds of the accumulator alone: every projection once, in batches, and one snapshot."""
    options = ReconConfig(method=method)  # type: ignore[arg-type]
    columns, count = simulated.columns, simulated.projections
    shape = Shape.of(Geometry(simulated.rows, columns), options, (columns - 1) / 2)
    accumulator = ACCUMULATORS[method](shape, options, CPU)
    theta = np.arange(count) * np.pi / count
    weight = arc_weights(theta)
    batch = np.random.default_rng(0).random((16, simulated.rows, columns), np.float32)
    accumulator.add(batch, theta[:16], weight[:16])
    accumulator.reset()
    began = time.perf_counter()
    for first in range(0, count, 16):
        angles = theta[first : first + 16]
        accumulator.add(batch[: len(angles)], angles, weight[first : first + 16])
    snapshot(accumulator)
    return time.perf_counter() - began


def show(fast: dict[str, Any], paced: dict[str, Any]) -> None:
    """Print the scan as fast as it goes, and at half that rate."""
    seconds, alone = fast["seconds"], fast["reference_seconds"]
    print(f"{fast['method']}: {fast['frames']} frames in {seconds:.2f} s, {fast['versions']} versions")
    print(f"  {fast['frames_per_second']:.1f} frames/s, {fast['gigabytes_per_second']:.4f} GB/s")
    print(f"  {seconds / alone:.2f} x the maths alone ({alone:.2f} s: every projection once, one snapshot)")
    print("  latency from arrival to the first version on disk that holds a projection:")
    for figures, pace in ((fast, "as fast as it goes"), (paced, f"at {paced['fps']:.0f} frames/s")):
        print(f"    {pace}: p50 {figures['latency_p50']:.3f} s, p99 {figures['latency_p99']:.3f} s")
    for name, spent in fast["stages"].items():
        print(f"  {spent / seconds:6.1%}  {name}")


if __name__ == "__main__":
    main()
