"""`streamrecon view`, and `--view`."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from viewer_client import Page, opened, until
from viewer_live import TOKEN, FakeEngine

from streamrecon import cli_view
from streamrecon.cli import main
from streamrecon.config import Config, EmitConfig
from streamrecon.errors import ConfigError, EndpointError
from streamrecon.viewer import FileSource, ViewServer


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["volume"] = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    return path


@contextlib.contextmanager
def connected(url: str) -> Iterator[Page]:
    """A page that was let in."""
    address, token = url.split("/#token=")

    class Somewhere:
        port = int(address.rsplit(":", 1)[1])

    server: Any = Somewhere
    with opened(server, token) as page:
        yield page


def look(url: str) -> dict[str, Any]:
    """Role, and the first update."""
    with connected(url) as page:
        return {**page.texts[0], **page.batch([["z", 1]])[0]}


def asked_to_pause(url: str) -> tuple[bool, str]:
    """What a page that asks for it is answered."""
    with connected(url) as page:
        page.say("control", serial=1, action="pause")
        result = page.until("result")
        return result["done"], result["text"]


def refused(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    assert main([str(each) for each in arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_file_until_it_is_interrupted(volume: Path) -> None:
    command = [sys.executable, "-m", "streamrecon", "view", str(volume)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline().split()
        assert line[:2] == ["look", "only"], process.stderr.read()
        assert process.stdout.readline() == "the page stays until Ctrl-C\n"
        seen = look(line[2])
        assert (seen["role"], seen["full"]) == ("view", [3, 4, 5])
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert process.stderr.read() == ""


def test_an_engine_with_its_token(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN + "\n")
    token.chmod(0o600)
    seen: list[Any] = []

    def look_and_go() -> None:
        lines = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert [line[:-1] for line in lines[:2]] == [["look", "and", "change"], ["look", "only"]]
        assert TOKEN not in lines[0][-1], "a page is not told the engine's token"
        seen.extend(look(line[-1])["role"] for line in lines[:2])

    monkeypatch.setattr(cli_view, "_wait", look_and_go)
    with FakeEngine(shape=(4, 8, 8)) as engine:
        engine.step()
        assert main(["view", "--subscribe", engine.endpoint, "--control-token-file", str(token)]) == 0
    assert seen == ["control", "view"]


def test_what_makes_no_sense(tmp_path: Path, volume: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = set(threading.enumerate())
    for arguments in ([], [volume, "--subscribe", "tcp://127.0.0.1:1"]):
        assert "either a FILE or --subscribe" in refused(capsys, "view", *arguments)
    token = tmp_path / "token"
    assert "--subscribe" in refused(capsys, "view", volume, "--control-token-file", token)
    live = ["view", "--subscribe", "tcp://127.0.0.1:1", "--control-token-file", token]
    assert str(token) in refused(capsys, *live)
    token.write_text(TOKEN)
    token.chmod(0o644)
    assert "chmod 600" in refused(capsys, *live)
    token.chmod(0o600)
    for text in ("", "two words", "x" * 2000):
        token.write_text(text)
        assert "expected one word" in refused(capsys, *live)
    assert "nonsense" in refused(capsys, "view", "--subscribe", "nonsense")
    assert "--insecure" in refused(capsys, "view", volume, "--host", "0.0.0.0")
    assert "public URL" in refused(capsys, "view", volume, "--public-url", "here")
    assert "port 99999" in refused(capsys, "view", volume, "--port", "99999")
    assert "there is no file" in refused(capsys, "view", tmp_path / "none.h5")
    assert set(threading.enumerate()) <= before


class Engine:
    """What `Page.watch` looks at."""

    def __init__(self, endpoint: str | None, token: str | None) -> None:
        self.publish_endpoint, self.control_token = endpoint, token


def test_a_page_beside_a_scan(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There before the engine is; with its token once that is known; and it stays with the finished volume."""
    events: list[dict[str, Any]] = []
    with cli_view.Page(0, Config()) as page:
        page.tell(events.append)
        endpoint = page.config.emit.publish
        assert endpoint is not None
        folder = Path(endpoint.removeprefix("ipc://")).parent
        assert folder.stat().st_mode & 0o77 == 0
        control, view = events[0]["url"], events[0]["view_url"]
        assert control in events[0]["text"]
        assert view in events[1]["text"]
        with FakeEngine(endpoint, shape=(4, 8, 8)) as engine:
            engine.step()
            assert look(view)["role"] == "view"
            assert look(control)["role"] == "control"
            assert asked_to_pause(control) == (False, "the engine is not ready yet: ask again in a moment")
            page.watch(Engine(endpoint, TOKEN))
            assert asked_to_pause(control)[0]
        shown: list[Any] = []
        monkeypatch.setattr(cli_view, "_wait", lambda _: shown.append(until_it_shows(view, "a.h5")))
        page.stay(None, False)
        assert shown == []
        page.stay(volume, False)
        assert shown == ["a.h5"]
    assert not folder.exists()


