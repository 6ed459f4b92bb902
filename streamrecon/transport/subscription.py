"""A viewer's side: what it asks of an engine, and what comes."""

from __future__ import annotations

import contextlib
import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import zmq
from numpy.typing import NDArray

from streamrecon.errors import ConfigError, MessageError, PeerLostError, RemoteProtocolError
from streamrecon.scan import Axis
from streamrecon.transport.clock import Clock
from streamrecon.transport.endpoint import connect, open_socket
from streamrecon.wire.codec import PARTS_LIMIT, Buffer, decode, encode
from streamrecon.wire.messages import Control, Look, Picture, Plane, Progress, Result, Update, Want

LOOKS = 1.0
"""Seconds between two questions whether the engine is still there."""
REMINDERS = 10.0
"""Seconds after which a request is said again: one that went to an engine that has died is lost."""

Answer = Update | Progress | Result
Pictures = list[tuple[Picture, NDArray[np.float32]]]


class Subscription:
    """A connection to an engine's publisher; used by one thread.

    Parameters
    ----------
    endpoint
        `ipc://PATH` or `tcp://HOST:PORT`. It need not be there yet, and may go and come.

    Raises
    ------
    EndpointError
        If the endpoint is malformed.
    """

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self._socket = open_socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        try:
            connect(self._socket, endpoint)
        except Exception:
            self._socket.close()
            raise

    @property
    def socket(self) -> zmq.Socket[bytes]:
        """For a `Poller`."""
        return self._socket

    def ask(self, request: Want | Look | Control) -> None:
        """Send a request; where the engine is not there, it is asked once it is, or never."""
        with contextlib.suppress(zmq.Again):  # so many are waiting for it that one more would not help
            self._socket.send_multipart(encode(request), zmq.NOBLOCK)

    def receive(self, seconds: float = 0.0) -> tuple[Answer, Pictures] | None:
        """The next answer, waited for so long; None if there is none.

        Raises
        ------
        RemoteProtocolError
            If the publisher sent something else.
        """
        if not self._socket.poll(int(max(0.0, seconds) * 1000)):
            return None
        try:
            parts = self._socket.recv_multipart(copy=False)
            message, payload = decode([part.buffer for part in parts[: PARTS_LIMIT + 1]])
        except MessageError as error:
            raise RemoteProtocolError(f"{self.endpoint} sent something else: {error}") from error
        if not isinstance(message, Answer):
            raise RemoteProtocolError(f"{self.endpoint} sent {message.name()}; expected UPDATE, PROGRESS or RESULT")
        if isinstance(message, Progress):
            return message, []
        return message, _pictures(message, message.pictures, payload or b"")

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _pictures(message: Update | Result, pictures: Sequence[Picture], payload: Buffer) -> Pictures:
    sizes = [math.prod(picture.shape) for picture in pictures]
    if len(payload) != 4 * sum(sizes):
        shapes = ", ".join(str(picture.shape) for picture in pictures) or "none"
        raise RemoteProtocolError(f"{message.name()} has {len(payload)} bytes for pictures of the shapes {shapes}")
    # Where libzmq has put it need not be where a number may begin.
    values = np.require(np.frombuffer(payload, "<f4"), requirements="A")
    pixels = np.split(values, np.cumsum(sizes)[:-1]) if sizes else []
    return [(picture, each.reshape(picture.shape)) for picture, each in zip(pictures, pixels, strict=True)]


@dataclass(frozen=True, slots=True, eq=False)
class Slices:
    """One version of the volume, as a viewer gets it."""

    update: Update
    """Version, angles, coverage, ..."""
    axial: NDArray[np.float32]
    """(y, x) at a fixed slice."""
    coronal: NDArray[np.float32]
    """(slice, x) at a fixed y."""
    sagittal: NDArray[np.float32]
    """(slice, y) at a fixed x."""
    preview: NDArray[np.float32] | None = None
    """(slice, y, x) of the volume, binned."""
    projection: NDArray[np.float32] | None = None
    """(row, column) line integrals of the newest projection."""
    sinogram: NDArray[np.float32] | None = None
    """(projection, column) line integrals of the row that was asked for."""


