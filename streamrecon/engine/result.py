"""How a scan ended."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from streamrecon.engine.status import Status


@dataclass(frozen=True, slots=True)
class Result:
    """How a scan ended."""

    volume: Path | None
    """OUT/volume.h5, or None where no version was written."""
    final: bool
    """Whether the sender ended the scan and everything it sent is in the volume."""
    reason: str | None
    """Why the volume is not complete, where it is not."""
    missing: int
    """Projections that were announced and never came."""
    status: Status
    """The counters at the end."""
    stages: dict[str, float]
    """Seconds by stage: transport in the I/O thread, write in the writer thread, all others in the compute thread."""
    seconds: float
    """From the first frame to the last version."""
