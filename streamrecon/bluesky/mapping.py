"""What of a run is what of a scan: which streams and keys hold projections, flats, darks and angles."""

from __future__ import annotations

import dataclasses
import importlib.resources
import itertools
import re
import tomllib
from collections.abc import Mapping as Table
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from streamrecon.config import build
from streamrecon.errors import ConfigError, SourceError
from streamrecon.scan import FrameKind
from streamrecon.sources.recording import METRES, radians_per

LONG = 1 << 40
"""Events of a run in which no two ranges share one that are counted from its beginning and from its end."""
Select = Literal["events", "frames", "image_key", "run"]
Value = float | str
"""A number, or where one is: `start.PATH` in the start document, or `config.PATH` in the configuration of a descriptor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRule:
    """Which runs are scans: `[run]`."""

    match: dict[str, Any] = field(default_factory=dict)
    """From paths in the start document to what is expected there: a regular expression for a text, or a number, true or false; of
    a list any item. All of them have to fit; none fit every run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FramesRule:
    """Where frames of a kind are: `[projection]`, `[flat]`, `[dark]`."""

    stream: str = "primary"
    """Name of the stream."""
    key: str | None = None
    """Data key; None: the only one in the stream that has images."""
    select: Select = "events"
    """events: those of `range`; frames: those of `range`, counted over all events; image_key: those whose number in
    `image_key` is that of the kind (0 projection, 1 flat, 2 dark); run: all of the runs that fit `match`."""
    range: str = ":"
    """Which events or frames, as Python has it: `0`, `-1`, `1:-1`, `20:`."""
    image_key: str | None = None
    """Data key of the numbers that tell the kind of each frame."""
    match: dict[str, Any] = field(default_factory=dict)
    """Of the runs that hold these frames, as `run.match`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThetaRule:
    """Where the angle of each projection is: `[theta]`."""

    from_: Literal["event", "dataset", "attribute", "monitor", "linear"] = "event"
    """event: in the event; dataset: in the file that a stream's key names; attribute: in the images' file;
    monitor: in the stream of a motor that is watched, at the times of the frames; linear: from `start` and `step`."""
    key: str | None = None
    """Data key; of an attribute the path of its dataset."""
    stream: str | None = None
    """Stream of the key; None: that of the projections, of a monitor the key with `_monitor`."""
    start: Value | None = None
    """Of the first projection, for linear."""
    step: Value | None = None
    """From a projection to the next, for linear."""
    units: str | None = None
    """deg or rad; None: as the descriptor or the dataset says."""
    scale: Value = 1.0
    """Factor."""
    offset: Value = 0.0
    """Added after it, in the units."""
    at: Literal["start", "middle", "end"] = "middle"
    """Of the exposure, what an angle or a time is of. A frame is taken to last until the next one begins."""
    times: tuple[str, ...] = ()
    """Paths, in the images' file, of the times of frames: one dataset of seconds, or two of seconds and nanoseconds."""
    clock: Literal["unix", "epics"] = "unix"
    """From when the times of frames count: 1970 or 1990."""
    align: Literal["absolute", "first_motion"] = "absolute"
    """first_motion: the first frame begins when the motor does, whatever the clocks say; with `at = middle` its middle."""
    motion: float = 0.05
    """Degrees by which the motor has to be away from where it stood, and to go on from there, to have begun to move."""
    on_missing: Literal["wait", "gap"] = "wait"
    """What to do about a projection whose angle has not come: wait for it, bounded, or go on without it."""
    otherwise: ThetaRule | None = None
    """Where the angle is of a projection that has none there, when the run is over."""

    @property
    def monitor(self) -> str:
        """Stream of a motor that is watched."""
        return self.stream or f"{self.key}_monitor"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanRule:
    """Facts of the scan: `[scan]`. One that the run does not have where it is said to be is unknown."""

    projections: Value | None = None
    """Expected; None: as many as come."""
    center: Value | None = None
    """Column of the rotation axis."""
    pixel_size: Value | None = None
    """At the sample."""
    pixel_size_units: str = "m"
    energy: Value | None = None
    """keV, for the record."""
    title: str | None = None
    sample: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapping:
    """From a run to a scan; a TOML file has one table for each field."""

    name: str = ""
    run: RunRule = field(default_factory=RunRule)
    projection: FramesRule = field(default_factory=FramesRule)
    flat: FramesRule | None = None
    dark: FramesRule | None = None
    theta: ThetaRule = field(default_factory=ThetaRule)
    scan: ScanRule = field(default_factory=ScanRule)

    def __post_init__(self) -> None:
        _check(self)

    def rules(self) -> dict[FrameKind, FramesRule]:
        """Where the frames of each kind are; without those that the runs have not."""
        each = {FrameKind.PROJECTION: self.projection, FrameKind.FLAT: self.flat, FrameKind.DARK: self.dark}
        return {kind: rule for kind, rule in each.items() if rule is not None}

    def streams(self) -> frozenset[str]:
        """Names of all streams that something is taken from."""
        found, theta = {rule.stream for rule in self.rules().values()}, cast(ThetaRule | None, self.theta)
        while theta is not None:
            found |= {theta.monitor} if theta.from_ == "monitor" else {theta.stream} if theta.stream else set()
            theta = theta.otherwise
        return frozenset(found)


