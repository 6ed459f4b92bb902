"""`streamrecon attach`: its options, and what it tells people."""

from __future__ import annotations

import argparse
import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from streamrecon.config import Config
from streamrecon.errors import ConfigError

log = logging.getLogger(__name__)

TOLD_EVERY = 10.0
"""Seconds after which it is said why nothing happens."""
QUIET = 3.0
"""Seconds without any document after which a dry run finds out whether anybody is there."""
TOLD_AGAIN = 600.0
"""Seconds after which it is said again though it is the same."""
ONLY_DOCUMENTS = frozenset(
    ("mapping", "prefix", "trust_pickle", "curve_server", "curve_secret", "attach.tiled", "attach.tiled_key_file")
)
"""Options that mean nothing where there are none."""
ATTACH = "reconstruct runs of Bluesky as they happen"


def add_attach_options(parser: argparse.ArgumentParser) -> None:
    """The options of `attach`."""
    parser.add_argument(
        "url", metavar="URL",
        help="bluesky+zmq://HOST:PORT, where bluesky-0MQ-proxy publishes; documents+jsonl://-, lines of JSON on the standard "
        "input; or file+swmr://PATH, an HDF5 file that grows, without documents",
    )  # fmt: skip
    parser.add_argument("--to", metavar="ENDPOINT", help="where the engine listens, as `streamrecon recon` says")
    parser.add_argument(
        "--mapping", action="append", metavar="FILE.toml|NAME", default=[],
        help="from runs to scans: a file, or a profile that comes with streamrecon; several: the first that fits a run counts",
    )  # fmt: skip
    parser.add_argument(
        "--root", action="append", metavar="DIR", default=[], help="folder beneath which files may be read"
    )
    parser.add_argument(
        "--remap",
        action="append",
        metavar="FROM=TO",
        default=[],
        help="where a folder of another host lies on this one",
    )
    parser.add_argument("--once", action="store_true", help="end after one scan")
    parser.add_argument("--dry-run", action="store_true", help="say what would map, and send nothing")
    parser.add_argument(
        "--keep", metavar="DIR", default="streamrecon-out/attach",
        help="folder for the documents of runs in work, for a restart (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--patience", type=float, metavar="S", dest="source.patience", help="seconds to wait for a file"
    )
    parser.add_argument(
        "--tiled", metavar="URL", dest="attach.tiled",
        help="tiled server to ask for angles in documents that were missed; its API key: TILED_API_KEY in the environment",
    )  # fmt: skip
    parser.add_argument(
        "--tiled-key-file", metavar="FILE", dest="attach.tiled_key_file", help="file with the API key instead"
    )
    parser.add_argument("--prefix", default="", help="of the publisher, where several share a proxy")
    parser.add_argument(
        "--trust-pickle", action="store_true", help="run pickles as Python does; only from this machine or over CURVE"
    )
    parser.add_argument("--curve-server", metavar="FILE.key", help="public key of the proxy, for CURVE")
    parser.add_argument("--curve-secret", metavar="FILE.key_secret", help="secret key of this side, for CURVE")


def attach(options: argparse.Namespace, config: Config) -> int:
    """Run the command; its exit code."""
    from streamrecon.sources.swmr import SCHEME

    config = _with_places(config, options)
    if options.to is not None:
        from streamrecon.transport import check_connect

        check_connect(options.to)
    if options.url.startswith(SCHEME):
        return _follow(options, config)
    from streamrecon.bluesky.documents import open_documents
    from streamrecon.bluesky.mapping import load_mapping, profiles

    if not options.mapping:
        raise ConfigError(
            f"how runs map to scans is not known; expected --mapping FILE.toml, or one of: {', '.join(profiles())}"
        )
    mappings = [load_mapping(name) for name in options.mapping]
    documents = open_documents(
        options.url, prefix=options.prefix, curve=_curve(options), trust_pickle=options.trust_pickle
    )
    try:
        if options.dry_run:
            return _dry_run(documents, mappings, config)
        if options.to is None:
            raise ConfigError("where the engine listens is not known; expected --to ENDPOINT, or --dry-run")
        return _attached(documents, mappings, options, config)
    finally:
        documents.close()


def _attached(documents: Any, mappings: Sequence[Any], options: argparse.Namespace, config: Config) -> int:
    from streamrecon.bluesky.attach import Attachment

    attachment = Attachment(
        documents, options.to, mappings, config, keep=Path(options.keep), once=options.once, listener=_tell
    )
    ended = threading.Event()
    if not options.quiet:
        threading.Thread(
            target=_why, args=(ended, lambda: _reasons(documents, attachment.why_nothing_happens())), daemon=True
        ).start()
    _tell("listen", f"waiting for documents of {options.url}")
    try:
        attachment.run()
    finally:
        ended.set()
    return 1 if attachment.partial and options.once else 0


def _reasons(documents: Any, why: str) -> str:
    if documents.refusal is not None:
        why += f"; {documents.refusal}"
    if documents.malformed:
        why += f"; {documents.malformed} documents could not be read, the last: {documents.last_error}"
    return why


