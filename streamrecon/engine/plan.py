"""The plan: bytes of memory and disk, and the choices that follow from them, before anything is allocated."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from streamrecon.config import Config, ReconConfig
from streamrecon.engine.mask import Mask
from streamrecon.engine.output import most_kept
from streamrecon.errors import ConfigError, GeometryError, OutputError, PlanError
from streamrecon.recon.accumulate import Shape
from streamrecon.recon.direct import DirectAccumulator
from streamrecon.recon.fourier import FourierAccumulator
from streamrecon.recon.offset import FULL, TURN, beside_middle, overlap_weight
from streamrecon.recon.weights import covered_arc
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
    out: Path
    """The output folder, on whose disk the limit is."""
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
        If rows, center or air are beyond the detector, the mask of bad pixels is not of it, or the angles are too few for an
        offset axis.
    """
    options, columns = config.recon, info.geometry.columns
    if rows[1] > info.geometry.rows:
        raise ConfigError(
            f"rows {rows[0]}:{rows[1]} were asked for (--rows), but the detector has {info.geometry.rows}"
        )
    air = config.normalize.air
    if air is not None and sum(air) > columns:
        raise ConfigError(
            f"{air[0]} and {air[1]} columns of air were asked for (--air), but the detector has {columns}"
        )
    if config.normalize.bad_pixels is not None:
        Mask.read(config.normalize.bad_pixels).rows(info.geometry, rows)  # refuses what does not fit
    given = info.geometry.center if options.center is None else options.center
    center = (columns - 1) / 2 if given is None else given
    geometry = Geometry(rows[1] - rows[0], columns, info.geometry.pixel_size)
    shape = _shape(info, geometry, options, given)
    memory_limit = config.engine.memory_bytes or int(SHARE * available_memory())
    disk_limit = config.engine.disk_bytes or int(SHARE * free_disk(out))
    plan = fit(info, shape, config, memory_limit, disk_limit, out)
    if 0 <= center <= columns - 1:
        return plan
    beside = f"the center {center:g} lies beside the detector, which has the columns 0 to {columns - 1}"
    return replace(plan, warnings=(*plan.warnings, beside))


def _shape(info: ScanInfo, geometry: Geometry, options: ReconConfig, center: float | None) -> Shape:
    """The largest shape that has to be expected before the center is known.

    An axis that is found far beside the middle is not expected: that would double everyone's memory. It is planned anew.
    """
    arc = None if info.theta is None else covered_arc(info.theta, TURN)
    if options.offset_axis == "yes":
        if arc is not None and arc < FULL:
            raise GeometryError(
                f"an offset axis was asked for (recon.offset_axis), but the angles cover {math.degrees(arc):.0f} degrees of "
                f"the full turn whose views would be joined; expected at least {math.degrees(FULL):.0f}"
            )
        if center is not None:
            overlap_weight(geometry.columns, center)  # refuses an axis beside the detector
        return Shape.of(geometry, options, 0.0 if center is None else center, True)
    if center is None:
        center = (geometry.columns - 1) / 2
    beside = beside_middle(center, geometry.columns) and 0 <= center <= geometry.columns - 1
    likely = options.offset_axis == "auto" and beside and arc is not None and arc >= FULL
    return Shape.of(geometry, options, center, likely)


def fit(info: ScanInfo, shape: Shape, config: Config, memory_limit: int, disk_limit: int, out: Path) -> Plan:
    """Plan the reconstruction of one shape.

    Parameters
    ----------
    info
        Of the scan.
    shape
        Of the reconstruction.
    config
        The options.
    memory_limit, disk_limit
        Bytes.
    out
        Output folder, for the message.

    Raises
    ------
    PlanError
        If it does not fit, naming the option to change.
    """
    options = config.recon
    count = info.counts.get(FrameKind.PROJECTION)
    every = config.emit.every or (max(1, count // 10) if count else BREAK_EVEN)
    frame = shape.rows * shape.columns * info.dtype.itemsize
    slots = _slots(config, frame, every, None if count is None else sum(n or 0 for n in info.counts.values()))
    states = {
        "direct": DirectAccumulator.bytes_needed(shape),
        "fourier": FourierAccumulator.bytes_needed(shape, options),
    }
    volume = shape.rows * shape.side**2 * 4
    batch = config.engine.batch
    # Images of 4 bytes a pixel; the stripes are a sum, its mean and the median of 8, and two rows.
    fields = 8 + (8 if config.normalize.rings else 0)

    def memory(method: str) -> dict[str, int]:
        block = batch * shape.block_rows * shape.padded * 4
        work = 5 * block * options.upsampling if method == "direct" else 8 * block
        transform = states["fourier"] // shape.blocks * 2 if method == "fourier" else 0
        return {
            "program": PROGRAM_BYTES,
            "ring": slots * frame,
            "state": states[method],
            "batch": batch * (frame + 3 * shape.rows * shape.columns * 4) + work,
            "flats and dark": fields * shape.rows * shape.columns * 4,
            "snapshot": 2 * volume + volume // shape.blocks + transform,
        }

    apart = every if config.emit.interval is None else 0
    method, why = _choose(options.method, apart, {name: sum(memory(name).values()) for name in states}, memory_limit)
    needed = memory(method)
    if sum(needed.values()) > memory_limit:
        wide = (
            f". The views of a full turn are joined to slices of a side of {shape.side} pixels: where that is not meant, give "
            'the center (--center) or say recon.offset_axis = "no"'
        )
        raise PlanError(
            f"the scan needs {size(sum(needed.values()))} of memory, {size(memory_limit)} may be used: "
            + ", ".join(f"{name} {size(n)}" for name, n in needed.items())
            + ". Reconstruct fewer rows (--rows A:B), a smaller side (recon.side), a smaller ring (engine.ring_bytes), or "
            f"raise the limit (engine.memory_bytes){wide if shape.offset_axis and not options.side else ''}"
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
    return Plan(method, why, slots, binning, every, needed, disk, memory_limit, disk_limit, out)


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