def load_mapping(name: str | Path) -> Mapping:
    """Read a mapping.

    Parameters
    ----------
    name
        Of a profile that comes with streamrecon, or the path of a TOML file.

    Raises
    ------
    ConfigError
        If there is none, it is not TOML, or a key or value is not what the schema allows.
    """
    shipped = profiles()
    path = shipped.get(str(name), Path(name))
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"there is no mapping {name}: {error.strerror}; expected a TOML file, or one of: {', '.join(shipped)}"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    try:
        return mapping_from_dict({"name": path.stem, **tables})
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def mapping_from_dict(tables: Table[str, Any]) -> Mapping:
    """Build a mapping from tables, as TOML gives them.

    Raises
    ------
    ConfigError
        On an unknown table or key, or a value that is not allowed.
    """
    return build(Mapping, tables)


def profiles() -> dict[str, Path]:
    """The mappings that come with streamrecon, by name."""
    folder = Path(str(importlib.resources.files("streamrecon.bluesky"))) / "profiles"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def fits(match: Table[str, Any], start: Table[str, Any]) -> str | None:
    """Why a start document does not fit, in a few words; None if it does."""
    for path, expected in match.items():
        found = at_path(start, path)
        items = found if isinstance(found, list | tuple) else [found]
        if not any(_equal(item, expected) for item in items):
            return f"{path} is {str(found)[:60]!r}; expected {expected!r}" if found is not None else f"it has no {path}"
    return None


def reference_kinds(mapping: Mapping, start: Table[str, Any]) -> list[FrameKind]:
    """The kinds of frames that a run has for the scans that follow, by its start document."""
    return [kind for kind, rule in mapping.rules().items() if rule.select == "run" and fits(rule.match, start) is None]


def why_no_scan(mapping: Mapping, start: Table[str, Any]) -> str | None:
    """Why a run is not one for a mapping, in a few words; None if it is.

    Besides what `run.match` expects, angles that the start document tells have to be there: a plan of the same name may not.
    """
    why, theta = fits(mapping.run.match, start), mapping.theta
    if why is not None or theta.from_ != "linear":
        return why
    places = [value for value in (theta.start, theta.step) if isinstance(value, str) and value.startswith("start.")]
    paths = [place.removeprefix("start.") for place in places]
    return next((f"it has no {path}" for path in paths if at_path(start, path) is None), None)


def at_path(document: Any, path: str) -> Any:
    """What is at a dotted path; None if nothing is. A key that has dots itself counts as well."""
    parts = path.split(".")
    for count in range(len(parts), 0, -1):
        head = ".".join(parts[:count])
        if isinstance(document, Table) and head in document:
            found = document[head] if count == len(parts) else at_path(document[head], ".".join(parts[count:]))
            if found is not None:
                return found
    return None


def _equal(found: Any, expected: Any) -> bool:
    if isinstance(expected, list | tuple):
        return any(_equal(found, each) for each in expected)
    if isinstance(expected, str):
        return isinstance(found, str) and re.fullmatch(expected, found) is not None
    return np.ndim(found) == 0 and bool(found == expected) and isinstance(found, bool) == isinstance(expected, bool)


def bounds(text: str) -> tuple[int | None, int | None]:
    """First and one past the last of a range; a single number is its own range.

    Raises
    ------
    ConfigError
        If it is none.
    """
    match = re.fullmatch(r"\s*(-?\d+)?\s*(:\s*(-?\d+)?)?\s*", text)
    if match is None or (match[1] is None and match[2] is None):
        raise ConfigError(f"range is {text!r}; expected such as ':', '0', '-1', '1:-1' or '20:'")
    first = int(match[1]) if match[1] else None
    if match[2] is None:
        assert first is not None
        return first, (first + 1 or None)
    return first, int(match[3]) if match[3] else None


