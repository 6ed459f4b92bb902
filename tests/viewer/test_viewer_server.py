"""The server: for whom it is, what it serves, and that a page that misbehaves hurts itself only."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from viewer_client import PATIENCE, Page, opened, token_of, until
from viewer_live import TOKEN, FakeEngine
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from streamrecon.errors import ConfigError, EndpointError
from streamrecon.viewer import FileSource, LiveSource, ViewServer, app, connections, files, session

ALL: list[list[Any]] = [["z", 10], ["y", 20], ["x", 30]]
SHAPE = 16, 24, 32
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; connect-src 'self'; "
    "font-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    with FakeEngine(shape=SHAPE) as made:
        yield made


@pytest.fixture(autouse=True)
def gathering(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices of a version come together, however slow the machine is."""
    monkeypatch.setattr(session, "GATHER", 30.0)


@pytest.fixture
def server(engine: FakeEngine) -> Iterator[ViewServer]:
    with ViewServer(LiveSource(engine.endpoint, TOKEN), control_token="controls") as made:
        yield made


@pytest.fixture(scope="module")
def shared() -> Iterator[ViewServer]:
    """For tests that change nothing."""
    with (
        FakeEngine(shape=SHAPE) as engine,
        ViewServer(LiveSource(engine.endpoint, TOKEN), control_token="controls") as made,
    ):
        yield made


@pytest.fixture
def page(server: ViewServer) -> Iterator[Page]:
    with opened(server, "controls") as made:
        yield made


def get(server: ViewServer, path: str, *headers: tuple[str, str], method: str = "GET") -> tuple[int, Any, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.putrequest(method, path, skip_host=True)
        for header in headers or (("Host", f"127.0.0.1:{server.port}"),):
            connection.putheader(*header)
        connection.endheaders()
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


# What is shown.


def test_a_scan_that_grows(engine: FakeEngine, page: Page) -> None:
    page.want(ALL, preview=8, beside=True)
    engine.step()
    update = page.until("update")
    assert (update["serial"], update["version"], update["uid"], update["full"]) == (1, 1, "fake-1", list(SHAPE))
    got = {(each.header["kind"], each.header["axis"]): each for each in page.pictures}
    for axis, index in ALL:
        values = engine.plane(axis, index)
        picture = got["slice", axis]
        assert np.abs(picture.values - values).max() <= np.ptp(values) / 65534 / 2 * 1.001
        assert picture.header["full"] == list(values.shape)
    assert got["preview", ""].raw.shape == (4, 6, 8)
    update, pictures = page.batch([["z", 3], *ALL[1:]], preview=8)
    assert [(each.header["axis"], each.header["index"]) for each in pictures] == [("z", 3)]
    engine.step(4)
    page.want(ALL)
    assert page.until("update")["version"] == 5
    assert page.until("progress", lambda text: text["version"] == 5)["line"].startswith(
        "Accumulating: 100 of 800 projections"
    )


def test_pictures_no_larger_than_the_page() -> None:
    with (
        FakeEngine(shape=(16, 96, 80)) as engine,
        ViewServer(LiveSource(engine.endpoint), view_token="v") as server,
        opened(server, "v") as page,
    ):
        engine.step()
        _, pictures = page.batch(ALL, size=32)
        assert [each.raw.shape for each in pictures] == [(32, 26), (5, 26), (5, 32)]
        assert [each.header["full"] for each in pictures] == [[96, 80], [16, 80], [16, 96]]


def test_values_and_changes(engine: FakeEngine, page: Page) -> None:
    engine.step()
    values = page.values("z", 4)
    assert values.header["dtype"] == "<f4"
    np.testing.assert_array_equal(values.raw, engine.plane("z", 4))
    page.say("control", serial=10, action="centers", numbers=[8, 40, 50, 5])
    result = page.until("result")
    assert (result["serial"], result["done"]) == (10, True)
    strip = page.pictures[-1]
    assert (strip.header["kind"], strip.header["serial"], strip.raw.shape) == ("centers", 10, (5, 16, 32))
    page.say("control", serial=11, action="center", numbers=[41.0])
    assert page.until("result")["text"] == "the center is 41"
    assert engine.center == 41.0


def test_all_pages_share_an_encoding(engine: FakeEngine, server: ViewServer) -> None:
    engine.step()
    with opened(server, "controls") as one, opened(server, "controls") as other:
        first, second = one.batch(ALL)[1], other.batch(ALL)[1]
        assert [each.header for each in first] == [each.header for each in second]
        assert server._desk.encodings.made == 3
        one.batch(ALL, size=1000)
        other.batch(ALL, size=100)
        assert server._desk.encodings.made == 3, "as they are, for both"


def test_a_slow_page_skips_and_keeps_nobody_waiting() -> None:
    """It asks and does not read: the others see every version, and it gets the newest when it reads again."""
    with (
        FakeEngine(shape=(4, 256, 256)) as engine,
        ViewServer(LiveSource(engine.endpoint), view_token="v") as server,
        opened(server, "v") as page,
        socket.socket() as narrow,
    ):
        narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 15)
        narrow.connect(("127.0.0.1", server.port))
        places = [["z", 1]]
        with opened(server, "v", sock=narrow, max_queue=1) as slow:
            engine.step()
            slow.batch(places)
            page.batch(places)
            for version in range(2, 30):
                slow.want(places)
                slow.say("values", serial=version, axis="z", index=version % 4)
                slow.say("values", serial=version, axis="z", index=(version + 1) % 4)
                page.want(places)
                engine.step()
                assert page.until("update")["version"] == version
            got = [slow.until("update")]
            while got[-1]["version"] < 29:
                got.append(slow.until("update"))
            assert len(got) < 25


