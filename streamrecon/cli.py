"""The command line: parse, build the configuration, call one library function."""

from __future__ import annotations

import argparse
import dataclasses
import errno
import logging
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, get_args

from streamrecon.cli_attach import ATTACH, add_attach_options
from streamrecon.config import Config, FilterName, Layout, Method, WhenFull, load
from streamrecon.errors import (
    ConfigError,
    JournalError,
    PeerLostError,
    PlanError,
    RankError,
    RemoteProtocolError,
    ScanAbortedError,
    StreamreconError,
)
from streamrecon.version import __version__

EXIT_PARTIAL = 1
"""The scan was not completed; what arrived, if anything did, is in a partial volume."""
EXIT_USAGE = 2
"""The command, its options or its input are wrong, or it does not fit the machine."""
EXIT_FAILED = 74
"""A disk failed; --resume goes on with what is in the journal."""
EXIT_RANK = 75
"""A rank of the job died or hangs; --resume goes on with what is in the journals."""
EXIT_BUG = 70
"""An error that streamrecon did not expect."""
GRACE_AT_END = 60.0
"""Seconds, besides those in which a sender may come back and hear of the end, that ranks wait for each other there."""
GRACE = 3.0
"""Seconds in which rank 0 ends the job for another rank that has failed."""
EXIT_INTERRUPTED = 130
EXIT_CLOSED = 141
"""Whoever read the output closed it."""

RECON_OUT = "streamrecon-out/recon"

FILES = 64
"""Files and sockets that a process may need at once; an engine with a few viewers needs half of them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit code.

    Parameters
    ----------
    arguments
        Without the program's name; None takes the process's.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    signal.signal(signal.SIGTERM, _terminate)
    try:
        _check_files()
        return int(options.command(options))
    except (Exception, KeyboardInterrupt) as error:
        return _explain(error)


CODES: tuple[tuple[tuple[type[BaseException], ...], int], ...] = (
    ((PeerLostError, RemoteProtocolError, ScanAbortedError), EXIT_PARTIAL),
    ((JournalError,), EXIT_FAILED),
    ((RankError,), EXIT_RANK),
    ((StreamreconError,), EXIT_USAGE),
)


def _explain(error: BaseException) -> int:
    """Say what ended a command; its exit code."""
    if isinstance(error, KeyboardInterrupt):
        sys.stderr.write("interrupted\n")
        return EXIT_INTERRUPTED
    if isinstance(error, BrokenPipeError):
        return EXIT_CLOSED
    for kinds, code in CODES:
        if isinstance(error, kinds):
            sys.stderr.write(f"streamrecon: {error}\n")
            return code
    if isinstance(error, OSError):
        what = "cannot go on" if error.errno in (errno.EMFILE, errno.ENFILE) else "cannot write"
        sys.stderr.write(f"streamrecon: {what}: {error.strerror}\n")
        return EXIT_USAGE
    traceback.print_exception(error)
    sys.stderr.write("streamrecon: this is a bug in streamrecon; please report it with the lines above\n")
    return EXIT_BUG


def _check_files() -> None:
    """Refuse to start where files would run out in the middle of a scan; ZeroMQ ends the process where it has none.

    Raises
    ------
    ConfigError
        Naming the limit.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return
    try:
        left = limit - sum(1 for _ in Path("/dev/fd").iterdir())
    except OSError:
        left = 0  # not even for this folder
    if left < FILES:
        raise ConfigError(
            f"this process may open {left} more files and sockets, and needs up to {FILES}: raise the limit of {limit} "
            "(ulimit -n)"
        )


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _demo(options: argparse.Namespace) -> int:
    config = _config(options)
    simulated = dataclasses.replace(config.simulated, order=options.order or config.simulated.order)
    if not simulated.flats_after:
        simulated = dataclasses.replace(simulated, flats_after=simulated.flats)
    if config.simulated.center is None:
        # Off the middle, so that finding the center is something to see.
        simulated = dataclasses.replace(simulated, center=(simulated.columns - 1) / 2 + 4.3)
    source = dataclasses.replace(config.source, fps=config.source.fps or 120.0)
    config = dataclasses.replace(config, simulated=simulated, source=source)
    options.overwrite = options.overwrite or options.out is None  # the demo's own folder holds nothing worth keeping
    return _stream(options, "simulated", config, Path(options.out or "streamrecon-out/demo"))


def _run(options: argparse.Namespace) -> int:
    name = "simulated" if options.scan in ("simulated", "simulated:") else Path(options.scan).stem
    return _stream(options, options.scan, _config(options), Path(options.out or f"streamrecon-out/{name}"))


