"""The page of --serve: for this machine only, and it shows what there is."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from streamrecon.errors import EndpointError
from streamrecon.viewer import serve

PNG = b"\x89PNG\r\n\x1a\nnot really"


@pytest.fixture
def page(tmp_path: Path) -> Iterator[tuple[int, Path, dict[str, Any]]]:
    status: dict[str, Any] = {"phase": "accumulating <script>", "version": 3, "latency": (0.1, 0.2), "center": None}
    picture = tmp_path / "volume.png"
    url, stop = serve(0, lambda: status, lambda: picture)
    yield int(url.rsplit(":", 1)[1].strip("/")), picture, status
    stop()


def get(port: int, path: str, host: str | None = None, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.putrequest(method, path, skip_host=True)
        if host != "":
            connection.putheader("Host", host or f"127.0.0.1:{port}")
        connection.endheaders()
        response = connection.getresponse()
        return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
    finally:
        connection.close()


def test_page_script_and_style(page: tuple[int, Path, dict[str, Any]]) -> None:
    port = page[0]
    for path, kind in (
        ("/", "text/html"),
        ("/page.js", "text/javascript"),
        ("/page.css", "text/css"),
        ("/?a=1", "text/html"),
    ):
        code, headers, body = get(port, path)
        assert code == 200
        assert headers["content-type"].startswith(kind)
        assert body
        assert int(headers["content-length"]) == len(body)
        assert "default-src 'self'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers
    # what the policy forbids would not run: neither scripts nor styles within the page
    html = get(port, "/")[2]
    assert b"<style" not in html
    assert b"onload=" not in html
    assert b"</script>" in html
    assert b"<script>" not in html


def test_status(page: tuple[int, Path, dict[str, Any]]) -> None:
    port, _, status = page
    code, headers, body = get(port, "/status.json")
    assert code == 200
    assert headers["content-type"] == "application/json"
    assert headers["cache-control"] == "no-store"
    assert json.loads(body) == status | {"latency": [0.1, 0.2]}


def test_picture(page: tuple[int, Path, dict[str, Any]]) -> None:
    port, picture, _ = page
    assert get(port, "/picture.png")[0] == 404
    picture.write_bytes(PNG)
    code, headers, body = get(port, "/picture.png?3")
    assert (code, headers["content-type"], body) == (200, "image/png", PNG)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "", "localhost"])
def test_foreign_hosts_are_refused(page: tuple[int, Path, dict[str, Any]], host: str) -> None:
    port, picture, _ = page
    picture.write_bytes(PNG)
    for path in ("/", "/status.json", "/picture.png", "/nothing"):
        code, _, body = get(port, path, host.format(port=port))
        assert code in (403, 400)
        assert PNG not in body


def test_localhost_is_this_machine(page: tuple[int, Path, dict[str, Any]]) -> None:
    assert get(page[0], "/status.json", f"localhost:{page[0]}")[0] == 200


@pytest.mark.parametrize(
    "path", ["/nothing", "/../volume.h5", "/%2e%2e/etc/passwd", "/volume.png", "//etc/passwd", "/status.json/", "*"]
)
def test_nothing_else_is_served(page: tuple[int, Path, dict[str, Any]], path: str) -> None:
    page[1].write_bytes(PNG)
    assert get(page[0], path)[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_can_be_changed(page: tuple[int, Path, dict[str, Any]], method: str) -> None:
    assert get(page[0], "/status.json", method=method)[0] in (405, 501)


def test_many_ask_at_once(page: tuple[int, Path, dict[str, Any]]) -> None:
    codes: list[int] = []
    threads = [threading.Thread(target=lambda: codes.append(get(page[0], "/status.json")[0])) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [200] * 20


def test_a_client_that_says_nothing_blocks_nobody(page: tuple[int, Path, dict[str, Any]]) -> None:
    import socket

    with socket.create_connection(("127.0.0.1", page[0])):
        assert get(page[0], "/status.json")[0] == 200


def test_only_the_loopback_is_bound(page: tuple[int, Path, dict[str, Any]]) -> None:
    import psutil

    bound = [
        c.laddr.ip for c in psutil.Process().net_connections("inet") if c.laddr.port == page[0] and c.status == "LISTEN"
    ]
    assert bound == ["127.0.0.1"]


def test_a_port_in_use_and_ports_that_are_none(page: tuple[int, Path, dict[str, Any]], tmp_path: Path) -> None:
    for port in (page[0], 70000, -1):
        with pytest.raises(EndpointError, match=str(port)):
            serve(port, dict, lambda: tmp_path / "x.png")


def test_stopping(tmp_path: Path) -> None:
    url, stop = serve(0, dict, lambda: tmp_path / "x.png")
    stop()
    with pytest.raises(ConnectionRefusedError):
        get(int(url.rsplit(":", 1)[1].strip("/")), "/")


def broken_status() -> dict[str, Any]:
    raise RuntimeError("no status")


@pytest.mark.parametrize("status", [broken_status])
def test_an_error_within_does_not_end_the_page(
    tmp_path: Path, status: Callable[[], dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    url, stop = serve(0, status, lambda: tmp_path / "x.png")
    try:
        port = int(url.rsplit(":", 1)[1].strip("/"))
        with pytest.raises((http.client.HTTPException, OSError)):
            get(port, "/status.json")
        assert get(port, "/")[0] == 200
    finally:
        stop()


@pytest.mark.parametrize("module", ["streamrecon", "streamrecon.viewer", "streamrecon.replayer", "streamrecon.cli"])
def test_no_kernels_are_loaded(module: str) -> None:
    code = f"import {module}, sys; bad = [m for m in ('numba', 'cupy', 'llvmlite') if m in sys.modules]; assert not bad, bad"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