def test_a_page_that_asks_in_vain_is_not_answered_twice(engine: FakeEngine, page: Page) -> None:
    engine.step()
    page.batch(ALL)
    for _ in range(5):
        page.want(ALL)
    page.values("z", 10)  # so all that was said is read
    engine.step()
    assert page.until("update")["serial"] == page.serial
    before = len(page.texts)
    page.values("z", 10)
    assert [text for text in page.texts[before:] if text["type"] == "update"] == []


def test_another_source_in_the_same_page(engine: FakeEngine, server: ViewServer, page: Page, tmp_path: Path) -> None:
    engine.step()
    page.batch(ALL)
    page.want(ALL)
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["volume"] = np.arange(16 * 24 * 32, dtype=np.float32).reshape(SHAPE)
    server.show(FileSource(path))
    update = page.until("update")
    assert (update["title"], update["final"]) == ("a.h5", True)
    assert {"type": "link", "state": "file", "text": str(path)} in page.texts
    assert page.pictures[-1].header["hi"] == 16 * 24 * 32 - 2
    page.say("control", serial=1, action="snapshot")
    assert "file" in page.until("result")["text"]
    with opened(server, "controls") as late:
        assert late.batch([["z", 1]])[0]["title"] == "a.h5"
    path.unlink()
    with h5py.File(path, "w") as file:
        file["volume"] = np.ones(SHAPE, np.float32)
    server.show(FileSource(path))
    assert page.batch(ALL)[1][-1].header["hi"] == 1.0, "not what was encoded of another file under the same name"


def test_a_stream_that_goes_and_comes_back(
    engine: FakeEngine, server: ViewServer, page: Page, monkeypatch: Any
) -> None:
    monkeypatch.setattr("streamrecon.viewer.live.SILENCE", 0.4)
    monkeypatch.setattr("streamrecon.viewer.live.LOOKS", 0.1)
    page.until("link", lambda text: text["state"] == "live")
    page.until("progress")
    engine.deaf.set()
    page.until("link", lambda text: text["state"] == "gone")
    assert "is gone" in page.until("progress")["line"]
    engine.deaf.clear()
    page.until("link", lambda text: text["state"] == "live")


