"""Sending a scan: a thread reads frames, the calling thread sends them as credit goes and keeps them as long as it must."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from streamrecon.config import SendConfig
from streamrecon.errors import EndpointError, SenderLeftError
from streamrecon.scan import Frame, FrameKind, Gap, ScanInfo
from streamrecon.transport.clock import Clock
from streamrecon.transport.link import Link
from streamrecon.transport.poller import Poller
from streamrecon.transport.reading import FramesOf, Reading
from streamrecon.transport.retention import Kept, Retention
from streamrecon.transport.wakeup import Wakeup
from streamrecon.wire.dispatch import Dispatch, missing
from streamrecon.wire.messages import Range
from streamrecon.wire.sending import SendingEnd

log = logging.getLogger(__name__)

POLL = 0.05
"""Seconds between looks at what no socket tells."""


@dataclass(frozen=True, slots=True)
class SendReport:
    """What was sent."""

    frames: int
    nbytes: int
    seconds: float
    """From the first frame to the last answer."""
    waited: float
    """Of them, seconds in which nothing could be sent for want of credit: how much the engine paced the source."""
    missing: tuple[Range, ...]
    """Projections the engine never got."""
    dropped: int = 0
    """Frames given up as there was no room to keep them (send.when_full = "drop")."""
    sessions: int = 1
    """More than one where a connection broke or the engine was restarted."""


def send_scan(
    info: ScanInfo,
    frames: FramesOf,
    endpoint: str,
    *,
    options: SendConfig | None = None,
    can_replay: bool = True,
    heartbeat: float = 1.0,
    peer_timeout: float = 30.0,
    connect_timeout: float | None = None,
    pause: threading.Event | None = None,
    progress: Callable[[SendingEnd], None] = lambda end: None,
) -> SendReport:
    """Send a whole scan and wait until the engine has its final volume.

    A frame is kept until the engine has it for good: in its journal, on disk. Where the connection breaks or the engine is
    restarted, a new session goes on with what it does not have; an engine that lost what it had gets the scan from its
    start, if the source can give it again.

    Parameters
    ----------
    info
        Of the scan.
    frames
        Gives the frames of some detector rows, from the first one on.
    endpoint
        Of the engine.
    options
        What is kept, and where; None is the defaults.
    can_replay
        Whether `frames` can be called again to give the same frames once more: a file can, a detector cannot. Where it
        can, a frame is kept only until it has arrived.
    heartbeat, peer_timeout
        Seconds.
    connect_timeout
        Seconds to wait for an engine at first; None waits for ever.
    pause
        While it is set no frame is taken from the source, and the engine is told so.
    progress
        Called often, with the state of the first lane's session.

    Raises
    ------
    EndpointError
        If the endpoint is malformed.
    PeerLostError
        If no engine came, or it did not come back.
    ScanAbortedError
        If the engine ended the scan.
    RemoteProtocolError
        If the engine's messages do not fit, or a younger sender has the scan.
    SourceError
        If a frame does not fit the scan, or the spool fails; and whatever reading the frames raises.
    SenderLeftError
        If reading the frames, or `progress`, raises it: the engine is not told that the scan ends, and waits.
    """
    options = options or SendConfig()
    dispatch: Dispatch[Kept] = Dispatch(
        info,
        endpoint,
        time.time_ns(),
        can_replay,
        drop=options.when_full == "drop",
        ahead=options.when_full != "wait",
        retain_bytes=0 if can_replay else options.retain_bytes,
        heartbeat=heartbeat,
        peer_timeout=peer_timeout,
        connect_timeout=connect_timeout,
        return_timeout=options.return_timeout,
    )
    sender = _Sender(dispatch, frames, Retention(options), pause or threading.Event(), progress)
    try:
        return sender.run()
    except KeyboardInterrupt:
        sender.abort("the sender was interrupted")
        raise
    except SenderLeftError:
        raise
    except Exception as error:
        sender.abort(str(error))
        raise
    finally:
        sender.close()


class _Sender:
    """Moves what a `Dispatch` says: messages to and from sockets, frames from the source into its keeping and out of it."""

    def __init__(
        self,
        dispatch: Dispatch[Kept],
        frames: FramesOf,
        retention: Retention,
        pause: threading.Event,
        progress: Callable[[SendingEnd], None],
    ) -> None:
        self._dispatch, self._frames, self._retention = dispatch, frames, retention
        self._pause, self._progress = pause, progress
        self._wakeup, self._clock = Wakeup(), Clock()
        self._links: list[Link] = []
        self._session, self._passes = 0, 0
        self._unopened = 0
        """Session of which a connection could not be opened, if that was told."""
        self._reading: Reading | None = None
        self._waiting: Frame | None = None
        """Taken from the source when there was no room for it."""
        self._linger = 0
        self._nbytes = 0
        self._first: float | None = None
        self._waited, self._blocked_since = 0.0, -1.0

    def run(self) -> SendReport:
        """As `send_scan` says."""
        dispatch = self._dispatch
        dispatch.begin(self._clock.now())
        while not dispatch.done:
            poller = self._connect()
            dispatch.paused = self._pause.is_set()
            for number, link in enumerate(self._links):
                if link.ready():
                    dispatch.greet(number, self._clock.now())
            self._say()
            poller.wait(min(dispatch.heartbeat / 2, POLL))
            self._hear()
            dispatch.tick(self._clock.now())
            self._say()
            self._move()
            self._progress(dispatch.main)
        dispatch.farewell()
        self._say()
        self._linger = 500
        seconds = 0.0 if self._first is None else self._clock.now() - self._first
        return SendReport(
            dispatch.outbox.frames,
            self._nbytes,
            seconds,
            self._waited,
            missing(lane.end for lane in dispatch.lanes),
            dispatch.dropped,
            dispatch.joined,
        )

    def _connect(self) -> Poller:
        """Open the connections that the session has and this side has not yet."""
        if self._session != self._dispatch.session:
            self._part(0)
            self._session = self._dispatch.session
        try:
            for lane in self._dispatch.lanes[len(self._links) :]:
                self._links.append(Link(lane.endpoint))
        except EndpointError as error:
            if not self._dispatch.joined:
                raise
            # Such as too many open files. Frames are kept, and it may be better soon: as long as an engine is waited for.
            if self._session != self._unopened:
                self._unopened = self._session
                log.warning("%s; it is tried again", error)
        return Poller(self._wakeup, *self._links)

    def _hear(self) -> None:
        for number, link in enumerate(self._links):
            for message, payload in link.messages():
                self._dispatch.hear(number, message, payload, self._clock.now())
                if self._dispatch.session != self._session:
                    return  # what else has come is of the session before

    def _say(self) -> None:
        if self._dispatch.session == self._session:
            for number, message, payload in self._dispatch.messages():
                if number < len(self._links):
                    self._links[number].say(message, payload)

    def _move(self) -> None:
        """Take frames from the source as there is room for them, and send them as there is credit, until neither goes on."""
        dispatch = self._dispatch
        if self._passes != dispatch.passes:
            self._read_again()
        if dispatch.session != self._session:
            return
        moved = True
        while moved:
            moved = self._take()
            while self._send():
                moved = True
            for kept in dispatch.forgotten():
                self._retention.free(kept)
        now, blocked = self._clock.now(), self._first is not None and dispatch.waits_for_credit()
        if blocked and self._blocked_since < 0:
            self._blocked_since = now
        elif not blocked and self._blocked_since >= 0:
            self._waited += now - self._blocked_since
            self._blocked_since = -1.0

    def _read_again(self) -> None:
        if self._reading is not None:
            self._reading.close()
        self._passes, self._waiting = self._dispatch.passes, None
        self._reading = Reading(self._dispatch.info, self._frames, slice(*self._dispatch.rows), self._wakeup)

    def _take(self) -> bool:
        """Take the next frame from the source, if it is wanted and can be kept; whether there was one."""
        dispatch = self._dispatch
        if not dispatch.hungry or self._reading is None:
            return False
        item, self._waiting = self._waiting or self._reading.take(), None
        if item is None:
            if self._reading.exhausted:
                dispatch.source_ended()
            return False
        if isinstance(item, Gap):
            dispatch.give_up(item.kind, (item.first, item.end), item.reason)
            return True
        item = dispatch.place(item)
        identity = FrameKind(item.kind), int(item.index)
        kept = self._retention.keep(item)
        if kept is None:
            given_up = dispatch.no_room(identity)
            self._waiting = None if given_up else item
            return given_up
        if dispatch.put(identity, kept):
            self._nbytes += item.data.nbytes
        else:
            self._retention.free(kept)
        return True

    def _send(self) -> bool:
        """Send a frame; whether there was one and credit for it."""
        dispatch = self._dispatch
        following = dispatch.next(lambda number: number < len(self._links) and self._links[number].ready())
        if following is None:
            return False
        lane, kept = following
        (first, end), whole, now = dispatch.lanes[lane].end.rows, dispatch.rows, self._clock.now()
        frame = self._retention.rows(kept, first - whole[0], end - whole[0])
        header = dispatch.send(lane, frame, now)
        self._say()
        self._links[lane].send(header, frame.data)
        self._first = self._first or now
        return True

    def abort(self, reason: str) -> None:
        """Tell the engine that the scan ends here."""
        self._linger = 1000 if self._dispatch.abort(reason) else 500
        self._say()

    def _part(self, linger: int) -> None:
        for link in self._links:
            link.close(linger)
        self._links = []

    def close(self) -> None:
        """Give everything back."""
        if self._reading is not None:
            self._reading.close()
        self._part(self._linger)
        self._retention.close()
        self._wakeup.close()
