"""The plan: bytes of memory and disk, and the choices that follow from them, before anything is allocated."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
from streamrecon_kernels import threads

from streamrecon.config import Config, ReconConfig
from streamrecon.engine.cost import METHODS, Estimate, Work, memory, seconds
from streamrecon.engine.device import free_bytes, uses_gpu
from streamrecon.engine.fields import COMBINED_BYTES
from streamrecon.engine.mask import Mask
from streamrecon.engine.multiscale import image_bytes
from streamrecon.engine.orders import Decided
from streamrecon.engine.output import most_kept
from streamrecon.errors import ConfigError, GeometryError, OutputError, PlanError
from streamrecon.recon.accumulate import Shape
from streamrecon.recon.offset import FULL, TURN, beside_middle, overlap_weight
from streamrecon.recon.weights import covered_arc
from streamrecon.scan import FrameKind, Geometry, ScanInfo
from streamrecon.wire.messages import Range

SHARE = 0.8
"""Of what is available or free: what a plan may use where no limit is set."""

EVERY = 100
"""Projections between versions where the length of the scan is unknown."""

RING_BYTES = 256 << 20
MOST_SLOTS = 1 << 16


@dataclass(frozen=True, slots=True)
class Share:
    """What part of a machine and of a disk is a rank's."""

    here: int = 1
    """Ranks on this machine, which share its memory."""
    ranks: int = 1
    """Ranks of the job, which share the disk."""


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
    estimates: dict[str, Estimate]
    """Memory and time of each method."""
    cores: int
    """That the estimate counts on."""
    device: str
    """cpu or gpu."""
    disk: dict[str, int]
    """Bytes by purpose."""
    memory_limit: int
    disk_limit: int
    out: Path
    """The output folder, on whose disk the limit is."""
    whole_fits: bool
    """Whether partial versions without binning would fit, too."""
    refusals: tuple[str, ...] = ()
    """Why the scan does not fit, naming the options to change."""
    warnings: tuple[str, ...] = ()
    """What is allowed, but most likely not meant."""

    @property
    def decided(self) -> Decided:
        """What all ranks have to do alike."""
        return Decided(self.method, self.binning, self.every)

    @property
    def memory(self) -> dict[str, int]:
        """Bytes by purpose."""
        return self.estimates[self.method].memory

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


def make_plan(
    info: ScanInfo,
    rows: Range,
    config: Config,
    out: Path,
    refuse: bool = True,
    share: Share = Share(),
    decided: Decided | None = None,
    begun: int | None = None,
) -> Plan:
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
    refuse
        Whether a scan that does not fit is an error; else the plan says so.
    share
        Of machine and disk, where several ranks share them.
    decided
        What rank 0 has decided for all; None: decide.
    begun
        Bytes on the disk of a scan that is gone on with: they are needed, and there. If the disk has become too small
        for the rest, this is told, and space is waited for.

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
    memory_limit = config.engine.memory_bytes or int(SHARE * available_memory() / share.here)
    disk_limit = (config.engine.disk_bytes or int(SHARE * free_disk(out)) + (begun or 0)) // share.ranks
    plan = fit(info, shape, config, memory_limit, disk_limit, out, refuse, decided, begun is not None)
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