# Who is let in.


def test_the_links(shared: ViewServer) -> None:
    for url, token in ((shared.view_url, token_of(shared.view_url)), (shared.control_url, "controls")):
        assert url == f"http://127.0.0.1:{shared.port}/#token={token}"
    assert len(token_of(shared.view_url)) >= 40
    with opened(shared) as page:
        page.say("hello", token=token_of(shared.view_url))
        assert page.until("welcome")["role"] == "view"
        page.say("control", serial=4, action="center", numbers=[3.0])
        assert not page.until("result")["done"]
    with opened(shared) as page:
        page.say("hello", token="controls")
        assert page.until("welcome")["role"] == "control"


def test_without_a_control_token_nobody_changes_anything(engine: FakeEngine) -> None:
    with ViewServer(LiveSource(engine.endpoint, TOKEN)) as server:
        assert server.control_url is None
        with opened(server) as page:
            page.say("hello", token="")
            assert page.closed() == app.NO_TOKEN
        with opened(server, token_of(server.view_url)) as page:
            page.say("control", serial=4, action="center", numbers=[3.0])
            assert not page.until("result")["done"]
    assert engine.controls == []


@pytest.mark.parametrize(
    "first",
    [
        '{"type": "hello", "token": "guess"}',
        '{"type": "hello", "token": ""}',
        '{"type": "hello"}',
        '{"type": "want", "serial": 1, "places": [], "size": 64}',
        "nonsense",
        b"controls",
    ],
)
def test_who_does_not_know_the_token_learns_nothing(shared: ViewServer, first: Any) -> None:
    with opened(shared) as page:
        page.socket.send(first)
        assert page.closed() == app.NO_TOKEN
        assert page.texts == []


def test_who_says_nothing(shared: ViewServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "HELLO_WITHIN", 0.1)
    with opened(shared) as page:
        assert page.closed() == app.NO_TOKEN


@pytest.mark.parametrize(
    "text", ["nonsense", '{"type": "want"}', '{"type": "hello", "token": "x", "more": 1}', b"bytes"]
)
def test_who_says_nonsense(shared: ViewServer, text: Any) -> None:
    with opened(shared, "controls") as page, opened(shared, "controls") as other:
        other.socket.send(text)
        assert other.closed() == app.MALFORMED
        page.say("hello", token="again")
        assert page.until("error")  # the others go on


def test_who_says_too_much(shared: ViewServer) -> None:
    with opened(shared, "controls") as page:
        page.socket.send("x" * 5000)
        assert page.closed() == 1009


def test_too_many_pages(engine: FakeEngine) -> None:
    with ViewServer(LiveSource(engine.endpoint), view_token="v", sessions=2) as server, opened(server, "v") as first:
        with opened(server, "v"), opened(server) as third:
            third.say("hello", token="v")
            assert third.closed() == app.TOO_MANY
        until(lambda: len(server._desk.sessions) == 1)
        with opened(server, "v"):
            pass
        engine.step()
        assert first.batch(ALL)[0]["version"] == 1


def test_who_says_nothing_takes_no_page_its_place(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "STRANGERS", 4)
    monkeypatch.setattr(app, "HELLO_WITHIN", 60.0)
    with (
        ViewServer(LiveSource(engine.endpoint), view_token="v", sessions=2) as server,
        contextlib.ExitStack() as silent,
    ):
        for _ in range(3):
            silent.enter_context(opened(server))
        with opened(server, "v"), opened(server, "v"):
            with opened(server), opened(server) as fifth:
                assert fifth.closed() == app.TOO_MANY
            assert get(server, "/nothing")[0] == 404


