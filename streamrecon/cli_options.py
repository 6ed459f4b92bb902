"""The options of all commands, and the configuration that they make."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, get_args

from streamrecon.cli_attach import ATTACH, add_attach_options
from streamrecon.cli_view import VIEW, add_page_option, add_view_options
from streamrecon.config import Config, FilterName, Layout, Method, WhenFull, load
from streamrecon.version import __version__

Command = Callable[[argparse.Namespace], int]
"""Carries a command out; its exit code."""

SUPERVISE = "run an engine, and start it again when it dies; it goes on with its scan"


def config_of(options: argparse.Namespace) -> Config:
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


def parser_of(commands: Mapping[str, Command]) -> argparse.ArgumentParser:
    """The parser of all commands.

    Parameters
    ----------
    commands
        What each does with its options.
    """
    parser = argparse.ArgumentParser(
        prog="streamrecon",
        description="Streaming tomographic reconstruction: the volume grows while the scan is measured.",
    )
    parser.add_argument("--version", action="version", version=f"streamrecon {__version__}")
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

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
    group.add_argument(
        "--zarr", action="store_true", default=None, dest="emit.zarr", help="each version as OME-Zarr, too"
    )
    group.add_argument("--publish", dest="emit.publish", metavar="ENDPOINT", help="offer updates to viewers")
    group = recon.add_argument_group("output")
    group.add_argument("--out", metavar="DIR", help="default: a folder in streamrecon-out")
    group.add_argument("--overwrite", action="store_true", help="replace another scan's volume in DIR")
    add_page_option(group)
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

    def command(name: str, text: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        sub = subparsers.add_parser(name, help=text, description=text, parents=[common, *parents])
        sub.set_defaults(command=commands[name])
        return sub

    sub = command("demo", "reconstruct a simulated scan, everything on", source, rows, recon)
    sub.add_argument("--order", metavar="O", help="of the angles: sequential, interlaced:N, golden")
    sub = command("run", "replay a scan into an engine on this machine", source, order, rows, recon)
    sub.add_argument("scan", metavar="SCAN", help="an HDF5 file, file+swmr://PATH or 'simulated'")
    sub = command("replay", "send a scan to an engine", source, order)
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
    sub = command("recon", "reconstruct scans as they come, one after the other", rows, recon)
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
    add_attach_options(command("attach", ATTACH))
    sub = subparsers.add_parser("view", help=VIEW, description=VIEW)
    sub.set_defaults(command=commands["view"])
    add_view_options(sub)
    sub = subparsers.add_parser("supervise", help=SUPERVISE, description=SUPERVISE)
    sub.set_defaults(command=commands["supervise"])
    sub.add_argument("--restarts", type=int, default=5, metavar="N", help="at most, in a row; default: 5")
    sub.add_argument("--backoff", type=float, default=1.0, metavar="S", help="before the first; it doubles; default: 1")
    sub.add_argument("job", nargs="*", metavar="-- COMMAND", help="such as: streamrecon recon --listen ENDPOINT")
    sub = command("inspect", "what is in a scan, and what would happen", source, order, rows, recon)
    sub.add_argument("scan", metavar="FILE", help="an HDF5 file, file+swmr://PATH or 'simulated'")
    sub = command("plan", "bytes and seconds of a scan, measured or not, and what would be chosen", source, recon)
    sub.add_argument("scan", nargs="?", metavar="SCAN", help="an HDF5 file, or 'simulated'; or else:")
    sub.add_argument("--columns", type=int, metavar="N", help="of the detector")
    sub.add_argument(
        "--rows", type=_rows_or_count, dest="rows", metavar="N|A:B", help="of the detector, or of the scan"
    )
    sub.add_argument("--angles", type=int, metavar="N", help="projections")
    sub.add_argument("--dtype", default="uint16", help="of the detector's pixels; default: uint16")
    sub.add_argument("--ranks", type=int, default=1, metavar="N", help="machines like this one that share the rows")
    return parser
