"""Scans one after the other: an engine for each, in a folder of its own, and what stays between them."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from streamrecon.config import Config
from streamrecon.engine.engine import Engine
from streamrecon.engine.journal_layout import clear, find
from streamrecon.engine.output import broke_off, finished
from streamrecon.engine.result import Result
from streamrecon.engine.series import Series
from streamrecon.engine.story import Listener, Story, log_name
from streamrecon.engine.token import remove_token, write_token
from streamrecon.engine.world import Alone, World
from streamrecon.errors import JournalError, OutputError, RankError, StreamreconError
from streamrecon.lock import FolderLock
from streamrecon.scan import UID_PATTERN

GRACE = 60.0
"""Seconds, besides those in which a sender may come back and hear of the end, that ranks wait for each other between scans."""

LOOK = 0.1
"""Seconds between two looks at an engine."""


@dataclass(frozen=True, slots=True)
class _Turn:
    """What rank 0 tells all before each scan."""

    over: bool
    """Whether there will be none."""
    left: str | None = None
    """Uid of one that an earlier process left, to be gone on with."""


class Service:
    """Serves scans until it is stopped; what comes of each is in `out`, in a folder named by its uid.

    ```
    with Service(config, "out") as service:   # listens at service.endpoint
        service.run()                         # until service.stop(), by another thread, or Ctrl-C
    ```

    A scan that breaks off, or is refused, is told and does not end it; an error of a disk, of a rank or of this program does.

    Parameters
    ----------
    config
        The options, of all scans.
    out
        Folder of the scans' folders; what happens between scans is told in its `scan.log.jsonl`.
    listener
        Called, from any thread, with each event.
    overwrite
        Replace what is in a scan's folder, also where it was not finished and cannot be sent again.
    resume
        Go on first with the newest scan that an earlier process left in `out`, if it left one.
    world
        The ranks that share each scan; None: this process alone. All of them make one with the same options.

    Raises
    ------
    EndpointError
        If an endpoint cannot be used.
    OutputError
        If the folder cannot be written, or another process serves scans into it.
    RankError
        If another rank is missing.
    """

    def __init__(
        self,
        config: Config,
        out: str | Path,
        listener: Listener | None = None,
        overwrite: bool = False,
        resume: bool = False,
        world: World | None = None,
    ) -> None:
        self._config, self._out, self._listener = config, Path(out), listener
        self._overwrite, self._resume = overwrite, resume
        self._world = world or Alone()
        self.engine: Engine | None = None
        """Of the scan in work, or of the next one."""
        self.done = 0
        """Scans whose final volume is there."""
        self.cut_short = False
        """Whether a scan was in work when it was stopped."""
        self._reason: str | None = None
        self._stoppable: Engine | None = None
        """Where `stop` reaches an engine: with several ranks, once all have theirs."""
        self._hangs = False
        self._series = Series(config, self._world, stay=True)
        self.endpoint = self._series.doors.endpoint
        """Where senders are to connect; the same from scan to scan."""
        gallery = self._series.gallery
        self.publish_endpoint = None if gallery is None else gallery.endpoint
        """Where viewers are to connect, or None; the same from scan to scan."""
        self.control_token = None if gallery is None else gallery.token
        """What lets viewers change the reconstruction; also in `out`/control.token."""
        try:
            self._lock = FolderLock(self._out, "engine", "--out", self._world.rank)
            self._story = Story(self._out / log_name(self._world.rank), listener)
            if self.control_token is not None:
                write_token(self._out, self.control_token)
        except OutputError:
            self._series.close()
            raise

    def __enter__(self) -> Service:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._reason is not None

    def stop(self, reason: str = "the engine was stopped") -> None:
        """Serve no more; any thread of rank 0. A scan in work becomes a last partial volume."""
        self._reason = reason
        if self._stoppable is not None:
            self._stoppable.stop(reason)

    def run(self, watch: Callable[[Engine], None] = lambda engine: None) -> None:
        """Serve scans until it is stopped; Ctrl-C stops it, a second one is raised.

        Parameters
        ----------
        watch
            Called about ten times a second with the engine at work; of rank 0.

        Raises
        ------
        StreamreconError
            What keeps this process from serving another scan.
        """
        lead = self._world.rank == 0
        if lead:
            text = f"serving scans at {self.endpoint}, one after the other, each into a folder of {self._out}"
            self._story.tell("serving", text, endpoint=self.endpoint, publish=self.publish_endpoint)
        left = self._left() if lead else None
        while not (turn := self._agree(_Turn(self.stopping, left))).over:
            left = None
            self._serve(turn.left, watch if lead else lambda engine: None)
        if lead:
            self._story.tell("stopped", f"{self._reason}: {self.done} scans were done", done=self.done)

    def close(self) -> None:
        """Give everything back."""
        if self._hangs:
            return  # what hangs may still use it; it ends with the process
        self._series.close()
        if self.control_token is not None:
            remove_token(self._out)
        self._story.close()
        self._lock.release()

    def _agree(self, turn: _Turn) -> _Turn:
        """What rank 0 says; all have ended the scan before by then, so none of them hears a sender of the next one too early."""
        engine = self._config.engine
        first: _Turn = self._world.share(turn, engine.peer_timeout + engine.return_timeout + GRACE)[0]
        return first

    def _left(self) -> str | None:
        """The newest scan that was in work when an earlier process ended, if this one shall go on with it; others are named."""
        left: dict[str, float] = {}
        named: list[Path] = []
        folders = [each for each in sorted(self._out.iterdir()) if UID_PATTERN.fullmatch(each.name) and each.is_dir()]
        for folder in [self._out, *folders]:
            try:
                layout = find(folder / "journal")
                newest = max((file.path.stat().st_mtime for file in layout.files), default=0.0) if layout else 0.0
            except OSError as error:
                self._story.tell("unfinished", f"{folder} cannot be gone on with: {error}", folder=folder)
                continue
            if layout is None:
                continue
            if finished(folder, layout.info.uid):
                clear(folder / "journal")  # it was ended when only this was left to be done
                continue
            # One that broke off has had its time to go on: it does not hold up others whenever the process is started.
            own = folder != self._out and layout.info.uid == folder.name
            if self._resume and own and not broke_off(folder):
                left[folder.name] = newest
            else:
                named.append(folder)
        chosen = max(left, key=lambda uid: left[uid], default=None)
        named += [self._out / uid for uid in left if uid != chosen]
        for folder in named:
            text = f"{folder} holds a scan that was not finished: recon --once --resume --out {folder} goes on with it"
            self._story.tell("unfinished", text, folder=folder)
        return chosen

    def _serve(self, left: str | None, watch: Callable[[Engine], None]) -> None:
        """One scan, from the wait for its sender to its last version."""
        listener = None if self._world.rank else self._listener
        out = self._out if left is None else self._out / left
        try:
            self.engine = engine = Engine(
                self._config,
                out,
                listener,
                self._overwrite,
                left is not None,
                self._world,
                self._series,
                apart=left is None,
            )
        except OutputError as error:
            if left is None or self._world.size > 1:
                raise
            # Such as a folder in which another engine goes on with the scan.
            self._story.tell("unfinished", f"scan {left} cannot be gone on with: {error}", folder=out)
            return
        gc.collect()  # what the scan before took is free before this one is planned
        if self._world.size == 1:
            self._let_stop(engine)
        try:
            if self._begin(engine, left):
                self._let_stop(engine)
                with contextlib.closing(engine):
                    result = self._wait(engine, watch)
                if engine.failure is not None:
                    raise engine.failure
                self._told(engine, result)
        except (JournalError, RankError) as error:
            self._hangs = isinstance(error, RankError)
            raise
        except (StreamreconError, MemoryError) as error:
            if engine.failure is not None:
                raise engine.failure from error
            self._failed(engine, error)

    def _let_stop(self, engine: Engine) -> None:
        self._stoppable = engine
        if self._reason is not None:
            engine.stop(self._reason)

    def _begin(self, engine: Engine, left: str | None) -> bool:
        """Start an engine; whether it runs: a scan that cannot be gone on with does not keep others from being served."""
        try:
            engine.start()
        except (JournalError, RankError):
            raise
        except StreamreconError as error:
            if (left is None and not self.stopping) or self._world.size > 1:
                raise
            self._failed(engine, error)
            return False
        return True

    def _wait(self, engine: Engine, watch: Callable[[Engine], None]) -> Result:
        while True:
            try:
                result = engine.wait(LOOK)
                watch(engine)
            except KeyboardInterrupt:
                if self.stopping:
                    raise
                self.stop("the engine was interrupted")
            else:
                if result is not None:
                    return result

    def _told(self, engine: Engine, result: Result) -> None:
        if self._world.rank or engine.scan is None:
            return
        uid = engine.scan.uid
        self.done += result.final
        self.cut_short |= self.stopping and not result.final
        text = f"scan {uid} is done: {result.volume}"
        if not result.final:
            kept = f"what had arrived is in {result.volume}" if result.volume else "nothing had arrived to reconstruct"
            text = f"scan {uid} was not completed: {result.reason}; {kept}"
        self._story.tell("served", text, uid=uid, final=result.final, volume=result.volume)

    def _failed(self, engine: Engine, error: BaseException) -> None:
        """The scan cannot be reconstructed, and the next one may be."""
        if self._world.rank:
            return  # rank 0 has told it to this rank, or was told
        if engine.scan is None:
            if self.stopping:
                return
            raise error
        self._story.tell(
            "served", f"scan {engine.scan.uid} was not reconstructed: {error}", uid=engine.scan.uid, final=False
        )
