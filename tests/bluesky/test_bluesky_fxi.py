"""FXI as it is: all documents at the end, flats last, no SWMR; the flats of the scan before stand in until the true ones come."""

from __future__ import annotations

import json
import threading
import tomllib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from bluesky_scans import Scan

from streamrecon import Config, Service, reconstruct
from streamrecon.bluesky.attach import Attachment
from streamrecon.bluesky.documents import DocumentQueue
from streamrecon.bluesky.mapping import mapping_from_dict, profiles
from streamrecon.config import ReconConfig, SimulatedConfig, SourceConfig
from streamrecon.engine.warmup import compile_kernels
from streamrecon.recon.device import CPU
from streamrecon.scan import FrameKind
from streamrecon.sources import SimulatedSource

SIMULATED = SimulatedConfig(
    phantom="foam", rows=4, columns=64, projections=60, flats=0, flats_after=6, darks=4, photons=0
)
RECON = ReconConfig(center=31.5, method="direct")
EPICS = 631152000.0
ATTRIBUTES = "entry/instrument/NDAttributes"


def fly_scan(folder: Path, number: int) -> Scan:
    """As `fly_scan` of FXI leaves it, all at once."""
    frames = list(SimulatedSource(SIMULATED).frames())
    scan = Scan(plan_name="fly_scan", scan_id=number, XEng=8.5)
    shape = SIMULATED.rows, SIMULATED.columns
    parts = {"primary": FrameKind.PROJECTION, "dark": FrameKind.DARK, "flat": FrameKind.FLAT}
    for stream, kind in parts.items():
        images = np.stack([frame.data for frame in frames if frame.kind is kind])
        scan.stream(stream, Andor_image={"shape": [len(images), *shape], "dtype": "array", "external": "FILESTORE:"})
        path = folder / f"{number}-{stream}.h5"
        times = 1000.0 - EPICS + np.arange(len(images))
        with h5py.File(path, "w") as file:
            file.create_dataset("entry/data/data", data=images, chunks=(1, *shape))
            file[f"{ATTRIBUTES}/NDArrayEpicsTSSec"] = np.floor(times)
            file[f"{ATTRIBUTES}/NDArrayEpicsTSnSec"] = (times - np.floor(times)) * 1e9
        uid = f"{scan.uid[:30]}-{stream}"
        scan.documents.append(("resource", {
            "uid": uid, "spec": "AD_HDF5", "root": str(folder), "resource_path": path.name, "run_start": scan.uid,
            "path_semantics": "posix", "resource_kwargs": {"frame_per_point": len(images)},
        }))  # fmt: skip
        datum = {"datum_id": f"{uid}/0", "resource": uid, "datum_kwargs": {"point_number": 0}}
        scan.documents.append(("datum", datum))
        scan.event(1, stream, Andor_image=f"{uid}/0")
    scan.stream("zps_pi_r_monitor", zps_pi_r={"units": "deg"})
    for step in range(-3, 70):
        scan.event(step + 4, "zps_pi_r_monitor", {"zps_pi_r": 1000.0 + step}, zps_pi_r=3.0 * max(step, 0))
    scan.stop()
    return scan


def test_flats_of_the_scan_before_stand_in(tmp_path: Path) -> None:
    compile_kernels(CPU)
    tables = tomllib.loads(profiles()["fxi-streams"].read_text())
    tables["scan"]["pixel_size"] = 1e-6
    config = Config(source=SourceConfig(roots=(str(tmp_path),)), recon=RECON)
    documents, out = DocumentQueue(), tmp_path / "out"
    with Service(config, out) as service:
        serving = threading.Thread(target=service.run, daemon=True)
        serving.start()
        attachment = Attachment(documents, service.endpoint, [mapping_from_dict({"name": "fxi", **tables})], config)
        attached = threading.Thread(target=attachment.run, daemon=True)
        attached.start()
        scans = [fly_scan(tmp_path, number) for number in range(2)]
        for scan in scans:
            for name, doc in scan.documents:
                documents(name, doc)
        documents.close()
        attached.join(90)
        assert not attached.is_alive()
        service.stop()
        serving.join(30)
    assert attachment.scans == 2
    expected = reconstruct("simulated", config=Config(simulated=SIMULATED, recon=RECON))
    logs: list[list[dict[str, Any]]] = []
    for scan in scans:
        with h5py.File(out / scan.uid / "volume.h5", "r", locking=False) as file:
            found, group = file["entry/data/data"][:], file["entry/reconstruction"]
            assert group["final"][()]
            assert list(group["projection_indices"]) == list(range(60))
        assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
        logs.append([json.loads(line) for line in (out / scan.uid / "scan.log.jsonl").read_text().splitlines()])
    text = " ".join(entry["text"] for entry in logs[1])
    assert "flats after" in text
