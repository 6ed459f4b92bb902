"""Scans made of lists of frames, how to stream one into an engine in this process, and what a batch reconstruction gives."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from scipy.ndimage import median_filter

from streamrecon.config import (
    Config,
    EmitConfig,
    EngineConfig,
    NormalizeConfig,
    ReconConfig,
    SendConfig,
    SimulatedConfig,
)
from streamrecon.engine import Engine, Result
from streamrecon.recon.accumulate import Shape, snapshot
from streamrecon.recon.direct import DirectAccumulator
from streamrecon.recon.fourier import FourierAccumulator
from streamrecon.recon.normalize import FlatGroup, Normalization, Normalizer, combine
from streamrecon.recon.weights import arc_weights
from streamrecon.scan import Frame, FrameKind, Gap, Geometry, ScanInfo
from streamrecon.sources import SimulatedSource
from streamrecon.transport import SendReport, send_scan

SECONDS = 60
"""Longest a scan of these tests may take before it counts as hanging."""

P, F, D = FrameKind.PROJECTION, FrameKind.FLAT, FrameKind.DARK


@dataclass(frozen=True)
class Scan:
    """Frames in the order in which they are sent."""

    info: ScanInfo
    items: list[Frame] = field(repr=False)

    def frames(self, rows: slice = slice(None)) -> Iterator[Frame]:
        for frame in self.items:
            yield replace(frame, data=np.ascontiguousarray(frame.data[rows]))

    def of(self, kind: FrameKind) -> list[Frame]:
        return [f for f in self.items if f.kind == kind]

    def with_info(self, **changes: Any) -> Scan:
        return Scan(replace(self.info, **changes), self.items)

    def unknown(self) -> Scan:
        """Neither angles nor counts are announced."""
        return self.with_info(theta=None, counts=dict.fromkeys(FrameKind))

    def arranged(self, *parts: list[Frame]) -> Scan:
        return Scan(self.info, [f for part in parts for f in part])


def simulated(**options: Any) -> Scan:
    options = {"rows": 6, "columns": 48, "projections": 60, "flats": 5, "darks": 5, "seed": 3} | options
    source = SimulatedSource(SimulatedConfig(**options))
    return Scan(source.info(), list(source.frames()))


def config(
    *,
    recon: dict[str, Any] | None = None,
    emit: dict[str, Any] | None = None,
    engine: dict[str, Any] | None = None,
    normalize: dict[str, Any] | None = None,
    send: dict[str, Any] | None = None,
) -> Config:
    return Config(
        recon=ReconConfig(**({"center": 24.3, "method": "direct"} | (recon or {}))),
        emit=EmitConfig(**({"every": 1000} | (emit or {}))),
        engine=EngineConfig(
            **({"heartbeat": 0.2, "peer_timeout": 20.0, "return_timeout": 0.0, "ring_bytes": 1 << 20} | (engine or {}))
        ),
        normalize=NormalizeConfig(**(normalize or {})),
        send=SendConfig(**(send or {})),
    )


@dataclass
class Streamed:
    """What came out at both ends."""

    result: Result | None
    report: SendReport | None
    sender_error: Exception | None
    engine_error: Exception | None
    events: list[dict[str, Any]]
    out: Path

    @property
    def volume(self) -> np.ndarray:
        assert self.engine_error is None, self.engine_error
        assert self.sender_error is None, self.sender_error
        assert self.result is not None
        assert self.result.final, self.result
        return read_volume(self.out)

    def told(self, event: str) -> list[dict[str, Any]]:
        return [e for e in self.events if e["event"] == event]


class Sending(threading.Thread):
    """A sender at work: what came of it, one or the other, once it has ended."""

    def __init__(
        self,
        scan: Scan,
        endpoint: str,
        options: Config,
        frames: Callable[[slice], Iterator[Frame | Gap]] | None = None,
        **more: Any,
    ) -> None:
        super().__init__(daemon=True)
        self.report: SendReport | None = None
        self.error: Exception | None = None
        engine = options.engine
        self._call = {
            "info": scan.info, "frames": frames or scan.frames, "endpoint": endpoint, "options": options.send,
            "heartbeat": engine.heartbeat, "peer_timeout": engine.peer_timeout, "connect_timeout": 10.0, **more,
        }  # fmt: skip
        self.start()

    def run(self) -> None:
        try:
            self.report = send_scan(**self._call)
        except Exception as error:
            self.error = error


def held(scan: Scan, index: int, go: threading.Event) -> Callable[[slice], Iterator[Frame]]:
    """Frames of a scan, which from this projection on come only when they may: until then it is not over, however fast it is."""

    def frames(rows: slice) -> Iterator[Frame]:
        for frame in scan.frames(rows):
            if frame.kind is P and frame.index >= index:
                go.wait(SECONDS)
            yield frame

    return frames


def stream(
    scan: Scan,
    options: Config,
    out: Path,
    *,
    frames: Callable[[slice], Iterator[Frame | Gap]] | None = None,
    watch: Callable[[Engine], None] = lambda engine: None,
    overwrite: bool = False,
    seconds: float = SECONDS,
    through: Callable[[str], AbstractContextManager[str]] = contextlib.nullcontext,
    **more: Any,
) -> Streamed:
    """Send a scan into an engine; no exception leaves, no end may hang.

    `through` gives, for the engine's endpoint, the one that the sender connects to; `more` goes to `send_scan`.
    """
    events: list[dict[str, Any]] = []
    streamed = Streamed(None, None, None, None, events, out)
    with Engine(options, out, events.append, overwrite) as engine, through(engine.endpoint) as endpoint:
        sender = Sending(scan, endpoint, options, frames, **more)
        try:
            watch(engine)
            streamed.result = engine.wait(seconds)
            assert streamed.result is not None, f"the engine hangs: {engine.status()}"
        except AssertionError:
            raise
        except Exception as error:
            streamed.engine_error = error
        sender.join(10)
        assert not sender.is_alive(), "the sender hangs"
        streamed.report, streamed.sender_error = sender.report, sender.error
    return streamed


def batch(
    scan: Scan,
    options: Config,
    center: float | None = None,
    method: str = "direct",
    weights: Any = None,
    bad: Any = None,
    offset: bool = False,
) -> np.ndarray:
    """The volume when everything is known beforehand: straight from the parts of `streamrecon.recon`."""
    info, recon = scan.info, options.recon
    geometry = Geometry(info.geometry.rows, info.geometry.columns, info.geometry.pixel_size)
    projections = sorted(scan.of(P), key=lambda f: f.index)
    dark = np.zeros(info.frame_shape, np.float32)
    if scan.of(D):
        dark = combine(np.stack([f.data for f in scan.of(D)]), options.normalize.dark)
    groups: list[tuple[int, list[np.ndarray]]] = []
    seen, fresh = 0, True
    for frame in scan.items:
        if frame.kind == F:
            if fresh:
                groups.append((seen, []))
            groups[-1][1].append(frame.data)
            fresh = False
        elif frame.kind == P:
            seen += 1
            fresh = True
    flats = tuple(FlatGroup(float(n), combine(np.stack(images), options.normalize.flat)) for n, images in groups)
    floor = options.normalize.floor or 0.5
    normalize = options.normalize
    normalizer = Normalizer(Normalization(dark, flats, 1.0, floor, normalize.interpolate_flats, normalize.air, bad))
    integrals = normalizer.line_integrals(
        np.stack([f.data for f in projections]), np.array([f.index for f in projections], float)
    )
    theta = np.array([f.theta for f in projections], float)
    where = recon.center if center is None else center
    assert where is not None
    if normalize.rings is not None:
        mean = integrals.mean(axis=0, dtype=np.float64)
        integrals -= (mean - median_filter(mean, (1, normalize.rings | 1), mode="nearest")).astype(np.float32)
    if offset:
        weights = arc_weights(theta, 2 * np.pi) if weights is None else weights
    shape = Shape.of(geometry, recon, where, offset)
    accumulator = (DirectAccumulator if method == "direct" else FourierAccumulator)(shape, recon)
    accumulator.add(integrals, theta, arc_weights(theta) if weights is None else weights)
    return snapshot(accumulator)


def read_volume(out: Path) -> np.ndarray:
    with h5py.File(out / "volume.h5", "r", locking=False) as file:
        return file["entry/data/data"][:]


def read(out: Path, path: str) -> Any:
    with h5py.File(out / "volume.h5", "r", locking=False) as file:
        value = file[path][()]
    return value.decode() if isinstance(value, bytes) else value


def story(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "scan.log.jsonl").read_text().splitlines()]


def difference(got: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference relative to the largest value."""
    assert got.shape == expected.shape
    assert np.isfinite(got).all()
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def shuffled(frames: list[Frame], how: str) -> list[Frame]:
    from streamrecon.sources.order import projection_order

    return [frames[i] for i in projection_order(how, len(frames))]
