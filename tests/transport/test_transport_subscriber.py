"""What is published as `prefix name payload` comes out as name and payload; anything else is counted, and no more."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
import zmq.auth
from bluesky.callbacks.zmq import Publisher as BlueskyPublisher
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from zmq.auth.thread import ThreadAuthenticator

from streamrecon.errors import ConfigError, EndpointError
from streamrecon.transport import CurveKeys, Subscriber, is_private, read_curve_keys


class Published:
    """A socket that publishes, and a subscriber that hears it."""

    def __init__(self, **options: object) -> None:
        self.socket = zmq.Context.instance().socket(zmq.XPUB)
        self.socket.setsockopt(zmq.LINGER, 0)
        port = self.socket.bind_to_random_port("tcp://127.0.0.1")
        self.subscriber = Subscriber(f"tcp://127.0.0.1:{port}", **options)  # type: ignore[arg-type]
        assert self.socket.poll(10_000)
        self.subscription = self.socket.recv()

    def heard(self, *messages: list[bytes]) -> list[tuple[str, bytes]]:
        """What comes out of what is sent, up to a last message that is sent after it."""
        for message in messages:
            self.socket.send_multipart(message)
        self.socket.send(self.subscription[1:].rstrip(b" ") + b" last .")
        got: list[tuple[str, bytes]] = []
        while not got or got[-1][0] != "last":
            self.subscriber.wait(10)
            got += self.subscriber.messages()
        return got[:-1]

    def close(self) -> None:
        self.socket.close()
        self.subscriber.close()


@pytest.fixture
def published() -> Iterator[Published]:
    each = Published()
    yield each
    each.close()


def test_payloads_with_spaces_are_whole(published: Published) -> None:
    assert published.heard([b" event a b  c "], [b"raw start "], [b" stop \x00\xff"]) == [
        ("event", b"a b  c "),
        ("start", b""),
        ("stop", b"\x00\xff"),
    ]


MALFORMED = {
    "nothing": [b""],
    "no space": [b"x" * 1000],
    "one space": [b"event {}"],
    "a name that is not ASCII": [b" \xff\xfe {}"],
    "a name without an end": [b" " + b"a" * 1000 + b" {}"],
    "two parts": [b" event ", b"{}"],
    "four parts": [b"", b"event", b"{}", b""],
    "too large": [b" event " + b"x" * 2000],
}


def test_malformed_messages_are_counted_and_told(caplog: pytest.LogCaptureFixture) -> None:
    published = Published(max_bytes=1500)
    try:
        assert published.heard(*MALFORMED.values(), [b" event good"]) == [("event", b"good")]
        assert published.subscriber.malformed == len(MALFORMED)
        assert "2007 bytes" in str(published.subscriber.last_error)
    finally:
        published.close()


def test_a_flood_does_not_fill_the_log(published: Published, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    published.heard(*[[b"x"]] * 500)
    assert published.subscriber.malformed == 500
    assert len(caplog.records) == 9


def test_a_flood_of_what_is_malformed_comes_to_an_end(published: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zmq.Socket, "recv_multipart", lambda *_: [b"nonsense"])
    assert list(published.subscriber.messages()) == []
    assert published.subscriber.malformed > 0


def test_only_the_prefix_that_is_wanted_is_sent() -> None:
    published = Published(prefix=b"raw")
    try:
        assert published.subscription == b"\x01raw "
        published.socket.setsockopt(zmq.XPUB_VERBOSE, 1)
        got = published.heard([b"raw event 1"], [b"rawer event 2"], [b" event 3"], [b"fit event 4"])
        assert got == [("event", b"1")]
        assert published.subscriber.malformed == 0
    finally:
        published.close()


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(messages=st.lists(st.lists(st.binary(max_size=20), min_size=1, max_size=3), max_size=5))
def test_whatever_is_published_raises_nothing(published: Published, messages: list[list[bytes]]) -> None:
    before = published.subscriber.malformed
    got = published.heard(*messages)
    assert len(got) + published.subscriber.malformed - before == len(messages)


def subscribed(published: Published) -> None:
    """Wait for a subscription, while the subscriber is used."""
    while not (published.socket.poll(10) and published.socket.recv().startswith(b"\x01")):
        assert list(published.subscriber.messages()) == []


def test_after_a_message_that_is_far_too_large_the_next_ones_are_received() -> None:
    """libzmq would not connect again: it takes the publisher for one that does not speak its protocol."""
    published = Published(max_bytes=1000)
    try:
        for _ in range(2):
            assert published.heard([b" event 1"]) == [("event", b"1")]
            published.socket.send(b" event " + b"x" * 100_000)
            subscribed(published)
            assert published.heard([b" event 2"]) == [("event", b"2")]
    finally:
        published.close()


def test_what_came_before_a_break_is_not_lost() -> None:
    published = Published(max_bytes=1000)
    try:
        for number in range(5):
            published.socket.send(b" event %d" % number)
        published.socket.send(b" event " + b"x" * 100_000)
        while not published.socket.poll(1000):
            pass  # it has noticed
        assert list(published.subscriber.messages()) == [("event", b"%d" % number) for number in range(5)]
    finally:
        published.close()


def test_a_publisher_that_comes_back_is_heard() -> None:
    published = Published()
    try:
        endpoint = published.socket.getsockopt_string(zmq.LAST_ENDPOINT)
        published.socket.close()
        published.socket = zmq.Context.instance().socket(zmq.XPUB)
        for _ in range(1000):
            with contextlib.suppress(zmq.ZMQError):  # the port is free a moment after its socket is closed
                published.socket.bind(endpoint)
                break
            time.sleep(0.01)
        subscribed(published)
        assert published.heard([b" event 1"]) == [("event", b"1")]
    finally:
        published.close()


@pytest.mark.parametrize("which", ["client", "server", "none"])
def test_keys_that_are_refused_are_told(which: str, caplog: pytest.LogCaptureFixture) -> None:
    """And tried again, as they may be allowed later."""
    public, secret = zmq.curve_keypair()
    server, server_secret = zmq.curve_keypair()
    context = zmq.Context()  # of its own: the address at which keys are asked about is one in each
    socket, authenticator, subscriber = context.socket(zmq.XPUB), ThreadAuthenticator(context), None
    try:
        authenticator.start()
        authenticator.configure_curve_callback(credentials_provider=Allowed(which != "client"))
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, server_secret)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, server)
        port = socket.bind_to_random_port("tcp://127.0.0.1")
        keys = None if which == "none" else CurveKeys(public, secret, public if which == "server" else server)
        subscriber = Subscriber(f"tcp://127.0.0.1:{port}", curve=keys)
        deadline = time.monotonic() + 60
        while subscriber.last_error is None and time.monotonic() < deadline:
            subscriber.wait(0.1)
            assert list(subscriber.messages()) == []
        assert "CURVE" in str(subscriber.last_error)
        assert subscriber.malformed == 0
        if which == "client":
            authenticator.configure_curve_callback(credentials_provider=Allowed(True))
            while not socket.poll(10):
                subscriber.wait(0.01)
                assert list(subscriber.messages()) == []
            socket.send(b" event 1")
            while not (got := list(subscriber.messages())):
                subscriber.wait(0.1)
            assert got == [("event", b"1")]
        assert len(caplog.records) == 1
    finally:
        if subscriber is not None:
            subscriber.close()
        authenticator.stop()
        context.destroy(linger=0)


class Allowed:
    """Whether keys are."""

    def __init__(self, answer: bool) -> None:
        self._answer = answer

    def callback(self, domain: str, key: bytes) -> bool:
        """As pyzmq asks."""
        return self._answer


def test_what_waits_is_bounded(published: Published) -> None:
    assert 0 < published.subscriber.socket.getsockopt(zmq.RCVHWM) <= 1000


def test_bluesky_publishes_so() -> None:
    """Their publisher connects, to the proxy: here something binds in its place and hands on what comes."""
    proxy = zmq.Context.instance().socket(zmq.SUB)
    proxy.setsockopt(zmq.SUBSCRIBE, b"")
    port = proxy.bind_to_random_port("tcp://127.0.0.1")
    published = Published()
    publisher = BlueskyPublisher(f"127.0.0.1:{port}", prefix=b"raw", serializer=lambda doc: b"a b")
    try:
        while not proxy.poll(50):
            publisher("start", {})
        parts = proxy.recv_multipart()
        assert parts == [b"raw start a b"]
        assert published.heard(parts) == [("start", b"a b")]
    finally:
        publisher.close()
        published.close()
        proxy.close()


@pytest.mark.parametrize(
    "address", ["", "127.0.0.1:5578", "udp://127.0.0.1:1", "tcp://127.0.0.1", "tcp://127.0.0.1:99999"]
)
def test_a_malformed_address_is_refused(address: str) -> None:
    with pytest.raises(EndpointError):
        Subscriber(address)


def test_a_prefix_with_a_space_is_refused() -> None:
    with pytest.raises(ConfigError, match="space"):
        Subscriber("tcp://127.0.0.1:1", prefix=b"a b")


@pytest.mark.parametrize(
    ("endpoint", "private"),
    [
        ("tcp://127.0.0.1:1", True),
        ("tcp://[::1]:1", True),
        ("tcp://localhost:1", True),
        ("ipc:///run/x", True),
        ("tcp://10.0.0.1:1", False),
        ("tcp://*:1", False),
        ("tcp://localhost.example.org:1", False),
    ],
)
def test_what_stays_on_this_machine(endpoint: str, private: bool) -> None:
    assert is_private(endpoint) is private


def test_keys_are_read_from_the_files_of_zmq(tmp_path: Path) -> None:
    public, secret = zmq.auth.create_certificates(tmp_path, "client")
    server, _ = zmq.auth.create_certificates(tmp_path, "server")
    keys = read_curve_keys(secret, server)
    assert keys == CurveKeys(*zmq.auth.load_certificate(secret), zmq.auth.load_certificate(server)[0])  # type: ignore[arg-type]
    assert repr(keys.secret) not in repr(keys)
    with pytest.raises(ConfigError, match="only a public key"):
        read_curve_keys(public, server)
    with pytest.raises(ConfigError, match="is not a file of CURVE keys"):
        read_curve_keys(tmp_path / "none", server)
    for contents in ("", "public-key", 'public-key = "short"'):
        (tmp_path / "bad").write_text(contents)
        with pytest.raises(ConfigError, match="bad"):
            read_curve_keys(secret, tmp_path / "bad")


def test_malformed_keys_are_refused() -> None:
    with pytest.raises(EndpointError, match="CURVE"):
        Subscriber("tcp://127.0.0.1:1", curve=CurveKeys(b"\x00" * 40, b"\x00" * 40, b"\x00" * 40))