def _check(mapping: Mapping) -> None:
    """Refuse what cannot work."""
    if mapping.scan.pixel_size_units not in METRES:
        raise ConfigError(
            f"scan.pixel_size_units is {mapping.scan.pixel_size_units!r}; expected one of: {', '.join(METRES)}"
        )
    for kind, rule in mapping.rules().items():
        table = kind.name.lower()
        bounds(rule.range)
        for path, expected in rule.match.items():
            _check_pattern(f"{table}.match", path, expected)
        if rule.select != "image_key" and rule.image_key is not None:
            raise ConfigError(
                f'{table}.select is {rule.select}, and {table}.image_key is given; expected select = "image_key", or none'
            )
        if rule.select == "image_key" and rule.image_key is None:
            raise ConfigError(f"{table}.select is image_key; expected {table}.image_key, the data key of the numbers")
        if rule.select == "run" and kind is FrameKind.PROJECTION:
            raise ConfigError("projection.select is run; expected [run] match to say which runs are scans")
        if rule.select == "run" and not rule.match:
            raise ConfigError(f"{table}.select is run; expected {table}.match, to know such a run by")
    for (kind, rule), (other, others) in itertools.combinations(mapping.rules().items(), 2):
        if _share(rule, others):
            raise ConfigError(
                f"{kind.name.lower()} and {other.name.lower()} are the same {rule.select} {rule.range!r} and {others.range!r} of "
                f"the stream {rule.stream}; expected each image to be of one kind: give them other ranges or streams"
            )
    for path, expected in mapping.run.match.items():
        _check_pattern("run.match", path, expected)
    _check_values("scan", mapping.scan)
    for name in ("projections", "pixel_size"):
        value = getattr(mapping.scan, name)
        if not isinstance(value, str) and value is not None and value <= 0:
            raise ConfigError(f"scan.{name} is {value:g}; expected more than 0")
    _check_theta("theta", mapping.theta)


def _share(rule: FramesRule, other: FramesRule) -> bool:
    """Whether frames of a long run are of both."""
    if rule.select not in ("events", "frames") or (rule.select, rule.stream) != (other.select, other.stream):
        return False
    first, second = (range(LONG)[slice(*bounds(each.range))] for each in (rule, other))
    return rule.key == other.key and max(first.start, second.start) < min(first.stop, second.stop)


def _check_pattern(table: str, path: str, expected: Any) -> None:
    for each in expected if isinstance(expected, list) else [expected]:
        try:
            re.compile(each if isinstance(each, str) else "")
        except re.error as error:
            raise ConfigError(f"{table} has {each!r} for {path}, which is not a regular expression: {error}") from error


def _check_values(table: str, section: Any) -> None:
    """Numbers are numbers, or lead somewhere."""
    for option in dataclasses.fields(section):
        value = getattr(section, option.name)
        if "Value" in str(option.type) and isinstance(value, str) and not re.match(r"(start|config)\.[^.]", value):
            raise ConfigError(f"{table}.{option.name} is {value!r}; expected a number, start.PATH or config.PATH")


def _check_theta(table: str, theta: ThetaRule) -> None:
    _check_values(table, theta)
    try:
        radians_per(theta.units, table)
    except SourceError as error:
        raise ConfigError(str(error)) from error
    if theta.scale == 0:
        raise ConfigError(f"{table}.scale is 0: all angles would be the same; expected another factor")
    if theta.motion < 0:
        raise ConfigError(f"{table}.motion is {theta.motion:g}; expected 0 degrees or more")
    if theta.from_ == "linear" and None in (theta.start, theta.step):
        raise ConfigError(f"{table}.from is linear; expected {table}.start and {table}.step")
    if theta.from_ != "linear" and theta.key is None:
        raise ConfigError(f"{table}.from is {theta.from_}; expected {table}.key")
    if theta.from_ == "monitor" and len(theta.times) not in (1, 2):
        raise ConfigError(
            f"{table}.from is monitor, {table}.times names {len(theta.times)} datasets; expected one, of seconds, or two, of "
            "seconds and nanoseconds"
        )
    if theta.otherwise is not None:
        _check_theta(f"{table}.otherwise", theta.otherwise)