def _stream(options: argparse.Namespace, scan: str, config: Config, out: Path) -> int:
    from streamrecon.progress import Progress
    from streamrecon.run import run_scan
    from streamrecon.sources import open_source

    with Progress(options.log_json, options.quiet) as progress, _Page(options.serve, out, progress) as page:
        for note in open_source(scan, config).notes():
            progress.event({"event": "source", "seconds": 0.0, "text": note})

        def watch(engine: Any) -> None:
            page.watch(engine)
            progress.watch(engine)

        result = run_scan(scan, out, config, listener=progress.event, watch=watch, overwrite=options.overwrite)
    return _report(result, options.log_json)


def _recon(options: argparse.Namespace) -> int:
    from streamrecon.engine import join

    world = join(EXIT_RANK)
    try:
        code = _once(options, world) if options.once else _serve(options, world)
        engine = _config(options).engine
        world.leave(engine.peer_timeout + engine.return_timeout + GRACE_AT_END)
    except BaseException as error:
        if world.size == 1:
            raise
        # The others wait for this rank: the job ends, and whoever supervises it starts it again where that helps.
        if world.rank:
            time.sleep(GRACE)  # rank 0 has been told, and tells the sender
        world.abort(_explain(error))
    return code


def _once(options: argparse.Namespace, world: Any) -> int:
    """One scan; any rank."""
    return _follow(options, world) if world.rank else _reconstruct(options, world)


def _follow(options: argparse.Namespace, world: Any) -> int:
    """Any rank but the first, which tells it when to end."""
    from streamrecon.engine import Engine

    _leave_signals_to_rank_0()
    out = Path(options.out or RECON_OUT)
    with Engine(_config(options), out, None, options.overwrite, options.resume, world) as engine:
        while engine.wait(1.0) is None:
            pass
    return 0


def _leave_signals_to_rank_0() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _serve(options: argparse.Namespace, world: Any) -> int:
    """Scans one after the other; any rank."""
    from streamrecon.engine import Service
    from streamrecon.progress import Progress

    config, out = _config(options), Path(options.out or RECON_OUT)
    if world.rank:
        _leave_signals_to_rank_0()
        with Service(config, out, None, options.overwrite, options.resume, world) as service:
            service.run()
        return 0
    with (
        Progress(options.log_json, options.quiet) as progress,
        _Page(options.serve, out, progress) as page,
        Service(config, out, progress.event, options.overwrite, options.resume, world) as service,
    ):

        def interrupt(signum: int, frame: FrameType | None) -> None:
            # Not raised the first time: between two scans, too, it ends the service and not in the middle of something.
            if service.stopping:
                raise KeyboardInterrupt
            service.stop("the engine was interrupted")

        def watch(engine: Any) -> None:
            page.watch(engine)
            progress.watch(engine)

        before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            service.run(watch)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    return EXIT_PARTIAL if service.cut_short else 0


def _reconstruct(options: argparse.Namespace, world: Any) -> int:
    from streamrecon.engine import Engine
    from streamrecon.progress import Progress

    config, out = _config(options), Path(options.out or RECON_OUT)
    with (
        Progress(options.log_json, options.quiet) as progress,
        _Page(options.serve, out, progress) as page,
        Engine(config, out, progress.event, options.overwrite, options.resume, world) as engine,
    ):
        result = None
        while result is None:
            try:
                result = engine.wait(0.1)
                page.watch(engine)
                progress.watch(engine)
            except KeyboardInterrupt:
                if engine.stopping:
                    raise
                engine.stop("the engine was interrupted")
            except ScanAbortedError as error:
                if engine.stopping:
                    raise KeyboardInterrupt from error
                raise
    return _report(result, options.log_json)


def _report(result: Any, json_lines: bool) -> int:
    if not json_lines:
        seconds, status = result.seconds, result.status
        if result.volume is not None:
            rate = status.frames / seconds if seconds else 0.0
            print(f"{status.frames} frames in {seconds:.2f} s, {rate:.1f} frames/s, {status.nbytes / 1e6:.1f} MB")
            print(f"volume   {result.volume}\npicture  {result.volume.with_name('volume.png')}")
        if result.missing and status.in_volume:
            print(f"{result.missing} projections never came; the others take over their arc")
    if not result.final:
        kept = "what had arrived is kept as a partial volume" if result.volume else "nothing had arrived to reconstruct"
        sys.stderr.write(f"streamrecon: the scan was not completed: {result.reason}; {kept}\n")
        return EXIT_PARTIAL
    return 0


