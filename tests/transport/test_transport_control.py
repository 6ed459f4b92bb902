"""The connection between ranks: what they say arrives in order, and who has not the key is never heard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zmq
from transport_engine import wait_for

from streamrecon.transport.control import ControlHub, ControlLink


@pytest.fixture
def hub() -> Iterator[ControlHub]:
    each = ControlHub()
    yield each
    each.close()


def heard(end: ControlHub | ControlLink, count: int) -> list[tuple[int, bytes]]:
    """So many messages, as soon as they are there."""
    found: list[tuple[int, bytes]] = []
    wait_for(lambda: found.extend(end.messages()) or len(found) >= count)
    return found


def test_what_ranks_say_arrives_in_order_and_the_answers_at_those_they_are_for(hub: ControlHub) -> None:
    links = {rank: ControlLink(rank, hub.address) for rank in (1, 2, 12)}
    try:
        for number in range(300):
            for rank, link in links.items():
                link.send(0, b"%d of %d" % (number, rank))
        found = heard(hub, 900)
        for rank in links:
            assert [message for who, message in found if who == rank] == [b"%d of %d" % (n, rank) for n in range(300)]
            hub.send(rank, b"to %d" % rank)
        for rank, link in links.items():
            assert heard(link, 1) == [(0, b"to %d" % rank)]
    finally:
        for link in links.values():
            link.close()


def test_a_rank_that_is_not_there_is_no_error(hub: ControlHub) -> None:
    hub.send(7, b"anyone?")
    assert list(hub.messages()) == []


def no_key(socket: zmq.Socket[bytes], hub: ControlHub) -> None:
    pass


def other_key(socket: zmq.Socket[bytes], hub: ControlHub) -> None:
    other, _ = zmq.curve_keypair()
    own_key(socket, other)


def plain(socket: zmq.Socket[bytes], hub: ControlHub) -> None:
    socket.setsockopt(zmq.PLAIN_USERNAME, b"1")
    socket.setsockopt(zmq.PLAIN_PASSWORD, b"1")


def own_key(socket: zmq.Socket[bytes], server: bytes) -> None:
    public, secret = zmq.curve_keypair()
    socket.setsockopt(zmq.CURVE_PUBLICKEY, public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, secret)
    socket.setsockopt(zmq.CURVE_SERVERKEY, server)


@pytest.mark.parametrize("dress", [no_key, other_key, plain])
def test_who_has_not_the_key_is_never_heard_nor_told(
    hub: ControlHub, dress: Callable[[zmq.Socket[bytes], Any], None]
) -> None:
    stranger: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    stranger.setsockopt(zmq.LINGER, 0)
    stranger.setsockopt(zmq.IDENTITY, b"1")
    dress(stranger, hub)
    events = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_SUCCEEDED
    events |= zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_DISCONNECTED
    monitor = hub.socket.get_monitor_socket(events)
    rank = ControlLink(2, hub.address)
    try:
        stranger.connect(hub.address[0])
        stranger.send(b"order me about")
        assert monitor.poll(20_000), "it has knocked"
        hub.send(1, b"a secret")
        rank.send(0, b"I have the key")
        assert heard(hub, 1) == [(2, b"I have the key")]
        assert not stranger.poll(100)
        assert list(hub.messages()) == []
    finally:
        hub.socket.disable_monitor()
        monitor.close()
        stranger.close()
        rank.close()


def test_each_run_has_a_key_of_its_own(hub: ControlHub) -> None:
    other = ControlHub()
    try:
        assert other.address[1] != hub.address[1]
    finally:
        other.close()


def test_it_is_of_this_machine_unless_ranks_are_elsewhere(hub: ControlHub) -> None:
    assert hub.address[0].startswith("tcp://127.0.0.1:")
    assert b"127.0.0.1" in hub.socket.getsockopt(zmq.LAST_ENDPOINT)
    far = ControlHub("node7")
    try:
        assert far.address[0].startswith("tcp://node7:")
        assert b"0.0.0.0" in far.socket.getsockopt(zmq.LAST_ENDPOINT)
    finally:
        far.close()