def fit(
    info: ScanInfo,
    shape: Shape,
    config: Config,
    memory_limit: int,
    disk_limit: int,
    out: Path,
    refuse: bool = True,
    decided: Decided | None = None,
    begun: bool = False,
) -> Plan:
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
    refuse, decided
        As in `make_plan`.
    begun
        Whether the scan is gone on with.

    Raises
    ------
    PlanError
        If it does not fit, naming the option to change.
    """
    options = config.recon
    count = info.likely_projections
    every = decided.every if decided else config.emit.every or (max(1, count // 10) if count else EVERY)
    frame = shape.rows * shape.columns * info.dtype.itemsize
    frames = (count or 0) + sum(n or 0 for kind, n in info.counts.items() if kind is not FrameKind.PROJECTION)
    slots = _slots(config, frame, every, None if count is None else frames)
    volume = shape.rows * shape.side**2 * 4
    kept = most_kept(config.emit.keep)
    if count is not None and config.emit.interval is None:
        kept = min(kept, math.ceil(count / every))
    zarr = config.emit.zarr
    # A version, with its image.
    copies = volume + (_image(shape, 1) if zarr else 0)
    ring = slots * frame
    given = options.center is not None or info.geometry.center is not None
    gpu = uses_gpu(config.engine.device)
    limits = memory_limit, int(SHARE * free_bytes()) if gpu else 0
    work = Work(
        shape,
        options,
        angles=count or every,
        versions=math.ceil(count / every) - 1 if count else 1,
        binning=1,
        passes=1 if given else 2,
        cores=threads(),
        gpu=gpu,
    )
    smaller = min(config.emit.preview, 1 << (shape.side.bit_length() - 1))
    batch = config.engine.batch if count is None else max(1, min(config.engine.batch, count))
    flats = max((n or 0 for kind, n in info.counts.items() if kind is not FrameKind.PROJECTION), default=0)
    # A median of flats takes a copy to sort and its result in double precision.
    combined = 3 * min(COMBINED_BYTES, flats * frame)
    rings, viewers = config.normalize.rings is not None, config.emit.publish is not None
    choices = []
    for binning in (1, smaller):
        some = replace(work, binning=binning)
        estimates = {
            method: Estimate(
                *memory(method, some, batch, info.dtype.itemsize, ring, rings, combined, viewers),
                seconds(method, some),
            )
            for method in METHODS
        }
        asked = decided.method if decided else options.method
        method, why = _choose(asked, config.emit.interval, estimates, limits)
        choices.append((binning, estimates, method, why))
    full, small = choices
    fit_full = _fits(full[1][full[2]], limits) and frames * frame + (kept + 1) * copies <= disk_limit
    # Full partial volumes, if memory and disk allow it; but not where they leave memory for the slower method only.
    fastest = min(METHODS, key=lambda name: _time(full[1][name], config.emit.interval))
    forced = options.method == "auto" and full[2] != fastest and small[2] == fastest
    whole = fit_full and not forced if decided is None else decided.binning == 1
    binning, estimates, method, why = full if whole else small
    binning = decided.binning if decided else binning
    needed, refusals = estimates[method].memory, []
    if sum(needed.values()) > memory_limit:
        wide = (
            f". The views of a full turn are joined to slices of a side of {shape.side} pixels: where that is not meant, give "
            'the center (--center) or say recon.offset_axis = "no"'
        )
        refusals.append(
            f"the scan needs {size(sum(needed.values()))} of memory, {size(memory_limit)} may be used: "
            + ", ".join(f"{name} {size(n)}" for name, n in needed.items())
            + ". Reconstruct fewer rows (--rows A:B), a smaller side (recon.side), a smaller ring (engine.ring_bytes), or "
            f"raise the limit (engine.memory_bytes){wide if shape.offset_axis and not options.side else ''}"
        )

    on_gpu = estimates[method].gpu_memory
    if sum(on_gpu.values()) > limits[1]:
        refusals.append(
            f"the scan needs {size(sum(on_gpu.values()))} of the GPU's memory, {size(limits[1])} may be used: "
            + ", ".join(f"{name} {size(n)}" for name, n in on_gpu.items())
            + '. Reconstruct fewer rows (--rows A:B), a smaller side (recon.side), or say engine.device = "cpu"'
        )
    known = all(n is not None for n in info.counts.values())
    disk = {
        "journal" if known else "journal, of the frames announced": frames * frame,
        "partial volumes": kept * volume // binning**3,
        "final volume": volume,
    }
    if zarr:
        disk["OME-Zarr"] = kept * _image(shape, binning) + _image(shape, 1)
    warnings: list[str] = []
    if sum(disk.values()) > disk_limit:
        (warnings if begun else refusals).append(
            f"the scan needs {size(sum(disk.values()))} on the disk of {out}, {size(disk_limit)} may be used: "
            + ", ".join(f"{name} {size(n)}" for name, n in disk.items())
            + ". Choose another --out, keep fewer versions (emit.keep, --every), bin previews more (emit.preview), "
            f"reconstruct fewer rows (--rows A:B), {'leave OME-Zarr out (emit.zarr), ' if zarr else ''}or raise the limit "
            "(engine.disk_bytes)"
        )
    if refusals and refuse:
        raise PlanError(refusals[0])
    return Plan(
        method,
        why,
        slots,
        binning,
        every,
        estimates,
        work.cores,
        "gpu" if gpu else "cpu",
        disk,
        memory_limit,
        disk_limit,
        out,
        _fits(full[1][method], limits) and frames * frame + 2 * copies <= disk_limit,
        tuple(refusals),
        tuple(warnings),
    )


def _image(shape: Shape, binning: int) -> int:
    """Bytes of a version as OME-Zarr."""
    side = max(1, shape.side // binning)
    return image_bytes((max(1, shape.rows // binning), side, side))


def _slots(config: Config, frame: int, every: int, frames: int | None) -> int:
    """Frames in the ring."""
    if config.engine.ring_bytes is None:
        slots = min(RING_BYTES // frame, max(config.engine.batch, every))
    else:
        slots = config.engine.ring_bytes // frame
    return max(2, min(slots, MOST_SLOTS if frames is None else frames))


def _choose(
    asked: str, interval: float | None, estimates: dict[str, Estimate], limits: tuple[int, int]
) -> tuple[str, str]:
    """The method and the reason for it: the faster one of those that fit."""
    if asked != "auto":
        return asked, "as asked for"
    times = {name: _time(estimate, interval) for name, estimate in estimates.items()}
    method, other = sorted(times, key=lambda name: times[name])
    if not _fits(estimates[method], limits) and _fits(estimates[other], limits):
        there = sum(estimates[method].gpu_memory.values())
        needed = f"{size(there)} of the GPU's" if there > limits[1] else f"{size(estimates[method].total_memory)} of"
        return other, f"{method} would be faster, but needs {needed} memory"
    return method, f"about {duration(times[method])} of computing, where {other} takes {duration(times[other])}"


def _fits(estimate: Estimate, limits: tuple[int, int]) -> bool:
    return estimate.total_memory <= limits[0] and sum(estimate.gpu_memory.values()) <= limits[1]


def _time(estimate: Estimate, interval: float | None) -> float:
    """Seconds for the scan. Versions that are due by time, besides those due by number, take their share of all the time."""
    if interval is None:
        return estimate.total_seconds
    return estimate.total_seconds / max(0.05, 1 - estimate.seconds["final volume"] / interval)


def duration(time: float) -> str:
    """Seconds for people, 2 digits."""
    units = ((0.0995, 1e-3, "ms"), (99.5, 1.0, "s"), (5970.0, 60.0, "min"), (math.inf, 3600.0, "h"))
    _, scale, unit = next(each for each in units if time < each[0])
    value = time / scale
    return f"{value:.2g} {unit}" if value < 99.5 else f"{value:.0f} {unit}"


def size(nbytes: float) -> str:
    """Bytes for people, 3 digits."""
    for unit in ("B", "kB", "MB", "GB"):
        if nbytes < 999.5:
            return f"{nbytes:.3g} {unit}"
        nbytes /= 1000
    return f"{nbytes:.3g} TB"


def available_memory() -> int:
    """Bytes that this process can still take: of the machine, or of its control group where that is less.

    Raises
    ------
    PlanError
        If the system does not say.
    """
    try:
        available = int(psutil.virtual_memory().available)
    except OSError as error:  # too many open files
        raise PlanError(f"cannot see how much memory there is, so say engine.memory_bytes: {error.strerror}") from error
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