def subscribe(
    endpoint: str,
    timeout: float = 30.0,
    *,
    z: int | None = None,
    y: int | None = None,
    x: int | None = None,
    most: int = 0,
    preview: int = 0,
    projection: bool = False,
    sinogram: int | None = None,
    once: bool = True,
) -> Iterator[Slices]:
    """Versions of the volume as they come; what is missed while the caller is busy is skipped.

    Parameters
    ----------
    endpoint
        Of the engine's publisher.
    timeout
        Seconds of silence after which the engine counts as lost. Between two versions it is not silent.
    z, y, x
        Where to cut the volume, voxels of the full one; None is the middle.
    most
        Pixels of the longest side of a picture, at most; 0 for any.
    preview
        Voxels of the longest side of a preview of the volume, at most; 0 for none.
    projection
        Whether the newest projection is wanted.
    sinogram
        Slice whose sinogram is wanted; None for none.
    once
        Whether to end with the final version of a scan; else it goes on with the next one.

    Raises
    ------
    ConfigError
        If a number is none that can be asked for.
    EndpointError
        If the endpoint is malformed.
    PeerLostError
        If nothing came in time.
    RemoteProtocolError
        If the publisher sent something else.

    Examples
    --------
    >>> for slices in subscribe("tcp://127.0.0.1:5601"):  # doctest: +SKIP
    ...     print(slices.update.version, slices.axial.mean())
    """
    axes: tuple[tuple[Axis, int | None], ...] = ("z", z), ("y", y), ("x", x)
    want = Want(
        after=0,
        planes=tuple(Plane(axis=axis, index=None if i is None else _number(axis, i)) for axis, i in axes),
        most=_number("most", most),
        preview=_number("preview", preview),
        projection=bool(projection),
        sinograms=() if sinogram is None else (_number("sinogram", sinogram),),
    )
    # What is happening is heard beside the pictures: they may take long to come.
    with Subscription(endpoint) as subscription, Subscription(endpoint) as looks:
        over = False
        while not (over and once):
            update, pictures, current = _next(subscription, looks, want, timeout)
            yield _slices(update, pictures)
            want = replace(want, uid=update.uid, reconstruction=update.reconstruction, after=update.version)
            # The last version of a scan stays to be seen while the next one has none yet.
            over = update.final and current in (("", 0), update.key[:2])


def _number(name: str, value: int) -> int:
    with contextlib.suppress(TypeError):
        if 0 <= (number := operator.index(value)) < 1 << 64:
            return number
    raise ConfigError(f"subscribe was given {name} = {value!r}; expected a whole number from 0")


def _next(
    subscription: Subscription, looks: Subscription, want: Want, timeout: float
) -> tuple[Update, Pictures, tuple[str, int]]:
    """The next version, and the uid and reconstruction of the scan in work."""
    asked = looked = -math.inf
    clock = Clock()
    heard, current = clock.now(), None
    found: tuple[Update, Pictures] | None = None
    while (now := clock.now()) - heard < timeout:
        if now - asked >= REMINDERS and found is None:
            asked = now
            subscription.ask(want)
        if now - looked >= min(LOOKS, timeout / 4):
            looked = now
            looks.ask(Look())
        answer = subscription.receive(0.0 if found else min(0.02, heard + timeout - now))
        if answer is not None and isinstance(answer[0], Update):
            heard = clock.now()
            if answer[0].key != (want.uid, want.reconstruction, want.after):  # asked twice, it may come twice
                found = answer[0], answer[1]
        word = looks.receive(0.02 if found else 0.0)
        if word is not None and isinstance(word[0], Progress):
            current, heard = (word[0].uid, word[0].reconstruction), clock.now()
        # Whether a final version is of the scan in work is asked; an engine that says nothing of it has no other one.
        if found and (not found[0].final or current is not None or now - heard > min(LOOKS, timeout / 2)):
            return *found, current or ("", 0)
    if found:
        return *found, ("", 0)
    raise PeerLostError(f"{subscription.endpoint} has said nothing for {timeout:g} s")


def _slices(update: Update, pictures: Pictures) -> Slices:
    found = {picture.axis if picture.kind == "slice" else picture.kind: pixels for picture, pixels in pictures}
    missing = {"z", "y", "x"} - set(found)
    if missing:
        raise RemoteProtocolError(f"UPDATE lacks the slices at right angles to {', '.join(sorted(missing))}")
    more = {kind: found.get(kind) for kind in ("preview", "projection", "sinogram")}
    return Slices(update, found["z"], found["y"], found["x"], **more)