def _replay(options: argparse.Namespace) -> int:
    from streamrecon.replayer import replay

    config = _config(options)
    report = replay(
        options.scan,
        options.to,
        config,
        live=options.live,
        connect_timeout=options.timeout,
        progress=_Sending(options.quiet),
    )
    print(
        f"{report.frames} frames, {report.nbytes / 1e6:.1f} MB in {report.seconds:.2f} s "
        f"({report.nbytes / 1e6 / max(report.seconds, 1e-9):.1f} MB/s), {report.waited:.2f} s of it without credit"
        + (f", in {report.sessions} sessions" if report.sessions > 1 else "")
    )
    if report.dropped:
        sys.stderr.write(f"streamrecon: {report.dropped} frames were dropped, as there was no room to keep them\n")
        return EXIT_PARTIAL
    return 0


def _attach(options: argparse.Namespace) -> int:
    from streamrecon.cli_attach import attach

    return attach(options, _config(options))


SUPERVISE = "run an engine, and start it again when it dies; it goes on with its scan"


def _supervise(options: argparse.Namespace) -> int:
    from streamrecon.supervise import supervise

    def tell(text: str) -> None:
        sys.stderr.write(f"streamrecon supervise: {text}\n")
        sys.stderr.flush()

    return supervise(options.job, restarts=options.restarts, backoff=options.backoff, tell=tell)


class _Sending:
    """Says, now and then, how far a replay is."""

    def __init__(self, quiet: bool) -> None:
        self._quiet, self._told = quiet, ""

    def __call__(self, end: Any) -> None:
        state = end.session.state
        words = f"{state.name.lower()}: {state.value}" if not end.busy else f"the engine is busy: {end.busy.reason}"
        if not self._quiet and words != self._told:
            self._told = words
            sys.stderr.write(words + "\n")


def _inspect(options: argparse.Namespace) -> int:
    import numpy as np

    from streamrecon.engine import make_plan
    from streamrecon.sources import open_source

    config = _config(options)
    source = open_source(options.scan, config)
    info = source.info()
    geometry = info.geometry
    print(f"scan        {info.uid}")
    for name, value in info.metadata.items():
        print(f"{name:11} {value}")
    print(f"frames      {geometry.rows} rows x {geometry.columns} columns, {info.dtype}")
    for kind, count in info.counts.items():
        print(f"{kind.name.lower() + 's':11} {'unknown' if count is None else count}")
    if info.theta is not None and info.theta.size:
        degrees = np.rad2deg(info.theta)
        print(f"theta       {degrees[0]:.4f} to {degrees[-1]:.4f} degrees, range {np.ptp(degrees):.4f}")
    print(f"pixel size  {'unknown' if geometry.pixel_size is None else f'{geometry.pixel_size:g} m'}")
    for note in source.notes():
        print(f"note        {note}")
    rows = config.recon.rows or (0, geometry.rows)
    print("what would happen:")
    try:
        for text in make_plan(info, rows, config, Path(options.out or ".")).lines():
            print(f"  {text}")
    except PlanError as error:
        print(f"  refused: {error}")
        return EXIT_USAGE
    return 0


def _plan(options: argparse.Namespace) -> int:
    from streamrecon.engine import imagined_scan, outlook
    from streamrecon.sources import open_source

    config = _config(options)
    imagined = options.columns, options.angles
    if options.scan is not None:
        if imagined != (None, None) or isinstance(options.rows, int):
            raise ConfigError(
                "a scan was given, and --columns, --angles or a number of --rows; expected one or the other"
            )
        if options.rows is not None:
            config = dataclasses.replace(config, recon=dataclasses.replace(config.recon, rows=options.rows))
        info = open_source(options.scan, config).info()
    elif None in imagined or not isinstance(options.rows, int):
        raise ConfigError("expected a scan, or all of --columns N, --rows N and --angles N")
    else:
        info = imagined_scan(options.columns, options.rows, options.angles, options.dtype)
    lines, fits = outlook(info, config, Path(options.out or "."), options.ranks)
    print("\n".join(lines))
    return 0 if fits else EXIT_USAGE