def test_halves_of_requests_take_no_page_its_place(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are not waited for; pages and their files are."""
    monkeypatch.setattr(connections, "WITHIN", 0.3)
    with ViewServer(LiveSource(engine.endpoint), view_token="v") as server, contextlib.ExitStack() as open_:
        page = open_.enter_context(opened(server, "v"))
        halves = [open_.enter_context(socket.create_connection(("127.0.0.1", server.port))) for _ in range(300)]
        for half in halves:
            half.settimeout(PATIENCE)
            with contextlib.suppress(ConnectionError):
                half.sendall(b"GET / HTTP/1.1\r\nHost: ")
        for half in halves:
            with contextlib.suppress(ConnectionError):
                assert half.recv(1) == b""
        assert get(server, "/")[0] == 200
        engine.step()
        assert page.batch(ALL)[0]["version"] == 1


class Looks:
    """Looks at connections when a test says so, not as time passes."""

    def __init__(self) -> None:
        self._due: dict[tuple[str, int], tuple[Any, Any, tuple[Any, int]]] = {}

    def later(self, connection: Any, transport: Any, before: tuple[Any, int]) -> None:
        self._due[transport.get_extra_info("peername")] = connection, transport, before

    def unread(self, peer: socket.socket) -> int:
        """Bytes that the server has for a connection."""
        due = self._due.get(peer.getsockname())
        return 0 if due is None else due[1].get_write_buffer_size()

    def look(self, server: ViewServer) -> None:
        """At each once."""
        done = threading.Event()

        def look() -> None:
            due, self._due = self._due, {}
            for connection, transport, before in due.values():
                connection._look(transport, before)
            done.set()

        assert server._loop is not None
        server._loop.call_soon_threadsafe(look)
        assert done.wait(PATIENCE)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    made = Looks()
    # No method, which would not be given the connection.
    monkeypatch.setattr(connections.Connection, "_look_later", lambda *given: made.later(*given))
    return made


def test_who_reads_slowly_is_waited_for_and_who_does_not_read_is_not(
    engine: FakeEngine, looks: Looks, monkeypatch: pytest.MonkeyPatch
) -> None:
    bind = ViewServer._bind

    def narrow(self: ViewServer) -> socket.socket:
        listener = bind(self)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 15)
        return listener

    monkeypatch.setattr(ViewServer, "_bind", narrow)
    with ViewServer(LiveSource(engine.endpoint)) as server, contextlib.ExitStack() as open_:
        file = max(server._files, key=lambda name: server._files[name].stat().st_size)
        size = server._files[file].stat().st_size
        reads, silent = (open_.enter_context(socket.socket()) for _ in range(2))
        for each in reads, silent:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            each.settimeout(PATIENCE)
            each.connect(("127.0.0.1", server.port))
            head = f"GET {file} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nConnection: close\r\n\r\n"
            each.sendall(head.encode())
            until(lambda: looks.unread(each))  # noqa: B023
        got = b""
        for _ in range(3):
            looks.look(server)
            before = looks.unread(reads)
            while looks.unread(reads) == before:
                got += reads.recv(1 << 14)
        while some := reads.recv(1 << 14):
            got += some
        assert len(got) > size, "with its head"
        kept = 0
        with contextlib.suppress(ConnectionResetError):
            while some := silent.recv(1 << 20):
                kept += len(some)
        assert kept < size
        until(lambda: len(server._server.server_state.connections) == 0)


def test_a_connection_in_use_is_kept(engine: FakeEngine, looks: Looks) -> None:
    with ViewServer(LiveSource(engine.endpoint)) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
        connection.connect()
        for _ in range(4):
            connection.request("GET", "/")
            assert len(connection.getresponse().read()) > 1000
            looks.look(server)
        looks.look(server)
        with contextlib.suppress(ConnectionResetError):
            assert connection.sock.recv(1) == b"", "once it is not in use any more"
        connection.close()


def test_no_more_connections_than_there_is_room_for(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "STRANGERS", 2)
    monkeypatch.setattr("streamrecon.viewer.server.IDLE_CONNECTIONS", 3)
    with ViewServer(LiveSource(engine.endpoint), sessions=1) as server, contextlib.ExitStack() as open_:
        for _ in range(6):
            open_.enter_context(socket.create_connection(("127.0.0.1", server.port))).sendall(b"GET")
        until(lambda: get(server, "/")[0] == 503)


def test_pictures_are_not_compressed(shared: ViewServer) -> None:
    """It would take longer than the network."""
    address = f"127.0.0.1:{shared.port}"
    with connect(f"ws://{address}/ws", origin=Origin(f"http://{address}"), compression="deflate") as page:
        assert page.response is not None
        assert "Sec-WebSocket-Extensions" not in page.response.headers


def test_who_left_is_forgotten(engine: FakeEngine, server: ViewServer) -> None:
    engine.step()
    with opened(server, "controls") as page:
        page.batch(ALL)
    until(lambda: not server._desk.sessions and server._desk.strangers == 0)
    engine.step()
    until(lambda: engine.asked[-1].planes == () and engine.asked[-1].after == 2)


@pytest.mark.parametrize(
    "origin",
    [None, "null", "http://evil.example", "https://127.0.0.1:{port}", "http://127.0.0.1", "http://127.0.0.1:{port}/"],
)
def test_a_foreign_or_absent_origin(shared: ViewServer, origin: str | None) -> None:
    with pytest.raises(InvalidStatus) as raised, opened(shared, origin=origin and origin.format(port=shared.port)):
        pass
    assert raised.value.response.status_code == 403
    if origin is not None:
        host = ("Host", f"127.0.0.1:{shared.port}")
        assert get(shared, "/", host, ("Origin", origin.format(port=shared.port)))[0] == 403


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:{port}.evil.example", ""]
)
def test_another_host(shared: ViewServer, host: str) -> None:
    """Such as a foreign page's name that was made to point here."""
    host = host.format(port=shared.port)
    code, _, body = get(shared, "/", ("Host", host))
    assert code == 403
    assert b"--public-url" in body
    assert get(shared, "/", ("Host", f"127.0.0.1:{shared.port}"), ("Host", host))[0] in (400, 403)
    with socket.create_connection(("127.0.0.1", shared.port), 10) as raw:
        raw.sendall(
            f"GET /ws HTTP/1.1\r\nHost: {host}\r\nOrigin: http://127.0.0.1:{shared.port}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
        )
        assert raw.recv(64).startswith(b"HTTP/1.1 403")


def test_hosts_that_are_this_one(shared: ViewServer) -> None:
    for host in (f"localhost:{shared.port}", f"LOCALHOST:{shared.port}"):
        assert get(shared, "/nothing", ("Host", host))[0] == 404


def test_a_public_url(engine: FakeEngine) -> None:
    with ViewServer(LiveSource(engine.endpoint), public_url="https://beam.example:443/scan/", view_token="v") as server:
        assert server.view_url == "https://beam.example:443/scan/#token=v"
        assert get(server, "/nothing", ("Host", "beam.example"))[0] == 404
        assert get(server, "/nothing", ("Host", "beam.example:8443"))[0] == 403
        with opened(server, "v", origin="https://beam.example"):
            pass
        with pytest.raises(InvalidStatus), opened(server, origin="http://beam.example"):
            pass


# What is served.


def test_files_and_headers(shared: ViewServer) -> None:
    code, headers, body = get(shared, "/bokeh/bokeh.min.js")
    assert (code, headers["Content-Type"]) == (200, "text/javascript; charset=utf-8")
    assert len(body) > 100_000
    for path in ("/bokeh/bokeh.min.js", "/nothing"):
        headers = get(shared, path)[1]
        assert headers["Content-Security-Policy"] == POLICY
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cache-Control"] == "no-store"
        assert "Access-Control-Allow-Origin" not in headers
        assert "Server" not in headers
    assert get(shared, "/", ("Host", "evil.example"))[1]["Content-Security-Policy"] == POLICY


def test_the_pages_own_files(engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "index.html").write_text("<title>it</title>")
    (tmp_path / "own.js").write_text("own")
    (tmp_path / "notes.txt").write_text("not served")
    monkeypatch.setattr(files, "PAGE", tmp_path)
    with ViewServer(LiveSource(engine.endpoint)) as server:
        assert get(server, "/")[2] == b"<title>it</title>"
        assert get(server, "/?x=1")[1]["Content-Type"] == "text/html; charset=utf-8"
        assert get(server, "/own.js")[2] == b"own"
        assert get(server, "/notes.txt")[0] == 404
        (tmp_path / "late.js").write_text("not listed")
        assert get(server, "/late.js")[0] == 404
        (tmp_path / "own.js").unlink()
        assert get(server, "/own.js")[0] == 404
        assert get(server, "/", method="POST")[0] == 405


@pytest.mark.parametrize(
    "path",
    [
        "/../server.py", "/..%2fserver.py", "/%2e%2e/server.py", "//etc/passwd", "/bokeh/../../../../__init__.py", "/bokeh/",
        "/bokeh/bokeh.min.js/..", "/bokeh/%2e%2e/js/bokeh.min.js", "/bokeh/bokeh.min.js%00.html", "/k3d/standalone.js%2f..",
        "/server.py", "/page/index.html", "/bokeh\\bokeh.min.js", "/openapi.json", "/docs", "/ws",
    ],
)  # fmt: skip
def test_nothing_else_is_served(shared: ViewServer, path: str) -> None:
    assert get(shared, path)[0] in (400, 404)


def test_the_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    served = files.served()
    assert {"/bokeh/bokeh.min.js", "/bokeh/bokeh-gl.min.js", "/k3d/standalone.js", "/k3d/require.js"} <= set(served)
    assert all(path.is_file() and path.suffix in files.MEDIA for path in served.values())
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "k3d" else found(name))
    assert not [path for path in files.served() if path.startswith("/k3d")]