def _dry_run(documents: Any, mappings: Sequence[Any], config: Config) -> int:
    from streamrecon.bluesky.collect import Collector
    from streamrecon.bluesky.describe import describe
    from streamrecon.bluesky.mapping import why_no_scan
    from streamrecon.bluesky.run import GRACE, Run
    from streamrecon.sources.following import roots_of

    roots, runs, ended = roots_of(config.source), dict[str, Run](), dict[str, float]()

    def opened(run: Run) -> bool:
        if all(why_no_scan(mapping, run.start) is not None for mapping in mappings):
            told(run)
            return False
        runs[run.uid] = run
        return True

    def told(run: Run) -> None:
        try:
            lines = describe(run, mappings, roots)
        except Exception as error:
            log.exception("run %s could not be described", run.uid)
            lines = [f"run {run.uid}: cannot be described, a bug in streamrecon: {type(error).__name__}: {error}"]
        print("\n".join(lines), flush=True)
        collector.forget(run)
        runs.pop(run.uid, None)

    def added(run: Run, name: str, doc: Any) -> None:
        if name == "stop":
            ended[run.uid] = time.monotonic()

    collector = Collector(opened, added)
    reasons, last, count, quiet = _Reasons(), time.monotonic(), 0, True
    _tell("listen", "waiting for documents; runs are described as they end, and on Ctrl-C")
    try:
        while not documents.ended:
            found = documents.take(0.2)
            if found is not None:
                collector.hear(*found)
                count += 1
            now = time.monotonic()
            if quiet and (count or now - last > QUIET):
                quiet = False
                if not count and (why := documents.silence()) is not None:
                    reasons.say(why)
            for uid in [uid for uid, when in ended.items() if now - when > GRACE]:
                del ended[uid]
                told(runs[uid])
            if now - last > TOLD_EVERY:
                reasons.say(_reasons(documents, _going_on(collector, count, len(runs))))
                last, count = now, 0
    except KeyboardInterrupt:
        pass
    for run in list(runs.values()):
        told(run)
    return 0


def _going_on(collector: Any, count: int, runs: int) -> str:
    came = f"{count} documents" if count else "no document"
    why = f"{came} came for {TOLD_EVERY:g} s; {runs} runs are going on"
    if collector.waiting:
        why += f"; {collector.waiting} documents are of a run whose start was missed"
    if collector.refused:
        why += f"; {collector.refused} documents are left out, the last: {collector.last_refusal}"
    return why


def _follow(options: argparse.Namespace, config: Config) -> int:
    """A file without documents."""
    for option, given in vars(options).items():
        if option in ONLY_DOCUMENTS and given:
            name = option.rpartition(".")[2].replace("_", "-")
            raise ConfigError(
                f"--{name} is about documents, and {options.url} has none. A growing file is described by the table [source] of "
                "--config: layout, data, angles, angle_start, angle_step, projections"
            )
    from streamrecon.replayer import replay
    from streamrecon.sources import open_source
    from streamrecon.sources.swmr import SwmrSource

    source = open_source(options.url, config)
    for note in source.notes():
        _tell("source", note)
    if options.dry_run:
        info = source.info()
        if isinstance(source, SwmrSource):
            outline = source.outline()
            print("".join(f"{name:<12}{path}\n" for name, path in outline.names()), end="")
        print(f"scan        {info.uid}\nframes      {info.geometry.rows} x {info.geometry.columns} {info.dtype}")
        return 0
    if options.to is None:
        raise ConfigError("where the engine listens is not known; expected --to ENDPOINT, or --dry-run")
    report = replay(options.url, options.to, config)
    _tell("done", f"{report.frames} frames in {report.seconds:.1f} s")
    return 0


class _Reasons:
    """Why nothing happens: said when it changes in more than its numbers, and again after a while."""

    def __init__(self) -> None:
        self._sense, self._when = "", 0.0

    def say(self, words: str) -> None:
        now, sense = time.monotonic(), re.sub(r"\d+", "0", words)
        if sense != self._sense or now - self._when >= TOLD_AGAIN:
            self._sense, self._when = sense, now
            _tell("why", words)


def _why(ended: threading.Event, why: Callable[[], str]) -> None:
    reasons = _Reasons()
    while not ended.wait(TOLD_EVERY):
        reasons.say(why())


def _tell(event: str, text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _with_places(config: Config, options: argparse.Namespace) -> Config:
    from dataclasses import replace

    source = config.source
    for root in (*source.roots, *options.root):
        if not Path(root).is_dir():
            raise ConfigError(
                f"the root {root} is no folder on this machine; expected one beneath which the images lie here. Where documents "
                "have them elsewhere: --remap"
            )
    return replace(
        config,
        source=replace(source, roots=(*source.roots, *options.root), remap=(*source.remap, *options.remap)),
    )


def _curve(options: argparse.Namespace) -> Any:
    if options.curve_server is None and options.curve_secret is None:
        return None
    if options.curve_server is None or options.curve_secret is None:
        raise ConfigError(
            "CURVE needs both --curve-server, the proxy's public key, and --curve-secret, the secret key of this side"
        )
    from streamrecon.transport.curve import read_curve_keys

    return read_curve_keys(options.curve_secret, options.curve_server)