class _Page:
    """The page of `--serve`, where it is asked for."""

    def __init__(self, port: int | None, out: Path, progress: Any) -> None:
        self._port, self._out, self._progress, self._engine = port, out, progress, None

    def __enter__(self) -> _Page:
        self._stop: Callable[[], None] = lambda: None
        if self._port is not None:
            from streamrecon.viewer import serve

            url, self._stop = serve(self._port, self._status, lambda: self._out / "volume.png")
            self._progress.event({"event": "serve", "seconds": 0.0, "text": f"look at {url}", "url": url})
        return self

    def _status(self) -> dict[str, Any]:
        if self._engine is None:
            return {"phase": "starting", "version": 0}
        return dataclasses.asdict(self._engine.status())

    def watch(self, engine: Any) -> None:
        self._engine = engine
        if engine.status().version:  # until then the last scan's picture is the newest one
            self._out = engine.out

    def __exit__(self, *_: object) -> None:
        self._stop()


def _config(options: argparse.Namespace) -> Config:
    """The file's options, then those of the command line."""
    config = load(options.config) if options.config else Config()
    changes: dict[str, dict[str, Any]] = {}
    for place, value in vars(options).items():
        if "." in place and value is not None:
            table, name = place.split(".")
            changes.setdefault(table, {})[name] = value
    return dataclasses.replace(
        config, **{table: dataclasses.replace(getattr(config, table), **values) for table, values in changes.items()}
    )