def until_it_shows(url: str, title: str) -> str:
    """Wait until the page shows that."""
    with connected(url) as page:
        while (seen := page.batch([["z", 1]])[0]["title"]) != title:
            pass
        return str(seen)


def test_a_page_of_an_endpoint_that_only_the_engine_knows() -> None:
    events: list[dict[str, Any]] = []
    config = Config(emit=EmitConfig(publish="tcp://127.0.0.1:*"))
    with FakeEngine("tcp://127.0.0.1:*", shape=(4, 8, 8)) as engine, cli_view.Page(0, config) as page:
        engine.step()
        assert page.config is config
        page.tell(events.append)
        page.watch(Engine(None, None))
        assert events == []
        page.watch(Engine(engine.endpoint, None))
        page.watch(Engine(engine.endpoint, None))
        assert [event["event"] for event in events] == ["view", "view_only"]
        assert look(events[0]["url"])["uid"] == "fake-1"


def test_no_page() -> None:
    config = Config()
    with cli_view.Page(None, config) as page:
        assert page.config is config
        page.tell(lambda event: pytest.fail("there is none"))
        page.watch(object())
        page.stay(Path("x.h5"), False)


def test_a_page_whose_port_is_taken(volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with (
        ViewServer(FileSource(volume)) as other,
        pytest.raises(EndpointError, match="in use"),
        cli_view.Page(other.port, Config()),
    ):
        pass
    until(lambda: not list(tmp_path.glob("streamrecon-*")))


def test_links_of_a_service_stay_when_it_is_started_again(tmp_path: Path) -> None:
    urls, folder = [], tmp_path / "out"
    for _ in range(2):
        with cli_view.Page(free_port(), Config(), folder) as page:
            assert page._process is not None
            urls.append((page._process.control_url, page._process.view_url))
    tokens = [[str(url).partition("#")[2] for url in each] for each in urls]
    assert tokens[0] == tokens[1]
    assert len(set(tokens[0])) == 2
    for path in folder.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
    (folder / "page-view.token").chmod(0o644)
    with pytest.raises(ConfigError, match="other users"), cli_view.Page(free_port(), Config(), folder):
        pass
    with (
        pytest.raises(ConfigError, match="cannot be made"),
        cli_view.Page(free_port(), Config(), folder / "page-view.token"),
    ):
        pass
    (folder / "page-view.token").write_text((folder / "page-control.token").read_text())
    (folder / "page-view.token").chmod(0o600)
    with pytest.raises(ConfigError, match="are the same"), cli_view.Page(free_port(), Config(), folder):
        pass
    with cli_view.Page(free_port(), Config()) as page:
        assert page._process is not None
        assert page._process.control_url.partition("#")[2] not in tokens[0]


def free_port() -> int:
    with socket.socket() as some:
        some.bind(("127.0.0.1", 0))
        return int(some.getsockname()[1])
