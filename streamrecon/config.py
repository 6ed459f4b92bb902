"""Every option and its default, once: frozen dataclasses, filled from a TOML file and the command line."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import numbers
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from streamrecon.errors import ConfigError

Layout = Literal["auto", "data-exchange", "nxtomo", "fxi"]
Method = Literal["auto", "direct", "fourier"]
FilterName = Literal["ramp", "ramlak", "shepp", "cosine", "hann", "hamming", "parzen", "butterworth", "none"]
Combine = Literal["mean", "median"]
OffsetAxis = Literal["auto", "yes", "no"]
WhenFull = Literal["wait", "spool", "drop"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceConfig:
    """Where frames come from: `[source]`."""

    layout: Layout = "auto"
    """How the file is laid out; auto recognises it."""
    entry: str | None = None
    """Path of the group that holds the scan, where the file has several or an unusual one."""
    order: str = "recorded"
    """Order of the projections: recorded, reversed, interlaced:N, golden, random:SEED."""
    fps: float | None = None
    """Frames per second; None is as fast as credit allows."""
    pixel_size: float | None = None
    """Pixel size at the sample, m; overrides the file's."""
    data: str | None = None
    """Of a growing file: path of the dataset of projections, where it is laid out in no known way."""
    angles: str | None = None
    """Of a growing file: path of the angles, one for each row of the frames."""
    angle_start: float = 0.0
    """Of a growing file without angles: the first projection's, degrees."""
    angle_step: float | None = None
    """Of a growing file without angles: from a projection to the next, degrees."""
    projections: int | None = None
    """Of a growing file: projections after which the scan ends; None: when its writer has closed the file."""
    patience: float = 60.0
    """Seconds to wait for a growing file in which nothing changes."""
    roots: tuple[str, ...] = ()
    """Folders beneath which files may be read, besides that of a file which is named on the command line."""
    remap: tuple[str, ...] = ()
    """Where folders of other hosts lie here: FROM=TO, FROM being a path or the beginning of a URI, such as file://ioc7/data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedConfig:
    """A detector that images an analytic phantom: `[simulated]`."""

    phantom: str = "foam"
    """Name of a phantom."""
    rows: int = 64
    columns: int = 256
    projections: int = 360
    arc: float = 180.0
    """Range of the scan, degrees."""
    include_end: bool = False
    """Whether the last projection is at the end of the arc."""
    order: str = "sequential"
    """Order in which the angles are measured: sequential, interlaced:N, golden."""
    flats: int = 20
    darks: int = 20
    flats_after: int = 0
    """Flats measured after the projections."""
    center: float | None = None
    """Column of the rotation axis; None is the middle of the detector."""
    pixel_size: float = 1e-6
    """m"""
    photons: float = 20000.0
    """Mean counts of an open pixel; Poisson noise follows from it. 0 turns the noise off."""
    dark_level: float = 100.0
    """Counts of the dark current."""
    bad_columns: int = 4
    """Columns whose response the flats do not correct: they make rings."""
    seed: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class NormalizeConfig:
    """From counts to line integrals: `[normalize]`."""

    flat: Combine = "median"
    """How the flats of one group are combined."""
    dark: Combine = "median"
    """How the darks are combined."""
    interpolate_flats: bool = True
    """Interpolate, in the logarithm, between groups of flats measured before, within and after the projections."""
    floor: float | None = None
    """Smallest I - D and F - D, counts; None: 0.5 for integers; for floats the power of ten 1e-5 below an open pixel."""
    air: tuple[int, int] | None = None
    """Columns at the left and the right border that show air at every angle: each frame's mean there becomes 0; None: no."""
    bad_pixels: str | None = None
    """File with a mask of the whole detector, not zero where a pixel is bad: .npy, .tif, .png, or FILE.h5:/PATH/OF/DATASET.
    None: the flats tell."""
    rings: int | None = None
    """Width, columns, of the running median that tells stripes, which make rings, from the object; None: no correction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconConfig:
    """The reconstruction: `[recon]`."""

    method: Method = "auto"
    """direct, fourier, or auto: the faster one of those that fit the memory, by the cost model that `streamrecon plan` shows."""
    filter: FilterName = "ramp"
    cutoff: float = 0.8
    """Of the butterworth window, as a fraction of the Nyquist frequency."""
    filter_order: int = 8
    """Of the butterworth window."""
    center: float | None = None
    """Column of the rotation axis; None: found during the scan."""
    center_wait: float = 0.25
    """Share of the half circle to wait for before accumulation starts with the best center known, 0 to 1."""
    center_frames: int | None = None
    """Most projections to wait for before accumulation starts with the best center known; None: half the scan, or 1024
    where its length is unknown."""
    previous: bool = True
    """Whether the center, the flat and the dark of the last scan of the same detector stand in until this scan's own are known;
    of an engine that serves scans one after the other."""
    offset_axis: OffsetAxis = "auto"
    """Whether the scan is a full turn around an axis beside the detector's middle whose two halves make one wide field of
    view: yes, no, or auto, where the object is cut off on the axis' side."""
    rows: tuple[int, int] | None = None
    """Detector rows to reconstruct, first and one past the last; None is all."""
    side: int | None = None
    """Side of a slice, pixels; None is the detector's columns, with an offset axis what the full turn shows."""
    circle: bool = False
    """Set everything outside the circle that every angle sees to 0."""
    upsampling: int = 2
    """Of the filtered rows, direct method: 1 is plain linear interpolation, 2 is four times as accurate."""
    width: int = 5
    """Of the gridding kernel, cells, Fourier method."""
    oversampling: float = 1.25
    """Of the Fourier grid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmitConfig:
    """When versions of the volume appear, and how many are kept: `[emit]`."""

    every: int | None = None
    """Projections between versions; None: a tenth of the scan, or 100 where its length is unknown."""
    interval: float | None = None
    """Seconds between versions, besides `every`."""
    keep: int = 10
    """Versions kept in OUT/partials."""
    keep_seconds: float = 600.0
    """A version younger than this is spared, so that who has it open can go on reading, up to twice `keep` versions."""
    preview: int = 4
    """Binning of partial volumes where full ones do not fit the disk, or leave no memory for the faster method."""
    zarr: bool = False
    """Whether each version is written as a multi-scale image in OME-Zarr, too (extra `zarr`)."""
    publish: str | None = None
    """Endpoint at which updates are offered to viewers; None publishes nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """The engine and its limits: `[engine]`."""

    listen: str | None = None
    """Endpoint to bind; None is an ipc socket in a private folder."""
    insecure: bool = False
    """Allow an endpoint that other machines can reach, without authentication."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Where accumulators live; auto is a GPU where cupy finds one."""
    batch: int = 16
    """Projections in a micro-batch."""
    batch_seconds: float = 0.1
    """A batch is closed after this time even if it is not full."""
    ring_bytes: int | None = None
    """Room for received frames, which is the credit window; at least two frames. None: 256 MiB, but no more frames than lie
    between two versions, so that the sender of a short scan is paced, too."""
    memory_bytes: int | None = None
    """Most memory the plan may use; None is 80 % of what is available."""
    disk_bytes: int | None = None
    """Most disk the plan may use; None is 80 % of what is free."""
    heartbeat: float = 1.0
    """Seconds between heartbeats."""
    peer_timeout: float = 30.0
    """Seconds of silence after which the other end counts as lost."""
    return_timeout: float = 60.0
    """Seconds that a scan waits for a sender that fell silent or lost the connection, or for another one; then it ends as a
    partial volume."""
    rank_timeout: float = 30.0
    """Seconds of silence after which another rank of the same job counts as dead."""
    work_timeout: float = 300.0
    """Seconds that a rank may be at one piece of work, such as a block of a snapshot, before it counts as hanging."""
    sync_seconds: float = 1.0
    """Longest time until a frame in the journal is written to the disk for good, which frees the sender's copy."""
    max_frame_bytes: int = 1 << 30
    """Largest frame accepted."""
    delay: float = 0.0
    """Extra seconds per projection, to see what a slow engine does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SendConfig:
    """What a sender keeps, so that nothing is lost when an engine is restarted: `[send]`."""

    retain_bytes: int = 1 << 28
    """Memory for frames that the engine does not have for good yet; one frame always fits."""
    when_full: WhenFull = "wait"
    """What to do when that memory is full: let the source wait, spool to disk and then wait, or drop frames, which are counted
    and named in the volume's metadata."""
    spool: str | None = None
    """Folder of the spool; None is the system's for temporary files."""
    spool_bytes: int = 1 << 34
    """Disk for the spool."""
    return_timeout: float = 60.0
    """Seconds to wait for an engine that fell silent or lost the connection to come back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachConfig:
    """Runs of Bluesky, as they happen: `[attach]`."""

    waiting: int = 8
    """Runs that may wait while one is in work; a further one is told and left out."""
    document_bytes: int = 1 << 30
    """Most memory for the images that a run has in its documents."""
    tiled: str | None = None
    """URL of a tiled server, which is asked for angles in documents that were missed; None asks no one."""
    tiled_key_file: str | None = None
    """File with the API key for it; None: the key is in the environment variable TILED_API_KEY, if there is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All options; a TOML file has one table for each field."""

    source: SourceConfig = field(default_factory=SourceConfig)
    simulated: SimulatedConfig = field(default_factory=SimulatedConfig)
    normalize: NormalizeConfig = field(default_factory=NormalizeConfig)
    recon: ReconConfig = field(default_factory=ReconConfig)
    emit: EmitConfig = field(default_factory=EmitConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    send: SendConfig = field(default_factory=SendConfig)
    attach: AttachConfig = field(default_factory=AttachConfig)

    def __post_init__(self) -> None:
        check(self)


_LIMITS: dict[str, tuple[float, float]] = {
    "source.fps": (1e-3, 1e6),
    "source.pixel_size": (1e-12, 1.0),
    "source.angle_start": (-1e6, 1e6),
    "source.angle_step": (-360.0, 360.0),
    "source.projections": (1, 1 << 40),
    "source.patience": (0.1, 1e9),
    "simulated.rows": (1, 1 << 16),
    "simulated.columns": (4, 1 << 16),
    "simulated.projections": (1, 10_000_000),
    "simulated.arc": (1.0, 3600.0),
    "simulated.flats": (0, 100_000),
    "simulated.darks": (0, 100_000),
    "simulated.flats_after": (0, 100_000),
    "simulated.pixel_size": (1e-12, 1.0),
    "simulated.photons": (0.0, 1e9),
    "simulated.dark_level": (0.0, 60_000.0),
    "simulated.bad_columns": (0, 1 << 16),
    "simulated.seed": (0, 1 << 62),
    "normalize.floor": (1e-30, 1e9),
    "normalize.rings": (3, 1 << 16),
    "recon.cutoff": (1e-3, 1.0),
    "recon.filter_order": (1, 100),
    "recon.center_wait": (0.0, 1.0),
    "recon.center_frames": (1, 1 << 20),
    "recon.side": (1, 1 << 16),
    "recon.upsampling": (1, 8),
    "recon.width": (2, 12),
    "recon.oversampling": (1.125, 4.0),
    "emit.every": (1, 1 << 40),
    "emit.interval": (0.01, 1e9),
    "emit.keep": (1, 1_000_000),
    "emit.keep_seconds": (0.0, 1e9),
    "emit.preview": (1, 16),
    "engine.batch": (1, 4096),
    "engine.batch_seconds": (0.0, 60.0),
    "engine.ring_bytes": (1, 1 << 50),
    "engine.memory_bytes": (1, 1 << 60),
    "engine.disk_bytes": (1, 1 << 60),
    "engine.heartbeat": (0.01, 3600.0),
    "engine.peer_timeout": (0.05, 86400.0),
    "engine.return_timeout": (0.0, 1e9),
    "engine.rank_timeout": (0.05, 86400.0),
    "engine.work_timeout": (0.05, 86400.0),
    "engine.sync_seconds": (0.0, 3600.0),
    "engine.max_frame_bytes": (1, 1 << 40),
    "engine.delay": (0.0, 3600.0),
    "send.retain_bytes": (1, 1 << 50),
    "send.spool_bytes": (1, 1 << 60),
    "send.return_timeout": (0.0, 1e9),
    "attach.waiting": (0, 10_000),
    "attach.document_bytes": (1, 1 << 50),
}


def check(config: Config) -> None:
    """Refuse values of the wrong type or out of range.

    Raises
    ------
    ConfigError
        Naming the option, its value and what was expected.
    """
    for table in dataclasses.fields(config):
        section = getattr(config, table.name)
        hints = typing.get_type_hints(type(section))
        for option in dataclasses.fields(section):
            name = f"{table.name}.{option.name}"
            given = getattr(section, option.name)
            value = _typed(name, given, hints[option.name])
            object.__setattr__(section, option.name, value)  # NumPy's numbers become Python's, a list a tuple
            if name in _LIMITS and value is not None:
                low, high = _LIMITS[name]
                if not low <= value <= high:
                    raise ConfigError(f"{name} is {value!r}; expected {low:.12g} to {high:.15g}")
    rows = config.recon.rows
    if rows is not None and not 0 <= rows[0] < rows[1]:
        raise ConfigError(f"recon.rows is {rows[0]}:{rows[1]}; expected FIRST:END with 0 <= FIRST < END")
    air = config.normalize.air
    if air is not None and not (min(air) >= 0 < max(air)):
        raise ConfigError(
            f"normalize.air is {air[0]},{air[1]}; expected columns of air at the left and right border (--air LEFT,RIGHT), "
            "at least one of them above 0"
        )
    for entry in config.source.remap:
        if not all(entry.partition("=")):
            raise ConfigError(f"source.remap has {entry!r}; expected FROM=TO")
    if config.emit.preview & (config.emit.preview - 1):
        raise ConfigError(f"emit.preview is {config.emit.preview}; expected 1, 2, 4, 8 or 16")


def load(path: str | Path) -> Config:
    """Read a TOML file.

    Parameters
    ----------
    path
        Of the file.

    Raises
    ------
    ConfigError
        If the file is missing or not TOML, or a key or value is not what the options allow.
    """
    try:
        with Path(path).open("rb") as file:
            return from_dict(tomllib.load(file))
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def from_dict(tables: Mapping[str, Any]) -> Config:
    """Build a configuration from tables of options, as TOML or JSON give them.

    Raises
    ------
    ConfigError
        On an unknown table or option, or a value of the wrong type or out of range.
    """
    return build(Config, tables)


T = TypeVar("T")


def build(cls: type[T], table: Any, where: str = "") -> T:
    """Build a dataclass of options from tables, as TOML gives them.

    Parameters
    ----------
    cls
        Whose fields are options, or tables of options. A name that Python keeps for itself has a `_` there that it has not here.
    table
        Values by name.
    where
        What comes before the names in errors.

    Raises
    ------
    ConfigError
        On an unknown table or option, or a value of the wrong type.
    """
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where.rstrip('.')} is {table!r}; expected a table of options")
    fields = {name.rstrip("_"): (name, hint) for name, hint in typing.get_type_hints(cls).items()}
    unknown = set(table) - set(fields)
    if unknown:
        name = sorted(map(str, unknown))[0]
        raise ConfigError(f"unknown option {where}{name}; expected one of: {', '.join(fields)}")
    values = {}
    for name, value in table.items():
        field_name, hint = fields[name]
        options = next((each for each in (hint, *get_args(hint)) if dataclasses.is_dataclass(each)), None)
        values[field_name] = (
            _typed(where + name, value, hint)
            if options is None
            else build(typing.cast("type[Any]", options), value, f"{where}{name}.")
        )
    return cls(**values)


def _typed(name: str, value: Any, hint: Any) -> Any:
    origin = get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in get_args(hint):
            return None
        *others, last = (each for each in get_args(hint) if each is not type(None))
        if isinstance(value, numbers.Real) and not isinstance(value, bool) and float in others:
            return _typed(name, value, float)  # its words are better than those about a text
        for each in others:
            with contextlib.suppress(ConfigError):
                return _typed(name, value, each)
        return _typed(name, value, last)
    if origin is Literal:
        if value not in get_args(hint):
            raise ConfigError(f"{name} is {value!r}; expected one of: {', '.join(map(str, get_args(hint)))}")
        return value
    if origin is tuple and get_args(hint)[-1] is Ellipsis:
        if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
            raise ConfigError(f"{name} is {value!r}; expected a list of texts")
        return tuple(value)
    if origin is tuple:
        if not isinstance(value, (list, tuple)) or len(value) != 2:
            raise ConfigError(f"{name} is {value!r}; expected two integers")
        return tuple(_typed(name, item, int) for item in value)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{name} is {value!r}; expected a table")
        return dict(value)
    # A number of NumPy's is one, too; bool, which Python counts among the integers, is none.
    if hint is float and isinstance(value, numbers.Real) and not isinstance(value, bool):
        value = float(value)
    elif hint is int and isinstance(value, numbers.Integral) and not isinstance(value, bool):
        value = int(value)
    if type(value) is not hint:
        raise ConfigError(f"{name} is {value!r}; expected {'true or false' if hint is bool else hint.__name__}")
    if hint is float and not math.isfinite(value):
        raise ConfigError(f"{name} is {value!r}; expected a finite number")
    return value


def to_dict(config: Config) -> dict[str, dict[str, Any]]:
    """All options as tables, without those that are None: what `from_dict` takes."""
    return {
        table: {name: value for name, value in options.items() if value is not None}
        for table, options in dataclasses.asdict(config).items()
    }
