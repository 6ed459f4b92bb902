"""What attaching to a run would do: for people, before anything is sent."""

from __future__ import annotations

import math
from collections.abc import Sequence

from streamrecon.bluesky.angles import Angles, value_of
from streamrecon.bluesky.files import Files
from streamrecon.bluesky.mapping import Mapping, fits, why_no_scan
from streamrecon.bluesky.run import Run
from streamrecon.bluesky.shots import Place, Shot, Shots, Stream
from streamrecon.errors import MessageError, StreamreconError
from streamrecon.scan import FrameKind
from streamrecon.sources.roots import Roots


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
        for kind, rule in mapping.rules().items():
            if rule.select == "run" and fits(rule.match, start) is None:
                return [*lines, f"  {mapping.name}: it has the {kind.name.lower()}s of the scans that follow"]
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
    shots = Shots(rules)
    files = Files(shots, roots)
    angles = Angles(mapping.theta, lambda value, option: value_of(value, run.start, shots.configuration, option), files)
    for document in run.since(0):
        try:
            shots.hear(document)
            angles.hear(document)
        except MessageError as error:
            lines.append(f"left out    a {document.name} document: {error}")
        except StreamreconError as error:
            return [*lines, f"refused     {error}"]
    try:
        found = [item for item in shots.decide(run.over, lambda key, moment: None) if isinstance(item, Shot)]
    except StreamreconError as error:
        return [*lines, f"refused     {error}"]
    streams = [stream for each in shots.streams.values() for stream in each]
    for kind, rule in rules.items():
        stream = next((each for each in streams if each.name == rule.stream and rule.key in (None, each.key)), None)
        of_kind = [shot for shot in found if shot.kind is kind]
        lines.append(f"{kind.name.lower() + 's':11} {_frames(kind, rule.stream, stream, of_kind, files, shots)}")
    for kind in (FrameKind.FLAT, FrameKind.DARK):
        if kind not in mapping.rules():
            lines.append(f"{kind.name.lower() + 's':11} none: the mapping has no [{kind.name.lower()}]")
        elif kind not in rules:
            lines.append(f"{kind.name.lower() + 's':11} from another run, before it")
    lines.append(
        f"theta       {_angles(mapping, angles, [s for s in found if s.kind is FrameKind.PROJECTION], run.over)}"
    )
    if shots.undecided:
        lines.append(f"undecided   {shots.undecided} frames: what they are is known when more have come")
    lines.extend(f"note        {note}" for note in [*files.notes, *angles.notes])
    lines.append(f"state       {_state(run)}")
    return lines


def _frames(kind: FrameKind, name: str, stream: Stream | None, found: list[Shot], files: Files, shots: Shots) -> str:
    if stream is None:
        known = ", ".join(shots.streams) or "none"
        return f"none yet: no descriptor of the stream {name} has come (streams: {known})"
    text = f"{len(found)} so far, {stream.key} of the stream {name}, {stream.per_event} an event"
    if not found:
        return text
    pixels = found[-1].pixels
    if not isinstance(pixels, Place):
        return f"{text}, in the events: {pixels.shape[0]} x {pixels.shape[1]} {pixels.dtype}"
    try:
        ready = files.ready(pixels)
        return f"{text}; {files.place(pixels)}" + ("" if ready else f": {files.why}")
    except StreamreconError as error:
        return f"{text}; cannot be read: {error}"


def _angles(mapping: Mapping, angles: Angles, projections: list[Shot], over: bool) -> str:
    rule = mapping.theta
    source = f"{rule.from_} {rule.key or ''}".strip()
    known: list[float] = []
    for shot in projections:
        angles.add(shot)
    for shot in projections:
        try:
            theta = angles.theta(shot, over)
        except StreamreconError as error:
            return f"from {source}: {error}"
        known += [] if theta is None else [theta]
    missing = len(projections) - len(known)
    if not known:
        return f"from {source}: none has come" if projections else f"from {source}: no projection has come"
    degrees = f"{math.degrees(known[0]):.4f} to {math.degrees(known[-1]):.4f} degrees"
    return f"from {source}: {degrees}" + (f"; {missing} projections have none" if missing else "")


def _state(run: Run) -> str:
    if run.stop is not None:
        return f"ended: {run.stop.get('exit_status', 'success')} {run.stop.get('reason') or ''}".strip()
    return f"broke off: {run.gone}" if run.gone is not None else "going on"
