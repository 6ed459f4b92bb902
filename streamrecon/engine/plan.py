"""The plan: bytes of memory and disk, and the choices that follow from them, before anything is allocated."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import psutil

from streamrecon.config import Config
from streamrecon.engine.output import most_kept
from streamrecon.errors import ConfigError, OutputError, PlanError
from streamrecon.recon.accumulate import Shape
from streamrecon.recon.direct import DirectAccumulator
from streamrecon.recon.fourier import FourierAccumulator
from streamrecon.scan import FrameKind, Geometry, ScanInfo
from streamrecon.wire.messages import Range

SHARE = 0.8
"""Of what is available or free: what a plan may use where no limit is set."""

BREAK_EVEN = 100
"""Angles between full snapshots from which on the Fourier method is the faster one on a CPU."""

RING_BYTES = 256 << 20
MOST_SLOTS = 1 << 16

PROGRAM_BYTES = 300 << 20
"""The interpreter, the libraries and the compiled kernels."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What one scan will take."""

    method: str
    """direct or fourier."""
    why: str
    """The reason for the method."""
    slots: int
    """Frames in the ring."""
    binning: int
    """Of partial volumes; 1 is full ones."""
    every: int
    """Projections between versions."""
    memory: dict[str, int]
    """Bytes by purpose."""
    disk: dict[str, int]
    """Bytes by purpose."""
    memory_limit: int
    disk_limit: int
    warnings: tuple[str, ...] = ()
    """What is allowed, but most likely not meant."""

    def lines(self) -> list[str]:
        """For people."""

        def total(parts: dict[str, int], limit: int) -> str:
            items = ", ".join(f"{name} {size(n)}" for name, n in parts.items())
            return f"{size(sum(parts.values()))} of {size(limit)} ({items})"

        partials = "full" if self.binning == 1 else f"previews binned {self.binning} x {self.binning} x {self.binning}"
        return [
            f"method {self.method}: {self.why}",
            f"a version every {self.every} projections, {partials}",
            f"memory {total(self.memory, self.memory_limit)}",
            f"disk {total(self.disk, self.disk_limit)}",
            *self.warnings,
        ]


