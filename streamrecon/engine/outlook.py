"""What `streamrecon plan` shows: bytes and seconds of a scan, for each method, and what was chosen."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from streamrecon.config import Config
from streamrecon.engine.cost import METHODS
from streamrecon.engine.decompose import decompose
from streamrecon.engine.plan import Plan, duration, make_plan, size
from streamrecon.errors import ConfigError
from streamrecon.scan import FrameKind, Geometry, ScanInfo

MOST_ANGLES = 10_000_000


def imagined_scan(columns: int, rows: int, angles: int, dtype: str = "uint16") -> ScanInfo:
    """A half turn that nobody has measured yet.

    Parameters
    ----------
    columns, rows
        Of the detector.
    angles
        Projections.
    dtype
        Of its pixels.

    Raises
    ------
    ConfigError
        If there is no such dtype, or no angle.
    """
    if not 1 <= angles <= MOST_ANGLES:
        raise ConfigError(f"--angles is {angles}; expected 1 to {MOST_ANGLES}")
    try:
        kind = np.dtype(dtype)
    except (TypeError, ValueError, SyntaxError):
        raise ConfigError(f"--dtype is {dtype!r}; expected uint8, uint16, uint32, int16, int32, float32...") from None
    theta = np.arange(angles, dtype=np.float64) * (math.pi / angles)
    counts = {FrameKind.PROJECTION: angles, FrameKind.FLAT: 0, FrameKind.DARK: 0}
    return ScanInfo("imagined", Geometry(rows, columns), kind, counts, theta)


def outlook(info: ScanInfo, config: Config, out: Path, ranks: int = 1) -> tuple[list[str], bool]:
    """Plan a scan, for people.

    Parameters
    ----------
    info
        Of the scan.
    config
        The options.
    out
        Output folder, for the disk's free space.
    ranks
        Machines like this one that share the rows; each holds one rank.

    Returns
    -------
    lines
        Also of a scan that does not fit.
    fits
        Whether it fits this machine.

    Raises
    ------
    ConfigError, GeometryError
        If options and scan do not fit together.
    """
    first, end = config.recon.rows or (0, info.geometry.rows)
    if end > info.geometry.rows:
        raise ConfigError(f"rows {first}:{end} were asked for (--rows), but the detector has {info.geometry.rows}")
    if not 1 <= ranks <= end - first:
        raise ConfigError(f"--ranks is {ranks}; expected 1 to {end - first}, the rows to reconstruct")
    rows = decompose((first, end), ranks, config.emit.preview)[0]
    plan, slab = make_plan(info, rows, config, out, refuse=False), rows[1] - rows[0]
    count = info.counts.get(FrameKind.PROJECTION)
    shared = f"; {ranks} ranks, the largest slab has {slab} rows" if ranks > 1 else ""
    lines = [
        f"scan      {end - first} rows x {info.geometry.columns} columns, {count or 'an unknown number of'} projections, "
        f"{info.dtype}{shared}",
        f"method    {plan.method}: {plan.why}",
        f"versions  every {plan.every} projections, {_partials(plan)}",
        "",
        *_table(plan, "memory of a rank" if ranks > 1 else "memory"),
        "",
        f"disk      {'of a rank: ' if ranks > 1 else ''}{size(sum(plan.disk.values()))} of {size(plan.disk_limit)}: "
        + ", ".join(f"{name} {size(n)}" for name, n in plan.disk.items()),
        f"pace      {_pace(plan, count)}",
        *plan.warnings,
        *(f"refused   {refusal}" for refusal in plan.refusals),
    ]
    return lines, not plan.refusals


def _partials(plan: Plan) -> str:
    return "full" if plan.binning == 1 else f"previews binned {plan.binning} x {plan.binning} x {plan.binning}"


def _table(plan: Plan, title: str) -> list[str]:
    """Bytes and seconds, a column for each method."""

    def line(name: str, cells: list[str]) -> str:
        marks = ["*" if method == plan.method else " " for method in METHODS]
        return f"  {name:22}" + "".join(f"{cell:>12}{mark}" for cell, mark in zip(cells, marks, strict=True))

    estimates = [plan.estimates[method] for method in METHODS]
    lines = [f"{title:24}" + "".join(f"{method:>12} " for method in METHODS)]
    lines += [line(name, [size(e.memory[name]) for e in estimates]) for name in estimates[0].memory]
    lines += [line(f"of {size(plan.memory_limit)}", [size(e.total_memory) for e in estimates])]
    if plan.device == "gpu":
        lines += ["memory of the GPU"]
        lines += [line(name, [size(e.gpu_memory[name]) for e in estimates]) for name in estimates[0].gpu_memory]
    lines += [f"computing, {plan.cores} threads" + (" and the GPU" if plan.device == "gpu" else "")]
    lines += [line(name, [duration(e.seconds[name]) for e in estimates]) for name in estimates[0].seconds]
    return [*lines, line("in all", [duration(e.total_seconds) for e in estimates])]


def _pace(plan: Plan, count: int | None) -> str:
    if not count:
        return "the number of projections is unknown; seconds are those of one version"
    estimate = plan.estimates[plan.method]
    return (
        f"about {float(f'{count / estimate.total_seconds:.3g}'):,.12g} projections/s; the final volume "
        f"{duration(estimate.seconds['final volume'])} after the last one, by the rates of a usual core"
    )