def _rows(text: str) -> tuple[int, int]:
    try:
        first, end = (int(part) for part in text.split(":"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not FIRST:END, such as 100:130") from None
    return first, end


def _rows_or_count(text: str) -> tuple[int, int] | int:
    if ":" in text:
        return _rows(text)
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a number of rows nor FIRST:END, such as 100:130"
        ) from None


def _air(text: str) -> tuple[int, int]:
    try:
        left, right = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not LEFT,RIGHT, such as 20,20 or 0,30") from None
    return left, right


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="streamrecon",
        description="Streaming tomographic reconstruction: the volume grows while the scan is measured.",
    )
    parser.add_argument("--version", action="version", version=f"streamrecon {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--config", metavar="FILE.toml", help="options from a file; those given here win")
    common.add_argument("--quiet", action="store_true", help="no counters")

    source = argparse.ArgumentParser(add_help=False)
    group = source.add_argument_group("source")
    group.add_argument(
        "--fps", type=float, dest="source.fps", metavar="F", help="frames per second; default: as they can be had"
    )
    group.add_argument(
        "--layout", choices=get_args(Layout), dest="source.layout", help="of the file; default: recognised"
    )
    group.add_argument("--entry", dest="source.entry", metavar="PATH", help="group of the file that holds the scan")
    group.add_argument(
        "--pixel-size", type=float, dest="source.pixel_size", metavar="M", help="metres; overrides the file's"
    )

    order = argparse.ArgumentParser(add_help=False)
    order.add_argument(
        "--order", dest="source.order", metavar="O",
        help="of the projections: recorded, reversed, interlaced:N, golden, random:SEED",
    )  # fmt: skip

    rows = argparse.ArgumentParser(add_help=False)
    rows.add_argument(
        "--rows", type=_rows, dest="recon.rows", metavar="A:B", help="detector rows A to B - 1; default: all"
    )

    recon = argparse.ArgumentParser(add_help=False)
    group = recon.add_argument_group("reconstruction")
    group.add_argument("--method", choices=get_args(Method), dest="recon.method")
    group.add_argument("--filter", choices=get_args(FilterName), dest="recon.filter")
    group.add_argument(
        "--center", type=float, dest="recon.center", metavar="COLUMN", help="default: found during the scan"
    )
    group.add_argument(
        "--circle",
        action="store_true",
        default=None,
        dest="recon.circle",
        help="0 outside the circle that every angle sees",
    )
    group = recon.add_argument_group("corrections")
    group.add_argument(
        "--rings", type=int, dest="normalize.rings", metavar="WIDTH",
        help="remove rings: width in columns of the running median that tells them from the object; default: no",
    )  # fmt: skip
    group.add_argument(
        "--air", type=_air, dest="normalize.air", metavar="LEFT,RIGHT",
        help="columns at the borders that always show air, by which each frame's beam is normalized; default: none",
    )  # fmt: skip
    group.add_argument(
        "--bad-pixels", dest="normalize.bad_pixels", metavar="PATH",
        help="mask of the detector: .npy, .tif, .png or FILE.h5:/DATASET; default: the flats tell",
    )  # fmt: skip
    group = recon.add_argument_group("versions")
    group.add_argument("--every", type=int, dest="emit.every", metavar="N", help="projections between versions")
    group.add_argument("--interval", type=float, dest="emit.interval", metavar="S", help="seconds between versions")
    group.add_argument("--keep", type=int, dest="emit.keep", metavar="K", help="versions kept")
    group.add_argument("--publish", dest="emit.publish", metavar="ENDPOINT", help="offer updates to viewers")
    group = recon.add_argument_group("output")
    group.add_argument("--out", metavar="DIR", help="default: a folder in streamrecon-out")
    group.add_argument("--overwrite", action="store_true", help="replace another scan's volume in DIR")
    group.add_argument(
        "--serve", type=int, metavar="PORT", help="show picture and counters on a local page; 0: any port"
    )
    group.add_argument("--log-json", action="store_true", help="events and counters as JSON lines")
    group.add_argument(
        "--insecure",
        action="store_true",
        default=None,
        dest="engine.insecure",
        help="allow endpoints that other machines can reach, without authentication",
    )
    group.add_argument(
        "--delay",
        type=float,
        dest="engine.delay",
        metavar="S",
        help="extra seconds per projection, to see back pressure",
    )

    def command(name: str, function: Any, text: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, parents=[common, *parents])
        sub.set_defaults(command=function)
        return sub

    sub = command("demo", _demo, "reconstruct a simulated scan, everything on", source, rows, recon)
    sub.add_argument("--order", metavar="O", help="of the angles: sequential, interlaced:N, golden")
    sub = command("run", _run, "replay a scan into an engine on this machine", source, order, rows, recon)
    sub.add_argument("scan", metavar="SCAN", help="an HDF5 file, file+swmr://PATH or 'simulated'")
    sub = command("replay", _replay, "send a scan to an engine", source, order)
    sub.add_argument("scan", metavar="SCAN", help="an HDF5 file, file+swmr://PATH or 'simulated'")
    sub.add_argument("--to", required=True, metavar="ENDPOINT", help="of the engine")
    sub.add_argument(
        "--timeout", type=float, metavar="S", help="seconds to wait for an engine that has time; default: for ever"
    )
    sub.add_argument(
        "--live", action="store_true",
        help="keep what an engine does not have for good, as a detector must, rather than read it from the scan again",
    )  # fmt: skip
    sub.add_argument(
        "--when-full", choices=get_args(WhenFull), dest="send.when_full",
        help="of --live: what to do when send.retain_bytes of memory are full; default: wait",
    )  # fmt: skip
    sub.add_argument("--spool", dest="send.spool", metavar="DIR", help="of --when-full spool: where; default: /tmp")
    sub = command("recon", _recon, "reconstruct scans as they come, one after the other", rows, recon)
    sub.add_argument(
        "--listen", required=True, dest="engine.listen", metavar="ENDPOINT", help="tcp://127.0.0.1:PORT or ipc://PATH"
    )
    sub.add_argument(
        "--resume",
        action="store_true",
        help="go on with the scan that an engine which died left in DIR, if it left one, before any other",
    )
    sub.add_argument(
        "--once", action="store_true",
        help="end after one scan, with its exit code; what comes of it is in DIR itself, and not in DIR/UID",
    )  # fmt: skip
    add_attach_options(command("attach", _attach, ATTACH))
    sub = commands.add_parser("supervise", help=SUPERVISE, description=SUPERVISE)
    sub.set_defaults(command=_supervise)
    sub.add_argument("--restarts", type=int, default=5, metavar="N", help="at most, in a row; default: 5")
    sub.add_argument("--backoff", type=float, default=1.0, metavar="S", help="before the first; it doubles; default: 1")
    sub.add_argument("job", nargs="*", metavar="-- COMMAND", help="such as: streamrecon recon --listen ENDPOINT")
    sub = command("inspect", _inspect, "what is in a scan, and what would happen", source, order, rows, recon)
    sub.add_argument("scan", metavar="FILE", help="an HDF5 file, file+swmr://PATH or 'simulated'")
    sub = command(
        "plan", _plan, "bytes and seconds of a scan, measured or not, and what would be chosen", source, recon
    )
    sub.add_argument("scan", nargs="?", metavar="SCAN", help="an HDF5 file, or 'simulated'; or else:")
    sub.add_argument("--columns", type=int, metavar="N", help="of the detector")
    sub.add_argument(
        "--rows", type=_rows_or_count, dest="rows", metavar="N|A:B", help="of the detector, or of the scan"
    )
    sub.add_argument("--angles", type=int, metavar="N", help="projections")
    sub.add_argument("--dtype", default="uint16", help="of the detector's pixels; default: uint16")
    sub.add_argument("--ranks", type=int, default=1, metavar="N", help="machines like this one that share the rows")
    return parser


if __name__ == "__main__":
    sys.exit(main())
