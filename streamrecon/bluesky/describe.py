"""What attaching to a run would do: for people, before anything is sent."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence

from streamrecon.bluesky.hearing import BROKEN, Hearing
from streamrecon.bluesky.mapping import Mapping, reference_kinds, why_no_scan
from streamrecon.bluesky.run import Run
from streamrecon.bluesky.stream import Place, Shot, Stream
from streamrecon.errors import StreamreconError
from streamrecon.scan import FrameKind
from streamrecon.sources.roots import Roots

MOST_COLUMNS = 1 << 20
"""Of a detector that is not known."""


def describe(run: Run, mappings: Sequence[Mapping], roots: Roots) -> list[str]:
    """What a run is, by the documents that have come so far.

    Parameters
    ----------
    run
        The run.
    mappings
        The first that fits it counts.
    roots
        Where files may lie.

    Returns
    -------
    lines
        What maps to what, what is missing, and why.
    """
    start = run.start
    lines = [
        f"run {run.uid}: {start.get('plan_name', 'without a plan_name')}, scan_id {start.get('scan_id', 'unknown')}"
    ]
    for number, mapping in enumerate(mappings):
        kinds = reference_kinds(mapping, start)
        if kinds:
            has = " and ".join(f"{kind.name.lower()}s" for kind in kinds)
            return [*lines, f"  {mapping.name}: it has the {has} of the scans that follow"]
        why = why_no_scan(mapping, start)
        if why is None:
            lines.extend(f"  {line}" for line in _mapped(run, mapping, roots))
            also = [each.name for each in mappings[number + 1 :] if why_no_scan(each, start) is None]
            return [*lines, f"  note        it fits {', '.join(also)} as well: the first counts"] if also else lines
        lines.append(f"  {mapping.name}: no scan, as {why}")
    return lines


def _mapped(run: Run, mapping: Mapping, roots: Roots) -> list[str]:
    lines = [f"mapping     {mapping.name}"]
    rules = {kind: rule for kind, rule in mapping.rules().items() if rule.select != "run"}
    hearing = Hearing(run, mapping, rules, roots)
    shots, files = hearing.shots, hearing.files
    try:
        lines += [f"left out    {what}" for what in hearing.hear()[1]]
        if run.over:
            with contextlib.suppress(*BROKEN):
                shots.complete(run.num_events)
            files.finish()
        # Of those that were measured again the newest counts.
        found = {(s.kind, s.index): s for s in shots.decide(run.over, hearing.key) if isinstance(s, Shot)}
    except StreamreconError as error:
        return [*lines, f"refused     {error}"]
    by_kind = {kind: [shot for shot in found.values() if shot.kind is kind] for kind in FrameKind}
    streams = [stream for each in shots.streams.values() for stream in each]
    columns = MOST_COLUMNS
    for kind, rule in rules.items():
        stream = next((each for each in streams if each.name == rule.stream and rule.key in (None, each.key)), None)
        text, shape = _frames(rule.stream, stream, by_kind[kind], hearing, run.over)
        lines.append(f"{kind.name.lower() + 's':11} {text}")
        columns = shape[1] if shape is not None else columns
    for kind in (FrameKind.FLAT, FrameKind.DARK):
        if kind not in mapping.rules():
            lines.append(f"{kind.name.lower() + 's':11} none: the mapping has no [{kind.name.lower()}]")
        elif kind not in rules:
            lines.append(f"{kind.name.lower() + 's':11} from another run, before it")
    lines.append(f"theta       {_angles(mapping, hearing, by_kind[FrameKind.PROJECTION], run.over)}")
    if shots.undecided:
        lines.append(f"undecided   {shots.undecided} frames: what they are is known when more has come ({files.why})")
    facts, unknown = hearing.facts(mapping.scan, columns)
    lines.extend(f"{name:11} {number:g}" for name, number in facts.items())
    lines.extend(f"note        {note}" for note in [*files.notes, *hearing.angles.notes, *unknown])
    lines.append(f"state       {_state(run)}")
    return lines


def _frames(
    name: str, stream: Stream | None, found: list[Shot], hearing: Hearing, over: bool
) -> tuple[str, tuple[int, int] | None]:
    """What is known of frames, and their shape."""
    if stream is None:
        return f"none{' yet' if not over else ''}: {hearing.shots.none_of(name)}", None
    text = f"{len(found)} so far, {stream.key} of the stream {name}, {stream.per_event} an event"
    if not found:
        return text, None
    pixels, files = found[-1].pixels, hearing.files
    if not isinstance(pixels, Place):
        rows, columns = pixels.shape
        return f"{text}, in the events: {rows} x {columns} {pixels.dtype}", (rows, columns)
    try:
        ready = files.ready(pixels)
        return f"{text}; {files.place(pixels)}" + ("" if ready else f": {files.why}"), files.shape(pixels)
    except StreamreconError as error:
        return f"{text}; cannot be read: {error}", None


def _angles(mapping: Mapping, hearing: Hearing, projections: list[Shot], over: bool) -> str:
    rule, angles = mapping.theta, hearing.angles
    text = f"from {rule.from_} {rule.key or ''}".strip()
    known: list[float] = []
    why = ""
    for shot in projections:
        angles.add(shot)
    for shot in projections:
        hearing.files.why = ""
        try:
            theta = angles.theta(shot, over, late=over)
        except StreamreconError as error:
            theta, why = None, why or str(error)
        known += [] if theta is None else [theta]
        why = why or (hearing.files.why if theta is None else "")
    why = f": {why}" if why else ""
    if not known:
        return f"{text}: none has come{why}" if projections else f"{text}: no projection has come"
    missing = len(projections) - len(known)
    degrees = f"{math.degrees(known[0]):.4f} to {math.degrees(known[-1]):.4f} degrees"
    return f"{text}: {degrees}" + (f"; {missing} projections have none{why}" if missing else "")


def _state(run: Run) -> str:
    if run.stop is not None:
        reason = run.stop.get("reason")
        return f"ended: {run.stop.get('exit_status', 'success')} {reason if isinstance(reason, str) else ''}".strip()
    return f"broke off: {run.gone}" if run.gone is not None else "going on"
