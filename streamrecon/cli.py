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
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from streamrecon.cli_options import config_of, parser_of
from streamrecon.config import Config
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

USUAL_FILES, MANY_FILES = 1024, 16384
"""The limit of files where nobody has chosen one, and what is taken instead."""

FILES = 64
"""Files and sockets that a process may need at once; an engine with a few viewers needs half of them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit code.

    Parameters
    ----------
    arguments
        Without the program's name; None takes the process's.
    """
    parser = parser_of(COMMANDS)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    signal.signal(signal.SIGTERM, _terminate)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:  # else somebody wants it to outlive the terminal
        signal.signal(signal.SIGHUP, _terminate)
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
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return
    wanted = MANY_FILES if most == resource.RLIM_INFINITY else min(MANY_FILES, most)
    if limit < wanted and limit == USUAL_FILES:
        # Who connects and says nothing takes files of the scan's; a limit that somebody has chosen stays.
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
        limit = wanted
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
    config = config_of(options)
    simulated = dataclasses.replace(config.simulated, order=options.order or config.simulated.order)
    if not simulated.flats_after:
        simulated = dataclasses.replace(simulated, flats_after=simulated.flats)
    if config.simulated.center is None:
        # Off the middle, so that finding the center is something to see.
        simulated = dataclasses.replace(simulated, center=(simulated.columns - 1) / 2 + 4.3)
    # Who watches a page wants to see it grow.
    source = dataclasses.replace(config.source, fps=config.source.fps or (120.0 if options.view is None else 24.0))
    config = dataclasses.replace(config, simulated=simulated, source=source)
    options.overwrite = options.overwrite or options.out is None  # the demo's own folder holds nothing worth keeping
    return _stream(options, "simulated", config, Path(options.out or "streamrecon-out/demo"))


def _run(options: argparse.Namespace) -> int:
    name = "simulated" if options.scan in ("simulated", "simulated:") else Path(options.scan).stem
    return _stream(options, options.scan, config_of(options), Path(options.out or f"streamrecon-out/{name}"))


def _stream(options: argparse.Namespace, scan: str, config: Config, out: Path) -> int:
    from streamrecon.cli_view import Page
    from streamrecon.progress import Progress
    from streamrecon.run import run_scan
    from streamrecon.sources import open_source

    with Page(options.view, config) as page:
        with Progress(options.log_json, options.quiet) as progress:
            page.tell(progress.event)
            page.wait_for_somebody(progress.event)
            for note in open_source(scan, config).notes():
                progress.event({"event": "source", "seconds": 0.0, "text": note})

            def watch(engine: Any) -> None:
                page.watch(engine)
                progress.watch(engine)

            result = run_scan(scan, out, page.config, listener=progress.event, watch=watch, overwrite=options.overwrite)
        code = _report(result, options.log_json)
        page.stay(result.volume if result.final else None, options.log_json)
    return code


def _recon(options: argparse.Namespace) -> int:
    from streamrecon.engine import join

    world = join()
    try:
        code = _once(options, world) if options.once else _serve(options, world)
        engine = config_of(options).engine
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
    with Engine(config_of(options), out, None, options.overwrite, options.resume, world) as engine:
        while engine.wait(1.0) is None:
            pass
    return 0


def _leave_signals_to_rank_0() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _serve(options: argparse.Namespace, world: Any) -> int:
    """Scans one after the other; any rank."""
    from streamrecon.cli_view import Page
    from streamrecon.engine import Service
    from streamrecon.progress import Progress

    config, out = config_of(options), Path(options.out or RECON_OUT)
    if world.rank:
        _leave_signals_to_rank_0()
        with Service(config, out, None, options.overwrite, options.resume, world) as service:
            service.run()
        return 0
    with (
        Progress(options.log_json, options.quiet) as progress,
        Page(options.view, config, out if options.view else None) as page,
        Service(page.config, out, progress.event, options.overwrite, options.resume, world) as service,
    ):
        page.tell(progress.event)

        def interrupt(signum: int, frame: FrameType | None) -> None:
            # Not raised the first time: between two scans, too, it ends the service and not in the middle of something.
            if service.stopping:
                raise KeyboardInterrupt
            service.stop("the engine was interrupted")

        def watch(engine: Any) -> None:
            page.watch(engine)
            progress.watch(engine)

        signals = [signal.SIGINT, signal.SIGTERM]
        signals += [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) == _terminate else []
        before = {number: signal.signal(number, interrupt) for number in signals}
        try:
            service.run(watch)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    return EXIT_PARTIAL if service.cut_short else 0


def _reconstruct(options: argparse.Namespace, world: Any) -> int:
    from streamrecon.cli_view import Page
    from streamrecon.engine import Engine
    from streamrecon.progress import Progress

    out = Path(options.out or RECON_OUT)
    with (
        Progress(options.log_json, options.quiet) as progress,
        Page(options.view, config_of(options)) as page,
        Engine(page.config, out, progress.event, options.overwrite, options.resume, world) as engine,
    ):
        page.tell(progress.event)
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

    config = config_of(options)
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

    return attach(options, config_of(options))


def _view(options: argparse.Namespace) -> int:
    from streamrecon.cli_view import view

    return view(options)


def _supervise(options: argparse.Namespace) -> int:
    from streamrecon.supervise import supervise

    def tell(text: str) -> None:
        sys.stderr.write(f"streamrecon supervise: {text}\n")
        sys.stderr.flush()

    return supervise(options.job, restarts=options.restarts, backoff=options.backoff, tell=tell)


class _Sending:
    """Says, now and then, how far a replay is."""

    def __init__(self, quiet: bool) -> None:
        self._quiet, self._told, self._advice = quiet, "", ""

    def __call__(self, end: Any) -> None:
        if end.advice != self._advice:
            self._advice = end.advice
            withdrawn = "who watches the scan no longer advises to stop it"
            sys.stderr.write(
                (f"who watches the scan advises to stop it: {end.advice!r}" if end.advice else withdrawn) + "\n"
            )
        state = end.session.state
        words = f"{state.name.lower()}: {state.value}" if not end.busy else f"the engine is busy: {end.busy.reason}"
        if not self._quiet and words != self._told:
            self._told = words
            sys.stderr.write(words + "\n")


def _inspect(options: argparse.Namespace) -> int:
    import numpy as np

    from streamrecon.engine import make_plan
    from streamrecon.sources import open_source

    config = config_of(options)
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

    config = config_of(options)
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


COMMANDS = {
    "demo": _demo,
    "run": _run,
    "replay": _replay,
    "recon": _recon,
    "attach": _attach,
    "inspect": _inspect,
    "plan": _plan,
    "view": _view,
    "supervise": _supervise,
}


if __name__ == "__main__":
    sys.exit(main())