def make_plan(info: ScanInfo, rows: Range, config: Config, out: Path) -> Plan:
    """Plan a scan.

    Parameters
    ----------
    info
        Of the scan.
    rows
        Detector rows to reconstruct, first and one past the last.
    config
        The options.
    out
        Output folder, for the disk's free space.

    Raises
    ------
    PlanError
        If the scan does not fit, naming the option to change.
    ConfigError, GeometryError
        If rows or center are beyond the detector.
    """
    options = config.recon
    if rows[1] > info.geometry.rows:
        raise ConfigError(
            f"rows {rows[0]}:{rows[1]} were asked for (--rows), but the detector has {info.geometry.rows}"
        )
    geometry = Geometry(rows[1] - rows[0], info.geometry.columns, info.geometry.pixel_size, options.center)
    center = (geometry.columns - 1) / 2 if options.center is None else options.center
    shape = Shape.of(geometry, options, center)
    count = info.counts.get(FrameKind.PROJECTION)
    every = config.emit.every or (max(1, count // 10) if count else BREAK_EVEN)
    memory_limit = config.engine.memory_bytes or int(SHARE * available_memory())
    disk_limit = config.engine.disk_bytes or int(SHARE * free_disk(out))

    frame = geometry.rows * geometry.columns * info.dtype.itemsize
    slots = _slots(config, frame, every, None if count is None else sum(n or 0 for n in info.counts.values()))
    states = {
        "direct": DirectAccumulator.bytes_needed(shape),
        "fourier": FourierAccumulator.bytes_needed(shape, options),
    }
    volume = geometry.rows * shape.side**2 * 4
    batch = config.engine.batch

    def memory(method: str) -> dict[str, int]:
        block = batch * shape.block_rows * shape.padded * 4
        work = 5 * block * options.upsampling if method == "direct" else 8 * block
        transform = states["fourier"] // shape.blocks * 2 if method == "fourier" else 0
        return {
            "program": PROGRAM_BYTES,
            "ring": slots * frame,
            "state": states[method],
            "batch": batch * (frame + 3 * geometry.rows * geometry.columns * 4) + work,
            "flats and dark": 8 * geometry.rows * geometry.columns * 4,
            "snapshot": 2 * volume + volume // shape.blocks + transform,
        }

    apart = every if config.emit.interval is None else 0
    method, why = _choose(options.method, apart, {name: sum(memory(name).values()) for name in states}, memory_limit)
    needed = memory(method)
    if sum(needed.values()) > memory_limit:
        raise PlanError(
            f"the scan needs {size(sum(needed.values()))} of memory, {size(memory_limit)} may be used: "
            + ", ".join(f"{name} {size(n)}" for name, n in needed.items())
            + ". Reconstruct fewer rows (--rows A:B), a smaller side (recon.side), a smaller ring (engine.ring_bytes), or "
            "raise the limit (engine.memory_bytes)"
        )

    known = all(n is not None for n in info.counts.values())
    frames = sum(n or 0 for n in info.counts.values())
    versions = most_kept(config.emit.keep)
    if count is not None and config.emit.interval is None:
        versions = min(versions, math.ceil(count / every))
    binning = 1
    if frames * frame + (versions + 1) * volume > disk_limit:
        binning = config.emit.preview
        while binning > shape.side:
            binning //= 2
    disk = {
        "journal" if known else "journal, of the frames announced": frames * frame,
        "partial volumes": versions * volume // binning**3,
        "final volume": volume,
    }
    if sum(disk.values()) > disk_limit:
        raise PlanError(
            f"the scan needs {size(sum(disk.values()))} on the disk of {out}, {size(disk_limit)} may be used: "
            + ", ".join(f"{name} {size(n)}" for name, n in disk.items())
            + ". Choose another --out, keep fewer versions (emit.keep, --every), bin previews more (emit.preview), "
            "reconstruct fewer rows (--rows A:B), or raise the limit (engine.disk_bytes)"
        )
    warnings = []
    if not 0 <= center <= geometry.columns - 1:
        warnings.append(
            f"the center {center:g} lies beside the detector, which has the columns 0 to {geometry.columns - 1}"
        )
    return Plan(method, why, slots, binning, every, needed, disk, memory_limit, disk_limit, tuple(warnings))


def _slots(config: Config, frame: int, every: int, frames: int | None) -> int:
    """Frames in the ring."""
    if config.engine.ring_bytes is None:
        slots = min(RING_BYTES // frame, max(config.engine.batch, every))
    else:
        slots = config.engine.ring_bytes // frame
    return max(2, min(slots, MOST_SLOTS if frames is None else frames))


def _choose(asked: str, apart: int, needs: dict[str, int], limit: int) -> tuple[str, str]:
    if asked != "auto":
        return asked, "as asked for"
    method = "fourier" if apart >= BREAK_EVEN else "direct"
    other = "direct" if method == "fourier" else "fourier"
    if needs[method] > limit >= needs[other]:
        return other, f"{method} would be faster, but needs {size(needs[method])} of memory"
    if not apart:
        return method, "versions are asked for by time (--interval), so they may be few angles apart"
    relation = "at least" if method == "fourier" else "fewer than"
    return method, f"versions are {relation} {BREAK_EVEN} angles apart"


def size(nbytes: float) -> str:
    """Bytes for people, 3 digits."""
    for unit in ("B", "kB", "MB", "GB"):
        if nbytes < 1000:
            return f"{nbytes:.3g} {unit}"
        nbytes /= 1000
    return f"{nbytes:.3g} TB"


def available_memory() -> int:
    """Bytes that this process can still take: of the machine, or of its control group where that is less."""
    available = int(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
    except (OSError, ValueError):
        return available
    return available if limit == "max" else max(0, min(available, int(limit) - used))


def free_disk(folder: Path) -> int:
    """Bytes free on the disk that holds a folder, which need not exist yet.

    Raises
    ------
    OutputError
        If no parent of it exists either.
    """
    for place in (folder, *folder.absolute().parents):
        if place.exists():
            return shutil.disk_usage(place).free
    raise OutputError(f"the output folder {folder} is on no disk of this machine")