# Where it listens.


def test_a_port_in_use(shared: ViewServer, engine: FakeEngine) -> None:
    source = LiveSource(engine.endpoint)
    with pytest.raises(EndpointError, match=f"port {shared.port}: Address already in use"):
        ViewServer(source, shared.port).start()
    for port in (99999, -1):
        with pytest.raises(EndpointError, match=f"port {port}"):
            ViewServer(source, port).start()
    source.close()


def test_where_others_could_reach_it(engine: FakeEngine) -> None:
    source = LiveSource(engine.endpoint)
    for host in ("0.0.0.0", "192.0.2.1", "::", "beam.example"):
        with pytest.raises(EndpointError, match="--insecure"):
            ViewServer(source, host=host)
    for url in (
        "beam.example",
        "ftp://beam.example",
        "https://",
        "https://a b",
        "https://beam.example/?token=x",
        "https://x:y/",
    ):
        with pytest.raises(ConfigError, match="public URL"):
            ViewServer(source, public_url=url)
    with ViewServer(source, host="0.0.0.0", insecure=True) as server:
        assert socket.gethostname() in server.view_url
        assert get(server, "/nothing", ("Host", f"{socket.gethostname()}:{server.port}"))[0] == 404
        assert get(server, "/nothing", ("Host", f"0.0.0.0:{server.port}"))[0] == 403


@pytest.mark.parametrize("package", ["starlette", "uvicorn", "websockets", "bokeh"])
def test_without_the_extra(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    source = LiveSource(engine.endpoint)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else found(name))
    with pytest.raises(ConfigError, match=rf"needs {package}, .*pip install 'streamrecon\[view\]'"):
        ViewServer(source)
    source.close()


def test_it_stops_with_pages_open(engine: FakeEngine) -> None:
    before = set(threading.enumerate())
    server = ViewServer(LiveSource(engine.endpoint), view_token="v")
    server.start()
    with opened(server, "v") as page:
        server.stop()
        assert page.closed() in (1001, 1012)
    server.stop()
    # The encoder's thread ends by itself.
    until(
        lambda: not [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("streamrecon")]
    )
