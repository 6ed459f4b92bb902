"""Endpoints: which may be bound, and what went wrong when one cannot be used."""

from __future__ import annotations

import ipaddress
import os
import re
import socket as socketlib
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path

import zmq

from streamrecon.errors import EndpointError

IPC_LIMIT = 107
"""Longest path of an ipc socket, bytes, on Linux."""


def private_ipc() -> str:
    """A new ipc endpoint in a folder that only this user can enter."""
    return f"ipc://{Path(tempfile.mkdtemp(prefix='streamrecon-')) / 'engine'}"


def lane_endpoint(listen: str | None, rank: int, hosts: Sequence[str], insecure: bool) -> tuple[str | None, str]:
    """Where a rank listens, and how the sender finds it there.

    Port P of rank 0 is P + r of rank r, so that firewalls and tunnels can know it; a socket's path gets the number appended.

    Parameters
    ----------
    listen
        Endpoint of rank 0; None is a private one.
    rank
        Of this process.
    hosts
        Machine of each rank.
    insecure
        Whether an endpoint that other machines can reach is allowed.

    Returns
    -------
    endpoint
        To bind.
    advertised
        What the sender is told, the port as `*`; empty is what was bound.

    Raises
    ------
    EndpointError
        If the endpoint is malformed, or no sender could reach this rank there.
    """
    if listen is None:
        return None, ""
    scheme, address = _parse(listen)
    elsewhere = hosts[rank] != hosts[0]
    if scheme == "ipc":
        if elsewhere:
            raise EndpointError(
                f"rank {rank} is on {hosts[rank]}, rank 0 on {hosts[0]}: an ipc socket is of one machine; listen on tcp://*:PORT"
            )
        return listen if rank == 0 else f"{listen}.{rank}", ""
    host, _, port = address.rpartition(":")
    if rank and port != "*":
        if int(port) + rank > 65535:
            raise EndpointError(
                f"rank {rank} would listen on port {int(port) + rank}, {rank} above that of {listen!r}; expected at most 65535"
            )
        port = str(int(port) + rank)
    if elsewhere and _is_loopback(host.strip("[]")):
        raise EndpointError(
            f"rank {rank} is on {hosts[rank]}, rank 0 on {hosts[0]}: {listen!r} is of one machine; listen on tcp://*:PORT, which "
            "needs --insecure"
        )
    anywhere = elsewhere or host == "*"
    check_bind(listen, insecure)
    return f"tcp://{'*' if anywhere else host}:{port}", f"tcp://{hosts[rank]}:*" if anywhere else ""


def check_bind(endpoint: str, insecure: bool = False) -> None:
    """Refuse to listen where others could reach the socket.

    Parameters
    ----------
    endpoint
        `ipc://PATH` or `tcp://HOST:PORT`; the port may be `*`.
    insecure
        Allow any address all the same.

    Raises
    ------
    EndpointError
        If the endpoint is malformed, or not ipc in a private folder or TCP on the loopback without `insecure`.
    """
    scheme, address = _parse(endpoint)
    if scheme == "ipc":
        _check_ipc(address, insecure)
        return
    if not insecure and not _is_loopback(address.rpartition(":")[0].strip("[]")):
        raise EndpointError(
            f"endpoint {endpoint!r} can be reached from other machines, and there is no authentication yet: listen on "
            "tcp://127.0.0.1:PORT or ipc://PATH and tunnel, or say --insecure if the network is trusted"
        )


def check_connect(endpoint: str) -> None:
    """Refuse an endpoint that nobody can connect to.

    Raises
    ------
    EndpointError
        If it is malformed.
    """
    _, address = _parse(endpoint)
    if address.endswith(":*"):
        raise EndpointError(f"endpoint {endpoint!r} has no port to connect to; expected tcp://HOST:PORT")


def _parse(endpoint: str) -> tuple[str, str]:
    """Scheme and address of a well-formed endpoint."""
    scheme, _, address = endpoint.partition("://")
    match = re.fullmatch(r"(\[[^\]]+\]|[^:/]+):(\*|\d{1,5})", address)
    good_port = match is not None and (match[2] == "*" or int(match[2]) <= 65535)
    if not (scheme == "ipc" and address) and not (scheme == "tcp" and good_port):
        raise EndpointError(f"endpoint {endpoint!r} is not ipc://PATH or tcp://HOST:PORT")
    return scheme, address


def is_private(endpoint: str) -> bool:
    """Whether only processes of this machine can be at the other end (or who forwards a port to it).

    Raises
    ------
    EndpointError
        If it is malformed.
    """
    scheme, address = _parse(endpoint)
    return scheme == "ipc" or _is_loopback(address.rpartition(":")[0].strip("[]"))


def _is_loopback(host: str) -> bool:
    if host in ("localhost", "lo"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_ipc(address: str, insecure: bool) -> None:
    if address.startswith("@"):
        if not insecure:
            raise EndpointError("an abstract ipc socket can be reached by every user of this machine; name a path")
        return
    path = Path(address)
    if len(os.fsencode(path)) > IPC_LIMIT:
        raise EndpointError(f"the ipc path {address!r} is longer than {IPC_LIMIT} bytes; choose a shorter one")
    if not path.parent.is_dir():
        raise EndpointError(f"the folder of ipc path {address!r} does not exist")
    if path.exists() and _taken(path):
        raise EndpointError(f"{address!r} is in use: another engine listens there, or it is a file that is no socket")
    mode = path.parent.stat().st_mode
    if mode & (stat.S_IWGRP | stat.S_IWOTH | stat.S_IXGRP | stat.S_IXOTH) and not insecure:
        raise EndpointError(
            f"the folder {str(path.parent)!r} of the ipc socket can be entered by other users of this machine; "
            "use a folder with mode 0700, or say --insecure"
        )


def _taken(path: Path) -> bool:
    """Whether something is at the path that binding, which deletes what is there, must leave alone."""
    if not path.is_socket():
        return True
    with socketlib.socket(socketlib.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


def open_socket(kind: int) -> zmq.Socket[bytes]:
    """A socket that does not linger.

    Raises
    ------
    EndpointError
        If there can be no more.
    """
    try:
        socket: zmq.Socket[bytes] = zmq.Context.instance().socket(kind)
    except zmq.ZMQError as error:
        raise EndpointError(f"cannot open a socket: {error.strerror}") from error
    socket.setsockopt(zmq.LINGER, 0)
    return socket


def bind(socket: zmq.Socket[bytes], endpoint: str, insecure: bool) -> str:
    """Check and bind; the endpoint as bound, with the port in place of `*`.

    Raises
    ------
    EndpointError
        If it is not allowed or in use.
    """
    check_bind(endpoint, insecure)
    socket.setsockopt(zmq.IPV6, int("[" in endpoint))
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        raise EndpointError(f"cannot listen on {endpoint!r}: {error.strerror}") from error
    return socket.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\x00")


def connect(socket: zmq.Socket[bytes], endpoint: str) -> None:
    """Connect, which does not wait for the other end to be there.

    Raises
    ------
    EndpointError
        If the endpoint is malformed.
    """
    _parse(endpoint)
    socket.setsockopt(zmq.IPV6, int("[" in endpoint))
    try:
        socket.connect(endpoint)
    except zmq.ZMQError as error:
        raise EndpointError(f"cannot connect to {endpoint!r}: {error.strerror}") from error
