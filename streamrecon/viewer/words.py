"""In one plain sentence: what is happening, or why nothing is."""

from __future__ import annotations

from streamrecon.viewer.source import Link
from streamrecon.wire.messages import Progress, Update

QUIET = 5.0
"""Seconds without a frame that are worth saying."""
LAG = 0.1
"""Share of the projections received by which the volume may be behind before that is worth saying."""


def line(link: Link, progress: Progress | None, update: Update | None) -> str:
    """The sentence.

    Parameters
    ----------
    link
        How the source is doing.
    progress
        Newest word of the engine.
    update
        Newest version.
    """
    if link.state in ("waiting", "gone", "missing"):
        return _sentence(link.text)
    if link.state == "file" or progress is None:
        return _sentence(link.text if update is None else f"{_volume(update)}: {link.text}")
    return _sentence(_live(progress, update))


def _live(progress: Progress, update: Update | None) -> str:
    happens = _happens(progress, update)
    return f"{happens}; a viewer advises to stop the scan: {progress.advice}" if progress.advice else happens


def _happens(progress: Progress, update: Update | None) -> str:
    of_now = update is not None and update.key[:2] == (progress.uid, progress.reconstruction)
    final = update is not None and update.final and of_now
    if progress.alarm:
        return f"alarm: {progress.alarm}"
    if final and update is not None:
        return f"finished: {update.projections} projections are in the volume"
    if not progress.uid:
        return progress.phase or "waiting for a sender"
    phase = progress.phase
    of = "" if progress.expected is None else f" of {progress.expected}"
    if phase == "ended":
        return f"ended: {progress.in_volume}{of} projections are in the volume"
    if progress.paused:
        return f"{phase}; new versions are paused, and made only when asked for"
    lag = progress.projections - progress.in_volume
    if progress.in_volume and lag > max(1, LAG * progress.projections):
        return f"{phase}; the volume is {lag} projections behind"
    if not progress.version and progress.in_volume:
        return f"{phase}; the first version is not yet made"
    if not progress.frames:
        return f"{phase}; no frame has come yet"
    if ";" in phase:
        return phase  # it says more than that already
    if progress.quiet is not None and progress.quiet >= QUIET:
        return f"{phase}: {progress.projections}{of} projections; no frame has come for {progress.quiet:.0f} s"
    if not progress.projections:
        return f"{phase}: {progress.frames} flats and darks, no projection yet"
    if not progress.in_volume:
        return phase
    text = f"{phase}: {progress.in_volume}{of} projections"
    shown = update.projections if update is not None and of_now else 0
    due = None if progress.every is None else shown + progress.every
    ahead = due is not None and progress.in_volume < due <= (progress.expected or due)
    return f"{text}; the next version at {due}" if ahead else text


def _volume(update: Update) -> str:
    if update.final:
        return "finished volume" if update.projections else "volume"
    return f"partial volume of {update.projections} projections"


def _sentence(text: str) -> str:
    first = text.partition(" ")[0]
    return text if ":/" in first else text[:1].upper() + text[1:]
